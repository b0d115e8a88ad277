//! ChaCha12 key streams.

use super::driver::Arg;
use super::{Cuda, DeviceWords, Launch};
use crate::backend::KeyStream;

/// A piece that no stream is longer than.
pub(super) const WHOLE: usize = 1 << 62;

/// A stream as arguments: its key, little-endian, its first nonce, and the binary logarithm of the blocks of a piece.
pub(super) fn stream_args(stream: &KeyStream<'_>) -> [Arg<'static>; 6] {
    let words = stream.key.as_chunks::<8>().0;
    let [k0, k1, k2, k3] = std::array::from_fn(|i| u64::from_le_bytes(words[i]).into());
    [k0, k1, k2, k3, stream.nonce.into(), u64::from(stream.piece_bits() - 3).into()]
}

impl Cuda {
    /// `n` words from word `from` on, which begins a block.
    pub(super) fn stream(&self, stream: &KeyStream<'_>, from: usize, n: usize, bits: u32) -> DeviceWords {
        assert!((1..=64).contains(&bits) && from.is_multiple_of(8), "width of {bits} bits, from word {from}");
        let mask = u64::MAX >> (64 - bits);
        let out = self.core.alloc("chacha12", n);
        let mut args = stream_args(stream).to_vec();
        args.extend([(from / 8).into(), mask.into(), out.arg(), n.into()]);
        self.launch(Launch::over("chacha12", n.div_ceil(8)), &args);
        out
    }
}
