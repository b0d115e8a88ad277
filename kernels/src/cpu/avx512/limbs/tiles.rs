//! The tiles themselves. Four sums stay in tiles 0 to 3 while two steps of both matrices, or some more of bits, run by; what else
//! they need is three digits of the left matrix at most (tiles 4 to 6), and one limb of the right one (tile 7): with eight limbs
//! two loads for three products.
//!
//! Compilers know nothing of tiles: these keep what they have from one piece of assembly to the next, as none of them is `pure`, so that
//! all stay in their order.

use super::{LIMBS, LINES, Line, STEP, TILE};
use std::arch::asm;

/// Loads digit `$of` − `$back` of a step's rows into its tile, if there is one.
macro_rules! digit {
    ($a:ident, $of:expr, $back:expr) => {
        if $of + 1 > $back {
            asm!("tileloadd tmm{t}, [{from} + {line}]", t = const tile_of($of + 9 - $back),
                from = in(reg) $a.lines.add(($of - $back) * $a.rows), line = in(reg) 64usize, options(nostack, readonly));
        }
    };
}

/// What a left matrix has for each input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Term {
    /// So many digits, from 4 to 8.
    Words(usize),
    Bits,
}

impl Term {
    /// Lines of a row's step.
    pub(super) fn limbs(self) -> usize {
        match self {
            Term::Words(limbs) => limbs,
            Term::Bits => 1,
        }
    }

    /// Steps that are added together: as many as fit into the first-level cache with their sums.
    pub(super) fn steps(self) -> usize {
        match self {
            Term::Words(_) => 2,
            Term::Bits => 4,
        }
    }

    /// How often in a step lines are fetched ahead: with each product of tiles.
    pub(super) fn places(self) -> usize {
        match self {
            Term::Words(limbs) => limbs * (limbs + 1) / 2,
            Term::Bits => LIMBS,
        }
    }
}

/// Some steps, at most [`Term::steps`], of one tile of rows and of one panel.
pub(super) struct Block<'a> {
    pub(super) steps: usize,
    pub(super) a: &'a [Line],
    pub(super) b: &'a [Line],
    /// A tile for each limb.
    pub(super) sums: &'a mut [Line],
    /// Whether the sums begin here.
    pub(super) fresh: bool,
    pub(super) ahead: Ahead,
}

/// What to fetch meanwhile, in a step as large as those of `b`: `each` lines at each place.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) from: *const Line,
    pub(super) each: usize,
}

impl Ahead {
    /// Of a later step, from the place `n` on.
    #[inline(always)]
    fn of_step(self, step: usize, n: usize) -> Ahead {
        Ahead { from: self.from.wrapping_add(step * LINES + n * self.each), ..self }
    }

    #[inline(always)]
    fn fetch(&mut self) {
        // A compiler would make one loop for eight lines and one for the rest of each of these.
        // SAFETY: prefetching never faults.
        unsafe {
            asm!("test {n}, {n}", "jz 3f", "2:", "prefetcht1 [{at}]", "add {at}, 64", "dec {n}", "jnz 2b", "3:",
                at = inout(reg) self.from, n = inout(reg) self.each => _, options(nostack, readonly));
        }
    }
}

/// Shapes of tiles: palette, then bytes of a row, 16 bits each, then rows.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

impl Configuration {
    /// So many rows of sums and of the left matrix.
    const fn new(rows: usize) -> Configuration {
        let mut c = [0; 64];
        c[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            c[16 + 2 * tile] = STEP as u8;
            c[48 + tile] = if tile < 7 { rows } else { TILE } as u8;
            tile += 1;
        }
        Configuration(c)
    }
}

/// This thread's tiles have their shapes, until it is dropped.
pub(super) struct Configured {
    term: Term,
    /// Of the left matrix's tiles.
    rows: usize,
    /// Tiles are the thread's own.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: the processor has tiles.
        unsafe { asm!("tilerelease", options(nostack)) };
    }
}

