//! How an owner finds the ranges of a model's gates: bounds that hold for every input first, sample text where a bound
//! does not fit.
//!
//! After a norm a row's length is at most √d, so an output of the next matrix is at most |w|·√d and a score at most
//! |Wq|·|Wk|·d (spectral norms, rotations do not change them). The first norm sees embeddings only, all of which the
//! owner knows.

use crate::algebra::SCALE;
use crate::checkpoint::{CheckpointError, LlamaConfig};
use crate::float::{Float, Mat, Observations, Seen, complete};
use crate::llama::{Cache, Llama, LogitRows};
use crate::plan::{LayerPlan, NormRange, Plan};
use crate::rotary::ANGLE_SCALE;
use crate::tokenizer::{Tokenizer, TokenizerError};
use protocol::gates::max::Levels;
use protocol::gates::reveal::Reveal;
use protocol::gates::softmax::EXP_SCALE;

/// Text that touches prose, code, numbers, other languages and dialogue; written for this purpose.
pub const SAMPLE_TEXT: &str = include_str!("sample_text.txt");

/// Margin on every range that was found by watching.
const MARGIN: f64 = 2.0;
/// Longest sequence the tables are made for.
const LONGEST: usize = 4096;

/// Why no ranges could be found.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The sample text cannot be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The checkpoint is unusable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No proof that sums stay within the ring.
    #[error("{what} can reach {bound:.0}, the ring holds {limit:.0}; this model cannot be shared")]
    Certificate {
        /// Which quantity.
        what: String,
        /// What is proven about it.
        bound: f64,
        /// What would fit.
        limit: f64,
    },
    /// A range is beyond what a gate can cover.
    #[error(
        "layer {layer}: {what} reaches {seen:.1} on sample text, more than the {limit:.1} that the gates cover with a margin of 2; this model cannot be shared"
    )]
    Beyond {
        /// The layer.
        layer: usize,
        /// Which quantity.
        what: &'static str,
        /// Largest magnitude seen.
        seen: f64,
        /// What would fit.
        limit: f64,
    },
}

/// Finds a plan. `progress` is told how many of how many samples are done.
pub fn calibrate(
    model: &Llama<Float>,
    tokenizer: &Tokenizer,
    mut progress: impl FnMut(usize, usize),
) -> Result<Plan, CalibrationError> {
    let samples: Vec<&str> = SAMPLE_TEXT.split("\n---\n").collect();
    let mut texts: Vec<Vec<u32>> = Vec::new();
    for s in &samples {
        texts.push(tokenizer.encode(s.trim_end())?);
    }
    texts.push(tokenizer.encode(&tokenizer.chat(samples[0].lines().next().unwrap_or("Hello")))?);
    let count = texts.len();
    let mut seen = Observations::new();
    for (i, ids) in texts.into_iter().enumerate() {
        merge(&mut seen, watch(model, ids));
        progress(i + 1, count);
    }
    plan(model, &seen)
}

/// Runs the model over token ids, watching.
pub fn watch(model: &Llama<Float>, ids: Vec<u32>) -> Observations {
    let float = Float::watching();
    if !ids.is_empty() {
        let count = ids.len();
        let mut cache = Cache::new(&model.config);
        complete(model.forward(&float, &ids, count, &mut cache, LogitRows::All))
            .expect("plaintext has no failures");
    }
    float.observations()
}

/// Widens ranges by other ranges.
pub fn merge(all: &mut Observations, more: Observations) {
    for (k, s) in more {
        let e = all.entry(k).or_insert(s);
        *e = Seen { low: e.low.min(s.low), high: e.high.max(s.high) };
    }
}

