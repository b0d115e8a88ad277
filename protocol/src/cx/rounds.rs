//! The messages of a running program, round by round: what is queued, what has arrived, and how programs that diverge
//! are told apart.

use super::{Session, fnv};
use crate::cost::bytes;
use crate::error::{Error, Result};
use crate::net::Network;
use crate::profile::{Part, Recorder};
use crate::{NetError, Role};
use kernels::Words;
use std::rc::Rc;

/// Dealt words leave in messages of about this size, so that the queue towards an evaluator stays bounded.
const DEAL_CHUNK: usize = 4 << 20;
/// Round number, part, kind and program hash.
const HEADER: usize = 20;

/// One running program: the messages of the current round.
pub(super) struct Core<'n> {
    pub(super) session: &'n mut Session,
    net: &'n mut dyn Network,
    /// An evaluator's openings of this round, and the peer's of the last one, each behind room for a header.
    pub(super) outgoing: Vec<u8>,
    pub(super) incoming: Vec<u8>,
    /// The dealer's words for P1 and P2 of this round, each behind room for a header.
    dealing: [Vec<u8>; 2],
    /// What an evaluator has of the dealer's words of this round, and how much of it (and of headers) is used.
    dealt: Vec<u8>,
    used: usize,
    part: [u32; 2],
    /// Hash of every operation so far, and the same at the start of the round: programs that diverge are named.
    pub(super) hash: u64,
    round_hash: u64,
    pub(super) scope: Rc<str>,
}

