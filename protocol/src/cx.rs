//! The context of a running program: who we are, our streams, our links, and the rounds.
//!
//! Gates are `async fn`s without a runtime: the only await point is an exchange. [`Cx::run`] polls the program; when
//! every branch of it waits for an exchange, everything they posted leaves in **one** message, the peer's message
//! comes in, and the next round begins. So two gates joined with [`join`] share their exchanges, and the number of
//! messages is the depth of the program, not its size. The dealer yields at the same places without waiting for
//! anybody, which keeps operation numbers and the order of dealt words equal on all three machines.

mod ahead;
mod masks;
mod rounds;

use crate::cost::{Ledger, bytes};
use crate::error::{Error, Result};
use crate::net::Network;
use crate::prg::{KeyId, Purpose, Streams};
use crate::profile::{Part, Profile, Recorder};
use crate::registry::{PadUse, Registry};
use crate::share::Share;
use crate::{Role, Shape};
use kernels::{Device, Ring, Words};
use masks::Masks;
use rounds::{Core, Start};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use ahead::{Ahead, Step};

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
/// run never comes back, whatever becomes of the run, so that what was dealt for nothing (see [`Ahead`]) can be thrown
/// away without a thought about its masks.
pub struct Session {
    role: Role,
    device: Device,
    ring: Ring,
    streams: Arc<dyn Streams>,
    /// Number of the next run, or a lower one than that.
    next_run: u32,
    /// What came from the dealer before its turn.
    early: VecDeque<Vec<u8>>,
    ledger: Ledger,
    /// How long the dealer has waited for room in its queues.
    blocked: Duration,
    /// It runs ahead of its request, with pauses.
    unasked: bool,
    /// Runs of the same program that are expected after this one.
    expected: u64,
    /// These are shared with the runs that the dealer deals ahead.
    masks: Arc<Mutex<Masks>>,
    registry: Option<Arc<Mutex<Registry>>>,
    transcript: Option<Arc<Mutex<Vec<Sent>>>>,
    recorder: Option<Box<Recorder>>,
}

/// Records stay right whatever panics beside them.
fn lock<T>(records: &Mutex<T>) -> MutexGuard<'_, T> {
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

    fn with(role: Role, device: Device, ring: Ring, streams: Arc<dyn Streams>) -> Session {
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
    fn record(&mut self, f: impl FnOnce(&mut Recorder)) {
        if let Some(r) = &mut self.recorder {
            f(r);
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
    async fn steps<'n, T, F>(
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

/// FNV-1a, to tell programs apart (not a security measure).
fn fnv(mut h: u64, bytes: &[u8]) -> u64 {
    for b in bytes {
        h = (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
    }
    h
}

/// Additive group of a sharing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Integers modulo 2^bits.
    Add,
    /// Bit strings.
    Xor,
}

impl Group {
    fn plus(self, a: &Words, b: &Words) -> Words {
        match self {
            Group::Add => a + b,
            Group::Xor => a ^ b,
        }
    }

    fn minus(self, a: &Words, b: &Words) -> Words {
        match self {
            Group::Add => a - b,
            Group::Xor => a ^ b,
        }
    }
}

/// An operation: the name of its streams, and its number in a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    number: u64,
    scope: u32,
}

/// One item of an operation: which stream masks it, how many values of how many bits, in which group.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// The operation.
    pub op: Op,
    /// The stream.
    pub purpose: Purpose,
    /// Member of the stream's family.
    pub index: usize,
    /// Number of values.
    pub n: usize,
    /// Bits of each.
    pub bits: u32,
    /// How shares combine.
    pub group: Group,
}

impl Item {
    fn lane(&self) -> u8 {
        self.purpose.lane(self.index)
    }
}

/// The two evaluators' masks of an item: the dealer knows both, each evaluator its own.
#[derive(Clone, Debug)]
pub struct Pads {
    /// From k01.
    pub p1: Option<Words>,
    /// From k02.
    pub p2: Option<Words>,
}

/// A value opened under a mask: v = delta (+ or xor) lambda. Evaluators know delta and half of lambda, the dealer
/// lambda. For values of the full ring this is a replicated share.
#[derive(Clone, Debug)]
pub struct Masked {
    /// Public to the evaluators.
    pub delta: Option<Words>,
    /// The dealer's mask, or an evaluator's half of it.
    pub lambda: Words,
}

impl Masked {
    /// As a replicated share.
    pub fn share(self, shape: Shape, scale: u32) -> Share {
        Share { shape, scale, delta: self.delta, lambda: self.lambda }
    }
}

/// A handle on the running program. Cloning it is cheap; a scoped handle names a part of the program.
#[derive(Clone)]
pub struct Cx<'n> {
    core: Rc<RefCell<Core<'n>>>,
    role: Role,
    device: Device,
    ring: Ring,
    path: Rc<str>,
}

