//! The configuration of a checkpoint of Hugging Face, from its `config.json`.
//!
//! The file lists everything that its authors ever made adjustable. What changes the computation is
//! either honoured or refused here; what does not (dropout, caches, number types) is left aside.

mod families;
mod fields;
mod rope;

use serde_json::Value;

use super::{FileError, Head, ModelConfig};
use crate::checkpoint::CheckpointError;
use fields::Fields;

/// What is listed where something else was asked for.
const SUPPORTED: &str = "LlamaForCausalLM, MistralForCausalLM without a sliding window, Qwen2ForCausalLM, \
                         GPT2LMHeadModel, BertModel, BertForSequenceClassification, RobertaModel and \
                         RobertaForSequenceClassification";

/// What `config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub struct HfConfig {
    /// Sizes and constants.
    pub config: ModelConfig,
    /// Names of a classifier's labels, in the order of its scores; empty for other models.
    pub labels: Vec<String>,
    /// Ids that end a text, as far as they are given; they may lie outside the tokenizer's vocabulary.
    pub eos: Vec<u32>,
    /// The id that begins a text, if it is given. Whether it is put there is the tokenizer's affair.
    pub bos: Option<u32>,
}

/// A family's layout of `config.json`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Llama,
    Mistral,
    Qwen2,
    Gpt2,
    Bert,
    Roberta,
}

/// What a class of the library puts on top.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Top {
    /// Nothing: the bare model.
    Bare,
    LanguageModel,
    Classifier,
}

impl HfConfig {
    /// Reads the text of a `config.json` and checks it.
    ///
    /// # Errors
    /// The text is no JSON object, a setting is missing or impossible, or the model is of a kind that
    /// is not implemented; the error lists what is.
    pub fn parse(json: &str) -> Result<Self, CheckpointError> {
        let value: Value = serde_json::from_str(json)
            .map_err(|e| CheckpointError::Config(format!("config.json is no JSON: {e}")))?;
        let Value::Object(map) = &value else {
            return Err(CheckpointError::Config("config.json is not a JSON object".into()));
        };
        let fields = Fields::new(map);
        if fields.object("quantization_config")?.is_some() {
            let what = "a checkpoint with quantised weights (quantization_config)".to_owned();
            let supported = "checkpoints with weights in F32, F16 or BF16, and GGUF files,";
            return Err(FileError::Unsupported { what, supported }.into());
        }
        let (layout, top) = kind(&fields)?;
        let labels = match top {
            Top::Classifier => labels(&fields)?,
            _ => Vec::new(),
        };
        let head = match (layout, top) {
            (_, Top::Classifier) => Head::Classifier { labels: labels.len() },
            (Layout::Bert | Layout::Roberta, _) => Head::MeanPooling,
            _ => Head::LanguageModel,
        };
        let config = match layout {
            Layout::Llama | Layout::Mistral | Layout::Qwen2 => families::llama(&fields, layout)?,
            Layout::Gpt2 => families::gpt2(&fields)?,
            Layout::Bert | Layout::Roberta => families::bert(&fields, layout, head)?,
        };
        config.validate()?;
        let (eos, bos) = (fields.ids("eos_token_id")?, fields.ids("bos_token_id")?);
        Ok(Self { config, labels, eos, bos: bos.first().copied() })
    }
}

/// The family and what is on top of it: by the class that wrote the checkpoint, else by the family's
/// name alone.
fn kind(fields: &Fields<'_>) -> Result<(Layout, Top), CheckpointError> {
    let unsupported = |what: String| Err(FileError::Unsupported { what, supported: SUPPORTED }.into());
    let model_type = fields.text("model_type")?;
    let named = match model_type {
        Some("llama") => Some(Layout::Llama),
        Some("mistral") => Some(Layout::Mistral),
        Some("qwen2") => Some(Layout::Qwen2),
        Some("gpt2") => Some(Layout::Gpt2),
        Some("bert") => Some(Layout::Bert),
        Some("roberta") => Some(Layout::Roberta),
        Some(other) => return unsupported(format!("the model type {other:?}")),
        None => None,
    };
    let class = match fields.first_text("architectures")? {
        Some(class) => class,
        None => match named {
            Some(layout) => return Ok((layout, Top::Bare)),
            None => {
                return unsupported(
                    "a config.json that names neither \"model_type\" nor \"architectures\"".into(),
                );
            }
        },
    };
    let (layout, top) = match class {
        "LlamaForCausalLM" => (Layout::Llama, Top::LanguageModel),
        "LlamaModel" => (Layout::Llama, Top::Bare),
        "MistralForCausalLM" => (Layout::Mistral, Top::LanguageModel),
        "MistralModel" => (Layout::Mistral, Top::Bare),
        "Qwen2ForCausalLM" => (Layout::Qwen2, Top::LanguageModel),
        "Qwen2Model" => (Layout::Qwen2, Top::Bare),
        "GPT2LMHeadModel" => (Layout::Gpt2, Top::LanguageModel),
        "GPT2Model" => (Layout::Gpt2, Top::Bare),
        "BertModel" => (Layout::Bert, Top::Bare),
        "BertForSequenceClassification" => (Layout::Bert, Top::Classifier),
        "RobertaModel" => (Layout::Roberta, Top::Bare),
        "RobertaForSequenceClassification" => (Layout::Roberta, Top::Classifier),
        other => return unsupported(format!("the architecture {other:?}")),
    };
    match named {
        Some(named) if named != layout => {
            let model_type = model_type.unwrap_or_default();
            Err(CheckpointError::Config(format!("model type {model_type:?} with architecture {class:?}")))
        }
        _ => Ok((layout, top)),
    }
}

/// The names of a classifier's labels. The library leaves out those of two labels with default names.
fn labels(fields: &Fields<'_>) -> Result<Vec<String>, CheckpointError> {
    let count = fields.size("num_labels")?;
    let labels = match fields.object("id2label")? {
        None => (0..count.unwrap_or(2)).take(1 << 16).map(|i| format!("LABEL_{i}")).collect(),
        Some(map) => {
            let name = |i: usize| map.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned);
            (0..map.len()).map(name).collect::<Option<Vec<_>>>().ok_or_else(|| {
                CheckpointError::Config("id2label does not name the labels 0, 1, 2, and so on".into())
            })?
        }
    };
    match count {
        Some(count) if count != labels.len() => {
            let named = labels.len();
            Err(CheckpointError::Config(format!("num_labels is {count}, id2label names {named} labels")))
        }
        _ => Ok(labels),
    }
}
