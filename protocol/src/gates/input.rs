//! Input: somebody outside (a model's owner) shares a matrix with the parties.
//!
//! λ is the sum of two streams: the dealer gets both seeds, P1 the first, P2 the second; the evaluators also get
//! Δ = x − λ in full. Seeds are the sender's own and fresh, never derived from the parties' keys.

use crate::{Key, Role, Shape, Share};
use kernels::{Device, Words};

/// What one party receives.
#[derive(Clone, Debug)]
pub enum InputPart {
    /// Both seeds.
    Dealer(Key, Key),
    /// Component 1's seed and Δ.
    P1(Key, Words),
    /// Component 0's seed and Δ.
    P2(Key, Words),
}

/// Words of a matrix that travel and are masked as one piece, so that whoever splits a matrix need not hold it whole.
pub const PIECE: usize = 1 << 19;

/// The masked values Δ of piece number `piece` of matrix number `stream`, under two fresh random seeds.
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

fn nonce(stream: u32, piece: usize) -> u64 {
    u64::from(stream) << 32 | piece as u64
}

/// The share a party makes of its part.
pub fn share(device: &Device, part: &InputPart, shape: Shape, scale: u32, stream: u32) -> Share {
    let component = |seed: &Key| component(device, seed, stream, shape.len());
    let (delta, lambda) = match part {
        InputPart::Dealer(s1, s0) => (None, component(s1) + component(s0)),
        InputPart::P1(s1, delta) => (Some(delta.clone()), component(s1)),
        InputPart::P2(s0, delta) => (Some(delta.clone()), component(s0)),
    };
    Share { shape, scale, delta, lambda }
}

impl InputPart {
    /// Whose part this is.
    pub fn role(&self) -> Role {
        match self {
            InputPart::Dealer(..) => Role::Dealer,
            InputPart::P1(..) => Role::P1,
            InputPart::P2(..) => Role::P2,
        }
    }
}
