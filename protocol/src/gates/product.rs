//! Products of shares: element-wise, dot products, and products of matrices.
//!
//! For a bilinear map f, with x = λx + Δx and y = λy + Δy,
//! ```text
//! f(x, y) = f(Δx, Δy) + f(Δx, λy) + f(λx, Δy) + f(λx, λy)
//! ```
//! The dealer deals shares of the last term; P1 computes f(Δx, Δy + λy1) + f(λx1, Δy), P2 f(Δx, λy0) + f(λx0, Δy).
//! That is a 2-of-2 sharing of the product at no exchange. Resharing it (MT0) takes one.
//! Source: masked evaluation of ASTRA (Chaudhari et al., CCSW 2019) on replicated shares (Araki et al., CCS 2016).
//!
//! Where f is expensive, a product of matrices, each party computes it once instead of twice at each evaluator: of
//! [`Factor`]s, u1 = Δ + 2·λ1 and u0 = Δ + 2·λ0, the mean of which is the value, and d = λ1 − λ0, half of their difference,
//! ```text
//! f(u1, u1') + f(u0, u0') = 2·(f(x, y) + f(d, d'))
//! ```
//! as mean times mean is the mean of the products less the product of the half differences. The sum is even, so that
//! both products have the same lowest bit, and half of it is ⌈f(u1, u1')/2⌉ + ⌊f(u0, u0')/2⌋, exactly. The dealer deals shares of
//! −f(d, d'). What is halved is known modulo one power of two less: in the ring of 64 bits to 63 bits ([`factor_bits`]).
//! Source: own composition ([decision 24](../../../docs/decisions/0024-one-product-a-party.md)).

use crate::{Cost, Cx, Factor, Group, Item, Op, Product, Purpose, Result, Shape, Share, SharedMatrix, bytes};
use kernels::{GemmBatch, Indices, Input, Words};
use std::borrow::Cow;
use std::ops::Range;

/// Low bits of a product of [`Factor`]s that are known in a ring of so many: words have 64, and one of them is halved away.
pub const fn factor_bits(ring_bits: u32) -> u32 {
    if ring_bits < 63 { ring_bits } else { 63 }
}

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
    bilinear_modulo(cx, x, y, shape, cx.ring().bits(), f)
}

/// The same modulo 2^bits, for a result that is only needed, and factors that are only known, modulo that. Dealt: `bits` bits
/// an element of the result.
pub fn bilinear_modulo(
    cx: &Cx,
    x: &Share,
    y: &Share,
    shape: Shape,
    bits: u32,
    f: impl Fn(&Words, &Words) -> Words,
) -> Result<Product> {
    let (op, ring) = (cx.op("product"), cx.ring().bits());
    let item = Item { bits, ..ring_item(cx, op, Purpose::Theta, shape.len()) };
    let theta = cx.deal(item, || cx.reduce(f(&x.lambda, &y.lambda)))?;
    let half = theta.zip(x.delta.as_ref()).map(|(theta, dx)| {
        let dy = y.delta.as_ref().expect("an evaluator has Δ of both factors");
        let cross = if cx.is_p1() { f(dx, &(dy + &y.lambda)) } else { f(dx, &y.lambda) };
        let own = f(&x.lambda, dy);
        Words::formula([&cross, &own, &theta], |[cross, own, theta]| (cross + own + theta).low(ring))
    });
    Ok(Product { shape, scale: x.scale + y.scale, bits, half })
}

/// The halves of f_0(x, y_0), f_1(x, y_1), …, one after the other, as one product: `f(i, x, y_i)`, one product of matrices at
/// each party. The parts of y lie in buffers of their own, as the keys and values of several sequences do. All modulo 2^bits,
/// for a result that is only needed, and factors that are only known, modulo that, [`factor_bits`] at most. Dealt: `bits`
/// bits an element of the result.
///
/// # Panics
/// If y has no part, or parts of different scales.
pub fn of_factors(
    cx: &Cx,
    x: &Factor,
    y: &[&Factor],
    shape: Shape,
    bits: u32,
    f: impl Fn(usize, &Words, &Words) -> Words,
) -> Result<Product> {
    assert!(y.iter().all(|part| part.scale == y[0].scale), "parts of different scales");
    let bits = bits.min(factor_bits(cx.ring().bits()));
    let op = cx.op("product");
    let item = Item { bits, ..ring_item(cx, op, Purpose::Theta, shape.len()) };
    let own = joined(y.iter().enumerate().map(|(i, y)| f(i, &x.words, &y.words)));
    let theta = cx.deal(item, || Words::formula([&own], |[own]| (-own).low(bits)))?;
    let half = theta.map(|theta| halved(cx, (&own).into(), &theta, bits));
    Ok(Product { shape, scale: x.scale + y[0].scale, bits, half })
}

