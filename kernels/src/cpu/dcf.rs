//! Distributed comparison functions: f(x) = β if x < α else 0 (Boyle et al., eprint 2020/1392, Fig. 1).
//!
//! **Tree PRG.** A node with the 128-bit seed (s0, s1) expands to one ChaCha12 block with nonce 0 and counter 0,
//! keyed by the little-endian bytes of s0 and s1 followed by the 16 bytes `Catamount DCF v1`. The block, read as
//! eight little-endian 64-bit words, is: left seed (words 0 and 1), right seed (2 and 3), left value (4), right
//! value (5); bits 0 and 1 of word 6 are the left and right control bits; the rest is unused. The seed of a
//! leaf converts to its first word.
//!
//! **Evaluation** sorts a key's points and expands every distinct prefix once, level by level, while the points
//! still share many of them; then each point walks to its leaf alone.

use super::lanes::{Expansion, Key, Lanes, NODES, Nodes};
use super::scalar::DCF;
use crate::backend::DcfKeys;
use crate::buffer;
use rayon::prelude::*;

/// Node expansions below which one thread is faster.
const SMALL: usize = 1 << 11;

fn check(bits: u32, root: &[u64]) -> usize {
    assert!((1..=63).contains(&bits), "comparison of {bits}-bit numbers");
    assert!(root.len().is_multiple_of(2), "roots are two words");
    root.len() / 2
}

pub(super) fn generate(
    lanes: &dyn Lanes,
    bits: u32,
    alpha: &[u64],
    beta: &[u64],
    root0: &[u64],
    root1: &[u64],
) -> DcfKeys<Vec<u64>> {
    let n = check(bits, root0);
    assert!(
        alpha.len() == n && beta.len() == n && root1.len() == 2 * n,
        "one α, β and two roots for each key"
    );
    let levels = bits as usize;
    let mut keys = DcfKeys {
        seeds: vec![0; n * levels * 2],
        values: vec![0; n * (levels + 1)],
        controls: vec![0; n * levels],
    };
    let group = |(i, keys): (usize, DcfKeys<&mut [u64]>)| {
        let from = i * NODES;
        let to = n.min(from + NODES);
        let roots = [&root0[2 * from..2 * to], &root1[2 * from..2 * to]];
        generate_group(lanes, bits, &alpha[from..to], &beta[from..to], roots, keys);
    };
    let (s, v, c) = (NODES * levels * 2, NODES * (levels + 1), NODES * levels);
    if n * levels < SMALL || rayon::current_num_threads() == 1 {
        let parts = keys.seeds.chunks_mut(s).zip(keys.values.chunks_mut(v)).zip(keys.controls.chunks_mut(c));
        parts
            .map(|((seeds, values), controls)| DcfKeys { seeds, values, controls })
            .enumerate()
            .for_each(group);
    } else {
        let parts = keys.seeds.par_chunks_mut(s).zip(keys.values.par_chunks_mut(v));
        let parts = parts.zip(keys.controls.par_chunks_mut(c));
        parts
            .map(|((seeds, values), controls)| DcfKeys { seeds, values, controls })
            .enumerate()
            .for_each(group);
    }
    keys
}

