//! The inner loops that each instruction set provides. Every default is the scalar reference.

use super::bits::{self, Bundle, Row};
use super::combine::{Part, Sums};
use super::dcf::Plan;
use super::{combine, scalar, sums};
use crate::backend::{Map, Zip};
use crate::comparison::DcfThresholds;
use std::fmt::Debug;

/// Outputs of one panel of a packed matrix.
pub(super) const PANEL: usize = 16;

/// Tree nodes that are expanded together.
pub(super) const NODES: usize = 16;

/// One 32-bit word of each of [`NODES`] nodes.
pub(super) type Plane = [u32; NODES];

/// The low 13 words of a ChaCha12 block of a node, a plane each; see [`super::dcf`] and [`super::dpf`] for their
/// meaning.
pub(super) type Expansion = [Plane; 13];

/// C[rows × cols] = (C +) A[rows × k] · B[k × cols], one tile of a product.
pub(super) struct Tile<'a> {
    /// A; element (i, l) is `a[i·a_row + l·a_col]`.
    pub(super) a: &'a [u64],
    pub(super) a_row: usize,
    pub(super) a_col: usize,
    /// B; element (l, j) is `b[l·b_row + j]`. All [`PANEL`] words of each row are readable.
    pub(super) b: &'a [u64],
    pub(super) b_row: usize,
    /// C; element (i, j) is `c[i·c_row + j]`.
    pub(super) c: &'a mut [u64],
    pub(super) c_row: usize,
    /// At most [`Lanes::tile_rows`].
    pub(super) rows: usize,
    /// At most [`PANEL`].
    pub(super) cols: usize,
    pub(super) k: usize,
    /// Whether to add to C instead of overwriting it.
    pub(super) accumulate: bool,
    /// What later tiles will read: cache lines to fetch meanwhile, as words from the start of `b` and a number. It need not
    /// lie in any buffer.
    pub(super) ahead: (usize, usize),
}

impl Tile<'_> {
    /// Whether everything the tile reads and writes lies inside its buffers.
    pub(super) fn in_bounds(&self) -> bool {
        let (rows, cols, k) = (self.rows, self.cols, self.k);
        rows >= 1
            && (1..=PANEL).contains(&cols)
            && self.c.len() >= (rows - 1) * self.c_row + cols
            && (k == 0
                || self.a.len() > (rows - 1) * self.a_row + (k - 1) * self.a_col
                    && self.b.len() >= (k - 1) * self.b_row + PANEL)
    }
}

/// Where a processor multiplies tiles of bytes: matrices packed for these, and all products with such.
pub(super) trait Planes: Sync {
    /// n rows of k words.
    fn pack(&self, b: &[u64], k: usize, n: usize) -> Vec<u64>;

    /// The sum of two packed matrices, packed.
    fn add(&self, a: &[u64], b: &[u64]) -> Vec<u64>;

    /// A · B modulo 2^bits, B packed.
    fn gemm(&self, a: &[u64], b: &[u64], shape: [usize; 3], bits: u32) -> Vec<u64>;

    /// A · B, B packed, for m rows of k bits.
    fn gemm_bits(&self, a: &[u64], b: &[u64], shape: [usize; 3]) -> Vec<u64>;
}

/// Rows of bit strings and the tables they select from.
#[derive(Clone, Copy)]
pub(super) struct Selection<'a> {
    /// ⌈entries/64⌉ words a row.
    pub(super) u: &'a [u64],
    /// For each column and phase a prepared table: see [`Lanes::prepare`].
    pub(super) tables: &'a [u64],
    /// Words of a prepared table.
    pub(super) prepared: usize,
    /// A power of two.
    pub(super) entries: usize,
    pub(super) columns: usize,
    pub(super) rot: &'a [u64],
    pub(super) phase: &'a [u64],
}

impl Selection<'_> {
    /// Words of one column.
    pub(super) fn column_len(&self) -> usize {
        self.tables.len() / self.columns
    }

    /// Tables of one column.
    pub(super) fn phases(&self) -> usize {
        self.column_len() / self.prepared
    }

    /// The phase of row `e`.
    pub(super) fn phase(&self, e: usize) -> usize {
        let phases = self.phases() as u64;
        (if self.phase[e] < phases { self.phase[e] } else { self.phase[e] % phases }) as usize
    }
}

