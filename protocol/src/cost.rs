//! What a computation costs: exchanges on the critical path and payload bytes on each directed link.

use crate::Role;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Bytes of `n` values of `bits` bits in a message.
pub const fn bytes(n: usize, bits: u32) -> u64 {
    (n as u64 * bits as u64).div_ceil(8)
}

/// A gate's declared cost. Rounds are exchanges between the evaluators, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// For each exchange, bytes that P1 sends to P2 (and P2 to P1: every opening is symmetric).
    pub rounds: Vec<u64>,
    /// Bytes the dealer sends ahead to P1 and to P2.
    pub dealt: [u64; 2],
}

impl Cost {
    /// Only dealt bytes to P2.
    pub fn dealt(bytes: u64) -> Cost {
        Cost { rounds: vec![], dealt: [0, bytes] }
    }

    /// One exchange.
    pub fn round(bytes: u64) -> Cost {
        Cost { rounds: vec![bytes], dealt: [0, 0] }
    }

    /// This, then that.
    pub fn then(mut self, next: Cost) -> Cost {
        self.rounds.extend(next.rounds);
        self.dealt[0] += next.dealt[0];
        self.dealt[1] += next.dealt[1];
        self
    }

    /// This and that at the same time, in shared exchanges.
    pub fn beside(mut self, other: Cost) -> Cost {
        if self.rounds.len() < other.rounds.len() {
            self.rounds.resize(other.rounds.len(), 0);
        }
        for (a, b) in self.rounds.iter_mut().zip(&other.rounds) {
            *a += b;
        }
        self.dealt[0] += other.dealt[0];
        self.dealt[1] += other.dealt[1];
        self
    }

    /// Number of exchanges.
    pub fn exchanges(&self) -> u64 {
        self.rounds.len() as u64
    }
}

/// Measured cost. Framing (a 20-byte header a message) is counted apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Exchanges between the evaluators on the critical path.
    pub exchanges: u64,
    /// Payload bytes sent, `sent[from][to]`.
    pub sent: [[u64; 3]; 3],
    /// Messages sent, with a header each.
    pub messages: u64,
}

impl Ledger {
    /// Payload bytes from one party to another.
    pub fn link(&self, from: Role, to: Role) -> u64 {
        self.sent[from.index()][to.index()]
    }

    pub(crate) fn count(&mut self, from: Role, to: Role, bytes: u64) {
        self.sent[from.index()][to.index()] += bytes;
    }

    /// Adds what came after.
    pub fn add(&mut self, later: &Ledger) {
        self.exchanges += later.exchanges;
        self.messages += later.messages;
        for (a, b) in self.sent.iter_mut().flatten().zip(later.sent.iter().flatten()) {
            *a += b;
        }
    }

    /// What three parties' ledgers say together: bytes add up, exchanges are the evaluators' common number.
    pub fn merge(parts: &[Ledger]) -> Ledger {
        let mut all = Ledger::default();
        for p in parts {
            all.exchanges = all.exchanges.max(p.exchanges);
            all.messages += p.messages;
            for (a, b) in all.sent.iter_mut().flatten().zip(p.sent.iter().flatten()) {
                *a += b;
            }
        }
        all
    }

    /// What was added since an earlier reading of the same ledger.
    pub fn since(&self, earlier: &Ledger) -> Ledger {
        let mut d = *self;
        d.exchanges -= earlier.exchanges;
        d.messages -= earlier.messages;
        for (a, b) in d.sent.iter_mut().flatten().zip(earlier.sent.iter().flatten()) {
            *a -= b;
        }
        d
    }
}

impl AddAssign<&Cost> for Ledger {
    fn add_assign(&mut self, c: &Cost) {
        self.exchanges += c.exchanges();
        let both: u64 = c.rounds.iter().sum();
        self.count(Role::P1, Role::P2, both);
        self.count(Role::P2, Role::P1, both);
        self.count(Role::Dealer, Role::P1, c.dealt[0]);
        self.count(Role::Dealer, Role::P2, c.dealt[1]);
    }
}
