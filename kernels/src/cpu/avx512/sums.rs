//! Sums of a panel's inputs that bits select; `cpu/sums.rs` says how.

use crate::cpu::sums::{GROUP, GROUPS, INPUTS, Weights};
use std::arch::x86_64::*;

/// The weights for half of the outputs.
#[inline(always)]
fn half(w: &Weights, at: usize) -> __m512i {
    let w: &[u64; 8] = &w.as_chunks().0[at];
    // SAFETY: `w` is 64 bytes; callers have AVX-512 F.
    unsafe { _mm512_loadu_si512(w.as_ptr().cast()) }
}

#[inline(always)]
fn put(w: &mut Weights, at: usize, x: __m512i) {
    let w: &mut [u64; 8] = &mut w.as_chunks_mut().0[at];
    // SAFETY: `w` is 64 bytes; callers have AVX-512 F.
    unsafe { _mm512_storeu_si512(w.as_mut_ptr().cast(), x) }
}

/// Inputs (8 KiB) that weights are fetched ahead: left to itself the hardware reads while nothing is added, and nothing is
/// added while it reads. From 4 to 16 KiB are alike.
const AHEAD: usize = 64;

/// Fetches the weights of a later input.
#[inline(always)]
fn fetch(weights: &Weights) {
    let at = std::ptr::from_ref(weights).wrapping_add(AHEAD).cast::<i8>();
    // SAFETY: prefetching never faults.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(at);
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64));
    }
}

/// `M` rows, whose sums stay in registers. A mask for all outputs is a test of one bit of the row's word.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn masked<const M: usize>(bits: &[u64], panel: &[Weights], out: &mut [Weights]) {
    let mut sums = [[_mm512_setzero_si512(); 2]; M];
    for (words, inputs) in bits.as_chunks::<M>().0.iter().zip(panel.chunks(64)) {
        let mut rows = [_mm512_setzero_si512(); M];
        rows.iter_mut().zip(words).for_each(|(row, word)| *row = _mm512_set1_epi64(*word as i64));
        let mut bit = _mm512_set1_epi64(1);
        for weights in inputs {
            fetch(weights);
            let w = [half(weights, 0), half(weights, 1)];
            for (sum, row) in sums.iter_mut().zip(&rows) {
                let chosen = _mm512_test_epi64_mask(*row, bit);
                sum[0] = _mm512_mask_add_epi64(sum[0], chosen, sum[0], w[0]);
                sum[1] = _mm512_mask_add_epi64(sum[1], chosen, sum[1], w[1]);
            }
            bit = _mm512_add_epi64(bit, bit);
        }
    }
    for (out, sum) in out.iter_mut().zip(&sums) {
        (0..2).for_each(|i| put(out, i, _mm512_add_epi64(half(out, i), sum[i])));
    }
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

impl Line {
    const ZERO: Line = Line([0; 8]);

    #[inline(always)]
    fn get(&self) -> __m512i {
        // SAFETY: a line is 64 bytes and aligned; callers have AVX-512 F.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn set(&mut self, x: __m512i) {
        // SAFETY: a line is 64 bytes and aligned; callers have AVX-512 F.
        unsafe { _mm512_store_si512(self.0.as_mut_ptr().cast(), x) }
    }
}

/// All sums of two inputs.
#[inline(always)]
fn of_two(a: __m512i, b: __m512i) -> [__m512i; 4] {
    // SAFETY: callers have AVX-512 F.
    unsafe { [_mm512_setzero_si512(), a, b, _mm512_add_epi64(a, b)] }
}

/// Any number of rows, and `H` halves of the outputs at a time: both share what it takes to find a row's sums, which from some
/// rows on is more than 16 instead of 8 KiB of sums in the first-level cache cost.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn four_russians<const H: usize>(bits: &[u64], m: usize, panel: &[Weights], out: &mut [Weights]) {
    let mut sums = [[[Line::ZERO; H]; 1 << GROUP]; GROUPS];
    let mut rows = vec![[Line::ZERO; 2]; m];
    for (words, inputs) in bits.chunks_exact(m).zip(panel.chunks(64)) {
        for (half_word, inputs) in inputs.chunks(INPUTS).enumerate() {
            for first in (0..2).step_by(H) {
                for at in 0..H {
                    for (group, sums) in sums.iter_mut().enumerate() {
                        if first + at == 0 {
                            inputs.iter().skip(GROUP * group).take(GROUP).for_each(fetch);
                        }
                        let w =
                            |i: usize| half(inputs.get(GROUP * group + i).unwrap_or(&[0; 16]), first + at);
                        let (low, high) = (of_two(w(0), w(1)), of_two(w(2), w(3)));
                        for h in 0..4 {
                            for l in 0..4 {
                                sums[4 * h + l][at].set(_mm512_add_epi64(high[h], low[l]));
                            }
                        }
                    }
                }
                for (word, row) in words.iter().zip(&mut rows) {
                    let (word, row) = ((word >> (INPUTS * half_word)) as u32, &mut row[first..first + H]);
                    let mut sum = [_mm512_setzero_si512(); H];
                    sum.iter_mut().zip(&*row).for_each(|(sum, row)| *sum = row.get());
                    for (group, sums) in sums.iter().enumerate() {
                        let chosen = &sums[(word >> (GROUP * group)) as usize % (1 << GROUP)];
                        for at in 0..H {
                            sum[at] = _mm512_add_epi64(sum[at], chosen[at].get());
                        }
                    }
                    row.iter_mut().zip(sum).for_each(|(row, sum)| row.set(sum));
                }
            }
        }
    }
    for (out, row) in out.iter_mut().zip(&rows) {
        (0..2).for_each(|at| put(out, at, _mm512_add_epi64(half(out, at), row[at].get())));
    }
}
