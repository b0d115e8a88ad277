//! Messages between clients (and model owners) and a party.
//!
//! Each request has a bidirectional stream of its own, which begins like the streams between parties (see
//! `transport::frame`), with a [`Hello`] as header. Then come frames: the length of the head and of the body (u32 LE
//! each), the head (bincode 2, at most 64 KiB) and the body, which is opaque here: metadata, sealed shares, outputs.

use crate::{
    ids::{Digest, SessionId},
    transport::frame::{FrameError, Messages, decode, encode, read_start, stream_start},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use protocol::Party;
use quinn::{RecvStream, SendStream, WriteError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use std::marker::PhantomData;

const MAX_HEAD: usize = 64 << 10;

/// First thing on a client's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name and version of the client's software, for logs.
    pub software: String,
}

impl Hello {
    /// This software.
    pub fn this() -> Self {
        Self { software: concat!("catamount ", env!("CARGO_PKG_VERSION")).into() }
    }
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you, what are your limits? Answer: [`Reply::Welcome`].
    Welcome,
    /// Which models are there? Answer: [`Reply::Model`] for each, then [`Reply::Done`].
    ListModels,
    /// One model. Answer: [`Reply::Model`].
    ModelInfo {
        /// Its name.
        name: String,
    },
    /// Store this party's shares of a model. Body: public metadata. Then [`Request::Chunk`]s and
    /// [`Request::Commit`]. Answers: [`Reply::Progress`] now and then, [`Reply::Stored`].
    PutModel(PutModel),
    /// Part of a tensor. Body: its bytes.
    Chunk {
        /// Which tensor.
        tensor: u32,
        /// Where in it.
        offset: u64,
    },
    /// All chunks were sent: keep the model.
    Commit,
    /// Delete a model. Answer: [`Reply::Done`].
    DeleteModel {
        /// Its name.
        name: String,
    },
    /// Begin a session on this stream. Body: options, opaque here. Answer: [`Reply::Opened`].
    OpenSession(OpenSession),
    /// One pass of the session. Body: this party's input share, sealed to it. Answers: [`Reply::Output`]s and
    /// [`Reply::PassDone`].
    Pass(Pass),
    /// End the session. Answer: [`Reply::Done`].
    CloseSession,
}

/// A model that is going to be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutModel {
    /// Its name.
    pub name: String,
    /// What the parties compare.
    pub digest: Digest,
    /// Bytes of all chunks for this party.
    pub total: u64,
}

/// A session that is going to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Fresh and random.
    pub session: SessionId,
    /// Attempt (epoch) number.
    pub attempt: u32,
    /// Name of the model.
    pub model: String,
    /// Its digest as the client knows it.
    pub digest: Digest,
    /// How many sequences the session works on.
    pub sequences: u32,
    /// Most tokens that each of them will have.
    pub context_tokens: u32,
}

/// One pass over some tokens of some of a session's sequences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Number of this pass: 0, 1, …
    pub counter: u64,
    /// Sequence by sequence, in ascending order. Those that are left out stay as they are.
    pub parts: Vec<Part>,
    /// How many tokens the parties choose after each part by themselves, where the session is for that.
    pub new_tokens: u32,
}

/// The tokens of one sequence in a pass. The body has the keys of those of the first part, then those of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which sequence: 0, 1, …
    pub sequence: u32,
    /// Position of the first token. Where it lies among the drafted tokens of the sequence's pass before, that one and those
    /// after it were wrong and are forgotten.
    pub position: u64,
    /// How many tokens.
    pub tokens: u32,
    /// How many of them the client has only guessed (speculative decoding): none, or all but the first. The outputs of all
    /// tokens of the pass come back then, so that it sees how far the guesses are right.
    pub drafted: u32,
    /// How many of them are of the first token type (sentence pairs of BERT); all if `None`.
    pub segment: Option<u32>,
}

impl Part {
    /// `tokens` tokens of one type, none guessed, from a position of the first sequence on.
    pub fn new(position: u64, tokens: u32) -> Part {
        Part { sequence: 0, position, tokens, drafted: 0, segment: None }
    }
}

