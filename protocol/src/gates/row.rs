//! Row gate: a function of a shared scalar over many octaves (1/√S, 1/S), piecewise linear on geometric segments.
//!
//! The comparisons \[S ≥ τ_j\] with the ends of the segments (`at_least.rs`) are additive and local, and so are slope and
//! intercept of S's segment, Σ (c_j − c_{j−1})·\[S ≥ τ_j\]. The slope is opened under a mask, multiplied with S, the
//! intercept's halves added, the sum truncated. S and the result may be [`Lifted`] values: comparisons look at S modulo a
//! power of two only, and otherwise both are factors of products.
//!
//! Comparisons err by less than 1/5 of a segment: `Thresholds` says in which direction comparisons err, and every
//! line is fitted to all S for which it can be chosen.

use super::at_least::{Thresholds, at_least};
use super::lift::{self, Lifted};
use super::product::ring_item;
use super::table::{fixed, pow2};
use super::truncate::truncate;
use crate::{Cost, Cx, Op, Product, Purpose, Result, Shape, Share, bytes, join_all};
use kernels::{Device, Indices, Input, Matrix, Words};

/// Smallest slope, in units: with fewer bits its rounding would show. A new band starts below it.
const LEAST_SLOPE: f64 = 64.0;

/// Octaves whose thresholds are compared equally closely: a stop of the comparison costs 32 bytes, a bit that is compared
/// in vain a node of the tree for each threshold.
const OCTAVES: u32 = 3;

/// Bits behind its leading one that the comparison with a threshold looks at, at the least: an eighth of a segment.
fn compared(segments: u32) -> u32 {
    segments.ilog2() + 3
}

/// Low bits of S that the comparison with a threshold ignores, both in units.
fn ignored(threshold: u64, segments: u32) -> u32 {
    threshold.max(1).ilog2().saturating_sub(compared(segments)) / OCTAVES * OCTAVES
}

/// A range of segments whose lines share one scale. Lines are zero outside their band, and the function is the sum of
/// the bands, so that a function over many octaves keeps its relative precision.
#[derive(Clone, Debug)]
struct Band {
    /// Fractional bits of slope · S.
    line_scale: u32,
    /// Slope and intercept below the first threshold.
    first: [u64; 2],
    /// Changes of slope and intercept at each threshold.
    steps: [Vec<u64>; 2],
}

/// A piecewise linear function on geometric segments of [low, high), constant below and up to 16·high, or as far as S is known.
#[derive(Clone, Debug)]
pub struct RowTable {
    /// Fractional bits of S.
    pub in_scale: u32,
    /// Range of S in which the function is followed.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The ends of the segments.
    thresholds: Thresholds,
    bands: Vec<Band>,
    /// All slopes, then all intercepts, below the first threshold.
    first: Words,
    /// Their changes at each threshold.
    device_steps: Matrix,
}

impl RowTable {
    /// Follows a decreasing, convex, positive `f` (deterministic arithmetic) for S in [low, high) at `in_scale`, with
    /// `segments` pieces an octave. The relative error for 1/√S is about 0.03 / segments², for 1/S 0.06 / segments².
    ///
    /// # Panics
    /// If the range does not fit the ring at this scale, or if `segments` is not a power of two.
    pub fn new(
        device: &Device,
        in_scale: u32,
        range: (f64, f64),
        segments: u32,
        f: impl Fn(f64) -> f64,
    ) -> RowTable {
        RowTable::modulo(device, in_scale, range, segments, 64, f)
    }

