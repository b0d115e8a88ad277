//! Words in a device's memory.

use super::driver::{Address, Arg, Driver, Launch};
use super::failures::Failures;
use super::formula::arguments;
use super::wave::{self, Kind, Operation, Queue, Span};
use crate::buffer;
use crate::failure::{DeviceError, Fault};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// The address of words for which there was no memory, or no device.
const VOID: Address = Address::MAX;

/// Bits of words from which on masks and masked words are made again rather than waited for: three of them, and three blocks of
/// a stream, in a word of a message.
const MADE_AGAIN: u64 = 32;

/// A driver, and what failed. Nothing is asked of a driver for a thread that saw a failure: its results then have a length,
/// but no memory, and are zero when they are read.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) driver: Arc<dyn Driver>,
    failures: Failures,
    queue: Mutex<Queue>,
}

impl Core {
    pub(super) fn new(driver: Arc<dyn Driver>) -> Core {
        let memory = driver.memory().map_or(0, |(_, all)| all);
        Core { driver, failures: Failures::default(), queue: Mutex::new(Queue::new(memory)) }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Starts all that waits, also what other threads asked for: theirs may be believed though this one failed.
    fn start(&self, queue: &mut Queue) {
        if self.failures.is_lost() {
            queue.give_up(&*self.driver);
        } else if let Err(fault) = queue.start(&*self.driver) {
            self.fail(wave::NAME, fault);
        }
    }

    /// Starts all that waits if any of it uses one of these addresses.
    fn start_users(&self, mut addresses: impl Iterator<Item = Address>) {
        let mut queue = self.queue();
        if addresses.any(|at| queue.uses(at)) {
            self.start(&mut queue);
        }
    }

    /// Gives a buffer back once what waits has used it.
    fn free(&self, [start, end]: [Address; 2]) {
        let mut queue = self.queue();
        if queue.uses(start) {
            queue.free([start, end]);
            if queue.is_full() {
                self.start(&mut queue);
            }
            return;
        }
        // SAFETY: its words are gone, and nothing that waits uses it.
        unsafe { self.driver.free(start) };
    }

    /// Writes an operation down, to be started with others.
    pub(super) fn add(&self, name: &'static str, operation: &Operation<'_>) {
        let used = operation.reads.iter().chain(operation.writes).copied();
        self.add_to_queue(name, operation.elements, used, |queue| queue.add(operation));
    }

    /// The same of words that are masked and packed: what they are made of is not waited for if they are few in a word of the
    /// message, and short to make again.
    pub(super) fn add_mask(&self, name: &'static str, operation: &Operation<'_>) {
        let used = operation.reads.iter().chain(operation.writes).copied();
        self.add_to_queue(name, operation.elements, used, |queue| {
            let &[op, bits, .., masked, out, n] = operation.args else { unreachable!("seven arguments") };
            let made = (bits >= MADE_AGAIN).then(|| queue.making(operation.reads[0], operation.reads[1]));
            let Some((draft, kept, draw)) = made.flatten() else { return queue.add(operation) };
            let args =
                [&[op, bits, masked, out, n, kept as u64], &draw[..], &arguments(&draft, &[])].concat();
            let reads: Vec<_> = draft.reads().collect();
            queue.add(&Operation { kind: Kind::MakeMaskAndPack, args: &args, reads: &reads, ..*operation });
        });
    }

    /// Lets `add` write an operation of so many elements down that uses these words, unless this thread saw a failure.
    pub(super) fn add_to_queue(
        &self,
        name: &'static str,
        elements: usize,
        mut used: impl Iterator<Item = Span>,
        add: impl FnOnce(&mut Queue),
    ) {
        if elements == 0 || self.failures.seen().is_some() {
            return;
        }
        if used.any(|span| span.buffer[0] == VOID) {
            return self.fail(name, Fault::Void);
        }
        let mut queue = self.queue();
        add(&mut queue);
        if queue.is_full() {
            self.start(&mut queue);
        }
    }

    /// Bytes of memory that are free, and all of them.
    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        self.start(&mut self.queue());
        self.driver.memory()
    }

    /// Asks the driver for something, unless this thread saw a failure.
    fn attempt<T>(&self, operation: &str, f: impl FnOnce(&dyn Driver) -> Result<T, Fault>) -> Option<T> {
        if self.failures.seen().is_some() {
            return None;
        }
        f(&*self.driver).map_err(|fault| self.fail(operation, fault)).ok()
    }

    fn fail(&self, operation: &str, fault: Fault) {
        let device = self.driver.name();
        self.failures.add(DeviceError { device, operation: operation.into(), fault });
    }

    /// Whether what this thread asked for has been done so far, as far as is known.
    pub(super) fn sees_no_failure(&self) -> bool {
        self.failures.seen().is_none()
    }

    /// Forgets that this thread found no memory.
    pub(super) fn begin(&self) {
        self.failures.forget();
    }

    pub(super) fn status(&self) -> Result<(), DeviceError> {
        self.start(&mut self.queue());
        self.attempt("computation", |driver| driver.status());
        self.failures.seen().map_or(Ok(()), Err)
    }

    /// Words with anything in them, for the result of `operation`.
    pub(super) fn alloc(self: &Arc<Core>, operation: &'static str, len: usize) -> DeviceWords {
        let at = match len {
            0 => 0,
            n => self.attempt(operation, |driver| driver.alloc(8 * n as u64)).unwrap_or(VOID),
        };
        DeviceWords { core: self.clone(), at, len }
    }

