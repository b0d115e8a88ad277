//! The shipped gates on small rings, over all values and masks.
//!
//! **Correctness**: every value under every mask. **Privacy**: with everything a party knows held fixed, the words it
//! receives take every combination of values exactly once as the masks it does not know run through all theirs, for
//! every secret. So its view is uniform and the same whatever the secret. Gates whose masks are too many to
//! enumerate are solved instead: see `solve_views`.

#[path = "../common/mod.rs"]
mod common;
mod tables;

use common::{Case, all, flat, hash, solve_views};
use kernels::Ring;
use protocol::gates::max::Levels;
use protocol::gates::row::RowTable;
use protocol::gates::{bit, compare, lift, max, product, row, truncate};
use protocol::testing::World;
use protocol::{Cx, Group, Item, KeyId, Purpose, Role, Shape, Share};

const EVALUATORS: [Role; 2] = [Role::P1, Role::P2];

fn singles(values: impl IntoIterator<Item = i64>, ring: Ring) -> Vec<Vec<u64>> {
    values.into_iter().map(|v| vec![ring.reduce(v as u64)]).collect()
}

/// x0 runs through the ring, x1 is a fixed odd number: the halves of a value and its λ take all values.
fn all_masks(ring: Ring) -> Vec<Vec<u64>> {
    (0..1u64 << ring.bits()).map(|x0| vec![x0, 11]).collect()
}

#[test]
fn reshare() {
    for bits in 3..=6 {
        let ring = Ring::new(bits);
        let case = Case {
            seed: 1000 * u64::from(bits),
            ring,
            inputs: &[(1, 0)],
            inner: &flat,
            program: &|cx, x| {
                Box::pin(async move { Ok(vec![product::reshare(&cx, product::halves(&cx, &x[0])).await?]) })
            },
        };
        let equal = |x: &[u64], out: &[Vec<u64>]| assert_eq!(out[0], x);
        case.assert_correct(
            &all(ring, 1),
            &all_masks(ring),
            &[(KeyId::K01, Purpose::Result)],
            |x, _, out| equal(x, out),
        );
        for party in EVALUATORS {
            assert_eq!(case.assert_views_uniform(party, &all(ring, 1), 4, equal), bits);
        }
    }
}

#[test]
fn truncation() {
    for (bits, f) in [(5, 1), (5, 2), (5, 3), (6, 1), (6, 2), (6, 3), (6, 4)] {
        let ring = Ring::new(bits);
        let case = Case {
            seed: 100_000 + 10_000 * u64::from(f) + 1000 * u64::from(bits),
            ring,
            inputs: &[(1, f)],
            inner: &flat,
            program: &move |cx, x| {
                Box::pin(
                    async move { Ok(vec![truncate::truncate(&cx, product::halves(&cx, &x[0]), f).await?]) },
                )
            },
        };
        let quarter = 1i64 << (bits - 2);
        let values = singles(-quarter..quarter, ring);
        let near = |x: &[u64], out: &[Vec<u64>]| {
            let excess = ring.reduce(out[0][0].wrapping_sub(truncate::clear(ring, x[0], f)));
            assert!(excess <= 1, "{} >> {f} in {bits} bits: floor + {excess}", ring.signed(x[0]));
        };
        let digits = [
            (KeyId::K01, Purpose::WrapBit),
            (KeyId::K02, Purpose::WrapBit),
            (KeyId::K01, Purpose::WrapProduct),
        ];
        case.assert_correct(&values, &all_masks(ring), &digits, |x, _, out| near(x, out));
        // The view does not depend on the range: all values.
        assert_eq!(case.assert_views_uniform(Role::P1, &all(ring, 1), 4, |_, _| ()), 1 + bits);
        assert_eq!(case.assert_views_uniform(Role::P2, &all(ring, 1), 4, |_, _| ()), 1 + f + bits);
        case.assert_views_uniform(Role::P2, &values, 2, near);
    }
}

#[test]
fn multiply_then_truncate() {
    for (bits, f) in [(3, 1), (4, 1), (4, 2)] {
        let ring = Ring::new(bits);
        let case = Case {
            seed: 200_000 + 10_000 * u64::from(f) + 1000 * u64::from(bits),
            ring,
            inputs: &[(1, 1), (1, 1)],
            inner: &flat,
            program: &move |cx, x| {
                Box::pin(async move {
                    Ok(vec![truncate::truncate(&cx, product::multiply(&cx, &x[0], &x[1])?, f).await?])
                })
            },
        };
        let quarter = 1i64 << (bits - 2);
        let near = |x: &[u64], out: &[Vec<u64>]| {
            let z = ring.signed(x[0]) * ring.signed(x[1]);
            if (-quarter..quarter).contains(&z) {
                let excess = ring.reduce(out[0][0].wrapping_sub((z >> f) as u64));
                assert!(excess <= 1, "{z} >> {f}: floor + {excess}");
            }
        };
        for party in EVALUATORS {
            case.assert_views_uniform(party, &all(ring, 2), 3, near);
        }
    }
}

