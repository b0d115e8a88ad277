//! Public tables: piecewise approximations of a function of one variable, here by lines.
//!
//! x = λ + Δ is cut at bit s: entry i = (λ >> s) + (Δ >> s) mod N is ⌊x / 2^s⌋ or one less, and
//! loc = (λ mod 2^s) + (Δ mod 2^s) is x − i·2^s exactly, in [0, 2·2^s), the dealer knowing one summand and the
//! evaluators the other. The value is slope\[i\]·loc + intercept\[i\]: a small local coordinate leaves room for slopes
//! with many bits. The evaluators know Δ mod 2^s, so its top bits choose one of r sub-tables ("phases"), each fitted
//! to a window of (1 + 1/r)·2^s instead of 2·2^s.

use kernels::{Device, Ring, Tables};
use std::fmt::Debug;

/// Parameters of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableSpec {
    /// Number of entries N, a power of two.
    pub entries: usize,
    /// Entry i stands for x from i·2^shift on.
    pub shift: u32,
    /// log2 of the number of phases.
    pub phase_bits: u32,
    /// Low bits of the local coordinate that are dropped.
    pub drop: u32,
    /// Fractional bits of x.
    pub in_scale: u32,
    /// Fractional bits of the slopes.
    pub slope_scale: u32,
    /// First entry, negative: the table covers x from first·2^shift to (first + N)·2^shift.
    pub first: i64,
}

impl TableSpec {
    /// A table over [−range, range), range a power of two, with 2^entries_log2 entries, for x at `in_scale`.
    pub fn symmetric(range_log2: u32, entries_log2: u32, in_scale: u32, slope_scale: u32) -> TableSpec {
        TableSpec {
            entries: 1 << entries_log2,
            shift: in_scale + range_log2 + 1 - entries_log2,
            phase_bits: 4,
            drop: 0,
            in_scale,
            slope_scale,
            first: -(1 << (entries_log2 - 1)),
        }
    }

    /// The same for values at `out_scale`, its bits shared out between slope and local coordinate: over an entry of
    /// 1/16, rounding a slope errs by 2^−6 of its unit, rounding the coordinate by a whole unit times the slope.
    pub fn shortened(range_log2: u32, entries_log2: u32, in_scale: u32, out_scale: u32) -> TableSpec {
        let local = ((out_scale + 6) / 2).min(in_scale);
        let spec = TableSpec::symmetric(range_log2, entries_log2, in_scale, out_scale - local);
        TableSpec { drop: in_scale - local, ..spec }
    }

    /// Low bits of x that a look-up takes into account: a multiple of 2^input_bits more or less is the same to it.
    pub fn input_bits(&self) -> u32 {
        self.shift + self.entries.trailing_zeros()
    }

    /// Width of an entry.
    pub fn step(&self) -> f64 {
        pow2(self.shift as i32 - self.in_scale as i32)
    }

    /// The inputs for which every masking reads a right entry: [low, high).
    pub fn range(&self) -> (f64, f64) {
        let h = self.step();
        ((self.first + 1) as f64 * h, (self.first + self.entries as i64) as f64 * h)
    }

    /// Fractional bits of a looked-up value before truncation.
    pub fn out_scale(&self) -> u32 {
        self.slope_scale + self.in_scale - self.drop
    }

    /// A mask that leaves the local coordinate as much too small as masks do on average, for readings in the clear.
    pub fn average_mask(&self) -> u64 {
        (1 << self.drop) >> 1
    }

    /// What the local coordinate loses on average: both summands drop their low bits.
    pub(crate) fn lost(&self) -> f64 {
        (pow2(self.drop as i32) - 1.0) * pow2(-(self.in_scale as i32))
    }

    /// The window of local coordinates that a phase sees: [from, to].
    pub(crate) fn window(&self, phase: usize) -> (f64, f64) {
        let (h, phases) = (self.step(), pow2(self.phase_bits as i32));
        let shift = |v: f64| h * v - self.lost();
        (shift(phase as f64 / phases), shift(1.0 + (phase + 1) as f64 / phases))
    }

    /// The entry that x is read from under a mask: its place in a column, and the local coordinate.
    pub(crate) fn place(&self, x: u64, lambda: u64, ring: Ring) -> (usize, u64) {
        let delta = ring.reduce(x.wrapping_sub(lambda));
        let lambda = ring.reduce(lambda);
        let low = (1u64 << self.shift) - 1;
        let i = (lambda >> self.shift).wrapping_add(delta >> self.shift) as usize % self.entries;
        let phase = ((delta & low) >> (self.shift - self.phase_bits)) as usize;
        let local = ((lambda & low) >> self.drop) + ((delta & low) >> self.drop);
        (phase * self.entries + i, local)
    }

    /// Fits every window: `fit(g, from, to)` approximates g, the function of an entry's local coordinate, by C
    /// coefficients at the given scales.
    pub(crate) fn columns<const C: usize>(
        &self,
        f: impl Fn(f64) -> f64,
        scales: [u32; C],
        fit: impl Fn(&dyn Fn(f64) -> f64, f64, f64) -> [f64; C],
    ) -> [Vec<u64>; C] {
        let (n, phases) = (self.entries, 1usize << self.phase_bits);
        assert!(n.is_power_of_two() && self.phase_bits <= self.shift && self.drop <= self.shift, "{self:?}");
        let mut columns = std::array::from_fn(|_| vec![0u64; n * phases]);
        for phase in 0..phases {
            let (from, to) = self.window(phase);
            for i in self.first..self.first + n as i64 {
                let base = i as f64 * self.step() + self.lost();
                let coefficients = fit(&|local| f(base + local), from, to);
                let at = phase * n + i.rem_euclid(n as i64) as usize;
                for ((column, c), scale) in columns.iter_mut().zip(coefficients).zip(scales) {
                    column[at] = fixed(c, scale);
                }
            }
        }
        columns
    }
}

