//! The shipped gates on small rings, over all values and masks.
//!
//! **Correctness**: every value under every mask. **Privacy**: with everything a party knows held fixed, the words it
//! receives take every combination of values exactly once as the masks it does not know run through all theirs, for
//! every secret. So its view is uniform and the same whatever the secret. Gates whose masks are too many to
//! enumerate are solved instead: see `solve_views`.

mod coins;
#[path = "../common/mod.rs"]
mod common;
mod mutants;
mod tables;
mod truncation;

use common::{Case, all, flat, hash, solve_views};
use kernels::Ring;
use protocol::gates::max::Levels;
use protocol::gates::row::RowTable;
use protocol::gates::{bit, compare, max, product, row};
use protocol::testing::World;
use protocol::{Cx, KeyId, Purpose, Role, Shape, Share};

const EVALUATORS: [Role; 2] = [Role::P1, Role::P2];

fn singles(values: impl IntoIterator<Item = i64>, ring: Ring) -> Vec<Vec<u64>> {
    values.into_iter().map(|v| vec![ring.reduce(v as u64)]).collect()
}

/// x0 runs through the ring, x1 is a fixed odd number: the halves of a value and its λ take all values.
fn all_masks(ring: Ring) -> Vec<Vec<u64>> {
    (0..1u64 << ring.bits()).map(|x0| vec![x0, 11]).collect()
}

/// [x < τ]·1 for each τ.
fn comparisons<'p>(seed: u64, ring: Ring, program: common::Program<'p>) -> Case<'p> {
    Case { seed, ring, inputs: &[(1, 0), (1, 0)], inner: &flat, program }
}

#[test]
fn comparison_of_all_values() {
    let w = |drop, blocks, block_bits| compare::Window { drop, blocks, block_bits };
    let windows = [
        (5, w(0, 2, 2)),
        (5, w(0, 4, 1)),
        (6, w(0, 1, 5)),
        (6, w(0, 5, 1)),
        (7, w(0, 3, 2)),
        (7, w(0, 2, 3)),
        (7, w(0, 1, 6)),
        (7, w(0, 2, 2)),
        (7, w(2, 2, 2)),
        (7, w(1, 2, 2)),
        (6, w(3, 1, 2)),
    ];
    for (i, (bits, window)) in windows.into_iter().enumerate() {
        let ring = Ring::new(bits);
        let taus = [0u64, 3, ring.reduce(5u64.wrapping_neg())];
        let program: common::Program<'_> = &move |cx: Cx<'_>, x: Vec<Share>| {
            Box::pin(async move {
                let bits = compare::less_than(&cx, &x[0], &taus, window).await?;
                let mut out = vec![];
                for b in bits {
                    out.push(product::reshare(&cx, bit::bit_times(&cx, &b, &x[1])?).await?);
                }
                Ok(out)
            })
        };
        let case = comparisons(400_000 + 1000 * i as u64, ring, program);
        let values: Vec<Vec<u64>> = (0..1 << bits).map(|x| vec![x, 1]).collect();
        let masks: Vec<Vec<u64>> = (0..1 << bits).map(|x0| vec![x0, hash(&[x0]), 0, 3]).collect();
        let (t, top) = (window.drop, 1i64 << (window.drop + window.blocks * window.block_bits));
        case.assert_correct(&values, &masks, &[], |x, masks, out| {
            for (tau, out) in taus.iter().zip(out) {
                let d = ring.signed(ring.reduce(x[0].wrapping_sub(*tau)));
                let exact = if t == 0 {
                    (-top..top).contains(&d)
                } else {
                    (-top + (1 << t)..=-1).contains(&d) || ((1 << t)..top).contains(&d)
                };
                let right = out[0] == u64::from(d < 0);
                assert!(!exact || right, "{window:?}: {d} < 0 under {masks:?} gives {}", out[0]);
                // Where a carry out of the dropped bits was lost, the difference is one unit of 2^t too small.
                let lost = ring.signed(ring.reduce(d as u64).wrapping_sub(1 << t));
                assert!(
                    right || !(-top..top).contains(&d) || out[0] == u64::from((-top..0).contains(&lost)),
                    "{d}"
                );
            }
        });
    }
}

