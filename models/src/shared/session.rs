//! One session's passes at one party.

use super::ahead::{Dealing, Dealt, Lent, Place, Queue, Stepwise, working};
use super::choice::Choice;
use super::{PartyModel, SharedModelError, revealed};
use crate::model::{Cache, OutputRows};
use crate::secure::{Secure, Tokens};
use kernels::Words;
use protocol::gates::embedding::EmbeddingKeys;
use protocol::gates::reveal::Reveal;
use protocol::profile::Profile;
use protocol::{Ledger, Network, Role, Session, Streams};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

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
    /// For which passes the dealer may deal before they are asked for.
    #[serde(default)]
    pub stepwise: Option<Stepwise>,
}

/// What a party says of a pass.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// What it sent.
    pub cost: Ledger,
    /// Where its time went, if the client has asked.
    pub profile: Option<Profile>,
    /// When it dealt, if it is the dealer.
    #[serde(default)]
    pub dealing: Option<Dealing>,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions { rows: OutputRows::Last, choice: None, profile: false, stepwise: None }
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

impl Request {
    /// Whether this pass, after `read` tokens, is one that a dealer deals ahead: all parties see it alike.
    fn is_foreseen(&self, read: usize) -> bool {
        let single = self.keys.tokens() == 1 && self.segment.is_none();
        single && self.keep == read && self.work == Work::Outputs(OutputRows::Last)
    }
}

/// One session's state at one party: keys and values of all tokens so far.
pub struct PartySession {
    pub(super) model: Arc<PartyModel>,
    pub(super) session: Session,
    /// With the tokens of passes that are dealt ahead.
    pub(super) cache: Place,
    /// Tokens of passes that were asked for.
    pub(super) read: usize,
    pub(super) ahead: Queue,
}

impl PartySession {
    /// A session over fresh streams.
    pub fn new(model: Arc<PartyModel>, streams: Box<dyn Streams>) -> PartySession {
        let session = Session::new(model.role, model.device.clone(), kernels::Ring::Z64, streams);
        Self::within(model, session)
    }

    /// A session that the caller has prepared, of the model's role.
    pub fn within(model: Arc<PartyModel>, session: Session) -> PartySession {
        let cache = Rc::new(Cell::new(Some(Cache::new(&model.model.config))));
        PartySession { model, session, cache, read: 0, ahead: Queue::default() }
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
        self.read
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
    /// Keys and values of tokens that are forgotten are cut off; passes are numbered on, so what is computed again at
    /// their positions is masked by streams that never masked anything. The same holds where a dealer has dealt ahead for
    /// another pass than this one.
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
        let foreseen = r.is_foreseen(self.read);
        if foreseen && let Some(pass) = self.ahead.take() {
            let account = self.serve(net, pass, &r.keys)?;
            return reply(account, None);
        }
        self.ahead.throw_away();
        self.session.expect_more(if foreseen { self.more_after(r.keep) } else { 0 });
        let dealer = self.session.role() == Role::Dealer;
        for _ in 0..choices {
            let (start, before, blocked) = (Instant::now(), *self.session.ledger(), self.session.blocked());
            let mut lent = Lent::of(&self.cache);
            let (model, sampling, cache) = (&self.model.model, &self.model.sampling, &mut *lent);
            let program = |cx| {
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
            };
            let (words, chosen) = match foreseen && !dealer {
                true => self.session.run_next(net, program)?,
                false => self.session.run(net, program)?,
            };
            self.read = lent.tokens();
            let bits = match r.work {
                Work::Choose { .. } => Reveal::TOKEN.bits,
                _ => revealed(&self.model.public.config).bits,
            };
            let cost = self.session.ledger().since(&before);
            let dealing = dealer.then(|| Dealing {
                asked: Dealt::new(&cost, working(&self.session, start, blocked)),
                wasted: std::mem::take(&mut self.ahead.wasted),
                ..Dealing::default()
            });
            let account = Account { cost, profile: self.session.profile(), dealing };
            reply(account, words.map(|w| packed(&w, bits)))?;
            if let Some(row) = chosen {
                (tokens, count, keep) = (Tokens::OneHot(row), 1, self.read);
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
