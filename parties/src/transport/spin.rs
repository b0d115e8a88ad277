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
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };
    use tokio::{runtime::Builder, sync::oneshot};

    /// What a wait with this `spin` returns, and whether the thread slept in it, when what it waits for comes after `delay`.
    fn wait(spin: Duration, delay: Duration) -> (u32, bool) {
        let slept = Arc::new(AtomicBool::new(false));
        let sleeps = slept.clone();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || sleeps.store(true, Ordering::Relaxed))
            .build()
            .unwrap();
        let (send, sent) = oneshot::channel();
        let sender = thread::spawn(move || {
            thread::sleep(delay);
            send.send(7).unwrap();
        });
        let output = runtime.block_on(awake(spin, sent)).unwrap();
        sender.join().unwrap();
        (output, slept.load(Ordering::Relaxed))
    }

    #[test]
    fn it_sleeps_only_after_the_time() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(60));
        assert_eq!(wait(long, short), (7, false));
        assert_eq!(wait(Duration::from_millis(1), short), (7, true));
        assert_eq!(wait(Duration::ZERO, short), (7, true));
    }

    #[test]
    fn tasks_and_timers_go_on_meanwhile() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let output = runtime.block_on(async {
            let task = tokio::spawn(async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                7
            });
            awake(Duration::from_secs(60), task).await
        });
        assert_eq!(output.unwrap(), 7);
    }
}
