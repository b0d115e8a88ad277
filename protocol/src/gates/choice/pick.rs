//! Weighted choice: a one-hot row, element i of m with probability w_i / Σ w, by the inverse of the distribution.
//!
//! With C_i = 2·Σ_{j≤i} w_j, N = C_m − 1 and r uniform in [0, 2^R), the truncation of r·N by R bits is t =
//! ⌊r·N / 2^R⌋ or that plus one, one more with the probability of the fraction. t < C_m always, and t ≥ 0: no element of
//! weight 0 is ever chosen. g_i = \[t ≥ C_i\] is additive by [`at_least`], and e_i = g_{i−1} − g_i with
//! g_0 = 1 and g_m = 0 is one-hot.
//! t takes the values 0 and N with probability 1/2N, those between with 1/N, up to steps of 2^−R from r. So the
//! probability of an element differs from w_i / Σ w by no more than 1/N + 2^(1−R).
//! Range: weights are non-negative integers, 2·Σ w < 2^bits and bits + R ≤ 62; callers certify it.
//! Cost: three exchanges; a comparison key of `bits` − 2 levels (about 24 bytes a level and 32, to both) for each element but one.

use super::super::at_least::{Thresholds, at_least, exact_cost};
use super::super::product::{multiply, product_cost, reshare, reshare_cost};
use super::super::truncate::{self, truncate};
use super::bits::ones;
use crate::{Cost, Cx, Product, Result, Shape, Share};
use kernels::{Indices, Matrix, Words};

/// One-hot rows for the rows of w, given r with `noise_bits` bits for each row.
pub(super) async fn pick(cx: &Cx<'_>, w: &Share, bits: u32, r: &Share, noise_bits: u32) -> Result<Share> {
    let (rows, m) = (w.shape.rows, w.shape.cols);
    if m == 1 {
        return Ok(ones(cx, w.shape));
    }
    let twice_below: Vec<u64> = (0..m * m).map(|i| 2 * u64::from(i % m <= i / m)).collect();
    let cumulate = Matrix::new(&Words::upload(cx.device(), twice_below), m, m);
    let c = Share { scale: 0, ..w.clone() }.linear(w.shape, |w| cumulate.apply(w));
    let column = Shape::new(rows, 1);
    let last = Indices::grid(m - 1, [(rows, m), (1, 0)]);
    let z = multiply(cx, &c.gather(&last, column).add_public(u64::MAX), r)?;
    let t = truncate(cx, Product { scale: noise_bits, ..z }, noise_bits).await?;

    let all_but_last = Indices::grid(0, [(rows, m), (m - 1, 1)]);
    let row_of = Indices::grid(0, [(rows, 1), (m - 1, 0)]);
    let shape = Shape::new(rows, m - 1);
    let above = t.gather(&row_of, shape).sub(&c.gather(&all_but_last, shape));
    let zero = Words::zeros(cx.device(), 1);
    let reached = Thresholds::exact(bits + 1, vec![0]);
    let g = at_least(cx, cx.op("passed"), &above, &reached)?;
    let half = g.map(|g| {
        // Behind the comparisons: g_0 = 1, which P1 holds, and g_m = 0.
        let (first, end) = (shape.len() as u32, shape.len() as u32 + 1);
        let g = Words::concat(&[&g, &(&zero + u64::from(cx.is_p1())), &zero]);
        let at = |row: usize, i: usize| (row * (m - 1) + i) as u32;
        let index =
            |f: &dyn Fn(usize, usize) -> u32| -> Indices { (0..rows * m).map(|i| f(i / m, i % m)).collect() };
        let before = index(&|row, i| if i == 0 { first } else { at(row, i - 1) });
        let own = index(&|row, i| if i + 1 == m { end } else { at(row, i) });
        cx.reduce(g.gather(&before) - g.gather(&own))
    });
    reshare(cx, Product { shape: w.shape, scale: 0, bits: cx.ring().bits(), half }).await
}

/// Declared cost of [`pick`].
pub(super) fn pick_cost(rows: usize, m: usize, bits: u32, noise_bits: u32, ring_bits: u32) -> Cost {
    if m == 1 {
        return Cost::default();
    }
    product_cost(rows, ring_bits)
        .then(truncate::cost(rows, noise_bits, ring_bits))
        .then(exact_cost(rows * (m - 1), bits + 1, ring_bits))
        .then(reshare_cost(rows * m, ring_bits))
}