impl Configured {
    /// # Safety
    /// The processor has tiles, and this thread has no other.
    pub(super) unsafe fn new(term: Term, rows: usize) -> Configured {
        assert!((1..=TILE).contains(&rows), "{rows} rows of a tile");
        let configuration = Configuration::new(rows);
        // SAFETY: the processor has tiles; the configuration is 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack)) };
        Configured { term, rows, _thread: std::marker::PhantomData }
    }

    /// Adds a block's products to its sums.
    pub(super) fn add(&self, mut block: Block<'_>) {
        assert!(block.b.len() == block.steps * LINES && block.sums.len() == LINES, "whole steps and tiles");
        assert_eq!(block.a.len(), block.steps * self.step_lines(), "steps of both matrices");
        // SAFETY: tiles are configured; all that is loaded and stored lies in the block's lines, as asserted.
        unsafe {
            match self.term {
                Term::Words(8) => {
                    self.products::<4, 7>(&mut block, 0);
                    self.products::<0, 3>(&mut block, 36 - 10);
                }
                Term::Words(7) => {
                    self.products::<3, 6>(&mut block, 0);
                    self.products::<0, 2>(&mut block, 28 - 6);
                }
                Term::Words(6) => {
                    self.products::<2, 5>(&mut block, 0);
                    self.products::<0, 1>(&mut block, 21 - 3);
                }
                Term::Words(5) => {
                    self.products::<1, 4>(&mut block, 0);
                    self.products::<0, 0>(&mut block, 15 - 1);
                }
                Term::Words(4) => self.products::<0, 3>(&mut block, 0),
                Term::Words(limbs) => panic!("{limbs} limbs"),
                Term::Bits => {
                    self.selected::<0>(&mut block);
                    self.selected::<4>(&mut block);
                }
            }
        }
    }

    /// Sums number `LO` to `HI` of products, at most four. Before, so many products have been made in each step, and lines been fetched.
    ///
    /// # Safety
    /// As in [`Configured::add`].
    #[inline(never)]
    unsafe fn products<const LO: usize, const HI: usize>(&self, block: &mut Block<'_>, places: usize) {
        // SAFETY: the caller's.
        unsafe {
            begin::<LO, HI>(block);
            for step in 0..block.steps {
                let mut ahead = block.ahead.of_step(step, places);
                let a = Digits { lines: block.a.as_ptr().add(step * self.step_lines()), rows: self.rows };
                let b = block.b.as_ptr().add(step * LINES);
                // The first digits that limb 0 is multiplied with: the fourth takes the place of the first.
                digit!(a, HI, 0);
                digit!(a, HI, 1);
                digit!(a, HI, 2);
                limb::<LO, HI, 0>(a, b, &mut ahead);
                limb::<LO, HI, 1>(a, b, &mut ahead);
                limb::<LO, HI, 2>(a, b, &mut ahead);
                limb::<LO, HI, 3>(a, b, &mut ahead);
                limb::<LO, HI, 4>(a, b, &mut ahead);
                limb::<LO, HI, 5>(a, b, &mut ahead);
                limb::<LO, HI, 6>(a, b, &mut ahead);
                limb::<LO, HI, 7>(a, b, &mut ahead);
            }
            end::<LO, HI>(block);
        }
    }

    /// Sums of the four limbs from `FROM` on that bits select.
    ///
    /// # Safety
    /// As in [`Configured::add`].
    #[inline(never)]
    unsafe fn selected<const FROM: usize>(&self, block: &mut Block<'_>) {
        // SAFETY: the caller's.
        unsafe {
            match FROM {
                0 => begin::<0, 3>(block),
                _ => begin::<4, 7>(block),
            }
            for step in 0..block.steps {
                let mut ahead = block.ahead.of_step(step, FROM);
                let b = block.b.as_ptr().add(step * LINES + FROM * TILE);
                load::<4>(block.a.as_ptr().add(step * self.rows));
                select::<0>(b, &mut ahead);
                select::<1>(b, &mut ahead);
                select::<2>(b, &mut ahead);
                select::<3>(b, &mut ahead);
            }
            match FROM {
                0 => end::<0, 3>(block),
                _ => end::<4, 7>(block),
            }
        }
    }

