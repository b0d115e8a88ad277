//! Gated activation f(g)·u in one gate, f from a table (SwiGLU with SiLU, GeGLU with GeLU).
//!
//! [`lut`](super::lut) with one more factor u = Δu + λu takes its three constants once more, times λu, and still one
//! exchange before truncation:
//! ```text
//! f(g)·u = (Db·[σ] + Da·[σl] + [σ(λa·l + λb)])·Δu + Db·[σλu] + Da·[σlλu] + [σ(λa·l + λb)λu]
//! ```
//! u is not needed before that, so it may arrive an exchange later than g. As in [`quadratic`](super::quadratic), a ring of k bits that holds the product is enough until the truncation.

use super::lut::{deal_constants, line, one_hot_bytes, select};
use super::table::{Table, TableSpec};
use super::truncate::{cost_from, truncate};
use crate::{Cost, Cx, Product, Result, Share, bytes, join};
use kernels::Words;
use std::future::ready;

/// f(g)·u at `scale`, computed modulo 2^bits: |f(g)·u| < 2^(bits − 2 − out_scale − scale of u). Three exchanges.
pub async fn gated(cx: &Cx<'_>, g: &Share, u: &Share, table: &Table, bits: u32, scale: u32) -> Result<Share> {
    gated_when(cx, ready(Ok(g.clone())), ready(Ok(u.clone())), table, bits, scale).await
}

/// The same, beginning when g is there; u may come one exchange later. g is needed modulo 2^[`TableSpec::input_bits`] only,
/// u modulo 2^bits.
pub async fn gated_when(
    cx: &Cx<'_>,
    g: impl Future<Output = Result<Share>>,
    u: impl Future<Output = Result<Share>>,
    table: &Table,
    bits: u32,
    scale: u32,
) -> Result<Share> {
    let selected = async {
        let (g, op) = (g.await?, cx.op("gated activation"));
        select(cx, op, &g, table, bits).await.map(|s| (op, s))
    };
    let ((op, s), u) = join(selected, u).await?;
    let dealer = s.constants().map(|line| {
        let [a, b, c] = line;
        let [d, e, f] = Words::formulas([&a, &b, &c, &u.lambda], |[a, b, c, u]| [a * u, b * u, c * u]);
        [a, b, c, d, e, f]
    });
    let ring = cx.ring().bits();
    let half = deal_constants(cx, op, u.len(), bits, dealer)?.map(|[a, b, c, d, e, f]| {
        let ([value, slope], delta) = (s.opened(), u.delta.as_ref().expect("evaluator"));
        let inputs = [value, slope, delta, &a, &b, &c, &d, &e, &f];
        Words::formula(inputs, |[value, slope, delta, a, b, c, d, e, f]| {
            let opened = [value, slope];
            (line(opened, [a, b, c]) * delta + line(opened, [d, e, f])).low(ring)
        })
    });
    let z = Product { shape: u.shape, scale: table.spec.out_scale() + u.scale, bits, half };
    let shift = z.scale - scale;
    truncate(cx, z, shift).await
}

/// Declared cost for `n` elements, u at `u_scale`.
pub fn cost(n: usize, t: &TableSpec, u_scale: u32, bits: u32, scale: u32, ring_bits: u32) -> Cost {
    select_cost(n, t, bits).then(product_cost(n, t, u_scale, bits, scale, ring_bits))
}

/// Declared cost of the exchange for which u is not needed.
pub fn select_cost(n: usize, t: &TableSpec, bits: u32) -> Cost {
    Cost { rounds: vec![2 * bytes(n, bits)], dealt: [0, one_hot_bytes(n, t.entries)] }
}

/// Declared cost of the others.
pub fn product_cost(n: usize, t: &TableSpec, u_scale: u32, bits: u32, scale: u32, ring_bits: u32) -> Cost {
    let truncated = cost_from(n, bits, t.out_scale() + u_scale - scale, ring_bits);
    Cost::dealt(6 * bytes(n, bits)).then(truncated)
}
