//! Buffers with operators, so that a gate's local computation reads like its formula.

use crate::backend::{Device, DpfKeys, GemmBatch, KeyStream, Map, Storage, Zip, dpf_key_bytes, dpf_levels};
use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};
use crate::formula::Formula;
use crate::indices::{Indices, Segments};
use crate::readings::{Manner, Readings};
use std::ops::{Add, BitAnd, BitXor, Mul, Neg, Range, Shl, Shr, Sub};
use std::sync::Arc;

/// A vector of ring elements (or packed bit strings) on a device.
#[derive(Clone)]
pub struct Words {
    device: Device,
    data: Storage,
}

impl std::fmt::Debug for Words {
    /// Shares must not end up in logs: length only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Words({} words)", self.len())
    }
}

impl Words {
    fn with(&self, data: Storage) -> Words {
        Words { device: self.device.clone(), data }
    }

    /// Moves host words to the device.
    pub fn upload(device: &Device, words: Vec<u64>) -> Words {
        Words { data: device.upload(words), device: device.clone() }
    }

    /// `n` zero words.
    pub fn zeros(device: &Device, n: usize) -> Words {
        Words { data: device.zeros(n), device: device.clone() }
    }

    /// Words 0..n, of `bits` bits each, of the ChaCha12 stream (key, nonce): word i is the low `bits` of its bits i·w to
    /// (i + 1)·w, w the smallest power of two from `bits` on. See [`crate::Backend::chacha12`].
    pub fn chacha12(device: &Device, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> Words {
        Words { data: device.chacha12(key, nonce, n, bits), device: device.clone() }
    }

    /// Reads `n` words of `bits` bits from a message.
    pub fn unpack(device: &Device, bytes: &[u8], bits: u32, n: usize) -> Words {
        Words { data: device.unpack(bytes, bits, n), device: device.clone() }
    }

    /// Appends the low `bits` of every word to a message.
    pub fn pack(&self, bits: u32, out: &mut Vec<u8>) {
        self.device.pack(&self.data, bits, out);
    }

    /// self ← (self op mask) mod 2^bits, whose words are appended to a message.
    pub fn mask_and_pack(mut self, op: Zip, mask: &Words, bits: u32, out: &mut Vec<u8>) -> Words {
        assert_eq!(self.len(), mask.len(), "one mask for each word");
        self.device.mask_and_pack(op, &mut self.data, &mask.data, bits, out);
        self
    }

    /// (self op w) mod 2^bits for the words w of a message.
    pub fn combine_packed(mut self, op: Zip, bytes: &[u8], bits: u32) -> Words {
        self.device.combine_packed(op, &mut self.data, bytes, bits);
        self
    }

    /// The words, on the host.
    pub fn to_vec(&self) -> Vec<u64> {
        self.device.download(&self.data).into_owned()
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.device.len(&self.data)
    }

    /// Whether there are no words.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device these words live on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The results of a formula whose inputs are on one device.
    pub(crate) fn evaluate(inputs: &[&Words], formula: &Formula) -> Vec<Words> {
        assert!(
            inputs.iter().all(|w| w.len() == inputs[0].len()),
            "a formula of buffers of different length"
        );
        let data: Vec<&Storage> = inputs.iter().map(|w| &w.data).collect();
        inputs[0].device.formula(formula, &data).into_iter().map(|d| inputs[0].with(d)).collect()
    }

    fn map(mut self, op: Map) -> Words {
        self.device.map(op, &mut self.data);
        self
    }

    fn zip(mut self, op: Zip, b: &Words) -> Words {
        assert_eq!(self.len(), b.len(), "element-wise operation of buffers of different length");
        self.device.zip(op, &mut self.data, &b.data);
        self
    }

    fn zipped(&self, op: Zip, b: &Words) -> Words {
        assert_eq!(self.len(), b.len(), "element-wise operation of buffers of different length");
        self.with(self.device.zipped(op, &self.data, &b.data))
    }

    fn mapped(&self, op: Map) -> Words {
        self.with(self.device.mapped(op, &self.data))
    }

    /// Reduces every word to its low `bits`.
    pub fn low(self, bits: u32) -> Words {
        if bits >= 64 { self } else { self.map(Map::And((1 << bits) - 1)) }
    }

    /// e^(w mod 2^s / 2^s) for every word w, at [`EXP_BITS`](crate::EXP_BITS) fractional bits.
    ///
    /// # Panics
    /// If s is not between 1 and 63.
    pub fn exp(&self, s: u32) -> Words {
        assert!((1..64).contains(&s), "fraction of {s} bits");
        self.mapped(Map::Exp(s))
    }

    /// `self[i][j] op r[i]`.
    pub fn zip_rows(mut self, op: Zip, r: &Words) -> Words {
        assert!(!r.is_empty() && self.len().is_multiple_of(r.len()), "row broadcast");
        self.device.zip_rows(op, &mut self.data, &r.data);
        self
    }

    /// `self[i][j] op c[j]`.
    pub fn zip_cols(mut self, op: Zip, c: &Words) -> Words {
        assert!(!c.is_empty() && self.len().is_multiple_of(c.len()), "column broadcast");
        self.device.zip_cols(op, &mut self.data, &c.data);
        self
    }

    /// Sums of equal rows of length `cols`.
    pub fn sum_rows(&self, cols: usize) -> Words {
        self.sum_segments(&Segments::even(self.len() / cols, cols))
    }

    /// Sum of each segment.
    pub fn sum_segments(&self, offsets: &Segments) -> Words {
        self.with(self.device.reduce_segments(Zip::Add, &self.data, offsets))
    }

    /// `self[idx[0]]`, `self[idx[1]]`, …
    pub fn gather(&self, idx: &Indices) -> Words {
        self.with(self.device.gather(&self.data, idx))
    }

    /// Zeros of length `len`, with `self[i]` at `idx[i]`.
    pub fn scatter(&self, idx: &Indices, len: usize) -> Words {
        self.with(self.device.scatter(&self.data, idx, len))
    }

    /// A contiguous part.
    pub fn slice(&self, range: Range<usize>) -> Words {
        self.with(self.device.slice(&self.data, range))
    }

    /// One after the other.
    ///
    /// # Panics
    /// If `parts` is empty.
    pub fn concat(parts: &[&Words]) -> Words {
        let data: Vec<&Storage> = parts.iter().map(|p| &p.data).collect();
        parts[0].with(parts[0].device.concat(&data))
    }

    /// `self[m×k] · R^T = [m×n]`, where R's n × k words are sums of the streams': see [`crate::Backend::gemm_regenerated`].
    pub fn by_streams(&self, streams: &[KeyStream<'_>], n: usize, k: usize) -> Words {
        let m = self.len() / k;
        assert_eq!(self.len(), m * k, "input width");
        self.with(self.device.gemm_regenerated(&self.data, streams, None, [m, k, n]))
    }

    /// Many small products.
    pub fn gemm_batch(&self, b: &Words, shape: &GemmBatch) -> Words {
        self.with(self.device.gemm_batch(&self.data, &b.data, shape))
    }

    /// Flips bit `idx[i]` of the `width`-bit row i.
    pub fn flip_bit(mut self, width: usize, idx: &Words) -> Words {
        self.device.flip_bit(&mut self.data, width, &idx.data);
        self
    }

    /// Bit `idx[i]` of the `width`-bit row i.
    pub fn bit_at(&self, width: usize, idx: &Words) -> Words {
        self.with(self.device.bit_at(&self.data, width, &idx.data))
    }

    /// Number of ones of each `width`-bit row.
    pub fn count_bits(&self, width: usize) -> Words {
        self.with(self.device.count_bits(&self.data, width))
    }

    /// Moves bit j of row i to bit `(j + rot[i]) mod width`.
    pub fn rotate_bits(&self, width: usize, rot: &Words) -> Words {
        self.with(self.device.rotate_bits(&self.data, width, &rot.data))
    }

    /// Bit j of each row becomes the xor of its bits j and above.
    pub fn suffix_xor(&self, width: usize) -> Words {
        self.with(self.device.suffix_xor(&self.data, width))
    }

    /// Combinations of each segment's rows of bits: see [`crate::Backend::random_combinations`].
    pub fn random_combinations(
        &self,
        coins: &Words,
        width: usize,
        planes: usize,
        offsets: &Segments,
    ) -> Words {
        self.with(self.device.random_combinations(&self.data, &coins.data, width, planes, offsets))
    }

    /// See [`crate::Backend::transpose_bits`].
    pub fn transpose_bits(&self, width: usize, total: usize, first: usize, count: usize) -> Words {
        self.with(self.device.transpose_bits(&self.data, width, total, first, count))
    }

    /// Selects from tables by shares of a one-hot row, see [`crate::Backend::select`].
    pub fn select(&self, tables: &Tables, rot: &Words, phase: &Words) -> Vec<Words> {
        self.device
            .select(&self.data, &tables.data, tables.entries, tables.columns, &rot.data, &phase.data)
            .into_iter()
            .map(|d| self.with(d))
            .collect()
    }

    /// Distributed comparison keys with thresholds `self` and payloads `beta`, see [`crate::Backend::dcf_generate`].
    pub fn dcf_generate(
        &self,
        shape: &DcfShape,
        beta: &Words,
        root0: &Words,
        root1: &Words,
    ) -> DcfKeys<Words> {
        self.device
            .dcf_generate(shape, &self.data, &beta.data, &root0.data, &root1.data)
            .map(|w| self.with(w))
    }

    /// Evaluates key i at `self[i]` minus each threshold, see [`crate::Backend::dcf_evaluate`].
    pub fn dcf_evaluate(
        &self,
        party: u8,
        root: &Words,
        keys: &DcfKeys<Words>,
        constant: &Words,
        thresholds: &DcfThresholds,
    ) -> Words {
        let keys = keys.as_ref().map(|w| &w.data);
        self.with(self.device.dcf_evaluate(party, &root.data, &keys, &self.data, &constant.data, thresholds))
    }

    /// Point functions that are 1 at the points `self`, see [`crate::Backend::dpf_generate`].
    pub fn dpf_generate(&self, points: usize, root0: &Words, root1: &Words) -> DpfKeys<Words> {
        let k = self.device.dpf_generate(points, &self.data, &root0.data, &root1.data);
        DpfKeys { seeds: self.with(k.seeds), controls: self.with(k.controls), last: self.with(k.last) }
    }

    /// Shares by xor, at all points, of the point functions with the roots `self`, see [`crate::Backend::dpf_evaluate`].
    pub fn dpf_evaluate(&self, party: u8, points: usize, keys: &DpfKeys<Words>) -> Words {
        let k = DpfKeys { seeds: &keys.seeds.data, controls: &keys.controls.data, last: &keys.last.data };
        self.with(self.device.dpf_evaluate(party, points, &self.data, &k))
    }
}

impl DpfKeys<Words> {
    /// Appends one party's keys, one after the other, [`dpf_key_bytes`] each: root, seed corrections from the root's
    /// level down, control corrections (2 bits a level from the low end of each byte on, left then right, the last
    /// byte filled up with zeros), output correction. Words are little-endian.
    pub fn pack(&self, points: usize, root: &Words, out: &mut Vec<u8>) {
        let levels = dpf_levels(points);
        let [root, seeds, controls, last] =
            [root, &self.seeds, &self.controls, &self.last].map(Words::to_vec);
        let put = |out: &mut Vec<u8>, words: &[u64]| out.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        for (i, (root, last)) in root.chunks_exact(2).zip(last.chunks_exact(2)).enumerate() {
            put(out, root);
            put(out, &seeds[2 * levels * i..][..2 * levels]);
            for four in controls[levels * i..][..levels].chunks(4) {
                out.push(four.iter().rev().fold(0, |byte, c| byte << 2 | (c & 3) as u8));
            }
            put(out, last);
        }
    }

    /// The inverse of [`DpfKeys::pack`]: roots and correction words. `None` if the length is not that of whole keys;
    /// any bytes of such a length are keys (of something).
    pub fn unpack(device: &Device, points: usize, bytes: &[u8]) -> Option<(Words, DpfKeys<Words>)> {
        let (levels, size) = (dpf_levels(points), dpf_key_bytes(points));
        if !bytes.len().is_multiple_of(size) {
            return None;
        }
        let [mut root, mut seeds, mut controls, mut last] = [const { Vec::new() }; 4];
        let take = |to: &mut Vec<u64>, bytes: &[u8]| {
            to.extend(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)));
        };
        for key in bytes.chunks_exact(size) {
            take(&mut root, &key[..16]);
            take(&mut seeds, &key[16..16 * (1 + levels)]);
            let packed = &key[16 * (1 + levels)..size - 16];
            controls.extend((0..levels).map(|l| u64::from(packed[l / 4] >> (2 * (l % 4)) & 3)));
            take(&mut last, &key[size - 16..]);
        }
        let up = |words| Words::upload(device, words);
        Some((up(root), DpfKeys { seeds: up(seeds), controls: up(controls), last: up(last) }))
    }
}

