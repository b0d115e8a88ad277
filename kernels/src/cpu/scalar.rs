//! Plain Rust inner loops: the reference that the other instruction sets equal bit for bit.

use super::bits::rotate;
use super::dcf::{CHILDREN, OUTPUTS, join, output};
use super::lanes::{
    Answers, Correction, Expansion, Front, Lanes, NODES, Node, Nodes, PANEL, Plane, Selection, Step, Tile,
    tree_of,
};
use super::{message, par};
use crate::backend::{Map, Zip, exp_fraction};

/// No special instructions.
#[derive(Debug)]
pub(super) struct Scalar;

impl Lanes for Scalar {}

/// A loop over words, compiled for each operation, whose function is `$f` in it.
macro_rules! for_zip {
    ($op:expr, |$f:ident| $each:expr) => {
        for_operation!($op, $f, $each;
            Zip::Add => u64::wrapping_add,
            Zip::Sub => u64::wrapping_sub,
            Zip::Mul => u64::wrapping_mul,
            Zip::Xor => |a, b| a ^ b,
            Zip::And => |a, b| a & b)
    };
}

macro_rules! for_map {
    ($op:expr, |$f:ident| $each:expr) => {
        for_operation!($op, $f, $each;
            Map::Neg => u64::wrapping_neg,
            Map::Add(c) => |a: u64| a.wrapping_add(c),
            Map::Mul(c) => |a: u64| a.wrapping_mul(c),
            Map::And(c) => |a| a & c,
            Map::Xor(c) => |a| a ^ c,
            Map::Shl(s) => |a: u64| a.checked_shl(s).unwrap_or(0),
            Map::Shr(s) => |a: u64| a.checked_shr(s).unwrap_or(0),
            Map::Exp(s) => |a| exp_fraction(a, s))
    };
}

macro_rules! for_operation {
    ($op:expr, $f:ident, $each:expr; $($is:pat => $function:expr),*) => {
        match $op {
            $($is => {
                let $f = $function;
                $each
            })*
        }
    };
}

#[inline(always)]
pub(super) fn zip(op: Zip, a: &mut [u64], b: &[u64]) {
    for_zip!(op, |f| a.iter_mut().zip(b).for_each(|(a, b)| *a = f(*a, *b)))
}

#[inline(always)]
pub(super) fn zipped(op: Zip, a: &[u64], b: &[u64], out: &mut [u64]) {
    for_zip!(op, |f| out.iter_mut().zip(a.iter().zip(b)).for_each(|(o, (a, b))| *o = f(*a, *b)))
}

#[inline(always)]
pub(super) fn map(op: Map, a: &mut [u64]) {
    for_map!(op, |f| a.iter_mut().for_each(|a| *a = f(*a)))
}

#[inline(always)]
pub(super) fn mapped(op: Map, a: &[u64], out: &mut [u64]) {
    for_map!(op, |f| out.iter_mut().zip(a).for_each(|(o, a)| *o = f(*a)))
}

pub(super) fn pack(a: &[u64], bits: u32, out: &mut Vec<u8>) {
    match bits {
        64 => return pack_bytes::<8>(a, out),
        56 => return pack_bytes::<7>(a, out),
        48 => return pack_bytes::<6>(a, out),
        40 => return pack_bytes::<5>(a, out),
        32 => return pack_bytes::<4>(a, out),
        24 => return pack_bytes::<3>(a, out),
        16 => return pack_bytes::<2>(a, out),
        8 => return pack_bytes::<1>(a, out),
        _ => {}
    }
    let (mut acc, mut held) = (0u64, 0);
    for w in a {
        let w = w & (u64::MAX >> (64 - bits));
        acc |= w << held;
        held += bits;
        if held >= 64 {
            out.extend_from_slice(&acc.to_le_bytes());
            held -= 64;
            // `held` bits of w did not fit; bits > held because w was below 64 bits.
            acc = if held == 0 { 0 } else { w >> (bits - held) };
        }
    }
    out.extend_from_slice(&acc.to_le_bytes()[..held.div_ceil(8) as usize]);
}

/// Words of `SIZE` bytes: each is written in full, and the next one over its upper bytes, in a piece that stays in the cache.
fn pack_bytes<const SIZE: usize>(a: &[u64], out: &mut Vec<u8>) {
    const WORDS: usize = 512;
    let mut piece = [0; 8 * WORDS];
    for words in a.chunks(WORDS) {
        for (j, w) in words.iter().enumerate() {
            piece[j * SIZE..][..8].copy_from_slice(&w.to_le_bytes());
        }
        out.extend_from_slice(&piece[..words.len() * SIZE]);
    }
}

