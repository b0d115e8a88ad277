//! RMSNorm and LayerNorm without gain and bias (those are folded into the next weight matrix before sharing).
//!
//! Both are x ↦ c(x)·g(S): c linear and local, S one quadratic statistic a row, g a row gate.
//! RMSNorm: c(x) = x, S = Σ x², g(S) = (S/d + ε)^(−1/2).
//! LayerNorm: c(x) = d·x − Σx, S = d·Σx² − (Σx)² = d²·var, g(S) = (S/d² + ε)^(−1/2) / d, exact in integers.

use super::lift::{self, Lifted};
use super::product::{bilinear, drop_low, product_cost, square_sum};
use super::row::{self, RowTable};
use super::truncate::truncate;
use crate::{Cost, Cx, Product, Result, Shape, Share};
use kernels::{Device, Words};

/// Pieces an octave of the factor.
const SEGMENTS: u32 = 16;

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square.
    Rms,
    /// Mean and variance.
    Layer,
}

/// Tables of one norm.
#[derive(Clone, Debug)]
pub struct NormTable {
    /// Which norm.
    pub kind: NormKind,
    /// Low bits of the input that the statistic ignores, so that rows of large norm do not overflow it.
    pub input_drop: u32,
    /// Bits truncated off the statistic before the row gate.
    pub statistic_drop: u32,
    /// The factor's fractional bits.
    pub factor_scale: u32,
    /// g.
    pub row: RowTable,
}

/// Low bits dropped off inputs at `scale`, and then off the statistic, where the statistic goes up to `high`.
///
/// The row gate takes S below 2^52 in its units as it is. A larger S is computed from shortened inputs, which holds
/// modulo 2^(64 − input_drop) only, and truncated to 2^46.
pub fn dropped(high: f64, scale: u32) -> (u32, u32) {
    let top = (high.log2() + 2.0 * f64::from(scale)).ceil() as i64;
    if top <= 52 {
        return (0, 0);
    }
    let d = (top - 60).max(0);
    (d as u32, (top - 2 * d - 46).max(0) as u32)
}

impl NormTable {
    /// For rows of `d` elements at `scale` whose mean square (RMS) or variance (Layer) lies in [low, high).
    pub fn new(
        device: &Device,
        kind: NormKind,
        d: usize,
        scale: u32,
        eps: f64,
        low: f64,
        high: f64,
    ) -> NormTable {
        let d = d as f64;
        let per = match kind {
            NormKind::Rms => d,
            NormKind::Layer => d * d,
        };
        let divide = match kind {
            NormKind::Rms => 1.0,
            NormKind::Layer => d,
        };
        let g = move |s: f64| 1.0 / ((s / per + eps).sqrt() * divide);
        let (low, high) = (low * per, high * per);
        let (input_drop, statistic_drop) = dropped(high, scale);
        // 2^16 units at the smallest factor, as far as the product with a row of length √d stays below 2^61.
        let most = 61.0 - f64::from(scale) - (d.log2() / 2.0).ceil();
        let factor_scale = (16.0 - g(high).log2()).ceil().clamp(14.0, most.min(40.0)) as u32;
        let (in_scale, known) = (2 * (scale - input_drop) - statistic_drop, 64 - input_drop - statistic_drop);
        let row = RowTable::modulo(device, in_scale, (low, high), SEGMENTS, known, g);
        NormTable { kind, input_drop, statistic_drop, factor_scale, row }
    }
}

/// The norm's linear part: x, or d·x − Σx.
fn centred(x: &Share, kind: NormKind) -> Share {
    match kind {
        NormKind::Rms => x.clone(),
        NormKind::Layer => {
            let d = x.shape.cols;
            let centre = |w: &Words| {
                Words::formula([w.into(), w.sum_rows(d).for_rows(d)], |[w, sum]| w * d as u64 - sum)
            };
            // Only lifted factors multiply it, for which the dealer needs λ alone.
            let (delta, lambda) = (x.delta.as_ref().map(centre), centre(&x.lambda));
            Share { shape: x.shape, scale: x.scale, delta, lambda, first: None }
        }
    }
}