/// Up to [`NODES`] trees are walked together, and points of all of them are numbered together: point i of tree t is number
/// i·[`NODES`] + t.
#[inline(always)]
pub(super) fn tree_of(number: u32) -> usize {
    number as usize % NODES
}

/// For each word of an answer the sums of all nodes, with room for [`NODES`] more.
pub(super) type Answers = [Vec<u64>; 4];

/// What one party learns about nodes of one level of comparison trees. Behind the last node is room for [`NODES`]
/// more, so that whole planes can be read and written at any node.
#[derive(Clone)]
pub(super) struct Nodes {
    /// The four 32-bit words of each seed.
    pub(super) seed: [Vec<u32>; 4],
    /// Control bits, spread: 0 or `u32::MAX`.
    pub(super) control: Vec<u32>,
    /// Sum of the values on the path, without the party's sign.
    pub(super) value: Vec<u64>,
    /// Where each node goes from here: the point that leads it.
    pub(super) path: Vec<u64>,
    /// The number of that point, which says too whose node this is.
    pub(super) leader: Vec<u32>,
    pub(super) len: usize,
}

impl Nodes {
    /// Room for at most `most` nodes.
    pub(super) fn new(most: usize) -> Nodes {
        let room = most + NODES;
        let seed = std::array::from_fn(|_| vec![0; room]);
        let [control, leader] = std::array::from_fn(|_| vec![0; room]);
        Nodes { seed, control, value: vec![0; room], path: vec![0; room], leader, len: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, node: Node, leader: u32) {
        self.set(self.len, node);
        self.leader[self.len] = leader;
        self.len += 1;
    }

    #[inline]
    pub(super) fn set(&mut self, i: usize, node: Node) {
        for (plane, s) in self.seed.iter_mut().zip(node.seed) {
            plane[i] = s;
        }
        self.control[i] = node.control;
        self.value[i] = node.value;
    }

    #[inline]
    pub(super) fn node(&self, i: usize) -> Node {
        let seed = std::array::from_fn(|w| self.seed[w][i]);
        Node { seed, control: self.control[i], value: self.value[i] }
    }

    /// The seeds of [`NODES`] nodes from `at` on.
    #[inline]
    pub(super) fn seeds(&self, at: usize) -> [Plane; 4] {
        std::array::from_fn(|w| {
            let mut plane = [0; NODES];
            plane.copy_from_slice(&self.seed[w][at..at + NODES]);
            plane
        })
    }
}

/// One node.
#[derive(Clone, Copy)]
pub(super) struct Node {
    pub(super) seed: [u32; 4],
    pub(super) control: u32,
    pub(super) value: u64,
}

impl Node {
    pub(super) fn root(seed: [u64; 2], party: u8) -> Node {
        let seed = std::array::from_fn(|i| (seed[i / 2] >> (32 * (i % 2))) as u32);
        Node { seed, control: u32::from(party).wrapping_neg(), value: 0 }
    }
}

/// A level of the trees: the correction words of each, and the bit of a point that says on which side it goes on.
#[derive(Default)]
pub(super) struct Step {
    pub(super) bit: u32,
    pub(super) seed: [Plane; 4],
    /// Bit 0 left, bit 1 right.
    pub(super) control: Plane,
    pub(super) value: [u64; NODES],
}

/// What one party learns about [`NODES`] neighbours in a point function's tree.
#[derive(Clone)]
pub(super) struct Front {
    /// The four 32-bit words of each seed.
    pub(super) seed: [Plane; 4],
    /// Control bits, spread: 0 or `u32::MAX`.
    pub(super) control: Plane,
}

impl Front {
    pub(super) const ZERO: Front = Front { seed: [[0; NODES]; 4], control: [0; NODES] };

