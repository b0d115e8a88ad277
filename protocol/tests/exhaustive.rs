//! The shipped gates on small rings, over all values and masks.
//!
//! **Correctness**: every value under every mask. **Privacy**: with everything a party knows held fixed, the words it
//! receives take every combination of values exactly once as the masks it does not know run through all theirs, for
//! every secret. So its view is uniform and the same whatever the secret. Gates whose masks are too many to
//! enumerate are solved instead: see `solve_views`.

mod common;

use common::{Case, all, flat, hash, solve_views};
use kernels::Ring;
use protocol::gates::max::Levels;
use protocol::gates::quadratic::{self, Quadratic};
use protocol::gates::row::RowTable;
use protocol::gates::table::{Table, TableSpec};
use protocol::gates::{bit, compare, exp, glu, lut, max, product, row, truncate};
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

/// A small table that differs in every entry.
fn small_table(entries: usize, shift: u32, phase_bits: u32, drop: u32) -> Table {
    let spec = TableSpec {
        entries,
        shift,
        phase_bits,
        drop,
        in_scale: drop,
        slope_scale: 0,
        first: -(entries as i64 / 2),
    };
    Table::new(&World::new(0).device().clone(), spec, |x| (x * 1.7 - 3.0) * (x + 0.3))
}

#[test]
fn look_up_of_all_values() {
    for (i, (bits, entries, shift, phase_bits, drop)) in
        [(5, 4, 2, 1, 0), (5, 8, 2, 2, 0), (6, 8, 3, 1, 2), (6, 4, 4, 3, 1), (6, 2, 3, 0, 0)]
            .into_iter()
            .enumerate()
    {
        let ring = Ring::new(bits);
        let table = small_table(entries, shift, phase_bits, drop);
        let case = Case {
            seed: 700_000 + 1000 * i as u64,
            ring,
            inputs: &[(1, drop)],
            inner: &flat,
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move {
                    Ok(vec![product::reshare(&cx, lut::evaluate(&cx, &x[0], &table).await?).await?])
                })
            },
        };
        // Every value, every mask, every one-hot share of P1 and so every sign.
        let digits: &[(KeyId, Purpose)] = if entries <= 4 { &[(KeyId::K01, Purpose::OneHot)] } else { &[] };
        case.assert_correct(&all(ring, 1), &all_masks(ring), digits, |x, masks, out| {
            let lambda = masks[0].wrapping_add(masks[1]);
            assert_eq!(out[0][0], table.clear(x[0], lambda, ring), "x {} λ {lambda}", x[0]);
        });
    }
}

#[test]
fn look_up_views() {
    // (ring, entries, shift, phases, secrets, foreign bits of P1 and P2)
    for (i, (bits, entries, shift, phase_bits, secrets, masks)) in
        [(2, 2, 1, 1, 4, [6, 16]), (2, 4, 0, 0, 4, [6, 18]), (1, 2, 0, 0, 2, [3, 9])].into_iter().enumerate()
    {
        let ring = Ring::new(bits);
        let table = small_table(entries, shift, phase_bits, 0);
        let case = Case {
            seed: 800_000 + 1000 * i as u64,
            ring,
            inputs: &[(1, 0)],
            inner: &flat,
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move {
                    Ok(vec![product::reshare(&cx, lut::evaluate(&cx, &x[0], &table).await?).await?])
                })
            },
        };
        assert_eq!(case.assert_views_uniform(Role::P1, &all(ring, 1), 8, |_, _| ()), masks[0]);
        assert_eq!(case.assert_views_uniform(Role::P2, &all(ring, 1)[..secrets], 1, |_, _| ()), masks[1]);
    }
}

/// A small table of quadratics, values modulo 2^bits.
fn small_quadratic(entries: usize, shift: u32, phase_bits: u32, drop: u32, bits: u32) -> Quadratic {
    let spec = small_table(entries, shift, phase_bits, drop).spec;
    Quadratic::new(&World::new(0).device().clone(), spec, bits, |x| {
        (x * 1.7 - 3.0) * (x + 0.3) * (0.4 * x - 1.1)
    })
}

