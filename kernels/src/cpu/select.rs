//! Sums of table entries selected by rows of bits.
//!
//! Tables are prepared for each column and each phase as an instruction set reads them: see [`Lanes::prepare`].
//! Every row reads all entries of its phase, at the same places whatever its bits and its rotation are.

use super::lanes::{Lanes, Selection};
use crate::buffer;
use rayon::prelude::*;

/// Rows that one task handles: enough to find several of each phase.
const CHUNK: usize = 2048;

/// Table entries read below which one thread is faster.
const SMALL: usize = 1 << 18;

pub(super) fn prepare_tables(lanes: &dyn Lanes, columns: &[Vec<u64>], entries: usize) -> Vec<u64> {
    check(entries);
    let len = columns.first().map_or(0, Vec::len);
    assert!(columns.iter().all(|c| c.len() == len), "table columns of different length");
    assert!(len > 0 && len.is_multiple_of(entries), "columns of {len} words in phases of {entries}");
    let mut out = Vec::with_capacity(columns.len() * len / entries * lanes.prepared(entries));
    columns.iter().flat_map(|c| c.chunks_exact(entries)).for_each(|table| lanes.prepare(table, &mut out));
    out
}

pub(super) fn select(lanes: &dyn Lanes, s: &Selection<'_>) -> Vec<Vec<u64>> {
    check(s.entries);
    let rows = s.rot.len();
    let words = s.entries.div_ceil(64);
    assert!(s.columns > 0, "a table without columns");
    assert!(!s.tables.is_empty(), "a table without entries");
    assert!(s.tables.len().is_multiple_of(s.columns * s.prepared), "prepared table size");
    assert_eq!(s.u.len(), rows * words, "one row of bits for each rotation");
    assert_eq!(s.phase.len(), rows, "one phase for each rotation");
    let mut out: Vec<Vec<u64>> = (0..s.columns).map(|_| buffer::unwritten(rows)).collect();
    if rows * s.entries * s.columns < SMALL || rayon::current_num_threads() == 1 {
        lanes.select(s, &mut out.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        return out;
    }
    let mut tasks: Vec<Vec<&mut [u64]>> = (0..rows.div_ceil(CHUNK)).map(|_| Vec::new()).collect();
    for column in &mut out {
        tasks.iter_mut().zip(column.chunks_mut(CHUNK)).for_each(|(t, c)| t.push(c));
    }
    tasks.par_iter_mut().enumerate().for_each(|(i, out)| {
        let (from, to) = (i * CHUNK, rows.min((i + 1) * CHUNK));
        let part = Selection {
            u: &s.u[from * words..to * words],
            rot: &s.rot[from..to],
            phase: &s.phase[from..to],
            ..*s
        };
        lanes.select(&part, out);
    });
    out
}

fn check(entries: usize) {
    assert!(entries.is_power_of_two() && entries >= 2, "tables of {entries} entries");
}