    pub(super) fn set_seed(&mut self, lane: usize, seed: [u64; 2]) {
        for (i, plane) in self.seed.iter_mut().enumerate() {
            plane[lane] = (seed[i / 2] >> (32 * (i % 2))) as u32;
        }
    }
}

/// Correction word of one level of a point function's key.
#[derive(Clone, Copy)]
pub(super) struct Correction {
    pub(super) seed: [u32; 4],
    /// Bit 0 left, bit 1 right.
    pub(super) controls: u32,
}

/// Inner loops of one instruction set.
pub(super) trait Lanes: Send + Sync + Debug {
    /// a ← a op b. All words of an operation are equally many.
    fn zip(&self, op: Zip, a: &mut [u64], b: &[u64]) {
        scalar::zip(op, a, b);
    }

    /// out ← a op b.
    fn zipped(&self, op: Zip, a: &[u64], b: &[u64], out: &mut [u64]) {
        scalar::zipped(op, a, b, out);
    }

    /// a ← op(a).
    fn map(&self, op: Map, a: &mut [u64]) {
        scalar::map(op, a);
    }

    /// out ← op(a).
    fn mapped(&self, op: Map, a: &[u64], out: &mut [u64]) {
        scalar::mapped(op, a, out);
    }

    /// Appends the low `bits` (1 to 64) of every word to a message.
    fn pack(&self, a: &[u64], bits: u32, out: &mut Vec<u8>) {
        scalar::pack(a, bits, out);
    }

    /// The words at the beginning of a message, which may go on behind them.
    fn unpack(&self, bytes: &[u8], bits: u32, out: &mut [u64]) {
        scalar::unpack(bytes, bits, out);
    }

    /// a ← (a op mask) mod 2^bits, appended to a message.
    fn mask_and_pack(&self, op: Zip, a: &mut [u64], mask: &[u64], bits: u32, out: &mut Vec<u8>) {
        scalar::mask_and_pack(self, op, a, mask, bits, out);
    }

    /// (a op mask) mod 2^bits, appended to a message.
    fn pack_masked(&self, op: Zip, a: &[u64], mask: &[u64], bits: u32, out: &mut Vec<u8>) {
        scalar::pack_masked(self, op, a, mask, bits, out);
    }

    /// a ← (a op w) mod 2^bits for the words w at the beginning of a message.
    fn combine_packed(&self, op: Zip, a: &mut [u64], bytes: &[u8], bits: u32) {
        scalar::combine_packed(self, op, a, bytes, bits);
    }

    /// Σ a[i]·b[i].
    fn dot(&self, a: &[u64], b: &[u64]) -> u64 {
        scalar::dot(a, b)
    }

    /// Multiplies registers `rounds` times; the number of 64-bit products, if there is an instruction for them.
    fn multiply_registers(&self, _rounds: usize) -> Option<usize> {
        None
    }

    /// Most rows of a [`Tile`].
    fn tile_rows(&self) -> usize {
        4
    }

    /// Inputs that a tile may run over while its part of a panel stays in a near cache.
    fn block(&self) -> usize {
        192
    }

    fn tile(&self, t: Tile<'_>) {
        scalar::tile(t);
    }

    /// Where products are scarcer than additions, a tile of Σ (a_{2j} + b_{2j+1})·(a_{2j+1} + b_{2j}) and, of an odd
    /// number of inputs, the plain product of the last one. Only modulo 2^`bits`.
    fn paired_tile(&self, _bits: u32) -> Option<fn(Tile<'_>)> {
        None
    }

    /// How matrices are packed and multiplied where that is not [`super::gemm`]'s way.
    fn planes(&self) -> Option<&dyn Planes> {
        None
    }

    /// The key stream from block `first` on, each word masked. `first` is a multiple of 16.
    fn chacha12(&self, key: &[u8; 32], nonce: u64, first: u64, mask: u64, out: &mut [u64]) {
        scalar::chacha12(key, nonce, first, mask, out);
    }

    /// `out[i]` is bits i·cell to (i + 1)·cell of the stream, masked; `cell` is a power of two below 64.
    fn cut(&self, stream: &[u64], cell: usize, mask: u64, out: &mut [u64]) {
        scalar::cut(stream, cell, mask, out);
    }

