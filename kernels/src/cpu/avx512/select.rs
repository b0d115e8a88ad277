//! Sums of table entries that rows of bits select, eight rows in a vector.
//!
//! Four entries have 16 sums, which fit two registers: one permutation looks up those of eight rows, by four bits of
//! each (the method of four Russians, as in `cpu/sums.rs`). Nothing is read from memory at a place that depends on bits.

use super::super::lanes::Selection;
use std::arch::x86_64::*;

/// Sums of a group's entries, by which of the entries are added.
const SUMS: usize = 16;
/// Entries of a group.
const GROUP: usize = 4;
/// Rows of a vector.
const ROWS: usize = 8;
/// Rows of each phase, on average, that are sorted together.
const ROWS_OF_PHASE: usize = 64;

/// Words of a prepared table: a quarter as many groups as entries.
pub(super) fn prepared(entries: usize) -> usize {
    entries / GROUP * SUMS
}

/// All sums of each group of entries.
pub(super) fn prepare(table: &[u64], out: &mut Vec<u64>) {
    for group in table.as_chunks::<GROUP>().0 {
        out.extend((0..SUMS).map(|set| {
            let chosen = (0..GROUP).filter(|i| set >> i & 1 == 1);
            chosen.fold(0, |sum: u64, i| sum.wrapping_add(group[i]))
        }));
    }
}

/// At least eight entries.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) fn select(s: &Selection<'_>, out: &mut [&mut [u64]]) {
    let rows = s.rot.len();
    assert!(s.entries.is_power_of_two() && s.entries >= 8 && s.phase.len() == rows && rows >> 32 == 0);
    assert!(s.u.len() == rows * s.entries.div_ceil(64) && out.iter().all(|out| out.len() == rows));
    // Not too many rows at once: what is read and written for them stays in a near cache.
    let some = ROWS_OF_PHASE * s.phases();
    let (mut ends, mut order) = (vec![0; s.phases() + 1], vec![0; some.min(rows)]);
    for from in (0..rows).step_by(some) {
        let to = rows.min(from + some);
        // In the order of their phases, to read each phase's sums for many rows. With each its rotation, as all of this is
        // at hand here and scattered later.
        ends.fill(0);
        (from..to).for_each(|e| ends[s.phase(e) + 1] += 1);
        (0..s.phases()).for_each(|phase| ends[phase + 1] += ends[phase]);
        let mut next = ends.clone();
        for e in from..to {
            let place = &mut next[s.phase(e)];
            order[*place] = e as u64 | (s.rot[e] & (s.entries as u64 - 1)) << 32;
            *place += 1;
        }
        for (phase, ends) in ends.windows(2).enumerate() {
            for rows in order[ends[0]..ends[1]].chunks(4 * ROWS) {
                columns(s, phase, rows, out);
            }
        }
    }
}

/// At most four vectors of rows of one phase, with their rotations in the upper halves, three columns at a time.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn columns(s: &Selection<'_>, phase: usize, rows: &[u64], out: &mut [&mut [u64]]) {
    for (c, out) in (0..).step_by(3).zip(out.chunks_mut(3)) {
        match (rows.len().div_ceil(ROWS), out) {
            (1, [a]) => batch::<1, 1>(s, phase, c, rows, [a]),
            (1, [a, b]) => batch::<1, 2>(s, phase, c, rows, [a, b]),
            (1, [a, b, d]) => batch::<1, 3>(s, phase, c, rows, [a, b, d]),
            (2, [a]) => batch::<2, 1>(s, phase, c, rows, [a]),
            (2, [a, b]) => batch::<2, 2>(s, phase, c, rows, [a, b]),
            (2, [a, b, d]) => batch::<2, 3>(s, phase, c, rows, [a, b, d]),
            (_, [a]) => batch::<4, 1>(s, phase, c, rows, [a]),
            (_, [a, b]) => batch::<4, 2>(s, phase, c, rows, [a, b]),
            (_, [a, b, d]) => batch::<4, 3>(s, phase, c, rows, [a, b, d]),
            _ => unreachable!("one to three columns"),
        }
    }
}

