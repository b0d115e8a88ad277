//! Products of matrices by a processor's tiles of bytes (Intel AMX).
//!
//! A right-hand matrix is packed as bytes: a word is Σ b_j·2^(8j), j below 8, and each 64 inputs of a panel's 16 outputs, a step,
//! are eight tiles of 1 KiB, one for each limb. A product reads them as they lie, whatever its rows; with many rows, only as many
//! limbs as its modulus has. Left matrices are split when a product begins, into digits from −128 to 127.
//!
//! Then a product modulo 2^64 is Σ 2^(8s)·Σ a_i·b_(s−i), s below 8 and i up to s: 36 products of bytes, modulo 2^56 28 and modulo
//! 2^48 21. One instruction multiplies 16 × 64 by 64 × 16 bytes and adds the products to sums of 32 bits, in 16 cycles: 28
//! multiply-adds of words a cycle (36 modulo 2^56), where vectors start 5 to 8.
//!
//! It is exact: sum number s counts 2^(8s), so that of those from s = 4 on 32 bits are all that is needed, and the others have at
//! most four products up to 128·255 in size for each input, less than 2^31 for a [`BLOCK`] of inputs.

mod few;
mod join;
mod rows;
mod tiles;

use super::stream::transposed;
use crate::buffer::{self, Buffer};
use crate::cpu::gemm::by_panels;
use crate::cpu::lanes::{PANEL, Planes};
use crate::cpu::par;
use join::Join;
use rows::Rows;
use std::arch::x86_64::*;
use std::ops::Range;
pub(super) use tiles::multiply_registers;
use tiles::{Ahead, Block, Configured, Term};

/// Rows of a tile, and outputs of one.
const TILE: usize = PANEL;
/// Inputs of a tile: one step.
const STEP: usize = 64;
/// Limbs of a word.
const LIMBS: usize = 8;
/// Lines of a step of a panel, or of a whole tile's sums.
const LINES: usize = LIMBS * TILE;
/// Steps over which sums of 32 bits are exact: 4·128·255·64·256 is less than 2^31.
const BLOCK: usize = 256;
/// Tiles of rows that a panel passes by together.
const GROUP: usize = 8;
/// Lines of a left matrix that stay in the second-level cache while panels pass by (1 MiB).
const CACHED: usize = 1 << 14;
/// Rows for which vectors read a matrix faster than tiles do.
const FEW: usize = 2;
/// Rows up to which all limbs are read: to leave some out is to read memory in pieces, which takes longer than all of it.
const PASSING: usize = 2 * TILE;
/// Steps (32 KiB) that a matrix is fetched ahead.
const AHEAD: usize = 4;

/// A row of a tile.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// The lines inside a buffer of words. No line crosses the border between two of the cache's, which would take it twice as long.
struct Lines(Buffer);

impl Lines {
    /// Of any value.
    fn unwritten(n: usize) -> Lines {
        Lines(Buffer::ours(buffer::unwritten(words(n))))
    }

    fn get(&self) -> &[Line] {
        lines(&self.0)
    }

    fn get_mut(&mut self) -> &mut [Line] {
        lines_mut(&mut self.0)
    }
}

/// Words of a buffer for `n` lines.
const fn words(n: usize) -> usize {
    8 * n + 7
}

fn lines(words: &[u64]) -> &[Line] {
    // SAFETY: any eight words are a line.
    unsafe { words.align_to().1 }
}

fn lines_mut(words: &mut [u64]) -> &mut [Line] {
    // SAFETY: any eight words are a line, and any line is eight words.
    unsafe { words.align_to_mut().1 }
}

#[cfg(target_os = "linux")]
fn granted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: asks for larger signal frames and saved tiles, of this process; a system that does not know it refuses.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn granted() -> bool {
    false
}

/// Proof that the processor has these tiles, and that the system lets this process use them, for which it must be asked once.
#[derive(Debug)]
pub(super) struct Limbs(());

impl Limbs {
    pub(super) fn detect() -> Option<Limbs> {
        // Leaf 7: tiles, and products of bytes.
        const TILES_AND_BYTES: u32 = 1 << 24 | 1 << 25;
        let processor = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES_AND_BYTES == TILES_AND_BYTES;
        let vectors = is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vnni");
        (processor && vectors && granted()).then_some(Limbs(()))
    }
}