macro_rules! binary {
    ($tr:ident, $f:ident, $op:expr) => {
        impl $tr<&Words> for Words {
            type Output = Words;
            fn $f(self, b: &Words) -> Words {
                self.zip($op, b)
            }
        }
        impl $tr<Words> for Words {
            type Output = Words;
            fn $f(self, b: Words) -> Words {
                self.zip($op, &b)
            }
        }
        impl $tr<&Words> for &Words {
            type Output = Words;
            fn $f(self, b: &Words) -> Words {
                self.zipped($op, b)
            }
        }
        impl $tr<Words> for &Words {
            type Output = Words;
            fn $f(self, b: Words) -> Words {
                // All but the difference may as well be taken the other way round, in place.
                if $op == Zip::Sub { self.zipped($op, &b) } else { b.zip($op, self) }
            }
        }
    };
}
binary!(Add, add, Zip::Add);
binary!(Sub, sub, Zip::Sub);
binary!(Mul, mul, Zip::Mul);
binary!(BitXor, bitxor, Zip::Xor);
binary!(BitAnd, bitand, Zip::And);

macro_rules! scalar {
    ($tr:ident, $f:ident, $t:ty, $c:ident => $op:expr) => {
        impl $tr<$t> for Words {
            type Output = Words;
            fn $f(self, $c: $t) -> Words {
                self.map($op)
            }
        }
        impl $tr<$t> for &Words {
            type Output = Words;
            fn $f(self, $c: $t) -> Words {
                self.mapped($op)
            }
        }
    };
}
scalar!(Add, add, u64, c => Map::Add(c));
scalar!(Sub, sub, u64, c => Map::Add(c.wrapping_neg()));
scalar!(Mul, mul, u64, c => Map::Mul(c));
scalar!(BitAnd, bitand, u64, c => Map::And(c));
scalar!(BitXor, bitxor, u64, c => Map::Xor(c));
scalar!(Shl, shl, u32, c => Map::Shl(c));
scalar!(Shr, shr, u32, c => Map::Shr(c));

