//! A model from a path: whatever a person has on disk, recognised by what it is.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::safetensors::is_file_name;
use super::{CheckpointError, FileError, Head, HfConfig, ModelConfig, SafetensorsFolder, Tensors};
use crate::gguf::Gguf;
use crate::tokenizer::{Tokenizer, TokenizerFiles};

/// Largest `tokenizer.json`, and largest of the other JSON files.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A model's files, opened: what is public about it at hand, its weights to be read one at a time.
pub struct Checkpoint {
    /// Sizes and constants.
    pub config: ModelConfig,
    /// Names of a classifier's labels, in the order of its scores; empty for other models.
    pub labels: Vec<String>,
    /// The weights; `None` where a configuration alone was opened.
    pub tensors: Option<Box<dyn Tensors>>,
    /// The tokenizer; `None` where there is none beside the weights. It has no more tokens than the
    /// model has embeddings, but may have fewer.
    pub tokenizer: Option<Tokenizer>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("config", &self.config)
            .field("labels", &self.labels)
            .field("tensors", &self.tensors.as_ref().map(|tensors| tensors.names().len()))
            .field("tokenizer", &self.tokenizer)
            .finish()
    }
}

impl Checkpoint {
    /// Opens a `.gguf` file, a folder of Hugging Face (`config.json`, safetensors, `tokenizer.json`), or
    /// a `config.json` alone, which has no weights. Only headers are read of weights.
    ///
    /// # Errors
    /// The path is none of these, or a file is broken or asks for something that is not implemented.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let is_folder = path.metadata().map_err(|e| FileError::io(path, e))?.is_dir();
        let opened = match extension.as_deref() {
            _ if is_folder => folder(path)?,
            Some("json") => {
                let HfConfig { config, labels, .. } = read_config(path)?;
                Self { config, labels, tensors: None, tokenizer: None }
            }
            Some("safetensors" | "bin" | "pt" | "pth" | "onnx") => {
                let what = "holds weights without a configuration".into();
                return Err(FileError::NotAModel { path: path.to_path_buf(), what }.into());
            }
            _ => gguf(Gguf::open(path)?)?,
        };
        let tokens = opened.tokenizer.as_ref().map_or(0, Tokenizer::vocab_size);
        if tokens > opened.config.vocab {
            return Err(FileError::Vocabulary { tokens, vocab: opened.config.vocab }.into());
        }
        Ok(opened)
    }
}

fn gguf(mut gguf: Gguf) -> Result<Checkpoint, CheckpointError> {
    let config = ModelConfig::from_gguf(&mut gguf)?;
    let tokenizer = match gguf.metadata("tokenizer.ggml.model") {
        Some(_) => Some(Tokenizer::from_gguf(&gguf).map_err(FileError::from)?),
        None => None,
    };
    Ok(Checkpoint { config, labels: Vec::new(), tensors: Some(Box::new(gguf)), tokenizer })
}

fn folder(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let config = path.join("config.json");
    if !config.exists() {
        let what = "is a folder without a config.json".into();
        return Err(FileError::NotAModel { path: path.to_path_buf(), what }.into());
    }
    let HfConfig { config, labels, eos, .. } = read_config(&config)?;
    if config.head == Head::MeanPooling {
        check_pooling(path)?;
    }
    let tokenizer = tokenizer(path, &eos)?;
    let tensors = Some(Box::new(SafetensorsFolder::open(path)?) as Box<dyn Tensors>);
    Ok(Checkpoint { config, labels, tensors, tokenizer })
}

/// The tokenizer of a folder, if it has a `tokenizer.json`.
fn tokenizer(folder: &Path, eos: &[u32]) -> Result<Option<Tokenizer>, FileError> {
    let optional = |name: &str, most| {
        let file = folder.join(name);
        file.exists().then(|| read_text(&file, most)).transpose()
    };
    let Some(tokenizer) = optional("tokenizer.json", MAX_TOKENIZER_BYTES)? else { return Ok(None) };
    let tokenizer_config = optional("tokenizer_config.json", MAX_CONFIG_BYTES)?;
    let generation_config = optional("generation_config.json", MAX_CONFIG_BYTES)?;
    let chat_template = optional("chat_template.jinja", MAX_CONFIG_BYTES)?;
    let files = TokenizerFiles {
        tokenizer: &tokenizer,
        tokenizer_config: tokenizer_config.as_deref(),
        generation_config: generation_config.as_deref(),
        chat_template: chat_template.as_deref(),
        eos,
    };
    Ok(Some(Tokenizer::from_files(&files)?))
}

fn read_config(path: &Path) -> Result<HfConfig, CheckpointError> {
    HfConfig::parse(&read_text(path, MAX_CONFIG_BYTES)?)
}

/// Sentence embeddings are the mean of all rows here, perhaps normalised. `modules.json` says what a
/// model of the library sentence-transformers does.
fn check_pooling(folder: &Path) -> Result<(), FileError> {
    let path = folder.join("modules.json");
    if !path.exists() {
        return Ok(());
    }
    let unsupported = |what: String| {
        Err(FileError::Unsupported { what, supported: "sentence models that take the mean of all tokens" })
    };
    let modules = read_json(&path)?;
    for module in modules.as_array().into_iter().flatten() {
        let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("type").rsplit('.').next() {
            Some("Transformer" | "Normalize") => {}
            Some("Pooling") => {
                let name = text("path");
                let config = folder.join(name).join("config.json");
                if !is_file_name(name) || !config.exists() {
                    continue;
                }
                let config = read_json(&config)?;
                let on = |(key, value): (&String, &Value)| {
                    (key.starts_with("pooling_mode") && value == true).then(|| key.clone())
                };
                let modes: Vec<String> = config.as_object().into_iter().flatten().filter_map(on).collect();
                if modes != ["pooling_mode_mean_tokens"] {
                    return unsupported(format!("the pooling {modes:?}"));
                }
            }
            _ => return unsupported(format!("the module {:?} of modules.json", text("type"))),
        }
    }
    Ok(())
}

fn read_json(path: &Path) -> Result<Value, FileError> {
    serde_json::from_str(&read_text(path, MAX_CONFIG_BYTES)?)
        .map_err(|e| FileError::broken(path, e.to_string()))
}

/// A small text file.
pub(super) fn read_text(path: &Path, most: u64) -> Result<String, FileError> {
    let io = |e| FileError::io(path, e);
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most {
        return Err(FileError::broken(path, format!("it is longer than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| FileError::broken(path, "it is not UTF-8"))
}
