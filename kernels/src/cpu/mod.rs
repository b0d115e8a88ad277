//! The processor: plain Rust everywhere, with faster inner loops where the machine has the instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bits;
mod combine;
mod dcf;
mod deferred;
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
use crate::formula::{Change, Formula, Input, Place};
use crate::indices::{Indices, Segments};
use crate::message::{Message, Received};
use dcf::Inputs;
use deferred::Packed;
use formula::Source;
use lanes::{Lanes, Selection};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

pub use deferred::HostWords;

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

    /// The words of a buffer, which are made if they have not been.
    fn words<'a>(&self, a: &'a Storage) -> &'a [u64] {
        in_memory(a).words(self.lanes)
    }

    /// The same, writable.
    ///
    /// # Panics
    /// If they are elsewhere.
    fn words_mut<'a>(&self, a: &'a mut Storage) -> &'a mut [u64] {
        match a {
            Storage::Host(words) => words.words_mut(self.lanes),
            Storage::Device(_) => panic!("an operation of the processor was given words of another device"),
        }
    }

    /// Words that are packed, which are made now if they are short.
    fn packed(&self, n: usize, packed: Packed) -> Storage {
        if n < deferred::LONG {
            host(formula::unpacked(self.lanes, &packed, n))
        } else {
            Storage::Host(HostWords::packed(n, packed))
        }
    }

    /// The result of steps on long buffers, for later.
    fn deferred<const S: usize>(&self, steps: [Change; S], inputs: &[&Storage]) -> HostWords {
        let inputs: Vec<_> = inputs.iter().map(|words| (in_memory(words).clone(), None)).collect();
        let n = inputs[0].0.len();
        deferred::call(self.lanes, deferred::in_turn(&steps), inputs, n).remove(0)
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

/// What an operation of the processor works with.
///
/// # Panics
/// If it is elsewhere: the words of an operation are all on its device.
fn in_memory(words: &Storage) -> &HostWords {
    match words {
        Storage::Host(words) => words,
        Storage::Device(_) => panic!("an operation of the processor was given words of another device"),
    }
}

fn is_long(a: &Storage) -> bool {
    in_memory(a).len() >= deferred::LONG
}

fn host(words: Vec<u64>) -> Storage {
    Storage::Host(Buffer::ours(words).into())
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
        Storage::Host(Buffer::from(words).into())
    }

    fn zeros(&self, n: usize) -> Storage {
        host(buffer::zeroed(n))
    }

    fn download<'a>(&self, a: &'a Storage) -> Cow<'a, [u64]> {
        Cow::Borrowed(self.words(a))
    }

    fn len(&self, a: &Storage) -> usize {
        in_memory(a).len()
    }

    fn pack(&self, a: &Storage, bits: u32, out: &mut Message) {
        message::check(bits);
        deferred::pack(self.lanes, in_memory(a).clone(), bits, out.bytes());
    }

    fn unpack(&self, bytes: &[u8], bits: u32, n: usize) -> Storage {
        host(message::unpack(self.lanes, bytes, bits, n))
    }

    fn mask_and_pack(&self, op: Zip, a: &mut Storage, mask: &Storage, bits: u32, out: &mut Message) {
        if !is_long(a) {
            let mask = self.words(mask);
            return message::mask_and_pack(self.lanes, op, self.words_mut(a), mask, bits, out.bytes());
        }
        message::check(bits);
        let (n, at) = (in_memory(a).len(), out.len());
        let masked = self.deferred([Change::Zip(op, Place::Input(1))], &[a, mask]);
        // The call alone has them now, so that they need not be written.
        *a = self.zeros(0);
        deferred::pack(self.lanes, masked, bits, out.bytes());
        // They are kept as they are in the message.
        let message = Arc::new(out.bytes()[at..].to_vec());
        *a = self.packed(n, Packed::Part { message, at: 0, bits });
    }

    fn pack_masked(&self, op: Zip, a: Storage, mask: &Storage, bits: u32, out: &mut Message) {
        if !is_long(&a) {
            let [a, mask] = [&a, mask].map(|words| self.words(words));
            return message::pack_masked(self.lanes, op, a, mask, bits, out.bytes());
        }
        message::check(bits);
        let masked = self.deferred([Change::Zip(op, Place::Input(1))], &[&a, mask]);
        drop(a);
        deferred::pack(self.lanes, masked, bits, out.bytes());
    }

    fn combine_packed(&self, op: Zip, a: &mut Storage, bytes: &[u8], bits: u32) {
        message::combine_packed(self.lanes, op, self.words_mut(a), bytes, bits);
    }

    fn unpack_part(&self, message: &Received, at: usize, bits: u32, n: usize) -> Storage {
        let part = message.part(at, bits, n);
        if n < deferred::LONG {
            return self.unpack(part, bits, n);
        }
        message::check(bits);
        // A small part is copied, so as not to keep the message.
        let (message, at) = match part.len() < message.bytes().len() / 8 {
            true => (Arc::new(part.to_vec()), 0),
            false => (message.shared(), at),
        };
        self.packed(n, Packed::Part { message, at, bits })
    }

    fn combine_part(&self, op: Zip, a: &mut Storage, message: &Received, at: usize, bits: u32) {
        let part = message.part(at, bits, self.len(a));
        if !is_long(a) {
            return self.combine_packed(op, a, part, bits);
        }
        let theirs = self.unpack_part(message, at, bits, self.len(a));
        let keep = Map::And(u64::MAX >> (64 - bits));
        *a = Storage::Host(
            self.deferred([Change::Zip(op, Place::Input(1)), Change::Map(keep)], &[a, &theirs]),
        );
    }

    fn formula(&self, formula: &Formula, inputs: &[Input<'_, Storage>], n: usize) -> Vec<Storage> {
        if n < deferred::LONG {
            let inputs: Vec<Source<'_>> =
                inputs.iter().map(|i| Source::new(self.words(i.words), i.at.as_ref(), n)).collect();
            return formula::evaluate(self.lanes, formula, &inputs, n, None).into_iter().map(host).collect();
        }
        let inputs = inputs.iter().map(|i| (in_memory(i.words).clone(), i.at.clone())).collect();
        deferred::call(self.lanes, formula.clone(), inputs, n).into_iter().map(Storage::Host).collect()
    }

    fn zip(&self, op: Zip, a: &mut Storage, b: &Storage) {
        if is_long(a) {
            *a = self.zipped(op, a, b);
        } else {
            let b = self.words(b);
            elementwise::zip(self.lanes, op, self.words_mut(a), b);
        }
    }

    fn zipped(&self, op: Zip, a: &Storage, b: &Storage) -> Storage {
        if is_long(a) {
            return Storage::Host(self.deferred([Change::Zip(op, Place::Input(1))], &[a, b]));
        }
        host(elementwise::zipped(self.lanes, op, self.words(a), self.words(b)))
    }

    fn mapped(&self, op: Map, a: &Storage) -> Storage {
        if is_long(a) {
            elementwise::check_map(op);
            return Storage::Host(self.deferred([Change::Map(op)], &[a]));
        }
        host(elementwise::mapped(self.lanes, op, self.words(a)))
    }

    fn map(&self, op: Map, a: &mut Storage) {
        if is_long(a) {
            *a = self.mapped(op, a);
        } else {
            elementwise::map(self.lanes, op, self.words_mut(a));
        }
    }

    fn reduce_segments(&self, op: Zip, a: &Storage, offsets: &Segments) -> Storage {
        host(elementwise::reduce_segments(op, self.words(a), offsets))
    }

    fn gather(&self, a: &Storage, idx: &Indices) -> Storage {
        host(elementwise::gather(self.words(a), idx))
    }

    fn slice(&self, a: &Storage, range: Range<usize>) -> Storage {
        host(buffer::concat(&[&self.words(a)[range]]))
    }

    fn concat(&self, parts: &[&Storage]) -> Storage {
        host(buffer::concat(&parts.iter().map(|p| self.words(p)).collect::<Vec<_>>()))
    }

    fn scatter(&self, a: &Storage, idx: &Indices, len: usize) -> Storage {
        host(elementwise::scatter(self.words(a), idx, len))
    }

    fn chacha12(&self, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> Storage {
        assert!((1..=64).contains(&bits), "width of {bits} bits");
        let (keep, cell) = (u64::MAX >> (64 - bits), bits.next_power_of_two() as usize);
        if cell == 64 {
            return host(stream::chacha12(self.lanes, key, nonce, n, keep));
        }
        let stream = stream::chacha12(self.lanes, key, nonce, (n * cell).div_ceil(64), u64::MAX);
        self.packed(n, Packed::Cells { stream: Arc::new(Buffer::ours(stream)), cell, keep })
    }

    fn pack_matrix(&self, b: &Storage, k: usize, n: usize) -> Storage {
        host(gemm::pack_matrix(self.lanes, self.words(b), k, n))
    }

    fn add_matrices(&self, a: &Storage, b: &Storage, k: usize) -> Storage {
        host(gemm::add_packed(self.lanes, self.words(a), self.words(b), k))
    }

    fn gemm(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        host(gemm::gemm(self.lanes, self.words(a), self.words(b), [m, k, n], 64))
    }

    fn gemm_low(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize, bits: u32) -> Storage {
        host(gemm::gemm(self.lanes, self.words(a), self.words(b), [m, k, n], bits))
    }

    fn gemm_bits(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        host(sums::gemm_bits(self.lanes, self.words(a), self.words(b), m, k, n))
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
            Some((x, stored)) => gemm::gemm(self.lanes, self.words(x), self.words(stored), [m, k, n], 64),
            None => buffer::zeroed(m * n),
        };
        gemm::add_regenerated(self.lanes, &mut c, self.words(y), stream, [m, k, n]);
        host(c)
    }

    fn gemm_batch(&self, a: &Storage, b: &Storage, shape: &GemmBatch) -> Storage {
        host(gemm::gemm_batch(self.lanes, self.words(a), self.words(b), shape))
    }

    fn flip_bit(&self, u: &mut Storage, width: usize, idx: &Storage) {
        let idx = self.words(idx);
        bits::flip_bit(self.lanes, self.words_mut(u), width, idx);
    }

    fn bit_at(&self, u: &Storage, width: usize, idx: &Storage) -> Storage {
        host(bits::bit_at(self.lanes, self.words(u), width, self.words(idx)))
    }

    fn count_bits(&self, u: &Storage, width: usize) -> Storage {
        host(bits::count_bits(self.words(u), width))
    }

    fn rotate_bits(&self, u: &Storage, width: usize, rot: &Storage) -> Storage {
        host(bits::rotate_bits(self.lanes, self.words(u), width, self.words(rot)))
    }

    fn suffix_xor(&self, u: &Storage, width: usize) -> Storage {
        host(bits::suffix_xor(self.lanes, self.words(u), width))
    }

    fn random_combinations(
        &self,
        u: &Storage,
        coins: &Storage,
        width: usize,
        planes: usize,
        offsets: &Segments,
    ) -> Storage {
        host(combine::random_combinations(
            self.lanes,
            self.words(u),
            self.words(coins),
            width,
            planes,
            offsets,
        ))
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
        host(bits::transpose_bits(self.lanes, self.words(planes), bundle))
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
        let (u, tables) = (self.words(u), self.words(tables));
        let prepared = self.lanes.prepared(entries);
        let s = Selection {
            u,
            tables,
            prepared,
            entries,
            columns,
            rot: self.words(rot),
            phase: self.words(phase),
        };
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
        let roots = [self.words(root0), self.words(root1)];
        dcf::generate(self.lanes, shape, self.words(alpha), self.words(beta), roots).map(host)
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
        let keys = keys.as_ref().map(|w| self.words(w));
        let inputs =
            Inputs { root: self.words(root), base: self.words(base), constant: self.words(constant) };
        host(dcf::evaluate(self.lanes, party, inputs, &keys, thresholds))
    }

    fn dpf_generate(
        &self,
        points: usize,
        alpha: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DpfKeys<Storage> {
        let k = dpf::generate(self.lanes, points, self.words(alpha), self.words(root0), self.words(root1));
        DpfKeys { seeds: host(k.seeds), controls: host(k.controls), last: host(k.last) }
    }

    fn dpf_evaluate(&self, party: u8, points: usize, root: &Storage, keys: &DpfKeys<&Storage>) -> Storage {
        let keys = DpfKeys {
            seeds: self.words(keys.seeds),
            controls: self.words(keys.controls),
            last: self.words(keys.last),
        };
        host(dpf::evaluate(self.lanes, party, points, self.words(root), &keys))
    }
}