/// Turns bounds and observations into a plan.
pub fn plan(model: &Llama<Float>, seen: &Observations) -> Result<Plan, CalibrationError> {
    let c = &model.config;
    let magnitude = |key: String| seen.get(&key).map_or(0.0, |s| s.high.max(-s.low));
    let norm = |key: String| {
        let s = seen.get(&key).copied().unwrap_or(Seen { low: 0.01, high: 100.0 });
        // Mean squares: the margin counts twice, and once more below, where precision is cheap.
        let square = MARGIN * MARGIN;
        NormRange {
            low: round_down((s.low / (4.0 * square)).max(c.rms_eps / 4.0)),
            high: round_up(s.high * 4.0 * square),
        }
    };
    let mut layers = Vec::new();
    for (i, layer) in model.layers.iter().enumerate() {
        let path = |what: &str| format!("layer.{i}/{what}");
        let attention_norm = if i == 0 {
            embedding_range(&model.embedding, c)
        } else {
            norm(path("attention/norm#mean_square"))
        };

        let fits = |b: usize, s: f64| s <= score_bound(b);
        let bound = score_certificate(&layer.qkv, c);
        let score = if fits(128, bound) { bound } else { MARGIN * magnitude(path("attention/scores#score")) };
        let score_buckets = match score {
            s if fits(64, s) => 64,
            s if fits(128, s) => 128,
            s => {
                return Err(CalibrationError::Beyond {
                    layer: i,
                    what: "an attention score",
                    seen: s / MARGIN,
                    limit: score_bound(128) / MARGIN,
                });
            }
        };

        let rows = c.d_ff * c.d_model;
        let certificate =
            largest_row(&layer.gate_up.data[..rows], c.d_model) * (c.d_model as f64).sqrt() * 1.001;
        let watched = MARGIN * magnitude(path("feed_forward/gated#gate"));
        let range = certificate.min(watched.max(15.5));
        // The lowest entry may be missed by one, so the range ends one step early.
        let gate_range_log2 = (range * 1.02).log2().ceil().max(4.0) as u32;
        if gate_range_log2 > 8 {
            return Err(CalibrationError::Beyond {
                layer: i,
                what: "a gate",
                seen: range / MARGIN,
                limit: 125.0,
            });
        }
        let product = (MARGIN * magnitude(path("feed_forward/gated#product"))).max(1.0);
        // slope + 36 fractional bits + integer bits of the product stay below 2^61.
        let slope = 25 - product.log2().ceil() as i64;
        if slope < 6 {
            return Err(CalibrationError::Beyond {
                layer: i,
                what: "gate times up",
                seen: product / MARGIN,
                limit: 262_144.0,
            });
        }
        layers.push(LayerPlan {
            attention_norm,
            feed_forward_norm: norm(path("feed_forward/norm#mean_square")),
            score_buckets,
            gate_range_log2,
            // Steps of 1/16; 1/8 where the table would pass 2048 entries.
            gate_entries_log2: (gate_range_log2 + 5).min(11),
            gate_slope_scale: slope.min(14) as u32,
        });
    }
    certify_products(model, &layers)?;
    // Σ e·v at 39 fractional bits must stay below 2^62 for e < e^4. (A coarse maximum that is one bucket too low, once
    // in 10^5 rows, allows e^8; then all scores of a long row would also have to be equal for an overflow.)
    let values = model.layers.iter().map(|l| value_certificate(&l.qkv, c)).fold(1.0, f64::max);
    let fits = 2f64.powi(62 - (EXP_SCALE + SCALE) as i32) / (4f64.exp() * values);
    if fits < 64.0 {
        return Err(CalibrationError::Certificate {
            what: "attention values".into(),
            bound: values,
            limit: 2400.0,
        });
    }
    Ok(Plan {
        longest: LONGEST.min(c.context).min(fits as usize),
        layers,
        final_norm: norm("output#mean_square".into()),
    })
}

