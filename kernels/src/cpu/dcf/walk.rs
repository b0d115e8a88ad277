//! Evaluation of comparison functions: one walk down the tree for all points of a key.
//!
//! Points that share a prefix share a node. On each level every node moves down to the child with its leading point, in
//! its own lane, and where other points go to the other child, that one gets a new lane. When these happen is known from
//! the points before the walk begins. At the depth of a stop its leaders leave, and answer for its points.

use super::super::lanes::{Answers, Key, Lanes, NODES, Node, Nodes, Step};
use super::SMALL;
use crate::buffer;
use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};
use rayon::prelude::*;
use std::ops::Range;

/// What belongs to one key each: a root of two words, the number from which thresholds are subtracted, and a share.
pub(in super::super) struct Inputs<'a> {
    pub(in super::super) root: &'a [u64],
    pub(in super::super) base: &'a [u64],
    pub(in super::super) constant: &'a [u64],
}

pub(in super::super) fn evaluate(
    lanes: &dyn Lanes,
    party: u8,
    Inputs { root, base, constant }: Inputs<'_>,
    keys: &DcfKeys<&[u64]>,
    thresholds: &DcfThresholds,
) -> Vec<u64> {
    let (n, shape) = (base.len(), thresholds.shape());
    let (levels, outputs) = (shape.levels(), shape.outputs());
    assert!(party < 2, "evaluator {party}");
    assert!(root.len() == 2 * n && constant.len() == n, "a root of two words and a constant for each key");
    assert!(
        keys.seeds.len() == n * levels * 2
            && keys.values.len() == n * levels
            && keys.controls.len() == n * levels
            && keys.outputs.len() == n * outputs,
        "correction words of {n} keys of {shape:?}"
    );
    let mut out = buffer::unwritten(n * thresholds.len());
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
        let mut root = Node::root([root[2 * i], root[2 * i + 1]], party);
        root.value = if party == 0 { constant[i] } else { constant[i].wrapping_neg() };
        walk.plan(thresholds, base[i]);
        walk.run(lanes, thresholds, root, key, out);
        let (base, party) = (base[i], u64::from(party));
        for (out, tau) in out.iter_mut().zip(thresholds.list()) {
            let stays = base.wrapping_sub(*tau) >> shape.bits() & 1;
            // All ones where the sum is negated: the second party's sums are, and those of 1 − v.
            let minus = (party ^ stays ^ 1).wrapping_neg();
            *out = (*out ^ minus).wrapping_sub(minus).wrapping_add((1 - stays) & (1 - party));
        }
    };
    let (m, small) = (thresholds.len(), out.len() * levels < SMALL);
    if small || n == 1 || rayon::current_num_threads() == 1 {
        let mut walk = Walk::new(m);
        out.chunks_mut(m).enumerate().for_each(|c| one(&mut walk, c));
    } else {
        out.par_chunks_mut(m).enumerate().for_each_init(|| Walk::new(m), one);
    }
    out
}

/// Nodes that are expanded together.
const TOGETHER: usize = 2 * NODES;

/// None of the points.
const NONE: u32 = u32::MAX;

/// The walk of one key. Points are numbered as the thresholds.
///
/// A node is led by the first of its points: it is compared most closely, so it goes deepest. A leader is *born* on the
/// level on which it has a node of its own, next to that of its *parent*.
struct Walk {
    x: Vec<u64>,
    /// The leader of the node that answers for each point, its own number for a leader; when it answers, that one's slot.
    host: Vec<u32>,
    /// Of leaders.
    born: Vec<u32>,
    parent: Vec<u32>,
    slot: Vec<u32>,
    /// The last leader born on each level, and for each leader the one before it on its level.
    newest: [u32; 64],
    older: Vec<u32>,
    nodes: Nodes,
    /// For the slot of a parent its child, and the slots of parents, a bit each.
    child: Vec<u32>,
    split: Vec<u32>,
    /// Those that answer at a stop.
    leaving: Nodes,
    answers: Answers,
}

impl Walk {
    fn new(points: usize) -> Walk {
        let each = || vec![0; points];
        Walk {
            x: vec![0; points],
            host: each(),
            born: each(),
            parent: each(),
            slot: each(),
            newest: [NONE; 64],
            older: each(),
            nodes: Nodes::new(points),
            child: each(),
            split: vec![0; points.div_ceil(TOGETHER)],
            leaving: Nodes::new(points),
            answers: std::array::from_fn(|_| vec![0; points + NODES]),
        }
    }

