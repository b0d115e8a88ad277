//! Thirty-two-byte names: fingerprints, session ids, digests and public keys, written as 64 hex digits.

use protocol::Party;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, str::FromStr};

/// Why a text is not 32 bytes in hex.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hex digits, found {found}")]
pub struct HexError {
    found: String,
}

fn to_hex(bytes: &[u8; 32]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Result<[u8; 32], HexError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(HexError { found: format!("{} characters", text.chars().count()) });
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| {
            (d as char)
                .to_digit(16)
                .ok_or_else(|| HexError { found: format!("the character {:?}", char::from(d)) })
        };
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(bytes)
}

macro_rules! thirty_two_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = HexError;
            fn from_str(text: &str) -> Result<Self, HexError> {
                from_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }

        impl $name {
            /// The first eight hex digits, for messages to people.
            pub fn short(&self) -> String {
                to_hex(&self.0)[..8].to_owned()
            }
        }
    };
}

thirty_two_bytes! {
    /// SHA-256 of a TLS certificate (DER). An identity is exactly one certificate.
    Fingerprint
}
thirty_two_bytes! {
    /// Name of a session, chosen at random by the client.
    SessionId
}
thirty_two_bytes! {
    /// Digest of what is computed: model, configuration, scales, approximations, version.
    Digest
}
thirty_two_bytes! {
    /// An X25519 public key.
    PublicKey
}

impl SessionId {
    /// A fresh id from the operating system.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// A fresh id of a session in which `dealer` deals.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn dealt_by(dealer: Party) -> Result<Self, getrandom::Error> {
        loop {
            // One in three is right.
            let id = Self::random()?;
            if id.dealer() == dealer {
                return Ok(id);
            }
        }
    }

    /// Who deals in the session of this id: over random ids, each party in a third of all sessions.
    pub fn dealer(&self) -> Party {
        let [first, ..] = self.0.as_chunks::<8>().0 else { unreachable!("32 bytes") };
        Party::ALL[(u64::from_le_bytes(*first) % 3) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_errors() {
        let id = Fingerprint(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(id.to_string().parse::<Fingerprint>().unwrap(), id);
        assert!("abc".parse::<Fingerprint>().unwrap_err().to_string().contains("3 characters"));
        assert!("zz".repeat(32).parse::<Fingerprint>().unwrap_err().to_string().contains("'z'"));
        assert!("é".repeat(32).parse::<Fingerprint>().is_err());
    }
}