pub(super) fn unpack(bytes: &[u8], bits: u32, out: &mut [u64]) {
    let mask = u64::MAX >> (64 - bits);
    if bits == 64 {
        let words = bytes.as_chunks::<8>().0;
        out.iter_mut().zip(words).for_each(|(w, b)| *w = u64::from_le_bytes(*b));
        return;
    }
    for (j, w) in out.iter_mut().enumerate() {
        let bit = j * bits as usize;
        let rest = &bytes[bit / 8..];
        // Up to 57 bits lie in eight bytes wherever they begin.
        if let (true, Some(b)) = (bits <= 57, rest.first_chunk::<8>()) {
            *w = (u64::from_le_bytes(*b) >> (bit % 8)) & mask;
            continue;
        }
        let window = match rest.first_chunk::<16>() {
            Some(b) => u128::from_le_bytes(*b),
            None => {
                let mut b = [0; 16];
                b[..rest.len()].copy_from_slice(rest);
                u128::from_le_bytes(b)
            }
        };
        *w = (window >> (bit % 8)) as u64 & mask;
    }
}

/// Piece by piece, each of which is whole bytes of the message.
pub(super) fn mask_and_pack<L: Lanes + ?Sized>(
    lanes: &L,
    op: Zip,
    a: &mut [u64],
    mask: &[u64],
    bits: u32,
    out: &mut Vec<u8>,
) {
    for (a, mask) in a.chunks_mut(par::PIECE).zip(mask.chunks(par::PIECE)) {
        combine(lanes, op, a, mask, bits);
        lanes.pack(a, bits, out);
    }
}

/// The same in a piece that stays in the cache.
pub(super) fn pack_masked<L: Lanes + ?Sized>(
    lanes: &L,
    op: Zip,
    a: &[u64],
    mask: &[u64],
    bits: u32,
    out: &mut Vec<u8>,
) {
    let mut piece = [0; par::PIECE];
    for (a, mask) in a.chunks(par::PIECE).zip(mask.chunks(par::PIECE)) {
        let piece = &mut piece[..a.len()];
        piece.copy_from_slice(a);
        mask_and_pack(lanes, op, piece, mask, bits, out);
    }
}

pub(super) fn combine_packed<L: Lanes + ?Sized>(lanes: &L, op: Zip, a: &mut [u64], bytes: &[u8], bits: u32) {
    let mut theirs = [0; par::PIECE];
    for (i, a) in a.chunks_mut(par::PIECE).enumerate() {
        let theirs = &mut theirs[..a.len()];
        lanes.unpack(&bytes[message::bytes(i * par::PIECE, bits)..], bits, theirs);
        combine(lanes, op, a, theirs, bits);
    }
}

fn combine<L: Lanes + ?Sized>(lanes: &L, op: Zip, a: &mut [u64], b: &[u64], bits: u32) {
    lanes.zip(op, a, b);
    if bits < 64 {
        lanes.map(Map::And(u64::MAX >> (64 - bits)), a);
    }
}

#[inline(always)]
pub(super) fn dot(a: &[u64], b: &[u64]) -> u64 {
    a.iter().zip(b).fold(0, |s: u64, (a, b)| s.wrapping_add(a.wrapping_mul(*b)))
}

pub(super) fn tile(t: Tile<'_>) {
    assert!(t.in_bounds(), "tile outside its buffers");
    for i in 0..t.rows {
        let mut sum = [0u64; PANEL];
        for l in 0..t.k {
            let a = t.a[i * t.a_row + l * t.a_col];
            let b = &t.b[l * t.b_row..][..PANEL];
            sum.iter_mut().zip(b).for_each(|(s, b)| *s = s.wrapping_add(a.wrapping_mul(*b)));
        }
        let c = &mut t.c[i * t.c_row..][..t.cols];
        if t.accumulate {
            c.iter_mut().zip(&sum).for_each(|(c, s)| *c = c.wrapping_add(*s));
        } else {
            c.copy_from_slice(&sum[..t.cols]);
        }
    }
}

/// "expand 32-byte k"
pub(super) const SIGMA: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The 128-bit constant that follows a seed in the key of a comparison tree's ChaCha12.
pub(super) const DCF: [u32; 4] = domain(b"Catamount DCF v1");

/// The same of a point function's tree.
pub(super) const DPF: [u32; 4] = domain(b"Catamount DPF v1");

const fn domain(b: &[u8; 16]) -> [u32; 4] {
    let mut w = [0; 4];
    let mut i = 0;
    while i < 4 {
        w[i] = u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]]);
        i += 1;
    }
    w
}