impl<'n> Cx<'n> {
    /// This party.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether this is the dealer.
    pub fn is_dealer(&self) -> bool {
        self.role == Role::Dealer
    }

    /// Whether this is P1, who adds public constants to additive halves.
    pub fn is_p1(&self) -> bool {
        self.role == Role::P1
    }

    /// Where buffers live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The ring.
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// Path of this part of the program.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A handle on a named part.
    pub fn scope(&self, name: &str) -> Cx<'n> {
        let path = if self.path.is_empty() { name.into() } else { format!("{}/{name}", self.path).into() };
        Cx { path, ..self.clone() }
    }

    /// Begins an operation: fresh streams, same number on all parties.
    pub fn op(&self, name: &str) -> Op {
        let mut core = self.core.borrow_mut();
        let number = core.number();
        core.hash = fnv(fnv(core.hash, self.path.as_bytes()), name.as_bytes());
        core.scope = if self.path.is_empty() { name.into() } else { format!("{}/{name}", self.path).into() };
        let (mut scope, core) = (0, &mut *core);
        core.session.record(|r| {
            scope = r.scope(&core.scope);
            r.enter(scope, Part::Compute);
        });
        Op { number, scope }
    }

    /// Reduces to the ring.
    pub fn reduce(&self, w: Words) -> Words {
        w.low(self.ring.bits())
    }

    /// A stream of one pairwise key, if this party knows it.
    pub fn draw(&self, key: KeyId, item: &Item) -> Option<Words> {
        self.core.borrow_mut().draw(key, item)
    }

    /// The masks of an item.
    pub fn pads(&self, item: &Item) -> Pads {
        Pads { p1: self.draw(KeyId::K01, item), p2: self.draw(KeyId::K02, item) }
    }

    /// Additive (or xor) shares, for the evaluators, of a value the dealer knows: P1's is a stream of k01, P2's
    /// travels masked by it. Cost: ⌈n·bits/8⌉ bytes from the dealer to P2, no exchange.
    pub fn deal(&self, item: Item, value: impl FnOnce() -> Words) -> Result<Option<Words>> {
        self.deal_beside_pad(item, |_| value())
    }

    /// Like [`Cx::deal`]; the dealer's closure also sees P1's share.
    pub fn deal_beside_pad(&self, item: Item, value: impl FnOnce(&Words) -> Words) -> Result<Option<Words>> {
        self.core.borrow_mut().note_item(&item);
        match self.role {
            Role::Dealer => {
                let pad = self.draw(KeyId::K01, &item).expect("the dealer knows k01");
                let masked = item.group.minus(&value(&pad), &pad).low(item.bits);
                let mut core = self.core.borrow_mut();
                core.note_sent(KeyId::K01, &item, Role::P2, &masked);
                core.queue_dealt(Role::P2, &masked, item.bits)?;
                Ok(None)
            }
            Role::P1 => Ok(self.draw(KeyId::K01, &item)),
            Role::P2 => self.core.borrow_mut().take_dealt(item.n, item.bits).map(Some),
        }
    }

    /// Additive shares of `n` ring elements that the dealer knows of nothing in the program but from outside, like
    /// [`Cx::deal`] in all but this: they travel by themselves. A run that is dealt ahead leaves them out (`value` is `None`
    /// at the dealer), and [`Session::deal_late`] sends them when the dealer knows them. Once in a run.
    pub fn deal_late(&self, op: Op, n: usize, value: Option<&Words>) -> Result<Option<Words>> {
        let mut core = self.core.borrow_mut();
        let item = core.late(op.scope, n);
        core.note_item(&item);
        match (self.role, value) {
            (Role::Dealer, Some(value)) => core.send_late(&item, value).map(|()| None),
            (Role::Dealer, None) => {
                core.session.record(|r| r.deal(Role::P2, bytes(n, item.bits)));
                Ok(None)
            }
            (Role::P1, _) => Ok(core.draw(KeyId::K01, &item)),
            (Role::P2, _) => core.take_late(&item).map(Some),
        }
    }

    /// Words of a distributed comparison key, which hide their content computationally by themselves: from the
    /// dealer to both evaluators.
    ///
    /// # Panics
    /// If the item is anything else: everything else must be masked.
    pub fn publish_key(&self, item: Item, value: Option<&Words>) -> Result<Words> {
        assert_eq!(item.purpose, Purpose::Root, "only comparison keys may travel unmasked");
        self.core.borrow_mut().note_item(&item);
        let mut core = self.core.borrow_mut();
        match value {
            Some(words) => {
                for to in [Role::P1, Role::P2] {
                    core.note_values(&item, to, words);
                    core.queue_dealt(to, words, item.bits)?;
                }
                Ok(words.clone())
            }
            None => core.take_dealt(item.n, item.bits),
        }
    }

    /// Sends each evaluator's half, masked by its own pad, to the other; returns (own message, the peer's).
    /// Cost: one exchange of ⌈n·bits/8⌉ bytes each way.
    pub async fn swap(&self, item: Item, half: Option<Words>, pads: &Pads) -> Result<Option<(Words, Words)>> {
        self.core.borrow_mut().note_item(&item);
        let posted = half.map(|half| {
            let (pad, key, to) = match self.role {
                Role::P1 => (&pads.p1, KeyId::K01, Role::P2),
                _ => (&pads.p2, KeyId::K02, Role::P1),
            };
            let pad = pad.as_ref().expect("an evaluator knows its own pad");
            let masked = item.group.minus(&half, pad).low(item.bits);
            let mut core = self.core.borrow_mut();
            core.note_sent(key, &item, to, &masked);
            let (at, size) = (core.outgoing.len(), bytes(item.n, item.bits));
            core.session.record(|r| r.turn(Part::Packing));
            core.outgoing.reserve(size as usize);
            masked.pack(item.bits, &mut core.outgoing);
            core.session.record(|r| {
                r.post(item.op.scope, size);
                r.turn(Part::Compute);
            });
            (masked, at)
        });
        NextRound::default().await;
        Ok(posted.map(|(mine, at)| {
            let mut core = self.core.borrow_mut();
            let end = at + bytes(item.n, item.bits) as usize;
            core.session.record(|r| r.enter(item.op.scope, Part::Packing));
            let theirs = Words::unpack(&self.device, &core.incoming[at..end], item.bits, item.n);
            core.session.record(|r| r.turn(Part::Compute));
            (mine, theirs)
        }))
    }

    /// Opens a 2-of-2 value under fresh masks. Cost: one exchange of ⌈n·bits/8⌉ bytes each way.
    pub async fn open(&self, item: Item, half: Option<Words>) -> Result<Masked> {
        let pads = self.pads(&item);
        let swapped = self.swap(item, half, &pads).await?;
        let delta = swapped.map(|(mine, theirs)| item.group.plus(&mine, &theirs).low(item.bits));
        let lambda = match (pads.p1, pads.p2) {
            (Some(a), Some(b)) => item.group.plus(&a, &b).low(item.bits),
            (Some(own), None) | (None, Some(own)) => own,
            (None, None) => unreachable!("every party knows k01 or k02"),
        };
        if item.purpose == Purpose::Result && item.group == Group::Add && item.bits == self.ring.bits() {
            self.core.borrow_mut().note_mask(item.op.number, &lambda);
        }
        Ok(Masked { delta, lambda })
    }
}

/// Pending once: everything posted before is exchanged before this completes.
#[derive(Default)]
struct NextRound(bool);

impl Future for NextRound {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}
