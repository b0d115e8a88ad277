//! Words to other places, and sums of segments.

use super::buffer::bytes32;
use super::elementwise::zip_number;
use super::{Arg, Cuda, DeviceWords, Launch};
use crate::backend::Zip;
use crate::indices::{Cuts, Grid, Indices, Places, Segments, Table};
use std::ops::Range;
use std::sync::Arc;

impl Cuda {
    pub(super) fn gathered(&self, a: &DeviceWords, idx: &Indices) -> DeviceWords {
        assert!(idx.end() <= a.len(), "gather beyond {} words", a.len());
        let out = self.core.alloc("gather", idx.len());
        self.move_words(["gather", "gather_grid"], a, idx, &out);
        out
    }

    pub(super) fn scattered(&self, a: &DeviceWords, idx: &Indices, len: usize) -> DeviceWords {
        assert_eq!(a.len(), idx.len(), "scatter needs one index for each word");
        assert!(idx.end() <= len, "scatter beyond {len} words");
        let out = self.core.zeroed("scatter", len);
        self.move_words(["scatter", "scatter_grid"], a, idx, &out);
        out
    }

    /// Launches the kernel for tables or that for grids.
    fn move_words(
        &self,
        [by_table, by_grid]: [&'static str; 2],
        a: &DeviceWords,
        idx: &Indices,
        out: &DeviceWords,
    ) {
        let n = idx.len();
        match idx.places() {
            Places::Table(table) => {
                let places = self.table(by_table, table);
                self.launch(Launch::over(by_table, n), &[a.arg(), places.arg(), out.arg(), n.into()]);
            }
            Places::Grid(Grid { start, row, cols, col, .. }) => {
                let [start, row, cols, col] = [*start, *row, *cols, *col].map(Arg::from);
                self.launch(Launch::over(by_grid, n), &[a.arg(), start, row, cols, col, out.arg(), n.into()]);
            }
        }
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
    /// The two arguments of a kernel: offsets, or no pointer and the length of every segment.
    pub(super) fn args(&self) -> [Arg<'_>; 2] {
        match self {
            DeviceCuts::Even(len) => [Arg::Pointer(0), Arg::from(*len)],
            DeviceCuts::Table(words) => [words.arg(), Arg::U64(0)],
        }
    }
}
