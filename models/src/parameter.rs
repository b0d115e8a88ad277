//! The tensors of a model as they are shared, after folding.

use crate::algebra::SCALE;
use crate::checkpoint::{Family, Head, ModelConfig};
use protocol::Shape;
use protocol::gates::embedding;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// One of a model's (folded) tensors.
///
/// Gains and biases of a norm go into the matrix that follows it. In BERT, whose residual stream runs through the
/// norms, they also appear as a gain and a bias of the residual: `x = O·a + bias + gain ∘ h`, h the normalised rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Parameter {
    /// Token embeddings: d_model outputs of vocab inputs.
    Embedding,
    /// Learned positions, one row each, with the embedding of the first token type.
    Positions,
    /// Differences of the other token types to the first, one row each.
    Types,
    /// Queries, keys and values: one matrix.
    Qkv(usize),
    /// Their bias.
    QkvBias(usize),
    /// Attention output.
    O(usize),
    /// Its bias.
    OBias(usize),
    /// Gain of the residual beside it.
    AttentionGain(usize),
    /// Feed-forward up; gate and up, where there is a gate.
    Up(usize),
    /// Its bias.
    UpBias(usize),
    /// Feed-forward down.
    Down(usize),
    /// Its bias.
    DownBias(usize),
    /// Gain of the residual beside it.
    FeedForwardGain(usize),
    /// Dense layer over the first token.
    Pooler,
    /// Its bias.
    PoolerBias,
    /// Output scores: vocab or labels outputs of d_model inputs.
    Output,
    /// Their bias.
    OutputBias,
    /// Gain of the pooled rows.
    PooledGain,
    /// Their bias.
    PooledBias,
}

/// What a parameter is used for, which decides how a party keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Looked up by private tokens.
    Table,
    /// Multiplied with activations.
    Matrix,
    /// Added to rows, or multiplied with them element by element.
    Rows,
}

impl Parameter {
    /// All parameters of a model, in the order of use.
    pub fn all(c: &ModelConfig) -> Vec<Parameter> {
        use Parameter::*;
        let mut all = vec![Embedding];
        let bert = matches!(c.family, Family::Bert | Family::Roberta);
        let plain = c.family == Family::Llama;
        if !plain {
            all.push(Positions);
        }
        if c.types > 1 {
            all.push(Types);
        }
        for i in 0..c.layers {
            all.push(Qkv(i));
            if c.qkv_bias {
                all.push(QkvBias(i));
            }
            all.push(O(i));
            if !plain {
                all.push(OBias(i));
            }
            if bert {
                all.push(AttentionGain(i));
            }
            all.push(Up(i));
            if !plain {
                all.push(UpBias(i));
            }
            all.push(Down(i));
            if !plain {
                all.push(DownBias(i));
            }
            if bert {
                all.push(FeedForwardGain(i));
            }
        }
        match c.head {
            Head::LanguageModel if plain => all.push(Output),
            Head::LanguageModel => all.extend([Output, OutputBias]),
            Head::MeanPooling => all.extend([PooledGain, PooledBias]),
            Head::Classifier { .. } => all.extend([Pooler, PoolerBias, Output, OutputBias]),
        }
        all
    }

    /// Outputs and inputs of a matrix or table, rows and columns of rows.
    pub fn shape(self, c: &ModelConfig) -> (usize, usize) {
        use Parameter::*;
        let d = c.d_model;
        let qkv = c.q_dim() + 2 * c.kv_dim();
        let up = if c.family == Family::Llama { 2 * c.d_ff } else { c.d_ff };
        let outputs = match c.head {
            Head::Classifier { labels } => labels,
            _ => c.vocab,
        };
        match self {
            Embedding => (d, c.vocab),
            Positions => (c.context, d),
            Types => (c.types - 1, d),
            Qkv(_) => (qkv, d),
            QkvBias(_) => (1, qkv),
            O(_) => (d, c.q_dim()),
            Up(_) => (up, d),
            UpBias(_) => (1, up),
            Down(_) => (d, c.d_ff),
            Pooler => (d, d),
            Output => (outputs, d),
            OutputBias => (1, outputs),
            OBias(_) | DownBias(_) | AttentionGain(_) | FeedForwardGain(_) | PoolerBias | PooledGain
            | PooledBias => (1, d),
        }
    }

