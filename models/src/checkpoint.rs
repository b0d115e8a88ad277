//! LLaMA-family checkpoints: their configuration, and their weights one tensor at a time.
//!
//! A [`TensorSource`] is where weights come from: [`GgufCheckpoint`] reads a file, [`RandomLlama`]
//! makes them up for tests. Both give the same shapes, row-major with one row per output.

mod config;
mod gguf_llama;
mod model_config;
mod random;
mod tensors;

use std::fmt;

use crate::gguf::GgufError;

pub use config::LlamaConfig;
pub use gguf_llama::GgufCheckpoint;
pub use model_config::{Activation, Family, Head, ModelConfig, Rotary};
pub use random::RandomLlama;
pub use tensors::{Naming, Tensors};

/// Why a checkpoint was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file is broken or uses something that is not read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Another architecture.
    #[error(
        "the model's architecture is {found:?}, which is not supported; {supported} is: choose a model of that family"
    )]
    Architecture {
        /// What the file says.
        found: String,
        /// What would work.
        supported: &'static str,
    },
    /// A variant of the architecture that is computed differently.
    #[error("the model uses {0}, which is not supported; choose a plain LLaMA model")]
    Variant(String),
    /// The configuration contradicts itself or is out of bounds.
    #[error("impossible configuration: {0}")]
    Config(String),
    /// A tensor that the configuration calls for is absent.
    #[error("the file lacks tensor {name:?}; a model cut into several files must be joined first")]
    MissingTensor {
        /// Its name in the file.
        name: String,
    },
    /// A tensor that the configuration does not call for, so that the model would be computed wrongly.
    #[error(
        "the file has tensor {name:?}, for which a plain LLaMA model has no use; choose a plain LLaMA model"
    )]
    ExtraTensor {
        /// Its name in the file.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name:?} has shape {found:?} (innermost first); the configuration calls for {wanted:?}")]
    Shape {
        /// Its name in the file.
        name: String,
        /// Its extents in file order.
        found: Vec<u64>,
        /// What the configuration says.
        wanted: Vec<u64>,
    },
    /// A tensor that this configuration does not have was asked for.
    #[error("there is no tensor {which} in a model of {layers} layers")]
    NoSuchTensor {
        /// The tensor.
        which: LlamaTensor,
        /// Number of layers.
        layers: usize,
    },
}

/// A tensor of a LLaMA model. `Display` gives its name in GGUF files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LlamaTensor {
    /// Token embeddings, `[vocab][d_model]`.
    Embedding,
    /// The output layer, `[vocab][d_model]`: the embeddings again where they are tied.
    Output,
    /// Gains of the last norm, `[d_model]`.
    FinalNorm,
    /// A tensor of one layer, counted from 0.
    Layer(usize, LayerTensor),
}

/// A tensor that every layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerTensor {
    /// Gains of the norm before attention, `[d_model]`.
    AttnNorm,
    /// Queries, `[heads * head_dim][d_model]`.
    Q,
    /// Keys, `[kv_heads * head_dim][d_model]`.
    K,
    /// Values, `[kv_heads * head_dim][d_model]`.
    V,
    /// Attention output, `[d_model][heads * head_dim]`.
    O,
    /// Gains of the norm before the feed-forward block, `[d_model]`.
    FfnNorm,
    /// Feed-forward gate, `[d_ff][d_model]`.
    Gate,
    /// Feed-forward up, `[d_ff][d_model]`.
    Up,
    /// Feed-forward down, `[d_model][d_ff]`.
    Down,
}

impl LayerTensor {
    /// All of them, in the order in which a layer uses them.
    pub const ALL: [Self; 9] =
        [Self::AttnNorm, Self::Q, Self::K, Self::V, Self::O, Self::FfnNorm, Self::Gate, Self::Up, Self::Down];

    fn name(self) -> &'static str {
        match self {
            Self::AttnNorm => "attn_norm",
            Self::Q => "attn_q",
            Self::K => "attn_k",
            Self::V => "attn_v",
            Self::O => "attn_output",
            Self::FfnNorm => "ffn_norm",
            Self::Gate => "ffn_gate",
            Self::Up => "ffn_up",
            Self::Down => "ffn_down",
        }
    }
}

impl LlamaTensor {
    /// Every tensor of a model, the output layer included only where it is one of its own.
    pub fn all(config: &LlamaConfig) -> impl Iterator<Item = Self> {
        let output = (!config.tied).then_some(Self::Output);
        [Self::Embedding, Self::FinalNorm]
            .into_iter()
            .chain(output)
            .chain((0..config.layers).flat_map(|i| LayerTensor::ALL.map(|t| Self::Layer(i, t))))
    }
}

impl fmt::Display for LlamaTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("token_embd.weight"),
            Self::Output => f.write_str("output.weight"),
            Self::FinalNorm => f.write_str("output_norm.weight"),
            Self::Layer(index, tensor) => write!(f, "blk.{index}.{}.weight", tensor.name()),
        }
    }
}

/// Where a model's weights come from.
pub trait TensorSource {
    /// The model's configuration.
    fn config(&self) -> &LlamaConfig;

    /// One tensor, row-major `[out][in]` (a norm's gains are one row), its length that of
    /// [`LlamaConfig::shape`]. [`LlamaTensor::Output`] of a tied model is its embedding.
    fn load(&mut self, which: LlamaTensor) -> Result<Vec<f32>, CheckpointError>;
}
