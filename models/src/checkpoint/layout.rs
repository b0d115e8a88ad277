//! Which tensors a model has, their shapes, and what files call them.

use super::config::{Family, Head, ModelConfig};
use super::tensors::Naming;
use std::ops::Range;

/// Weight or bias (of norms: gain or bias).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Weight or gain.
    Weight,
    /// Bias.
    Bias,
}

/// A tensor that layers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerTensor {
    /// Norm before attention, or (BERT) after it.
    AttentionNorm,
    /// Queries, `[heads * head_dim][d_model]`.
    Q,
    /// Keys, `[kv_heads * head_dim][d_model]`.
    K,
    /// Values, `[kv_heads * head_dim][d_model]`.
    V,
    /// Attention output, `[d_model][heads * head_dim]`.
    O,
    /// Norm before the feed-forward block, or (BERT) after it.
    FeedForwardNorm,
    /// Feed-forward gate, `[d_ff][d_model]`.
    Gate,
    /// Feed-forward up, `[d_ff][d_model]`.
    Up,
    /// Feed-forward down, `[d_model][d_ff]`.
    Down,
}

/// A tensor of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorId {
    /// Token embeddings, `[vocab][d_model]`.
    Embedding,
    /// Learned positions, `[context + offset][d_model]`.
    Positions,
    /// Embeddings of token types, `[types][d_model]`.
    Types,
    /// Norm of the embeddings (BERT).
    EmbeddingNorm(Kind),
    /// A tensor of one layer, counted from 0.
    Layer(usize, LayerTensor, Kind),
    /// Norm before the output layer (decoders).
    FinalNorm(Kind),
    /// Output scores, `[vocab][d_model]`: the embeddings again where they are tied.
    Output,
    /// Dense layer over the first token, `[d_model][d_model]`.
    Pooler(Kind),
    /// Label scores, `[labels][d_model]`.
    Classifier(Kind),
}

/// Where a tensor lies in a file.
pub(super) struct Stored {
    pub(super) name: String,
    /// One row per input instead of one per output (GPT-2's `Conv1D`).
    pub(super) transposed: bool,
    /// Outputs of a tensor that holds several joined ones.
    pub(super) part: Option<Range<usize>>,
    /// Outputs and inputs of all of it.
    pub(super) whole: (usize, usize),
}

impl TensorId {
    /// Every tensor of a model, a tied output layer left out.
    pub fn all(c: &ModelConfig) -> Vec<TensorId> {
        use Kind::{Bias, Weight};
        use LayerTensor::{AttentionNorm, Down, FeedForwardNorm, Gate, K, O, Q, Up, V};
        let mut all = vec![TensorId::Embedding];
        let both = |f: fn(Kind) -> TensorId| [f(Weight), f(Bias)];
        if c.family != Family::Llama {
            all.push(TensorId::Positions);
        }
        if matches!(c.family, Family::Bert | Family::Roberta) {
            all.push(TensorId::Types);
            all.extend(both(TensorId::EmbeddingNorm));
        }
        for i in 0..c.layers {
            let tensors: &[LayerTensor] = match c.family {
                Family::Llama => &[AttentionNorm, Q, K, V, O, FeedForwardNorm, Gate, Up, Down],
                _ => &[AttentionNorm, Q, K, V, O, FeedForwardNorm, Up, Down],
            };
            for &t in tensors {
                all.push(TensorId::Layer(i, t, Weight));
                let bias = match c.family {
                    Family::Llama => c.qkv_bias && matches!(t, Q | K | V),
                    _ => true,
                };
                if bias {
                    all.push(TensorId::Layer(i, t, Bias));
                }
            }
        }
        match (c.head, c.family) {
            (Head::LanguageModel, family) => {
                all.push(TensorId::FinalNorm(Weight));
                if family == Family::Gpt2 {
                    all.push(TensorId::FinalNorm(Bias));
                }
                if !c.tied {
                    all.push(TensorId::Output);
                }
            }
            (Head::MeanPooling, _) => {}
            (Head::Classifier { .. }, _) => {
                all.extend(both(TensorId::Pooler));
                all.extend(both(TensorId::Classifier));
            }
        }
        all
    }

