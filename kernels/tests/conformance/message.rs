//! Words in messages.

use super::{Numbers, up};
use kernels::{Device, Words};

pub(crate) fn every_width(device: &Device) {
    let mut r = Numbers(10);
    for bits in 1..=64 {
        for n in [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 130] {
            let a = r.words(n);
            let mut message = vec![0xaa];
            up(device, &a).pack(bits, &mut message);
            assert_eq!(message[0], 0xaa);
            let bytes = &message[1..];
            let mut want = vec![0u8; (n * bits as usize).div_ceil(8)];
            for (i, w) in a.iter().enumerate() {
                for b in (0..bits as usize).filter(|b| w >> b & 1 == 1) {
                    let at = i * bits as usize + b;
                    want[at / 8] |= 1 << (at % 8);
                }
            }
            assert_eq!(bytes, want, "{n} words of {bits} bits");
            let back: Vec<u64> = a.iter().map(|w| w & (u64::MAX >> (64 - bits))).collect();
            assert_eq!(Words::unpack(device, bytes, bits, n).to_vec(), back, "{n} words of {bits} bits");
        }
    }
    let a = r.words(100_003);
    for bits in [1, 17, 36, 63, 64] {
        let mut message = Vec::new();
        up(device, &a).pack(bits, &mut message);
        let back: Vec<u64> = a.iter().map(|w| w & (u64::MAX >> (64 - bits))).collect();
        assert_eq!(Words::unpack(device, &message, bits, a.len()).to_vec(), back);
    }
}

/// Padding bits that a sender sets do not reach any word.
pub(crate) fn hostile_bytes(device: &Device) {
    for bits in 1..=64 {
        for n in [1, 3, 5, 11] {
            let bytes = vec![0xff; (n * bits as usize).div_ceil(8)];
            let words = Words::unpack(device, &bytes, bits, n).to_vec();
            assert_eq!(words, vec![u64::MAX >> (64 - bits); n]);
        }
    }
}
