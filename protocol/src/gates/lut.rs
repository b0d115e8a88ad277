//! Table look-up: a function of one shared variable by an xor-shared one-hot row with a hidden sign.
//!
//! The dealer deals u1 ⊕ u2 = e_m for m = (λ >> s) mod N. Rotated by Δ >> s, P1's sum Σ u1\[i\]·A\[i\] and P2's
//! −Σ u2\[i\]·A\[i\] add to σ·slope with σ = ±1 known to the dealer alone, and so for the intercept. The line is wanted at
//! x + l, where the evaluators know x = Δ mod 2^s and the dealer l = λ mod 2^s. So they go along the line to x before they
//! open anything: σ·slope = Da + λa and σ·(slope·x + intercept) = Db + λb are opened under masks, and since σ² = 1
//! ```text
//! slope·(x + l) + intercept = Db·[σ] + Da·[σl] + [σ(λa·l + λb)]
//! ```
//! with three dealt constants. σ is never opened (that would halve the candidates).
//! Sources: one-time truth tables (Ishai et al., TCC 2013); look-up by shared one-hot in Pika (Wagh, PoPETs 2022).

use super::table::{Table, TableSpec};
use super::truncate::truncate;
use crate::{Cost, Cx, Group, Item, Masked, Op, Product, Purpose, Result, Share, bytes, join};
use kernels::{Tables, Term, Words};
use std::ops::Neg;

/// A dealt one-hot row of `width` bits for each element.
pub(crate) struct OneHot {
    /// An evaluator's share.
    pub share: Option<Words>,
    /// The dealer's sign.
    pub sigma: Option<Words>,
}

/// Deals xor shares of the rows e_idx, `width` a power of two.
pub(crate) fn deal_one_hot(
    cx: &Cx,
    op: Op,
    purpose: Purpose,
    width: usize,
    n: usize,
    idx: &Words,
) -> Result<OneHot> {
    let (words, bits) = (n * width.div_ceil(64), width.min(64) as u32);
    let item = Item { op, purpose, index: 0, n: words, bits, group: Group::Xor };
    let mut sigma = None;
    let share = cx.deal_beside_pad(item, |u1| {
        sigma = Some(Words::formula([&u1.bit_at(width, idx)], |[bit]| (bit << 1u32) - 1));
        Words::zeros(cx.device(), words).flip_bit(width, idx)
    })?;
    Ok(OneHot { share, sigma })
}

/// Bytes of dealt one-hot rows.
pub(crate) fn one_hot_bytes(n: usize, width: usize) -> u64 {
    bytes(n * width.div_ceil(64), width.min(64) as u32)
}

/// A line through a selected entry, times σ: its slope, and its value at the evaluators' summand of the local coordinate.
pub(crate) struct Selected {
    pub slope: Masked,
    pub value: Masked,
    /// The dealer's sign, and its summand of the local coordinate.
    sigma: Option<(Words, Words)>,
}

/// What a one-hot row reads from a table, before anything is opened.
pub(crate) struct Read {
    /// Sums of each column's entries: [`half`] makes them halves of σ times the entry.
    pub sums: Option<Vec<Words>>,
    /// λ mod 2^s at the dealer, Δ mod 2^s at the evaluators, without the dropped bits.
    pub local: Words,
    /// The dealer's sign.
    pub sigma: Option<Words>,
}

/// Reads an entry for each element. Cost: N/8 bytes dealt.
pub(crate) fn read(cx: &Cx, op: Op, x: &Share, t: &TableSpec, tables: &Tables) -> Result<Read> {
    let (known, ring) = (x.delta.as_ref().unwrap_or(&x.lambda), cx.ring().bits());
    let [index, phase, local] = Words::formulas([known], |[x]| {
        let x = x.low(ring);
        let local = x.low(t.shift);
        let index = (x >> t.shift).low(t.entries.trailing_zeros());
        [index, local >> (t.shift - t.phase_bits), local >> t.drop]
    });
    let row = deal_one_hot(cx, op, Purpose::OneHot, t.entries, x.len(), &index)?;
    let sums = row.share.map(|u| u.select(tables, &index, &phase));
    Ok(Read { sums, local, sigma: row.sigma })
}

/// An evaluator's half, given a linear function of its sums of entries: P2's is negated.
pub(crate) fn half<T: Neg<Output = T>>(cx: &Cx, sum: T) -> T {
    if cx.is_p1() { sum } else { -sum }
}

