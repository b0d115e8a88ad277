//! A transformer in some reading: its parts, and a pass through them. What a layer computes is the family's business:
//! `llama`, `gpt2`, `bert`.

use crate::algebra::{Act, Algebra, ByRows, Input, Linear, Output, Values};
use crate::attention::AttentionShape;
use crate::checkpoint::{Family, Head, ModelConfig};
use crate::parameter::Parameter;
use crate::rotary::Rotation;
use crate::{bert, gpt2, llama};
use protocol::Result;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A norm of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormId {
    /// Of the embeddings (BERT), or before the output layer (decoders).
    Outer,
    /// Before or (BERT) after attention.
    Attention(usize),
    /// Before or (BERT) after the feed-forward block.
    FeedForward(usize),
}

/// A function of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationId {
    /// In a layer's feed-forward block.
    Layer(usize),
    /// tanh of the pooler.
    Pooler,
}

/// Where the parts of a model in some reading come from.
pub trait Parts<V: Values> {
    /// Why there is none.
    type Error;
    /// The token embeddings.
    fn table(&mut self) -> std::result::Result<V::Table, Self::Error>;
    /// A weight matrix.
    fn matrix(&mut self, p: Parameter) -> std::result::Result<V::Matrix, Self::Error>;
    /// Bits of the outputs of a weight matrix, see [`Linear::bits`].
    fn bits(&self, p: Parameter) -> u32;
    /// Rows.
    fn rows(&mut self, p: Parameter) -> std::result::Result<V::Rows, Self::Error>;
    /// A norm.
    fn norm(&mut self, n: NormId) -> V::Norm;
    /// A layer's softmax.
    fn softmax(&mut self, layer: usize) -> V::Softmax;
    /// A function.
    fn activation(&mut self, a: ActivationId) -> V::Activation;
}

fn linear<V: Values, P: Parts<V>>(
    parts: &mut P,
    weight: Parameter,
    bias: Option<V::Rows>,
) -> std::result::Result<Linear<V>, P::Error> {
    Ok(Linear { weight: parts.matrix(weight)?, bias, bits: parts.bits(weight) })
}

/// What stands before the layers.
pub struct Front<V: Values> {
    /// Token embeddings.
    pub embedding: V::Table,
    /// Learned positions.
    pub positions: Option<V::Rows>,
    /// Token types.
    pub types: Option<V::Rows>,
    /// Norm of the embeddings.
    pub norm: Option<V::Norm>,
}

/// One layer.
pub struct Layer<V: Values> {
    /// Norm of the attention block.
    pub attention_norm: V::Norm,
    /// Queries, keys, values.
    pub qkv: Linear<V>,
    /// Softmax of the scores.
    pub softmax: V::Softmax,
    /// Attention output.
    pub o: Linear<V>,
    /// Gain of the residual beside it.
    pub attention_gain: Option<V::Rows>,
    /// Norm of the feed-forward block.
    pub feed_forward_norm: V::Norm,
    /// Up, or gate and up.
    pub up: Linear<V>,
    /// Between up and down.
    pub activation: V::Activation,
    /// Down.
    pub down: Linear<V>,
    /// Gain of the residual beside it.
    pub feed_forward_gain: Option<V::Rows>,
}

/// What stands behind the layers.
pub enum Back<V: Values> {
    /// Scores of every token of the vocabulary.
    LanguageModel {
        /// Last norm.
        norm: V::Norm,
        /// Output layer.
        output: Linear<V>,
    },
    /// Sum of the rows.
    Pooled {
        /// Gain of the last norm.
        gain: V::Rows,
        /// Its bias.
        bias: V::Rows,
    },
    /// Scores of labels.
    Classifier {
        /// Dense layer.
        pooler: Linear<V>,
        /// Its tanh.
        activation: V::Activation,
        /// Output layer.
        output: Linear<V>,
    },
}

/// A model in some reading.
pub struct Model<V: Values> {
    /// Shapes.
    pub config: ModelConfig,
    /// Before the layers.
    pub front: Front<V>,
    /// The layers.
    pub layers: Vec<Layer<V>>,
    /// Behind the layers.
    pub back: Back<V>,
}

