//! Declared costs are the measured ones, for all gates, at odd sizes, in sequence and side by side; and what is
//! computed does not depend on how gates are joined.

mod common;

use common::hash;
use kernels::Ring;
use protocol::gates::compare::Window;
use protocol::gates::exp::{self, ExpTable};
use protocol::gates::max::{self, Levels};
use protocol::gates::norm::{self, NormKind, NormTable};
use protocol::gates::quadratic::{self, Quadratic};
use protocol::gates::row::{self, RowTable};
use protocol::gates::table::{Table, TableSpec, gelu};
use protocol::gates::{bit, compare, glu, lift, lut, product, truncate};
use protocol::testing::{Outcome, World};
use protocol::{Cost, Factor, Ledger, Shape, Share, join, join_all};

const F: u32 = 18;
const SIZES: [usize; 7] = [1, 2, 7, 8, 63, 65, 129];

fn assert_cost<T>(what: &str, o: &Outcome<T>, declared: Cost) {
    let mut l = Ledger::default();
    l += &declared;
    assert_eq!((o.ledger.exchanges, o.ledger.sent), (l.exchanges, l.sent), "{what}");
}

fn share(w: &World, n: usize, scale: u32) -> [Share; 3] {
    let x: Vec<u64> = (0..n as u64).map(|i| (hash(&[i]) as i64 >> (64 - scale - 2)) as u64).collect();
    w.share(&x, Shape::new(n, 1), scale, 1)
}

