//! ChaCha12 key streams.

use super::lanes::Lanes;
use super::par;
use crate::buffer;

/// Words that one task fills. Whatever the cells, they are whole groups of 16 blocks.
const CHUNK: usize = 1 << 13;

/// Words (4 KiB) of key stream that are cut into cells at a time.
const PIECE: usize = 1 << 9;

pub(super) fn chacha12(lanes: &dyn Lanes, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> Vec<u64> {
    assert!((1..=64).contains(&bits), "width of {bits} bits");
    let (mask, cell) = (u64::MAX >> (64 - bits), bits.next_power_of_two() as usize);
    let mut out = buffer::unwritten(n);
    par::chunks(&mut out, CHUNK, |i, out| {
        let first = i * CHUNK / 512 * cell;
        if cell == 64 {
            return lanes.chacha12(key, nonce, first as u64, mask, out);
        }
        let (mut stream, cells) = ([0; PIECE], 64 / cell);
        for (j, out) in out.chunks_mut(PIECE * cells).enumerate() {
            let stream = &mut stream[..out.len().div_ceil(cells)];
            lanes.chacha12(key, nonce, (first + j * PIECE / 8) as u64, u64::MAX, stream);
            lanes.cut(stream, cell, mask, out);
        }
    });
    out
}
