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

/// Word i of `bits` bits, taken bit by bit from the words of 64 bits.
fn cell(stream: &[u64], i: usize, bits: u32) -> u64 {
    let width = (bits..).find(|w| w.is_power_of_two()).expect("at most 64") as usize;
    (0..bits as usize).fold(0, |word, b| {
        let at = i * width + b;
        word | (stream[at / 64] >> (at % 64) & 1) << b
    })
}

pub(crate) fn every_width(device: &Device) {
    let (key, nonce) = (std::array::from_fn(|i| i as u8), u64::MAX - 6);
    let stream = reference(key, nonce, 70_000);
    for bits in 1..=64 {
        let draw = |n| Words::chacha12(device, &key, nonce, n, bits).to_vec();
        let long = draw(66_000);
        let some = (0..66_000).step_by(if bits < 33 { 1 } else { 17 });
        for i in some.chain(65_000..66_000) {
            assert_eq!(long[i], cell(&stream, i, bits), "word {i} of {bits} bits");
        }
        // Vectors, words, blocks, pieces and tasks that end within.
        let tails = (0..300).chain([511, 512, 513, 1023, 1025, 2047, 4097, 8191, 8192, 8193, 65_535, 65_537]);
        for n in tails {
            assert!(draw(n) == long[..n], "{n} words of {bits} bits");
        }
    }
}

pub(crate) fn known_cells(device: &Device) {
    // The first bytes of the vector above: 9b f4 9a 6a 07 55.
    let draw = |n, bits| Words::chacha12(device, &[0; 32], 0, n, bits).to_vec();
    assert_eq!(draw(12, 1), [1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0]);
    assert_eq!(draw(5, 2), [3, 2, 1, 2, 0]);
    assert_eq!(draw(4, 3), [3, 1, 4, 7]);
    assert_eq!(draw(3, 7), [0x1b, 0x74, 0x1a]);
    assert_eq!(draw(3, 9), [0x9b, 0x9a, 0x107]);
    assert_eq!(draw(1, 31), [0x6a9a_f49b]);
    assert_eq!(draw(1, 33), [0x1_6a9a_f49b]);
}

/// As long as streams are that a device draws together with others, and a little longer.
pub(crate) fn around_65536(device: &Device) {
    let stream = reference([5; 32], 9, 67_000);
    for bits in [1, 3, 8, 20, 33, 64] {
        for n in [1 << 16, (1 << 16) + 1, 67_000] {
            let drawn = Words::chacha12(device, &[5; 32], 9, n, bits).to_vec();
            assert!(drawn.into_iter().eq((0..n).map(|i| cell(&stream, i, bits))), "{n} words of {bits} bits");
        }
    }
}

/// Streams of many tasks, in cells of every width.
pub(crate) fn long_streams(device: &Device) {
    let n = 1 << 20;
    let stream = reference([9; 32], 3, n);
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        let draw = Words::chacha12(device, &[9; 32], 3, n, bits).to_vec();
        for i in (0..n).step_by(997).chain(n - 600..n) {
            assert_eq!(draw[i], cell(&stream, i, bits), "word {i} of {bits} bits");
        }
    }
}
