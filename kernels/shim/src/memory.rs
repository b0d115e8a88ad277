//! Memory that notices what is done to it.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes before and after each block of memory that nobody may touch.
const GUARD: usize = 256;
/// What they hold. As an index or a share it is wrong wherever it is used.
const NOISE: u8 = 0xa5;

/// Blocks of host memory in the place of a device's.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Bytes of each block, by its address.
    blocks: BTreeMap<u64, usize>,
    /// Addresses of blocks that were given back and have not come again.
    gone: BTreeSet<u64>,
    used: u64,
    capacity: u64,
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + 2 * GUARD, GUARD).expect("size of a block")
}

impl Memory {
    pub(crate) fn new(capacity: u64) -> Memory {
        Memory { blocks: BTreeMap::new(), gone: BTreeSet::new(), used: 0, capacity }
    }

    pub(crate) fn free_bytes(&self) -> (u64, u64) {
        (self.capacity - self.used, self.capacity)
    }

    /// A block full of noise, or `None` if there is no room.
    pub(crate) fn alloc(&mut self, bytes: u64) -> Option<u64> {
        if bytes > self.capacity - self.used {
            return None;
        }
        let size = usize::try_from(bytes).ok()?;
        assert!(size > 0, "a block without bytes");
        // SAFETY: the layout is not empty; all of it is written before anything is read.
        let at = unsafe {
            let start = alloc(layout(size));
            if start.is_null() {
                return None;
            }
            start.write_bytes(NOISE, size + 2 * GUARD);
            start.add(GUARD) as u64
        };
        self.blocks.insert(at, size);
        self.gone.remove(&at);
        self.used += bytes;
        Some(at)
    }

    /// Gives a block back.
    pub(crate) fn free(&mut self, at: u64) {
        self.check(at, "before it was freed");
        let size = self.blocks.remove(&at).expect("checked");
        self.gone.insert(at);
        self.used -= size as u64;
        // SAFETY: the block came from `alloc` with this layout, and is no longer known. Its content goes first: reading it
        // once more must not look right.
        unsafe {
            let start = (at as *mut u8).sub(GUARD);
            start.write_bytes(NOISE, size);
            dealloc(start, layout(size));
        }
    }

    /// Panics unless `at` is a live block and what lies around it is untouched.
    pub(crate) fn check(&self, at: u64, when: &str) {
        let Some(&size) = self.blocks.get(&at) else { panic!("{at:#x} is not a live block ({when})") };
        // SAFETY: both guards belong to the block.
        let whole = unsafe {
            let start = at as *const u8;
            [start.sub(GUARD), start.add(size)]
                .iter()
                .all(|guard| std::slice::from_raw_parts(*guard, GUARD).iter().all(|b| *b == NOISE))
        };
        assert!(whole, "something was written outside a block of {size} bytes ({when})");
    }

    /// Panics unless `bytes` from `at` on lie in one live block.
    pub(crate) fn check_range(&self, at: u64, bytes: u64, what: &str) {
        let block = self.blocks.range(..=at).next_back();
        let inside = block.is_some_and(|(start, size)| at - start + bytes <= *size as u64);
        assert!(inside, "{what}: {bytes} bytes at {at:#x} are not inside a live block");
    }

    /// Whether a block began here that was given back.
    pub(crate) fn is_gone(&self, at: u64) -> bool {
        self.gone.contains(&at) && self.block_of(at).is_none()
    }

    /// The block that `at` lies in; its end counts, where nothing may be read.
    pub(crate) fn block_of(&self, at: u64) -> Option<u64> {
        let (start, size) = self.blocks.range(..=at).next_back()?;
        (at - start <= *size as u64).then_some(*start)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for (at, size) in &self.blocks {
            // SAFETY: as in `free`.
            unsafe { dealloc((*at as *mut u8).sub(GUARD), layout(*size)) };
        }
    }
}
