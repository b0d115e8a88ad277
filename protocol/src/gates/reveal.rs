//! Reveal to the client: truncated additive halves, blinded by a common coin of the evaluators.
//!
//! P1 sends (z1 + α) >> s and P2 (z2 − α) >> s, α fresh from k12, each modulo 2^w: the client adds them and gets
//! ⌊z / 2^s⌋ or one less, modulo 2^w. No exchange between the parties, no resharing.

use crate::{Cx, Group, Item, KeyId, Product, Purpose};
use kernels::Words;

/// Width and resolution of what the client receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reveal {
    /// Bits of each word sent.
    pub bits: u32,
    /// Fractional bits kept.
    pub scale: u32,
}

impl Reveal {
    /// Logits: |value| < 2^15, error below 2^−15.
    pub const LOGITS: Reveal = Reveal { bits: 32, scale: 16 };
    /// Sums over the rows of a sequence: |value| < 2^23, error below 2^−15.
    pub const POOLED: Reveal = Reveal { bits: 40, scale: 16 };

    /// The number of a token.
    pub const TOKEN: Reveal = Reveal { bits: 32, scale: 0 };

    /// What the client makes of two messages from which nothing was truncated.
    pub fn combine_exact(self, p1: u64, p2: u64) -> u64 {
        p1.wrapping_add(p2) & (u64::MAX >> (64 - self.bits))
    }

    /// What the client makes of the two messages; centred, so that the error is in (−1, 1] units of 2^−scale.
    pub fn combine(self, p1: u64, p2: u64) -> f64 {
        let s = 64 - self.bits;
        let sum = (p1.wrapping_add(p2) << s) as i64 >> s;
        (sum as f64 + 1.0) / (1u64 << self.scale) as f64
    }
}

/// An evaluator's message to the client; the dealer has none.
pub fn reveal(cx: &Cx, z: Product, to: Reveal) -> Option<Words> {
    let op = cx.op("reveal");
    assert!(z.scale >= to.scale && z.scale - to.scale + to.bits <= z.bits, "revealed window");
    let item = Item {
        op,
        purpose: Purpose::Output,
        index: 0,
        n: z.shape.len(),
        bits: cx.ring().bits(),
        group: Group::Add,
    };
    let alpha = cx.draw(KeyId::K12, &item);
    let half = z.half?;
    let alpha = alpha.expect("evaluators know k12");
    let blinded = cx.reduce(if cx.is_p1() { half + alpha } else { half - alpha });
    Some((blinded >> (z.scale - to.scale)).low(to.bits))
}
