//! How an owner finds the ranges of a model's gates: bounds that hold for every input first, sample text where a bound
//! does not fit.
//!
//! After a norm a row's length is at most √d, so an output of the next matrix is at most |w|·√d and a score at most
//! |Wq|·|Wk|·d (spectral norms, rotations do not change them). The first norm sees embeddings only, all of which the
//! owner knows.

use crate::algebra::{Algebra, Linear, SCALE, VALUE_SCALE};
use crate::checkpoint::{CheckpointError, Family, ModelConfig, TensorSource};
use crate::float::{Float, FloatParts, Mat, Observations, Seen, complete};
use crate::folded::Folding;
use crate::model::{Back, Front, Layer, OutputRows, Pass, Span};
use crate::plan::{LayerPlan, NormRange, PRODUCT_BITS, Plan, Step, TablePlan, output_bits, output_limit};
use crate::rotary::ANGLE_SCALE;
use crate::tokenizer::{Tokenizer, TokenizerError};
use protocol::gates::max::Levels;
use protocol::gates::reveal::Reveal;
use protocol::gates::softmax::EXP_SCALE;
use protocol::gates::{embedding, exp};

/// Text that touches prose, code, numbers, other languages and dialogue; written for this purpose.
pub const SAMPLE_TEXT: &str = include_str!("sample_text.txt");

/// Margin on every range that was found by watching.
const MARGIN: f64 = 2.0;
/// Of so many rows of a sample one is looked at for output scores.
const SCORE_ROWS: usize = 4;
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
    /// The ranges together are not a plan.
    #[error("{0}; this model cannot be shared")]
    Plan(String),
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

/// The sample text as a model's tokens.
///
/// # Errors
/// The tokenizer fails on it.
pub fn sample_tokens(tokenizer: &Tokenizer, c: &ModelConfig) -> Result<Vec<Vec<u32>>, TokenizerError> {
    let samples: Vec<&str> = SAMPLE_TEXT.split("\n---\n").map(str::trim_end).collect();
    let mut texts = samples.iter().map(|s| tokenizer.encode(s)).collect::<Result<Vec<_>, _>>()?;
    if c.is_decoder() {
        texts.push(tokenizer.encode(&tokenizer.chat(samples[0].lines().next().unwrap_or("Hello")))?);
    }
    texts.iter_mut().for_each(|t| t.truncate(c.context.min(LONGEST)));
    texts.retain(|t| !t.is_empty());
    Ok(texts)
}

/// For a model without a tokenizer: tokens from all over its vocabulary.
pub fn spread_tokens(c: &ModelConfig) -> Vec<u32> {
    let count = c.context.min(128);
    (0..count).map(|i| (i * c.vocab / count) as u32).collect()
}