impl Pass {
    /// A pass over one sequence.
    pub fn new(part: Part) -> Pass {
        Pass { counter: 0, parts: vec![part], new_tokens: 0 }
    }

    /// Tokens of all parts.
    pub fn tokens(&self) -> u64 {
        self.parts.iter().map(|p| u64::from(p.tokens)).sum()
    }

    /// What it says of its tokens: sealed shares are bound to it.
    pub(crate) fn about(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(self.new_tokens.to_le_bytes());
        for part in &self.parts {
            let Part { sequence, position, tokens, drafted, segment } = *part;
            hash.update(position.to_le_bytes());
            for number in [sequence, tokens, drafted, u32::from(segment.is_some()), segment.unwrap_or(0)] {
                hash.update(number.to_le_bytes());
            }
        }
        Digest(hash.finalize().into())
    }
}

/// A stored model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// What the parties compare.
    pub digest: Digest,
}

/// A party's limits, as it tells its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PublicLimits {
    /// Largest context of a sequence.
    pub max_context_tokens: u32,
    /// Most sequences of a session.
    pub max_sequences: u32,
    /// Most drafted tokens of a pass.
    pub max_drafted_tokens: u32,
    /// Largest body of a frame.
    pub max_body_bytes: u64,
    /// Who deals in all sessions that it takes part in; none if sessions take turns.
    pub dealer: Option<Party>,
}

/// What a party answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Who this is.
    Welcome {
        /// Which party.
        party: Party,
        /// Name and version of its software.
        software: String,
        /// Its limits.
        limits: PublicLimits,
    },
    /// A stored model. Body: its public metadata.
    Model(ModelInfo),
    /// How far a long request is.
    Progress {
        /// So far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// The model is stored.
    Stored {
        /// Its digest.
        digest: Digest,
    },
    /// The session is open at all three parties.
    Opened,
    /// Part of a pass's output. Body: its bytes.
    Output,
    /// All of the pass's output was sent.
    PassDone {
        /// Number of the pass.
        counter: u64,
    },
    /// Done, nothing else to say.
    Done,
    /// It did not work; nothing follows.
    Error(Failure),
}

/// Kinds of failure, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureCode {
    /// The request makes no sense.
    BadRequest,
    /// This identity may not do that.
    Forbidden,
    /// There is no such model.
    NotFound,
    /// It exists already.
    Exists,
    /// Too much at the same time: try later.
    Busy,
    /// More than a limit allows.
    Limit,
    /// The parties are not about to compute the same.
    Disagreement,
    /// Another party is lost, or has broken the session off.
    PeerLost,
    /// The session was idle for too long.
    Expired,
    /// The process is shutting down.
    ShuttingDown,
    /// Something failed within this party.
    Internal,
}

/// Why a request failed and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}; {remedy}")]
pub struct Failure {
    /// For programs.
    pub code: FailureCode,
    /// What failed.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Failure {
    /// A failure with its remedy.
    pub fn new(code: FailureCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into() }
    }
}

impl From<protocol::NetError<Party>> for Failure {
    fn from(error: protocol::NetError<Party>) -> Self {
        Self::new(FailureCode::PeerLost, error.to_string(), "open a new session when all three parties run")
    }
}

/// A model's name is also a directory's: letters, digits, `.`, `_` and `-`, at most 64, no dot in front.
///
/// # Errors
/// Says so.
pub fn check_model_name(name: &str) -> Result<(), Failure> {
    let fine = (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fine {
        return Ok(());
    }
    Err(Failure::new(
        FailureCode::BadRequest,
        "this is no name for a model",
        "use 1 to 64 letters, digits, dots, underscores and hyphens, and no dot in front",
    ))
}

/// Writes frames.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    pub(crate) stream: SendStream,
}

/// Why a frame was not sent or received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("it cannot be encoded: {0}")]
    Encode(String),
}

impl FrameWriter {
    /// Begins a client's stream.
    pub(crate) async fn begin(mut stream: SendStream) -> Result<Self, WireError> {
        let start = stream_start(&Hello::this()).map_err(WireError::Encode)?;
        stream.write_chunk(start).await?;
        Ok(Self { stream })
    }

