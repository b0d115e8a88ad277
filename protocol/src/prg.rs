//! Pseudo-random streams: every word is named by (key, operation, purpose), never by call order.
//!
//! A stream is the ChaCha12 key stream of one pairwise key with nonce `operation · 256 + purpose`. Keys are bound
//! to the session (see the `parties` crate), operations are numbered by the run and, in it, by the program that all
//! parties run in lock step, so that no stream is drawn twice and none needs to be agreed on the wire. Words of `bits`
//! bits take the smallest power of two from `bits` on of its bits each ([`kernels::Backend::chacha12`]).

use kernels::{Device, Words};
use std::sync::Arc;

/// A 256-bit pairwise key.
pub type Key = [u8; 32];

/// Which two parties know a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyId {
    /// Dealer and P1.
    K01,
    /// Dealer and P2.
    K02,
    /// P1 and P2; common coins, never a mask.
    K12,
}

/// What a stream of an operation is for. Two uses of one operation never share a purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Purpose {
    /// Masks of an opened or reshared result.
    Result = 1,
    /// Share of the dealer's product of masks.
    Theta,
    /// Masks of the top bits in truncation.
    WrapBit,
    /// Share of the product of these masks.
    WrapProduct,
    /// One-hot row of a table look-up.
    OneHot,
    /// Masks of a selected power.
    Power,
    /// Masks of the selected slope.
    Slope,
    /// Masks of the selected line's value.
    Value,
    /// Masks of the selected coefficient of a square.
    Square,
    /// Dealt sign constants of a look-up: this purpose and the 31 that follow it by number.
    Constant0 = 32,
    /// Thermometer tables of a comparison.
    Thermometer = 64,
    /// Masks of generate and propagate bits, one purpose per threshold.
    CarryBits = 65,
    /// Dealt monomials of these masks.
    CarryMonomials = 66,
    /// Masks of the carry.
    Carry = 67,
    /// Dealt mask bit as ring element.
    Bit = 68,
    /// Dealt product of mask bit and mask.
    BitTimesMask = 69,
    /// Common coins of the coarse maximum.
    Coins = 70,
    /// Masks of the random combinations.
    Planes = 71,
    /// One-hot rows of the zero test.
    ZeroTest = 72,
    /// Masks of the block flags.
    Flags = 73,
    /// Monomials of the flag masks: this purpose and the 31 that follow it by number.
    FlagMonomial0 = 96,
    /// Root seed of a distributed comparison function.
    Root = 80,
    /// Dealt constant of a distributed comparison function.
    RootConstant = 81,
    /// Blinding of what goes to the client.
    Output = 82,
    /// Dealt monomials of the masks of a conjunction's factors.
    AndMonomials = 128,
    /// Masks of the conjunction.
    And = 129,
    /// Dealt product of two mask bits.
    BitTimesBit = 130,
    /// Random bits nobody knows: their halves of λ are streams of k01 and k02, their Δ a coin of k12. Not a mask.
    Noise = 131,
}

impl Purpose {
    /// The stream number inside an operation; `i` numbers the members of a family such as `Constant0`.
    pub(crate) fn lane(self, i: usize) -> u8 {
        let limit = match self {
            Purpose::Constant0 | Purpose::FlagMonomial0 => 32,
            _ => 1,
        };
        assert!(i < limit, "{self:?} has {limit} lanes");
        self as u8 + i as u8
    }
}

/// Where random words come from. The real one is [`ChaChaStreams`]; tests that enumerate *all* masks of a small
/// ring bring their own.
pub trait Streams: Send + Sync {
    /// Words 0..n, each below 2^bits, of stream (key, operation, lane); `None` if this party does not know the key.
    fn draw(&self, device: &Device, key: KeyId, op: u64, lane: u8, n: usize, bits: u32) -> Option<Words>;
}

/// The pairwise keys one party holds.
#[derive(Clone)]
pub struct ChaChaStreams {
    keys: [Option<Arc<Key>>; 3],
}

impl ChaChaStreams {
    /// Keys in the order k01, k02, k12; a party leaves the one it must not know as `None`.
    pub fn new(keys: [Option<Key>; 3]) -> ChaChaStreams {
        ChaChaStreams { keys: keys.map(|k| k.map(Arc::new)) }
    }
}

/// The number of a stream under its key.
fn nonce(op: u64, lane: u8) -> u64 {
    assert!(op < 1 << 56, "operation numbers are 56 bits");
    op << 8 | u64::from(lane)
}

impl std::fmt::Debug for ChaChaStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChaChaStreams(keys redacted)")
    }
}

impl Streams for ChaChaStreams {
    fn draw(&self, device: &Device, key: KeyId, op: u64, lane: u8, n: usize, bits: u32) -> Option<Words> {
        let k = self.keys[key as usize].as_ref()?;
        Some(Words::chacha12(device, k, nonce(op, lane), n, bits))
    }
}
