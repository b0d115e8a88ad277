//! Choice of tokens: argmax against plain integers, sampling against the exact distribution; declared costs; and what
//! each party sees of it.

mod common;

use common::detect::{
    LIMIT, Seen, by_lane, different, lengths, not_uniform, without_k01, without_k02, z_score,
};
use common::{Case, Fut, Program, all, flat, hash, solve_views};
use kernels::Ring;
use protocol::gates::choice::bits::{and, and_cost};
use protocol::gates::choice::{self, SampleTables, argmax, argmax_cost, sample, sample_cost, token_index};
use protocol::gates::{bit, compare, product};
use protocol::testing::{MakeStreams, Outcome, World};
use protocol::{ChaChaStreams, Cost, Cx, Ledger, Masked, Purpose, Role, Sent, Shape, Share};

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
    const ROWS: usize = 8192;
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

// ---- Views.

/// Both gates on rows of scores.
fn both<'a>(cx: Cx<'a>, t: SampleTables, x: Vec<Share>) -> Fut<'a> {
    Box::pin(async move {
        let first = argmax(&cx.scope("argmax"), &x[0]).await?;
        let drawn = sample(&cx.scope("sample"), &x[0], 3, &t).await?;
        Ok(vec![first, drawn])
    })
}

/// Rows of scores: 0 ordinary, 1 all equal, 2 falling steeply.
fn secret(kind: u64, rows: usize, n: usize) -> Vec<u64> {
    let score = |i: usize| match kind {
        0 => hash(&[3, i as u64]) as i64 >> 43,
        1 => 40 << F,
        _ => (200 - 16 * (i % n) as i64) << F,
    };
    (0..rows * n).map(|i| score(i) as u64).collect()
}

const VIEW: Shape = Shape::new(6, 25);

fn sent(w: World, kind: u64, shape: Shape) -> [Vec<Sent>; 3] {
    let w = w.recorded();
    let t = SampleTables::new(w.device());
    let x = w.share(&secret(kind, shape.rows, shape.cols), shape, F, 1).map(|x| vec![x]);
    w.run(x, |cx, x| both(cx, t.clone(), x)).sent
}

fn received(first: u64, kind: u64, make: Option<MakeStreams>) -> Seen {
    let worlds = (first..first + 6).map(World::new);
    let worlds = worlds.map(|w| if let Some(m) = make { w.streams(m) } else { w });
    by_lane(worlds.flat_map(|w| sent(w, kind, VIEW)).flatten())
}

#[test]
fn views_are_uniform_and_do_not_depend_on_the_scores() {
    let seen: Vec<Seen> = (0..3).map(|k| received(1000 + 10 * k, k, None)).collect();
    for (kind, seen) in seen.iter().enumerate() {
        assert_eq!(not_uniform(seen), [], "secret {kind}");
        for lane in [Purpose::And, Purpose::CarryBits, Purpose::Result, Purpose::Root] {
            let both = EVALUATORS.iter().all(|r| seen.iter().any(|s| (s.0, s.1) == (*r, lane as u8)));
            assert!(both, "nothing was received on {lane:?}");
        }
        let noise = seen.iter().find(|s| s.1 == Purpose::Noise as u8);
        assert!(noise.is_none(), "random bits travelled");
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert_eq!(different(&seen[a], &seen[b]), [], "secrets {a} and {b}");
    }
    let lengths: Vec<_> = (0..3).map(|k| lengths(&sent(World::new(1100), k, VIEW))).collect();
    assert_eq!(lengths[0], lengths[1]);
    assert_eq!(lengths[0], lengths[2]);
}

