//! The families in plain 64-bit floating point, straight from the papers and the library `transformers`: no folding,
//! no cache, no shared code with the crate but the tensors themselves.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of this.

use models::checkpoint::{Activation, Family, Head, Kind, LayerTensor, ModelConfig, TensorId, TensorSource};
use std::collections::HashMap;

use Kind::{Bias, Weight};

/// One vector a token.
pub type Rows = Vec<Vec<f64>>;

/// A model's tensors as they are in its files.
pub struct Plain {
    config: ModelConfig,
    tensors: HashMap<TensorId, Vec<f64>>,
}

impl Plain {
    pub fn load(source: &mut dyn TensorSource) -> Self {
        let config = source.config().clone();
        let mut tensors = HashMap::new();
        for which in TensorId::all(&config).into_iter().chain([TensorId::Output]) {
            if let Ok(data) = source.load(which) {
                tensors.insert(which, data.into_iter().map(f64::from).collect());
            }
        }
        Self { config, tensors }
    }

    fn get(&self, which: TensorId) -> &[f64] {
        &self.tensors[&which]
    }

    /// x · W^T + b, the bias where there is one.
    fn linear(&self, x: &Rows, tensor: impl Fn(Kind) -> TensorId) -> Rows {
        let (w, b) = (self.get(tensor(Weight)), self.tensors.get(&tensor(Bias)));
        x.iter()
            .map(|x| {
                let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                let bias = |i: usize| b.map_or(0.0, |b| b[i]);
                w.chunks_exact(x.len()).enumerate().map(|(i, row)| dot(row) + bias(i)).collect()
            })
            .collect()
    }

    fn layer(&self, x: &Rows, i: usize, t: LayerTensor) -> Rows {
        self.linear(x, |kind| TensorId::Layer(i, t, kind))
    }

