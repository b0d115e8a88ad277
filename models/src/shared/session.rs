//! One session's passes at one party.

use super::choice::Choice;
use super::{PartyModel, SharedModelError, revealed};
use crate::model::{Cache, OutputRows};
use crate::secure::{Secure, SecureValues, Tokens};
use kernels::Words;
use protocol::gates::embedding::EmbeddingKeys;
use protocol::gates::reveal::Reveal;
use protocol::profile::Profile;
use protocol::{Ledger, Network, Session, Streams};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a client settles when it opens a session. Public.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionOptions {
    /// Which rows yield outputs.
    pub rows: OutputRows,
    /// How the parties choose tokens, of which alone the client learns then; `None` if it gets the outputs.
    pub choice: Option<Choice>,
    /// The parties say where their time went, if their configuration allows it.
    #[serde(default)]
    pub profile: bool,
}

/// What a party says of a pass.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// What it sent.
    pub cost: Ledger,
    /// Where its time went, if the client has asked.
    pub profile: Option<Profile>,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions { rows: OutputRows::Last, choice: None, profile: false }
    }
}

/// What to do with the tokens of a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Keep them in mind, yield nothing.
    Read,
    /// Yield outputs.
    Outputs(OutputRows),
    /// Choose tokens that follow.
    Choose {
        /// How.
        choice: Choice,
        /// How many.
        count: usize,
    },
}

/// The tokens of a pass.
#[derive(Clone, Debug)]
pub struct Request {
    /// As the client sent them to this party.
    pub keys: EmbeddingKeys,
    /// How many of them are of the first token type; all if `None`.
    pub segment: Option<usize>,
    /// How many of the tokens so far they follow; those after it are forgotten.
    pub keep: usize,
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
        Self::within(model, session)
    }

    /// A session that the caller has prepared, of the model's role.
    pub fn within(model: Arc<PartyModel>, session: Session) -> PartySession {
        let cache = Cache::new(&model.model.config);
        PartySession { model, session, cache }
    }

    /// The same, recording where the time of each pass goes.
    pub fn with_profile(mut self) -> PartySession {
        self.session = self.session.with_profile();
        self
    }

    /// Streams, costs and records.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.cache.tokens()
    }

    /// Whether tokens of earlier passes count in later ones: a decoder.
    pub fn remembers(&self) -> bool {
        self.model.public.config.is_decoder()
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

    /// One pass. What is for the client goes to `reply`: nothing, outputs, or one token after the other, each with this
    /// party's account of what led to it; `None` stands for the dealer's part.
    ///
    /// Keys and values of tokens that are forgotten are cut off; operations are numbered on, so what is computed again at
    /// their positions is masked by streams that never masked anything.
    ///
    /// # Errors
    /// A party is lost, the programs have diverged, or `reply` fails.
    ///
    /// # Panics
    /// More tokens are kept than there are.
    pub fn pass<E: From<protocol::Error>>(
        &mut self,
        net: &mut dyn Network,
        r: &Request,
        reply: &mut dyn FnMut(Account, Option<Vec<u8>>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut tokens = Tokens::Keys(r.keys.clone());
        let (mut count, mut keep) = (r.keys.tokens(), r.keep);
        let choices = match r.work {
            Work::Choose { count, .. } => count,
            Work::Read | Work::Outputs(_) => 1,
        };
        for _ in 0..choices {
            let before = *self.session.ledger();
            let (model, sampling, cache) = (&self.model.model, &self.model.sampling, &mut self.cache);
            let (words, chosen) = self.session.run(net, |cx| {
                let tokens = &tokens;
                async move {
                    let a = Secure::new(cx);
                    cache.cut(&a, keep);
                    let rows = match r.work {
                        Work::Outputs(rows) => rows,
                        _ => OutputRows::Last,
                    };
                    let hidden = model.hidden(&a, tokens, count, r.segment, cache, rows).await?;
                    Ok(match r.work {
                        Work::Read => (None, None),
                        Work::Outputs(_) => (model.back.output(&a, &hidden)?, None),
                        Work::Choose { choice, .. } => {
                            let (word, row) = choice.make(&a, &model.back, &hidden, sampling).await?;
                            (word, Some(row))
                        }
                    })
                }
            })?;
            let bits = match r.work {
                Work::Choose { .. } => Reveal::TOKEN.bits,
                _ => revealed(&self.model.public.config).bits,
            };
            let account =
                Account { cost: self.session.ledger().since(&before), profile: self.session.profile() };
            let message = words.map(|w| packed(&w, bits));
            self.session.check_device("the answer")?;
            reply(account, message)?;
            if let Some(row) = chosen {
                (tokens, count, keep) = (Tokens::OneHot(row), 1, self.cache.tokens());
            }
        }
        Ok(())
    }
}

fn packed(words: &Words, bits: u32) -> Vec<u8> {
    let mut message = Vec::new();
    words.pack(bits, &mut message);
    message
}
