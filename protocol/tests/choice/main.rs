//! Choice of tokens: argmax against plain integers, sampling against the exact distribution; declared costs; and what
//! each party sees of it.

#[path = "../common/mod.rs"]
mod common;
mod views;

use common::detect::{LIMIT, z_score};
use common::hash;
use kernels::Ring;
use protocol::gates::choice::{self, SampleTables, argmax, argmax_cost, sample, sample_cost, token_index};
use protocol::testing::{MakeStreams, Outcome, World};
use protocol::{ChaChaStreams, Cost, Ledger, Role, Shape, Share};

const F: u32 = 18;
const EVALUATORS: [Role; 2] = [Role::P1, Role::P2];

fn assert_cost<T>(what: &str, o: &Outcome<T>, declared: Cost) {
    let mut l = Ledger::default();
    l += &declared;
    assert_eq!((o.ledger.exchanges, o.ledger.sent), (l.exchanges, l.sent), "{what}");
}

/// The element that each one-hot row names.
fn chosen(one_hot: &[u64], n: usize) -> Vec<usize> {
    let of_row = |row: &[u64]| {
        let at: Vec<usize> = (0..n).filter(|&i| row[i] != 0).collect();
        assert!(at.len() == 1 && row[at[0]] == 1, "not one-hot: {row:?}");
        at[0]
    };
    one_hot.chunks(n).map(of_row).collect()
}

// ---- The highest.

fn check_argmax(w: &World, ring_bits: u32, rows: &[Vec<i64>]) {
    let n = rows[0].len();
    let flat: Vec<u64> = rows.concat().into_iter().map(|x| x as u64).collect();
    let x = w.share(&flat, Shape::new(rows.len(), n), F, 1);
    let o = w.run(x, |cx, x| Box::pin(async move { argmax(&cx, &x).await }));
    assert_cost(&format!("{} rows of {n}", rows.len()), &o, argmax_cost(rows.len(), n, ring_bits));
    assert_eq!(o.results.each_ref().map(|r| (r.shape, r.scale)), [(Shape::new(rows.len(), n), 0); 3]);
    for (row, at) in rows.iter().zip(chosen(&w.open(&o.results).values, n)) {
        let high = row.iter().max().unwrap();
        let first = row.iter().position(|x| x == high).unwrap();
        assert_eq!(at, first, "{row:?}");
        assert_eq!(choice::clear(row), first);
    }
}

/// `spread`: elements are in ±2^spread.
fn row(tag: u64, n: usize, spread: u32) -> Vec<i64> {
    (0..n as u64).map(|i| hash(&[tag, i]) as i64 >> (63 - spread)).collect()
}

#[test]
fn first_of_the_highest() {
    let lengths = (1..=40).chain([64, 65, 168, 169, 170, 171, 513, 1353]);
    for n in lengths {
        // Differences up to 2^30 − 1; a few values only, so that there are ties; rising and falling; all equal.
        let rising: Vec<i64> = (0..n as i64).map(|i| i - 5).collect();
        let falling = rising.iter().map(|x| -x).collect();
        let rows = [row(n as u64, n, 29), row(n as u64, n, 1), rising, falling, vec![-7; n]];
        check_argmax(&World::new(n as u64), 64, &rows);
    }
}

#[test]
fn extremes_and_places() {
    const HALF: i64 = 1 << 29;
    for n in [2usize, 8, 9, 13, 14, 27] {
        // The highest, then also a later one as high, everywhere among the lowest.
        let mut rows = vec![];
        for at in 0..n {
            let mut one = vec![-HALF; n];
            one[at] = HALF - 1;
            let mut two = one.clone();
            two[n - 1] = HALF - 1;
            rows.extend([one, two]);
        }
        check_argmax(&World::new(100 + n as u64), 64, &rows);
    }
}

#[test]
fn other_rings() {
    for bits in [31, 32, 47] {
        check_argmax(&World::new(7).ring(Ring::new(bits)), bits, &[row(1, 30, 29), row(2, 30, 2)]);
    }
}

#[test]
fn a_vocabulary() {
    let mut long = row(5, 49152, 29);
    long[40_000] = 1 << 29;
    long[40_001] = 1 << 29;
    check_argmax(&World::new(8), 64, &[long]);
    // Two levels of groups of five.
    check_argmax(&World::new(9), 64, &[row(6, 100_003, 12)]);
}

#[test]
fn the_number_of_the_chosen() {
    let (w, rows) = (World::new(10), [row(1, 77, 20), row(2, 77, 20), vec![3; 77]]);
    let x = w.share(&rows.concat().iter().map(|x| *x as u64).collect::<Vec<_>>(), Shape::new(3, 77), F, 1);
    let o = w.run(x, |cx, x| {
        Box::pin(async move {
            let one_hot = argmax(&cx, &x).await?;
            Ok(token_index(&cx, &one_hot))
        })
    });
    assert_cost("the number is local", &o, argmax_cost(3, 77, 64));
    assert_eq!(o.results.each_ref().map(|p| (p.shape, p.scale)), [(Shape::new(3, 1), 0); 3]);
    let expected: Vec<u64> = rows.iter().map(|r| choice::clear(r) as u64).collect();
    assert_eq!(w.open_product(&o.results), expected);
}

