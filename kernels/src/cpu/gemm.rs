//! Products of matrices over Z_2^64.
//!
//! A packed matrix is a sequence of panels of [`PANEL`] outputs, the last one filled up with zeros; a panel
//! holds, for each of the k inputs, its outputs' weights, and one row more, of which below. A product with few rows reads it
//! once from start to end; a larger one keeps a block of a panel in a cache while the rows pass by, and each of its tiles
//! fetches its share of the next block, so that no tile waits for memory.
//!
//! With many rows, half as many products suffice where the instruction set has a tile for it:
//! Σ x_l·y_l = Σ (x_{2j} + y_{2j+1})·(x_{2j+1} + y_{2j}) − Σ x_{2j}·x_{2j+1} − Σ y_{2j}·y_{2j+1}, exact in every
//! commutative ring, where the last two sums are made once for each row and for each output (Winograd, A new algorithm
//! for inner product, 1968); those of the outputs are the last row of their panel. Two multiply-adds are then one product
//! and three additions: four instructions either way, but the multiplier, whose pipes additions share, is no longer the
//! limit. The floor is what a core starts of them: two 512-bit instructions a cycle on Zen 4, of which one may be a
//! product, hence 8 multiply-adds a cycle. Modulo 2^52 or less, a product of mantissas adds its sum itself: three
//! instructions, of which one is a product, hence up to 10.7.
//!
//! Where the processor multiplies tiles of bytes, matrices are packed for these instead, see `avx512/limbs.rs`; what follows is then
//! of no account: only [`gemm_batch`] multiplies tiles of words there.
//!
//! Strassen's method (Gaussian elimination is not optimal, 1969, in Winograd's form) is not used: at 128 rows, the sums
//! of B's blocks and of the results took more time than the products that they save; see docs/floors.md.

use super::lanes::{Lanes, PANEL, Tile};
use super::par;
use crate::backend::{GemmBatch, KeyStream, Map};
use crate::buffer::{self, Buffer};
use rayon::prelude::*;
use std::ops::Range;

/// Multiply-adds below which one thread is faster.
const SMALL: usize = 1 << 19;

/// Rows from which on paired inputs are faster: each row's own sums take a pass over it.
const PAIRED: usize = 32;

/// Rows up to which reading the matrix is what takes the time, give or take what the last few of them compute.
pub(super) const TOGETHER: usize = 16;

/// Words of a cache line.
const LINE: usize = 8;

/// Words of a packed panel.
pub(super) const fn panel_words(k: usize) -> usize {
    PANEL * (k + 1)
}

pub(super) fn pack_matrix(lanes: &dyn Lanes, b: &[u64], k: usize, n: usize) -> Vec<u64> {
    if let Some(planes) = lanes.planes() {
        return planes.pack(b, k, n);
    }
    assert_eq!(b.len(), k * n, "matrix of {n} × {k}");
    // Weights stay: they take no buffer that is longer than they are.
    let mut out = buffer::lasting(n.div_ceil(PANEL) * panel_words(k));
    if k == 0 {
        return out;
    }
    par::chunks(&mut out, panel_words(k), |p, panel| {
        let cols = PANEL.min(n - p * PANEL);
        for (j, row) in b[p * PANEL * k..].chunks_exact(k).take(cols).enumerate() {
            panel[j..].iter_mut().step_by(PANEL).zip(row).for_each(|(o, w)| *o = *w);
        }
        sum_pairs(panel, k);
    });
    out
}

/// The last row of a panel from the others.
fn sum_pairs(panel: &mut [u64], k: usize) {
    let (panel, sums) = panel.split_at_mut(PANEL * k);
    sums.fill(0);
    for pair in panel.chunks_exact(2 * PANEL) {
        let (even, odd) = pair.split_at(PANEL);
        for (sum, (x, y)) in sums.iter_mut().zip(even.iter().zip(odd)) {
            *sum = sum.wrapping_add(x.wrapping_mul(*y));
        }
    }
}

/// The sum of two packed matrices, packed.
pub(super) fn add_packed(lanes: &dyn Lanes, a: &[u64], b: &[u64], k: usize) -> Vec<u64> {
    if let Some(planes) = lanes.planes() {
        return planes.add(a, b);
    }
    assert_eq!(a.len(), b.len(), "matrices of different shapes");
    let mut out = buffer::lasting(a.len());
    par::chunks(&mut out, panel_words(k), |p, panel| {
        let words = PANEL * k;
        let [a, b] = [a, b].map(|m| &m[p * panel_words(k)..][..words]);
        panel.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum = a.wrapping_add(*b));
        sum_pairs(panel, k);
    });
    out
}

