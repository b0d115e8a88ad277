//! The k-th largest element of each row, to a resolution, by a search that stays shared.
//!
//! A step compares all elements v with base + j·s for public j and s: the base is subtracted first, so that one set of
//! thermometers serves all j. The comparison bits, added up in Z_2^c with dealt masks, are the numbers of elements
//! below each threshold; with [`at_least`], \[number ≥ k\] is additive at no exchange, and the base moves up
//! by s for every threshold that k elements reach.
//! Comparisons look at few bits. One that drops the bits below 2^t may take v for smaller than the threshold if v
//! exceeds it by less than 2^t, never the other way round. So k elements do reach the base, always, and the k-th
//! largest element is less than (s + 2^t) above the new base if it was in reach of the old one's thresholds: the next
//! step's thresholds reach that far.
//! Range: v in (0, 31], modulo 2^22, at 16 fractional bits. Five steps of four exchanges. Dealt and opened for each
//! element and step: 2^v − 1 bits a block of the comparison, and 2K + monomials + c + 2K bits a threshold.

use super::super::at_least::{Thresholds, at_least, exact_cost};
use super::super::compare::{self, Window};
use super::super::truncate::sign;
use super::bits::less_than;
use crate::{Cost, Cx, Group, Item, Purpose, Result, Shape, Share, bytes, join_all};
use kernels::{Indices, Words};

/// Fractional bits of elements.
pub(super) const FRACTION: u32 = 16;
/// Elements are known modulo 2^this, one bit of it being the sign of a difference.
pub(super) const BITS: u32 = FRACTION + 6;
/// What elements must be below.
pub(super) const HIGH: u64 = 31;

/// One step: how many thresholds how far apart, in units, and what the comparisons look at.
struct Step {
    thresholds: u64,
    spacing: u64,
    window: Window,
}

const fn step(thresholds: u64, spacing: u64, blocks: u32, block_bits: u32) -> Step {
    let window = Window { drop: BITS - 1 - blocks * block_bits, blocks, block_bits };
    Step { thresholds, spacing, window }
}

/// Long steps cost few bits, so they have more thresholds.
/// Spacings are the last step's, and what its comparisons may lose, divided by the number of pieces, rounded up.
const STEPS: [Step; 5] = [
    step(9, 204_800, 2, 4),
    step(9, 21_300, 2, 5),
    step(7, 2_920, 3, 4),
    step(7, 430, 4, 4),
    step(7, 58, 4, 5),
];

/// How far below the k-th largest element the result may be, in units: less than 2^−10.
pub(super) const RESOLUTION: u64 = {
    let mut reach = HIGH << FRACTION;
    let mut i = 0;
    while i < STEPS.len() {
        let s = &STEPS[i];
        assert!(
            (s.thresholds + 1) * s.spacing >= reach,
            "thresholds that do not reach where the last step left off"
        );
        reach = s.spacing + (1 << s.window.drop);
        i += 1;
    }
    reach
};

/// A base for each row, not above its k-th largest element and less than [`RESOLUTION`] below it; 0 if a row has fewer
/// elements. Rows are those of v.
pub(super) async fn threshold(cx: &Cx<'_>, v: &Share, k: usize, row_of: &Indices) -> Result<Share> {
    let rows = v.shape.rows;
    let zeros = Words::zeros(cx.device(), rows);
    let mut base = v.linear(Shape::new(rows, 1), |_| zeros.clone());
    for (i, step) in STEPS.iter().enumerate() {
        let cx = cx.scope(&format!("step {}", i + 1));
        let reached = reached(&cx, &v.sub_spread(&base, row_of), k, step).await?;
        // Threshold-major: the number of thresholds reached is a sum of stretches.
        let half = reached.map(|r| {
            let all = (0..step.thresholds as usize).map(|j| r.slice(j * rows..(j + 1) * rows));
            (all.reduce(|a, b| a + b).expect("a step has thresholds") * step.spacing).low(BITS)
        });
        let op = cx.op("base");
        let item = Item { op, purpose: Purpose::Result, index: 0, n: rows, bits: BITS, group: Group::Add };
        base = base.add(&cx.open_share(item, half, base.shape, base.scale).await?);
    }
    Ok(base)
}

/// Additive halves of whether at least k elements of a row reach a threshold, for all rows and thresholds. Three
/// exchanges.
async fn reached(cx: &Cx<'_>, v: &Share, k: usize, step: &Step) -> Result<Option<Words>> {
    let (rows, n) = (v.shape.rows, v.shape.cols);
    let taus: Vec<u64> = (1..=step.thresholds).map(|j| j * step.spacing).collect();
    let less = less_than(cx, v, &taus, step.window).await?;
    let bits = count_bits(n);
    let counts = join_all(less.iter().map(|b| async {
        let op = cx.op("count");
        let item = |purpose, n| Item { op, purpose, index: 0, n, bits, group: Group::Add };
        let mask = cx.deal(item(Purpose::Bit, v.len()), || b.lambda.clone())?;
        let half = b.delta.as_ref().zip(mask).map(|(d, l)| {
            let p1 = cx.is_p1();
            let below = Words::formula([d, &l], |[d, l]| {
                let below = sign(d) * l;
                if p1 { below + d } else { below }
            });
            let below = below.sum_rows(n);
            if cx.is_p1() { -below + n as u64 } else { -below }.low(bits)
        });
        cx.open_share(item(Purpose::Result, rows), half, Shape::new(rows, 1), 0).await
    }))
    .await?;
    let counts = counts.into_iter().reduce(|a, b| a.append_rows(&b)).expect("a step has thresholds");
    let enough = Thresholds::exact(bits, vec![k as u64]);
    at_least(cx, cx.op("enough"), &counts, &enough)
}

/// Bits of a number up to n, and its sign.
fn count_bits(n: usize) -> u32 {
    usize::BITS - n.leading_zeros() + 1
}

/// Declared cost of [`threshold`] for `rows` rows of n elements.
pub(super) fn threshold_cost(rows: usize, n: usize, ring_bits: u32) -> Cost {
    let bits = count_bits(n);
    let step = |s: &Step| {
        let m = s.thresholds as usize;
        let count = Cost::dealt(bytes(rows * n, bits)).then(Cost::round(bytes(rows, bits)));
        let counts = (0..m).fold(Cost::default(), |c, _| c.beside(count.clone()));
        compare::cost(rows * n, m, s.window)
            .then(counts)
            .then(exact_cost(rows * m, bits, ring_bits))
            .then(Cost::round(bytes(rows, BITS)))
    };
    STEPS.iter().map(step).fold(Cost::default(), Cost::then)
}