/// Keys and values of all tokens so far of one sequence, layer by layer.
pub struct Cache<V: Values> {
    tokens: usize,
    layers: Vec<Kept<V>>,
}

/// One layer's keys and values.
pub type Kept<V> = Option<(<V as Values>::Factor, <V as Values>::Factor)>;

impl<V: Values> Cache<V> {
    /// Nothing yet.
    pub fn new(config: &ModelConfig) -> Cache<V> {
        Cache { tokens: 0, layers: (0..config.layers).map(|_| None).collect() }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Forgets all tokens but the first `tokens`. Local: no messages, and no operation, so that masks go on being fresh.
    ///
    /// # Panics
    /// There are fewer tokens.
    pub fn cut(&mut self, tokens: usize) {
        assert!(tokens <= self.tokens, "{tokens} of {} tokens", self.tokens);
        if tokens == self.tokens {
            return;
        }
        self.tokens = tokens;
        for kept in &mut self.layers {
            *kept = kept.take().filter(|_| tokens > 0).map(|(k, v)| (k.rows(0, tokens), v.rows(0, tokens)));
        }
    }
}

/// Which rows of a pass yield output scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputRows {
    /// The last token's only: generation.
    Last,
    /// Every token's: evaluation.
    All,
}

/// One sequence in a pass.
pub struct Sequence<'c, V: Values> {
    /// Its tokens so far; an encoder keeps nothing there.
    pub cache: &'c mut Cache<V>,
    /// Its new tokens.
    pub count: usize,
    /// How many of them are of the first token type; all if `None`.
    pub segment: Option<usize>,
}

impl<'c, V: Values> Sequence<'c, V> {
    /// `count` new tokens of one type.
    pub fn new(cache: &'c mut Cache<V>, count: usize) -> Sequence<'c, V> {
        Sequence { cache, count, segment: None }
    }
}

/// Where the new tokens of a sequence stand.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Position of the first.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// How many of them are of the first token type; all if `None`.
    pub segment: Option<usize>,
}

/// What all layers need to know of a pass. Its rows are the new tokens, sequence by sequence.
pub struct Pass {
    pub(crate) spans: Vec<Span>,
    pub(crate) attention: AttentionShape,
    pub(crate) rotation: Option<Rotation>,
}

impl Pass {
    /// Over these sequences.
    pub fn new(c: &ModelConfig, spans: Vec<Span>) -> Pass {
        let (heads, kv_heads, head_dim) = (c.heads, c.kv_heads, c.head_dim);
        let attention = if c.is_decoder() {
            let lengths: Vec<_> = spans.iter().map(|s| (s.count, s.first + s.count)).collect();
            AttentionShape::causal(heads, kv_heads, head_dim, &lengths)
        } else {
            let lengths: Vec<_> = spans.iter().map(|s| s.count).collect();
            AttentionShape::full(heads, kv_heads, head_dim, &lengths)
        };
        let mut pass = Pass { spans, attention, rotation: None };
        pass.rotation = c.rotary.as_ref().map(|r| {
            let rotated = (heads + kv_heads) * head_dim;
            Rotation::new(r, head_dim, rotated, &pass.positions(), Parameter::Qkv(0).shape(c).0)
        });
        pass
    }

    /// Of each row.
    fn positions(&self) -> Vec<usize> {
        self.spans.iter().flat_map(|s| s.first..s.first + s.count).collect()
    }

    /// The rows of each sequence.
    fn rows(&self) -> impl Iterator<Item = Range<usize>> {
        self.attention.blocks.iter().map(|b| b.queries.clone())
    }
}

impl<V: Values> Front<V> {
    /// Takes its parts.
    pub fn build<P: Parts<V>>(c: &ModelConfig, parts: &mut P) -> std::result::Result<Front<V>, P::Error> {
        let learned = c.rotary.is_none();
        let bert = matches!(c.family, Family::Bert | Family::Roberta);
        Ok(Front {
            embedding: parts.table()?,
            positions: learned.then(|| parts.rows(Parameter::Positions)).transpose()?,
            types: (c.types > 1).then(|| parts.rows(Parameter::Types)).transpose()?,
            norm: bert.then(|| parts.norm(NormId::Outer)),
        })
    }

