//! Products of matrices by a processor's tiles of bytes (Intel AMX).
//!
//! A word is Σ a_i·2^(8i), i below 8, and a product of words, modulo 2^64, Σ 2^(8s)·Σ a_i·b_(s−i), s below 8 and i up to s:
//! 36 products of bytes, modulo 2^56 28 and modulo 2^48 21. One instruction multiplies 16 × 64 by 64 × 16 bytes and adds the
//! products to sums of 32 bits, in 16 cycles: 28 multiply-adds of words a cycle (36 modulo 2^56), where vectors start 5 to 8.
//!
//! It is exact: sum number s counts 2^(8s), so that of those from s = 4 on 32 bits are all that is needed, and the others have
//! at most four products of 255² for each input, which is less than 2^32 for a [`BLOCK`] of inputs.
//!
//! Both matrices are split into planes, one for each limb. A's are split once. B's two panels are split block by block, in the
//! order of limbs that lets a sum's products run through both matrices' planes from start to end.

use crate::buffer::{self, Buffer};
use crate::cpu::gemm::panel_words;
use crate::cpu::lanes::{PANEL, PanelPairs};
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::LazyLock;

/// Rows of a tile, and outputs of one.
const TILE: usize = 16;
/// Inputs of a tile: one step.
const STEP: usize = 64;
/// Steps of a block at most, so that two panels' planes and those of 32 rows are 256 KiB of the second-level cache.
const BLOCK: usize = 8;
/// Cache lines of a step of two tiles.
const PAIR: usize = 2 * TILE;

/// A row of a tile.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u64; 8]);

/// The lines inside a buffer of words. No line crosses the border between two of the cache's, which would take it twice as long.
struct Lines(Buffer);

impl Lines {
    /// Of any value.
    fn unwritten(n: usize) -> Lines {
        Lines(Buffer::ours(buffer::unwritten(8 * n + 7)))
    }

    fn get(&self) -> &[Line] {
        // SAFETY: any eight words are a line.
        unsafe { self.0.align_to().1 }
    }

    fn get_mut(&mut self) -> &mut [Line] {
        // SAFETY: any eight words are a line.
        unsafe { self.0.align_to_mut().1 }
    }
}

/// Whether the processor has these tiles, and the system lets this process use them, for which it must be asked once.
pub(super) fn detect() -> bool {
    static TILES: LazyLock<bool> = LazyLock::new(|| {
        // Leaf 7: tiles, and products of bytes.
        const TILES_AND_BYTES: u32 = 1 << 24 | 1 << 25;
        let processor = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES_AND_BYTES == TILES_AND_BYTES;
        processor && is_x86_feature_detected!("avx512vbmi") && granted()
    });
    *TILES
}

/// Whether this is faster than vectors of words, as measured. What few rows wait for is memory, and from 32 rows on, products modulo
/// 2^52 or less have pairs of inputs and a vector instruction that needs no addition.
pub(super) fn faster(rows: usize, bits: u32) -> bool {
    match rows {
        0..16 => false,
        32..64 => bits > 52,
        _ => true,
    }
}

#[cfg(target_os = "linux")]
fn granted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: asks for larger signal frames and saved tiles, of this process; a system that does not know it refuses.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn granted() -> bool {
    false
}

/// The left matrix, split: for each block of steps, each pair of tiles' rows, each limb, and each step, two tiles of lines.
pub(super) struct Split {
    planes: Lines,
    m: usize,
    k: usize,
    /// Limbs that count: the modulus is 2^(8·limbs) or less.
    limbs: usize,
    /// What results are masked with.
    mask: u64,
    /// Steps of each block but the last.
    block: usize,
}

