//! ChaCha12 key streams.

use super::driver::Arg;
use super::wave::{Kind, Operation};
use super::{Cuda, DeviceWords, Launch};
use crate::backend::KeyStream;

/// A piece that no stream is longer than.
const WHOLE: usize = 1 << 62;

/// Threads of `draw_long`, and blocks of the key stream that they cut at a time.
const CUT: u32 = 128;

/// Words up to which a stream is drawn together with others. Longer ones gain less by it.
const SHORT: usize = 1 << 16;

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
        if bits > 32 && n > SHORT {
            return self.stream(&KeyStream { key, nonce, piece: WHOLE }, 0, n, u64::MAX >> (64 - bits));
        }
        let out = self.core.alloc("chacha12", n);
        let blocks = (n * bits.next_power_of_two() as usize).div_ceil(512);
        let [k0, k1, k2, k3] = key_words(key);
        let draw = [k0, k1, k2, k3, nonce, out.span().words[0], n as u64, bits.into()];
        if n > SHORT {
            // Without memory nothing is launched.
            if out.address("chacha12").is_some() {
                let turns = blocks.div_ceil(CUT as usize) as u64;
                let launch = Launch { block: [CUT, 1, 1], ..Launch::blocks("draw_long", turns) };
                self.launch(launch, &[Arg::Block(&draw)]);
            }
            return out;
        }
        let writes = [out.span()];
        let operation =
            Operation { kind: Kind::Draw, elements: blocks, args: &draw, reads: &[], writes: &writes };
        self.core.add_to_queue("chacha12", blocks, [out.span()].into_iter(), |queue| {
            queue.add(&operation);
            queue.note_draw(out.span(), draw);
        });
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
