//! Masked bits v = D ⊕ λ: comparison in blocks, conjunction, sums in the ring, and random bits nobody knows.
//!
//! **Conjunction.** With D known to the evaluators and λ to the dealer,
//! ```text
//! Π_k (D_k ⊕ λ_k) = ⊕_S Π_{k∉S} D_k · [Π_{k∈S} λ_k]
//! ```
//! over all sets S of factors: 2^f − 1 dealt bits, no exchange, one more to open the result under a fresh mask. The
//! sum is folded factor by factor, in 2^f steps. (Products of opened values with dealt monomials: ABY2.0, Patra et
//! al., USENIX Security 2021.)
//!
//! **Random bits.** Δ is a coin of k12, λ the sum of streams of k01 and k02. Each party lacks one of the three keys, so
//! to each the bit is uniform, given all else it sees. The rule that k12 masks nothing stands: no message is masked by
//! the coin, and it plays the part of a Δ that happened to be opened, which both evaluators know anyway.

use super::super::compare::{self, Window, product_of_masked};
use super::super::product::{reshare, ring_item};
use super::super::truncate::sign;
use crate::{Cost, Cx, Group, Item, KeyId, Masked, Product, Purpose, Result, Shape, Share, bytes, join_all};
use kernels::{Indices, Words};

/// Elements compared at a time: the buffers of so many stay in the processor's cache.
const BLOCK: usize = 2048;

/// [`compare::less_than`], block by block in the same two exchanges. The cost is that of one call.
pub(super) async fn less_than(
    cx: &Cx<'_>,
    x: &Share,
    thresholds: &[u64],
    window: Window,
) -> Result<Vec<Masked>> {
    let n = x.len();
    let column = Share { shape: Shape::new(n, 1), ..x.clone() };
    let blocks: Vec<Share> = (0..n.max(1)).step_by(BLOCK).map(|i| column.rows(i, n.min(i + BLOCK))).collect();
    let parts = join_all(blocks.iter().map(|b| compare::less_than(cx, b, thresholds, window))).await?;
    Ok((0..thresholds.len()).map(|t| concat(parts.iter().map(|p| &p[t]))).collect())
}

fn concat<'a>(parts: impl Iterator<Item = &'a Masked>) -> Masked {
    let parts: Vec<&Masked> = parts.collect();
    let deltas: Option<Vec<&Words>> = parts.iter().map(|m| m.delta.as_ref()).collect();
    let lambdas: Vec<&Words> = parts.iter().map(|m| &m.lambda).collect();
    Masked { delta: deltas.map(|d| Words::concat(&d)), lambda: Words::concat(&lambdas) }
}

/// Bits `idx`.
pub(super) fn gather(m: &Masked, idx: &Indices) -> Masked {
    Masked { delta: m.delta.as_ref().map(|d| d.gather(idx)), lambda: m.lambda.gather(idx) }
}

/// The bits and, after them, a bit that is publicly 1.
pub(super) fn with_one(cx: &Cx, m: &Masked) -> Masked {
    let zero = Words::zeros(cx.device(), 1);
    let one = &zero + 1;
    Masked {
        delta: m.delta.as_ref().map(|d| Words::concat(&[d, &one])),
        lambda: Words::concat(&[&m.lambda, &zero]),
    }
}

/// 1 − v.
pub(super) fn not(m: Masked) -> Masked {
    Masked { delta: m.delta.map(|d| d ^ 1), lambda: m.lambda }
}

/// The conjunction of the factors, element by element, opened under fresh masks. Only the dealer's λ of the factors
/// is used, so that the results of comparisons will do. One exchange.
pub async fn and(cx: &Cx<'_>, factors: &[Masked]) -> Result<Masked> {
    let (op, n) = (cx.op("and"), factors[0].lambda.len());
    let sets = (1 << factors.len()) - 1;
    let xor = |purpose, n| Item { op, purpose, index: 0, n, bits: 1, group: Group::Xor };
    let dealt = cx.deal(xor(Purpose::AndMonomials, n * sets), || {
        // Set S at place S − 1.
        let mut products: Vec<Words> = Vec::with_capacity(sets);
        for f in factors {
            let with: Vec<Words> = products.iter().map(|p| p & &f.lambda).collect();
            products.push(f.lambda.clone());
            products.extend(with);
        }
        Words::concat(&products.iter().collect::<Vec<_>>())
    })?;
    let half = dealt.map(|dealt| {
        let one = Words::zeros(cx.device(), n) ^ u64::from(cx.is_p1());
        let products = (0..sets).map(|s| dealt.slice(s * n..(s + 1) * n));
        let deltas = factors.iter().map(|f| f.delta.as_ref().expect("evaluator"));
        product_of_masked(std::iter::once(one).chain(products).collect(), deltas)
    });
    cx.open(xor(Purpose::And, n), half).await
}

