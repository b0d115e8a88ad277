//! Pinned memory of the host between a device and ordinary buffers, which the device could not read or write while the
//! program goes on.

use super::super::driver::Address;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::sync::{Mutex, MutexGuard};

/// Bytes of a piece of a large copy. There are two of them for each direction: while the device copies one, the processor
/// copies the other.
const PIECE: usize = 4 << 20;
/// Bytes up to which a copy to the device is small: a message of a few tokens, a table, a row of inputs.
const SMALL: usize = 64 << 10;
/// So many small copies may be on their way before the next one waits for the first of them. A layer of a model has about
/// ten.
const SLOTS: usize = 64;

/// Pinned memory in places of one size that are taken in turn, and for each the event after its last use.
struct Ring {
    at: *mut u8,
    /// Bytes of all places, and of one.
    whole: usize,
    size: usize,
    used: Vec<sys::CUevent>,
    next: usize,
}

impl Ring {
    /// In the bound context.
    fn new(places: usize, size: usize) -> Result<Ring, DriverError> {
        // No flags: the processor reads what comes back, and write-combined memory would be slow for that.
        // SAFETY: the context is bound; bytes are copied in before they are read.
        let at = unsafe { result::malloc_host(places * size, 0) }?;
        let mut ring =
            Ring { at: at.cast(), whole: places * size, size, used: Vec::with_capacity(places), next: 0 };
        for _ in 0..places {
            ring.used.push(result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?);
        }
        Ok(ring)
    }

    /// Place i.
    fn place(&self, i: usize) -> *mut u8 {
        assert!(i < self.used.len(), "place {i} of {}", self.used.len());
        // SAFETY: there are as many places as events.
        unsafe { self.at.add(i * self.size) }
    }

    /// Copies at most a place's bytes to the device. Waits only for the copy that used the place before.
    ///
    /// # Safety
    /// As many bytes from `to` on are allocated; the stream is of the bound context.
    unsafe fn send(&mut self, stream: sys::CUstream, to: Address, part: &[u8]) -> Result<(), DriverError> {
        assert!(part.len() <= self.size, "a copy larger than its place");
        let (place, used) = (self.place(self.next), self.used[self.next]);
        // SAFETY: the last copy from the place is over once its event is; the part is no longer than it.
        unsafe {
            result::event::synchronize(used)?;
            let pinned = std::slice::from_raw_parts_mut(place, part.len());
            pinned.copy_from_slice(part);
            result::memcpy_htod_async(to, pinned, stream)?;
            result::event::record(used, stream)?;
        }
        self.next = (self.next + 1) % self.used.len();
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: memory and events were made in `new`, and the owner waited for all copies. A device that is lost has lost
        // them too. Shares lay here: they go before the memory does.
        unsafe {
            for used in &self.used {
                let _ = result::event::destroy(*used);
            }
            self.at.write_bytes(0, self.whole);
            let _ = result::free_host(self.at.cast());
        }
    }
}

/// What copies go through. Small ones have places of their own, so that they need not wait for the device to be done with
/// what was asked of it before.
pub(super) struct Staging {
    small: Mutex<Ring>,
    to_device: Mutex<Ring>,
    to_host: Mutex<Ring>,
}

impl Staging {
    /// In the bound context.
    pub(super) fn new() -> Result<Staging, DriverError> {
        let ring = |places, size| Ring::new(places, size).map(Mutex::new);
        Ok(Staging { small: ring(SLOTS, SMALL)?, to_device: ring(2, PIECE)?, to_host: ring(2, PIECE)? })
    }

    /// See [`super::Driver::copy_in`].
    ///
    /// # Safety
    /// As many bytes from `to` on are allocated; the stream is of the bound context.
    pub(super) unsafe fn copy_in(
        &self,
        stream: sys::CUstream,
        to: Address,
        from: &[u8],
    ) -> Result<(), DriverError> {
        let mut ring = lock(if from.len() <= SMALL { &self.small } else { &self.to_device });
        let size = ring.size;
        for (part, at) in from.chunks(size).zip((to..).step_by(size)) {
            // SAFETY: the caller's promise.
            unsafe { ring.send(stream, at, part) }?;
        }
        Ok(())
    }

    /// See [`super::Driver::copy_out`].
    ///
    /// # Safety
    /// As many bytes from `from` on are allocated; the stream is of the bound context.
    pub(super) unsafe fn copy_out(
        &self,
        stream: sys::CUstream,
        to: &mut [u8],
        from: Address,
    ) -> Result<(), DriverError> {
        let ring = lock(&self.to_host);
        let start = |i: usize, size: usize| {
            // SAFETY: what was in the place has been read; the part is no longer than it.
            unsafe {
                let pinned = std::slice::from_raw_parts_mut(ring.place(i % 2), size);
                result::memcpy_dtoh_async(pinned, from + (i * PIECE) as u64, stream)?;
                result::event::record(ring.used[i % 2], stream)
            }
        };
        let mut parts = to.chunks_mut(PIECE).enumerate().peekable();
        if let Some((i, part)) = parts.peek() {
            start(*i, part.len())?;
        }
        while let Some((i, part)) = parts.next() {
            if let Some((next, part)) = parts.peek() {
                start(*next, part.len())?;
            }
            // SAFETY: the copy into the place is over once its event is.
            unsafe {
                result::event::synchronize(ring.used[i % 2])?;
                part.copy_from_slice(std::slice::from_raw_parts(ring.place(i % 2), part.len()));
            }
        }
        Ok(())
    }
}

/// A thread that panicked left nothing half done that the next one would read.
fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(|e| e.into_inner())
}