/// Finds a plan: runs `texts` through the model layer by layer, so that one layer's weights are in memory at a time.
/// `progress` is told how many layers of how many are done.
///
/// # Errors
/// The checkpoint is unusable, or some range does not fit a gate.
pub fn calibrate(
    source: &mut dyn TensorSource,
    texts: &[Vec<u32>],
    mut progress: impl FnMut(usize, usize),
) -> Result<Plan, CalibrationError> {
    let c = source.config().clone();
    let float = Float::watching();
    let mut folding = Folding(source);
    let mut parts = FloatParts { source: &mut folding };
    // Where there are token types, every other text is read as two segments.
    let segment = |i: usize, t: &Vec<u32>| (c.types > 1 && i % 2 == 1).then_some(t.len() / 2);
    let span = |count, segment| Span { first: 0, count, segment };
    let passes: Vec<Pass> =
        texts.iter().enumerate().map(|(i, t)| Pass::new(&c, vec![span(t.len(), segment(i, t))])).collect();
    let plaintext = "plaintext has no failures";

    let front = Front::build(&c, &mut parts)?;
    let entries = 2f64.powi(embedding::ENTRY_BITS as i32 - 1 - SCALE as i32);
    below("token embeddings".into(), largest(&front.embedding), entries)?;
    // The first norm of a LLaMA sees embeddings only, all of which the owner knows.
    let first_norm = (c.family == Family::Llama).then(|| embedding_range(&front.embedding, &c));
    let mut activations: Vec<Mat> = texts
        .iter()
        .zip(&passes)
        .map(|(t, pass)| complete(front.forward(&float, t, pass)).expect(plaintext))
        .collect();
    drop(front);

    let (mut layers, mut largest_value) = (vec![], 1.0);
    for i in 0..c.layers {
        let layer = Layer::build(&c, i, &mut parts)?;
        let a = float.scope(&format!("layer.{i}"));
        for (x, pass) in activations.iter_mut().zip(&passes) {
            *x = complete(layer.forward(&a, c.family, x.clone(), &mut [&mut None], pass)).expect(plaintext);
        }
        let bounds = Bounds::of(&layer, &c);
        let ranges = Watched { seen: &float.observations(), c: &c, path: format!("layer.{i}") };
        let mut plan = layer_plan(i, &ranges, &bounds)?;
        if let (0, Some(range)) = (i, first_norm) {
            plan.attention_norm = range;
        }
        bounds.certify(i, &plan, &c)?;
        largest_value = bounds.value.max(largest_value);
        layers.push(plan);
        progress(i + 1, c.layers);
    }

    let back = Back::build(&c, &mut parts)?;
    let mut largest_score = 0f64;
    for (x, pass) in activations.into_iter().zip(&passes) {
        let hidden = complete(back.hidden(&float, x, pass, OutputRows::All)).expect(plaintext);
        // A part of the rows is enough, and a vocabulary is wide.
        let some: Vec<f32> =
            hidden.data.chunks_exact(hidden.cols).step_by(SCORE_ROWS).flatten().copied().collect();
        let some = Mat { rows: some.len() / hidden.cols, cols: hidden.cols, data: some };
        let scores = back.output(&float, &some, &[some.rows]).expect(plaintext);
        largest_score = scores.data.iter().fold(largest_score, |m, v| m.max(f64::from(v.abs())));
    }
    let seen = float.observations();
    let (mut outer, mut pooler, mut scores) = ("output/norm", None, MARGIN * largest_score.max(1.0));
    match &back {
        Back::LanguageModel { output, .. } => {
            let bound = row_bound(output, unit_length(&c));
            certify_scores(bound)?;
            scores = scores.min(bound);
        }
        Back::Pooled { gain, bias } => {
            outer = "embedding/norm";
            let row = largest(gain) * unit_length(&c) + largest(bias);
            let limit = 2f64.powi((Reveal::POOLED.bits - 1 - Reveal::POOLED.scale) as i32);
            below("pooled rows".into(), row * c.context.min(LONGEST) as f64, limit)?;
        }
        Back::Classifier { pooler: dense, output, .. } => {
            outer = "embedding/norm";
            certify_scores(row_bound(output, unit_length(&c)))?;
            let watched = Watched { seen: &seen, c: &c, path: "output".into() };
            let input = watched.magnitude("pooler#input");
            let bound = row_bound(dense, unit_length(&c));
            below("the pooler's input".into(), bound, output_limit(PRODUCT_BITS))?;
            let range = bound.min((MARGIN * input).max(7.5));
            let range_log2 = range_log2(range, Step::Pooler, "the pooler", 0)?;
            pooler = Some(TablePlan::covering(range_log2, Step::Pooler, None));
        }
    }
    // Σ e·v at 38 fractional bits must stay below 2^61 for e < 1.001·e^4. (A coarse maximum that is one bucket too low, once
    // in 10^5 rows, allows e^8; then all scores of a long row would also have to be equal for an overflow.)
    let fits = 2f64.powi(PRODUCT_BITS as i32 - 2 - (EXP_SCALE + VALUE_SCALE) as i32)
        / (1.001 * 4f64.exp() * largest_value);
    below("attention values".into(), 64.0, fits)?;
    let ranges = Watched { seen: &seen, c: &c, path: String::new() };
    let plan = Plan {
        longest: LONGEST.min(c.context).min(fits as usize),
        layers,
        outer_norm: ranges.norm(outer),
        pooler,
        scores: scores.min(32767.0).ceil(),
    };
    plan.validate(&c).map_err(CalibrationError::Plan)?;
    Ok(plan)
}

/// What watching found, with margins.
struct Watched<'w> {
    seen: &'w Observations,
    c: &'w ModelConfig,
    path: String,
}

impl Watched<'_> {
    fn get(&self, what: &str) -> Option<Seen> {
        let separator = if self.path.is_empty() { "" } else { "/" };
        self.seen.get(&format!("{}{separator}{what}", self.path)).copied()
    }

    fn magnitude(&self, what: &str) -> f64 {
        self.get(what).map_or(0.0, |s| s.high.max(-s.low))
    }

    fn norm(&self, what: &str) -> NormRange {
        let s = self.get(&format!("{what}#mean_square")).unwrap_or(Seen { low: 0.01, high: 100.0 });
        // Mean squares: the margin counts twice, and once more below, where precision is cheap.
        let square = MARGIN * MARGIN;
        let least = (self.c.norm_eps / 4.0).max(2e-9);
        let low = round_down((s.low / (4.0 * square)).max(least));
        NormRange { low, high: round_up((s.high * 4.0 * square).max(4.0 * low)) }
    }
}

