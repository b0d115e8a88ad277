//! The ends of the gates' ranges, and what happens there: softmax with forced false zeros, row gates at every
//! threshold with the comparison's lost unit, the cut of bands, reveal.

mod common;

use common::{Case, flat, hash};
use kernels::Ring;
use protocol::gates::exp;
use protocol::gates::max::{self, Levels};
use protocol::gates::norm::{self, NormKind, NormTable};
use protocol::gates::reveal::{Reveal, reveal};
use protocol::gates::row::{self, RowTable};
use protocol::gates::softmax::{self, SoftmaxTables};
use protocol::gates::{product, truncate};
use protocol::testing::World;
use protocol::{KeyId, Purpose, Role, Shape, Share};

const IN: u32 = 36;

fn fix(v: f64, scale: u32) -> u64 {
    (v * 2f64.powi(scale as i32)).round() as i64 as u64
}

fn real(v: u64, scale: u32) -> f64 {
    v as i64 as f64 / 2f64.powi(scale as i32)
}

/// Uniform in [0, 1).
fn unit(parts: &[u64]) -> f64 {
    (hash(parts) >> 11) as f64 / 2f64.powi(53)
}

/// u = x − M and softmax for rows of scores, one run.
struct Rows {
    /// Largest u of each row.
    top: Vec<f64>,
    /// Largest error of the softmax of each row.
    error: Vec<f64>,
}

fn softmax_rows(
    seed: u64,
    tables: &SoftmaxTables,
    rows: usize,
    cols: usize,
    score: impl Fn(usize, usize) -> f64,
) -> Rows {
    let w = World::new(seed);
    let v: Vec<f64> = (0..rows * cols).map(|i| score(i / cols, i % cols)).collect();
    let words: Vec<u64> = v.iter().map(|x| fix(*x, IN)).collect();
    let o = w.run(w.share(&words, Shape::new(rows, cols), IN, 1), |cx, x| {
        let t = tables.clone();
        Box::pin(async move {
            let offsets = kernels::Segments::even(rows, cols);
            let row_of = offsets.numbers();
            let m = max::coarse_max(&cx, &x, &offsets, t.levels, 64).await?;
            let e = exp::exp(&cx, &x.sub_spread(&m, &row_of), &t.exp, softmax::EXP_SCALE).await?;
            let r = softmax::reciprocal_sums(&cx, &e, &offsets, &t).await?;
            let scaled = row::product(&cx, &e, &r, |r| r.for_rows(e.shape.cols))?;
            let y = truncate::truncate(&cx, scaled, softmax::RECIPROCAL_SCALE).await?;
            Ok((m, y))
        })
    });
    let m = w.open(&o.results.each_ref().map(|r| r.0.clone())).values;
    let y = w.open(&o.results.each_ref().map(|r| r.1.clone())).values;
    let mut all = Rows { top: vec![], error: vec![] };
    for (r, m) in m.iter().enumerate() {
        let at = r * cols..(r + 1) * cols;
        let (v, y) = (&v[at.clone()], &y[at]);
        let max = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = v.iter().map(|x| (x - max).exp()).sum();
        let errors =
            v.iter().zip(y).map(|(v, y)| (real(*y, softmax::EXP_SCALE) - (v - max).exp() / sum).abs());
        all.error.push(errors.fold(0f64, f64::max));
        all.top.push(max - real(*m, IN));
    }
    all
}

/// Rows of all kinds: one leader, several, flat, spread over the whole range.
fn mixed(seed: u64, bound: f64) -> impl Fn(usize, usize) -> f64 {
    move |r, c| {
        let (a, b) = (unit(&[seed, r as u64, c as u64]), unit(&[seed, r as u64, 1 << 32]));
        let centre = (2.0 * b - 1.0) * bound;
        match r % 4 {
            0 => ((2.0 * a - 1.0) * bound).clamp(-bound, bound),
            1 => centre,
            2 if c == r % 7 => centre,
            2 => (centre - 30.0 * a).max(-bound),
            _ => (centre + 3.0 * a).min(bound),
        }
    }
}

