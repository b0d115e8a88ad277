//! The numbers of element-wise operations.

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