/// Proven bounds of one layer, for every input: a normalised row has length √d at most.
struct Bounds {
    /// Of queries and keys.
    query: f64,
    /// Of scores.
    score: f64,
    /// Of values.
    value: f64,
    /// Of the first half of the feed-forward block; of its gate, where there is one.
    up: f64,
    /// Of a gate's other factor as well.
    all_up: f64,
    /// Of attention outputs, for values as above.
    o: f64,
    /// Longest row of the last matrix, and its largest bias.
    down: (f64, f64),
    /// Of the residuals beside the matrices.
    residual: f64,
}

impl Bounds {
    fn of(l: &Layer<Float>, c: &ModelConfig) -> Bounds {
        let length = unit_length(c);
        let qkv = &l.qkv;
        let (q, kv) = (c.q_dim(), c.kv_dim());
        let magnitude = |m: &Option<Mat>| m.as_ref().map_or(0.0, largest);
        let value = rows_bound(qkv, q + kv..q + 2 * kv, length);
        let up_rows = if c.family == Family::Llama { 0..c.d_ff } else { 0..l.up.weight.rows };
        Bounds {
            query: rows_bound(qkv, 0..q + kv, length),
            score: score_bound_of(qkv, c),
            value,
            up: rows_bound(&l.up, up_rows, length),
            all_up: row_bound(&l.up, length),
            o: largest_sum(&l.o.weight.data, l.o.weight.cols) * value + magnitude(&l.o.bias),
            down: (largest_row(&l.down.weight.data, l.down.weight.cols), magnitude(&l.down.bias)),
            residual: magnitude(&l.attention_gain).max(magnitude(&l.feed_forward_gain)) * length,
        }
    }

    /// Proves |z| < 2^61 for every product with weights, and less where the plan says so, for every input whose norms and
    /// scores are in the plan's ranges; values are averaged by attention, and what the feed-forward function yields was
    /// bounded by the plan.
    fn certify(&self, i: usize, plan: &LayerPlan, c: &ModelConfig) -> Result<(), CalibrationError> {
        let limit = |fractional_bits: u32| 2f64.powi(PRODUCT_BITS as i32 - 2 - fractional_bits as i32);
        let name = |what: &str| format!("{what} of layer {i}");
        // Of two rotated numbers one may get as large as both are long; values have the scale of rotated ones.
        let (longer, scale) = match c.rotary {
            Some(_) => (2f64.sqrt(), 2 * SCALE + ANGLE_SCALE),
            None => (1.0, 2 * SCALE),
        };
        below(name("queries and keys"), self.query * longer, limit(scale))?;
        below(name("attention values"), self.value, limit(scale))?;
        below(name("the feed-forward input"), self.all_up, limit(2 * SCALE))?;
        let [o, down] = self.outputs(&plan.activation, c);
        let [o_bits, down_bits] = plan.output_bits;
        below(name("attention outputs"), o, output_limit(o_bits))?;
        below(name("feed-forward outputs"), down, output_limit(down_bits))
    }

    /// Of the outputs of both blocks, with the residuals beside them.
    fn outputs(&self, activation: &TablePlan, c: &ModelConfig) -> [f64; 2] {
        let yields = match activation.product_log2 {
            // What the gate's truncation takes.
            Some(product_log2) => 2f64.powi(product_log2 as i32 + 1),
            // The last entry begins where the range ends.
            None => 2f64.powi(activation.range_log2 as i32) + Step::Activation.width(),
        };
        let (row, bias) = self.down;
        [self.o, row * yields * (c.d_ff as f64).sqrt() + bias].map(|bound| bound + self.residual)
    }
}

fn layer_plan(i: usize, ranges: &Watched<'_>, bounds: &Bounds) -> Result<LayerPlan, CalibrationError> {
    let fits = |b: usize, s: f64| s <= score_bound(b);
    let watched = MARGIN * ranges.magnitude("attention/scores#score");
    let score = if fits(128, bounds.score) { bounds.score } else { watched };
    let beyond = |what, seen, limit| CalibrationError::Beyond { layer: i, what, seen, limit };
    let score_buckets = match score {
        s if fits(64, s) => 64,
        s if fits(128, s) => 128,
        s => return Err(beyond("an attention score", s / MARGIN, score_bound(128) / MARGIN)),
    };
    let watched = MARGIN * ranges.magnitude("feed_forward/activation#input");
    let range = bounds.up.min(watched.max(15.5));
    let activation = if ranges.c.family == Family::Llama {
        // Tables of quadratics end a longer entry early: beyond ±16, where they are, the 2 % are more than that.
        let range_log2 = range_log2(range, Step::Gated, "the feed-forward input", i)?;
        let product = MARGIN * ranges.magnitude("feed_forward/activation#product");
        // Below 2^11 the gate would be no cheaper.
        let product_log2 = product.max(2048.0).log2().ceil() as u32;
        if product_log2 > TablePlan::LARGEST_PRODUCT_LOG2 {
            return Err(beyond("gate times up", product / MARGIN, 262_144.0));
        }
        TablePlan::gated(range_log2, product_log2)
    } else {
        let range_log2 = range_log2(range, Step::Activation, "the feed-forward input", i)?;
        TablePlan::covering(range_log2, Step::Activation, None)
    };
    Ok(LayerPlan {
        attention_norm: ranges.norm("attention/norm"),
        feed_forward_norm: ranges.norm("feed_forward/norm"),
        score_buckets,
        activation,
        output_bits: bounds.outputs(&activation, ranges.c).map(output_bits),
    })
}

