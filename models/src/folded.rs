//! Weights as the algebra wants them: gains and biases of norms and 1/√head_dim folded in, matrices that share an input
//! joined, the residual stream of GPT-2 centred.
//!
//! A LayerNorm ignores the mean of its input. In a pre-norm model everything that is ever added to the residual stream
//! is an output of a matrix or a table row, so with these centred over their outputs the mean is zero, variance is mean
//! square, and the norm needs no mean: GPT-2 is computed with RMSNorm.

use crate::checkpoint::{CheckpointError, Family, Kind, LayerTensor, ModelConfig, TensorId, TensorSource};
use crate::parameter::Parameter;
use Kind::{Bias, Weight};
use LayerTensor::{AttentionNorm, Down, FeedForwardNorm, Gate, K, O, Q, Up, V};

/// Where a model's parameters come from, folded.
pub trait ParameterSource {
    /// Sizes and constants.
    fn config(&self) -> &ModelConfig;

    /// One parameter, row-major.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    fn numbers(&mut self, p: Parameter) -> Result<Vec<f32>, CheckpointError>;

    /// The same as fixed-point integers at the parameter's scale.
    ///
    /// # Errors
    /// As for the numbers.
    fn integers(&mut self, p: Parameter) -> Result<Vec<u64>, CheckpointError> {
        Ok(p.encode(&self.numbers(p)?))
    }
}

/// A checkpoint's tensors, folded as they are asked for.
pub struct Folding<'s>(pub &'s mut dyn TensorSource);

impl ParameterSource for Folding<'_> {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }

    fn numbers(&mut self, p: Parameter) -> Result<Vec<f32>, CheckpointError> {
        load(self.0, p)
    }
}

/// Loads one folded parameter, row-major.
///
/// # Errors
/// The checkpoint lacks it, or it is damaged.
pub fn load(source: &mut dyn TensorSource, p: Parameter) -> Result<Vec<f32>, CheckpointError> {
    let c = source.config().clone();
    let d = c.d_model;
    let gpt2 = c.family == Family::Gpt2;
    let bert = matches!(c.family, Family::Bert | Family::Roberta);
    let centre = |w: Vec<f32>| if gpt2 { centred_rows(w, d) } else { w };
    let layer = |i, t, k| TensorId::Layer(i, t, k);
    Ok(match p {
        Parameter::Embedding => {
            let table = centre(source.load(TensorId::Embedding)?);
            transpose(&table, c.vocab, d)
        }
        Parameter::Positions => {
            let mut rows = source.load(TensorId::Positions)?.split_off(c.position_offset * d);
            if bert {
                let first = source.load(TensorId::Types)?;
                rows.chunks_exact_mut(d).for_each(|r| add(r, &first[..d]));
            }
            centre(rows)
        }
        Parameter::Types => {
            let all = source.load(TensorId::Types)?;
            let (first, others) = all.split_at(d);
            others.chunks_exact(d).flat_map(|r| r.iter().zip(first).map(|(a, b)| a - b)).collect()
        }
        Parameter::Qkv(i) => {
            let gain = Input::Attention(i).gain(source)?;
            let mut q = source.load(layer(i, Q, Weight))?;
            let scale = 1.0 / (c.head_dim as f32).sqrt();
            q.iter_mut().for_each(|w| *w *= scale);
            q.extend(source.load(layer(i, K, Weight))?);
            q.extend(source.load(layer(i, V, Weight))?);
            with_gain(q, &gain)
        }
        Parameter::QkvBias(i) => {
            let beta = Input::Attention(i).bias(source)?;
            let mut all = vec![];
            for t in [Q, K, V] {
                let w = source.load(layer(i, t, Weight))?;
                let mut b = source.load(layer(i, t, Bias))?;
                add_product(&mut b, &w, &beta);
                if t == Q {
                    let scale = 1.0 / (c.head_dim as f32).sqrt();
                    b.iter_mut().for_each(|w| *w *= scale);
                }
                all.extend(b);
            }
            all
        }
        Parameter::O(i) => {
            let w = source.load(layer(i, O, Weight))?;
            if gpt2 { centred_outputs(w, d) } else { w }
        }
        Parameter::OBias(i) => {
            let mut b = source.load(layer(i, O, Bias))?;
            if bert {
                add(&mut b, &Input::Attention(i).bias(source)?);
            }
            centre(b)
        }
        Parameter::AttentionGain(i) => Input::Attention(i).gain(source)?,
        Parameter::Up(i) => {
            let gain = Input::FeedForward(i).gain(source)?;
            let mut w = vec![];
            if c.family == Family::Llama {
                w = source.load(layer(i, Gate, Weight))?;
            }
            w.extend(source.load(layer(i, Up, Weight))?);
            with_gain(w, &gain)
        }
        Parameter::UpBias(i) => {
            let beta = Input::FeedForward(i).bias(source)?;
            let mut b = source.load(layer(i, Up, Bias))?;
            add_product(&mut b, &source.load(layer(i, Up, Weight))?, &beta);
            b
        }
        Parameter::Down(i) => {
            let w = source.load(layer(i, Down, Weight))?;
            if gpt2 { centred_outputs(w, d) } else { w }
        }
        Parameter::DownBias(i) => {
            let mut b = source.load(layer(i, Down, Bias))?;
            if bert {
                add(&mut b, &Input::FeedForward(i).bias(source)?);
            }
            centre(b)
        }
        Parameter::FeedForwardGain(i) => Input::FeedForward(i).gain(source)?,
        Parameter::Pooler => {
            let gain = Input::Head.gain(source)?;
            with_gain(source.load(TensorId::Pooler(Weight))?, &gain)
        }
        Parameter::PoolerBias => {
            let beta = Input::Head.bias(source)?;
            let mut b = source.load(TensorId::Pooler(Bias))?;
            add_product(&mut b, &source.load(TensorId::Pooler(Weight))?, &beta);
            b
        }
        Parameter::Output if bert => source.load(TensorId::Classifier(Weight))?,
        Parameter::OutputBias if bert => source.load(TensorId::Classifier(Bias))?,
        Parameter::Output => {
            let gain = Input::Head.gain(source)?;
            with_gain(source.load(TensorId::Output)?, &gain)
        }
        Parameter::OutputBias => {
            let beta = Input::Head.bias(source)?;
            let mut b = vec![0.0; c.vocab];
            add_product(&mut b, &source.load(TensorId::Output)?, &beta);
            b
        }
        Parameter::PooledGain => Input::Head.gain(source)?,
        Parameter::PooledBias => Input::Head.bias(source)?,
    })
}