// ---- Sampling.

fn run_sample(w: &World, x: &[f64], n: usize, k: usize, scale: u32) -> Outcome<Share> {
    let fix: Vec<u64> = x.iter().map(|v| (v * 2f64.powi(scale as i32)) as i64 as u64).collect();
    let t = SampleTables::new(w.device());
    let shares = w.share(&fix, Shape::new(x.len() / n, n), scale, 1);
    w.run(shares, |cx, x| {
        let t = t.clone();
        Box::pin(async move { sample(&cx, &x, k, &t).await })
    })
}

fn draws(w: &World, x: &[f64], n: usize, k: usize) -> Vec<usize> {
    let o = run_sample(w, x, n, k, 20);
    chosen(&w.open(&o.results).values, n)
}

/// Chi-square of many draws from one row against the softmax of its k highest, as standard deviations.
fn against_softmax(w: &World, x: &[f64], k: usize, rows: usize) -> f64 {
    let n = x.len();
    let mut sorted = x.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let weight = |v: f64| if v >= sorted[k - 1] { (v - sorted[0]).exp() } else { 0.0 };
    let sum: f64 = x.iter().map(|v| weight(*v)).sum();
    let mut counts = vec![0f64; n];
    draws(w, &x.repeat(rows), n, k).into_iter().for_each(|i| counts[i] += 1.0);
    let (mut chi2, mut df, mut rest) = (0.0, -1.0, [0.0; 2]);
    for (c, v) in counts.iter().zip(x) {
        let expected = weight(*v) / sum * rows as f64;
        assert!(expected > 0.0 || *c == 0.0, "{v} of {x:?} is not among the {k} highest");
        if expected >= 5.0 {
            chi2 += (c - expected).powi(2) / expected;
            df += 1.0;
        } else {
            rest = [rest[0] + c, rest[1] + expected];
        }
    }
    if rest[1] >= 5.0 {
        chi2 += (rest[0] - rest[1]).powi(2) / rest[1];
        df += 1.0;
    }
    assert!(rest[1] >= 5.0 || rest[0] < 5.0 + 6.0 * rest[1], "{} draws of the unlikely", rest[0]);
    if df < 1.0 { 0.0 } else { z_score(chi2, df) }
}

#[test]
fn draws_follow_the_softmax() {
    let base = [0.3, -1.2, 1.7, 0.0, -0.4, 2.1, -3.0, 1.1];
    // The grid of the coarse maxima: other fractions of a row's highest score.
    let shifts = [0.0, 1.3, -77.25, 2.9, 231.6, -230.0];
    for (i, (shift, k)) in shifts.into_iter().zip([8, 3, 8, 2, 7, 8]).enumerate() {
        let x = base.map(|v| v + shift);
        let z = against_softmax(&World::new(20 + i as u64), &x, k, 4096);
        assert!(z < LIMIT, "top {k} shifted by {shift}: {z} standard deviations");
    }
}

#[test]
fn weights_are_exponentials() {
    let t = SampleTables::new(World::new(0).device());
    // The lowest entry is one that a borrow would leave, and no element comes near it.
    for u in (-245 << 13..1 << 16).step_by(7) {
        let (x, lambda) = (f64::from(u) / 65536.0, hash(&[u as u64]));
        let w = t.weight(i64::from(u) as u64, lambda);
        let error = (w - x.exp()).abs();
        assert!(error < 1.2e-3 * x.exp() + 1e-8 || w == 0.0 && x < -17.3, "weight of {x}: {w}");
        assert!(w == 0.0 || x > -17.5, "weight of {x}: {w}");
    }
}

#[test]
fn longer_rows_follow_the_softmax() {
    // No square number, so that the last group is short; likely elements first, last, and in the last group.
    for (n, k) in [(2, 2), (3, 2), (23, 23), (23, 6), (57, 20)] {
        let x: Vec<f64> = (0..n).map(|i| (hash(&[n as u64, i as u64]) % 1000) as f64 / 250.0).collect();
        let z = against_softmax(&World::new(40 + n as u64), &x, k, 4096);
        assert!(z < LIMIT, "{k} of {n}: {z} standard deviations");
    }
    let equal = against_softmax(&World::new(48), &[5.0; 30], 30, 4096);
    assert!(equal < LIMIT, "equal scores: {equal} standard deviations");
}

