//! How streams between parties begin, and how messages are framed on them.
//!
//! A stream begins with `CATM`, a version (u16 LE), the length of its header (u16 LE) and the header (bincode 2).
//! Then come messages: their length (u32 LE) and their bytes.

use crate::{
    ids::{Digest, SessionId},
    keys::PROTOCOL_VERSION,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use protocol::Party;
use quinn::{ReadError, ReadExactError, RecvStream, VarInt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Stream reset and stop codes.
pub(crate) const CODE_DONE: VarInt = VarInt::from_u32(0);
pub(crate) const CODE_ABORT: VarInt = VarInt::from_u32(1);

const MAGIC: [u8; 4] = *b"CATM";
/// Longest header of a stream.
pub(crate) const MAX_HEADER: usize = 4096;
/// Longest reason that travels in an abort notice.
const MAX_REASON: usize = 600;

/// First thing on a stream between parties.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Header {
    /// The stream carries the messages of a session in one direction.
    Session(SessionHeader),
    /// A session has failed at the sender, because of `about`; nothing follows.
    Abort { session: SessionId, about: Party, reason: String },
}

/// What the sender of a session's stream takes the session to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionHeader {
    pub(crate) session: SessionId,
    pub(crate) attempt: u32,
    pub(crate) dealer: Party,
    pub(crate) program: Digest,
    pub(crate) nonce: [u8; 32],
}

impl Header {
    pub(crate) fn abort(session: SessionId, about: Party, reason: &str) -> Self {
        Self::Abort { session, about, reason: truncated(reason) }
    }
}

/// A reason fit to travel.
pub(crate) fn truncated(reason: &str) -> String {
    reason.chars().take(MAX_REASON / 4).collect()
}

/// What can be wrong with what arrives.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("this is no Catamount stream")]
    Magic,
    #[error(
        "the other end speaks version {0}, this one {PROTOCOL_VERSION}; install the same version on both"
    )]
    Version(u16),
    #[error("a header of {0} bytes; at most {MAX_HEADER} are allowed")]
    HeaderSize(usize),
    #[error("the header cannot be read: {0}")]
    Header(String),
    #[error("a message of {size} bytes; at most {limit} are allowed (limits.max_message_bytes)")]
    Oversized { size: usize, limit: usize },
    #[error("the stream ends in the middle of a message")]
    Truncated,
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<ReadExactError> for FrameError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Truncated,
            ReadExactError::ReadError(error) => Self::Read(error),
        }
    }
}

/// The bincode configuration of everything on the wire; the limit bounds what a length field may claim.
fn bincode() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<65536>()
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    bincode::serde::encode_to_vec(value, bincode()).map_err(|e| e.to_string())
}

/// Decodes all of `bytes`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bincode::serde::decode_from_slice(bytes, bincode()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(format!("{} bytes are left over", bytes.len() - used)),
        Err(error) => Err(error.to_string()),
    }
}

/// The first bytes of a stream.
pub(crate) fn stream_start<T: Serialize>(header: &T) -> Result<Bytes, String> {
    let head = encode(header)?;
    let length = u16::try_from(head.len()).ok().filter(|&n| usize::from(n) <= MAX_HEADER);
    let length = length.ok_or_else(|| format!("a header of {} bytes", head.len()))?;
    let mut bytes = BytesMut::with_capacity(8 + head.len());
    bytes.put_slice(&MAGIC);
    bytes.put_u16_le(PROTOCOL_VERSION);
    bytes.put_u16_le(length);
    bytes.put_slice(&head);
    Ok(bytes.freeze())
}

/// Reads the first bytes of a stream.
pub(crate) async fn read_start<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<T, FrameError> {
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix).await?;
    if prefix[..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    let version = u16::from_le_bytes([prefix[4], prefix[5]]);
    if version != PROTOCOL_VERSION {
        return Err(FrameError::Version(version));
    }
    let length = usize::from(u16::from_le_bytes([prefix[6], prefix[7]]));
    if length > MAX_HEADER {
        return Err(FrameError::HeaderSize(length));
    }
    let mut head = vec![0; length];
    stream.read_exact(&mut head).await?;
    decode(&head).map_err(FrameError::Header)
}

/// Cuts a stream into messages. Memory grows with what has arrived, not with what a length claims.
pub(crate) struct Messages {
    stream: RecvStream,
    limit: usize,
    /// Arrived and not yet used.
    rest: Bytes,
}

/// Reserved at once for a message.
const EAGER: usize = 4 << 20;
/// Taken from the stream at once.
const CHUNK: usize = 1 << 20;

impl Drop for Messages {
    /// Whoever drops a stream that has not ended breaks it off; a clean stop comes before.
    fn drop(&mut self) {
        let _ = self.stream.stop(CODE_ABORT);
    }
}

impl Messages {
    pub(crate) fn new(stream: RecvStream, limit: usize) -> Self {
        Self { stream, limit, rest: Bytes::new() }
    }

    pub(crate) fn stream(&mut self) -> &mut RecvStream {
        &mut self.stream
    }

    /// False at the end of the stream.
    async fn refill(&mut self) -> Result<bool, FrameError> {
        match self.stream.read_chunk(CHUNK, true).await? {
            Some(chunk) => {
                self.rest = chunk.bytes;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Exactly `size` bytes, or `None` if the stream ends before the first.
    pub(crate) async fn take(&mut self, size: usize) -> Result<Option<Vec<u8>>, FrameError> {
        let mut taken = Vec::with_capacity(size.min(EAGER));
        while taken.len() < size {
            if self.rest.is_empty() && !self.refill().await? {
                return if taken.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
            let part = self.rest.split_to(self.rest.len().min(size - taken.len()));
            taken.extend_from_slice(&part);
        }
        Ok(Some(taken))
    }

    /// A length (u32 LE), or `None` at the end of the stream.
    pub(crate) async fn length(&mut self) -> Result<Option<usize>, FrameError> {
        let mut prefix = [0; 4];
        for (place, byte) in prefix.iter_mut().enumerate() {
            while self.rest.is_empty() {
                if !self.refill().await? {
                    return if place == 0 { Ok(None) } else { Err(FrameError::Truncated) };
                }
            }
            *byte = self.rest.split_to(1)[0];
        }
        Ok(Some(u32::from_le_bytes(prefix) as usize))
    }

    /// The next message, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let Some(size) = self.length().await? else { return Ok(None) };
        if size > self.limit {
            return Err(FrameError::Oversized { size, limit: self.limit });
        }
        match self.take(size).await? {
            None if size > 0 => Err(FrameError::Truncated),
            message => Ok(Some(message.unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_garbage_is_refused() {
        let header = Header::abort(SessionId([5; 32]), Party::One, &"because ".repeat(1000));
        let bytes = stream_start(&header).unwrap();
        assert!(bytes.len() < MAX_HEADER);
        assert_eq!(decode::<Header>(&bytes[8..]).unwrap(), header);
        assert!(decode::<Header>(&bytes[8..bytes.len() - 1]).is_err());
        assert!(decode::<Header>(&[&bytes[8..], &[0]].concat()).is_err());
        assert!(decode::<Header>(&[0xff; 100]).is_err());
        // A reason that claims 2^60 bytes.
        let mut huge = vec![1];
        huge.extend_from_slice(&[5; 32]);
        huge.push(1);
        huge.push(253);
        huge.extend_from_slice(&(1_u64 << 60).to_le_bytes());
        assert!(decode::<Header>(&huge).is_err());
    }
}
