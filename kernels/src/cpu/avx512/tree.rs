//! Sixteen nodes of comparison or point function trees at once, a node in each 32-bit lane.

use super::super::lanes::{Correction, Expansion, Front, Key, NODES, Nodes, Plane};
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
fn blocks(domain: &[u32; 4], seed: &[__m512i; 4]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    let mut x = [zero; 16];
    for i in 0..4 {
        x[i] = set1(SIGMA[i]);
        x[4 + i] = seed[i];
        x[8 + i] = set1(domain[i]);
    }
    rounds(&mut x);
    for i in 0..4 {
        x[i] = _mm512_add_epi32(x[i], set1(SIGMA[i]));
        x[4 + i] = _mm512_add_epi32(x[4 + i], seed[i]);
        x[8 + i] = _mm512_add_epi32(x[8 + i], set1(domain[i]));
    }
    x
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn expand(domain: &[u32; 4], seed: &[Plane; 4], out: &mut Expansion) {
    let x = blocks(domain, &[load(&seed[0]), load(&seed[1]), load(&seed[2]), load(&seed[3])]);
    for (out, x) in out.iter_mut().zip(x) {
        store(out, x);
    }
}

/// Nodes in the 64-bit lanes of unpacklo(x, x) and unpackhi(x, x).
const ORDER: [[usize; 8]; 2] = [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]];

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn load8(w: [u64; 8]) -> __m512i {
    let w = w.map(|w| w as i64);
    _mm512_setr_epi64(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7])
}

/// [`Nodes`] in registers, the values in [`ORDER`].
#[derive(Clone, Copy)]
struct State {
    seed: [__m512i; 4],
    control: __m512i,
    value: [__m512i; 2],
}

/// One side of the blocks of 16 nodes: seed, halves of the value, control bit in bit 31.
struct Side {
    seed: [__m512i; 4],
    value: [__m512i; 2],
    control: __m512i,
}

impl State {
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    fn load(nodes: &Nodes) -> State {
        let seed = [load(&nodes.seed[0]), load(&nodes.seed[1]), load(&nodes.seed[2]), load(&nodes.seed[3])];
        let value =
            [load8(ORDER[0].map(|lane| nodes.value[lane])), load8(ORDER[1].map(|lane| nodes.value[lane]))];
        State { seed, control: load(&nodes.control), value }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    fn store(self, nodes: &mut Nodes) {
        for (plane, s) in nodes.seed.iter_mut().zip(self.seed) {
            store(plane, s);
        }
        store(&mut nodes.control, self.control);
        for (order, value) in ORDER.iter().zip(self.value) {
            let mut words = [0u64; 8];
            // SAFETY: `words` is 64 bytes.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), value) };
            order.iter().zip(words).for_each(|(&lane, w)| nodes.value[lane] = w);
        }
    }

    /// The children on `side`, corrected where the control bit is set. `controls` are the corrections of the
    /// control bits, spread.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    fn child(&self, side: Side, controls: __m512i, level: usize, key: Key<'_>) -> State {
        let t = self.control;
        let mut seed = side.seed;
        for (i, s) in seed.iter_mut().enumerate() {
            let correction = set1((key.seeds[2 * level + i / 2] >> (32 * (i % 2))) as u32);
            *s = _mm512_ternarylogic_epi32::<0x78>(*s, t, correction); // s ^ (t & correction)
        }
        let correction = _mm512_set1_epi64(key.values[level] as i64);
        let [low, high] = side.value;
        let corrected = |v, t| _mm512_add_epi64(v, _mm512_and_si512(t, correction));
        let value = [
            corrected(_mm512_unpacklo_epi32(low, high), _mm512_unpacklo_epi32(t, t)),
            corrected(_mm512_unpackhi_epi32(low, high), _mm512_unpackhi_epi32(t, t)),
        ];
        State {
            seed,
            control: _mm512_ternarylogic_epi32::<0x78>(_mm512_srai_epi32::<31>(side.control), t, controls),
            value: [_mm512_add_epi64(self.value[0], value[0]), _mm512_add_epi64(self.value[1], value[1])],
        }
    }
}

/// Correction of the left (0) or right (1) control bit, spread.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn spread(key: Key<'_>, level: usize, side: u32) -> __m512i {
    set1((key.controls[level] >> side & 1).wrapping_neg() as u32)
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn children(nodes: &Nodes, level: u32, key: Key<'_>, out: &mut [Nodes; 2]) {
    let level = level as usize;
    let state = State::load(nodes);
    let x = blocks(&DCF, &state.seed);
    let left =
        Side { seed: [x[0], x[1], x[2], x[3]], value: [x[8], x[9]], control: _mm512_slli_epi32::<31>(x[12]) };
    let right = Side {
        seed: [x[4], x[5], x[6], x[7]],
        value: [x[10], x[11]],
        control: _mm512_slli_epi32::<30>(x[12]),
    };
    state.child(left, spread(key, level, 0), level, key).store(&mut out[0]);
    state.child(right, spread(key, level, 1), level, key).store(&mut out[1]);
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn descend(nodes: &mut Nodes, level: u32, points: &[u64; NODES], key: Key<'_>) {
    let mut state = State::load(nodes);
    let low = load8(std::array::from_fn(|i| points[i]));
    let high = load8(std::array::from_fn(|i| points[8 + i]));
    for level in level..key.bits {
        let bit = _mm512_set1_epi64(1 << (key.bits - 1 - level));
        let right = _mm512_test_epi64_mask(low, bit) as u16 | (_mm512_test_epi64_mask(high, bit) as u16) << 8;
        let level = level as usize;
        let x = blocks(&DCF, &state.seed);
        let pick = |l, r| _mm512_mask_blend_epi32(right, l, r);
        let side = Side {
            seed: [pick(x[0], x[4]), pick(x[1], x[5]), pick(x[2], x[6]), pick(x[3], x[7])],
            value: [pick(x[8], x[10]), pick(x[9], x[11])],
            control: pick(_mm512_slli_epi32::<31>(x[12]), _mm512_slli_epi32::<30>(x[12])),
        };
        let controls = pick(spread(key, level, 0), spread(key, level, 1));
        state = state.child(side, controls, level, key);
    }
    state.store(nodes);
}

/// The children of 16 nodes in the order of their parents. Words of the two sides are dealt out alternately.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn grow(nodes: &Front, c: Correction, out: &mut [Front; 2]) {
    let seed = [load(&nodes.seed[0]), load(&nodes.seed[1]), load(&nodes.seed[2]), load(&nodes.seed[3])];
    let (x, t) = (blocks(&DPF, &seed), load(&nodes.control));
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

/// The two points' shares below each of 16 nodes.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn leaves(nodes: &Front, last: [u64; 2], minus: bool, out: &mut [u64; 2 * NODES]) {
    let [a, b, c, d] =
        [load(&nodes.seed[0]), load(&nodes.seed[1]), load(&nodes.seed[2]), load(&nodes.seed[3])];
    let t = load(&nodes.control);
    let last = _mm512_broadcast_i32x4(_mm_set_epi64x(last[1] as i64, last[0] as i64));
    let minus = _mm512_set1_epi64(-i64::from(minus));
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
    let y = y.map(|(y, t)| {
        let v = _mm512_add_epi64(y, _mm512_and_si512(t, last));
        _mm512_sub_epi64(_mm512_xor_si512(v, minus), minus)
    });
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
