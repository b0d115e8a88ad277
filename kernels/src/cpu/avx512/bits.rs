//! Rows of bits; transpositions and combinations by products of 8 × 8 matrices of bits (GFNI).

use crate::cpu::bits::{self, Bundle, Row};
use crate::cpu::combine::{PLANES, Part, Sums};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn flip_bits(u: &mut [u64], width: usize, idx: &[u64]) {
    bits::flip_bits(u, width, idx);
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn bits_at(u: &[u64], width: usize, idx: &[u64], out: &mut [u64]) {
    bits::bits_at(u, width, idx, out);
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn rotate_rows(u: &[u64], width: usize, rot: &[u64], out: &mut [u64]) {
    bits::rotate_rows(u, width, rot, out);
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn suffix_xors(u: &[u64], row: Row, out: &mut [u64]) {
    bits::suffix_xors(u, row, out);
}

/// The lowest `n` of eight lanes.
fn lowest(n: usize) -> u8 {
    if n < 8 { (1 << n) - 1 } else { u8::MAX }
}

/// Byte j of word i is `first` + `i_step`·i + `j_step`·j.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes(first: usize, i_step: isize, j_step: isize) -> __m512i {
    let byte = |at: usize| (first as isize + i_step * (at / 8) as isize + j_step * (at % 8) as isize) as u8;
    let bytes: [u8; 64] = std::array::from_fn(byte);
    // SAFETY: an array of 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

// A vector is eight matrices of 8 × 8 bits from here on, row r of each in byte 7 - r of its word, as the instruction wants it.
// It computes A·Bᵀ of A and B.

/// Each matrix transposed: its product with the unit matrix.
#[inline]
#[target_feature(enable = "avx512f,gfni")]
fn transposed(x: __m512i) -> __m512i {
    _mm512_gf2p8affine_epi64_epi8::<0>(_mm512_set1_epi64(0x0102_0408_1020_4080), x)
}

/// Row r of matrix i is bit 8·i + r of each of eight words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
fn columns(x: __m512i) -> __m512i {
    transposed(_mm512_permutexvar_epi8(bytes(56, 1, -8), x))
}

/// At most 8·N planes.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi,gfni")]
pub(super) fn transpose<const N: usize>(planes: &[u64], b: Bundle, out: &mut [u64]) {
    let words = b.width.div_ceil(64);
    let apart =
        _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(words as i64));
    let keep: [u8; N] = std::array::from_fn(|k| lowest(b.count.saturating_sub(8 * k)));
    for (planes, out) in b.rows(planes, out) {
        for (w, out) in out.chunks_mut(64).enumerate() {
            let octets: [__m512i; N] = std::array::from_fn(|k| {
                let at = planes.as_ptr().wrapping_add(8 * k * words + w).cast();
                // SAFETY: the mask keeps the loads inside `planes`, `count` times as many words as a plane has.
                columns(unsafe {
                    if words == 1 {
                        _mm512_maskz_loadu_epi64(keep[k], at)
                    } else {
                        _mm512_mask_i64gather_epi64::<8>(_mm512_setzero_si512(), keep[k], apart, at)
                    }
                })
            });
            // The words of columns 8·i to 8·i + 7, of which octet k has byte k.
            let eight = |i: usize| {
                let from = bytes(8 * i + 7, -1, 0);
                octets.iter().enumerate().fold(_mm512_setzero_si512(), |x, (k, octet)| {
                    _mm512_mask_permutexvar_epi8(x, 0x0101_0101_0101_0101 << k, from, *octet)
                })
            };
            if let Ok(out) = <&mut [u64; 64]>::try_from(&mut *out) {
                for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    // SAFETY: `out` is 64 bytes.
                    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), eight(i)) };
                }
            } else {
                for (i, out) in out.chunks_mut(8).enumerate() {
                    // SAFETY: the mask keeps the store inside `out`.
                    unsafe { _mm512_mask_storeu_epi64(out.as_mut_ptr().cast(), lowest(out.len()), eight(i)) };
                }
            }
        }
    }
}

/// [`crate::cpu::combine::combine`] where a row is one word, and its coins are two.
///
/// Σ over rows i of u_i[l]·(q_i[l + j] + p_i[j]) is an entry of U·Q and one of U·P: products of matrices over all rows.
/// Of U·Q it takes the 8 × 8 blocks that have a place with 0 ≤ column - row < [`PLANES`].
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi,gfni")]
pub(super) fn combine(part: &Part<'_>) -> Sums {
    const OCTETS: usize = PLANES / 8;
    let [q, p] = part.places;
    // Row c of the coins' matrices is byte c ^ 7 of two vectors. Where c is too large (it wraps), bits or planes do not count.
    let at = |first: usize, step: isize| _mm512_xor_si512(bytes(first + 7, step, -1), _mm512_set1_epi8(7));
    let q: [_; OCTETS + 1] = std::array::from_fn(|d| at(q + 8 * d, 8));
    let p: [_; OCTETS] = std::array::from_fn(|k| at(p + 8 * k, 0));
    // The low and the high words' bytes, arranged as `columns` does with one vector.
    let words = [bytes(112, 1, -16), bytes(120, 1, -16)];
    let (mut uq, mut up) = ([_mm512_setzero_si512(); OCTETS + 1], [_mm512_setzero_si512(); OCTETS]);
    for (u, coins) in part.u.chunks(8).zip(part.coins.chunks(16)) {
        let (low, high) = coins.split_at(coins.len().min(8));
        let [u, low, high] = [u, low, high].map(|x| {
            // SAFETY: the mask keeps the load inside `x`.
            unsafe { _mm512_maskz_loadu_epi64(lowest(x.len()), x.as_ptr().cast()) }
        });
        let u = columns(u);
        let coins = words.map(|word| transposed(_mm512_permutex2var_epi8(low, word, high)));
        let product = |at: __m512i| {
            _mm512_gf2p8affine_epi64_epi8::<0>(u, _mm512_permutex2var_epi8(coins[0], at, coins[1]))
        };
        uq.iter_mut().zip(q).for_each(|(sum, at)| *sum = _mm512_xor_si512(*sum, product(at)));
        up.iter_mut().zip(p).for_each(|(sum, at)| *sum = _mm512_xor_si512(*sum, product(at)));
    }
    let mut sums = [0; PLANES];
    for (k, sums) in sums.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // Plane j of row l is in column l + j of a block, or of the next one.
        let row = _mm512_set4_epi32(0x0000_0001, 0x0002_0003, 0x0004_0005, 0x0006_0007);
        let halves = [_mm512_unpacklo_epi8(uq[k], uq[k + 1]), _mm512_unpackhi_epi8(uq[k], uq[k + 1])];
        let [low, high] =
            halves.map(|x| _mm512_and_si512(_mm512_srlv_epi16(x, row), _mm512_set1_epi16(0xff)));
        let planes = transposed(_mm512_xor_si512(_mm512_packus_epi16(low, high), up[k]));
        // SAFETY: `sums` is 64 bytes.
        unsafe {
            _mm512_storeu_si512(sums.as_mut_ptr().cast(), _mm512_permutexvar_epi8(bytes(7, -1, 8), planes))
        };
    }
    sums
}