    /// The same for S that is compared modulo 2^known: 2^known units are more than 4·high.
    pub(crate) fn modulo(
        device: &Device,
        in_scale: u32,
        (low, high): (f64, f64),
        segments: u32,
        known: u32,
        f: impl Fn(f64) -> f64,
    ) -> RowTable {
        let unit = pow2(in_scale as i32);
        assert!(segments.is_power_of_two(), "{segments} pieces an octave");
        assert!(
            0.0 < low && low < high && high * unit < pow2(54),
            "row gate range {low}..{high} at 2^{in_scale}"
        );
        // At the low end too an eighth of a segment of the lower octave: what a comparison loses is below 1/5 of a segment.
        let drop = ((low * unit).log2() - f64::from(compared(segments))).floor().max(0.0) as u32;
        // Beyond the range the function stays constant as far as comparisons reach: up to 16 times `high` where S is known
        // as far, and down to minus as much. There S wraps.
        let top = (high * unit).log2().ceil() as u32;
        assert!(top + 3 <= known, "row gate range {low}..{high} at 2^{in_scale} modulo 2^{known}");
        let bits = (top + 5).min(known).saturating_sub(drop).max(2);
        let count = ((high / low).log2() * f64::from(segments)).ceil() as usize;
        let step = pow2(drop as i32 - in_scale as i32);
        let at = |j: usize| low * libm::exp2(j as f64 / f64::from(segments));
        let mut thresholds: Vec<u64> = (0..=count).map(|j| (at(j) / step).floor() as u64).collect();
        thresholds.dedup();
        let ignored: Vec<u32> = thresholds.iter().map(|&t| ignored(t, segments)).collect();
        // No S below `high` may be taken for one of the constant above.
        if let (Some(end), Some(ignored)) = (thresholds.last_mut(), ignored.last()) {
            *end += (1 << ignored) - 1;
        }

        let scale_at = |s: f64| (60.0 - (1.5 * f(s)).log2()).floor() as u32;
        // (band, slope, intercept) of every segment: constant, linear …, constant.
        let mut scales = vec![scale_at(low)];
        let mut lines = vec![(0, 0, fixed(f(low), scales[0]))];
        for (pair, ignored) in thresholds.windows(2).zip(&ignored) {
            // The first comparison may be early, the second one late.
            let (from, to) = ((pair[0] + 1 - (1 << ignored)) as f64 * step, (pair[1] + 1) as f64 * step);
            let exact = (f(to) - f(from)) / (to - from);
            let slope_unit = |line_scale: u32| pow2(line_scale as i32 - in_scale as i32);
            if -exact * slope_unit(*scales.last().expect("one band")) < LEAST_SLOPE {
                scales.push(scale_at(from));
            }
            let (band, line_scale) = (scales.len() - 1, *scales.last().expect("one band"));
            let slope = (exact * slope_unit(line_scale)).round();
            let residual = |i: u32| {
                let s = from + (to - from) * f64::from(i) / 32.0;
                f(s) - slope / slope_unit(line_scale) * s
            };
            let ends = (0..=32)
                .map(residual)
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), r| (l.min(r), h.max(r)));
            lines.push((band, slope as i64 as u64, fixed((ends.0 + ends.1) / 2.0, line_scale)));
        }
        let last = scales.len() - 1;
        lines.push((last, 0, fixed(f(high), scales[last])));

        let bands: Vec<Band> = scales
            .iter()
            .enumerate()
            .map(|(b, &line_scale)| {
                let own = |l: &(usize, u64, u64)| if l.0 == b { [l.1, l.2] } else { [0, 0] };
                let steps = [0, 1]
                    .map(|c| lines.windows(2).map(|w| own(&w[1])[c].wrapping_sub(own(&w[0])[c])).collect());
                Band { line_scale, first: own(&lines[0]), steps }
            })
            .collect();
        // Outputs: all slopes, then all intercepts.
        let flat: Vec<u64> =
            [0, 1].iter().flat_map(|&c| bands.iter().flat_map(move |b| b.steps[c].clone())).collect();
        let first = [0, 1].iter().flat_map(|&c| bands.iter().map(move |b| b.first[c])).collect();
        RowTable {
            in_scale,
            low,
            high,
            first: Words::upload(device, first),
            device_steps: Matrix::new(&Words::upload(device, flat), 2 * bands.len(), thresholds.len()),
            thresholds: Thresholds::new(drop, bits, thresholds, &ignored),
            bands,
        }
    }

    /// Number of thresholds.
    pub fn thresholds(&self) -> usize {
        self.thresholds.values().len()
    }

    /// The meaning in the clear at `scale`, for an S that compares exactly, rounding down.
    pub fn clear(&self, s: u64, scale: u32) -> u64 {
        let reached = if (s as i64) < 0 { 0 } else { self.thresholds.clear(s) };
        let value = |b: &Band| {
            let coefficient =
                |c: usize| b.steps[c][..reached].iter().fold(b.first[c], |a, &d| a.wrapping_add(d));
            (coefficient(0).wrapping_mul(s).wrapping_add(coefficient(1)) as i64 >> (b.line_scale - scale))
                as u64
        };
        self.bands.iter().map(value).fold(0, u64::wrapping_add)
    }

    /// Every number of the table, for the program digest.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        let bands = self.bands.iter().flat_map(|b| {
            std::iter::once(u64::from(b.line_scale)).chain(b.first).chain(b.steps.iter().flatten().copied())
        });
        self.thresholds.words().chain(bands)
    }

    /// Declared cost of [`evaluate`] for `rows` elements.
    pub fn cost(&self, rows: usize, scale: u32, ring_bits: u32) -> Cost {
        self.lines_cost(rows, (ring_bits, 0), ring_bits).then(self.sum_cost(rows, scale, ring_bits))
    }

    /// Declared cost of [`sum`] for `rows` elements.
    pub(crate) fn sum_cost(&self, rows: usize, scale: u32, ring_bits: u32) -> Cost {
        self.each_band(scale, |f| super::truncate::cost(rows, f, ring_bits))
    }

    /// Declared cost of [`factors`] for `rows` statistics that were truncated `from` k bits by f.
    pub fn factors_cost(&self, rows: usize, from: (u32, u32), scale: u32, ring_bits: u32) -> Cost {
        self.lines_cost(rows, from, ring_bits).then(self.lifted_cost(rows, scale, ring_bits))
    }

    /// Declared cost of [`lifted`] for `rows` elements.
    pub(crate) fn lifted_cost(&self, rows: usize, scale: u32, ring_bits: u32) -> Cost {
        self.each_band(scale, |f| lift::cost(rows, ring_bits, f, ring_bits))
    }

    /// Declared cost of [`product`] for `n` results.
    pub fn product_cost(&self, n: usize, scale: u32, ring_bits: u32) -> Cost {
        self.each_band(scale, |f| lift::times_cost(n, ring_bits, f, ring_bits))
    }

    /// Declared cost of [`lines`] for `rows` elements.
    pub(crate) fn lines_cost(&self, rows: usize, (k, f): (u32, u32), ring_bits: u32) -> Cost {
        let product = |_| lift::times_cost(rows, k, f, ring_bits);
        let slopes = Cost::round(bytes(rows * self.bands.len(), ring_bits));
        self.thresholds.cost(rows, ring_bits).then(slopes).then(self.each_band(0, product))
    }

    /// What all bands cost side by side, given the bits by which each line is truncated to `scale`.
    fn each_band(&self, scale: u32, cost: impl Fn(u32) -> Cost) -> Cost {
        let bands = self.bands.iter().map(|b| cost(b.line_scale - scale));
        bands.reduce(Cost::beside).expect("at least one band")
    }
}