/// What normalised rows go into. Its norm's gain and bias are folded into it.
#[derive(Clone, Copy)]
enum Input {
    Attention(usize),
    FeedForward(usize),
    Head,
}

impl Input {
    fn tensor(self, source: &dyn TensorSource, kind: Kind) -> TensorId {
        let c = source.config();
        let norm = |i, t| TensorId::Layer(i, t, kind);
        match (c.family, self) {
            // A norm stands before what it feeds …
            (Family::Llama | Family::Gpt2, Input::Attention(i)) => norm(i, AttentionNorm),
            (Family::Llama | Family::Gpt2, Input::FeedForward(i)) => norm(i, FeedForwardNorm),
            (Family::Llama | Family::Gpt2, Input::Head) => TensorId::FinalNorm(kind),
            // … or behind the block before.
            (_, Input::Attention(0)) => TensorId::EmbeddingNorm(kind),
            (_, Input::Attention(i)) => norm(i - 1, FeedForwardNorm),
            (_, Input::FeedForward(i)) => norm(i, AttentionNorm),
            (_, Input::Head) => norm(c.layers - 1, FeedForwardNorm),
        }
    }

    fn gain(self, source: &mut dyn TensorSource) -> Result<Vec<f32>, CheckpointError> {
        let id = self.tensor(source, Weight);
        source.load(id)
    }

    /// Zeros where norms have none.
    fn bias(self, source: &mut dyn TensorSource) -> Result<Vec<f32>, CheckpointError> {
        if source.config().family == Family::Llama {
            return Ok(vec![0.0; source.config().d_model]);
        }
        let id = self.tensor(source, Bias);
        source.load(id)
    }
}

/// W · diag(gain).
fn with_gain(mut w: Vec<f32>, gain: &[f32]) -> Vec<f32> {
    for row in w.chunks_exact_mut(gain.len()) {
        row.iter_mut().zip(gain).for_each(|(w, g)| *w *= g);
    }
    w
}

fn add(a: &mut [f32], b: &[f32]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
}

/// b + W · x.
fn add_product(b: &mut [f32], w: &[f32], x: &[f32]) {
    for (b, row) in b.iter_mut().zip(w.chunks_exact(x.len())) {
        let dot: f64 = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        *b = (f64::from(*b) + dot) as f32;
    }
}

/// Every row less its mean.
fn centred_rows(mut w: Vec<f32>, cols: usize) -> Vec<f32> {
    for row in w.chunks_exact_mut(cols) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / cols as f64;
        row.iter_mut().for_each(|v| *v = (f64::from(*v) - mean) as f32);
    }
    w
}

/// Every column less its mean over the `rows` outputs.
fn centred_outputs(mut w: Vec<f32>, rows: usize) -> Vec<f32> {
    let cols = w.len() / rows;
    let mut means = vec![0f64; cols];
    for row in w.chunks_exact(cols) {
        means.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / rows as f64);
    }
    for row in w.chunks_exact_mut(cols) {
        row.iter_mut().zip(&means).for_each(|(v, m)| *v = (f64::from(*v) - m) as f32);
    }
    w
}

pub(crate) fn transpose(w: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; w.len()];
    // Blocks of columns keep the writes of many rows within a few cache lines.
    const BLOCK: usize = 16;
    for first in (0..cols).step_by(BLOCK) {
        for (i, row) in w.chunks_exact(cols).enumerate() {
            for (j, &v) in row.iter().enumerate().skip(first).take(BLOCK) {
                out[j * rows + i] = v;
            }
        }
    }
    out
}
