//! Sixteen nodes of comparison or point function trees at once, a node in each 32-bit lane.

use super::super::dcf::CHILDREN;
use super::super::lanes::{Correction, Expansion, Front, NODES, Nodes, Plane, Step};
use super::super::scalar::{DCF, DPF, SIGMA};
use super::{rounds, set1};
use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn load(plane: &Plane) -> __m512i {
    // SAFETY: a plane is 64 bytes.
    unsafe { _mm512_loadu_si512(plane.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn store(plane: &mut Plane, x: __m512i) {
    // SAFETY: a plane is 64 bytes.
    unsafe { _mm512_storeu_si512(plane.as_mut_ptr().cast(), x) }
}

/// The blocks of 16 nodes; words 13 and above are not finished.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn blocks(domain: &[u32; 4], block: u32, seed: &[__m512i; 4]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    let mut x = [zero; 16];
    for i in 0..4 {
        x[i] = set1(SIGMA[i]);
        x[4 + i] = seed[i];
        x[8 + i] = set1(domain[i]);
    }
    x[12] = set1(block);
    rounds(&mut x);
    for i in 0..4 {
        x[i] = _mm512_add_epi32(x[i], set1(SIGMA[i]));
        x[4 + i] = _mm512_add_epi32(x[4 + i], seed[i]);
        x[8 + i] = _mm512_add_epi32(x[8 + i], set1(domain[i]));
    }
    x[12] = _mm512_add_epi32(x[12], set1(block));
    x
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn expand(domain: &[u32; 4], block: u32, seed: &[Plane; 4], out: &mut Expansion) {
    let x = blocks(domain, block, &[load(&seed[0]), load(&seed[1]), load(&seed[2]), load(&seed[3])]);
    for (out, x) in out.iter_mut().zip(x) {
        store(out, x);
    }
}

/// The 16 words from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn load16(plane: &[u32], at: usize) -> __m512i {
    let words = &plane[at..at + 16];
    // SAFETY: `words` is 64 bytes.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn store16(plane: &mut [u32], at: usize, x: __m512i) {
    let words = &mut plane[at..at + 16];
    // SAFETY: `words` is 64 bytes.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), x) }
}

/// The 8 words from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn load8(plane: &[u64], at: usize) -> __m512i {
    let words = &plane[at..at + 8];
    // SAFETY: `words` is 64 bytes.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn store8(plane: &mut [u64], at: usize, x: __m512i) {
    let words = &mut plane[at..at + 8];
    // SAFETY: `words` is 64 bytes.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), x) }
}

/// All 16 nodes from `at` on go to the children on the side of their paths; the other children of those in `split` are
/// packed behind the last node.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn advance(nodes: &mut Nodes, at: usize, split: u16, Step { level, bit, key }: Step<'_>) {
    let (level, end) = (level as usize, nodes.len);
    let seed = [0, 1, 2, 3].map(|i| load16(&nodes.seed[i], at));
    let x = blocks(&DCF, CHILDREN, &seed);
    let bit = _mm512_set1_epi64(1 << bit);
    let halves = [0, 8].map(|half| _mm512_test_epi64_mask(load8(&nodes.path, at + half), bit));
    let right = u16::from(halves[0]) | u16::from(halves[1]) << 8;
    // Both sides of the tree: ours, and the other one.
    let sides = |left, r| [_mm512_mask_blend_epi32(right, left, r), _mm512_mask_blend_epi32(right, r, left)];
    let t = _mm512_movepi32_mask(load16(&nodes.control, at));
    for i in 0..4 {
        let correction = set1((key.seeds[2 * level + i / 2] >> (32 * (i % 2))) as u32);
        let [own, other] = sides(x[i], x[4 + i]).map(|s| _mm512_mask_xor_epi32(s, t, s, correction));
        store16(&mut nodes.seed[i], at, own);
        if split != 0 {
            store16(&mut nodes.seed[i], end, _mm512_maskz_compress_epi32(split, other));
        }
    }
    let control = |side: u32| {
        let correction = if key.controls[level] >> side & 1 == 1 { t } else { 0 };
        _mm512_movm_epi32(_mm512_test_epi32_mask(x[12], set1(1 << side)) ^ correction)
    };
    let [own, other] = sides(control(0), control(1));
    store16(&mut nodes.control, at, own);
    if split != 0 {
        store16(&mut nodes.control, end, _mm512_maskz_compress_epi32(split, other));
    }
    let correction = _mm512_set1_epi64(key.values[level] as i64);
    // The low and the high words of 8 values, alternately.
    let alternate = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let (low, high) = (sides(x[8], x[10]), sides(x[9], x[11]));
    let mut others = [x[0]; 2];
    for (half, others) in others.iter_mut().enumerate() {
        let order = _mm512_add_epi32(alternate, set1(8 * half as u32));
        let sum = load8(&nodes.value, at + 8 * half);
        let sum = _mm512_mask_add_epi64(sum, (t >> (8 * half)) as u8, sum, correction);
        let own = _mm512_add_epi64(sum, _mm512_permutex2var_epi32(low[0], order, high[0]));
        *others = _mm512_add_epi64(sum, _mm512_permutex2var_epi32(low[1], order, high[1]));
        store8(&mut nodes.value, at + 8 * half, own);
    }
    if split != 0 {
        let low = split as u8;
        store8(&mut nodes.value, end, _mm512_maskz_compress_epi64(low, others[0]));
        let end = end + low.count_ones() as usize;
        store8(&mut nodes.value, end, _mm512_maskz_compress_epi64((split >> 8) as u8, others[1]));
    }
    nodes.len += split.count_ones() as usize;
}

