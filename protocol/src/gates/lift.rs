//! Exact truncation in a single exchange, for a value that is only a factor of products.
//!
//! [`truncate`](super::truncate) settles the carry between the evaluators' halves before it opens its result. Here the value
//! itself is opened, Z = z + 2^(k−2) = D + λ − W·2^k for −2^(k−2) ≤ z < 2^(k−2) in Z_2^k, and W = m1 ∨ m2 of the top bits of
//! D, which the evaluators know, and of λ, which the dealer knows:
//! ```text
//! ⌊Z/2^f⌋ or +1 = (D >> f) + (λ >> f) + 1 − m1·2^(k−f)  −  (1 − m1)·2^(k−f)·m2
//! ```
//! The first part is a share: the dealer deals halves of λ >> f. The second is a public number times a shared bit. Together
//! they are no share, since the dealer does not know which bits count; but a product with both is a product with each.
//! It costs one more dealt product, of a mask and the bit modulo 2^(f + ring bits − k). Modulo 2^(k−f) the first part is all.
//! Source: own composition; the lemma on W is that of [`truncate`](super::truncate).

use super::product::{product_cost, ring_item};
use crate::{Cost, Cx, Group, Item, Product, Purpose, Result, Share, Taken, bytes};
use kernels::{Input, Words};

/// A truncated value: `low`, and a multiple of a bit where the evaluators say so.
#[derive(Clone, Debug)]
pub struct Lifted {
    /// The value modulo 2^(k−f).
    pub(crate) low: Share,
    carry: Option<Carry>,
}

/// The public factors at the evaluators, the dealer's bit or halves of it, and modulo 2 to what it counts.
#[derive(Clone, Debug)]
struct Carry {
    factor: Option<Words>,
    bit: Words,
    bits: u32,
}

impl From<Share> for Lifted {
    fn from(low: Share) -> Lifted {
        Lifted { low, carry: None }
    }
}

/// Truncates a value known modulo 2^k by `f` bits. |z| < 2^(k−2). Cost: [`cost`].
pub async fn open(cx: &Cx<'_>, z: Product, f: u32) -> Result<Lifted> {
    let offset = raise(cx, z.bits, f);
    let half = z.half.map(|z| if offset == 0 { z } else { z + offset });
    open_raised(cx, Product { half, ..z }, f).await
}

/// What this party adds to its half of z so that it is one of Z.
pub(crate) fn raise(cx: &Cx, k: u32, f: u32) -> u64 {
    if cx.is_p1() && f + cx.ring().bits() > k { 1 << (k - 2) } else { 0 }
}

/// [`open`] of a z whose half has it already.
pub(crate) async fn open_raised(cx: &Cx<'_>, z: Product, f: u32) -> Result<Lifted> {
    let k = z.bits;
    assert!(f <= z.scale && k <= cx.ring().bits() && f + 2 <= k, "truncation by {f} of {k} bits");
    let (shape, scale, n, op) = (z.shape, z.scale - f, z.shape.len(), cx.op("lift"));
    let bits = f + cx.ring().bits() - k;
    if bits == 0 {
        return Ok(super::product::reshare(cx, z).await?.into());
    }
    let item = Item { bits: k, ..ring_item(cx, op, Purpose::Result, n) };
    let low_item = ring_item(cx, op, Purpose::Theta, n);
    let bit_item = Item { op, purpose: Purpose::Bit, index: 0, n, bits, group: Group::Add };
    let opened = cx.open(item, z.half).await?;

    let own = cx.is_dealer().then(|| Words::formulas([&opened.lambda], |[l]| [l >> f, l >> (k - 1)]));
    let [own_low, own_bit] = own.map_or([None, None], |own| own.map(Some));
    let mut first = None;
    let dealt = cx.deal_beside_pad(low_item, |pad| {
        first = Some(pad.clone());
        own_low.clone().expect("the dealer made it")
    })?;
    let low = dealt.or(own_low);
    let bit = cx.deal(bit_item, || own_bit.clone().expect("the dealer made it"))?.or(own_bit);

    let (constant, ring) = (1u64.wrapping_sub(1 << (k - 2 - f)), cx.ring().bits());
    let known = opened.delta.as_ref().map(|d| {
        Words::formulas([d], |[d]| {
            let top = d >> (k - 1);
            [((d >> f) - (top << (k - f)) + constant).low(ring), (top - 1) << (k - f)]
        })
    });
    let [delta, factor] = known.map_or([None, None], |known| known.map(Some));
    let low = Share { shape, scale, delta, lambda: low.expect("λ, or a half of it"), first };
    let carry = Carry { factor, bit: bit.expect("the bit, or a half of it"), bits };
    Ok(Lifted { low, carry: Some(carry) })
}