/// Proves |z| < 2^62 for every product with weights, for every input: a normalised row has length √d at most, values are
/// averaged by attention, and gated products were bounded by the plan.
fn certify_products(model: &Llama<Float>, plans: &[LayerPlan]) -> Result<(), CalibrationError> {
    let c = &model.config;
    let unit_length = (c.d_model as f64).sqrt() * 1.001;
    let below = |what: String, bound: f64, fractional_bits: u32| {
        let limit = 2f64.powi(62 - fractional_bits as i32);
        if bound < limit { Ok(()) } else { Err(CalibrationError::Certificate { what, bound, limit }) }
    };
    for (i, (l, plan)) in model.layers.iter().zip(plans).enumerate() {
        let name = |what: &str| format!("{what} of layer {i}");
        below(
            name("queries, keys and values"),
            largest_row(&l.qkv.data, c.d_model) * unit_length * 2f64.sqrt(),
            2 * SCALE + ANGLE_SCALE,
        )?;
        below(name("gates"), largest_row(&l.gate_up.data, c.d_model) * unit_length, 2 * SCALE)?;
        let o = largest_sum(&l.o.data, l.o.cols) * value_certificate(&l.qkv, c);
        below(name("attention outputs"), o, 2 * SCALE)?;
        let product = 2f64.powi(62 - (plan.gate_slope_scale + 2 * SCALE) as i32);
        below(
            name("feed-forward outputs"),
            largest_row(&l.down.data, l.down.cols) * product * (c.d_ff as f64).sqrt(),
            2 * SCALE,
        )?;
    }
    let logits = largest_row(&model.output.data, c.d_model) * unit_length;
    let shown = Reveal::LOGITS;
    // The client sees the scores modulo 2^bits.
    let limit = 2f64.powi((shown.bits - 1 - shown.scale) as i32);
    if logits < limit {
        Ok(())
    } else {
        Err(CalibrationError::Certificate { what: "output scores".into(), bound: logits, limit })
    }
}

/// Scores that the softmax with this many buckets covers.
fn score_bound(buckets: usize) -> f64 {
    let (low, high) = Levels::new(buckets).range();
    // The guard of exp: see `ExpTable::lowest`.
    (((buckets << 2) as f64 - 20.0) / 2.0).min(high.min(-low))
}

fn round_down(v: f64) -> f64 {
    v.log2().floor().exp2()
}

fn round_up(v: f64) -> f64 {
    v.log2().ceil().exp2()
}

/// Exact range of the first norm: the embeddings are all the inputs there are.
fn embedding_range(table: &Mat, c: &LlamaConfig) -> NormRange {
    let mut squares = vec![0f64; table.cols];
    for row in table.data.chunks_exact(table.cols) {
        squares.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
    }
    let mean = |s: &f64| s / table.rows as f64;
    let low = squares.iter().map(mean).fold(f64::INFINITY, f64::min);
    let high = squares.iter().map(mean).fold(0.0, f64::max);
    NormRange {
        low: round_down((low * 0.9).max(c.rms_eps / 4.0)),
        high: round_up((high * 1.1).max(c.rms_eps)),
    }
}

fn largest_row(w: &[f32], cols: usize) -> f64 {
    w.chunks_exact(cols)
        .map(|r| r.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt())
        .fold(0.0, f64::max)
}

/// A bound on every element of a layer's values.
fn value_certificate(qkv: &Mat, c: &LlamaConfig) -> f64 {
    let first = (c.heads + c.kv_heads) * c.head_dim * c.d_model;
    largest_row(&qkv.data[first..], c.d_model) * (c.d_model as f64).sqrt() * 1.001
}

/// Largest Σ |w| of a row.
fn largest_sum(w: &[f32], cols: usize) -> f64 {
    w.chunks_exact(cols).map(|r| r.iter().map(|v| f64::from(v.abs())).sum::<f64>()).fold(0.0, f64::max)
}

/// A bound on every score of a layer: largest |Wq|·|Wk|·d over the heads, spectral norms bounded by Frobenius norms.
fn score_certificate(qkv: &Mat, c: &LlamaConfig) -> f64 {
    let head = c.head_dim * c.d_model;
    let norm = |h: usize| {
        let w = &qkv.data[h * head..(h + 1) * head];
        w.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
    };
    let group = c.heads / c.kv_heads;
    (0..c.heads).map(|h| norm(h) * norm(c.heads + h / group) * c.d_model as f64).fold(0.0, f64::max)
}
