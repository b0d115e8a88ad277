//! What a party allows.

use protocol::Party;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{path::PathBuf, str::FromStr, time::Duration};

/// More sequences would make heads of passes too long.
pub(super) const MOST_SEQUENCES: u32 = 256;

/// Who deals in the sessions that a party takes part in: `"rotate"`, or the number of one party.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dealing {
    /// One after the other, as the sessions' identifiers say.
    #[default]
    Rotate,
    /// Always this party.
    Only(Party),
}

impl Dealing {
    /// Always the party of this number, if there is one.
    fn always(party: usize) -> Option<Dealing> {
        Party::ALL.get(party).copied().map(Dealing::Only)
    }

    /// The party that always deals, if there is one.
    pub fn only(self) -> Option<Party> {
        match self {
            Dealing::Rotate => None,
            Dealing::Only(party) => Some(party),
        }
    }
}

impl FromStr for Dealing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rotate" => Ok(Dealing::Rotate),
            number => number.parse().ok().and_then(Dealing::always).ok_or("give rotate, 0, 1 or 2".into()),
        }
    }
}

impl<'de> Deserialize<'de> for Dealing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = "limits.dealer: give \"rotate\", 0, 1 or 2";
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Number(usize),
        }
        match Written::deserialize(deserializer).map_err(|_| D::Error::custom(wrong))? {
            Written::Word(word) if word == "rotate" => Ok(Dealing::Rotate),
            Written::Word(_) => Err(D::Error::custom(wrong)),
            Written::Number(n) => Dealing::always(n).ok_or(D::Error::custom(wrong)),
        }
    }
}

/// Limits of one party.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions at the same time.
    pub max_sessions: usize,
    /// A session with no request for so long is dropped.
    pub idle_session_seconds: u64,
    /// How long a party waits for the others' halves of a session.
    pub rendezvous_seconds: u64,
    /// Largest context of a sequence, in tokens, and most tokens of a pass.
    pub max_context_tokens: u32,
    /// Most sequences that a session works on at once.
    pub max_sequences: u32,
    /// Most tokens of a pass that a client drafts (speculative decoding); 0 refuses drafts.
    pub max_drafted_tokens: u32,
    /// Most tokens that the dealer deals for before they are asked for; 0 for none.
    pub max_tokens_ahead: u32,
    /// Largest message between parties, or body of a client's message.
    pub max_message_bytes: usize,
    /// Threads that compute; 0: one for each core. Fewer help where several parties share a machine.
    pub threads: usize,
    /// Clients who ask may know how long each operation took here. Times can say something about what was computed.
    pub report_times: bool,
    /// Who deals. Where it is always the same party, that one keeps 8 bytes a weight in memory instead of 24, the others 16.
    pub dealer: Dealing,
    /// Where shared models are kept. Relative to the configuration file; empty: in memory only.
    pub model_directory: PathBuf,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 8,
            idle_session_seconds: 600,
            rendezvous_seconds: 10,
            max_context_tokens: 4096,
            max_sequences: 8,
            max_drafted_tokens: 16,
            max_tokens_ahead: 4,
            max_message_bytes: 256 << 20,
            threads: 0,
            report_times: false,
            dealer: Dealing::Rotate,
            model_directory: "models".into(),
        }
    }
}

impl Limits {
    /// How long a party waits for the others' halves of a session.
    pub fn rendezvous(&self) -> Duration {
        Duration::from_secs(self.rendezvous_seconds)
    }
}
