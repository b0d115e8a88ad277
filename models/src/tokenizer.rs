//! Text to token ids and back: byte-level BPE and BERT's WordPiece, rebuilt from a GGUF file or from
//! `tokenizer.json`.
//!
//! A model's party reads the tokenizer from the model file and sends it to clients as a
//! [`TokenizerInfo`]. The client does not trust it: [`Tokenizer::from_info`] checks all of it and
//! answers with an error where something is off.

mod chat;
mod files;
mod frame;
mod json;
mod parts;
mod stream;
mod word_piece;

use serde::{Deserialize, Serialize};

use crate::gguf::{Gguf, GgufError};

pub use chat::ChatFormat;
pub use files::TokenizerFiles;
pub use stream::StreamDecoder;

use frame::Frame;
use parts::Parts;

/// Longest text that is encoded at once, in bytes; far more than any context holds.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Why a tokenizer was refused or could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The model file lacks something or is broken.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The tokenizer is of a kind that is not built here.
    #[error("{what} is not supported; {supported} can be read: use a model with one of these")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What would have worked.
        supported: &'static str,
    },
    /// The tokenizer's description contradicts itself or is out of bounds.
    #[error("broken tokenizer: {0}; get the model, or the tokenizer of whoever serves it, again")]
    Broken(String),
    /// The text is too long to be a prompt.
    #[error("the text has {found} bytes; at most {MAX_TEXT_BYTES} are encoded at once: shorten it")]
    TextTooLong {
        /// Its length.
        found: usize,
    },
    /// Two texts were to be encoded together.
    #[error(
        "this model's tokenizer has no form for two texts; only BERT's and RoBERTa's have: give one text"
    )]
    NoPairs,
    /// The tokenizer library failed on a text.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
    /// A token id that the vocabulary does not have.
    #[error(
        "token id {id} is outside the vocabulary of {vocab_size}: model and tokenizer do not belong together"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of entries.
        vocab_size: usize,
    },
}

/// All that a client needs to use a model's tokenizer; made to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    /// The tokenizer in the `tokenizer.json` format of Hugging Face.
    pub json: String,
    /// Ids that end an answer.
    pub eos: Vec<u32>,
    /// The id put before every text, where the model wants one.
    pub bos: Option<u32>,
    /// How a user's message becomes a prompt.
    pub chat: ChatFormat,
}