/// One λ in two dealt products, and the same halves opened twice, whole and truncated.
#[test]
fn masks_of_operands_and_halves_may_be_used_again() {
    let ring = Ring::new(3);
    let case = Case {
        seed: 300_000,
        ring,
        inputs: &[(1, 1)],
        inner: &flat,
        program: &|cx, x| {
            Box::pin(async move {
                let z = product::multiply(&cx, &x[0], &x[0])?;
                let whole = product::reshare(&cx, z.clone()).await?;
                let cut = truncate::truncate(&cx, z, 1).await?;
                let again = product::reshare(&cx, product::multiply(&cx, &x[0], &x[0])?).await?;
                Ok(vec![whole, cut, again])
            })
        },
    };
    for party in EVALUATORS {
        case.assert_views_uniform(party, &all(ring, 1), 3, |x, out| {
            assert_eq!(out[0][0], ring.reduce(x[0] * x[0]));
            assert_eq!(out[2][0], out[0][0]);
        });
    }
}

/// Known modulo 2^k, needed modulo 2^to: as far as that every value if the carry out of the halves does not matter, else the
/// values within a quarter of 2^k.
#[test]
fn truncation_between_rings() {
    let cases =
        [(6, 6, 2, 4), (6, 6, 2, 3), (6, 5, 1, 4), (6, 6, 0, 3), (6, 6, 2, 5), (6, 5, 2, 4), (6, 4, 1, 6)];
    for (i, (bits, k, f, to)) in cases.into_iter().enumerate() {
        let ring = Ring::new(bits);
        let case = Case {
            seed: 250_000 + 1000 * i as u64,
            ring,
            inputs: &[(1, f)],
            inner: &flat,
            program: &move |cx, x| {
                Box::pin(async move {
                    let y = truncate::truncate_between(&cx, product::halves(&cx, &x[0]), k, f, to).await?;
                    let words = y.delta.iter().chain([&y.lambda]);
                    words.for_each(|w| assert!(w.to_vec().iter().all(|w| w >> to == 0)));
                    // Known modulo 2^to: at the upper end of the ring it is a share like others.
                    Ok(vec![y.linear(y.shape, |w| w << (bits - to))])
                })
            },
        };
        let carries = to > k - f;
        let quarter = 1i64 << (k - 2);
        let values = if carries { singles(-quarter..quarter, ring) } else { all(ring, 1) };
        let near = |x: &[u64], out: &[Vec<u64>]| {
            let floor = (ring.signed(x[0]) >> f) as u64;
            let excess = (out[0][0] >> (bits - to)).wrapping_sub(floor) & ((1 << to) - 1);
            assert!(excess <= 1, "{} >> {f}, {k} to {to} bits: floor + {excess}", ring.signed(x[0]));
        };
        let result = [(KeyId::K01, Purpose::Result)];
        let wraps = [(KeyId::K01, Purpose::WrapBit), (KeyId::K02, Purpose::WrapBit)];
        let digits = if carries { &wraps[..] } else { &result[..] };
        case.assert_correct(&values, &all_masks(ring), digits, |x, _, out| near(x, out));
        let dealt = if carries { f + to - k } else { 0 };
        for (party, dealt) in EVALUATORS.into_iter().zip([0, dealt]) {
            let received = to + u32::from(carries) + dealt;
            assert_eq!(case.assert_views_uniform(party, &values, 4, near), received);
        }
    }
}

