//! A graphics processor with CUDA: every operation of a party on its own memory.
//!
//! The kernels (`cu/`) are compiled ahead to PTX, which the driver turns into code for the device it finds; a program
//! needs neither the CUDA toolkit nor, to start, a driver. Short operations are written down and go together (`wave.rs`). What is
//! asked of the device is queued in one stream; only reading words back waits for it, and an upload after very many others
//! that the device has not come to yet. The device belongs to the process, and parties that share it take turns.
//!
//! Failures do not panic: see [`Backend::status`].

mod bits;
mod buffer;
mod dcf;
mod dpf;
mod draft;
pub mod driver;
mod elementwise;
mod failures;
mod formula;
mod gemm;
mod kept;
mod message;
mod moves;
mod nvidia;
pub mod nvrtc;
mod owed;
pub mod ptx;
mod select;
pub mod source;
mod stream;
mod wave;

use crate::backend::{Backend, DpfKeys, GemmBatch, KeyStream, Map, Storage, Zip};
use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};
use crate::failure::DeviceError;
use crate::formula::{Formula, Input};
use crate::indices::{Indices, Segments};
use crate::message::{Message, Received};
pub use buffer::DeviceWords;
use buffer::{Core, bytes};
use driver::{Arg, Driver, Launch};
pub(crate) use kept::Kept;
pub use nvidia::{NoDevice, open};
pub(crate) use owed::Owed;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// A device with memory of its own as a [`Device`](crate::Device).
#[derive(Debug)]
pub struct Cuda {
    core: Arc<Core>,
}

impl Cuda {
    /// Any device that runs the kernels.
    pub fn with_driver(driver: Arc<dyn Driver>) -> Cuda {
        Cuda { core: Arc::new(Core::new(driver)) }
    }

    /// The words of a buffer of this device.
    fn words<'a>(&self, a: &'a Storage) -> &'a DeviceWords {
        match a {
            Storage::Device(words) if words.is_of(&self.core) => words,
            _ => panic!("an operation of {} was given words of another device", self.core.driver.name()),
        }
    }

    fn uploaded(&self, operation: &'static str, words: &[u64]) -> DeviceWords {
        self.core.upload(operation, bytes(words))
    }

    /// What an operation made. If anything of it failed, also after memory for this was there, it has no content.
    fn made(&self, mut words: DeviceWords) -> Storage {
        words.forget_unless_made();
        Storage::Device(words)
    }

    fn launch(&self, launch: Launch, args: &[Arg<'_>]) {
        self.core.launch(launch, args);
    }
}

impl Backend for Cuda {
    fn name(&self) -> String {
        self.core.driver.name()
    }

    fn status(&self) -> Result<(), DeviceError> {
        self.core.status()
    }

    fn begin(&self) {
        self.core.begin();
    }

    fn memory(&self) -> Option<(u64, u64)> {
        self.core.memory()
    }

    fn upload(&self, words: Vec<u64>) -> Storage {
        self.made(self.uploaded("upload", &words))
    }

    fn zeros(&self, n: usize) -> Storage {
        self.made(self.core.zeroed("zeros", n))
    }