    /// Number of elements.
    pub fn len(self, c: &ModelConfig) -> usize {
        let (rows, cols) = self.shape(c);
        rows * cols
    }

    /// The shape of the words that are shared: one an element, but of the embedding table two outputs in a word
    /// ([`embedding::pack`]).
    pub fn shared(self, c: &ModelConfig) -> Shape {
        let (rows, cols) = self.shape(c);
        match self.usage() {
            Use::Table => embedding::packed(Shape::new(rows, cols)),
            Use::Matrix | Use::Rows => Shape::new(rows, cols),
        }
    }

    /// How it is used.
    pub fn usage(self) -> Use {
        use Parameter::*;
        match self {
            Embedding => Use::Table,
            Qkv(_) | O(_) | Up(_) | Down(_) | Pooler | Output => Use::Matrix,
            _ => Use::Rows,
        }
    }

    /// Fractional bits: biases are added to products before these are truncated.
    pub fn scale(self) -> u32 {
        use Parameter::*;
        match self {
            QkvBias(_) | OBias(_) | UpBias(_) | DownBias(_) | PoolerBias | OutputBias | PooledBias => {
                2 * SCALE
            }
            _ => SCALE,
        }
    }

    /// Fixed-point integers of its elements.
    pub fn encode(self, weights: &[f32]) -> Vec<u64> {
        let unit = 2f64.powi(self.scale() as i32);
        weights.iter().map(|&w| (f64::from(w) * unit).round() as i64 as u64).collect()
    }

    /// Some of the words that are shared.
    ///
    /// # Panics
    /// If `weights` are not all of its elements.
    pub fn words(self, c: &ModelConfig, weights: &[f32], range: Range<usize>) -> Vec<u64> {
        assert_eq!(weights.len(), self.len(c), "elements of {self:?}");
        let mut words = self.encode(&weights[range.clone()]);
        if self.usage() == Use::Table {
            let at = |i: usize| (i + self.shared(c).len()).min(weights.len());
            let high = self.encode(&weights[at(range.start)..at(range.end)]);
            words.iter_mut().zip(high).for_each(|(word, high)| *word = embedding::pair(*word, high));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::BenchmarkWeights;
    use crate::folded::ParameterSource;
    use kernels::Words;

    /// In pieces of any length or at once, of a table of an odd or even number of outputs, and as a device makes them.
    #[test]
    fn words_of_a_table_are_pairs_of_numbers() {
        let device = kernels::cpu::Cpu::best();
        for d_model in [32, 7] {
            let c = ModelConfig { d_model, vocab: 61, ..ModelConfig::toy() };
            let p = Parameter::Embedding;
            let source = BenchmarkWeights::new([3; 32]);
            let numbers = source.parameters(&device, &c).numbers(p).unwrap();
            let (whole, rows) = (p.shared(&c), d_model.div_ceil(2));
            assert_eq!(whole, Shape::new(rows, 61));
            let entry = |output: usize, token: usize| match output < d_model {
                true => p.encode(&numbers[output * 61 + token..][..1])[0],
                false => 0,
            };
            let expected: Vec<u64> = (0..whole.len())
                .map(|i| entry(i / 61, i % 61).wrapping_add(entry(i / 61 + rows, i % 61) << 32))
                .collect();
            for piece in [whole.len(), 100, 61, 1] {
                let starts = (0..whole.len()).step_by(piece);
                let pieces = starts.map(|i| p.words(&c, &numbers, i..whole.len().min(i + piece)));
                assert_eq!(pieces.flatten().collect::<Vec<_>>(), expected, "{piece} at a time");
            }
            assert_eq!(source.words(&device, &c, p).to_vec(), expected);
            let all = Words::upload(&device, p.encode(&numbers));
            let halves = [all.slice(0..whole.len()), all.slice(whole.len()..p.len(&c))];
            assert_eq!(embedding::pack(&halves[0], &halves[1]).to_vec(), expected);
        }
    }
}
