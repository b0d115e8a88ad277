//! Who drives a party's transport: a thread of its own, or a worker that waits for a message.
//!
//! A message that crosses from a worker to another thread, or back, wakes that thread, and on a core that has gone idle
//! this takes 20 to 40 µs: most of an exchange of small messages. So a worker that has to wait drives the transport
//! meanwhile: the datagram wakes the worker itself, and what it has sent before leaves by its own hands. While workers
//! compute, the transport's thread drives, so that what others send is taken in and acknowledged.
//!
//! All of them call `block_on` of one current-thread runtime. Of those that do, one has the runtime's core and drives;
//! the others wait for what they want or for the core, whichever comes first, and whoever leaves wakes one of them. The
//! transport's thread is not to stand in that queue while workers come and go, or it would be woken at every message. So
//! it *lends* the transport: a worker that finds it driving asks for the transport, the thread leaves the runtime, and
//! comes back when no worker has driven for [`AWAY`], for which it looks at a clock: workers do not have to wake it.
//! Nobody drives for two of these at most.

use std::{
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::Notify,
};

/// Workers that have not driven for so long compute.
const AWAY: Duration = Duration::from_micros(400);
/// Looks at the clock, [`AWAY`] apart, while one worker waits, before the transport's thread relies on its signal.
const PATIENCE: usize = 8;

/// A current-thread runtime that its own thread and the workers that wait for messages drive by turns.
pub struct Reactor {
    state: Mutex<State>,
    /// A worker wants to drive: takes the transport's thread out of the runtime, once for each loan.
    asked: Notify,
    /// Ends the pause of the transport's thread before its time.
    back: Condvar,
}

struct State {
    /// None once the transport has ended.
    runtime: Option<Arc<Runtime>>,
    /// The transport's thread is outside the runtime, or on its way out.
    lent: bool,
    /// Workers inside the runtime.
    driving: usize,
    /// How often one has entered it.
    entered: u64,
    /// The transport's thread waits for a signal instead of the clock.
    rests: bool,
    /// No worker is to be expected soon.
    released: bool,
}

/// A worker inside the runtime.
struct Turn<'a>(&'a Reactor);

impl Reactor {
    /// Runs what `start` makes on a current-thread runtime of its own, until it ends. Blocks the calling thread, which is
    /// the transport's own from then on. `start` is called in the runtime's context and may bind sockets and spawn tasks.
    ///
    /// # Errors
    /// The system gives no runtime, or as `start`.
    ///
    /// # Panics
    /// If the future panics, with its words.
    pub fn run<F, E>(start: impl FnOnce(&Arc<Self>) -> Result<F, E>) -> Result<F::Output, E>
    where
        F: Future<Output: Send> + Send + 'static,
        E: From<io::Error>,
    {
        let runtime = Arc::new(Builder::new_current_thread().enable_all().build()?);
        let state = State {
            runtime: Some(runtime.clone()),
            lent: false,
            driving: 0,
            entered: 0,
            rests: false,
            released: false,
        };
        let reactor = Arc::new(Self { state: Mutex::new(state), asked: Notify::new(), back: Condvar::new() });
        // Ends with this call, however that ends: tasks hold the reactor, which holds the runtime, which holds them.
        let end = End(reactor.clone());
        let main = {
            let _context = runtime.enter();
            start(&reactor)?
        };
        // A task, as it has to go on whoever drives.
        let mut main = runtime.spawn({
            let end = End(reactor.clone());
            async move {
                let _end = end;
                main.await
            }
        });
        let outcome = loop {
            let ended = runtime.block_on(async {
                tokio::select! {
                    outcome = &mut main => Some(outcome),
                    () = reactor.asked.notified() => None,
                }
            });
            match ended {
                Some(outcome) => break outcome,
                None => reactor.lend(),
            }
        };
        drop(end);
        shut(runtime);
        match outcome {
            Ok(output) => Ok(output),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nobody else has the task's handle.
                Err(error) => Err(io::Error::other(error).into()),
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drives the transport until the future is done. `None` if the transport has ended, or if the calling thread is inside
    /// a runtime and cannot drive another.
    pub(super) fn drive<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        if Handle::try_current().is_ok() {
            return None;
        }
        let mut state = self.lock();
        let runtime = state.runtime.clone()?;
        state.driving += 1;
        state.entered = state.entered.wrapping_add(1);
        state.released = false;
        let asks = !std::mem::replace(&mut state.lent, true);
        drop(state);
        let turn = Turn(self);
        if asks {
            self.asked.notify_one();
        }
        let output = runtime.block_on(future);
        drop(turn);
        shut(runtime);
        Some(output)
    }

    /// The transport's thread drives again at once: a worker that has driven does not expect a message soon.
    pub(super) fn release(&self) {
        let mut state = self.lock();
        if state.lent && state.driving == 0 && !state.released {
            state.released = true;
            drop(state);
            self.back.notify_one();
        }
    }

    /// Keeps the transport's thread outside the runtime while workers come and go.
    fn lend(&self) {
        let mut state = self.lock();
        let mut idle = 0;
        loop {
            let entered = state.entered;
            let pause = |state: &mut State| state.runtime.is_some() && !state.released;
            state =
                self.back.wait_timeout_while(state, AWAY, pause).unwrap_or_else(PoisonError::into_inner).0;
            if state.runtime.is_none() || state.released {
                break;
            }
            if state.entered != entered {
                idle = 0;
                continue;
            }
            if state.driving == 0 {
                break;
            }
            idle += 1;
            if idle < PATIENCE {
                continue;
            }
            // A worker that waits for so long gives the signal when it leaves, and then may come back within the pause.
            state.rests = true;
            let rest = |state: &mut State| state.runtime.is_some() && state.driving > 0;
            state = self.back.wait_while(state, rest).unwrap_or_else(PoisonError::into_inner);
            (state.rests, idle) = (false, 0);
        }
        state.released = false;
        state.lent = false;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.driving -= 1;
        if state.rests && state.driving == 0 {
            drop(state);
            self.0.back.notify_one();
        }
    }
}

/// The end of the main task.
struct End(Arc<Reactor>);

impl Drop for End {
    fn drop(&mut self) {
        let runtime = self.0.lock().runtime.take();
        self.0.back.notify_one();
        // Not the last: whoever runs this task has another.
        drop(runtime);
    }
}

/// Gives a share of the runtime back. The last one ends it, without waiting for threads that still compute.
fn shut(runtime: Arc<Runtime>) {
    if let Some(runtime) = Arc::into_inner(runtime) {
        runtime.shutdown_background();
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reactor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::mpsc,
        thread::{self, JoinHandle, ThreadId},
        time::Instant,
    };
    use tokio::sync::{mpsc::unbounded_channel, oneshot};

    /// A reactor on a thread, until `stop` is dropped; then it returns 7.
    struct Running {
        reactor: Arc<Reactor>,
        stop: oneshot::Sender<()>,
        thread: JoinHandle<io::Result<u32>>,
    }

    fn run() -> Running {
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, starts) = mpsc::channel();
        let thread = thread::spawn(move || {
            Reactor::run(|reactor| {
                started.send(reactor.clone()).unwrap();
                Ok::<_, io::Error>(async move {
                    let _ = stopped.await;
                    7
                })
            })
        });
        Running { reactor: starts.recv().unwrap(), stop, thread }
    }