/// The children of 16 nodes in the order of their parents. Words of the two sides are dealt out alternately.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn grow(nodes: &Front, c: Correction, out: &mut [Front; 2]) {
    let seed = [load(&nodes.seed[0]), load(&nodes.seed[1]), load(&nodes.seed[2]), load(&nodes.seed[3])];
    let (x, t) = (blocks(&DPF, 0, &seed), load(&nodes.control));
    // Lane j of the left side is lane j, of the right side lane 16 + j.
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_add_epi32(low, set1(8));
    for i in 0..4 {
        let correction = _mm512_and_si512(t, set1(c.seed[i]));
        let (left, right) = (_mm512_xor_si512(x[i], correction), _mm512_xor_si512(x[4 + i], correction));
        store(&mut out[0].seed[i], _mm512_permutex2var_epi32(left, low, right));
        store(&mut out[1].seed[i], _mm512_permutex2var_epi32(left, high, right));
    }
    // Bit 31 is the left control bit, then the right one.
    let bits = _mm512_xor_si512(x[12], _mm512_and_si512(t, set1(c.controls)));
    let (left, right) = (_mm512_slli_epi32::<31>(bits), _mm512_slli_epi32::<30>(bits));
    let spread = |order| _mm512_srai_epi32::<31>(_mm512_permutex2var_epi32(left, order, right));
    store(&mut out[0].control, spread(low));
    store(&mut out[1].control, spread(high));
}

/// The two words of each of 16 leaves.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn leaves(nodes: &Front, last: [u64; 2], out: &mut [u64; 2 * NODES]) {
    let [a, b, c, d] =
        [load(&nodes.seed[0]), load(&nodes.seed[1]), load(&nodes.seed[2]), load(&nodes.seed[3])];
    let t = load(&nodes.control);
    let last = _mm512_broadcast_i32x4(_mm_set_epi64x(last[1] as i64, last[0] as i64));
    let (ab, cd) = (
        [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)],
        [_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)],
    );
    // y[j]: the two words of node 4q + j in 128-bit quarter q.
    let y = [
        (_mm512_unpacklo_epi64(ab[0], cd[0]), _mm512_shuffle_epi32::<0b00_00_00_00>(t)),
        (_mm512_unpackhi_epi64(ab[0], cd[0]), _mm512_shuffle_epi32::<0b01_01_01_01>(t)),
        (_mm512_unpacklo_epi64(ab[1], cd[1]), _mm512_shuffle_epi32::<0b10_10_10_10>(t)),
        (_mm512_unpackhi_epi64(ab[1], cd[1]), _mm512_shuffle_epi32::<0b11_11_11_11>(t)),
    ];
    let y = y.map(|(y, t)| _mm512_xor_si512(y, _mm512_and_si512(t, last)));
    // A transposition of 4 × 4 quarters.
    let p = [_mm512_shuffle_i32x4::<0x44>(y[0], y[1]), _mm512_shuffle_i32x4::<0xee>(y[0], y[1])];
    let q = [_mm512_shuffle_i32x4::<0x44>(y[2], y[3]), _mm512_shuffle_i32x4::<0xee>(y[2], y[3])];
    let rows = [
        _mm512_shuffle_i32x4::<0x88>(p[0], q[0]),
        _mm512_shuffle_i32x4::<0xdd>(p[0], q[0]),
        _mm512_shuffle_i32x4::<0x88>(p[1], q[1]),
        _mm512_shuffle_i32x4::<0xdd>(p[1], q[1]),
    ];
    for (out, row) in out.as_chunks_mut::<8>().0.iter_mut().zip(rows) {
        // SAFETY: `out` is 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), row) };
    }
}