impl Split {
    /// A's m × k words, for products modulo 2^bits.
    ///
    /// # Safety
    /// [`detect`] has said yes.
    pub(super) unsafe fn new(a: &[u64], [m, k]: [usize; 2], bits: u32) -> Split {
        let limbs = bits.div_ceil(8) as usize;
        let mask = if bits < 64 { (1 << bits) - 1 } else { u64::MAX };
        let steps = k.div_ceil(STEP);
        let block = steps.div_ceil(steps.div_ceil(BLOCK));
        let pairs = m.div_ceil(PAIR);
        let planes = Lines::unwritten(pairs * steps * limbs * PAIR);
        let mut split = Split { planes, m, k, limbs, mask, block };
        for row in 0..pairs * PAIR {
            for step in 0..steps {
                let from = if row < m { &a[row * k..][..k][step * STEP..] } else { &[] };
                let mut padded = [0; STEP];
                let words = match from.first_chunk() {
                    Some(words) => words,
                    None => {
                        padded[..from.len()].copy_from_slice(from);
                        &padded
                    }
                };
                let (first, count) = split.block_of(step);
                let at = split.plane(row / PAIR, first) + (step - first) * PAIR + row % PAIR;
                // SAFETY: as for this function.
                let lines = unsafe { split_words(words) };
                for (limb, line) in lines.into_iter().take(limbs).enumerate() {
                    split.planes.get_mut()[at + limb * count * PAIR] = line;
                }
            }
        }
        split
    }

    /// The first step of the block of a step, and its number of steps.
    fn block_of(&self, step: usize) -> (usize, usize) {
        let first = step / self.block * self.block;
        (first, self.block.min(self.k.div_ceil(STEP) - first))
    }

    /// Where the planes of a pair of tiles' rows begin, in the block that begins with step `first`.
    fn plane(&self, pair: usize, first: usize) -> usize {
        let (_, count) = self.block_of(first);
        (first * self.m.div_ceil(PAIR) + pair * count) * self.limbs * PAIR
    }
}

impl PanelPairs for Split {
    fn outputs(&self, panels: &[u64], cols: usize, c: &mut [u64], at: usize, c_row: usize) {
        let words = panel_words(self.k);
        assert!(
            panels.len() == cols.div_ceil(PANEL) * words && (1..=2 * PANEL).contains(&cols),
            "one or two panels"
        );
        assert!(c.len() >= (self.m - 1) * c_row + at + cols, "product outside its buffer");
        let pairs = self.m.div_ceil(PAIR);
        let mut planes = Lines::unwritten(self.block * self.limbs * PAIR);
        let mut sums = Lines::unwritten(4 * TILE * self.limbs);
        let mut first = 0;
        while first * STEP < self.k {
            let (_, count) = self.block_of(first);
            let plane = count * PAIR;
            let b = &mut planes.get_mut()[..self.limbs * plane];
            for (half, panel) in panels.chunks_exact(words).enumerate() {
                let rows = &panel[first * STEP * PANEL..self.k * PANEL];
                // SAFETY: a `Split` exists only after detection.
                unsafe { split_panel(rows, count, half, b) };
            }
            // The block behind this one, of these panels or the next two: two lines for each input of each panel, in equal
            // shares of the steps.
            let last = (first + count) * STEP >= self.k;
            let next = if last { 2 * words } else { (first + count) * STEP * PANEL };
            let steps = pairs * count * self.limbs * (self.limbs + 1) / 2;
            let each = (2 * count * STEP).div_ceil(steps);
            for pair in 0..pairs {
                let a = &self.planes.get()[self.plane(pair, first)..][..self.limbs * plane];
                let rows = PAIR.min(self.m - pair * PAIR);
                let ahead = Ahead {
                    at: panels.as_ptr().wrapping_add(next + pair * (steps / pairs) * each * 8),
                    gap: 8 * words,
                    each,
                };
                // SAFETY: a `Split` exists only after detection; all planes are of these sizes.
                unsafe { multiply(a, b, sums.get_mut(), plane, rows > TILE, ahead) };
                let join =
                    Join { sums: sums.get(), limbs: self.limbs, accumulate: first > 0, mask: self.mask };
                for row in 0..rows {
                    let c = &mut c[(pair * PAIR + row) * c_row + at..][..cols];
                    for (half, c) in c.chunks_mut(PANEL).enumerate() {
                        // SAFETY: a `Split` exists only after detection.
                        unsafe { join.row(2 * (row / TILE) + half, row % TILE, c) };
                    }
                }
            }
            first += count;
        }
    }
}

