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

use super::product::{bilinear, product_cost, ring_item};
use crate::{Cost, Cx, Group, Item, Product, Purpose, Result, Share, bytes};
use kernels::Words;

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
pub async fn open(cx: &Cx<'_>, z: Product, k: u32, f: u32) -> Result<Lifted> {
    assert!(f <= z.scale && k <= cx.ring().bits() && f + 2 <= k, "truncation by {f} of {k} bits");
    let (shape, scale, n, op) = (z.shape, z.scale - f, z.shape.len(), cx.op("lift"));
    let bits = f + cx.ring().bits() - k;
    if bits == 0 {
        return Ok(super::product::reshare(cx, z).await?.into());
    }
    let shifted = |z: Words| if cx.is_p1() { z + (1 << (k - 2)) } else { z };
    let item = Item { bits: k, ..ring_item(cx, op, Purpose::Result, n) };
    let opened = cx.open(item, z.half.map(shifted)).await?;

    let own = cx.is_dealer().then(|| Words::formulas([&opened.lambda], |[l]| [l >> f, l >> (k - 1)]));
    let [own_low, own_bit] = own.map_or([None, None], |own| own.map(Some));
    let dealt = |item, own: &Option<Words>| cx.deal(item, || own.clone().expect("the dealer made it"));
    let low = dealt(ring_item(cx, op, Purpose::Theta, n), &own_low)?.or(own_low);
    let item = Item { op, purpose: Purpose::Bit, index: 0, n, bits, group: Group::Add };
    let bit = dealt(item, &own_bit)?.or(own_bit);

    let (constant, ring) = (1u64.wrapping_sub(1 << (k - 2 - f)), cx.ring().bits());
    let known = opened.delta.as_ref().map(|d| {
        Words::formulas([d], |[d]| {
            let top = d >> (k - 1);
            [((d >> f) - (top << (k - f)) + constant).low(ring), (top - 1) << (k - f)]
        })
    });
    let [delta, factor] = known.map_or([None, None], |known| known.map(Some));
    let low = Share { shape, scale, delta, lambda: low.expect("λ, or a half of it") };
    let carry = Carry { factor, bit: bit.expect("the bit, or a half of it"), bits };
    Ok(Lifted { low, carry: Some(carry) })
}

/// x times a, where `spread` multiplies words of the shape of x with words of the shape of a. Cost: [`times_cost`].
pub fn times(cx: &Cx, x: &Share, a: &Lifted, spread: impl Fn(&Words, &Words) -> Words) -> Result<Product> {
    let product = bilinear(cx, x, &a.low, x.shape, &spread)?;
    let Some(Carry { factor, bit, bits }) = &a.carry else { return Ok(product) };
    let op = cx.op("carry");
    let item =
        Item { op, purpose: Purpose::BitTimesMask, index: 0, n: x.len(), bits: *bits, group: Group::Add };
    let masked = cx.deal(item, || spread(&x.lambda, bit))?;
    let carry = match (masked, &x.delta, factor) {
        (Some(masked), Some(delta), Some(factor)) => Some(spread(&(spread(delta, bit) + masked), factor)),
        _ => None,
    };
    Ok(product.plus(Product { half: carry, shape: x.shape, scale: x.scale + a.low.scale }))
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
