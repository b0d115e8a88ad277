//! The ring Z_2^k, k ≤ 64, with its elements kept in `u64` words.

/// Z_2^bits. Sums and products of words are computed modulo 2^64 and then reduced, which is exact
/// because Z_2^bits is a quotient of Z_2^64. Only shifts and top bits need reduced inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    bits: u32,
}

impl Ring {
    /// The ring every real computation uses.
    pub const Z64: Ring = Ring { bits: 64 };

    /// Z_2^bits; small rings exist so that gates can be tested over *all* values and masks.
    ///
    /// # Panics
    /// If `bits` is not in 1..=64.
    pub const fn new(bits: u32) -> Ring {
        assert!(bits >= 1 && bits <= 64);
        Ring { bits }
    }

    /// Number of bits k.
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// 2^k − 1.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// The representative in [0, 2^k).
    pub const fn reduce(self, x: u64) -> u64 {
        x & self.mask()
    }

    /// The representative in [−2^(k−1), 2^(k−1)).
    pub const fn signed(self, x: u64) -> i64 {
        let s = 64 - self.bits;
        ((x << s) as i64) >> s
    }
}
