//! The next token, chosen by the parties on shares.

use super::PublicModel;
use crate::algebra::{Act, Linear, SCALE};
use crate::model::Back;
use crate::plan::PRODUCT_BITS;
use crate::secure::{Secure, SecureValues};
use kernels::Words;
use protocol::gates::choice::{SampleTables, argmax, argmax_cost, sample, sample_cost, token_index};
use protocol::gates::product::{halves, product_cost};
use protocol::gates::reveal::{Reveal, reveal};
use protocol::gates::truncate::{self, truncate};
use protocol::{Cost, Product, Result, Share};
use serde::{Deserialize, Serialize};

/// Fractional bits of scores that are compared. Scores lie below 2^15, so differences below 2^30 units.
const COMPARED: u32 = 14;
/// Fractional bits of 1/temperature.
const INVERSE_SCALE: u32 = 16;

/// How the parties choose tokens. Public.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Choice {
    /// The highest score.
    Greedy,
    /// At random by softmax(scores / temperature), with randomness that no single party knows.
    Sample {
        /// Above 0.
        temperature: f32,
        /// Among so many of the likeliest tokens; all for 0.
        top_k: u32,
    },
}

impl Choice {
    /// Whether the parties can make it for this model.
    ///
    /// # Errors
    /// Says why not, and what would do.
    pub fn check(&self, model: &PublicModel) -> std::result::Result<(), String> {
        let Choice::Sample { temperature, .. } = *self else { return Ok(()) };
        let (low, high) = SampleTables::range();
        let least = model.plan.scores / high.min(-low);
        if f64::from(temperature) >= least && temperature <= 100.0 {
            return Ok(());
        }
        Err(format!(
            "at temperature {temperature}: for this model it must lie between {least:.3} and 100; choose another, or let the client choose (--reveal logits)"
        ))
    }

    /// For each row of `hidden`: an evaluator's message to the client, and the token as a one-hot row.
    pub(super) async fn make(
        self,
        a: &Secure<'_>,
        back: &Back<SecureValues>,
        hidden: &Act<Secure<'_>>,
        tables: &SampleTables,
    ) -> Result<(Option<Words>, Share)> {
        let a = a.in_scope("choice");
        let scores = a.affine(hidden, output(back))?;
        let row = match self {
            Choice::Greedy => {
                let scores = truncate(a.cx(), scores, 2 * SCALE - COMPARED).await?;
                argmax(a.cx(), &scores).await?
            }
            Choice::Sample { temperature, top_k } => {
                let scores = truncate(a.cx(), scores, SCALE).await?;
                // A public factor is linear; another truncation takes its bits off again.
                let (factor, n) = (inverse(temperature), scores.shape.cols);
                let scaled = halves(a.cx(), &scores).linear(scores.shape, |w| w * factor);
                let scaled = Product { scale: SCALE + INVERSE_SCALE, ..scaled };
                let scaled = truncate(a.cx(), scaled, INVERSE_SCALE).await?;
                sample(a.cx(), &scaled, among(top_k, n), tables).await?
            }
        };
        let message = reveal(a.cx(), token_index(a.cx(), &row), Reveal::TOKEN);
        Ok((message, row))
    }

    /// Declared cost of the choice for `rows` sequences and a vocabulary of `n`.
    pub fn cost(self, rows: usize, n: usize) -> Cost {
        const RING: u32 = 64;
        let truncated = |f| truncate::cost_from(rows * n, PRODUCT_BITS, f, RING);
        let scores = product_cost(rows * n, PRODUCT_BITS);
        match self {
            Choice::Greedy => scores.then(truncated(2 * SCALE - COMPARED)).then(argmax_cost(rows, n, RING)),
            Choice::Sample { top_k, .. } => scores
                .then(truncated(SCALE))
                .then(truncate::cost(rows * n, INVERSE_SCALE, RING))
                .then(sample_cost(rows, n, among(top_k, n), SCALE, RING)),
        }
    }
}

fn output(back: &Back<SecureValues>) -> &Linear<SecureValues> {
    match back {
        Back::LanguageModel { output, .. } | Back::Classifier { output, .. } => output,
        Back::Pooled { .. } => unreachable!("only language models choose tokens"),
    }
}

fn inverse(temperature: f32) -> u64 {
    (2f64.powi(INVERSE_SCALE as i32) / f64::from(temperature)).round() as u64
}

fn among(top_k: u32, n: usize) -> usize {
    if top_k == 0 { n } else { (top_k as usize).min(n) }
}