impl Planes for Limbs {
    fn pack(&self, b: &[u64], k: usize, n: usize) -> Vec<u64> {
        assert_eq!(b.len(), k * n, "matrix of {n} × {k}");
        // Weights stay: they take no buffer that is longer than they are.
        let mut out = buffer::lasting(words(n.div_ceil(PANEL) * k.div_ceil(STEP) * LINES));
        if k > 0 {
            let panel = k.div_ceil(STEP) * LINES;
            let parallel = b.len() >= par::WORDS;
            par::chunks_if(
                parallel,
                &mut lines_mut(&mut out)[..n.div_ceil(PANEL) * panel],
                panel,
                |p, lines| {
                    let rows = &b[p * PANEL * k..n.min((p + 1) * PANEL) * k];
                    // SAFETY: detected.
                    unsafe { pack_panel(rows, k, lines) };
                },
            );
        }
        out
    }

    fn add(&self, a: &[u64], b: &[u64]) -> Vec<u64> {
        assert_eq!(a.len(), b.len(), "matrices of different shapes");
        let mut out = buffer::lasting(a.len());
        let n = a.len() / 8 / LINES * LINES;
        let [a, b] = [a, b].map(|m| &lines(m)[..n]);
        par::chunks_if(out.len() >= par::WORDS, &mut lines_mut(&mut out)[..n], LINES, |step, sum| {
            let at = step * LINES..(step + 1) * LINES;
            // SAFETY: detected.
            unsafe { add_step(&a[at.clone()], &b[at], sum) };
        });
        out
    }

    fn gemm(&self, a: &[u64], b: &[u64], [m, k, n]: [usize; 3], bits: u32) -> Vec<u64> {
        assert_eq!(a.len(), m * k, "left matrix of {m} × {k}");
        let limbs = if m <= PASSING { LIMBS } else { (bits.div_ceil(8) as usize).max(4) };
        // SAFETY: detected.
        product([m, k, n], b, bits, || unsafe { Rows::of_words(a, [m, k], limbs) })
    }

    fn gemm_bits(&self, a: &[u64], b: &[u64], [m, k, n]: [usize; 3]) -> Vec<u64> {
        assert_eq!(a.len(), m * k.div_ceil(STEP), "left matrix of {m} × {k} bits");
        // SAFETY: detected.
        product([m, k, n], b, 64, || unsafe { Rows::of_bits(a, [m, k]) })
    }
}

/// Multiply-adds of words from which on several threads are faster.
const SMALL: usize = 1 << 20;

fn product([m, k, n]: [usize; 3], b: &[u64], bits: u32, rows: impl FnOnce() -> Rows) -> Vec<u64> {
    let steps = k.div_ceil(STEP);
    assert!((1..=64).contains(&bits), "a product modulo 2^{bits}");
    assert_eq!(b.len(), words(n.div_ceil(PANEL) * steps * LINES), "packed matrix of {n} × {k}");
    if m == 0 || n == 0 || k == 0 {
        return buffer::zeroed(m * n);
    }
    let product = Product { rows: &rows(), b: lines(b), steps, n, mask: u64::MAX >> (64 - bits) };
    // The first block of inputs overwrites.
    let mut c = buffer::unwritten(m * n);
    by_panels(m * k * n >= SMALL, &mut c, [m, n], |panels, c, c_row| {
        if m <= FEW { product.by_vectors(panels, c, c_row) } else { product.by_tiles(panels, c, c_row) }
    });
    c
}

struct Product<'a> {
    rows: &'a Rows,
    b: &'a [Line],
    steps: usize,
    n: usize,
    /// What results are masked with.
    mask: u64,
}

