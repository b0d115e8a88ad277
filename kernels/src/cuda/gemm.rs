//! Products of matrices. A prepared matrix is n × k as it was given, its rows filled up with zeros to whole [`DEPTH`]s.
//!
//! Up to as many rows as [`FEW`] has kernels, a warp reads the weights of four outputs once for all of them; with more,
//! the tensor cores multiply byte by byte (`cu/gemm.cu` says why that is exact). Batches, with any strides, run on the
//! integer units. Where a result has too few tiles to keep the device busy, the inputs are split among blocks, and sums
//! modulo 2^64 are the same however they are split.
//!
//! A matrix that is the words of a key stream is made in registers, block by block, for few rows, beside a stored one or
//! alone; for more rows [`MADE_AT_ONCE`] words at a time are made and then multiplied as stored ones are.
//!
//! **Cost**, counted in the code for compute capability 9.0; MAC is one multiply-add of 64-bit words:
//!
//! | kernel | of | instructions | from memory |
//! |---|---|---|---|
//! | `few_rows8` | 64 MAC (8 rows, 4 outputs, 2 inputs of a lane) | 248 IMAD, 72 IADD3, 12 LDG | 8 bytes a weight, once |
//! | `regenerated1` | 16 MAC (8 inputs of a lane, two matrices) | 667, of which 390 are logic and shifts | 8 bytes for both weights, once |
//! | `tensor64` | 32 768 MAC (16 × 64 × 32 of a warp) | 288 IMMA, 320 PRMT, 230 IMAD, 161 IADD3, 40 LDS | 8 bytes a weight and 64 rows |
//! | `batch64` | 64 MAC (4 × 4 × 4 of a thread) | 269 IMAD, 20 IADD3, 16 LDS | 8 bytes an element and tile of 64 × 64 |
//!
//! Ceilings that follow from published rates of an H100 (132 multiprocessors, 64 integer multiply-adds a cycle each, counted
//! at 1.755 GHz; 1979 · 10^12 operations on bytes a second; 3.35 TB/s) and an H200 (the same with 4.8 TB/s). They are
//! computed; nothing of this was measured.
//!
//! - Few rows: 0.42 · 10^12 weights a second (H200: 0.60) by memory, 3.8 · 10^12 MAC a second by multiplication; so memory
//!   decides up to 9 rows (H200: 6). Two components of 6.6 · 10^9 weights, a model of 7 · 10^9, take 32 ms (H200: 22).
//! - One of the two components made again: 0.30 · 10^12 weights a second by ChaCha12's logic and shifts, of which there
//!   are 64 a cycle too; so 22 ms for that model on both devices, and half its memory.
//!   (Counted with the whole stream under one nonce; a nonce for each piece adds some six instructions of 667.) `drawn1` to
//!   `drawn8` are the same without the stored matrix: no reading, and as long.
//! - `tensor64`: 36 products of bytes a MAC are 27 · 10^12 MAC a second, and as many instructions as that leaves time
//!   for: 1054 of a warp where the tensor core needs 1152 cycles. The published rate is that of `wgmma`; `mma.sync`, which
//!   this is, reaches less of it.
//! - `batch64`: 3.5 · 10^12 MAC a second.

use super::driver::{Arg, Launch};
use super::stream::stream_args;
use super::{Cuda, DeviceWords};
use crate::backend::{GemmBatch, KeyStream, MADE_AT_ONCE, Storage, Strides};

/// Inputs of one step of the tensor cores.
const DEPTH: usize = 32;
/// Words from row to row of a tile in shared memory.
const PITCH: usize = DEPTH + 2;
/// Rows up to which weights are read past shared memory, and the kernel for each number of them.
const FEW: [&str; 8] =
    ["few_rows1", "few_rows2", "few_rows3", "few_rows4", "few_rows5", "few_rows6", "few_rows7", "few_rows8"];
/// Rows of bits that share a reading of the weights, and outputs of a warp.
const BIT_ROWS: usize = 8;
const BIT_OUTPUTS: usize = 2;
/// Blocks of 128 threads that keep a device of 132 multiprocessors busy with reading.
const READING: usize = 8 * 132;
/// Blocks that do so with multiplying.
const MULTIPLYING: usize = 2 * 132;

/// The same where a matrix is made in registers beside one that is read, with the inputs of a block.
const BESIDE: [(&str, usize); 4] =
    [("regenerated1", 1024), ("regenerated2", 1024), ("regenerated3", 512), ("regenerated4", 512)];
/// The same where nothing is read beside it.
const ALONE: [(&str, usize); 8] = [
    ("drawn1", 1024),
    ("drawn2", 1024),
    ("drawn3", 1024),
    ("drawn4", 1024),
    ("drawn5", 512),
    ("drawn6", 512),
    ("drawn7", 512),
    ("drawn8", 512),
];

/// How the inputs are split among blocks.
struct Split {
    parts: u32,
    span: usize,
}

