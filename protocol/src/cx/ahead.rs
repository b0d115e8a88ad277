//! Runs that the dealer deals before anybody asks for them.
//!
//! What the dealer sends depends on its streams, on weights and on the shape of the program, so it can be sent before the
//! input is there, if the shape can be foreseen. Such a run is the ordinary program at the dealer, polled round by round
//! whenever there is nothing better to do; its messages leave while the links have room for them, so that nothing ever
//! waits for it. What depends on the request after all travels by itself, later ([`Cx::deal_late`]).
//!
//! If another request comes instead, the run is dropped: the dealer begins one with a higher number, and an evaluator
//! that begins anew passes over what was dealt for lower ones.

use super::rounds::{self, Core, HEADER, Start};
use super::{Cx, Group, Item, Session, lock};
use crate::cost::Ledger;
use crate::error::{Error, Result};
use crate::net::Network;
use crate::prg::{KeyId, Purpose};
use crate::profile::Profile;
use crate::{NetError, Role};
use kernels::Words;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

type Message = (Role, Vec<u8>);

/// Messages that have not left yet.
#[derive(Clone, Default)]
struct Outbox(Arc<Mutex<VecDeque<Message>>>);

impl Network for Outbox {
    fn send(&mut self, to: Role, message: Vec<u8>) -> std::result::Result<(), NetError> {
        lock(&self.0).push_back((to, message));
        Ok(())
    }

    fn recv(&mut self, from: Role) -> std::result::Result<Vec<u8>, NetError> {
        let reason = "nothing is sent to the dealer within a session".into();
        Err(NetError::Bad { direction: "from", peer: from, reason })
    }
}

/// How far a run is that is dealt ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to deal.
    More,
    /// The links are full.
    Full,
    /// Everything has left.
    Complete,
}

/// A run under way, which owns everything it needs.
type Work = Pin<Box<dyn Future<Output = (Result<()>, Option<Profile>)>>>;

/// One run, as far as it is dealt.
pub struct Ahead {
    run: u32,
    work: Option<Work>,
    outbox: Outbox,
    sent: Ledger,
    busy: Duration,
    profile: Option<Profile>,
    late_sent: bool,
}

impl Session {
    /// Begins a run ahead of its request, at the dealer; `None` if the links have no room to say so. Runs are asked for in the
    /// order in which they were begun; to let one go, all are dropped and [`Session::run`] begins anew.
    pub fn deal_ahead<P>(&mut self, net: &mut dyn Network, program: P) -> Result<Option<Ahead>>
    where
        P: for<'n> FnOnce(Cx<'n>) -> Pin<Box<dyn Future<Output = Result<()>> + 'n>> + 'static,
    {
        assert_eq!(self.role, Role::Dealer, "only the dealer deals");
        if ![Role::P1, Role::P2].into_iter().all(|to| net.room(to, HEADER)) {
            return Ok(None);
        }
        let run = rounds::begin(self, net, Start::Ahead)?;
        let (outbox, mut own) = (Outbox::default(), self.beside());
        let mut out = outbox.clone();
        let work = Box::pin(async move {
            let result = own.steps(&mut out, run, program).await;
            (result, own.profile())
        });
        let (sent, busy) = (Ledger::default(), Duration::ZERO);
        Ok(Some(Ahead { run, work: Some(work), outbox, sent, busy, profile: None, late_sent: false }))
    }

    /// The part of a run that was left out ([`Cx::deal_late`]). It goes before all that waits for room, which only makes room
    /// when this is there.
    ///
    /// # Panics
    /// At the second one of a run, which would have the same mask.
    pub fn deal_late(&mut self, net: &mut dyn Network, ahead: &mut Ahead, value: &Words) -> Result<()> {
        assert!(!std::mem::replace(&mut ahead.late_sent, true), "one item of a run is dealt late");
        let mut core = Core::new(self, net, ahead.run);
        let item = core.late(0, value.len());
        core.send_late(&item, value)
    }

    /// A stream of a run's late operation ([`Cx::late`]): n ring elements.
    ///
    /// # Panics
    /// If this party does not know the key: at an evaluator.
    pub fn draw_late(&mut self, ahead: &Ahead, key: KeyId, purpose: Purpose, n: usize) -> Words {
        let (op, bits) = (rounds::late_op(ahead.run, 0), self.ring.bits());
        let item = Item { op, purpose, index: 0, n, bits, group: Group::Add };
        self.draw(key, &item).expect("the dealer knows k01 and k02")
    }

    /// A session with the same streams and records, which counts nothing: what leaves is counted when it does.
    fn beside(&self) -> Session {
        Session {
            registry: self.registry.clone(),
            transcript: self.transcript.clone(),
            recorder: self.recorder.as_ref().map(|r| Box::new(r.beside())),
            unasked: true,
            expected: self.expected,
            masks: self.masks.clone(),
            ..Session::with(self.role, self.device.clone(), self.ring, self.streams.clone())
        }
    }
}

