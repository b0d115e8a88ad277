//! Evaluation of comparison functions: one walk down the tree for all points of a key.
//!
//! Points that share a prefix share a node. A level expands every node once and keeps the children that have points; they
//! are packed, so that all lanes but the last ones are full, and need not stay in order, since every node carries the range
//! of its points. At the depth of a stop its points are answered, and nodes without other points are given up.

use super::super::lanes::{Key, Lanes, NODES, Nodes};
use super::super::scalar::DCF;
use super::{OUTPUTS, SMALL, join, output};
use crate::buffer;
use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};
use rayon::prelude::*;

pub(in super::super) fn evaluate(
    lanes: &dyn Lanes,
    party: u8,
    root: &[u64],
    keys: &DcfKeys<&[u64]>,
    base: &[u64],
    points: &DcfThresholds,
) -> Vec<u64> {
    let (n, shape) = (base.len(), points.shape());
    let (levels, outputs) = (shape.levels(), shape.outputs());
    assert!(party < 2, "evaluator {party}");
    assert_eq!(root.len(), 2 * n, "a root of two words for each key");
    assert!(
        keys.seeds.len() == n * levels * 2
            && keys.values.len() == n * levels
            && keys.controls.len() == n * levels
            && keys.outputs.len() == n * outputs,
        "correction words of {n} keys of {shape:?}"
    );
    let mut out = buffer::zeroed(n * points.len());
    if out.is_empty() {
        return out;
    }
    let one = |walk: &mut Walk, (i, out): (usize, &mut [u64])| {
        let key = Key {
            seeds: &keys.seeds[i * levels * 2..][..levels * 2],
            values: &keys.values[i * levels..][..levels],
            controls: &keys.controls[i * levels..][..levels],
            outputs: &keys.outputs[i * outputs..][..outputs],
        };
        walk.nodes.clear();
        walk.nodes.push_root([root[2 * i], root[2 * i + 1]], party);
        walk.run(lanes, shape, key, out);
        if party == 1 {
            out.iter_mut().for_each(|v| *v = v.wrapping_neg());
        }
    };
    let (m, small) = (points.len(), out.len() * levels < SMALL);
    if small || n == 1 || rayon::current_num_threads() == 1 {
        let mut walk = Walk::new(m);
        for (i, out) in out.chunks_mut(m).enumerate() {
            walk.place(points, base[i]);
            one(&mut walk, (i, out));
        }
    } else {
        out.par_chunks_mut(m).enumerate().for_each_init(
            || Walk::new(m),
            |walk, (i, out)| {
                walk.place(points, base[i]);
                one(walk, (i, out));
            },
        );
    }
    out
}

/// A point of one key.
#[derive(Clone, Copy)]
struct Point {
    x: u64,
    stop: u32,
    /// Where its share goes.
    place: u32,
}

/// First and end of the points below a node.
type Range = (u32, u32);

/// The walk of one key.
struct Walk {
    /// In ascending order.
    points: Vec<Point>,
    nodes: Nodes,
    /// Of each node; none is empty.
    ranges: Vec<Range>,
    next_nodes: Nodes,
    next_ranges: Vec<Range>,
}

impl Walk {
    fn new(points: usize) -> Walk {
        Walk {
            points: vec![],
            nodes: Nodes::new(points),
            ranges: vec![],
            next_nodes: Nodes::new(points),
            next_ranges: vec![],
        }
    }

    /// The points of a key with this base.
    fn place(&mut self, points: &DcfThresholds, base: u64) {
        let mask = (1 << points.shape().bits()) - 1;
        self.points.clear();
        self.points.extend((0..).zip(points.list()).map(|(place, t)| Point {
            x: base.wrapping_sub(t.tau) & mask,
            stop: t.stop,
            place,
        }));
        self.points.sort_by_key(|p| p.x);
    }

    /// Shares (without sign) at all points, from the root.
    fn run(&mut self, lanes: &dyn Lanes, shape: &DcfShape, key: Key<'_>, out: &mut [u64]) {
        self.ranges.clear();
        self.ranges.push((0, self.points.len() as u32));
        let mut level = 0;
        // From the coarsest on: it is the least deep.
        for (i, &stop) in shape.stops().iter().enumerate().rev() {
            while level < shape.depth(i) {
                self.step(lanes, level, shape.bits() - 1 - level, key);
                level += 1;
            }
            let outputs = &key.outputs[DcfShape::LAST * i..][..DcfShape::LAST];
            self.answer(lanes, i as u32, stop, outputs, out);
        }
    }

    /// One level down: points go left or right by their `bit`.
    fn step(&mut self, lanes: &dyn Lanes, level: u32, bit: u32, key: Key<'_>) {
        self.next_nodes.clear();
        self.next_ranges.clear();
        for (group, ranges) in self.ranges.chunks(NODES).enumerate() {
            let mut keep = [0u16; 2];
            let (mut right, mut rights) = ([(0, 0); NODES], 0);
            for (lane, &(from, to)) in ranges.iter().enumerate() {
                let points = &self.points[from as usize..to as usize];
                let is_left = |p: &Point| p.x >> bit & 1 == 0;
                let lefts = match (is_left(&points[0]), is_left(&points[points.len() - 1])) {
                    (_, true) => points.len(),
                    (false, _) => 0,
                    _ => points.partition_point(is_left),
                };
                let middle = from + lefts as u32;
                if from < middle {
                    keep[0] |= 1 << lane;
                    self.next_ranges.push((from, middle));
                }
                if middle < to {
                    keep[1] |= 1 << lane;
                    right[rights] = (middle, to);
                    rights += 1;
                }
            }
            lanes.advance(&self.nodes, group * NODES, ranges.len(), keep, level, key, &mut self.next_nodes);
            self.next_ranges.extend_from_slice(&right[..rights]);
        }
        std::mem::swap(&mut self.nodes, &mut self.next_nodes);
        std::mem::swap(&mut self.ranges, &mut self.next_ranges);
    }

    /// Shares at the points of stop number `number`, which ignores `stop` bits.
    fn answer(&mut self, lanes: &dyn Lanes, number: u32, stop: u32, corrections: &[u64], out: &mut [u64]) {
        let mut x = [[0; NODES]; 13];
        for (group, ranges) in self.ranges.chunks_mut(NODES).enumerate() {
            let at = group * NODES;
            let (count, mut expanded) = (ranges.len(), false);
            for (lane, (from, to)) in ranges.iter_mut().enumerate() {
                let points = &self.points[*from as usize..*to as usize];
                for point in points.iter().filter(|p| p.stop == number) {
                    if !expanded {
                        lanes.expand(&DCF, OUTPUTS, &self.nodes.seeds(at), count, &mut x);
                        expanded = true;
                    }
                    let word = (point.x >> stop) as usize % DcfShape::LAST;
                    let control = self.nodes.control[at + lane];
                    out[point.place as usize] = self.nodes.value[at + lane]
                        .wrapping_add(output(&x, word, lane))
                        .wrapping_add(join(control, control) & corrections[word]);
                }
                // Coarser stops are behind; what is left between finer ones does no harm.
                let left = |p: &Point| p.stop < number;
                let first = points.iter().position(left).unwrap_or(points.len());
                let end = points.iter().rposition(left).map_or(first, |last| last + 1);
                (*from, *to) = (*from + first as u32, *from + end as u32);
            }
        }
        for i in (0..self.ranges.len()).rev() {
            if self.ranges[i].0 == self.ranges[i].1 {
                self.ranges.swap_remove(i);
                self.nodes.swap_remove(i);
            }
        }
    }
}