    /// Rows (outputs) and columns (inputs); gains and biases are one row.
    pub fn shape(self, c: &ModelConfig) -> (usize, usize) {
        use LayerTensor::{AttentionNorm, Down, FeedForwardNorm, Gate, K, O, Q, Up, V};
        let labels = match c.head {
            Head::Classifier { labels } => labels,
            _ => 0,
        };
        let (outputs, inputs) = match self {
            TensorId::Embedding | TensorId::Output => (c.vocab, c.d_model),
            TensorId::Positions => (c.context + c.position_offset, c.d_model),
            TensorId::Types => (c.types, c.d_model),
            TensorId::EmbeddingNorm(_) | TensorId::FinalNorm(_) => return (1, c.d_model),
            TensorId::Pooler(_) => (c.d_model, c.d_model),
            TensorId::Classifier(_) => (labels, c.d_model),
            TensorId::Layer(_, t, _) => match t {
                AttentionNorm | FeedForwardNorm => return (1, c.d_model),
                Q => (c.q_dim(), c.d_model),
                K | V => (c.kv_dim(), c.d_model),
                O => (c.d_model, c.q_dim()),
                Gate | Up => (c.d_ff, c.d_model),
                Down => (c.d_model, c.d_ff),
            },
        };
        match self.kind() {
            Kind::Weight => (outputs, inputs),
            Kind::Bias => (1, outputs),
        }
    }

    fn kind(self) -> Kind {
        match self {
            TensorId::EmbeddingNorm(k)
            | TensorId::FinalNorm(k)
            | TensorId::Pooler(k)
            | TensorId::Classifier(k)
            | TensorId::Layer(_, _, k) => k,
            _ => Kind::Weight,
        }
    }

    /// Whether files hold it as a vector.
    pub(super) fn is_vector(self) -> bool {
        use LayerTensor::{AttentionNorm, FeedForwardNorm};
        self.kind() == Kind::Bias
            || matches!(
                self,
                TensorId::EmbeddingNorm(_)
                    | TensorId::FinalNorm(_)
                    | TensorId::Layer(_, AttentionNorm | FeedForwardNorm, _)
            )
    }

    /// Where it lies in a file.
    pub(super) fn stored(self, c: &ModelConfig, naming: Naming, prefix: &str) -> Stored {
        let suffix = match self.kind() {
            Kind::Weight => "weight",
            Kind::Bias => "bias",
        };
        let stem = match (naming, c.family) {
            (Naming::Gguf, _) => self.gguf_name(),
            (_, Family::Llama) => self.llama_name(prefix),
            (_, Family::Gpt2) => self.gpt2_name(prefix),
            (_, Family::Bert | Family::Roberta) => self.bert_name(c, prefix),
        };
        let mut stored =
            Stored { name: format!("{stem}.{suffix}"), transposed: false, part: None, whole: self.shape(c) };
        if let (TensorId::Layer(_, t, _), Family::Gpt2) = (self, c.family) {
            use LayerTensor::{AttentionNorm, FeedForwardNorm, K, Q, V};
            stored.transposed = !matches!(t, AttentionNorm | FeedForwardNorm) && self.kind() == Kind::Weight;
            if let Some(i) = [Q, K, V].iter().position(|x| *x == t) {
                let d = c.d_model;
                stored.part = Some(i * d..(i + 1) * d);
                stored.whole = match self.kind() {
                    Kind::Weight => (3 * d, d),
                    Kind::Bias => (1, 3 * d),
                };
            }
        }
        stored
    }

    fn gguf_name(self) -> String {
        use LayerTensor::{AttentionNorm, Down, FeedForwardNorm, Gate, K, O, Q, Up, V};
        match self {
            TensorId::Embedding => "token_embd".into(),
            TensorId::FinalNorm(_) => "output_norm".into(),
            TensorId::Output => "output".into(),
            TensorId::Layer(i, t, _) => {
                let name = match t {
                    AttentionNorm => "attn_norm",
                    Q => "attn_q",
                    K => "attn_k",
                    V => "attn_v",
                    O => "attn_output",
                    FeedForwardNorm => "ffn_norm",
                    Gate => "ffn_gate",
                    Up => "ffn_up",
                    Down => "ffn_down",
                };
                format!("blk.{i}.{name}")
            }
            // GGUF files are read for LLaMA only.
            other => format!("{other:?}"),
        }
    }