/// Up to [`NODES`] keys.
fn generate_group(
    lanes: &dyn Lanes,
    bits: u32,
    alpha: &[u64],
    beta: &[u64],
    roots: [&[u64]; 2],
    keys: DcfKeys<&mut [u64]>,
) {
    let DcfKeys { seeds, values, controls } = keys;
    let count = alpha.len();
    let levels = bits as usize;
    let mut party = [Nodes::ZERO; 2];
    for (b, nodes) in party.iter_mut().enumerate() {
        for lane in 0..count {
            nodes.set_seed(lane, [roots[b][2 * lane], roots[b][2 * lane + 1]]);
            nodes.control[lane] = (b as u32).wrapping_neg();
        }
    }
    let mut x = [[[0; NODES]; 13]; 2];
    let mut path = [0u64; NODES]; // V_α
    for level in 0..levels {
        for b in 0..2 {
            lanes.expand(&DCF, &party[b].seed, count, &mut x[b]);
        }
        for lane in 0..count {
            let keep = (alpha[lane] >> (levels - 1 - level) & 1) as usize;
            let lose = 1 - keep;
            let minus = party[1].control[lane]; // (−1)^{t_1}: negate where all ones
            let v = |b: usize, side: usize| value(&x[b], side, lane);
            let s_cw: [u32; 4] = std::array::from_fn(|i| x[0][4 * lose + i][lane] ^ x[1][4 * lose + i][lane]);
            // β belongs to everything left of the path, that is where the path goes right.
            let left_payload = beta[lane] & (keep as u64).wrapping_neg();
            let v_cw = sign(minus, v(1, lose).wrapping_sub(v(0, lose)).wrapping_sub(path[lane]))
                .wrapping_add(sign(minus, left_payload));
            path[lane] =
                path[lane].wrapping_sub(v(1, keep)).wrapping_add(v(0, keep)).wrapping_add(sign(minus, v_cw));
            let t = x[0][12][lane] ^ x[1][12][lane];
            let left = (t ^ keep as u32 ^ 1) & 1;
            let right = (t >> 1 ^ keep as u32) & 1;
            let at = lane * levels + level;
            seeds[2 * at] = join(s_cw[0], s_cw[1]);
            seeds[2 * at + 1] = join(s_cw[2], s_cw[3]);
            values[lane * (levels + 1) + level] = v_cw;
            controls[at] = (left | right << 1) as u64;
            let t_cw = [left, right][keep].wrapping_neg();
            for (nodes, x) in party.iter_mut().zip(&x) {
                let control = nodes.control[lane];
                for i in 0..4 {
                    nodes.seed[i][lane] = x[4 * keep + i][lane] ^ (control & s_cw[i]);
                }
                nodes.control[lane] = (x[12][lane] >> keep & 1).wrapping_neg() ^ (control & t_cw);
            }
        }
    }
    for lane in 0..count {
        let leaf = |b: usize| join(party[b].seed[0][lane], party[b].seed[1][lane]);
        let last = leaf(1).wrapping_sub(leaf(0)).wrapping_sub(path[lane]);
        values[lane * (levels + 1) + levels] = sign(party[1].control[lane], last);
    }
}

pub(super) fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

fn value(x: &Expansion, side: usize, lane: usize) -> u64 {
    join(x[8 + 2 * side][lane], x[9 + 2 * side][lane])
}

/// −v if `minus` is all ones, v if it is zero.
pub(super) fn sign(minus: u32, v: u64) -> u64 {
    let minus = join(minus, minus);
    (v ^ minus).wrapping_sub(minus)
}

pub(super) fn evaluate(
    lanes: &dyn Lanes,
    party: u8,
    bits: u32,
    root: &[u64],
    keys: &DcfKeys<&[u64]>,
    points: &[u64],
    per_key: usize,
) -> Vec<u64> {
    let n = check(bits, root);
    let levels = bits as usize;
    assert!(party < 2, "evaluator {party}");
    assert_eq!(points.len(), n * per_key, "{per_key} points for each key");
    assert!(
        keys.seeds.len() == n * levels * 2
            && keys.values.len() == n * (levels + 1)
            && keys.controls.len() == n * levels,
        "correction words of {n} keys of {bits} bits"
    );
    let mut out = buffer::zeroed(points.len());
    if out.is_empty() {
        return out;
    }
    let one = |scratch: &mut Scratch, (i, out): (usize, &mut [u64])| {
        let key = Key {
            bits,
            seeds: &keys.seeds[i * levels * 2..][..levels * 2],
            values: &keys.values[i * (levels + 1)..][..levels + 1],
            controls: &keys.controls[i * levels..][..levels],
        };
        let mut start = Nodes::ZERO;
        start.set_seed(0, [root[2 * i], root[2 * i + 1]]);
        start.control[0] = (party as u32).wrapping_neg();
        scratch.evaluate(lanes, start, key, &points[i * per_key..][..per_key], out);
        if party == 1 {
            out.iter_mut().for_each(|v| *v = v.wrapping_neg());
        }
    };
    if out.len() * levels < SMALL || n == 1 || rayon::current_num_threads() == 1 {
        let mut scratch = Scratch::default();
        out.chunks_mut(per_key).enumerate().for_each(|c| one(&mut scratch, c));
    } else {
        out.par_chunks_mut(per_key).enumerate().for_each_init(Scratch::default, one);
    }
    out
}

/// Working memory of one key's evaluation.
#[derive(Default)]
struct Scratch {
    /// Points in ascending order, with their places.
    sorted: Vec<(u64, u32)>,
    /// The distinct points, in order.
    points: Vec<u64>,
    /// Where each of them starts in `sorted`, and the end.
    distinct: Vec<u32>,
    /// Where each node's points start in `distinct`, and the end.
    starts: Vec<u32>,
    next_starts: Vec<u32>,
    nodes: Vec<Nodes>,
    next_nodes: Vec<Nodes>,
}

