//! Truncations and products.

use super::common::{self, Case, all, flat, hash, solve_views};
use super::{EVALUATORS, all_masks, singles};
use kernels::Ring;
use protocol::gates::{lift, product, truncate};
use protocol::{Cx, Factor, KeyId, Purpose, Role, Shape, Share};

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

/// One product at each party, for every value and, as a share takes part in several products, twice with the same masks.
#[test]
fn product_of_factors() {
    for bits in [3, 4] {
        let ring = Ring::new(bits);
        let case = Case {
            seed: 230_000 + 1000 * u64::from(bits),
            ring,
            inputs: &[(1, 0), (1, 0)],
            inner: &flat,
            program: &|cx, x| {
                Box::pin(async move {
                    let [a, b] = [&x[0], &x[1]].map(Factor::from);
                    let of = |a: &Factor, b: &Factor| {
                        product::of_factors(&cx, a, &[b], a.shape, 64, |_, a, b| a * b)
                    };
                    let (ab, bb) = (of(&a, &b)?, of(&b, &b)?);
                    Ok(vec![product::reshare(&cx, ab).await?, product::reshare(&cx, bb).await?])
                })
            },
        };
        let right = |x: &[u64], out: &[Vec<u64>]| {
            assert_eq!([out[0][0], out[1][0]], [x[0] * x[1], x[1] * x[1]].map(|z| ring.reduce(z)), "{x:?}");
        };
        for (party, dealt) in EVALUATORS.into_iter().zip([0, 2 * bits]) {
            assert_eq!(case.assert_views_uniform(party, &all(ring, 2), 3, right), 2 * bits + dealt);
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
                    let y = truncate::truncate_to(&cx, product::halves(&cx, &x[0]).modulo(k), f, to).await?;
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
                let lifted = lift::open(&cx, product::halves(&cx, &x[0]).modulo(k), f).await?;
                let z = lift::times(&cx, (&x[1]).into(), &lifted, |a| a.into(), (None, 0))?;
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
                Ok(vec![y, truncate::truncate(&cx, z.modulo(3), 0).await?])
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
