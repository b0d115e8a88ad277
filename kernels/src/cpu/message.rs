//! Words of a few bits, to and from bytes.

use super::par;
use crate::buffer;

pub(super) fn pack(a: &[u64], bits: u32, out: &mut Vec<u8>) {
    check(bits);
    out.reserve(bytes(a.len(), bits));
    if bits == 64 {
        let from = out.len();
        out.resize(from + 8 * a.len(), 0);
        out[from..].as_chunks_mut::<8>().0.iter_mut().zip(a).for_each(|(o, w)| *o = w.to_le_bytes());
        return;
    }
    if bits.is_multiple_of(8) {
        return pack_bytes(a, bits as usize / 8, out);
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
    let mask = u64::MAX >> (64 - bits);
    const CHUNK: usize = 1 << 14;
    par::chunks(&mut out, CHUNK, |c, out| {
        for (j, w) in out.iter_mut().enumerate() {
            let bit = (c * CHUNK + j) * bits as usize;
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
    });
    out
}

/// Words of whole bytes, fewer than 8: each is written in full, and the next one over its upper bytes.
fn pack_bytes(a: &[u64], size: usize, out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + size * a.len(), 0);
    let mut rest = &mut out[from..];
    for w in a {
        let bytes = w.to_le_bytes();
        match rest.first_chunk_mut::<8>() {
            Some(place) => *place = bytes,
            None => rest[..size].copy_from_slice(&bytes[..size]),
        }
        rest = &mut rest[size..];
    }
}

fn check(bits: u32) {
    assert!((1..=64).contains(&bits), "width of {bits} bits");
}

fn bytes(n: usize, bits: u32) -> usize {
    n.checked_mul(bits as usize).expect("message size").div_ceil(8)
}