/// Selects an entry for each element and opens its line modulo 2^bits. Cost: one exchange of 2·bits an element each way;
/// N/8 bytes dealt.
pub(crate) async fn select(cx: &Cx<'_>, op: Op, x: &Share, table: &Table, bits: u32) -> Result<Selected> {
    let read = read(cx, op, x, &table.spec, &table.tables)?;
    let along = |sums: Vec<Words>| {
        let [slope, intercept] = sums.try_into().expect("two columns");
        let value = Words::formula([&slope, &intercept, &read.local], |[slope, intercept, x]| {
            half(cx, slope * x + intercept)
        });
        (half(cx, slope), value)
    };
    let (slope, value) = read.sums.map(along).unzip();
    let item = |purpose| Item { op, purpose, index: 0, n: x.len(), bits, group: Group::Add };
    let [of_slope, of_value] = [Purpose::Slope, Purpose::Value].map(item);
    let (slope, value) = join(cx.open(of_slope, slope), cx.open(of_value, value)).await?;
    Ok(Selected { slope, value, sigma: read.sigma.map(|sigma| (sigma, read.local)) })
}

impl Selected {
    /// The dealer's three constants σ, σl, σ(λa·l + λb).
    pub(crate) fn constants(&self) -> Option<[Words; 3]> {
        let (sigma, l) = self.sigma.as_ref()?;
        let inputs = [sigma, l, &self.slope.lambda, &self.value.lambda];
        Some(Words::formulas(inputs, |[sigma, l, slope, value]| {
            [sigma, sigma * l, sigma * (slope * l + value)]
        }))
    }

    /// What an evaluator knows: value and slope.
    pub(crate) fn opened(&self) -> [&Words; 2] {
        [&self.value, &self.slope].map(|m| m.delta.as_ref().expect("evaluator"))
    }
}

/// An evaluator's half of a line at x + l: opened value and slope, and its shares of the three constants, or of multiples of
/// them.
pub(crate) fn line<'d>([value, slope]: [Term<'d>; 2], [sigma, by_slope, mask]: [Term<'d>; 3]) -> Term<'d> {
    value * sigma + slope * by_slope + mask
}

/// Deals shares modulo 2^bits of constants that the dealer knows.
pub(crate) fn deal_constants<const C: usize>(
    cx: &Cx,
    op: Op,
    n: usize,
    bits: u32,
    values: Option<[Words; C]>,
) -> Result<Option<[Words; C]>> {
    let items: [Item; C] = std::array::from_fn(|index| Item {
        op,
        purpose: Purpose::Constant0,
        index,
        n,
        bits,
        group: Group::Add,
    });
    let mut values = values.map(|v| v.into_iter());
    let mut shares = Vec::with_capacity(C);
    for item in items {
        let value = values.as_mut().and_then(Iterator::next);
        shares.extend(cx.deal(item, || value.expect("the dealer knows the constants"))?);
    }
    Ok(shares.try_into().ok())
}

/// f(x) as a 2-of-2 value at the table's output scale, one exchange.
pub async fn evaluate(cx: &Cx<'_>, x: &Share, table: &Table) -> Result<Product> {
    assert_eq!(x.scale, table.spec.in_scale, "table for another scale");
    let op = cx.op("table");
    let bits = cx.ring().bits();
    let selected = select(cx, op, x, table, bits).await?;
    let constants = deal_constants(cx, op, x.len(), bits, selected.constants())?;
    let half = constants.map(|[a, b, c]| {
        let [value, slope] = selected.opened();
        Words::formula([value, slope, &a, &b, &c], |[v, s, a, b, c]| line([v, s], [a, b, c]).low(bits))
    });
    Ok(Product { shape: x.shape, scale: table.spec.out_scale(), bits, half })
}

/// f(x) at `scale`, three exchanges. Range of x: [`TableSpec::range`].
pub async fn lookup(cx: &Cx<'_>, x: &Share, table: &Table, scale: u32) -> Result<Share> {
    let y = evaluate(cx, x, table).await?;
    truncate(cx, y, table.spec.out_scale() - scale).await
}

/// Declared cost of [`evaluate`] for `n` elements.
pub fn evaluate_cost(n: usize, t: &TableSpec, ring_bits: u32) -> Cost {
    let word = bytes(n, ring_bits);
    Cost { rounds: vec![2 * word], dealt: [0, one_hot_bytes(n, t.entries) + 3 * word] }
}

/// Declared cost of [`lookup`].
pub fn cost(n: usize, t: &TableSpec, scale: u32, ring_bits: u32) -> Cost {
    evaluate_cost(n, t, ring_bits).then(super::truncate::cost(n, t.out_scale() - scale, ring_bits))
}