#[test]
fn softmax_over_the_whole_score_range() {
    for buckets in [64, 128] {
        let tables = SoftmaxTables::new(World::new(0).device(), IN, Levels::new(buckets), 8);
        let bound = tables.bound();
        let rows = softmax_rows(buckets as u64, &tables, 4000, 8, mixed(1, bound));
        let worst = rows.error.iter().copied().fold(0f64, f64::max);
        println!("{buckets} buckets, ±{bound}: worst error {worst:.2e}");
        assert!(worst < 1e-3, "error {worst}");
        let (low, high) = rows.top.iter().fold((9f64, -9f64), |(l, h), t| (l.min(*t), h.max(*t)));
        assert!(-4.0 <= low && high < 8.0, "largest u in [{low}, {high}]");
    }
}

/// κ = 9 instead of 24: every reached level is missed with probability 1/512.
#[test]
fn softmax_with_false_zeros() {
    let mut tables = SoftmaxTables::new(World::new(0).device(), IN, Levels::new(64), 8);
    tables.levels.blocks = &[3, 3, 3];
    let rows = softmax_rows(7, &tables, 12_000, 8, mixed(2, tables.bound()));
    let (mut one, mut two, mut lost) = (0, 0, 0);
    for (top, error) in rows.top.iter().zip(&rows.error) {
        assert!(*top >= -4.0);
        if *top < 8.0 {
            one += usize::from(*top >= 4.0);
            assert!(*error < 1e-3, "u_max {top}: error {error}");
        } else {
            two += 1;
            lost += usize::from(*error > 0.5);
            println!("two false zeros: u_max {top}, error {error:.2e}");
        }
    }
    println!("{one} rows with one false zero are right; {two} with more, {lost} of them lost");
    assert!(one > 150 && two > 5, "the test forces too few");
}

/// An eighth of an octave apart and thus at many thresholds, S just below and above, under masks that let the
/// comparison keep and lose its unit.
#[test]
fn row_gates_at_every_threshold() {
    let device = World::new(0).device().clone();
    let reciprocal = |segments| {
        RowTable::new(&device, softmax::EXP_SCALE, (1.0 / 64.0, 8.0 * 4096.0), segments, |s| 1.0 / s)
    };
    // Eighths of an octave from the lower end on, and the largest error. In the first eighth what few pieces compare less closely is
    // taken to be below the range.
    let tables = [
        ("1/S", reciprocal(16), softmax::RECIPROCAL_SCALE, 0, 1e-3),
        ("1/S in few pieces", reciprocal(4), softmax::RECIPROCAL_SCALE, 1, 2f64.powi(-7)),
        ("rms", NormTable::new(&device, NormKind::Rms, 64, 18, 1e-5, 1e-3, 1e3).row, 16, 0, 1e-3),
        ("layer", NormTable::new(&device, NormKind::Layer, 64, 18, 1e-5, 1e-3, 1e3).row, 26, 0, 1e-3),
    ];
    for (i, (name, table, out, first, most)) in tables.into_iter().enumerate() {
        let unit = 2f64.powi(table.in_scale as i32);
        let f = |s: f64| match name {
            "1/S" | "1/S in few pieces" => 1.0 / s,
            "rms" => 1.0 / (s / 64.0 + 1e-5).sqrt(),
            _ => 1.0 / ((s / 4096.0 + 1e-5).sqrt() * 64.0),
        };
        let octaves = (table.high / table.low).log2();
        let mut values = vec![];
        for j in first..(octaves * 8.0) as u32 {
            let t = (table.low * 2f64.powf(f64::from(j) / 8.0) * unit) as u64;
            values.extend([t - 1, t, t + 1, t + t / 37].map(|s| vec![s]));
        }
        let masks: Vec<Vec<u64>> = [0, (1 << 20) - 1, u64::MAX, 1 << 63].map(|m| vec![m, 0]).to_vec();
        let case = Case {
            seed: 3_000_000 + 1000 * i as u64,
            ring: Ring::Z64,
            inputs: &[(1, table.in_scale)],
            inner: &|lane| if lane == Purpose::Root as u8 { 2 } else { 1 },
            program: &|cx, x| {
                let table = table.clone();
                Box::pin(async move { Ok(vec![row::evaluate(&cx, &x[0], &table, out).await?]) })
            },
        };
        let worst = std::cell::Cell::new((0f64, 0f64));
        case.assert_correct(&values, &masks, &[], |x, _, y| {
            let s = x[0] as f64 / unit;
            let exact = f(s.max(table.low));
            // One unit of S, one of the output.
            let slack = 1.0 / x[0] as f64 + 2.0 * 2f64.powi(-(out as i32)) / exact;
            let e = (real(y[0][0], out) / exact - 1.0).abs() - slack;
            if e > worst.get().0 {
                worst.set((e, s));
            }
        });
        println!(
            "{name}: {} thresholds, worst relative error {:.2e} at {:e}",
            table.thresholds(),
            worst.get().0,
            worst.get().1
        );
        assert!(worst.get().0 < most, "{name}: {:?}", worst.get());
    }
}

