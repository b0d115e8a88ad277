//! Where a party's time goes: a log of what its thread did, operation by operation.
//!
//! Gates run interleaved, so time is not measured around them. Instead the context notes whenever the thread turns to
//! another operation or another kind of work (a [`Mark`]): each mark lasts until the next, and together they cover a
//! run without gap or overlap. Time belongs to the operation that last spoke to the context, which is the one that was
//! resumed. An exchange belongs to all operations whose openings travel in it; [`summarise`] divides the wait equally
//! among them, because each of them would have waited all of it alone.
//!
//! Only times, sizes and names are noted, never values. Times can still say something: an evaluator's depend slightly
//! on Δ (see the limits in the README), so parties report them only where their configuration allows it. While nothing
//! is recorded, each place where a mark might be made costs one branch.

mod summary;

pub use summary::{Row, summarise};

use crate::Role;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What a party's thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum Part {
    /// Everything that is nothing of the below. Includes the time in which the system gives its core to others.
    Compute,
    /// Making pseudo-random words.
    Streams,
    /// Packing values into messages and unpacking them. A processor makes then what it has put off and is packed.
    Packing,
    /// An evaluator's exchange with the other: sending, and waiting for the answer.
    Peer,
    /// An evaluator waits for words of the dealer.
    Dealer,
    /// The dealer is as far ahead as it may: it waits because an evaluator's queue is full, or until it has a request less
    /// to serve.
    Pressure,
}

impl Part {
    /// All of them, in the order of their numbers.
    pub const ALL: [Part; 6] =
        [Part::Compute, Part::Streams, Part::Packing, Part::Peer, Part::Dealer, Part::Pressure];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Part::Compute => "compute",
            Part::Streams => "random streams",
            Part::Packing => "packing",
            Part::Peer => "exchange with peer",
            Part::Dealer => "wait for dealer",
            Part::Pressure => "back-pressure",
        }
    }
}

impl From<Part> for u8 {
    fn from(part: Part) -> u8 {
        part as u8
    }
}

impl TryFrom<u8> for Part {
    type Error = &'static str;
    fn try_from(number: u8) -> Result<Part, &'static str> {
        Part::ALL.get(usize::from(number)).copied().ok_or("no such part of a party's time")
    }
}

/// From here on the thread works on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u64, u32, Part)", from = "(u64, u32, Part)")]
pub struct Mark {
    /// Nanoseconds after the start of the run.
    pub at: u64,
    /// Which operation, by its place in [`Profile::scopes`]; [`Mark::EXCHANGE`] if all that wait in the round.
    pub scope: u32,
    /// What it does for it.
    pub part: Part,
}

impl Mark {
    /// Stands for the operations of the next [`Round`].
    pub const EXCHANGE: u32 = u32::MAX;
}

/// There are many marks: they travel without names.
impl From<Mark> for (u64, u32, Part) {
    fn from(m: Mark) -> Self {
        (m.at, m.scope, m.part)
    }
}

impl From<(u64, u32, Part)> for Mark {
    fn from((at, scope, part): (u64, u32, Part)) -> Mark {
        Mark { at, scope, part }
    }
}

/// One exchange: what this party sent in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Operations that waited in it, with the bytes of their openings.
    pub openings: Vec<(u32, u64)>,
}

/// How the system treated a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// Nanoseconds on a core.
    pub running: u64,
    /// Nanoseconds ready to run, without a core.
    pub ready: u64,
}

/// One run of a program at one party.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Start, in nanoseconds of the system's clock since 1970: processes of one machine share it.
    pub start: u64,
    /// Nanoseconds from start to end.
    pub wall: u64,
    /// Names of operations: path of the scope, then the operation. The first is the program itself.
    pub scopes: Vec<String>,
    /// In order of time.
    pub marks: Vec<Mark>,
    /// Exchanges, in order.
    pub rounds: Vec<Round>,
    /// Bytes that the dealer sent: operation, to P1, to P2.
    pub dealt: Vec<(u32, [u64; 2])>,
    /// Of the thread that ran it, where the system tells (Linux).
    pub scheduled: Option<Scheduled>,
}

impl Profile {
    /// Every mark with the nanosecond at which it ends.
    pub fn spans(&self) -> impl Iterator<Item = (Mark, u64)> {
        let ends = self.marks.iter().skip(1).map(|m| m.at).chain([self.wall]);
        self.marks.iter().copied().zip(ends)
    }

    /// Whether numbers that travelled fit together: a run with an end, marks in order and within the run, scopes that exist, a round for
    /// each exchange.
    pub fn is_sound(&self) -> bool {
        let known = |scope: u32| (scope as usize) < self.scopes.len();
        let exchanges = self.marks.iter().filter(|m| m.scope == Mark::EXCHANGE).count();
        self.start.checked_add(self.wall).is_some()
            && self.marks.first().is_some_and(|m| m.at == 0)
            && self.marks.is_sorted_by_key(|m| m.at)
            && self.marks.last().is_none_or(|m| m.at <= self.wall)
            && self.marks.iter().all(|m| m.scope == Mark::EXCHANGE || known(m.scope))
            && exchanges == self.rounds.len()
            && self.rounds.iter().all(|r| !r.openings.is_empty() && r.openings.iter().all(|o| known(o.0)))
            && self.dealt.iter().all(|d| known(d.0))
    }
}

