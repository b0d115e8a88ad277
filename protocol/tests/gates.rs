//! Every gate on the real ring against its meaning in the clear, with the declared cost held against the measured.

use kernels::Ring;
use protocol::gates::quadratic::{self, Quadratic};
use protocol::gates::reciprocal::{MANY, Reciprocals};
use protocol::gates::row::RowTable;
use protocol::gates::softmax::SoftmaxTables;
use protocol::gates::table::{Piecewise, Table, TableSpec, gelu, gelu_tanh, silu};
use protocol::gates::{bit, compare, exp, glu, lut, max, norm, product, row, softmax, truncate};
use protocol::testing::{Outcome, World};
use protocol::{Cost, Ledger, Shape, Share};
use std::sync::Arc;

const F: u32 = 18;

fn fix(v: f64, scale: u32) -> u64 {
    (v * 2f64.powi(scale as i32)).round() as i64 as u64
}

fn real(v: u64, scale: u32) -> f64 {
    v as i64 as f64 / 2f64.powi(scale as i32)
}

/// Reals in [low, high), reproducible.
fn reals(w: &World, stream: u64, n: usize, low: f64, high: f64) -> Vec<f64> {
    w.data(stream, n, 53).into_iter().map(|x| low + (high - low) * x as f64 / 2f64.powi(53)).collect()
}

fn column(w: &World, v: &[f64], scale: u32, stream: u64) -> [Share; 3] {
    let words: Vec<u64> = v.iter().map(|&x| fix(x, scale)).collect();
    w.share(&words, Shape::new(v.len(), 1), scale, stream)
}

fn assert_cost<T>(o: &Outcome<T>, declared: Cost) {
    let mut l = Ledger::default();
    l += &declared;
    assert_eq!(
        (o.ledger.exchanges, o.ledger.sent),
        (l.exchanges, l.sent),
        "declared cost is not the measured one"
    );
}

#[test]
fn truncation_is_floor_or_one_more_and_unbiased() {
    let w = World::new(1);
    let n = 200_000;
    for (bits, f) in [(61, 18), (46, 18), (36, 10), (62, 40)] {
        let mut z: Vec<u64> =
            w.data(bits, n, bits as u32 + 1).iter().map(|v| v.wrapping_sub(1 << bits)).collect();
        z[..4].copy_from_slice(&[0, u64::MAX, (1 << 61) - 1, (1u64 << 61).wrapping_neg()]);
        let o = w.run(w.share(&z, Shape::new(n, 1), 40, 7), |cx, x| {
            Box::pin(async move { truncate::truncate(&cx, product::halves(&cx, &x), f).await })
        });
        let y = w.open(&o.results).values;
        let mut excess = 0f64;
        for (z, y) in z.iter().zip(&y) {
            let d = y.wrapping_sub(truncate::clear(Ring::Z64, *z, f));
            assert!(d <= 1, "z {z:x} gives floor + {}", d as i64);
            excess += real(*y, 0) - *z as i64 as f64 / 2f64.powi(f as i32);
        }
        assert!((excess / n as f64).abs() < 5e-3, "bias {}", excess / n as f64);
        assert_cost(&o, truncate::cost(n, f, 64));
    }
}

#[test]
fn products_of_shares() {
    let w = World::new(2);
    let (a, b) = (reals(&w, 1, 300, -50., 50.), reals(&w, 2, 300, -50., 50.));
    let (x, y) = (column(&w, &a, F, 3), column(&w, &b, F, 4));
    let inputs: Vec<_> = x.into_iter().zip(y).collect();
    let o = w.run(inputs.try_into().unwrap(), |cx, (x, y): (Share, Share)| {
        Box::pin(async move { truncate::truncate(&cx, product::multiply(&cx, &x, &y)?, F).await })
    });
    for ((a, b), v) in a.iter().zip(&b).zip(w.open(&o.results).values) {
        assert!((a * b - real(v, F)).abs() < 1e-3);
    }
    assert_cost(&o, product::product_cost(300, 64).then(truncate::cost(300, F, 64)));
}

