//! Table look-up: a function of one shared variable by an xor-shared one-hot row with a hidden sign.
//!
//! The dealer deals u1 ⊕ u2 = e_m for m = (λ >> s) mod N. Rotated by Δ >> s, P1's sum Σ u1\[i\]·A\[i\] and P2's
//! −Σ u2\[i\]·A\[i\] add to σ times one entry of A, with σ = ±1 known to the dealer alone: for every column A of the table, so
//! for every coefficient of a polynomial c, a line or a [`quadratic`](super::quadratic). It is wanted at x + l, where the
//! evaluators know x = Δ mod 2^s and the dealer l = λ mod 2^s. So they expand it about x before they open anything: c(x + l) = Σ cᵢ·lⁱ, with c0 = c(x) and c1 = c'(x). Then
//! σ·cᵢ = Dᵢ + λᵢ are opened under masks in one exchange, and since σ² = 1
//! ```text
//! c(x + l) = Σ Dᵢ·[σ·lⁱ] + [σ·Σ λᵢ·lⁱ]
//! ```
//! with one dealt constant more than there are coefficients. σ is never opened (that would halve the candidates).
//! Sources: one-time truth tables (Ishai et al., TCC 2013); look-up by shared one-hot in Pika (Wagh, PoPETs 2022).

use super::table::{Piecewise, Table, TableSpec};
use super::truncate::truncate;
use crate::{Cost, Cx, Group, Item, Masked, Op, Product, Purpose, Result, Share, bytes, join_all};
use kernels::{Input, Tables, Term, Words};
use std::iter::successors;
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

/// A polynomial of a selected entry, times σ, expanded about the evaluators' summand of the local coordinate, and opened.
/// Coefficients are in the order of tables, highest first.
pub(crate) struct Selected {
    /// The evaluators' Dᵢ.
    opened: Option<Vec<Words>>,
    /// What the dealer knows.
    dealer: Option<Hidden>,
}

struct Hidden {
    sigma: Words,
    /// The dealer's summand of the local coordinate.
    local: Words,
    /// λᵢ.
    masks: Vec<Words>,
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

/// Selects an entry for each element and opens its polynomial modulo 2^bits. Cost: [`select_cost`].
pub(crate) async fn select(
    cx: &Cx<'_>,
    op: Op,
    x: &Share,
    table: &dyn Piecewise,
    bits: u32,
) -> Result<Selected> {
    assert_eq!(x.scale, table.spec().in_scale, "table for another scale");
    assert!(bits <= cx.ring().bits(), "table for a larger ring");
    let Read { sums, local, sigma } = read(cx, op, x, table.spec(), table.tables())?;
    let mut halves = sums.map(|sums| {
        let lower = Words::formulas_of(&inputs(sums.iter().chain([&local])), |terms| match terms {
            [c @ .., x] => expand(c, *x).into_iter().skip(1).map(|c| half(cx, c)).collect(),
            [] => unreachable!("the coordinate"),
        });
        // The highest coefficient is the same about any point: what was selected is sent as it is.
        let highest = sums.into_iter().next().map(|sum| half(cx, sum));
        highest.into_iter().chain(lower)
    });
    let purposes = [Purpose::Square, Purpose::Slope, Purpose::Value];
    let opened = purposes[purposes.len() - table.coefficients()..].iter().map(|&purpose| {
        let item = Item { op, purpose, index: 0, n: x.len(), bits, group: Group::Add };
        cx.open(item, halves.as_mut().and_then(Iterator::next))
    });
    let opened = join_all(opened.collect::<Vec<_>>()).await?;
    Ok(match sigma {
        Some(sigma) => {
            let masks = opened.into_iter().map(|m| m.lambda).collect();
            Selected { opened: None, dealer: Some(Hidden { sigma, local, masks }) }
        }
        None => Selected { opened: opened.into_iter().map(Masked::into_delta).collect(), dealer: None },
    })
}

/// Coefficients of a polynomial about x, given those about 0: Horner's scheme, of which each division by t − x leaves one.
fn expand<'d>(coefficients: &[Term<'d>], x: Term<'d>) -> Vec<Term<'d>> {
    let mut c = coefficients.to_vec();
    for end in (1..c.len()).rev() {
        for i in 1..=end {
            c[i] = c[i - 1] * x + c[i];
        }
    }
    c
}

impl Selected {
    /// The dealer's constants σ·lⁱ, from i = 0 on, and σ·Σ λᵢ·lⁱ. It gives up what it knew for them: masks that nobody has are
    /// not written.
    pub(crate) fn constants(&mut self) -> Option<Vec<Words>> {
        let Hidden { sigma, local, masks } = self.dealer.take()?;
        Some(Words::formulas_of(&inputs([&sigma, &local].into_iter().chain(&masks)), |terms| {
            let [sigma, l, masks @ ..] = terms else { unreachable!("sign and coordinate") };
            let powers = successors(Some(*sigma), |power| Some(*power * *l)).take(masks.len());
            let mask = masks.iter().copied().reduce(|value, mask| value * *l + mask);
            powers.chain(mask.map(|mask| *sigma * mask)).collect()
        }))
    }