impl<'n> Core<'n> {
    pub(super) fn new(session: &'n mut Session, net: &'n mut dyn Network) -> Core<'n> {
        let hash = fnv(session.round, &session.next_op.to_le_bytes());
        Core {
            session,
            net,
            outgoing: message(),
            incoming: Vec::new(),
            dealing: [message(), message()],
            dealt: Vec::new(),
            used: 0,
            part: [0; 2],
            hash,
            round_hash: hash,
            scope: Rc::from(""),
        }
    }

    fn net_error(&self, source: NetError) -> Error {
        Error::Net { scope: self.scope.to_string(), source }
    }

    fn diverged(&self, peer: Role, what: String) -> Error {
        Error::Diverged { scope: self.scope.to_string(), peer, what }
    }

    fn header(&self, part: u32) -> [u8; HEADER] {
        let mut h = [0; HEADER];
        h[..8].copy_from_slice(&self.session.round.to_le_bytes());
        h[8..12].copy_from_slice(&part.to_le_bytes());
        h[12..].copy_from_slice(&self.round_hash.to_le_bytes());
        h
    }

    /// A message with its header, which has been checked.
    fn receive(&mut self, from: Role, part: u32) -> Result<Vec<u8>> {
        let message = self.net.recv(from).map_err(|e| self.net_error(e))?;
        if message.len() < HEADER {
            return Err(self.diverged(from, format!("a message of {} bytes has no header", message.len())));
        }
        if message[..HEADER] != self.header(part) {
            let round = u64::from_le_bytes(message[..8].try_into().expect("8 bytes"));
            let what = if round == self.session.round {
                format!("other operations before round {round}")
            } else {
                format!("its round {round}, our round {}", self.session.round)
            };
            return Err(self.diverged(from, what));
        }
        Ok(message)
    }

    /// What a failed device made must not leave.
    fn check_device(&self) -> Result<()> {
        self.session.check_device(&self.scope)
    }

    /// Sends a message that was made by [`message`] and filled.
    fn send(&mut self, to: Role, part: u32, mut message: Vec<u8>) -> Result<()> {
        self.check_device()?;
        message[..HEADER].copy_from_slice(&self.header(part));
        self.session.ledger.count(self.session.role, to, (message.len() - HEADER) as u64);
        self.session.ledger.messages += 1;
        self.net.send(to, message).map_err(|e| self.net_error(e))
    }

    /// The dealer's side of `deal`: queues words for an evaluator.
    pub(super) fn queue_dealt(&mut self, to: Role, words: &Words, bits: u32) -> Result<()> {
        let (i, size) = (to.index() - 1, bytes(words.len(), bits));
        self.session.record(|r| r.turn(Part::Packing));
        self.dealing[i].reserve(size as usize);
        words.pack(bits, &mut self.dealing[i]);
        self.session.record(|r| {
            r.deal(to, size);
            r.turn(Part::Compute);
        });
        if self.dealing[i].len() >= DEAL_CHUNK { self.flush_dealt(to) } else { Ok(()) }
    }

    fn flush_dealt(&mut self, to: Role) -> Result<()> {
        let i = to.index() - 1;
        if self.dealing[i].len() == HEADER {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.dealing[i], message());
        self.session.record(|r| r.turn(Part::Pressure));
        self.send(to, self.part[i], full)?;
        self.session.record(|r| r.turn(Part::Compute));
        self.part[i] += 1;
        Ok(())
    }

    /// An evaluator's side of `deal`.
    pub(super) fn take_dealt(&mut self, n: usize, bits: u32) -> Result<Words> {
        let need = bytes(n, bits) as usize;
        while self.dealt.len() - self.used < need {
            self.session.record(|r| r.turn(Part::Dealer));
            let more = self.receive(Role::Dealer, self.part[0])?;
            self.part[0] += 1;
            self.session.record(|r| r.turn(Part::Packing));
            if self.used == self.dealt.len() {
                (self.dealt, self.used) = (more, HEADER);
            } else {
                self.dealt.drain(..self.used);
                self.used = 0;
                self.dealt.extend_from_slice(&more[HEADER..]);
            }
        }
        self.session.record(|r| r.turn(Part::Packing));
        let words = Words::unpack(&self.session.device, &self.dealt[self.used..self.used + need], bits, n);
        self.used += need;
        self.session.record(|r| r.turn(Part::Compute));
        Ok(words)
    }

    /// Ends the round's dealt words on both ends.
    fn close_dealt(&mut self) -> Result<()> {
        if self.session.role == Role::Dealer {
            self.flush_dealt(Role::P1)?;
            self.flush_dealt(Role::P2)?;
        } else if self.used != self.dealt.len() {
            let extra = self.dealt.len() - self.used;
            return Err(
                self.diverged(Role::Dealer, format!("{extra} dealt bytes that this program does not use"))
            );
        }
        self.dealt.clear();
        self.used = 0;
        self.part = [0; 2];
        Ok(())
    }

    /// One exchange: all openings posted since the last one, in one message each way.
    pub(super) fn exchange(&mut self) -> Result<()> {
        self.check_device()?;
        self.close_dealt()?;
        if let Some(peer) = peer(self.session.role) {
            self.session.record(Recorder::exchange);
            let out = std::mem::replace(&mut self.outgoing, message());
            let ours = out.len();
            self.send(peer, 0, out)?;
            self.incoming = self.receive(peer, 0)?;
            if self.incoming.len() != ours {
                let theirs = self.incoming.len() - HEADER;
                let what = format!("its opening has {theirs} bytes, ours {}", ours - HEADER);
                return Err(self.diverged(peer, what));
            }
            self.session.ledger.exchanges += 1;
        }
        self.session.record(|r| r.enter(0, Part::Compute));
        self.session.round += 1;
        self.round_hash = self.hash;
        Ok(())
    }

    /// Ends the program: its results are not those of a device that failed.
    pub(super) fn close(&mut self) -> Result<()> {
        self.check_device()?;
        self.close_dealt()?;
        self.session.round += 1;
        Ok(())
    }
}

/// An empty message with room for its header.
fn message() -> Vec<u8> {
    vec![0; HEADER]
}

/// The other evaluator.
fn peer(role: Role) -> Option<Role> {
    match role {
        Role::Dealer => None,
        Role::P1 => Some(Role::P2),
        Role::P2 => Some(Role::P1),
    }
}
