//! Static X25519 keys and the pairwise keys of the shared pseudo-random streams.
//!
//! Two parties i and j derive k_ij from X25519(static_i, static_j) and public values. The third party knows
//! neither static secret, so it cannot compute k_ij: in particular the dealer does not learn the evaluators' key. The derivation binds
//! everything the two must agree on (see [`KeyContext`]), among it the TLS exporter of the connection between the two:
//! after a re-connection the same session id gives other keys, so no stream of masks is ever drawn twice.

use crate::ids::{Digest, PublicKey, SessionId};
use curve25519_dalek::montgomery::MontgomeryPoint;
use hkdf::Hkdf;
use protocol::{Key, Party, Role};
use sha2::Sha256;
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Version of the key derivation and of everything that follows from the keys.
pub const PROTOCOL_VERSION: u16 = 3;

/// Why no key came out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The other side's public key is a low-order point, so the shared secret would be known to everyone.
    #[error("X25519 public key {0} has low order; replace it in the configuration")]
    LowOrder(PublicKey),
    /// No randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(String),
}

/// An X25519 secret. Erased when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StaticSecret([u8; 32]);

impl StaticSecret {
    /// A fresh secret from the operating system.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = Self([0; 32]);
        getrandom::fill(&mut secret.0).map_err(|e| KeyError::Randomness(e.to_string()))?;
        Ok(secret)
    }

    /// From stored bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        PublicKey(MontgomeryPoint::mul_base_clamped(self.0).to_bytes())
    }

    /// X25519 with `peer`.
    ///
    /// # Errors
    /// `peer` has low order (the shared secret is all zero).
    pub fn agree(&self, peer: &PublicKey) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let shared = Zeroizing::new(MontgomeryPoint(peer.0).mul_clamped(self.0).to_bytes());
        match shared.iter().fold(0, |acc, byte| acc | byte) {
            0 => Err(KeyError::LowOrder(*peer)),
            _ => Ok(shared),
        }
    }
}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticSecret(redacted)")
    }
}

/// A key that exactly two parties know. Erased when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PairKey([u8; 32]);

impl PairKey {
    /// The key bytes, for the stream generator.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairKey(redacted)")
    }
}

/// What a pairwise key is bound to. Both ends must hold the same values, or their keys differ.
#[derive(Debug, Clone, Copy)]
pub struct KeyContext<'a> {
    /// The session.
    pub session: SessionId,
    /// Who deals.
    pub dealer: Party,
    /// Attempt (epoch) number within the session.
    pub attempt: u32,
    /// What is computed.
    pub program: Digest,
    /// Fresh nonce of one of the pair, sent in its stream header: of the dealer, else of the lower party.
    pub nonce: [u8; 32],
    /// TLS exporter value of the connection between the two.
    pub channel: &'a [u8; 32],
}

/// The key that `own` shares with `peer`.
///
/// # Errors
/// The peer's public key has low order.
pub fn pair_key(
    own: (Party, &StaticSecret),
    peer: (Party, &PublicKey),
    context: &KeyContext<'_>,
) -> Result<PairKey, KeyError> {
    let shared = own.1.agree(peer.1)?;
    let (low, high) = (own.0.min(peer.0), own.0.max(peer.0));
    let mut info = Vec::with_capacity(160);
    info.extend_from_slice(b"catamount pair key");
    info.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    info.extend_from_slice(&[low.index() as u8, high.index() as u8, context.dealer.index() as u8]);
    info.extend_from_slice(&context.attempt.to_le_bytes());
    info.extend_from_slice(&context.program.0);
    info.extend_from_slice(&context.nonce);
    info.extend_from_slice(context.channel);
    Ok(PairKey(expand(&context.session.0, &*shared, &info)))
}

/// HKDF-SHA256 to 32 bytes.
pub(crate) fn expand(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut key).expect("32 bytes are within HKDF's range");
    key
}

/// One party's two keys of a session.
#[derive(Clone, Debug)]
pub struct SessionKeys {
    keys: [Option<PairKey>; 3],
}

impl SessionKeys {
    pub(crate) fn new(keys: [Option<PairKey>; 3]) -> Self {
        Self { keys }
    }

    /// The key shared with `peer`; `None` for oneself.
    pub fn with(&self, peer: Party) -> Option<&PairKey> {
        self.keys[peer.index()].as_ref()
    }

    /// The keys k01, k02 and k12 of the roles where `dealer` deals, as far as `own` has them.
    pub fn of_roles(&self, own: Party, dealer: Party) -> [Option<Key>; 3] {
        [(Role::Dealer, Role::P1), (Role::Dealer, Role::P2), (Role::P1, Role::P2)].map(|(a, b)| {
            let (a, b) = (a.party(dealer), b.party(dealer));
            let other = if own == a { Some(b) } else { (own == b).then_some(a) };
            other.and_then(|other| self.with(other)).map(|key| *key.expose())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(channel: &[u8; 32]) -> KeyContext<'_> {
        KeyContext {
            session: SessionId([1; 32]),
            dealer: Party::Zero,
            attempt: 0,
            program: Digest([2; 32]),
            nonce: [3; 32],
            channel,
        }
    }

    #[test]
    fn both_ends_agree_and_every_input_matters() {
        let (a, b) = (StaticSecret::generate().unwrap(), StaticSecret::generate().unwrap());
        let base = context(&[4; 32]);
        let key = pair_key((Party::One, &a), (Party::Two, &b.public()), &base).unwrap();
        assert_eq!(key, pair_key((Party::Two, &b), (Party::One, &a.public()), &base).unwrap());
        let changed = [
            KeyContext { session: SessionId([9; 32]), ..base },
            KeyContext { dealer: Party::One, ..base },
            KeyContext { attempt: 1, ..base },
            KeyContext { program: Digest([9; 32]), ..base },
            KeyContext { nonce: [9; 32], ..base },
            context(&[9; 32]),
        ];
        let mut all: Vec<_> = changed
            .iter()
            .map(|c| pair_key((Party::One, &a), (Party::Two, &b.public()), c).unwrap().expose().to_owned())
            .collect();
        all.push(*key.expose());
        all.push(*pair_key((Party::Zero, &a), (Party::Two, &b.public()), &base).unwrap().expose());
        let c = StaticSecret::generate().unwrap();
        all.push(*pair_key((Party::One, &a), (Party::Two, &c.public()), &base).unwrap().expose());
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn agreement_is_x25519() {
        // The first vector of RFC 7748, section 5.2.
        let bytes = |text: &str| text.parse::<PublicKey>().unwrap();
        let scalar =
            StaticSecret(bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4").0);
        let point = bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        assert_eq!(
            PublicKey(*scalar.agree(&point).unwrap()),
            bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
        );
    }

    #[test]
    fn low_order_points_are_refused_and_secrets_redacted() {
        let secret = StaticSecret::generate().unwrap();
        for point in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert_eq!(secret.agree(&PublicKey(point)).unwrap_err(), KeyError::LowOrder(PublicKey(point)));
        }
        assert_eq!(format!("{secret:?}"), "StaticSecret(redacted)");
    }
}