/// The limbs of 64 words, a line each.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn split_words(words: &[u64; STEP]) -> [Line; 8] {
    // Byte 8i + j is byte 8j + i.
    const TRANSPOSED: [u8; 64] = {
        let mut order = [0; 64];
        let mut i = 0;
        while i < 64 {
            order[i] = (i % 8 * 8 + i / 8) as u8;
            i += 1;
        }
        order
    };
    // SAFETY: all accesses are to whole arrays of 64 bytes.
    let line = |at: *const u64| unsafe { _mm512_loadu_si512(at.cast()) };
    let order = line(TRANSPOSED.as_ptr().cast());
    let mut w = [_mm512_setzero_si512(); 8];
    for (w, words) in w.iter_mut().zip(words.as_chunks::<8>().0) {
        *w = _mm512_permutexvar_epi8(order, line(words.as_ptr()));
    }
    // Word j of w[i] is limb j of words 8i to 8i + 7: the 8 × 8 words are transposed.
    let mut out = [Line([0; 8]); 8];
    for odd in 0..2 {
        let mut u = [_mm512_setzero_si512(); 4];
        for (u, w) in u.iter_mut().zip(w.as_chunks::<2>().0) {
            *u = if odd == 0 { _mm512_unpacklo_epi64(w[0], w[1]) } else { _mm512_unpackhi_epi64(w[0], w[1]) };
        }
        let low = [_mm512_shuffle_i64x2::<0x88>(u[0], u[1]), _mm512_shuffle_i64x2::<0x88>(u[2], u[3])];
        let high = [_mm512_shuffle_i64x2::<0xdd>(u[0], u[1]), _mm512_shuffle_i64x2::<0xdd>(u[2], u[3])];
        let limbs = [
            _mm512_shuffle_i64x2::<0x88>(low[0], low[1]),
            _mm512_shuffle_i64x2::<0x88>(high[0], high[1]),
            _mm512_shuffle_i64x2::<0xdd>(low[0], low[1]),
            _mm512_shuffle_i64x2::<0xdd>(high[0], high[1]),
        ];
        for (i, limb) in limbs.into_iter().enumerate() {
            // SAFETY: a line is 64 bytes.
            unsafe { _mm512_store_si512(out[2 * i + odd].0.as_mut_ptr().cast(), limb) };
        }
    }
    out
}

/// One of two panels' rows from the block's first input on, split: planes of the limbs, the last limb's first, of `count` steps of two
/// tiles. Line r of a tile holds, for each output, four bytes: those of inputs 4r to 4r + 3. Outputs are in the order in which
/// [`Join`] finds them.
#[target_feature(enable = "avx512f,avx512bw")]
fn split_panel(rows: &[u64], count: usize, half: usize, planes: &mut [Line]) {
    let limbs = planes.len() / (count * PAIR);
    assert!((1..=8).contains(&limbs) && planes.len() == limbs * count * PAIR && half < 2);
    for four in 0..count * STEP / 4 {
        let from = &rows[(4 * PANEL * four).min(rows.len())..];
        let mut rest = [0; 4 * PANEL];
        let from = match from.first_chunk() {
            Some(four) => four,
            // Behind the last input: zeros.
            None => {
                rest[..from.len()].copy_from_slice(from);
                &rest
            }
        };
        // SAFETY: the four rows have 8 vectors.
        let row =
            |i: usize, h: usize| unsafe { _mm512_loadu_si512(from.as_ptr().add(PANEL * i + 8 * h).cast()) };
        // For outputs 8h + 2p + e, p the 128-bit lane: limbs 0 to 3 and 4 to 7 of four inputs each.
        let mut v = [[_mm512_setzero_si512(); 4]; 2];
        for h in 0..2 {
            let [r0, r1, r2, r3] = [row(0, h), row(1, h), row(2, h), row(3, h)];
            let (even, next) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpacklo_epi8(r2, r3));
            v[0][2 * h] = _mm512_unpacklo_epi16(even, next);
            v[1][2 * h] = _mm512_unpackhi_epi16(even, next);
            let (odd, next) = (_mm512_unpackhi_epi8(r0, r1), _mm512_unpackhi_epi8(r2, r3));
            v[0][2 * h + 1] = _mm512_unpacklo_epi16(odd, next);
            v[1][2 * h + 1] = _mm512_unpackhi_epi16(odd, next);
        }
        let line = (four / TILE) * PAIR + half * TILE + four % TILE;
        for (q, v) in v.iter().enumerate() {
            let low = [_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3])];
            let high = [_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3])];
            let four = [
                _mm512_unpacklo_epi64(low[0], low[1]),
                _mm512_unpackhi_epi64(low[0], low[1]),
                _mm512_unpacklo_epi64(high[0], high[1]),
                _mm512_unpackhi_epi64(high[0], high[1]),
            ];
            for (limb, bytes) in (4 * q..limbs).zip(four) {
                let line = &mut planes[(limbs - 1 - limb) * count * PAIR + line];
                // SAFETY: a line is 64 bytes.
                unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), bytes) };
            }
        }
    }
}

