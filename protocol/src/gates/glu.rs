//! Gated activation f(g)·u in one gate, f from a table of lines or of quadratics (SwiGLU with SiLU, GeGLU with GeLU).
//!
//! [`lut`] with one more factor u = Δu + λu takes its constants once more, times λu, and still one exchange before
//! truncation:
//! ```text
//! f(g)·u = (Σ Dᵢ·[σ·lⁱ] + [σ·Σ λᵢ·lⁱ])·Δu + Σ Dᵢ·[σ·lⁱ·λu] + [σ·Σ λᵢ·lⁱ·λu]
//! ```
//! six constants for lines, eight for quadratics. u is not needed before that, so it may arrive an exchange later than g. As in
//! [`quadratic`](super::quadratic), a ring of k bits that holds the product is enough until the truncation.

use super::lut::{self, at, deal_all, inputs, select};
use super::table::Piecewise;
use super::truncate::{cost_from, truncate};
use crate::{Cost, Cx, Product, Result, Share, bytes, join};
use kernels::Words;
use std::future::ready;

/// f(g)·u at `scale`, computed modulo 2^bits: |f(g)·u| < 2^(bits − 2 − out_scale − scale of u). Three exchanges.
pub async fn gated(
    cx: &Cx<'_>,
    g: &Share,
    u: &Share,
    table: &dyn Piecewise,
    bits: u32,
    scale: u32,
) -> Result<Share> {
    gated_when(cx, ready(Ok(g.clone())), ready(Ok(u.clone())), table, bits, scale).await
}

/// The same, beginning when g is there; u may come one exchange later. g is needed modulo 2^input_bits only (of
/// [`TableSpec`](super::table::TableSpec)), u modulo 2^bits.
pub async fn gated_when(
    cx: &Cx<'_>,
    g: impl Future<Output = Result<Share>>,
    u: impl Future<Output = Result<Share>>,
    table: &dyn Piecewise,
    bits: u32,
    scale: u32,
) -> Result<Share> {
    let z = product_when(cx, g, u, table, bits).await?;
    let shift = z.scale - scale;
    truncate(cx, z, shift).await
}

/// f(g)·u as a 2-of-2 value that is known modulo 2^bits, one exchange.
async fn product_when(
    cx: &Cx<'_>,
    g: impl Future<Output = Result<Share>>,
    u: impl Future<Output = Result<Share>>,
    table: &dyn Piecewise,
    bits: u32,
) -> Result<Product> {
    let selected = async {
        let (g, op) = (g.await?, cx.op("gated activation"));
        select(cx, op, &g, table, bits).await.map(|s| (op, s))
    };
    let ((op, mut selected), u) = join(selected, u).await?;
    let dealer = selected.constants().map(|constants| {
        let multiples =
            Words::formulas_of(&inputs(constants.iter().chain([&u.lambda])), |terms| match terms {
                [constants @ .., u] => constants.iter().map(|c| *c * *u).collect(),
                [] => unreachable!("the mask"),
            });
        constants.into_iter().chain(multiples).collect()
    });
    let (count, ring) = (constants(table), cx.ring().bits());
    let half = deal_all(cx, op, (count, u.len()), bits, dealer)?.and_then(|constants| {
        let (opened, delta) = (selected.opened(), u.delta.as_ref().expect("evaluator"));
        let known = opened.iter().chain([delta]).chain(&constants);
        let product = Words::formulas_of(&inputs(known), |terms| {
            let (opened, rest) = terms.split_at(opened.len());
            let (delta, constants) = rest.split_first().expect("the other factor");
            let (constants, multiples) = constants.split_at(count / 2);
            vec![(at(opened, constants) * *delta + at(opened, multiples)).low(ring)]
        });
        product.into_iter().next()
    });
    Ok(Product { shape: u.shape, scale: table.spec().out_scale() + u.scale, bits, half })
}

/// Those of the look-up, and their multiples.
fn constants(table: &dyn Piecewise) -> usize {
    2 * (table.coefficients() + 1)
}

/// Declared cost for `n` elements, u at `u_scale`.
pub fn cost(n: usize, t: &dyn Piecewise, u_scale: u32, bits: u32, scale: u32, ring_bits: u32) -> Cost {
    select_cost(n, t, bits).then(product_cost(n, t, u_scale, bits, scale, ring_bits))
}

/// Declared cost of the exchange for which u is not needed.
pub fn select_cost(n: usize, t: &dyn Piecewise, bits: u32) -> Cost {
    lut::select_cost(n, t.spec().entries, t.coefficients(), bits)
}

/// Declared cost of the others.
pub fn product_cost(
    n: usize,
    t: &dyn Piecewise,
    u_scale: u32,
    bits: u32,
    scale: u32,
    ring_bits: u32,
) -> Cost {
    let truncated = cost_from(n, bits, t.spec().out_scale() + u_scale - scale, ring_bits);
    Cost::dealt(constants(t) as u64 * bytes(n, bits)).then(truncated)
}
