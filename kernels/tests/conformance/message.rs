//! Words in messages.

use super::{Numbers, up};
use kernels::{Device, Words, Zip};

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

/// Masked and packed at once, as one after the other: the words stay, and follow what is in the message already.
pub(crate) fn masked(device: &Device) {
    let mut r = Numbers(11);
    for bits in 1..=64 {
        for n in [0, 1, 3, 63, 64, 65, 130, 1025] {
            let (a, mask) = (up(device, &r.words(n)), up(device, &r.words(n)));
            for op in [Zip::Sub, Zip::Xor] {
                let (mut want, mut got) = (vec![0xaa], vec![0xaa]);
                let apart = if op == Zip::Sub { &a - &mask } else { &a ^ &mask }.low(bits);
                apart.pack(bits, &mut want);
                let words = a.clone().mask_and_pack(op, &mask, bits, &mut got);
                assert!(got == want && words.to_vec() == apart.to_vec(), "{op:?}, {n} words of {bits} bits");
            }
        }
    }
}

/// A message combined with words, as unpacked first; also a hostile one.
pub(crate) fn combined(device: &Device) {
    let mut r = Numbers(12);
    for bits in 1..=64 {
        for n in [0, 1, 3, 63, 64, 65, 130, 1025] {
            let a = up(device, &r.words(n));
            let size = (n * bits as usize).div_ceil(8);
            for message in [vec![0xff; size], r.words(size).iter().map(|w| *w as u8).collect()] {
                let theirs = Words::unpack(device, &message, bits, n);
                let sum = a.clone().combine_packed(Zip::Add, &message, bits).to_vec();
                let xor = a.clone().combine_packed(Zip::Xor, &message, bits).to_vec();
                assert_eq!(sum, (&a + &theirs).low(bits).to_vec(), "{n} words of {bits} bits");
                assert_eq!(xor, (&a ^ &theirs).low(bits).to_vec(), "{n} words of {bits} bits");
            }
        }
    }
}
