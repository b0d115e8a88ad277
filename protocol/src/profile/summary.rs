//! Three parties' profiles of one run, added up by parts of the program.

use super::{Mark, Part, Profile};
use crate::{Ledger, Role};
use serde::Serialize;
use std::collections::HashMap;

/// What one part of the program took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Nanoseconds, by role and by number of [`Part`].
    pub times: [[u64; 6]; 3],
    /// Exchanges that it took part in, and its payload bytes on each link.
    pub cost: Ledger,
}

impl Row {
    /// Nanoseconds of one party.
    pub fn total(&self, role: Role) -> u64 {
        self.times[role.index()].iter().sum()
    }
}

/// Adds up by group, in the order in which groups first appear; `group` names that of an operation. Times of all groups
/// together are the parties' wall times, bytes are those of the ledger. An exchange counts once in every group that has
/// an opening in it, so that exchanges of groups that run side by side add up to more than there were.
pub fn summarise(profiles: &[Profile; 3], group: impl Fn(&str) -> String) -> Vec<(String, Row)> {
    let mut groups = Groups::default();
    let places = profiles
        .each_ref()
        .map(|p| -> Vec<usize> { p.scopes.iter().map(|name| groups.place(group(name))).collect() });
    for (role, (profile, places)) in Role::ALL.into_iter().zip(profiles.iter().zip(&places)) {
        let mut rounds = profile.rounds.iter();
        for (mark, end) in profile.spans() {
            let time = end - mark.at;
            if mark.scope != Mark::EXCHANGE {
                groups.spend(places[mark.scope as usize], role, mark.part, time);
                continue;
            }
            let Some(round) = rounds.next() else { continue };
            let n = round.openings.len() as u64;
            for (i, &(scope, _)) in round.openings.iter().enumerate() {
                // What the division leaves goes to the first: nothing gets lost.
                let share = time / n + if i == 0 { time % n } else { 0 };
                groups.spend(places[scope as usize], role, mark.part, share);
            }
        }
        groups.count(role, profile, places);
    }
    groups.rows
}

#[derive(Default)]
struct Groups {
    index: HashMap<String, usize>,
    rows: Vec<(String, Row)>,
}

impl Groups {
    fn place(&mut self, name: String) -> usize {
        *self.index.entry(name).or_insert_with_key(|name| {
            self.rows.push((name.clone(), Row::default()));
            self.rows.len() - 1
        })
    }

    fn spend(&mut self, place: usize, role: Role, part: Part, time: u64) {
        self.rows[place].1.times[role.index()][part as usize] += time;
    }

    /// Bytes and exchanges of one party.
    fn count(&mut self, role: Role, profile: &Profile, places: &[usize]) {
        for &(scope, bytes) in &profile.dealt {
            let cost = &mut self.rows[places[scope as usize]].1.cost;
            cost.count(role, Role::P1, bytes[0]);
            cost.count(role, Role::P2, bytes[1]);
        }
        let peer = if role == Role::P1 { Role::P2 } else { Role::P1 };
        for round in &profile.rounds {
            let mut seen = vec![];
            for &(scope, bytes) in &round.openings {
                let place = places[scope as usize];
                let cost = &mut self.rows[place].1.cost;
                cost.count(role, peer, bytes);
                // Both evaluators take part in an exchange: one of them counts it.
                if role == Role::P1 && !seen.contains(&place) {
                    cost.exchanges += 1;
                    seen.push(place);
                }
            }
        }
    }
}