/// Largest correlation, in standard deviations, between a received bit and which of a row's two scores is higher. The
/// scores' own masks are left out if `bare`, so that only those of the gates remain.
fn order_correlation(world: World, bare: bool) -> f64 {
    const ROWS: usize = 2048;
    let t = SampleTables::new(world.device());
    let x: Vec<u64> = (0..2 * ROWS as u64).map(|i| (hash(&[9, i]) as i64 >> 42) as u64).collect();
    let second: Vec<u64> = x.chunks(2).map(|p| u64::from((p[0] as i64) < p[1] as i64)).collect();
    let (shape, zeros) = (Shape::new(ROWS, 2), vec![0; x.len()]);
    let shares =
        if bare { world.share_under(&x, &zeros, &zeros, shape, F) } else { world.share(&x, shape, F, 1) };
    let o = world.recorded().run(shares.map(|x| vec![x]), |cx, x| {
        let t = t.clone();
        Box::pin(async move {
            let first = argmax(&cx.scope("argmax"), &x[0]).await?;
            let drawn = sample(&cx.scope("sample"), &x[0], 1, &t).await?;
            Ok(vec![first, drawn])
        })
    });
    let mut worst = 0f64;
    for s in o.sent.iter().flatten().filter(|s| s.values.len() >= ROWS && s.lane != Purpose::Root as u8) {
        let per = s.values.len() / ROWS;
        for (word, bit) in (0..per).flat_map(|w| (0..s.bits).map(move |b| (w, b))) {
            // A row's words side by side, or one after the other.
            for at in [|e: usize, word: usize, per: usize| e * per + word, |e, word, _| word * ROWS + e] {
                let agree = (0..ROWS).filter(|&e| s.values[at(e, word, per)] >> bit & 1 == second[e]).count();
                let z = (agree as f64 - ROWS as f64 / 2.0).abs() / (ROWS as f64 / 4.0).sqrt();
                worst = worst.max(z);
            }
        }
    }
    worst
}

#[test]
fn received_bits_do_not_correlate_with_the_order() {
    for bare in [false, true] {
        let z = order_correlation(World::new(1350), bare);
        assert!(z < LIMIT, "correlation of {z} standard deviations");
    }
    for make in [without_k01 as MakeStreams, without_k02] {
        let z = order_correlation(World::new(1351).streams(make), true);
        assert!(z > 2.0 * LIMIT, "a correlation of {z} is too small to be noticed");
    }
}

#[test]
fn detectors_fire_without_masks() {
    let bad = not_uniform(&received(1200, 0, Some(without_k01)));
    for lane in [Purpose::AndMonomials, Purpose::And, Purpose::BitTimesBit, Purpose::Bit, Purpose::Result] {
        assert!(bad.contains(&(Role::P2, lane as u8)), "{lane:?} in the clear looks uniform: {bad:?}");
    }
    assert!(bad.iter().all(|(to, lane)| *to == Role::P2 || *lane == Purpose::Root as u8), "{bad:?}");
    let bad = not_uniform(&received(1300, 1, Some(without_k02)));
    assert!(bad.iter().any(|(to, _)| *to == Role::P1), "{bad:?}");
}

/// Every transcript belongs to exactly one choice of the masks that a party does not know, whatever the scores.
/// Comparison keys hide by themselves, and the streams of random bits mask nothing.
#[test]
fn views_are_in_bijection_with_masks() {
    let t = SampleTables::new(World::new(0).device());
    let shape = Shape::new(1, 15);
    let secrets: Vec<Vec<u64>> = [0, 2].map(|k| secret(k, 1, 15)).to_vec();
    let unmasked = [Purpose::Root as u8, Purpose::Noise as u8];
    for party in EVALUATORS {
        let program: Program<'_> = &|cx, x| both(cx, t.clone(), x);
        let seed = 1400 + party as u64;
        let messages = solve_views(seed, Ring::Z64, party, &[(shape, F)], &secrets, &unmasked, program);
        let least = if party == Role::P1 { 100 } else { 200 };
        assert!(messages.clone().unwrap() >= least, "{messages:?} messages to {party}");
    }
}

/// Comparisons of three one-bit values with 0 in a small window, and their conjunction: [x < 0 for all].
async fn all_negative(cx: &Cx<'_>, x: &[Share]) -> protocol::Result<Masked> {
    let window = compare::Window { drop: 0, blocks: 1, block_bits: 1 };
    let mut factors = vec![];
    for x in x {
        factors.push(compare::less_than(cx, x, &[0], window).await?.remove(0));
    }
    and(cx, &factors).await
}

