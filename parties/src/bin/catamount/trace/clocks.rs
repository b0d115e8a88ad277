//! How far the parties' clocks are from the client's, as far as messages tell.
//!
//! No message arrives before it was sent. A party begins a pass after the client has sent it its keys, and the client has
//! its answer after the party is done; P1 ends an exchange after P2 has begun it, and the other way round. With one clock
//! ahead by θ, one-way times seem longer by θ in one direction and shorter in the other: the least of all seen in each
//! direction bound θ from both sides.

use parties::private::{Doing, PassTimes};
use protocol::profile::{Mark, Profile};
use serde_json::{Value, json};

/// A clock is ahead of another by `low` to `high` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    low: i64,
    high: i64,
}

/// Those of the three parties against the client's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks([Bounds; 3]);

impl Bounds {
    const NONE: Bounds = Bounds { low: i64::MIN, high: i64::MAX };

    fn within(&mut self, other: Bounds) {
        self.low = self.low.max(other.low);
        self.high = self.high.min(other.high);
    }

    /// Of a sum of two.
    fn plus(self, other: Bounds) -> Bounds {
        Bounds { low: self.low.saturating_add(other.low), high: self.high.saturating_add(other.high) }
    }

    fn minus(self, other: Bounds) -> Bounds {
        self.plus(Bounds { low: other.high.saturating_neg(), high: other.low.saturating_neg() })
    }

    /// By how much to set it back: not at all if it may be right, as all clocks of one machine are.
    fn offset(self) -> i64 {
        let unknown = self.low == i64::MIN || self.high == i64::MAX;
        if unknown || (self.low <= 0 && 0 <= self.high) { 0 } else { self.low.midpoint(self.high) }
    }
}

impl Clocks {
    pub(super) fn of(passes: &[PassTimes]) -> Clocks {
        let mut clocks = [Bounds::NONE; 3];
        let mut apart = Bounds::NONE;
        for pass in passes {
            let waits = |span: &&parties::private::ClientSpan| span.doing == Doing::Waits;
            let sent = pass.client.iter().find(waits).map(|span| span.start);
            // Where the parties go on by themselves, the client sends nothing, and splits nothing before.
            let sent = sent.filter(|_| pass.client.iter().any(|span| span.doing == Doing::Splits));
            let answered = pass.client.iter().rfind(waits).map(|span| span.start + span.length);
            for (clock, party) in clocks.iter_mut().zip(&pass.parties) {
                clock.within(Bounds {
                    low: answered.map_or(i64::MIN, |answered| ahead(party.start + party.wall, answered)),
                    high: sent.map_or(i64::MAX, |sent| ahead(party.start, sent)),
                });
            }
            let [_, one, two] = &pass.parties;
            for ((sent, received), (sent_back, received_back)) in exchanges(one).zip(exchanges(two)) {
                apart.within(Bounds { low: ahead(sent_back, received), high: ahead(received_back, sent) });
            }
        }
        let [_, one, two] = clocks;
        clocks[1].within(two.minus(apart));
        clocks[2].within(one.plus(apart));
        Clocks(clocks)
    }

    /// Nanoseconds by which a party's clock is taken to be ahead.
    pub(super) fn offset(&self, party: usize) -> i64 {
        self.0[party].offset()
    }

    /// For the trace's reader.
    pub(super) fn describe(&self) -> Value {
        let micros = |ns: i64| ns as f64 / 1e3;
        let clock = |(party, bounds): (usize, &Bounds)| {
            let known = |ns: i64| (ns != i64::MIN && ns != i64::MAX).then(|| micros(ns));
            let between = json!([known(bounds.low), known(bounds.high)]);
            let set_back = micros(bounds.offset());
            (format!("P{party}"), json!({ "set back by µs": set_back, "ahead by µs, between": between }))
        };
        Value::Object(self.0.iter().enumerate().map(clock).collect())
    }
}

/// How much later one time is than another.
fn ahead(one: u64, other: u64) -> i64 {
    i64::try_from(i128::from(one) - i128::from(other)).unwrap_or(0)
}

