//! The LLaMA family: RMSNorm, rotary grouped-query attention, SwiGLU, residuals. Written once, read in every way.

use crate::algebra::{Act, Algebra, Input, Logits, Values};
use crate::attention::AttentionShape;
use crate::checkpoint::LlamaConfig;
use crate::rotary::{RotarySpec, Rotation};
use protocol::{Result, join};

/// One of a model's (folded) weight matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum MatrixId {
    /// Embeddings: d_model outputs of vocab inputs.
    Embedding,
    /// Queries, keys and values: one matrix.
    Qkv(usize),
    /// Attention output.
    O(usize),
    /// Gate and up: one matrix.
    GateUp(usize),
    /// Down.
    Down(usize),
    /// Output scores: vocab outputs of d_model inputs.
    Output,
}

impl MatrixId {
    /// All matrices of a model, in the order of use.
    pub fn all(config: &LlamaConfig) -> Vec<MatrixId> {
        let layer = |i| [MatrixId::Qkv(i), MatrixId::O(i), MatrixId::GateUp(i), MatrixId::Down(i)];
        std::iter::once(MatrixId::Embedding)
            .chain((0..config.layers).flat_map(layer))
            .chain([MatrixId::Output])
            .collect()
    }

    /// Outputs and inputs.
    pub fn shape(self, c: &LlamaConfig) -> (usize, usize) {
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        match self {
            MatrixId::Embedding => (c.d_model, c.vocab),
            MatrixId::Qkv(_) => (q + 2 * kv, c.d_model),
            MatrixId::O(_) => (c.d_model, q),
            MatrixId::GateUp(_) => (2 * c.d_ff, c.d_model),
            MatrixId::Down(_) => (c.d_model, c.d_ff),
            MatrixId::Output => (c.vocab, c.d_model),
        }
    }
}

/// One decoder layer.
pub struct Layer<V: Values> {
    /// Norm before attention.
    pub attention_norm: V::Norm,
    /// Queries, keys, values.
    pub qkv: V::Matrix,
    /// Softmax of the scores.
    pub softmax: V::Softmax,
    /// Attention output.
    pub o: V::Matrix,
    /// Norm before the feed-forward block.
    pub feed_forward_norm: V::Norm,
    /// Gate and up.
    pub gate_up: V::Matrix,
    /// SiLU(gate) · up.
    pub gate: V::Gate,
    /// Down.
    pub down: V::Matrix,
}

/// A model in some reading.
pub struct Llama<V: Values> {
    /// Shapes.
    pub config: LlamaConfig,
    /// Token embeddings.
    pub embedding: V::Matrix,
    /// Decoder layers.
    pub layers: Vec<Layer<V>>,
    /// Last norm.
    pub final_norm: V::Norm,
    /// Output scores.
    pub output: V::Matrix,
}

/// Keys and values of all tokens so far, layer by layer.
pub struct Cache<V: Values> {
    tokens: usize,
    layers: Vec<Option<(V::Act, V::Act)>>,
}

impl<V: Values> Cache<V> {
    /// Nothing yet.
    pub fn new(config: &LlamaConfig) -> Cache<V> {
        Cache { tokens: 0, layers: (0..config.layers).map(|_| None).collect() }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// Which rows of a pass yield output scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LogitRows {
    /// The last token's only: generation.
    Last,
    /// Every token's: evaluation.
    All,
}

impl<V: Values> Llama<V> {
    /// Runs `count` new tokens through the model.
    pub async fn forward<A: Algebra<V = V>>(
        &self,
        a: &A,
        tokens: &Input<A>,
        count: usize,
        cache: &mut Cache<V>,
        rows: LogitRows,
    ) -> Result<Logits<A>> {
        let c = &self.config;
        let width = MatrixId::Qkv(0).shape(c).0;
        let spec = RotarySpec {
            base: c.rope_base,
            head_dim: c.head_dim,
            rotated: (c.heads + c.kv_heads) * c.head_dim,
            interleaved: c.rope_interleaved,
        };
        let rotation = Rotation::new(&spec, cache.tokens, count, width);
        cache.tokens += count;
        let shape = AttentionShape::causal(c.heads, c.kv_heads, c.head_dim, count, cache.tokens);

        let mut x = a.scope("embedding").embed(tokens, &self.embedding).await?;
        for (i, (layer, kept)) in self.layers.iter().zip(&mut cache.layers).enumerate() {
            let a = a.scope(&format!("layer.{i}"));
            x = layer.attention(&a.scope("attention"), x, kept, &rotation, &shape).await?;
            x = layer.feed_forward(&a.scope("feed_forward"), x).await?;
        }
        let a = a.scope("output");
        let first = if rows == LogitRows::Last { count - 1 } else { 0 };
        let x = a.norm(&a.rows(&x, first, count), &self.final_norm).await?;
        a.logits(&x, &self.output)
    }
}

impl<V: Values> Layer<V> {
    async fn attention<A: Algebra<V = V>>(
        &self,
        a: &A,
        x: Act<A>,
        kept: &mut Option<(Act<A>, Act<A>)>,
        rotation: &Rotation,
        shape: &AttentionShape,
    ) -> Result<Act<A>> {
        let h = a.scope("norm").norm(&x, &self.attention_norm).await?;
        let qkv = a.scope("qkv").linear_rotated(&h, &self.qkv, rotation).await?;
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let (old_k, old_v) = kept.take().unzip();
        let k = a.append(old_k.as_ref(), &a.columns(&qkv, q, q + kv));
        let v = a.append(old_v.as_ref(), &a.columns(&qkv, q + kv, q + 2 * kv));

        let scores = a.scope("scores").scores(&a.columns(&qkv, 0, q), &k, shape).await?;
        let e = a.scope("softmax").exponentials(&scores, shape, &self.softmax).await?;
        let (sum, reciprocal) = join(
            a.scope("values").weighted_sum(&e, &v, shape),
            a.scope("softmax").reciprocal_sums(&e, shape, &self.softmax),
        )
        .await?;
        let heads = a.scope("divide").scale_heads(&sum, &reciprocal, shape).await?;
        let o = a.scope("o").linear(&heads, &self.o).await?;
        *kept = Some((k, v));
        Ok(a.add(&x, &o))
    }

    async fn feed_forward<A: Algebra<V = V>>(&self, a: &A, x: Act<A>) -> Result<Act<A>> {
        let h = a.scope("norm").norm(&x, &self.feed_forward_norm).await?;
        let gate_up = a.scope("gate_up").linear(&h, &self.gate_up).await?;
        let width = a.width(&gate_up) / 2;
        let (g, u) = (a.columns(&gate_up, 0, width), a.columns(&gate_up, width, 2 * width));
        let h = a.scope("gated").gated(&g, &u, &self.gate).await?;
        let down = a.scope("down").linear(&h, &self.down).await?;
        Ok(a.add(&x, &down))
    }
}
