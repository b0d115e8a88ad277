//! ChaCha12 against `rand_chacha`.

use super::Numbers;
use kernels::{Device, Words};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// draft-strombergson-chacha-test-vectors-01, TC1, 12 rounds, 256-bit key.
pub(crate) fn known_vector(device: &Device) {
    let want = [
        0x9b, 0xf4, 0x9a, 0x6a, 0x07, 0x55, 0xf9, 0x53, 0x81, 0x1f, 0xce, 0x12, 0x5f, 0x26, 0x83, 0xd5, 0x04,
        0x29, 0xc3, 0xbb, 0x49, 0xe0, 0x74, 0x14, 0x7e, 0x00, 0x89, 0xa5, 0x2e, 0xae, 0x15, 0x5f, 0x05, 0x64,
        0xf8, 0x79, 0xd2, 0x7a, 0xe3, 0xc0, 0x2c, 0xe8, 0x28, 0x34, 0xac, 0xfa, 0x8c, 0x79, 0x3a, 0x62, 0x9f,
        0x2c, 0xa0, 0xde, 0x69, 0x19, 0x61, 0x0b, 0xe8, 0x2f, 0x41, 0x13, 0x26, 0xbe,
    ];
    let mut bytes = Vec::new();
    Words::chacha12(device, &[0; 32], 0, 8, 64).pack(64, &mut bytes);
    assert_eq!(bytes, want);
}

fn reference(key: [u8; 32], nonce: u64, n: usize) -> Vec<u64> {
    let mut rng = ChaCha12Rng::from_seed(key);
    rng.set_stream(nonce);
    (0..n).map(|_| rng.next_u64()).collect()
}

pub(crate) fn equals_rand_chacha(device: &Device) {
    let mut r = Numbers(30);
    for n in [1, 5, 7, 8, 9, 64, 127, 128, 129, 1000, 8192, 8200, 100_001] {
        for nonce in [0, 1, r.next(), u64::MAX] {
            let key: [u8; 32] = std::array::from_fn(|_| r.next() as u8);
            let got = Words::chacha12(device, &key, nonce, n, 64).to_vec();
            assert!(got == reference(key, nonce, n), "{n} words");
        }
    }
}

pub(crate) fn prefixes_and_masks(device: &Device) {
    let key = std::array::from_fn(|i| i as u8);
    let long = Words::chacha12(device, &key, 7, 70_000, 64).to_vec();
    for n in (0..300).chain([8191, 8192, 65_535, 65_536, 65_537]) {
        assert!(Words::chacha12(device, &key, 7, n, 64).to_vec() == long[..n], "{n} words");
    }
    for bits in 1..=64 {
        let got = Words::chacha12(device, &key, 7, 333, bits).to_vec();
        let want: Vec<u64> = long[..333].iter().map(|w| w & (u64::MAX >> (64 - bits))).collect();
        assert_eq!(got, want, "{bits} bits");
    }
}
