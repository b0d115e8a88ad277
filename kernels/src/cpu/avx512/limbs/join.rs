//! Words from their limbs' sums.

use super::{LIMBS, Line, TILE};
use std::arch::x86_64::*;

/// Where in a line of sums an output's is, so that those of eight outputs end up side by side: in each 128-bit lane, sums 0 and 1
/// make words of the first eight outputs, and sums 2 and 3 of the others.
pub(super) const fn place(output: usize) -> usize {
    output % 8 / 2 * 4 + output / 8 * 2 + output % 2
}

/// Sums of 32 bits with signs, a tile for each limb.
pub(super) struct Join<'a> {
    pub(super) sums: &'a [Line],
    pub(super) limbs: usize,
    /// Whether to add to what there is.
    pub(super) add: bool,
    pub(super) mask: u64,
}

impl Join<'_> {
    /// c ← (c +) Σ sum_s·2^(8s), masked, for a row of the tile.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) fn row(&self, row: usize, c: &mut [u64]) {
        let sum = |s: usize| {
            if s >= self.limbs {
                return _mm512_setzero_si512();
            }
            // SAFETY: a line is 64 bytes.
            unsafe { _mm512_load_si512(self.sums[s * TILE + row].0.as_ptr().cast()) }
        };
        let mut halves = [_mm512_setzero_si512(); 2];
        // Sums s and s + 4 make a word, sum_s + 2^32·sum_(s+4), of which the first one's sign is part; Horner's rule from the last.
        for s in (0..LIMBS / 2).rev() {
            let low = sum(s);
            let high = _mm512_add_epi32(sum(s + 4), _mm512_srai_epi32::<31>(low));
            let words = [_mm512_unpacklo_epi32(low, high), _mm512_unpackhi_epi32(low, high)];
            for (half, words) in halves.iter_mut().zip(words) {
                *half = _mm512_add_epi64(_mm512_slli_epi64::<8>(*half), words);
            }
        }
        let present = (1u32 << c.len().min(TILE)).wrapping_sub(1);
        for (v, half) in halves.into_iter().enumerate() {
            let (present, c) = ((present >> (8 * v)) as u8, c.as_mut_ptr().wrapping_add(8 * v));
            // SAFETY: the mask keeps both accesses inside `c`.
            unsafe {
                let old = if self.add {
                    _mm512_maskz_loadu_epi64(present, c.cast())
                } else {
                    _mm512_setzero_si512()
                };
                let word = _mm512_and_si512(_mm512_add_epi64(old, half), _mm512_set1_epi64(self.mask as i64));
                _mm512_mask_storeu_epi64(c.cast(), present, word);
            }
        }
    }
}
