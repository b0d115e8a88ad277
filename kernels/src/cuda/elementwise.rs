//! Element-wise operations.

use super::{Cuda, DeviceWords, Launch};
use crate::backend::{Map, Zip};

/// The number of an operation in `elementwise.cu`.
pub(super) fn zip_number(op: Zip) -> u32 {
    match op {
        Zip::Add => 0,
        Zip::Sub => 1,
        Zip::Mul => 2,
        Zip::Xor => 3,
        Zip::And => 4,
    }
}

/// The number of an operation in `elementwise.cu`, and its constant.
pub(super) fn map_number(op: Map) -> (u32, u64) {
    match op {
        Map::Neg => (0, 0),
        Map::Add(c) => (1, c),
        Map::Mul(c) => (2, c),
        Map::And(c) => (3, c),
        Map::Xor(c) => (4, c),
        Map::Shl(s) if s < 64 => (5, u64::from(s)),
        Map::Shr(s) if s < 64 => (6, u64::from(s)),
        Map::Shl(_) | Map::Shr(_) => (3, 0),
        Map::Exp(s) => {
            assert!((1..64).contains(&s), "fraction of {s} bits");
            (7, u64::from(s))
        }
    }
}

impl Cuda {
    pub(super) fn zip_into(&self, op: Zip, a: &DeviceWords, b: &DeviceWords, out: &DeviceWords) {
        assert_eq!(a.len(), b.len(), "element-wise operation of buffers of different length");
        let n = a.len();
        let args = [zip_number(op).into(), a.arg(), b.arg(), out.arg(), n.into()];
        self.launch(Launch::over("zip", n), &args);
    }

    pub(super) fn map_into(&self, op: Map, a: &DeviceWords, out: &DeviceWords) {
        let ((number, c), n) = (map_number(op), a.len());
        self.launch(Launch::over("map", n), &[number.into(), c.into(), a.arg(), out.arg(), n.into()]);
    }

    pub(super) fn broadcast_rows(&self, op: Zip, a: &DeviceWords, r: &DeviceWords) {
        let Some(cols) = columns(a.len(), r.len()) else { return };
        let args = [zip_number(op).into(), a.arg(), r.arg(), a.len().into(), cols.into()];
        self.launch(Launch::over("zip_rows", a.len()), &args);
    }

    pub(super) fn broadcast_cols(&self, op: Zip, a: &DeviceWords, c: &DeviceWords) {
        if columns(a.len(), c.len()).is_some() {
            let args = [zip_number(op).into(), a.arg(), c.arg(), a.len().into(), c.len().into()];
            self.launch(Launch::over("zip_cols", a.len()), &args);
        }
    }
}

/// `len / rows`, or `None` if there is nothing to do.
fn columns(len: usize, rows: usize) -> Option<usize> {
    if len == 0 {
        return None;
    }
    assert!(rows > 0 && len.is_multiple_of(rows), "broadcast of {rows} words over a buffer of {len}");
    Some(len / rows)
}
