//! A function of one shared variable by piecewise quadratics, in a ring as narrow as its values.
//!
//! A look-up as any other ([`lut`](super::lut)), of three coefficients instead of two: three words are opened, four constants
//! dealt. A quadratic errs by f'''·w³/192 on a window of width w, a line by f''·w²/16, so entries may be four times as wide.
//! All of it is computed modulo 2^k, where 2^k holds the result and little more: openings, masks and constants have k
//! bits, and [`truncate`] lifts the result to the full ring, exactly.
//! Sources: as for [`lut`](super::lut); piecewise polynomials on shares: NFGen (Fan et al., CCS 2022).

use super::lut::{polynomial, polynomial_cost};
use super::table::{Piecewise, TableSpec, centre, rounded};
use super::truncate::{cost_from, truncate};
use crate::{Cost, Cx, Product, Result, Share};
use kernels::{Device, Ring, Tables};

/// A table of quadratics on a device.
#[derive(Clone, Debug)]
pub struct Quadratic {
    /// Its entries; `slope_scale` is the scale of c1, and `out_scale()` that of c0.
    pub spec: TableSpec,
    /// k: values are known modulo 2^k at `out_scale()`, and must be below 2^(k−2) there.
    pub bits: u32,
    tables: Tables,
    columns: [Vec<u64>; 3],
}

/// Fractional bits of a value at least: 13 of the local coordinate, twice, and 7 of c2. Over entries of 1/4 these
/// leave errors of 1.2e-4 (times the slope) and 0.4e-4.
const LEAST_OUT_SCALE: u32 = 2 * LEAST_LOCAL + 7;
const LEAST_LOCAL: u32 = 13;

impl Quadratic {
    /// A table of f over [−range, range), range a power of two, with 2^entries_log2 entries, for x at `in_scale` and
    /// |f(x)| ≤ 2^value_log2, in the fewest whole bytes. `f`: deterministic arithmetic only.
    pub fn symmetric(
        device: &Device,
        (range_log2, entries_log2): (u32, u32),
        in_scale: u32,
        value_log2: u32,
        f: impl Fn(f64) -> f64,
    ) -> Quadratic {
        // Two bits for the truncation, one for what the table errs.
        let bits = (LEAST_OUT_SCALE + value_log2 + 3).next_multiple_of(8);
        let out_scale = bits - value_log2 - 3;
        let local = ((out_scale - 7) / 2).min(in_scale);
        Quadratic::over(device, (range_log2, entries_log2), in_scale, (out_scale, local), bits, f)
    }

    /// The same for values at `out_scale` that are a factor of products modulo 2^bits ([`glu`](super::glu)): the local
    /// coordinate has its 13 bits, and c2 what they leave.
    pub fn factor(
        device: &Device,
        size: (u32, u32),
        in_scale: u32,
        out_scale: u32,
        bits: u32,
        f: impl Fn(f64) -> f64,
    ) -> Quadratic {
        Quadratic::over(device, size, in_scale, (out_scale, LEAST_LOCAL.min(in_scale)), bits, f)
    }

    /// Over [−2^range_log2, 2^range_log2), with `local` fractional bits of the local coordinate.
    fn over(
        device: &Device,
        (range_log2, entries_log2): (u32, u32),
        in_scale: u32,
        (out_scale, local): (u32, u32),
        bits: u32,
        f: impl Fn(f64) -> f64,
    ) -> Quadratic {
        let spec = TableSpec::symmetric(range_log2, entries_log2, in_scale, out_scale - local);
        Quadratic::new(device, TableSpec { drop: in_scale - local, ..spec }, bits, f)
    }

    /// Fits `f`, values modulo 2^bits.
    pub fn new(device: &Device, spec: TableSpec, bits: u32, f: impl Fn(f64) -> f64) -> Quadratic {
        let local = spec.in_scale - spec.drop;
        assert!(local <= spec.slope_scale, "{spec:?} has no scale for squares");
        let scales = [spec.slope_scale - local, spec.slope_scale, spec.out_scale()];
        let columns = spec.columns(f, scales, |f, from, to| fit(f, from, to, scales));
        Quadratic { spec, bits, tables: Tables::new(device, &columns, spec.entries), columns }
    }

    /// The meaning in the clear of [`evaluate`], as a signed number of the ring; `lambda` is the mask that decides
    /// which of two possible entries is read.
    pub fn clear(&self, x: u64, lambda: u64, ring: Ring) -> u64 {
        let (at, local) = self.spec.place(x, lambda, ring);
        let value = self.columns.iter().fold(0u64, |v, c| v.wrapping_mul(local).wrapping_add(c[at]));
        let narrow = Ring::new(self.bits);
        ring.reduce(narrow.signed(narrow.reduce(value)) as u64)
    }

    /// Every number of the table, for the program digest.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        [u64::from(self.bits)].into_iter().chain(self.columns.iter().flatten().copied())
    }

    /// Declared cost of [`evaluate`] for `n` elements.
    pub fn evaluate_cost(&self, n: usize) -> Cost {
        polynomial_cost(n, self.spec.entries, self.columns.len(), self.bits)
    }

    /// Declared cost of [`lookup`] for `n` elements.
    pub fn cost(&self, n: usize, scale: u32, ring_bits: u32) -> Cost {
        self.evaluate_cost(n).then(cost_from(n, self.bits, self.spec.out_scale() - scale, ring_bits))
    }
}

/// Coefficients of f over [from, to]: interpolation at Chebyshev's three points, c2 rounded before c1 is chosen, c1
/// before c0.
fn fit(f: &dyn Fn(f64) -> f64, from: f64, to: f64, [square_scale, slope_scale, _]: [u32; 3]) -> [f64; 3] {
    const COS_30: f64 = 0.866_025_403_784_438_6;
    let (middle, r) = ((from + to) / 2.0, (to - from) / 2.0 * COS_30);
    let [a, b, c] = [f(middle - r), f(middle), f(middle + r)];
    let square = rounded((a - 2.0 * b + c) / (2.0 * r * r), square_scale);
    let slope = rounded((c - a) / (2.0 * r) - 2.0 * square * middle, slope_scale);
    [square, slope, centre(|v| f(v) - (square * v + slope) * v, from, to)]
}

impl Piecewise for Quadratic {
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
        Quadratic::clear(self, x, lambda, ring)
    }

    fn words(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        Box::new(Quadratic::words(self))
    }
}

/// f(x) at the table's output scale as a 2-of-2 value that is known modulo 2^[`Quadratic::bits`], one exchange.
/// Range of x: [`TableSpec::range`].
pub async fn evaluate(cx: &Cx<'_>, x: &Share, table: &Quadratic) -> Result<Product> {
    polynomial(cx, cx.op("quadratic table"), x, table, table.bits).await
}

/// f(x) at `scale`, three exchanges.
pub async fn lookup(cx: &Cx<'_>, x: &Share, table: &Quadratic, scale: u32) -> Result<Share> {
    let y = evaluate(cx, x, table).await?;
    let f = y.scale - scale;
    truncate(cx, y, f).await
}