    /// The first activations.
    pub async fn forward<A: Algebra<V = V>>(&self, a: &A, tokens: &Input<A>, pass: &Pass) -> Result<Act<A>> {
        let a = a.scope("embedding");
        let mut x = a.embed(tokens, &self.embedding).await?;
        if let Some(positions) = &self.positions {
            let index: Vec<_> = pass.positions().into_iter().map(Some).collect();
            x = a.add_rows(&x, positions, &index);
        }
        if let Some(types) = &self.types {
            let of = |s: &Span| {
                let second = s.segment.unwrap_or(s.count);
                (0..s.count).map(move |i| (i >= second).then_some(0))
            };
            let index: Vec<_> = pass.spans.iter().flat_map(of).collect();
            if index.iter().any(Option::is_some) {
                x = a.add_rows(&x, types, &index);
            }
        }
        match &self.norm {
            Some(norm) => a.scope("norm").norm(&x, norm).await,
            None => Ok(x),
        }
    }
}

impl<V: Values> Layer<V> {
    /// Takes the parts of layer `i`.
    pub fn build<P: Parts<V>>(
        c: &ModelConfig,
        i: usize,
        parts: &mut P,
    ) -> std::result::Result<Layer<V>, P::Error> {
        let all = Parameter::all(c);
        let rows = |parts: &mut P, p: Parameter| all.contains(&p).then(|| parts.rows(p)).transpose();
        let linear = |parts: &mut P, w, b| {
            let bias = rows(parts, b)?;
            linear(parts, w, bias)
        };
        let qkv = linear(parts, Parameter::Qkv(i), Parameter::QkvBias(i))?;
        let o = linear(parts, Parameter::O(i), Parameter::OBias(i))?;
        let up = linear(parts, Parameter::Up(i), Parameter::UpBias(i))?;
        let down = linear(parts, Parameter::Down(i), Parameter::DownBias(i))?;
        Ok(Layer {
            attention_norm: parts.norm(NormId::Attention(i)),
            qkv,
            softmax: parts.softmax(i),
            o,
            attention_gain: rows(parts, Parameter::AttentionGain(i))?,
            feed_forward_norm: parts.norm(NormId::FeedForward(i)),
            up,
            activation: parts.activation(ActivationId::Layer(i)),
            down,
            feed_forward_gain: rows(parts, Parameter::FeedForwardGain(i))?,
        })
    }

    /// One layer of the family.
    pub async fn forward<A: Algebra<V = V>>(
        &self,
        a: &A,
        family: Family,
        x: Act<A>,
        kept: &mut [&mut Kept<V>],
        pass: &Pass,
    ) -> Result<Act<A>> {
        match family {
            Family::Llama => llama::layer(a, self, x, kept, pass).await,
            Family::Gpt2 => gpt2::layer(a, self, x, kept, pass).await,
            Family::Bert | Family::Roberta => bert::layer(a, self, x, pass).await,
        }
    }
}

impl<V: Values> Back<V> {
    /// Takes its parts.
    pub fn build<P: Parts<V>>(c: &ModelConfig, parts: &mut P) -> std::result::Result<Back<V>, P::Error> {
        let biased = c.family != Family::Llama;
        let output = |parts: &mut P| {
            let bias = biased.then(|| parts.rows(Parameter::OutputBias)).transpose()?;
            linear(parts, Parameter::Output, bias)
        };
        Ok(match c.head {
            Head::LanguageModel => {
                Back::LanguageModel { norm: parts.norm(NormId::Outer), output: output(parts)? }
            }
            Head::MeanPooling => Back::Pooled {
                gain: parts.rows(Parameter::PooledGain)?,
                bias: parts.rows(Parameter::PooledBias)?,
            },
            Head::Classifier { .. } => {
                let bias = Some(parts.rows(Parameter::PoolerBias)?);
                Back::Classifier {
                    pooler: linear(parts, Parameter::Pooler, bias)?,
                    activation: parts.activation(ActivationId::Pooler),
                    output: output(parts)?,
                }
            }
        })
    }