/// The range of a table over ±range.
fn range_log2(range: f64, step: Step, what: &'static str, layer: usize) -> Result<u32, CalibrationError> {
    // The lowest entry may be missed by one, so the range ends one step early.
    let range_log2 = (range * 1.02).max(range + step.width()).log2().ceil().max(3.0) as u32;
    if range_log2 > 8 {
        return Err(CalibrationError::Beyond { layer, what, seen: range / MARGIN, limit: 125.0 });
    }
    Ok(range_log2)
}

fn below(what: String, bound: f64, limit: f64) -> Result<(), CalibrationError> {
    if bound < limit { Ok(()) } else { Err(CalibrationError::Certificate { what, bound, limit }) }
}

/// The client sees scores modulo 2^bits.
fn certify_scores(bound: f64) -> Result<(), CalibrationError> {
    let shown = Reveal::LOGITS;
    below("output scores".into(), bound, 2f64.powi((shown.bits - 1 - shown.scale) as i32))
}

/// Scores that the softmax with this many buckets covers.
fn score_bound(buckets: usize) -> f64 {
    let (low, high) = Levels::new(buckets).range();
    ((-exp::lowest(buckets) - 4.0) / 2.0).min(high.min(-low))
}

fn round_down(v: f64) -> f64 {
    v.log2().floor().exp2()
}

fn round_up(v: f64) -> f64 {
    v.log2().ceil().exp2()
}

/// Length of a normalised row, with the error of the norm gate.
fn unit_length(c: &ModelConfig) -> f64 {
    (c.d_model as f64).sqrt() * 1.001
}

/// Exact range of the first norm: the embeddings are all the inputs there are.
fn embedding_range(table: &Mat, c: &ModelConfig) -> NormRange {
    let mut squares = vec![0f64; table.cols];
    for row in table.data.chunks_exact(table.cols) {
        squares.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
    }
    let mean = |s: &f64| s / table.rows as f64;
    let low = squares.iter().map(mean).fold(f64::INFINITY, f64::min);
    let high = squares.iter().map(mean).fold(0.0, f64::max);
    NormRange {
        low: round_down((low * 0.9).max(c.norm_eps / 4.0).max(2e-9)),
        high: round_up((high * 1.1).max(c.norm_eps)),
    }
}

fn length(row: &[f32]) -> f64 {
    row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
}

fn largest_row(w: &[f32], cols: usize) -> f64 {
    w.chunks_exact(cols).map(length).fold(0.0, f64::max)
}

/// Largest Σ |w| of a row.
fn largest_sum(w: &[f32], cols: usize) -> f64 {
    w.chunks_exact(cols).map(|r| r.iter().map(|v| f64::from(v.abs())).sum::<f64>()).fold(0.0, f64::max)
}

/// Largest magnitude.
fn largest(m: &Mat) -> f64 {
    m.data.iter().fold(0.0, |m, v| m.max(f64::from(v.abs())))
}

/// A bound on some outputs of a linear layer, for inputs of some length.
fn rows_bound(l: &Linear<Float>, rows: std::ops::Range<usize>, input: f64) -> f64 {
    let cols = l.weight.cols;
    let bias = |i: usize| l.bias.as_ref().map_or(0.0, |b| f64::from(b.data[i].abs()));
    rows.map(|i| length(&l.weight.data[i * cols..(i + 1) * cols]) * input + bias(i)).fold(0.0, f64::max)
}

fn row_bound(l: &Linear<Float>, input: f64) -> f64 {
    rows_bound(l, 0..l.weight.rows, input)
}

/// A bound on every score of a layer: largest product of the lengths of a query and a key, spectral norms bounded by
/// Frobenius norms.
fn score_bound_of(qkv: &Linear<Float>, c: &ModelConfig) -> f64 {
    let norm = |h: usize| {
        let rows = h * c.head_dim..(h + 1) * c.head_dim;
        let w = length(&qkv.weight.data[rows.start * c.d_model..rows.end * c.d_model]);
        w * unit_length(c) + qkv.bias.as_ref().map_or(0.0, |b| length(&b.data[rows]))
    };
    let group = c.heads / c.kv_heads;
    (0..c.heads).map(|h| norm(h) * norm(c.heads + h / group)).fold(0.0, f64::max)
}
