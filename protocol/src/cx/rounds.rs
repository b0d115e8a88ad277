//! The messages of a running program, round by round: what is queued, what has arrived, and how programs that diverge
//! are told apart.

use super::{Group, Item, Op, Session, fnv, lock};
use crate::cost::bytes;
use crate::error::{Error, Result};
use crate::net::Network;
use crate::prg::{KeyId, Purpose};
use crate::profile::{Part, Recorder};
use crate::{NetError, Role};
use kernels::{Message, Received, Words};
use std::rc::Rc;
use std::time::Instant;

/// Dealt words leave in messages of about this size, so that the queue towards an evaluator stays bounded.
const DEAL_CHUNK: usize = 4 << 20;
/// More than the dealer sends in one round of a single token, within which it does not ask how much it has dealt ahead.
const ROUND: usize = 32 << 20;
/// Round number, number of the run, part, and program hash.
pub(super) const HEADER: usize = 20;

/// Numbers of runs have 24 bits, those of operations in a run 32: a stream's has 56.
pub(super) const RUNS: u32 = 1 << 24;
/// Number of the operation that is dealt late.
const LATE_OP: u64 = u32::MAX as u64;

/// In the place of a part: a run begins anew, a run begins ahead of its request, what is dealt late. They differ in
/// several bits from each other and from parts.
const ANEW: u32 = 0xff00_ff00;
const AHEAD: u32 = 0xff0f_0f00;
const LATE: u32 = 0xff00_f0ff;

/// The operation of a run's item that is dealt late: its number needs no program.
pub(super) fn late_op(run: u32, scope: u32) -> Op {
    Op { number: u64::from(run) << 32 | LATE_OP, scope }
}

/// How a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With its request. What was dealt ahead is of no use.
    Anew,
    /// Perhaps before its request.
    Ahead,
}

/// Hash of a program before its first operation.
fn start_hash(run: u32) -> u64 {
    fnv(0xcbf2_9ce4_8422_2325, &run.to_le_bytes())
}

fn header(run: u32, round: u32, part: u32, hash: u64) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    h[..4].copy_from_slice(&round.to_le_bytes());
    h[4..8].copy_from_slice(&run.to_le_bytes());
    h[8..12].copy_from_slice(&part.to_le_bytes());
    h[12..].copy_from_slice(&hash.to_le_bytes());
    h
}

/// Numbers of round, run and part.
fn numbers(message: &[u8]) -> Option<[u32; 3]> {
    let number = |at: usize| Some(u32::from_le_bytes(message.get(at..at + 4)?.try_into().ok()?));
    (message.len() >= HEADER).then_some([number(0)?, number(4)?, number(8)?])
}

/// What tells the evaluators that a run begins.
fn beginning(run: u32, start: Start) -> Vec<u8> {
    let part = if start == Start::Anew { ANEW } else { AHEAD };
    header(run, 0, part, start_hash(run)).to_vec()
}

fn misplaced(peer: Role, what: String) -> Error {
    Error::Diverged { scope: "the beginning".into(), peer, what }
}

/// The number of the next run, which is the dealer's choice: it says so, the evaluators see that none comes back.
pub(super) fn begin(s: &mut Session, net: &mut dyn Network, start: Start) -> Result<u32> {
    let lost = |source| Error::Net { scope: "the beginning".into(), source };
    if s.role == Role::Dealer {
        let run = number_run(s)?;
        lock(&s.masks).begin(run);
        for to in [Role::P1, Role::P2] {
            net.send(to, beginning(run, start)).map_err(lost)?;
            s.ledger.messages += 1;
        }
        return Ok(run);
    }
    // A run that was dealt ahead and is thrown away.
    let mut unused = None;
    loop {
        let message = match s.early.pop_front() {
            Some(message) => message,
            None => net.recv(Role::Dealer).map_err(lost)?,
        };
        let Some([_, run, part]) = numbers(&message) else {
            let what = format!("a message of {} bytes has no header", message.len());
            return Err(misplaced(Role::Dealer, what));
        };
        let begins = [Start::Anew, Start::Ahead].into_iter().find(|how| message == beginning(run, *how));
        match begins {
            Some(how) if (s.next_run..RUNS).contains(&run) => {
                s.next_run = run + 1;
                if how == Start::Anew || start == Start::Ahead {
                    return Ok(run);
                }
                unused = Some(run);
            }
            None if unused == Some(run) && ![ANEW, AHEAD, LATE].contains(&part) => {}
            _ => return Err(misplaced(Role::Dealer, format!("its run {run}, ours {}", s.next_run))),
        }
    }
}

