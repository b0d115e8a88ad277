//! Products against three loops.

use super::{Numbers, up};
use kernels::{Device, GemmBatch, KeyStream, Matrix, Strides, Words};
use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

fn check(device: &Device, r: &mut Numbers, m: usize, k: usize, n: usize) {
    let (a, w) = (r.words(m * k), r.words(n * k));
    let want = |i: usize, j: usize| {
        (0..k).fold(0u64, |s, l| s.wrapping_add(a[i * k + l].wrapping_mul(w[j * k + l])))
    };
    let want: Vec<u64> = (0..m * n).map(|at| want(at / n, at % n)).collect();
    let equal = |got: &[u64], bits: u32| {
        assert_eq!(got.len(), m * n);
        let low = u64::MAX >> (64 - bits);
        let wrong = got.iter().zip(&want).position(|(got, want)| *got != want & low);
        assert_eq!(wrong, None, "[{m}×{k}]·[{k}×{n}] modulo 2^{bits}");
    };
    // Sums of products wrap around each of these; every shape takes another.
    let bits = [52, 41, 53, 1, 51, 64, 40][(m + k + n) % 7];
    if m == 0 || k == 0 {
        let (a, packed) = (device.upload(a.clone()), device.pack_matrix(&device.upload(w.clone()), k, n));
        equal(&device.download(&device.gemm(&a, &packed, m, k, n)), 64);
        equal(&device.download(&device.gemm_low(&a, &packed, m, k, n, bits)), bits);
    } else {
        let (a, matrix) = (up(device, &a), Matrix::new(&up(device, &w), n, k));
        equal(&matrix.apply(&a).to_vec(), 64);
        equal(&matrix.apply_low(&a, bits).to_vec(), bits);
    }
}

pub(crate) fn ragged(device: &Device) {
    let mut r = Numbers(40);
    for m in [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 33] {
        for k in [1, 2, 3, 8, 17, 65] {
            for n in [1, 7, 8, 9, 15, 16, 17, 31, 50] {
                check(device, &mut r, m, k, n);
            }
        }
    }
}

/// The sum of prepared matrices is the prepared sum.
pub(crate) fn sums(device: &Device) {
    let mut r = Numbers(47);
    for (m, k, n) in [(1, 1, 1), (3, 5, 7), (2, 65, 17), (40, 129, 50)] {
        let (a, b, x) = (r.words(k * n), r.words(k * n), r.words(k * m));
        let [one, other] = [&a, &b].map(|w| Matrix::new(&up(device, w), n, k));
        let both: Vec<u64> = a.iter().zip(&b).map(|(a, b)| a.wrapping_add(*b)).collect();
        let want = Matrix::new(&up(device, &both), n, k).apply(&up(device, &x)).to_vec();
        assert_eq!(one.plus(&other).apply(&up(device, &x)).to_vec(), want, "[{n}×{k}]");
    }
}

/// Few rows, and enough work for all threads.
pub(crate) fn few_rows(device: &Device) {
    let mut r = Numbers(41);
    for m in 1..=12 {
        check(device, &mut r, m, 1023, 523);
    }
}

/// Several blocks of inputs, many rows.
pub(crate) fn large_inputs(device: &Device) {
    let mut r = Numbers(42);
    for (m, k, n) in [(19, 1537, 33), (40, 3100, 21), (67, 129, 130), (200, 64, 64)] {
        check(device, &mut r, m, k, n);
    }
}

/// Around the number of rows from which inputs are paired, with odd numbers of inputs and several blocks of them.
pub(crate) fn many_rows(device: &Device) {
    let mut r = Numbers(46);
    for m in [31, 32, 33, 39, 64, 71, 127, 128, 129] {
        for (k, n) in [(1, 17), (2, 16), (3, 1), (64, 33), (65, 50), (385, 7)] {
            check(device, &mut r, m, k, n);
        }
    }
    for k in [1535, 1536, 1537, 3071, 3073, 3075] {
        check(device, &mut r, 35, k, 19);
    }
}

/// Words whose products of limbs add up to the largest sums, whatever limbs are taken to be: from 0 to 255, or from −128 to 127;
/// and more inputs than such sums are exact for.
pub(crate) fn largest_words(device: &Device) {
    let left = [u64::MAX, 0x7f7f_7f7f_7f7f_7f80, 0x7f7f_7f7f_7f7f_7f7f];
    for (m, k, n) in [
        (16, 512, 16),
        (17, 4096, 17),
        (32, 549, 18),
        (70, 1573, 17),
        (1, 16384, 2),
        (2, 20000, 1),
        (33, 16500, 2),
    ] {
        let matrix = Matrix::new(&up(device, &vec![u64::MAX; n * k]), n, k);
        for left in left {
            let a = up(device, &vec![left; m * k]);
            for bits in [64, 57, 56, 52, 49, 48, 41, 40, 32, 8, 1] {
                let want = left.wrapping_neg().wrapping_mul(k as u64) & u64::MAX >> (64 - bits);
                assert_eq!(
                    matrix.apply_low(&a, bits).to_vec(),
                    vec![want; m * n],
                    "{left:x}: [{m}×{k}]·[{k}×{n}] modulo 2^{bits}"
                );
            }
        }
    }
}

