//! Element-wise operations and moves.

use super::{Numbers, up};
use kernels::{Device, EXP_BITS, Indices, Map, Segments, Words, Zip, exp_fraction};
use std::panic::{AssertUnwindSafe, catch_unwind};

const LENGTHS: [usize; 9] = [0, 1, 2, 7, 8, 9, 31, 64, 1001];

fn naive(op: Zip, a: u64, b: u64) -> u64 {
    let (x, y) = (a as u128, b as u128);
    (match op {
        Zip::Add => x + y,
        Zip::Sub => x + (1 << 64) - y,
        Zip::Mul => x * y,
        Zip::Xor => (x | y) - (x & y),
        Zip::And => (x + y - (x ^ y)) / 2,
    }) as u64
}

const ZIPS: [Zip; 5] = [Zip::Add, Zip::Sub, Zip::Mul, Zip::Xor, Zip::And];

pub(crate) fn zips(device: &Device) {
    let mut r = Numbers(1);
    for n in LENGTHS {
        let (a, b) = (r.words(n), r.words(n));
        for op in ZIPS {
            let mut c = device.upload(a.clone());
            device.zip(op, &mut c, &device.upload(b.clone()));
            let want: Vec<u64> = a.iter().zip(&b).map(|(&a, &b)| naive(op, a, b)).collect();
            assert_eq!(device.download(&c), want, "{op:?}");
        }
    }
}

pub(crate) fn maps(device: &Device) {
    let mut r = Numbers(2);
    for n in LENGTHS {
        let a = r.words(n);
        let c = r.word();
        let mut ops = vec![
            (Map::Neg, a.iter().map(|&a| naive(Zip::Sub, 0, a)).collect::<Vec<_>>()),
            (Map::Add(c), a.iter().map(|&a| naive(Zip::Add, a, c)).collect()),
            (Map::Mul(c), a.iter().map(|&a| naive(Zip::Mul, a, c)).collect()),
            (Map::Xor(c), a.iter().map(|&a| naive(Zip::Xor, a, c)).collect()),
            (Map::And(c), a.iter().map(|&a| naive(Zip::And, a, c)).collect()),
        ];
        for s in [0, 1, 31, 32, 63, 64, 65, 200, u32::MAX] {
            let p = if s < 64 { 1u128 << s } else { 1 << 64 };
            ops.push((Map::Shl(s), a.iter().map(|&a| (a as u128 * p) as u64).collect()));
            ops.push((Map::Shr(s), a.iter().map(|&a| (a as u128 / p) as u64).collect()));
        }
        for s in [1, 6, 31, 36, 63] {
            ops.push((Map::Exp(s), a.iter().map(|&a| exp_fraction(a, s)).collect()));
        }
        for (op, want) in ops {
            let mut b = device.upload(a.clone());
            device.map(op, &mut b);
            assert_eq!(device.download(&b), want, "{op:?}");
        }
    }
}

#[test]
fn exponentials_of_fractions() {
    for s in [1, 8, 14, 36, 63] {
        let steps = 1u64 << s.min(14);
        for i in 0..steps {
            let a = (i << (s - s.min(14))) | u64::MAX << s;
            let exact = (i as f64 / steps as f64).exp() * f64::from(1 << EXP_BITS);
            let found = exp_fraction(a, s) as f64;
            assert!((found - exact).abs() <= 0.51, "e^({i}/{steps}): {found}, exactly {exact}");
        }
    }
}

pub(crate) fn segments(device: &Device) {
    let mut r = Numbers(4);
    let a = r.words(200);
    let offsets = [0, 0, 1, 10, 10, 73, 199, 200, 200];
    let segments = Segments::new(offsets.to_vec());
    let sums = up(device, &a).sum_segments(&segments).to_vec();
    let xors = device.reduce_segments(Zip::Xor, &device.upload(a.clone()), &segments);
    assert_eq!(sums.len(), offsets.len() - 1);
    for (s, w) in offsets.windows(2).enumerate() {
        let part = &a[w[0]..w[1]];
        assert_eq!(sums[s], part.iter().map(|&x| x as u128).sum::<u128>() as u64);
        assert_eq!(device.download(&xors)[s], part.iter().fold(0, |x, y| x ^ y));
    }
    assert!(up(device, &a).sum_segments(&Segments::new(vec![])).is_empty());
    assert!(up(device, &a).sum_segments(&Segments::new(vec![5])).is_empty());
    assert_eq!(
        up(device, &a).sum_rows(20).to_vec()[3],
        a[60..80].iter().fold(0, |x: u64, y| x.wrapping_add(*y))
    );
}