#[test]
fn quadratic_look_up_of_all_values() {
    for (i, (bits, narrow, entries, shift, phase_bits, drop)) in
        [(5, 5, 4, 2, 1, 0), (6, 4, 4, 3, 2, 1), (6, 3, 8, 3, 1, 2), (6, 5, 2, 4, 0, 0), (5, 1, 4, 2, 2, 1)]
            .into_iter()
            .enumerate()
    {
        let ring = Ring::new(bits);
        let table = small_quadratic(entries, shift, phase_bits, drop, narrow);
        let case = Case {
            seed: 1_500_000 + 1000 * i as u64,
            ring,
            inputs: &[(1, drop)],
            inner: &flat,
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move {
                    let value = quadratic::evaluate(&cx, &x[0], &table).await?;
                    Ok(vec![product::reshare(&cx, value).await?])
                })
            },
        };
        let digits: &[(KeyId, Purpose)] = if entries <= 4 { &[(KeyId::K01, Purpose::OneHot)] } else { &[] };
        let narrow = Ring::new(narrow);
        case.assert_correct(&all(ring, 1), &all_masks(ring), digits, |x, masks, out| {
            let lambda = masks[0].wrapping_add(masks[1]);
            let clear = narrow.reduce(table.clear(x[0], lambda, ring));
            assert_eq!(narrow.reduce(out[0][0]), clear, "x {} λ {lambda}", x[0]);
        });
    }
}

/// From the narrow ring to the full one: every value under every mask, where the table's value fits.
#[test]
fn quadratic_look_up_lifts_to_the_ring() {
    for (i, (bits, narrow, f)) in [(6, 4, 0), (6, 5, 1), (6, 6, 2), (5, 3, 0)].into_iter().enumerate() {
        let ring = Ring::new(bits);
        let spec = TableSpec { in_scale: f, drop: 0, slope_scale: f, ..small_table(8, 2, 1, 0).spec };
        let most = f64::from(1 << (narrow - 3)) / f64::from(1 << (2 * f));
        let table = Quadratic::new(&World::new(0).device().clone(), spec, narrow, |x| most * (0.9 * x).sin());
        let case = Case {
            seed: 1_550_000 + 1000 * i as u64,
            ring,
            inputs: &[(1, f)],
            inner: &flat,
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move { Ok(vec![quadratic::lookup(&cx, &x[0], &table, f).await?]) })
            },
        };
        let digits = [(KeyId::K01, Purpose::WrapBit), (KeyId::K02, Purpose::WrapBit)];
        let (quarter, mut inside) = (1 << (narrow - 2), 0);
        case.assert_correct(&all(ring, 1), &all_masks(ring), &digits, |x, masks, out| {
            let lambda = masks[0].wrapping_add(masks[1]);
            let value = table.clear(x[0], lambda, ring);
            if (-quarter..quarter).contains(&ring.signed(value)) {
                let excess = ring.reduce(out[0][0].wrapping_sub(truncate::clear(ring, value, f)));
                assert!(excess <= 1, "x {} λ {lambda}: floor + {excess}", x[0]);
            }
        });
        for x in 0..1 << bits {
            let value = table.clear(x, 0, ring);
            inside += u64::from((-quarter..quarter).contains(&ring.signed(value)));
        }
        assert!(inside > 1 << (bits - 1), "{inside} of {} values fit", 1 << bits);
    }
}