    fn llama_name(self, prefix: &str) -> String {
        use LayerTensor::{AttentionNorm, Down, FeedForwardNorm, Gate, K, O, Q, Up, V};
        match self {
            TensorId::Embedding => format!("{prefix}embed_tokens"),
            TensorId::FinalNorm(_) => format!("{prefix}norm"),
            TensorId::Output => "lm_head".into(),
            TensorId::Layer(i, t, _) => {
                let name = match t {
                    AttentionNorm => "input_layernorm",
                    Q => "self_attn.q_proj",
                    K => "self_attn.k_proj",
                    V => "self_attn.v_proj",
                    O => "self_attn.o_proj",
                    FeedForwardNorm => "post_attention_layernorm",
                    Gate => "mlp.gate_proj",
                    Up => "mlp.up_proj",
                    Down => "mlp.down_proj",
                };
                format!("{prefix}layers.{i}.{name}")
            }
            other => format!("{other:?}"),
        }
    }

    fn gpt2_name(self, prefix: &str) -> String {
        use LayerTensor::{AttentionNorm, Down, FeedForwardNorm, Gate, K, O, Q, Up, V};
        match self {
            TensorId::Embedding => format!("{prefix}wte"),
            TensorId::Positions => format!("{prefix}wpe"),
            TensorId::FinalNorm(_) => format!("{prefix}ln_f"),
            TensorId::Output => "lm_head".into(),
            TensorId::Layer(i, t, _) => {
                let name = match t {
                    AttentionNorm => "ln_1",
                    Q | K | V => "attn.c_attn",
                    O => "attn.c_proj",
                    FeedForwardNorm => "ln_2",
                    Up | Gate => "mlp.c_fc",
                    Down => "mlp.c_proj",
                };
                format!("{prefix}h.{i}.{name}")
            }
            other => format!("{other:?}"),
        }
    }

    fn bert_name(self, c: &ModelConfig, prefix: &str) -> String {
        use LayerTensor::{AttentionNorm, Down, FeedForwardNorm, Gate, K, O, Q, Up, V};
        let roberta = c.family == Family::Roberta;
        match self {
            TensorId::Embedding => format!("{prefix}embeddings.word_embeddings"),
            TensorId::Positions => format!("{prefix}embeddings.position_embeddings"),
            TensorId::Types => format!("{prefix}embeddings.token_type_embeddings"),
            TensorId::EmbeddingNorm(_) => format!("{prefix}embeddings.LayerNorm"),
            TensorId::Pooler(_) if roberta => "classifier.dense".into(),
            TensorId::Pooler(_) => format!("{prefix}pooler.dense"),
            TensorId::Classifier(_) if roberta => "classifier.out_proj".into(),
            TensorId::Classifier(_) => "classifier".into(),
            TensorId::Layer(i, t, _) => {
                let name = match t {
                    AttentionNorm => "attention.output.LayerNorm",
                    Q => "attention.self.query",
                    K => "attention.self.key",
                    V => "attention.self.value",
                    O => "attention.output.dense",
                    FeedForwardNorm => "output.LayerNorm",
                    Up | Gate => "intermediate.dense",
                    Down => "output.dense",
                };
                format!("{prefix}encoder.layer.{i}.{name}")
            }
            other => format!("{other:?}"),
        }
    }
}

/// Prefixes that checkpoints of a family put before the names of the body.
pub(super) fn prefixes(c: &ModelConfig, naming: Naming) -> &'static [&'static str] {
    match (naming, c.family) {
        (Naming::Gguf, _) => &[""],
        (_, Family::Llama) => &["model.", ""],
        (_, Family::Gpt2) => &["transformer.", ""],
        (_, Family::Bert) => &["bert.", ""],
        (_, Family::Roberta) => &["roberta.", ""],
    }
}

/// Tensors that checkpoints carry and that change nothing: buffers, heads for training, a tied output layer.
pub(super) fn ignored(c: &ModelConfig, naming: Naming, prefix: &str, name: &str) -> bool {
    let body = name.strip_prefix(prefix).unwrap_or(name);
    match (naming, c.family) {
        (Naming::Gguf, _) => name == "rope_freqs.weight",
        (_, Family::Llama) => name.ends_with("rotary_emb.inv_freq") || (c.tied && name == "lm_head.weight"),
        (_, Family::Gpt2) => {
            name.ends_with(".attn.bias")
                || name.ends_with(".attn.masked_bias")
                || (c.tied && name == "lm_head.weight")
        }
        (_, Family::Bert | Family::Roberta) => {
            body == "embeddings.position_ids"
                || body == "embeddings.token_type_ids"
                || name.starts_with("cls.")
                || name.starts_with("lm_head.")
                || (body.starts_with("pooler.")
                    && !TensorId::all(c).contains(&TensorId::Pooler(Kind::Weight)))
                || (body.starts_with("pooler.") && c.family == Family::Roberta)
        }
    }
}
