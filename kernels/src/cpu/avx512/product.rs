//! Tiles of matrix products.

use super::super::lanes::{PANEL, Tile};
use std::arch::asm;
use std::arch::x86_64::*;

/// Fetches what later tiles read while a tile is computed, evenly, and at once what the tile writes in the end. Fetching
/// never faults, wherever it points.
struct Fetch {
    next: *const u64,
    /// Lines for each step, with 16 fractional bits, and what has become due of them.
    each: usize,
    due: usize,
}

impl Fetch {
    /// For a tile of so many steps.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    fn new(t: &Tile<'_>, steps: usize) -> Fetch {
        for r in 0..t.rows {
            let c = t.c.as_ptr().wrapping_add(r * t.c_row);
            _mm_prefetch::<_MM_HINT_ET0>(c.cast());
            _mm_prefetch::<_MM_HINT_ET0>(c.wrapping_add(PANEL - 1).cast());
        }
        let (from, lines) = t.ahead;
        Fetch { next: t.b.as_ptr().wrapping_add(from), each: (lines << 16) / steps.max(1), due: 0 }
    }

    /// A step is taken.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    fn step(&mut self) {
        self.due += self.each;
        while self.due >= 1 << 16 {
            _mm_prefetch::<_MM_HINT_T1>(self.next.cast());
            self.next = self.next.wrapping_add(8);
            self.due -= 1 << 16;
        }
    }
}

/// `R` rows; `STRIP`: A's rows are consecutive words and its columns `R` words apart.
///
/// # Safety
/// `t.in_bounds()` and `t.rows == R`.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
pub(super) unsafe fn tile<const R: usize, const STRIP: bool>(t: Tile<'_>) {
    // The hardware stops prefetching at each 4 KiB page; the distances were found by measuring. With few rows a tile waits for
    // memory alone, and one fetch is enough. With more it computes for so long that what is fetched into the first level far enough
    // ahead is more than a core may wait for at once: far ahead B goes to the second level.
    let (far, near) = if R < 5 { (0, 512) } else { (2048, 256) };
    let mut acc = [[_mm512_setzero_si512(); 2]; R];
    // Scratch: an operand without a value has no type, and would be a shorter register.
    let mut product = [_mm512_setzero_si512(); 2];
    let (a, mut b) = (t.a.as_ptr(), t.b.as_ptr());
    let mut fetch = Fetch::new(&t, t.k);
    for l in 0..t.k {
        // Fewer rows read B once, at the speed of memory: nothing is to come between.
        if R == 8 {
            fetch.step();
        }
        // SAFETY: l < k, so rows l of B and columns l of A are in bounds; prefetching never faults; the assembly
        // reads one word of A.
        unsafe {
            let b0 = _mm512_loadu_si512(b.cast());
            let b1 = _mm512_loadu_si512(b.add(8).cast());
            for line in [0, 8] {
                if far > 0 {
                    _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(far + line).cast());
                }
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(near + line).cast());
            }
            if STRIP {
                _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(l * R + 128).cast());
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let a = if STRIP { a.add(l * R + r) } else { a.add(r * t.a_row + l * t.a_col) };
                // Both run on the multiplier's pipes, additions on others as well. Alternating, additions cost a
                // quarter of the products' time; in pairs, an order that compilers do not keep, a tenth.
                asm!(
                    "vpmullq {x0}, {b0}, [{a}]{{1to8}}",
                    "vpmullq {x1}, {b1}, [{a}]{{1to8}}",
                    "vpaddq {c0}, {c0}, {x0}",
                    "vpaddq {c1}, {c1}, {x1}",
                    a = in(reg) a,
                    b0 = in(zmm_reg) b0,
                    b1 = in(zmm_reg) b1,
                    c0 = inout(zmm_reg) acc[0],
                    c1 = inout(zmm_reg) acc[1],
                    x0 = out(zmm_reg) product[0],
                    x1 = out(zmm_reg) product[1],
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
        }
        b = b.wrapping_add(t.b_row);
    }
    // SAFETY: the tile is in bounds and has R rows.
    unsafe { store(t, &acc) }
}

