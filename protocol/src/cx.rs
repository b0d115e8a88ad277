//! The context of a running program: who we are, our streams, our links, and the rounds.
//!
//! Gates are `async fn`s without a runtime: the only await point is an exchange. [`Session::run`] polls the program; when
//! every branch of it waits for an exchange, everything they posted leaves in **one** message, the peer's message
//! comes in, and the next round begins. So two gates joined with [`join`] share their exchanges, and the number of
//! messages is the depth of the program, not its size. The dealer yields at the same places without waiting for
//! anybody, which keeps operation numbers and the order of dealt words equal on all three machines.

mod ahead;
mod masks;
mod rounds;
mod session;

use crate::cost::bytes;
use crate::error::Result;
use crate::prg::{KeyId, Purpose};
use crate::profile::Part;
use crate::{Role, Shape, Share};
use kernels::{Device, Received, Ring, Words, Zip};
use rounds::Core;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub use ahead::{Ahead, Step};
pub use session::{Sent, Session};

use session::lock;

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
    fn plus(self) -> Zip {
        match self {
            Group::Add => Zip::Add,
            Group::Xor => Zip::Xor,
        }
    }

    fn minus(self) -> Zip {
        match self {
            Group::Add => Zip::Sub,
            Group::Xor => Zip::Xor,
        }
    }

    /// a + b modulo 2^bits, of words below it.
    fn sum(self, a: &Words, b: &Words, bits: u32) -> Words {
        match self {
            Group::Add => Words::formula([a, b], |[a, b]| (a + b).low(bits)),
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
/// lambda.
#[derive(Clone, Debug)]
pub struct Masked {
    /// Public to the evaluators.
    pub delta: Option<Words>,
    /// The dealer's mask, or an evaluator's half of it.
    pub lambda: Words,
}

impl Masked {
    /// What the evaluators know, for who needs the mask no more: words that nobody has are not written when what depends on them is
    /// made.
    pub fn into_delta(self) -> Option<Words> {
        self.delta
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

    /// The operation of what is dealt late in this run, for streams that the dealer must know by then: it can name them
    /// without running the program ([`Session::draw_late`]). Once in a run.
    ///
    /// # Panics
    /// A second time.
    pub fn late(&self, op: Op) -> Op {
        self.core.borrow_mut().name_late(op.scope)
    }

    /// Reduces to the ring.
    pub fn reduce(&self, w: Words) -> Words {
        w.low(self.ring.bits())
    }

    /// A stream of one pairwise key, if this party knows it.
    pub fn draw(&self, key: KeyId, item: &Item) -> Option<Words> {
        self.core.borrow_mut().session.draw(key, item)
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
                let value = value(&pad);
                self.core.borrow_mut().queue_masked(&item, value, &pad)?;
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
            (Role::P1, _) => Ok(core.session.draw(KeyId::K01, &item)),
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
                    core.session.note_values(&item, to, || words.to_vec());
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
        let posted = self.post(&item, half, pads).await;
        let unpack = |theirs: &Received, at| Words::unpack_part(&self.device, theirs, at, item.bits, item.n);
        Ok(posted.map(|(mine, at)| (mine, self.answer(&item, |theirs| unpack(theirs, at)))))
    }

    /// Opens a 2-of-2 value under fresh masks. Cost: one exchange of ⌈n·bits/8⌉ bytes each way.
    pub async fn open(&self, item: Item, half: Option<Words>) -> Result<Masked> {
        Ok(self.open_beside_pads(item, half).await.0)
    }

    /// [`Cx::open`] as a replicated share, modulo 2^bits of the item.
    pub async fn open_share(
        &self,
        item: Item,
        half: Option<Words>,
        shape: Shape,
        scale: u32,
    ) -> Result<Share> {
        let (Masked { delta, lambda }, first) = self.open_beside_pads(item, half).await;
        let share = Share { shape, scale, delta, lambda, first };
        if item.purpose == Purpose::Result && item.bits == self.ring.bits() {
            self.core.borrow_mut().note_factor(item.op.number, &share);
        }
        Ok(share)
    }

    /// [`Cx::open`]; beside it, at the dealer, P1's pad.
    async fn open_beside_pads(&self, item: Item, half: Option<Words>) -> (Masked, Option<Words>) {
        let pads = self.pads(&item);
        let posted = self.post(&item, half, &pads).await;
        let delta = posted.map(|(mine, at)| {
            self.answer(&item, |theirs| mine.combine_part(item.group.plus(), theirs, at, item.bits))
        });
        let (lambda, first) = match (pads.p1, pads.p2) {
            (Some(a), Some(b)) => (item.group.sum(&a, &b, item.bits), Some(a)),
            (Some(own), None) | (None, Some(own)) => (own, None),
            (None, None) => unreachable!("every party knows k01 or k02"),
        };
        (Masked { delta, lambda }, first)
    }

    /// Posts an evaluator's half under its pad, and waits for the exchange: own message, and where in the peer's its answer is.
    async fn post(&self, item: &Item, half: Option<Words>, pads: &Pads) -> Option<(Words, usize)> {
        self.core.borrow_mut().note_item(item);
        let posted = half.map(|half| {
            let (pad, key, to) = match self.role {
                Role::P1 => (&pads.p1, KeyId::K01, Role::P2),
                _ => (&pads.p2, KeyId::K02, Role::P1),
            };
            let pad = pad.as_ref().expect("an evaluator knows its own pad");
            let mut core = self.core.borrow_mut();
            let (at, size) = (core.outgoing.len(), bytes(item.n, item.bits));
            core.session.record(|r| r.turn(Part::Packing));
            core.outgoing.reserve(size as usize);
            let masked = half.mask_and_pack(item.group.minus(), pad, item.bits, &mut core.outgoing);
            core.session.record(|r| {
                r.post(item.op.scope, size);
                r.turn(Part::Compute);
            });
            core.session.note_sent(key, item, to, || masked.to_vec());
            (masked, at)
        });
        NextRound::default().await;
        posted
    }

    /// What `read` makes of an item of the peer's message.
    fn answer(&self, item: &Item, read: impl FnOnce(&Received) -> Words) -> Words {
        let mut core = self.core.borrow_mut();
        core.session.record(|r| r.enter(item.op.scope, Part::Packing));
        let words = read(&core.incoming);
        core.session.record(|r| r.turn(Part::Compute));
        words
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