    fn download<'a>(&self, a: &'a Storage) -> Cow<'a, [u64]> {
        Cow::Owned(self.words(a).to_vec())
    }

    fn len(&self, a: &Storage) -> usize {
        self.words(a).len()
    }

    fn pack(&self, a: &Storage, bits: u32, out: &mut Message) {
        self.packed(self.words(a), bits, out);
    }

    fn unpack(&self, bytes: &[u8], bits: u32, n: usize) -> Storage {
        self.made(self.unpacked(bytes, bits, n))
    }

    fn mask_and_pack(&self, op: Zip, a: &mut Storage, mask: &Storage, bits: u32, out: &mut Message) {
        if let Some(masked) = self.mask_packed(op, self.words(a), self.words(mask), bits, true, out) {
            *a = self.made(masked);
        }
    }

    fn pack_masked(&self, op: Zip, a: Storage, mask: &Storage, bits: u32, out: &mut Message) {
        self.mask_packed(op, self.words(&a), self.words(mask), bits, false, out);
    }

    fn combine_packed(&self, op: Zip, a: &mut Storage, bytes: &[u8], bits: u32) {
        *a = self.made(self.combined_with_message(op, self.words(a), bytes, bits));
    }

    fn unpack_part(&self, message: &Received, at: usize, bits: u32, n: usize) -> Storage {
        self.made(self.unpacked_part(message, at, bits, n))
    }

    fn combine_part(&self, op: Zip, a: &mut Storage, message: &Received, at: usize, bits: u32) {
        *a = self.made(self.combined_with_part(op, self.words(a), message, at, bits));
    }

    fn formula(&self, formula: &Formula, inputs: &[Input<'_, Storage>], n: usize) -> Vec<Storage> {
        let inputs: Vec<_> =
            inputs.iter().map(|i| Input { words: self.words(i.words), at: i.at.clone() }).collect();
        self.evaluated(formula, &inputs, n).into_iter().map(|words| self.made(words)).collect()
    }

    fn zip(&self, op: Zip, a: &mut Storage, b: &Storage) {
        let a = self.words(a);
        self.zip_into(op, a, self.words(b), a);
    }

    fn map(&self, op: Map, a: &mut Storage) {
        let a = self.words(a);
        self.map_into(op, a, a);
    }

    fn zipped(&self, op: Zip, a: &Storage, b: &Storage) -> Storage {
        let a = self.words(a);
        let out = self.core.alloc("zip", a.len());
        self.zip_into(op, a, self.words(b), &out);
        self.made(out)
    }

    fn mapped(&self, op: Map, a: &Storage) -> Storage {
        let a = self.words(a);
        let out = self.core.alloc("map", a.len());
        self.map_into(op, a, &out);
        self.made(out)
    }

    fn reduce_segments(&self, op: Zip, a: &Storage, offsets: &Segments) -> Storage {
        self.made(self.reduced(op, self.words(a), offsets))
    }

    fn gather(&self, a: &Storage, idx: &Indices) -> Storage {
        self.made(self.gathered(self.words(a), idx))
    }

    fn slice(&self, a: &Storage, range: Range<usize>) -> Storage {
        self.made(self.sliced(self.words(a), range))
    }

    fn concat(&self, parts: &[&Storage]) -> Storage {
        let parts: Vec<&DeviceWords> = parts.iter().map(|p| self.words(p)).collect();
        self.made(self.concatenated(&parts))
    }

    fn scatter(&self, a: &Storage, idx: &Indices, len: usize) -> Storage {
        self.made(self.scattered(self.words(a), idx, len))
    }

    fn chacha12(&self, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> Storage {
        self.made(self.drawn(key, nonce, n, bits))
    }

    fn pack_matrix(&self, b: &Storage, k: usize, n: usize) -> Storage {
        self.packed_matrix(b, k, n)
    }

    fn add_matrices(&self, a: &Storage, b: &Storage, _: usize) -> Storage {
        // The layout only moves words.
        self.zipped(Zip::Add, a, b)
    }

    fn gemm(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        self.product(a, b, m, k, n)
    }

    fn gemm_bits(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        self.selected_sums(a, b, m, k, n)
    }

    fn gemm_regenerated(
        &self,
        y: &Storage,
        stream: &KeyStream<'_>,
        beside: Option<(&Storage, &Storage)>,
        shape: [usize; 3],
    ) -> Storage {
        self.regenerated(y, stream, beside, shape)
    }

    fn gemm_batch(&self, a: &Storage, b: &Storage, shape: &GemmBatch) -> Storage {
        self.products(a, b, shape)
    }

    fn flip_bit(&self, u: &mut Storage, width: usize, idx: &Storage) {
        self.flip(self.words(u), width, self.words(idx));
    }

    fn bit_at(&self, u: &Storage, width: usize, idx: &Storage) -> Storage {
        self.made(self.bits_at(self.words(u), width, self.words(idx)))
    }

    fn count_bits(&self, u: &Storage, width: usize) -> Storage {
        self.made(self.counted(self.words(u), width))
    }

    fn rotate_bits(&self, u: &Storage, width: usize, rot: &Storage) -> Storage {
        self.made(self.rotated(self.words(u), width, self.words(rot)))
    }

    fn suffix_xor(&self, u: &Storage, width: usize) -> Storage {
        self.made(self.suffixes(self.words(u), width))
    }

    fn random_combinations(
        &self,
        u: &Storage,
        coins: &Storage,
        width: usize,
        planes: usize,
        offsets: &Segments,
    ) -> Storage {
        self.made(self.combined(self.words(u), self.words(coins), width, planes, offsets))
    }

    fn transpose_bits(
        &self,
        planes: &Storage,
        width: usize,
        total_planes: usize,
        first: usize,
        count: usize,
    ) -> Storage {
        self.made(self.transposed(self.words(planes), width, total_planes, first, count))
    }

    fn prepare_tables(&self, columns: &[Vec<u64>], entries: usize) -> Storage {
        self.made(self.tables(columns, entries))
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
        let [u, tables, rot, phase] = [u, tables, rot, phase].map(|s| self.words(s));
        let out = self.selected(u, tables, entries, columns, rot, phase);
        out.into_iter().map(|words| self.made(words)).collect()
    }

    fn dcf_generate(
        &self,
        shape: &DcfShape,
        alpha: &Storage,
        beta: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DcfKeys<Storage> {
        self.comparison_keys(shape, alpha, beta, root0, root1)
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
        self.comparisons(party, root, keys, base, constant, thresholds)
    }

    fn dpf_generate(
        &self,
        points: usize,
        alpha: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DpfKeys<Storage> {
        self.point_keys(points, alpha, root0, root1)
    }

    fn dpf_evaluate(&self, party: u8, points: usize, root: &Storage, keys: &DpfKeys<&Storage>) -> Storage {
        self.points(party, points, root, keys)
    }
}
