//! Reads `tokenizer.json` from anyone: only descriptions that mean one of the tokenizers built in
//! [`super::parts`] are accepted, and nothing of the document reaches the library unchecked. Cutting
//! short and padding are left aside: they belong to whoever fills batches.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::normalizers::bert::BertNormalizer;

use super::TokenizerError;
use super::frame::{self, Added};
use super::parts::{Bpe, LLAMA3_WORDS, Model, Parts, QWEN2_WORDS, Words, split_merge};
use super::word_piece::{CONTINUES, MAX_WORD, WordPieces};

const MAX_JSON_BYTES: usize = 64 << 20;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    added_tokens: Vec<AddedLine>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    model: ModelLine,
}

#[derive(Deserialize)]
struct AddedLine {
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
struct ModelLine {
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
    max_input_chars_per_word: Option<usize>,
    vocab: HashMap<String, u32>,
    merges: Option<Merges>,
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
    let mut document: Document =
        serde_json::from_str(json).map_err(|e| TokenizerError::Broken(e.to_string()))?;
    let word_piece = match document.model.kind.as_deref() {
        None | Some("BPE") => false,
        Some("WordPiece") => true,
        Some(other) => return Err(unsupported_model(format!("tokenizer model {other:?}"))),
    };
    let absent = Value::Null;
    let part = |value: &Option<Value>| value.clone().unwrap_or_default();
    let (normalizer, pre_tokenizer) = (part(&document.normalizer), part(&document.pre_tokenizer));
    let decoder = document.decoder.as_ref().unwrap_or(&absent);

    let mut tokens = dense(std::mem::take(&mut document.model.vocab), &document.added_tokens)?;
    tokens.shrink_to_fit();
    let model = if word_piece {
        if !matches!(kind(decoder), "WordPiece" | "none") {
            return Err(unsupported("decoder", decoder));
        }
        Model::WordPiece(word_pieces(document.model, &normalizer, &pre_tokenizer)?)
    } else {
        if kind(decoder) != "ByteLevel" {
            return Err(unsupported("decoder", decoder));
        }
        Model::Bpe(bpe(document.model, &normalizer, &pre_tokenizer)?)
    };
    let (frame, bos) = match &document.post_processor {
        None => (None, None),
        Some(value) => match frame::recognise(value, &tokens) {
            Some(Added::Nothing) => (None, None),
            Some(Added::Leading(id)) => (None, Some(id)),
            Some(Added::Frame(frame)) => (Some(frame), None),
            None => return Err(unsupported("post-processor", value)),
        },
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
    Ok(Parts { tokens, added, model, frame, bos })
}

fn named(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|t| !t.is_empty())
}

fn bpe(model: ModelLine, normalizer: &Value, pre_tokenizer: &Value) -> Result<Bpe, TokenizerError> {
    let unusual = if model.dropout.is_some_and(|rate| rate != 0.0) {
        "BPE with dropout"
    } else if model.byte_fallback {
        "BPE with byte fallback"
    } else if model.fuse_unk {
        "BPE that fuses unknown tokens"
    } else if named(&model.continuing_subword_prefix) {
        "BPE with a subword prefix"
    } else if named(&model.end_of_word_suffix) {
        "BPE with a word suffix"
    } else {
        ""
    };
    if !unusual.is_empty() {
        return Err(unsupported_model(unusual.to_owned()));
    }
    let nfc = match kind(normalizer) {
        "none" => false,
        "NFC" => true,
        _ => return Err(unsupported("normalizer", normalizer)),
    };
    let words = words(pre_tokenizer)?;
    let merges = match model.merges {
        Some(Merges::Pairs(pairs)) => pairs,
        Some(Merges::Joined(lines)) => lines.iter().map(|l| split_merge(l)).collect::<Result<_, _>>()?,
        None => return Err(TokenizerError::Broken("BPE without merges".into())),
    };
    Ok(Bpe { merges, unknown: model.unk_token, ignore_merges: model.ignore_merges, words, nfc })
}

fn word_pieces(
    model: ModelLine,
    normalizer: &Value,
    pre_tokenizer: &Value,
) -> Result<WordPieces, TokenizerError> {
    if model.continuing_subword_prefix.as_deref().is_some_and(|prefix| prefix != CONTINUES) {
        return Err(unsupported_model("WordPiece with another prefix than \"##\"".into()));
    }
    let max_word = model.max_input_chars_per_word.unwrap_or(MAX_WORD);
    if !(1..=MAX_WORD).contains(&max_word) {
        let what = format!("words of up to {max_word} characters; 1 to {MAX_WORD} are possible");
        return Err(TokenizerError::Broken(what));
    }
    if kind(pre_tokenizer) != "BertPreTokenizer" {
        return Err(unsupported("pre-tokenizer", pre_tokenizer));
    }
    let flag = |name: &str| normalizer.get(name).and_then(Value::as_bool);
    let all = (flag("clean_text"), flag("handle_chinese_chars"), flag("lowercase"));
    let (true, (Some(clean), Some(chinese), Some(lower))) = (kind(normalizer) == "BertNormalizer", all)
    else {
        return Err(unsupported("normalizer", normalizer));
    };
    let normalizer = BertNormalizer::new(clean, chinese, flag("strip_accents"), lower);
    Ok(WordPieces { unknown: model.unk_token.unwrap_or("[UNK]".into()), max_word, normalizer })
}

fn unsupported_model(what: String) -> TokenizerError {
    TokenizerError::Unsupported { what, supported: "byte-level BPE and BERT's WordPiece tokenizers" }
}

/// The vocabulary as a list, every id from 0 on taken exactly once.
fn dense(vocab: HashMap<String, u32>, added: &[AddedLine]) -> Result<Vec<String>, TokenizerError> {
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
                && split.get("behavior").and_then(Value::as_str) == Some("Isolated")
                && flag(split, "invert") == Some(false)
                && bytes(last, false) =>
        {
            match split.pointer("/pattern/Regex").and_then(Value::as_str) {
                Some(LLAMA3_WORDS) => Ok(Words::Llama3),
                Some(QWEN2_WORDS) => Ok(Words::Qwen2),
                _ => Err(unsupported("pre-tokenizer", value)),
            }
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
        supported: "byte-level BPE tokenizers cut as GPT-2's, SmolLM's, Llama 3's or Qwen2's, RoBERTa's and \
                    BERT's",
    }
}