#[test]
fn comparison_is_exact() {
    let w = World::new(3);
    let mut v = w.data(1, 5000, 30).iter().map(|x| x.wrapping_sub(1 << 29)).collect::<Vec<_>>();
    let taus = [0u64, 12345, 777u64.wrapping_neg()];
    v[..8].copy_from_slice(&[0, 1, u64::MAX, 12345, 12344, 777u64.wrapping_neg(), 778u64.wrapping_neg(), 5]);
    let o = w.run(w.share(&v, Shape::new(v.len(), 1), F, 9), |cx, x| {
        Box::pin(async move {
            let bits = compare::less_than(&cx, &x, &taus, compare::Window::EXACT31).await?;
            let values = bits.iter().map(|b| bit::bit_times(&cx, b, &x)).collect::<Result<Vec<_>, _>>()?;
            Ok(values)
        })
    });
    for (i, tau) in taus.iter().enumerate() {
        let halves = o.results.each_ref().map(|r| r[i].clone());
        for (x, y) in v.iter().zip(w.open_product(&halves)) {
            let expected = if compare::clear(Ring::Z64, *x, *tau) { *x } else { 0 };
            assert_eq!(y, expected, "x {} tau {}", *x as i64, *tau as i64);
        }
    }
    let n = v.len();
    let mut declared = compare::cost(n, taus.len(), compare::Window::EXACT31);
    for _ in taus {
        declared = declared.then(bit::cost(n, 64));
    }
    assert_cost(&o, declared);
}

#[test]
fn activations_by_table() {
    let w = World::new(4);
    let device = w.device().clone();
    for (name, f, log_n, bound) in
        [("gelu", gelu as fn(f64) -> f64, 9, 3e-4), ("silu", silu, 8, 7e-4), ("silu 512", silu, 9, 2e-4)]
    {
        let spec = TableSpec::symmetric(4, log_n, F, 14);
        let table = Table::new(&device, spec, f);
        let (low, high) = spec.range();
        let v = reals(&w, 5, 20_000, low, high - 1e-5);
        let x = column(&w, &v, F, 6);
        let opened = w.open(&x);
        let o = w.run(x, |cx, x| {
            let table = table.clone();
            Box::pin(async move { lut::lookup(&cx, &x, &table, F).await })
        });
        let mut worst = 0f64;
        let y = w.open(&o.results).values;
        for i in 0..v.len() {
            let exact = table.clear(opened.values[i], opened.lambda[i], Ring::Z64);
            let d = y[i].wrapping_sub(truncate::clear(Ring::Z64, exact, spec.out_scale() - F));
            assert!(d <= 1, "{name}({}): {} units off the table", v[i], d as i64);
            worst = worst.max((real(y[i], F) - f(v[i])).abs());
        }
        println!("{name}: max error {worst:.2e}");
        assert!(worst < bound, "{name} error {worst}");
        assert_cost(&o, lut::cost(v.len(), &spec, F, 64));
    }
}

#[test]
fn activations_by_quadratics() {
    let w = World::new(14);
    for (name, f, range_log2, value_log2, entries_log2, bound) in [
        ("gelu", gelu as fn(f64) -> f64, 4, 4, 7, 3e-4),
        ("gelu by tanh", gelu_tanh, 4, 4, 7, 3e-4),
        ("silu", silu, 4, 4, 7, 3e-4),
        ("silu of wide range", silu, 8, 8, 11, 2e-4),
        ("tanh", libm::tanh, 3, 0, 7, 2e-4),
    ] {
        let table = Quadratic::symmetric(w.device(), (range_log2, entries_log2), F, value_log2, f);
        let (low, high) = table.spec.range();
        let v = reals(&w, 5, 20_000, low, high - 1e-5);
        let x = column(&w, &v, F, 6);
        let opened = w.open(&x);
        let o = w.run(x, |cx, x| {
            let table = table.clone();
            Box::pin(async move { quadratic::lookup(&cx, &x, &table, F).await })
        });
        let mut worst = 0f64;
        let y = w.open(&o.results).values;
        for i in 0..v.len() {
            let exact = table.clear(opened.values[i], opened.lambda[i], Ring::Z64);
            let d = y[i].wrapping_sub(truncate::clear(Ring::Z64, exact, table.spec.out_scale() - F));
            assert!(d <= 1, "{name}({}): {} units off the table", v[i], d as i64);
            worst = worst.max((real(y[i], F) - f(v[i])).abs());
        }
        println!("{name}: max error {worst:.2e}, {} bits, {:?}", table.bits, table.spec);
        assert!(worst < bound, "{name} error {worst}");
        assert_cost(&o, table.cost(v.len(), F, 64));
    }
}

