//! Gated activation f(g)·u in one gate, f from a table (SwiGLU with SiLU, GeGLU with GeLU).
//!
//! [`lut`](super::lut) with one more factor u = Δu + λu: expanding σ(Da + λa)(x + l)(Δu + λu) + σ(Db + λb)(Δu + λu)
//! in public and dealer-known factors takes eight dealt constants, and still one exchange before truncation:
//! ```text
//! (Da·x + Db)·Δu·[σ] + Da·Δu·[σl] + (Da·x + Db)·[σλu] + Da·[σlλu]
//!   + x·Δu·[σλa] + Δu·[σ(λa·l + λb)] + x·[σλaλu] + [σ(λa·l + λb)λu]
//! ```
//! As in [`quadratic`](super::quadratic), a ring of k bits that holds the product is enough until the truncation.

use super::lut::{deal_constants, one_hot_bytes, select};
use super::table::{Table, TableSpec};
use super::truncate::{cost_from, truncate_from};
use crate::{Cost, Cx, Product, Result, Share, bytes};

/// f(g)·u at `scale`, computed modulo 2^bits: |f(g)·u| < 2^(bits − 2 − out_scale − scale of u). Three exchanges.
pub async fn gated(cx: &Cx<'_>, g: &Share, u: &Share, table: &Table, bits: u32, scale: u32) -> Result<Share> {
    assert_eq!(g.shape, u.shape, "gate and value of different shapes");
    let op = cx.op("gated activation");
    let s = select(cx, op, g, table, bits).await?;
    let dealer = s.sigma.as_ref().map(|sigma| {
        let (la, lb, l, lu) = (&s.slope.lambda, &s.intercept.lambda, &s.local, &u.lambda);
        let line = [sigma.clone(), sigma * l, sigma * la, sigma * &(la * l + lb)];
        let [a, b, c, d] = line.clone().map(|k| k * lu);
        let [e, f, g, h] = line;
        [e, f, g, h, a, b, c, d]
    });
    let constants = deal_constants(cx, op, g.len(), bits, dealer)?;
    let half = constants.map(|k| {
        let (da, db) =
            (s.slope.delta.as_ref().expect("evaluator"), s.intercept.delta.as_ref().expect("evaluator"));
        let (x, du) = (&s.local, u.delta.as_ref().expect("evaluator"));
        let value = da * x + db;
        let by_u = (&value * &k[0] + da * &k[1] + x * &k[2] + &k[3]) * du;
        cx.reduce(by_u + value * &k[4] + da * &k[5] + x * &k[6] + &k[7])
    });
    let z = Product { shape: g.shape, scale: table.spec.out_scale() + u.scale, half };
    let shift = z.scale - scale;
    truncate_from(cx, z, bits, shift).await
}

/// Declared cost for `n` elements, u at `u_scale`.
pub fn cost(n: usize, t: &TableSpec, u_scale: u32, bits: u32, scale: u32, ring_bits: u32) -> Cost {
    let word = bytes(n, bits);
    let select = Cost { rounds: vec![2 * word], dealt: [0, one_hot_bytes(n, t.entries) + 8 * word] };
    select.then(cost_from(n, bits, t.out_scale() + u_scale - scale, ring_bits))
}
