//! Sixteen nodes of comparison or point function trees at once, a node in each 32-bit lane.

use super::super::dcf::{CHILDREN, OUTPUTS};
use super::super::lanes::{Answers, Correction, Expansion, Front, NODES, Nodes, Plane, Step};
use super::super::scalar::{DCF, DPF, SIGMA};
use super::stream::{rounds, set1};
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

/// The blocks of N times 16 nodes; words 13 and above are not finished.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn blocks<const N: usize>(domain: &[u32; 4], block: u32, seeds: &[[__m512i; 4]; N]) -> [[__m512i; 16]; N] {
    let mut all = [[_mm512_setzero_si512(); 16]; N];
    for (x, seed) in all.iter_mut().zip(seeds) {
        for i in 0..4 {
            x[i] = set1(SIGMA[i]);
            x[4 + i] = seed[i];
            x[8 + i] = set1(domain[i]);
        }
        x[12] = set1(block);
    }
    rounds(&mut all);
    for (x, seed) in all.iter_mut().zip(seeds) {
        for i in 0..4 {
            x[i] = _mm512_add_epi32(x[i], set1(SIGMA[i]));
            x[4 + i] = _mm512_add_epi32(x[4 + i], seed[i]);
            x[8 + i] = _mm512_add_epi32(x[8 + i], set1(domain[i]));
        }
        x[12] = _mm512_add_epi32(x[12], set1(block));
    }
    all
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn expand(domain: &[u32; 4], block: u32, seed: &[Plane; 4], out: &mut Expansion) {
    let [x] = blocks(domain, block, &[[0, 1, 2, 3].map(|i| load(&seed[i]))]);
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

/// The seeds of N times 16 nodes from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn seeds<const N: usize>(nodes: &Nodes, at: usize) -> [[__m512i; 4]; N] {
    let mut seeds = [[_mm512_setzero_si512(); 4]; N];
    for (group, seed) in seeds.iter_mut().enumerate() {
        for (seed, plane) in seed.iter_mut().zip(&nodes.seed) {
            *seed = load16(plane, at + NODES * group);
        }
    }
    seeds
}

/// Places to take the low and the high words of 8 values from, alternately: those of lanes 8·half and after.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn alternate(half: usize) -> __m512i {
    let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    _mm512_add_epi32(first, set1(8 * half as u32))
}

/// The word of each leader's tree: a permutation looks at the low four bits of an index only.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn of_trees(leader: __m512i, words: __m512i) -> __m512i {
    _mm512_permutexvar_epi32(leader, words)
}

/// The same of 64-bit words, for half of the leaders.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn of_trees64(leader: __m512i, half: usize, words: &[u64; NODES]) -> __m512i {
    let leaders =
        if half == 0 { _mm512_castsi512_si256(leader) } else { _mm512_extracti64x4_epi64::<1>(leader) };
    _mm512_permutex2var_epi64(load8(words, 0), _mm512_cvtepu32_epi64(leaders), load8(words, 8))
}

/// What becomes of 16 nodes: the children on one side.
#[derive(Clone, Copy)]
struct Side {
    seed: [__m512i; 4],
    control: __m512i,
    value: [__m512i; 2],
}

/// All 16·N nodes from `at` on go to the children on the side of their paths; the other children of those in `split` are
/// packed behind the last node.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn advance<const N: usize>(nodes: &mut Nodes, at: usize, split: u32, step: &Step) {
    let x = blocks(&DCF, CHILDREN, &seeds::<N>(nodes, at));
    let zero = _mm512_setzero_si512();
    let mut others = [Side { seed: [zero; 4], control: zero, value: [zero; 2] }; N];
    for group in 0..N {
        others[group] = descend(nodes, at + NODES * group, &x[group], step);
    }
    // Behind the last node only now: whole planes were written up to here.
    for (group, other) in others.iter().enumerate() {
        let (split, mut end) = ((split >> (NODES * group)) as u16, nodes.len);
        if split == 0 {
            continue;
        }
        for i in 0..4 {
            store16(&mut nodes.seed[i], end, _mm512_maskz_compress_epi32(split, other.seed[i]));
        }
        store16(&mut nodes.control, end, _mm512_maskz_compress_epi32(split, other.control));
        nodes.len += split.count_ones() as usize;
        for half in 0..2 {
            let split = (split >> (8 * half)) as u8;
            store8(&mut nodes.value, end, _mm512_maskz_compress_epi64(split, other.value[half]));
            end += split.count_ones() as usize;
        }
    }
}

