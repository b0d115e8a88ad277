//! The processor: plain Rust everywhere, with faster inner loops where the machine has the instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bits;
mod combine;
mod dcf;
mod dpf;
mod elementwise;
mod formula;
mod gemm;
mod lanes;
mod message;
mod par;
mod scalar;
mod select;
mod stream;
mod sums;

use crate::backend::{Backend, Device, DpfKeys, GemmBatch, KeyStream, Map, Storage, Zip};
use crate::buffer::{self, Buffer};
use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};
use crate::formula::{Formula, Input};
use crate::indices::{Indices, Segments};
use crate::message::Message;
use dcf::Inputs;
use formula::Source;
use lanes::{Lanes, Selection};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Instruction sets with inner loops of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every machine has.
    Scalar,
    /// 256-bit integer vectors.
    Avx2,
    /// 512-bit integer vectors with 64-bit products.
    Avx512,
    /// The same, with products of tiles of bytes (Intel AMX).
    Amx,
}

/// This machine's processor as a [`Device`].
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    lanes: &'static dyn Lanes,
}

/// Sets how many threads this process computes with; 0 is one for each core. Only the first call of a process counts,
/// and only before anything was computed.
pub fn use_threads(threads: usize) {
    // An error means that the pool exists already; its size then stands.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}

impl Cpu {
    /// The fastest one, ready to share.
    pub fn best() -> Device {
        Arc::new(Cpu::detect())
    }

    /// The fastest one.
    pub fn detect() -> Cpu {
        [Isa::Amx, Isa::Avx512, Isa::Avx2].into_iter().find_map(Cpu::with).unwrap_or_else(Cpu::scalar)
    }

    /// Plain Rust only.
    pub fn scalar() -> Cpu {
        Cpu { isa: Isa::Scalar, lanes: &scalar::Scalar }
    }

    /// The given instruction set, if this machine has it.
    pub fn with(isa: Isa) -> Option<Cpu> {
        let lanes: &'static dyn Lanes = match isa {
            Isa::Scalar => &scalar::Scalar,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::Avx2::detect()?,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::Avx512::detect()?,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => avx512::Avx512::with_tiles()?,
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => return None,
        };
        Some(Cpu { isa, lanes })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Multiplies registers `rounds` times, which memory cannot hold up, and returns the number of 64-bit products; `None` without
    /// an instruction for them.
    pub(crate) fn multiply_registers(&self, rounds: usize) -> Option<usize> {
        self.lanes.multiply_registers(rounds)
    }
}

impl Storage {
    /// The words in main memory.
    ///
    /// # Panics
    /// If they are elsewhere: the words of an operation are all on its device.
    fn host(&self) -> &[u64] {
        match self {
            Storage::Host(words) => words,
            Storage::Device(_) => panic!("an operation of the processor was given words of another device"),
        }
    }

    /// The same, writable.
    fn host_mut(&mut self) -> &mut [u64] {
        match self {
            Storage::Host(words) => words,
            Storage::Device(_) => panic!("an operation of the processor was given words of another device"),
        }
    }
}

fn host(words: Vec<u64>) -> Storage {
    Storage::Host(Buffer::ours(words))
}

impl Backend for Cpu {
    fn name(&self) -> String {
        let isa = match self.isa {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        };
        format!("cpu ({isa}, {} threads)", rayon::current_num_threads())
    }

    fn upload(&self, words: Vec<u64>) -> Storage {
        Storage::Host(words.into())
    }

    fn zeros(&self, n: usize) -> Storage {
        host(buffer::zeroed(n))
    }

    fn download<'a>(&self, a: &'a Storage) -> Cow<'a, [u64]> {
        Cow::Borrowed(a.host())
    }

    fn len(&self, a: &Storage) -> usize {
        a.host().len()
    }

    fn pack(&self, a: &Storage, bits: u32, out: &mut Message) {
        message::pack(self.lanes, a.host(), bits, out.bytes());
    }

    fn unpack(&self, bytes: &[u8], bits: u32, n: usize) -> Storage {
        host(message::unpack(self.lanes, bytes, bits, n))
    }

    fn mask_and_pack(&self, op: Zip, a: &mut Storage, mask: &Storage, bits: u32, out: &mut Message) {
        message::mask_and_pack(self.lanes, op, a.host_mut(), mask.host(), bits, out.bytes());
    }

    fn pack_masked(&self, op: Zip, a: Storage, mask: &Storage, bits: u32, out: &mut Message) {
        message::pack_masked(self.lanes, op, a.host(), mask.host(), bits, out.bytes());
    }

    fn combine_packed(&self, op: Zip, a: &mut Storage, bytes: &[u8], bits: u32) {
        message::combine_packed(self.lanes, op, a.host_mut(), bytes, bits);
    }

    fn formula(&self, formula: &Formula, inputs: &[Input<'_, Storage>], n: usize) -> Vec<Storage> {
        let inputs: Vec<Source<'_>> =
            inputs.iter().map(|i| Source::new(i.words.host(), i.at.as_ref(), n)).collect();
        formula::evaluate(self.lanes, formula, &inputs, n).into_iter().map(host).collect()
    }

    fn zip(&self, op: Zip, a: &mut Storage, b: &Storage) {
        elementwise::zip(self.lanes, op, a.host_mut(), b.host());
    }

    fn zipped(&self, op: Zip, a: &Storage, b: &Storage) -> Storage {
        host(elementwise::zipped(self.lanes, op, a.host(), b.host()))
    }

    fn mapped(&self, op: Map, a: &Storage) -> Storage {
        host(elementwise::mapped(self.lanes, op, a.host()))
    }

    fn map(&self, op: Map, a: &mut Storage) {
        elementwise::map(self.lanes, op, a.host_mut());
    }

    fn reduce_segments(&self, op: Zip, a: &Storage, offsets: &Segments) -> Storage {
        host(elementwise::reduce_segments(op, a.host(), offsets))
    }

    fn gather(&self, a: &Storage, idx: &Indices) -> Storage {
        host(elementwise::gather(a.host(), idx))
    }

    fn slice(&self, a: &Storage, range: Range<usize>) -> Storage {
        host(buffer::concat(&[&a.host()[range]]))
    }

    fn concat(&self, parts: &[&Storage]) -> Storage {
        host(buffer::concat(&parts.iter().map(|p| p.host()).collect::<Vec<_>>()))
    }

    fn scatter(&self, a: &Storage, idx: &Indices, len: usize) -> Storage {
        host(elementwise::scatter(a.host(), idx, len))
    }

    fn chacha12(&self, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> Storage {
        host(stream::chacha12(self.lanes, key, nonce, n, bits))
    }

    fn pack_matrix(&self, b: &Storage, k: usize, n: usize) -> Storage {
        host(gemm::pack_matrix(self.lanes, b.host(), k, n))
    }

    fn add_matrices(&self, a: &Storage, b: &Storage, k: usize) -> Storage {
        host(gemm::add_packed(self.lanes, a.host(), b.host(), k))
    }

    fn gemm(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        host(gemm::gemm(self.lanes, a.host(), b.host(), [m, k, n], 64))
    }

    fn gemm_low(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize, bits: u32) -> Storage {
        host(gemm::gemm(self.lanes, a.host(), b.host(), [m, k, n], bits))
    }

    fn gemm_bits(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        host(sums::gemm_bits(self.lanes, a.host(), b.host(), m, k, n))
    }

    fn rows_together(&self) -> usize {
        gemm::TOGETHER
    }

    fn gemm_regenerated(
        &self,
        y: &Storage,
        stream: &KeyStream<'_>,
        beside: Option<(&Storage, &Storage)>,
        [m, k, n]: [usize; 3],
    ) -> Storage {
        let mut c = match beside {
            Some((x, stored)) => gemm::gemm(self.lanes, x.host(), stored.host(), [m, k, n], 64),
            None => buffer::zeroed(m * n),
        };
        gemm::add_regenerated(self.lanes, &mut c, y.host(), stream, [m, k, n]);
        host(c)
    }

    fn gemm_batch(&self, a: &Storage, b: &Storage, shape: &GemmBatch) -> Storage {
        host(gemm::gemm_batch(self.lanes, a.host(), b.host(), shape))
    }

    fn flip_bit(&self, u: &mut Storage, width: usize, idx: &Storage) {
        bits::flip_bit(self.lanes, u.host_mut(), width, idx.host());
    }

    fn bit_at(&self, u: &Storage, width: usize, idx: &Storage) -> Storage {
        host(bits::bit_at(self.lanes, u.host(), width, idx.host()))
    }

    fn count_bits(&self, u: &Storage, width: usize) -> Storage {
        host(bits::count_bits(u.host(), width))
    }

    fn rotate_bits(&self, u: &Storage, width: usize, rot: &Storage) -> Storage {
        host(bits::rotate_bits(self.lanes, u.host(), width, rot.host()))
    }

    fn suffix_xor(&self, u: &Storage, width: usize) -> Storage {
        host(bits::suffix_xor(self.lanes, u.host(), width))
    }

    fn random_combinations(
        &self,
        u: &Storage,
        coins: &Storage,
        width: usize,
        planes: usize,
        offsets: &Segments,
    ) -> Storage {
        host(combine::random_combinations(self.lanes, u.host(), coins.host(), width, planes, offsets))
    }

    fn transpose_bits(
        &self,
        planes: &Storage,
        width: usize,
        total_planes: usize,
        first: usize,
        count: usize,
    ) -> Storage {
        let bundle = bits::Bundle { width, total: total_planes, first, count };
        host(bits::transpose_bits(self.lanes, planes.host(), bundle))
    }

    fn prepare_tables(&self, columns: &[Vec<u64>], entries: usize) -> Storage {
        host(select::prepare_tables(self.lanes, columns, entries))
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
        let (u, tables) = (u.host(), tables.host());
        let prepared = self.lanes.prepared(entries);
        let s = Selection { u, tables, prepared, entries, columns, rot: rot.host(), phase: phase.host() };
        select::select(self.lanes, &s).into_iter().map(host).collect()
    }

    fn dcf_generate(
        &self,
        shape: &DcfShape,
        alpha: &Storage,
        beta: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DcfKeys<Storage> {
        let roots = [root0.host(), root1.host()];
        dcf::generate(self.lanes, shape, alpha.host(), beta.host(), roots).map(host)
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
        let keys = keys.as_ref().map(|w| w.host());
        let inputs = Inputs { root: root.host(), base: base.host(), constant: constant.host() };
        host(dcf::evaluate(self.lanes, party, inputs, &keys, thresholds))
    }

    fn dpf_generate(
        &self,
        points: usize,
        alpha: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DpfKeys<Storage> {
        let k = dpf::generate(self.lanes, points, alpha.host(), root0.host(), root1.host());
        DpfKeys { seeds: host(k.seeds), controls: host(k.controls), last: host(k.last) }
    }

    fn dpf_evaluate(&self, party: u8, points: usize, root: &Storage, keys: &DpfKeys<&Storage>) -> Storage {
        let keys =
            DpfKeys { seeds: keys.seeds.host(), controls: keys.controls.host(), last: keys.last.host() };
        host(dpf::evaluate(self.lanes, party, points, root.host(), &keys))
    }
}