    fn norm(&self, x: &Rows, tensor: impl Fn(Kind) -> TensorId) -> Rows {
        let (gain, eps) = (self.get(tensor(Weight)), self.config.norm_eps);
        let row = |x: &Vec<f64>| -> Vec<f64> {
            let n = x.len() as f64;
            if self.config.family == Family::Llama {
                let r = (x.iter().map(|v| v * v).sum::<f64>() / n + eps).sqrt();
                return x.iter().zip(gain).map(|(v, g)| v / r * g).collect();
            }
            let mean = x.iter().sum::<f64>() / n;
            let r = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n + eps).sqrt();
            let bias = self.get(tensor(Bias));
            x.iter().zip(gain).zip(bias).map(|((v, g), b)| (v - mean) / r * g + b).collect()
        };
        x.iter().map(row).collect()
    }

    fn layer_norm(&self, x: &Rows, i: usize, t: LayerTensor) -> Rows {
        self.norm(x, |kind| TensorId::Layer(i, t, kind))
    }

    /// Rotates one head's vector at a position.
    fn rotate(&self, x: &mut [f64], position: usize) {
        let Some(r) = &self.config.rotary else { return };
        let d = x.len();
        for pair in 0..d / 2 {
            let factor = if r.factors.is_empty() { 1.0 } else { r.factors[pair] };
            let frequency = r.base.powf(-(2.0 * pair as f64) / d as f64) / factor;
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (i, j) = if r.interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + d / 2) };
            (x[i], x[j]) = (x[i] * cos - x[j] * sin, x[j] * cos + x[i] * sin);
        }
    }

    /// All heads' averages of values, side by side.
    fn attention(&self, x: &Rows, i: usize) -> Rows {
        let (c, d) = (&self.config, self.config.head_dim);
        let (mut q, mut k) = (self.layer(x, i, LayerTensor::Q), self.layer(x, i, LayerTensor::K));
        let v = self.layer(x, i, LayerTensor::V);
        for rows in [&mut q, &mut k] {
            for (position, row) in rows.iter_mut().enumerate() {
                row.chunks_exact_mut(d).for_each(|head| self.rotate(head, position));
            }
        }
        let causal = matches!(c.family, Family::Llama | Family::Gpt2);
        let mut out = vec![vec![0.0; c.heads * d]; x.len()];
        for (query, out) in out.iter_mut().enumerate() {
            for h in 0..c.heads {
                let shared = h * c.kv_heads / c.heads;
                let (own, theirs) = (h * d..(h + 1) * d, shared * d..(shared + 1) * d);
                let seen = if causal { query + 1 } else { x.len() };
                let score = |k: &Vec<f64>| {
                    let products = q[query][own.clone()].iter().zip(&k[theirs.clone()]);
                    products.map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt()
                };
                let scores: Vec<f64> = k[..seen].iter().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (weight, v) in weights.iter().zip(&v) {
                    let values = out[own.clone()].iter_mut().zip(&v[theirs.clone()]);
                    values.for_each(|(o, v)| *o += weight / total * v);
                }
            }
        }
        out
    }

    fn function(&self, x: f64) -> f64 {
        match self.config.activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => x * 0.5 * (1.0 + libm::erf(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
        }
    }

    fn feed_forward(&self, x: &Rows, i: usize) -> Rows {
        let mut up = self.layer(x, i, LayerTensor::Up);
        if self.config.family == Family::Llama {
            let gate = self.layer(x, i, LayerTensor::Gate);
            for (u, g) in up.iter_mut().flatten().zip(gate.iter().flatten()) {
                *u *= self.function(*g);
            }
        } else {
            up.iter_mut().flatten().for_each(|v| *v = self.function(*v));
        }
        self.layer(&up, i, LayerTensor::Down)
    }

    /// What the last layer yields; the first `segment` tokens are of the first type.
    fn body(&self, tokens: &[u32], segment: usize) -> Rows {
        use LayerTensor::{AttentionNorm, FeedForwardNorm, O};
        let (c, d) = (&self.config, self.config.d_model);
        let row = |which, i: usize| &self.get(which)[i * d..(i + 1) * d];
        let bert = matches!(c.family, Family::Bert | Family::Roberta);
        let mut x: Rows = tokens
            .iter()
            .enumerate()
            .map(|(i, &t)| {
                let mut x = row(TensorId::Embedding, t as usize).to_vec();
                if c.family != Family::Llama {
                    add(&mut x, row(TensorId::Positions, i + c.position_offset));
                }
                if bert {
                    add(&mut x, row(TensorId::Types, usize::from(i >= segment)));
                }
                x
            })
            .collect();
        if bert {
            x = self.norm(&x, TensorId::EmbeddingNorm);
        }
        for i in 0..c.layers {
            if bert {
                // Vaswani et al.: the norm comes after the sum.
                let a = self.layer(&self.attention(&x, i), i, O);
                x = self.layer_norm(&sum(&x, &a), i, AttentionNorm);
                x = self.layer_norm(&sum(&x, &self.feed_forward(&x, i)), i, FeedForwardNorm);
            } else {
                let h = self.layer_norm(&x, i, AttentionNorm);
                x = sum(&x, &self.layer(&self.attention(&h, i), i, O));
                let h = self.layer_norm(&x, i, FeedForwardNorm);
                x = sum(&x, &self.feed_forward(&h, i));
            }
        }
        x
    }

    /// What a client gets: scores of every token, the sum of the rows, or scores of the labels.
    pub fn outputs(&self, tokens: &[u32], segment: Option<usize>) -> Vec<f64> {
        let x = self.body(tokens, segment.unwrap_or(tokens.len()));
        match self.config.head {
            Head::LanguageModel => {
                let h = self.norm(&x, TensorId::FinalNorm);
                let scores = |x: &Vec<f64>| -> Vec<f64> {
                    let rows = self.get(TensorId::Output).chunks_exact(x.len());
                    rows.map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
                };
                h.iter().flat_map(scores).collect()
            }
            Head::MeanPooling => x.iter().fold(vec![0.0; self.config.d_model], |mut total, row| {
                add(&mut total, row);
                total
            }),
            Head::Classifier { .. } => {
                let mut pooled = self.linear(&vec![x[0].clone()], TensorId::Pooler);
                pooled[0].iter_mut().for_each(|v| *v = v.tanh());
                self.linear(&pooled, TensorId::Classifier).concat()
            }
        }
    }
}

fn add(a: &mut [f64], b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
}

fn sum(a: &Rows, b: &Rows) -> Rows {
    let mut total = a.clone();
    total.iter_mut().zip(b).for_each(|(a, b)| add(a, b));
    total
}
