//! Softmax of rows: coarse maximum, exponentials, and the reciprocal of the sum.
//!
//! softmax(x) = e^(x−M) / Σ e^(x−M) for any shift M near the maximum. In attention the division waits until after the
//! product with the values (a head's width of products a row instead of the row's length), so the parts are separate.

use super::exp::{self, ExpTable};
use super::lift::Lifted;
use super::max::{Levels, coarse_max};
use super::reciprocal::Reciprocals;
use super::row;
use super::truncate::truncate;
use crate::{Cx, Result, Share};
use kernels::{Device, Indices, Segments};

/// Fractional bits of exponentials. A row's largest may be e^−4, so it has three bits more than activations.
pub const EXP_SCALE: u32 = 21;

pub use super::reciprocal::RECIPROCAL_SCALE;

/// Tables of a softmax over scores at one scale.
#[derive(Clone, Debug)]
pub struct SoftmaxTables {
    /// Levels of the coarse maximum.
    pub levels: Levels,
    /// Exponential.
    pub exp: ExpTable,
    /// Reciprocals of row sums, by the longest row each is for. Short rows have small sums, and fewer octaves cost less.
    reciprocals: Vec<(usize, Reciprocals)>,
}

impl SoftmaxTables {
    /// For scores at `in_scale` in the range of `levels`, rows of at most `longest` scores.
    pub fn new(device: &Device, in_scale: u32, levels: Levels, longest: usize) -> SoftmaxTables {
        let mut lengths = vec![256];
        while lengths[lengths.len() - 1] < longest {
            lengths.push(lengths[lengths.len() - 1] * 2);
        }
        let reciprocal = |&length: &usize| {
            // The largest exponential lies between e^−4 and e^4, so the sum between e^−4 and length·e^4 < length·2^7;
            // the least `high` leaves room for ten leaders of e^8 each, after a false zero.
            let high = (length as f64 * 128.0).max(32768.0);
            (length, Reciprocals::new(device, EXP_SCALE, (1.0 / 64.0, high)))
        };
        SoftmaxTables {
            levels,
            exp: ExpTable::new(device, in_scale, levels.buckets),
            reciprocals: lengths.iter().map(reciprocal).collect(),
        }
    }

    /// The reciprocal for rows of at most `length` scores.
    ///
    /// # Panics
    /// If the tables were made for shorter rows.
    pub fn reciprocal(&self, length: usize) -> &Reciprocals {
        let fitting = self.reciprocals.iter().find(|(l, _)| *l >= length);
        &fitting.unwrap_or_else(|| panic!("a row of {length} scores is longer than the softmax's tables")).1
    }

    /// Low bits of scores that count: maximum and exponentials are the same for scores that differ by multiples of
    /// 2^score_bits. (A score has fewer buckets than an exponential has entries.)
    pub fn score_bits(&self) -> u32 {
        self.exp.input_bits()
    }

    /// Every number of the tables, for the program digest.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.exp.words().chain(self.reciprocals.iter().flat_map(|(_, t)| t.words()))
    }

    /// Scores for which maximum and exponentials are right, whatever the other scores of the row: ±bound.
    pub fn bound(&self) -> f64 {
        // u = x − M spans at most twice the bound plus 4 below zero.
        let (low, high) = self.levels.range();
        (-exp::lowest(self.levels.buckets) - 4.0).min(2.0 * high.min(-low)) / 2.0
    }
}

/// e^(x−M) for every score, which may be known modulo 2^[`SoftmaxTables::score_bits`]; `offsets` cuts the flat scores into rows, `row_of` names the row of each score. Six
/// exchanges.
pub async fn exponentials(
    cx: &Cx<'_>,
    x: &Share,
    offsets: &Segments,
    row_of: &Indices,
    t: &SoftmaxTables,
) -> Result<Share> {
    let m = coarse_max(&cx.scope("max"), x, offsets, t.levels, t.score_bits()).await?;
    exp::exp(&cx.scope("exp"), &x.sub_spread(&m, row_of), &t.exp, EXP_SCALE).await
}

/// 1 / Σ of each row of exponentials, as summands of a factor for [`row::product`]. Two exchanges, or four for many rows.
pub async fn reciprocal_sums(
    cx: &Cx<'_>,
    e: &Share,
    offsets: &Segments,
    t: &SoftmaxTables,
) -> Result<Vec<Lifted>> {
    let longest = offsets.iter().map(|row| row.len()).max().unwrap_or(0);
    t.reciprocal(longest).factors(&cx.scope("reciprocal"), &e.sum_segments(offsets)).await
}

/// Softmax of equal rows at scale 18. Ten exchanges, or twelve for many rows.
pub async fn softmax(cx: &Cx<'_>, x: &Share, t: &SoftmaxTables) -> Result<Share> {
    let (rows, cols) = (x.shape.rows, x.shape.cols);
    let offsets = Segments::even(rows, cols);
    let e = exponentials(cx, x, &offsets, &offsets.numbers(), t).await?;
    let r = reciprocal_sums(cx, &e, &offsets, t).await?;
    // To the scale of activations.
    let z = row::product(cx, &e, &r, |r| r.for_rows(cols))?;
    truncate(cx, z, RECIPROCAL_SCALE + EXP_SCALE - 18).await
}
