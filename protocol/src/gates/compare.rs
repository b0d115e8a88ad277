//! Comparison with public thresholds: block thermometers and a multi-fan-in carry (BTC).
//!
//! Of x = λ + Δ only bits [t, t+n) count: A = (λ >> t) mod 2^n is the dealer's, B = (Δ >> t) mod 2^n the
//! evaluators'. The low n−1 bits are cut into K blocks of v bits. For every block the dealer deals the thermometer
//! [A_k ≥ j]; the evaluators read generate G_k = [A_k + B_k ≥ 2^v] and propagate P_k = [A_k + B_k = 2^v − 1] off it by
//! their own B_k. With these opened under masks, the carry
//! ```text
//! c = ⊕_j G_j · Π_{i>j} P_i
//! ```
//! expands into public values times dealt monomials of the masks; the sign is c ⊕ top(A) ⊕ top(B).
//! x < τ is the sign of x − τ: the same thermometers, another B, fresh masks.
//! Range: with t = 0 exact for x − τ in [−2^(n−1), 2^(n−1)); with t > 0 exact for [−2^(t+n−1) + 2^t, −1] and
//! [2^t, 2^(t+n−1)) in units of the input, the two remaining zones lose at most the dropped carry.
//! Sources: blocks as in CrypTFlow2 (Rathee et al., CCS 2020); products of opened values with dealt monomials as in
//! ABY2.0 (Patra et al., USENIX Security 2021); prefix carry after Ohata and Nuida (FC 2020).

use crate::{Cost, Cx, Group, Item, Masked, Op, Purpose, Result, Share, bytes, join_all};
use kernels::Words;

/// Which bits are compared, and how they are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Low bits dropped.
    pub drop: u32,
    /// Bits compared, the top one being the sign: 1 + blocks · block_bits.
    pub blocks: u32,
    /// Bits of a block, at most 6.
    pub block_bits: u32,
}

impl Window {
    /// 31 bits, nothing dropped: exact for |x − τ| < 2^30.
    pub const EXACT31: Window = Window { drop: 0, blocks: 6, block_bits: 5 };

    fn bits(self) -> u32 {
        1 + self.blocks * self.block_bits
    }

    fn width(self) -> usize {
        1 << self.block_bits
    }

    fn variables(self) -> usize {
        2 * self.blocks as usize - 1
    }
}

