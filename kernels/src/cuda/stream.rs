//! ChaCha12 key streams.

use super::driver::Arg;
use super::{Cuda, DeviceWords, Launch};
use crate::backend::{Draw, KeyStream};

/// A piece that no stream is longer than.
const WHOLE: usize = 1 << 62;

/// Threads of `chacha12_each`, and blocks of the key stream that they cut at a time.
const CUT: u32 = 128;

/// Streams of a launch of `chacha12_each`, and words of each one's `struct Draw`.
const STREAMS: usize = 16;
const DRAW: usize = 8;

/// Words of streams that are drawn together at most. Longer ones gain less by it, and would be held for longer.
pub(super) const TOGETHER: usize = 1 << 16;

/// The key, little-endian.
fn key_words(key: &[u8; 32]) -> [u64; 4] {
    let words = key.as_chunks::<8>().0;
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

/// A stream as arguments: its key, its first nonce, and the binary logarithm of the blocks of a piece.
pub(super) fn stream_args(stream: &KeyStream<'_>) -> [Arg<'static>; 6] {
    let [k0, k1, k2, k3] = key_words(stream.key).map(Arg::from);
    [k0, k1, k2, k3, stream.nonce.into(), u64::from(stream.piece_bits() - 3).into()]
}

impl Cuda {
    /// `n` words of `bits` bits.
    pub(super) fn drawn(&self, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> DeviceWords {
        assert!((1..=64).contains(&bits), "width of {bits} bits");
        if bits > 32 {
            return self.stream(&KeyStream { key, nonce, piece: WHOLE }, 0, n, u64::MAX >> (64 - bits));
        }
        self.drawn_each(&[Draw { key, nonce, n, bits }]).remove(0)
    }

    /// Each stream in a buffer of its own, many in a launch.
    pub(super) fn drawn_each(&self, draws: &[Draw<'_>]) -> Vec<DeviceWords> {
        let mut all = Vec::with_capacity(draws.len());
        for draws in draws.chunks(STREAMS) {
            let (mut block, mut turns) = ([0; STREAMS * DRAW], 0);
            for (words, d) in block.chunks_exact_mut(DRAW).zip(draws) {
                assert!((1..=64).contains(&d.bits), "width of {} bits", d.bits);
                let out = self.core.alloc("chacha12", d.n);
                // Without memory nothing is launched.
                let address = out.address("chacha12").unwrap_or(0);
                words[..4].copy_from_slice(&key_words(d.key));
                words[4..].copy_from_slice(&[d.nonce, address, d.n as u64, d.bits.into()]);
                turns = turns.max((d.n * d.bits.next_power_of_two() as usize).div_ceil(512 * CUT as usize));
                all.push(out);
            }
            let over = Launch::over("chacha12_each", turns * Launch::THREADS as usize);
            let grid = [over.grid[0], draws.len() as u32, 1];
            self.launch(Launch { grid, block: [CUT, 1, 1], ..over }, &[Arg::Block(&block)]);
        }
        all
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