impl Neg for Words {
    type Output = Words;
    fn neg(self) -> Words {
        self.map(Map::Neg)
    }
}

impl Neg for &Words {
    type Output = Words;
    fn neg(self) -> Words {
        self.mapped(Map::Neg)
    }
}

/// A right-hand matrix prepared for products, n outputs of k inputs each.
#[derive(Clone)]
pub struct Matrix {
    device: Device,
    data: Arc<Storage>,
    /// Of products with words, and with bits.
    readings: Arc<[Readings; 2]>,
    k: usize,
    n: usize,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix({} outputs of {} inputs)", self.n, self.k)
    }
}

impl Matrix {
    /// Prepares `weights`, n rows of k words.
    pub fn new(weights: &Words, n: usize, k: usize) -> Matrix {
        assert_eq!(weights.len(), n * k, "matrix size");
        let data = weights.device.pack_matrix(&weights.data, k, n);
        Matrix::of(&weights.device, data, n, k)
    }

    fn of(device: &Device, data: Storage, n: usize, k: usize) -> Matrix {
        Matrix { device: device.clone(), data: Arc::new(data), readings: Arc::default(), k, n }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.n
    }

    /// Whether both are one matrix, not only equal ones.
    pub fn is(&self, other: &Matrix) -> bool {
        Arc::ptr_eq(&self.data, &other.data)
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// self + other, element by element.
    ///
    /// # Panics
    /// If they are of different shapes.
    pub fn plus(&self, other: &Matrix) -> Matrix {
        assert_eq!((self.n, self.k), (other.n, other.k), "sum of matrices of different shapes");
        Matrix::of(&self.device, self.device.add_matrices(&self.data, &other.data, self.k), self.n, self.k)
    }

    /// `x[m×k] · self^T = [m×n]`. Few rows are taken along by a product that another thread makes with this matrix, if
    /// there is one to come.
    pub fn apply(&self, x: &Words) -> Words {
        self.product(x, 64, Manner::Passing)
    }

    /// [`Matrix::apply`] modulo 2^bits; the words of the result are below that.
    ///
    /// # Panics
    /// If `bits` is 0 or above 64.
    pub fn apply_low(&self, x: &Words, bits: u32) -> Words {
        self.product(x, bits, Manner::Passing)
    }

    /// The same at a place of a program that other threads run as well: if some of them came to this matrix together
    /// with this thread the last time, it waits a moment for them, so that one reading serves all.
    ///
    /// # Panics
    /// As [`Matrix::apply_low`].
    pub fn apply_in_step(&self, x: &Words, bits: u32) -> Words {
        self.product(x, bits, Manner::InStep)
    }

    fn product(&self, x: &Words, bits: u32, manner: Manner) -> Words {
        assert!((1..=64).contains(&bits), "a product modulo 2^{bits}");
        let m = x.len() / self.k;
        assert_eq!(x.len(), m * self.k, "input width");
        let (k, n) = (self.k, self.n);
        if m > self.device.rows_together() {
            return x.with(self.device.gemm_low(&x.data, &self.data, m, k, n, bits));
        }
        // Few rows wait for memory, whatever the modulus, and others' rows may have another one.
        let multiply = |x: &Storage, m| {
            let product = self.device.gemm(x, &self.data, m, k, n);
            (product, self.device.status().is_ok())
        };
        x.with(self.readings[0].product(&self.device, &multiply, &x.data, m, manner)).low(bits)
    }

    /// `x[m×k] · self^T = [m×n]` for rows of bits, see [`crate::Backend::gemm_bits`], in step with other threads as
    /// [`Matrix::apply_in_step`].
    ///
    /// # Panics
    /// If x is no whole number of rows.
    pub fn apply_bits(&self, x: &Words) -> Words {
        let words = self.k.div_ceil(64);
        let m = x.len() / words;
        assert_eq!(x.len(), m * words, "input width");
        let multiply = |x: &Storage, m| {
            let sums = self.device.gemm_bits(x, &self.data, m, self.k, self.n);
            (sums, self.device.status().is_ok())
        };
        x.with(self.readings[1].product(&self.device, &multiply, &x.data, m, Manner::InStep))
    }

    /// `x[m×k] · self^T + y[m×k] · R^T` = `[m×n]`, where R is as large as this matrix and its words are the stream's: of
    /// both matrices' products with few rows each word is read, or made, once. See [`crate::Backend::gemm_regenerated`].
    pub fn apply_beside(&self, x: &Words, y: &Words, stream: KeyStream<'_>) -> Words {
        let m = x.len() / self.k;
        assert!(x.len() == m * self.k && y.len() == x.len(), "input width");
        let (shape, beside) = ([m, self.k, self.n], Some((&x.data, &*self.data)));
        y.with(y.device.gemm_regenerated(&y.data, &[stream], beside, shape))
    }
}

/// Public tables for [`Words::select`].
#[derive(Clone, Debug)]
pub struct Tables {
    data: Arc<Storage>,
    entries: usize,
    columns: usize,
}

impl Tables {
    /// `columns[c][phase · entries + i]`.
    pub fn new(device: &Device, columns: &[Vec<u64>], entries: usize) -> Tables {
        Tables { data: Arc::new(device.prepare_tables(columns, entries)), entries, columns: columns.len() }
    }

    /// Entries of one column in one phase.
    pub fn entries(&self) -> usize {
        self.entries
    }
}