/// The key as eight little-endian words.
pub(super) fn key_words(key: &[u8; 32]) -> [u32; 8] {
    std::array::from_fn(|i| u32::from_le_bytes([key[4 * i], key[4 * i + 1], key[4 * i + 2], key[4 * i + 3]]))
}

/// One block of ChaCha with 12 rounds (RFC 8439 with a 64-bit counter and a 64-bit nonce).
pub(super) fn block(key: &[u32; 8], counter: u64, nonce: u64) -> [u32; 16] {
    let mut s = [0u32; 16];
    s[..4].copy_from_slice(&SIGMA);
    s[4..12].copy_from_slice(key);
    s[12] = counter as u32;
    s[13] = (counter >> 32) as u32;
    s[14] = nonce as u32;
    s[15] = (nonce >> 32) as u32;
    let mut x = s;
    let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
        x[a] = x[a].wrapping_add(x[b]);
        x[d] = (x[d] ^ x[a]).rotate_left(16);
        x[c] = x[c].wrapping_add(x[d]);
        x[b] = (x[b] ^ x[c]).rotate_left(12);
        x[a] = x[a].wrapping_add(x[b]);
        x[d] = (x[d] ^ x[a]).rotate_left(8);
        x[c] = x[c].wrapping_add(x[d]);
        x[b] = (x[b] ^ x[c]).rotate_left(7);
    };
    for _ in 0..6 {
        quarter(0, 4, 8, 12);
        quarter(1, 5, 9, 13);
        quarter(2, 6, 10, 14);
        quarter(3, 7, 11, 15);
        quarter(0, 5, 10, 15);
        quarter(1, 6, 11, 12);
        quarter(2, 7, 8, 13);
        quarter(3, 4, 9, 14);
    }
    std::array::from_fn(|i| x[i].wrapping_add(s[i]))
}

pub(super) fn chacha12(key: &[u8; 32], nonce: u64, first: u64, mask: u64, out: &mut [u64]) {
    let key = key_words(key);
    for (i, words) in out.chunks_mut(8).enumerate() {
        let b = block(&key, first + i as u64, nonce);
        for (j, w) in words.iter_mut().enumerate() {
            *w = (b[2 * j] as u64 | (b[2 * j + 1] as u64) << 32) & mask;
        }
    }
}

/// Words after a table's entries that repeat them from the first one on, so that a table may be read from any
/// of its first words.
pub(super) const PAD: usize = 8;

pub(super) fn prepared(entries: usize) -> usize {
    entries + PAD
}

pub(super) fn prepare(table: &[u64], out: &mut Vec<u64>) {
    out.extend(table.iter().cycle().take(prepared(table.len())));
}

#[inline(always)]
pub(super) fn cut(stream: &[u64], cell: usize, mask: u64, out: &mut [u64]) {
    match cell {
        1 => cells::<64>(stream, mask, out),
        2 => cells::<32>(stream, mask, out),
        4 => cells::<16>(stream, mask, out),
        8 => cells::<8>(stream, mask, out),
        16 => cells::<4>(stream, mask, out),
        32 => cells::<2>(stream, mask, out),
        _ => panic!("cells of {cell} bits"),
    }
}

/// The same with `N` cells a word.
#[inline(always)]
fn cells<const N: usize>(stream: &[u64], mask: u64, out: &mut [u64]) {
    let cut = |out: &mut [u64], word: u64| {
        out.iter_mut().enumerate().for_each(|(i, out)| *out = word >> (i * (64 / N)) & mask);
    };
    let (whole, rest) = out.as_chunks_mut::<N>();
    whole.iter_mut().zip(stream).for_each(|(out, word)| cut(out, *word));
    if !rest.is_empty() {
        cut(rest, stream[whole.len()]);
    }
}

pub(super) fn select(s: &Selection<'_>, out: &mut [&mut [u64]]) {
    let mut turned = vec![0; s.entries.div_ceil(64)];
    for (e, u) in s.u.chunks_exact(turned.len()).enumerate() {
        rotate(u, s.entries, s.rot[e], &mut turned);
        let start = s.phase(e) * s.prepared;
        for (c, out) in out.iter_mut().enumerate() {
            let mut sum = 0u64;
            for (table, bits) in s.tables[c * s.column_len() + start..][..s.entries].chunks(64).zip(&turned) {
                for (i, t) in table.iter().enumerate() {
                    sum = sum.wrapping_add(t & (bits >> i & 1).wrapping_neg());
                }
            }
            out[e] = sum;
        }
    }
}