#[test]
fn gated_activation() {
    let w = World::new(5);
    let spec = TableSpec::symmetric(4, 8, F, 12);
    let table = Table::new(w.device(), spec, silu);
    let (a, b) = (reals(&w, 1, 5000, -15.8, 15.9), reals(&w, 2, 5000, -100., 100.));
    let inputs: Vec<_> = column(&w, &a, F, 3).into_iter().zip(column(&w, &b, F, 4)).collect();
    let o = w.run(inputs.try_into().unwrap(), |cx, (g, u): (Share, Share)| {
        let table = table.clone();
        Box::pin(async move { glu::gated(&cx, &g, &u, &table, 64, F).await })
    });
    let y = w.open(&o.results).values;
    for i in 0..a.len() {
        let e = (real(y[i], F) - silu(a[i]) * b[i]).abs();
        assert!(e < 8e-4 * b[i].abs() + 2e-5, "silu({})·{}: {e}", a[i], b[i]);
    }
    assert_cost(&o, glu::cost(a.len(), &table, F, 64, F, 64));
}

/// Gated activations in rings of k bits are, to a unit, what the table says in the clear, at the ends of the range and of the
/// products as well; lines and quadratics.
#[test]
fn gated_activations_in_narrow_rings() {
    let w = World::new(51);
    let lines = |range| {
        let spec = TableSpec::shortened(range, range + 5, F, 24);
        Arc::new(Table::new(w.device(), spec, silu)) as Arc<dyn Piecewise>
    };
    let quadratics = |range, entries, out_scale, bits| {
        Arc::new(Quadratic::factor(w.device(), (range, entries), F, out_scale, bits, silu))
            as Arc<dyn Piecewise>
    };
    // u has 16 fractional bits as in models; products are below 2^(bits − 3 − 16 − fractional bits of the function).
    const U: u32 = 16;
    for (name, range, table, bits, most) in [
        ("lines, 2^11", 4, lines(4), 54, 2.0e-4),
        ("lines, 2^11", 5, lines(5), 54, 2.0e-4),
        ("quadratics, 2^11", 5, quadratics(5, 8, 34, 64), 64, 1.7e-4),
        ("quadratics, 2^11", 7, quadratics(7, 10, 34, 64), 64, 1.7e-4),
        ("quadratics, 2^13", 7, quadratics(7, 11, 32, 64), 64, 1.6e-4),
        ("quadratics, 2^6, 59 bits", 5, quadratics(5, 8, 34, 59), 59, 1.7e-4),
    ] {
        let out = table.spec().out_scale();
        let product = 2f64.powi((bits - 3 - U - out) as i32) - 1.0;
        let (low, high) = table.spec().range();
        let mut g = reals(&w, 1, 4000, low, high - 1e-5);
        g.extend(reals(&w, 2, 4000, -6.0, 6.0));
        g.extend([low, high - 2f64.powi(-(F as i32)), 0.0, high - 0.01, low + 0.01].repeat(100));
        // Up to the largest products at every other place, from both sides; and as large as u gets by itself.
        let largest = |g: f64| (product / silu(g).abs().max(1e-3)).min(2f64.powi(12));
        let u: Vec<f64> = reals(&w, 3, g.len(), -1.0, 1.0)
            .into_iter()
            .zip(&g)
            .enumerate()
            .map(|(i, (u, g))| if i % 2 == 0 { u.signum() } else { u } * largest(*g))
            .collect();
        let shares = || [column(&w, &g, F, 3), column(&w, &u, U, 4)];
        let [gs, us] = shares().map(|s| w.open(&s));
        let [a, b] = shares();
        let inputs: Vec<_> = a.into_iter().zip(b).collect();
        let o = w.run(inputs.try_into().unwrap(), |cx, (g, u): (Share, Share)| {
            let table = table.clone();
            Box::pin(async move { glu::gated(&cx, &g, &u, &*table, bits, F).await })
        });
        let y = w.open(&o.results).values;
        let mut worst = 0f64;
        for i in 0..g.len() {
            let z = table.clear(gs.values[i], gs.lambda[i], Ring::Z64).wrapping_mul(us.values[i]);
            let d = y[i].wrapping_sub(truncate::clear(Ring::Z64, z, out + U - F));
            assert!(d <= 1, "{name}: silu({})·{}: {} units off the table", g[i], u[i], d as i64);
            let e = (real(y[i], F) - silu(g[i]) * real(us.values[i], U)).abs();
            // A unit of the result, and the input's own rounding.
            worst = worst.max((e - 1e-5) / u[i].abs().max(1.0));
        }
        println!("{name}, ±{}: max error {worst:.2e} of u, {:?}", 1 << range, table.spec());
        assert!(worst < most, "{name}, ±{}: error {worst}", 1 << range);
        assert_cost(&o, glu::cost(g.len(), &*table, U, bits, F, 64));
    }
}

