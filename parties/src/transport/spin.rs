//! Keeps a worker that waits for a message awake for a while.
//!
//! Waking a sleeping thread costs 20 to 40 µs, which is most of an exchange of small messages. So a worker that drives the
//! transport while it waits looks at the sockets again and again before it sleeps. In between it lets every other thread that is
//! ready have its core.

use std::{
    future::poll_fn,
    pin::pin,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

/// Waits on the runtime that the calling thread drives, without sleeping in the first `spin` of it.
pub(crate) async fn awake<T>(spin: Duration, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let start = Instant::now();
    while start.elapsed() < spin {
        if let Poll::Ready(output) = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await {
            return output;
        }
        // The transport's tasks, and what the sockets have.
        tokio::task::yield_now().await;
        thread::yield_now();
    }
    future.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, OnceLock};
    use tokio::{runtime::Builder, sync::oneshot};

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(60);

    /// When a wait with this `spin` first sleeps, if it does; what it waits for comes then, or after `most`.
    fn sleeps(spin: Duration, most: Duration) -> Option<Duration> {
        let (start, slept) = (Instant::now(), Arc::new(OnceLock::new()));
        let asleep = slept.clone();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || {
                let _ = asleep.set(start.elapsed());
            })
            .build()
            .unwrap();
        let (send, sent) = oneshot::channel();
        let seen = slept.clone();
        let sender = thread::spawn(move || {
            while seen.get().is_none() && start.elapsed() < most {
                thread::sleep(Duration::from_millis(1));
            }
            send.send(7).unwrap();
        });
        assert_eq!(runtime.block_on(awake(spin, sent)), Ok(7));
        sender.join().unwrap();
        slept.get().copied()
    }

    #[test]
    fn it_sleeps_only_after_the_time() {
        assert_eq!(sleeps(LONG, Duration::from_millis(20)), None);
        for spin in [Duration::from_millis(5), Duration::ZERO] {
            let slept = sleeps(spin, LONG).expect("asleep some time");
            assert!(slept >= spin && slept < LONG, "{slept:?} for {spin:?}");
        }
    }

    #[test]
    fn tasks_and_timers_go_on_meanwhile() {
        let start = Instant::now();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let output = runtime.block_on(async {
            let task = tokio::spawn(async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                7
            });
            awake(LONG, task).await
        });
        assert_eq!(output.unwrap(), 7);
        // Not only when it has given up.
        assert!(start.elapsed() < LONG);
    }
}
