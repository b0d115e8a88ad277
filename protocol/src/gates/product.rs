//! Products of shares: element-wise, dot products, batched and weight matrices.
//!
//! For a bilinear map f, with x = λx + Δx and y = λy + Δy,
//! ```text
//! f(x, y) = f(Δx, Δy) + f(Δx, λy) + f(λx, Δy) + f(λx, λy)
//! ```
//! The dealer deals shares of the last term; P1 computes f(Δx, Δy + λy1) + f(λx1, Δy), P2 f(Δx, λy0) + f(λx0, Δy).
//! That is a 2-of-2 sharing of the product at no exchange. Resharing it (MT0) takes one.
//! Source: masked evaluation of ASTRA (Chaudhari et al., CCSW 2019) on replicated shares (Araki et al., CCS 2016).

use crate::weights::{Form, together};
use crate::{Cost, Cx, Group, Item, Op, Product, Purpose, Result, Shape, Share, SharedMatrix, bytes};
use kernels::{GemmBatch, Indices, Input, Words};
use std::borrow::Cow;
use std::ops::Range;

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
    bilinear_parts(cx, x, &[y], shape, cx.ring().bits(), |_, a, b| f(a, b))
}

/// The halves of f_0(x, y_0), f_1(x, y_1), …, one after the other, as one product: `f(i, x, y_i)`. The parts of y lie in
/// buffers of their own, as the keys and values of several sequences do. All modulo 2^bits, for a result that is only needed,
/// and factors that are only known, modulo that. Dealt: `bits` bits an element of the result.
///
/// # Panics
/// If y has no part, or parts of different scales.
pub fn bilinear_parts(
    cx: &Cx,
    x: &Share,
    y: &[&Share],
    shape: Shape,
    bits: u32,
    f: impl Fn(usize, &Words, &Words) -> Words,
) -> Result<Product> {
    assert!(y.iter().all(|part| part.scale == y[0].scale), "parts of different scales");
    let op = cx.op("product");
    let item = Item { bits, ..ring_item(cx, op, Purpose::Theta, shape.len()) };
    let theta =
        cx.deal(item, || cx.reduce(joined(y.iter().enumerate().map(|(i, y)| f(i, &x.lambda, &y.lambda)))))?;
    let half = theta.zip(x.delta.as_ref()).map(|(theta, dx)| {
        let parts = |(i, y): (usize, &&Share)| {
            let dy = y.delta.as_ref().expect("an evaluator has Δ of both factors");
            let cross = if cx.is_p1() { f(i, dx, &(dy + &y.lambda)) } else { f(i, dx, &y.lambda) };
            (cross, f(i, &x.lambda, dy))
        };
        let ring = cx.ring().bits();
        match y {
            [y] => {
                let (cross, own) = parts((0, y));
                Words::formula([&cross, &own, &theta], |[cross, own, theta]| (cross + own + theta).low(ring))
            }
            several => {
                let part = |y| {
                    let (cross, own) = parts(y);
                    cross + own
                };
                cx.reduce(joined(several.iter().enumerate().map(part)) + theta)
            }
        }
    });
    Ok(Product { shape, scale: x.scale + y[0].scale, half })
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
    bilinear_parts(cx, x, &[c], x.shape, bits, |_, x, c| {
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
    Ok(Product { shape, scale: 2 * x.scale, half })
}

/// Many small matrix products at once (attention).
pub fn batched(cx: &Cx, x: &Share, y: &Share, batch: &GemmBatch, shape: Shape) -> Result<Product> {
    bilinear(cx, x, y, shape, |a, b| a.gemm_batch(b, batch))
}

/// x · W^T for a shared weight matrix: two products with weights for each evaluator, one for the dealer. That with λ is
/// made for several runs at once where more like this one are expected ([`Session::expect_more`](crate::Session)).
/// ```text
/// P1: (λw1 + Δw)·Δx + Δw·λx1    P2: λw0·Δx + Δw·λx0    P0 deals λw·λx
/// ```
/// With a component that is drawn instead of stored ([`SharedMatrix::of_components`]) an evaluator computes both in one
/// pass, P1 as λw1·Δx + Δw·(Δx + λx1): each word is read or drawn once, and drawing takes longer than reading, so that
/// nothing would be gained by making one of them ahead.
pub fn matmul(cx: &Cx, x: &Share, w: &SharedMatrix) -> Result<Product> {
    matmul_modulo(cx, x, w, cx.ring().bits())
}

/// The same modulo 2^bits. Dealt: `bits` bits an element of the result.
pub fn matmul_modulo(cx: &Cx, x: &Share, w: &SharedMatrix, bits: u32) -> Result<Product> {
    let (shape, op) = (Shape::new(x.shape.rows, w.outputs()), cx.op("matmul"));
    let own = own_products(cx, op, x, w, bits);
    with_theta(cx, op, own.into(), (shape, 0..shape.cols), x.scale + w.scale, bits)
}

/// The same cut into blocks of columns, each modulo a power of two of its own.
pub fn matmul_blocks<const B: usize>(
    cx: &Cx,
    x: &Share,
    w: &SharedMatrix,
    blocks: [(Range<usize>, u32); B],
) -> Result<[Product; B]> {
    let whole = Shape::new(x.shape.rows, w.outputs());
    let blocks = blocks.map(|block| (block, cx.op("matmul")));
    let bits = blocks.iter().map(|((_, bits), _)| *bits).max().expect("a block");
    let own = own_products(cx, blocks[0].1, x, w, bits);
    let block = |((range, bits), op): ((Range<usize>, u32), Op)| {
        with_theta(cx, op, own.as_slice().into(), (whole, range), x.scale + w.scale, bits)
    };
    let all: Vec<Product> = blocks.into_iter().map(block).collect::<Result<_>>()?;
    Ok(all.try_into().expect("as many products as blocks"))
}

/// What a party can compute of x · W^T alone, as far as it counts modulo 2^bits: the product of the masks, or summands of an
/// evaluator's part of all others.
fn own_products(cx: &Cx, op: Op, x: &Share, w: &SharedMatrix, bits: u32) -> Vec<Words> {
    match &w.form {
        Form::Apart { by_delta, by_lambda } => {
            let of_lambda = cx.by_mask(op, by_lambda, &x.lambda, bits);
            match (&x.delta, by_delta) {
                (Some(delta), Some(by_delta)) => vec![by_delta.apply_in_step(delta, bits), of_lambda],
                _ => vec![of_lambda],
            }
        }
        Form::Together { lambda, delta, p1 } => {
            let x_delta = x.delta.as_ref().expect("an evaluator has Δ of its input");
            vec![together(lambda, delta, *p1, [x_delta, &x.lambda])]
        }
    }
}

/// Some columns of a product, or all if it is given away, of which the dealer deals the masks'.
fn with_theta(
    cx: &Cx,
    op: Op,
    mut own: Cow<'_, [Words]>,
    (whole, range): (Shape, Range<usize>),
    scale: u32,
    bits: u32,
) -> Result<Product> {
    let shape = Shape::new(whole.rows, range.len());
    let item = Item { bits, ..ring_item(cx, op, Purpose::Theta, shape.len()) };
    let places = column_places(whole, range.clone());
    let theta = cx.deal(item, || match &mut own {
        Cow::Owned(own) => own.remove(0),
        Cow::Borrowed(own) => columns(&own[0], whole, range),
    })?;
    let half = theta.map(|theta| {
        let ring = cx.ring().bits();
        let inputs: Vec<_> =
            [Input::from(&theta)].into_iter().chain(own.iter().map(|w| w.at(&places))).collect();
        Words::formulas_of(&inputs, |terms| {
            vec![terms[1..].iter().fold(terms[0], |sum, &own| sum + own).low(ring)]
        })
        .remove(0)
    });
    Ok(Product { shape, scale, half })
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
    Product { shape: x.shape, scale: x.scale, half }
}

/// Reshares a 2-of-2 value without truncation (MT0). |z| < 2^63.
/// Cost: one exchange, 8 bytes an element each way.
pub async fn reshare(cx: &Cx<'_>, z: Product) -> Result<Share> {
    let bits = cx.ring().bits();
    reshare_modulo(cx, z, bits).await
}

/// Reshares what is only needed modulo 2^bits; the words of the result are below 2^bits.
pub async fn reshare_modulo(cx: &Cx<'_>, z: Product, bits: u32) -> Result<Share> {
    let op = cx.op("reshare");
    let item = Item { bits, ..ring_item(cx, op, Purpose::Result, z.shape.len()) };
    Ok(cx.open(item, z.half).await?.share(z.shape, z.scale))
}

/// ⌊x / 2^d⌋, give or take one, modulo 2^(k−d): both summands of x = λ + Δ drop their low bits, and the dealer deals new
/// halves of its own. No exchange. Products of the result hold modulo 2^(k−d) as well, which is what
/// [`truncate_from`](super::truncate::truncate_from) expects. Dealt: 8 bytes an element.
pub fn drop_low(cx: &Cx, x: &Share, d: u32) -> Result<Share> {
    assert!(d <= x.scale, "dropping below scale 0");
    let op = cx.op("drop low bits");
    // The two floors lose between 0 and 2 units, 1 on average.
    let bits = cx.ring().bits();
    let delta = x.delta.as_ref().map(|v| Words::formula([v], |[v]| (v.low(bits) >> d) + 1));
    let own = Words::formula([&x.lambda], |[v]| v.low(bits) >> d);
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
