//! Sums for one or two rows, by vectors: what these wait for is memory, which is read straight into registers.

use super::rows::Rows;
use super::{LIMBS, LINES, Line, TILE, Term};
use std::arch::x86_64::*;
use std::ops::Range;

/// Lines (16 KiB) that a matrix is fetched ahead: the hardware does not read ahead of what is being computed.
const AHEAD: usize = 256;

/// The sums of some steps of a panel, for each limb and row a line.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn sums(rows: &Rows, steps: Range<usize>, panel: &[Line], sums: &mut [Line]) {
    assert!(panel.len() >= steps.len() * LINES && sums.len() >= LINES, "lines of a panel's steps");
    match (rows.term, rows.m) {
        (Term::Bits, 1) => add::<1, true>(rows, steps, panel, sums),
        (Term::Bits, _) => add::<2, true>(rows, steps, panel, sums),
        (Term::Words(_), 1) => add::<1, false>(rows, steps, panel, sums),
        (Term::Words(_), _) => add::<2, false>(rows, steps, panel, sums),
    }
}

/// `M` rows, whose sums stay in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add<const M: usize, const BITS: bool>(rows: &Rows, steps: Range<usize>, panel: &[Line], out: &mut [Line]) {
    assert!(rows.m == M && rows.height == M, "{M} rows");
    let a = rows.of_tile(0, steps);
    let limbs = rows.term.limbs();
    assert!(limbs == if BITS { 1 } else { LIMBS }, "all limbs");
    let mut sums = [[_mm512_setzero_si512(); LIMBS]; M];
    for (a, b) in a.chunks_exact(limbs * M).zip(panel.chunks_exact(LINES)) {
        for four in 0..TILE {
            // Four inputs of a row, for all outputs.
            let digits = |limb: usize, row: usize| {
                let four = a[limb * M + row].0.as_chunks::<4>().0[four];
                _mm512_set1_epi32(i32::from_le_bytes(four))
            };
            for j in 0..LIMBS {
                let line = &raw const b[j * TILE + four];
                // SAFETY: a line is 64 bytes; prefetching never faults.
                let weights = unsafe {
                    _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(AHEAD).cast());
                    _mm512_load_si512(line.cast())
                };
                for (row, sums) in sums.iter_mut().enumerate() {
                    if BITS {
                        sums[j] = _mm512_dpbusd_epi32(sums[j], weights, digits(0, row));
                    } else {
                        for i in 0..LIMBS - j {
                            sums[i + j] = _mm512_dpbusd_epi32(sums[i + j], weights, digits(i, row));
                        }
                    }
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (limb, sum) in sums.iter().enumerate() {
            // SAFETY: a line is 64 bytes.
            unsafe { _mm512_store_si512(out[limb * TILE + row].0.as_mut_ptr().cast(), *sum) };
        }
    }
}
