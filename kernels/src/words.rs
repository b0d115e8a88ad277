//! Buffers with operators, so that a gate's local computation reads like its formula.

use crate::backend::{Device, DpfKeys, GemmBatch, KeyStream, Map, Storage, Zip, dpf_key_bytes, dpf_levels};
use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};
use crate::formula::{Formula, Input};
use crate::indices::{Indices, Segments};
use crate::matrix::Tables;
use crate::message::{Message, Received};
use std::ops::{Add, BitAnd, BitXor, Mul, Neg, Range, Shl, Shr, Sub};

/// A vector of ring elements (or packed bit strings) on a device.
#[derive(Clone)]
pub struct Words {
    pub(crate) device: Device,
    pub(crate) data: Storage,
}

impl std::fmt::Debug for Words {
    /// Shares must not end up in logs: length only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Words({} words)", self.len())
    }
}

impl Words {
    pub(crate) fn with(&self, data: Storage) -> Words {
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

    /// Reads `n` words of `bits` bits from a message, from byte `at` on.
    pub fn unpack_part(device: &Device, message: &Received, at: usize, bits: u32, n: usize) -> Words {
        Words { data: device.unpack_part(message, at, bits, n), device: device.clone() }
    }

    /// Appends the low `bits` of every word to a message.
    pub fn pack_into(&self, bits: u32, out: &mut Message) {
        self.device.pack(&self.data, bits, out);
    }

    /// The same to bytes that are there.
    pub fn pack(&self, bits: u32, out: &mut Vec<u8>) {
        let mut message = Message::from(std::mem::take(out));
        self.pack_into(bits, &mut message);
        *out = message.into_bytes();
    }

    /// self ← (self op mask) mod 2^bits, whose words are appended to a message.
    pub fn mask_and_pack(mut self, op: Zip, mask: &Words, bits: u32, out: &mut Message) -> Words {
        assert_eq!(self.len(), mask.len(), "one mask for each word");
        self.device.mask_and_pack(op, &mut self.data, &mask.data, bits, out);
        self
    }

    /// Appends (self op mask) mod 2^bits to a message.
    pub fn pack_masked(self, op: Zip, mask: &Words, bits: u32, out: &mut Message) {
        assert_eq!(self.len(), mask.len(), "one mask for each word");
        self.device.pack_masked(op, self.data, &mask.data, bits, out);
    }

    /// (self op w) mod 2^bits for the words w of a message.
    pub fn combine_packed(mut self, op: Zip, bytes: &[u8], bits: u32) -> Words {
        self.device.combine_packed(op, &mut self.data, bytes, bits);
        self
    }

    /// (self op w) mod 2^bits for the words w of a message from byte `at` on.
    pub fn combine_part(mut self, op: Zip, message: &Received, at: usize, bits: u32) -> Words {
        self.device.combine_part(op, &mut self.data, message, at, bits);
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
    pub(crate) fn evaluate(inputs: &[Input<'_>], formula: &Formula) -> Vec<Words> {
        let (first, n) = (inputs[0].words, inputs[0].len());
        let data: Vec<Input<'_, Storage>> =
            inputs.iter().map(|i| Input { words: &i.words.data, at: i.at.clone() }).collect();
        first.device.formula(formula, &data, n).into_iter().map(|d| first.with(d)).collect()
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

    /// The same, at once if these are all words in their order.
    pub fn gathered(self, idx: &Indices) -> Words {
        if idx.is_all(self.len()) { self } else { self.gather(idx) }
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

    /// `self[m×k] · R^T = [m×n]`, where R's n × k words are the stream's: see [`crate::Backend::gemm_regenerated`].
    pub fn by_stream(&self, stream: &KeyStream<'_>, n: usize, k: usize) -> Words {
        let m = self.len() / k;
        assert_eq!(self.len(), m * k, "input width");
        self.with(self.device.gemm_regenerated(&self.data, stream, None, [m, k, n]))
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
