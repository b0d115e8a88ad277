//! ChaCha12 key streams.

use super::lanes::Lanes;
use super::par;
use crate::buffer;

/// Words that one task fills, whole groups of 16 blocks.
const CHUNK: usize = 1 << 13;

/// `n` words of 64 bits of a key stream, each masked.
pub(super) fn chacha12(lanes: &dyn Lanes, key: &[u8; 32], nonce: u64, n: usize, mask: u64) -> Vec<u64> {
    let mut out = buffer::unwritten(n);
    par::chunks(&mut out, CHUNK, |i, out| lanes.chacha12(key, nonce, (i * CHUNK / 8) as u64, mask, out));
    out
}
