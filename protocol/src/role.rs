//! The three parties.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A party's part in a computation. The dealer knows two of the three components of every share and receives
/// nothing from the others; the evaluators exchange masked openings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// P0: knows the masks, deals ahead.
    Dealer,
    /// P1: evaluator that knows component 1 and the masked value.
    P1,
    /// P2: evaluator that knows component 0 and the masked value.
    P2,
}

impl Role {
    /// All three, in order.
    pub const ALL: [Role; 3] = [Role::Dealer, Role::P1, Role::P2];

    /// 0, 1 or 2.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.index())
    }
}