/// An evaluator's half of a product of factors, from its own product and its share of what the dealer has dealt.
fn halved(cx: &Cx, own: Input<'_>, theta: &Words, bits: u32) -> Words {
    // The products have the same lowest bit: one of them is rounded up, the other one down.
    let up = u64::from(cx.is_p1());
    Words::formula([own, theta.into()], |[own, theta]| (((own + up) >> 1) + theta).low(bits))
}

/// One after the other; a single one is not copied.
fn joined(parts: impl Iterator<Item = Words>) -> Words {
    let mut parts: Vec<Words> = parts.collect();
    if parts.len() == 1 { parts.remove(0) } else { Words::concat(&parts.iter().collect::<Vec<_>>()) }
}

/// Element-wise product.
pub fn multiply(cx: &Cx, x: &Share, y: &Share) -> Result<Product> {
    assert_eq!(x.shape, y.shape, "element-wise product of different shapes");
    bilinear(cx, x, y, x.shape, |a, b| a * b)
}

/// Each column of x times one element of the row c, modulo 2^bits. Dealt: `bits` bits an element.
pub fn scale_columns(cx: &Cx, x: &Share, c: &Share, bits: u32) -> Result<Product> {
    assert_eq!(x.shape.cols, c.len(), "one factor a column");
    let rows = x.shape.rows;
    bilinear_modulo(cx, x, c, x.shape, bits, |x, c| {
        Words::formula([x.into(), c.for_cols(rows)], |[x, c]| x * c)
    })
}

/// Σ_j x_ij², one element a row. Dealt: 8 bytes a row.
pub fn square_sum(cx: &Cx, x: &Share) -> Result<Product> {
    let (cols, ring, op) = (x.shape.cols, cx.ring().bits(), cx.op("product"));
    let shape = Shape::new(x.shape.rows, 1);
    let own = &x.lambda;
    let theta =
        cx.deal(ring_item(cx, op, Purpose::Theta, shape.rows), || cx.reduce((own * own).sum_rows(cols)))?;
    let half = theta.zip(x.delta.as_ref()).map(|(theta, delta)| {
        // P1: Δ² + 2Δλ1, P2: 2Δλ0.
        let p1 = cx.is_p1();
        let cross = Words::formula([delta, own], |[delta, own]| {
            let twice = own << 1u32;
            delta * if p1 { delta + twice } else { twice }
        });
        Words::formula([&cross.sum_rows(cols), &theta], |[sum, theta]| (sum + theta).low(ring))
    });
    Ok(Product { shape, scale: 2 * x.scale, bits: ring, half })
}

/// Many small matrix products at once, in the full ring.
pub fn batched(cx: &Cx, x: &Share, y: &Share, batch: &GemmBatch, shape: Shape) -> Result<Product> {
    bilinear(cx, x, y, shape, |a, b| a.gemm_batch(b, batch))
}

/// x · W^T for a shared weight matrix, one product at each party, modulo 2^[`factor_bits`]. The dealer's is made for several
/// runs at once where more like this one are expected ([`Session::expect_more`](crate::Session)).
pub fn matmul(cx: &Cx, x: &Share, w: &SharedMatrix) -> Result<Product> {
    matmul_modulo(cx, x, w, factor_bits(cx.ring().bits()))
}

/// The same modulo 2^bits. Dealt: `bits` bits an element of the result.
pub fn matmul_modulo(cx: &Cx, x: &Share, w: &SharedMatrix, bits: u32) -> Result<Product> {
    let (shape, op) = (Shape::new(x.shape.rows, w.outputs()), cx.op("matmul"));
    let bits = bits.min(factor_bits(cx.ring().bits()));
    let own = cx.by_factor(op, w, &Factor::from(x).words, bits + 1);
    with_theta(cx, op, Cow::Owned(own), (shape, 0..shape.cols), x.scale + w.scale, bits)
}

/// The same cut into blocks of columns, each modulo a power of two of its own.
pub fn matmul_blocks<const B: usize>(
    cx: &Cx,
    x: &Share,
    w: &SharedMatrix,
    blocks: [(Range<usize>, u32); B],
) -> Result<[Product; B]> {
    let whole = Shape::new(x.shape.rows, w.outputs());
    let most = factor_bits(cx.ring().bits());
    let blocks = blocks.map(|(range, bits)| (range, bits.min(most), cx.op("matmul")));
    let bits = blocks.iter().map(|(_, bits, _)| *bits).max().expect("a block");
    let own = cx.by_factor(blocks[0].2, w, &Factor::from(x).words, bits + 1);
    let block =
        |(range, bits, op)| with_theta(cx, op, Cow::Borrowed(&own), (whole, range), x.scale + w.scale, bits);
    let all: Vec<Product> = blocks.into_iter().map(block).collect::<Result<_>>()?;
    Ok(all.try_into().expect("as many products as blocks"))
}

