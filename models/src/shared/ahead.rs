//! What the dealer of a session deals before it is asked: passes over single tokens of a single sequence, of which
//! only the token is not known.

use super::PartySession;
use crate::model::{Cache, OutputRows, Sequence};
use crate::secure::{Secure, SecureValues, Tokens};
use protocol::gates::embedding;
use protocol::{Ahead, Ledger, Network, Role, Session, Step};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::{AddAssign, Deref, DerefMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A session has what it takes from its beginning on.
const BEGUN: &str = "made when the session began";

/// Positions whose tokens the client means to send one by one, to see the outputs of each: an answer's, after its prompt.
/// The dealer deals ahead for these only. Public, and no promise: whatever comes instead is computed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stepwise {
    /// The first.
    pub from: usize,
    /// The one after the last.
    pub to: usize,
}

/// A share of the dealer's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dealt {
    /// Bytes sent.
    pub bytes: u64,
    /// Seconds it took, without those in which it waited for room in its queues.
    pub seconds: f64,
}

impl Dealt {
    pub(super) fn new(sent: &Ledger, took: Duration) -> Dealt {
        Dealt { bytes: sent.sent.iter().flatten().sum(), seconds: took.as_secs_f64() }
    }
}

impl AddAssign for Dealt {
    fn add_assign(&mut self, more: Dealt) {
        self.bytes += more.bytes;
        self.seconds += more.seconds;
    }
}

/// When the dealer worked for a pass. The first two together are its cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dealing {
    /// Before it was asked for.
    pub ahead: Dealt,
    /// Since.
    pub asked: Dealt,
    /// For passes, until this one, that were never asked for.
    pub wasted: Dealt,
}

impl AddAssign for Dealing {
    fn add_assign(&mut self, more: Dealing) {
        self.ahead += more.ahead;
        self.asked += more.asked;
        self.wasted += more.wasted;
    }
}

/// Caches that are in use, and back in their place when dropped: also by a run that is broken off.
pub(super) struct Lent {
    caches: Option<Caches>,
    place: Place,
}

/// Sequence by sequence.
type Caches = Vec<Cache<SecureValues>>;

/// Where a session's caches are kept.
pub(super) type Place = Rc<Cell<Option<Caches>>>;

impl Lent {
    pub(super) fn of(place: &Place) -> Lent {
        let caches = place.take();
        assert!(caches.is_some(), "one run at a time has the caches");
        Lent { caches, place: place.clone() }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.place.set(self.caches.take());
    }
}

impl Deref for Lent {
    type Target = Caches;
    fn deref(&self) -> &Caches {
        self.caches.as_ref().expect("taken when made")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Caches {
        self.caches.as_mut().expect("taken when made")
    }
}

/// Passes that are dealt ahead, in order. All but the last are complete.
#[derive(Default)]
pub(super) struct Queue {
    passes: VecDeque<Ahead>,
    /// The last one is not complete.
    unfinished: bool,
    /// At most so many.
    pub(super) most: usize,
    pub(super) stepwise: Option<Stepwise>,
    pub(super) wasted: Dealt,
    /// Why no more is dealt ahead: told when a pass is asked for.
    pub(super) failed: Option<protocol::Error>,
}

impl Queue {
    /// The pass that is asked for, if it is there.
    pub(super) fn take(&mut self) -> Option<Ahead> {
        let pass = self.passes.pop_front();
        self.unfinished &= !self.passes.is_empty();
        pass
    }

    /// Nobody asks for these any more.
    pub(super) fn throw_away(&mut self) {
        for pass in self.passes.drain(..) {
            self.wasted += Dealt::new(pass.sent(), pass.busy());
        }
        self.unfinished = false;
    }

    /// Whether so much has been sent without having been asked for as one end of a link holds. Then everything that is on
    /// its way finds room at the other end, and what is dealt late does not queue up behind it.
    fn is_full(&self, net: &dyn Network) -> bool {
        let sent = |to| self.passes.iter().map(|p| p.sent().link(Role::Dealer, to)).sum::<u64>();
        sent(Role::P1).max(sent(Role::P2)) >= net.capacity() as u64
    }
}

impl PartySession {
    /// Deals at most `passes` passes ahead of their requests, at the positions that the client has named.
    #[must_use]
    pub fn dealing_ahead(mut self, passes: usize, stepwise: Option<Stepwise>) -> PartySession {
        (self.ahead.most, self.ahead.stepwise) = (passes, stepwise);
        self
    }

