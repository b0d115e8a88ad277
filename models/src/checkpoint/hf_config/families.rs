use super::fields::Fields;
use super::{Layout, rope};
use crate::checkpoint::{Activation, CheckpointError, Family, FileError, Head, ModelConfig};

type Result<T> = std::result::Result<T, CheckpointError>;

fn unsupported(what: String, supported: &'static str) -> CheckpointError {
    FileError::Unsupported { what, supported }.into()
}

/// Width of each of `heads` that share `d_model`.
fn head_width(d_model: usize, heads: usize) -> Result<usize> {
    match heads > 0 && d_model.is_multiple_of(heads) {
        true => Ok(d_model / heads),
        false => {
            let what = format!("a width of {d_model} cannot be divided among {heads} heads");
            Err(CheckpointError::Config(what))
        }
    }
}

/// LLaMA, and Mistral and Qwen2 as far as they are the same.
pub(super) fn llama(fields: &Fields<'_>, layout: Layout) -> Result<ModelConfig> {
    match fields.text("hidden_act")? {
        None | Some("silu" | "swish") => {}
        Some(other) => {
            return Err(unsupported(format!("hidden_act {other:?} in a LLaMA"), "models with \"silu\""));
        }
    }
    fields.must_be_off("attention_bias")?;
    fields.must_be_off("mlp_bias")?;
    let context = fields.require_size("max_position_embeddings")?;
    let window = match layout {
        Layout::Qwen2 => fields.flag("use_sliding_window")?.unwrap_or(false),
        _ => fields.size("sliding_window")?.is_some_and(|window| window < context),
    };
    let layers = fields.texts("layer_types")?.unwrap_or_default();
    if window || layers.iter().any(|kind| *kind != "full_attention") {
        return Err(unsupported("attention within a sliding window".into(), "models with full attention"));
    }
    if let Some(part) = fields.number("partial_rotary_factor")?.filter(|part| *part != 1.0) {
        return Err(unsupported(format!("rotation of {part} of each head"), "models that rotate all of it"));
    }
    let (d_model, heads) = (fields.require_size("hidden_size")?, fields.require_size("num_attention_heads")?);
    let head_dim = match fields.size("head_dim")? {
        Some(head_dim) => head_dim,
        None => head_width(d_model, heads)?,
    };
    // Absent, this means as many as there are heads to LLaMA, but 8 to Mistral and 32 to Qwen2.
    let kv_heads = match layout {
        Layout::Llama => fields.size("num_key_value_heads")?.unwrap_or(heads),
        _ => fields.require_size("num_key_value_heads")?,
    };
    Ok(ModelConfig {
        family: Family::Llama,
        head: Head::LanguageModel,
        layers: fields.require_size("num_hidden_layers")?,
        d_model,
        d_ff: fields.require_size("intermediate_size")?,
        heads,
        kv_heads,
        head_dim,
        vocab: fields.require_size("vocab_size")?,
        context,
        types: 0,
        position_offset: 0,
        norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
        activation: Activation::Silu,
        rotary: Some(rope::rotary(fields, head_dim)?),
        qkv_bias: layout == Layout::Qwen2,
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
    })
}

/// GPT-2.
pub(super) fn gpt2(fields: &Fields<'_>) -> Result<ModelConfig> {
    fields.must_be("scale_attn_weights", true)?;
    fields.must_be_off("scale_attn_by_inverse_layer_idx")?;
    fields.must_be_off("add_cross_attention")?;
    let (d_model, heads) = (fields.require_size("n_embd")?, fields.require_size("n_head")?);
    Ok(ModelConfig {
        family: Family::Gpt2,
        head: Head::LanguageModel,
        layers: fields.require_size("n_layer")?,
        d_model,
        d_ff: fields.size("n_inner")?.unwrap_or(d_model.saturating_mul(4)),
        heads,
        kv_heads: heads,
        head_dim: head_width(d_model, heads)?,
        vocab: fields.require_size("vocab_size")?,
        context: fields.require_size("n_positions")?,
        types: 0,
        position_offset: 0,
        norm_eps: fields.number("layer_norm_epsilon")?.unwrap_or(1e-5),
        activation: gelu("activation_function", fields.text("activation_function")?.unwrap_or("gelu_new"))?,
        rotary: None,
        qkv_bias: true,
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(true),
    })
}

/// BERT and RoBERTa.
pub(super) fn bert(fields: &Fields<'_>, layout: Layout, head: Head) -> Result<ModelConfig> {
    fields.must_be_off("is_decoder")?;
    fields.must_be_off("add_cross_attention")?;
    if let Some(kind) = fields.text("position_embedding_type")?.filter(|kind| *kind != "absolute") {
        return Err(unsupported(format!("position_embedding_type {kind:?}"), "models with \"absolute\""));
    }
    let (d_model, heads) = (fields.require_size("hidden_size")?, fields.require_size("num_attention_heads")?);
    let positions = fields.require_size("max_position_embeddings")?;
    // RoBERTa counts positions from the row after that of the padding token.
    let (family, offset) = match layout {
        Layout::Roberta => (Family::Roberta, fields.size("pad_token_id")?.unwrap_or(1).saturating_add(1)),
        _ => (Family::Bert, 0),
    };
    let context = positions.checked_sub(offset).ok_or_else(|| {
        CheckpointError::Config(format!("{positions} rows of positions, the first {offset} of them unused"))
    })?;
    Ok(ModelConfig {
        family,
        head,
        layers: fields.require_size("num_hidden_layers")?,
        d_model,
        d_ff: fields.require_size("intermediate_size")?,
        heads,
        kv_heads: heads,
        head_dim: head_width(d_model, heads)?,
        vocab: fields.require_size("vocab_size")?,
        context,
        types: fields.size("type_vocab_size")?.unwrap_or(2),
        position_offset: offset,
        norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-12),
        activation: gelu("hidden_act", fields.text("hidden_act")?.unwrap_or("gelu"))?,
        rotary: None,
        qkv_bias: true,
        tied: false,
    })
}

/// The library has several names for two functions.
fn gelu(key: &str, name: &str) -> Result<Activation> {
    match name {
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        other => Err(unsupported(
            format!("{key} {other:?}"),
            "models with \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\" or \"gelu_fast\"",
        )),
    }
}
