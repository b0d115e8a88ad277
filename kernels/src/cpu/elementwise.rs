//! Element-wise operations, reductions and moves of whole buffers.

use super::lanes::Lanes;
use super::par;
use crate::backend::{Map, Zip};
use crate::buffer;
use crate::indices::{Grid, Indices, Places, Segments};

/// Words that one task handles.
const CHUNK: usize = 1 << 13;

pub(super) fn zip(lanes: &dyn Lanes, op: Zip, a: &mut [u64], b: &[u64]) {
    assert_eq!(a.len(), b.len(), "element-wise operation of buffers of different length");
    par::chunks(a, CHUNK, |i, a| lanes.zip(op, a, &b[i * CHUNK..][..a.len()]));
}

/// What an operation needs of its constant.
pub(super) fn check_map(op: Map) {
    if let Map::Exp(s) = op {
        assert!((1..64).contains(&s), "fraction of {s} bits");
    }
}

pub(super) fn map(lanes: &dyn Lanes, op: Map, a: &mut [u64]) {
    check_map(op);
    par::chunks(a, CHUNK, |_, a| lanes.map(op, a));
}

/// op of two buffers, as a new one.
pub(super) fn zipped(lanes: &dyn Lanes, op: Zip, a: &[u64], b: &[u64]) -> Vec<u64> {
    assert_eq!(a.len(), b.len(), "element-wise operation of buffers of different length");
    let mut out = buffer::unwritten(a.len());
    par::chunks(&mut out, CHUNK, |i, out| {
        let [a, b] = [a, b].map(|words| &words[i * CHUNK..][..out.len()]);
        lanes.zipped(op, a, b, out);
    });
    out
}

/// op of a buffer, as a new one.
pub(super) fn mapped(lanes: &dyn Lanes, op: Map, a: &[u64]) -> Vec<u64> {
    check_map(op);
    let mut out = buffer::unwritten(a.len());
    par::chunks(&mut out, CHUNK, |i, out| lanes.mapped(op, &a[i * CHUNK..][..out.len()], out));
    out
}

pub(super) fn reduce_segments(op: Zip, a: &[u64], offsets: &Segments) -> Vec<u64> {
    check_segments(offsets, a.len());
    let f = match op {
        Zip::Add => |a: &[u64]| a.iter().fold(0, |s: u64, x| s.wrapping_add(*x)),
        Zip::Xor => |a: &[u64]| a.iter().fold(0, |s, x| s ^ x),
        _ => panic!("segments are reduced by Add or Xor, not by {op:?}"),
    };
    let mut out = buffer::unwritten(offsets.count());
    par::chunks_if(a.len() >= par::WORDS, &mut out, 256, |i, out| {
        for (o, s) in out.iter_mut().zip(i * 256..) {
            *o = f(&a[offsets.get(s)]);
        }
    });
    out
}

/// Segments end inside `len` elements.
pub(super) fn check_segments(offsets: &Segments, len: usize) {
    assert!(offsets.end() <= len, "segments end after the buffer");
}

pub(super) fn gather(a: &[u64], idx: &Indices) -> Vec<u64> {
    let mut out = buffer::unwritten(idx.len());
    par::chunks(&mut out, CHUNK, |i, out| take(a, idx.places(), i * CHUNK, out));
    out
}

/// The words of a at some places, from number `from` on.
pub(super) fn take(a: &[u64], places: &Places, from: usize, out: &mut [u64]) {
    let Grid { start, row, cols, col, .. } = match places {
        Places::Grid(grid) => *grid,
        Places::Table(table) => {
            return out.iter_mut().zip(&table.places[from..]).for_each(|(o, &j)| *o = a[j as usize]);
        }
    };
    if out.is_empty() {
        return;
    }
    // The first row may begin within.
    let (mut r, first) = (from / cols, from % cols);
    let (part, rest) = out.split_at_mut(out.len().min(cols - first));
    let take_row = |r: usize, first: usize, out: &mut [u64]| {
        let from = &a[start + r * row + first * col..];
        match col {
            0 => out.fill(from[0]),
            1 => out.copy_from_slice(&from[..out.len()]),
            _ => {
                let from = from[..=(out.len() - 1) * col].iter().step_by(col);
                out.iter_mut().zip(from).for_each(|(o, w)| *o = *w);
            }
        }
    };
    take_row(r, first, part);
    for out in rest.chunks_mut(cols) {
        r += 1;
        take_row(r, 0, out);
    }
}

pub(super) fn scatter(a: &[u64], idx: &Indices, len: usize) -> Vec<u64> {
    assert_eq!(a.len(), idx.len(), "scatter needs one index for each word");
    let mut out = buffer::zeroed(len);
    match idx.places() {
        Places::Grid(_) => a.iter().zip(idx.iter()).for_each(|(&w, j)| out[j] = w),
        Places::Table(table) => a.iter().zip(&table.places).for_each(|(&w, &j)| out[j as usize] = w),
    }
    out
}