/// What to fetch meanwhile: each step, `each` lines of two panels that are `gap` bytes apart. It need not lie in any buffer.
struct Ahead {
    at: *const u64,
    gap: usize,
    each: usize,
}

/// Eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

static CONFIGURATION: Configuration = {
    let mut c = [0; 64];
    c[0] = 1; // palette
    let mut tile = 0;
    while tile < 8 {
        c[16 + 2 * tile] = 64; // bytes of a row, 16 bits
        c[48 + tile] = 16; // rows
        tile += 1;
    }
    Configuration(c)
};

/// Multiplies four pairs of tiles `rounds` times; the number of products of words that these products of bytes would make.
///
/// # Safety
/// [`detect`] has said yes.
pub(super) unsafe fn multiply_registers(rounds: usize) -> usize {
    // SAFETY: tiles are configured, cleared, multiplied and released.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "tilezero tmm4",
            "tilezero tmm5",
            "tilezero tmm6",
            "tilezero tmm7",
            "2:",
            "tdpbuud tmm0, tmm4, tmm6",
            "tdpbuud tmm1, tmm4, tmm7",
            "tdpbuud tmm2, tmm5, tmm6",
            "tdpbuud tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            configuration = in(reg) &raw const CONFIGURATION,
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    rounds.max(1) * 4 * TILE * TILE * STEP / 36
}

