//! Rows of bits. Bits at and beyond `width` in the last word of a row are ignored, and zero in results.

use super::par;
use crate::buffer;

/// Words of a row, and the bits of its last word that count.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) words: usize,
    last: u64,
}

impl Row {
    pub(super) fn new(width: usize) -> Row {
        assert!(width > 0, "rows without bits");
        Row { words: width.div_ceil(64), last: u64::MAX >> ((64 - width % 64) % 64) }
    }

    /// Number of rows in `len` words.
    pub(super) fn count(self, len: usize) -> usize {
        assert!(len.is_multiple_of(self.words), "{len} words are no whole rows of {}", self.words);
        len / self.words
    }

    /// The bits of word `i` of a row that count.
    pub(super) fn mask(self, i: usize) -> u64 {
        if i + 1 == self.words { self.last } else { u64::MAX }
    }

    /// Word `i` of a row, without what is beyond the width.
    fn word(self, row: &[u64], i: usize) -> u64 {
        row[i] & self.mask(i)
    }
}

/// `idx` mod `width`, as word and bit.
fn position(idx: u64, width: usize) -> (usize, u32) {
    let i = if width.is_power_of_two() { idx & (width as u64 - 1) } else { idx % width as u64 };
    ((i / 64) as usize, (i % 64) as u32)
}

pub(super) fn flip_bit(u: &mut [u64], width: usize, idx: &[u64]) {
    let row = Row::new(width);
    assert_eq!(row.count(u.len()), idx.len(), "one index for each row");
    for (u, &i) in u.chunks_exact_mut(row.words).zip(idx) {
        let (word, bit) = position(i, width);
        u[word] ^= 1 << bit;
    }
}

pub(super) fn bit_at(u: &[u64], width: usize, idx: &[u64]) -> Vec<u64> {
    let row = Row::new(width);
    assert_eq!(row.count(u.len()), idx.len(), "one index for each row");
    let bit = |(u, &i): (&[u64], &u64)| {
        let (word, bit) = position(i, width);
        u[word] >> bit & 1
    };
    let mut out = buffer::unwritten(idx.len());
    out.iter_mut().zip(u.chunks_exact(row.words).zip(idx)).for_each(|(out, at)| *out = bit(at));
    out
}

pub(super) fn count_bits(u: &[u64], width: usize) -> Vec<u64> {
    let row = Row::new(width);
    let ones = |u: &[u64]| (0..row.words).map(|i| u64::from(row.word(u, i).count_ones())).sum();
    let mut out = buffer::unwritten(row.count(u.len()));
    out.iter_mut().zip(u.chunks_exact(row.words)).for_each(|(out, u)| *out = ones(u));
    out
}

pub(super) fn rotate_bits(u: &[u64], width: usize, rot: &[u64]) -> Vec<u64> {
    assert!(width.is_power_of_two(), "rows of {width} bits cannot be rotated");
    let row = Row::new(width);
    assert_eq!(row.count(u.len()), rot.len(), "one rotation for each row");
    let mut out = buffer::unwritten(u.len());
    let rows = 1024;
    par::chunks(&mut out, rows * row.words, |c, out| {
        for (j, out) in out.chunks_exact_mut(row.words).enumerate() {
            let e = c * rows + j;
            rotate(&u[e * row.words..][..row.words], width, rot[e], out);
        }
    });
    out
}

/// Moves bit j of a row to bit (j + rot) mod width, a power of two. Both rows have as many words.
#[inline(always)]
pub(super) fn rotate(u: &[u64], width: usize, rot: u64, out: &mut [u64]) {
    let (words, bits) = position(rot, width);
    let n = out.len();
    if n == 1 {
        let mask = u64::MAX >> (64 - width);
        let x = u[0] & mask;
        // Zero bits: x >> width would be x again, or an overflow at width 64.
        let wrapped = if bits == 0 { 0 } else { x >> (width as u32 - bits) };
        out[0] = (x << bits | wrapped) & mask;
        return;
    }
    // The words from `words` on are the row's first ones.
    let (head, tail) = out.split_at_mut(words);
    let shifted = |(below, x): (&u64, &u64)| x << bits | below >> 1 >> (63 - bits);
    let split = n - words;
    if let Some(first) = tail.first_mut() {
        *first = shifted((&u[n - 1], &u[0]));
    }
    tail[1..].iter_mut().zip(u.iter().zip(&u[1..split])).for_each(|(o, p)| *o = shifted(p));
    head.iter_mut().zip(u[split - 1..].iter().zip(&u[split..])).for_each(|(o, p)| *o = shifted(p));
}

pub(super) fn suffix_xor(u: &[u64], width: usize) -> Vec<u64> {
    let row = Row::new(width);
    row.count(u.len());
    let mut out = buffer::concat(&[u]);
    par::chunks(&mut out, 1024 * row.words, |_, out| {
        for out in out.chunks_exact_mut(row.words) {
            let mut above = 0u64;
            for i in (0..row.words).rev() {
                let mut x = row.word(out, i);
                for s in [1, 2, 4, 8, 16, 32] {
                    x ^= x >> s;
                }
                x ^= above;
                if i + 1 == row.words {
                    x &= row.last;
                }
                above = (x & 1).wrapping_neg();
                out[i] = x;
            }
        }
    });
    out
}

pub(super) fn transpose_bits(
    planes: &[u64],
    width: usize,
    total: usize,
    first: usize,
    count: usize,
) -> Vec<u64> {
    let row = Row::new(width);
    assert!(total > 0, "rows without planes");
    assert!(count <= 64 && first + count <= total, "planes {first}..{} of {total}", first + count);
    let size = total * row.words;
    assert!(planes.len().is_multiple_of(size), "whole rows of {total} planes");
    let mut out = buffer::unwritten(planes.len() / size * width);
    let rows = 16;
    par::chunks(&mut out, rows * width, |c, out| {
        for (j, out) in out.chunks_exact_mut(width).enumerate() {
            let planes = &planes[(c * rows + j) * size..][first * row.words..];
            for (w, out) in out.chunks_mut(64).enumerate() {
                let mut square = [0u64; 64];
                for (b, s) in square.iter_mut().enumerate().take(count) {
                    *s = planes[b * row.words + w];
                }
                transpose(&mut square);
                out.copy_from_slice(&square[..out.len()]);
            }
        }
    });
    out
}

/// Exchanges bit j of word i with bit i of word j.
fn transpose(a: &mut [u64; 64]) {
    let mut size = 32;
    let mut mask = u64::MAX >> 32;
    while size > 0 {
        for i in (0..64).filter(|i| i & size == 0) {
            // The high half of word i changes places with the low half of word i + size.
            let t = (a[i] >> size ^ a[i + size]) & mask;
            a[i] ^= t << size;
            a[i + size] ^= t;
        }
        size /= 2;
        mask ^= mask << size;
    }
}
