//! Host buffers that are used again.
//!
//! A gate makes and drops dozens of buffers of many megabytes. Given back to the system each time, they would come back as
//! fresh pages, which the kernel clears one by one: a fifth of the time of a pass. The process therefore keeps what is dropped,
//! within bounds, and takes from there: whichever thread it was, as each session has a thread of its own.
//!
//! Large ones ask for huge pages: in pages of 4 KiB, a core reads weights at two thirds of what its memory gives, as it waits
//! for translations of addresses (23 instead of 36 GB/s on a Zen 4, in a virtual machine).

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shorter buffers are left to the allocator, which keeps them anyway.
const SMALL: usize = 1 << 13;
/// Words that are kept at most (1 GiB).
const KEPT: usize = 1 << 27;

/// Words (1 MiB) from which on huge pages (2 MiB) are worth asking for.
const HUGE: usize = 1 << 17;

/// Asks for huge pages under a buffer's memory. Fresh pages are huge from the beginning then; but where the allocator gives memory that
/// has been in use, as it does for most of a model's weights, its small pages have to be copied together. Nothing comes of either
/// where the system has no huge pages, or cannot do that (Linux before 6.1).
fn in_huge_pages(buffer: Vec<u64>) -> Vec<u64> {
    #[cfg(target_os = "linux")]
    if buffer.capacity() >= HUGE {
        const PAGE: usize = 1 << 21;
        const MADV_COLLAPSE: libc::c_int = 25;
        // All pages that have a part of it: what else is in them is as well off.
        let start = buffer.as_ptr() as usize / PAGE * PAGE;
        let end = (buffer.as_ptr() as usize + 8 * buffer.capacity()).next_multiple_of(PAGE);
        for page in (start..end).step_by(PAGE) {
            for advice in [libc::MADV_HUGEPAGE, MADV_COLLAPSE] {
                // SAFETY: advice changes no contents, of this buffer or of what is beside it.
                // An error is no harm: not all of the page may be mapped.
                unsafe { libc::madvise(page as *mut libc::c_void, PAGE, advice) };
            }
        }
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

/// `n` zeros in a buffer of its own.
pub(crate) fn lasting(n: usize) -> Vec<u64> {
    // Fresh pages are zero.
    in_huge_pages(vec![0; n])
}

static FREE: Mutex<Free> = Mutex::new(Free { buffers: Vec::new(), words: 0 });

/// What is free is right whatever panics beside it.
fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Free {
    /// By capacity, ascending.
    buffers: Vec<Vec<u64>>,
    words: usize,
}

impl Free {
    /// A buffer for `n` words, hardly longer, with words of its last use in it: `n` of them if there is such a one. Cut to much
    /// less it would have to be cleared again for the next use of its kind.
    fn take(&mut self, n: usize) -> Option<Vec<u64>> {
        let from = self.buffers.partition_point(|b| b.capacity() < n);
        let mut fitting = self.buffers[from..].iter().take_while(|b| b.capacity() / 5 * 4 <= n);
        let full = fitting.clone().position(|b| b.len() >= n);
        let at = from + full.or(fitting.next().map(|_| 0))?;
        let buffer = self.buffers.remove(at);
        self.words -= buffer.capacity();
        Some(buffer)
    }

    fn keep(&mut self, buffer: Vec<u64>) {
        let words = buffer.capacity();
        if words > KEPT / 8 {
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
    if n < SMALL { None } else { free().take(n) }
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

/// Words in main memory. What was made here serves again, once dropped; what came from outside goes back to the system, or who
/// uploads again and again would hoard.
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
            free().keep(std::mem::take(&mut self.words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Free {
        Free { buffers: vec![], words: 0 }
    }

    /// Buffers and words that are kept.
    fn kept(f: &Free) -> (usize, usize) {
        assert_eq!(f.words, f.buffers.iter().map(Vec::capacity).sum::<usize>());
        assert!(f.buffers.is_sorted_by_key(Vec::capacity));
        (f.buffers.len(), f.words)
    }

    #[test]
    fn what_is_dropped_serves_again() {
        let mut pool = pool();
        let first = vec![7; 5 * SMALL];
        let place = first.as_ptr();
        pool.keep(first);
        assert_eq!(kept(&pool), (1, 5 * SMALL));
        // Too long for so little, and too short for so much.
        assert!(pool.take(4 * SMALL - 1).is_none() && pool.take(5 * SMALL + 1).is_none());
        let second = pool.take(4 * SMALL).expect("a buffer that fits");
        assert_eq!((second.as_ptr(), second.len(), kept(&pool)), (place, 5 * SMALL, (0, 0)));
    }

    #[test]
    fn what_has_as_many_words_as_are_wanted_comes_first() {
        let mut pool = pool();
        let (mut short, full) = (vec![7; 5 * SMALL], vec![8; 6 * SMALL]);
        short.truncate(SMALL);
        pool.keep(short);
        pool.keep(full);
        assert_eq!(pool.take(5 * SMALL).expect("the longer one")[0], 8);
        assert_eq!(pool.take(5 * SMALL).expect("the other one").len(), SMALL);
    }

    /// All through what all threads share.
    #[test]
    fn words_to_be_written_have_any_value_and_zeros_are_zero() {
        for n in [3, SMALL, 3 * SMALL + 1, 100 * SMALL] {
            for _ in 0..3 {
                drop(Buffer::ours(vec![7; n]));
                drop(Buffer::ours(vec![7; n]));
                assert_eq!(unwritten(n).len(), n);
                assert!(zeroed(n).iter().all(|w| *w == 0) && zeroed(n).len() == n);
                let none = empty(n);
                assert!(none.is_empty() && none.capacity() >= n);
                let copy = Buffer::ours(vec![9; n]).clone();
                assert!(copy.len() == n && copy.iter().all(|w| *w == 9));
            }
        }
        // One that was cut is as long as is wanted again.
        let mut cut = vec![7; 50 * SMALL];
        cut.truncate(1);
        drop(Buffer::ours(cut));
        assert_eq!(unwritten(50 * SMALL).len(), 50 * SMALL);
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let mut pool = pool();
        (0..40).for_each(|_| pool.keep(Vec::with_capacity(KEPT / 16)));
        assert_eq!(kept(&pool).1, KEPT);
        pool.keep(Vec::with_capacity(KEPT));
        assert_eq!(kept(&pool).1, KEPT);
        // Nor what came from outside: no other test has buffers of this size.
        drop(Buffer::from(vec![5; 77 * SMALL]));
        assert!(free().buffers.iter().all(|b| b.capacity() != 77 * SMALL));
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