/// y·⌊x/2^f⌋, or y more, after a single exchange for x.
#[test]
fn product_with_a_lifted_value() {
    for (i, (bits, k, f)) in [(5, 5, 1), (5, 5, 3), (5, 4, 1), (6, 4, 0), (4, 4, 0)].into_iter().enumerate() {
        let ring = Ring::new(bits);
        let program: common::Program<'_> = &move |cx: Cx<'_>, x: Vec<Share>| {
            Box::pin(async move {
                let lifted = lift::open(&cx, product::halves(&cx, &x[0]), k, f).await?;
                let z = lift::times(&cx, &x[1], &lifted, |y, a| y * a)?;
                Ok(vec![product::reshare(&cx, z).await?])
            })
        };
        let case =
            Case { seed: 270_000 + 1000 * i as u64, ring, inputs: &[(1, f), (1, 0)], inner: &flat, program };
        let quarter = 1i64 << (k - 2);
        let values: Vec<Vec<u64>> = singles(-quarter..quarter, ring)
            .into_iter()
            .flat_map(|x| [0, 1, 2, ring.reduce(u64::MAX), 5].map(|y| vec![x[0], y]))
            .collect();
        let masks: Vec<Vec<u64>> =
            (0..8).map(|i| vec![hash(&[i, 2]), hash(&[i, 3]), i, hash(&[i, 4])]).collect();
        // All masks of the opened value.
        let digits = [(KeyId::K01, Purpose::Result)];
        let check = |x: &[u64], out: &[Vec<u64>]| {
            let floor = (ring.signed(x[0]) >> f) as u64;
            let right = [0, 1].map(|up| ring.reduce(x[1].wrapping_mul(floor.wrapping_add(up))));
            assert!(right.contains(&out[0][0]), "{x:?} >> {f} of {k} bits: {} for {right:?}", out[0][0]);
        };
        case.assert_correct(&values, &masks, &digits, |x, _, out| check(x, out));
        let column = (Shape::new(9, 1), 0);
        let secrets: Vec<Vec<u64>> =
            values.iter().step_by(3).map(|x| [[x[0]; 9], [x[1]; 9]].concat()).collect();
        for party in EVALUATORS {
            let inputs = [(Shape::new(9, 1), f), column];
            solve_views(280_000 + 1000 * i as u64, ring, party, &inputs, &secrets, &[], program).unwrap();
        }
    }
}

