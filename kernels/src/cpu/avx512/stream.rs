//! ChaCha12: sixteen blocks in the lanes of sixteen vectors.

use crate::cpu::scalar::{self, SIGMA, key_words};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn cut(stream: &[u64], cell: usize, mask: u64, out: &mut [u64]) {
    if cell > 8 {
        return scalar::cut(stream, cell, mask, out);
    }
    let mask = _mm512_set1_epi64(mask as i64);
    // Where eight cells begin, and how far on the next eight are.
    let places =
        _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(cell as i64));
    let next = _mm_cvtsi64_si128(8 * cell as i64);
    for (word, out) in stream.iter().zip(out.chunks_mut(64 / cell)) {
        let mut x = _mm512_srlv_epi64(_mm512_set1_epi64(*word as i64), places);
        let (whole, rest) = out.as_chunks_mut::<8>();
        for out in whole {
            // SAFETY: `out` is 64 bytes.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_and_si512(x, mask)) };
            x = _mm512_srl_epi64(x, next);
        }
        if !rest.is_empty() {
            let keep = u8::MAX >> (8 - rest.len());
            // SAFETY: the mask keeps the store inside `rest`.
            unsafe { _mm512_mask_storeu_epi64(rest.as_mut_ptr().cast(), keep, _mm512_and_si512(x, mask)) };
        }
    }
}

/// The twelve rounds of N groups of blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn rounds<const N: usize>(x: &mut [[__m512i; 16]; N]) {
    /// One step of four quarter rounds: x[a] += x[b], x[d] = (x[d] ^ x[a]) <<< r.
    macro_rules! step {
        ($r:literal: $($a:literal $b:literal $d:literal),*) => {
            $(for x in x.iter_mut() { x[$a] = _mm512_add_epi32(x[$a], x[$b]); })*
            $(for x in x.iter_mut() { x[$d] = _mm512_xor_si512(x[$d], x[$a]); })*
            $(for x in x.iter_mut() { x[$d] = _mm512_rol_epi32::<$r>(x[$d]); })*
        };
    }
    // The four are interleaved because each of them is one chain of dependent instructions, and so are groups: where an
    // instruction takes two cycles, four chains do not keep a core busy.
    for _ in 0..6 {
        step!(16: 0 4 12, 1 5 13, 2 6 14, 3 7 15);
        step!(12: 8 12 4, 9 13 5, 10 14 6, 11 15 7);
        step!(8: 0 4 12, 1 5 13, 2 6 14, 3 7 15);
        step!(7: 8 12 4, 9 13 5, 10 14 6, 11 15 7);
        step!(16: 0 5 15, 1 6 12, 2 7 13, 3 4 14);
        step!(12: 10 15 5, 11 12 6, 8 13 7, 9 14 4);
        step!(8: 0 5 15, 1 6 12, 2 7 13, 3 4 14);
        step!(7: 10 15 5, 11 12 6, 8 13 7, 9 14 4);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn set1(x: u32) -> __m512i {
    _mm512_set1_epi32(x as i32)
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn chacha12(key: &[u8; 32], nonce: u64, first: u64, mask: u64, out: &mut [u64]) {
    let (key, mut counter) = (key_words(key), first);
    let mut pairs = out.chunks_exact_mut(2 * GROUP);
    for words in &mut pairs {
        groups::<2>(&key, nonce, counter, mask, words);
        counter += 32;
    }
    for words in pairs.into_remainder().chunks_mut(GROUP) {
        groups::<1>(&key, nonce, counter, mask, words);
        counter += 16;
    }
}

/// Words of 16 blocks.
const GROUP: usize = 128;

/// At most N groups of blocks, from a multiple of 16 on: the low half of the counter does not overflow within a group.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn groups<const N: usize>(key: &[u32; 8], nonce: u64, first: u64, mask: u64, out: &mut [u64]) {
    let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mask = _mm512_set1_epi64(mask as i64);
    // Word i of the group's blocks before the rounds.
    let start = |group: usize, i: usize| {
        let counter = first + 16 * group as u64;
        match i {
            0..4 => set1(SIGMA[i]),
            4..12 => set1(key[i - 4]),
            12 => _mm512_add_epi32(set1(counter as u32), lane),
            13 => set1((counter >> 32) as u32),
            14 => set1(nonce as u32),
            _ => set1((nonce >> 32) as u32),
        }
    };
    let mut all: [[__m512i; 16]; N] = std::array::from_fn(|group| std::array::from_fn(|i| start(group, i)));
    rounds(&mut all);
    for (group, (x, words)) in all.iter_mut().zip(out.chunks_mut(GROUP)).enumerate() {
        for (i, x) in x.iter_mut().enumerate() {
            *x = _mm512_add_epi32(*x, start(group, i));
        }
        let blocks = transposed(x);
        if let Ok(words) = <&mut [u64; GROUP]>::try_from(&mut *words) {
            for (words, x) in words.as_chunks_mut::<8>().0.iter_mut().zip(blocks) {
                // SAFETY: `words` is 64 bytes.
                unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), _mm512_and_si512(x, mask)) };
            }
        } else {
            for (words, x) in words.chunks_mut(8).zip(blocks) {
                let keep = u8::MAX >> (8 - words.len());
                // SAFETY: the mask keeps the store inside `words`.
                unsafe {
                    _mm512_mask_storeu_epi64(words.as_mut_ptr().cast(), keep, _mm512_and_si512(x, mask))
                };
            }
        }
    }
}

/// From one vector for each word of a block to one vector for each block.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn transposed(x: &[__m512i; 16]) -> [__m512i; 16] {
    // Within each 128-bit quarter q: y[i][j] holds words 4i..4i + 4 of block 4q + j.
    let y = [0, 4, 8, 12].map(|i| {
        let (a, b) = (_mm512_unpacklo_epi32(x[i], x[i + 1]), _mm512_unpackhi_epi32(x[i], x[i + 1]));
        let (c, d) = (_mm512_unpacklo_epi32(x[i + 2], x[i + 3]), _mm512_unpackhi_epi32(x[i + 2], x[i + 3]));
        [
            _mm512_unpacklo_epi64(a, c),
            _mm512_unpackhi_epi64(a, c),
            _mm512_unpacklo_epi64(b, d),
            _mm512_unpackhi_epi64(b, d),
        ]
    });
    // Then a transposition of 4 × 4 quarters for each j.
    let z = [0, 1, 2, 3].map(|j| {
        let a = _mm512_shuffle_i32x4::<0x44>(y[0][j], y[1][j]); // 0.q0 0.q1 1.q0 1.q1
        let b = _mm512_shuffle_i32x4::<0xee>(y[0][j], y[1][j]); // 0.q2 0.q3 1.q2 1.q3
        let c = _mm512_shuffle_i32x4::<0x44>(y[2][j], y[3][j]);
        let d = _mm512_shuffle_i32x4::<0xee>(y[2][j], y[3][j]);
        [
            _mm512_shuffle_i32x4::<0x88>(a, c),
            _mm512_shuffle_i32x4::<0xdd>(a, c),
            _mm512_shuffle_i32x4::<0x88>(b, d),
            _mm512_shuffle_i32x4::<0xdd>(b, d),
        ]
    });
    std::array::from_fn(|block| z[block % 4][block / 4])
}