/// A public table of polynomials: lines ([`Table`]) or quadratics ([`Quadratic`](super::quadratic::Quadratic)).
pub trait Piecewise: Debug + Send + Sync {
    /// Its entries, and the scales of what they hold.
    fn spec(&self) -> &TableSpec;

    /// How many coefficients an entry has.
    fn coefficients(&self) -> usize;

    /// The coefficients on a device, a column each, highest first.
    fn tables(&self) -> &Tables;

    /// The meaning in the clear of a look-up of x (at `in_scale`), at `out_scale`. `lambda` is the mask that decides which of
    /// the two possible entries is read, and how x is rounded.
    fn clear(&self, x: u64, lambda: u64, ring: Ring) -> u64;

    /// Every number of the table, for the program digest.
    fn words(&self) -> Box<dyn Iterator<Item = u64> + '_>;
}

pub(crate) fn pow2(e: i32) -> f64 {
    2f64.powi(e)
}

/// A table on a device.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its parameters.
    pub spec: TableSpec,
    tables: Tables,
    columns: [Vec<u64>; 2],
}

impl Table {
    /// Fits `f` (deterministic arithmetic only: all evaluators must build the same table).
    pub fn new(device: &Device, spec: TableSpec, f: impl Fn(f64) -> f64) -> Table {
        let scales = [spec.slope_scale, spec.out_scale()];
        let columns = spec.columns(f, scales, |f, from, to| fit(f, from, to, spec.slope_scale));
        Table { spec, tables: Tables::new(device, &columns, spec.entries), columns }
    }

    /// The meaning in the clear of a look-up of x (at `in_scale`), with `borrow` low bits of λ given: the result at
    /// `out_scale`. `lambda` is the mask that decides which of the two possible entries is read.
    pub fn clear(&self, x: u64, lambda: u64, ring: Ring) -> u64 {
        let (at, local) = self.spec.place(x, lambda, ring);
        ring.reduce(self.columns[0][at].wrapping_mul(local).wrapping_add(self.columns[1][at]))
    }

    /// Replaces the entries of [from, to) by a constant.
    pub fn saturate(&mut self, device: &Device, from: f64, to: f64, value: f64) {
        let (s, h) = (self.spec, self.spec.step());
        for k in 0..s.entries as i64 {
            let i = s.first + k;
            if i as f64 * h >= from && (i as f64) * h < to {
                for phase in 0..1 << s.phase_bits {
                    let at = phase * s.entries + i.rem_euclid(s.entries as i64) as usize;
                    self.columns[0][at] = 0;
                    self.columns[1][at] = fixed(value, s.out_scale());
                }
            }
        }
        self.tables = Tables::new(device, &self.columns, s.entries);
    }

    /// Every number of the table, for the program digest.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.columns.iter().flatten().copied()
    }
}

impl Piecewise for Table {
    fn spec(&self) -> &TableSpec {
        &self.spec
    }

    fn coefficients(&self) -> usize {
        self.columns.len()
    }

    fn tables(&self) -> &Tables {
        &self.tables
    }

    fn clear(&self, x: u64, lambda: u64, ring: Ring) -> u64 {
        Table::clear(self, x, lambda, ring)
    }

    fn words(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        Box::new(Table::words(self))
    }
}

/// Slope (already a multiple of 2^−slope_scale) and centred intercept of f over [from, to].
fn fit(f: &dyn Fn(f64) -> f64, from: f64, to: f64, slope_scale: u32) -> [f64; 2] {
    let slope = rounded((f(to) - f(from)) / (to - from), slope_scale);
    [slope, centre(|v| f(v) - slope * v, from, to)]
}

/// The middle of f's values over [from, to].
pub(crate) fn centre(f: impl Fn(f64) -> f64, from: f64, to: f64) -> f64 {
    const SAMPLES: usize = 33;
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for i in 0..SAMPLES {
        let v = f(from + (to - from) * i as f64 / (SAMPLES - 1) as f64);
        low = low.min(v);
        high = high.max(v);
    }
    (low + high) / 2.0
}

/// The nearest multiple of 2^−scale.
pub(crate) fn rounded(v: f64, scale: u32) -> f64 {
    let unit = pow2(scale as i32);
    (v * unit).round() / unit
}

/// A number at a scale, as a ring element.
///
/// # Panics
/// If it does not fit: tables are made from validated ranges.
pub fn fixed(v: f64, scale: u32) -> u64 {
    assert!(v.abs() * pow2(scale as i32) < pow2(63), "{v} at scale {scale} does not fit the ring");
    (v * pow2(scale as i32)).round() as i64 as u64
}

/// x · sigmoid(x).
pub fn silu(x: f64) -> f64 {
    x / (1.0 + libm::exp(-x))
}

/// x · Φ(x), the exact GeLU.
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// The tanh approximation of [`gelu`] that GPT-2 is trained with.
pub fn gelu_tanh(x: f64) -> f64 {
    const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
    0.5 * x * (1.0 + libm::tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}