#[test]
fn exponentials() {
    let w = World::new(6);
    for buckets in [64, 128] {
        let e = exp::ExpTable::new(w.device(), 36, buckets);
        let low = exp::lowest(buckets);
        let mut v = reals(&w, 1, 4000, low, 7.99);
        v.extend(reals(&w, 2, 4000, -30., 7.99));
        let x = column(&w, &v, 36, 3);
        let o = w.run(x, |cx, x| {
            let e = e.clone();
            Box::pin(async move { exp::exp(&cx, &x, &e, F).await })
        });
        let mut worst = 0f64;
        for (u, y) in v.iter().zip(w.open(&o.results).values) {
            let (y, exact) = (real(y, F), u.exp());
            assert!((y - exact).abs() < 5e-4 * exact + 1e-5, "exp({u}) = {y}");
            if *u > -4.0 {
                worst = worst.max((y / exact - 1.0).abs());
            }
        }
        println!("exp, {buckets} buckets: max relative error above −4: {worst:.2e}");
        assert_cost(&o, e.cost(v.len(), F, 64));
    }
}

/// Whole powers far below 1 have few bits; over the masks they are right in the mean, or sums of long rows were not.
#[test]
fn small_exponentials_are_right_in_the_mean() {
    const MASKS: usize = 20_000;
    let w = World::new(61);
    let e = exp::ExpTable::new(w.device(), 36, 64);
    let masks = reals(&w, 1, MASKS, 0.0, 64.0);
    for i in 0..40 {
        let u = -6.0 - f64::from(i) / 4.0;
        let all: f64 = masks.iter().map(|m| e.clear(fix(u, 36), fix(*m, 36), Ring::Z64) as f64).sum();
        let mean = all / MASKS as f64 / 2f64.powi(exp::OUT_SCALE as i32);
        // One rounding of the 64 is left over; one rounding for all would be off by up to 4e-7.
        let bound = 0.01 * u.exp() + 2f64.powi(-23) * 2f64.exp() / 64.0;
        assert!((mean - u.exp()).abs() < bound, "mean of exp({u}): {mean}, exactly {}", u.exp());
    }
}

#[test]
fn coarse_maximum() {
    let w = World::new(7);
    for buckets in [64, 128] {
        let levels = max::Levels::new(buckets);
        let (low, high) = levels.range();
        let lens = [1usize, 2, 5, 31, 64, 100];
        let offsets: Vec<usize> = lens
            .iter()
            .scan(0, |s, l| {
                *s += l;
                Some(*s)
            })
            .collect();
        let offsets: Vec<usize> = std::iter::once(0).chain(offsets).collect();
        let n = *offsets.last().unwrap();
        let mut v = reals(&w, 1, n, low, high - 0.01);
        v[0] = low;
        for x in &mut v[8..39] {
            *x = low + 0.001;
        }
        // Modulo 2^bits, as far as exponentials look.
        for bits in [64, 36 + 8] {
            let o = w.run(column(&w, &v, 36, 3), |cx, x| {
                let offsets = kernels::Segments::new(offsets.clone());
                Box::pin(async move {
                    let m = max::coarse_max(&cx, &x, &offsets, levels, bits).await?;
                    Ok(m.linear(m.shape, |w| w << (64 - bits)))
                })
            });
            for (r, m) in w.open(&o.results).values.into_iter().enumerate() {
                let top = v[offsets[r]..offsets[r + 1]].iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let u = real((fix(top, 36) << (64 - bits)).wrapping_sub(m), 36 + 64 - bits);
                assert!((-4.0..4.0).contains(&u), "row {r}: maximum {top}, {u} above the shift");
            }
            assert_cost(&o, max::cost(n, lens.len(), levels, 36, bits));
        }
    }
}

