//! Words in messages.

use super::{Numbers, up};
use kernels::{Device, Message, Received, Words, Zip};

const OPERATIONS: [Zip; 5] = [Zip::Add, Zip::Sub, Zip::Mul, Zip::Xor, Zip::And];

/// Lengths around groups and pieces of words.
const LENGTHS: [usize; 12] = [0, 1, 3, 7, 8, 9, 63, 64, 65, 130, 1025, 2055];

fn low(a: &[u64], bits: u32) -> Vec<u64> {
    a.iter().map(|w| w & (u64::MAX >> (64 - bits))).collect()
}

/// Bit by bit.
fn packed(a: &[u64], bits: u32) -> Vec<u8> {
    let bits = bits as usize;
    let mut message = vec![0u8; (a.len() * bits).div_ceil(8)];
    for (i, w) in a.iter().enumerate() {
        for b in (0..bits).filter(|b| w >> b & 1 == 1) {
            let at = i * bits + b;
            message[at / 8] |= 1 << (at % 8);
        }
    }
    message
}

/// The beginning of a message, of any length, with room for `room` bytes more.
fn begun(length: usize, room: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(length + room);
    message.resize(length, 0xaa);
    message
}

pub(crate) fn every_width(device: &Device) {
    let mut r = Numbers(10);
    for bits in 1..=64 {
        for n in (0..=70).chain([130, 4099]) {
            let a = r.words(n);
            let want = packed(&a, bits);
            // Messages that are full with these words, and others that have room for more of any size.
            let mut message = begun(r.below(70), want.len() + [0, r.below(70)][n % 2]);
            let begin = message.clone();
            up(device, &a).pack(bits, &mut message);
            assert_eq!(message[..begin.len()], begin);
            assert_eq!(message[begin.len()..], want, "{n} words of {bits} bits");
            assert_eq!(
                Words::unpack(device, &want, bits, n).to_vec(),
                low(&a, bits),
                "{n} words of {bits} bits"
            );
        }
    }
    let a = r.words(100_003);
    for bits in [1, 17, 36, 63, 64] {
        let mut message = Vec::new();
        up(device, &a).pack(bits, &mut message);
        assert_eq!(Words::unpack(device, &message, bits, a.len()).to_vec(), low(&a, bits));
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

/// Nothing is read behind a message, where there may be no memory.
#[cfg(unix)]
pub(crate) fn ends(device: &Device) {
    const PAGE: usize = 1 << 16;
    let access = |protection| {
        move |at: *mut libc::c_void| {
            // SAFETY: the pages are this test's.
            assert_eq!(unsafe { libc::mprotect(at, PAGE, protection) }, 0);
        }
    };
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, of no file.
    let pages = unsafe { libc::mmap(std::ptr::null_mut(), 2 * PAGE, libc::PROT_NONE, anonymous, -1, 0) };
    assert_ne!(pages, libc::MAP_FAILED);
    access(libc::PROT_READ | libc::PROT_WRITE)(pages);
    // SAFETY: these bytes are zero, may be written, and nobody else knows of them.
    let page = unsafe { std::slice::from_raw_parts_mut(pages.cast::<u8>(), PAGE) };
    let mut r = Numbers(13);
    for bits in 1..=64 {
        for n in (0..=20).chain([64, 65, 130]) {
            let a = r.words(n);
            let message = packed(&a, bits);
            let end = &mut page[PAGE - message.len()..];
            end.copy_from_slice(&message);
            assert_eq!(Words::unpack(device, end, bits, n).to_vec(), low(&a, bits));
            let sum = up(device, &a).combine_packed(Zip::Add, end, bits).to_vec();
            assert_eq!(sum, low(&a.iter().map(|w| w << 1).collect::<Vec<_>>(), bits));
        }
    }
    // SAFETY: the mapping from above, whose bytes nobody uses any more.
    assert_eq!(unsafe { libc::munmap(pages, 2 * PAGE) }, 0);
}

#[cfg(not(unix))]
pub(crate) fn ends(_: &Device) {}

fn both(op: Zip, a: &Words, b: &Words) -> Words {
    match op {
        Zip::Add => a + b,
        Zip::Sub => a - b,
        Zip::Mul => a * b,
        Zip::Xor => a ^ b,
        Zip::And => a & b,
    }
}

/// Masked and packed at once, as one after the other: the words stay, and follow what is in the message already.
pub(crate) fn masked(device: &Device) {
    let mut r = Numbers(11);
    for bits in 1..=64 {
        for n in LENGTHS {
            let (a, mask) = (up(device, &r.words(n)), up(device, &r.words(n)));
            for op in OPERATIONS {
                let begin = begun(r.below(70), r.below(70));
                let (mut want, mut got) = (begin.clone(), Message::from(begin.clone()));
                let apart = both(op, &a, &mask).low(bits);
                apart.pack(bits, &mut want);
                let mut alone = Message::from(begin);
                a.clone().pack_masked(op, &mask, bits, &mut alone);
                let words = a.clone().mask_and_pack(op, &mask, bits, &mut got);
                assert!(
                    got.into_bytes() == want
                        && alone.into_bytes() == want
                        && words.to_vec() == apart.to_vec(),
                    "{op:?}, {n} words of {bits} bits"
                );
            }
        }
    }
}

/// Messages of many parts, short and long, of every width.
pub(crate) fn of_parts(device: &Device) {
    let mut r = Numbers(14);
    for _ in 0..20 {
        let (mut message, mut want) = (Message::from(vec![1, 2, 3]), vec![1, 2, 3]);
        let mut parts = vec![];
        for _ in 0..r.below(60) {
            let n = [0, 1, r.below(100), r.below(3000), 7000 + r.below(3000)][r.below(5)];
            let (a, bits) = (r.words(n), 1 + r.below(64) as u32);
            if r.below(2) == 0 {
                up(device, &a).pack_into(bits, &mut message);
            } else {
                let mask = r.words(n);
                let masked: Vec<u64> = a.iter().zip(&mask).map(|(a, m)| a ^ m).collect();
                let (masked, mask) = (up(device, &masked), up(device, &mask));
                if r.below(2) == 0 {
                    masked.mask_and_pack(Zip::Xor, &mask, bits, &mut message);
                } else {
                    masked.pack_masked(Zip::Xor, &mask, bits, &mut message);
                }
            }
            parts.push((want.len(), a.clone(), bits));
            want.extend(packed(&a, bits));
            assert_eq!(message.len(), want.len());
        }
        assert!(message.into_bytes() == want);
        // And read again, in any order.
        let received = Received::from(want);
        parts.sort_by_key(|(at, ..)| at % 97);
        for (at, a, bits) in parts {
            let (own, n) = (up(device, &r.words(a.len())), a.len());
            let theirs = up(device, &low(&a, bits));
            let read = Words::unpack_part(device, &received, at, bits, n);
            assert!(read.to_vec() == theirs.to_vec(), "{n} words of {bits} bits at {at}");
            let sum = own.clone().combine_part(Zip::Add, &received, at, bits);
            assert!(sum.to_vec() == (own + theirs).low(bits).to_vec(), "{n} words of {bits} bits at {at}");
        }
    }
}

/// A message combined with words, as unpacked first; also a hostile one.
pub(crate) fn combined(device: &Device) {
    let mut r = Numbers(12);
    for bits in 1..=64 {
        for n in LENGTHS {
            let a = up(device, &r.words(n));
            let size = (n * bits as usize).div_ceil(8);
            for message in [vec![0xff; size], r.words(size).iter().map(|w| *w as u8).collect()] {
                let theirs = Words::unpack(device, &message, bits, n);
                for op in OPERATIONS {
                    let got = a.clone().combine_packed(op, &message, bits).to_vec();
                    let want = both(op, &a, &theirs).low(bits).to_vec();
                    assert_eq!(got, want, "{op:?}, {n} words of {bits} bits");
                }
            }
        }
    }
}
