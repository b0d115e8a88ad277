//! Products of matrices, one at each party, against the same integers in the clear.

mod common;

use common::hash;
use kernels::GemmBatch;
use protocol::gates::product;
use protocol::testing::World;
use protocol::{Factor, Ledger, Product, Shape, Share, SharedMatrix};

const ROWS: usize = 5;
const INPUTS: usize = 37;
const OUTPUTS: usize = 11;

/// Words of all kinds: the ends of the ring, its middle, and any.
fn words(seed: u64, n: usize) -> Vec<u64> {
    let edges = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 62, u64::MAX - 1];
    let word = |i: usize| match hash(&[seed, i as u64, 1]) % 3 {
        0 => edges[hash(&[seed, i as u64, 2]) as usize % edges.len()],
        _ => hash(&[seed, i as u64, 3]),
    };
    (0..n).map(word).collect()
}

/// Shares under masks of all kinds.
fn share(w: &World, seed: u64, shape: Shape) -> (Vec<u64>, [Share; 3]) {
    let [values, x0, x1] = [0, 1, 2].map(|i| words(3 * seed + i, shape.len()));
    let shares = w.share_under(&values, &x0, &x1, shape, 0);
    (values, shares)
}

/// x · W^T, and the same cut into a block modulo 2^20 and one modulo all that is known.
fn clear(x: &[u64], w: &[u64]) -> Vec<u64> {
    let dot = |i: usize| {
        let (x, w) = (&x[i / OUTPUTS * INPUTS..][..INPUTS], &w[i % OUTPUTS * INPUTS..][..INPUTS]);
        x.iter().zip(w).fold(0u64, |sum, (x, w)| sum.wrapping_add(x.wrapping_mul(*w)))
    };
    (0..ROWS * OUTPUTS).map(dot).collect()
}

fn low(words: &[u64], bits: u32) -> Vec<u64> {
    words.iter().map(|w| w & (u64::MAX >> (64 - bits))).collect()
}

fn transposed<T>(results: [Vec<T>; 3]) -> Vec<[T; 3]> {
    let [a, b, c] = results;
    a.into_iter().zip(b).zip(c).map(|((a, b), c)| [a, b, c]).collect()
}

#[test]
fn products_with_weights_are_exact_up_to_the_last_bit() {
    for (seed, bits) in (0..6).flat_map(|seed| [64, 63, 62, 51, 42, 7].map(|bits| (seed, bits))) {
        let w = World::new(900 + seed);
        let (x, xs) = share(&w, seed, Shape::new(ROWS, INPUTS));
        let (m, ms) = share(&w, 50 + seed, Shape::new(OUTPUTS, INPUTS));
        let inputs: Vec<_> = xs.into_iter().zip(ms).collect();
        let o = w.run(inputs.try_into().unwrap(), |cx, (x, m): (Share, Share)| {
            Box::pin(async move {
                let m = SharedMatrix::new(&m);
                let whole = product::matmul_modulo(&cx, &x, &m, bits)?;
                let [left, right] = product::matmul_blocks(&cx, &x, &m, [(0..4, 20), (4..OUTPUTS, bits)])?;
                Ok(vec![whole, left, right])
            })
        });
        let all: Vec<[Product; 3]> = transposed(o.results);
        let (known, right) = (bits.min(63), clear(&x, &m));
        assert!(all[0].iter().all(|z| z.bits == known), "what is known modulo 2^{bits}");
        assert_eq!(w.open_product(&all[0]), low(&right, known), "modulo 2^{bits}, seed {seed}");
        let columns = |from: usize, to: usize| -> Vec<u64> {
            right.chunks(OUTPUTS).flat_map(|row| &row[from..to]).copied().collect()
        };
        assert_eq!(w.open_product(&all[1]), low(&columns(0, 4), 20), "left of 2^{bits}, seed {seed}");
        assert_eq!(
            w.open_product(&all[2]),
            low(&columns(4, OUTPUTS), known),
            "right of 2^{bits}, seed {seed}"
        );
        let mut declared = Ledger::default();
        for (n, bits) in [(ROWS * OUTPUTS, known), (ROWS * 4, 20), (ROWS * (OUTPUTS - 4), known)] {
            declared += &product::product_cost(n, bits);
        }
        assert_eq!((o.ledger.exchanges, o.ledger.sent), (0, declared.sent));
    }
}

#[test]
fn small_products_of_several_parts() {
    let w = World::new(950);
    let shape = Shape::new(ROWS, INPUTS);
    let (x, xs) = share(&w, 100, shape);
    let parts: Vec<_> = (0..2).map(|i| share(&w, 110 + i, shape)).collect();
    // Row i of x times row i of each part.
    let batch = GemmBatch {
        m: 1,
        n: 1,
        k: INPUTS,
        a: kernels::Strides { row: INPUTS, col: 1 },
        b: kernels::Strides { row: 1, col: 1 },
        c_row: 1,
        offsets: (0..ROWS).map(|i| [i * INPUTS, i * INPUTS, i]).collect(),
        c_len: ROWS,
    };
    let mut inputs =
        transposed(parts.iter().map(|(_, s)| s.clone()).fold(Default::default(), |mut all, s| {
            let all_parts: &mut [Vec<Share>; 3] = &mut all;
            all_parts.iter_mut().zip(s).for_each(|(all, part)| all.push(part));
            all
        }));
    let shares: Vec<(Share, Vec<Share>)> = xs
        .into_iter()
        .enumerate()
        .map(|(i, x)| (x, inputs.iter_mut().map(|p| p[i].clone()).collect()))
        .collect();
    let o = w.run(shares.try_into().unwrap(), |cx, (x, y): (Share, Vec<Share>)| {
        let batch = batch.clone();
        Box::pin(async move {
            let (x, y): (Factor, Vec<Factor>) = ((&x).into(), y.iter().map(Factor::from).collect());
            // Factors are cut and put together like shares.
            let again = x.rows(0, 2).append_rows(&x.rows(2, ROWS));
            let y: Vec<&Factor> = y.iter().collect();
            let shape = Shape::new(2 * ROWS, 1);
            product::of_factors(&cx, &again, &y, shape, 64, |_, a, b| a.gemm_batch(b, &batch))
        })
    });
    let right: Vec<u64> = parts
        .iter()
        .flat_map(|(y, _)| {
            let dot = |i: usize| {
                (0..INPUTS)
                    .fold(0u64, |s, j| s.wrapping_add(x[i * INPUTS + j].wrapping_mul(y[i * INPUTS + j])))
            };
            (0..ROWS).map(dot).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(w.open_product(&o.results), low(&right, 63));
}