/// A byte-level BPE or WordPiece tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The bytes that each id stands for.
    pieces: Vec<Box<[u8]>>,
    special: Vec<bool>,
    eos: Vec<u32>,
    bos: Option<u32>,
    frame: Option<Frame>,
    /// Whether pieces bring the space before them along, which the first one does without.
    spaced: bool,
    chat: ChatFormat,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("eos", &self.eos)
            .field("bos", &self.bos)
            .field("chat", &self.chat)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Rebuilds the tokenizer that a GGUF file describes in its metadata.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let parts = Parts::from_gguf(gguf)?;
        let chat = ChatFormat::from_template(gguf.get("tokenizer.chat_template")?);
        let mut eos = Vec::new();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            eos.extend(gguf.get::<u32>(key)?);
        }
        if let ChatFormat::ChatMl { .. } = chat {
            eos.extend(parts.id_of(chat::END));
        }
        let bos = if gguf.get("tokenizer.ggml.add_bos_token")?.unwrap_or(parts.bos_by_default()) {
            Some(gguf.require::<u32>("tokenizer.ggml.bos_token_id")?)
        } else {
            None
        };
        Self::new(parts, eos, bos, chat)
    }

    /// Reads a `tokenizer.json`, which may come from anyone. It knows neither stop tokens nor a chat
    /// format: [`Tokenizer::from_files`] and [`Tokenizer::from_info`] add them.
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        Self::new(json::parse(json)?, Vec::new(), None, ChatFormat::Raw)
    }

    /// Builds a tokenizer from what [`Tokenizer::info`] gave, possibly changed on the way.
    pub fn from_info(info: &TokenizerInfo) -> Result<Self, TokenizerError> {
        info.chat.check()?;
        Self::new(json::parse(&info.json)?, info.eos.clone(), info.bos, info.chat.clone())
    }

    fn new(
        parts: Parts,
        mut eos: Vec<u32>,
        bos: Option<u32>,
        chat: ChatFormat,
    ) -> Result<Self, TokenizerError> {
        let (pieces, special) = parts.pieces();
        let (frame, spaced) = (parts.frame, parts.spaced());
        let bos = match (parts.bos, bos) {
            (Some(own), Some(other)) if own != other => {
                let what =
                    format!("texts begin with {own} by the tokenizer, with {other} by its description");
                return Err(TokenizerError::Broken(what));
            }
            (own, other) => own.or(other),
        };
        if frame.is_some() && bos.is_some() {
            return Err(TokenizerError::Broken("a text would begin with two special tokens".into()));
        }
        let inner = parts.build()?;
        eos.sort_unstable();
        eos.dedup();
        for &id in eos.iter().chain(&bos) {
            if id as usize >= pieces.len() {
                return Err(TokenizerError::UnknownId { id, vocab_size: pieces.len() });
            }
        }
        Ok(Self { inner, pieces, special, eos, bos, frame, spaced, chat })
    }

    /// Whether the same ids stand for the same bytes and special tokens.
    pub fn has_same_vocabulary(&self, other: &Self) -> bool {
        self.pieces == other.pieces && self.special == other.special
    }

    /// What a client needs to build this tokenizer again.
    pub fn info(&self) -> Result<TokenizerInfo, TokenizerError> {
        Ok(TokenizerInfo {
            json: self.to_json()?,
            eos: self.eos.clone(),
            bos: self.bos,
            chat: self.chat.clone(),
        })
    }

    /// The tokenizer in the `tokenizer.json` format.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner.to_string(false).map_err(|e| TokenizerError::Broken(e.to_string()))
    }

    /// The ids of a text, with the special tokens around it that the model wants. Names of special
    /// tokens in the text (`<|im_end|>`) become these tokens. A byte for which the vocabulary of a
    /// byte-level tokenizer has no token is left out, as in every implementation of this tokenizer; it
    /// takes unassigned or very rare characters to meet one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.plain_ids(text)?;
        Ok(match &self.frame {
            Some(frame) => frame.single(&ids),
            None => self.bos.into_iter().chain(ids).collect(),
        })
    }

    /// The ids of two texts that a model compares, with special tokens, and the length of the first
    /// segment: how many ids, from the start, have token type 0. Those after it have type 1. RoBERTa
    /// tells texts apart by special tokens only: there, all ids have type 0.
    ///
    /// # Errors
    /// The tokenizer is not that of BERT or RoBERTa, or a text is too long.
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<(Vec<u32>, usize), TokenizerError> {
        let frame = self.frame.as_ref().ok_or(TokenizerError::NoPairs)?;
        Ok(frame.pair(&self.plain_ids(first)?, &self.plain_ids(second)?))
    }

    /// Whether [`Tokenizer::encode_pair`] works.
    pub fn has_pairs(&self) -> bool {
        self.frame.is_some()
    }

    fn plain_ids(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { found: text.len() });
        }
        let encoding =
            self.inner.encode_fast(text, false).map_err(|e| TokenizerError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids. Bytes that are no UTF-8 become U+FFFD. WordPiece does not keep all of a text
    /// (such as capitals and spaces): words come out separated by single spaces.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let mut stream = self.stream(skip_special);
        let mut text = String::new();
        for &id in ids {
            text.extend(stream.push(id)?);
        }
        text.extend(stream.finish());
        Ok(text)
    }

    /// A decoder to which ids are given one at a time.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(self, skip_special)
    }

    /// A user's message as the prompt that the model was trained on.
    pub fn chat(&self, user: &str) -> String {
        self.chat.prompt(user)
    }

    /// How [`Tokenizer::chat`] words the prompt.
    pub fn chat_format(&self) -> &ChatFormat {
        &self.chat
    }

    /// Number of entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Ids that end an answer, in ascending order.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Whether an id ends an answer.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos.contains(&id)
    }

    /// The id that [`Tokenizer::encode`] puts before every text, if any.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The bytes of an id and whether it is a special token.
    fn piece(&self, id: u32) -> Result<(&[u8], bool), TokenizerError> {
        match self.pieces.get(id as usize) {
            Some(piece) => Ok((piece, self.special[id as usize])),
            None => Err(TokenizerError::UnknownId { id, vocab_size: self.vocab_size() }),
        }
    }
}
