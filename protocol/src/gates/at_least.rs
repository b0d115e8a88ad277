//! Comparison of a shared scalar with many public thresholds, by one key.
//!
//! S = λ + Δ. With A = (λ >> t) mod 2^n at the dealer and y = (Δ >> t) − τ mod 2^n at the evaluators,
//! \[S < τ\] = top(A) ⊕ top(y) ⊕ carry, and carry = \[y_low ≥ 2^(n−1) − A_low\]. One distributed comparison function of
//! threshold α = 2^(n−1) − A_low and payload 2·top(A) − 1, plus a dealt constant, gives additive shares of
//! v = top(A) ⊕ carry at **every** public τ, so \[S ≥ τ\], which is v where top(y) = 1 and 1 − v where it is 0, is additive
//! and local.
//! The keys' roots come from k01 and k02, only correction words travel; they hide α computationally.
//!
//! A large threshold need not be compared to the last bit. Where the function stops j bits early it says "not less" for a
//! y_low that only differs from α in these bits: the carry comes early, never late.
//! Sources: Boyle et al., "Function secret sharing for mixed-mode and fixed-point secure computation", EUROCRYPT 2021
//! (eprint 2020/1392); many comparisons by one key as in Grotto (Storrier et al., CCS 2023); answers at inner levels as in
//! incremental point functions (Boneh et al., IEEE S&P 2021, eprint 2021/017).

use crate::{Cost, Cx, Group, Item, KeyId, Op, Purpose, Result, Share, bytes};
use kernels::{DcfKeys, DcfShape, DcfThresholds, Words};

/// Public thresholds in units of 2^drop, and how closely S is compared with each. Without j of its low bits, in the same
/// units, S counts as reaching τ or not
///
/// - rightly if S − τ lies in [−2^(bits−1), 1 − 2^j) or [1, 2^(bits−1) − 2^j) (for drop = 0 in [0, …) too);
/// - between, either may come out: less than 2^j units early, less than one unit late.
#[derive(Clone, Debug)]
pub(crate) struct Thresholds {
    /// Low bits of S that no comparison looks at.
    drop: u32,
    values: Vec<u64>,
    compared: DcfThresholds,
}

impl Thresholds {
    /// Of S count `bits` bits from `drop` on, the top one being the sign, and in the comparison with `values[j]` not the
    /// lowest `ignored[j]`. Both lists ascend.
    pub(crate) fn new(drop: u32, bits: u32, values: Vec<u64>, ignored: &[u32]) -> Thresholds {
        let mut stops = ignored.to_vec();
        stops.dedup();
        let shape = DcfShape::new(bits - 1, stops);
        let stop = |j: &u32| shape.stops().partition_point(|s| s < j);
        let compared = DcfThresholds::new(&shape, values.iter().copied().zip(ignored.iter().map(stop)));
        Thresholds { drop, values, compared }
    }

    /// Compared to the last bit.
    pub(crate) fn exact(bits: u32, values: Vec<u64>) -> Thresholds {
        let ignored = vec![0; values.len()];
        Thresholds::new(0, bits, values, &ignored)
    }

    /// In units of 2^drop.
    pub(crate) fn values(&self) -> &[u64] {
        &self.values
    }

    /// How many thresholds a non-negative S reaches, rightly.
    pub(crate) fn clear(&self, s: u64) -> usize {
        self.values.partition_point(|&t| t <= s >> self.drop)
    }

    /// Every number, for the program digest.
    pub(crate) fn words(&self) -> impl Iterator<Item = u64> {
        let shape = self.compared.shape();
        [u64::from(self.drop), u64::from(shape.bits())]
            .into_iter()
            .chain(shape.stops().iter().map(|s| u64::from(*s)))
            .chain(self.values.iter().copied())
    }

    /// Declared cost of [`at_least`] for `rows` elements.
    pub(crate) fn cost(&self, rows: usize, ring_bits: u32) -> Cost {
        cost(rows, self.compared.shape(), ring_bits)
    }
}

/// Additive halves of \[S ≥ τ\] for every element of S and every threshold τ, element by element. No exchange.
pub(crate) fn at_least(cx: &Cx, op: Op, s: &Share, thresholds: &Thresholds) -> Result<Option<Words>> {
    let (shape, rows) = (thresholds.compared.shape(), s.len());
    let bits = shape.bits();
    let item = |purpose, n, bits| Item { op, purpose, index: 0, n, bits, group: Group::Add };
    let root_item = item(Purpose::Root, 2 * rows, 64);
    let ring_bits = cx.ring().bits();
    let key_item = |words, bits| item(Purpose::Root, rows * words, bits);
    let constant = item(Purpose::RootConstant, rows, ring_bits);
    let (root1, root0) = (cx.draw(KeyId::K01, &root_item), cx.draw(KeyId::K02, &root_item));

    let (mut keys, mut dealt_constant) = (None, None);
    if let (Some(r1), Some(r0)) = (&root1, &root0) {
        let [alpha, payload, constant] = Words::formulas([&s.lambda], |[lambda]| {
            let a = lambda.low(ring_bits) >> thresholds.drop;
            let (top, low) = ((a >> bits).low(1), a.low(bits));
            let (sign, nonzero) = ((top << 1u32) - 1, -low >> 63u32);
            [(-low).low(bits), sign * nonzero, (top - sign * nonzero).low(ring_bits)]
        });
        dealt_constant = Some(constant);
        keys = Some(alpha.dcf_generate(shape, &payload, r1, r0));
    }
    let keys = keys.as_ref();
    let keys = DcfKeys {
        seeds: cx.publish_key(key_item(2 * shape.levels(), 64), keys.map(|k| &k.seeds))?,
        values: cx.publish_key(key_item(shape.levels(), ring_bits), keys.map(|k| &k.values))?,
        controls: cx.publish_key(key_item(shape.levels(), 2), keys.map(|k| &k.controls))?,
        outputs: cx.publish_key(key_item(shape.outputs(), ring_bits), keys.map(|k| &k.outputs))?,
    };
    let constant = cx.deal(constant, || dealt_constant.expect("the dealer made it"))?;

    let (Some(delta), Some(constant)) = (&s.delta, constant) else { return Ok(None) };
    let (party, root) = if cx.is_p1() { (0, root1) } else { (1, root0) };
    let base = Words::formula([delta], |[delta]| delta.low(ring_bits) >> thresholds.drop);
    Ok(Some(base.dcf_evaluate(party, &root.expect("own root"), &keys, &constant, &thresholds.compared)))
}

/// Declared cost of [`at_least`] with exact comparisons of `bits` bits, for `rows` elements.
pub(crate) fn exact_cost(rows: usize, bits: u32, ring_bits: u32) -> Cost {
    cost(rows, &DcfShape::exact(bits - 1), ring_bits)
}

fn cost(rows: usize, shape: &DcfShape, ring_bits: u32) -> Cost {
    let levels = shape.levels();
    let values = bytes(rows * levels, ring_bits) + bytes(rows * shape.outputs(), ring_bits);
    let key = bytes(rows * levels * 2, 64) + values + bytes(rows * levels, 2);
    // P2 also gets its half of the constant.
    Cost { rounds: vec![], dealt: [key, key + bytes(rows, ring_bits)] }
}
