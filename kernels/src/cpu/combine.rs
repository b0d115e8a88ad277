//! Random combinations of rows of bits.

use super::bits::Row;
use super::elementwise::check_segments;
use super::lanes::Lanes;
use super::par;
use crate::backend::coin_words;
use crate::buffer;
use crate::indices::Segments;

/// Planes that are made together, with their sums in registers.
pub(super) const PLANES: usize = 24;

/// A word of each of these planes.
pub(super) type Sums = [u64; PLANES];

/// Segments that one task combines.
const SEGMENTS: usize = 16;

/// The rows of a segment and the words of them that one sum needs.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    /// Rows of bits.
    pub(super) u: &'a [u64],
    /// Words of each.
    pub(super) words: usize,
    /// Their coins.
    pub(super) coins: &'a [u64],
    /// Words of each.
    pub(super) length: usize,
    /// The word of a row that is combined.
    pub(super) word: usize,
    /// Where the coins of that word's first bit and of the first plane begin: q, and p.
    pub(super) places: [usize; 2],
}

pub(super) fn random_combinations(
    lanes: &dyn Lanes,
    u: &[u64],
    coins: &[u64],
    width: usize,
    planes: usize,
    offsets: &Segments,
) -> Vec<u64> {
    let (row, length) = (Row::new(width), coin_words(width, planes));
    let (words, rows) = (row.words, row.count(u.len()));
    assert_eq!(coins.len(), rows * length, "coins for each row");
    check_segments(offsets, rows);
    let size = planes * words;
    let mut out = buffer::zeroed(offsets.count() * size);
    // A word's planes take about as long as eight words from memory.
    par::chunks_if(8 * u.len() >= par::WORDS, &mut out, SEGMENTS * size, |c, out| {
        for (j, out) in out.chunks_exact_mut(size).enumerate() {
            let rows = offsets.get(c * SEGMENTS + j);
            let u = &u[rows.start * words..rows.end * words];
            let coins = &coins[rows.start * length..rows.end * length];
            for word in 0..words {
                for first in (0..planes).step_by(PLANES) {
                    let places = [64 * word + first, width + planes + first];
                    let sums = lanes.combine(&Part { u, words, coins, length, word, places });
                    for (plane, sum) in (first..planes).zip(sums) {
                        out[plane * words + word] = sum & row.mask(word);
                    }
                }
            }
        }
    });
    out
}

/// 64 bits of a row from bit `at` on; those beyond it are zero.
#[inline(always)]
pub(super) fn bits_from(row: &[u64], at: usize) -> u64 {
    let word = |i: usize| row.get(i).copied().unwrap_or(0);
    word(at / 64) >> (at % 64) | word(at / 64 + 1) << 1 << (63 - at % 64)
}

/// For each plane, the xor of the rows' words under their coins.
#[inline(always)]
pub(super) fn combine(part: &Part<'_>) -> Sums {
    let Part { u, words, coins, length, word, places: [q, p] } = *part;
    let mut sums = [0; PLANES];
    for (u, coins) in u.chunks_exact(words).zip(coins.chunks_exact(length)) {
        let u = u[word];
        let [low, high, p] = [q, q + 64, p].map(|at| bits_from(coins, at));
        for (j, sum) in sums.iter_mut().enumerate() {
            let window = low >> j | high << 1 << (63 - j);
            *sum ^= u & window ^ if p & (1 << j) == 0 { 0 } else { u };
        }
    }
    sums
}
