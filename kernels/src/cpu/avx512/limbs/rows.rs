//! Left matrices, split into bytes.

use super::{Line, Lines, STEP, TILE, Term};
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of digits, or of bits, a byte each: for each tile's rows, each step and each limb (of bits there is one), the rows' lines.
pub(super) struct Rows {
    planes: Lines,
    pub(super) m: usize,
    steps: usize,
    /// Limbs of results: the modulus is 2^(8·limbs) or less.
    pub(super) limbs: usize,
    /// Rows of a tile.
    pub(super) height: usize,
    pub(super) term: Term,
}

impl Rows {
    /// m × k words, for products modulo 2^(8·limbs). A word's digits are Σ d_i·2^(8i), each from −128 to 127: those of its sum with
    /// 128·Σ 2^(8i), less 128.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
    pub(super) fn of_words(a: &[u64], [m, k]: [usize; 2], limbs: usize) -> Rows {
        const HALVES: u64 = 0x8080_8080_8080_8080;
        let mut rows = Rows::new(m, k, limbs, Term::Words(limbs));
        for (i, words) in a.chunks_exact(k).enumerate() {
            for step in 0..rows.steps {
                let mut digits = [0; STEP];
                digits
                    .iter_mut()
                    .zip(&words[step * STEP..])
                    .for_each(|(d, w)| *d = w.wrapping_add(HALVES) ^ HALVES);
                for (limb, digits) in split(&digits).into_iter().take(limbs).enumerate() {
                    let at = rows.line(i / rows.height, step, limb) + i % rows.height;
                    // SAFETY: a line is 64 bytes.
                    unsafe { _mm512_store_si512(rows.planes.get_mut()[at].0.as_mut_ptr().cast(), digits) };
                }
            }
        }
        rows
    }

    /// m rows of k bits.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn of_bits(a: &[u64], [m, k]: [usize; 2]) -> Rows {
        let mut rows = Rows::new(m, k, super::LIMBS, Term::Bits);
        for (i, words) in a.chunks_exact(rows.steps).enumerate() {
            for (step, word) in words.iter().enumerate() {
                // What is behind the last bit does not count: the matrix has zeros there.
                let bytes = _mm512_maskz_set1_epi8(*word, 1);
                let at = rows.line(i / rows.height, step, 0) + i % rows.height;
                // SAFETY: a line is 64 bytes.
                unsafe { _mm512_store_si512(rows.planes.get_mut()[at].0.as_mut_ptr().cast(), bytes) };
            }
        }
        rows
    }

    /// Lines of any value: those of rows behind the last one make sums that nobody reads.
    fn new(m: usize, k: usize, limbs: usize, term: Term) -> Rows {
        let (steps, height) = (k.div_ceil(STEP), m.min(TILE));
        let lines = m.div_ceil(height.max(1)) * steps * term.limbs() * height;
        Rows { planes: Lines::unwritten(lines), m, steps, limbs, height, term }
    }

    /// Tiles of rows.
    pub(super) fn tiles(&self) -> usize {
        self.m.div_ceil(self.height)
    }

    /// Lines of a step of a tile.
    pub(super) fn step_lines(&self) -> usize {
        self.term.limbs() * self.height
    }

    /// Where the rows' lines of a limb begin.
    pub(super) fn line(&self, tile: usize, step: usize, limb: usize) -> usize {
        (tile * self.steps + step) * self.step_lines() + limb * self.height
    }

    /// Some steps of a tile.
    pub(super) fn of_tile(&self, tile: usize, steps: Range<usize>) -> &[Line] {
        &self.planes.get()[self.line(tile, steps.start, 0)..self.line(tile, steps.end, 0)]
    }
}

/// The limbs of 64 words, or of fewer and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn split(words: &[u64]) -> [__m512i; 8] {
    // Byte 8i + j is byte 8j + i.
    const TRANSPOSED: [u8; 64] = {
        let mut order = [0; 64];
        let mut i = 0;
        while i < 64 {
            order[i] = (i % 8 * 8 + i / 8) as u8;
            i += 1;
        }
        order
    };
    let mut padded = [0; STEP];
    let words: &[u64; STEP] = match words.first_chunk() {
        Some(words) => words,
        None => {
            padded[..words.len()].copy_from_slice(words);
            &padded
        }
    };
    // SAFETY: all accesses are to whole arrays of 64 bytes.
    let line = |at: *const u64| unsafe { _mm512_loadu_si512(at.cast()) };
    let order = line(TRANSPOSED.as_ptr().cast());
    let mut w = [_mm512_setzero_si512(); 8];
    for (w, words) in w.iter_mut().zip(words.as_chunks::<8>().0) {
        *w = _mm512_permutexvar_epi8(order, line(words.as_ptr()));
    }
    // Word j of w[i] is limb j of words 8i to 8i + 7: the 8 × 8 words are transposed.
    let mut out = [_mm512_setzero_si512(); 8];
    for odd in 0..2 {
        let mut u = [_mm512_setzero_si512(); 4];
        for (u, w) in u.iter_mut().zip(w.as_chunks::<2>().0) {
            *u = if odd == 0 { _mm512_unpacklo_epi64(w[0], w[1]) } else { _mm512_unpackhi_epi64(w[0], w[1]) };
        }
        let low = [_mm512_shuffle_i64x2::<0x88>(u[0], u[1]), _mm512_shuffle_i64x2::<0x88>(u[2], u[3])];
        let high = [_mm512_shuffle_i64x2::<0xdd>(u[0], u[1]), _mm512_shuffle_i64x2::<0xdd>(u[2], u[3])];
        out[odd] = _mm512_shuffle_i64x2::<0x88>(low[0], low[1]);
        out[2 + odd] = _mm512_shuffle_i64x2::<0x88>(high[0], high[1]);
        out[4 + odd] = _mm512_shuffle_i64x2::<0xdd>(low[0], low[1]);
        out[6 + odd] = _mm512_shuffle_i64x2::<0xdd>(high[0], high[1]);
    }
    out
}