/// When a party sent its message of each exchange, and when it had the other's.
fn exchanges(p: &Profile) -> impl Iterator<Item = (u64, u64)> {
    p.spans().filter(|(mark, _)| mark.scope == Mark::EXCHANGE).map(|(m, end)| (p.start + m.at, p.start + end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use parties::private::ClientSpan;
    use protocol::profile::{Part, Round};

    const SECOND: u64 = 1_000_000_000;

    /// A pass whose messages take 10 µs, at the time of the client; P1's clock is `one` ahead, P2's `two`.
    fn pass(at: u64, one: u64, two: u64, exchanges: u64) -> PassTimes {
        let party = |ahead: u64| {
            let mark = |at, scope, part| Mark { at, scope, part };
            let exchange = |i| {
                let begin = 1000 + 30_000 * i;
                [mark(begin, Mark::EXCHANGE, Part::Peer), mark(begin + 10_000, 0, Part::Compute)]
            };
            let mut marks = vec![mark(0, 0, Part::Compute)];
            marks.extend((0..exchanges).flat_map(exchange));
            Profile {
                start: at + ahead + 10_000,
                wall: 30_000 * exchanges + 50_000,
                scopes: vec![String::new()],
                marks,
                rounds: vec![Round { openings: vec![(0, 8)] }; exchanges as usize],
                ..Profile::default()
            }
        };
        let length = 30_000 * exchanges + 70_000;
        let span = |doing, start, length| ClientSpan { doing, start, length };
        PassTimes {
            parties: [party(0), party(one), party(two)],
            client: vec![span(Doing::Splits, at - 500, 500), span(Doing::Waits, at, length)],
        }
    }

    #[test]
    fn clocks_of_one_machine_are_left_alone() {
        let clocks = Clocks::of(&[pass(SECOND, 0, 0, 2), pass(2 * SECOND, 0, 0, 0)]);
        for party in 0..3 {
            assert_eq!(clocks.offset(party), 0);
            assert_eq!(clocks.0[party], Bounds { low: -10_000, high: 10_000 });
        }
        // Nothing is known without messages.
        assert_eq!(Clocks::of(&[]).offset(1), 0);
        assert!(Clocks::of(&[]).describe()["P1"]["ahead by µs, between"][0].is_null());
    }

    #[test]
    fn clocks_that_are_ahead_are_set_back_as_far_as_messages_tell() {
        // The second pass is one that the parties made by themselves: the client began to wait later than they.
        let mut alone = pass(2 * SECOND, 3 * SECOND, 7_000, 1);
        alone.client.remove(0);
        alone.client[0].start += 60_000;
        alone.client[0].length -= 60_000;
        let clocks = Clocks::of(&[pass(SECOND, 3 * SECOND, 7_000, 3), alone]);
        assert_eq!(clocks.offset(0), 0);
        assert_eq!(clocks.offset(1), 3 * SECOND as i64);
        // 7 µs cannot be told from 0 where messages take 10.
        assert_eq!((clocks.offset(2), clocks.0[2]), (0, Bounds { low: -3_000, high: 17_000 }));
        let told = clocks.describe();
        assert_eq!(told["P1"]["set back by µs"], 3e6);
        assert_eq!(told["P1"]["ahead by µs, between"], json!([3e6 - 10.0, 3e6 + 10.0]));
    }

    #[test]
    fn an_evaluator_s_exchanges_narrow_what_the_client_knows() {
        // The client hears late from both: half a second each way.
        let mut slow = pass(SECOND, 0, 4_000_000, 1);
        slow.client[1].start -= SECOND / 2;
        slow.client[1].length += SECOND;
        // Then it hears at once from P1, which works for a second, and P2 for half of that in between.
        let mut fast = pass(3 * SECOND, 0, 4_000_000, 0);
        fast.client[1].length = SECOND;
        fast.parties[1].wall = SECOND - 20_000;
        fast.parties[2].start += SECOND / 4;
        fast.parties[2].wall = SECOND / 2;
        let clocks = Clocks::of(&[slow, fast]);
        assert_eq!(clocks.0[1], Bounds { low: -10_000, high: 10_000 });
        assert_eq!(clocks.offset(2), 4_000_000);
        assert!(clocks.0[2].high - clocks.0[2].low <= 40_000, "{clocks:?}");
    }
}
