//! Words of a few bits, to and from bytes.

use super::lanes::Lanes;
use super::par;
use crate::backend::{Map, Zip};
use crate::buffer;

pub(super) fn pack(a: &[u64], bits: u32, out: &mut Vec<u8>) {
    check(bits);
    out.reserve(bytes(a.len(), bits));
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

pub(super) fn unpack(bytes_in: &[u8], bits: u32, n: usize) -> Vec<u64> {
    check(bits);
    assert_eq!(bytes_in.len(), bytes(n, bits), "bytes for {n} words of {bits} bits");
    if bits == 64 {
        let mut out = buffer::empty(n);
        out.extend(bytes_in.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)));
        return out;
    }
    let mut out = buffer::zeroed(n);
    const CHUNK: usize = 1 << 14;
    par::chunks(&mut out, CHUNK, |c, out| unpack_from(bytes_in, c * CHUNK, bits, out));
    out
}

/// Words `first`, `first` + 1, … of a message.
fn unpack_from(bytes_in: &[u8], first: usize, bits: u32, out: &mut [u64]) {
    let mask = u64::MAX >> (64 - bits);
    for (j, w) in out.iter_mut().enumerate() {
        let bit = (first + j) * bits as usize;
        let rest = &bytes_in[bit / 8..];
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

/// a ← (a op mask) mod 2^bits, packed; piece by piece, each of which is whole bytes of the message.
pub(super) fn mask_and_pack(
    lanes: &dyn Lanes,
    op: Zip,
    a: &mut [u64],
    mask: &[u64],
    bits: u32,
    out: &mut Vec<u8>,
) {
    check(bits);
    assert_eq!(a.len(), mask.len(), "one mask for each word");
    out.reserve(bytes(a.len(), bits));
    for (a, mask) in a.chunks_mut(par::PIECE).zip(mask.chunks(par::PIECE)) {
        combine(lanes, op, a, mask, bits);
        pack(a, bits, out);
    }
}

/// a ← (a op w) mod 2^bits for the words w of a message.
pub(super) fn combine_packed(lanes: &dyn Lanes, op: Zip, a: &mut [u64], bytes_in: &[u8], bits: u32) {
    check(bits);
    assert_eq!(bytes_in.len(), bytes(a.len(), bits), "bytes for {} words of {bits} bits", a.len());
    let mut theirs = [0; par::PIECE];
    for (i, a) in a.chunks_mut(par::PIECE).enumerate() {
        let theirs = &mut theirs[..a.len()];
        unpack_from(bytes_in, i * par::PIECE, bits, theirs);
        combine(lanes, op, a, theirs, bits);
    }
}

fn combine(lanes: &dyn Lanes, op: Zip, a: &mut [u64], b: &[u64], bits: u32) {
    lanes.zip(op, a, b);
    if bits < 64 {
        lanes.map(Map::And(u64::MAX >> (64 - bits)), a);
    }
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

fn check(bits: u32) {
    assert!((1..=64).contains(&bits), "width of {bits} bits");
}

fn bytes(n: usize, bits: u32) -> usize {
    n.checked_mul(bits as usize).expect("message size").div_ceil(8)
}