#[test]
fn declared_costs_are_measured_at_odd_sizes() {
    let w = World::new(1);
    let spec = TableSpec::symmetric(4, 7, F, 12);
    let table = Table::new(w.device(), spec, gelu);
    let e = ExpTable::new(w.device(), 20, 64);
    let recip = RowTable::new(w.device(), F, (0.25, 4.0), 16, |s| 1.0 / s);
    let window = Window { drop: 3, blocks: 3, block_bits: 4 };
    for n in SIZES {
        let o = w.run(share(&w, n, F), |cx, x| {
            Box::pin(async move { truncate::truncate(&cx, product::multiply(&cx, &x, &x)?, 5).await })
        });
        assert_cost("truncate", &o, product::product_cost(n, 64).then(truncate::cost(n, 5, 64)));
        for (k, f, bits) in [(64, 5, 59), (60, 5, 23), (64, 5, 61), (50, 0, 64)] {
            let o = w.run(share(&w, n, F), |cx, x| {
                let z = product::halves(&cx, &x).modulo(k);
                Box::pin(async move { truncate::truncate_to(&cx, z, f, bits).await })
            });
            assert_cost("truncate between", &o, truncate::cost_between(n, k, f, bits));
        }
        for (k, f) in [(64, 0), (64, 5), (50, 0), (50, 5)] {
            let o = w.run(share(&w, n, F), |cx, x| {
                Box::pin(async move {
                    let lifted = lift::open(&cx, product::halves(&cx, &x).modulo(k), f).await?;
                    lift::times(&cx, (&x).into(), &lifted, |a| a.into(), (None, 0))
                })
            });
            let declared = lift::cost(n, k, f, 64).then(lift::times_cost(n, k, f, 64));
            assert_cost("lift", &o, declared);
        }
        for bits in [41, 64] {
            let o = w.run(share(&w, n, F), |cx, x| {
                Box::pin(async move { product::bilinear_modulo(&cx, &x, &x, x.shape, bits, |a, b| a * b) })
            });
            assert_cost("product", &o, product::product_cost(n, bits));
            let o = w.run(share(&w, n, F), |cx, x| {
                let factor = Factor::from(&x);
                let both = [&factor, &factor];
                let shape = Shape::new(2 * n, 1);
                let z = product::of_factors(&cx, &factor, &both, shape, bits, |_, a, b| a * b);
                Box::pin(async move { z })
            });
            assert_cost("product of factors", &o, product::product_cost(2 * n, bits.min(63)));
        }
        let o = w.run(share(&w, n, F), |cx, x| {
            Box::pin(async move { product::reshare(&cx, product::square_sum(&cx, &x)?).await })
        });
        assert_cost("reshare", &o, product::product_cost(n, 64).then(product::reshare_cost(n, 64)));
        let o = w.run(share(&w, n, F), |cx, x| {
            Box::pin(async move {
                let b = compare::less_than(&cx, &x, &[0, 1, 2], window).await?;
                bit::bit_times(&cx, &b[2], &x)
            })
        });
        assert_cost("compare", &o, compare::cost(n, 3, window).then(bit::cost(n, 64)));
        let o = w.run(share(&w, n, F), |cx, x| {
            let table = table.clone();
            Box::pin(async move { lut::lookup(&cx, &x, &table, F).await })
        });
        assert_cost("lookup", &o, lut::cost(n, &spec, F, 64));
        let o = w.run(share(&w, n, F), |cx, x| {
            let table = table.clone();
            Box::pin(async move { glu::gated(&cx, &x, &x, &table, 64, F).await })
        });
        assert_cost("gated", &o, glu::cost(n, &table, F, 64, F, 64));
        let o = w.run(share(&w, n, F), |cx, x| {
            let table = table.clone();
            Box::pin(async move { glu::gated(&cx, &x, &x, &table, 51, F).await })
        });
        assert_cost("gated, 51 bits", &o, glu::cost(n, &table, F, 51, F, 64));
        for bits in [64, 57] {
            let table = Quadratic::factor(w.device(), (5, 8), F, 32, bits, gelu);
            let o = w.run(share(&w, n, F), |cx, x| {
                let table = table.clone();
                Box::pin(async move { glu::gated(&cx, &x, &x, &table, bits, F).await })
            });
            assert_cost("gated, quadratics", &o, glu::cost(n, &table, F, bits, F, 64));
        }
        for value_log2 in [0, 4, 8] {
            let table = Quadratic::symmetric(w.device(), (4, 7), F, value_log2, gelu);
            let o = w.run(share(&w, n, F), |cx, x| {
                let table = table.clone();
                Box::pin(async move { quadratic::lookup(&cx, &x, &table, F).await })
            });
            assert_cost("quadratic", &o, table.cost(n, F, 64));
        }
        let o = w.run(share(&w, n, 20), |cx, x| {
            let e = e.clone();
            Box::pin(async move { exp::exp(&cx, &x, &e, F).await })
        });
        assert_cost("exp", &o, e.cost(n, F, 64));
        let o = w.run(share(&w, n, F), |cx, x| {
            let recip = recip.clone();
            Box::pin(async move { row::evaluate(&cx, &x, &recip, F).await })
        });
        assert_cost("row", &o, recip.cost(n, F, 64));
        for buckets in [64, 128] {
            let levels = Levels::new(buckets);
            let offsets = [0, n.div_ceil(3), n];
            let o = w.run(share(&w, n, 20), |cx, x| {
                Box::pin(async move {
                    max::coarse_max(&cx, &x, &kernels::Segments::new(offsets.to_vec()), levels, 64).await
                })
            });
            assert_cost("max", &o, max::cost(n, 2, levels, 20, 64));
        }
    }
}

#[test]
fn norms_cost_what_they_declare() {
    let w = World::new(5);
    let d = 24;
    for (kind, high) in
        [(NormKind::Rms, 8.0), (NormKind::Rms, 4e6), (NormKind::Layer, 8.0), (NormKind::Layer, 1e5)]
    {
        let t = NormTable::new(w.device(), kind, d, F, 1e-5, high / 1e3, high);
        for rows in [1usize, 3] {
            let x: Vec<u64> = (0..(rows * d) as u64).map(|i| (hash(&[i]) as i64 >> 45) as u64).collect();
            let o = w.run(w.share(&x, Shape::new(rows, d), F, 1), |cx, x| {
                let t = t.clone();
                Box::pin(async move { norm::norm(&cx, &x, &t).await })
            });
            assert_cost(&format!("{kind:?} below {high}"), &o, t.cost(rows, d, 64));
        }
    }
}

