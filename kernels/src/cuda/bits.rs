//! Rows of bits.

use super::wave::{Kind, Operation, Span};
use super::{Cuda, DeviceWords};
use crate::backend::coin_words;
use crate::indices::Segments;

/// Words of a row of `width` bits, and the number of rows in `len` words.
fn rows(len: usize, width: usize) -> (usize, usize) {
    assert!(width > 0, "rows without bits");
    let words = width.div_ceil(64);
    assert!(len.is_multiple_of(words), "{len} words are no whole rows of {words}");
    (words, len / words)
}

/// An operation on rows, its other arguments in their order.
struct OnRows<'a> {
    name: &'static str,
    kind: Kind,
    u: &'a DeviceWords,
    width: usize,
    /// A buffer with a word for each row, or more.
    beside: Option<&'a DeviceWords>,
    sizes: &'a [u64],
    elements: usize,
}

impl Cuda {
    /// Writes an operation down that makes `len` words, and these.
    fn on_rows(&self, operation: OnRows<'_>, len: usize, more: &[Span]) -> DeviceWords {
        let OnRows { name, kind, u, width, beside, sizes, elements } = operation;
        let out = self.core.alloc(name, len);
        let spans: Vec<_> = [Some(u), beside].into_iter().flatten().map(DeviceWords::span).collect();
        let mut args = vec![spans[0].words[0], width as u64, width.div_ceil(64) as u64];
        args.extend(spans[1..].iter().map(|s| s.words[0]));
        args.extend(sizes);
        args.push(out.span().words[0]);
        let reads = [&spans, more].concat();
        self.core.add(name, &Operation { kind, elements, args: &args, reads: &reads, writes: &[out.span()] });
        out
    }

    pub(super) fn flip(&self, u: &DeviceWords, width: usize, idx: &DeviceWords) {
        let (words, n) = rows(u.len(), width);
        assert_eq!(n, idx.len(), "one index for each row");
        let [u, idx] = [u, idx].map(DeviceWords::span);
        let args = [u.words[0], width as u64, words as u64, idx.words[0]];
        let operation =
            Operation { kind: Kind::FlipBit, elements: n, args: &args, reads: &[u, idx], writes: &[u] };
        self.core.add("flip_bit", &operation);
    }

    pub(super) fn bits_at(&self, u: &DeviceWords, width: usize, idx: &DeviceWords) -> DeviceWords {
        let n = rows(u.len(), width).1;
        assert_eq!(n, idx.len(), "one index for each row");
        let (name, kind, beside) = ("bit_at", Kind::BitAt, Some(idx));
        self.on_rows(OnRows { name, kind, u, width, beside, sizes: &[], elements: n }, n, &[])
    }

    pub(super) fn counted(&self, u: &DeviceWords, width: usize) -> DeviceWords {
        let n = rows(u.len(), width).1;
        let (name, kind) = ("count_bits", Kind::CountBits);
        self.on_rows(OnRows { name, kind, u, width, beside: None, sizes: &[], elements: n }, n, &[])
    }

    pub(super) fn rotated(&self, u: &DeviceWords, width: usize, rot: &DeviceWords) -> DeviceWords {
        assert!(width.is_power_of_two(), "rows of {width} bits cannot be rotated");
        assert_eq!(rows(u.len(), width).1, rot.len(), "one rotation for each row");
        let (name, kind, beside, elements) = ("rotate_bits", Kind::RotateBits, Some(rot), u.len());
        self.on_rows(OnRows { name, kind, u, width, beside, sizes: &[], elements }, elements, &[])
    }

    pub(super) fn suffixes(&self, u: &DeviceWords, width: usize) -> DeviceWords {
        let n = rows(u.len(), width).1;
        let (name, kind) = ("suffix_xor", Kind::SuffixXor);
        self.on_rows(OnRows { name, kind, u, width, beside: None, sizes: &[], elements: n }, u.len(), &[])
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
        let [bounds, len] = cuts.words();
        let sizes = [planes as u64, length as u64, bounds, len];
        let (name, kind, beside) = ("random_combinations", Kind::RandomCombinations, Some(coins));
        let elements = offsets.count() * planes * words;
        let operation = OnRows { name, kind, u, width, beside, sizes: &sizes, elements };
        self.on_rows(operation, elements, cuts.span().as_slice())
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
        let n = rows(planes.len(), width).1;
        assert!(n.is_multiple_of(total), "whole rows of {total} planes");
        let (name, kind, elements) = ("transpose_bits", Kind::TransposeBits, n / total * width);
        let sizes = [total, first, count].map(|w| w as u64);
        let operation = OnRows { name, kind, u: planes, width, beside: None, sizes: &sizes, elements };
        self.on_rows(operation, elements, &[])
    }
}