fn statistic(cx: &Cx, x: &Share, kind: NormKind) -> Result<Product> {
    match kind {
        NormKind::Rms => square_sum(cx, x),
        NormKind::Layer => {
            let d = x.shape.cols;
            let column = Shape::new(x.shape.rows, 1);
            bilinear(cx, x, x, column, |a, b| {
                let [squares, a, b] = [&(a * b), a, b].map(|w| w.sum_rows(d));
                Words::formula([&squares, &a, &b], |[squares, a, b]| squares * d as u64 - a * b)
            })
        }
    }
}

/// The factor g(S) of each row, as summands. Three exchanges.
async fn factor(cx: &Cx<'_>, x: &Share, t: &NormTable) -> Result<Vec<Lifted>> {
    let cx = &cx.scope("statistic");
    let z = match t.input_drop {
        0 => statistic(cx, x, t.kind)?,
        d => statistic(cx, &drop_low(cx, x, d)?, t.kind)?,
    };
    let s = lift::open(cx, z.modulo(cx.ring().bits() - t.input_drop), t.statistic_drop).await?;
    row::factors(&cx.scope("factor"), &s, &t.row, t.factor_scale).await
}

/// The normalised rows at the scale of x. Five exchanges.
pub async fn norm(cx: &Cx<'_>, x: &Share, t: &NormTable) -> Result<Share> {
    let r = factor(cx, x, t).await?;
    let cx = cx.scope("scale");
    let z = row::product(&cx, &centred(x, t.kind), &r, |r| r.for_rows(x.shape.cols))?;
    truncate(&cx, z, t.factor_scale).await
}

impl NormTable {
    /// Every number of the table, for the program digest.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        [self.input_drop, self.statistic_drop, self.factor_scale]
            .map(u64::from)
            .into_iter()
            .chain(self.row.words())
    }

    /// Declared cost of [`norm`] for rows of `d` elements.
    pub fn cost(&self, rows: usize, d: usize, ring_bits: u32) -> Cost {
        let dropped = if self.input_drop == 0 { 0 } else { rows * d };
        let from = (ring_bits - self.input_drop, self.statistic_drop);
        product_cost(dropped, ring_bits)
            .then(product_cost(rows, ring_bits))
            .then(lift::cost(rows, from.0, from.1, ring_bits))
            .then(self.row.factors_cost(rows, from, self.factor_scale, ring_bits))
            .then(self.row.product_cost(rows * d, self.factor_scale, ring_bits))
            .then(super::truncate::cost(rows * d, self.factor_scale, ring_bits))
    }

    /// The meaning of [`norm`] in the clear before the last truncation, for one row: centred elements times the factor,
    /// and the factor's statistic. None if the statistic leaves the table's range.
    pub fn clear(&self, row: &[u64]) -> Option<Vec<u64>> {
        let d = row.len() as i128;
        // To the nearest, as the gate does on average.
        let half = (1i64 << self.input_drop) >> 1;
        let short = |v: u64| ((v as i64 + half) >> self.input_drop) as i128;
        let squares: i128 = row.iter().map(|&v| short(v) * short(v)).sum();
        let sum: i128 = row.iter().map(|&v| short(v)).sum();
        let statistic = match self.kind {
            NormKind::Rms => squares,
            NormKind::Layer => d * squares - sum * sum,
        } >> self.statistic_drop;
        let value = statistic as f64 / 2f64.powi(self.row.in_scale as i32);
        if !(self.row.low..self.row.high).contains(&value) {
            return None;
        }
        let factor = self.row.clear(statistic as u64, self.factor_scale);
        let total = row.iter().fold(0u64, |a, v| a.wrapping_add(*v));
        let centred = |v: &u64| match self.kind {
            NormKind::Rms => *v,
            NormKind::Layer => v.wrapping_mul(d as u64).wrapping_sub(total),
        };
        Some(row.iter().map(|v| centred(v).wrapping_mul(factor)).collect())
    }
}