/// x times a, whose words `spread` lays out as those of x, and on top of it this party's `plus`, a half and a constant:
/// ```text
/// P1: (Δa + λa1)·Δx + Δa·λx1    P2: λa0·Δx + Δa·λx0    P0 deals λa·λx and b·λx modulo 2^bits
/// ```
/// for the low part Δa + λa, and factor · (b·Δx + b·λx) for the bit b. Cost: [`times_cost`].
pub fn times(
    cx: &Cx,
    x: Taken<'_>,
    a: &Lifted,
    spread: impl Fn(&Words) -> Input<'_>,
    plus: (Option<Input<'_>>, u64),
) -> Result<Product> {
    let (shape, n, ring) = (x.shape, x.shape.len(), cx.ring().bits());
    let scale = x.scale + a.low.scale;
    let own = x.lambda.clone();
    // λa·λx and, if there is a carry, b·λx.
    let mut masks = cx.is_dealer().then(|| {
        let factors = std::iter::once(&a.low.lambda).chain(a.carry.as_ref().map(|c| &c.bit));
        let inputs: Vec<_> = [own.clone()].into_iter().chain(factors.map(&spread)).collect();
        Words::formulas_of(&inputs, |t| t[1..].iter().map(|&factor| t[0] * factor).collect()).into_iter()
    });
    let mut deal = |item| {
        let value = masks.as_mut().and_then(Iterator::next);
        cx.deal(item, || value.expect("the dealer multiplied the masks"))
    };
    let theta = deal(ring_item(cx, cx.op("product"), Purpose::Theta, n))?;
    let masked = match &a.carry {
        Some(carry) => {
            let (op, purpose) = (cx.op("carry"), Purpose::BitTimesMask);
            deal(Item { op, purpose, index: 0, n, bits: carry.bits, group: Group::Add })?
        }
        None => None,
    };

    let (Some(theta), Some(delta), Some(a_delta)) = (theta, x.delta, &a.low.delta) else {
        return Ok(Product { shape, scale, bits: ring, half: None });
    };
    let mut inputs = vec![delta, own, spread(a_delta), spread(&a.low.lambda), Input::from(&theta)];
    if let (Some(masked), Some(Carry { factor: Some(factor), bit, .. })) = (&masked, &a.carry) {
        inputs.extend([masked.into(), spread(factor), spread(bit)]);
    }
    let (p1, carried) = (cx.is_p1(), masked.is_some());
    inputs.extend(plus.0);
    let half = Words::formulas_of(&inputs, |terms| {
        let (&[dx, own, da, la, theta], rest) = terms.split_first_chunk().expect("five inputs");
        let product = dx * if p1 { da + la } else { la } + own * da + theta;
        let (product, rest) = match *rest {
            [masked, factor, bit, ..] if carried => (product + factor * (dx * bit + masked), &rest[3..]),
            _ => (product, rest),
        };
        vec![rest.iter().fold(product + plus.1, |sum, &half| sum + half).low(ring)]
    });
    Ok(Product { shape, scale, bits: ring, half: half.into_iter().next() })
}

/// Declared cost of [`open`] for `n` elements.
pub fn cost(n: usize, k: u32, f: u32, ring_bits: u32) -> Cost {
    let dealt = match f + ring_bits - k {
        0 => 0,
        bits => bytes(n, ring_bits) + bytes(n, bits),
    };
    Cost::round(bytes(n, k)).then(Cost::dealt(dealt))
}

/// Declared cost of [`times`] for `n` results.
pub fn times_cost(n: usize, k: u32, f: u32, ring_bits: u32) -> Cost {
    product_cost(n, ring_bits).then(Cost::dealt(bytes(n, f + ring_bits - k)))
}
