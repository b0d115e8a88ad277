use super::{Activation, CheckpointError, Family, Head, ModelConfig, Rotary};
use crate::gguf::Gguf;

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";
/// Divisors of the rotary frequencies (LLaMA 3.1), one for each pair.
const ROPE_FACTORS: &str = "rope_freqs.weight";

impl ModelConfig {
    /// Reads the configuration of a GGUF file of the LLaMA family (`llama`, `qwen2`) and checks it.
    /// One small tensor may have to be read for it.
    ///
    /// # Errors
    /// Another architecture, a variant that is computed differently, or impossible sizes.
    pub fn from_gguf(gguf: &mut Gguf) -> Result<Self, CheckpointError> {
        let factors = match gguf.info(ROPE_FACTORS) {
            // More pairs than any head has would only be refused after they were read.
            Some(info) if info.elements > 1 << 10 => {
                let what = format!("{ROPE_FACTORS} has {} elements", info.elements);
                return Err(CheckpointError::Config(what));
            }
            Some(_) => gguf.tensor(ROPE_FACTORS)?.into_iter().map(|f| round_f32(f.into())).collect(),
            None => Vec::new(),
        };
        let architecture: &str = gguf.require("general.architecture")?;
        // The converter interleaves the rotated pairs of LLaMA, not those of Qwen2.
        let (interleaved, qkv_bias) = match architecture {
            "llama" => (true, false),
            "qwen2" => (false, true),
            _ => {
                let found = architecture.to_owned();
                return Err(CheckpointError::Architecture { found, supported: "\"llama\" or \"qwen2\"" });
            }
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str| gguf.require::<u32>(&key(name)).map(|v| v as usize);
        let maybe = |name: &str| gguf.get::<u32>(&key(name)).map(|v| v.map(|v| v as usize));
        refuse_variants(gguf, architecture)?;

        let d_model = size("embedding_length")?;
        let heads = size("attention.head_count")?;
        let head_dim = match maybe("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && d_model % heads == 0 => d_model / heads,
            None => {
                let what = format!("a width of {d_model} cannot be divided among {heads} heads");
                return Err(CheckpointError::Config(what));
            }
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = maybe(name)?.filter(|other| *other != head_dim) {
                let what = format!("{} = {other}, unlike the head width {head_dim}", key(name));
                return Err(CheckpointError::Variant(what));
            }
        }
        let vocab = match maybe("vocab_size")? {
            Some(vocab) => vocab,
            None => gguf
                .info(EMBEDDING)
                .and_then(|info| info.dims.get(1).copied())
                .and_then(|rows| usize::try_from(rows).ok())
                .ok_or(CheckpointError::MissingTensor { name: EMBEDDING.to_owned() })?,
        };
        let base = gguf.get(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        let config = Self {
            family: Family::Llama,
            head: Head::LanguageModel,
            layers: size("block_count")?,
            d_model,
            d_ff: size("feed_forward_length")?,
            heads,
            kv_heads: maybe("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            vocab,
            context: size("context_length")?,
            types: 0,
            position_offset: 0,
            norm_eps: round_f32(gguf.require(&key("attention.layer_norm_rms_epsilon"))?),
            activation: Activation::Silu,
            rotary: Some(Rotary { base: round_f32(base), interleaved, factors }),
            qkv_bias,
            tied: gguf.info(OUTPUT).is_none(),
        };
        config.validate()?;
        Ok(config)
    }
}

/// Settings that change the computation and are not implemented.
fn refuse_variants(gguf: &Gguf, architecture: &str) -> Result<(), CheckpointError> {
    let key = |name: &str| format!("{architecture}.{name}");
    if let Some(scaling) = gguf.get::<&str>(&key("rope.scaling.type"))?.filter(|s| *s != "none") {
        return Err(CheckpointError::Variant(format!("rotary scaling {scaling:?}")));
    }
    if let Some(experts) = gguf.get::<u32>(&key("expert_count"))?.filter(|n| *n > 0) {
        return Err(CheckpointError::Variant(format!("a mixture of {experts} experts")));
    }
    for name in ["attention.scale", "residual_scale", "logit_scale", "embedding_scale"] {
        if gguf.metadata(&key(name)).is_some() {
            return Err(CheckpointError::Variant(format!("the setting {}", key(name))));
        }
    }
    Ok(())
}

/// GGUF stores constants as f32; the shortest decimal that means the same f32 is what was meant
/// (1e-5, not 9.99999974e-6).
fn round_f32(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}
