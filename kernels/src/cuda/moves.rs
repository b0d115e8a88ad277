//! Words to other places, and sums of segments.

use super::buffer::bytes32;
use super::elementwise::zip_number;
use super::wave::{Kind, Operation, Span};
use super::{Arg, Cuda, DeviceWords, Launch};
use crate::backend::Zip;
use crate::indices::{Cuts, Grid, Indices, Places, Segments, Table};
use std::ops::Range;
use std::sync::Arc;

impl Cuda {
    pub(super) fn scattered(&self, a: &DeviceWords, idx: &Indices, len: usize) -> DeviceWords {
        assert_eq!(a.len(), idx.len(), "scatter needs one index for each word");
        assert!(idx.end() <= len, "scatter beyond {len} words");
        let out = self.core.zeroed("scatter", len);
        let [from, to] = [a.span(), out.span()];
        let [a, out_at] = [from, to].map(|s| s.words[0]);
        let add = |kind, args: &[u64], reads: &[Span]| {
            let operation = Operation { kind, elements: idx.len(), args, reads, writes: &[to] };
            self.core.add("scatter", &operation);
        };
        match idx.places() {
            Places::Table(table) => {
                let places = self.table("scatter", table);
                let at = places.span();
                add(Kind::ScatterByTable, &[a, at.words[0], out_at], &[from, at]);
            }
            Places::Grid(Grid { start, row, cols, col, .. }) => {
                let [start, row, cols, col] = [*start, *row, *cols, *col].map(|w| w as u64);
                add(Kind::ScatterByRule, &[a, start, row, cols, col, out_at], &[from]);
            }
        }
        out
    }

    /// A table on the device, uploaded once.
    pub(super) fn table(&self, operation: &'static str, table: &Table) -> Arc<DeviceWords> {
        table.kept.on(&self.core, || self.core.upload(operation, bytes32(&table.places)))
    }

    pub(super) fn sliced(&self, a: &DeviceWords, range: Range<usize>) -> DeviceWords {
        let mut out = self.core.alloc("slice", range.len());
        out.copy_from(0, a, range);
        out
    }

    pub(super) fn concatenated(&self, parts: &[&DeviceWords]) -> DeviceWords {
        let mut out = self.core.alloc("concat", parts.iter().map(|p| p.len()).sum());
        let mut at = 0;
        for part in parts {
            out.copy_from(at, part, 0..part.len());
            at += part.len();
        }
        out
    }

    pub(super) fn reduced(&self, op: Zip, a: &DeviceWords, offsets: &Segments) -> DeviceWords {
        assert!(matches!(op, Zip::Add | Zip::Xor), "segments are reduced by Add or Xor, not by {op:?}");
        let (segments, cuts) = (offsets.count(), self.cuts("reduce_segments", offsets, a.len()));
        let out = self.core.alloc("reduce_segments", segments);
        let [bounds, len] = cuts.args();
        let args = [zip_number(op).into(), a.arg(), bounds, len, out.arg(), segments.into()];
        self.launch(Launch::warps("reduce_segments", segments), &args);
        out
    }

    /// Segments as kernels take them. They end inside `len` elements.
    pub(super) fn cuts(&self, operation: &'static str, offsets: &Segments, len: usize) -> DeviceCuts {
        assert!(offsets.end() <= len, "segments end after the buffer");
        match offsets.cuts() {
            Cuts::Even { len, .. } => DeviceCuts::Even(*len),
            Cuts::Table(table) => {
                let upload = || {
                    let offsets: Vec<u64> = table.offsets.iter().map(|&o| o as u64).collect();
                    self.uploaded(operation, &offsets)
                };
                DeviceCuts::Table(table.kept.on(&self.core, upload))
            }
        }
    }
}

/// Segments on the device, see `segment` in `moves.cu`.
pub(super) enum DeviceCuts {
    Even(usize),
    Table(Arc<DeviceWords>),
}

impl DeviceCuts {
    /// Their memory.
    pub(super) fn span(&self) -> Option<Span> {
        match self {
            DeviceCuts::Even(_) => None,
            DeviceCuts::Table(words) => Some(words.span()),
        }
    }

    /// What kernels take: offsets, or no pointer and the length of every segment.
    pub(super) fn words(&self) -> [u64; 2] {
        match self {
            DeviceCuts::Even(len) => [0, *len as u64],
            DeviceCuts::Table(words) => [words.span().words[0], 0],
        }
    }

    /// The same as arguments.
    fn args(&self) -> [Arg<'static>; 2] {
        let [offsets, len] = self.words();
        [Arg::Pointer(offsets), Arg::U64(len)]
    }
}
