//! What is public about a model's shape, whatever its family.

use serde::{Deserialize, Serialize};

use super::CheckpointError;

/// Families that are implemented. Each is one program over the algebra.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// LLaMA 1 to 3, SmolLM, and Qwen2, whose queries, keys and values have biases.
    Llama,
    /// GPT-2.
    Gpt2,
    /// BERT, MiniLM.
    Bert,
    /// RoBERTa: BERT with other positions, names and no token types.
    Roberta,
}

impl Family {
    /// What a person calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Llama => "LLaMA",
            Family::Gpt2 => "GPT-2",
            Family::Bert => "BERT",
            Family::Roberta => "RoBERTa",
        }
    }
}

/// The function in a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// x · sigmoid(x); gates another product (SwiGLU).
    Silu,
    /// x · Φ(x).
    Gelu,
    /// The tanh approximation of it (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
}

/// What comes out of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Head {
    /// A score for every token of the vocabulary.
    LanguageModel,
    /// The mean of the last layer's rows: a sentence embedding, not yet normalised.
    MeanPooling,
    /// A score for every label, from the first token by a dense layer with tanh and an output layer.
    Classifier {
        /// Number of labels.
        labels: usize,
    },
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// Base of the frequencies.
    pub base: f64,
    /// Whether rotation pairs elements (2i, 2i+1), as in GGUF files, or (i, i + head_dim/2).
    pub interleaved: bool,
    /// Divisors of the frequencies (LLaMA 3's scaling), one for each pair; empty for none.
    pub factors: Vec<f64>,
}

/// Sizes and constants of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Which program.
    pub family: Family,
    /// What comes out.
    pub head: Head,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the feed-forward block.
    pub d_ff: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of tokens.
    pub vocab: usize,
    /// Longest sequence: what the model was trained for, or how many positions it has learned.
    pub context: usize,
    /// Token types (segments) with an embedding of their own; 0 for none.
    pub types: usize,
    /// Row of the learned positions that belongs to the first token (RoBERTa: 2).
    pub position_offset: usize,
    /// Added to the mean square, or the variance, in every norm.
    pub norm_eps: f64,
    /// Function of the feed-forward block.
    pub activation: Activation,
    /// Rotary positions; `None` for learned ones.
    pub rotary: Option<Rotary>,
    /// Whether queries, keys and values have biases (always so but for LLaMA).
    pub qkv_bias: bool,
    /// Whether the output layer is the embedding.
    pub tied: bool,
}

impl ModelConfig {
    /// A LLaMA small enough to run in secret within a test: 2 layers, width 32.
    pub fn toy() -> Self {
        Self {
            family: Family::Llama,
            head: Head::LanguageModel,
            layers: 2,
            d_model: 32,
            d_ff: 48,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            vocab: 61,
            context: 64,
            types: 0,
            position_offset: 0,
            norm_eps: 1e-5,
            activation: Activation::Silu,
            rotary: Some(Rotary { base: 10_000.0, interleaved: true, factors: vec![] }),
            qkv_bias: false,
            tied: true,
        }
    }

    /// A GPT-2 of the same size.
    pub fn toy_gpt2() -> Self {
        Self {
            family: Family::Gpt2,
            d_ff: 128,
            kv_heads: 4,
            activation: Activation::GeluTanh,
            rotary: None,
            qkv_bias: true,
            ..Self::toy()
        }
    }

    /// A BERT of the same size, with a classifier of three labels.
    pub fn toy_bert() -> Self {
        Self {
            family: Family::Bert,
            head: Head::Classifier { labels: 3 },
            types: 2,
            norm_eps: 1e-12,
            activation: Activation::Gelu,
            tied: false,
            ..Self::toy_gpt2()
        }
    }

    /// A RoBERTa of the same size.
    pub fn toy_roberta() -> Self {
        Self { family: Family::Roberta, types: 1, position_offset: 2, norm_eps: 1e-5, ..Self::toy_bert() }
    }

