//! Input: somebody outside (a model's owner) shares a matrix with the parties.
//!
//! x is the sum of three components, each known to two parties. Two of them are streams of seeds, the sender's own and
//! fresh, never derived from the parties' keys; their holders get the seeds. The holders of the third get x less these
//! two, in full: without one of the seeds it is uniformly random.

use crate::Key;
use kernels::{Device, KeyStream, Words};

/// Words of a matrix that travel and are masked as one piece, so that whoever splits a matrix need not hold it whole.
pub const PIECE: usize = 1 << 19;

/// The third component of piece number `piece` of matrix number `stream`, under two fresh random seeds.
pub fn split(device: &Device, values: &Words, seed1: &Key, seed0: &Key, stream: u32, piece: usize) -> Words {
    assert!(values.len() <= PIECE, "a piece of {} words", values.len());
    let component = |seed| Words::chacha12(device, seed, nonce(stream, piece), values.len(), 64);
    values - component(seed1) - component(seed0)
}

/// Component of one seed of a whole matrix of `n` elements.
pub fn component(device: &Device, seed: &Key, stream: u32, n: usize) -> Words {
    let piece = |i| Words::chacha12(device, seed, nonce(stream, i), PIECE.min(n - i * PIECE), 64);
    let pieces: Vec<Words> = (0..n.div_ceil(PIECE)).map(piece).collect();
    Words::concat(&pieces.iter().collect::<Vec<_>>())
}

/// The same words as a stream that products can draw.
pub(crate) fn key_stream(seed: &Key, stream: u32) -> KeyStream<'_> {
    KeyStream { key: seed, nonce: nonce(stream, 0), piece: PIECE }
}

fn nonce(stream: u32, piece: usize) -> u64 {
    u64::from(stream) << 32 | piece as u64
}
