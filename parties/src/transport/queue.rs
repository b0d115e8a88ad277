//! A queue bounded in bytes between a worker and the asynchronous transport.
//!
//! Outgoing queues are pushed by the worker and popped by a writer task, incoming ones the other way round. The worker
//! blocks, or it awaits while it drives the transport itself. One producer, one consumer.

use protocol::{NetError, Party};
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

/// Why nothing more comes out, or goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The producer has finished; everything was delivered.
    Finished,
    /// The link failed; what was queued is discarded.
    Failed(NetError<Party>),
}

struct State<T> {
    items: VecDeque<T>,
    bytes: usize,
    end: Option<End>,
    /// Whoever awaits: the consumer of an empty queue or the producer of a full one, never both.
    task: Option<Waker>,
    /// Threads that sleep, or have been woken and do not know it yet, while one at the other end may sleep already. A signal to
    /// nobody is a system call all the same.
    sleepers: usize,
}

/// See the module.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    thread: Condvar,
    /// There may be something to pop, or the queue has ended: what a spinning thread looks at.
    stirred: AtomicBool,
    capacity: usize,
}

impl<T: AsRef<[u8]>> Queue<T> {
    /// Holds `capacity` bytes, or one larger item by itself.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State { items: VecDeque::new(), bytes: 0, end: None, task: None, sleepers: 0 }),
            thread: Condvar::new(),
            stirred: AtomicBool::new(false),
            capacity,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, state: &State<T>, more: usize) -> bool {
        state.items.is_empty() || state.bytes.saturating_add(more) <= self.capacity
    }

    /// Whether [`Queue::push_blocking`] of so many bytes would not block. Stays true for the only producer.
    pub(crate) fn takes(&self, more: usize) -> bool {
        let state = self.lock();
        state.end.is_some() || self.has_room(&state, more)
    }

    /// Bytes it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Wakes a consumer that waits.
    fn stir(&self, state: MutexGuard<'_, State<T>>) {
        self.stirred.store(true, Ordering::Release);
        self.wake(state);
    }

    /// Wakes whoever waits at the other end.
    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let (task, sleepers) = (state.task.take(), state.sleepers);
        drop(state);
        if sleepers > 0 {
            self.thread.notify_one();
        }
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Sleeps until [`Queue::wake`].
    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        state.sleepers += 1;
        let mut state = self.thread.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.sleepers -= 1;
        state
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, item: T) {
        state.bytes += item.as_ref().len();
        state.items.push_back(item);
        self.stir(state);
    }

    /// Blocks while there is no room.
    pub(crate) fn push_blocking(&self, item: T) -> Result<(), End> {
        let mut state = self.lock();
        loop {
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            if self.has_room(&state, item.as_ref().len()) {
                self.put(state, item);
                return Ok(());
            }
            state = self.sleep(state);
        }
    }

    /// Waits while there is no room.
    pub(crate) async fn push(&self, item: T) -> Result<(), End> {
        let mut item = Some(item);
        poll_fn(|context| {
            let mut state = self.lock();
            if let Some(end) = &state.end {
                return Poll::Ready(Err(end.clone()));
            }
            let size = item.as_ref().map_or(0, |item| item.as_ref().len());
            if !self.has_room(&state, size) {
                state.task = Some(context.waker().clone());
                return Poll::Pending;
            }
            if let Some(item) = item.take() {
                self.put(state, item);
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Blocks until there is an item; spins for `spin` before it sleeps.
    pub(crate) fn pop_blocking(&self, spin: Duration) -> Result<T, End> {
        if !spin.is_zero() {
            let start = Instant::now();
            while !self.stirred.load(Ordering::Acquire) && start.elapsed() < spin {
                // Whoever is to bring the item may need this core.
                thread::yield_now();
            }
        }
        let mut state = self.lock();
        loop {
            state = match self.take(state) {
                Ok(result) => return result,
                Err(empty) => self.sleep(empty),
            };
        }
    }

    /// The next item, or why there are no more; gives an empty queue back.
    fn take<'a>(
        &self,
        mut state: MutexGuard<'a, State<T>>,
    ) -> Result<Result<T, End>, MutexGuard<'a, State<T>>> {
        if let Some(item) = state.items.pop_front() {
            state.bytes -= item.as_ref().len();
            if state.items.is_empty() && state.end.is_none() {
                self.stirred.store(false, Ordering::Relaxed);
            }
            self.wake(state);
            return Ok(Ok(item));
        }
        if let Some(end) = &state.end {
            return Ok(Err(end.clone()));
        }
        self.stirred.store(false, Ordering::Relaxed);
        Err(state)
    }

    /// The next item if it is there, or why there are no more.
    pub(crate) fn pop_now(&self) -> Option<Result<T, End>> {
        self.take(self.lock()).ok()
    }

    /// Waits until there is an item.
    pub(crate) async fn pop(&self) -> Result<T, End> {
        poll_fn(|context| match self.take(self.lock()) {
            Ok(result) => Poll::Ready(result),
            Err(mut empty) => {
                empty.task = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Waits for items and takes about `most` bytes of them, one item at least.
    pub(crate) async fn pop_some(&self, most: usize) -> Result<Vec<T>, End> {
        poll_fn(|context| {
            let mut state = self.lock();
            let mut items = Vec::new();
            let mut bytes = 0;
            while let Some(size) = state.items.front().map(|item| item.as_ref().len()) {
                if !items.is_empty() && bytes + size > most {
                    break;
                }
                bytes += size;
                items.extend(state.items.pop_front());
            }
            if !items.is_empty() {
                state.bytes -= bytes;
                self.wake(state);
                return Poll::Ready(Ok(items));
            }
            if let Some(end) = &state.end {
                return Poll::Ready(Err(end.clone()));
            }
            state.task = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// No more items come; those queued are still delivered. Does nothing on a queue that has ended.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some(End::Finished);
            self.stir(state);
        }
    }

    /// Discards what is queued and fails both ends.
    pub(crate) fn fail(&self, error: NetError<Party>) {
        let mut state = self.lock();
        if !matches!(state.end, Some(End::Failed(_))) {
            state.items.clear();
            state.bytes = 0;
            state.end = Some(End::Failed(error));
            self.stir(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Party;
    use std::sync::Arc;

    #[test]
    fn bounded_in_bytes_and_lossless() {
        let queue = Arc::new(Queue::<Vec<u8>>::new(10));
        let producer = {
            let queue = queue.clone();
            thread::spawn(move || {
                for i in 0..1000_u32 {
                    queue.push_blocking(vec![i as u8; (i % 25) as usize]).unwrap();
                }
                queue.finish();
            })
        };
        for i in 0..1000_u32 {
            assert_eq!(
                queue.pop_blocking(Duration::from_micros(5)).unwrap(),
                vec![i as u8; (i % 25) as usize]
            );
            assert!(queue.lock().bytes <= 25);
        }
        assert_eq!(queue.pop_blocking(Duration::ZERO), Err(End::Finished));
        producer.join().unwrap();
    }

    #[test]
    fn failure_wakes_a_blocked_producer_and_consumer() {
        let error = NetError::Lost { peer: Party::One, reason: "gone".into() };
        let full = Arc::new(Queue::<Vec<u8>>::new(1));
        full.push_blocking(vec![0; 5]).unwrap();
        let empty = Arc::new(Queue::<Vec<u8>>::new(1));
        let (f, e) = (full.clone(), empty.clone());
        let push = thread::spawn(move || f.push_blocking(vec![0; 5]));
        let pop = thread::spawn(move || e.pop_blocking(Duration::ZERO));
        thread::sleep(Duration::from_millis(30));
        full.fail(error.clone());
        empty.fail(error.clone());
        assert_eq!(push.join().unwrap(), Err(End::Failed(error.clone())));
        assert_eq!(pop.join().unwrap(), Err(End::Failed(error)));
    }
}
