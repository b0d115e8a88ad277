//! Products of shares: element-wise, dot products, batched and weight matrices.
//!
//! For a bilinear map f, with x = λx + Δx and y = λy + Δy,
//! ```text
//! f(x, y) = f(Δx, Δy) + f(Δx, λy) + f(λx, Δy) + f(λx, λy)
//! ```
//! The dealer deals shares of the last term; P1 computes f(Δx, Δy + λy1) + f(λx1, Δy), P2 f(Δx, λy0) + f(λx0, Δy).
//! That is a 2-of-2 sharing of the product at no exchange. Resharing it (MT0) takes one.
//! Source: masked evaluation of ASTRA (Chaudhari et al., CCSW 2019) on replicated shares (Araki et al., CCS 2016).

use crate::{Cost, Cx, Group, Item, Op, Product, Purpose, Result, Shape, Share, SharedMatrix, bytes};
use kernels::{GemmBatch, Words};

/// An item of ring elements.
pub(crate) fn ring_item(cx: &Cx, op: Op, purpose: Purpose, n: usize) -> Item {
    Item { op, purpose, index: 0, n, bits: cx.ring().bits(), group: Group::Add }
}

/// The halves of f(x, y). `shape` is that of the result. Dealt: 8 bytes an element of the result.
pub fn bilinear(
    cx: &Cx,
    x: &Share,
    y: &Share,
    shape: Shape,
    f: impl Fn(&Words, &Words) -> Words,
) -> Result<Product> {
    let op = cx.op("product");
    let theta =
        cx.deal(ring_item(cx, op, Purpose::Theta, shape.len()), || cx.reduce(f(&x.lambda, &y.lambda)))?;
    let half = match (theta, &x.delta, &y.delta) {
        (Some(t), Some(dx), Some(dy)) => {
            let cross = if cx.is_p1() { f(dx, &(dy + &y.lambda)) } else { f(dx, &y.lambda) };
            Some(cx.reduce(cross + f(&x.lambda, dy) + t))
        }
        _ => None,
    };
    Ok(Product { shape, scale: x.scale + y.scale, half })
}

/// Element-wise product.
pub fn multiply(cx: &Cx, x: &Share, y: &Share) -> Result<Product> {
    assert_eq!(x.shape, y.shape, "element-wise product of different shapes");
    bilinear(cx, x, y, x.shape, |a, b| a * b)
}

/// Each row of x times one element of the column r.
pub fn scale_rows(cx: &Cx, x: &Share, r: &Share) -> Result<Product> {
    assert_eq!(x.shape.rows, r.len(), "one factor a row");
    bilinear(cx, x, r, x.shape, |a, b| a.clone().zip_rows(kernels::Zip::Mul, b))
}

/// Each column of x times one element of the row c.
pub fn scale_columns(cx: &Cx, x: &Share, c: &Share) -> Result<Product> {
    assert_eq!(x.shape.cols, c.len(), "one factor a column");
    bilinear(cx, x, c, x.shape, |a, b| a.clone().zip_cols(kernels::Zip::Mul, b))
}

/// Σ_j x_ij², one element a row. Dealt: 8 bytes a row.
pub fn square_sum(cx: &Cx, x: &Share) -> Result<Product> {
    let cols = x.shape.cols;
    bilinear(cx, x, x, Shape::new(x.shape.rows, 1), |a, b| (a * b).sum_rows(cols))
}

/// Many small matrix products at once (attention).
pub fn batched(cx: &Cx, x: &Share, y: &Share, batch: &GemmBatch, shape: Shape) -> Result<Product> {
    bilinear(cx, x, y, shape, |a, b| a.gemm_batch(b, batch))
}

/// x · W^T for a shared weight matrix: two products with weights for each evaluator, one for the dealer. That with λ is
/// made for several runs at once where more like this one are expected ([`Session::expect_more`](crate::Session)).
pub fn matmul(cx: &Cx, x: &Share, w: &SharedMatrix) -> Result<Product> {
    let shape = Shape::new(x.shape.rows, w.outputs());
    let op = cx.op("matmul");
    let item = ring_item(cx, op, Purpose::Theta, shape.len());
    let by_lambda = || cx.by_mask(op, &w.by_lambda, &x.lambda);
    let theta = cx.deal(item, || cx.reduce(by_lambda()))?;
    let half = match (theta, &x.delta, &w.by_delta) {
        (Some(t), Some(dx), Some(by_delta)) => Some(cx.reduce(by_delta.apply(dx) + by_lambda() + t)),
        _ => None,
    };
    Ok(Product { shape, scale: x.scale + w.scale, half })
}

/// A share as a 2-of-2 value, so that it can be added to products: P1 holds Δ + λ1, P2 λ0.
pub fn halves(cx: &Cx, x: &Share) -> Product {
    let half = x.delta.as_ref().map(|d| if cx.is_p1() { d + &x.lambda } else { x.lambda.clone() });
    Product { shape: x.shape, scale: x.scale, half }
}

/// Reshares a 2-of-2 value without truncation (MT0). |z| < 2^63.
/// Cost: one exchange, 8 bytes an element each way.
pub async fn reshare(cx: &Cx<'_>, z: Product) -> Result<Share> {
    let op = cx.op("reshare");
    let opened = cx.open(ring_item(cx, op, Purpose::Result, z.shape.len()), z.half).await?;
    Ok(opened.share(z.shape, z.scale))
}

/// ⌊x / 2^d⌋, give or take one, modulo 2^(k−d): both summands of x = λ + Δ drop their low bits, and the dealer deals new
/// halves of its own. No exchange. Products of the result hold modulo 2^(k−d) as well, which is what
/// [`truncate_from`](super::truncate::truncate_from) expects. Dealt: 8 bytes an element.
pub fn drop_low(cx: &Cx, x: &Share, d: u32) -> Result<Share> {
    assert!(d <= x.scale, "dropping below scale 0");
    let op = cx.op("drop low bits");
    // The two floors lose between 0 and 2 units, 1 on average.
    let delta = x.delta.as_ref().map(|v| (cx.reduce(v.clone()) >> d) + 1);
    let own = cx.reduce(x.lambda.clone()) >> d;
    let dealt = cx.deal(ring_item(cx, op, Purpose::Theta, x.len()), || own.clone())?;
    Ok(Share { shape: x.shape, scale: x.scale - d, delta, lambda: dealt.unwrap_or(own) })
}

/// Declared cost of the halves of a product with `n` results.
pub fn product_cost(n: usize, ring_bits: u32) -> Cost {
    Cost::dealt(bytes(n, ring_bits))
}

/// Declared cost of resharing `n` elements.
pub fn reshare_cost(n: usize, ring_bits: u32) -> Cost {
    Cost::round(bytes(n, ring_bits))
}