    /// The thread that runs a task now.
    async fn runs_tasks() -> ThreadId {
        tokio::spawn(async { thread::current().id() }).await.unwrap()
    }

    #[test]
    fn a_worker_that_waits_drives_and_one_that_does_not_gives_the_transport_back() {
        let running = run();
        let own = running.thread.thread().id();
        // Without a worker, and again each time when one has gone.
        let (ask, mut asked) = unbounded_channel::<mpsc::Sender<ThreadId>>();
        let serve = async move {
            tokio::spawn(async move {
                while let Some(answer) = asked.recv().await {
                    answer.send(thread::current().id()).unwrap();
                }
            });
        };
        running.reactor.drive(serve).unwrap();
        for round in 0..20 {
            let (answer, answers) = mpsc::channel();
            ask.send(answer).unwrap();
            let id = answers.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(id, own, "round {round}");

            let worker = thread::current().id();
            let driven = running.reactor.drive(async {
                let end = Instant::now() + Duration::from_secs(10);
                while runs_tasks().await != worker && Instant::now() < end {}
                // As long as it waits, the transport's thread stays away.
                for _ in 0..3 {
                    tokio::time::sleep(AWAY * 5).await;
                    assert_eq!(runs_tasks().await, worker);
                }
            });
            assert!(driven.is_some());
            if round % 2 == 0 {
                running.reactor.release();
            }
        }
        drop(running.stop);
        assert_eq!(running.thread.join().unwrap().unwrap(), 7);
    }

    #[test]
    fn workers_take_turns_and_none_is_forgotten() {
        let running = run();
        let workers: Vec<_> = (0..4_u64)
            .map(|worker| {
                let reactor = running.reactor.clone();
                thread::spawn(move || {
                    let (ask, mut asked) = unbounded_channel::<(u64, oneshot::Sender<u64>)>();
                    let echo = async move {
                        tokio::spawn(async move {
                            while let Some((number, answer)) = asked.recv().await {
                                let _ = answer.send(number + 1);
                            }
                        });
                    };
                    reactor.drive(echo).unwrap();
                    for number in 0..2000 {
                        let (answer, answered) = oneshot::channel();
                        ask.send((number, answer)).unwrap();
                        assert_eq!(reactor.drive(answered).unwrap(), Ok(number + 1));
                        // At times long enough for the transport's thread to come back.
                        if number % 100 == 17 * worker {
                            thread::sleep(AWAY * (number / 100 % 4) as u32);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        drop(running.stop);
        assert_eq!(running.thread.join().unwrap().unwrap(), 7);
    }

    #[test]
    fn the_end_does_not_wait_for_workers() {
        let running = run();
        let (release, released) = oneshot::channel();
        let worker = {
            let reactor = running.reactor.clone();
            thread::spawn(move || (reactor.drive(released), reactor.drive(async {})))
        };
        while running.reactor.lock().driving == 0 {
            thread::yield_now();
        }
        drop(running.stop);
        // The main task ends by the worker's hands or the transport's thread's.
        assert_eq!(running.thread.join().unwrap().unwrap(), 7);
        release.send(5).unwrap();
        assert_eq!(worker.join().unwrap(), (Some(Ok(5)), None));
        assert!(running.reactor.lock().runtime.is_none());
    }

    #[test]
    fn a_thread_inside_a_runtime_does_not_drive() {
        let running = run();
        let other = Builder::new_current_thread().build().unwrap();
        assert!(other.block_on(async { running.reactor.drive(async {}) }).is_none());
        drop(running.stop);
        running.thread.join().unwrap().unwrap();
    }

    #[test]
    fn a_panic_and_a_failed_start_come_out() {
        let panics = thread::spawn(|| {
            Reactor::run(|_| {
                Ok::<_, io::Error>(async {
                    assert_eq!(1, 2, "as asked");
                })
            })
        });
        let words = panics.join().unwrap_err();
        assert!(words.downcast_ref::<String>().is_some_and(|words| words.contains("as asked")));
        let failed = Reactor::run(|_| Err::<std::future::Ready<()>, _>(io::Error::other("no socket")));
        assert_eq!(failed.unwrap_err().to_string(), "no socket");
    }
}
