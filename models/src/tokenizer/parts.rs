use std::collections::HashMap;

use ahash::AHashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::TokenizerError;
use super::frame::Frame;
use super::word_piece::{self, WordPieces};
use crate::gguf::Gguf;

const MAX_TOKENS: usize = 1 << 22;
const MAX_TOKEN_BYTES: usize = 1 << 12;
const MAX_ADDED: usize = 1 << 16;

/// The rule that cuts Llama 3's text into words.
pub(super) const LLAMA3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// As [`LLAMA3_WORDS`], with every digit a word of its own.
pub(super) const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut into words before BPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    Gpt2,
    /// Every digit a word of its own, the rest as GPT-2.
    DigitsGpt2,
    Llama3,
    Qwen2,
}

/// Ids by token; the map type is the library's.
pub(super) type Vocab = AHashMap<String, u32>;

/// A tokenizer, taken apart: what GGUF and JSON are read into and what is checked.
pub(super) struct Parts {
    /// Every entry of the vocabulary, at its id.
    pub(super) tokens: Vec<String>,
    /// Tokens that are cut out of the text before anything else.
    pub(super) added: Vec<(u32, AddedToken)>,
    pub(super) model: Model,
    /// Special tokens around an encoder's texts.
    pub(super) frame: Option<Frame>,
    /// The id before every text.
    pub(super) bos: Option<u32>,
}

/// How words become tokens.
pub(super) enum Model {
    Bpe(Bpe),
    WordPiece(WordPieces),
}

/// Byte-level BPE.
pub(super) struct Bpe {
    pub(super) merges: Vec<(String, String)>,
    pub(super) unknown: Option<String>,
    pub(super) ignore_merges: bool,
    pub(super) words: Words,
    /// Whether text is brought into normalisation form C first.
    pub(super) nfc: bool,
}

impl Parts {
    pub(super) fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let model: &str = gguf.require("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(TokenizerError::Unsupported {
                what: format!("tokenizer model {model:?}"),
                supported: "byte-level BPE tokenizers (\"gpt2\")",
            });
        }
        let pre: &str = gguf.get("tokenizer.ggml.pre")?.unwrap_or("gpt-2");
        let words = match pre {
            "gpt-2" => Words::Gpt2,
            "smollm" | "starcoder" | "refact" => Words::DigitsGpt2,
            "llama-bpe" | "llama3" => Words::Llama3,
            "qwen2" | "deepseek-r1-qwen" => Words::Qwen2,
            _ => {
                return Err(TokenizerError::Unsupported {
                    what: format!("pre-tokenizer {pre:?}"),
                    supported: "\"gpt-2\", \"smollm\", \"starcoder\", \"refact\", \"llama-bpe\", \"llama3\", \"qwen2\" and \
                                \"deepseek-r1-qwen\"",
                });
            }
        };
        let tokens = gguf.require::<&[String]>("tokenizer.ggml.tokens")?.to_vec();
        let merges = gguf
            .require::<&[String]>("tokenizer.ggml.merges")?
            .iter()
            .map(|merge| split_merge(merge))
            .collect::<Result<_, _>>()?;
        let mut added = Vec::new();
        if let Some(types) = gguf.get::<&[i64]>("tokenizer.ggml.token_type")? {
            if types.len() != tokens.len() {
                let what = format!("{} tokens but {} token types", tokens.len(), types.len());
                return Err(TokenizerError::Broken(what));
            }
            // 3: control, 4: user-defined.
            for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
                if matches!(kind, 3 | 4) {
                    let token = AddedToken::from(token.as_str(), *kind == 3).normalized(false);
                    added.push((id as u32, token));
                }
            }
        }
        let (ignore_merges, nfc) = (words == Words::Llama3, words == Words::Qwen2);
        let model = Model::Bpe(Bpe { merges, unknown: None, ignore_merges, words, nfc });
        Ok(Self { tokens, added, model, frame: None, bos: None })
    }

    pub(super) fn id_of(&self, token: &str) -> Option<u32> {
        self.tokens.iter().position(|t| t == token).map(|id| id as u32)
    }

    /// Whether a file that does not say so wants a leading token.
    pub(super) fn bos_by_default(&self) -> bool {
        matches!(&self.model, Model::Bpe(Bpe { words: Words::Llama3, .. }))
    }

    /// Whether tokens are words and parts of them, between which a decoder puts spaces.
    pub(super) fn spaced(&self) -> bool {
        matches!(self.model, Model::WordPiece(_))
    }

    /// For each id, the bytes that it stands for and whether it is special.
    pub(super) fn pieces(&self) -> (Vec<Box<[u8]>>, Vec<bool>) {
        let bytes_of = byte_alphabet();
        let mut special = vec![false; self.tokens.len()];
        let decode = |token: &String| match &self.model {
            Model::WordPiece(_) => word_piece::piece(token),
            Model::Bpe(_) => {
                let bytes = token.chars().map(|c| bytes_of.get(&c).copied()).collect::<Option<_>>();
                bytes.unwrap_or_else(|| token.as_bytes().into())
            }
        };
        let mut pieces: Vec<Box<[u8]>> = self.tokens.iter().map(decode).collect();
        for (id, token) in &self.added {
            if let Some(piece) = pieces.get_mut(*id as usize) {
                if !self.spaced() {
                    *piece = token.content.as_bytes().into();
                }
                special[*id as usize] = token.special;
            }
        }
        (pieces, special)
    }

    /// Checks everything and hands it to the library, which by then cannot trip over it.
    pub(super) fn build(self) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let broken = |what: String| Err(TokenizerError::Broken(what));
        if self.tokens.is_empty() || self.tokens.len() > MAX_TOKENS {
            return broken(format!("{} tokens; 1 to {MAX_TOKENS} are possible", self.tokens.len()));
        }
        if self.added.len() > MAX_ADDED {
            return broken(format!("{} added tokens; at most {MAX_ADDED} are read", self.added.len()));
        }
        let mut vocab = Vocab::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
                return broken(format!("token {id} has {} bytes", token.len()));
            }
            if vocab.insert(token.clone(), id as u32).is_some() {
                return broken(format!("token {token:?} is listed twice"));
            }
        }
        for (id, token) in &self.added {
            if vocab.get(&token.content) != Some(id) {
                return broken(format!("added token {:?} does not have id {id}", token.content));
            }
        }
        let added: Vec<AddedToken> = self.added.into_iter().map(|(_, token)| token).collect();
        let mut tokenizer = match self.model {
            Model::Bpe(bpe) => bpe.build(vocab)?,
            Model::WordPiece(pieces) => pieces.build(vocab, &added)?,
        };
        tokenizer.with_post_processor(self.frame.map(|frame| frame.processor(&self.tokens)));
        tokenizer.add_tokens(&added);
        Ok(tokenizer)
    }
}

