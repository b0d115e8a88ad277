//! Inner loops with 512-bit vectors.

mod bits;
mod limbs;
mod message;
mod peak;
mod product;
mod select;
mod stream;
mod sums;
mod tree;

use super::bits::{Bundle, Row};
use super::combine::{Part, Sums};
use super::dcf::Plan;
use super::lanes::{
    Answers, Correction, Expansion, Front, Lanes, NODES, Nodes, PANEL, Plane, Planes, Selection, Step, Tile,
};
use super::scalar;
use crate::backend::{Map, Zip};
use crate::comparison::DcfThresholds;
use product::{paired, paired_low, tile};
use std::sync::LazyLock;

/// Proof that this processor has AVX-512 F, CD, DQ, BW and VL.
#[derive(Debug)]
pub(super) struct Avx512 {
    /// Whether it has IFMA, products of 52-bit integers.
    ifma: bool,
    /// Whether it has VBMI, permutations of bytes.
    vbmi: bool,
    /// Whether it has GFNI, products of bytes with matrices of bits, and VBMI.
    gfni: bool,
    /// Whether it multiplies tiles of bytes, and is to.
    tiles: Option<limbs::Limbs>,
}

static AVX512: LazyLock<Option<Avx512>> = LazyLock::new(|| {
    let all = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl");
    let (ifma, vbmi) = (is_x86_feature_detected!("avx512ifma"), is_x86_feature_detected!("avx512vbmi"));
    let gfni = vbmi && is_x86_feature_detected!("gfni");
    all.then_some(Avx512 { ifma, vbmi, gfni, tiles: None })
});

static AMX: LazyLock<Option<Avx512>> = LazyLock::new(|| {
    let Avx512 { ifma, vbmi, gfni, .. } = *Avx512::detect()?;
    limbs::Limbs::detect().map(|tiles| Avx512 { ifma, vbmi, gfni, tiles: Some(tiles) })
});

impl Avx512 {
    pub(super) fn detect() -> Option<&'static Avx512> {
        AVX512.as_ref()
    }

    /// With tiles of bytes.
    pub(super) fn with_tiles() -> Option<&'static Avx512> {
        AMX.as_ref()
    }
}

impl Lanes for Avx512 {
    fn zip(&self, op: Zip, a: &mut [u64], b: &[u64]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { zip(op, a, b) }
    }

    fn zipped(&self, op: Zip, a: &[u64], b: &[u64], out: &mut [u64]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { zipped(op, a, b, out) }
    }

    fn map(&self, op: Map, a: &mut [u64]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { map(op, a) }
    }

    fn mapped(&self, op: Map, a: &[u64], out: &mut [u64]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { mapped(op, a, out) }
    }

    fn pack(&self, a: &[u64], bits: u32, out: &mut Vec<u8>) {
        if !self.vbmi {
            return scalar::pack(a, bits, out);
        }
        // SAFETY: an `Avx512` exists only after detection, VBMI's too.
        unsafe { message::pack(a, bits, out) }
    }

    fn unpack(&self, bytes: &[u8], bits: u32, out: &mut [u64]) {
        if !self.vbmi {
            return scalar::unpack(bytes, bits, out);
        }
        // SAFETY: an `Avx512` exists only after detection, VBMI's too.
        unsafe { message::unpack(bytes, bits, out) }
    }

    fn mask_and_pack(&self, op: Zip, a: &mut [u64], mask: &[u64], bits: u32, out: &mut Vec<u8>) {
        if !self.vbmi {
            return scalar::mask_and_pack(self, op, a, mask, bits, out);
        }
        // SAFETY: an `Avx512` exists only after detection, VBMI's too.
        unsafe { message::mask_and_pack(op, a, mask, bits, out) }
    }

    fn pack_masked(&self, op: Zip, a: &[u64], mask: &[u64], bits: u32, out: &mut Vec<u8>) {
        if !self.vbmi {
            return scalar::pack_masked(self, op, a, mask, bits, out);
        }
        // SAFETY: an `Avx512` exists only after detection, VBMI's too.
        unsafe { message::pack_masked(op, a, mask, bits, out) }
    }

    fn combine_packed(&self, op: Zip, a: &mut [u64], bytes: &[u8], bits: u32) {
        if !self.vbmi {
            return scalar::combine_packed(self, op, a, bytes, bits);
        }
        // SAFETY: an `Avx512` exists only after detection, VBMI's too.
        unsafe { message::combine_packed(op, a, bytes, bits) }
    }

