//! Rows of bits. Bits at and beyond `width` in the last word of a row are ignored, and zero in results.

use super::lanes::Lanes;
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

/// The bits of an index that count where a row is one word and `width` a power of two: all rows go through the same
/// instructions then, many at a time.
fn in_one_word(width: usize) -> Option<u64> {
    (width <= 64 && width.is_power_of_two()).then(|| width as u64 - 1)
}

pub(super) fn flip_bit(lanes: &dyn Lanes, u: &mut [u64], width: usize, idx: &[u64]) {
    assert_eq!(Row::new(width).count(u.len()), idx.len(), "one index for each row");
    lanes.flip_bits(u, width, idx);
}

#[inline(always)]
pub(super) fn flip_bits(u: &mut [u64], width: usize, idx: &[u64]) {
    if let Some(low) = in_one_word(width) {
        return u.iter_mut().zip(idx).for_each(|(u, i)| *u ^= 1 << (i & low));
    }
    for (u, &i) in u.chunks_exact_mut(Row::new(width).words).zip(idx) {
        let (word, bit) = position(i, width);
        u[word] ^= 1 << bit;
    }
}

pub(super) fn bit_at(lanes: &dyn Lanes, u: &[u64], width: usize, idx: &[u64]) -> Vec<u64> {
    assert_eq!(Row::new(width).count(u.len()), idx.len(), "one index for each row");
    let mut out = buffer::unwritten(idx.len());
    lanes.bits_at(u, width, idx, &mut out);
    out
}

#[inline(always)]
pub(super) fn bits_at(u: &[u64], width: usize, idx: &[u64], out: &mut [u64]) {
    if let Some(low) = in_one_word(width) {
        return out.iter_mut().zip(u.iter().zip(idx)).for_each(|(out, (u, i))| *out = u >> (i & low) & 1);
    }
    let bit = |(u, &i): (&[u64], &u64)| {
        let (word, bit) = position(i, width);
        u[word] >> bit & 1
    };
    out.iter_mut().zip(u.chunks_exact(Row::new(width).words).zip(idx)).for_each(|(out, at)| *out = bit(at));
}

pub(super) fn count_bits(u: &[u64], width: usize) -> Vec<u64> {
    let row = Row::new(width);
    let ones = |u: &[u64]| (0..row.words).map(|i| u64::from(row.word(u, i).count_ones())).sum();
    let mut out = buffer::unwritten(row.count(u.len()));
    out.iter_mut().zip(u.chunks_exact(row.words)).for_each(|(out, u)| *out = ones(u));
    out
}

pub(super) fn rotate_bits(lanes: &dyn Lanes, u: &[u64], width: usize, rot: &[u64]) -> Vec<u64> {
    assert!(width.is_power_of_two(), "rows of {width} bits cannot be rotated");
    let row = Row::new(width);
    assert_eq!(row.count(u.len()), rot.len(), "one rotation for each row");
    let mut out = buffer::unwritten(u.len());
    let (rows, size) = (1024, 1024 * row.words);
    par::chunks(&mut out, size, |c, out| {
        lanes.rotate_rows(&u[c * size..], width, &rot[c * rows..], out);
    });
    out
}

#[inline(always)]
pub(super) fn rotate_rows(u: &[u64], width: usize, rot: &[u64], out: &mut [u64]) {
    if width == 64 {
        let all = out.iter_mut().zip(u.iter().zip(rot));
        return all.for_each(|(out, (u, &rot))| *out = u.rotate_left((rot % 64) as u32));
    }
    let words = Row::new(width).words;
    for ((out, u), &rot) in out.chunks_exact_mut(words).zip(u.chunks_exact(words)).zip(rot) {
        rotate(u, width, rot, out);
    }
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

pub(super) fn suffix_xor(lanes: &dyn Lanes, u: &[u64], width: usize) -> Vec<u64> {
    let row = Row::new(width);
    row.count(u.len());
    let mut out = buffer::unwritten(u.len());
    let size = 1024 * row.words;
    par::chunks(&mut out, size, |c, out| lanes.suffix_xors(&u[c * size..], row, out));
    out
}

#[inline(always)]
pub(super) fn suffix_xors(u: &[u64], row: Row, out: &mut [u64]) {
    let within = |mut x: u64| {
        for s in [1, 2, 4, 8, 16, 32] {
            x ^= x >> s;
        }
        x
    };
    if row.words == 1 {
        return out.iter_mut().zip(u).for_each(|(out, u)| *out = within(u & row.last));
    }
    out.iter_mut().zip(u).for_each(|(out, u)| *out = within(*u));
    for out in out.chunks_exact_mut(row.words) {
        // Without the suffix of the bits that do not count, which begins at the width.
        let mut x = out[row.words - 1] >> 1 >> (row.last.count_ones() - 1);
        for out in out.iter_mut().rev() {
            *out ^= (x & 1).wrapping_neg();
            x = *out;
        }
        out[row.words - 1] &= row.last;
    }
}

/// Rows of planes, of which some become words: bit b of word j is bit j of plane `first` + b.
#[derive(Clone, Copy)]
pub(super) struct Bundle {
    /// Bits of a plane, which are the words that a row becomes.
    pub(super) width: usize,
    /// Planes of a row.
    pub(super) total: usize,
    pub(super) first: usize,
    /// At most 64.
    pub(super) count: usize,
}

impl Bundle {
    /// The planes that become words, for each row, and those words.
    #[inline(always)]
    pub(super) fn rows<'a>(
        self,
        planes: &'a [u64],
        out: &'a mut [u64],
    ) -> impl Iterator<Item = (&'a [u64], &'a mut [u64])> {
        let Row { words, .. } = Row::new(self.width);
        let used = self.first * words..(self.first + self.count) * words;
        let rows = planes.chunks_exact(self.total * words).map(move |row| &row[used.clone()]);
        rows.zip(out.chunks_exact_mut(self.width))
    }
}

pub(super) fn transpose_bits(lanes: &dyn Lanes, planes: &[u64], b: Bundle) -> Vec<u64> {
    let Bundle { width, total, first, count } = b;
    let row = Row::new(width);
    assert!(total > 0, "rows without planes");
    assert!(count <= 64 && first + count <= total, "planes {first}..{} of {total}", first + count);
    let size = total * row.words;
    assert!(planes.len().is_multiple_of(size), "whole rows of {total} planes");
    let mut out = buffer::unwritten(planes.len() / size * width);
    let rows = 16;
    par::chunks(&mut out, rows * width, |c, out| lanes.transpose(&planes[c * rows * size..], b, out));
    out
}

pub(super) fn transpose_rows(planes: &[u64], b: Bundle, out: &mut [u64]) {
    let Row { words, .. } = Row::new(b.width);
    for (planes, out) in b.rows(planes, out) {
        for (w, out) in out.chunks_mut(64).enumerate() {
            let mut square = [0u64; 64];
            for (s, plane) in square.iter_mut().zip(planes.chunks_exact(words)) {
                *s = plane[w];
            }
            transpose(&mut square);
            out.copy_from_slice(&square[..out.len()]);
        }
    }
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
