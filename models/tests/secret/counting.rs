//! A device that computes as another does and counts what it is asked for.

use kernels::cpu::Cpu;
use kernels::{
    Backend, DcfKeys, DcfShape, DcfThresholds, Device, DpfKeys, Formula, GemmBatch, Indices, Input,
    KeyStream, Map, Message, Segments, Storage, Zip,
};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Multiplications, and bytes of the right-hand matrix, by its inputs and outputs.
    pub matrices: BTreeMap<(usize, usize), [u64; 2]>,
    /// Those of the multiplications that are made modulo 2^52 or less.
    pub low: BTreeMap<(usize, usize), u64>,
    /// Multiplications of batches, and bytes of their right-hand sides.
    pub batches: [u64; 2],
    /// Bytes of random streams.
    pub random: u64,
}

/// The device.
#[derive(Debug)]
pub struct Counting {
    inner: Device,
    counts: Mutex<Counts>,
}

impl Counting {
    /// Counts what the processor does.
    pub fn new() -> Arc<Counting> {
        Arc::new(Counting { inner: Cpu::best(), counts: Mutex::default() })
    }

    /// What there was since the last call.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut self.counts.lock().unwrap())
    }

    fn count(&self, inputs: usize, outputs: usize, products: usize, words: usize) {
        let mut counts = self.counts.lock().unwrap();
        let [all, read] = counts.matrices.entry((inputs, outputs)).or_default();
        *all += products as u64;
        *read += 8 * words as u64;
    }

    fn count_batch(&self, products: usize, words: usize) {
        let mut counts = self.counts.lock().unwrap();
        counts.batches[0] += products as u64;
        counts.batches[1] += 8 * words as u64;
    }
}

impl Backend for Counting {
    fn name(&self) -> String {
        format!("counted {}", self.inner.name())
    }

    fn upload(&self, words: Vec<u64>) -> Storage {
        self.inner.upload(words)
    }

    fn zeros(&self, n: usize) -> Storage {
        self.inner.zeros(n)
    }