/// Shortened inputs, their square known modulo 2^(k−1), truncated from there.
#[test]
fn square_of_shortened_inputs() {
    let ring = Ring::new(4);
    let case = Case {
        seed: 350_000,
        ring,
        inputs: &[(1, 1)],
        inner: &flat,
        program: &|cx, x| {
            Box::pin(async move {
                let y = product::drop_low(&cx, &x[0], 1)?;
                let z = product::multiply(&cx, &y, &y)?;
                Ok(vec![y, truncate::truncate_from(&cx, z, 3, 0).await?])
            })
        },
    };
    let check = |x: &[u64], out: &[Vec<u64>]| {
        // Halved, or half and one more; exact modulo 2^(k−1).
        let exact = (ring.signed(x[0]) >> 1) as u64;
        let excess = out[0][0].wrapping_sub(exact) & 7;
        assert!(excess <= 1, "{} / 2 = {}", x[0], out[0][0]);
        let square = out[0][0].wrapping_mul(out[0][0]) & 7;
        if !(2..6).contains(&square) {
            assert!(
                ring.reduce(out[1][0].wrapping_sub(((square << 61) as i64 >> 61) as u64)) <= 1,
                "{x:?} {out:?}"
            );
        }
    };
    assert_eq!(case.assert_views_uniform(Role::P1, &all(ring, 1), 4, check), 5);
    assert_eq!(case.assert_views_uniform(Role::P2, &all(ring, 1), 4, check), 14);
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
fn coarse_reference(x: &[u64], lambda: &[u64], coins: &[Vec<u64>], w: u64, shift: u32, ring: Ring) -> u64 {
    let reached = (0..w).filter(|level| {
        let mut r = 0u64;
        for ((x, l), coins) in x.iter().zip(lambda).zip(coins) {
            let delta = ring.reduce(x.wrapping_sub(*l));
            let bucket = ((ring.reduce(*l) >> shift) + (delta >> shift) + w / 2) % w;
            if bucket >= *level {
                r ^= coins.iter().enumerate().fold(0, |r, (p, c)| r | (c >> level & 1) << p);
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
            l if l == Purpose::Coins as u8 => scores * kappa,
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
                    let offsets: Vec<usize> = (0..=x[0].shape.rows).map(|r| r * scores).collect();
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
            let coin =
                |v: u64| hash(&[seed, KeyId::K12 as u64, 0, Purpose::Coins as u64, v, e]) & ((1 << w) - 1);
            let coins: Vec<Vec<u64>> =
                (0..scores).map(|s| (0..kappa).map(|p| coin((s * kappa + p) as u64)).collect()).collect();
            let expected = coarse_reference(x, &masks[..scores], &coins, w as u64, 2, ring);
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

// ---- Mutants: gates that break the rule must not pass.

fn bits_item(cx: &Cx, name: &str, purpose: Purpose, n: usize, bits: u32) -> Item {
    Item { op: cx.op(name), purpose, index: 0, n, bits, group: Group::Add }
}

fn mutant(seed: u64, program: common::Program<'_>) -> [Result<u32, String>; 2] {
    let ring = Ring::new(3);
    let case = Case { seed, ring, inputs: &[(1, 0)], inner: &flat, program };
    EVALUATORS.map(|party| case.views(party, &all(ring, 1), 2, |_, _| ()))
}

#[test]
fn mutant_second_message_under_the_same_pad() {
    let verdict = mutant(2_000_000, &|cx, x| {
        Box::pin(async move {
            let (x, n) = (&x[0], x[0].len());
            let z = product::multiply(&cx, x, x)?;
            let (a, b) =
                (bits_item(&cx, "a", Purpose::Result, n, 3), bits_item(&cx, "b", Purpose::Result, n, 3));
            let (pads, _unused) = (cx.pads(&a), cx.pads(&b));
            cx.swap(a, z.half.clone(), &pads).await?;
            cx.swap(b, product::halves(&cx, x).half, &pads).await?;
            Ok(vec![])
        })
    });
    for v in verdict {
        assert!(v.unwrap_err().contains("received twice"));
    }
}

#[test]
fn mutant_sign_of_a_look_up_opened() {
    let verdict = mutant(2_100_000, &|cx, x| {
        Box::pin(async move {
            let (x, n) = (&x[0], x[0].len());
            // A dealt secret function of λ, as σ is, whose shares are exchanged in the clear.
            let dealt =
                cx.deal(bits_item(&cx, "sigma", Purpose::Theta, n, 3), || cx.reduce(&x.lambda & 1))?;
            let item = bits_item(&cx, "open", Purpose::Result, n, 3);
            let zeros = |_| kernels::Words::zeros(cx.device(), n);
            let pads = cx.pads(&item);
            let pads = protocol::Pads { p1: pads.p1.map(zeros), p2: pads.p2.map(zeros) };
            cx.swap(item, dealt, &pads).await?;
            Ok(vec![])
        })
    });
    for v in verdict {
        assert!(v.unwrap_err().contains("received twice"));
    }
}

#[test]
fn mutant_pad_that_the_receiver_knows() {
    let [p1, p2] = mutant(2_200_000, &|cx, x| {
        Box::pin(async move {
            let (x, n) = (&x[0], x[0].len());
            let known = cx.draw(KeyId::K02, &bits_item(&cx, "known to P2", Purpose::Bit, n, 3));
            let item = bits_item(&cx, "deal", Purpose::Theta, n, 3);
            cx.deal_beside_pad(item, |pad| pad + &x.lambda - known.expect("dealer"))?;
            Ok(vec![])
        })
    });
    // P1 receives nothing (but the mutant draws a mask that masks nothing), P2 receives λ under its own stream.
    assert!(p1.unwrap_err().contains("0 bits received"));
    assert!(p2.unwrap_err().contains("received twice"));
}

#[test]
fn mutant_message_that_depends_on_a_later_pad() {
    // Uses the pad of the first message in the content of the second, which is fine, and the pad of the second in
    // the content of the first, which is not: the two messages then determine the secret.
    let verdict = mutant(2_300_000, &|cx, x| {
        Box::pin(async move {
            let (x, n) = (&x[0], x[0].len());
            let (a, b) =
                (bits_item(&cx, "a", Purpose::Result, n, 3), bits_item(&cx, "b", Purpose::Result, n, 3));
            let (pa, pb) = (cx.pads(&a), cx.pads(&b));
            let own = |p: &protocol::Pads| if cx.is_p1() { p.p1.clone() } else { p.p2.clone() };
            let half = product::halves(&cx, x).half;
            let first = half.clone().map(|h| h + own(&pb).expect("own"));
            cx.swap(a, first, &pa).await?;
            let second = half.map(|h| h + own(&pa).expect("own"));
            cx.swap(b, second, &pb).await?;
            Ok(vec![])
        })
    });
    for v in verdict {
        assert!(v.unwrap_err().contains("received twice"));
    }
}

#[test]
fn mutant_comparison_with_one_mask_for_two_thresholds() {
    // The masked bits of two thresholds under one pad: their sum is a function of the value alone.
    let ring = Ring::new(3);
    let program: common::Program<'_> = &|cx, x| {
        Box::pin(async move {
            let n = x[0].len();
            let half = product::halves(&cx, &x[0]).half;
            let (a, b) = (
                bits_item(&cx, "first", Purpose::Carry, n, 1),
                bits_item(&cx, "second", Purpose::Carry, n, 1),
            );
            let (pads, _unused) = (cx.pads(&a), cx.pads(&b));
            let bit = |s: u32| half.clone().map(|h| (h >> s) & 1);
            cx.swap(a, bit(0), &pads).await?;
            cx.swap(b, bit(1), &pads).await?;
            Ok(vec![])
        })
    };
    let column = (Shape::new(1, 1), 0);
    let case = Case { seed: 2_400_000, ring, inputs: &[(1, 0)], inner: &flat, program };
    for party in EVALUATORS {
        assert!(case.views(party, &all(ring, 1), 1, |_, _| ()).is_err());
        let solved = solve_views(2_410_000, ring, party, &[column], &all(ring, 1), &[], program);
        assert!(solved.unwrap_err().contains("no masks give this transcript"));
    }
}
