//! Operations on rows of bits, against vectors of booleans. Bits beyond the width are filled with noise.

use super::{Numbers, up};
use kernels::{Device, Segments, coin_words};

const WIDTHS: [usize; 9] = [1, 2, 4, 8, 32, 64, 128, 256, 1024];
const ODD_WIDTHS: [usize; 6] = [3, 23, 65, 100, 127, 190];

fn widths() -> impl Iterator<Item = usize> {
    WIDTHS.into_iter().chain(ODD_WIDTHS)
}

fn bit(row: &[u64], j: usize) -> bool {
    row[j / 64] >> (j % 64) & 1 == 1
}

fn from_bits(width: usize, f: impl Fn(usize) -> bool) -> Vec<u64> {
    let mut row = vec![0; width.div_ceil(64)];
    (0..width).filter(|&j| f(j)).for_each(|j| row[j / 64] |= 1 << (j % 64));
    row
}

pub(crate) fn single_bits(device: &Device) {
    let mut r = Numbers(20);
    for (width, rows) in widths().flat_map(|width| [(width, 3), (width, 301)]) {
        let words = width.div_ceil(64);
        let u = r.words(rows * words);
        // Indices are taken modulo the width.
        let idx = r.words(rows);
        let at = |i: usize| (idx[i] % width as u64) as usize;
        let got = up(device, &u).bit_at(width, &up(device, &idx)).to_vec();
        let flipped = up(device, &u).flip_bit(width, &up(device, &idx)).to_vec();
        for i in 0..rows {
            let row = &u[i * words..][..words];
            assert_eq!(got[i], bit(row, at(i)) as u64, "width {width}");
            for j in 0..words * 64 {
                let want = bit(row, j) ^ (j == at(i));
                assert_eq!(bit(&flipped[i * words..], j), want, "width {width}");
            }
        }
    }
}

pub(crate) fn counts(device: &Device) {
    let mut r = Numbers(27);
    for width in widths() {
        let words = width.div_ceil(64);
        let u = r.words(301 * words);
        let got = up(device, &u).count_bits(width).to_vec();
        let want = |row: &[u64]| (0..width).filter(|j| bit(row, *j)).count() as u64;
        assert_eq!(got, u.chunks_exact(words).map(want).collect::<Vec<_>>(), "width {width}");
    }
    assert!(up(device, &[]).count_bits(65).is_empty());
}

pub(crate) fn rotations(device: &Device) {
    let mut r = Numbers(21);
    for width in WIDTHS {
        let words = width.div_ceil(64);
        for rows in [1, 70, 3000] {
            let u = r.words(rows * words);
            let rot: Vec<u64> =
                (0..rows as u64).map(|i| if i % 3 == 0 { i % width as u64 } else { r.word() }).collect();
            let got = up(device, &u).rotate_bits(width, &up(device, &rot)).to_vec();
            for i in 0..rows {
                let row = &u[i * words..][..words];
                let back = width - (rot[i] % width as u64) as usize;
                let want = from_bits(width, |j| bit(row, (j + back) % width));
                assert_eq!(&got[i * words..][..words], want, "width {width}, row {i}");
            }
        }
    }
}

pub(crate) fn suffixes(device: &Device) {
    let mut r = Numbers(22);
    for (width, rows) in widths().flat_map(|width| [(width, 3), (width, if width > 128 { 40 } else { 301 })])
    {
        let words = width.div_ceil(64);
        let u = r.words(rows * words);
        let got = up(device, &u).suffix_xor(width).to_vec();
        for i in 0..rows {
            let row = &u[i * words..][..words];
            let want = from_bits(width, |j| (j..width).filter(|&l| bit(row, l)).count() % 2 == 1);
            assert_eq!(&got[i * words..][..words], want, "width {width}");
        }
    }
}

/// Whether plane `j` of a row under these coins has a one at place `l`.
fn coin(coins: &[u64], width: usize, planes: usize, j: usize, l: usize) -> bool {
    let (q, p) = (|i| bit(coins, i), |i| bit(coins, width + planes + i));
    p(j) ^ q(l + j)
}

pub(crate) fn combinations(device: &Device) {
    let mut r = Numbers(24);
    for width in widths() {
        let words = width.div_ceil(64);
        for planes in [1, 3, 20, 24, 25, 32, 48, 64] {
            let (rows, length) = (90, (width + 2 * planes).div_ceil(64));
            assert_eq!(coin_words(width, planes), length);
            let (u, coins) = (r.words(rows * words), r.words(rows * length));
            for offsets in [&[0, 1, 1, 20, 57, 90][..], &[0, 18, 36, 54, 72, 90], &[0, 8, 15, 31, 35, 90]] {
                let segments = Segments::new(offsets.to_vec());
                let got = up(device, &u)
                    .random_combinations(&up(device, &coins), width, planes, &segments)
                    .to_vec();
                assert_eq!(got.len(), (offsets.len() - 1) * planes * words);
                for s in 0..offsets.len() - 1 {
                    for j in 0..planes {
                        let want = from_bits(width, |l| {
                            let both = |i: &usize| {
                                bit(&u[i * words..], l) && coin(&coins[i * length..], width, planes, j, l)
                            };
                            (offsets[s]..offsets[s + 1]).filter(both).count() % 2 == 1
                        });
                        let got = &got[(s * planes + j) * words..][..words];
                        assert_eq!(got, want, "width {width}, plane {j} of {planes}");
                    }
                }
            }
        }
    }
    // Many, which several threads share, and none.
    let (u, coins, segments) = (r.words(40_000), r.words(80_000), Segments::even(4000, 10));
    let many = up(device, &u).random_combinations(&up(device, &coins), 64, 24, &segments).to_vec();
    for s in [0, 1, 15, 16, 1234, 3999] {
        let rows = 10 * s..10 * (s + 1);
        let (u, coins) = (&u[rows.clone()], &coins[2 * rows.start..2 * rows.end]);
        let one = up(device, u).random_combinations(&up(device, coins), 64, 24, &Segments::even(1, 10));
        assert!(many[24 * s..][..24] == one.to_vec(), "segment {s}");
    }
    let none = up(device, &[]).random_combinations(&up(device, &[]), 64, 24, &Segments::even(0, 10));
    assert!(none.is_empty());
}

pub(crate) fn transpositions(device: &Device) {
    let mut r = Numbers(25);
    let none = || up(device, &[1, 2]).transpose_bits(64, 0, 0, 0);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(none)).expect_err("no planes");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"rows without planes"));
    for width in widths() {
        let words = width.div_ceil(64);
        let few = [(1, 0, 1), (5, 1, 3), (64, 0, 64), (70, 6, 64), (30, 30, 0), (36, 35, 1)];
        // Around whole octets of planes, the last of a row too.
        let octets = [6, 7, 8, 9, 16, 23, 24, 25, 33, 57, 63].map(|count| (count + 2, 2, count));
        for (total, first, count) in few.into_iter().chain(octets) {
            let rows = if count % 8 == 0 { 19 } else { 2 };
            let planes = r.words(rows * total * words);
            let got = up(device, &planes).transpose_bits(width, total, first, count).to_vec();
            assert_eq!(got.len(), rows * width);
            for row in 0..rows {
                for j in 0..width {
                    let plane = |b: usize| bit(&planes[(row * total + first + b) * words..], j);
                    let want: u64 = (0..count).filter(|&b| plane(b)).map(|b| 1 << b).sum();
                    assert_eq!(got[row * width + j], want, "width {width}");
                }
            }
        }
    }
}