/// A · B modulo 2^bits, B packed.
pub(super) fn gemm(lanes: &dyn Lanes, a: &[u64], b: &[u64], [m, k, n]: [usize; 3], bits: u32) -> Vec<u64> {
    if let Some(planes) = lanes.planes() {
        return planes.gemm(a, b, [m, k, n], bits);
    }
    assert_eq!(a.len(), m * k, "left matrix of {m} × {k}");
    assert_eq!(b.len(), n.div_ceil(PANEL) * panel_words(k), "packed matrix of {n} × {k}");
    if m == 0 || n == 0 || k == 0 {
        return buffer::zeroed(m * n);
    }
    // The first block of inputs overwrites.
    let mut c = buffer::unwritten(m * n);
    let step = lanes.tile_rows();
    let threads = rayon::current_num_threads();
    let parallel = threads > 1 && m * k * n >= SMALL;
    let paired = lanes.paired_tile(bits).filter(|_| m >= PAIRED);
    let product = Product { lanes, paired, a: &Rows::new(a, [m, k], step, paired.is_some()), b, k, n };
    if parallel && m < PAIRED * threads {
        // Few rows: each thread has enough of them for pairs if there are.
        by_panels(true, &mut c, [m, n], |panels, c, c_row| {
            panels.clone().for_each(|p| product.panel(p, 0, m, c, (p - panels.start) * PANEL, c_row));
        });
    } else {
        // Many rows: each thread takes some of them.
        let each = if parallel { m.div_ceil(2 * threads).next_multiple_of(step) } else { m };
        par::chunks_if(parallel, &mut c, each * n, |i, c| {
            for p in 0..n.div_ceil(PANEL) {
                product.panel(p, i * each, c.len() / n, c, p * PANEL, n);
            }
        });
    }
    if bits < 64 {
        lanes.map(Map::And((1 << bits) - 1), &mut c);
    }
    c
}

/// Calls `f(panels, c, c_row)`, which writes the outputs of row i of these panels to `c[i·c_row]` and so on. If `parallel`, each
/// thread takes some panels.
pub(super) fn by_panels(
    parallel: bool,
    c: &mut [u64],
    [m, n]: [usize; 2],
    f: impl Fn(Range<usize>, &mut [u64], usize) + Sync,
) {
    let panels = n.div_ceil(PANEL);
    let threads = rayon::current_num_threads();
    if !parallel || threads == 1 {
        f(0..panels, c, n);
        return;
    }
    // Outputs of a row lie side by side, so each thread fills buffers of its own.
    let each = panels.div_ceil(4 * threads);
    let width = each * PANEL;
    let mut parts = Buffer::ours(buffer::unwritten(panels * m * PANEL));
    parts.par_chunks_mut(m * width).enumerate().for_each(|(i, part)| {
        f(i * each..panels.min((i + 1) * each), part, part.len() / m);
    });
    for (i, row) in c.chunks_exact_mut(n).enumerate() {
        for (row, part) in row.chunks_mut(width).zip(parts.chunks(m * width)) {
            row.copy_from_slice(&part[i * (part.len() / m)..][..row.len()]);
        }
    }
}

/// The left matrix: as it is when it has few rows, else in strips of a tile's rows.
struct Rows<'a> {
    plain: &'a [u64],
    strips: Vec<u64>,
    /// Σ x_{2j}·x_{2j+1} of each row, where pairs may be used.
    pairs: Vec<u64>,
    step: usize,
    k: usize,
}