    fn download<'a>(&self, a: &'a Storage) -> Cow<'a, [u64]> {
        self.inner.download(a)
    }

    fn len(&self, a: &Storage) -> usize {
        self.inner.len(a)
    }

    fn pack(&self, a: &Storage, bits: u32, out: &mut Message) {
        self.inner.pack(a, bits, out)
    }

    fn unpack(&self, bytes: &[u8], bits: u32, n: usize) -> Storage {
        self.inner.unpack(bytes, bits, n)
    }

    fn mask_and_pack(&self, op: Zip, a: &mut Storage, mask: &Storage, bits: u32, out: &mut Message) {
        self.inner.mask_and_pack(op, a, mask, bits, out)
    }

    fn pack_masked(&self, op: Zip, a: Storage, mask: &Storage, bits: u32, out: &mut Message) {
        self.inner.pack_masked(op, a, mask, bits, out)
    }

    fn combine_packed(&self, op: Zip, a: &mut Storage, bytes: &[u8], bits: u32) {
        self.inner.combine_packed(op, a, bytes, bits)
    }

    fn formula(&self, formula: &Formula, inputs: &[Input<'_, Storage>], n: usize) -> Vec<Storage> {
        self.inner.formula(formula, inputs, n)
    }

    fn zip(&self, op: Zip, a: &mut Storage, b: &Storage) {
        self.inner.zip(op, a, b)
    }

    fn map(&self, op: Map, a: &mut Storage) {
        self.inner.map(op, a)
    }

    fn zipped(&self, op: Zip, a: &Storage, b: &Storage) -> Storage {
        self.inner.zipped(op, a, b)
    }

    fn mapped(&self, op: Map, a: &Storage) -> Storage {
        self.inner.mapped(op, a)
    }

    fn reduce_segments(&self, op: Zip, a: &Storage, offsets: &Segments) -> Storage {
        self.inner.reduce_segments(op, a, offsets)
    }

    fn gather(&self, a: &Storage, idx: &Indices) -> Storage {
        self.inner.gather(a, idx)
    }

    fn slice(&self, a: &Storage, range: Range<usize>) -> Storage {
        self.inner.slice(a, range)
    }

    fn concat(&self, parts: &[&Storage]) -> Storage {
        self.inner.concat(parts)
    }

    fn scatter(&self, a: &Storage, idx: &Indices, len: usize) -> Storage {
        self.inner.scatter(a, idx, len)
    }

    fn chacha12(&self, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> Storage {
        self.counts.lock().unwrap().random += (n as u64 * u64::from(bits.next_power_of_two())).div_ceil(8);
        self.inner.chacha12(key, nonce, n, bits)
    }

    fn pack_matrix(&self, b: &Storage, k: usize, n: usize) -> Storage {
        self.inner.pack_matrix(b, k, n)
    }

    fn add_matrices(&self, a: &Storage, b: &Storage, k: usize) -> Storage {
        self.inner.add_matrices(a, b, k)
    }

    fn gemm(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        self.count(k, n, m * k * n, k * n);
        self.inner.gemm(a, b, m, k, n)
    }

    fn gemm_bits(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        self.count(k, n, 0, k * n);
        self.inner.gemm_bits(a, b, m, k, n)
    }

    fn gemm_low(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize, bits: u32) -> Storage {
        self.count(k, n, m * k * n, k * n);
        if bits <= 52 {
            *self.counts.lock().unwrap().low.entry((k, n)).or_default() += (m * k * n) as u64;
        }
        self.inner.gemm_low(a, b, m, k, n, bits)
    }

    fn gemm_regenerated(
        &self,
        y: &Storage,
        stream: &KeyStream<'_>,
        beside: Option<(&Storage, &Storage)>,
        mkn: [usize; 3],
    ) -> Storage {
        let ([m, k, n], stored) = (mkn, usize::from(beside.is_some()));
        self.count(k, n, (stored + 1) * m * k * n, stored * k * n);
        self.counts.lock().unwrap().random += (8 * k * n) as u64;
        self.inner.gemm_regenerated(y, stream, beside, mkn)
    }

    fn gemm_batch(&self, a: &Storage, b: &Storage, shape: &GemmBatch) -> Storage {
        let products = shape.m * shape.n * shape.k * shape.offsets.len();
        self.count_batch(products, self.len(b));
        self.inner.gemm_batch(a, b, shape)
    }

    fn flip_bit(&self, u: &mut Storage, width: usize, idx: &Storage) {
        self.inner.flip_bit(u, width, idx)
    }

    fn bit_at(&self, u: &Storage, width: usize, idx: &Storage) -> Storage {
        self.inner.bit_at(u, width, idx)
    }

    fn count_bits(&self, u: &Storage, width: usize) -> Storage {
        self.inner.count_bits(u, width)
    }

    fn rotate_bits(&self, u: &Storage, width: usize, rot: &Storage) -> Storage {
        self.inner.rotate_bits(u, width, rot)
    }

    fn suffix_xor(&self, u: &Storage, width: usize) -> Storage {
        self.inner.suffix_xor(u, width)
    }

    fn random_combinations(
        &self,
        u: &Storage,
        coins: &Storage,
        width: usize,
        planes: usize,
        offsets: &Segments,
    ) -> Storage {
        self.inner.random_combinations(u, coins, width, planes, offsets)
    }

    fn transpose_bits(
        &self,
        planes: &Storage,
        width: usize,
        total_planes: usize,
        first: usize,
        count: usize,
    ) -> Storage {
        self.inner.transpose_bits(planes, width, total_planes, first, count)
    }

    fn prepare_tables(&self, columns: &[Vec<u64>], entries: usize) -> Storage {
        self.inner.prepare_tables(columns, entries)
    }

    fn select(
        &self,
        u: &Storage,
        tables: &Storage,
        entries: usize,
        columns: usize,
        rot: &Storage,
        phase: &Storage,
    ) -> Vec<Storage> {
        self.inner.select(u, tables, entries, columns, rot, phase)
    }

    fn dcf_generate(
        &self,
        shape: &DcfShape,
        alpha: &Storage,
        beta: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DcfKeys<Storage> {
        self.inner.dcf_generate(shape, alpha, beta, root0, root1)
    }

    fn dcf_evaluate(
        &self,
        party: u8,
        root: &Storage,
        keys: &DcfKeys<&Storage>,
        base: &Storage,
        constant: &Storage,
        thresholds: &DcfThresholds,
    ) -> Storage {
        self.inner.dcf_evaluate(party, root, keys, base, constant, thresholds)
    }

    fn dpf_generate(
        &self,
        points: usize,
        alpha: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DpfKeys<Storage> {
        self.inner.dpf_generate(points, alpha, root0, root1)
    }

    fn dpf_evaluate(&self, party: u8, points: usize, root: &Storage, keys: &DpfKeys<&Storage>) -> Storage {
        self.inner.dpf_evaluate(party, points, root, keys)
    }
}
