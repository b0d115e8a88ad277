//! What outlives a single run: a party's streams, the number of its next run, its records.

use super::masks::Masks;
use super::rounds::{self, Core, Start};
use super::{Cx, Item};
use crate::Role;
use crate::cost::Ledger;
use crate::error::{Error, Result};
use crate::net::Network;
use crate::prg::{KeyId, Streams};
use crate::profile::{Part, Profile, Recorder};
use crate::registry::{PadUse, Registry};
use kernels::cpu::Cpu;
use kernels::{Device, Message, Ring, Words};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What a party sent, word by word, for privacy tests.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Receiver.
    pub to: Role,
    /// Operation number.
    pub op: u64,
    /// Lane of the pad (or of the item).
    pub lane: u8,
    /// Width of each value.
    pub bits: u32,
    /// The values as they travelled.
    pub values: Vec<u64>,
}

/// One party's state that outlives a single run: streams, number of runs, registry, ledger.
///
/// Runs are numbered, and the operations of each run by themselves: a stream is named by both numbers. The number of a
/// run never comes back, whatever becomes of the run, so that what was dealt for nothing (ahead of a run that
/// never came) can be thrown away without a thought about its masks.
pub struct Session {
    pub(super) role: Role,
    pub(super) device: Device,
    pub(super) ring: Ring,
    pub(super) streams: Arc<dyn Streams>,
    /// Number of the next run, or a lower one than that.
    pub(super) next_run: u32,
    /// What came from the dealer before its turn.
    pub(super) early: VecDeque<Vec<u8>>,
    pub(super) ledger: Ledger,
    /// How long the dealer has waited for room in its queues.
    pub(super) blocked: Duration,
    /// It runs ahead of its request, with pauses.
    pub(super) unasked: bool,
    /// Runs of the same program that are expected after this one.
    pub(super) expected: u64,
    /// These are shared with the runs that the dealer deals ahead.
    pub(super) masks: Arc<Mutex<Masks>>,
    pub(super) registry: Option<Arc<Mutex<Registry>>>,
    pub(super) transcript: Option<Arc<Mutex<Vec<Sent>>>>,
    pub(super) recorder: Option<Box<Recorder>>,
}

/// Records stay right whatever panics beside them.
pub(super) fn lock<T>(records: &Mutex<T>) -> MutexGuard<'_, T> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({}, run {})", self.role, self.next_run)
    }
}

impl Session {
    /// A fresh session. Its streams must be keyed by a session identifier that was never used before.
    pub fn new(role: Role, device: Device, ring: Ring, streams: Box<dyn Streams>) -> Session {
        let registry = cfg!(debug_assertions).then(Arc::default);
        Session { registry, ..Session::with(role, device, ring, streams.into()) }
    }

    pub(super) fn with(role: Role, device: Device, ring: Ring, streams: Arc<dyn Streams>) -> Session {
        Session {
            role,
            device,
            ring,
            streams,
            next_run: 0,
            early: VecDeque::new(),
            ledger: Ledger::default(),
            blocked: Duration::ZERO,
            unasked: false,
            expected: 0,
            masks: Arc::default(),
            registry: None,
            transcript: None,
            recorder: None,
        }
    }

    /// Switches the pad registry on in release builds too.
    pub fn with_registry(mut self) -> Session {
        self.registry.get_or_insert_default();
        self
    }

    /// Records every value sent.
    pub fn with_transcript(mut self) -> Session {
        self.transcript = Some(Arc::default());
        self
    }

    /// Records where the time of each run goes.
    pub fn with_profile(mut self) -> Session {
        self.recorder = Some(Box::new(Recorder::new()));
        self
    }

    /// Where the time of the last run went, if it was recorded; to be asked once after each run.
    pub fn profile(&mut self) -> Option<Profile> {
        self.recorder.as_mut().map(|r| r.finish())
    }

    /// Calls the recorder, if there is one.
    pub(super) fn record(&mut self, f: impl FnOnce(&mut Recorder)) {
        if let Some(r) = &mut self.recorder {
            f(r);
        }
    }

    /// A stream of one pairwise key, if this party knows it.
    pub(super) fn draw(&mut self, key: KeyId, item: &Item) -> Option<Words> {
        let lane = item.lane();
        self.record(|r| r.enter(item.op.scope, Part::Streams));
        let words = self.streams.draw(&self.device, key, item.op.number, lane, item.n, item.bits);
        self.record(|r| r.enter(item.op.scope, Part::Compute));
        if let (Some(_), Some(r)) = (&words, &self.registry) {
            lock(r).draw(key, item.op.number, item.lane());
        }
        words
    }