pub(crate) fn moves(device: &Device) {
    let mut r = Numbers(5);
    let a = r.words(50);
    let w = up(device, &a);
    let idx: Indices = (0..800).map(|_| r.below(50) as u32).collect();
    let want: Vec<u64> = idx.iter().map(|i| a[i]).collect();
    assert_eq!(w.gather(&idx).to_vec(), want);
    let places: Indices = (0..50).map(|i| (i * 7 + 3) % 101).collect();
    let spread = w.scatter(&places, 101);
    assert_eq!(spread.gather(&places).to_vec(), a);
    assert_eq!(spread.to_vec().iter().filter(|&&x| x != 0).count(), a.iter().filter(|&&x| x != 0).count());
    assert_eq!(w.slice(3..17).to_vec(), &a[3..17]);
    assert!(w.slice(9..9).is_empty());
    let joined = Words::concat(&[&w.slice(0..3), &w.slice(3..3), &w.slice(3..50)]);
    assert_eq!(joined.to_vec(), a);
    assert_eq!(joined.len(), 50);
}

/// Places by a rule, against the same ones as a table.
pub(crate) fn grids(device: &Device) {
    let mut r = Numbers(7);
    let a = r.words(40_000);
    let w = up(device, &a);
    let shapes = [
        [(1, 0), (40_000, 1)],
        [(3, 17), (5, 1)],
        [(7, 5), (4, 0)],
        [(9, 11), (6, 4)],
        [(4, 1), (6, 9)],
        [(130, 300), (290, 1)],
        [(300, 1), (130, 300)],
        [(199, 1), (200, 0)],
        [(2000, 17), (1, 0)],
        [(0, 4), (3, 1)],
    ];
    for shape in shapes {
        for start in [0, 5].into_iter().filter(|&s| s == 0 || shape[1].0 < 40_000) {
            let rule = Indices::grid(start, shape);
            let want: Vec<u64> = rule.iter().map(|i| a[i]).collect();
            assert_eq!(w.gather(&rule).to_vec(), want, "{shape:?}");
            let mut distinct: Vec<usize> = rule.iter().collect();
            distinct.sort_unstable();
            distinct.dedup();
            if distinct.len() == rule.len() {
                let table: Indices = rule.iter().map(|i| i as u32).collect();
                let some = w.slice(0..rule.len());
                let [by_rule, by_table] = [&rule, &table].map(|i| some.scatter(i, 40_001).to_vec());
                assert_eq!(by_rule, by_table, "{shape:?}");
                assert!(rule.iter().zip(&a).all(|(i, w)| by_rule[i] == *w), "{shape:?}");
            }
        }
    }
    let odd = |s: u32| device.mapped(Map::Exp(s), &device.upload(vec![1]));
    for s in [0, 64, u32::MAX] {
        assert!(catch_unwind(AssertUnwindSafe(|| drop(odd(s)))).is_err(), "a fraction of {s} bits");
        let in_place = || device.map(Map::Exp(s), &mut device.upload(vec![1]));
        assert!(catch_unwind(AssertUnwindSafe(in_place)).is_err(), "a fraction of {s} bits");
    }
    let whole = Indices::grid(39_990, [(1, 0), (11, 1)]);
    let beyond = |f: &dyn Fn() -> Words| catch_unwind(AssertUnwindSafe(|| drop(f()))).is_err();
    assert!(beyond(&|| w.gather(&whole)), "words beyond the buffer");
    assert!(beyond(&|| w.slice(0..11).scatter(&whole, 40_000)), "places beyond the buffer");
}

/// Long enough for several threads.
pub(crate) fn large_buffers(device: &Device) {
    let mut r = Numbers(6);
    let (rows, cols) = (531, 257);
    let n = rows * cols;
    let (a, b) = (r.words(n), r.words(n));
    let got = (up(device, &a) * up(device, &b) + 5) << 3;
    let want: Vec<u64> = (0..n).map(|i| a[i].wrapping_mul(b[i]).wrapping_add(5) << 3).collect();
    assert_eq!(got.to_vec(), want);
    let offsets: Vec<usize> = (0..=rows).map(|i| i * cols).collect();
    let sums: Vec<u64> = a.chunks(cols).map(|c| c.iter().fold(0, |s: u64, x| s.wrapping_add(*x))).collect();
    assert_eq!(up(device, &a).sum_segments(&Segments::new(offsets)).to_vec(), sums);
    let idx: Indices = (0..n).map(|i| (i * 31 % n) as u32).collect();
    let want: Vec<u64> = idx.iter().map(|i| a[i]).collect();
    assert_eq!(up(device, &a).gather(&idx).to_vec(), want);
}