#[test]
fn quadratic_look_up_views() {
    // (ring, narrow, entries, shift, secrets, foreign bits of P1 and P2)
    for (i, (bits, narrow, entries, shift, secrets, masks)) in [
        (2, 1, 2, 1, 4, [5, 13]),
        (2, 1, 4, 0, 4, [5, 15]),
        (2, 2, 2, 1, 1, [8, 22]),
        (1, 1, 2, 0, 2, [4, 12]),
    ]
    .into_iter()
    .enumerate()
    {
        let ring = Ring::new(bits);
        let table = small_quadratic(entries, shift, 0, 0, narrow);
        let case = Case {
            seed: 1_600_000 + 1000 * i as u64,
            ring,
            inputs: &[(1, 0)],
            inner: &flat,
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move {
                    let value = quadratic::evaluate(&cx, &x[0], &table).await?;
                    Ok(vec![product::reshare(&cx, value).await?])
                })
            },
        };
        assert_eq!(case.assert_views_uniform(Role::P1, &all(ring, 1), 8, |_, _| ()), masks[0]);
        assert_eq!(case.assert_views_uniform(Role::P2, &all(ring, 1)[..secrets], 1, |_, _| ()), masks[1]);
    }
    // The whole gate, lifted from 4 of 5 bits and from 40 of 64.
    let small = small_quadratic(4, 2, 1, 0, 4);
    let real =
        Quadratic::symmetric(&World::new(0).device().clone(), (4, 7), 18, 4, protocol::gates::table::gelu);
    for (ring, table, in_scale, scale) in [(Ring::new(5), small, 0, 0), (Ring::Z64, real, 18, 18)] {
        let secrets: Vec<Vec<u64>> =
            (0..8u64).map(|x| vec![ring.reduce(x.wrapping_sub(4) << in_scale); 9]).collect();
        for party in EVALUATORS {
            let column = (Shape::new(9, 1), in_scale);
            solve_views(1_650_000, ring, party, &[column], &secrets, &[], &|cx, x| {
                let table = table.clone();
                Box::pin(async move { Ok(vec![quadratic::lookup(&cx, &x[0], &table, scale).await?]) })
            })
            .unwrap();
        }
    }
}

#[test]
fn gated_activation() {
    let ring = Ring::new(6);
    for (i, (entries, shift, phase_bits, drop)) in
        [(4, 3, 1, 0), (8, 3, 1, 2), (4, 4, 2, 1)].into_iter().enumerate()
    {
        let table = small_table(entries, shift, phase_bits, drop);
        let spec = table.spec;
        let case = Case {
            seed: 900_000 + 1000 * i as u64,
            ring,
            inputs: &[(1, drop), (1, 0)],
            inner: &flat,
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move {
                    Ok(vec![glu::gated(&cx, &x[0], &x[1], &table, ring.bits(), spec.out_scale()).await?])
                })
            },
        };
        let values: Vec<Vec<u64>> =
            (0..64 * 6).map(|i| vec![i / 6, [0, 1, 63, 31, 32, 21][i as usize % 6]]).collect();
        let masks: Vec<Vec<u64>> = (0..128).map(|i| vec![i, hash(&[i, 1]), 0, hash(&[i, 2])]).collect();
        case.assert_correct(&values, &masks, &[], |x, masks, out| {
            let f = table.clear(x[0], masks[0], ring);
            assert_eq!(out[0][0], ring.reduce(f.wrapping_mul(x[1])), "{x:?} under {masks:?}");
        });
        // Computed modulo 2^4 and lifted, where the product fits.
        let case = Case {
            seed: 940_000 + 1000 * i as u64,
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move {
                    Ok(vec![glu::gated(&cx, &x[0], &x[1], &table, 4, spec.out_scale()).await?])
                })
            },
            ..case
        };
        case.assert_correct(&values, &masks, &[], |x, masks, out| {
            let z = table.clear(x[0], masks[0], ring).wrapping_mul(x[1]);
            let lifted = Ring::new(4).signed(z & 15);
            if (-4..4).contains(&lifted) {
                let excess = ring.reduce(out[0][0].wrapping_sub(lifted as u64));
                assert!(excess <= 1, "{x:?} under {masks:?}: {lifted} + {excess}");
            }
        });
    }
    // P1's view by enumeration; P2 receives 24 bits in the smallest useful ring: one secret there, else solved.
    let ring = Ring::new(2);
    let table = small_table(2, 1, 1, 0);
    let case = Case {
        seed: 950_000,
        ring,
        inputs: &[(1, 0), (1, 0)],
        inner: &flat,
        program: &|cx, x| {
            let table = table.clone();
            Box::pin(async move { Ok(vec![glu::gated(&cx, &x[0], &x[1], &table, ring.bits(), 0).await?]) })
        },
    };
    assert_eq!(case.assert_views_uniform(Role::P1, &all(ring, 2), 8, |_, _| ()), 6);
    let secrets: Vec<Vec<u64>> = all(ring, 2).into_iter().map(|x| [[x[0]; 9], [x[1]; 9]].concat()).collect();
    let column = (Shape::new(9, 1), 0);
    for party in EVALUATORS {
        solve_views(951_000, ring, party, &[column, column], &secrets, &[], case.program).unwrap();
    }
    // The same from 3 of 4 bits.
    let ring = Ring::new(4);
    let secrets: Vec<Vec<u64>> = (0..16).map(|i| [[i; 9], [ring.reduce(7 * i + 3); 9]].concat()).collect();
    for party in EVALUATORS {
        solve_views(952_000, ring, party, &[column, column], &secrets, &[], &|cx, x| {
            let table = table.clone();
            Box::pin(async move { Ok(vec![glu::gated(&cx, &x[0], &x[1], &table, 3, 0).await?]) })
        })
        .unwrap();
    }
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
                    Ok(vec![max::coarse_max(&cx, &x[0], &offsets, levels).await?])
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