/// Declared cost of [`and`] for `n` elements.
pub fn and_cost(n: usize, factors: usize) -> Cost {
    Cost::dealt(bytes(n * ((1 << factors) - 1), 1)).then(Cost::round(bytes(n, 1)))
}

/// Bits as 2-of-2 elements of Z_2^bits: D + (1 − 2D)·λ with dealt λ. Dealt: `bits` bits an element.
pub(super) fn to_ring(cx: &Cx, m: &Masked, bits: u32) -> Result<Option<Words>> {
    let n = m.lambda.len();
    let item = Item { op: cx.op("bit"), purpose: Purpose::Bit, index: 0, n, bits, group: Group::Add };
    let dealt = cx.deal(item, || m.lambda.clone())?;
    let p1 = cx.is_p1();
    Ok(m.delta
        .as_ref()
        .zip(dealt)
        .map(|(d, l)| Words::formula([d, &l], |[d, l]| if p1 { sign(d) * l + d } else { sign(d) * l })))
}

/// The products a_i · b_idx\[i\] of bits as 2-of-2 elements of the ring:
/// (D + s·λ)(E + t·μ) = D·E + E·s·\[λ\] + D·t·\[μ\] + s·t·\[λμ\], with s = 1 − 2D and t = 1 − 2E.
/// Dealt: 16 bytes for each bit of a, 8 for each of b.
pub(super) fn both(cx: &Cx, a: &Masked, b: &Masked, idx: &Indices) -> Result<Option<Words>> {
    let (op, n) = (cx.op("two bits"), a.lambda.len());
    let first = cx.deal(ring_item(cx, op, Purpose::Bit, n), || a.lambda.clone())?;
    let second = cx.deal(ring_item(cx, op, Purpose::Theta, b.lambda.len()), || b.lambda.clone())?;
    let product = cx.deal(ring_item(cx, op, Purpose::BitTimesBit, n), || &a.lambda & b.lambda.gather(idx))?;
    Ok(match (&a.delta, &b.delta, first, second, product) {
        (Some(d), Some(e), Some(l), Some(m), Some(lm)) => {
            let (e, m) = (e.gather(idx), m.gather(idx));
            let (p1, bits) = (cx.is_p1(), cx.ring().bits());
            Some(Words::formula([d, &e, &l, &m, &lm], |[d, e, l, m, lm]| {
                let (s, t) = (sign(d), sign(e));
                let half = s * e * l + t * d * m + s * t * lm;
                if p1 { half + (d & e) } else { half }.low(bits)
            }))
        }
        _ => None,
    })
}

/// A column of `n` uniform integers of `bits` bits that no party knows. One exchange.
pub(super) async fn uniform(cx: &Cx<'_>, n: usize, bits: u32) -> Result<Share> {
    let count = n * bits as usize;
    let item =
        Item { op: cx.op("noise"), purpose: Purpose::Noise, index: 0, n: count, bits: 1, group: Group::Xor };
    let (streams, delta) = (cx.pads(&item), cx.draw(KeyId::K12, &item));
    let lambda = match (streams.p1, streams.p2) {
        (Some(a), Some(b)) => a ^ b,
        (own, other) => own.or(other).expect("every party knows k01 or k02"),
    };
    let weights = Words::upload(cx.device(), (0..bits).map(|j| 1 << j).collect());
    let half = to_ring(cx, &Masked { delta, lambda }, cx.ring().bits())?.map(|w| {
        let weighted = Words::formula([(&w).into(), weights.for_cols(n)], |[bit, weight]| bit * weight);
        cx.reduce(weighted.sum_rows(bits as usize))
    });
    reshare(cx, Product { shape: Shape::new(n, 1), scale: 0, bits: cx.ring().bits(), half }).await
}

/// Declared cost of [`uniform`].
pub(super) fn uniform_cost(n: usize, bits: u32, ring_bits: u32) -> Cost {
    Cost::dealt(bytes(n * bits as usize, ring_bits)).then(Cost::round(bytes(n, ring_bits)))
}

/// A matrix of ones at scale 0 that everybody knows.
pub(super) fn ones(cx: &Cx, shape: Shape) -> Share {
    let zeros = Words::zeros(cx.device(), shape.len());
    let [delta, first] = [!cx.is_dealer(), cx.is_dealer()].map(|known| known.then(|| zeros.clone()));
    Share { shape, scale: 0, delta, lambda: zeros, first }.add_public(1)
}