    /// What an evaluator knows, for [`at`].
    pub(crate) fn opened(&self) -> &[Words] {
        self.opened.as_deref().expect("evaluator")
    }
}

/// An evaluator's half of a polynomial at x + l: what was opened, and its shares of the constants, or of multiples of them.
pub(crate) fn at<'d>(opened: &[Term<'d>], constants: &[Term<'d>]) -> Term<'d> {
    let (mask, powers) = constants.split_last().expect("constants");
    opened.iter().rev().zip(powers).fold(*mask, |value, (&c, &power)| value + c * power)
}

/// Buffers as inputs of a formula.
pub(crate) fn inputs<'w>(words: impl IntoIterator<Item = &'w Words>) -> Vec<Input<'w>> {
    words.into_iter().map(Input::from).collect()
}

/// Deals shares modulo 2^bits of constants that the dealer knows.
pub(crate) fn deal_constants<const C: usize>(
    cx: &Cx,
    op: Op,
    n: usize,
    bits: u32,
    values: Option<[Words; C]>,
) -> Result<Option<[Words; C]>> {
    let shares = deal_all(cx, op, (C, n), bits, values.map(Vec::from))?;
    Ok(shares.and_then(|shares| shares.try_into().ok()))
}

/// The same for a number of constants that tables decide.
pub(crate) fn deal_all(
    cx: &Cx,
    op: Op,
    (count, n): (usize, usize),
    bits: u32,
    values: Option<Vec<Words>>,
) -> Result<Option<Vec<Words>>> {
    let mut values = values.map(Vec::into_iter);
    let mut shares = Vec::with_capacity(count);
    for index in 0..count {
        let item = Item { op, purpose: Purpose::Constant0, index, n, bits, group: Group::Add };
        let value = values.as_mut().and_then(Iterator::next);
        shares.extend(cx.deal(item, || value.expect("the dealer knows the constants"))?);
    }
    Ok((!cx.is_dealer()).then_some(shares))
}

/// f(x) as a 2-of-2 value at the table's output scale that is known modulo 2^bits, one exchange.
pub(crate) async fn polynomial(
    cx: &Cx<'_>,
    op: Op,
    x: &Share,
    table: &dyn Piecewise,
    bits: u32,
) -> Result<Product> {
    let mut selected = select(cx, op, x, table, bits).await?;
    let count = table.coefficients() + 1;
    let constants = deal_all(cx, op, (count, x.len()), bits, selected.constants())?;
    let ring = cx.ring().bits();
    let half = constants.and_then(|constants| {
        let opened = selected.opened();
        let sum = Words::formulas_of(&inputs(opened.iter().chain(&constants)), |terms| {
            let (opened, constants) = terms.split_at(opened.len());
            vec![at(opened, constants).low(ring)]
        });
        sum.into_iter().next()
    });
    Ok(Product { shape: x.shape, scale: table.spec().out_scale(), bits, half })
}

/// f(x) as a 2-of-2 value at the table's output scale, one exchange.
pub async fn evaluate(cx: &Cx<'_>, x: &Share, table: &Table) -> Result<Product> {
    polynomial(cx, cx.op("table"), x, table, cx.ring().bits()).await
}

/// f(x) at `scale`, three exchanges. Range of x: [`TableSpec::range`].
pub async fn lookup(cx: &Cx<'_>, x: &Share, table: &Table, scale: u32) -> Result<Share> {
    let y = evaluate(cx, x, table).await?;
    truncate(cx, y, table.spec.out_scale() - scale).await
}

/// Declared cost of [`select`] for `n` elements: as many openings as an entry has coefficients, and the one-hot rows.
pub(crate) fn select_cost(n: usize, entries: usize, coefficients: usize, bits: u32) -> Cost {
    Cost { rounds: vec![coefficients as u64 * bytes(n, bits)], dealt: [0, one_hot_bytes(n, entries)] }
}

/// Declared cost of [`polynomial`] for `n` elements.
pub(crate) fn polynomial_cost(n: usize, entries: usize, coefficients: usize, bits: u32) -> Cost {
    let constants = Cost::dealt((coefficients as u64 + 1) * bytes(n, bits));
    select_cost(n, entries, coefficients, bits).then(constants)
}

/// Declared cost of [`evaluate`] for `n` elements.
pub fn evaluate_cost(n: usize, t: &TableSpec, ring_bits: u32) -> Cost {
    polynomial_cost(n, t.entries, 2, ring_bits)
}

/// Declared cost of [`lookup`].
pub fn cost(n: usize, t: &TableSpec, scale: u32, ring_bits: u32) -> Cost {
    evaluate_cost(n, t, ring_bits).then(super::truncate::cost(n, t.out_scale() - scale, ring_bits))
}