/// Replaces 16 nodes from `at` on, whose blocks are `x`, by the children on the side of their paths; the other children are
/// returned.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn descend(nodes: &mut Nodes, at: usize, x: &[__m512i; 16], step: &Step) -> Side {
    let bit = _mm512_set1_epi64(1 << step.bit);
    let right = u16::from(_mm512_test_epi64_mask(load8(&nodes.path, at), bit))
        | u16::from(_mm512_test_epi64_mask(load8(&nodes.path, at + 8), bit)) << 8;
    // Both sides of the tree: ours, and the other one.
    let sides = |left, r| (_mm512_mask_blend_epi32(right, left, r), _mm512_mask_blend_epi32(right, r, left));
    let t = _mm512_movepi32_mask(load16(&nodes.control, at));
    let leader = load16(&nodes.leader, at);
    let mut other = Side { seed: [x[0]; 4], control: x[0], value: [x[0]; 2] };
    for i in 0..4 {
        let correction = of_trees(leader, load(&step.seed[i]));
        let (ours, others) = sides(x[i], x[4 + i]);
        store16(&mut nodes.seed[i], at, _mm512_mask_xor_epi32(ours, t, ours, correction));
        other.seed[i] = _mm512_mask_xor_epi32(others, t, others, correction);
    }
    let corrected = _mm512_mask_xor_epi32(x[12], t, x[12], of_trees(leader, load(&step.control)));
    let control = |side: u32| _mm512_movm_epi32(_mm512_test_epi32_mask(corrected, set1(1 << side)));
    let (ours, others) = sides(control(0), control(1));
    store16(&mut nodes.control, at, ours);
    other.control = others;
    let (low, high) = (sides(x[8], x[10]), sides(x[9], x[11]));
    for half in 0..2 {
        let (order, at) = (alternate(half), at + 8 * half);
        let sum = load8(&nodes.value, at);
        let correction = of_trees64(leader, half, &step.value);
        let sum = _mm512_mask_add_epi64(sum, (t >> (8 * half)) as u8, sum, correction);
        let ours = _mm512_add_epi64(sum, _mm512_permutex2var_epi32(low.0, order, high.0));
        store8(&mut nodes.value, at, ours);
        other.value[half] = _mm512_add_epi64(sum, _mm512_permutex2var_epi32(low.1, order, high.1));
    }
    other
}

/// See [`Lanes::answers`](super::Lanes::answers), for 16·N nodes.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn answers<const N: usize>(
    nodes: &Nodes,
    at: usize,
    corrections: &[[u64; NODES]; 4],
    out: &mut Answers,
) {
    let x = blocks(&DCF, OUTPUTS, &seeds::<N>(nodes, at));
    for group in 0..N {
        let (x, at) = (&x[group], at + NODES * group);
        let t = _mm512_movepi32_mask(load16(&nodes.control, at));
        let leader = load16(&nodes.leader, at);
        for half in 0..2 {
            let (t, value) = ((t >> (8 * half)) as u8, load8(&nodes.value, at + 8 * half));
            for word in 0..4 {
                let output = _mm512_permutex2var_epi32(x[2 * word], alternate(half), x[2 * word + 1]);
                let sum = _mm512_add_epi64(value, output);
                let correction = of_trees64(leader, half, &corrections[word]);
                let sum = _mm512_mask_add_epi64(sum, t, sum, correction);
                store8(&mut out[word], at + 8 * half, sum);
            }
        }
    }
}

/// See [`Lanes::part`](super::Lanes::part).
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn part(nodes: &mut Nodes, first: u32, leaving: &mut Nodes) {
    let (len, first) = (nodes.len, set1(first));
    (nodes.len, leaving.len) = (0, 0);
    for at in (0..len).step_by(NODES) {
        let all = u16::MAX >> (NODES - NODES.min(len - at));
        let leader = load16(&nodes.leader, at);
        let stays = _mm512_mask_cmplt_epu32_mask(all, leader, first);
        let seed: [__m512i; 4] = [0, 1, 2, 3].map(|i| load16(&nodes.seed[i], at));
        let control = load16(&nodes.control, at);
        let halves = [at, at + NODES / 2];
        let (value, path) =
            (halves.map(|at| load8(&nodes.value, at)), halves.map(|at| load8(&nodes.path, at)));
        let pack = |to: &mut Nodes, chosen: u16, path: Option<[__m512i; 2]>| {
            let end = to.len;
            for (plane, seed) in to.seed.iter_mut().zip(seed) {
                store16(plane, end, _mm512_maskz_compress_epi32(chosen, seed));
            }
            store16(&mut to.control, end, _mm512_maskz_compress_epi32(chosen, control));
            store16(&mut to.leader, end, _mm512_maskz_compress_epi32(chosen, leader));
            let low = end + (chosen & 0xff).count_ones() as usize;
            for (half, end) in [end, low].into_iter().enumerate() {
                let chosen = (chosen >> (8 * half)) as u8;
                store8(&mut to.value, end, _mm512_maskz_compress_epi64(chosen, value[half]));
                if let Some(path) = path {
                    store8(&mut to.path, end, _mm512_maskz_compress_epi64(chosen, path[half]));
                }
            }
            to.len = end + chosen.count_ones() as usize;
        };
        pack(nodes, stays, Some(path));
        pack(leaving, all & !stays, None);
    }
}

/// The children of 16 nodes in the order of their parents. Words of the two sides are dealt out alternately.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn grow(nodes: &Front, c: Correction, out: &mut [Front; 2]) {
    let [x] = blocks(&DPF, 0, &[[0, 1, 2, 3].map(|i| load(&nodes.seed[i]))]);
    let t = load(&nodes.control);
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
