//! Which threads may still believe what they compute.

use crate::failure::{DeviceError, Fault};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::{ThreadId, current};

/// Failures of a device. One that was lost is lost to all. A lack of memory is the matter of the thread that asked for too
/// much: others go on, and it may do so itself once it has dropped what it was at.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Whether there is anything below: the ordinary case takes no lock.
    any: AtomicBool,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    lost: Option<DeviceError>,
    threads: HashMap<ThreadId, DeviceError>,
}

impl Failures {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The first failure that concerns this thread.
    pub(super) fn seen(&self) -> Option<DeviceError> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let all = self.all();
        all.lost.as_ref().or_else(|| all.threads.get(&current().id())).cloned()
    }

    /// Whether the device is lost.
    pub(super) fn is_lost(&self) -> bool {
        self.any.load(Ordering::Acquire) && self.all().lost.is_some()
    }

    /// Notes a failure, unless there is one that concerns this thread already.
    pub(super) fn add(&self, error: DeviceError) {
        let mut all = self.all();
        match error.fault {
            Fault::OutOfMemory { .. } | Fault::Void => {
                all.threads.entry(current().id()).or_insert(error);
            }
            Fault::Driver { .. } => {
                all.lost.get_or_insert(error);
            }
        }
        self.any.store(true, Ordering::Release);
    }

    /// This thread begins something new.
    pub(super) fn forget(&self) {
        if self.any.load(Ordering::Acquire) {
            let mut all = self.all();
            all.threads.remove(&current().id());
            self.any.store(all.lost.is_some() || !all.threads.is_empty(), Ordering::Release);
        }
    }
}
