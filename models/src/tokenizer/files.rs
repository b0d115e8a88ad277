use serde_json::Value;

use super::{ChatFormat, Tokenizer, TokenizerError, chat, json};

/// Tokens that end a document or an answer in every model that has them.
const ENDS: [&str; 4] = ["<|endoftext|>", chat::END, "<|eot_id|>", "<|end_of_text|>"];

/// The texts of the files that describe a tokenizer in a folder of Hugging Face.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a str,
    /// `tokenizer_config.json`: the chat template, the names of special tokens.
    pub tokenizer_config: Option<&'a str>,
    /// `generation_config.json`: ids that end an answer.
    pub generation_config: Option<&'a str>,
    /// `chat_template.jinja`: the chat template, in newer folders.
    pub chat_template: Option<&'a str>,
    /// Ids that end a text by the model's `config.json`.
    pub eos: &'a [u32],
}

impl Tokenizer {
    /// Builds a tokenizer from the files of a folder, which may come from anyone.
    ///
    /// A decoder stops at the ids that the files name and at known names of end tokens; ids that the
    /// vocabulary lacks are left aside, as defaults of another model often stay in `config.json`. An
    /// encoder has none.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Self, TokenizerError> {
        let parts = json::parse(files.tokenizer)?;
        let config = object("tokenizer_config.json", files.tokenizer_config)?;
        let generation = object("generation_config.json", files.generation_config)?;
        if parts.frame.is_some() {
            return Self::new(parts, Vec::new(), None, ChatFormat::Raw);
        }
        let chat = ChatFormat::from_template(files.chat_template.or_else(|| template(&config)));
        let special = |name: &str| {
            parts.added.iter().find(|(_, token)| token.special && token.content == name).map(|(id, _)| *id)
        };
        let given = ids(generation.get("eos_token_id"));
        let named = token_name(&config, "eos_token").and_then(|name| parts.id_of(name));
        let eos = (files.eos.iter().copied().chain(given))
            .filter(|id| (*id as usize) < parts.tokens.len())
            .chain(named)
            .chain(ENDS.iter().filter_map(|name| special(name)))
            .collect();
        let bos = match config.get("add_bos_token").and_then(Value::as_bool) {
            Some(true) if parts.bos.is_none() => {
                let id = token_name(&config, "bos_token").and_then(|name| parts.id_of(name));
                Some(id.ok_or_else(|| {
                    TokenizerError::Broken("add_bos_token without a bos_token of the vocabulary".into())
                })?)
            }
            _ => None,
        };
        Self::new(parts, eos, bos, chat)
    }
}

fn object(name: &str, text: Option<&str>) -> Result<Value, TokenizerError> {
    let Some(text) = text else { return Ok(Value::Null) };
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(TokenizerError::Broken(format!("{name} is not a JSON object"))),
        Err(error) => Err(TokenizerError::Broken(format!("{name}: {error}"))),
    }
}

/// A special token's name, written as a text or as an object.
fn token_name<'a>(config: &'a Value, key: &str) -> Option<&'a str> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The template, of which there may be several with names.
fn template(config: &Value) -> Option<&str> {
    let value = config.get("chat_template")?;
    let default = |line: &&Value| line.get("name").and_then(Value::as_str) == Some("default");
    value.as_str().or_else(|| value.as_array()?.iter().find(default)?.get("template")?.as_str())
}

fn ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}