/// S outside the table: constant on both sides, as far as the compared bits reach.
#[test]
fn row_gates_saturate() {
    let w = World::new(31);
    let table = RowTable::new(w.device(), 18, (0.25, 64.0), 16, |s| 1.0 / s);
    let s = [0.0, 0.01, 0.2499, -0.5, -60.0, 64.0, 65.0, 127.9];
    let words: Vec<u64> = s.iter().map(|v| fix(*v, 18)).collect();
    let o = w.run(w.share(&words, Shape::new(s.len(), 1), 18, 1), |cx, x| {
        let table = table.clone();
        Box::pin(async move { row::evaluate(&cx, &x, &table, 20).await })
    });
    for (s, y) in s.iter().zip(w.open(&o.results).values) {
        let (exact, y) = (1.0 / s.clamp(0.25, 64.0), real(y, 20));
        assert!((y / exact - 1.0).abs() < 1e-3, "f({s}) = {y}");
    }
}

/// Rows at both ends of a norm's range and large common offsets.
#[test]
fn norms_at_the_ends_of_their_range() {
    for (i, (kind, d, low, high)) in [
        (NormKind::Rms, 64, 1e-3, 1e3),
        (NormKind::Layer, 64, 1e-3, 1e3),
        (NormKind::Layer, 768, 0.01, 2000.0),
        (NormKind::Rms, 4096, 1e-3, 4e3),
    ]
    .into_iter()
    .enumerate()
    {
        let w = World::new(40 + i as u64);
        let t = NormTable::new(w.device(), kind, d, 18, 1e-5, low, high);
        let sizes = [low * 1.02, low * 2.0, 1.0, high / 2.0, high * 0.98];
        let mut v = vec![];
        for (r, size) in sizes.iter().enumerate() {
            let raw: Vec<f64> = (0..d).map(|c| unit(&[r as u64, c as u64]) - 0.5).collect();
            let mean = raw.iter().sum::<f64>() / d as f64;
            let var = raw.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
            let offset = if kind == NormKind::Layer { size.sqrt() } else { 0.0 };
            v.extend(raw.iter().map(|x| (x - mean) * (size / var).sqrt() + offset));
        }
        let words: Vec<u64> = v.iter().map(|x| fix(*x, 18)).collect();
        let o = w.run(w.share(&words, Shape::new(sizes.len(), d), 18, 1), |cx, x| {
            let t = t.clone();
            Box::pin(async move { norm::norm(&cx, &x, &t).await })
        });
        let y = w.open(&o.results).values;
        for (r, size) in sizes.iter().enumerate() {
            let row = &v[r * d..(r + 1) * d];
            let mean = if kind == NormKind::Layer { row.iter().sum::<f64>() / d as f64 } else { 0.0 };
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
            let worst = row
                .iter()
                .enumerate()
                .map(|(c, x)| (real(y[r * d + c], 18) - (x - mean) / (var + 1e-5).sqrt()).abs())
                .fold(0f64, f64::max);
            println!(
                "{kind:?} of {d}, size {size}: {worst:.2e} (drops {} {})",
                t.input_drop, t.statistic_drop
            );
            assert!(worst < 2e-3, "{kind:?} of {d}, size {size}: error {worst}");
        }
    }
}

