//! Words to other places, and sums of segments.

use super::buffer::bytes32;
use super::elementwise::zip_number;
use super::{Cuda, DeviceWords, Launch};
use crate::backend::Zip;
use std::ops::Range;

impl Cuda {
    pub(super) fn gathered(&self, a: &DeviceWords, idx: &[u32]) -> DeviceWords {
        assert!(idx.iter().all(|&i| (i as usize) < a.len()), "gather beyond {} words", a.len());
        let (n, places) = (idx.len(), self.core.upload("gather", bytes32(idx)));
        let out = self.core.alloc("gather", n);
        self.launch(Launch::over("gather", n), &[a.arg(), places.arg(), out.arg(), n.into()]);
        out
    }

    pub(super) fn scattered(&self, a: &DeviceWords, idx: &[u32], len: usize) -> DeviceWords {
        assert_eq!(a.len(), idx.len(), "scatter needs one index for each word");
        assert!(idx.iter().all(|&i| (i as usize) < len), "scatter beyond {len} words");
        let (n, places) = (idx.len(), self.core.upload("scatter", bytes32(idx)));
        let out = self.core.zeroed("scatter", len);
        self.launch(Launch::over("scatter", n), &[a.arg(), places.arg(), out.arg(), n.into()]);
        out
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

    pub(super) fn reduced(&self, op: Zip, a: &DeviceWords, offsets: &[usize]) -> DeviceWords {
        assert!(matches!(op, Zip::Add | Zip::Xor), "segments are reduced by Add or Xor, not by {op:?}");
        let (bounds, segments) = self.segments("reduce_segments", offsets, a.len());
        let out = self.core.alloc("reduce_segments", segments);
        let args = [zip_number(op).into(), a.arg(), bounds.arg(), out.arg(), segments.into()];
        self.launch(Launch::warps("reduce_segments", segments), &args);
        out
    }

    /// Offsets of segments on the device, and the number of segments. They are non-decreasing and end inside `len`
    /// elements.
    pub(super) fn segments(
        &self,
        operation: &'static str,
        offsets: &[usize],
        len: usize,
    ) -> (DeviceWords, usize) {
        assert!(offsets.is_sorted(), "segment offsets decrease");
        assert!(offsets.last().is_none_or(|&l| l <= len), "segments end after the buffer");
        let offsets: Vec<u64> = offsets.iter().map(|&o| o as u64).collect();
        (self.uploaded(operation, &offsets), offsets.len().saturating_sub(1))
    }
}