impl Product<'_> {
    /// The steps of a panel from one on.
    fn at(&self, panel: usize, step: usize) -> &[Line] {
        &self.b[(panel * self.steps + step) * LINES..(panel + 1) * self.steps * LINES]
    }

    /// The words of one panel of a row, in a buffer that begins with the panel `first`.
    fn outputs<'c>(
        &self,
        c: &'c mut [u64],
        c_row: usize,
        row: usize,
        first: usize,
        panel: usize,
    ) -> &'c mut [u64] {
        &mut c[row * c_row + (panel - first) * PANEL..][..PANEL.min(self.n - panel * PANEL)]
    }

    fn by_vectors(&self, panels: Range<usize>, c: &mut [u64], c_row: usize) {
        let mut sums = Lines::unwritten(LINES);
        for block in blocks(self.steps, BLOCK) {
            for p in panels.clone() {
                // SAFETY: detected.
                unsafe { few::sums(self.rows, block.clone(), self.at(p, block.start), sums.get_mut()) };
                let join =
                    Join { sums: sums.get(), limbs: self.rows.limbs, add: block.start > 0, mask: self.mask };
                for row in 0..self.rows.m {
                    // SAFETY: detected.
                    unsafe { join.row(row, self.outputs(c, c_row, row, panels.start, p)) };
                }
            }
        }
    }

    /// Some tiles' rows at a time, and so many of their inputs as a cache holds: all panels pass by these, two steps, or a few, at a
    /// time, whose tiles stay in the first-level cache while the rows' tiles take turns.
    fn by_tiles(&self, panels: Range<usize>, c: &mut [u64], c_row: usize) {
        let rows = self.rows;
        let mut sums = Lines::unwritten(GROUP * LINES);
        // SAFETY: detected; nothing of what follows begins another product.
        let configured = unsafe { Configured::new(rows.term, rows.height) };
        let together = rows.term.steps();
        for tiles in blocks(rows.tiles(), GROUP) {
            let most = (CACHED / (tiles.len() * rows.step_lines())).clamp(together, BLOCK);
            // Each tile fetches an equal share of a later step.
            let (lines, places) = (rows.limbs * TILE, rows.term.places());
            let each = lines.div_ceil(tiles.len() * places);
            let share = |i: usize| (i * each * places, if i * each * places < lines { each } else { 0 });
            for block in blocks(self.steps, most / together * together) {
                for p in panels.clone() {
                    for first in block.clone().step_by(together) {
                        let steps = first..block.end.min(first + together);
                        let b = &self.at(p, first)[..steps.len() * LINES];
                        let later = self.later(&panels, p, &block, first);
                        for (i, tile) in tiles.clone().enumerate() {
                            let (line, each) = share(i);
                            configured.add(Block {
                                steps: steps.len(),
                                a: rows.of_tile(tile, steps.clone()),
                                b,
                                sums: &mut sums.get_mut()[i * LINES..][..LINES],
                                fresh: first == block.start,
                                ahead: Ahead { from: later.wrapping_add(line), each },
                            });
                        }
                    }
                    for (i, tile) in tiles.clone().enumerate() {
                        let sums = &sums.get()[i * LINES..][..LINES];
                        let join = Join { sums, limbs: rows.limbs, add: block.start > 0, mask: self.mask };
                        for row in tile * rows.height..rows.m.min((tile + 1) * rows.height) {
                            let c = self.outputs(c, c_row, row, panels.start, p);
                            // SAFETY: detected.
                            unsafe { join.row(row % rows.height, c) };
                        }
                    }
                }
            }
        }
    }

    /// What comes [`AHEAD`] steps after one, in this panel's block or the next one's. It need not lie in any buffer.
    fn later(&self, panels: &Range<usize>, panel: usize, block: &Range<usize>, step: usize) -> *const Line {
        let later = step + AHEAD;
        let (panel, step) = match later < block.end {
            true => (panel, later),
            false if panel + 1 < panels.end => (panel + 1, block.start + (later - block.end)),
            // The next block, or nothing.
            false => (panels.start, later),
        };
        self.b.as_ptr().wrapping_add((panel * self.steps + step) * LINES)
    }
}

/// 0..n in parts of like sizes, at most `most` each.
fn blocks(n: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let each = n.div_ceil(n.div_ceil(most).max(1));
    (0..n).step_by(each.max(1)).map(move |from| from..n.min(from + each))
}

/// Up to 16 rows of k words as the tiles of a panel. In line r of a limb's tile are, for each output, four bytes: those of
/// inputs 4r to 4r + 3. Outputs are in the order in which [`Join`] finds them.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
fn pack_panel(b: &[u64], k: usize, panel: &mut [Line]) {
    for (step, tiles) in panel.chunks_exact_mut(LINES).enumerate() {
        let mut limbs = [[_mm512_setzero_si512(); TILE]; LIMBS];
        for (j, row) in b.chunks_exact(k).enumerate() {
            for (limb, line) in limbs.iter_mut().zip(rows::split(&row[step * STEP..])) {
                limb[join::place(j)] = line;
            }
        }
        for (limb, tile) in limbs.iter().zip(tiles.chunks_exact_mut(TILE)) {
            for (line, to) in transposed(limb).into_iter().zip(tile) {
                // SAFETY: a line is 64 bytes.
                unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), line) };
            }
        }
    }
}

/// The sum of two steps' words: byte by byte, with a carry from limb to limb.
#[target_feature(enable = "avx512f,avx512bw")]
fn add_step(a: &[Line], b: &[Line], sum: &mut [Line]) {
    let mut carries = [[0u8; STEP]; TILE];
    for limb in 0..LIMBS {
        for (line, carries) in carries.iter_mut().enumerate() {
            let at = limb * TILE + line;
            let bytes = sum[at].0.iter_mut().zip(carries).zip(a[at].0.iter().zip(&b[at].0));
            for ((sum, carry), (a, b)) in bytes {
                let (without, over) = a.overflowing_add(*b);
                let (with, again) = without.overflowing_add(*carry);
                (*sum, *carry) = (with, u8::from(over | again));
            }
        }
    }
}
