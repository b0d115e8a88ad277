//! Distributed point functions: f(x) = 1 if x = α else 0, evaluated at all points as bits (Boyle, Gilboa and Ishai, "Function
//! secret sharing: improvements and extensions", CCS 2016, eprint 2018/707, Fig. 1, with the early termination of its
//! Section 3.2.3).
//!
//! **Tree.** A leaf is 128 bits, shares by xor of f at 128 neighbouring points; so the tree over n points has
//! ⌈log2 n⌉ − 7 levels. A key is a root seed, for each level a correction of the seed and of the two control bits, and
//! a correction of the leaf. The corrections are the same in both keys of a pair; party b starts with control bit b.
//! Off the path to α both parties have the same seed and control bit, on it independent seeds and different bits.
//!
//! **Tree PRG.** A node with the 128-bit seed (s0, s1) expands to one ChaCha12 block with nonce 0 and counter 0,
//! keyed by the little-endian bytes of s0 and s1 followed by the 16 bytes `Catamount DPF v1`. The block, read as
//! eight little-endian 64-bit words, is: left seed (words 0 and 1), right seed (2 and 3); bits 0 and 1 of word 6 are
//! the left and right control bits; the rest is unused. The seed of a leaf is its bits, corrected if its control bit is set.
//!
//! **Evaluation** walks the whole tree depth first, 16 neighbours at a time, and leaves out what lies behind the last
//! point. Its order of operations and memory accesses depends on n only. About n/128 blocks of ChaCha12 for n points.

use super::dcf::join;
use super::lanes::{Correction, Front, Lanes, NODES};
use super::par;
use super::scalar::DPF;
use crate::backend::{DPF_LEAF, DpfKeys, dpf_levels};
use crate::buffer;

/// Words of a leaf.
const LEAF: usize = DPF_LEAF / 64;

/// Points from which on several threads are faster.
const MANY: usize = 1 << 17;

fn check(points: usize, root: &[u64]) -> (usize, usize) {
    assert!(points > 0, "a point function of no points");
    assert!(root.len().is_multiple_of(2), "roots are two words");
    (root.len() / 2, dpf_levels(points))
}

impl Front {
    fn set(&mut self, lane: usize, seed: &[u64], party: u8) {
        for (i, plane) in self.seed.iter_mut().enumerate() {
            plane[lane] = (seed[i / 2] >> (32 * (i % 2))) as u32;
        }
        self.control[lane] = u32::from(party).wrapping_neg();
    }

    fn leaf(&self, lane: usize) -> [u64; 2] {
        [join(self.seed[0][lane], self.seed[1][lane]), join(self.seed[2][lane], self.seed[3][lane])]
    }
}

pub(super) fn generate(
    lanes: &dyn Lanes,
    points: usize,
    alpha: &[u64],
    root0: &[u64],
    root1: &[u64],
) -> DpfKeys<Vec<u64>> {
    let (n, levels) = check(points, root0);
    assert!(alpha.len() == n && root1.len() == 2 * n, "one α and two roots for each key");
    assert!(alpha.iter().all(|&a| a < points as u64), "α beyond the last point");
    let mut keys =
        DpfKeys { seeds: vec![0; 2 * n * levels], controls: vec![0; n * levels], last: vec![0; 2 * n] };
    for from in (0..n).step_by(NODES) {
        let group = from..n.min(from + NODES);
        generate_group(lanes, levels, group, alpha, [root0, root1], &mut keys);
    }
    keys
}

