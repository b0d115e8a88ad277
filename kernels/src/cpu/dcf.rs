//! Distributed comparison functions: f(x) = β if x < α else 0 (Boyle et al., eprint 2020/1392, Fig. 1), with stops.
//!
//! **Tree PRG.** A node's 128-bit seed (s0, s1) is stretched to two ChaCha12 blocks with nonce 0 and counters 0 and 1,
//! keyed by the little-endian bytes of s0 and s1 followed by the 16 bytes `Catamount DCF v1`, and read as little-endian
//! 64-bit words. Block 0 is for the node's children: left seed (words 0 and 1), right seed (2 and 3), left value (4), right
//! value (5); bits 0 and 1 of word 6 are the left and right control bits. Block 1 is for an answer at this node: words 0 to 3
//! are the outputs of the four prefixes two levels below. The rest is unused.
//!
//! **Stops.** A comparison without the s lowest bits is answered at depth bits − s − 2, in one block for the last two
//! levels (early termination, as Boyle, Gilboa and Ishai, CCS 2016, do for point functions, Section 3.2.3). A node off α's
//! path is the same for both evaluators, so block 1 cancels there and the values on the path already share the answer.
//! On the path, four words correct the difference of the two blocks to β for the prefixes less than α's, and to 0 for the
//! others, α's own included.
//!
//! **Security.** Seen from one evaluator, the other's seed on the path is pseudo-random at each level given all
//! correction words above (the induction of the paper's proof). So the two blocks of that seed are pseudo-random and
//! independent of each other: block 0 masks the correction words of the next level, and its kept side is the next
//! seed; each word of block 1 masks one output correction of a stop, and nothing else depends on block 1. A seed is
//! never an output itself: as seeds at a stop are expanded further, that would give the path away.

mod walk;

use super::lanes::{Expansion, Front, Lanes, NODES};
use super::scalar::DCF;
use crate::comparison::{DcfKeys, DcfShape};
use rayon::prelude::*;
pub(super) use walk::{Inputs, Plan, evaluate};

/// Node expansions below which one thread is faster.
const SMALL: usize = 1 << 11;

/// Number of the ChaCha12 block with a node's children.
pub(super) const CHILDREN: u32 = 0;
/// And of that with its outputs.
pub(super) const OUTPUTS: u32 = 1;

pub(super) fn generate(
    lanes: &dyn Lanes,
    shape: &DcfShape,
    alpha: &[u64],
    beta: &[u64],
    roots: [&[u64]; 2],
) -> DcfKeys<Vec<u64>> {
    let n = alpha.len();
    assert!(
        beta.len() == n && roots.iter().all(|r| r.len() == 2 * n),
        "one α, β and two roots of two words for each key"
    );
    let (levels, outputs) = (shape.levels(), shape.outputs());
    let mut keys = DcfKeys {
        seeds: vec![0; n * levels * 2],
        values: vec![0; n * levels],
        controls: vec![0; n * levels],
        outputs: vec![0; n * outputs],
    };
    // A tree of no levels has no words but outputs; chunks must not be empty.
    let chunk = |words: usize| (NODES * words).max(1);
    let mut parts: Vec<DcfKeys<&mut [u64]>> = vec![];
    {
        let mut seeds = keys.seeds.chunks_mut(chunk(2 * levels));
        let mut values = keys.values.chunks_mut(chunk(levels));
        let mut controls = keys.controls.chunks_mut(chunk(levels));
        for outputs in keys.outputs.chunks_mut(chunk(outputs)) {
            parts.push(DcfKeys {
                seeds: seeds.next().unwrap_or_default(),
                values: values.next().unwrap_or_default(),
                controls: controls.next().unwrap_or_default(),
                outputs,
            });
        }
    }
    let group = |(i, keys): (usize, DcfKeys<&mut [u64]>)| {
        let from = i * NODES;
        let to = n.min(from + NODES);
        let roots = roots.map(|r| &r[2 * from..2 * to]);
        generate_group(lanes, shape, &alpha[from..to], &beta[from..to], roots, keys);
    };
    if n * levels < SMALL || rayon::current_num_threads() == 1 {
        parts.into_iter().enumerate().for_each(group);
    } else {
        parts.into_par_iter().enumerate().for_each(group);
    }
    keys
}

/// Both evaluators' walks along the paths of up to [`NODES`] keys.
struct Paths {
    party: [Front; 2],
    /// Difference of the sums of values so far (V_α).
    value: [u64; NODES],
}

impl Paths {
    /// Bit 31 of the second evaluator's control bits says whether a correction counts negatively.
    fn minus(&self, lane: usize) -> u32 {
        self.party[1].control[lane]
    }
}