impl Split {
    /// k inputs in parts of at least `least`, a multiple of which each is, for a product that has `tiles` blocks without.
    fn new(k: usize, least: usize, tiles: usize, blocks: usize) -> Split {
        let parts = (blocks / tiles).clamp(1, k.div_ceil(least));
        let span = k.div_ceil(parts).next_multiple_of(least);
        Split { parts: k.div_ceil(span) as u32, span }
    }
}

/// Words that a matrix of `rows` × `cols` with these strides reaches over.
fn reach(rows: usize, cols: usize, s: Strides) -> usize {
    (rows - 1).saturating_mul(s.row).saturating_add((cols - 1).saturating_mul(s.col)).saturating_add(1)
}

impl Cuda {
    pub(super) fn packed_matrix(&self, b: &Storage, k: usize, n: usize) -> Storage {
        let b = self.words(b);
        assert_eq!(b.len(), k * n, "matrix of {n} × {k}");
        self.made(self.padded(b, n, k).unwrap_or_else(|| b.clone()))
    }

    /// `rows` × k with whole steps of inputs, unless they are so already.
    fn padded(&self, a: &DeviceWords, rows: usize, k: usize) -> Option<DeviceWords> {
        let pitch = k.next_multiple_of(DEPTH);
        (pitch != k).then(|| {
            let out = self.core.alloc("pack_matrix", rows * pitch);
            let args = [a.arg(), k.into(), out.arg(), rows.into(), pitch.into()];
            self.launch(Launch::over("pad_rows", rows * pitch), &args);
            out
        })
    }

    pub(super) fn product(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        let (a, b) = (self.words(a), self.words(b));
        let depth = k.next_multiple_of(DEPTH);
        assert_eq!(a.len(), m * k, "left matrix of {m} × {k}");
        assert_eq!(b.len(), n * depth, "packed matrix of {n} × {k}");
        if m == 0 || n == 0 || k == 0 {
            return self.made(self.core.zeroed("gemm", m * n));
        }
        let padded = self.padded(a, m, k);
        let a = padded.as_ref().unwrap_or(a);
        let (launch, split) = if m <= FEW.len() {
            let blocks = n.div_ceil(16);
            let split = Split::new(depth, 256, blocks, READING);
            let grid = [blocks as u32, split.parts, 1];
            (Launch { kernel: FEW[m - 1], grid, block: [128, 1, 1], shared: 0 }, split)
        } else {
            let (kernel, rows, columns) = if m <= 32 { ("tensor16", 16, 128) } else { ("tensor64", 64, 64) };
            let tiles = [m.div_ceil(rows), n.div_ceil(columns)];
            let split = Split::new(depth, 4 * DEPTH, tiles[0] * tiles[1], MULTIPLYING);
            let grid = [tiles[0] as u32, tiles[1] as u32, split.parts];
            let shared = (2 * 8 * PITCH * (rows + columns)) as u32;
            (Launch { kernel, grid, block: [128, 1, 1], shared }, split)
        };
        // Parts are added up.
        let c = match split.parts {
            1 => self.core.alloc("gemm", m * n),
            _ => self.core.zeroed("gemm", m * n),
        };
        let mut args = vec![a.arg(), b.arg(), c.arg()];
        args.extend((m > FEW.len()).then_some(Arg::from(m)));
        args.extend([n, depth, split.span].map(Arg::from));
        self.launch(launch, &args);
        self.made(c)
    }

    pub(super) fn selected_sums(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        let (a, b) = (self.words(a), self.words(b));
        let (words, depth) = (k.div_ceil(64), k.next_multiple_of(DEPTH));
        assert_eq!(a.len(), m * words, "left matrix of {m} × {k} bits");
        assert_eq!(b.len(), n * depth, "packed matrix of {n} × {k}");
        if m == 0 || n == 0 || k == 0 {
            return self.made(self.core.zeroed("gemm_bits", m * n));
        }
        let tiles = [n.div_ceil(4 * BIT_OUTPUTS), m.div_ceil(BIT_ROWS)];
        let split = Split::new(depth, 256, tiles[0] * tiles[1], READING);
        // Parts are added up.
        let c = match split.parts {
            1 => self.core.alloc("gemm_bits", m * n),
            _ => self.core.zeroed("gemm_bits", m * n),
        };
        let grid = [tiles[0] as u32, split.parts, tiles[1] as u32];
        let launch = Launch { kernel: "bit_rows", grid, block: [128, 1, 1], shared: 0 };
        let args =
            [a.arg(), words.into(), b.arg(), c.arg(), m.into(), n.into(), depth.into(), split.span.into()];
        self.launch(launch, &args);
        self.made(c)
    }

