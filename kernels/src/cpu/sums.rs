//! Products of bits and matrices over Z_2^64: sums of selected columns of a matrix, by the method of four Russians (Arlazarov,
//! Dinic, Kronrod and Faradžev, 1970).
//!
//! A panel (see [`super::gemm`]) holds 16 outputs' weights side by side, input after input. For four inputs, the 16 possible sums
//! of their weights are made once, in the first-level cache; each row of bits then adds the one that its four bits name: a
//! quarter of the additions, and no product. A few rows add what their bits select directly, as fast as the panel can be
//! read. Either way the panel is read once from start to end, all of it, and how much is done does not depend on the bits;
//! where in the 16 KiB of sums is read does.
//!
//! **Floor.** With 512-bit vectors, the sums of four inputs of a panel are 30 stores, one in two cycles on Zen 4, and a row's
//! addition reads two vectors, one a cycle: 60 + 2·m cycles for 64·m multiply-adds.

use super::lanes::{Lanes, PANEL};
use super::{gemm, par};
use crate::buffer;

/// Inputs whose sums are made together, and how many such groups there are at a time.
pub(super) const GROUP: usize = 4;
pub(super) const GROUPS: usize = 8;
/// Half of a word of bits.
pub(super) const INPUTS: usize = GROUP * GROUPS;

/// Rows up to which no sums are made.
const FEW: usize = 4;

/// Bits times weights from which on several threads are faster.
const SMALL: usize = 1 << 20;

/// An input's weights for the outputs of a panel.
pub(super) type Weights = [u64; PANEL];

#[repr(align(64))]
struct Sums([[Weights; 1 << GROUP]; GROUPS]);

pub(super) fn gemm_bits(lanes: &dyn Lanes, a: &[u64], b: &[u64], m: usize, k: usize, n: usize) -> Vec<u64> {
    if let Some(planes) = lanes.planes() {
        return planes.gemm_bits(a, b, [m, k, n]);
    }
    let words = k.div_ceil(64);
    assert_eq!(a.len(), m * words, "left matrix of {m} × {k} bits");
    assert_eq!(b.len(), n.div_ceil(PANEL) * gemm::panel_words(k), "packed matrix of {n} × {k}");
    if m == 0 || n == 0 || k == 0 {
        return buffer::zeroed(m * n);
    }
    // All rows' first words, then all rows' second ones: the rows' own distance may be a multiple of the cache's.
    let mut turned = buffer::unwritten(a.len());
    for (i, row) in a.chunks_exact(words).enumerate() {
        turned[i..].iter_mut().step_by(m).zip(row).for_each(|(to, word)| *to = *word);
    }
    let mut parts = buffer::zeroed(n.div_ceil(PANEL) * m * PANEL);
    par::chunks_if(m * k * n >= SMALL, &mut parts, m * PANEL, |p, part| {
        lanes.subset_sums(&turned, m, &b[p * gemm::panel_words(k)..][..PANEL * k], part);
    });
    let mut c = buffer::unwritten(m * n);
    for (i, row) in c.chunks_exact_mut(n).enumerate() {
        for (row, part) in row.chunks_mut(PANEL).zip(parts.chunks_exact(m * PANEL)) {
            row.copy_from_slice(&part[i * PANEL..][..row.len()]);
        }
    }
    c
}

/// out\[i\] += Σ_l (bit l of row i) · panel\[l\]. `bits` has, for each 64 inputs, a word of each of the `m` rows.
#[inline(always)]
pub(super) fn subset_sums(bits: &[u64], m: usize, panel: &[u64], out: &mut [u64]) {
    let (panel, out) = (panel.as_chunks::<PANEL>().0, out.as_chunks_mut::<PANEL>().0);
    match m {
        1 => masked::<1>(bits, panel, out),
        2 => masked::<2>(bits, panel, out),
        3 => masked::<3>(bits, panel, out),
        FEW => masked::<FEW>(bits, panel, out),
        _ => four_russians(bits, m, panel, out),
    }
}

#[inline(always)]
fn add(sum: &mut Weights, more: &Weights) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
}

#[inline(always)]
fn masked<const M: usize>(bits: &[u64], panel: &[Weights], out: &mut [Weights]) {
    let mut sums = [[0u64; PANEL]; M];
    for (word, inputs) in bits.as_chunks::<M>().0.iter().zip(panel.chunks(64)) {
        let mut word = *word;
        for weights in inputs {
            for (sum, word) in sums.iter_mut().zip(&mut word) {
                let mask = (*word & 1).wrapping_neg();
                sum.iter_mut().zip(weights).for_each(|(sum, w)| *sum = sum.wrapping_add(w & mask));
                *word >>= 1;
            }
        }
    }
    out.iter_mut().zip(&sums).for_each(|(out, sum)| add(out, sum));
}

#[inline(always)]
fn four_russians(bits: &[u64], m: usize, panel: &[Weights], out: &mut [Weights]) {
    let mut sums = Sums([[[0; PANEL]; 1 << GROUP]; GROUPS]);
    for (words, inputs) in bits.chunks_exact(m).zip(panel.chunks(64)) {
        for (half, inputs) in inputs.chunks(INPUTS).enumerate() {
            for (group, sums) in sums.0.iter_mut().enumerate() {
                for i in 0..GROUP {
                    // What is behind the last input does not count.
                    let weights = inputs.get(GROUP * group + i).copied().unwrap_or([0; PANEL]);
                    let (without, with) = sums.split_at_mut(1 << i);
                    for (with, without) in with.iter_mut().zip(without) {
                        *with = weights;
                        add(with, without);
                    }
                }
            }
            for (word, out) in words.iter().zip(&mut *out) {
                let word = (word >> (INPUTS * half)) as u32;
                let mut sum = *out;
                for (group, sums) in sums.0.iter().enumerate() {
                    add(&mut sum, &sums[(word >> (GROUP * group)) as usize % (1 << GROUP)]);
                }
                *out = sum;
            }
        }
    }
}