/// Writes a tile's sums or adds them.
///
/// # Safety
/// `t.in_bounds()` and `t.rows == R`.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
unsafe fn store<const R: usize>(t: Tile<'_>, acc: &[[__m512i; 2]; R]) {
    let mask = (1u32 << t.cols).wrapping_sub(1);
    let masks = [mask as u8, (mask >> 8) as u8];
    for (r, acc) in acc.iter().enumerate() {
        for (v, (&mask, &acc)) in masks.iter().zip(acc).enumerate() {
            let c = t.c.as_mut_ptr().wrapping_add(r * t.c_row + 8 * v).cast();
            // SAFETY: the mask keeps both accesses inside the tile's `cols` columns of row r.
            unsafe {
                let old =
                    if t.accumulate { _mm512_maskz_loadu_epi64(mask, c) } else { _mm512_setzero_si512() };
                _mm512_mask_storeu_epi64(c, mask, _mm512_add_epi64(old, acc));
            }
        }
    }
}

/// The paired tiles: one product and three additions for two multiply-adds, which fill both the pipes of the products and
/// the others, in any order. `$add` is acc + p·q.
macro_rules! paired {
    ($(#[$doc:meta])* $name:ident, $features:literal, $add:expr) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const R: usize, const STRIP: bool>(t: Tile<'_>) {
            const AHEAD: usize = 512;
            let mut acc = [[_mm512_setzero_si512(); 2]; R];
            let (a, mut b) = (t.a.as_ptr(), t.b.as_ptr());
            let mut fetch = Fetch::new(&t, t.k / 2);
            let at = |r: usize, l: usize| {
                let offset = if STRIP { l * R + r } else { r * t.a_row + l * t.a_col };
                // SAFETY: r < R and l < k, so the word is in bounds.
                _mm512_set1_epi64(unsafe { *a.add(offset) } as i64)
            };
            // SAFETY: rows l and l + 1 of B are in bounds wherever l and l + 1 are below k; prefetching never faults.
            unsafe {
                let row = |b: *const u64| [_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(8).cast())];
                for l in (1..t.k).step_by(2) {
                    fetch.step();
                    let next = b.wrapping_add(t.b_row);
                    for ahead in [b, b.wrapping_add(8), next, next.wrapping_add(8)] {
                        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(AHEAD).cast());
                    }
                    if STRIP {
                        _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(l * R + 128).cast());
                        _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(l * R + 136).cast());
                    }
                    let (even, odd) = (row(b), row(next));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let (x, y) = (at(r, l - 1), at(r, l));
                        for v in 0..2 {
                            let (p, q) = (_mm512_add_epi64(x, odd[v]), _mm512_add_epi64(y, even[v]));
                            acc[v] = $add(acc[v], p, q);
                        }
                    }
                    b = next.wrapping_add(t.b_row);
                }
                if t.k % 2 == 1 {
                    let last = row(b);
                    for (r, acc) in acc.iter_mut().enumerate() {
                        for v in 0..2 {
                            acc[v] = $add(acc[v], at(r, t.k - 1), last[v]);
                        }
                    }
                }
            }
            // SAFETY: the tile is in bounds and has R rows.
            unsafe { store(t, &acc) }
        }
    };
}

paired!(
    /// The paired tile of `R` rows.
    ///
    /// # Safety
    /// `t.in_bounds()` and `t.rows == R`.
    paired,
    "avx512f,avx512dq,avx512bw,avx512vl",
    |sum, p, q| _mm512_add_epi64(sum, _mm512_mullo_epi64(p, q))
);

paired!(
    /// The same modulo 2^52, bits above are of no meaning: factors count their low 52 bits, and a product adds the low 52
    /// of its own to a sum, which saves one addition of three.
    ///
    /// # Safety
    /// As for [`paired`], and this processor has IFMA.
    paired_low,
    "avx512f,avx512dq,avx512bw,avx512vl,avx512ifma",
    |sum, p, q| _mm512_madd52lo_epu64(sum, p, q)
);
