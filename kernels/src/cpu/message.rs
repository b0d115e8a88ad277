//! Words of a few bits, to and from bytes.

use super::par;
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
