//! Rows of bits.

use super::driver::Arg;
use super::{Cuda, DeviceWords, Launch};
use crate::backend::coin_words;
use crate::indices::Segments;

/// Words of a row of `width` bits, and the number of rows in `len` words.
fn rows(len: usize, width: usize) -> (usize, usize) {
    assert!(width > 0, "rows without bits");
    let words = width.div_ceil(64);
    assert!(len.is_multiple_of(words), "{len} words are no whole rows of {words}");
    (words, len / words)
}

impl Cuda {
    pub(super) fn flip(&self, u: &DeviceWords, width: usize, idx: &DeviceWords) {
        let (words, n) = rows(u.len(), width);
        assert_eq!(n, idx.len(), "one index for each row");
        let args = [u.arg(), width.into(), words.into(), idx.arg(), n.into()];
        self.launch(Launch::over("flip_bit", n), &args);
    }

    pub(super) fn bits_at(&self, u: &DeviceWords, width: usize, idx: &DeviceWords) -> DeviceWords {
        let (words, n) = rows(u.len(), width);
        assert_eq!(n, idx.len(), "one index for each row");
        let out = self.core.alloc("bit_at", n);
        let args = [u.arg(), width.into(), words.into(), idx.arg(), out.arg(), n.into()];
        self.launch(Launch::over("bit_at", n), &args);
        out
    }

    pub(super) fn counted(&self, u: &DeviceWords, width: usize) -> DeviceWords {
        let (words, n) = rows(u.len(), width);
        let out = self.core.alloc("count_bits", n);
        let args = [u.arg(), width.into(), words.into(), out.arg(), n.into()];
        self.launch(Launch::over("count_bits", n), &args);
        out
    }

    pub(super) fn rotated(&self, u: &DeviceWords, width: usize, rot: &DeviceWords) -> DeviceWords {
        assert!(width.is_power_of_two(), "rows of {width} bits cannot be rotated");
        let (words, n) = rows(u.len(), width);
        assert_eq!(n, rot.len(), "one rotation for each row");
        let out = self.core.alloc("rotate_bits", u.len());
        let args = [u.arg(), width.into(), words.into(), rot.arg(), out.arg(), u.len().into()];
        self.launch(Launch::over("rotate_bits", u.len()), &args);
        out
    }

    pub(super) fn suffixes(&self, u: &DeviceWords, width: usize) -> DeviceWords {
        let (words, n) = rows(u.len(), width);
        let out = self.core.alloc("suffix_xor", u.len());
        let args = [u.arg(), width.into(), words.into(), out.arg(), n.into()];
        self.launch(Launch::over("suffix_xor", n), &args);
        out
    }

    pub(super) fn combined(
        &self,
        u: &DeviceWords,
        coins: &DeviceWords,
        width: usize,
        planes: usize,
        offsets: &Segments,
    ) -> DeviceWords {
        let ((words, n), length) = (rows(u.len(), width), coin_words(width, planes));
        assert_eq!(coins.len(), n * length, "coins for each row");
        let cuts = self.cuts("random_combinations", offsets, n);
        let out = self.core.alloc("random_combinations", offsets.count() * planes * words);
        let ([bounds, size], len) = (cuts.args(), out.len());
        let shape = [width, words, planes, length].map(Arg::from);
        let args = [&[u.arg(), coins.arg()][..], &shape, &[bounds, size, out.arg(), len.into()]].concat();
        self.launch(Launch::over("random_combinations", len), &args);
        out
    }

    pub(super) fn transposed(
        &self,
        planes: &DeviceWords,
        width: usize,
        total: usize,
        first: usize,
        count: usize,
    ) -> DeviceWords {
        assert!(total > 0, "rows without planes");
        assert!(count <= 64 && first + count <= total, "planes {first}..{} of {total}", first + count);
        let (words, n) = rows(planes.len(), width);
        assert!(n.is_multiple_of(total), "whole rows of {total} planes");
        let out = self.core.alloc("transpose_bits", n / total * width);
        let (len, count) = (out.len(), count as u32);
        let (width, words, total) = (width.into(), words.into(), total.into());
        let args = [planes.arg(), width, words, total, first.into(), count.into(), out.arg(), len.into()];
        self.launch(Launch::over("transpose_bits", len), &args);
        out
    }
}