/// Up to [`NODES`] keys.
fn generate_group(
    lanes: &dyn Lanes,
    shape: &DcfShape,
    alpha: &[u64],
    beta: &[u64],
    roots: [&[u64]; 2],
    keys: DcfKeys<&mut [u64]>,
) {
    let DcfKeys { seeds, values, controls, outputs } = keys;
    let count = alpha.len();
    let levels = shape.levels();
    let alpha: Vec<u64> = alpha.iter().map(|a| a & ((1 << shape.bits()) - 1)).collect();
    let mut paths = Paths { party: [Front::ZERO, Front::ZERO], value: [0; NODES] };
    for (b, front) in paths.party.iter_mut().enumerate() {
        for lane in 0..count {
            front.set_seed(lane, [roots[b][2 * lane], roots[b][2 * lane + 1]]);
            front.control[lane] = (b as u32).wrapping_neg();
        }
    }
    let mut x = [[[0; NODES]; 13]; 2];
    for level in 0..=levels {
        for (i, &stop) in shape.stops().iter().enumerate().filter(|(i, _)| shape.depth(*i) as usize == level)
        {
            for (front, x) in paths.party.iter().zip(&mut x) {
                lanes.expand(&DCF, OUTPUTS, &front.seed, count, x);
            }
            for lane in 0..count {
                let at = lane * shape.outputs() + i * DcfShape::LAST;
                let own = (alpha[lane] >> stop) as usize % DcfShape::LAST;
                for (word, out) in outputs[at..at + DcfShape::LAST].iter_mut().enumerate() {
                    let difference = output(&x[1], word, lane).wrapping_sub(output(&x[0], word, lane));
                    let payload = if word < own { beta[lane] } else { 0 };
                    let sum = payload.wrapping_add(difference).wrapping_sub(paths.value[lane]);
                    *out = sign(paths.minus(lane), sum);
                }
            }
        }
        if level == levels {
            break;
        }
        for (front, x) in paths.party.iter().zip(&mut x) {
            lanes.expand(&DCF, CHILDREN, &front.seed, count, x);
        }
        let bit = shape.bits() as usize - 1 - level;
        for lane in 0..count {
            let keep = (alpha[lane] >> bit & 1) as usize;
            let lose = 1 - keep;
            let minus = paths.minus(lane);
            let v = |b: usize, side: usize| value(&x[b], side, lane);
            let s_cw: [u32; 4] = std::array::from_fn(|i| x[0][4 * lose + i][lane] ^ x[1][4 * lose + i][lane]);
            // β belongs to everything left of the path, that is where the path goes right.
            let payload = beta[lane] & (keep as u64).wrapping_neg();
            let difference = v(1, lose).wrapping_sub(v(0, lose));
            let v_cw = sign(minus, payload.wrapping_add(difference).wrapping_sub(paths.value[lane]));
            paths.value[lane] = paths.value[lane]
                .wrapping_sub(v(1, keep))
                .wrapping_add(v(0, keep))
                .wrapping_add(sign(minus, v_cw));
            let t = x[0][12][lane] ^ x[1][12][lane];
            let left = (t ^ keep as u32 ^ 1) & 1;
            let right = (t >> 1 ^ keep as u32) & 1;
            let at = lane * levels + level;
            seeds[2 * at] = join(s_cw[0], s_cw[1]);
            seeds[2 * at + 1] = join(s_cw[2], s_cw[3]);
            values[at] = v_cw;
            controls[at] = (left | right << 1) as u64;
            let t_cw = [left, right][keep].wrapping_neg();
            for (front, x) in paths.party.iter_mut().zip(&x) {
                let control = front.control[lane];
                for i in 0..4 {
                    front.seed[i][lane] = x[4 * keep + i][lane] ^ (control & s_cw[i]);
                }
                front.control[lane] = (x[12][lane] >> keep & 1).wrapping_neg() ^ (control & t_cw);
            }
        }
    }
}

pub(super) fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// The value of a child on the left (0) or right (1).
fn value(x: &Expansion, side: usize, lane: usize) -> u64 {
    join(x[8 + 2 * side][lane], x[9 + 2 * side][lane])
}

/// Output `word` of an answer.
pub(super) fn output(x: &Expansion, word: usize, lane: usize) -> u64 {
    join(x[2 * word][lane], x[2 * word + 1][lane])
}

/// −v if `minus` is all ones, v if it is zero.
pub(super) fn sign(minus: u32, v: u64) -> u64 {
    let minus = join(minus, minus);
    (v ^ minus).wrapping_sub(minus)
}
