//! Inner loops with 256-bit vectors.

use super::bits::rotate;
use super::combine::{Part, Sums};
use super::dcf::Plan;
use super::lanes::{Correction, Expansion, Front, Lanes, NODES, PANEL, Plane, Selection, Tile};
use super::scalar::{self, SIGMA, key_words};
use crate::backend::{Map, Zip};
use crate::comparison::DcfThresholds;
use std::arch::x86_64::*;

/// Proof that this processor has AVX2.
#[derive(Debug)]
pub(super) struct Avx2(());

static AVX2: Avx2 = Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<&'static Avx2> {
        is_x86_feature_detected!("avx2").then_some(&AVX2)
    }
}

impl Lanes for Avx2 {
    fn zip(&self, op: Zip, a: &mut [u64], b: &[u64]) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { zip(op, a, b) }
    }

    fn zipped(&self, op: Zip, a: &[u64], b: &[u64], out: &mut [u64]) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { zipped(op, a, b, out) }
    }

    fn map(&self, op: Map, a: &mut [u64]) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { map(op, a) }
    }

    fn mapped(&self, op: Map, a: &[u64], out: &mut [u64]) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { mapped(op, a, out) }
    }

    fn dot(&self, a: &[u64], b: &[u64]) -> u64 {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { dot(a, b) }
    }

    fn tile_rows(&self) -> usize {
        3
    }

    fn tile(&self, t: Tile<'_>) {
        assert!(t.in_bounds(), "tile outside its buffers");
        // SAFETY: an `Avx2` exists only after detection, and the tile lies inside its buffers.
        unsafe {
            match t.rows {
                1 => tile::<1>(t),
                2 => tile::<2>(t),
                3 => tile::<3>(t),
                rows => panic!("tile of {rows} rows"),
            }
        }
    }

    fn chacha12(&self, key: &[u8; 32], nonce: u64, first: u64, mask: u64, out: &mut [u64]) {
        assert!(first.is_multiple_of(16), "streams start at whole groups of blocks");
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { chacha12(key, nonce, first, mask, out) }
    }

    fn cut(&self, stream: &[u64], cell: usize, mask: u64, out: &mut [u64]) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { cut(stream, cell, mask, out) }
    }

    fn combine(&self, part: &Part<'_>) -> Sums {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { combine(part) }
    }

    fn subset_sums(&self, bits: &[u64], m: usize, panel: &[u64], out: &mut [u64]) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { subset_sums(bits, m, panel, out) }
    }

    fn select(&self, s: &Selection<'_>, out: &mut [&mut [u64]]) {
        if s.entries < 8 {
            return scalar::select(s, out);
        }
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { select(s, out) }
    }

    fn expand(&self, domain: &[u32; 4], block: u32, seed: &[Plane; 4], count: usize, out: &mut Expansion) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { expand(domain, block, seed, count, out) }
    }

    fn plan(&self, made: &mut Plan, thresholds: &DcfThresholds, base: &[u64; NODES], count: usize) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { plan(made, thresholds, base, count) }
    }

    fn grow(&self, nodes: &Front, count: usize, c: Correction, out: &mut [Front; 2]) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { grow(self, nodes, count, c, out) }
    }

    fn leaves(&self, nodes: &Front, last: [u64; 2], out: &mut [u64; 2 * NODES]) {
        // SAFETY: an `Avx2` exists only after detection.
        unsafe { leaves(nodes, last, out) }
    }
}

#[target_feature(enable = "avx2")]
fn zip(op: Zip, a: &mut [u64], b: &[u64]) {
    scalar::zip(op, a, b);
}

#[target_feature(enable = "avx2")]
fn zipped(op: Zip, a: &[u64], b: &[u64], out: &mut [u64]) {
    scalar::zipped(op, a, b, out);
}

#[target_feature(enable = "avx2")]
fn plan(made: &mut Plan, thresholds: &DcfThresholds, base: &[u64; NODES], count: usize) {
    made.make(thresholds, base, count);
}

#[target_feature(enable = "avx2")]
fn map(op: Map, a: &mut [u64]) {
    scalar::map(op, a);
}

#[target_feature(enable = "avx2")]
fn mapped(op: Map, a: &[u64], out: &mut [u64]) {
    scalar::mapped(op, a, out);
}

#[target_feature(enable = "avx2")]
fn subset_sums(bits: &[u64], m: usize, panel: &[u64], out: &mut [u64]) {
    super::sums::subset_sums(bits, m, panel, out);
}

#[target_feature(enable = "avx2")]
fn dot(a: &[u64], b: &[u64]) -> u64 {
    scalar::dot(a, b)
}