/// The detector: draws from another distribution.
#[test]
fn a_wrong_distribution_is_noticed() {
    // 11 ± 0.7 standard deviations; a quarter of the rows would show it with two seeds in five only.
    const ROWS: usize = 32_768;
    let x = [0.0, 0.5, 1.0, 1.5];
    let w = World::new(50);
    let mut counts = [0f64; 4];
    draws(&w, &x.map(|v| v * 1.15).repeat(ROWS), 4, 4).into_iter().for_each(|i| counts[i] += 1.0);
    let sum: f64 = x.iter().map(|v| v.exp()).sum();
    let chi2: f64 = counts
        .iter()
        .zip(x)
        .map(|(c, v)| (v.exp() / sum * ROWS as f64, c))
        .map(|(e, c)| (c - e).powi(2) / e)
        .sum();
    assert!(z_score(chi2, 3.0) > LIMIT, "a temperature of 1/1.15 looks like 1");
}

#[test]
fn only_the_highest_are_drawn() {
    // Scores a little more than the resolution apart, in random order; the k-th highest is followed closely.
    for (i, (n, k, gap)) in
        [(300usize, 5usize, 1.05), (300, 1, 1.05), (129, 128, 1.05), (1000, 40, 1.0)].into_iter().enumerate()
    {
        let rows = 24;
        let mut x = vec![0.0; rows * n];
        for (r, row) in x.chunks_mut(n).enumerate() {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by_key(|&j| hash(&[r as u64, j as u64]));
            let top = (r as f64 - 12.0) * 9.7;
            for (rank, at) in order.into_iter().enumerate() {
                // Other rows: the same with a gulf in the middle, or most elements out of the window.
                let gulf = if r % 3 == 1 && rank >= k { 3.0 } else { 0.0 };
                let scale = if r % 3 == 2 { 10.0 } else { 1.0 };
                row[at] = (top - rank as f64 * gap / 1024.0 * scale - gulf).max(-247.0);
            }
        }
        for (row, at) in x.chunks(n).zip(draws(&World::new(60 + i as u64), &x, n, k)) {
            let higher = row.iter().filter(|v| **v > row[at]).count();
            assert!(higher < k, "element {higher} of the {k} highest");
        }
    }
}

#[test]
fn far_scores_and_ties() {
    let w = World::new(70);
    // Two far above the rest, one of them at the end.
    let mut x = vec![-251.0; 50];
    (x[17], x[49]) = (250.0, 250.0);
    for k in [1, 2, 3, 49, 50, 51] {
        let all = draws(&w, &x.repeat(40), 50, k);
        assert!(all.iter().all(|at| [17, 49].contains(at)), "{all:?}");
        assert!(all.contains(&17) && all.contains(&49), "one of two is never drawn");
    }
    // With k = 1 the highest, if there is one.
    for seed in 0..6 {
        let x: Vec<f64> = row(seed, 200, 24).iter().map(|v| *v as f64 / 2f64.powi(F as i32)).collect();
        let high = (0..200).max_by(|a, b| x[*a].total_cmp(&x[*b])).unwrap();
        assert_eq!(draws(&World::new(80 + seed), &x, 200, 1), [high]);
    }
    assert_eq!(draws(&w, &[1.0, -3.0], 1, 5), [0, 0]);
}

/// The draws of a world one of whose keys is another; masks of the scores stay.
fn with_other_key(changed: Option<usize>) -> Vec<usize> {
    fn streams<const CHANGED: usize>(role: Role, w: &World) -> Box<dyn protocol::Streams> {
        let mut keys = w.keys();
        keys[CHANGED][31] ^= 0x55;
        let [k01, k02, k12] = keys;
        Box::new(ChaChaStreams::new(match role {
            Role::Dealer => [Some(k01), Some(k02), None],
            Role::P1 => [Some(k01), None, Some(k12)],
            Role::P2 => [None, Some(k02), Some(k12)],
        }))
    }
    let w = World::new(90);
    let w = match changed {
        Some(0) => w.streams(streams::<0> as MakeStreams),
        Some(1) => w.streams(streams::<1>),
        Some(_) => w.streams(streams::<2>),
        None => w,
    };
    draws(&w, &[0.25; 9 * 400], 9, 9)
}

#[test]
fn every_key_has_a_say() {
    let draws: Vec<Vec<usize>> = [None, Some(0), Some(1), Some(2)].map(with_other_key).to_vec();
    assert_eq!(draws[0], with_other_key(None), "the same keys, other draws");
    for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        // Independent draws agree in one row of nine: 44 ± 6 of 400.
        let agree = draws[a].iter().zip(&draws[b]).filter(|(x, y)| x == y).count();
        assert!((14..80).contains(&agree), "worlds {a} and {b} agree in {agree} rows of 400");
    }
}

#[test]
fn sampling_costs_what_it_declares() {
    for (rows, n, k, scale) in [(1, 1, 1, 18), (1, 2, 1, 16), (3, 7, 7, 20), (2, 65, 9, 36), (1, 300, 40, 18)]
    {
        let x: Vec<f64> = (0..rows * n).map(|i| (i * 7 % 13) as f64 / 4.0).collect();
        let o = run_sample(&World::new(95), &x, n, k, scale);
        assert_cost(&format!("{k} of {rows} × {n}"), &o, sample_cost(rows, n, k, scale, 64));
    }
}