/// f(S) at `scale` for a column S. Three exchanges.
pub async fn evaluate(cx: &Cx<'_>, s: &Share, table: &RowTable, scale: u32) -> Result<Share> {
    let lines = lines(cx, &s.clone().into(), table, |_| 0).await?;
    sum(cx, lines, scale).await
}

/// The bands' lines at `scale`, added up. Two exchanges.
pub(crate) async fn sum(cx: &Cx<'_>, lines: Vec<Product>, scale: u32) -> Result<Share> {
    let values = join_all(lines.into_iter().map(|z| {
        let f = z.scale - scale;
        truncate(cx, z, f)
    }))
    .await?;
    Ok(values.into_iter().reduce(|a, b| a.add(&b)).expect("at least one band"))
}

/// The bands' lines at `scale` as factors. One exchange.
pub(crate) async fn lifted(cx: &Cx<'_>, lines: Vec<Product>, scale: u32) -> Result<Vec<Lifted>> {
    join_all(lines.into_iter().map(|z| {
        let f = z.scale - scale;
        lift::open(cx, z, f)
    }))
    .await
}

/// f(S) at `scale` as a factor of products, one summand a band. Two exchanges.
pub async fn factors(cx: &Cx<'_>, s: &Lifted, table: &RowTable, scale: u32) -> Result<Vec<Lifted>> {
    let ring = cx.ring().bits();
    let lines = lines(cx, s, table, |line_scale| lift::raise(cx, ring, line_scale - scale)).await?;
    join_all(lines.into_iter().map(|z| {
        let f = z.scale - scale;
        lift::open_raised(cx, z, f)
    }))
    .await
}