#[test]
fn row_gates() {
    let w = World::new(8);
    for (scale, low, high, out, f) in [
        (36, 0.01, 40.0, 18, (|s: f64| 1.0 / s.sqrt()) as fn(f64) -> f64),
        (18, 1.0 / 64.0, 1048576.0, 30, |s| 1.0 / s),
        (22, 1e-3, 1e4, 16, |s| 1.0 / s.sqrt()),
    ] {
        let table = RowTable::new(w.device(), scale, (low, high), 16, f);
        let mut v: Vec<f64> =
            reals(&w, 1, 600, low.ln(), (high * 0.999).ln()).iter().map(|l| l.exp()).collect();
        v[0] = low / 10.0;
        v[1] = high * 1.5;
        let o = w.run(column(&w, &v, scale, 3), |cx, x| {
            let table = table.clone();
            Box::pin(async move { row::evaluate(&cx, &x, &table, out).await })
        });
        let mut worst = 0f64;
        for (i, y) in w.open(&o.results).values.into_iter().enumerate() {
            let s = v[i].clamp(low, high);
            // At the low end S itself is only known to one unit.
            let grid = 2f64.powi(-(scale as i32)) / s;
            let e = (real(y, out) / f(s) - 1.0).abs() - grid - 2f64.powi(-(out as i32)) / f(s);
            worst = worst.max(e);
            assert!(e < 1e-3, "f({}) relative error {e} ({} thresholds)", v[i], table.thresholds());
        }
        println!(
            "row gate over {low}..{high} at 2^{scale}: {worst:.2e} with {} thresholds",
            table.thresholds()
        );
        assert_cost(&o, table.cost(v.len(), out, 64));
    }
}

/// Of few sums and of many, which take a step of Newton's method: as factors of a product with 2^15.
#[test]
fn reciprocals() {
    let w = World::new(11);
    let (scale, low, high) = (softmax::EXP_SCALE, (-4f64).exp(), 32768.0);
    // A comparison with the lowest threshold may come late: sums of a softmax lie above.
    let table = Reciprocals::new(w.device(), scale, (1.0 / 64.0, high));
    for (rows, exchanges) in [(MANY - 1, 2), (MANY, 4), (40 * MANY, 4)] {
        let mut v: Vec<f64> =
            reals(&w, 1, rows, low.ln(), (high * 0.999).ln()).iter().map(|l| l.exp()).collect();
        (v[0], v[1]) = (low, high * 0.9999);
        let times = w.share(&vec![1 << 15; rows], Shape::new(rows, 1), 0, 7);
        let inputs: Vec<_> = column(&w, &v, scale, 3).into_iter().zip(times).collect();
        let o = w.run(inputs.try_into().unwrap(), |cx, (s, times): (Share, Share)| {
            let table = table.clone();
            Box::pin(async move {
                let r = table.factors(&cx, &s).await?;
                row::product(&cx, &times, &r, |r| r.into())
            })
        });
        let (mut worst, mut apart) = (0f64, 0f64);
        for (s, y) in v.iter().zip(w.open_product(&o.results)) {
            let units = 2f64.powi(softmax::RECIPROCAL_SCALE as i32) / s;
            let y = y as i64 as f64 / 32768.0;
            // Beside roundings of a reciprocal by a unit or two, and of the sum.
            worst = worst.max(((y - units).abs() - 2.0) / units - 2f64.powi(-(scale as i32)) / s);
            apart = apart.max(((y - table.clear(fix(*s, scale), rows) as f64).abs() - 4.0) / units);
        }
        println!("reciprocals of {rows} sums: {worst:.2e}, {apart:.2e} from those in the clear");
        assert!(worst < if rows < MANY { 4e-4 } else { 8e-5 }, "{rows} rows: relative error {worst}");
        assert!(
            apart < if rows < MANY { 5e-4 } else { 1e-4 },
            "{rows} rows: {apart} from those in the clear"
        );
        let declared = table.cost(rows, 64);
        assert_eq!(declared.exchanges(), exchanges);
        assert_cost(&o, declared.then(table.product_cost(rows, rows, 64)));
    }
}

