//! Reads `tokenizer.json` from anyone: only descriptions that mean one of the tokenizers built in
//! [`super::parts`] are accepted, and nothing of the document reaches the library unchecked.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::TokenizerError;
use super::parts::{LLAMA3_WORDS, Parts, Words, split_merge};

const MAX_JSON_BYTES: usize = 64 << 20;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Merges,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merges {
    Pairs(Vec<(String, String)>),
    Joined(Vec<String>),
}

pub(super) fn parse(json: &str) -> Result<Parts, TokenizerError> {
    if json.len() > MAX_JSON_BYTES {
        let what = format!("{} bytes of JSON; at most {MAX_JSON_BYTES} are read", json.len());
        return Err(TokenizerError::Broken(what));
    }
    let document: Document = serde_json::from_str(json).map_err(|e| TokenizerError::Broken(e.to_string()))?;
    check_model(&document.model)?;
    if let Some(normalizer) = &document.normalizer {
        return Err(unsupported("normalizer", normalizer));
    }
    match &document.post_processor {
        Some(value) if kind(value) != "ByteLevel" => return Err(unsupported("post-processor", value)),
        _ => {}
    }
    match &document.decoder {
        Some(value) if kind(value) == "ByteLevel" => {}
        other => return Err(unsupported("decoder", other.as_ref().unwrap_or(&Value::Null))),
    }
    let words = words(document.pre_tokenizer.as_ref().unwrap_or(&Value::Null))?;

    let mut tokens = dense(document.model.vocab, &document.added_tokens)?;
    tokens.shrink_to_fit();
    let merges = match document.model.merges {
        Merges::Pairs(pairs) => pairs,
        Merges::Joined(lines) => lines.iter().map(|l| split_merge(l)).collect::<Result<_, _>>()?,
    };
    let added = document
        .added_tokens
        .into_iter()
        .map(|token| {
            let added = AddedToken::from(token.content, token.special)
                .single_word(token.single_word)
                .lstrip(token.lstrip)
                .rstrip(token.rstrip)
                .normalized(token.normalized);
            (token.id, added)
        })
        .collect();
    Ok(Parts {
        tokens,
        merges,
        added,
        unknown: document.model.unk_token,
        ignore_merges: document.model.ignore_merges,
        words,
    })
}

fn check_model(model: &Model) -> Result<(), TokenizerError> {
    let named = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    let unsupported = match model {
        Model { kind: Some(kind), .. } if kind != "BPE" => format!("tokenizer model {kind:?}"),
        Model { dropout: Some(rate), .. } if *rate != 0.0 => "BPE with dropout".to_owned(),
        Model { byte_fallback: true, .. } => "BPE with byte fallback".to_owned(),
        Model { fuse_unk: true, .. } => "BPE that fuses unknown tokens".to_owned(),
        _ if named(&model.continuing_subword_prefix) => "BPE with a subword prefix".to_owned(),
        _ if named(&model.end_of_word_suffix) => "BPE with a word suffix".to_owned(),
        _ => return Ok(()),
    };
    Err(TokenizerError::Unsupported { what: unsupported, supported: "plain byte-level BPE tokenizers" })
}

/// The vocabulary as a list, every id from 0 on taken exactly once.
fn dense(vocab: HashMap<String, u32>, added: &[Added]) -> Result<Vec<String>, TokenizerError> {
    let extra = added.iter().filter(|a| !vocab.contains_key(&a.content));
    let extra: Vec<(String, u32)> = extra.map(|a| (a.content.clone(), a.id)).collect();
    let mut tokens: Vec<Option<String>> = vec![None; vocab.len() + extra.len()];
    for (token, id) in vocab.into_iter().chain(extra) {
        match tokens.get_mut(id as usize) {
            Some(place @ None) => *place = Some(token),
            Some(Some(other)) => {
                let what = format!("id {id} is given to {other:?} and to {token:?}");
                return Err(TokenizerError::Broken(what));
            }
            None => {
                let what = format!("id {id} of {token:?} leaves a gap in the vocabulary");
                return Err(TokenizerError::Broken(what));
            }
        }
    }
    // As many ids as places, none twice: no place is empty.
    Ok(tokens.into_iter().flatten().collect())
}

/// Recognises the steps that cut text into words.
fn words(value: &Value) -> Result<Words, TokenizerError> {
    let single = std::slice::from_ref(value);
    let steps = match value.get("pretokenizers") {
        Some(Value::Array(steps)) if kind(value) == "Sequence" => steps,
        _ => single,
    };
    let flag = |value: &Value, name: &str| value.get(name).and_then(Value::as_bool);
    let bytes = |value: &Value, regex: bool| {
        kind(value) == "ByteLevel"
            && flag(value, "add_prefix_space") == Some(false)
            && flag(value, "use_regex").unwrap_or(true) == regex
    };
    match steps {
        [last] if bytes(last, true) => Ok(Words::Gpt2),
        [digits, last]
            if kind(digits) == "Digits"
                && flag(digits, "individual_digits") == Some(true)
                && bytes(last, true) =>
        {
            Ok(Words::DigitsGpt2)
        }
        [split, last]
            if kind(split) == "Split"
                && split.pointer("/pattern/Regex").and_then(Value::as_str) == Some(LLAMA3_WORDS)
                && split.get("behavior").and_then(Value::as_str) == Some("Isolated")
                && flag(split, "invert") == Some(false)
                && bytes(last, false) =>
        {
            Ok(Words::Llama3)
        }
        _ => Err(unsupported("pre-tokenizer", value)),
    }
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("none")
}

fn unsupported(part: &str, value: &Value) -> TokenizerError {
    TokenizerError::Unsupported {
        what: format!("the {part} {:?} of this tokenizer.json", kind(value)),
        supported: "byte-level BPE tokenizers cut as GPT-2's, SmolLM's or Llama 3's",
    }
}
