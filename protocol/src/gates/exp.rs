//! Exponential: e^u for u up to 8, and 0 far below.
//!
//! e^(x+l) = e^x·e^l, and of u = Δ + λ the evaluators know one summand and the dealer the other. Cut at bit s, where 2^s
//! stands for 1: i = (λ >> s) + (Δ >> s) mod N counts whole units, x = Δ mod 2^s and l = λ mod 2^s are fractions, and
//! ```text
//! e^u = T[i]·E(x)·E(l),    T[i] = e^i,  E(y) = e^(y/2^s)
//! ```
//! exactly, whether or not x + l carries. T\[i\] comes from the evaluators' shares of a dealt one-hot row, times the dealer's
//! sign σ (see [`lut`](super::lut)); opened under a mask, σ·T\[i\] = D + λt, so
//! ```text
//! e^u = E(x)·(D·[σ·E(l)] + [σ·λt·E(l)])
//! ```
//! with two dealt constants: no slopes, no windows, and nothing to approximate but the three roundings.
//!
//! **Scales.** T has 23 fractional bits, both E have 13, and e^9 at 49 fractional bits stays below 2^62. E errs by half a
//! unit, 2^−14 relative. T of a far entry is a few units only, so it is rounded differently for each of the 64
//! sixty-fourths in which x may lie, such that the mean over x is right to a tenth of a unit: a long row of small
//! exponentials has nearly the right sum.
//!
//! **Range.** N = 4W for scores in W buckets of the coarse maximum: u from [`lowest`] to 12, where it wraps to 0. From 8 on the
//! value saturates between e^7 and e^9: u is below 4, and below 8 after a false zero of the maximum. Below −20 the
//! result is 0.
//! Source: own composition of a one-time truth table with the homomorphism. Compare SIRNN's exponential, a product of
//! looked-up powers of digits (Rathee et al., S&P 2021, eprint 2021/459).

use super::lut::{Read, deal_constants, half, one_hot_bytes, read};
use super::table::{TableSpec, fixed, pow2};
use super::truncate::truncate;
use crate::{Cost, Cx, Group, Item, Product, Purpose, Result, Share, bytes};
use kernels::{Device, EXP_BITS, Ring, Tables, Words, exp_fraction};

/// Width of a bucket of the coarse maximum, as a power of two.
pub const BUCKET_LOG2: u32 = 2;

/// Fractional bits of whole powers.
const POWER_SCALE: u32 = 23;
/// Fractional bits of the value before truncation.
pub const OUT_SCALE: u32 = POWER_SCALE + 2 * EXP_BITS;
/// log2 of the number of roundings of a whole power.
const PHASE_BITS: u32 = 6;
/// The largest whole power is e^7.
const TOP: i64 = 7;
/// Whole powers end before 12.
const END: i64 = 12;

/// Lowest u for which the gate is right with that many buckets: below, whole powers wrap around.
pub fn lowest(buckets: usize) -> f64 {
    // An index may be one too low.
    (END + 1) as f64 - (buckets << BUCKET_LOG2) as f64
}

/// The table of whole powers.
#[derive(Clone, Debug)]
pub struct ExpTable {
    /// Entries of width 1; phases are roundings.
    spec: TableSpec,
    powers: Vec<u64>,
    tables: Tables,
}

