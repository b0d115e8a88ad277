//! Products of several threads with one matrix, by one reading of it.
//!
//! With few rows a product takes as long as it takes to read the matrix, whatever the number of rows. Threads that come
//! while a product with the matrix is under way put their rows by; the next product takes all of them (flat combining:
//! Hendler, Incze, Shavit and Tzafrir, SPAA 2010). Sums in the ring are exact, so each gets the words that it would have
//! computed alone.
//!
//! Threads that run the same program, as sessions with the same model do, read the same matrices in the same order. At each
//! a thread knows where the others were last: those that were where it comes from, and nowhere else since, are on their
//! way, and need about as long as it needed itself. It waits for them, so that they go on together. Who has fallen back
//! further, or has left the program, is not waited for, and a thread without company never waits.
//!
//! Nobody depends on another: whoever has waited long enough goes on with those that are there, and the followers of a
//! thread that panics, or whose device fails, multiply alone.

mod places;

use crate::backend::{Device, Storage};
use places::{Company, LEAST, PLACES, Visit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// No wait is longer than so many products with the matrix, or [`LEAST`].
const PATIENCE: u32 = 10;

/// Places and states are right whatever panics beside them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a thread comes to a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// At the place of a program that others run as well.
    InStep,
    /// Some time or other. It is taken along, and waits for nobody.
    Passing,
}

/// The products with one matrix: which is under way, and who waits.
pub(crate) struct Readings {
    matrix: u64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Default for Readings {
    fn default() -> Readings {
        static MATRICES: AtomicU64 = AtomicU64::new(0);
        let matrix = MATRICES.fetch_add(1, Ordering::Relaxed);
        Readings { matrix, state: Mutex::default(), changed: Condvar::new() }
    }
}

#[derive(Default)]
struct State {
    running: bool,
    queue: Vec<Waiting>,
    /// What followers wait for; `None` if they are to multiply alone.
    done: Vec<(ThreadId, Option<Storage>)>,
    /// How long the last product took.
    took: Duration,
}

/// Rows that wait for a product.
struct Waiting {
    thread: ThreadId,
    rows: Storage,
    m: usize,
    /// It waits for these, which are not here yet,
    company: Vec<ThreadId>,
    /// but no longer than this.
    until: Instant,
}

/// Multiplies rows with the matrix; says whether the device made the product, or failed.
pub(crate) type Multiply<'a> = &'a dyn Fn(&Storage, usize) -> (Storage, bool);

impl Readings {
    /// The product of `m` rows, perhaps together with those of others.
    pub(crate) fn product(
        &self,
        device: &Device,
        multiply: Multiply<'_>,
        x: &Storage,
        m: usize,
        manner: Manner,
    ) -> Storage {
        let most = device.rows_together();
        // What a failed thread has is without content, and nothing for others.
        if m == 0 || 2 * m > most || device.status().is_err() {
            return multiply(x, m).0;
        }
        if manner == Manner::Passing {
            return self.with_company(device, multiply, x, m, Company::default());
        }
        let (me, now) = (thread::current().id(), Instant::now());
        let company = lock(&PLACES).arrive(me, self.matrix, now);
        let _visit = Visit { thread: me };
        self.with_company(device, multiply, x, m, company)
    }