#[test]
fn small_rings_pay_for_their_bits() {
    for bits in [9u32, 17, 33, 61] {
        let w = World::new(2).ring(Ring::new(bits));
        let n = 13;
        let o = w.run(share(&w, n, 4), |cx, x| {
            Box::pin(async move {
                let y = truncate::truncate(&cx, product::multiply(&cx, &x, &x)?, 3).await?;
                let b =
                    compare::less_than(&cx, &y, &[0], Window { drop: 0, blocks: 2, block_bits: 2 }).await?;
                product::reshare(&cx, bit::bit_times(&cx, &b[0], &y)?).await
            })
        });
        let compare = compare::cost(n, 1, Window { drop: 0, blocks: 2, block_bits: 2 });
        let declared = product::product_cost(n, bits)
            .then(truncate::cost(n, 3, bits))
            .then(compare)
            .then(bit::cost(n, bits))
            .then(product::reshare_cost(n, bits));
        assert_cost("small ring", &o, declared);
    }
}

#[test]
fn no_elements_cost_nothing_but_exchanges() {
    let w = World::new(3);
    let table = Table::new(w.device(), TableSpec::symmetric(4, 7, F, 12), gelu);
    let o = w.run(share(&w, 0, F), |cx, x| {
        let table = table.clone();
        Box::pin(async move {
            let y = truncate::truncate(&cx, product::multiply(&cx, &x, &x)?, F).await?;
            let b = compare::less_than(&cx, &y, &[0], Window::EXACT31).await?;
            let z = product::reshare(&cx, bit::bit_times(&cx, &b[0], &y)?).await?;
            lut::lookup(&cx, &z, &table, F).await
        })
    });
    assert_eq!(o.results.each_ref().map(Share::len), [0; 3]);
    assert_eq!(o.ledger.sent, [[0; 3]; 3]);
}

/// Gates of different depth side by side: the exchanges of the deepest, the bytes of all, the values of each alone.
#[test]
fn joined_gates_share_exchanges() {
    let w = World::new(4);
    let table = Table::new(w.device(), TableSpec::symmetric(4, 7, F, 12), gelu);
    for n in [1usize, 7, 65] {
        let o = w.run(share(&w, n, F), |cx, x| {
            let table = table.clone();
            Box::pin(async move {
                let shallow = async { product::reshare(&cx, product::multiply(&cx, &x, &x)?).await };
                let middle = async { truncate::truncate(&cx, product::multiply(&cx, &x, &x)?, F).await };
                let (a, (b, c)) = join(shallow, join(middle, lut::lookup(&cx, &x, &table, F))).await?;
                Ok((a, b, c))
            })
        });
        let product = product::product_cost(n, 64);
        let declared = product
            .clone()
            .then(product::reshare_cost(n, 64))
            .beside(product.then(truncate::cost(n, F, 64)))
            .beside(lut::cost(n, &table.spec, F, 64));
        assert_cost("joined", &o, declared);
        let values = |f: fn(&(Share, Share, Share)) -> Share| w.open(&o.results.each_ref().map(f)).values;
        let x = w.open(&share(&w, n, F)).values;
        let (a, b) = (values(|r| r.0.clone()), values(|r| r.1.clone()));
        for i in 0..n {
            assert_eq!(a[i], x[i].wrapping_mul(x[i]));
            assert!(b[i].wrapping_sub(truncate::clear(Ring::Z64, a[i], F)) <= 1);
        }
        let o = w.run(share(&w, n, F), |cx, x| {
            Box::pin(async move {
                // Chains of different length in one list.
                join_all((0..5u32).map(|depth| {
                    let (cx, mut y) = (cx.clone(), x.clone());
                    async move {
                        for _ in 0..depth {
                            y = product::reshare(&cx, product::halves(&cx, &y)).await?;
                        }
                        Ok(y)
                    }
                }))
                .await
            })
        });
        assert_eq!(o.ledger.exchanges, 4);
        for depth in 0..5 {
            assert_eq!(w.open(&o.results.each_ref().map(|r| r[depth].clone())).values, x);
        }
    }
}