impl<'a> Rows<'a> {
    fn new(a: &'a [u64], [m, k]: [usize; 2], step: usize, paired: bool) -> Rows<'a> {
        let mut strips = Vec::new();
        if m >= step {
            strips = vec![0; m / step * step * k];
            par::chunks(&mut strips, step * k, |i, strip| {
                let rows = &a[i * step * k..][..step * k];
                for (l, words) in strip.chunks_exact_mut(step).enumerate() {
                    words.iter_mut().zip(rows[l..].iter().step_by(k)).for_each(|(o, w)| *o = *w);
                }
            });
        }
        let mut pairs = Vec::new();
        if paired {
            let sum =
                |row: &[u64]| row.chunks_exact(2).fold(0u64, |s, x| s.wrapping_add(x[0].wrapping_mul(x[1])));
            pairs = a.chunks_exact(k).map(sum).collect();
        }
        Rows { plain: a, strips, pairs, step, k }
    }

    /// Rows `i..i + rows` from input `l` on, with the strides of their rows and columns.
    fn tile(&self, i: usize, rows: usize, l: usize) -> (&[u64], usize, usize) {
        let strip = i * self.k + l * self.step;
        if rows == self.step && i.is_multiple_of(self.step) && strip < self.strips.len() {
            (&self.strips[strip..], 1, self.step)
        } else {
            (&self.plain[i * self.k + l..], self.k, 1)
        }
    }
}

struct Product<'a> {
    lanes: &'a dyn Lanes,
    /// Takes the place of the plain tile.
    paired: Option<fn(Tile<'_>)>,
    a: &'a Rows<'a>,
    b: &'a [u64],
    k: usize,
    n: usize,
}

impl Product<'_> {
    /// The outputs of panel `p` for rows `i0..i0 + m`, at `c[i·c_row + at]`.
    fn panel(&self, p: usize, i0: usize, m: usize, c: &mut [u64], at: usize, c_row: usize) {
        let step = self.lanes.tile_rows();
        let cols = PANEL.min(self.n - p * PANEL);
        let (panel, sums) = self.b[p * panel_words(self.k)..][..panel_words(self.k)].split_at(PANEL * self.k);
        // A single strip reads the panel once anyway.
        let blocks = if m <= step { 1 } else { self.k.div_ceil(self.lanes.block()) };
        let block = self.k.div_ceil(blocks).next_multiple_of(2);
        for l in (0..self.k).step_by(block) {
            let k = block.min(self.k - l);
            // The block behind this one, of this panel or the next, in equal shares: two lines a row.
            let share = if m > step { (2 * k).div_ceil(m.div_ceil(step)) } else { 0 };
            for i in (0..m).step_by(step) {
                let rows = step.min(m - i);
                let (a, a_row, a_col) = self.a.tile(i0 + i, rows, l);
                let tile = Tile {
                    a,
                    a_row,
                    a_col,
                    b: &panel[l * PANEL..],
                    b_row: PANEL,
                    c: &mut c[i * c_row + at..],
                    c_row,
                    rows,
                    cols,
                    k,
                    accumulate: l > 0,
                    ahead: (PANEL * k + i / step * share * LINE, share),
                };
                match self.paired {
                    Some(paired) => paired(tile),
                    None => self.lanes.tile(tile),
                }
            }
        }
        if self.paired.is_some() {
            for (row, x) in c.chunks_mut(c_row).zip(&self.a.pairs[i0..][..m]) {
                let row = &mut row[at..][..cols];
                row.iter_mut().zip(sums).for_each(|(c, y)| *c = c.wrapping_sub(x.wrapping_add(*y)));
            }
        }
    }
}

/// Words of a stream that are made together.
const MADE: usize = 1 << 15;

/// C += Y · R^T, where R's words, row by row, are the stream's: some outputs at a time.
pub(super) fn add_regenerated(
    lanes: &dyn Lanes,
    c: &mut [u64],
    y: &[u64],
    stream: &KeyStream<'_>,
    [m, k, n]: [usize; 3],
) {
    assert_eq!(y.len(), m * k, "left matrix of {m} × {k}");
    if m == 0 || k == 0 {
        return;
    }
    let each = (MADE / k).max(1).next_multiple_of(PANEL);
    let mut parts = buffer::unwritten(n * m);
    par::chunks_if(n * k >= par::WORDS, &mut parts, each * m, |i, part| {
        let (from, outputs) = (i * each, part.len() / m);
        // Streams are made from every sixteenth block on.
        let start = from * k / KeyStream::LEAST_PIECE * KeyStream::LEAST_PIECE;
        let mut words = buffer::unwritten((from + outputs) * k - start);
        draw(lanes, stream, start, &mut words);
        let rows = &words[from * k - start..];
        if m < lanes.tile_rows() {
            for (out, row) in part.chunks_exact_mut(m).zip(rows.chunks_exact(k)) {
                out.iter_mut().zip(y.chunks_exact(k)).for_each(|(c, y)| *c = lanes.dot(y, row));
            }
        } else {
            part.copy_from_slice(&gemm(lanes, y, &pack_matrix(lanes, rows, k, outputs), [m, k, outputs], 64));
        }
    });
    for (i, part) in parts.chunks(each * m).enumerate() {
        let outputs = part.len() / m;
        for (r, row) in c.chunks_exact_mut(n).enumerate() {
            for (j, c) in row[i * each..][..outputs].iter_mut().enumerate() {
                let at = if m < lanes.tile_rows() { j * m + r } else { r * outputs + j };
                *c = c.wrapping_add(part[at]);
            }
        }
    }
}