    /// Lines of a step of the left matrix.
    fn step_lines(&self) -> usize {
        self.term.limbs() * self.rows
    }
}

/// A step of the left matrix.
#[derive(Clone, Copy)]
struct Digits {
    lines: *const Line,
    rows: usize,
}

/// The tile of a digit: three follow each other.
const fn tile_of(digit: usize) -> usize {
    4 + digit % 3
}

/// Tile `T` ← as many lines as it has rows.
#[inline(always)]
unsafe fn load<const T: usize>(from: *const Line) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tileloadd tmm{t}, [{from} + {line}]", t = const T, from = in(reg) from, line = in(reg) 64usize,
            options(nostack, readonly));
    }
}

/// Limb `J` times the digits whose products with it belong to sums `LO` to `HI`. Of four of these digits, the last is the next one to come.
#[inline(always)]
unsafe fn limb<const LO: usize, const HI: usize, const J: usize>(
    a: Digits,
    b: *const Line,
    ahead: &mut Ahead,
) {
    if J > HI {
        return;
    }
    macro_rules! multiply {
        ($t:literal) => {
            if LO + $t < HI + 1 && LO + $t >= J {
                asm!("tdpbsud tmm{t}, tmm{a}, tmm7", t = const $t, a = const tile_of(LO + $t + 9 - J), options(nostack, nomem));
                ahead.fetch();
            }
        };
    }
    // SAFETY: the caller's.
    unsafe {
        load::<7>(b.add(J * TILE));
        multiply!(3);
        if HI - LO == 3 {
            digit!(a, LO, J);
        }
        multiply!(2);
        multiply!(1);
        multiply!(0);
    }
}

/// What bits (tile 4) select of a limb, added to sum `T`.
#[inline(always)]
unsafe fn select<const T: usize>(b: *const Line, ahead: &mut Ahead) {
    // SAFETY: the caller's.
    unsafe {
        load::<7>(b.add(T * TILE));
        ahead.fetch();
        asm!("tdpbuud tmm{t}, tmm4, tmm7", t = const T, options(nostack, nomem));
    }
}

/// Tiles 0 to 3 ← sums `LO` to `HI` as far as they have got.
#[inline(always)]
unsafe fn begin<const LO: usize, const HI: usize>(block: &Block<'_>) {
    macro_rules! sum {
        ($t:literal) => {
            if LO + $t < HI + 1 {
                match block.fresh {
                    true => asm!("tilezero tmm{t}", t = const $t, options(nostack, nomem)),
                    false => load::<$t>(block.sums.as_ptr().add((LO + $t) * TILE)),
                }
            }
        };
    }
    // SAFETY: the caller's.
    unsafe {
        sum!(0);
        sum!(1);
        sum!(2);
        sum!(3);
    }
}

/// Sums `LO` to `HI` ← tiles 0 to 3.
#[inline(always)]
unsafe fn end<const LO: usize, const HI: usize>(block: &mut Block<'_>) {
    macro_rules! sum {
        ($t:literal) => {
            if LO + $t < HI + 1 {
                asm!("tilestored [{to} + {line}], tmm{t}", t = const $t,
                    to = in(reg) block.sums.as_mut_ptr().add((LO + $t) * TILE), line = in(reg) 64usize, options(nostack));
            }
        };
    }
    // SAFETY: the caller's.
    unsafe {
        sum!(0);
        sum!(1);
        sum!(2);
        sum!(3);
    }
}

/// Multiplies four pairs of tiles `rounds` times; the number of products of words that these products of bytes would make.
///
/// # Safety
/// The processor has tiles.
pub(in super::super) unsafe fn multiply_registers(rounds: usize) -> usize {
    // SAFETY: tiles are configured, cleared and multiplied.
    unsafe {
        let _configured = Configured::new(Term::Bits, TILE);
        asm!(
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
            rounds = inout(reg) rounds.max(1) => _,
            options(nostack, nomem),
        );
    }
    rounds.max(1) * 4 * TILE * TILE * STEP / 36
}
