//! A model as it is shared: what is public, what each party stores, one session's passes over it, and the client's side.

mod ahead;
mod assembly;
mod choice;
pub mod client;
mod holding;
mod session;

use crate::benchmark::BenchmarkWeights;
use crate::checkpoint::{Head, ModelConfig};
use crate::plan::{PROGRAM_VERSION, Plan, PlanTables};
use crate::tokenizer::TokenizerInfo;
use kernels::{Device, Words};
use protocol::gates::input;
use protocol::gates::reveal::Reveal;
use protocol::{Key, Party};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use ahead::{Dealing, Dealt, Stepwise};
pub use assembly::{Assembly, PartyModel};
pub use choice::Choice;
pub use session::{Account, Part, PartySession, Request, SessionOptions, Work};

/// Everything public about a shared model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicModel {
    /// Version of the program it was shared for.
    pub program: u32,
    /// Shapes and constants.
    pub config: ModelConfig,
    /// Ranges of the gates.
    pub plan: Plan,
    /// How text becomes tokens; `None` for made-up weights.
    pub tokenizer: Option<TokenizerInfo>,
    /// Names of a classifier's labels.
    pub labels: Vec<String>,
    /// Random name of this sharing: shares of two sharings do not fit together.
    pub sharing: [u8; 32],
    /// For measuring only: the parties make the weights up from this public seed, and nobody shares any. Such a model has
    /// no secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<BenchmarkWeights>,
}

/// Why a description of a model was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharedModelError {
    /// Not readable.
    #[error("the model's description is damaged: {0}; share the model again")]
    Damaged(String),
    /// Made by another version.
    #[error(
        "the model was shared for program version {found}, this is version {}; share it again with this version",
        PROGRAM_VERSION
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// The client's keys for tokens, or the tokens.
    #[error("{0}; use the model's own tokenizer, and the same version everywhere")]
    Keys(String),
    /// Something that this model does not do.
    #[error("{0}")]
    Unsuitable(String),
    /// A party's device failed while its part was made ready.
    #[error("{party}: {what}")]
    Device {
        /// Whose device.
        party: Party,
        /// What happened, and what to do.
        what: String,
    },
    /// Parts that do not fit the description.
    #[error("the upload does not fit the model: {0}; share the model again")]
    Upload(String),
}

impl PublicModel {
    /// As bytes that travel.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }

    /// Reads and checks bytes that travelled.
    pub fn from_bytes(bytes: &[u8]) -> Result<PublicModel, SharedModelError> {
        /// Of a description of any version: another one may have other fields.
        #[derive(Deserialize)]
        struct Program {
            program: u32,
        }
        let damaged = |e: serde_json::Error| SharedModelError::Damaged(e.to_string());
        let Program { program } = serde_json::from_slice(bytes).map_err(damaged)?;
        if program != PROGRAM_VERSION {
            return Err(SharedModelError::Version { found: program });
        }
        let m: PublicModel = serde_json::from_slice(bytes).map_err(damaged)?;
        m.config.validate().map_err(|e| SharedModelError::Damaged(e.to_string()))?;
        m.plan.validate(&m.config).map_err(SharedModelError::Damaged)?;
        if m.benchmark.is_some() && m.tokenizer.is_some() {
            let what = "benchmark weights belong to no model that reads text";
            return Err(SharedModelError::Damaged(what.into()));
        }
        let labels = match m.config.head {
            Head::Classifier { labels } => labels,
            _ => 0,
        };
        if m.labels.len() != labels {
            let what = format!("{} names for {labels} labels", m.labels.len());
            return Err(SharedModelError::Damaged(what));
        }
        Ok(m)
    }

    /// What parties and clients compare.
    pub fn digest(&self, tables: &PlanTables) -> [u8; 32] {
        let mut h = Sha256::new();
        h.update(tables.digest(&self.config, &self.plan));
        h.update(self.sharing);
        h.update(serde_json::to_vec(&(&self.tokenizer, &self.labels)).expect("plain data"));
        if let Some(weights) = &self.benchmark {
            h.update(serde_json::to_vec(weights).expect("plain data"));
        }
        h.finalize().into()
    }
}

/// The seeds of a sharing's pseudo-random components: fresh, the owner's own. Parties 0 and 1 share one of them, parties
/// 0 and 2 the other; what the two lack of the weights, c12, goes to parties 1 and 2 in full.
#[derive(Clone)]
pub struct Seeds {
    /// Of c01: for parties 0 and 1.
    pub one: Key,
    /// Of c02: for parties 0 and 2.
    pub zero: Key,
}

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seeds(redacted)")
    }
}

impl Seeds {
    /// What a party gets: party 0 both, the others one.
    pub fn for_party(&self, party: Party) -> Vec<u8> {
        match party {
            Party::Zero => [self.one, self.zero].concat(),
            Party::One => self.one.to_vec(),
            Party::Two => self.zero.to_vec(),
        }
    }

    /// c12 of a piece of parameter number `index`: what parties 1 and 2 get in full.
    pub fn rest(&self, device: &Device, index: usize, piece: usize, encoded: Vec<u64>) -> Words {
        input::split(device, &Words::upload(device, encoded), &self.one, &self.zero, index as u32, piece)
    }
}

/// How a party keeps the components of weight matrices of which it has the seed. Every product has the same words either
/// way, so that each party chooses for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// As words ready for products: faster where there is memory for them.
    #[default]
    Stored,
    /// Not at all: they are drawn from the seed in each product. Of its matrices a party then holds 8 bytes a weight, c12,
    /// and party 0 none, whatever roles it plays.
    Regenerated,
}

/// How outputs travel.
fn revealed(c: &ModelConfig) -> Reveal {
    match c.head {
        Head::MeanPooling => Reveal::POOLED,
        _ => Reveal::LOGITS,
    }
}

/// Numbers in a row of output.
pub fn output_width(c: &ModelConfig) -> usize {
    match c.head {
        Head::LanguageModel => c.vocab,
        Head::MeanPooling => c.d_model,
        Head::Classifier { labels } => labels,
    }
}