/// Up to V vectors of rows of one phase, columns from `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn batch<const V: usize, const C: usize>(
    s: &Selection<'_>,
    phase: usize,
    first: usize,
    rows: &[u64],
    out: [&mut &mut [u64]; C],
) {
    let words = s.entries.div_ceil(64);
    let sums: [&[u64]; C] = std::array::from_fn(|c| {
        &s.tables[(first + c) * s.column_len() + phase * prepared(s.entries)..][..prepared(s.entries)]
    });
    let (mut row, mut valid) = ([_mm512_setzero_si512(); V], [0u8; V]);
    for (v, rows) in rows.chunks(ROWS).enumerate() {
        valid[v] = u8::MAX >> (ROWS - rows.len());
        // SAFETY: the mask keeps the load inside `rows`.
        row[v] = unsafe { _mm512_maskz_loadu_epi64(valid[v], rows.as_ptr().cast()) };
    }
    // Bit j of a row goes to j + rot: by whole words, then by bits. Shifts by 64 bits give 0.
    let set1 = |x: usize| _mm512_set1_epi64(x as i64);
    let width = s.entries.min(64);
    let (in_word, last) = (set1(width - 1), set1(words - 1));
    let (mut up, mut by_words, mut start) = (row, row, row);
    for v in 0..V {
        let rot = _mm512_srli_epi64::<32>(row[v]);
        row[v] = _mm512_and_si512(row[v], set1(u32::MAX as usize));
        up[v] = _mm512_and_si512(rot, in_word);
        by_words[v] = _mm512_and_si512(_mm512_srli_epi64::<6>(rot), last);
        start[v] = _mm512_mullo_epi64(row[v], set1(words));
    }
    let word = |v: usize, w: usize| {
        let at = _mm512_and_si512(_mm512_sub_epi64(set1(w), by_words[v]), last);
        let at = _mm512_add_epi64(start[v], at);
        // SAFETY: `words` words for each row, and `at` is one of them.
        let u = unsafe { _mm512_mask_i64gather_epi64::<8>(set1(0), valid[v], at, s.u.as_ptr().cast()) };
        if width < 64 { _mm512_and_si512(u, set1((1 << width) - 1)) } else { u }
    };
    let mut below = row;
    for (v, below) in below.iter_mut().enumerate() {
        *below = word(v, words - 1);
    }
    let mut acc = [[_mm512_setzero_si512(); C]; V];
    for w in 0..words {
        let mut bits = row;
        for v in 0..V {
            let u = if words == 1 { below[v] } else { word(v, w) };
            let wrapped = _mm512_srlv_epi64(below[v], _mm512_sub_epi64(set1(width), up[v]));
            bits[v] = _mm512_or_si512(_mm512_sllv_epi64(u, up[v]), wrapped);
            below[v] = u;
        }
        for group in 0..width / GROUP {
            for c in 0..C {
                let sums = &sums[c][(w * 64 / GROUP + group) * SUMS..][..SUMS];
                // SAFETY: `sums` is two vectors.
                let (low, high) = unsafe {
                    let at: *const __m512i = sums.as_ptr().cast();
                    (_mm512_loadu_si512(at), _mm512_loadu_si512(at.add(1)))
                };
                for v in 0..V {
                    // Only the low four bits of an index count.
                    let sum = _mm512_permutex2var_epi64(low, bits[v], high);
                    acc[v][c] = _mm512_add_epi64(acc[v][c], sum);
                }
            }
            for bits in &mut bits {
                *bits = _mm512_srli_epi64::<{ GROUP as u32 }>(*bits);
            }
        }
    }
    for (c, out) in out.into_iter().enumerate() {
        for v in 0..V {
            // SAFETY: a word of each column for each row.
            unsafe {
                _mm512_mask_i64scatter_epi64::<8>(out.as_mut_ptr().cast(), valid[v], row[v], acc[v][c])
            };
        }
    }
}