impl Ahead {
    /// Bytes that have left.
    pub fn sent(&self) -> &Ledger {
        &self.sent
    }

    /// Time it took, without waiting.
    pub fn busy(&self) -> Duration {
        self.busy
    }

    /// Where the time went, if that is recorded, once everything is dealt.
    pub fn profile(&mut self) -> Option<Profile> {
        self.profile.take()
    }

    /// Sends what waits and finds room; then deals one round. Never blocks.
    pub fn step(&mut self, session: &mut Session, net: &mut dyn Network) -> Result<Step> {
        let start = Instant::now();
        if self.flush(session, net)? {
            self.work()?;
        }
        let full = !self.flush(session, net)?;
        self.busy += start.elapsed();
        Ok(match full {
            true => Step::Full,
            false if self.work.is_some() => Step::More,
            false => Step::Complete,
        })
    }

    /// Deals the rest and sends it, waiting for room: the evaluators are at it.
    pub fn finish(&mut self, session: &mut Session, net: &mut dyn Network) -> Result<()> {
        loop {
            let (start, before) = (Instant::now(), session.blocked);
            while let Some((to, message)) = self.next() {
                let start = Instant::now();
                self.post(session, net, to, message)?;
                session.blocked += start.elapsed();
            }
            self.work()?;
            self.busy += start.elapsed().saturating_sub(session.blocked - before);
            if self.work.is_none() && lock(&self.outbox.0).is_empty() {
                return Ok(());
            }
        }
    }

    /// One round.
    fn work(&mut self) -> Result<()> {
        let Some(work) = &mut self.work else { return Ok(()) };
        if let Poll::Ready((result, profile)) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            (self.work, self.profile) = (None, profile);
            result?;
        }
        Ok(())
    }

    fn next(&self) -> Option<Message> {
        lock(&self.outbox.0).pop_front()
    }

    /// Sends what finds room; says whether that was all.
    fn flush(&mut self, session: &mut Session, net: &mut dyn Network) -> Result<bool> {
        loop {
            let room = match lock(&self.outbox.0).front() {
                Some((to, message)) => net.room(*to, message.len()),
                None => return Ok(true),
            };
            match self.next() {
                Some((to, message)) if room => self.post(session, net, to, message)?,
                Some(waits) => {
                    lock(&self.outbox.0).push_front(waits);
                    return Ok(false);
                }
                None => return Ok(true),
            }
        }
    }

    fn post(&mut self, s: &mut Session, net: &mut dyn Network, to: Role, message: Vec<u8>) -> Result<()> {
        for ledger in [&mut s.ledger, &mut self.sent] {
            ledger.count(Role::Dealer, to, (message.len() - HEADER) as u64);
            ledger.messages += 1;
        }
        let lost = |source| Error::Net { scope: format!("run {}, ahead of its request", self.run), source };
        net.send(to, message).map_err(lost)
    }
}

impl std::fmt::Debug for Ahead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ahead(run {})", self.run)
    }
}
