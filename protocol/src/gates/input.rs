//! Input: somebody outside (client, model owner) shares a matrix with the parties.
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

/// Splits `values` into the three parties' parts under two fresh random seeds. `stream` tells several matrices under
/// the same seeds apart.
pub fn split(device: &Device, values: &Words, seed1: &Key, seed0: &Key, stream: u64) -> Words {
    let n = values.len();
    values - Words::chacha12(device, seed1, stream, n, 64) - Words::chacha12(device, seed0, stream, n, 64)
}

/// The share a party makes of its part.
pub fn share(device: &Device, part: &InputPart, shape: Shape, scale: u32, stream: u64) -> Share {
    let component = |seed: &Key| Words::chacha12(device, seed, stream, shape.len(), 64);
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
