//! One session's passes at one party.

use super::{PartyModel, SharedModelError, revealed};
use crate::model::{Cache, OutputRows};
use crate::secure::{Secure, SecureValues};
use kernels::Words;
use protocol::gates::embedding::EmbeddingKeys;
use protocol::{Ledger, Network, Session, Streams};
use std::sync::Arc;

pub use crate::secure::Tokens;

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