/// All values of a small ring, lifted from fewer bits.
#[test]
fn truncation_from_fewer_bits() {
    let ring = Ring::new(7);
    for (k, f) in [(5u32, 1), (5, 2), (4, 0), (6, 3), (7, 2)] {
        let case = Case {
            seed: 3_100_000 + 10_000 * u64::from(k) + 1000 * u64::from(f),
            ring,
            inputs: &[(1, f)],
            inner: &flat,
            program: &move |cx, x| {
                Box::pin(async move {
                    Ok(vec![truncate::truncate(&cx, product::halves(&cx, &x[0]).modulo(k), f).await?])
                })
            },
        };
        let quarter = 1i64 << (k - 2);
        let values: Vec<Vec<u64>> = (-quarter..quarter).map(|z| vec![ring.reduce(z as u64)]).collect();
        // Halves that are right modulo 2^k only.
        let masks: Vec<Vec<u64>> = (0..1u64 << ring.bits()).map(|x0| vec![x0, 5]).collect();
        let digits = [(KeyId::K01, Purpose::WrapBit), (KeyId::K02, Purpose::WrapBit)];
        let near = |x: &[u64], out: &[Vec<u64>]| {
            let excess = ring.reduce(out[0][0].wrapping_sub(truncate::clear(ring, x[0], f)));
            assert!(excess <= 1, "{} >> {f} from {k} bits: floor + {excess}", ring.signed(x[0]));
        };
        case.assert_correct(&values, &masks, &digits, |x, _, out| near(x, out));
        for party in [Role::P1, Role::P2] {
            case.assert_views_uniform(party, &values[..4], 2, near);
        }
    }
}

#[test]
fn revealed_words_add_up() {
    let w = World::new(50);
    let n = 4000;
    let to = Reveal::LOGITS;
    let v: Vec<f64> = (0..n).map(|i| (unit(&[i]) - 0.5) * 65530.0).collect();
    let words: Vec<u64> = v.iter().map(|x| fix(*x, 36)).collect();
    let run = |words: &[u64]| {
        let o = w.run(w.share(words, Shape::new(n as usize, 1), 36, 1), |cx, x: Share| {
            Box::pin(async move { Ok(reveal(&cx, product::halves(&cx, &x), to).map(|w| w.to_vec())) })
        });
        assert_eq!(o.ledger.sent, [[0; 3]; 3]);
        assert!(o.results[0].is_none(), "the dealer has nothing to reveal");
        let [_, p1, p2] = o.results;
        (p1.expect("P1"), p2.expect("P2"))
    };
    let (p1, p2) = run(&words);
    for i in 0..n as usize {
        let error = (to.combine(p1[i], p2[i]) - real(words[i], 36)).abs();
        assert!(error <= 2f64.powi(-16), "{}: {error}", v[i]);
    }
    // Each word alone is blinded by the coin.
    assert!(p1.iter().chain(&p2).all(|x| *x < 1 << 32));
    let ones: u32 = p1.iter().map(|x| x.count_ones()).sum();
    assert!((f64::from(ones) - 16.0 * n as f64).abs() < 6.0 * (8.0 * n as f64).sqrt());
}
