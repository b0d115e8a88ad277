//! Programs of many short operations of which nothing is read before the end: a device may put off, put together and leave out
//! as it likes, as long as the words are those of one operation after the other.

use super::{Numbers, up};
use kernels::cpu::Cpu;
use kernels::{Device, Indices, Message, Received, Words, Zip};

/// Words of a buffer, and of one that is long enough for a processor to put operations off and to share them between threads.
const SHORT: usize = 300;
const LONG: usize = 70_001;
const OPERATIONS: [Zip; 5] = [Zip::Add, Zip::Sub, Zip::Mul, Zip::Xor, Zip::And];

fn combine(op: Zip, a: u64, b: u64) -> u64 {
    match op {
        Zip::Add => a.wrapping_add(b),
        Zip::Sub => a.wrapping_sub(b),
        Zip::Mul => a.wrapping_mul(b),
        Zip::Xor => a ^ b,
        Zip::And => a & b,
    }
}

/// In place.
fn applied(op: Zip, a: Words, b: &Words) -> Words {
    match op {
        Zip::Add => a + b,
        Zip::Sub => a - b,
        Zip::Mul => a * b,
        Zip::Xor => a ^ b,
        Zip::And => a & b,
    }
}

fn low(word: u64, bits: u32) -> u64 {
    word & (u64::MAX >> (64 - bits))
}

/// A buffer, and what it should be.
type Both = (Words, Vec<u64>);

/// What each word of two buffers should become.
fn each(a: &[u64], b: &[u64], f: impl Fn(u64, u64) -> u64) -> Vec<u64> {
    a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
}

/// A message that came: where its parts of `n` words begin, and their bits.
fn message(r: &mut Numbers, host: &Device, n: usize) -> (Received, Vec<(usize, u32)>) {
    let (mut bytes, mut parts) = (vec![], vec![]);
    for bits in [1, 3, 17, 33, 64] {
        parts.push((bytes.len(), bits));
        up(host, &r.words(n)).pack(bits, &mut bytes);
    }
    (bytes.into(), parts)
}

/// What becomes of a and b, which are changed in place if nobody has them any more.
fn operation(r: &mut Numbers, (a, wa): Both, (b, wb): &Both) -> Both {
    let op = OPERATIONS[r.below(5)];
    match r.below(6) {
        0 | 1 => (applied(op, a, b), each(&wa, wb, |a, b| combine(op, a, b))),
        2 => {
            let [s, t] = Words::formulas([&a, b], |[a, b]| [a * b + 3, a - b]);
            let want = |a: u64, b: u64| a.wrapping_mul(b).wrapping_add(3) ^ a.wrapping_sub(b);
            (s ^ &t, each(&wa, wb, want))
        }
        3 => {
            // A chain, of which only the end is kept.
            let one = Words::formula([&a, b], |[a, b]| a + b * 5);
            let two = Words::formula([&one, &a], |[one, a]| one * a - 1);
            let three = Words::formula([&two, &one], |[two, one]| (two ^ one) >> 3u32);
            let want = |a: u64, b: u64| {
                let one = a.wrapping_add(b.wrapping_mul(5));
                (one.wrapping_mul(a).wrapping_sub(1) ^ one) >> 3
            };
            (three, each(&wa, wb, want))
        }
        4 => {
            // Words of itself from elsewhere, in place.
            let back = a.gather(&(0..wa.len() as u32).rev().collect());
            let reversed: Vec<u64> = wa.iter().rev().copied().collect();
            (applied(op, a, &back), each(&wa, &reversed, |a, b| combine(op, a, b)))
        }
        _ => (a.flip_bit(64, b), each(&wa, wb, |a, b| a ^ 1 << (b % 64))),
    }
}

