//! A device that counts what it is asked for.

use kernels::Fault;
use kernels::cuda::driver::{Address, Arg, Driver, Launch};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Calls of a driver that take a processor's time and a place in the device's queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Kernels started, by name.
    pub launches: BTreeMap<&'static str, u64>,
    /// Ranges cleared.
    pub clearings: u64,
    /// Copies from the host.
    pub copies_in: u64,
    /// Copies to the host, each of which waits for all that was asked for before.
    pub copies_out: u64,
    /// Allocations.
    pub allocations: u64,
}

impl Asked {
    /// Kernels started.
    pub fn kernels(&self) -> u64 {
        self.launches.values().sum()
    }
}

/// Another driver whose calls are counted, and what is held of its memory.
#[derive(Debug)]
pub struct Counting {
    driver: Arc<dyn Driver>,
    asked: Mutex<Asked>,
    most: AtomicU64,
}

impl Counting {
    /// Counts what `driver` is asked for.
    pub fn new(driver: Arc<dyn Driver>) -> Counting {
        Counting { driver, asked: Mutex::default(), most: AtomicU64::new(0) }
    }

    /// Bytes that are held; 0 of a driver that does not tell.
    pub fn held(&self) -> u64 {
        self.driver.memory().map_or(0, |(free, all)| all - free)
    }

    /// The most there was since the last call.
    pub fn most_held(&self) -> u64 {
        self.most.swap(self.held(), Ordering::SeqCst)
    }

    /// What there was since the last call.
    pub fn take(&self) -> Asked {
        std::mem::take(&mut self.now())
    }

    fn now(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Driver for Counting {
    fn name(&self) -> String {
        self.driver.name()
    }

    fn memory(&self) -> Option<(u64, u64)> {
        self.driver.memory()
    }

    fn status(&self) -> Result<(), Fault> {
        self.driver.status()
    }

    fn alloc(&self, bytes: u64) -> Result<Address, Fault> {
        self.now().allocations += 1;
        let at = self.driver.alloc(bytes);
        self.most.fetch_max(self.held(), Ordering::SeqCst);
        at
    }

    unsafe fn free(&self, at: Address) {
        // SAFETY: the caller's promise.
        unsafe { self.driver.free(at) }
    }

    unsafe fn zero(&self, at: Address, bytes: u64) -> Result<(), Fault> {
        self.now().clearings += 1;
        // SAFETY: the caller's promise.
        unsafe { self.driver.zero(at, bytes) }
    }

    unsafe fn copy_in(&self, to: Address, from: &[u8]) -> Result<(), Fault> {
        self.now().copies_in += 1;
        // SAFETY: the caller's promise.
        unsafe { self.driver.copy_in(to, from) }
    }

    unsafe fn copy_out(&self, to: &mut [u8], from: Address) -> Result<(), Fault> {
        self.now().copies_out += 1;
        // SAFETY: the caller's promise.
        unsafe { self.driver.copy_out(to, from) }
    }

    unsafe fn launch(&self, launch: &Launch, args: &[Arg<'_>]) -> Result<(), Fault> {
        *self.now().launches.entry(launch.kernel).or_default() += 1;
        // SAFETY: the caller's promise.
        unsafe { self.driver.launch(launch, args) }
    }
}
