//! exp with a guard: e^u for u in a window around 0, exactly 0 far below it.
//!
//! A look-up over the fine window [−21, 11) times a guard bit b that says whether u is in the window at all. b comes
//! from a second one-hot row over coarse buckets of width 4: its parity over the valid buckets −5..2, rotated by
//! Δ, is an xor sharing of b at no exchange; it is opened masked beside the coefficients, and
//! b·line = D·line\[c\] + (1−2D)·line\[λb·c\] with the four constants dealt once plain and once times the mask.
//! Exact for the coarse ring's span: with W buckets, from 16 − 4W to 11; see [`ExpTable::lowest`]. Above 11 the
//! value saturates up to 12 − h. Below −20 the result is 0, between −20 and −16 either e^u or 0 (< 1.2e-7).

use super::lut::{deal_constants, deal_one_hot, line, line_constants, one_hot_bytes, select};
use super::table::{Table, TableSpec};
use super::truncate::{sign, truncate};
use crate::{Cost, Cx, Group, Item, Product, Purpose, Result, Share, bytes, join};
use kernels::{Device, Words};

/// Width of a coarse bucket, as a power of two.
pub const BUCKET_LOG2: u32 = 2;

/// The table of exp and its guard.
#[derive(Clone, Debug)]
pub struct ExpTable {
    /// Fine table over [−21, 11).
    pub table: Table,
    /// Number of coarse buckets, 64 or 128.
    pub buckets: usize,
    /// Bit of the input where coarse buckets begin.
    shift: u32,
    /// Valid buckets, as a bit mask.
    valid: Vec<u64>,
}

impl ExpTable {
    /// For u at `in_scale`, with entries of width 1/32.
    pub fn new(device: &Device, in_scale: u32, buckets: usize) -> ExpTable {
        assert!(buckets == 64 || buckets == 128, "64 or 128 coarse buckets");
        let shift = in_scale - 5;
        let drop = shift.saturating_sub(12);
        let spec = TableSpec {
            entries: 1024,
            shift,
            phase_bits: 4.min(shift),
            drop,
            in_scale,
            // e^11 at the output scale must stay below 2^62.
            slope_scale: 46 - (in_scale - drop),
            first: -21 * 32,
        };
        let mut table = Table::new(device, spec, libm::exp);
        table.saturate(device, -21.0, -20.0 - spec.step(), libm::exp(11.0));
        let mut valid = vec![0u64; buckets / 64];
        for q in -5i64..=2 {
            let at = q.rem_euclid(buckets as i64) as usize;
            valid[at / 64] |= 1 << (at % 64);
        }
        ExpTable { table, buckets, shift: in_scale + BUCKET_LOG2, valid }
    }

    /// Lowest u for which the guard is right: below, the coarse ring wraps.
    pub fn lowest(&self) -> f64 {
        12.0 + 4.0 - (self.buckets << BUCKET_LOG2) as f64
    }

    /// Declared cost for `n` elements.
    pub fn cost(&self, n: usize, scale: u32, ring_bits: u32) -> Cost {
        let (t, word) = (&self.table.spec, bytes(n, ring_bits));
        let dealt = one_hot_bytes(n, t.entries) + one_hot_bytes(n, self.buckets) + 8 * word;
        let select = Cost { rounds: vec![2 * word + bytes(n, 1)], dealt: [0, dealt] };
        select.then(super::truncate::cost(n, t.out_scale() - scale, ring_bits))
    }
}

/// e^u at `scale`, or 0. Three exchanges.
pub async fn exp(cx: &Cx<'_>, u: &Share, e: &ExpTable, scale: u32) -> Result<Share> {
    let (op, n) = (cx.op("exp"), u.len());
    let (s, guard) = join(select(cx, op, u, &e.table), guard_bit(cx, u, e)).await?;
    let plain = deal_constants(cx, op, 0, n, line_constants(&s))?;
    let masked = line_constants(&s).map(|c| c.map(|k| k * &guard.lambda));
    let masked = deal_constants(cx, op, 4, n, masked)?;
    let half = match (plain, masked, &guard.delta) {
        (Some(p), Some(m), Some(d)) => Some(cx.reduce(line(&s, &p) * d + line(&s, &m) * sign(d))),
        _ => None,
    };
    let z = Product { shape: u.shape, scale: e.table.spec.out_scale(), half };
    truncate(cx, z, e.table.spec.out_scale() - scale).await
}

/// Whether u's coarse bucket is valid, opened under a mask.
async fn guard_bit(cx: &Cx<'_>, u: &Share, e: &ExpTable) -> Result<crate::Masked> {
    let (op, n) = (cx.op("guard"), u.len());
    let known = cx.reduce(u.delta.as_ref().unwrap_or(&u.lambda).clone());
    let bucket: Words = (known >> e.shift).low(e.buckets.trailing_zeros());
    let row = deal_one_hot(cx, op, Purpose::GuardOneHot, e.buckets, n, || bucket.clone())?;
    let half = row.share.map(|g| g.rotate_bits(e.buckets, &bucket).masked_parity(e.buckets, &e.valid));
    let item = Item { op, purpose: Purpose::GuardBit, index: 0, n, bits: 1, group: Group::Xor };
    cx.open(item, half).await
}
