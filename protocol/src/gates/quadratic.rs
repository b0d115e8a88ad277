//! A function of one shared variable by piecewise quadratics, in a ring as narrow as its values.
//!
//! [`lut`](super::lut) reads three columns instead of two, halves of σ·c for a polynomial c. It is wanted at x + l, and
//! before they open anything the evaluators expand it about x, which they know. Opened in one exchange are σ·c(x) = D0 + λ0,
//! σ·c'(x) = D1 + λ1 and σ·c2 = D2 + λ2, and since σ² = 1
//! ```text
//! c(x + l) = D0·[σ] + D1·[σl] + D2·[σl²] + [σ(λ0 + λ1·l + λ2·l²)]
//! ```
//! with four dealt constants.
//!
//! A quadratic errs by f'''·w³/192 on a window of width w, a line by f''·w²/16, so entries may be four times as wide.
//! All of it is computed modulo 2^k, where 2^k holds the result and little more: openings, masks and constants have k
//! bits, and [`truncate`] lifts the result to the full ring, exactly.
//! Sources: as for [`lut`](super::lut); piecewise polynomials on shares: NFGen (Fan et al., CCS 2022).

use super::lut::{Read, deal_constants, half, one_hot_bytes, read};
use super::table::{TableSpec, centre, rounded};
use super::truncate::{cost_from, truncate};
use crate::{Cost, Cx, Group, Item, Masked, Product, Purpose, Result, Share, bytes, join};
use kernels::{Device, Ring, Tables, Term, Words};

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
const LEAST_OUT_SCALE: u32 = 33;

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
        let word = bytes(n, self.bits);
        Cost { rounds: vec![3 * word], dealt: [0, one_hot_bytes(n, self.spec.entries) + 4 * word] }
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

/// The coefficients of c2·t² + c1·t + c0 about x: c2, the derivative, the value.
fn expand<'d>([c2, c1, c0, x]: [Term<'d>; 4]) -> [Term<'d>; 3] {
    let first = c2 * x;
    let inner = first + c1;
    [c2, first + inner, inner * x + c0]
}

/// f(x) at the table's output scale as a 2-of-2 value that is known modulo 2^[`Quadratic::bits`], one exchange.
/// Range of x: [`TableSpec::range`].
pub async fn evaluate(cx: &Cx<'_>, x: &Share, table: &Quadratic) -> Result<Product> {
    let (t, bits, n) = (&table.spec, table.bits, x.len());
    assert_eq!(x.scale, t.in_scale, "table for another scale");
    assert!(bits <= cx.ring().bits(), "table for a larger ring");
    let op = cx.op("quadratic table");
    let Read { sums, local, sigma } = read(cx, op, x, t, &table.tables)?;
    let [square, slope, value] = match sums.as_deref() {
        Some([c2, c1, c0]) => {
            Words::formulas([c2, c1, c0, &local], |terms| expand(terms).map(|c| half(cx, c))).map(Some)
        }
        Some(_) => unreachable!("three columns"),
        None => [None, None, None],
    };
    let item = |purpose| Item { op, purpose, index: 0, n, bits, group: Group::Add };
    let [of_square, of_slope, of_value] = [Purpose::Square, Purpose::Slope, Purpose::Value].map(item);
    let (square, (slope, value)) =
        join(cx.open(of_square, square), join(cx.open(of_slope, slope), cx.open(of_value, value))).await?;
    let dealer = sigma.map(|sigma| {
        let inputs = [&square.lambda, &slope.lambda, &value.lambda, &local, &sigma];
        let [by_square, by_slope, mask] = Words::formulas(inputs, |[square, slope, value, l, sigma]| {
            let by_slope = sigma * l;
            [by_slope * l, by_slope, sigma * ((square * l + slope) * l + value)]
        });
        [by_square, by_slope, mask, sigma]
    });
    let opened = [square, slope, value].map(Masked::into_delta);
    drop(local);
    let ring = cx.ring().bits();
    let half = deal_constants(cx, op, n, bits, dealer)?.map(|[by_square, by_slope, mask, by_value]| {
        let [square, slope, value] = opened.map(|delta| delta.expect("evaluator"));
        Words::formula(
            [&value, &by_value, &slope, &by_slope, &square, &by_square, &mask],
            |[value, by_value, slope, by_slope, square, by_square, mask]| {
                (value * by_value + slope * by_slope + square * by_square + mask).low(ring)
            },
        )
    });
    Ok(Product { shape: x.shape, scale: t.out_scale(), bits, half })
}

/// f(x) at `scale`, three exchanges.
pub async fn lookup(cx: &Cx<'_>, x: &Share, table: &Quadratic, scale: u32) -> Result<Share> {
    let y = evaluate(cx, x, table).await?;
    let f = y.scale - scale;
    truncate(cx, y, f).await
}