/// However the rows and panels fall to the threads.
pub(crate) fn thread_counts(device: &Device) {
    for threads in 1..=5 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            let mut r = Numbers(47);
            for (m, k, n) in [(31, 331, 67), (33, 257, 90), (65, 129, 70), (130, 127, 49), (259, 65, 33)] {
                check(device, &mut r, m, k, n);
            }
        });
    }
}

pub(crate) fn empty(device: &Device) {
    let mut r = Numbers(43);
    for (m, k, n) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
        check(device, &mut r, m, k, n);
    }
}

fn check_batch(device: &Device, a: &[u64], b: &[u64], s: &GemmBatch) {
    let got = device.gemm_batch(&device.upload(a.to_vec()), &device.upload(b.to_vec()), s);
    let mut want = vec![0; s.c_len];
    for [a0, b0, c0] in &s.offsets {
        for i in 0..s.m {
            for j in 0..s.n {
                want[c0 + i * s.c_row + j] = (0..s.k).fold(0, |sum: u64, l| {
                    let (a, b) = (a[a0 + i * s.a.row + l * s.a.col], b[b0 + l * s.b.row + j * s.b.col]);
                    sum.wrapping_add(a.wrapping_mul(b))
                });
            }
        }
    }
    assert!(device.download(&got) == want, "{}×{}×{} {:?} {:?}", s.m, s.k, s.n, s.a, s.b);
}

/// Attention of several heads in one buffer: scores Q·Kᵀ, then weights times V.
pub(crate) fn batches(device: &Device) {
    let mut r = Numbers(44);
    for (heads, queries, keys, d) in [
        (1, 1, 1, 1),
        (2, 1, 9, 8),
        (3, 5, 7, 4),
        (4, 32, 50, 64),
        (12, 33, 33, 16),
        (2, 1, 331, 8),
        (1, 9, 200, 130),
    ] {
        let width = heads * d;
        let (q, kv) = (r.words(queries * width), r.words(keys * width));
        let rows = Strides { row: width, col: 1 };
        let scores = GemmBatch {
            m: queries,
            n: keys,
            k: d,
            a: rows,
            b: Strides { row: 1, col: width },
            c_row: keys,
            offsets: (0..heads).map(|h| [h * d, h * d, h * queries * keys]).collect(),
            c_len: heads * queries * keys,
        };
        check_batch(device, &q, &kv, &scores);
        let p = r.words(scores.c_len);
        let mixed = GemmBatch {
            m: queries,
            n: d,
            k: keys,
            a: Strides { row: keys, col: 1 },
            b: rows,
            c_row: width,
            offsets: (0..heads).map(|h| [h * queries * keys, h * d, h * d]).collect(),
            c_len: queries * width,
        };
        check_batch(device, &p, &kv, &mixed);
    }
}

/// Transposed, spread out and repeated operands; results with gaps; enough work for all threads.
pub(crate) fn batch_layouts(device: &Device) {
    let mut r = Numbers(45);
    for (m, n, k) in [(1, 1, 3), (1, 40, 20), (2, 16, 8), (9, 33, 5), (40, 47, 50)] {
        let (a, b) = (r.words(3 * m * k * 2 + 50), r.words(3 * n * k * 2 + 50));
        for a_t in [Strides { row: k, col: 1 }, Strides { row: 1, col: m }, Strides { row: 2 * k, col: 2 }] {
            for b_t in
                [Strides { row: n, col: 1 }, Strides { row: 1, col: k }, Strides { row: 2, col: 2 * k }]
            {
                let c_row = n + 3;
                let offsets =
                    (0..15).map(|i| [r.below(m * k), r.below(n * k), 5 + i * m * c_row]).collect::<Vec<_>>();
                let s = GemmBatch { m, n, k, a: a_t, b: b_t, c_row, offsets, c_len: 15 * m * c_row + 9 };
                check_batch(device, &a, &b, &s);
            }
        }
    }
    let none = Strides { row: 1, col: 1 };
    let s = GemmBatch { m: 2, n: 3, k: 0, a: none, b: none, c_row: 3, offsets: vec![[0; 3]], c_len: 7 };
    check_batch(device, &[], &[], &s);
}

/// Words of a stream in pieces, by another implementation.
fn drawn(stream: &KeyStream<'_>, n: usize) -> Vec<u64> {
    let piece = |i: usize| {
        let mut r = ChaCha12Rng::from_seed(*stream.key);
        r.set_stream(stream.nonce + i as u64);
        (0..stream.piece.min(n - i * stream.piece)).map(move |_| r.next_u64())
    };
    (0..n.div_ceil(stream.piece)).flat_map(piece).collect()
}

