//! Choice of the next token by the parties: from shared scores to a shared one-hot row, and from there to the token's
//! number for the client. Scores, probabilities and the coins that decide stay shared.
//!
//! - [`argmax`]: the first of the highest scores, exactly what greedy choice in the clear gives.
//! - [`sample`]: one of the k highest scores, with probability proportional to e^score.
//! - [`token_index`]: Σ i·e_i of a one-hot row e, for [`reveal`](super::reveal).

mod argmax;
pub mod bits;
mod pick;
mod sample;
mod top;

pub use argmax::{WINDOW, argmax, argmax_cost, clear};
pub use sample::{SampleTables, sample, sample_cost};

use super::product::halves;
use crate::{Cx, Product, Shape, Share};
use kernels::Words;

/// Which element of each row is chosen: Σ i·e_i, one at scale 0 for each one-hot row, as a 2-of-2 value. Local.
pub fn token_index(cx: &Cx, one_hot: &Share) -> Product {
    let (rows, n) = (one_hot.shape.rows, one_hot.shape.cols);
    let numbers = Words::upload(cx.device(), (0..n as u64).collect());
    halves(cx, one_hot).linear(Shape::new(rows, 1), |w| {
        let counted = Words::formula([w.into(), numbers.for_cols(rows)], |[w, number]| w * number);
        cx.reduce(counted.sum_rows(n))
    })
}