    /// A published shape by its name, for measuring cost and speed where there are no weights.
    pub fn published(name: &str) -> Option<Self> {
        let (layers, d_model, heads) = match name {
            "gpt2" | "bert-base" | "roberta-base" => (12, 768, 12),
            "gpt2-medium" | "bert-large" => (24, 1024, 16),
            "gpt2-large" => (36, 1280, 20),
            "smollm2" => (30, 576, 9),
            "llama-7b" => (32, 4096, 32),
            _ => return None,
        };
        let sizes = |c: Self| Self { layers, d_model, heads, head_dim: d_model / heads, ..c };
        let classic =
            |c: Self, vocab, context| sizes(Self { kv_heads: heads, d_ff: 4 * d_model, vocab, context, ..c });
        let llama = |kv_heads, d_ff, vocab, context, tied| {
            sizes(Self { kv_heads, d_ff, vocab, context, tied, ..Self::toy() })
        };
        let labels = Head::Classifier { labels: 2 };
        Some(match name {
            "smollm2" => llama(3, 1536, 49152, 8192, true),
            "llama-7b" => llama(32, 11008, 32000, 2048, false),
            "bert-base" | "bert-large" => Self { head: labels, ..classic(Self::toy_bert(), 30522, 512) },
            "roberta-base" => Self { head: labels, ..classic(Self::toy_roberta(), 50265, 512) },
            _ => classic(Self::toy_gpt2(), 50257, 1024),
        })
    }

    /// The names that [`ModelConfig::published`] knows.
    pub const PUBLISHED: [&'static str; 8] = [
        "gpt2",
        "gpt2-medium",
        "gpt2-large",
        "bert-base",
        "bert-large",
        "roberta-base",
        "smollm2",
        "llama-7b",
    ];

    /// Checks bounds and divisibility. A configuration that passes has sizes whose products fit
    /// into 64 bits.
    pub fn validate(&self) -> Result<(), CheckpointError> {
        let refuse = |what: String| Err(CheckpointError::Config(what));
        let sizes = [
            ("layers", self.layers, 1 << 10),
            ("d_model", self.d_model, 1 << 16),
            ("d_ff", self.d_ff, 1 << 18),
            ("heads", self.heads, 1 << 10),
            ("kv_heads", self.kv_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 10),
            ("vocab", self.vocab, 1 << 22),
            ("context", self.context, 1 << 24),
        ];
        for (name, value, most) in sizes {
            if !(1..=most).contains(&value) {
                return refuse(format!("{name} is {value}; 1 to {most} is possible"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return refuse(format!("{} heads cannot share {} key heads", self.heads, self.kv_heads));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps <= 0.1) {
            let eps = self.norm_eps;
            return refuse(format!("the epsilon of norms is {eps}; above 0 and up to 0.1 is possible"));
        }
        if self.types > 16 || self.position_offset > 16 {
            return refuse(format!(
                "{} token types, positions from row {}; 16 at most",
                self.types, self.position_offset
            ));
        }
        match (&self.rotary, self.family) {
            (Some(r), Family::Llama) => {
                if !self.head_dim.is_multiple_of(2) {
                    return refuse(format!("rotation needs an even head_dim, not {}", self.head_dim));
                }
                if !(r.base > 1.0 && r.base <= 1e12) {
                    return refuse(format!(
                        "the rotary base is {}; above 1 and up to 1e12 is possible",
                        r.base
                    ));
                }
                let fits = r.factors.is_empty() || r.factors.len() == self.head_dim / 2;
                if !fits || !r.factors.iter().all(|f| (1e-3..=1e6).contains(f)) {
                    return refuse("rotary factors that do not fit the head width".into());
                }
            }
            (None, Family::Gpt2 | Family::Bert | Family::Roberta) => {
                if self.kv_heads != self.heads || self.heads * self.head_dim != self.d_model {
                    return refuse(format!(
                        "{} × {} columns of heads in a width of {}",
                        self.heads, self.head_dim, self.d_model
                    ));
                }
            }
            _ => return refuse(format!("positions that {} does not have", self.family.name())),
        }
        let decoder = matches!(self.family, Family::Llama | Family::Gpt2);
        let silu = self.activation == Activation::Silu;
        match self.head {
            Head::LanguageModel if decoder => {}
            Head::MeanPooling if !decoder => {}
            Head::Classifier { labels } if !decoder && (1..=1 << 16).contains(&labels) => {}
            head => return refuse(format!("a {} with head {head:?}", self.family.name())),
        }
        if silu != (self.family == Family::Llama) {
            return refuse(format!("a {} with activation {:?}", self.family.name(), self.activation));
        }
        if self.family != Family::Llama && !self.qkv_bias {
            return refuse(format!("a {} without biases", self.family.name()));
        }
        Ok(())
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Whether tokens attend only to those before them, and generation is possible.
    pub fn is_decoder(&self) -> bool {
        self.head == Head::LanguageModel
    }
}