/// x times the sum of some factors, whose words `spread` lays out as those of x: see [`lift::times`].
pub fn product(
    cx: &Cx,
    x: &Share,
    factors: &[Lifted],
    spread: impl Fn(&Words) -> Input<'_>,
) -> Result<Product> {
    let mut sum: Option<Product> = None;
    for factor in factors {
        let before = sum.as_ref().and_then(|sum| sum.half.as_ref()).map(Input::from);
        sum = Some(lift::times(cx, x.into(), factor, &spread, (before, 0))?);
    }
    Ok(sum.expect("at least one band"))
}

/// Slope · S + intercept in each band, at its own scale, and what this party adds at that. One exchange.
pub(crate) async fn lines(
    cx: &Cx<'_>,
    s: &Lifted,
    table: &RowTable,
    plus: impl Fn(u32) -> u64,
) -> Result<Vec<Product>> {
    assert_eq!(s.low.scale, table.in_scale, "row gate for another scale");
    let (op, rows, shape) = (cx.op("row gate"), s.low.len(), s.low.shape);
    let (slopes, intercepts) = coefficients(cx, op, &s.low, table)?.unzip();
    let item = ring_item(cx, op, Purpose::Slope, rows * table.bands.len());
    let slopes = cx.open_share(item, slopes, Shape::new(table.bands.len(), rows), 0).await?;
    let line = |(b, band): (usize, &Band)| {
        let own = b * rows..(b + 1) * rows;
        let slope = slopes.at(&Indices::grid(own.start, [(1, 0), (rows, 1)]), shape);
        let intercept = intercepts.as_ref().map(|w| w.part(own));
        let line = lift::times(cx, slope, s, |w| w.into(), (intercept, plus(band.line_scale)))?;
        Ok(Product { scale: band.line_scale, ..line })
    };
    table.bands.iter().enumerate().map(line).collect()
}

/// An evaluator's halves of the bands' slopes and intercepts, band by band.
fn coefficients(cx: &Cx, op: Op, s: &Share, t: &RowTable) -> Result<Option<(Words, Words)>> {
    let rows = s.len();
    let Some(at_least) = at_least(cx, op, s, &t.thresholds)? else { return Ok(None) };
    let (all, ring) = (t.device_steps.apply(&at_least), cx.ring().bits());
    // The product has the bands' slopes and then their intercepts in each row.
    let bands = t.bands.len();
    let column = |c: usize| Indices::grid(c * bands, [(bands, 1), (rows, 2 * bands)]);
    let first = |c: usize| Indices::grid(c * bands, [(bands, 1), (rows, 0)]);
    let [slopes, intercepts] = if cx.is_p1() {
        let inputs = [all.at(&column(0)), t.first.at(&first(0)), all.at(&column(1)), t.first.at(&first(1))];
        Words::formulas(inputs, |[slope, a, intercept, b]| [slope + a, intercept + b].map(|c| c.low(ring)))
    } else {
        Words::formulas([all.at(&column(0)), all.at(&column(1))], |halves| halves.map(|c| c.low(ring)))
    };
    Ok(Some((slopes, intercepts)))
}
