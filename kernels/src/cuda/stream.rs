//! ChaCha12 key streams.

use super::driver::Arg;
use super::{Cuda, DeviceWords, Launch};
use crate::backend::KeyStream;

/// A piece that no stream is longer than.
const WHOLE: usize = 1 << 62;

/// Threads of `chacha12_cells`, and blocks of the key stream that they cut at a time.
const CUT: u32 = 128;

/// The key, little-endian.
fn key_args(key: &[u8; 32]) -> [Arg<'static>; 4] {
    let words = key.as_chunks::<8>().0;
    std::array::from_fn(|i| u64::from_le_bytes(words[i]).into())
}

/// A stream as arguments: its key, its first nonce, and the binary logarithm of the blocks of a piece.
pub(super) fn stream_args(stream: &KeyStream<'_>) -> [Arg<'static>; 6] {
    let [k0, k1, k2, k3] = key_args(stream.key);
    [k0, k1, k2, k3, stream.nonce.into(), u64::from(stream.piece_bits() - 3).into()]
}

impl Cuda {
    /// `n` words of `bits` bits.
    pub(super) fn drawn(&self, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> DeviceWords {
        assert!((1..=64).contains(&bits), "width of {bits} bits");
        let (mask, cell) = (u64::MAX >> (64 - bits), bits.next_power_of_two());
        if cell == 64 {
            return self.stream(&KeyStream { key, nonce, piece: WHOLE }, 0, n, mask);
        }
        let out = self.core.alloc("chacha12", n);
        let mut args = key_args(key).to_vec();
        args.extend([nonce.into(), cell.trailing_zeros().into(), mask.into(), out.arg(), n.into()]);
        let turns = (n * cell as usize).div_ceil(512 * CUT as usize);
        let over = Launch::over("chacha12_cells", turns * Launch::THREADS as usize);
        self.launch(Launch { block: [CUT, 1, 1], ..over }, &args);
        out
    }

    /// `n` whole words, masked, from word `from` on, which begins a block.
    pub(super) fn stream(&self, stream: &KeyStream<'_>, from: usize, n: usize, mask: u64) -> DeviceWords {
        assert!(from.is_multiple_of(8), "from word {from}");
        let out = self.core.alloc("chacha12", n);
        let mut args = stream_args(stream).to_vec();
        args.extend([(from / 8).into(), mask.into(), out.arg(), n.into()]);
        self.launch(Launch::over("chacha12", n.div_ceil(8)), &args);
        out
    }
}