/// Takes the next number.
fn number_run(s: &mut Session) -> Result<u32> {
    let run = s.next_run;
    if run == RUNS {
        return Err(misplaced(s.role, format!("a session has at most {RUNS} runs: open a new one")));
    }
    s.next_run += 1;
    Ok(run)
}

/// One running program: the messages of the current round.
pub(super) struct Core<'n> {
    pub(super) session: &'n mut Session,
    net: &'n mut dyn Network,
    run: u32,
    round: u32,
    ops: u32,
    late_named: bool,
    late_used: bool,
    /// An evaluator's openings of this round, and the peer's of the last one, each behind room for a header.
    pub(super) outgoing: Message,
    pub(super) incoming: Received,
    /// The dealer's words for P1 and P2 of this round, each behind room for a header.
    dealing: [Message; 2],
    /// What an evaluator has of the dealer's words of this round, and how much of it (and of headers) is used.
    dealt: Received,
    used: usize,
    part: [u32; 2],
    /// Hash of every operation so far, and the same at the start of the round: programs that diverge are named.
    pub(super) hash: u64,
    round_hash: u64,
    pub(super) scope: Rc<str>,
}

impl<'n> Core<'n> {
    pub(super) fn new(session: &'n mut Session, net: &'n mut dyn Network, run: u32) -> Core<'n> {
        let hash = start_hash(run);
        Core {
            session,
            net,
            run,
            round: 0,
            ops: 0,
            late_named: false,
            late_used: false,
            outgoing: begun(),
            incoming: Received::default(),
            dealing: [begun(), begun()],
            dealt: Received::default(),
            used: 0,
            part: [0; 2],
            hash,
            round_hash: hash,
            scope: Rc::from(""),
        }
    }

    /// The number of a new operation.
    pub(super) fn number(&mut self) -> u64 {
        let number = u64::from(self.run) << 32 | u64::from(self.ops);
        self.ops += 1;
        number
    }

    /// The operation of the item of this run that is dealt late.
    fn late_op(&self, scope: u32) -> Op {
        late_op(self.run, scope)
    }

    /// The same for its other streams, which would be the same again.
    pub(super) fn name_late(&mut self, scope: u32) -> Op {
        assert!(!std::mem::replace(&mut self.late_named, true), "what is dealt late has one name in a run");
        self.late_op(scope)
    }

    /// Makes an item part of the program's hash: parties that disagree on a size or a width are told so.
    pub(super) fn note_item(&mut self, item: &Item) {
        let hash = fnv(self.hash, &[item.lane(), item.bits as u8]);
        self.hash = fnv(hash, &(item.n as u64).to_le_bytes());
        self.session.record(|r| r.enter(item.op.scope, Part::Compute));
    }

    fn net_error(&self, source: NetError) -> Error {
        Error::Net { scope: self.scope.to_string(), source }
    }

    fn diverged(&self, peer: Role, what: String) -> Error {
        Error::Diverged { scope: self.scope.to_string(), peer, what }
    }

    /// A message with its header, which has been checked.
    fn receive(&mut self, from: Role, part: u32) -> Result<Vec<u8>> {
        let early = if from == Role::Dealer { self.session.early.pop_front() } else { None };
        let message = match early {
            Some(message) => message,
            None => self.net.recv(from).map_err(|e| self.net_error(e))?,
        };
        let Some([round, run, _]) = numbers(&message) else {
            return Err(self.diverged(from, format!("a message of {} bytes has no header", message.len())));
        };
        if message[..HEADER] != header(self.run, self.round, part, self.round_hash) {
            let what = if (run, round) == (self.run, self.round) {
                format!("other operations before round {round}")
            } else {
                format!("its round {run}.{round}, our round {}.{}", self.run, self.round)
            };
            return Err(self.diverged(from, what));
        }
        Ok(message)
    }

    /// What a failed device made must not leave.
    fn check_device(&self) -> Result<()> {
        self.session.check_device(&self.scope)
    }

    /// Sends a message that was made by [`begun`] and filled.
    fn send(&mut self, to: Role, part: u32, mut message: Vec<u8>) -> Result<()> {
        message[..HEADER].copy_from_slice(&header(self.run, self.round, part, self.round_hash));
        // It may wait for long, and its room for more is large.
        if message.capacity() > 2 * message.len() {
            message.shrink_to_fit();
        }
        self.post(to, message)
    }

    fn post(&mut self, to: Role, message: Vec<u8>) -> Result<()> {
        self.check_device()?;
        self.session.ledger.count(self.session.role, to, (message.len() - HEADER) as u64);
        self.session.ledger.messages += 1;
        let start = Instant::now();
        let sent = self.net.send(to, message).map_err(|e| self.net_error(e));
        if self.session.role == Role::Dealer {
            self.session.blocked += start.elapsed();
        }
        sent
    }

    /// The item of this run that is dealt late. Its streams have one name, so a second one would have the same mask.
    pub(super) fn late(&mut self, scope: u32, n: usize) -> Item {
        assert!(!std::mem::replace(&mut self.late_used, true), "one item of a run is dealt late");
        let op = self.late_op(scope);
        let bits = self.session.ring.bits();
        Item { op, purpose: Purpose::Theta, index: 0, n, bits, group: Group::Add }
    }

    /// The dealer's side of `deal_late`.
    pub(super) fn send_late(&mut self, item: &Item, value: &Words) -> Result<()> {
        let pad = self.session.draw(KeyId::K01, item).expect("the dealer knows k01");
        let mut late = Message::from(header(self.run, 0, LATE, start_hash(self.run)).to_vec());
        value.clone().pack_masked(item.group.minus(), &pad, item.bits, &mut late);
        self.session.note_dealt(item, &mut late, HEADER);
        self.session.record(|r| {
            r.deal(Role::P2, bytes(item.n, item.bits));
            r.turn(Part::Pressure);
        });
        self.post(Role::P2, late.into_bytes())?;
        self.session.record(|r| r.turn(Part::Compute));
        Ok(())
    }

    /// P2's side of `deal_late`: what was dealt ahead comes first and is put by.
    pub(super) fn take_late(&mut self, item: &Item) -> Result<Words> {
        let size = HEADER + bytes(item.n, item.bits) as usize;
        let late = header(self.run, 0, LATE, start_hash(self.run));
        self.session.record(|r| r.turn(Part::Dealer));
        let mut ahead = self.session.early.iter().map(Vec::len).sum::<usize>();
        let (mut own, most) = (0, self.net.capacity().saturating_mul(2));
        let message = loop {
            let message = self.net.recv(Role::Dealer).map_err(|e| self.net_error(e))?;
            if message.len() == size && message[..HEADER] == late {
                break message;
            }
            match numbers(&message) {
                Some([_, run, part]) if run > self.run && part != LATE => ahead += message.len(),
                Some([_, run, part]) if run == self.run && part != LATE => own += message.len(),
                _ => {
                    let what = "something else instead of its part of the input";
                    return Err(self.diverged(Role::Dealer, what.into()));
                }
            }
            // Of this run as well it sends no more before its late part than links hold, and a round.
            if ahead > most || own > most.saturating_add(ROUND) {
                let what = format!(
                    "{} bytes dealt ahead; give the parties equal transport.link_queue_bytes",
                    ahead + own
                );
                return Err(self.diverged(Role::Dealer, what));
            }
            self.session.early.push_back(message);
        };
        self.session.record(|r| r.turn(Part::Packing));
        let words = Words::unpack(&self.session.device, &message[HEADER..], item.bits, item.n);
        self.session.record(|r| r.turn(Part::Compute));
        Ok(words)
    }

    /// The dealer's side of `deal`: queues a value for P2, masked by what P1 draws.
    pub(super) fn queue_masked(&mut self, item: &Item, value: Words, pad: &Words) -> Result<()> {
        let to_p2 = Role::P2.index() - 1;
        let at = self.dealing[to_p2].len();
        let pack = |out: &mut Message| value.pack_masked(item.group.minus(), pad, item.bits, out);
        self.queue(Role::P2, bytes(item.n, item.bits), pack);
        self.session.note_dealt(item, &mut self.dealing[to_p2], at);
        self.flush_if_full(Role::P2)
    }

    /// The dealer's side of `publish_key`: queues words for an evaluator.
    pub(super) fn queue_dealt(&mut self, to: Role, words: &Words, bits: u32) -> Result<()> {
        self.queue(to, bytes(words.len(), bits), |out| words.pack_into(bits, out));
        self.flush_if_full(to)
    }

    /// Appends `size` bytes to what is dealt to an evaluator.
    fn queue(&mut self, to: Role, size: u64, pack: impl FnOnce(&mut Message)) {
        self.session.record(|r| r.turn(Part::Packing));
        let out = &mut self.dealing[to.index() - 1];
        out.reserve(size as usize);
        pack(out);
        self.session.record(|r| {
            r.deal(to, size);
            r.turn(Part::Compute);
        });
    }

    fn flush_if_full(&mut self, to: Role) -> Result<()> {
        if self.dealing[to.index() - 1].len() >= DEAL_CHUNK { self.flush_dealt(to) } else { Ok(()) }
    }

    fn flush_dealt(&mut self, to: Role) -> Result<()> {
        let i = to.index() - 1;
        if self.dealing[i].len() == HEADER {
            return Ok(());
        }
        self.session.record(|r| r.turn(Part::Packing));
        let full = std::mem::replace(&mut self.dealing[i], begun()).into_bytes();
        self.session.record(|r| r.turn(Part::Pressure));
        self.send(to, self.part[i], full)?;
        self.session.record(|r| r.turn(Part::Compute));
        self.part[i] += 1;
        Ok(())
    }

    /// An evaluator's side of `deal`.
    pub(super) fn take_dealt(&mut self, n: usize, bits: u32) -> Result<Words> {
        let need = bytes(n, bits) as usize;
        while self.dealt.bytes().len() - self.used < need {
            self.session.record(|r| r.turn(Part::Dealer));
            let more = self.receive(Role::Dealer, self.part[0])?;
            self.part[0] += 1;
            self.session.record(|r| r.turn(Part::Packing));
            match &self.dealt.bytes()[self.used..] {
                [] => (self.dealt, self.used) = (more.into(), HEADER),
                left => (self.dealt, self.used) = ([left, &more[HEADER..]].concat().into(), 0),
            }
        }
        self.session.record(|r| r.turn(Part::Packing));
        let words = Words::unpack_part(&self.session.device, &self.dealt, self.used, bits, n);
        self.used += need;
        self.session.record(|r| r.turn(Part::Compute));
        Ok(words)
    }

    /// Ends the round's dealt words on both ends.
    fn close_dealt(&mut self) -> Result<()> {
        if self.session.role == Role::Dealer {
            self.flush_dealt(Role::P1)?;
            self.flush_dealt(Role::P2)?;
        } else if self.used != self.dealt.bytes().len() {
            let extra = self.dealt.bytes().len() - self.used;
            return Err(
                self.diverged(Role::Dealer, format!("{extra} dealt bytes that this program does not use"))
            );
        }
        (self.dealt, self.used) = (Received::default(), 0);
        self.part = [0; 2];
        Ok(())
    }

    /// One exchange: all openings posted since the last one, in one message each way.
    pub(super) fn exchange(&mut self) -> Result<()> {
        self.check_device()?;
        self.close_dealt()?;
        if let Some(peer) = peer(self.session.role) {
            self.session.record(|r| r.turn(Part::Packing));
            let out = std::mem::replace(&mut self.outgoing, begun()).into_bytes();
            self.session.record(Recorder::exchange);
            let ours = out.len();
            self.send(peer, 0, out)?;
            let theirs = self.receive(peer, 0)?;
            if theirs.len() != ours {
                let theirs = theirs.len() - HEADER;
                let what = format!("its opening has {theirs} bytes, ours {}", ours - HEADER);
                return Err(self.diverged(peer, what));
            }
            self.incoming = theirs.into();
            self.session.ledger.exchanges += 1;
        }
        if self.session.unasked {
            self.session.record(|r| r.enter(0, Part::Pressure));
        }
        self.round += 1;
        self.round_hash = self.hash;
        Ok(())
    }

    /// Ends the program: its results are not those of a device that failed.
    pub(super) fn close(&mut self) -> Result<()> {
        self.check_device()?;
        self.close_dealt()
    }
}

/// A message without content, with room for its header.
fn begun() -> Message {
    Message::from(vec![0; HEADER])
}

/// The other evaluator.
fn peer(role: Role) -> Option<Role> {
    match role {
        Role::Dealer => None,
        Role::P1 => Some(Role::P2),
        Role::P2 => Some(Role::P1),
    }
}
