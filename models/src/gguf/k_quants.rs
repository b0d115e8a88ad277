//! Blocks with 5-bit weights and ggml's "K" super-blocks of 256 weights, in ggml's own order of
//! operations (all in f32), so that results are the same bit for bit.
//!
//! A super-block has one or two f16 numbers and, for each sub-block of 16 or 32 weights, a small
//! integer that scales them: weight = d·s·q, or d·s·q − m·t where the sub-block has a minimum.
//! Layouts: `ggml-common.h` and `dequantize_row_*` in `ggml-quants.c` of llama.cpp.

use super::dequantise::f16_to_f32;

fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// d:f16, 32 high bits, 32 nibbles. Weight = d·(q − 16).
pub(super) fn q5_0(block: &[u8; 22], out: &mut Vec<f32>) {
    let d = half(block, 0);
    out.extend(five_bits(&block[2..]).map(|q| (f32::from(q) - 16.0) * d));
}

/// d:f16, m:f16, 32 high bits, 32 nibbles. Weight = d·q + m.
pub(super) fn q5_1(block: &[u8; 24], out: &mut Vec<f32>) {
    let (d, m) = (half(block, 0), half(block, 2));
    out.extend(five_bits(&block[4..]).map(|q| f32::from(q) * d + m));
}

/// The 32 integers of 4 bytes of high bits and 16 bytes of nibbles, all low nibbles first.
fn five_bits(block: &[u8]) -> impl Iterator<Item = u8> {
    (0..32).map(|i| {
        let high = block[i / 8] >> (i % 8) & 1;
        let low = if i < 16 { block[4 + i] & 15 } else { block[4 + i - 16] >> 4 };
        low | high << 4
    })
}

/// 16 × (s:4, t:4 bits), 256 × 2 bits, d:f16, m:f16; sub-blocks of 16.
pub(super) fn q2_k(block: &[u8; 84], out: &mut Vec<f32>) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, m) = (half(block, 80), half(block, 82));
    for (sub, scale) in scales.iter().enumerate() {
        let (s, t) = (d * f32::from(scale & 15), m * f32::from(scale >> 4));
        out.extend(two_bits(qs, sub).map(|q| s * f32::from(q) - t));
    }
}

/// 256 high bits, 256 × 2 bits, 16 × 6 bits of scales less 32, d:f16; sub-blocks of 16.
/// A weight whose high bit is not set is less by 4.
pub(super) fn q3_k(block: &[u8; 110], out: &mut Vec<f32>) {
    let (high, qs, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for sub in 0..16 {
        let low = packed[sub % 8] >> (4 * (sub / 8)) & 15;
        let top = packed[8 + sub % 4] >> (2 * (sub / 4)) & 3;
        let s = d * (f32::from(low | top << 4) - 32.0);
        let bits = &high[sub % 2 * 16..][..16];
        out.extend(two_bits(qs, sub).zip(bits).map(|(q, bits)| {
            let less = if bits >> (sub / 2) & 1 == 1 { 0.0 } else { 4.0 };
            s * (f32::from(q) - less)
        }));
    }
}

/// The 16 two-bit integers of a sub-block: each half of 128 weights takes 32 bytes, which hold four
/// runs of 32 weights in their four pairs of bits.
fn two_bits(qs: &[u8], sub: usize) -> impl Iterator<Item = u8> {
    let bytes = &qs[sub / 8 * 32 + sub % 2 * 16..][..16];
    bytes.iter().map(move |q| q >> (2 * (sub % 8 / 2)) & 3)
}

/// d:f16, m:f16, 8 × (s:6, t:6 bits), 256 nibbles; sub-blocks of 32.
pub(super) fn q4_k(block: &[u8; 144], out: &mut Vec<f32>) {
    let (d, m) = (half(block, 0), half(block, 2));
    for sub in 0..8 {
        let (s, t) = six_bit_scales(&block[4..16], sub);
        let (s, t) = (d * f32::from(s), m * f32::from(t));
        let nibbles = &block[16 + sub / 2 * 32..][..32];
        out.extend(nibbles.iter().map(|q| s * f32::from(q >> (4 * (sub % 2)) & 15) - t));
    }
}

/// As Q4_K, with 256 high bits before the nibbles: bit `sub` of byte i is that of weight i.
pub(super) fn q5_k(block: &[u8; 176], out: &mut Vec<f32>) {
    let (d, m) = (half(block, 0), half(block, 2));
    let high = &block[16..48];
    for sub in 0..8 {
        let (s, t) = six_bit_scales(&block[4..16], sub);
        let (s, t) = (d * f32::from(s), m * f32::from(t));
        let nibbles = &block[48 + sub / 2 * 32..][..32];
        out.extend(nibbles.iter().zip(high).map(|(q, high)| {
            let q = (q >> (4 * (sub % 2)) & 15) | (high >> sub & 1) << 4;
            s * f32::from(q) - t
        }));
    }
}

/// Scale and minimum of a sub-block: the first four lie in the low six bits of bytes 0-3 and 4-7, the
/// other four in the nibbles of bytes 8-11 with their upper two bits on top of the first ones.
fn six_bit_scales(packed: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let nibbles = packed[sub + 4];
        (nibbles & 15 | packed[sub - 4] >> 6 << 4, nibbles >> 4 | packed[sub] >> 6 << 4)
    }
}

/// 256 nibbles, 256 × 2 high bits, 16 × s:i8, d:f16; sub-blocks of 16. Weight = d·s·(q − 32).
pub(super) fn q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (sub, scale) in scales.iter().enumerate() {
        let s = d * f32::from(scale.cast_signed());
        // Each half of 128 weights: 64 bytes of nibbles, all low ones first; 32 bytes of high bits in
        // four runs of 32.
        let (part, run, odd) = (sub / 8, sub % 8 / 2, sub % 2 * 16);
        let low = &low[part * 64 + run % 2 * 32 + odd..][..16];
        let high = &high[part * 32 + odd..][..16];
        out.extend(low.iter().zip(high).map(|(l, h)| {
            let q = (l >> (4 * (run / 2)) & 15) | (h >> (2 * run) & 3) << 4;
            s * (f32::from(q) - 32.0)
        }));
    }
}
