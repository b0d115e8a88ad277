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
}
