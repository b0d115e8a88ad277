//! Pinned memory of the host between a device and ordinary buffers, which the device could not read or write while the
//! program goes on.

use super::super::driver::Address;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::sync::{Mutex, MutexGuard};

/// Bytes of one piece.
const PIECE: usize = 4 << 20;

/// A piece of pinned memory, and the event after its last use.
struct Piece {
    at: *mut u8,
    used: sys::CUevent,
}

impl Piece {
    fn new() -> Result<Piece, DriverError> {
        // No flags: the processor reads what comes back, and write-combined memory would be slow for that.
        // SAFETY: the context is bound; bytes are copied in before they are read.
        let at = unsafe { result::malloc_host(PIECE, 0) }?;
        let used = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Piece { at: at.cast(), used })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: both were made in `new`, and the owner waited for all copies. A device that is lost has lost them too.
        unsafe {
            let _ = result::event::destroy(self.used);
            let _ = result::free_host(self.at.cast());
        }
    }
}

/// Two pieces for each direction: while the device copies one, the processor copies the other.
pub(super) struct Staging {
    to_device: Mutex<[Piece; 2]>,
    to_host: Mutex<[Piece; 2]>,
}

impl Staging {
    /// In the bound context.
    pub(super) fn new() -> Result<Staging, DriverError> {
        let two = || Ok(Mutex::new([Piece::new()?, Piece::new()?]));
        Ok(Staging { to_device: two()?, to_host: two()? })
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
        let mut pieces = lock(&self.to_device);
        for (i, part) in from.chunks(PIECE).enumerate() {
            let piece = &mut pieces[0];
            // SAFETY: the last copy from the piece is over once its event is; the part is no longer than it.
            unsafe {
                result::event::synchronize(piece.used)?;
                let pinned = std::slice::from_raw_parts_mut(piece.at, part.len());
                pinned.copy_from_slice(part);
                result::memcpy_htod_async(to + (i * PIECE) as u64, pinned, stream)?;
                result::event::record(piece.used, stream)?;
            }
            pieces.swap(0, 1);
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
        let pieces = lock(&self.to_host);
        let start = |i: usize, size: usize| {
            let piece = &pieces[i % 2];
            // SAFETY: what was in the piece has been read; the part is no longer than it.
            unsafe {
                let pinned = std::slice::from_raw_parts_mut(piece.at, size);
                result::memcpy_dtoh_async(pinned, from + (i * PIECE) as u64, stream)?;
                result::event::record(piece.used, stream)
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
            let piece = &pieces[i % 2];
            // SAFETY: the copy into the piece is over once its event is.
            unsafe {
                result::event::synchronize(piece.used)?;
                part.copy_from_slice(std::slice::from_raw_parts(piece.at, part.len()));
            }
        }
        Ok(())
    }
}

/// A thread that panicked left nothing half done that the next one would read.
fn lock(pieces: &Mutex<[Piece; 2]>) -> MutexGuard<'_, [Piece; 2]> {
    pieces.lock().unwrap_or_else(|e| e.into_inner())
}