#[test]
fn comparison_views() {
    let w = |blocks, block_bits| compare::Window { drop: 0, blocks, block_bits };
    let views: [(u32, compare::Window, &'static [u64], u32); 5] = [
        (5, w(2, 2), &[0], 11),
        (4, w(3, 1), &[1], 14),
        (5, w(2, 2), &[0, 3], 16),
        (3, w(1, 2), &[0, 1, 2], 9),
        (4, compare::Window { drop: 1, blocks: 2, block_bits: 1 }, &[0, 2], 12),
    ];
    for (i, (bits, window, taus, dealt)) in views.into_iter().enumerate() {
        let ring = Ring::new(bits);
        let case = Case {
            seed: 500_000 + 1000 * i as u64,
            ring,
            inputs: &[(1, 0)],
            inner: &flat,
            program: &move |cx, x| {
                Box::pin(async move {
                    compare::less_than(&cx, &x[0], taus, window).await?;
                    Ok(vec![])
                })
            },
        };
        let secrets = all(ring, 1);
        case.assert_views_uniform(Role::P1, &secrets, 8, |_, _| ());
        assert_eq!(case.assert_views_uniform(Role::P2, &secrets, 2, |_, _| ()), dealt);
    }
}

/// Comparison, the masked bit times a value, resharing.
#[test]
fn bit_times_value() {
    let ring = Ring::new(3);
    let window = compare::Window { drop: 0, blocks: 2, block_bits: 1 };
    let case = Case {
        seed: 600_000,
        ring,
        inputs: &[(1, 0)],
        inner: &flat,
        program: &move |cx, x| {
            Box::pin(async move {
                let b = compare::less_than(&cx, &x[0], &[0], window).await?;
                Ok(vec![product::reshare(&cx, bit::bit_times(&cx, &b[0], &x[0])?).await?])
            })
        },
    };
    let secrets = all(ring, 1);
    let check = |x: &[u64], out: &[Vec<u64>]| {
        assert_eq!(out[0][0], if ring.signed(x[0]) < 0 { x[0] } else { 0 });
    };
    assert_eq!(case.assert_views_uniform(Role::P1, &secrets, 8, check), 7);
    assert_eq!(case.assert_views_uniform(Role::P2, &secrets, 2, check), 16);
}

/// What the coarse maximum is defined to be, false zeros included, for known coins.
fn coarse_reference(
    x: &[u64],
    lambda: &[u64],
    coins: &[u64],
    kappa: u64,
    w: u64,
    shift: u32,
    ring: Ring,
) -> u64 {
    let reached = (0..w).filter(|level| {
        let mut r = 0u64;
        for ((x, l), coins) in x.iter().zip(lambda).zip(coins) {
            let delta = ring.reduce(x.wrapping_sub(*l));
            let bucket = ((ring.reduce(*l) >> shift) + (delta >> shift) + w / 2) % w;
            if bucket >= *level {
                let coin = |i: u64| coins >> i & 1;
                r ^= (0..kappa).fold(0, |r, j| r | (coin(w + kappa + j) ^ coin(level + j)) << j);
            }
        }
        r != 0
    });
    let m = reached.count() as u64;
    ring.reduce(m.wrapping_sub(w / 2) << shift)
}

#[test]
fn coarse_maximum_of_all_rows() {
    let cases: [(u32, usize, usize, &'static [u32]); 4] =
        [(4, 4, 1, &[1, 1, 1]), (4, 4, 2, &[2, 1, 1]), (5, 8, 1, &[1, 2, 3]), (3, 2, 2, &[1, 1, 1])];
    for (i, (bits, w, scores, blocks)) in cases.into_iter().enumerate() {
        let (ring, kappa) = (Ring::new(bits), blocks.iter().sum::<u32>() as usize);
        let levels = Levels { buckets: w, blocks };
        let inner = move |lane: u8| match lane {
            l if l == Purpose::OneHot as u8 => scores,
            l if l == Purpose::Coins as u8 => scores,
            l if l == Purpose::Planes as u8 => kappa,
            l if l == Purpose::ZeroTest as u8 || l == Purpose::Flags as u8 => w,
            96.. => w,
            _ => 1,
        };
        let case = Case {
            seed: 1_000_000 + 1000 * i as u64,
            ring,
            inputs: &[(scores, 0)],
            inner: &inner,
            program: &move |cx, x| {
                Box::pin(async move {
                    let offsets = kernels::Segments::even(x[0].shape.rows, scores);
                    Ok(vec![max::coarse_max(&cx, &x[0], &offsets, levels, ring.bits()).await?])
                })
            },
        };
        // Coins are the words the scripted streams give; per element they are a function of the row's number.
        let values = all(ring, scores as u32);
        let stride = if scores > 1 { 7 } else { 1 };
        let masks: Vec<Vec<u64>> = (0..1u64 << (bits * scores as u32))
            .step_by(stride)
            .map(|i| {
                (0..scores as u32).map(|j| ring.reduce(i >> (bits * j))).chain(vec![0; scores]).collect()
            })
            .collect();
        let (seed, elements) = (case.seed + 999, std::cell::Cell::new(0u64));
        case.assert_correct(&values, &masks, &[], |x, masks, out| {
            let e = elements.replace(elements.get() + 1);
            let coins = |v: u64| hash(&[seed, KeyId::K12 as u64, 0, Purpose::Coins as u64, v, e]);
            let coins: Vec<u64> = (0..scores as u64).map(coins).collect();
            let expected = coarse_reference(x, &masks[..scores], &coins, kappa as u64, w as u64, 2, ring);
            assert_eq!(out[0][0], expected, "{x:?} under {masks:?}");
        });
        // P2 receives too many words: solved. P1's view where 24 bits are enough.
        for party in EVALUATORS {
            let secrets: Vec<Vec<u64>> =
                [0, 1, 8, 15, 6].iter().map(|x| vec![ring.reduce(*x); 5 * scores]).collect();
            let shape = Shape::new(5, scores);
            let messages =
                solve_views(case.seed + 500, ring, party, &[(shape, 0)], &secrets, &[], case.program)
                    .unwrap();
            assert_eq!(messages, if party == Role::P1 { 3 } else { 14 });
        }
        if bits == 3 {
            let secrets = [[0, 0], [0, 7], [3, 4], [4, 3]].map(|s| s.to_vec());
            assert_eq!(case.assert_views_uniform(Role::P1, &secrets, 2, |_, _| ()), 15);
        }
    }
}

#[test]
fn row_gate_of_all_values() {
    let device = World::new(0).device().clone();
    // (input scale, low, high, largest S tested, masks): the first without, the second with dropped bits.
    for (i, (scale, low, high, masks, unit_of_drop)) in
        [(4, 1.0, 4.0, 256u64, 1i64), (3, 0.5, 2.0, 64, 1), (9, 1.0, 2.0, 67, 4)].into_iter().enumerate()
    {
        let f = |s: f64| 1.0 / s;
        let table = RowTable::new(&device, scale, (low, high), 16, f);
        let unit = 2f64.powi(scale as i32);
        // Below the first threshold and above the last one as far as the compared bits reach.
        let top = (high * unit) as i64;
        let values = singles(-top + 1 + unit_of_drop..2 * top, Ring::Z64);
        let stride = if scale == 9 { 61 } else { 1 };
        let masks: Vec<Vec<u64>> =
            (0..masks).map(|m| vec![m * stride, if m % 3 == 0 { 0 } else { hash(&[m]) << 12 }]).collect();
        let case = Case {
            seed: 1_300_000 + 1000 * i as u64,
            ring: Ring::Z64,
            inputs: &[(1, scale)],
            inner: &|lane| if lane == Purpose::Root as u8 { 2 } else { 1 },
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move { Ok(vec![row::evaluate(&cx, &x[0], &table, 20).await?]) })
            },
        };
        case.assert_correct(&values, &masks, &[], |x, masks, out| {
            let (s, y) = (x[0] as i64, out[0][0]);
            // S compares exactly, or with dropped bits as one unit less.
            if unit_of_drop == 1 {
                let exact = table.clear(x[0], 20);
                assert!(y.wrapping_sub(exact) <= 1, "f({s}) = {} under {masks:?}, not {exact}", y as i64);
            }
            let clamped = (s as f64 / unit).clamp(low, high);
            let error = (y as i64 as f64 / 2f64.powi(20) / f(clamped) - 1.0).abs();
            assert!(
                error < 2.0 / (clamped * unit) + 1e-3 || scale == 9 && error < 1e-2,
                "f({s}): error {error}"
            );
        });
    }
}

/// Thresholds from 2^10 units on are compared without three bits: a few S below such a threshold may be taken for the
/// next segment, whose line is as good for them.
#[test]
fn row_gate_with_early_stops() {
    let device = World::new(0).device().clone();
    let (scale, high) = (7u32, 16.0);
    let table = RowTable::new(&device, scale, (1.0, high), 16, |s| 1.0 / s);
    let values = singles(1 << 7..3 << 10, Ring::Z64);
    let masks: Vec<Vec<u64>> =
        (0..24).map(|m| vec![m * 59, if m % 3 == 0 { 0 } else { hash(&[m]) << 12 }]).collect();
    let case = Case {
        seed: 1_350_000,
        ring: Ring::Z64,
        inputs: &[(1, scale)],
        inner: &|lane| if lane == Purpose::Root as u8 { 2 } else { 1 },
        program: &|cx, x| {
            let table = table.clone();
            Box::pin(async move { Ok(vec![row::evaluate(&cx, &x[0], &table, 20).await?]) })
        },
    };
    let mut coarse: Vec<u64> = (48..64).map(|j| (128.0 * 2f64.powf(f64::from(j) / 16.0)) as u64).collect();
    // The upper end moves up by as much as its comparison may be early.
    coarse.push((1 << 11) + 7);
    let early = std::cell::Cell::new(0);
    case.assert_correct(&values, &masks, &[], |x, masks, out| {
        let (s, y) = (x[0], out[0][0]);
        if y.wrapping_sub(table.clear(s, 20)) > 1 {
            early.set(early.get() + 1);
            assert!(coarse.iter().any(|t| (s + 1..s + 8).contains(t)), "f({s}) = {y} under {masks:?}");
        }
        let exact = 1.0 / (s as f64 / 128.0).min(high);
        let error = (y as f64 / f64::from(1 << 20) / exact - 1.0).abs();
        // Just above the upper end the function goes on or is constant already.
        let slack = if (2048..2055).contains(&s) { 7.0 / 2048.0 } else { 2.0 / s as f64 };
        assert!(error < slack + 1e-3, "f({s}): error {error}");
    });
    assert!(early.get() > 100, "{} comparisons were early", early.get());
}

#[test]
fn row_gate_views() {
    let device = World::new(0).device().clone();
    let table = RowTable::new(&device, 18, (0.25, 8.0), 16, |s| 1.0 / s);
    let secrets: Vec<Vec<u64>> = [0i64, -5, 1 << 18, 3 << 18, 100 << 18].map(|x| vec![x as u64; 3]).to_vec();
    for party in EVALUATORS {
        let column = (Shape::new(3, 1), 18);
        let root = [Purpose::Root as u8];
        solve_views(1_400_000, Ring::Z64, party, &[column], &secrets, &root, &|cx, x| {
            let table = table.clone();
            Box::pin(async move { Ok(vec![row::evaluate(&cx, &x[0], &table, 18).await?]) })
        })
        .unwrap();
    }
}
