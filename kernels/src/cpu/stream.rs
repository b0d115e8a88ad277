//! ChaCha12 key streams.

use super::lanes::Lanes;
use super::par;
use crate::buffer;

/// Words that one task fills: 1024 blocks.
const CHUNK: usize = 1 << 13;

pub(super) fn chacha12(lanes: &dyn Lanes, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> Vec<u64> {
    assert!((1..=64).contains(&bits), "width of {bits} bits");
    let mask = u64::MAX >> (64 - bits);
    let mut out = buffer::unwritten(n);
    par::chunks(&mut out, CHUNK, |i, out| {
        lanes.chacha12(key, nonce, (i * CHUNK / 8) as u64, mask, out);
    });
    out
}