impl Bpe {
    fn build(self, vocab: Vocab) -> Result<tokenizers::Tokenizer, TokenizerError> {
        if self.merges.len() > MAX_TOKENS {
            let what = format!("{} merges; at most {MAX_TOKENS} are read", self.merges.len());
            return Err(TokenizerError::Broken(what));
        }
        if let Some(unknown) = self.unknown.as_ref().filter(|u| !vocab.contains_key(*u)) {
            return Err(unknown_token_missing(unknown));
        }
        let mut bpe = BPE::builder().vocab_and_merges(vocab, self.merges).ignore_merges(self.ignore_merges);
        if let Some(unknown) = self.unknown {
            bpe = bpe.unk_token(unknown);
        }
        let bpe = bpe.build().map_err(|e| TokenizerError::Broken(e.to_string()))?;
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        tokenizer.with_normalizer(self.nfc.then_some(NFC));
        tokenizer.with_pre_tokenizer(Some(self.words.pre_tokenizer()?));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        Ok(tokenizer)
    }
}

pub(super) fn unknown_token_missing(unknown: &str) -> TokenizerError {
    TokenizerError::Broken(format!("the unknown token {unknown:?} is not in the vocabulary"))
}

impl Words {
    fn pre_tokenizer(self) -> Result<Sequence, TokenizerError> {
        let steps: Vec<PreTokenizerWrapper> = match self {
            Self::Gpt2 => vec![ByteLevel::new(false, true, true).into()],
            Self::DigitsGpt2 => vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()],
            Self::Llama3 | Self::Qwen2 => {
                let words = if self == Self::Llama3 { LLAMA3_WORDS } else { QWEN2_WORDS };
                let pattern = SplitPattern::Regex(words.to_owned());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                    .map_err(|e| TokenizerError::Broken(e.to_string()))?;
                vec![split.into(), ByteLevel::new(false, true, false).into()]
            }
        };
        Ok(Sequence::new(steps))
    }
}

/// The two halves of a merge rule written as one string.
pub(super) fn split_merge(merge: &str) -> Result<(String, String), TokenizerError> {
    match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err(TokenizerError::Broken(format!("merge {merge:?} does not have two halves"))),
    }
}

/// The printable character by which byte-level BPE writes each byte: the byte itself where it is
/// printable in Latin-1, else the next free one from U+0100 on.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100u32;
    (0..=u8::MAX)
        .map(|byte| {
            if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..) {
                return (char::from(byte), byte);
            }
            next += 1;
            (char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER), byte)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_the_library_s() {
        let ours = byte_alphabet();
        assert_eq!(ours.len(), 256);
        assert_eq!(ours[&'Ġ'], b' ');
        assert_eq!(ours[&'Ċ'], b'\n');
        let theirs = ByteLevel::alphabet();
        assert!(theirs.iter().all(|c| ours.contains_key(c)) && theirs.len() == 256);
    }
}