/// For each limb s, four tiles of 32-bit sums Σ a_i·b_(s−i) over a block's steps: of the first tile's rows with the first and the
/// second panel, and, if there are `two` tiles of rows, of the second's.
///
/// # Safety
/// [`detect`] has said yes.
unsafe fn multiply(a: &[Line], b: &[Line], sums: &mut [Line], plane: usize, two: bool, ahead: Ahead) {
    let limbs = a.len() / plane;
    assert!(limbs >= 1 && plane >= PAIR && plane.is_multiple_of(PAIR), "planes of whole steps");
    assert!(
        a.len() == limbs * plane && b.len() == a.len() && sums.len() >= limbs * 4 * TILE,
        "planes and sums"
    );
    // A sum's products run through A's planes from the first limb to limb s, and through B's from limb s to the first, which is
    // its last plane; those of the next sum run back from there, over what is still in the first-level cache.
    macro_rules! multiply {
        ($($second:literal)*; $($sums:literal)*) => {
            asm!(
                "ldtilecfg [{r}]",
                "2:",
                multiply!(@ zero),
                "mov {b}, {from}",
                "3:",
                multiply!(@ step $($second)*),
                "add {a}, 2048",
                "add {b}, 2048",
                "cmp {b}, {end}",
                "jb 3b",
                multiply!(@ store $($sums)*),
                "jb 5f",
                multiply!(@ zero),
                "add {a}, {plane}",
                "4:",
                "sub {a}, 2048",
                "sub {b}, 2048",
                multiply!(@ step $($second)*),
                "cmp {b}, {from}",
                "ja 4b",
                multiply!(@ store $($sums)*),
                "jae 2b",
                "5:",
                "tilerelease",
                r = inout(reg) &raw const CONFIGURATION => _,
                a = inout(reg) a.as_ptr() => _,
                b = out(reg) _,
                from = inout(reg) b.as_ptr().wrapping_add((limbs - 1) * plane) => _,
                first = in(reg) b.as_ptr(),
                end = in(reg) b.as_ptr().wrapping_add(limbs * plane),
                plane = in(reg) 64 * plane,
                line = in(reg) 64usize,
                sums = inout(reg) sums.as_mut_ptr() => _,
                ahead = inout(reg) ahead.at => _,
                gap = in(reg) ahead.gap,
                each = in(reg) ahead.each.max(1),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
        (@ zero) => { "tilezero tmm0\ntilezero tmm1\ntilezero tmm2\ntilezero tmm3" };
        (@ step $($second:literal)*) => {
            concat!(
                "tileloadd tmm4, [{a} + {line}]\n",
                "tileloadd tmm6, [{b} + {line}]\n",
                "tileloadd tmm7, [{b} + {line} + 1024]\n",
                "tdpbuud tmm0, tmm4, tmm6\n",
                "tdpbuud tmm1, tmm4, tmm7\n",
                $($second, "\n",)*
                "mov {r}, {each}\n",
                "6: prefetcht1 [{ahead}]\n",
                "prefetcht1 [{ahead} + {gap}]\n",
                "add {ahead}, {line}\n",
                "dec {r}\n",
                "jnz 6b",
            )
        };
        // Leaves the flags of whether there is another sum.
        (@ store $($sums:literal)*) => {
            concat!(
                "tilestored [{sums} + {line}], tmm0\n",
                "tilestored [{sums} + {line} + 1024], tmm1\n",
                $($sums, "\n",)*
                "add {sums}, 4096\n",
                "sub {from}, {plane}\n",
                "cmp {from}, {first}",
            )
        };
    }
    // SAFETY: tiles are configured and released here. Loads of sum s run over s + 1 planes from A's start and as many up to B's
    // end, forwards or backwards, and stores fill four tiles of `sums` for each. Prefetching never faults.
    unsafe {
        if two {
            multiply!(
                "tileloadd tmm5, [{a} + {line} + 1024]"
                "tdpbuud tmm2, tmm5, tmm6"
                "tdpbuud tmm3, tmm5, tmm7";
                "tilestored [{sums} + {line} + 2048], tmm2"
                "tilestored [{sums} + {line} + 3072], tmm3"
            );
        } else {
            multiply!(;);
        }
    }
}

/// Words from their sums.
struct Join<'a> {
    sums: &'a [Line],
    limbs: usize,
    accumulate: bool,
    mask: u64,
}

impl Join<'_> {
    /// c ← (c +) Σ sum_s·2^(8s), masked, for a row of one of the four tiles.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn row(&self, tile: usize, row: usize, c: &mut [u64]) {
        let sum = |s: usize| {
            if s >= self.limbs {
                return _mm512_setzero_si512();
            }
            let line = &self.sums[(4 * s + tile) * TILE + row];
            // SAFETY: a line is 64 bytes.
            unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
        };
        let mut halves = [_mm512_setzero_si512(); 2];
        // Sums s and s + 4 make a word, sum_s + 2^32·sum_(s+4); horner's rule from the last.
        for s in (0..4).rev() {
            let (low, high) = (sum(s), sum(s + 4));
            let words = [_mm512_unpacklo_epi32(low, high), _mm512_unpackhi_epi32(low, high)];
            for (half, words) in halves.iter_mut().zip(words) {
                *half = _mm512_add_epi64(_mm512_slli_epi64::<8>(*half), words);
            }
        }
        let present = (1u32 << c.len().min(PANEL)).wrapping_sub(1);
        for (v, half) in halves.into_iter().enumerate() {
            let (present, c) = ((present >> (8 * v)) as u8, c.as_mut_ptr().wrapping_add(8 * v));
            // SAFETY: the mask keeps both accesses inside `c`.
            unsafe {
                let old = if self.accumulate {
                    _mm512_maskz_loadu_epi64(present, c.cast())
                } else {
                    _mm512_setzero_si512()
                };
                let word = _mm512_and_si512(_mm512_add_epi64(old, half), _mm512_set1_epi64(self.mask as i64));
                _mm512_mask_storeu_epi64(c.cast(), present, word);
            }
        }
    }
}
