//! Where threads were last, and so who comes behind whom.

use super::lock;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// From where both come from, another has this many times as long as a thread took itself, and a little, until the thread goes on
/// without it.
const LATE: u32 = 2;

/// A little. Two cores turn to the sessions of three parties by turns.
pub(super) const LEAST: Duration = Duration::from_millis(10);

/// Threads from which on those are forgotten that have come to no matrix for a minute.
const KNOWN: usize = 64;

/// Where each thread was last.
pub(super) static PLACES: LazyLock<Mutex<Places>> = LazyLock::new(Mutex::default);

#[derive(Default)]
pub(super) struct Places(pub(super) HashMap<ThreadId, Place>);

/// The matrix a thread came to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) matrix: u64,
    /// When it came, or left.
    since: Instant,
    /// It has its product.
    pub(super) left: bool,
}

/// Whom a thread waits for at a matrix.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Company {
    pub(super) threads: Vec<ThreadId>,
    /// How long after now the last of them will have come.
    pub(super) within: Duration,
}

impl Places {
    /// Notes that a thread is at a matrix; those that come behind it.
    pub(super) fn arrive(&mut self, me: ThreadId, matrix: u64, now: Instant) -> Company {
        let mut company = Company::default();
        let old = |place: &Place| now.saturating_duration_since(place.since);
        if let Some(before) = self.0.get(&me).filter(|before| before.matrix != matrix) {
            let most = LATE * old(before) + LEAST;
            for (thread, place) in &self.0 {
                // It comes from where this one comes from; from when it leaves there it has `most`.
                let left = if place.left { most.saturating_sub(old(place)) } else { most };
                if *thread != me && place.matrix == before.matrix && !left.is_zero() {
                    company.threads.push(*thread);
                    company.within = company.within.max(left);
                }
            }
        }
        if self.0.len() >= KNOWN {
            self.0.retain(|_, place| old(place) < Duration::from_secs(60));
        }
        self.0.insert(me, Place { matrix, since: now, left: false });
        company
    }

    fn leave(&mut self, me: ThreadId, now: Instant) {
        if let Some(place) = self.0.get_mut(&me) {
            (place.since, place.left) = (now, true);
        }
    }
}

/// A thread is at a matrix. However this ends, nobody waits for it there from then on.
pub(super) struct Visit {
    pub(super) thread: ThreadId,
}

impl Drop for Visit {
    fn drop(&mut self) {
        lock(&PLACES).leave(self.thread, Instant::now());
    }
}

/// Names of threads.
#[cfg(test)]
pub(super) fn threads<const N: usize>() -> [ThreadId; N] {
    [(); N].map(|()| std::thread::spawn(|| std::thread::current().id()).join().unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_from_the_same_place_is_waited_for_and_nobody_else() {
        let (mut places, [a, b, c]) = (Places::default(), threads());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let alone = Company::default;
        let company = |threads: &[ThreadId], ms| Company {
            threads: threads.to_vec(),
            within: Duration::from_millis(ms),
        };
        let least = LEAST.as_millis() as u64;
        // All come to matrix 1 and leave it together.
        for thread in [a, b, c] {
            assert_eq!(places.arrive(thread, 1, at(0)), alone());
            places.leave(thread, at(10));
        }
        // The first at the next one waits for both, as long again as it took itself, and a little.
        let mut both = places.arrive(a, 2, at(40));
        both.threads.sort_by_key(|thread| *thread != b);
        assert_eq!(both, company(&[b, c], 2 * 30 - 30 + least));
        // The next one does not wait for those that are here.
        assert_eq!(places.arrive(b, 2, at(50)), company(&[c], 2 * 40 - 40 + least));
        places.leave(a, at(60));
        places.leave(b, at(60));
        // Who is two places behind is left alone, and so is who has not moved for long.
        assert_eq!(places.arrive(a, 3, at(70)), company(&[b], 2 * 10 - 10 + least));
        assert_eq!(places.arrive(c, 2, at(1000)), alone());
        places.leave(c, at(1001));
        places.leave(a, at(1000));
        assert_eq!(places.arrive(c, 3, at(1002)), alone(), "{b:?} has been gone for long");
        // Who still has its product to come leaves later.
        assert_eq!(places.arrive(b, 4, at(1003)).threads, []);
        assert_eq!(places.arrive(a, 5, at(1010)), company(&[c], 2 * 10 + least));
    }
}
