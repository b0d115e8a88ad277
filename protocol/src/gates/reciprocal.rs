//! Reciprocals of softmax sums, as factors of products.
//!
//! *Few rows:* a row gate with 16 pieces an octave, two exchanges. *Many rows*, where comparison keys are what takes time: one
//! with four pieces, r0 = (1 + ε)/S for |ε| < 2^−7 (from a 32nd above the lower end of the range on), and a step of Newton's method,
//! ```text
//! T = S·r0,    r = r0·(2 − T) = (1 − ε²)/S
//! ```
//! in two exchanges more. r0 is needed twice, as a factor of T at once, lifted, and one exchange later as a share, which
//! is truncated meanwhile. How many rows there are is public.

use super::lift::{self, Lifted};
use super::product::halves;
use super::row::{self, RowTable};
use crate::{Cost, Cx, Product, Result, Share, join};
use kernels::{Device, Words};

/// Fractional bits of a reciprocal.
pub const RECIPROCAL_SCALE: u32 = 30;
/// Fractional bits of T.
const RATIO_SCALE: u32 = 20;
/// From so many rows on two exchanges are worth less than the comparisons that they spare.
pub const MANY: usize = 256;
/// Pieces an octave.
const DIRECT: u32 = 16;
/// The same where a step of Newton's method follows.
const COARSE: u32 = 4;

/// Reciprocals of sums in one range.
#[derive(Clone, Debug)]
pub struct Reciprocals {
    direct: RowTable,
    coarse: RowTable,
}

impl Reciprocals {
    /// For sums in [low, high) at `in_scale`.
    ///
    /// # Panics
    /// As [`RowTable::new`].
    pub fn new(device: &Device, in_scale: u32, range: (f64, f64)) -> Reciprocals {
        let [direct, coarse] =
            [DIRECT, COARSE].map(|segments| RowTable::new(device, in_scale, range, segments, |s| 1.0 / s));
        Reciprocals { direct, coarse }
    }

    /// Sums for which reciprocals are right: [low, high).
    pub fn range(&self) -> (f64, f64) {
        (self.direct.low, self.direct.high)
    }

    /// Every number of the tables, for the program digest.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        let step = [MANY as u64, u64::from(RATIO_SCALE)];
        self.direct.words().chain(self.coarse.words()).chain(step)
    }

    /// The meaning of [`Reciprocals::factors`] in the clear for one of `rows` sums in range, products rounded to the nearest.
    pub fn clear(&self, s: u64, rows: usize) -> u64 {
        if rows < MANY {
            return self.direct.clear(s, RECIPROCAL_SCALE);
        }
        let first = self.coarse.clear(s, RECIPROCAL_SCALE);
        let rounded = |z: u64, f: u32| ((z.wrapping_add(1 << (f - 1))) as i64 >> f) as u64;
        let ratio = rounded(s.wrapping_mul(first), self.ratio_shift());
        rounded(first.wrapping_mul((2u64 << RATIO_SCALE).wrapping_sub(ratio)), RATIO_SCALE)
    }

    /// 1/S of each element of a column, as summands. Two exchanges, or four for [`MANY`] rows.
    pub async fn factors(&self, cx: &Cx<'_>, s: &Share) -> Result<Vec<Lifted>> {
        if s.len() < MANY {
            return row::factors(cx, &s.clone().into(), &self.direct, RECIPROCAL_SCALE).await;
        }
        let lines = row::lines(cx, &s.clone().into(), &self.coarse, |_| 0).await?;
        let ratio = async {
            let first = row::lifted(cx, lines.clone(), RECIPROCAL_SCALE).await?;
            let cx = cx.scope("ratio");
            let z = row::product(&cx, s, &first, |r| r.into())?;
            lift::open(&cx, z, self.ratio_shift()).await
        };
        let (ratio, first) = join(ratio, row::sum(cx, lines.clone(), RECIPROCAL_SCALE)).await?;
        let cx = cx.scope("step");
        let product = lift::times(&cx, (&first).into(), &ratio, |t| t.into(), (None, 0))?;
        // Twice r0, at the scale of the product, less it.
        let twice = halves(&cx, &first).half;
        let half = twice.zip(product.half.as_ref()).map(|(twice, product)| {
            Words::formula([&twice, product], |[twice, product]| (twice << (RATIO_SCALE + 1)) - product)
        });
        Ok(vec![lift::open(&cx, Product { half, ..product }, RATIO_SCALE).await?])
    }

    /// Low bits of S·r0 that T has not.
    fn ratio_shift(&self) -> u32 {
        self.coarse.in_scale + RECIPROCAL_SCALE - RATIO_SCALE
    }

    /// Declared cost of [`Reciprocals::factors`] for `rows` sums.
    pub fn cost(&self, rows: usize, ring_bits: u32) -> Cost {
        if rows < MANY {
            return self.direct.factors_cost(rows, (ring_bits, 0), RECIPROCAL_SCALE, ring_bits);
        }
        let (coarse, opened) = (&self.coarse, |f| lift::cost(rows, ring_bits, f, ring_bits));
        let ratio = coarse
            .lifted_cost(rows, RECIPROCAL_SCALE, ring_bits)
            .then(coarse.product_cost(rows, RECIPROCAL_SCALE, ring_bits))
            .then(opened(self.ratio_shift()));
        coarse
            .lines_cost(rows, (ring_bits, 0), ring_bits)
            .then(ratio.beside(coarse.sum_cost(rows, RECIPROCAL_SCALE, ring_bits)))
            .then(lift::times_cost(rows, ring_bits, self.ratio_shift(), ring_bits))
            .then(opened(RATIO_SCALE))
    }

    /// Declared cost of a [`row::product`] of `n` elements with the factors of `rows` sums.
    pub fn product_cost(&self, n: usize, rows: usize, ring_bits: u32) -> Cost {
        if rows < MANY {
            return self.direct.product_cost(n, RECIPROCAL_SCALE, ring_bits);
        }
        lift::times_cost(n, ring_bits, RATIO_SCALE, ring_bits)
    }
}
