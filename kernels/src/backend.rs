//! The compute trait: about thirty deterministic whole-buffer operations.
//!
//! All words are `u64`, all arithmetic wraps. A buffer of `rows × cols` is row-major.

use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};
use crate::cpu::HostWords;
use crate::cuda::DeviceWords;
use crate::failure::DeviceError;
use crate::formula::{Formula, Input};
use crate::indices::{Indices, Segments};
use crate::message::{Message, Received};
use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

/// A device shared by everything that computes on it.
pub type Device = Arc<dyn Backend>;

/// Where the words of a buffer live.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Storage {
    /// Main memory.
    Host(HostWords),
    /// The memory of a device of its own.
    Device(DeviceWords),
}

/// Element-wise operation of two buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zip {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
    /// a xor b
    Xor,
    /// a and b
    And,
}

/// Element-wise operation of a buffer and a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// −a
    Neg,
    /// a + c
    Add(u64),
    /// a · c
    Mul(u64),
    /// a and c
    And(u64),
    /// a xor c
    Xor(u64),
    /// a << s (0 for s ≥ 64)
    Shl(u32),
    /// a >> s, logical (0 for s ≥ 64)
    Shr(u32),
    /// e^(a mod 2^s / 2^s), 1 ≤ s ≤ 63, with [`EXP_BITS`] fractional bits: [`exp_fraction`].
    Exp(u32),
}

/// Fractional bits of [`Map::Exp`].
pub const EXP_BITS: u32 = 13;

/// e^y for y = a mod 2^s / 2^s in [0, 1), 1 ≤ s ≤ 63, at [`EXP_BITS`] fractional bits. The error is at most 0.51 units. Every
/// device gives these same integers.
#[inline(always)]
pub const fn exp_fraction(a: u64, s: u32) -> u64 {
    // Interpolation of degree 5 at the Chebyshev points of [0, 1], error 1.2e-6, with 29 fractional bits.
    const C: [u64; 6] = [536_870_348, 536_911_427, 267_967_380, 91_435_588, 18_738_680, 7_442_371];
    let y = (a << (64 - s)) >> 33;
    let mut r = C[5];
    let mut degree = 5;
    while degree > 0 {
        degree -= 1;
        r = ((r * y) >> 31) + C[degree];
    }
    (r + (1 << (28 - EXP_BITS))) >> (29 - EXP_BITS)
}

/// Words of a regenerated matrix that are held at a time at most, of each of its streams, and as many again where they are
/// brought into another form (see [`Backend::gemm_regenerated`]): as many as a cache of 50 MB takes.
pub const MADE_AT_ONCE: usize = 1 << 22;

/// Words of 64 bits of ChaCha12 key streams (see [`Backend::chacha12`]) in pieces: word i is word i mod `piece` of the stream
/// (key, `nonce` + ⌊i / piece⌋).
#[derive(Clone, Copy)]
pub struct KeyStream<'a> {
    /// The streams' key, a secret.
    pub key: &'a [u8; 32],
    /// Which of the key's streams the first piece is.
    pub nonce: u64,
    /// Words of a piece, a power of two from [`KeyStream::LEAST_PIECE`] on.
    pub piece: usize,
}

impl KeyStream<'_> {
    /// A shorter piece would end within what is made at a time.
    pub const LEAST_PIECE: usize = 128;

    /// The binary logarithm of a piece's words.
    pub(crate) fn piece_bits(&self) -> u32 {
        let piece = self.piece;
        assert!(piece.is_power_of_two() && piece >= KeyStream::LEAST_PIECE, "a piece of {piece} words");
        piece.trailing_zeros()
    }
}

/// Element (i, j) of a matrix inside a buffer is word `offset + i·row + j·col`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// Words from one row to the next.
    pub row: usize,
    /// Words from one column to the next.
    pub col: usize,
}

/// Many products of one shape: `C_i[m×n] = A_i[m×k] · B_i[k×n]`, matrices given by strides and offsets.
/// C's columns are contiguous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GemmBatch {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Layout of each A_i.
    pub a: Strides,
    /// Layout of each B_i (row index runs over k, column index over n).
    pub b: Strides,
    /// Words between rows of each C_i.
    pub c_row: usize,
    /// Offsets of A_i, B_i and C_i for each product.
    pub offsets: Vec<[usize; 3]>,
    /// Length of the result buffer; words no product writes are zero.
    pub c_len: usize,
}