    fn dot(&self, a: &[u64], b: &[u64]) -> u64 {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { dot(a, b) }
    }

    fn multiply_registers(&self, rounds: usize) -> Option<usize> {
        // SAFETY: an `Avx512` exists only after detection, of tiles too.
        Some(unsafe {
            if self.tiles.is_some() { limbs::multiply_registers(rounds) } else { peak::multiply(rounds) }
        })
    }

    fn tile_rows(&self) -> usize {
        8
    }

    fn block(&self) -> usize {
        1536 // 192 KiB of the second-level cache
    }

    fn tile(&self, t: Tile<'_>) {
        assert!(t.in_bounds(), "tile outside its buffers");
        let strip = t.a_row == 1 && t.a_col == 8;
        // SAFETY: an `Avx512` exists only after detection, and the tile lies inside its buffers.
        unsafe {
            match t.rows {
                1 => tile::<1, false>(t),
                2 => tile::<2, false>(t),
                3 => tile::<3, false>(t),
                4 => tile::<4, false>(t),
                5 => tile::<5, false>(t),
                6 => tile::<6, false>(t),
                7 => tile::<7, false>(t),
                8 if strip => tile::<8, true>(t),
                8 => tile::<8, false>(t),
                rows => panic!("tile of {rows} rows"),
            }
        }
    }

    fn paired_tile(&self, bits: u32) -> Option<fn(Tile<'_>)> {
        macro_rules! rows {
            ($paired:ident) => {
                |t| {
                    assert!(t.in_bounds(), "tile outside its buffers");
                    let strip = t.a_row == 1 && t.a_col == 8;
                    // SAFETY: `self` exists only after detection, IFMA's too, and the tile lies inside its buffers.
                    unsafe {
                        match t.rows {
                            1 => $paired::<1, false>(t),
                            2 => $paired::<2, false>(t),
                            3 => $paired::<3, false>(t),
                            4 => $paired::<4, false>(t),
                            5 => $paired::<5, false>(t),
                            6 => $paired::<6, false>(t),
                            7 => $paired::<7, false>(t),
                            8 if strip => $paired::<8, true>(t),
                            8 => $paired::<8, false>(t),
                            rows => panic!("tile of {rows} rows"),
                        }
                    }
                }
            };
        }
        Some(if self.ifma && bits <= 52 { rows!(paired_low) } else { rows!(paired) })
    }

    fn planes(&self) -> Option<&dyn Planes> {
        self.tiles.as_ref().map(|tiles| tiles as _)
    }

    fn chacha12(&self, key: &[u8; 32], nonce: u64, first: u64, mask: u64, out: &mut [u64]) {
        assert!(first.is_multiple_of(16), "streams start at whole groups of blocks");
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { stream::chacha12(key, nonce, first, mask, out) }
    }

    fn cut(&self, words: &[u64], cell: usize, mask: u64, out: &mut [u64]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { stream::cut(words, cell, mask, out) }
    }

    fn flip_bits(&self, u: &mut [u64], width: usize, idx: &[u64]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { bits::flip_bits(u, width, idx) }
    }

    fn bits_at(&self, u: &[u64], width: usize, idx: &[u64], out: &mut [u64]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { bits::bits_at(u, width, idx, out) }
    }

    fn rotate_rows(&self, u: &[u64], width: usize, rot: &[u64], out: &mut [u64]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { bits::rotate_rows(u, width, rot, out) }
    }

    fn suffix_xors(&self, u: &[u64], row: Row, out: &mut [u64]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { bits::suffix_xors(u, row, out) }
    }

    fn transpose(&self, planes: &[u64], b: Bundle, out: &mut [u64]) {
        if !self.gfni {
            return super::bits::transpose_rows(planes, b, out);
        }
        // SAFETY: an `Avx512` exists only after detection, GFNI's and VBMI's too.
        unsafe {
            match b.count {
                0..=8 => bits::transpose::<1>(planes, b, out),
                9..=24 => bits::transpose::<3>(planes, b, out),
                _ => bits::transpose::<8>(planes, b, out),
            }
        }
    }

    fn combine(&self, part: &Part<'_>) -> Sums {
        if self.gfni && part.words == 1 && part.length == 2 {
            // SAFETY: an `Avx512` exists only after detection, GFNI's and VBMI's too.
            return unsafe { bits::combine(part) };
        }
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { combine(part) }
    }