/// `R` rows. Modulo 2^64, x·b = lo(x)·lo(b) + 2^32·(hi(x)·lo(b) + lo(x)·hi(b)), and the bracket only matters
/// modulo 2^32: one widening product for four lanes, and one 32-bit product with the halves of x exchanged.
///
/// # Safety
/// `t.in_bounds()` and `t.rows == R`.
#[target_feature(enable = "avx2")]
unsafe fn tile<const R: usize>(t: Tile<'_>) {
    for half in 0..t.cols.div_ceil(8) {
        let zero = _mm256_setzero_si256();
        let (mut low, mut cross) = ([[zero; 2]; R], [[zero; 2]; R]);
        let (a, mut b) = (t.a.as_ptr(), t.b.as_ptr().wrapping_add(8 * half));
        for l in 0..t.k {
            // SAFETY: l < k, so rows l of B and columns l of A are in bounds; prefetching never faults.
            unsafe {
                let b01 = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(4).cast())];
                if R < 3 {
                    _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(512).cast());
                }
                for r in 0..R {
                    let x = _mm256_set1_epi64x(*a.add(r * t.a_row + l * t.a_col) as i64);
                    for v in 0..2 {
                        low[r][v] = _mm256_add_epi64(low[r][v], _mm256_mul_epu32(x, b01[v]));
                    }
                    // Only now: all sixteen registers are in use.
                    let swapped = _mm256_shuffle_epi32::<0xb1>(x);
                    for v in 0..2 {
                        cross[r][v] = _mm256_add_epi32(cross[r][v], _mm256_mullo_epi32(swapped, b01[v]));
                    }
                }
            }
            b = b.wrapping_add(t.b_row);
        }
        for r in 0..R {
            let mut sums = [0u64; 8];
            for v in 0..2 {
                let both = _mm256_add_epi32(cross[r][v], _mm256_srli_epi64::<32>(cross[r][v]));
                let sum = _mm256_add_epi64(low[r][v], _mm256_slli_epi64::<32>(both));
                // SAFETY: `sums` is 64 bytes.
                unsafe { _mm256_storeu_si256(sums.as_mut_ptr().add(4 * v).cast(), sum) };
            }
            let c = &mut t.c[r * t.c_row + 8 * half..][..8.min(t.cols - 8 * half)];
            if t.accumulate {
                c.iter_mut().zip(sums).for_each(|(c, s)| *c = c.wrapping_add(s));
            } else {
                c.copy_from_slice(&sums[..c.len()]);
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn cut(stream: &[u64], cell: usize, mask: u64, out: &mut [u64]) {
    scalar::cut(stream, cell, mask, out);
}

#[target_feature(enable = "avx2")]
fn combine(part: &Part<'_>) -> Sums {
    super::combine::combine(part)
}

/// The twelve rounds.
#[inline]
#[target_feature(enable = "avx2")]
fn rounds(x: &mut [__m256i; 16]) {
    let by16 = _mm256_setr_epi8(
        2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, //
        2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13,
    );
    let by8 = _mm256_setr_epi8(
        3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, //
        3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14,
    );
    macro_rules! quarter {
        ($a:literal $b:literal $c:literal $d:literal) => {
            x[$a] = _mm256_add_epi32(x[$a], x[$b]);
            x[$d] = _mm256_shuffle_epi8(_mm256_xor_si256(x[$d], x[$a]), by16);
            x[$c] = _mm256_add_epi32(x[$c], x[$d]);
            let b = _mm256_xor_si256(x[$b], x[$c]);
            x[$b] = _mm256_or_si256(_mm256_slli_epi32::<12>(b), _mm256_srli_epi32::<20>(b));
            x[$a] = _mm256_add_epi32(x[$a], x[$b]);
            x[$d] = _mm256_shuffle_epi8(_mm256_xor_si256(x[$d], x[$a]), by8);
            x[$c] = _mm256_add_epi32(x[$c], x[$d]);
            let b = _mm256_xor_si256(x[$b], x[$c]);
            x[$b] = _mm256_or_si256(_mm256_slli_epi32::<7>(b), _mm256_srli_epi32::<25>(b));
        };
    }
    for _ in 0..6 {
        quarter!(0 4 8 12);
        quarter!(1 5 9 13);
        quarter!(2 6 10 14);
        quarter!(3 7 11 15);
        quarter!(0 5 10 15);
        quarter!(1 6 11 12);
        quarter!(2 7 8 13);
        quarter!(3 4 9 14);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn set1(x: u32) -> __m256i {
    _mm256_set1_epi32(x as i32)
}

#[target_feature(enable = "avx2")]
fn chacha12(key: &[u8; 32], nonce: u64, first: u64, mask: u64, out: &mut [u64]) {
    let key = key_words(key);
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mask = _mm256_set1_epi64x(mask as i64);
    for (group, words) in out.chunks_mut(64).enumerate() {
        // A multiple of 8: the low half of the counter does not overflow within the group.
        let counter = first + 8 * group as u64;
        let mut s = [_mm256_setzero_si256(); 16];
        for i in 0..4 {
            s[i] = set1(SIGMA[i]);
        }
        for i in 0..8 {
            s[4 + i] = set1(key[i]);
        }
        s[12] = _mm256_add_epi32(set1(counter as u32), lane);
        s[13] = set1((counter >> 32) as u32);
        s[14] = set1(nonce as u32);
        s[15] = set1((nonce >> 32) as u32);
        let mut x = s;
        rounds(&mut x);
        for i in 0..16 {
            x[i] = _mm256_add_epi32(x[i], s[i]);
        }
        transpose(&mut x);
        let mut rest = [0u64; 64];
        let whole = words.len() == 64;
        let to = if whole { &mut *words } else { &mut rest };
        for (to, x) in to.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            // SAFETY: `to` is 32 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_and_si256(x, mask)) };
        }
        if !whole {
            words.copy_from_slice(&rest[..words.len()]);
        }
    }
}

/// From one vector for each word of a block to two vectors for each block.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(x: &mut [__m256i; 16]) {
    // Within each half q: y[4i + j] holds words 4i..4i + 4 of block 4q + j.
    let mut y = *x;
    for i in (0..16).step_by(4) {
        let (a, b) = (_mm256_unpacklo_epi32(x[i], x[i + 1]), _mm256_unpackhi_epi32(x[i], x[i + 1]));
        let (c, d) = (_mm256_unpacklo_epi32(x[i + 2], x[i + 3]), _mm256_unpackhi_epi32(x[i + 2], x[i + 3]));
        y[i] = _mm256_unpacklo_epi64(a, c);
        y[i + 1] = _mm256_unpackhi_epi64(a, c);
        y[i + 2] = _mm256_unpacklo_epi64(b, d);
        y[i + 3] = _mm256_unpackhi_epi64(b, d);
    }
    for j in 0..4 {
        x[2 * j] = _mm256_permute2x128_si256::<0x20>(y[j], y[4 + j]);
        x[2 * j + 1] = _mm256_permute2x128_si256::<0x20>(y[8 + j], y[12 + j]);
        x[8 + 2 * j] = _mm256_permute2x128_si256::<0x31>(y[j], y[4 + j]);
        x[8 + 2 * j + 1] = _mm256_permute2x128_si256::<0x31>(y[8 + j], y[12 + j]);
    }
}

#[target_feature(enable = "avx2")]
fn select(s: &Selection<'_>, out: &mut [&mut [u64]]) {
    let mut turned = vec![0; s.entries.div_ceil(64)];
    // Loads that cross a cache line cost twice as much. Any `entries` consecutive words of a table's cycle
    // will do, if the bits are turned to match; tables are whole lines apart.
    let skip = s.tables.as_ptr().align_offset(64) % scalar::PAD;
    for (e, u) in s.u.chunks_exact(turned.len()).enumerate() {
        rotate(u, s.entries, s.rot[e].wrapping_sub(skip as u64), &mut turned);
        let start = s.phase(e) * s.prepared + skip;
        for (c, out) in out.iter_mut().enumerate() {
            out[e] = sum(&s.tables[c * s.column_len() + start..][..s.entries], &turned);
        }
    }
}

/// The sum of the words whose bit in `u` is set; a multiple of 8 words.
#[inline]
#[target_feature(enable = "avx2")]
fn sum(column: &[u64], u: &[u64]) -> u64 {
    let place = _mm256_setr_epi64x(1, 2, 4, 8);
    let mut acc = [_mm256_setzero_si256(); 2];
    for (words, &bits) in column.chunks(64).zip(u) {
        let mut bits = _mm256_set1_epi64x(bits as i64);
        for (i, words) in words.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: `words` is 32 bytes.
            let t = unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
            let mask = _mm256_cmpeq_epi64(_mm256_and_si256(bits, place), place);
            acc[i % 2] = _mm256_add_epi64(acc[i % 2], _mm256_and_si256(mask, t));
            bits = _mm256_srli_epi64::<4>(bits);
        }
    }
    let mut sums = [0u64; 4];
    // SAFETY: `sums` is 32 bytes.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), _mm256_add_epi64(acc[0], acc[1])) };
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[target_feature(enable = "avx2")]
fn expand(domain: &[u32; 4], block: u32, seed: &[Plane; 4], count: usize, out: &mut Expansion) {
    for at in (0..count.min(NODES)).step_by(8) {
        let mut s = [_mm256_setzero_si256(); 16];
        for i in 0..4 {
            s[i] = set1(SIGMA[i]);
            // SAFETY: `at` is 0 or 8, so 32 bytes of the plane follow.
            s[4 + i] = unsafe { _mm256_loadu_si256(seed[i].as_ptr().add(at).cast()) };
            s[8 + i] = set1(domain[i]);
        }
        s[12] = set1(block);
        let mut x = s;
        rounds(&mut x);
        for (i, out) in out.iter_mut().enumerate() {
            // SAFETY: `at` is 0 or 8, so 32 bytes of the plane follow.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), _mm256_add_epi32(x[i], s[i])) };
        }
    }
}

#[target_feature(enable = "avx2")]
fn grow(lanes: &Avx2, nodes: &Front, count: usize, c: Correction, out: &mut [Front; 2]) {
    scalar::grow(lanes, nodes, count, c, out);
}

#[target_feature(enable = "avx2")]
fn leaves(nodes: &Front, last: [u64; 2], out: &mut [u64; 2 * NODES]) {
    scalar::leaves(nodes, last, out);
}

const _: () = assert!(PANEL == 16 && NODES == 16);
