//! Masked bit times value.
//!
//! A bit opened as b = D ⊕ λ is D + (1−2D)·λ over the integers. With dealt shares L of λ and LA of λ·λx,
//! ```text
//! b·x = D·x + (1−2D)·(λ·Δx + λ·λx)
//! ```
//! is a 2-of-2 value at no exchange. Several such products may be summed before one resharing.

use super::truncate::sign;
use crate::{Cost, Cx, Group, Item, Masked, Product, Purpose, Result, Share, bytes};
use kernels::Words;

/// b · x for a bit opened under a mask. Dealt: 16 bytes an element.
pub fn bit_times(cx: &Cx, b: &Masked, x: &Share) -> Result<Product> {
    bit_times_modulo(cx, b, x, cx.ring().bits())
}

/// b · x modulo 2^bits, for an x that is only needed or only known modulo that. Dealt: 2·bits bits an element.
pub fn bit_times_modulo(cx: &Cx, b: &Masked, x: &Share, bits: u32) -> Result<Product> {
    let (op, n) = (cx.op("bit times value"), x.len());
    let item = |purpose| Item { op, purpose, index: 0, n, bits, group: Group::Add };
    let l = cx.deal(item(Purpose::Bit), || b.lambda.clone())?;
    let la = cx.deal(item(Purpose::BitTimesMask), || (&b.lambda * &x.lambda).low(bits))?;
    let half = match (&b.delta, &x.delta, l, la) {
        (Some(d), Some(dx), Some(l), Some(la)) => {
            let p1 = cx.is_p1();
            Some(Words::formula([d, dx, &x.lambda, &l, &la], |[d, dx, own, l, la]| {
                let own = if p1 { dx + own } else { own };
                (d * own + sign(d) * (l * dx + la)).low(bits)
            }))
        }
        _ => None,
    };
    Ok(Product { shape: x.shape, scale: x.scale, bits, half })
}

/// Declared cost for `n` elements modulo 2^bits.
pub fn cost(n: usize, bits: u32) -> Cost {
    Cost::dealt(2 * bytes(n, bits))
}