    /// Flips a bit of each row; this and the next four are what [`bits`] does to many rows.
    fn flip_bits(&self, u: &mut [u64], width: usize, idx: &[u64]) {
        bits::flip_bits(u, width, idx);
    }

    /// A bit of each row.
    fn bits_at(&self, u: &[u64], width: usize, idx: &[u64], out: &mut [u64]) {
        bits::bits_at(u, width, idx, out);
    }

    /// Each row rotated.
    fn rotate_rows(&self, u: &[u64], width: usize, rot: &[u64], out: &mut [u64]) {
        bits::rotate_rows(u, width, rot, out);
    }

    /// For each bit the xor of those of its row from there on.
    fn suffix_xors(&self, u: &[u64], row: Row, out: &mut [u64]) {
        bits::suffix_xors(u, row, out);
    }

    /// The words that planes become. Those of all of `out`, at the beginning of `planes`.
    fn transpose(&self, planes: &[u64], b: Bundle, out: &mut [u64]) {
        bits::transpose_rows(planes, b, out);
    }

    /// See [`combine::combine`]. What is beyond the width, or the planes of the coins, may be anything.
    fn combine(&self, part: &Part<'_>) -> Sums {
        combine::combine(part)
    }

    /// See [`sums::subset_sums`].
    fn subset_sums(&self, bits: &[u64], m: usize, panel: &[u64], out: &mut [u64]) {
        sums::subset_sums(bits, m, panel, out);
    }

    /// Words of a table of so many entries as [`Lanes::select`] reads it.
    fn prepared(&self, entries: usize) -> usize {
        scalar::prepared(entries)
    }

    /// Appends a table as [`Lanes::select`] reads it.
    fn prepare(&self, table: &[u64], out: &mut Vec<u64>) {
        scalar::prepare(table, out);
    }

    /// `out[c][e]` for every row of the selection.
    fn select(&self, s: &Selection<'_>, out: &mut [&mut [u64]]) {
        scalar::select(s, out);
    }

    /// Number `block` of the ChaCha12 blocks of the first `count` nodes (more is allowed) of a tree of the given domain.
    fn expand(&self, domain: &[u32; 4], block: u32, seed: &[Plane; 4], count: usize, out: &mut Expansion) {
        scalar::expand(domain, block, seed, count, out);
    }

    /// See [`Plan::make`].
    fn plan(&self, plan: &mut Plan, thresholds: &DcfThresholds, base: &[u64; NODES], count: usize) {
        plan.make(thresholds, base, count);
    }

    /// Replaces `count` nodes from `at` on, at most 2·[`NODES`], by their children on the side of their paths, corrected, and
    /// appends the other children of those whose bit is set in `split`. What lies behind the nodes up to a multiple of
    /// [`NODES`] from `at` is overwritten.
    fn advance(&self, nodes: &mut Nodes, at: usize, count: usize, split: u32, step: &Step) {
        scalar::advance(self, nodes, at, count, split, step);
    }

    /// What `count` nodes from `at` on, at most 2·[`NODES`], answer for each of the four prefixes two levels below, corrected by
    /// their trees' words for these.
    fn answers(
        &self,
        nodes: &Nodes,
        at: usize,
        count: usize,
        corrections: &[[u64; NODES]; 4],
        out: &mut Answers,
    ) {
        scalar::answers(self, nodes, at, count, corrections, out);
    }

    /// Nodes with leaders below `first` stay, in their order; the others move to `leaving`, in theirs, without their paths.
    fn part(&self, nodes: &mut Nodes, first: u32, leaving: &mut Nodes) {
        scalar::part(nodes, first, leaving);
    }

    /// The children of the first `count` nodes (more is allowed), corrected, in order: those of nodes 0 to 7, then
    /// those of nodes 8 to 15.
    fn grow(&self, nodes: &Front, count: usize, c: Correction, out: &mut [Front; 2]) {
        scalar::grow(self, nodes, count, c, out);
    }

    /// The bits of each leaf, two words, corrected by `last` where its control bit is set.
    fn leaves(&self, nodes: &Front, last: [u64; 2], out: &mut [u64; 2 * NODES]) {
        scalar::leaves(nodes, last, out);
    }
}