    pub(crate) async fn send<T: Serialize>(&mut self, head: &T, body: Bytes) -> Result<(), WireError> {
        let head = encode(head).map_err(WireError::Encode)?;
        let length = u32::try_from(body.len()).map_err(|_| WireError::Encode("4 GiB or more".into()))?;
        let mut start = BytesMut::with_capacity(8 + head.len());
        start.put_u32_le(head.len() as u32);
        start.put_u32_le(length);
        start.put_slice(&head);
        Ok(self.stream.write_all_chunks(&mut [start.freeze(), body]).await?)
    }
}

/// Reads frames with heads of type `T`.
pub(crate) struct FrameReader<T> {
    messages: Messages,
    max_body: usize,
    head: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> FrameReader<T> {
    pub(crate) fn new(stream: RecvStream, max_body: usize) -> Self {
        Self { messages: Messages::new(stream, max_body), max_body, head: PhantomData }
    }

    /// Reads the beginning of a client's stream.
    pub(crate) async fn accept(mut stream: RecvStream, max_body: usize) -> Result<(Hello, Self), FrameError> {
        let hello = read_start(&mut stream).await?;
        Ok((hello, Self::new(stream, max_body)))
    }

    /// The next frame; `None` at the end of the stream. Not to be cancelled and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<(T, Vec<u8>)>, FrameError> {
        let Some(head_size) = self.messages.length().await? else { return Ok(None) };
        let body_size = self.messages.length().await?.ok_or(FrameError::Truncated)?;
        if head_size > MAX_HEAD {
            return Err(FrameError::HeaderSize(head_size));
        }
        if body_size > self.max_body {
            return Err(FrameError::Oversized { size: body_size, limit: self.max_body });
        }
        let head = self.messages.take(head_size).await?.ok_or(FrameError::Truncated)?;
        let body = match self.messages.take(body_size).await? {
            None if body_size > 0 => return Err(FrameError::Truncated),
            body => body.unwrap_or_default(),
        };
        let head = decode(&head).map_err(FrameError::Header)?;
        Ok(Some((head, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_cannot_leave_their_directory() {
        for good in ["gpt2", "bert-base.v1", "A_1"] {
            check_model_name(good).unwrap();
        }
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a\0", "é", &"x".repeat(65)] {
            assert!(check_model_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shares_are_bound_to_all_that_a_pass_says() {
        let part = Part { sequence: 1, position: 2, tokens: 3, drafted: 2, segment: Some(0) };
        let pass = Pass { counter: 4, parts: vec![part, Part { sequence: 5, ..part }], new_tokens: 6 };
        let other = |change: fn(&mut Pass)| {
            let mut other = pass.clone();
            change(&mut other);
            other.about()
        };
        for change in [
            (|p| p.new_tokens += 1) as fn(&mut Pass),
            |p| p.parts[1].sequence += 1,
            |p| p.parts[0].position += 1,
            |p| p.parts[1].tokens += 1,
            |p| p.parts[0].drafted = 0,
            |p| p.parts[0].segment = None,
            |p| p.parts.swap(0, 1),
            |p| p.parts.truncate(1),
        ] {
            assert_ne!(other(change), pass.about());
        }
        assert_eq!(other(|_| ()), pass.about());
    }

    #[test]
    fn heads_round_trip_and_garbage_is_an_error() {
        let request = Request::OpenSession(OpenSession {
            session: SessionId([1; 32]),
            attempt: 2,
            model: "gpt2".into(),
            digest: Digest([3; 32]),
            sequences: 5,
            context_tokens: 77,
        });
        let bytes = encode(&request).unwrap();
        assert_eq!(decode::<Request>(&bytes).unwrap(), request);
        for cut in 0..bytes.len() {
            assert!(decode::<Request>(&bytes[..cut]).is_err());
        }
        for byte in 0..=255 {
            let _ = decode::<Request>(&[byte; 300]);
            let _ = decode::<Reply>(&[byte; 300]);
        }
    }
}