pub(super) fn expand(domain: &[u32; 4], number: u32, seed: &[Plane; 4], count: usize, out: &mut Expansion) {
    for lane in 0..count.min(NODES) {
        let key = std::array::from_fn(|i| if i < 4 { seed[i][lane] } else { domain[i - 4] });
        let b = block(&key, u64::from(number), 0);
        out.iter_mut().zip(b).for_each(|(plane, word)| plane[lane] = word);
    }
}

pub(super) fn advance<L: Lanes + ?Sized>(
    lanes: &L,
    nodes: &mut Nodes,
    at: usize,
    count: usize,
    split: u32,
    step: &Step,
) {
    let mut x = [[0; NODES]; 13];
    for i in 0..count {
        let lane = i % NODES;
        if lane == 0 {
            lanes.expand(&DCF, CHILDREN, &nodes.seeds(at + i), NODES.min(count - i), &mut x);
        }
        let (node, tree) = (nodes.node(at + i), tree_of(nodes.leader[at + i]));
        let right = (nodes.path[at + i] >> step.bit & 1) as usize;
        let child = |right| child(node, &x, lane, right, step, tree);
        nodes.set(at + i, child(right));
        if split >> i & 1 == 1 {
            nodes.push(child(1 - right), nodes.leader[at + i]);
        }
    }
}

pub(super) fn part(nodes: &mut Nodes, first: u32, leaving: &mut Nodes) {
    let len = std::mem::take(&mut nodes.len);
    leaving.len = 0;
    for i in 0..len {
        let (node, leader) = (nodes.node(i), nodes.leader[i]);
        if leader < first {
            nodes.path[nodes.len] = nodes.path[i];
            nodes.push(node, leader);
        } else {
            leaving.push(node, leader);
        }
    }
}

pub(super) fn answers<L: Lanes + ?Sized>(
    lanes: &L,
    nodes: &Nodes,
    at: usize,
    count: usize,
    corrections: &[[u64; NODES]; 4],
    out: &mut Answers,
) {
    let mut x = [[0; NODES]; 13];
    for i in 0..count {
        let lane = i % NODES;
        if lane == 0 {
            lanes.expand(&DCF, OUTPUTS, &nodes.seeds(at + i), NODES.min(count - i), &mut x);
        }
        let (node, tree) = (nodes.node(at + i), tree_of(nodes.leader[at + i]));
        for (word, (out, corrections)) in out.iter_mut().zip(corrections).enumerate() {
            let correction = corrections[tree] & join(node.control, node.control);
            out[at + i] = node.value.wrapping_add(output(&x, word, lane)).wrapping_add(correction);
        }
    }
}

#[inline(always)]
pub(super) fn grow<L: Lanes + ?Sized>(
    lanes: &L,
    nodes: &Front,
    count: usize,
    c: Correction,
    out: &mut [Front; 2],
) {
    let mut x = [[0; NODES]; 13];
    lanes.expand(&DPF, 0, &nodes.seed, count, &mut x);
    for side in 0..2 {
        let bit = |word: u32| (word >> side & 1).wrapping_neg();
        for lane in 0..NODES {
            let (out, at, control) = (&mut out[lane / 8], 2 * (lane % 8) + side, nodes.control[lane]);
            for (i, plane) in out.seed.iter_mut().enumerate() {
                plane[at] = x[4 * side + i][lane] ^ (control & c.seed[i]);
            }
            out.control[at] = bit(x[12][lane]) ^ (control & bit(c.controls));
        }
    }
}

#[inline(always)]
pub(super) fn leaves(nodes: &Front, last: [u64; 2], out: &mut [u64; 2 * NODES]) {
    for (lane, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let control = (nodes.control[lane] as i32) as i64 as u64;
        for (half, out) in out.iter_mut().enumerate() {
            let seed = nodes.seed[2 * half][lane] as u64 | (nodes.seed[2 * half + 1][lane] as u64) << 32;
            *out = seed ^ (control & last[half]);
        }
    }
}

/// The left (`right` = 0) or right child of `node`, corrected.
fn child(node: Node, x: &Expansion, lane: usize, right: usize, step: &Step, tree: usize) -> Node {
    let control = node.control;
    let control64 = control as u64 | (control as u64) << 32;
    let value = x[8 + 2 * right][lane] as u64 | (x[9 + 2 * right][lane] as u64) << 32;
    let bit = |word: u32| (word >> right & 1).wrapping_neg();
    Node {
        seed: std::array::from_fn(|i| x[4 * right + i][lane] ^ (control & step.seed[i][tree])),
        control: bit(x[12][lane]) ^ (control & bit(step.control[tree])),
        value: node.value.wrapping_add(value).wrapping_add(control64 & step.value[tree]),
    }
}