#[test]
fn whole_softmax() {
    check_softmax(64, 100, 10);
    // Many rows.
    check_softmax(MANY, 30, 12);
}

fn check_softmax(rows: usize, cols: usize, exchanges: u64) {
    let w = World::new(9);
    let tables = SoftmaxTables::new(w.device(), 36, max::Levels::new(64), 128);
    let noise = reals(&w, 1, rows * cols, -30., 30.);
    let shift = reals(&w, 2, rows, -85., 85.);
    let v: Vec<f64> =
        (0..rows * cols).map(|i| noise[i] * (i / cols) as f64 / rows as f64 + shift[i / cols]).collect();
    let words: Vec<u64> = v.iter().map(|&x| fix(x, 36)).collect();
    let o = w.run(w.share(&words, Shape::new(rows, cols), 36, 3), |cx, x| {
        let tables = tables.clone();
        Box::pin(async move { softmax::softmax(&cx, &x, &tables).await })
    });
    let y = w.open(&o.results).values;
    let mut worst = 0f64;
    for r in 0..rows {
        let row = &v[r * cols..(r + 1) * cols];
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - top).exp()).sum();
        for (c, x) in row.iter().enumerate() {
            worst = worst.max((real(y[r * cols + c], F) - (x - top).exp() / sum).abs());
        }
    }
    println!("softmax: max error {worst:.2e}, exchanges {}", o.ledger.exchanges);
    assert!(worst < 5e-4, "softmax error {worst}");
    assert_eq!(o.ledger.exchanges, exchanges);
}

#[test]
fn norms() {
    let w = World::new(10);
    let (rows, d) = (40, 96);
    let noise = reals(&w, 1, rows * d, -1.7, 1.7);
    for (kind, low, high) in [
        (norm::NormKind::Rms, 0.002, 100.0),
        (norm::NormKind::Rms, 0.5, 4e7),
        (norm::NormKind::Layer, 0.002, 4000.0),
    ] {
        let t = norm::NormTable::new(w.device(), kind, d, F, 1e-5, low, high);
        let v: Vec<f64> = (0..rows * d)
            .map(|i| {
                let size =
                    (low.sqrt() * 1.1) * ((high / low).sqrt() / 1.5).powf((i / d) as f64 / rows as f64);
                noise[i] * size + if kind == norm::NormKind::Layer { 3.0 } else { 0.0 }
            })
            .collect();
        let words: Vec<u64> = v.iter().map(|&x| fix(x, F)).collect();
        let o = w.run(w.share(&words, Shape::new(rows, d), F, 3), |cx, x| {
            let t = t.clone();
            Box::pin(async move { norm::norm(&cx, &x, &t).await })
        });
        let y = w.open(&o.results).values;
        let mut worst = 0f64;
        for r in 0..rows {
            let row = &v[r * d..(r + 1) * d];
            let mean = if kind == norm::NormKind::Layer { row.iter().sum::<f64>() / d as f64 } else { 0.0 };
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
            for (c, x) in row.iter().enumerate() {
                let e = (real(y[r * d + c], F) - (x - mean) / (var + 1e-5).sqrt()).abs();
                worst = worst.max(e);
            }
        }
        println!(
            "{kind:?} norm: max error {worst:.2e}, exchanges {}, drops {} {}",
            o.ledger.exchanges, t.input_drop, t.statistic_drop
        );
        assert_cost(&o, t.cost(rows, d, 64));
        assert_eq!(o.ledger.exchanges, 5);
        assert!(worst < 2e-3, "{kind:?} error {worst}");
    }
}