    pub(super) fn regenerated(
        &self,
        y: &Storage,
        stream: &KeyStream<'_>,
        beside: Option<(&Storage, &Storage)>,
        [m, k, n]: [usize; 3],
    ) -> Storage {
        assert_eq!(self.words(y).len(), m * k, "left matrix of {m} × {k}");
        let whole_blocks = m > 0 && n > 0 && k > 0 && k.is_multiple_of(8);
        let zeros = || self.core.zeroed("gemm_regenerated", m * n);
        if let (Some((x, stored)), true) = (beside, whole_blocks && m <= BESIDE.len()) {
            let c = zeros();
            let beside = [x, stored].map(|s| self.words(s));
            self.add_in_registers(&c, self.words(y), stream, Some(beside), [m, k, n]);
            return self.made(c);
        }
        let c = match beside {
            Some((x, stored)) => self.product(x, stored, m, k, n),
            None => self.made(zeros()),
        };
        let sums = self.words(&c);
        if whole_blocks && m <= ALONE.len() {
            self.add_in_registers(sums, self.words(y), stream, None, [m, k, n]);
        } else {
            self.add_in_panels(sums, y, stream, [m, k, n]);
        }
        // Nothing that failed since keeps a content.
        match c {
            Storage::Device(words) => self.made(words),
            host => host,
        }
    }

    /// C += Y · R^T, and X · S^T for `beside`, with R made in registers.
    fn add_in_registers(
        &self,
        c: &DeviceWords,
        y: &DeviceWords,
        stream: &KeyStream<'_>,
        beside: Option<[&DeviceWords; 2]>,
        [m, k, n]: [usize; 3],
    ) {
        let depth = k.next_multiple_of(DEPTH);
        let (kernel, span) = if beside.is_some() { BESIDE[m - 1] } else { ALONE[m - 1] };
        let mut args = vec![];
        if let Some([x, stored]) = beside {
            assert_eq!(x.len(), m * k, "left matrix of {m} × {k}");
            assert_eq!(stored.len(), n * depth, "packed matrix of {n} × {k}");
            args.extend([x.arg(), stored.arg(), depth.into()]);
        }
        args.push(y.arg());
        args.extend(stream_args(stream));
        args.extend([c.arg(), n.into(), k.into()]);
        let grid = [n.div_ceil(64) as u32, k.div_ceil(span) as u32, 1];
        self.launch(Launch { kernel, grid, block: [256, 1, 1], shared: 0 }, &args);
    }

    /// C += Y · R^T, with R made some outputs at a time and then multiplied as if it were stored.
    fn add_in_panels(&self, c: &DeviceWords, y: &Storage, stream: &KeyStream<'_>, [m, k, n]: [usize; 3]) {
        if m == 0 || k == 0 {
            return;
        }
        // With a panel a block of the stream begins as well.
        let outputs = (MADE_AT_ONCE / k.next_multiple_of(DEPTH) / 64 * 64).max(64);
        for first in (0..n).step_by(outputs) {
            let count = outputs.min(n - first);
            let made = self.stream(stream, first * k, count * k, u64::MAX);
            let panel = self.padded(&made, count, k).unwrap_or(made);
            let part = self.product(y, &self.made(panel), m, k, count);
            let args = [self.words(&part).arg(), count.into(), c.arg(), n.into(), first.into(), m.into()];
            self.launch(Launch::over("add_columns", m * count), &args);
        }
    }

    pub(super) fn products(&self, a: &Storage, b: &Storage, shape: &GemmBatch) -> Storage {
        let (a, b) = (self.words(a), self.words(b));
        let &GemmBatch { m, n, k, a: a_steps, b: b_steps, c_row, ref offsets, c_len } = shape;
        let c = self.core.zeroed("gemm_batch", c_len);
        if m == 0 || n == 0 || k == 0 || offsets.is_empty() {
            return self.made(c);
        }
        let reached =
            [reach(m, k, a_steps), reach(k, n, b_steps), reach(m, n, Strides { row: c_row, col: 1 })];
        let lengths = [a.len(), b.len(), c_len];
        for at in offsets {
            let inside = (0..3).all(|i| at[i].saturating_add(reached[i]) <= lengths[i]);
            assert!(inside, "product at {at:?} of {reached:?} words in buffers of {lengths:?}");
        }
        let (kernel, rows, columns) = if m <= 8 { ("batch8", 8, 128) } else { ("batch64", 64, 64) };
        let tiles = m.div_ceil(rows) * n.div_ceil(columns);
        let split = Split::new(k, 64, tiles * offsets.len(), MULTIPLYING);
        // The kernel goes on to further products.
        let grid = [tiles as u32, offsets.len().min(1 << 15) as u32, split.parts];
        let places =
            self.uploaded("gemm_batch", &offsets.iter().flatten().map(|&w| w as u64).collect::<Vec<_>>());
        let args = [
            a.arg(),
            a_steps.row.into(),
            a_steps.col.into(),
            b.arg(),
            b_steps.row.into(),
            b_steps.col.into(),
            c.arg(),
            c_row.into(),
            places.arg(),
            offsets.len().into(),
            m.into(),
            n.into(),
            k.into(),
            split.span.into(),
        ];
        self.launch(Launch { kernel, grid, block: [256, 1, 1], shared: 0 }, &args);
        self.made(c)
    }
}