/// Nanoseconds since 1970 that never go back: the system's clock when it was made, and the time elapsed since. What one
/// clock measures does not overlap, whatever the system does to its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Instant,
    since_1970: u64,
}

impl Clock {
    /// Set by the system's clock.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Clock {
        // A thread that loses its core between the two readings is set wrong: the narrowest of some is taken.
        let read = |_| {
            let before = Instant::now();
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            (before.elapsed(), Clock { base: before, since_1970: since.as_nanos() as u64 })
        };
        let readings = std::array::from_fn::<_, 5, _>(read);
        readings.into_iter().min_by_key(|r| r.0).expect("five readings").1
    }

    /// Now.
    pub fn now(&self) -> u64 {
        self.since_1970 + self.base.elapsed().as_nanos() as u64
    }
}

/// Makes a profile of one run at a time.
pub(crate) struct Recorder {
    clock: Clock,
    scheduled: Option<Scheduled>,
    index: HashMap<String, u32>,
    dealt: HashMap<u32, [u64; 2]>,
    posted: Vec<(u32, u64)>,
    now: (u32, Part),
    profile: Profile,
}

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder {
            clock: Clock::new(),
            scheduled: None,
            index: HashMap::new(),
            dealt: HashMap::new(),
            posted: vec![],
            now: (0, Part::Compute),
            profile: Profile::default(),
        }
    }

    /// One for runs beside this one's, by the same clock.
    pub(crate) fn beside(&self) -> Recorder {
        Recorder { clock: self.clock, ..Recorder::new() }
    }

    /// A run begins.
    pub(crate) fn begin(&mut self) {
        *self = Recorder { scheduled: scheduled(), ..self.beside() };
        self.profile.start = self.clock.now();
        self.scope("");
        self.profile.marks.push(Mark { at: 0, scope: 0, part: Part::Compute });
    }

    /// The run has ended: what it was.
    pub(crate) fn finish(&mut self) -> Profile {
        let mut profile = std::mem::take(&mut self.profile);
        profile.wall = self.clock.now() - profile.start;
        profile.dealt = self.dealt.drain().collect();
        profile.dealt.sort_unstable();
        profile.scheduled = self.scheduled.zip(scheduled()).map(|(before, after)| Scheduled {
            running: after.running.saturating_sub(before.running),
            ready: after.ready.saturating_sub(before.ready),
        });
        profile
    }

    /// The number of an operation.
    pub(crate) fn scope(&mut self, name: &str) -> u32 {
        if let Some(&scope) = self.index.get(name) {
            return scope;
        }
        let scope = self.index.len() as u32;
        self.index.insert(name.into(), scope);
        self.profile.scopes.push(name.into());
        scope
    }

    /// The thread turns to this.
    pub(crate) fn enter(&mut self, scope: u32, part: Part) {
        if self.now != (scope, part) {
            self.now = (scope, part);
            let at = self.clock.now() - self.profile.start;
            self.profile.marks.push(Mark { at, scope, part });
        }
    }

    /// The same for the operation at hand.
    pub(crate) fn turn(&mut self, part: Part) {
        self.enter(self.now.0, part);
    }

    /// An opening waits for the next exchange.
    pub(crate) fn post(&mut self, scope: u32, bytes: u64) {
        match self.posted.iter_mut().find(|(s, _)| *s == scope) {
            Some((_, all)) => *all += bytes,
            None => self.posted.push((scope, bytes)),
        }
    }

    /// An exchange begins.
    pub(crate) fn exchange(&mut self) {
        self.enter(Mark::EXCHANGE, Part::Peer);
        self.profile.rounds.push(Round { openings: std::mem::take(&mut self.posted) });
    }

    /// The dealer has words for an evaluator.
    pub(crate) fn deal(&mut self, to: Role, bytes: u64) {
        self.dealt.entry(self.now.0).or_default()[to.index() - 1] += bytes;
    }
}

/// This thread's account at the scheduler: nanoseconds running and ready.
fn scheduled() -> Option<Scheduled> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(Scheduled { running: numbers.next()?.ok()?, ready: numbers.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_each_other_without_overlap() {
        let (mut recorder, mut end) = (Recorder::new(), 0);
        for run in 0..2000 {
            recorder.begin();
            recorder.turn(Part::Packing);
            let profile = recorder.finish();
            assert!(
                profile.is_sound() && profile.start >= end,
                "run {run} begins before the one before ends"
            );
            end = profile.start + profile.wall;
        }
    }
}