#[test]
fn conjunction_of_all_values_and_masks() {
    let ring = Ring::new(2);
    let case = Case {
        seed: 1_500_000,
        ring,
        inputs: &[(1, 0), (1, 0), (1, 0), (1, 0)],
        inner: &flat,
        program: &|cx, x| {
            Box::pin(async move {
                let b = all_negative(&cx, &x[..3]).await?;
                Ok(vec![product::reshare(&cx, bit::bit_times(&cx, &b, &x[3])?).await?])
            })
        },
    };
    let values: Vec<Vec<u64>> = all(ring, 3).into_iter().map(|x| [x, vec![1]].concat()).collect();
    let masks: Vec<Vec<u64>> =
        all(ring, 4).into_iter().map(|m| [m.clone(), vec![1, 2, 3, m[0] ^ 1]].concat()).collect();
    case.assert_correct(&values, &masks, &[], |x, masks, out| {
        let expected = u64::from(x[..3].iter().all(|x| ring.signed(*x) < 0));
        assert_eq!(out[0], [expected], "{x:?} under {masks:?}");
    });
}

#[test]
fn conjunction_views() {
    let ring = Ring::new(2);
    for factors in [2usize, 3] {
        let inputs = vec![(1, 0); factors];
        let case = Case {
            seed: 1_600_000 + 1000 * factors as u64,
            ring,
            inputs: &inputs,
            inner: &flat,
            program: &|cx, x| {
                Box::pin(async move {
                    all_negative(&cx, &x).await?;
                    Ok(vec![])
                })
            },
        };
        // All values of two, an eighth of those of three.
        let secrets: Vec<_> = all(ring, factors as u32).into_iter().step_by(8 * factors - 15).collect();
        // Two bits opened for each comparison and one for the conjunction; dealt: a thermometer each, monomials.
        let opened = 2 * factors as u32 + 1;
        let dealt = factors as u32 + (1 << factors) - 1;
        assert_eq!(case.assert_views_uniform(Role::P1, &secrets, 4, |_, _| ()), opened);
        assert_eq!(case.assert_views_uniform(Role::P2, &secrets, 2, |_, _| ()), opened + dealt);
    }
}

/// Parts of a conjunction exchanged under no fresh mask.
#[test]
fn mutant_conjunction_opened_without_a_mask() {
    let ring = Ring::new(2);
    let case = Case {
        seed: 1_700_000,
        ring,
        inputs: &[(1, 0), (1, 0)],
        inner: &flat,
        program: &|cx, x| {
            Box::pin(async move {
                let window = compare::Window { drop: 0, blocks: 1, block_bits: 1 };
                let a = compare::less_than(&cx, &x[0], &[0], window).await?.remove(0);
                let b = compare::less_than(&cx, &x[1], &[0], window).await?.remove(0);
                // The product of the public parts and the evaluators' own halves, in the clear.
                let op = cx.op("mutant");
                let item = protocol::Item {
                    op,
                    purpose: Purpose::And,
                    index: 0,
                    n: x[0].len(),
                    bits: 1,
                    group: protocol::Group::Xor,
                };
                let pads = cx.pads(&item);
                let none = |w: kernels::Words| kernels::Words::zeros(cx.device(), w.len());
                let pads = protocol::Pads { p1: pads.p1.map(none), p2: pads.p2.map(none) };
                let half = a.delta.zip(b.delta).map(|(a, b)| a & b & &x[0].lambda);
                cx.swap(item, half, &pads).await?;
                Ok(vec![])
            })
        },
    };
    for party in EVALUATORS {
        let verdict = case.views(party, &all(ring, 2), 1, |_, _| ());
        assert!(verdict.unwrap_err().contains("received twice"));
    }
}

#[test]
fn conjunctions_cost_what_they_declare() {
    let w = World::new(96);
    for (n, factors) in [(1, 1), (7, 2), (65, 5)] {
        let x = w.share(&vec![5; n], Shape::new(n, 1), 0, 1);
        let window = compare::Window { drop: 0, blocks: 2, block_bits: 2 };
        let o = w.run(x, |cx, x| {
            Box::pin(async move {
                let taus: Vec<u64> = (4..4 + factors).collect();
                let b = compare::less_than(&cx, &x, &taus, window).await?;
                and(&cx, &b).await
            })
        });
        let (m, declared) = (factors as usize, and_cost(n, factors as usize));
        assert_cost("and", &o, compare::cost(n, m, window).then(declared));
        // 5 < 4 is false, so the conjunction is.
        let [p0, p1, _] = o.results;
        assert_eq!((p1.delta.unwrap() ^ p0.lambda).to_vec(), vec![0; n]);
    }
}