/// The stream's words from `start` on, the first of a sixteenth block.
fn draw(lanes: &dyn Lanes, stream: &KeyStream<'_>, start: usize, out: &mut [u64]) {
    let (bits, mut at, mut out) = (stream.piece_bits(), start, out);
    while !out.is_empty() {
        let (piece, within) = (at >> bits, at & (stream.piece - 1));
        let (now, later) = out.split_at_mut(out.len().min(stream.piece - within));
        lanes.chacha12(stream.key, stream.nonce.wrapping_add(piece as u64), within as u64 / 8, u64::MAX, now);
        at += now.len();
        out = later;
    }
}

pub(super) fn gemm_batch(lanes: &dyn Lanes, a: &[u64], b: &[u64], s: &GemmBatch) -> Vec<u64> {
    let mut c = buffer::zeroed(s.c_len);
    let (m, n, k) = (s.m, s.n, s.k);
    if m == 0 || n == 0 {
        return c;
    }
    if k == 0 {
        return c;
    }
    let work = m * n * k * s.offsets.len();
    if work < SMALL || s.offsets.len() == 1 || rayon::current_num_threads() == 1 {
        let mut packed = Vec::new();
        for &[a0, b0, c0] in &s.offsets {
            one(lanes, &a[a0..], &b[b0..], &mut c[c0..], s.c_row, s, &mut packed);
        }
        return c;
    }
    // Results may interleave in `c`, so each thread fills buffers of its own.
    let parts: Vec<Vec<u64>> = s
        .offsets
        .par_iter()
        .map_init(Vec::new, |packed, &[a0, b0, _]| {
            let mut part = vec![0; m * n];
            one(lanes, &a[a0..], &b[b0..], &mut part, n, s, packed);
            part
        })
        .collect();
    for (part, &[_, _, c0]) in parts.iter().zip(&s.offsets) {
        for (i, row) in part.chunks_exact(n).enumerate() {
            c[c0 + i * s.c_row..][..n].copy_from_slice(row);
        }
    }
    c
}

/// One product of a batch. `packed` is scratch.
fn one(
    lanes: &dyn Lanes,
    a: &[u64],
    b: &[u64],
    c: &mut [u64],
    c_row: usize,
    s: &GemmBatch,
    packed: &mut Vec<u64>,
) {
    let (m, n, k) = (s.m, s.n, s.k);
    if m <= 2 && s.a.col == 1 && s.b.row == 1 && k >= 8 {
        for i in 0..m {
            for j in 0..n {
                c[i * c_row + j] = lanes.dot(&a[i * s.a.row..][..k], &b[j * s.b.col..][..k]);
            }
        }
        return;
    }
    for j0 in (0..n).step_by(PANEL) {
        let cols = PANEL.min(n - j0);
        let direct = s.b.col == 1 && cols == PANEL && m <= lanes.tile_rows();
        if !direct {
            packed.clear();
            packed.resize(k * PANEL, 0);
            pack_panel(&b[j0 * s.b.col..], s, cols, packed);
        }
        for i in (0..m).step_by(lanes.tile_rows()) {
            lanes.tile(Tile {
                a: &a[i * s.a.row..],
                a_row: s.a.row,
                a_col: s.a.col,
                b: if direct { &b[j0..] } else { packed },
                b_row: if direct { s.b.row } else { PANEL },
                c: &mut c[i * c_row + j0..],
                c_row,
                rows: lanes.tile_rows().min(m - i),
                cols,
                k,
                accumulate: false,
                ahead: (0, 0),
            });
        }
    }
}

/// Copies `cols` columns into a panel of zeros.
fn pack_panel(b: &[u64], s: &GemmBatch, cols: usize, panel: &mut [u64]) {
    if s.b.col == 1 {
        for (l, row) in panel.chunks_exact_mut(PANEL).enumerate() {
            row[..cols].copy_from_slice(&b[l * s.b.row..][..cols]);
        }
    } else {
        for j in 0..cols {
            let column = b[j * s.b.col..].iter().step_by(s.b.row.max(1));
            panel[j..].iter_mut().step_by(PANEL).zip(column).for_each(|(o, w)| *o = *w);
        }
    }
}