/// Correction words of a batch of distributed point functions over `points` points: what both keys of a pair have
/// in common. The pair's two keys add their party and its root (2 words).
#[derive(Clone, Debug)]
pub struct DpfKeys<W> {
    /// Seed corrections, 2 words for each key and level; see [`dpf_levels`].
    pub seeds: W,
    /// Control-bit corrections, one word for each key and level: bit 0 left, bit 1 right.
    pub controls: W,
    /// Corrections of the leaf, 2 words for each key.
    pub last: W,
}

/// Points of a leaf of a point function's tree: the bits of a seed.
pub const DPF_LEAF: usize = 128;

/// Levels of a point function's tree over `points` points: ⌈log2 points⌉ − 7, and 0 where they are one leaf.
pub const fn dpf_levels(points: usize) -> usize {
    points.div_ceil(DPF_LEAF).next_power_of_two().trailing_zeros() as usize
}

/// Bytes of one key of a point function over `points` points: root, 16 bytes and 2 bits for each level, correction of the
/// leaf.
pub const fn dpf_key_bytes(points: usize) -> usize {
    let levels = dpf_levels(points);
    16 + 16 * levels + levels.div_ceil(4) + 16
}

/// Words of a row's coins for [`Backend::random_combinations`]: `width + 2 · planes` bits.
///
/// # Panics
/// If there are more than 64 planes.
pub const fn coin_words(width: usize, planes: usize) -> usize {
    assert!(planes <= 64, "more than 64 planes");
    (width + 2 * planes).div_ceil(64)
}

/// One device. Implementations agree bit for bit.
pub trait Backend: Send + Sync + Debug {
    /// For people: what this device is, e.g. `cpu (avx512, 2 threads)`.
    fn name(&self) -> String;
    /// Whether everything that this thread asked for since [`Backend::begin`] was computed. After a failure (no memory, a
    /// lost device) nothing more is: results have no content, and [`Backend::download`] and [`Message`]s give zeros.
    /// So this is to be asked after words were read, and before they are sent or believed.
    fn status(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// This thread begins a computation, which a lack of memory in an earlier one does not concern. Words that the earlier
    /// one was to change must not be used any more. A lost device stays lost.
    fn begin(&self) {}
    /// Bytes of the device's own memory that are free, and all of them; `None` where it is the machine's.
    fn memory(&self) -> Option<(u64, u64)> {
        None
    }

    /// Moves words to the device.
    fn upload(&self, words: Vec<u64>) -> Storage;
    /// `n` zero words.
    fn zeros(&self, n: usize) -> Storage;
    /// Reads words back.
    fn download<'a>(&self, a: &'a Storage) -> Cow<'a, [u64]>;
    /// Number of words.
    fn len(&self, a: &Storage) -> usize;
    /// Appends the low `bits` of every word to `out`, little-endian bit order, padded to a whole byte at the end.
    fn pack(&self, a: &Storage, bits: u32, out: &mut Message);
    /// The inverse of `pack` for `n` words. `bytes` has exactly ⌈n·bits/8⌉ bytes.
    fn unpack(&self, bytes: &[u8], bits: u32, n: usize) -> Storage;

    /// a ← (a op mask) mod 2^bits, and its words appended to `out` as by [`Backend::pack`].
    fn mask_and_pack(&self, op: Zip, a: &mut Storage, mask: &Storage, bits: u32, out: &mut Message);
    /// What [`Backend::mask_and_pack`] appends, where nobody needs the words.
    fn pack_masked(&self, op: Zip, a: Storage, mask: &Storage, bits: u32, out: &mut Message);
    /// a ← (a op w) mod 2^bits for the words w of a message that [`Backend::pack`] made.
    fn combine_packed(&self, op: Zip, a: &mut Storage, bytes: &[u8], bits: u32);

    /// [`Backend::unpack`] of a part of a message.
    fn unpack_part(&self, message: &Received, at: usize, bits: u32, n: usize) -> Storage {
        self.unpack(message.part(at, bits, n), bits, n)
    }
    /// [`Backend::combine_packed`] with a part of a message.
    fn combine_part(&self, op: Zip, a: &mut Storage, message: &Received, at: usize, bits: u32) {
        let part = message.part(at, bits, self.len(a));
        self.combine_packed(op, a, part, bits);
    }

