//! Exact truncation of a 2-of-2 value, z ↦ ⌊z / 2^f⌋ or that plus 1 (MTX's tail).
//!
//! For −2^(k−2) ≤ z < 2^(k−2) in Z_2^k, Z = z + 2^(k−2) lies in [0, 2^(k−1)). Its two shares wrap around 2^k exactly
//! when one of their top bits m1, m2 is set, W = m1 ∨ m2 = m1 + m2 − m1·m2, so
//! ```text
//! ⌊Z/2^f⌋ or +1 = (Z1 >> f) + (Z2 >> f) + 1 − W·2^(k−f)        (the +1 makes the rounding unbiased)
//! ```
//! and only m1·m2 modulo 2^f is missing: with A = m1 ⊕ α opened to P2 and B = m2 ⊕ β opened to P1, and dealt shares of
//! αβ modulo 2^f, it is a local expression. α is P1's mask bit, β P2's; the dealer knows both.
//! The rounding bit is a function of z and of Z1 mod 2^f, which P1 knows, or as well of Z2 mod 2^f, which P2 knows: given z, the
//! functionality gives the dither to each of them. Outside the range the result is off by 2^(k−f), undetectably: callers
//! certify it.
//! Sources: wrap bit from top bits for |z| < 2^k/4 (Guo et al., eprint 2025/200, and SPU's variant of it); fusion of
//! truncation with resharing: Harth-Kitzerow et al., "Truncation Untangled", PoPETs 2025.

use super::product::{reshare_cost, reshare_modulo};
use crate::{Cost, Cx, Group, Item, Product, Purpose, Result, Share, bytes};
use kernels::{Ring, Term, Words};

/// Truncates a value known modulo 2^k by `f` bits, lifts the result to the ring and reshares: the wrap bit is needed modulo
/// 2^(f + ring bits − k). |z| < 2^(k−2).
/// Cost: two exchanges of 1 bit and 8 bytes an element each way; the dealer sends f + ring bits − k bits an element to P2.
pub async fn truncate(cx: &Cx<'_>, z: Product, f: u32) -> Result<Share> {
    truncate_to(cx, z, f, cx.ring().bits()).await
}

/// Truncates a value known modulo 2^k to one that is only needed modulo 2^bits. There W·2^(k−f) vanishes if
/// bits ≤ k − f: both evaluators drop their low bits, one exchange of `bits` bits is enough, nothing is dealt, and z may be
/// any number. Else |z| < 2^(k−2) and the exchanges of [`truncate`]. The words of the result are below 2^bits.
pub async fn truncate_to(cx: &Cx<'_>, z: Product, f: u32, bits: u32) -> Result<Share> {
    assert!(f <= z.scale, "truncation below scale 0");
    let (shape, scale, n, ring) = (z.shape, z.scale - f, z.shape.len(), cx.ring().bits());
    let k = z.bits;
    assert!(k <= ring && bits <= ring && f < k, "truncation by {f} of {k} bits");
    if bits <= k - f {
        // Without the low bits the halves lose 0 or 1; the 1 makes the rounding unbiased.
        let centre = u64::from(cx.is_p1() && f > 0);
        let half = z.half.map(|z| Words::formula([&z], |[z]| (z.low(k) >> f) + centre));
        return reshare_modulo(cx, Product { shape, scale, bits, half }, bits).await;
    }
    assert!(f <= k - 2, "truncation by {f} of {k} bits");
    let wrap_bits = f + bits - k;
    let op = cx.op("truncate");
    let bit = Item { op, purpose: Purpose::WrapBit, index: 0, n, bits: 1, group: Group::Xor };
    let product = Item { op, purpose: Purpose::WrapProduct, index: 0, n, bits: wrap_bits, group: Group::Add };
    let pads = cx.pads(&bit);
    let both = || pads.p1.as_ref().expect("dealer") & pads.p2.as_ref().expect("dealer");
    let s = cx.deal(product, both)?;

    // Z, modulo 2^k.
    let offset = if cx.is_p1() { 1 << (k - 2) } else { 0 };
    let top = z.half.as_ref().map(|z| Words::formula([z], |[z]| ((z + offset) >> (k - 1)).low(1)));
    let swapped = cx.swap(bit, top, &pads).await?;

    let half = match (z.half, swapped, s) {
        (Some(z), Some((mine, theirs)), Some(s)) => {
            let (p1, ring) = (cx.is_p1(), cx.ring().bits());
            let own_pad = if p1 { pads.p1 } else { pads.p2 }.expect("an evaluator knows its own pad");
            let constant = if p1 { 1u64.wrapping_sub(1 << (k - 2 - f)) } else { 0 };
            Some(Words::formula([&z, &mine, &theirs, &own_pad, &s], |[z, mine, theirs, own_pad, s]| {
                // p1 = A·B + B(1−2A)·α + (1−2A)(1−2B)·s1,  p2 = A(1−2B)·β + (1−2A)(1−2B)·s2,  p1 + p2 = m1·m2 mod 2^f
                let sign_mine = sign(mine);
                let p = sign_mine * (theirs * own_pad + sign(theirs) * s);
                let p = if p1 { p + mine * theirs } else { p };
                let z = (z + offset).low(k);
                let wrap = ((z >> (k - 1)) - p).low(wrap_bits) << (k - f);
                ((z >> f) - wrap + constant).low(ring)
            }))
        }
        _ => None,
    };
    reshare_modulo(cx, Product { shape, scale, bits, half }, bits).await
}

/// 1 − 2b.
pub(crate) fn sign(bit: Term<'_>) -> Term<'_> {
    -(bit << 1u32) + 1
}

/// The meaning in the clear, rounding down.
pub fn clear(ring: Ring, z: u64, f: u32) -> u64 {
    ring.reduce((ring.signed(z) >> f) as u64)
}

/// Declared cost of [`truncate`] for `n` elements.
pub fn cost(n: usize, f: u32, ring_bits: u32) -> Cost {
    cost_from(n, ring_bits, f, ring_bits)
}

/// Declared cost of [`truncate`] of a value known modulo 2^k for `n` elements.
pub fn cost_from(n: usize, k: u32, f: u32, ring_bits: u32) -> Cost {
    cost_between(n, k, f, ring_bits)
}

/// Declared cost of [`truncate_to`] of a value known modulo 2^k for `n` elements.
pub fn cost_between(n: usize, k: u32, f: u32, bits: u32) -> Cost {
    let open = reshare_cost(n, bits);
    if bits <= k - f {
        return open;
    }
    Cost::dealt(bytes(n, f + bits - k)).then(Cost::round(bytes(n, 1))).then(open)
}