    /// Zeros, for the result of `operation`.
    pub(super) fn zeroed(self: &Arc<Core>, operation: &'static str, len: usize) -> DeviceWords {
        let words = self.alloc(operation, len);
        if words.has_memory() {
            // SAFETY: these are the words' own bytes.
            self.attempt(operation, |driver| unsafe { driver.zero(words.at, 8 * len as u64) });
        }
        words
    }

    /// Bytes from the host, the last word filled up with anything.
    pub(super) fn upload(self: &Arc<Core>, operation: &'static str, bytes: &[u8]) -> DeviceWords {
        let words = self.alloc(operation, bytes.len().div_ceil(8));
        if words.has_memory() {
            // SAFETY: there are words for all the bytes.
            self.attempt(operation, |driver| unsafe { driver.copy_in(words.at, bytes) });
        }
        words
    }

    /// Starts a kernel, unless there is nothing to do.
    pub(super) fn launch(&self, launch: Launch, args: &[Arg<'_>]) {
        if launch.grid.contains(&0) {
            return;
        }
        if args.contains(&Arg::Pointer(VOID)) {
            return self.fail(launch.kernel, Fault::Void);
        }
        self.start_users(args.iter().flat_map(Arg::addresses));
        // SAFETY: pointers come from `DeviceWords`, which live until the kernel is in the driver's queue and are freed
        // in its order. Kernels are private to this module; each one's launch makes sure of the lengths it is given.
        self.attempt(launch.kernel, |driver| unsafe { driver.launch(&launch, args) });
    }
}

/// A vector of words in a device's memory.
#[derive(Debug)]
pub struct DeviceWords {
    core: Arc<Core>,
    /// 0 if there are none.
    at: Address,
    len: usize,
}

impl DeviceWords {
    /// Number of words.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where its memory begins and ends.
    fn buffer(&self) -> [Address; 2] {
        [self.at, self.at.saturating_add(8 * self.len as u64)]
    }

    /// All words, for an operation.
    pub(super) fn span(&self) -> Span {
        Span { buffer: self.buffer(), words: self.buffer() }
    }

    /// Some of them.
    pub(super) fn span_of(&self, range: Range<usize>) -> Span {
        assert!(range.start <= range.end && range.end <= self.len, "words {range:?} of {}", self.len);
        let words = [range.start, range.end].map(|i| self.at.saturating_add(8 * i as u64));
        Span { buffer: self.buffer(), words }
    }

    fn has_memory(&self) -> bool {
        self.at != 0 && self.at != VOID
    }

    /// Whether they belong to this device.
    pub(super) fn is_of(&self, core: &Arc<Core>) -> bool {
        Arc::ptr_eq(&self.core, core)
    }

    /// Drops the content if this thread saw a failure.
    pub(super) fn forget_unless_made(&mut self) {
        if self.has_memory() && self.core.failures.seen().is_some() {
            self.core.free(self.buffer());
            self.at = VOID;
        }
    }

    /// As an argument of a kernel.
    pub(super) fn arg(&self) -> Arg<'static> {
        Arg::Pointer(self.at)
    }

    /// As a word of a structure; `None` of words without memory, and that is a failure of `operation`.
    pub(super) fn address(&self, operation: &str) -> Option<Address> {
        if self.at == VOID {
            self.core.fail(operation, Fault::Void);
            return None;
        }
        Some(self.at)
    }

    /// The first `bytes` bytes into `out`: zeros if the device failed.
    pub(super) fn read(&self, operation: &str, out: &mut [u8]) {
        assert!(out.len() <= 8 * self.len, "reading beyond a buffer");
        if out.is_empty() {
            return;
        }
        self.core.start(&mut self.core.queue());
        let read = self.core.attempt(operation, |driver| match self.at {
            VOID => Err(Fault::Void),
            // SAFETY: these are the words' own bytes.
            at => unsafe { driver.copy_out(out, at) },
        });
        if read.is_none() {
            out.fill(0);
        }
    }

    /// All words, at the end of bytes on the host.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let from = out.len();
        out.resize(from + 8 * self.len, 0);
        self.read("pack", &mut out[from..]);
    }

    /// All words, on the host.
    pub(super) fn to_vec(&self) -> Vec<u64> {
        let mut words = buffer::zeroed(self.len);
        // SAFETY: a word is eight bytes, and any eight bytes are a word.
        let bytes = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), 8 * self.len) };
        self.read("download", bytes);
        words
    }

    /// Copies words `range` of `from` to place `to`.
    pub(super) fn copy_from(&mut self, to: usize, from: &DeviceWords, range: Range<usize>) {
        let n = range.len();
        self.core.copy(from.span_of(range), self.span_of(to..to + n), n);
    }
}

impl Clone for DeviceWords {
    fn clone(&self) -> DeviceWords {
        let mut copy = self.core.alloc("copy", self.len);
        copy.copy_from(0, self, 0..self.len);
        // A copy of nothing is nothing.
        copy.forget_unless_made();
        copy
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Nobody asks for the results any more.
        self.queue().give_up(&*self.driver);
    }
}

impl Drop for DeviceWords {
    fn drop(&mut self) {
        if self.has_memory() {
            self.core.free(self.buffer());
        }
    }
}

/// The bytes of words on the host.
pub(super) fn bytes(words: &[u64]) -> &[u8] {
    // SAFETY: a word is eight bytes without gaps.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// The bytes of half words on the host.
pub(super) fn bytes32(words: &[u32]) -> &[u8] {
    // SAFETY: a half word is four bytes without gaps.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}
