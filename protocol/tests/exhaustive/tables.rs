//! Look-ups: lines, quadratics, gated activations, exponentials.

use super::common::{Case, all, flat, hash, solve_views};
use super::{EVALUATORS, all_masks, singles};
use kernels::Ring;
use protocol::gates::quadratic::{self, Quadratic};
use protocol::gates::table::{Piecewise, Table, TableSpec};
use protocol::gates::{exp, glu, lut, product, truncate};
use protocol::testing::World;
use protocol::{KeyId, Product, Purpose, Role, Shape};
use std::sync::Arc;

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
        [(2, 2, 1, 1, 4, [6, 14]), (2, 4, 0, 0, 4, [6, 16]), (1, 2, 0, 0, 2, [3, 8])].into_iter().enumerate()
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
                    // All bits, those that mean nothing as well.
                    let value = Product { bits: cx.ring().bits(), ..value };
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
        (2, 1, 2, 1, 4, [5, 11]),
        (2, 1, 4, 0, 4, [5, 13]),
        (2, 2, 2, 1, 4, [8, 18]),
        (1, 1, 2, 0, 2, [4, 10]),
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
                    // All bits, those that mean nothing as well.
                    let value = Product { bits: cx.ring().bits(), ..value };
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

/// A small table of lines and one of quadratics, modulo 2^bits.
fn small_tables(
    (entries, shift, phase_bits, drop): (usize, u32, u32, u32),
    bits: u32,
) -> [Arc<dyn Piecewise>; 2] {
    let quadratic = small_quadratic(entries, shift, phase_bits, drop, bits);
    [Arc::new(small_table(entries, shift, phase_bits, drop)), Arc::new(quadratic)]
}

#[test]
fn gated_activation() {
    let ring = Ring::new(6);
    let sizes = [(4, 3, 1, 0), (8, 3, 1, 2), (4, 4, 2, 1)];
    let tables = sizes.into_iter().flat_map(|size| small_tables(size, ring.bits()));
    for (i, table) in tables.enumerate() {
        let spec = *table.spec();
        let case = Case {
            seed: 900_000 + 1000 * i as u64,
            ring,
            inputs: &[(1, spec.drop), (1, 0)],
            inner: &flat,
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move {
                    Ok(vec![glu::gated(&cx, &x[0], &x[1], &*table, ring.bits(), spec.out_scale()).await?])
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
                    Ok(vec![glu::gated(&cx, &x[0], &x[1], &*table, 4, spec.out_scale()).await?])
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
    // P1's view by enumeration: three words for lines, four for quadratics. P2 receives 24 bits or more in the smallest useful
    // ring: one secret there, else solved.
    let (two, four) = (Ring::new(2), Ring::new(4));
    let tables = small_tables((2, 1, 1, 0), four.bits());
    for (i, (table, foreign)) in tables.into_iter().zip([6, 8]).enumerate() {
        let ring = two;
        let case = Case {
            seed: 950_000 + 100 * i as u64,
            ring,
            inputs: &[(1, 0), (1, 0)],
            inner: &flat,
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(
                    async move { Ok(vec![glu::gated(&cx, &x[0], &x[1], &*table, ring.bits(), 0).await?]) },
                )
            },
        };
        assert_eq!(case.assert_views_uniform(Role::P1, &all(ring, 2), 8, |_, _| ()), foreign);
        let secrets: Vec<Vec<u64>> =
            all(ring, 2).into_iter().map(|x| [[x[0]; 9], [x[1]; 9]].concat()).collect();
        let column = (Shape::new(9, 1), 0);
        let seed = 951_000 + 100 * i as u64;
        for party in EVALUATORS {
            solve_views(seed, ring, party, &[column, column], &secrets, &[], case.program).unwrap();
        }
        // The same from 3 of 4 bits.
        let ring = four;
        let secrets: Vec<Vec<u64>> =
            (0..16).map(|i| [[i; 9], [ring.reduce(7 * i + 3); 9]].concat()).collect();
        for party in EVALUATORS {
            solve_views(seed + 1000, ring, party, &[column, column], &secrets, &[], &|cx, x| {
                let table = table.clone();
                Box::pin(async move { Ok(vec![glu::gated(&cx, &x[0], &x[1], &*table, 3, 0).await?]) })
            })
            .unwrap();
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