    /// A little of the dealer's work for passes that nobody has asked for yet. Never waits: to be called again at once after
    /// [`Step::More`], after a while after [`Step::Full`], and after the next pass when it is [`Step::Complete`].
    ///
    /// Whatever fails here is told when a pass is asked for: the evaluators may have begun with what was dealt.
    pub fn deal_ahead(&mut self, net: &mut dyn Network) -> Step {
        if self.ahead.failed.is_some() {
            return Step::Complete;
        }
        self.try_ahead(net).unwrap_or_else(|e| {
            self.ahead.throw_away();
            self.ahead.failed = Some(e);
            Step::Complete
        })
    }

    /// How many passes like the one after `tokens` tokens are expected after it.
    pub(super) fn more_after(&self, tokens: usize) -> usize {
        let more = self.ahead.stepwise.map_or(0, |s| s.to.saturating_sub(tokens + 1));
        more.min(self.ahead.most)
    }

    fn try_ahead(&mut self, net: &mut dyn Network) -> protocol::Result<Step> {
        if self.ahead.unfinished {
            if self.ahead.is_full(net) {
                return Ok(Step::Full);
            }
            let last = self.ahead.passes.back_mut().expect("an unfinished pass");
            let step = last.step(&mut self.session, net)?;
            self.ahead.unfinished = step != Step::Complete;
            return Ok(if step == Step::Full { step } else { Step::More });
        }
        let (done, &[read]) = (self.ahead.passes.len(), &self.read[..]) else {
            return Ok(Step::Complete);
        };
        let wanted = self.ahead.stepwise.is_some_and(|s| s.from <= read && read + done < s.to);
        if !wanted || done >= self.ahead.most || self.session.role() != Role::Dealer || !self.remembers() {
            return Ok(Step::Complete);
        }
        self.session.expect_more(self.more_after(read + done));
        let (model, mut caches) = (self.model.clone(), Lent::of(&self.caches));
        let pass = self.session.deal_ahead(net, move |cx| {
            Box::pin(async move {
                let (a, m) = (Secure::new(cx), model.playing(Role::Dealer).expect(BEGUN));
                let token = Tokens::Expected(1);
                let mut single = [Sequence::new(&mut caches[0], 1)];
                let hidden = m.hidden(&a, &token, &mut single, OutputRows::Last).await?;
                m.back.output(&a, &hidden, &[1]).map(drop)
            })
        })?;
        let Some(pass) = pass else { return Ok(Step::Full) };
        self.ahead.passes.push_back(pass);
        self.ahead.unfinished = true;
        Ok(Step::More)
    }

    /// The dealer's part of a pass that it has dealt ahead, now that its keys are there.
    pub(super) fn serve(
        &mut self,
        net: &mut dyn Network,
        mut pass: Ahead,
        keys: &embedding::EmbeddingKeys,
    ) -> protocol::Result<super::Account> {
        let (start, before, blocked) = (Instant::now(), *self.session.ledger(), self.session.blocked());
        let (mut cost, busy) = (*pass.sent(), pass.busy());
        let table = &self.model.playing(Role::Dealer).expect(BEGUN).front.embedding;
        embedding::deal_late(&mut self.session, net, &mut pass, keys, table)?;
        pass.finish(&mut self.session, net)?;
        self.read[0] += 1;
        let since = self.session.ledger().since(&before);
        let asked = Dealt::new(&since, working(&self.session, start, blocked));
        let ahead = Dealt::new(&cost, busy);
        cost.add(&since);
        let dealing = Dealing { ahead, asked, wasted: std::mem::take(&mut self.ahead.wasted) };
        Ok(super::Account { cost, profile: pass.profile(), dealing: Some(dealing) })
    }
}

/// Time since `start` in which the dealer did not wait for room; `blocked` is how long it had waited before.
pub(super) fn working(session: &Session, start: Instant, blocked: Duration) -> Duration {
    start.elapsed().saturating_sub(session.blocked() - blocked)
}
