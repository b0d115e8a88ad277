//! ChaCha12 key streams.

use super::driver::Arg;
use super::{Cuda, DeviceWords, Launch};

/// A key as four arguments, little-endian.
pub(super) fn key_args(key: &[u8; 32]) -> [Arg<'static>; 4] {
    let words = key.as_chunks::<8>().0;
    std::array::from_fn(|i| u64::from_le_bytes(words[i]).into())
}

impl Cuda {
    pub(super) fn stream(&self, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> DeviceWords {
        assert!((1..=64).contains(&bits), "width of {bits} bits");
        let mask = u64::MAX >> (64 - bits);
        let [k0, k1, k2, k3] = key_args(key);
        let out = self.core.alloc("chacha12", n);
        let args = [k0, k1, k2, k3, nonce.into(), mask.into(), out.arg(), n.into()];
        self.launch(Launch::over("chacha12", n.div_ceil(8)), &args);
        out
    }
}
