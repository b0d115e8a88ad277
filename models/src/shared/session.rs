//! One session's passes at one party.

use super::{PartyModel, PublicModel, SharedModelError, revealed};
use crate::model::{Cache, OutputRows};
use crate::secure::{Secure, SecureValues, Tokens};
use kernels::Words;
use protocol::gates::embedding::EmbeddingKeys;
use protocol::{Ledger, Network, Session, Streams};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Scores over the temperature must stay below this for the parties to sample by them.
const SAMPLE_RANGE: f64 = 240.0;

/// How the parties choose tokens. Public.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Choice {
    /// The highest score.
    Greedy,
    /// At random by softmax(scores / temperature), with randomness that no single party knows.
    Sample {
        /// Above 0.
        temperature: f32,
        /// Among so many of the likeliest tokens; all for 0.
        top_k: u32,
    },
}

/// What a client settles when it opens a session. Public.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionOptions {
    /// Which rows yield outputs.
    pub rows: OutputRows,
    /// How the parties choose tokens, of which alone the client learns then; `None` if it gets the outputs.
    pub choice: Option<Choice>,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions { rows: OutputRows::Last, choice: None }
    }
}

impl Choice {
    /// Whether the parties can make it for this model.
    ///
    /// # Errors
    /// Says why not, and what would do.
    pub fn check(&self, model: &PublicModel) -> Result<(), String> {
        let Choice::Sample { temperature, .. } = *self else { return Ok(()) };
        let least = model.plan.scores / SAMPLE_RANGE;
        if f64::from(temperature) >= least && temperature <= 100.0 {
            return Ok(());
        }
        Err(format!(
            "at temperature {temperature}: for this model it must lie between {least:.2} and 100; choose another, or let the client choose (--reveal logits)"
        ))
    }
}

/// What to do with the tokens of a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Keep them in mind, yield nothing.
    Read,
    /// Yield outputs.
    Outputs(OutputRows),
}

/// The tokens of a pass.
#[derive(Clone, Debug)]
pub struct Request {
    /// As the client sent them to this party.
    pub keys: EmbeddingKeys,
    /// How many of them are of the first token type; all if `None`.
    pub segment: Option<usize>,
    /// What to do with them.
    pub work: Work,
}

/// One session's state at one party: keys and values of all tokens so far.
pub struct PartySession {
    model: Arc<PartyModel>,
    session: Session,
    cache: Cache<SecureValues>,
}

impl PartySession {
    /// A session over fresh streams.
    pub fn new(model: Arc<PartyModel>, streams: Box<dyn Streams>) -> PartySession {
        let session = Session::new(model.role, model.device.clone(), kernels::Ring::Z64, streams);
        let cache = Cache::new(&model.model.config);
        PartySession { model, session, cache }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.cache.tokens()
    }

    /// Costs so far.
    pub fn ledger(&self) -> &Ledger {
        self.session.ledger()
    }

    /// Reads `count` tokens' keys as the client sent them to this party.
    ///
    /// # Errors
    /// They are of another length.
    pub fn keys(&self, bytes: &[u8], count: usize) -> Result<EmbeddingKeys, SharedModelError> {
        let m = &self.model;
        EmbeddingKeys::parse(&m.device, m.role, bytes, count, m.public.config.vocab)
            .map_err(|e| SharedModelError::Keys(e.to_string()))
    }

    /// One pass. An evaluator returns its message to the client, if there is to be one.
    ///
    /// # Errors
    /// A party is lost, or the programs have diverged.
    pub fn pass(&mut self, net: &mut dyn Network, r: &Request) -> protocol::Result<Option<Vec<u8>>> {
        let (model, cache) = (&self.model.model, &mut self.cache);
        let (count, tokens) = (r.keys.tokens(), Tokens::Keys(r.keys.clone()));
        let words = self.session.run(net, |cx| async move {
            let a = Secure::new(cx);
            let rows = match r.work {
                Work::Read => OutputRows::Last,
                Work::Outputs(rows) => rows,
            };
            let hidden = model.hidden(&a, &tokens, count, r.segment, cache, rows).await?;
            match r.work {
                Work::Read => Ok(None),
                Work::Outputs(_) => model.back.output(&a, &hidden),
            }
        })?;
        Ok(words.map(|w| packed(&w, revealed(&self.model.public.config).bits)))
    }
}

fn packed(words: &Words, bits: u32) -> Vec<u8> {
    let mut message = Vec::new();
    words.pack(bits, &mut message);
    message
}
