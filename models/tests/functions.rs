//! How exact the gates' tables are, over every range that a calibration can choose and whatever the masks are.

mod read;

use kernels::Ring;
use models::algebra::{Algebra, SCALE};
use models::attention::AttentionShape;
use models::clear::{Clear, Ints};
use models::float::complete;
use models::plan::{FunctionTable, NormRange, Pieces, Polynomials, Step, TablePlan};
use protocol::gates::exp::OUT_SCALE;
use protocol::gates::max::Levels;
use protocol::gates::norm::{NormKind, NormTable};
use protocol::gates::softmax::{EXP_SCALE, RECIPROCAL_SCALE, SoftmaxTables};
use protocol::gates::table::{gelu, gelu_tanh, silu};
use std::sync::Arc;

/// Repeatable numbers, of no importance.
struct Numbers(u64);

impl Numbers {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let v = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let v = (v ^ (v >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        v ^ (v >> 31)
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / 2f64.powi(53)
    }

    /// Roughly normal.
    fn bell(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// The value of a table in the clear, and the parameters of its entries.
fn value(t: &FunctionTable, x: u64, lambda: u64) -> f64 {
    let (found, out) = match &t.table {
        Pieces::Alone(t) => (t.clear(x, lambda, Ring::Z64), t.spec.out_scale()),
        Pieces::Gated(t) => (t.table.clear(x, lambda, Ring::Z64), t.table.spec().out_scale()),
    };
    found as i64 as f64 / 2f64.powi(out as i32)
}

/// Largest error of a table over its whole range, with and without masks.
fn error(plan: TablePlan, f: fn(f64) -> f64) -> f64 {
    const POINTS: i64 = 150_000;
    let table = plan.table(&kernels::cpu::Cpu::best(), f);
    let (low, high) = match &table.table {
        Pieces::Alone(t) => t.spec.range(),
        Pieces::Gated(t) => t.table.spec().range(),
    };
    let unit = 2f64.powi(SCALE as i32);
    let (from, to) = ((low * unit) as i64, (high * unit) as i64);
    let mut numbers = Numbers(u64::from(plan.range_log2));
    let mut worst = 0f64;
    for i in 0..POINTS {
        let x = from + (to - 1 - from) * i / (POINTS - 1);
        let exact = f(x as f64 / unit);
        for lambda in [0, numbers.word(), numbers.word()] {
            worst = worst.max((value(&table, x as u64, lambda) - exact).abs());
        }
    }
    worst
}

#[test]
fn activations() {
    for range_log2 in 3..=8 {
        let at = |step, product| TablePlan::covering(range_log2, step, product);
        let check = |name: &str, plan, f, most: f64| {
            let found = error(plan, f);
            println!("{name} over ±{}: {found:.2e}", 1 << range_log2);
            assert!(found <= most, "{name} over ±{}: {found:e}", 1 << range_log2);
        };
        check("GeLU", at(Step::Activation, None), gelu, 3e-4);
        check("GeLU by tanh", at(Step::Activation, None), gelu_tanh, 3e-4);
        check("SiLU", at(Step::Activation, None), silu, 3e-4);
        check("tanh", at(Step::Pooler, None), libm::tanh, 1e-4);
        for product in [0, 6, 11, 13, 14, 16, 19] {
            check(&format!("SiLU with products to 2^{product}"), at(Step::Gated, Some(product)), silu, 8e-4);
            let chosen = TablePlan::gated(range_log2, product);
            if chosen.polynomials == Polynomials::Quadratics {
                check(&format!("SiLU with products to 2^{product}, by quadratics"), chosen, silu, 3e-4);
            }
        }
    }
}

/// Largest error where functions are curved, in ±12, with roundings at their worst: the low bits that both sides drop are all
/// zero, or all one.
fn worst_error(plan: TablePlan, f: fn(f64) -> f64) -> f64 {
    const POINTS: usize = 400_000;
    let table = plan.table(&kernels::cpu::Cpu::best(), f);
    let drop = table.gated().table.spec().drop;
    let (dropped, unit) = ((1u64 << drop) - 1, 2f64.powi(SCALE as i32));
    let (mut numbers, mut worst) = (Numbers(7), 0f64);
    for _ in 0..POINTS {
        let x = ((24.0 * numbers.unit() - 12.0) * unit) as i64 as u64 & !dropped;
        let lambda = numbers.word() & !dropped;
        for (x, lambda) in [(x, lambda), (x.wrapping_add(2 * dropped), lambda | dropped)] {
            worst = worst.max((value(&table, x, lambda) - f(x as i64 as f64 / unit)).abs());
        }
    }
    worst
}

/// Quadratics err no more than the lines in whose place they are.
#[test]
fn gated_quadratics_err_no_more_than_lines() {
    for (name, f) in [("SiLU", silu as fn(f64) -> f64), ("GeLU", gelu), ("GeLU by tanh", gelu_tanh)] {
        for range_log2 in 4..=8 {
            for product in 11..=13 {
                let lines = TablePlan::covering(range_log2, Step::Gated, Some(product));
                let chosen = TablePlan::gated(range_log2, product);
                assert_eq!(chosen == lines, range_log2 == 4, "{chosen:?}");
                let [of_lines, of_chosen] = [lines, chosen].map(|plan| worst_error(plan, f));
                println!(
                    "{name} over ±{}, products to 2^{product}: {of_lines:.3e} by lines, {of_chosen:.3e} by {chosen:?}",
                    1 << range_log2,
                );
                assert!(of_chosen <= of_lines, "{name} over ±{}: {of_chosen:e}", 1 << range_log2);
            }
        }
    }
}

/// Functions at the very ends of their range fit the ring in which they are computed.
#[test]
fn values_fit_their_narrow_ring() {
    for (step, f) in [
        (Step::Activation, gelu as fn(f64) -> f64),
        (Step::Activation, gelu_tanh),
        (Step::Activation, silu),
        (Step::Pooler, libm::tanh),
    ] {
        for range_log2 in 1..=8 {
            let plan = TablePlan::covering(range_log2, step, None);
            let table = plan.table(&kernels::cpu::Cpu::best(), f);
            let t = table.alone();
            let limit = 2f64.powi((t.bits - 2 - t.spec.out_scale()) as i32);
            let (low, high) = t.spec.range();
            let unit = 2f64.powi(SCALE as i32);
            for x in [(low * unit) as i64, (high * unit) as i64 - 1] {
                let exact = f(x as f64 / unit);
                for lambda in 0..1 << 10 {
                    let found = value(&table, x as u64, lambda << 8 | lambda);
                    assert!(
                        (found - exact).abs() < 3e-4 && exact.abs() * 1.01 < limit,
                        "{found} {exact} {limit}"
                    );
                }
            }
        }
    }
}

/// The extremes of what a plan from outside may ask for are tables too, if poor ones.
#[test]
fn extreme_plans_have_tables() {
    for (range_log2, entries_log2) in [(1, 4), (1, 12), (8, 4), (8, 12)] {
        use Polynomials::{Lines, Quadratics};
        for (polynomials, product_log2) in [
            (Quadratics, None),
            (Quadratics, Some(0)),
            (Quadratics, Some(TablePlan::LARGEST_QUADRATIC_PRODUCT_LOG2)),
            (Lines, Some(0)),
            (Lines, Some(TablePlan::LARGEST_PRODUCT_LOG2)),
        ] {
            let plan = TablePlan { range_log2, entries_log2, polynomials, product_log2 };
            let table = plan.table(&kernels::cpu::Cpu::best(), gelu);
            let step = 2f64.powi(range_log2 as i32 + 1 - entries_log2 as i32);
            for x in [-step, 0.0, step] {
                let found = value(&table, (x * 2f64.powi(SCALE as i32)) as i64 as u64, 0);
                // Windows of 1.0625 steps, a second derivative below 0.8, roundings.
                let most = ((1.0625 * step).powi(2) * 0.05 + 0.02 * step + 1e-3).min(10.0);
                assert!((found - gelu(x)).abs() < most, "{plan:?} at {x}: {found}");
            }
        }
    }
}

/// Rows of scores of many kinds, within ±bound.
fn score_rows(n: usize, bound: f64, numbers: &mut Numbers) -> Vec<Vec<f64>> {
    let mut rows = vec![];
    for deviation in [0.01, 1.0, 4.0, 12.0] {
        for shift in [-0.9, -0.3, 0.0, 0.7] {
            rows.push((0..n).map(|_| shift * bound + deviation * numbers.bell()).collect::<Vec<_>>());
        }
    }
    rows.push(vec![bound - 0.01; n]);
    rows.push((0..n).map(|i| bound * (2.0 * i as f64 / n as f64 - 1.0)).collect());
    // One leader, at any place within a bucket of the maximum.
    for lead in 0..16 {
        let mut row: Vec<f64> = (0..n).map(|_| numbers.bell() - 3.0).collect();
        row[n / 2] = f64::from(lead) / 4.0;
        rows.push(row);
    }
    rows.iter_mut().flatten().for_each(|v| *v = v.clamp(-bound + 0.01, bound - 0.01));
    rows
}

fn exact_softmax(scores: &[u64]) -> Vec<f64> {
    let scores: Vec<f64> = scores.iter().map(|&v| v as i64 as f64 / 2f64.powi(SCALE as i32)).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|e| e / total).collect()
}

/// Softmax as the gates compute it, all that masks decide decided by chance.
fn masked_softmax(scores: &[u64], t: &SoftmaxTables, numbers: &mut Numbers) -> Vec<f64> {
    let bucket = SCALE + 2;
    let max = scores.iter().map(|&v| v as i64).max().unwrap();
    let shift = ((max >> bucket) + (numbers.word() & 1) as i64) << bucket;
    let e: Vec<u64> = scores
        .iter()
        .map(|&v| {
            // A truncation rounds up as often as the bits that it drops say.
            let z = t.exp.clear((v as i64 - shift) as u64, numbers.word(), Ring::Z64);
            let dither = numbers.word() & ((1 << (OUT_SCALE - EXP_SCALE)) - 1);
            ((z.wrapping_add(dither)) as i64 >> (OUT_SCALE - EXP_SCALE)) as u64
        })
        .collect();
    let r = t.reciprocal(scores.len()).clear(e.iter().sum(), 1);
    let unit = 2f64.powi((EXP_SCALE + RECIPROCAL_SCALE) as i32);
    e.iter().map(|&e| e as f64 * r as f64 / unit).collect()
}

#[test]
fn softmax() {
    let device = kernels::cpu::Cpu::best();
    let mut numbers = Numbers(3);
    for buckets in [64, 128] {
        let tables = Arc::new(SoftmaxTables::new(&device, SCALE, Levels::new(buckets), 4096));
        for n in [1, 2, 3, 17, 64, 65, 512, 513, 4096] {
            let mut worst = [0f64; 2];
            for row in score_rows(n, tables.bound(), &mut numbers) {
                let unit = 2f64.powi(SCALE as i32);
                let data: Vec<u64> = row.iter().map(|v| (v * unit).round() as i64 as u64).collect();
                let exact = exact_softmax(&data);
                let (a, s) = (Clear::new(&device), AttentionShape::causal(1, 1, 2, &[(1, n)]));
                let scores = Ints { rows: n, cols: 1, data };
                let e = complete(a.exponentials(&scores, &s, &tables)).unwrap();
                let r = complete(a.reciprocal_sums(&e, &s, &tables)).unwrap();
                let unit = 2f64.powi((EXP_SCALE + RECIPROCAL_SCALE) as i32);
                let clear: Vec<f64> = e.data.iter().map(|&e| e as f64 * r.data[0] as f64 / unit).collect();
                let masked = masked_softmax(&scores.data, &tables, &mut numbers);
                for (worst, found) in worst.iter_mut().zip([clear, masked]) {
                    let of_sum = (found.iter().sum::<f64>() - 1.0).abs();
                    *worst = worst.max(read::difference(&found, &exact)).max(of_sum);
                }
            }
            println!("softmax of {n}, {buckets} buckets: Clear {:.1e}, masked {:.1e}", worst[0], worst[1]);
            // Clear rounds many small exponentials of a row to the same side, the gates by chance.
            assert!(worst[0] <= 1e-3 && worst[1] <= 5e-4, "softmax of {n} scores: {worst:?}");
        }
    }
}

/// Largest relative error of a norm's factor for rows all over its range.
fn norm_error(t: &NormTable, d: usize, eps: f64, low: f64, high: f64, numbers: &mut Numbers) -> f64 {
    let unit = 2f64.powi(SCALE as i32);
    let mut worst = 0f64;
    const STEPS: usize = 97;
    for i in 0..STEPS {
        // Within the range whatever rounding does.
        let square = low * 1.1 * (high / low * 0.8).powf(i as f64 / (STEPS - 1) as f64);
        for shape in 0..3 {
            let mut row: Vec<f64> = (0..d).map(|_| numbers.bell()).collect();
            match shape {
                0 => {}
                // One channel that dwarfs the others.
                1 => row[d / 3] = 30.0 * (d as f64).sqrt(),
                // Far from centred.
                _ => row.iter_mut().for_each(|v| *v += 2.0),
            }
            let mean = if t.kind == NormKind::Layer { row.iter().sum::<f64>() / d as f64 } else { 0.0 };
            let own = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d as f64;
            let ints: Vec<i64> =
                row.iter().map(|v| (v * (square / own).sqrt() * unit).round() as i64).collect();
            let value = |v: &i64| *v as f64 / unit;
            let mean = match t.kind {
                NormKind::Layer => ints.iter().map(value).sum::<f64>() / d as f64,
                NormKind::Rms => 0.0,
            };
            let square = ints.iter().map(|v| (value(v) - mean).powi(2)).sum::<f64>() / d as f64;
            let words: Vec<u64> = ints.iter().map(|&v| v as u64).collect();
            let found = t.clear(&words).unwrap_or_else(|| panic!("{square} is within {low}..{high}"));
            let scale = 2f64.powi((SCALE + t.factor_scale) as i32);
            // All elements have the same factor; the largest shows it best.
            let centred = |i: &usize| (value(&ints[*i]) - mean).abs();
            let at = (0..d).max_by(|a, b| centred(a).total_cmp(&centred(b))).unwrap();
            let exact = (value(&ints[at]) - mean) / (square + eps).sqrt();
            worst = worst.max((found[at] as i64 as f64 / scale / exact - 1.0).abs());
        }
    }
    worst
}

#[test]
fn norms() {
    let device = kernels::cpu::Cpu::best();
    let mut numbers = Numbers(4);
    for (kind, d) in
        [NormKind::Rms, NormKind::Layer].into_iter().flat_map(|k| [32, 384, 768, 4096].map(|d| (k, d)))
    {
        let (mut worst, mut refused) = (0f64, 0);
        for (low, octaves) in
            [-29, -20, -14, -8, -2, 4].into_iter().flat_map(|l| [2, 8, 16, 24, 32, 40].map(|o| (l, o)))
        {
            let range = NormRange { low: 2f64.powi(low), high: 2f64.powi(low + octaves) };
            if range.validate(kind, d).is_err() {
                refused += 1;
                continue;
            }
            for eps in [1e-5, 1e-12] {
                let t = NormTable::new(&device, kind, d, SCALE, eps, range.low, range.high);
                let found = norm_error(&t, d, eps, range.low, range.high, &mut numbers);
                assert!(found <= 1e-3, "{kind:?} norm of {d}, {range:?}: {found:e}");
                worst = worst.max(found);
            }
        }
        println!("{kind:?} norm of {d}: {worst:.1e} relative, {refused} ranges refused");
        assert!(refused > 0, "wide ranges are refused");
    }
    // What models have: massive activations of 10^4 in a LLaMA, LayerNorms behind a BERT's residuals.
    for (kind, d, low, high) in [(NormKind::Rms, 4096, -14, 19), (NormKind::Layer, 1024, -6, 12)] {
        let range = NormRange { low: 2f64.powi(low), high: 2f64.powi(high) };
        range.validate(kind, d).unwrap();
    }
}