    /// The rows that the output layer takes.
    pub async fn hidden<A: Algebra<V = V>>(
        &self,
        a: &A,
        x: Act<A>,
        pass: &Pass,
        rows: OutputRows,
    ) -> Result<Act<A>> {
        let a = a.scope("output");
        match self {
            Back::LanguageModel { norm, .. } => {
                let x = match rows {
                    OutputRows::Last => select(&x, pass.rows().map(|r| r.end - 1)),
                    OutputRows::All => x,
                };
                a.scope("norm").norm(&x, norm).await
            }
            Back::Pooled { .. } => Ok(x),
            Back::Classifier { pooler, activation, .. } => {
                let first = select(&x, pass.rows().map(|r| r.start));
                a.scope("pooler").activate(&first, pooler, activation).await
            }
        }
    }

    /// What the client gets of these rows, those of sequences with so many new tokens.
    pub fn output<A: Algebra<V = V>>(&self, a: &A, hidden: &Act<A>, counts: &[usize]) -> Result<Output<A>> {
        let a = a.scope("output");
        match self {
            Back::LanguageModel { output, .. } | Back::Classifier { output, .. } => {
                a.scores_out(hidden, output)
            }
            Back::Pooled { gain, bias } => a.pooled_out(hidden, counts, gain, bias),
        }
    }
}

/// Some rows, one after the other.
fn select<T: ByRows>(x: &T, rows: impl Iterator<Item = usize>) -> T {
    let rows = rows.map(|r| x.rows(r, r + 1));
    rows.reduce(|above, row| row.below(Some(&above))).expect("a pass has a sequence")
}

impl<V: Values> Model<V> {
    /// Takes all parts.
    ///
    /// # Errors
    /// The first part that is missing.
    pub fn build<P: Parts<V>>(c: &ModelConfig, parts: &mut P) -> std::result::Result<Model<V>, P::Error> {
        Ok(Model {
            config: c.clone(),
            front: Front::build(c, parts)?,
            layers: (0..c.layers)
                .map(|i| Layer::build(c, i, parts))
                .collect::<std::result::Result<_, _>>()?,
            back: Back::build(c, parts)?,
        })
    }

    /// Runs the new tokens of some sequences through the model, up to the rows that the output layer takes: each weight is
    /// read once, and each exchange takes place once, for all of them. `tokens` are those of the first sequence, then those
    /// of the next.
    ///
    /// # Panics
    /// There is no sequence, or one without new tokens.
    pub async fn hidden<A: Algebra<V = V>>(
        &self,
        a: &A,
        tokens: &Input<A>,
        sequences: &mut [Sequence<'_, V>],
        rows: OutputRows,
    ) -> Result<Act<A>> {
        assert!(!sequences.is_empty() && sequences.iter().all(|s| s.count > 0), "a pass over nothing");
        let span = |s: &Sequence<'_, V>| Span { first: s.cache.tokens, count: s.count, segment: s.segment };
        let pass = Pass::new(&self.config, sequences.iter().map(span).collect());
        if self.config.is_decoder() {
            sequences.iter_mut().for_each(|s| s.cache.tokens += s.count);
        }
        let mut x = self.front.forward(a, tokens, &pass).await?;
        for (i, layer) in self.layers.iter().enumerate() {
            let a = a.scope(&format!("layer.{i}"));
            let mut kept: Vec<_> = sequences.iter_mut().map(|s| &mut s.cache.layers[i]).collect();
            x = layer.forward(&a, self.config.family, x, &mut kept, &pass).await?;
        }
        self.back.hidden(a, x, &pass, rows).await
    }

    /// Runs `count` new tokens of one sequence through the model.
    pub async fn forward<A: Algebra<V = V>>(
        &self,
        a: &A,
        tokens: &Input<A>,
        count: usize,
        cache: &mut Cache<V>,
        rows: OutputRows,
    ) -> Result<Output<A>> {
        self.batch(a, tokens, &mut [Sequence::new(cache, count)], rows).await
    }

    /// Runs the new tokens of some sequences through the model, as [`Model::hidden`], up to what the client gets.
    pub async fn batch<A: Algebra<V = V>>(
        &self,
        a: &A,
        tokens: &Input<A>,
        sequences: &mut [Sequence<'_, V>],
        rows: OutputRows,
    ) -> Result<Output<A>> {
        let counts: Vec<usize> = sequences.iter().map(|s| s.count).collect();
        let hidden = self.hidden(a, tokens, sequences, rows).await?;
        self.back.output(a, &hidden, &counts)
    }
}