/// At most [`NODES`] keys.
fn generate_group(
    lanes: &dyn Lanes,
    levels: usize,
    group: std::ops::Range<usize>,
    alpha: &[u64],
    roots: [&[u64]; 2],
    keys: &mut DpfKeys<Vec<u64>>,
) {
    let mut party = [Front::ZERO; 2];
    for (b, (front, roots)) in party.iter_mut().zip(roots).enumerate() {
        group.clone().zip(0..).for_each(|(i, lane)| front.set(lane, &roots[2 * i..][..2], b as u8));
    }
    let mut x = [[[0; NODES]; 13]; 2];
    for level in 0..levels {
        for (front, x) in party.iter().zip(&mut x) {
            lanes.expand(&DPF, 0, &front.seed, group.len(), x);
        }
        for (i, lane) in group.clone().zip(0..) {
            let keep = ((alpha[i] / DPF_LEAF as u64) >> (levels - 1 - level) & 1) as usize;
            let lose = 1 - keep;
            let seed: [u32; 4] = std::array::from_fn(|w| x[0][4 * lose + w][lane] ^ x[1][4 * lose + w][lane]);
            let t = x[0][12][lane] ^ x[1][12][lane];
            let controls = [(t ^ keep as u32 ^ 1) & 1, (t >> 1 ^ keep as u32) & 1];
            let at = i * levels + level;
            keys.seeds[2 * at] = join(seed[0], seed[1]);
            keys.seeds[2 * at + 1] = join(seed[2], seed[3]);
            keys.controls[at] = u64::from(controls[0] | controls[1] << 1);
            for (front, x) in party.iter_mut().zip(&x) {
                let control = front.control[lane];
                for (w, seed) in seed.iter().enumerate() {
                    front.seed[w][lane] = x[4 * keep + w][lane] ^ (control & seed);
                }
                front.control[lane] =
                    (x[12][lane] >> keep & 1).wrapping_neg() ^ (control & controls[keep].wrapping_neg());
            }
        }
    }
    for (i, lane) in group.zip(0..) {
        let (leaf0, leaf1) = (party[0].leaf(lane), party[1].leaf(lane));
        let bit = alpha[i] as usize % DPF_LEAF;
        for w in 0..LEAF {
            let one = u64::from(bit / 64 == w) << (bit % 64);
            keys.last[LEAF * i + w] = leaf0[w] ^ leaf1[w] ^ one;
        }
    }
}

pub(super) fn evaluate(
    lanes: &dyn Lanes,
    party: u8,
    points: usize,
    root: &[u64],
    keys: &DpfKeys<&[u64]>,
) -> Vec<u64> {
    let (n, levels) = check(points, root);
    assert!(party < 2, "party {party} of a point function");
    assert!(
        keys.seeds.len() == 2 * n * levels && keys.controls.len() == n * levels && keys.last.len() == 2 * n,
        "correction words of {n} keys of {points} points"
    );
    let words = points.div_ceil(64);
    let mut out = buffer::unwritten(n * words);
    par::chunks_if(n * points >= MANY, &mut out, words, |i, row| {
        let (root, seeds) = (&root[2 * i..][..2], &keys.seeds[2 * levels * i..][..2 * levels]);
        let controls = &keys.controls[levels * i..][..levels];
        let mut front = Front::ZERO;
        front.set(0, root, party);
        Tree { lanes, seeds, controls, last: [keys.last[2 * i], keys.last[2 * i + 1]] }.fill(&front, 0, row);
        // Bits beyond the last point.
        row[words - 1] &= u64::MAX >> (64 * words - points);
    });
    out
}

/// One party's key without its root.
struct Tree<'a> {
    lanes: &'a dyn Lanes,
    seeds: &'a [u64],
    controls: &'a [u64],
    last: [u64; LEAF],
}

impl Tree<'_> {
    fn levels(&self) -> usize {
        self.controls.len()
    }

    fn grow(&self, front: &Front, count: usize, level: usize) -> [Front; 2] {
        let seed = std::array::from_fn(|i| (self.seeds[2 * level + i / 2] >> (32 * (i % 2))) as u32);
        let mut children = [Front::ZERO; 2];
        let correction = Correction { seed, controls: self.controls[level] as u32 };
        self.lanes.grow(front, count, correction, &mut children);
        children
    }

    /// The points below the nodes of `front` at `level`, as far as there are points.
    fn fill(&self, front: &Front, level: usize, out: &mut [u64]) {
        if level == self.levels() {
            if let Ok(out) = out.try_into() {
                self.lanes.leaves(front, self.last, out);
            } else {
                let mut leaves = [0; LEAF * NODES];
                self.lanes.leaves(front, self.last, &mut leaves);
                out.copy_from_slice(&leaves[..out.len()]);
            }
            return;
        }
        let below = LEAF << (self.levels() - level);
        let children = self.grow(front, out.len().div_ceil(below), level);
        for (front, out) in children.iter().zip(out.chunks_mut(NODES * below / 2)) {
            self.fill(front, level + 1, out);
        }
    }
}
