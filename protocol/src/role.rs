//! The three parties, and their parts in a session.

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

    /// Who plays this role in a session in which `dealer` deals.
    pub const fn party(self, dealer: Party) -> Party {
        Party::ALL[(dealer.index() + self.index()) % 3]
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.index())
    }
}

/// One of the three parties of a cluster: a machine, its operator, its keys and its share of every model. Which part it
/// has in a session depends on who deals there: the party after the dealer is P1, the one before it P2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Party {
    /// Party 0.
    #[serde(rename = "P0")]
    Zero,
    /// Party 1.
    #[serde(rename = "P1")]
    One,
    /// Party 2.
    #[serde(rename = "P2")]
    Two,
}

impl Party {
    /// All three, in order.
    pub const ALL: [Party; 3] = [Party::Zero, Party::One, Party::Two];

    /// 0, 1 or 2.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its part in a session in which `dealer` deals.
    pub const fn role(self, dealer: Party) -> Role {
        Role::ALL[(3 + self.index() - dealer.index()) % 3]
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_deals_each_role_is_played_by_one_party() {
        for dealer in Party::ALL {
            assert_eq!(dealer.role(dealer), Role::Dealer);
            for role in Role::ALL {
                assert_eq!(role.party(dealer).role(dealer), role);
            }
        }
        // With party 0 as the dealer the numbers are the same.
        assert!(Party::ALL.iter().all(|p| p.role(Party::Zero).index() == p.index()));
    }
}
