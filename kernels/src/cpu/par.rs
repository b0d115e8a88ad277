//! When to use several threads: only where the work is much longer than waking them takes.

use rayon::prelude::*;

/// Words (8 KiB) that stay in the first-level cache between two passes over them.
pub(super) const PIECE: usize = 1 << 10;

/// Words of memory traffic that pay for waking the other threads.
pub(super) const WORDS: usize = 1 << 16;

/// Calls `f(i, chunk i)` for each `size` words of `out`, on all threads if `out` is large.
pub(super) fn chunks(out: &mut [u64], size: usize, f: impl Fn(usize, &mut [u64]) + Sync + Send) {
    chunks_if(out.len() >= WORDS, out, size, f);
}

/// Calls `f(i, chunk i)` for each `size` elements of `out`, on all threads if `parallel`.
pub(super) fn chunks_if<T: Send>(
    parallel: bool,
    out: &mut [T],
    size: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    if size == 0 {
        return;
    }
    // A pool of one thread would only add two thread switches.
    if parallel && out.len() > size && rayon::current_num_threads() > 1 {
        out.par_chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c));
    } else {
        out.chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c));
    }
}