/// A stored matrix and a stream's, and a stream's alone: rows that blocks of a stream cross and
/// rows that they do not, rows within a piece and beyond, several parts of the inputs, and enough work for all threads.
pub(crate) fn regenerated(device: &Device) {
    let mut r = Numbers(48);
    let sizes = [
        (1, 1),
        (3, 50),
        (8, 9),
        (40, 17),
        (72, 130),
        (130, 3),
        (512, 66),
        (1000, 65),
        (1032, 71),
        (3000, 30),
        (32_776, 2),
    ];
    for (i, (k, n)) in sizes.into_iter().enumerate() {
        for m in [1, 2 + i % 3, 5 + i] {
            let (x, y, w) = (r.words(m * k), r.words(m * k), r.words(n * k));
            let key: [u8; 32] = std::array::from_fn(|_| r.next() as u8);
            let piece = KeyStream::LEAST_PIECE << (2 * i % 9);
            let stream = KeyStream { key: &key, nonce: r.next() >> 1, piece };
            let made = drawn(&stream, n * k);
            let product = |at: usize, x: &[u64], w: &[u64]| {
                let (i, j) = (at / n, at % n);
                (0..k).fold(0u64, |s, l| s.wrapping_add(x[i * k + l].wrapping_mul(w[j * k + l])))
            };
            let check = |got: Words, want: &dyn Fn(usize) -> u64, what: &str| {
                let want: Vec<u64> = (0..m * n).map(want).collect();
                assert!(got.to_vec() == want, "[{m}×{k}]·[{k}×{n}], pieces of {piece}, {what}");
            };
            let (matrix, [x_up, y_up]) =
                (Matrix::new(&up(device, &w), n, k), [&x, &y].map(|v| up(device, v)));
            let both = |at| product(at, &x, &w).wrapping_add(product(at, &y, &made));
            check(matrix.apply_beside(&x_up, &y_up, stream), &both, "one beside a stored matrix");
            check(y_up.by_stream(&stream, n, k), &|at| product(at, &y, &made), "one alone");
        }
    }
    let stream = KeyStream { key: &[1; 32], nonce: 2, piece: KeyStream::LEAST_PIECE };
    for (m, k, n) in [(0, 8, 3), (2, 0, 3), (2, 8, 0), (9, 0, 3), (9, 8, 0)] {
        let (x, w) = (device.zeros(m * k), device.pack_matrix(&device.zeros(n * k), k, n));
        for beside in [None, Some((&x, &w))] {
            let c = device.gemm_regenerated(&x, &stream, beside, [m, k, n]);
            assert_eq!(*device.download(&c), vec![0; m * n]);
        }
    }
}

/// Rows of bits, with anything beyond the last input: few rows and many, inputs that end anywhere in a word, several parts of
/// the inputs, and enough work for all threads.
pub(crate) fn bits(device: &Device) {
    let mut r = Numbers(49);
    let mut check = |m: usize, k: usize, n: usize| {
        let words = k.div_ceil(64);
        let (a, w) = (r.words(m * words), r.words(n * k));
        let got = Matrix::new(&up(device, &w), n, k).apply_bits(&up(device, &a)).to_vec();
        let want = |at: usize| {
            let (bits, weights) = (&a[at / n * words..][..words], &w[at % n * k..][..k]);
            let chosen = weights.iter().enumerate().filter(|(l, _)| bits[l / 64] >> (l % 64) & 1 == 1);
            chosen.fold(0u64, |sum, (_, w)| sum.wrapping_add(*w))
        };
        assert!(got == (0..m * n).map(want).collect::<Vec<_>>(), "[{m}×{k}]·[{k}×{n}]");
    };
    for m in [0, 1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 33] {
        for k in [1, 3, 4, 31, 32, 33, 63, 64, 65, 97, 130] {
            for n in [1, 15, 16, 17, 50] {
                check(m, k, n);
            }
        }
    }
    for (m, k, n) in [(1, 4099, 300), (4, 9000, 33), (7, 2000, 90), (130, 517, 70), (40, 3100, 21)] {
        check(m, k, n);
    }
    for (m, k, n) in [(0, 3usize, 4), (2, 0, 4), (2, 3, 0)] {
        let (x, w) = (device.zeros(m * k.div_ceil(64)), device.pack_matrix(&device.zeros(n * k), k, n));
        assert_eq!(*device.download(&device.gemm_bits(&x, &w, m, k, n)), vec![0; m * n]);
    }
}

/// More of a stream than is made at a time.
pub(crate) fn regenerated_in_panels(device: &Device) {
    let (m, k, n) = (1, 9, 131_072 + 70);
    let mut r = Numbers(49);
    let x = r.words(m * k);
    let stream = KeyStream { key: &[5; 32], nonce: 7 << 32, piece: 1 << 19 };
    let made = drawn(&stream, n * k);
    let want: Vec<u64> = made
        .chunks_exact(k)
        .map(|row| row.iter().zip(&x).fold(0u64, |s, (w, x)| s.wrapping_add(w.wrapping_mul(*x))))
        .collect();
    assert!(up(device, &x).by_stream(&stream, n, k).to_vec() == want);
}

pub(crate) fn properties(device: &Device) {
    proptest!(ProptestConfig::with_cases(60), |(m in 1usize..40, k in 1usize..90, n in 1usize..70, seed: u64)| {
        check(device, &mut Numbers(seed), m, k, n);
    });
}