    /// Something goes to an evaluator under a pad.
    pub(super) fn note_sent(&self, key: KeyId, item: &Item, to: Role, values: impl FnOnce() -> Vec<u64>) {
        if let Some(r) = &self.registry {
            lock(r).pad(PadUse { key, op: item.op.number, lane: item.lane(), to });
        }
        self.note_values(item, to, values);
    }

    /// The dealer's words for P2 go, as they are in the message from byte `at` on.
    pub(super) fn note_dealt(&self, item: &Item, message: &mut Message, at: usize) {
        let values = || Words::unpack(&Cpu::best(), &message.so_far()[at..], item.bits, item.n).to_vec();
        self.note_sent(KeyId::K01, item, Role::P2, values);
    }

    /// These values go to an evaluator.
    pub(super) fn note_values(&self, item: &Item, to: Role, values: impl FnOnce() -> Vec<u64>) {
        if let Some(t) = &self.transcript {
            let (op, lane, bits) = (item.op.number, item.lane(), item.bits);
            lock(t).push(Sent { to, op, lane, bits, values: values() });
        }
    }

    /// Costs so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How long the dealer has waited for room in its queues so far.
    pub fn blocked(&self) -> Duration {
        self.blocked
    }

    /// The mask uses in the pad registry, if it is on, so that the senders' records can be held against each other.
    pub fn pads(&self) -> Option<Vec<PadUse>> {
        self.registry.as_ref().map(|r| lock(r).pads().copied().collect())
    }

    /// Values sent so far, if recorded.
    pub fn transcript(&self) -> Vec<Sent> {
        self.transcript.as_ref().map(|t| lock(t).clone()).unwrap_or_default()
    }

    /// This party.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether words that were read on this thread since the last run may be believed: those of a device that failed are
    /// zeros. `scope` says what they are.
    ///
    /// # Errors
    /// The device failed.
    pub fn check_device(&self, scope: &str) -> Result<()> {
        let failed = |source| Error::Device { role: self.role, scope: scope.into(), source };
        self.device.status().map_err(failed)
    }

    /// Where buffers live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs a program with this session's two other parties at the ends of `net`. What the dealer has dealt ahead is thrown
    /// away.
    pub fn run<'n, T, F>(
        &'n mut self,
        net: &'n mut dyn Network,
        program: impl FnOnce(Cx<'n>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.run_from(net, Start::Anew, program)
    }

    /// The same at an evaluator, for a program that the dealer may have dealt for already ([`Session::deal_ahead`]).
    ///
    /// # Panics
    /// At the dealer, who knows whether it has.
    pub fn run_next<'n, T, F>(
        &'n mut self,
        net: &'n mut dyn Network,
        program: impl FnOnce(Cx<'n>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        assert_ne!(self.role, Role::Dealer, "the dealer goes on with its own Ahead");
        self.run_from(net, Start::Ahead, program)
    }

    fn run_from<'n, T, F>(
        &'n mut self,
        net: &'n mut dyn Network,
        start: Start,
        program: impl FnOnce(Cx<'n>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let run = rounds::begin(self, net, start)?;
        let mut steps = pin!(self.steps(net, run, program));
        let mut task = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(result) = steps.as_mut().poll(&mut task) {
                return result;
            }
        }
    }

    /// Runs a program that has begun, pending after each round.
    pub(super) async fn steps<'n, T, F>(
        &'n mut self,
        net: &'n mut dyn Network,
        run: u32,
        program: impl FnOnce(Cx<'n>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let (role, device, ring) = (self.role, self.device.clone(), self.ring);
        self.record(Recorder::begin);
        device.begin();
        let core = Rc::new(RefCell::new(Core::new(self, net, run)));
        let mut program = pin!(program(Cx { core: core.clone(), role, device, ring, path: Rc::from("") }));
        poll_fn(|task| {
            core.borrow_mut().session.record(|r| r.enter(0, Part::Compute));
            match program.as_mut().poll(task) {
                Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
                Poll::Ready(Ok(v)) => Poll::Ready(core.borrow_mut().close().map(|()| v)),
                Poll::Pending => match core.borrow_mut().exchange() {
                    Ok(()) => Poll::Pending,
                    Err(e) => Poll::Ready(Err(e)),
                },
            }
        })
        .await
    }
}
