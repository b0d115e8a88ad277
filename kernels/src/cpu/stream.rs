//! ChaCha12 key streams.

use super::lanes::Lanes;
use super::par;
use crate::buffer;

/// Words that one task fills: 1024 blocks.
const CHUNK: usize = 1 << 13;

pub(super) fn chacha12(lanes: &dyn Lanes, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> Vec<u64> {
    assert!((1..=64).contains(&bits), "width of {bits} bits");
    let mask = u64::MAX >> (64 - bits);
    if n < par::WORDS || rayon::current_num_threads() == 1 {
        // Each piece is filled while its zeros are still in the cache.
        let mut out = buffer::empty(n);
        while out.len() < n {
            let from = out.len();
            out.resize(n.min(from + par::PIECE), 0);
            lanes.chacha12(key, nonce, (from / 8) as u64, mask, &mut out[from..]);
        }
        return out;
    }
    let mut out = buffer::zeroed(n);
    par::chunks(&mut out, CHUNK, |i, out| {
        lanes.chacha12(key, nonce, (i * CHUNK / 8) as u64, mask, out);
    });
    out
}