/// A monomial of masks: a set of variables, as a bit set. Variable k < K is G_k, K − 1 + k is P_k (k ≥ 1).
fn monomials(w: Window) -> Vec<u32> {
    let mut all: Vec<u32> =
        (0..w.blocks).flat_map(|j| subsets(term(w, j))).filter(|m| m.count_ones() >= 2).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The variables of the term that ends in G_j.
fn term(w: Window, j: u32) -> u32 {
    let propagate = |i: u32| 1 << (w.blocks - 1 + i);
    (j + 1..w.blocks).map(propagate).fold(1 << j, |a, b| a | b)
}

fn subsets(set: u32) -> impl Iterator<Item = u32> {
    let mut next = Some(set);
    std::iter::from_fn(move || {
        let current = next?;
        next = (current != 0).then(|| (current - 1) & set);
        Some(current)
    })
}

/// Whether x < τ, for each public threshold τ (ring elements at the scale of x), opened under masks that the dealer knows.
/// Cost: two exchanges, 2K − 1 bits and 1 bit for each element and threshold.
pub async fn less_than(cx: &Cx<'_>, x: &Share, thresholds: &[u64], w: Window) -> Result<Vec<Masked>> {
    assert!(w.block_bits <= 6 && w.drop + w.bits() <= cx.ring().bits(), "comparison window outside the ring");
    let tables = thermometers(cx, x, w)?;
    let tops = |v: &Words| (v >> (w.drop + w.bits() - 1)) & 1;
    let ops: Vec<Op> = thresholds.iter().map(|_| cx.op("compare")).collect();
    join_all(thresholds.iter().zip(ops).map(|(&tau, op)| {
        let tables = &tables;
        async move {
            let b = x.delta.as_ref().map(|d| cx.reduce(d - tau));
            let halves = b.as_ref().map(|b| generate_propagate(cx, b, tables, w));
            let n = x.len() * w.variables();
            let item = Item { op, purpose: Purpose::CarryBits, index: 0, n, bits: 1, group: Group::Xor };
            let opened = cx.open(item, halves).await?;
            let carry = carry(cx, op, &opened, x.len(), w)?;
            let half = carry.zip(b).map(|(c, b)| if cx.is_p1() { c ^ tops(&b) } else { c });
            let item = Item { op, purpose: Purpose::Carry, index: 0, n: x.len(), bits: 1, group: Group::Xor };
            let mut sign = cx.open(item, half).await?;
            if cx.is_dealer() {
                sign.lambda = sign.lambda ^ tops(&x.lambda);
            }
            Ok(sign)
        }
    }))
    .await
}

/// Dealt thermometers, one row of 2^v bits for each element and block: bit j is [A_k ≥ j], j ≥ 1.
fn thermometers(cx: &Cx, x: &Share, w: Window) -> Result<Vec<Words>> {
    let op = cx.op("thermometers");
    let (v, rows) = (w.block_bits, x.len() * w.blocks as usize);
    let bits = w.width() as u32 - 1;
    let item = Item { op, purpose: Purpose::Thermometer, index: 0, n: rows, bits, group: Group::Xor };
    let dealt = cx.deal(item, || {
        let blocks: Vec<Words> = (0..w.blocks).map(|k| (&x.lambda >> (w.drop + k * v)).low(v)).collect();
        // 2^A − 1 has bit j − 1 set exactly for j ≤ A.
        let one = Words::zeros(cx.device(), rows);
        let all = Words::concat(&blocks.iter().collect::<Vec<_>>());
        one.flip_bit(64, &all) - 1
    })?;
    let n = x.len();
    Ok(dealt.map_or(vec![], |t| (0..w.blocks as usize).map(|k| t.slice(k * n..(k + 1) * n)).collect()))
}

/// An evaluator's xor shares of G_0..G_{K−1}, P_1..P_{K−1}, variable by variable.
fn generate_propagate(cx: &Cx, b: &Words, tables: &[Words], w: Window) -> Words {
    let (v, width) = (w.block_bits, w.width() as u64);
    let constant = u64::from(cx.is_p1());
    let (mut generate, mut propagate) = (vec![], vec![]);
    for (k, table) in tables.iter().enumerate() {
        let block = (b >> (w.drop + k as u32 * v)).low(v);
        // Row with th[0] = 1 (held by P1) below the dealt bits; th[2^v] = 0 is G for B = 0.
        let with_zero = (table << 1u32) ^ constant;
        let g = with_zero_top(&with_zero, &block, width);
        let at = -&block + (width - 1);
        if k > 0 {
            propagate.push(with_zero.bit_at(64, &at) ^ &g);
        }
        generate.push(g);
    }
    generate.extend(propagate);
    Words::concat(&generate.iter().collect::<Vec<_>>())
}

/// th[2^v − B], which is 0 for B = 0.
fn with_zero_top(row: &Words, block: &Words, width: u64) -> Words {
    let at = (-block + width) & (width - 1);
    // For B = 0 the index wraps to th[0], which must not be read as 1.
    row.bit_at(64, &at) & nonzero(block)
}

/// [b ≠ 0] for b < 2^63, as a word.
fn nonzero(b: &Words) -> Words {
    -b >> 63u32
}

/// Xor shares of the carry.
fn carry(cx: &Cx, op: Op, opened: &Masked, n: usize, w: Window) -> Result<Option<Words>> {
    let variable = |m: &Words, i: usize| m.slice(i * n..(i + 1) * n);
    let list = monomials(w);
    let item = Item {
        op,
        purpose: Purpose::CarryMonomials,
        index: 0,
        n: n * list.len(),
        bits: 1,
        group: Group::Xor,
    };
    let place = |set: u32| list.binary_search(&set).expect("listed");
    let dealt = cx.deal(item, || {
        // A set without its first variable is listed before it, or is a single variable.
        let mut products: Vec<Words> = Vec::with_capacity(list.len());
        for &set in &list {
            let (first, rest) = (set.trailing_zeros() as usize, set & (set - 1));
            let product = match rest.count_ones() {
                1 => variable(&opened.lambda, rest.trailing_zeros() as usize),
                _ => products[place(rest)].clone(),
            };
            products.push(product & variable(&opened.lambda, first));
        }
        // A single block has no products of masks.
        if products.is_empty() {
            return Words::zeros(cx.device(), 0);
        }
        Words::concat(&products.iter().collect::<Vec<_>>())
    })?;
    let (Some(delta), Some(dealt)) = (&opened.delta, dealt) else { return Ok(None) };
    let deltas: Vec<Words> = (0..w.variables()).map(|i| variable(delta, i)).collect();
    let mut sum = Words::zeros(cx.device(), n);
    for j in 0..w.blocks {
        let variables: Vec<usize> = members(term(w, j)).collect();
        let of_masks = |subset: u32| {
            let set: u32 = members(subset).map(|i| 1 << variables[i]).sum();
            match set.count_ones() {
                0 => Words::zeros(cx.device(), n) ^ u64::from(cx.is_p1()),
                1 => variable(&opened.lambda, set.trailing_zeros() as usize),
                _ => variable(&dealt, place(set)),
            }
        };
        let products = (0..1 << variables.len()).map(of_masks).collect();
        sum = sum ^ product_of_masked(products, variables.iter().map(|&v| &deltas[v]));
    }
    Ok(Some(sum))
}

/// An evaluator's half of Π_k (D_k ⊕ λ_k) = ⊕_S Π_{k∉S} D_k · \[Π_{k∈S} λ_k\], given its halves of the products of λ by
/// binary number of S, and the public D: one factor after the other is put in.
pub(crate) fn product_of_masked<'w>(
    mut products: Vec<Words>,
    public: impl DoubleEndedIterator<Item = &'w Words>,
) -> Words {
    for d in public.rev() {
        let with = products.split_off(products.len() / 2);
        products = products.into_iter().zip(with).map(|(without, with)| (without & d) ^ with).collect();
    }
    products.pop().expect("the product")
}

fn members(set: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |i| set >> i & 1 == 1)
}

/// The meaning in the clear: whether x < τ.
pub fn clear(ring: kernels::Ring, x: u64, tau: u64) -> bool {
    ring.signed(ring.reduce(x.wrapping_sub(tau))) < 0
}

/// Declared cost for `n` elements and `thresholds` thresholds.
pub fn cost(n: usize, thresholds: usize, w: Window) -> Cost {
    let mut c = Cost::dealt(bytes(n * w.blocks as usize, w.width() as u32 - 1));
    let one = Cost::round(bytes(n * w.variables(), 1))
        .then(Cost::dealt(bytes(n * monomials(w).len(), 1)))
        .then(Cost::round(bytes(n, 1)));
    for _ in 0..thresholds {
        c = c.beside(one.clone());
    }
    c
}
