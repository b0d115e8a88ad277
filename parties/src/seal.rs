//! Anonymous-sender sealed boxes to a party's X25519 key.
//!
//! Ephemeral X25519, HKDF-SHA256, ChaCha20-Poly1305. Each box has its own key, so the nonce is constant. The box is
//! bound to the recipient, the session, what it is about, and the purpose: it opens nowhere else.

use crate::{
    ids::{Digest, PublicKey, SessionId},
    keys::{KeyError, StaticSecret, expand},
};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use protocol::Party;
use zeroize::Zeroizing;

/// What a sealed box is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// A client's input share of one pass.
    PassInput = 1,
}

/// What a sealed box is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aad {
    /// The session.
    pub session: SessionId,
    /// Number of the message within the session.
    pub counter: u64,
    /// Digest of what the message is about.
    pub about: Digest,
    /// The party that may open it.
    pub party: Party,
    /// What it is for.
    pub purpose: Purpose,
}

impl Aad {
    fn encode(&self) -> [u8; 74] {
        let mut bytes = [0; 74];
        bytes[..32].copy_from_slice(&self.session.0);
        bytes[32..40].copy_from_slice(&self.counter.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.about.0);
        bytes[72] = self.party.index() as u8;
        bytes[73] = self.purpose as u8;
        bytes
    }
}

/// Why a box was not made or not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Too short to be a box.
    #[error("a sealed box has at least {OVERHEAD} bytes, this one {0}")]
    Short(usize),
    /// Wrong key, wrong place, or changed on the way.
    #[error("the sealed box does not open: made for another party, session or pass, or damaged")]
    Refused,
}

/// Bytes that sealing adds.
pub const OVERHEAD: usize = 32 + 16;

fn cipher(shared: &[u8; 32], ephemeral: &PublicKey, recipient: &PublicKey) -> ChaCha20Poly1305 {
    let mut info = [0; 64];
    info[..32].copy_from_slice(&ephemeral.0);
    info[32..].copy_from_slice(&recipient.0);
    let key = Zeroizing::new(expand(b"catamount sealed box 1", shared, &info));
    ChaCha20Poly1305::new((&*key).into())
}

/// Seals `plaintext` to `recipient`.
///
/// # Errors
/// The recipient's key has low order, or the operating system gives no randomness.
pub fn seal(recipient: &PublicKey, aad: &Aad, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let ephemeral = StaticSecret::generate()?;
    let shared = ephemeral.agree(recipient)?;
    let public = ephemeral.public();
    let sealed = cipher(&shared, &public, recipient)
        .encrypt(&Default::default(), Payload { msg: plaintext, aad: &aad.encode() })
        .map_err(|_| SealError::Refused)?;
    let mut boxed = Vec::with_capacity(32 + sealed.len());
    boxed.extend_from_slice(&public.0);
    boxed.extend_from_slice(&sealed);
    Ok(boxed)
}

/// Opens a box with `secret`.
///
/// # Errors
/// Truncated, changed, made for another key or another `aad`, or made with a low-order point.
pub fn open(secret: &StaticSecret, aad: &Aad, boxed: &[u8]) -> Result<Vec<u8>, SealError> {
    if boxed.len() < OVERHEAD {
        return Err(SealError::Short(boxed.len()));
    }
    let (public, sealed) = boxed.split_first_chunk::<32>().ok_or(SealError::Short(boxed.len()))?;
    let public = PublicKey(*public);
    let shared = secret.agree(&public)?;
    cipher(&shared, &public, &secret.public())
        .decrypt(&Default::default(), Payload { msg: sealed, aad: &aad.encode() })
        .map_err(|_| SealError::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aad() -> Aad {
        Aad {
            session: SessionId([7; 32]),
            counter: 3,
            about: Digest([40; 32]),
            party: Party::One,
            purpose: Purpose::PassInput,
        }
    }

    #[test]
    fn opens_only_with_the_right_key_at_the_right_place() {
        let (secret, other) = (StaticSecret::generate().unwrap(), StaticSecret::generate().unwrap());
        let boxed = seal(&secret.public(), &aad(), b"share").unwrap();
        assert_eq!(boxed.len(), 5 + OVERHEAD);
        assert_eq!(open(&secret, &aad(), &boxed).unwrap(), b"share");
        assert_eq!(open(&other, &aad(), &boxed), Err(SealError::Refused));
        for wrong in [
            Aad { session: SessionId([8; 32]), ..aad() },
            Aad { counter: 4, ..aad() },
            Aad { about: Digest([41; 32]), ..aad() },
            Aad { party: Party::Two, ..aad() },
        ] {
            assert_eq!(open(&secret, &wrong, &boxed), Err(SealError::Refused));
        }
        for cut in 0..boxed.len() {
            assert!(open(&secret, &aad(), &boxed[..cut]).is_err());
        }
        for place in 0..boxed.len() {
            let mut changed = boxed.clone();
            changed[place] ^= 1;
            assert!(open(&secret, &aad(), &changed).is_err(), "byte {place}");
        }
        assert_ne!(seal(&secret.public(), &aad(), b"share").unwrap(), boxed);
    }

    #[test]
    fn low_order_points_are_refused() {
        let zero = PublicKey([0; 32]);
        assert!(matches!(seal(&zero, &aad(), b""), Err(SealError::Key(KeyError::LowOrder(_)))));
        let secret = StaticSecret::generate().unwrap();
        assert!(matches!(open(&secret, &aad(), &[0; 64]), Err(SealError::Key(KeyError::LowOrder(_)))));
    }
}
