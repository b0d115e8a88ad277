//! Host buffers that are used again.
//!
//! A gate makes and drops dozens of buffers of many megabytes. Given back to the system each time, they would come back as
//! fresh pages, which the kernel clears one by one: a fifth of the time of a pass. Each thread therefore keeps what it drops,
//! within bounds, and takes from there.
//!
//! Large ones ask for huge pages: in pages of 4 KiB, a core reads weights at two thirds of what its memory gives, as it waits
//! for translations of addresses (23 instead of 36 GB/s on a Zen 4, in a virtual machine).

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Shorter buffers are left to the allocator, which keeps them anyway.
const SMALL: usize = 1 << 13;
/// Words that a thread keeps at most (256 MiB).
const KEPT: usize = 1 << 25;

/// Words (4 MiB) from which on huge pages (2 MiB) are worth asking for.
const HUGE: usize = 1 << 19;

/// Asks for huge pages under a buffer's memory, where it has not been written to yet. Nothing comes of it where the system
/// has none.
fn in_huge_pages(buffer: Vec<u64>) -> Vec<u64> {
    #[cfg(target_os = "linux")]
    if buffer.capacity() >= HUGE {
        const PAGE: usize = 1 << 21;
        let start = (buffer.as_ptr() as usize).next_multiple_of(PAGE);
        let end = (buffer.as_ptr() as usize + 8 * buffer.capacity()) / PAGE * PAGE;
        // SAFETY: the range lies inside memory that this process has mapped, and advice changes no contents.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
    buffer
}

/// Tells the allocator of the C library to keep for this process what it frees, from now on, up to a GiB: messages of some MiB that
/// come and go, and are too short-lived and too many for buffers that threads keep, else are fresh pages each time. Whether it
/// does: only glibc is known to.
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let settings = [
            // Longer ones are few, and mapped and unmapped each.
            (libc::M_MMAP_THRESHOLD, 32 << 20),
            (libc::M_TRIM_THRESHOLD, 1 << 30),
            // An arena of a thread shrinks only as far as this.
            (libc::M_TOP_PAD, 64 << 20),
        ];
        // SAFETY: these change when memory is asked for and given back, and nothing else.
        settings.into_iter().all(|(setting, bytes)| unsafe { libc::mallopt(setting, bytes) } == 1)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// `n` zeros that no thread keeps for later.
pub(crate) fn lasting(n: usize) -> Vec<u64> {
    // Fresh pages are zero.
    in_huge_pages(vec![0; n])
}

thread_local! {
    static FREE: RefCell<Free> = const { RefCell::new(Free { buffers: Vec::new(), words: 0 }) };
}

struct Free {
    /// By capacity, ascending.
    buffers: Vec<Vec<u64>>,
    words: usize,
}

impl Free {
    /// A buffer for `n` words, not much longer, with words of its last use in it: `n` of them if there is such a one.
    fn take(&mut self, n: usize) -> Option<Vec<u64>> {
        let from = self.buffers.partition_point(|b| b.capacity() < n);
        let mut fitting = self.buffers[from..].iter().take_while(|b| b.capacity() / 4 <= n);
        let full = fitting.clone().position(|b| b.len() >= n);
        let at = from + full.or(fitting.next().map(|_| 0))?;
        let buffer = self.buffers.remove(at);
        self.words -= buffer.capacity();
        Some(buffer)
    }

    fn keep(&mut self, buffer: Vec<u64>) {
        let words = buffer.capacity();
        if words > KEPT / 2 {
            return;
        }
        while self.words + words > KEPT {
            // What was too long or too short for all that came since.
            self.words -= self.buffers.remove(0).capacity();
        }
        let at = self.buffers.partition_point(|b| b.capacity() < words);
        self.buffers.insert(at, buffer);
        self.words += words;
    }
}

/// An empty vector with room for `n` words.
pub(crate) fn empty(n: usize) -> Vec<u64> {
    let mut buffer = used(n).unwrap_or_else(|| in_huge_pages(Vec::with_capacity(n)));
    buffer.clear();
    buffer
}

/// A buffer for `n` words that has been in use.
fn used(n: usize) -> Option<Vec<u64>> {
    if n < SMALL { None } else { FREE.try_with(|f| f.borrow_mut().take(n)).ok().flatten() }
}

/// `n` words of any value, for whoever writes all of them: to clear them first takes a tenth of the time of ChaCha12.
pub(crate) fn unwritten(n: usize) -> Vec<u64> {
    match used(n) {
        Some(mut buffer) => {
            buffer.resize(n, 0);
            buffer
        }
        None => lasting(n),
    }
}

/// `n` zeros.
pub(crate) fn zeroed(n: usize) -> Vec<u64> {
    match used(n) {
        Some(mut buffer) => {
            buffer.clear();
            buffer.resize(n, 0);
            buffer
        }
        None => lasting(n),
    }
}

/// All parts, one after the other.
pub(crate) fn concat(parts: &[&[u64]]) -> Vec<u64> {
    let mut all = empty(parts.iter().map(|p| p.len()).sum());
    parts.iter().for_each(|p| all.extend_from_slice(p));
    all
}

/// Words in main memory. What was made here serves, once dropped, the thread that drops it again; what came from outside
/// goes back to the system, or a thread that uploads again and again would hoard.
#[derive(Debug)]
pub struct Buffer {
    words: Vec<u64>,
    ours: bool,
}

impl Buffer {
    /// Words that were made here.
    pub(crate) fn ours(words: Vec<u64>) -> Buffer {
        Buffer { words, ours: true }
    }
}

impl From<Vec<u64>> for Buffer {
    fn from(words: Vec<u64>) -> Buffer {
        Buffer { words, ours: false }
    }
}

impl Deref for Buffer {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.words
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        Buffer::ours(concat(&[&self.words]))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.ours && self.words.capacity() >= SMALL {
            let words = std::mem::take(&mut self.words);
            // At the end of a thread there is nothing to keep it for.
            let _ = FREE.try_with(|f| f.borrow_mut().keep(words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers and words that this thread keeps.
    fn kept() -> (usize, usize) {
        FREE.with(|f| {
            let f = f.borrow();
            assert_eq!(f.words, f.buffers.iter().map(Vec::capacity).sum::<usize>());
            assert!(f.buffers.is_sorted_by_key(Vec::capacity));
            (f.buffers.len(), f.words)
        })
    }

    #[test]
    fn what_is_dropped_serves_again_and_is_zero() {
        std::thread::spawn(|| {
            let first = Buffer::ours(vec![7; 2 * SMALL]);
            let place = first.as_ptr();
            drop(first);
            assert_eq!(kept(), (1, 2 * SMALL));
            let second = zeroed(SMALL + 1);
            assert_eq!(second.as_ptr(), place);
            assert!(second.iter().all(|w| *w == 0) && second.len() == SMALL + 1);
            assert_eq!(kept(), (0, 0));
            let copy = Buffer::ours(second).clone();
            assert_eq!(kept(), (1, 2 * SMALL));
            drop(copy);
            // Too long for so little, and too short for so much.
            assert_eq!(zeroed(10 * SMALL).len(), 10 * SMALL);
            drop(Buffer::ours(vec![1; 100 * SMALL]));
            drop(Buffer::from(vec![1; 5 * SMALL]));
            let before = kept();
            drop(zeroed(4 * SMALL));
            assert_eq!(kept(), before);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn words_to_be_written_are_neither_cleared_nor_missing() {
        std::thread::spawn(|| {
            drop(Buffer::ours(vec![7; 2 * SMALL]));
            let shorter = unwritten(SMALL);
            assert!(shorter.len() == SMALL && shorter.iter().all(|w| *w == 7));
            drop(Buffer::ours(shorter));
            let longer = unwritten(2 * SMALL);
            assert_eq!((longer.len(), longer[SMALL - 1], longer[SMALL]), (2 * SMALL, 7, 0));
            // What has as many words as are wanted comes before what has not, although that is not as long.
            let (mut short, full) = (vec![7; 2 * SMALL], vec![8; 3 * SMALL]);
            short.truncate(SMALL);
            drop([short, full].map(Buffer::ours));
            assert!(unwritten(2 * SMALL).iter().all(|w| *w == 8));
            // Whoever wants nothing, or zeros, finds no trace of it.
            let none = empty(SMALL);
            assert!(none.is_empty() && none.capacity() >= 2 * SMALL);
            drop(Buffer::ours(vec![7; 2 * SMALL]));
            assert!(zeroed(2 * SMALL).iter().all(|w| *w == 0));
            assert_eq!(unwritten(3), [0, 0, 0]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        std::thread::spawn(|| {
            let new = |words| Buffer::ours(Vec::with_capacity(words));
            let many: Vec<Buffer> = (0..40).map(|_| new(KEPT / 16)).collect();
            drop(many);
            assert_eq!(kept().1, KEPT);
            drop(new(KEPT));
            drop(Buffer::ours(vec![0; 8]));
            assert_eq!(kept().1, KEPT);
        })
        .join()
        .unwrap();
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn the_allocator_accepts_all_that_it_is_told() {
        assert!(keep_freed_memory());
    }

    #[test]
    fn parts_in_order() {
        assert_eq!(concat(&[&[1, 2], &[], &[3]]), [1, 2, 3]);
        assert_eq!(zeroed(3), [0, 0, 0]);
    }
}