    /// The product, once those have come that this thread waits for.
    fn with_company(
        &self,
        device: &Device,
        multiply: Multiply<'_>,
        x: &Storage,
        m: usize,
        Company { threads: company, within }: Company,
    ) -> Storage {
        let (me, now) = (thread::current().id(), Instant::now());
        let (most, mut state) = (device.rows_together(), lock(&self.state));
        if !state.running && state.queue.is_empty() && company.is_empty() {
            state.running = true;
            drop(state);
            let _reading = Reading { of: self, start: now, followers: vec![] };
            return multiply(x, m).0;
        }
        let until = now + within.min(state.patience());
        state.join(Waiting { thread: me, rows: x.clone(), m, company, until });
        self.changed.notify_all();
        loop {
            if let Some(i) = state.done.iter().position(|(thread, _)| *thread == me) {
                let (_, result) = state.done.swap_remove(i);
                drop(state);
                return result.unwrap_or_else(|| multiply(x, m).0);
            }
            let now = Instant::now();
            if !state.running && state.may_go(me, now) {
                let group = state.begin(me, most);
                drop(state);
                return self.lead(device, multiply, group);
            }
            state = match state.running {
                true => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                false => {
                    let until = state.queue.iter().find(|w| w.thread == me).map_or(now, |w| w.until);
                    let wait = until.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// One product for a group, whose first rows are this thread's.
    fn lead(&self, device: &Device, multiply: Multiply<'_>, group: Vec<Waiting>) -> Storage {
        let followers = group[1..].iter().map(|w| (w.thread, None)).collect();
        let mut reading = Reading { of: self, start: Instant::now(), followers };
        if let [own] = &group[..] {
            return multiply(&own.rows, own.m).0;
        }
        let rows = device.concat(&group.iter().map(|w| &w.rows).collect::<Vec<_>>());
        let m: usize = group.iter().map(|w| w.m).sum();
        let (all, made) = multiply(&rows, m);
        let n = device.len(&all) / m;
        let mut first = 0;
        let mut parts = group.iter().map(|w| {
            let words = first..first + w.m * n;
            first = words.end;
            device.slice(&all, words)
        });
        let own = parts.next().expect("the leader's rows");
        // Whether a failure is this thread's alone, the others find out for themselves.
        if made {
            reading.followers.iter_mut().zip(parts).for_each(|((_, result), part)| *result = Some(part));
        }
        own
    }
}

impl State {
    /// The longest wait.
    fn patience(&self) -> Duration {
        LEAST.max(PATIENCE * self.took)
    }

    /// Somebody comes. Who waits for nobody of its own accord waits for whom the others wait for.
    fn join(&mut self, mut new: Waiting) {
        self.queue.iter_mut().for_each(|w| w.company.retain(|thread| *thread != new.thread));
        new.company.retain(|thread| self.queue.iter().all(|w| w.thread != *thread));
        if new.company.is_empty() {
            new.company = self.queue.iter().flat_map(|w| w.company.iter().copied()).collect();
            new.until = self.queue.iter().map(|w| w.until).max().unwrap_or(new.until);
        }
        self.queue.push(new);
    }

    /// Whether a thread need not wait longer.
    fn may_go(&self, me: ThreadId, now: Instant) -> bool {
        self.queue.iter().any(|w| w.thread == me && (w.company.is_empty() || now >= w.until))
    }

    /// Begins the product of a thread and of those that came first of the others, as far as there is room.
    fn begin(&mut self, me: ThreadId, most: usize) -> Vec<Waiting> {
        self.running = true;
        let own = self.queue.iter().position(|w| w.thread == me).expect("a thread that waits");
        let mut group = vec![self.queue.remove(own)];
        let mut rows = group[0].m;
        for waiting in std::mem::take(&mut self.queue) {
            if rows + waiting.m <= most {
                rows += waiting.m;
                group.push(waiting);
            } else {
                self.queue.push(waiting);
            }
        }
        group
    }
}

/// A product under way. However it ends, the followers are released.
struct Reading<'a> {
    of: &'a Readings,
    start: Instant,
    followers: Vec<(ThreadId, Option<Storage>)>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.of.state);
        state.running = false;
        state.took = self.start.elapsed();
        state.done.append(&mut self.followers);
        let waited_for = !state.queue.is_empty() || !state.done.is_empty();
        drop(state);
        if waited_for {
            self.of.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;
    use std::sync::atomic::AtomicUsize;

    const K: usize = 24;
    const N: usize = 21;

    /// A matrix whose readings are counted.
    struct Counted {
        device: Device,
        matrix: Storage,
        readings: Readings,
        read: AtomicUsize,
    }

    impl Counted {
        fn new() -> Counted {
            let device = Cpu::best();
            let matrix = device.pack_matrix(&device.chacha12(&[5; 32], 1, N * K, 64), K, N);
            Counted { device, matrix, readings: Readings::default(), read: AtomicUsize::new(0) }
        }

        fn rows(&self, i: usize, m: usize) -> Storage {
            self.device.chacha12(&[i as u8; 32], 2, m * K, 64)
        }

        fn words(&self, a: &Storage) -> Vec<u64> {
            self.device.download(a).into_owned()
        }

        fn alone(&self, i: usize, m: usize) -> Vec<u64> {
            self.words(&self.device.gemm(&self.rows(i, m), &self.matrix, m, K, N))
        }

        fn multiply(&self, x: &Storage, m: usize) -> (Storage, bool) {
            self.read.fetch_add(1, Ordering::SeqCst);
            (self.device.gemm(x, &self.matrix, m, K, N), true)
        }

        /// A product of one row lasts until products of `rows` rows wait behind it; these multiply as `then` says. What
        /// each thread got, or that it panicked.
        fn behind_one(
            &self,
            rows: &[usize],
            then: &(dyn Fn(&Storage, usize) -> (Storage, bool) + Sync),
        ) -> Vec<thread::Result<Vec<u64>>> {
            let (started, product) = (AtomicUsize::new(0), |i: usize, m: usize, multiply: Multiply<'_>| {
                let x = self.rows(i, m);
                self.words(&self.readings.product(&self.device, multiply, &x, m, Manner::Passing))
            });
            let (product, started) = (&product, &started);
            thread::scope(|scope| {
                let first = scope.spawn(move || {
                    let slow = |x: &Storage, m: usize| {
                        started.store(1, Ordering::SeqCst);
                        while lock(&self.readings.state).queue.len() < rows.len() {
                            thread::yield_now();
                        }
                        self.multiply(x, m)
                    };
                    product(0, 1, &slow)
                });
                while started.load(Ordering::SeqCst) == 0 {
                    thread::yield_now();
                }
                let follow = |(i, &m)| scope.spawn(move || product(i + 1, m, &|x, m| then(x, m)));
                let others: Vec<_> = rows.iter().enumerate().map(follow).collect();
                [first].into_iter().chain(others).map(|thread| thread.join()).collect()
            })
        }
    }

    #[test]
    fn rows_that_wait_share_one_reading() {
        let c = Counted::new();
        let results = c.behind_one(&[1, 5, 2], &|x, m| c.multiply(x, m));
        assert_eq!(c.read.load(Ordering::SeqCst), 2);
        for (i, (result, m)) in results.into_iter().zip([1, 1, 5, 2]).enumerate() {
            assert_eq!(result.unwrap(), c.alone(i, m), "thread {i}");
        }
    }

    #[test]
    fn no_more_rows_than_are_worth_it() {
        let c = Counted::new();
        let results = c.behind_one(&[8, 8, 8], &|x, m| {
            assert!(m <= c.device.rows_together());
            c.multiply(x, m)
        });
        assert_eq!(c.read.load(Ordering::SeqCst), 3);
        for (i, (result, m)) in results.into_iter().zip([1, 8, 8, 8]).enumerate() {
            assert_eq!(result.unwrap(), c.alone(i, m), "thread {i}");
        }
        // More rows by themselves wait for nobody, even while a product is under way.
        lock(&c.readings.state).running = true;
        let x = c.rows(9, 9);
        let product = c.readings.product(&c.device, &|x, m| c.multiply(x, m), &x, 9, Manner::InStep);
        assert_eq!(c.words(&product), c.alone(9, 9));
    }

    #[test]
    fn a_leader_that_panics_releases_the_others() {
        let c = Counted::new();
        let results = c.behind_one(&[1, 1, 1], &|x, m| {
            assert_eq!(m, 1, "the leader panics: a product for all");
            c.multiply(x, m)
        });
        assert_eq!(results.iter().filter(|r| r.is_err()).count(), 1, "the leader alone");
        for (i, result) in results.into_iter().enumerate().filter(|(_, r)| r.is_ok()) {
            assert_eq!(result.unwrap(), c.alone(i, 1), "thread {i}");
        }
        // The matrix still serves, and whoever comes from here waits for none of them.
        let rows = c.rows(7, 1);
        let panics =
            || c.readings.product(&c.device, &|_, _| panic!("the product"), &rows, 1, Manner::InStep);
        assert!(thread::scope(|scope| scope.spawn(panics).join().is_err()));
        let places = lock(&PLACES);
        let here = places.0.values().filter(|place| place.matrix == c.readings.matrix);
        assert_eq!(here.map(|place| place.left).collect::<Vec<_>>(), [true]);
        drop(places);
        let x = c.rows(7, 1);
        let product = c.readings.product(&c.device, &|x, m| c.multiply(x, m), &x, 1, Manner::Passing);
        assert_eq!(c.words(&product), c.alone(7, 1));
    }

    #[test]
    fn a_leader_whose_device_fails_leaves_the_others_to_themselves() {
        let c = Counted::new();
        let results = c.behind_one(&[1, 1, 1], &|x, m| match m {
            1 => c.multiply(x, m),
            _ => (c.device.zeros(m * N), false),
        });
        let right = |(i, result): (usize, thread::Result<Vec<u64>>)| result.unwrap() == c.alone(i, 1);
        assert_eq!(results.into_iter().enumerate().map(right).filter(|right| *right).count(), 3);
    }

    #[test]
    fn a_wait_ends_when_all_are_here_or_with_patience() {
        let (mut state, [a, b, c, d]) = (State::default(), places::threads());
        assert_eq!(state.patience(), LEAST);
        state.took = Duration::from_millis(7);
        assert_eq!(state.patience(), Duration::from_millis(70));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let waiting = |thread, company: &[ThreadId], ms| Waiting {
            thread,
            rows: Cpu::best().zeros(1),
            m: 1,
            company: company.to_vec(),
            until: at(ms),
        };
        state.join(waiting(a, &[b, c], 10));
        // Without company of its own it waits like the others.
        state.join(waiting(b, &[], 0));
        assert!(!state.may_go(a, at(9)) && !state.may_go(b, at(9)));
        assert!(state.may_go(a, at(10)) && state.may_go(b, at(10)));
        state.join(waiting(c, &[a, d], 20));
        assert!(state.may_go(a, at(1)) && state.may_go(b, at(1)) && !state.may_go(c, at(19)));
        // Only so many go; the others do not wait for those that have gone.
        assert_eq!(state.begin(a, 2).iter().map(|w| w.thread).collect::<Vec<_>>(), [a, b]);
        state.join(waiting(d, &[], 0));
        assert!(state.may_go(c, at(1)) && state.may_go(d, at(1)) && !state.may_go(a, at(100)));
    }

    #[test]
    fn many_threads_get_what_they_would_get_alone() {
        let c = Counted::new();
        let round = |i: usize| {
            for m in (1..=12).cycle().take(240) {
                let manner = if (i + m).is_multiple_of(3) { Manner::Passing } else { Manner::InStep };
                let x = c.rows(i, m);
                let product = c.readings.product(&c.device, &|x, m| c.multiply(x, m), &x, m, manner);
                assert_eq!(c.words(&product), c.alone(i, m));
            }
        };
        let round = &round;
        thread::scope(|scope| (0..6).for_each(|i| drop(scope.spawn(move || round(i)))));
        let state = lock(&c.readings.state);
        assert!(!state.running && state.queue.is_empty() && state.done.is_empty());
    }
}