/// Some columns of a product with weights, or all if this party's product is given away, of which the dealer deals its own.
fn with_theta(
    cx: &Cx,
    op: Op,
    own: Cow<'_, Words>,
    (whole, range): (Shape, Range<usize>),
    scale: u32,
    bits: u32,
) -> Result<Product> {
    let shape = Shape::new(whole.rows, range.len());
    let item = Item { bits, ..ring_item(cx, op, Purpose::Theta, shape.len()) };
    if cx.is_dealer() {
        // The matrix is the other way round at the dealer, so that this is −f(d, d').
        cx.deal(item, || match own {
            Cow::Owned(own) => own,
            Cow::Borrowed(own) => columns(own, whole, range),
        })?;
        return Ok(Product { shape, scale, bits, half: None });
    }
    let theta = cx.deal(item, || unreachable!("an evaluator"))?.expect("an evaluator's share");
    let half = halved(cx, own.at(&column_places(whole, range)), &theta, bits);
    Ok(Product { shape, scale, bits, half: Some(half) })
}

/// Where the words of some columns are.
fn column_places(shape: Shape, range: Range<usize>) -> Indices {
    Indices::grid(range.start, [(shape.rows, shape.cols), (range.len(), 1)])
}

/// Some columns of a matrix.
pub fn columns(w: &Words, shape: Shape, range: Range<usize>) -> Words {
    if range == (0..shape.cols) {
        return w.clone();
    }
    w.gather(&column_places(shape, range))
}

/// A share as a 2-of-2 value, so that it can be added to products: P1 holds Δ + λ1, P2 λ0.
pub fn halves(cx: &Cx, x: &Share) -> Product {
    let half = x.delta.as_ref().map(|d| if cx.is_p1() { d + &x.lambda } else { x.lambda.clone() });
    Product { shape: x.shape, scale: x.scale, bits: cx.ring().bits(), half }
}

/// Reshares a 2-of-2 value without truncation (MT0). |z| < 2^63.
/// Cost: one exchange, 8 bytes an element each way.
pub async fn reshare(cx: &Cx<'_>, z: Product) -> Result<Share> {
    let bits = cx.ring().bits();
    reshare_modulo(cx, z, bits).await
}

/// Reshares what is only needed modulo 2^bits; the words of the result are below 2^bits.
pub async fn reshare_modulo(cx: &Cx<'_>, z: Product, bits: u32) -> Result<Share> {
    assert!(bits <= z.bits, "{bits} bits of a product that is known to {}", z.bits);
    let op = cx.op("reshare");
    let item = Item { bits, ..ring_item(cx, op, Purpose::Result, z.shape.len()) };
    cx.open_share(item, z.half, z.shape, z.scale).await
}

/// ⌊x / 2^d⌋, give or take one, modulo 2^(k−d): both summands of x = λ + Δ drop their low bits, and the dealer deals new
/// halves of its own. No exchange. Products of the result hold modulo 2^(k−d) as well. Dealt: 8 bytes an element.
pub fn drop_low(cx: &Cx, x: &Share, d: u32) -> Result<Share> {
    assert!(d <= x.scale, "dropping below scale 0");
    let op = cx.op("drop low bits");
    // The two floors lose between 0 and 2 units, 1 on average.
    let bits = cx.ring().bits();
    let delta = x.delta.as_ref().map(|v| Words::formula([v], |[v]| (v.low(bits) >> d) + 1));
    let own = Words::formula([&x.lambda], |[v]| v.low(bits) >> d);
    let mut first = None;
    let dealt = cx.deal_beside_pad(ring_item(cx, op, Purpose::Theta, x.len()), |pad| {
        first = Some(pad.clone());
        own.clone()
    })?;
    Ok(Share { shape: x.shape, scale: x.scale - d, delta, lambda: dealt.unwrap_or(own), first })
}

/// Declared cost of the halves of a product with `n` results.
pub fn product_cost(n: usize, ring_bits: u32) -> Cost {
    Cost::dealt(bytes(n, ring_bits))
}

/// Declared cost of resharing `n` elements.
pub fn reshare_cost(n: usize, ring_bits: u32) -> Cost {
    Cost::round(bytes(n, ring_bits))
}
