//! One session's passes at one party.

use super::ahead::{Dealing, Dealt, Lent, Place, Queue, Stepwise, working};
use super::choice::Choice;
use super::{PartyModel, SharedModelError, revealed};
use crate::model::{Cache, OutputRows, Sequence};
use crate::secure::{Secure, SecureValues, Tokens};
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
    /// As the client sent them to this party, those of the first part first.
    pub keys: EmbeddingKeys,
    /// Sequence by sequence, in ascending order; the others stay as they are.
    pub parts: Vec<Part>,
    /// What to do with them.
    pub work: Work,
}

/// The tokens of one sequence in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which of the session's sequences: 0, 1, …
    pub sequence: usize,
    /// How many tokens.
    pub count: usize,
    /// How many of them are of the first token type; all if `None`.
    pub segment: Option<usize>,
    /// How many of the sequence's tokens so far they follow; those after it are forgotten.
    pub keep: usize,
}

impl Request {
    /// Whether this pass, after `read` tokens of each sequence, is one that a dealer deals ahead: all parties see it alike.
    fn is_foreseen(&self, read: &[usize]) -> bool {
        let (&[read], &[part]) = (read, &self.parts[..]) else { return false };
        let single = part.count == 1 && part.segment.is_none() && part.keep == read;
        single && self.work == Work::Outputs(OutputRows::Last)
    }
}

/// One session's state at one party: keys and values of all tokens so far, sequence by sequence.
pub struct PartySession {
    pub(super) model: Arc<PartyModel>,
    pub(super) session: Session,
    /// With the tokens of passes that are dealt ahead.
    pub(super) caches: Place,
    /// Tokens of passes that were asked for, sequence by sequence.
    pub(super) read: Vec<usize>,
    pub(super) ahead: Queue,
}

impl PartySession {
    /// A session in which this party plays `role`, over fresh streams.
    ///
    /// # Errors
    /// The party keeps nothing of the model for this role.
    pub fn new(
        model: Arc<PartyModel>,
        role: Role,
        streams: Box<dyn Streams>,
    ) -> Result<PartySession, SharedModelError> {
        let session = Session::new(role, model.device.clone(), kernels::Ring::Z64, streams);
        Self::within(model, session)
    }

    /// A session that the caller has prepared.
    ///
    /// # Errors
    /// As [`PartySession::new`].
    pub fn within(model: Arc<PartyModel>, session: Session) -> Result<PartySession, SharedModelError> {
        let caches = Rc::new(Cell::new(Some(vec![Cache::new(&model.playing(session.role())?.config)])));
        Ok(PartySession { model, session, caches, read: vec![0], ahead: Queue::default() })
    }

    /// The same for so many sequences instead of one.
    pub fn with_sequences(mut self, sequences: usize) -> PartySession {
        let caches = (0..sequences).map(|_| Cache::new(&self.model.public.config)).collect();
        (self.caches, self.read) = (Rc::new(Cell::new(Some(caches))), vec![0; sequences]);
        self
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

    /// Tokens so far, sequence by sequence.
    pub fn tokens(&self) -> &[usize] {
        &self.read
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
        EmbeddingKeys::parse(&m.device, self.session.role(), bytes, count, m.public.config.vocab)
            .map_err(|e| SharedModelError::Keys(e.to_string()))
    }

    /// One pass. What is for the client goes to `reply`: nothing, outputs, or one token of each sequence after the other,
    /// each time with this party's account of what led to it; `None` stands for the dealer's part.
    ///
    /// Keys and values of tokens that are forgotten are cut off; passes are numbered on, so what is computed again at
    /// their positions is masked by streams that never masked anything. The same holds where a dealer has dealt ahead for
    /// another pass than this one.
    ///
    /// # Errors
    /// A party is lost, the programs have diverged, or `reply` fails.
    ///
    /// # Panics
    /// The parts are none, not those of the keys, not in order or of sequences that the session does not have, or more
    /// tokens are kept than there are.
    pub fn pass<E: From<protocol::Error>>(
        &mut self,
        net: &mut dyn Network,
        r: &Request,
        reply: &mut dyn FnMut(Account, Option<Vec<u8>>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut tokens, mut parts) = (Tokens::Keys(Box::new(r.keys.clone())), r.parts.clone());
        assert_eq!(r.keys.tokens(), parts.iter().map(|p| p.count).sum::<usize>(), "keys of all parts");
        let choices = match r.work {
            Work::Choose { count, .. } => count,
            Work::Read | Work::Outputs(_) => 1,
        };
        if let Some(failure) = self.ahead.failed.take() {
            return Err(failure.into());
        }
        let foreseen = r.is_foreseen(&self.read);
        if foreseen && let Some(pass) = self.ahead.take() {
            let account = self.serve(net, pass, &r.keys)?;
            return reply(account, None);
        }
        self.ahead.throw_away();
        let keep = r.parts.first().map_or(0, |p| p.keep);
        self.session.expect_more(if foreseen { self.more_after(keep) } else { 0 });
        let dealer = self.session.role() == Role::Dealer;
        for _ in 0..choices {
            let (start, before, blocked) = (Instant::now(), *self.session.ledger(), self.session.blocked());
            let mut lent = Lent::of(&self.caches);
            let model = self.model.playing(self.session.role()).expect("made when the session began");
            let (sampling, caches) = (&self.model.sampling, &mut lent[..]);
            let program = |cx| {
                let (tokens, parts) = (&tokens, &parts);
                async move {
                    let a = Secure::new(cx);
                    let mut sequences = sequences(caches, parts);
                    let rows = match r.work {
                        Work::Outputs(rows) => rows,
                        _ => OutputRows::Last,
                    };
                    let hidden = model.hidden(&a, tokens, &mut sequences, rows).await?;
                    Ok(match r.work {
                        Work::Read => (None, None),
                        Work::Outputs(_) => {
                            let counts: Vec<usize> = parts.iter().map(|p| p.count).collect();
                            (model.back.output(&a, &hidden, &counts)?, None)
                        }
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
            self.read = lent.iter().map(Cache::tokens).collect();
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
            let message = words.map(|w| packed(&w, bits));
            self.session.check_device("the answer")?;
            reply(account, message)?;
            if let Some(row) = chosen {
                tokens = Tokens::OneHot(row);
                let next = |p: &Part| Part { count: 1, keep: p.keep + p.count, segment: None, ..*p };
                parts = parts.iter().map(next).collect();
            }
        }
        Ok(())
    }
}

/// The sequences that a pass is about, each cut to what it keeps.
fn sequences<'c>(caches: &'c mut [Cache<SecureValues>], parts: &[Part]) -> Vec<Sequence<'c, SecureValues>> {
    let mut caches = caches.iter_mut().enumerate();
    let sequence = |part: &Part| {
        let found = caches.find(|(i, _)| *i == part.sequence);
        let (_, cache) = found.expect("parts in ascending order, of sequences that there are");
        cache.cut(part.keep);
        Sequence { cache, count: part.count, segment: part.segment }
    };
    parts.iter().map(sequence).collect()
}

fn packed(words: &Words, bits: u32) -> Vec<u8> {
    let mut message = Vec::new();
    words.pack(bits, &mut message);
    message
}