    /// Finds all leaders, for a key with this base.
    ///
    /// Points descend, except that those which wrap around lie above the first one. So of all points before, the one
    /// before or the first shares the longest prefix.
    fn plan(&mut self, thresholds: &DcfThresholds, base: u64) {
        let shape = thresholds.shape();
        let mask = (1 << shape.bits()) - 1;
        for (x, tau) in self.x.iter_mut().zip(thresholds.list()) {
            *x = base.wrapping_sub(*tau) & mask;
        }
        let (first, mut before, mut last_host) = (self.x[0], self.x[0], 0);
        self.newest = [NONE; 64];
        // The parent of all.
        (self.host[0], self.born[0]) = (0, 0);
        for stop in 0..shape.stops().len() {
            let (depth, points) = (shape.depth(stop), thresholds.at_stop(stop));
            for i in points.start.max(1)..points.end {
                let x = self.x[i];
                let (near, far) = (x ^ before, x ^ first);
                let mut host = if near <= far { last_host } else { 0 };
                before = x;
                // The same point has no node of its own on any level.
                let born = near.min(far).checked_ilog2().map_or(NONE, |bit| shape.bits() - bit);
                // Up to the node that is left for the child's, or answers for the point.
                let level = depth.min(born - 1);
                while self.born[host as usize] > level {
                    host = self.parent[host as usize];
                }
                if born <= depth {
                    (self.born[i], self.parent[i]) = (born, host);
                    self.older[i] = std::mem::replace(&mut self.newest[born as usize], i as u32);
                    host = i as u32;
                }
                (self.host[i], last_host) = (host, host);
            }
        }
    }

    /// Shares (without sign) at all points.
    fn run(
        &mut self,
        lanes: &dyn Lanes,
        thresholds: &DcfThresholds,
        root: Node,
        key: Key<'_>,
        out: &mut [u64],
    ) {
        self.nodes.clear();
        self.nodes.push(root);
        (self.nodes.path[0], self.nodes.leader[0], self.slot[0]) = (self.x[0], 0, 0);
        let (shape, mut level) = (thresholds.shape(), 0);
        // From the coarsest stop on: it is the least deep.
        for (i, &stop) in shape.stops().iter().enumerate().rev() {
            while level < shape.depth(i) {
                self.step(lanes, level, shape.bits() - 1 - level, key);
                level += 1;
            }
            let points = thresholds.at_stop(i);
            if !points.is_empty() {
                let corrections = std::array::from_fn(|word| key.outputs[DcfShape::LAST * i + word]);
                self.answer(lanes, points, stop, corrections, out);
            }
        }
    }

    /// One level down, by the points' `bit`: a node moves to the child with its leader, and other children are appended.
    fn step(&mut self, lanes: &dyn Lanes, level: u32, bit: u32, key: Key<'_>) {
        let groups = self.nodes.len.div_ceil(TOGETHER);
        self.split[..groups].fill(0);
        let mut newborn = self.newest[level as usize + 1];
        while newborn != NONE {
            let slot = self.slot[self.parent[newborn as usize] as usize] as usize;
            self.split[slot / TOGETHER] |= 1 << (slot % TOGETHER);
            self.child[slot] = newborn;
            newborn = self.older[newborn as usize];
        }
        // Whole planes are written: the last group first, before anything is appended.
        let len = self.nodes.len;
        for group in (0..groups).rev() {
            let (at, mut split) = (group * TOGETHER, self.split[group]);
            let mut born = self.nodes.len;
            lanes.advance(&mut self.nodes, at, TOGETHER.min(len - at), split, Step { level, bit, key });
            while split != 0 {
                let i = self.child[at + split.trailing_zeros() as usize];
                (self.nodes.path[born], self.nodes.leader[born]) = (self.x[i as usize], i);
                self.slot[i as usize] = born as u32;
                born += 1;
                split &= split - 1;
            }
        }
    }

    /// Shares of a stretch of points that are compared without the lowest `stop` bits.
    fn answer(
        &mut self,
        lanes: &dyn Lanes,
        points: Range<usize>,
        stop: u32,
        corrections: [u64; DcfShape::LAST],
        out: &mut [u64],
    ) {
        let first = points.start as u32;
        lanes.part(&mut self.nodes, first, &mut self.leaving);
        for nodes in [&self.nodes, &self.leaving] {
            let slots = (0..).zip(&nodes.leader[..nodes.len]);
            slots.for_each(|(slot, &leader)| self.slot[leader as usize] = slot);
        }
        // A node that goes on may answer for a point as well: a copy of it does. Its points lie together.
        let mut copied = (NONE, 0);
        for i in points.clone() {
            let host = self.host[i];
            if host < first && copied.0 != host {
                copied = (host, self.leaving.len as u32);
                self.leaving.push(self.nodes.node(self.slot[host as usize] as usize));
            }
            // From here on the slot of the node that answers.
            self.host[i] = if host < first { copied.1 } else { self.slot[host as usize] };
        }
        let len = self.leaving.len;
        for at in (0..len).step_by(TOGETHER) {
            lanes.answers(&self.leaving, at, TOGETHER.min(len - at), corrections, &mut self.answers);
        }
        for ((out, x), slot) in
            out[points.clone()].iter_mut().zip(&self.x[points.clone()]).zip(&self.host[points])
        {
            *out = self.answers[(x >> stop) as usize % DcfShape::LAST][*slot as usize];
        }
    }
}