impl ExpTable {
    /// For u = x − M at `in_scale`, x in the range of a coarse maximum with `buckets` buckets.
    ///
    /// # Panics
    /// If `buckets` is not a power of two, or `in_scale` below 6.
    pub fn new(device: &Device, in_scale: u32, buckets: usize) -> ExpTable {
        assert!(buckets.is_power_of_two() && in_scale >= PHASE_BITS, "{buckets} buckets, scale {in_scale}");
        let entries = buckets << BUCKET_LOG2;
        let first = END - entries as i64;
        let spec = TableSpec {
            entries,
            shift: in_scale,
            phase_bits: PHASE_BITS,
            drop: 0,
            in_scale,
            slope_scale: 0,
            first,
        };
        let phases = 1usize << PHASE_BITS;
        let mut powers = vec![0; entries << PHASE_BITS];
        for i in first..END {
            let exact = libm::exp(i.min(TOP) as f64) * pow2(POWER_SCALE as i32);
            // What rounding has left out so far, at the size that E(x) gives it.
            let mut missing = 0.0;
            for phase in 0..phases {
                let size = libm::exp((phase as f64 + 0.5) / phases as f64);
                let rounded = (exact + missing / size).round();
                missing += (exact - rounded) * size;
                powers[phase * entries + i.rem_euclid(entries as i64) as usize] = fixed(rounded, 0);
            }
        }
        let tables = Tables::new(device, std::slice::from_ref(&powers), entries);
        ExpTable { spec, powers, tables }
    }

    /// The meaning in the clear at [`OUT_SCALE`]: e^u for u at the table's scale. λ decides the roundings.
    pub fn clear(&self, u: u64, lambda: u64, ring: Ring) -> u64 {
        let (at, _) = self.spec.place(u, lambda, ring);
        let fraction = |v: u64| exp_fraction(ring.reduce(v), self.spec.in_scale);
        let fractions = fraction(u.wrapping_sub(lambda)) * fraction(lambda);
        ring.reduce(self.powers[at].wrapping_mul(fractions))
    }

    /// The mean of [`clear`](ExpTable::clear) over all masks, but for what remains of the roundings of whole powers.
    pub fn mean(&self, u: u64) -> u64 {
        let power = libm::exp(((u as i64) >> self.spec.in_scale).min(TOP) as f64);
        fixed(power, POWER_SCALE + EXP_BITS).wrapping_mul(exp_fraction(u, self.spec.in_scale))
    }

    /// Low bits of u that the gate takes into account.
    pub fn input_bits(&self) -> u32 {
        self.spec.input_bits()
    }

    /// Every number of the table, for the program digest.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.powers.iter().copied()
    }

    /// Declared cost of [`exp`] for `n` elements.
    pub fn cost(&self, n: usize, scale: u32, ring_bits: u32) -> Cost {
        let word = bytes(n, ring_bits);
        let select = Cost { rounds: vec![word], dealt: [0, one_hot_bytes(n, self.spec.entries) + 2 * word] };
        select.then(super::truncate::cost(n, OUT_SCALE - scale, ring_bits))
    }
}

/// e^u at `scale`. Three exchanges.
pub async fn exp(cx: &Cx<'_>, u: &Share, e: &ExpTable, scale: u32) -> Result<Share> {
    assert_eq!(u.scale, e.spec.in_scale, "exponential for another scale");
    assert_eq!(cx.ring().bits(), 64, "exponentials need the ring of 64 bits");
    let (op, n) = (cx.op("exp"), u.len());
    let Read { sums, local, sigma } = read(cx, op, u, &e.spec, &e.tables)?;
    let half = sums.map(|s| half(cx, s.into_iter().next().expect("one column")));
    let unit = e.spec.in_scale;
    let item = Item { op, purpose: Purpose::Power, index: 0, n, bits: 64, group: Group::Add };
    let power = cx.open(item, half).await?;

    let dealer = sigma.map(|sigma| {
        Words::formulas([&sigma, &local, &power.lambda], |[sigma, l, mask]| {
            let signed = sigma * l.exp(unit);
            [signed, signed * mask]
        })
    });
    let delta = power.into_delta();
    let constants = deal_constants(cx, op, n, 64, dealer)?;
    let half = constants
        .zip(delta)
        .map(|([a, b], d)| Words::formula([&a, &b, &d, &local], |[a, b, d, x]| (a * d + b) * x.exp(unit)));
    drop(local);
    truncate(cx, Product { shape: u.shape, scale: OUT_SCALE, bits: 64, half }, OUT_SCALE - scale).await
}
