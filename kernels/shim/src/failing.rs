//! A device that fails.

use kernels::Fault;
use kernels::cuda::driver::{Address, Arg, Driver, Launch};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Another driver that reports a failure instead of its n-th allocation, copy or launch, counted from 0, and at all later
/// ones; or a lack of memory at that one allocation only.
#[derive(Debug)]
pub struct Failing {
    driver: Arc<dyn Driver>,
    good: u64,
    asked: AtomicU64,
    uploads: AtomicU64,
    /// It only lacks memory, once. Then allocations are what is counted.
    lacks: bool,
}

impl Failing {
    /// `driver`, which fails after `good` operations.
    pub fn after(good: u64, driver: Arc<dyn Driver>) -> Failing {
        Failing { driver, good, asked: AtomicU64::new(0), uploads: AtomicU64::new(0), lacks: false }
    }

    /// `driver`, which has no memory for one allocation, after `good` others.
    pub fn lacking_after(good: u64, driver: Arc<dyn Driver>) -> Failing {
        Failing { lacks: true, ..Failing::after(good, driver) }
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// How many of them were copies from the host.
    pub fn uploads(&self) -> u64 {
        self.uploads.load(Ordering::SeqCst)
    }

    fn count(&self) -> Result<(), Fault> {
        if self.lacks {
            return Ok(());
        }
        if self.asked.fetch_add(1, Ordering::SeqCst) < self.good {
            return Ok(());
        }
        Err(Fault::Driver { code: 719, text: "a failure for a test".into() })
    }
}

impl Driver for Failing {
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
        if self.lacks && self.asked.fetch_add(1, Ordering::SeqCst) == self.good {
            return Err(Fault::OutOfMemory { asked: bytes, free: 0 });
        }
        self.count()?;
        self.driver.alloc(bytes)
    }

    unsafe fn free(&self, at: Address) {
        // SAFETY: the caller's promise.
        unsafe { self.driver.free(at) }
    }

    unsafe fn zero(&self, at: Address, bytes: u64) -> Result<(), Fault> {
        self.count()?;
        // SAFETY: the caller's promise.
        unsafe { self.driver.zero(at, bytes) }
    }

    unsafe fn copy_in(&self, to: Address, from: &[u8]) -> Result<(), Fault> {
        self.uploads.fetch_add(1, Ordering::SeqCst);
        self.count()?;
        // SAFETY: the caller's promise.
        unsafe { self.driver.copy_in(to, from) }
    }

    unsafe fn copy_out(&self, to: &mut [u8], from: Address) -> Result<(), Fault> {
        self.count()?;
        // SAFETY: the caller's promise.
        unsafe { self.driver.copy_out(to, from) }
    }

    unsafe fn launch(&self, launch: &Launch, args: &[Arg<'_>]) -> Result<(), Fault> {
        self.count()?;
        // SAFETY: the caller's promise.
        unsafe { self.driver.launch(launch, args) }
    }
}
