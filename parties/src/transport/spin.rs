//! Keeps whoever drives the transport awake while a session is in an exchange.
//!
//! Waking a sleeping thread costs 20 to 40 µs, which is most of an exchange of small messages. While a worker has sent
//! or waited within the last `spin` microseconds whoever drives polls the sockets instead of sleeping. It lets every
//! other thread that is ready have its core meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Spinner {
    base: Instant,
    /// Microseconds after `base`.
    until: AtomicU64,
    hot: Notify,
    pub(crate) spin: Duration,
}

impl Spinner {
    pub(crate) fn new(spin: Duration) -> Arc<Self> {
        Arc::new(Self { base: Instant::now(), until: AtomicU64::new(0), hot: Notify::new(), spin })
    }

    fn now(&self) -> u64 {
        self.base.elapsed().as_micros() as u64
    }

    /// Somebody exchanges messages just now.
    pub(crate) fn heat(&self) {
        if self.spin.is_zero() {
            return;
        }
        let now = self.now();
        let before = self.until.swap(now + self.spin.as_micros() as u64, Ordering::Relaxed);
        if before <= now {
            self.hot.notify_one();
        }
    }

    /// The task that spins, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            self.hot.notified().await;
            while self.now() < self.until.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
                std::thread::yield_now();
            }
        }
    }
}