    /// a ← a op b.
    fn zip(&self, op: Zip, a: &mut Storage, b: &Storage);
    /// a ← op(a).
    fn map(&self, op: Map, a: &mut Storage);
    /// `a[i] op b[i]`, as a new buffer.
    fn zipped(&self, op: Zip, a: &Storage, b: &Storage) -> Storage;
    /// `op(a[i])`, as a new buffer.
    fn mapped(&self, op: Map, a: &Storage) -> Storage;
    /// The results of an element-wise formula, each a new buffer of `n` words. As many are taken from each input.
    fn formula(&self, formula: &Formula, inputs: &[Input<'_, Storage>], n: usize) -> Vec<Storage>;
    /// `out[i]` = Σ of `a[j]` over j in segment i (wrapping sum, or xor).
    fn reduce_segments(&self, op: Zip, a: &Storage, offsets: &Segments) -> Storage;
    /// `out[i] = a[idx[i]]`.
    fn gather(&self, a: &Storage, idx: &Indices) -> Storage;
    /// Words `range` of a.
    fn slice(&self, a: &Storage, range: std::ops::Range<usize>) -> Storage;
    /// The buffers one after the other.
    fn concat(&self, parts: &[&Storage]) -> Storage;
    /// zeros of length `len`, except `out[idx[i]] = a[i]`. Indices are distinct.
    fn scatter(&self, a: &Storage, idx: &Indices, len: usize) -> Storage;

    /// Words 0..n, of `bits` bits each, of the ChaCha12 key stream of (key, 64-bit nonce, counter from 0). Its bits,
    /// little-endian, are cut into cells of w, the smallest power of two from `bits` on: word i is the low `bits` of bits
    /// i·w to (i + 1)·w. So n words cost ⌈n·w/512⌉ blocks. The same key and nonce drawn in two widths give words of the same
    /// bits, which must not both be masks. From 33 bits on, words are those of `rand_chacha::ChaCha12Rng` with that key and
    /// stream, masked.
    fn chacha12(&self, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> Storage;

    /// Prepares B, given as n × k row-major (an output's weights are contiguous), for `gemm`.
    /// It may lie at a place that depends on its address: it is not to be copied.
    fn pack_matrix(&self, b: &Storage, k: usize, n: usize) -> Storage;
    /// A + B, both from `pack_matrix` with the same n and k, prepared alike.
    fn add_matrices(&self, a: &Storage, b: &Storage, k: usize) -> Storage;
    /// `C[m×n] = A[m×k] · B^T` with B from `pack_matrix`.
    fn gemm(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage;
    /// The same for an A of bits, whose rows are kept in ⌈k/64⌉ words (bits beyond are ignored): sums of selected columns of
    /// B. Reads all of B.
    fn gemm_bits(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage;
    /// [`Backend::gemm`] modulo 2^bits; its words are below that. Up to 52 bits, processors that multiply mantissas are faster.
    fn gemm_low(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize, bits: u32) -> Storage {
        let mut c = self.gemm(a, b, m, k, n);
        if bits < 64 {
            self.map(Map::And((1 << bits) - 1), &mut c);
        }
        c
    }
    /// A product with a matrix that nobody keeps, and one beside it if `beside` is (X, S):
    /// `C[m×n] = Y[m×k] · R^T + X[m×k] · S^T`. R's n × k words, row by row, are the stream's first words, and
    /// made where they are used; S is from `pack_matrix`. So weights one of whose components is such a stream take half the
    /// memory, and with few rows a product reads half as much.
    fn gemm_regenerated(
        &self,
        y: &Storage,
        stream: &KeyStream<'_>,
        beside: Option<(&Storage, &Storage)>,
        mkn: [usize; 3],
    ) -> Storage;
    /// Rows that `gemm` multiplies in about the time of one, so that products of several threads with one matrix are worth
    /// putting together; 0 where they are not, or where threads do not wait for each other.
    fn rows_together(&self) -> usize {
        0
    }
    /// Many small products, see [`GemmBatch`].
    fn gemm_batch(&self, a: &Storage, b: &Storage, shape: &GemmBatch) -> Storage;

    /// Each row of `u` is a bit string of `width` bits kept in ⌈width/64⌉ words. Flips bit
    /// `idx[i] mod width` of row i. All other bits stay; the operations below ignore bits beyond the width and
    /// clear them in their results.
    fn flip_bit(&self, u: &mut Storage, width: usize, idx: &Storage);
    /// `out[i]` = bit `idx[i] mod width` of row i (0 or 1).
    fn bit_at(&self, u: &Storage, width: usize, idx: &Storage) -> Storage;
    /// `out[i]` = number of ones in row i.
    fn count_bits(&self, u: &Storage, width: usize) -> Storage;
    /// Moves bit j of row i to bit `(j + rot[i]) mod width`. `width` is a power of two.
    fn rotate_bits(&self, u: &Storage, width: usize, rot: &Storage) -> Storage;
    /// out bit j of each row = xor of its bits j, j+1, …, width−1.
    fn suffix_xor(&self, u: &Storage, width: usize) -> Storage;
    /// For each segment s and plane j < planes, of at most 64: `out[s][j]` = xor over i in s of (u row i and c_ij); rows of u
    /// and `out[s][j]` are `width` bits. Bit ℓ of c_ij is p_i\[j\] xor q_i\[ℓ + j\], where row i of `coins`, [`coin_words`]
    /// words, begins with the bits of q_i (`width + planes`), then those of p_i (`planes`). For coins at random the
    /// `planes` bits that a segment gets at a position ℓ are 0 with probability 2^−planes if a row has a one there, and
    /// independent of those at ℓ' > ℓ if rows with a one at ℓ' have one at ℓ.
    fn random_combinations(
        &self,
        u: &Storage,
        coins: &Storage,
        width: usize,
        planes: usize,
        offsets: &Segments,
    ) -> Storage;
    /// planes: rows × planes × width bits. `out[row][j] = Σ_b bit j of planes[row][first + b] · 2^b`, b < count.
    fn transpose_bits(
        &self,
        planes: &Storage,
        width: usize,
        total_planes: usize,
        first: usize,
        count: usize,
    ) -> Storage;

    /// Tables for `select`: `columns[c][phase·entries + i]`, all columns of the same length.
    fn prepare_tables(&self, columns: &[Vec<u64>], entries: usize) -> Storage;
    /// `out[c][e] = Σ_{i < entries} (bit i of row e of u) · columns[c][phase[e]·entries + (i + rot[e]) mod entries]`;
    /// entries is a power of two, phases are taken modulo their number.
    /// Reads every entry, so that the access pattern depends on `rot` and `phase` only.
    fn select(
        &self,
        u: &Storage,
        tables: &Storage,
        entries: usize,
        columns: usize,
        rot: &Storage,
        phase: &Storage,
    ) -> Vec<Storage>;

    /// Generates one distributed comparison function a row (Boyle et al., eprint 2020/1392, Fig. 1), over Z_2^64:
    /// beta if x < alpha else 0, at each of the shape's stops without the stop's low bits. The roots (2 words a key) are
    /// the two evaluators' secret seeds. The tree's PRG is ChaCha12 keyed by (seed, domain constant).
    fn dcf_generate(
        &self,
        shape: &DcfShape,
        alpha: &Storage,
        beta: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DcfKeys<Storage>;
    /// Evaluator `party`'s additive shares of bits v = c + f(x) that a public bit may flip: keys × thresholds. With
    /// y = `base` − τ, x is the low `bits` bits of y, and the bit above says whether v stays (1) or becomes 1 − v (0).
    /// `constant` is the party's share of c, one word a key, as `base` is.
    fn dcf_evaluate(
        &self,
        party: u8,
        root: &Storage,
        keys: &DcfKeys<&Storage>,
        base: &Storage,
        constant: &Storage,
        thresholds: &DcfThresholds,
    ) -> Storage;

    /// Generates one distributed point function a row: f(x) = 1 if x = alpha else 0, on x below `points`, with bits as values
    /// (Boyle, Gilboa and Ishai, CCS 2016). alpha is below `points`. The roots (2 words a key) are the two parties'
    /// secret seeds, fresh and independent for every key. The tree's PRG is one ChaCha12 block keyed by (seed, domain
    /// constant).
    fn dpf_generate(
        &self,
        points: usize,
        alpha: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DpfKeys<Storage>;
    /// Party `party`'s shares by xor of every f at all points: keys × ⌈points/64⌉ words, zero beyond the last point.
    fn dpf_evaluate(&self, party: u8, points: usize, root: &Storage, keys: &DpfKeys<&Storage>) -> Storage;
}
