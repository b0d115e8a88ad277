use serde::{Deserialize, Serialize};

use super::{CheckpointError, LayerTensor, LlamaTensor};
use crate::gguf::Gguf;

/// Sizes and constants of a LLaMA-family model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
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
    /// Longest sequence that the model was trained for.
    pub context: usize,
    /// Added to the mean square in every norm.
    pub rms_eps: f64,
    /// Base of the rotary embedding's frequencies.
    pub rope_base: f64,
    /// Whether rotation pairs elements (2i, 2i+1), as in GGUF files, or (i, i + head_dim/2).
    pub rope_interleaved: bool,
    /// Whether the output layer is the embedding.
    pub tied: bool,
}

impl LlamaConfig {
    /// Reads the configuration of a GGUF file and checks it.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, CheckpointError> {
        let architecture: &str = gguf.require("general.architecture")?;
        if architecture != "llama" {
            let found = architecture.to_owned();
            return Err(CheckpointError::Architecture { found, supported: "\"llama\"" });
        }
        refuse_variants(gguf)?;
        let size = |key: &str| gguf.require::<u32>(key).map(|v| v as usize);
        let maybe = |key: &str| gguf.get::<u32>(key).map(|v| v.map(|v| v as usize));

        let d_model = size("llama.embedding_length")?;
        let heads = size("llama.attention.head_count")?;
        let head_dim = match maybe("llama.attention.key_length")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && d_model % heads == 0 => d_model / heads,
            None => {
                let what = format!("a width of {d_model} cannot be divided among {heads} heads");
                return Err(CheckpointError::Config(what));
            }
        };
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            if let Some(other) = maybe(key)?.filter(|other| *other != head_dim) {
                let what = format!("{key} = {other}, unlike the head width {head_dim}");
                return Err(CheckpointError::Variant(what));
            }
        }
        let vocab = match maybe("llama.vocab_size")? {
            Some(vocab) => vocab,
            None => gguf
                .info(&LlamaTensor::Embedding.to_string())
                .and_then(|info| info.dims.get(1).copied())
                .and_then(|rows| usize::try_from(rows).ok())
                .ok_or(CheckpointError::MissingTensor { name: LlamaTensor::Embedding.to_string() })?,
        };
        let config = Self {
            layers: size("llama.block_count")?,
            d_model,
            d_ff: size("llama.feed_forward_length")?,
            heads,
            kv_heads: maybe("llama.attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            vocab,
            context: size("llama.context_length")?,
            rms_eps: round_f32(gguf.require("llama.attention.layer_norm_rms_epsilon")?),
            rope_base: round_f32(gguf.get("llama.rope.freq_base")?.unwrap_or(10_000.0)),
            rope_interleaved: true,
            tied: gguf.info(&LlamaTensor::Output.to_string()).is_none(),
        };
        config.validate()?;
        Ok(config)
    }

    /// A model small enough to run in secret within a test: 2 layers, width 32.
    pub fn toy() -> Self {
        Self {
            layers: 2,
            d_model: 32,
            d_ff: 48,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            vocab: 61,
            context: 64,
            rms_eps: 1e-5,
            rope_base: 10_000.0,
            rope_interleaved: true,
            tied: true,
        }
    }

    /// Checks bounds and divisibility. A configuration that passes has sizes whose products fit
    /// into 64 bits.
    pub fn validate(&self) -> Result<(), CheckpointError> {
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
                return Err(CheckpointError::Config(format!("{name} is {value}; 1 to {most} is possible")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let what = format!("{} heads cannot share {} key heads", self.heads, self.kv_heads);
            return Err(CheckpointError::Config(what));
        }
        if !self.head_dim.is_multiple_of(2) {
            let what = format!("rotation needs an even head_dim, not {}", self.head_dim);
            return Err(CheckpointError::Config(what));
        }
        if !(self.rms_eps > 0.0 && self.rms_eps <= 0.1) {
            let what = format!("rms_eps is {}; above 0 and up to 0.1 is possible", self.rms_eps);
            return Err(CheckpointError::Config(what));
        }
        if !(self.rope_base > 1.0 && self.rope_base <= 1e12) {
            let what = format!("rope_base is {}; above 1 and up to 1e12 is possible", self.rope_base);
            return Err(CheckpointError::Config(what));
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

    /// Rows (outputs) and columns (inputs) of a tensor; a norm's gains are one row.
    pub fn shape(&self, which: LlamaTensor) -> (usize, usize) {
        match which {
            LlamaTensor::Embedding | LlamaTensor::Output => (self.vocab, self.d_model),
            LlamaTensor::FinalNorm => (1, self.d_model),
            LlamaTensor::Layer(_, tensor) => match tensor {
                LayerTensor::AttnNorm | LayerTensor::FfnNorm => (1, self.d_model),
                LayerTensor::Q => (self.q_dim(), self.d_model),
                LayerTensor::K | LayerTensor::V => (self.kv_dim(), self.d_model),
                LayerTensor::O => (self.d_model, self.q_dim()),
                LayerTensor::Gate | LayerTensor::Up => (self.d_ff, self.d_model),
                LayerTensor::Down => (self.d_model, self.d_ff),
            },
        }
    }

    /// Number of weights, a tied output layer counted once.
    pub fn parameters(&self) -> u64 {
        let size = |which| {
            let (rows, columns) = self.shape(which);
            rows as u64 * columns as u64
        };
        LlamaTensor::all(self).map(size).sum()
    }

    /// The layer index must exist.
    pub(super) fn check_index(&self, which: LlamaTensor) -> Result<(), CheckpointError> {
        match which {
            LlamaTensor::Layer(index, _) if index >= self.layers => {
                Err(CheckpointError::NoSuchTensor { which, layers: self.layers })
            }
            _ => Ok(()),
        }
    }
}

/// Settings of the architecture under which a plain LLaMA forward pass would be wrong.
fn refuse_variants(gguf: &Gguf) -> Result<(), CheckpointError> {
    if let Some(scaling) = gguf.get::<&str>("llama.rope.scaling.type")?.filter(|s| *s != "none") {
        return Err(CheckpointError::Variant(format!("rotary scaling {scaling:?}")));
    }
    if let Some(experts) = gguf.get::<u32>("llama.expert_count")?.filter(|n| *n > 0) {
        return Err(CheckpointError::Variant(format!("a mixture of {experts} experts")));
    }
    for key in ["llama.attention.scale", "llama.residual_scale", "llama.logit_scale", "llama.embedding_scale"]
    {
        if gguf.metadata(key).is_some() {
            return Err(CheckpointError::Variant(format!("the setting {key}")));
        }
    }
    Ok(())
}

/// GGUF stores constants as f32; the shortest decimal that means the same f32 is what was meant
/// (1e-5, not 9.99999974e-6).
fn round_f32(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}
