//! What the multiplier does when nothing keeps it waiting.

use std::arch::x86_64::*;
use std::hint::black_box;

/// Independent chains, as in the widest tile.
const CHAINS: usize = 16;

/// Multiplies registers `rounds` times; returns the number of products.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn multiply(rounds: usize) -> usize {
    let mut acc = [_mm512_set1_epi64(black_box(3)); CHAINS];
    let x = _mm512_set1_epi64(black_box(5));
    for _ in 0..rounds {
        for a in &mut acc {
            *a = _mm512_mullo_epi64(*a, x);
        }
    }
    black_box(acc.iter().map(|a| _mm512_reduce_add_epi64(*a)).fold(0, i64::wrapping_add));
    rounds * CHAINS * 8
}