impl Scratch {
    fn point(&self, d: u32) -> u64 {
        self.points[d as usize]
    }

    /// Shares (without sign) at all points; `root` is lane 0.
    fn evaluate(&mut self, lanes: &dyn Lanes, root: Nodes, key: Key<'_>, points: &[u64], out: &mut [u64]) {
        let mask = (1u64 << key.bits) - 1;
        self.sorted.clear();
        self.sorted.extend(points.iter().zip(0..).map(|(p, i)| (p & mask, i)));
        // Shifted thresholds come as one or two ordered runs, which a merging sort takes in one pass.
        self.sorted.sort_by_key(|p| p.0);
        self.distinct.clear();
        self.points.clear();
        for (i, &(point, _)) in (0..).zip(&self.sorted) {
            if self.points.last() != Some(&point) {
                self.points.push(point);
                self.distinct.push(i);
            }
        }
        let count = self.distinct.len() as u32;
        self.distinct.push(self.sorted.len() as u32);

        self.nodes.clear();
        self.nodes.push(root);
        self.starts.clear();
        self.starts.extend([0, count]);
        let mut level = 0;
        while level < key.bits && (self.starts.len() - 1) * 4 < count as usize * 3 {
            self.step(lanes, level, key);
            level += 1;
        }
        self.finish(lanes, level, key, out);
    }

    /// One level down: expands all nodes and keeps the children that have points.
    fn step(&mut self, lanes: &dyn Lanes, level: u32, key: Key<'_>) {
        let total = self.starts.len() - 1;
        let bit = key.bits - 1 - level;
        let mut next_starts = std::mem::take(&mut self.next_starts);
        let mut next_nodes = std::mem::take(&mut self.next_nodes);
        next_starts.clear();
        next_nodes.clear();
        let mut children = [Nodes::ZERO; 2];
        for r in 0..total {
            let (group, lane) = (r / NODES, r % NODES);
            if lane == 0 {
                lanes.children(&self.nodes[group], NODES.min(total - r), level, key, &mut children);
            }
            let (from, to) = (self.starts[r], self.starts[r + 1]);
            let (first, last) = (self.point(from) >> bit & 1, self.point(to - 1) >> bit & 1);
            let mut push = |start: u32, right: u64| {
                let slot = next_starts.len() % NODES;
                if slot == 0 {
                    next_nodes.push(Nodes::ZERO);
                }
                next_starts.push(start);
                let last = next_nodes.len() - 1;
                children[right as usize].lane(lane).store(&mut next_nodes[last], slot);
            };
            push(from, first);
            if first != last {
                let (mut low, mut high) = (from, to - 1); // point(low) is left, point(high) right
                while high - low > 1 {
                    let middle = low + (high - low) / 2;
                    if self.point(middle) >> bit & 1 == 0 { low = middle } else { high = middle }
                }
                push(high, 1);
            }
        }
        next_starts.push(self.starts[total]);
        self.next_starts = std::mem::replace(&mut self.starts, next_starts);
        self.next_nodes = std::mem::replace(&mut self.nodes, next_nodes);
    }

    /// From the nodes at `level` to the leaves, each distinct point for itself.
    fn finish(&self, lanes: &dyn Lanes, level: u32, key: Key<'_>, out: &mut [u64]) {
        let count = self.distinct.len() - 1;
        let last = key.values[key.bits as usize];
        let mut r = 0;
        for from in (0..count).step_by(NODES) {
            let active = NODES.min(count - from);
            let mut walk = Nodes::ZERO;
            let mut points = [0; NODES];
            for (lane, point) in points.iter_mut().enumerate().take(active) {
                let d = (from + lane) as u32;
                while self.starts[r + 1] <= d {
                    r += 1;
                }
                self.nodes[r / NODES].lane(r % NODES).store(&mut walk, lane);
                *point = self.point(d);
            }
            lanes.descend(&mut walk, active, level, &points, key);
            for lane in 0..active {
                let control = join(walk.control[lane], walk.control[lane]);
                let leaf = join(walk.seed[0][lane], walk.seed[1][lane]);
                let v = walk.value[lane].wrapping_add(leaf).wrapping_add(control & last);
                let (a, b) = (self.distinct[from + lane], self.distinct[from + lane + 1]);
                self.sorted[a as usize..b as usize].iter().for_each(|&(_, place)| out[place as usize] = v);
            }
        }
    }
}