/// Words that come from elsewhere than from operations on words.
fn source(r: &mut Numbers, device: &Device, host: &Device, (a, wa): &Both) -> Both {
    let n = wa.len();
    match r.below(3) {
        0 => {
            let places: Vec<u32> = (0..n).map(|_| r.below(n) as u32).collect();
            let want = places.iter().map(|p| wa[*p as usize]).collect();
            (a.gather(&places.into()), want)
        }
        1 => {
            let cut = r.below(n);
            let (begin, end) = (a.slice(0..cut), a.gather(&Indices::grid(cut, [(1, 0), (n - cut, 1)])));
            (Words::concat(&[&end, &begin]), [&wa[cut..], &wa[..cut]].concat())
        }
        _ => {
            let (key, bits) = ([r.next() as u8; 32], 1 + r.below(64) as u32);
            let drawn = |device| Words::chacha12(device, &key, 7, n, bits);
            (drawn(device), drawn(host).to_vec())
        }
    }
}

pub(crate) fn nothing_is_read_before_the_end(device: &Device) {
    programs(device, 70, 60, SHORT);
}

pub(crate) fn long_buffers(device: &Device) {
    programs(device, 73, 3, LONG);
}

/// By two threads, each with its own.
pub(crate) fn two_at_once(device: &Device) {
    std::thread::scope(|s| {
        for seed in [71, 72] {
            s.spawn(move || programs(device, seed, 20, SHORT));
        }
    });
}

fn programs(device: &Device, seed: u64, count: usize, n: usize) {
    let (mut r, host) = (Numbers(seed), Cpu::best());
    for program in 0..count {
        let mut all: Vec<Both> =
            (0..6).map(|_| r.words(n)).map(|words| (up(device, &words), words)).collect();
        let (received, parts) = message(&mut r, &host, n);
        let (mut sent, mut want_sent) = (Message::default(), vec![]);
        for _ in 0..5 + r.below(80) {
            let [a, b] = [r.below(all.len()), r.below(all.len())];
            let ((x, wx), (y, wy)) = (all[a].clone(), all[b].clone());
            let ((at, bits), op) = (parts[r.below(parts.len())], OPERATIONS[r.below(5)]);
            let theirs = Words::unpack(&host, received.part(at, bits, n), bits, n).to_vec();
            all[a] = match r.below(10) {
                0 => source(&mut r, device, &host, &(y, wy)),
                1 => (Words::unpack_part(device, &received, at, bits, n), theirs),
                2 => (
                    y.combine_part(op, &received, at, bits),
                    each(&wy, &theirs, |a, b| low(combine(op, a, b), bits)),
                ),
                kind @ (3 | 4) => {
                    let bits = 1 + r.below(64) as u32;
                    let want = each(&wx, &wy, |a, b| low(combine(op, a, b), bits));
                    up(&host, &want).pack(bits, &mut want_sent);
                    if kind == 3 {
                        (x.mask_and_pack(op, &y, bits, &mut sent), want)
                    } else {
                        x.clone().pack_masked(op, &y, bits, &mut sent);
                        (x, wx)
                    }
                }
                // As a gate does: under a mask that is drawn just then.
                kind @ (5 | 6) => {
                    let (key, bits) = ([r.next() as u8; 32], 1 + r.below(64) as u32);
                    let drawn = |device| Words::chacha12(device, &key, 7, n, bits);
                    let (half, made) = (Words::formula([&x, &y], |[x, y]| x * y - x), drawn(device));
                    let half_want = each(&wx, &wy, |x, y| x.wrapping_mul(y).wrapping_sub(x));
                    let want = each(&half_want, &drawn(&host).to_vec(), |a, b| low(combine(op, a, b), bits));
                    up(&host, &want).pack(bits, &mut want_sent);
                    if kind == 5 {
                        (half.mask_and_pack(op, &made, bits, &mut sent), want)
                    } else {
                        half.pack_masked(op, &made, bits, &mut sent);
                        (made, drawn(&host).to_vec())
                    }
                }
                // With and without another one who has them.
                7 => operation(&mut r, (x, wx), &(y, wy)),
                _ => {
                    drop(x);
                    let own = std::mem::replace(&mut all[a], (up(device, &[]), vec![]));
                    operation(&mut r, own, &(y, wy))
                }
            };
        }
        assert!(sent.into_bytes() == want_sent, "messages of program {program}");
        for (i, (words, want)) in all.iter().enumerate() {
            assert!(words.to_vec() == *want, "buffer {i} of program {program}");
        }
    }
}