    fn subset_sums(&self, bits: &[u64], m: usize, panel: &[u64], out: &mut [u64]) {
        let (panel, out) = (panel.as_chunks().0, out.as_chunks_mut().0);
        // SAFETY: an `Avx512` exists only after detection.
        unsafe {
            match m {
                1 => sums::masked::<1>(bits, panel, out),
                2 => sums::masked::<2>(bits, panel, out),
                3 => sums::masked::<3>(bits, panel, out),
                4 => sums::masked::<4>(bits, panel, out),
                5 => sums::masked::<5>(bits, panel, out),
                6 => sums::masked::<6>(bits, panel, out),
                7 => sums::masked::<7>(bits, panel, out),
                8 => sums::masked::<8>(bits, panel, out),
                9..16 => sums::four_russians::<1>(bits, m, panel, out),
                _ => sums::four_russians::<2>(bits, m, panel, out),
            }
        }
    }

    fn prepared(&self, entries: usize) -> usize {
        if entries < 8 { scalar::prepared(entries) } else { select::prepared(entries) }
    }

    fn prepare(&self, table: &[u64], out: &mut Vec<u64>) {
        if table.len() < 8 { scalar::prepare(table, out) } else { select::prepare(table, out) }
    }

    fn select(&self, s: &Selection<'_>, out: &mut [&mut [u64]]) {
        if s.entries < 8 {
            return scalar::select(s, out);
        }
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { select::select(s, out) }
    }

    fn expand(&self, domain: &[u32; 4], block: u32, seed: &[Plane; 4], count: usize, out: &mut Expansion) {
        if count == 1 {
            return scalar::expand(domain, block, seed, count, out);
        }
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { tree::expand(domain, block, seed, out) }
    }

    fn advance(&self, nodes: &mut Nodes, at: usize, count: usize, split: u32, step: &Step) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe {
            match count {
                1 => scalar::advance(&scalar::Scalar, nodes, at, count, split, step),
                2..=NODES => tree::advance::<1>(nodes, at, split, step),
                _ => tree::advance::<2>(nodes, at, split, step),
            }
        }
    }

    fn plan(&self, made: &mut Plan, thresholds: &DcfThresholds, base: &[u64; NODES], count: usize) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { plan(made, thresholds, base, count) }
    }

    fn answers(
        &self,
        nodes: &Nodes,
        at: usize,
        count: usize,
        corrections: &[[u64; NODES]; 4],
        out: &mut Answers,
    ) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe {
            match count {
                ..=NODES => tree::answers::<1>(nodes, at, corrections, out),
                _ => tree::answers::<2>(nodes, at, corrections, out),
            }
        }
    }

    fn part(&self, nodes: &mut Nodes, first: u32, leaving: &mut Nodes) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { tree::part(nodes, first, leaving) }
    }

    fn grow(&self, nodes: &Front, count: usize, c: Correction, out: &mut [Front; 2]) {
        if count == 1 {
            return scalar::grow(&scalar::Scalar, nodes, count, c, out);
        }
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { tree::grow(nodes, c, out) }
    }

    fn leaves(&self, nodes: &Front, last: [u64; 2], out: &mut [u64; 2 * NODES]) {
        // SAFETY: an `Avx512` exists only after detection.
        unsafe { tree::leaves(nodes, last, out) }
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn zip(op: Zip, a: &mut [u64], b: &[u64]) {
    scalar::zip(op, a, b);
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn zipped(op: Zip, a: &[u64], b: &[u64], out: &mut [u64]) {
    scalar::zipped(op, a, b, out);
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn map(op: Map, a: &mut [u64]) {
    scalar::map(op, a);
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn mapped(op: Map, a: &[u64], out: &mut [u64]) {
    scalar::mapped(op, a, out);
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn dot(a: &[u64], b: &[u64]) -> u64 {
    scalar::dot(a, b)
}

#[target_feature(enable = "avx512f,avx512cd,avx512dq,avx512bw,avx512vl")]
fn plan(made: &mut Plan, thresholds: &DcfThresholds, base: &[u64; NODES], count: usize) {
    made.make(thresholds, base, count);
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn combine(part: &Part<'_>) -> Sums {
    super::combine::combine(part)
}

const _: () = assert!(PANEL == 16 && NODES == 16);
