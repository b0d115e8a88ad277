//! What each party sees of a choice, and of the conjunctions it is made of.

use super::common::detect::{
    LIMIT, Seen, by_lane, different, lengths, not_uniform, without_k01, without_k02,
};
use super::common::{Case, Fut, Program, all, flat, hash, solve_views};
use super::{EVALUATORS, F, assert_cost};
use kernels::Ring;
use protocol::gates::choice::bits::{and, and_cost};
use protocol::gates::choice::{SampleTables, argmax, sample};
use protocol::gates::{bit, compare, product};
use protocol::testing::{MakeStreams, World};
use protocol::{Cx, Masked, Purpose, Role, Sent, Shape, Share};

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
