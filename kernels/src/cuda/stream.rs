//! ChaCha12 key streams.

use super::{Cuda, DeviceWords, Launch};

impl Cuda {
    pub(super) fn stream(&self, key: &[u8; 32], nonce: u64, n: usize, bits: u32) -> DeviceWords {
        assert!((1..=64).contains(&bits), "width of {bits} bits");
        let mask = u64::MAX >> (64 - bits);
        let key = key.as_chunks::<8>().0;
        let [k0, k1, k2, k3] = [0, 1, 2, 3].map(|i| u64::from_le_bytes(key[i]).into());
        let out = self.core.alloc("chacha12", n);
        let args = [k0, k1, k2, k3, nonce.into(), mask.into(), out.arg(), n.into()];
        self.launch(Launch::over("chacha12", n.div_ceil(8)), &args);
        out
    }
}