/// The fraction of exp's mask is its low 8 bits, the index the 8 above: masks at all the borders, and every u the
/// gate is made for.
#[test]
fn exp_at_every_input() {
    const IN: u32 = 8;
    let device = World::new(0).device().clone();
    let e = exp::ExpTable::new(&device, IN, 64);
    let unit = 1i64 << IN;
    let values = singles((exp::lowest(64) as i64) * unit..12 * unit, Ring::Z64);
    let masks: Vec<Vec<u64>> =
        [0u64, 1, 3, 4, 255, 256, 0xfeff, 0xffff, u64::MAX - 3].iter().map(|m| vec![*m, 0]).collect();
    let case = Case {
        seed: 1_100_000,
        ring: Ring::Z64,
        inputs: &[(1, IN)],
        inner: &flat,
        program: &|cx, x| {
            let e = e.clone();
            Box::pin(async move { Ok(vec![exp::exp(&cx, &x[0], &e, 30).await?]) })
        },
    };
    case.assert_correct(&values, &masks, &[], |x, masks, out| {
        let (u, y) = (x[0] as i64 as f64 / unit as f64, out[0][0] as i64 as f64 / 2f64.powi(30));
        let z = e.clear(x[0], masks[0].wrapping_add(masks[1]), Ring::Z64);
        let excess = out[0][0].wrapping_sub(truncate::clear(Ring::Z64, z, exp::OUT_SCALE - 30));
        assert!(excess <= 1, "exp({u}), mask {masks:?}: clear + {excess}");
        if u < -20.0 {
            assert!(out[0][0] <= 1, "exp({u}) = {y}, mask {masks:?}");
        } else if u < 8.0 {
            // Two fractions to 13 bits, and a whole power, at most e^2 times smaller than the result, to a unit.
            let bound = 1.3e-4 * u.exp() + 2f64.powi(-23) * 2f64.exp();
            assert!((y - u.exp()).abs() < bound, "exp({u}) = {y}, mask {masks:?}");
        } else {
            assert!((7f64.exp() * 0.999..9f64.exp() * 1.001).contains(&y), "exp({u}) = {y}, mask {masks:?}");
        }
    });
}

#[test]
fn exp_views() {
    let device = World::new(0).device().clone();
    let e = exp::ExpTable::new(&device, 36, 64);
    let secrets: Vec<Vec<u64>> =
        [0i64, -1, 1 << 36, -(20 << 36), -(200 << 36)].map(|x| vec![x as u64; 3]).to_vec();
    for party in EVALUATORS {
        let column = (Shape::new(3, 1), 36);
        let messages = solve_views(1_200_000, Ring::Z64, party, &[column], &secrets, &[], &|cx, x| {
            let e = e.clone();
            Box::pin(async move { Ok(vec![exp::exp(&cx, &x[0], &e, 18).await?]) })
        });
        assert_eq!(messages.unwrap(), if party == Role::P1 { 3 } else { 7 });
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
