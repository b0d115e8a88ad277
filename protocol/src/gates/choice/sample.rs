//! Sampling: one of the k highest scores of each row, with probability proportional to e^x, as a one-hot row.
//!
//! 1. M = coarse maximum of the row, M − 4 ≤ max(x) < M + 4. v = 1 + b·(x − M + 22), where b says that x ≥ M − 22:
//!    elements in a range of 31, those far below the others at 1. v has 16 fractional bits and is known modulo 2^22.
//! 2. Weights e = ⌊2^18·e^(v−M')⌉, where M' is the coarse maximum of v in buckets of 1/2: a table look-up, 0 for all that
//!    is 17.4 or more below M'.
//! 3. Beside 2, the k-th largest v (see `top`); elements below it get weight 0 by one comparison and product.
//! 4. In two halves, so that comparisons are few: a row is cut into √n groups of √n elements, `pick` chooses a group by
//!    the groups' sums, a product with its one-hot row selects the group's weights, `pick` chooses one of them, and the
//!    result is the outer product of the two one-hot rows. Each choice has random bits of its own (see `bits`).
//!
//! Range: scores as in [`SampleTables::range`]. An error of M as described in [`max`](super::super::max) is absorbed.
//! Which elements: all with a score not below the k-th highest, and no other unless its score is less than 2^−10 below
//! that one's; of these, elements more than 16 below the highest may be dropped. They have probability
//! less than k·e^−16 together, or n·e^−16 if all n take part.
//! With which probability: weights are e^x up to a factor of 1 ± 1.5·10^−3 (table and 16 fractional bits), then rounded to
//! a neighbouring multiple of 2^−18, up or down so that the mean is right; the highest is at least e^−1/2. Both
//! choices differ from the exact ratio of sums of weights by at most 2^−18 + 2^(1−R), see `pick`, where R is 25 for n
//! between 2^15 and 2^16 and 30 at most.
//! Cost for n = 49152, one row: 37 exchanges and 23.2 MB on all links; 20 and 10.2 MB if k ≥ n, without step 3.
//!
//! Sources: own composition of the gates named; sampling by inverse of the cumulative distribution is textbook
//! (Devroye, Non-Uniform Random Variate Generation, 1986, chapter III).

use super::super::bit::{self, bit_times, bit_times_modulo};
use super::super::compare::{self, Window};
use super::super::lut;
use super::super::max::{self, Levels, coarse_max};
use super::super::product::{batched, bilinear, drop_low, product_cost, reshare, reshare_cost};
use super::super::table::{Table, TableSpec, fixed};
use super::bits::{less_than, not, ones, uniform, uniform_cost};
use super::pick::{pick, pick_cost};
use super::top::{BITS, FRACTION, RESOLUTION, threshold, threshold_cost};
use crate::{Cost, Cx, Group, Item, Purpose, Result, Shape, Share, bytes, join};
use kernels::{Device, GemmBatch, Indices, Ring, Segments, Words};

/// Fractional bits of weights.
const WEIGHT_SCALE: u32 = 18;
/// Elements this far below the first coarse maximum are as good as those further below.
const DEPTH: i64 = 22;
/// Elements this far below the second coarse maximum have weight 0.
const CUT: f64 = -17.5;
/// Buckets of the first coarse maximum, of width 4, and of the second, of width 1/2.
const BUCKETS: [usize; 2] = [128, 64];

const EXP: TableSpec = TableSpec {
    entries: 256,
    shift: FRACTION - 3,
    phase_bits: 4,
    drop: 0,
    in_scale: FRACTION,
    slope_scale: 24,
    first: -31 * 8,
};

/// The comparison with the bottom of the range: units of 1/4, 13 bits.
fn bottom(scale: u32) -> Window {
    Window { drop: scale - 2, blocks: 3, block_bits: 4 }
}

/// The comparison with the k-th largest: all bits but one.
const KEEP: Window = Window { drop: 1, blocks: 4, block_bits: 5 };
const _: () =
    assert!(RESOLUTION + (1 << KEEP.drop) < 1 << (FRACTION - 10), "elements below the k-th by 2^-10");

/// Tables of [`sample`].
#[derive(Clone, Debug)]
pub struct SampleTables {
    exp: Table,
}

impl SampleTables {
    /// Makes them.
    pub fn new(device: &Device) -> SampleTables {
        let mut exp = Table::new(device, EXP, libm::exp);
        exp.saturate(device, -31.0, CUT, 0.0);
        SampleTables { exp }
    }

    /// The scores for which the gate is right: [low, high).
    pub fn range() -> (f64, f64) {
        Levels::new(BUCKETS[0]).range()
    }

    /// The weight, before it is rounded, of an element u from M' (16 fractional bits); λ decides between neighbouring
    /// entries of the table.
    pub fn weight(&self, u: u64, lambda: u64) -> f64 {
        self.exp.clear(u, lambda, Ring::Z64) as f64 / (1u64 << EXP.out_scale()) as f64
    }

    /// Every number of the tables, for the program digest.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.exp.words()
    }
}

/// Bits of twice the sum of a row's weights, none above 2·2^19, and of the integers that choose.
fn precision(n: usize) -> (u32, u32) {
    let bits = WEIGHT_SCALE + 3 + n.next_power_of_two().trailing_zeros();
    (bits, 30.min(62 - bits))
}

/// Length and number of the groups of a row.
fn groups(n: usize) -> (usize, usize) {
    let size = n.isqrt() + usize::from(n.isqrt().pow(2) < n);
    (size, n.div_ceil(size))
}

/// One-hot rows at scale 0, one of the k highest scores each. Scores have at least 16 fractional bits; a temperature is
/// divided out before.
///
/// # Panics
/// If k = 0, or at another ring than Z_2^64, a lower scale, or rows of 2^24 scores or more.
pub async fn sample(cx: &Cx<'_>, x: &Share, k: usize, t: &SampleTables) -> Result<Share> {
    let (rows, n) = (x.shape.rows, x.shape.cols);
    assert!(
        k > 0 && (1..1 << 24).contains(&n) && x.scale >= FRACTION && cx.ring().bits() == 64,
        "sampling {k} of {n}"
    );
    if n == 1 {
        return Ok(ones(cx, x.shape));
    }
    let offsets = Segments::even(rows, n);
    let row_of = offsets.numbers();
    let (bits, noise_bits) = precision(n);
    let (max_cx, noise_cx) = (cx.scope("max"), cx.scope("noise"));
    let max = coarse_max(&max_cx, x, &offsets, Levels::new(BUCKETS[0]), cx.ring().bits());
    let (m, r) = join(max, uniform(&noise_cx, 2 * rows, noise_bits)).await?;
    let v = in_range(&cx.scope("range"), &x.sub_spread(&m, &row_of)).await?;

    let (weights_cx, top_cx) = (cx.scope("weights"), cx.scope("top"));
    let weights = weights(&weights_cx, &v, &offsets, &row_of, t);
    let weights = if k >= n {
        weights.await?
    } else {
        let (w, base) = join(weights, threshold(&top_cx, &v, k, &row_of)).await?;
        // Below the base by what the comparison may lose, so that nothing at the base is.
        let above = v.sub_spread(&base, &row_of).add_public(1 << KEEP.drop);
        let keep = not(less_than(cx, &above, &[0], KEEP).await?.remove(0));
        reshare(cx, bit_times(cx, &keep, &w)?).await?
    };
    choose(cx, &weights, (bits, noise_bits), &r).await
}

/// v = 1 + b·(u + 22), b = \[u ≥ −22\]. Three exchanges.
async fn in_range(cx: &Cx<'_>, u: &Share) -> Result<Share> {
    let low = fixed(-DEPTH as f64, u.scale);
    let inside = not(less_than(cx, u, &[low], bottom(u.scale)).await?.remove(0));
    let y = drop_low(cx, u, u.scale - FRACTION)?.add_public((DEPTH as u64) << FRACTION);
    let z = bit_times_modulo(cx, &inside, &y, BITS)?;
    let op = cx.op("range");
    let item = Item { op, purpose: Purpose::Result, index: 0, n: u.len(), bits: BITS, group: Group::Add };
    Ok(cx.open_share(item, z.half, u.shape, FRACTION).await?.add_public(1 << FRACTION))
}

/// e^(v − M'), M' − 1/2 ≤ max(v) < M' + 1/2. Six exchanges.
async fn weights(
    cx: &Cx<'_>,
    v: &Share,
    offsets: &Segments,
    row_of: &Indices,
    t: &SampleTables,
) -> Result<Share> {
    // The gate's buckets of width 4 are of width 1/2 if the same integers have three more fractional bits.
    let centred = Share { scale: FRACTION - 3, ..v.add_public(0u64.wrapping_sub(16 << FRACTION)) };
    let levels = Levels::new(BUCKETS[1]);
    let m = coarse_max(&cx.scope("max"), &centred, offsets, levels, cx.ring().bits()).await?;
    let m = Share { scale: FRACTION, ..m.add_public(16 << FRACTION) };
    lut::lookup(&cx.scope("exp"), &v.sub_spread(&m, row_of), &t.exp, WEIGHT_SCALE).await
}

/// A group, then one of its elements. Eight exchanges.
async fn choose(cx: &Cx<'_>, w: &Share, (bits, noise_bits): (u32, u32), r: &Share) -> Result<Share> {
    let (rows, n) = (w.shape.rows, w.shape.cols);
    let (size, count) = groups(n);
    let padded = pad(cx, w, count * size);
    let sums = padded.linear(Shape::new(rows, count), |w| w.sum_rows(size));
    let group = pick(&cx.scope("group"), &sums, bits, &r.rows(0, rows), noise_bits).await?;

    let batch = GemmBatch {
        m: 1,
        n: size,
        k: count,
        a: kernels::Strides { row: count, col: 1 },
        b: kernels::Strides { row: size, col: 1 },
        c_row: size,
        offsets: (0..rows).map(|r| [r * count, r * count * size, r * size]).collect(),
        c_len: rows * size,
    };
    let selected = batched(cx, &group, &padded, &batch, Shape::new(rows, size))?;
    let selected = reshare(&cx.scope("selected"), selected).await?;
    let element = pick(&cx.scope("element"), &selected, bits, &r.rows(rows, 2 * rows), noise_bits).await?;

    let index = |f: &dyn Fn(usize, usize) -> usize| -> Indices {
        (0..rows * n).map(|i| f(i / n, i % n) as u32).collect()
    };
    let group_of = index(&|row, i| row * count + i / size);
    let place_of = index(&|row, i| row * size + i % size);
    let outer = bilinear(cx, &group, &element, w.shape, |a, b| a.gather(&group_of) * b.gather(&place_of))?;
    reshare(cx, outer).await
}

/// Rows of `cols` elements, with zeros behind those of w.
fn pad(cx: &Cx, w: &Share, cols: usize) -> Share {
    let (rows, n) = (w.shape.rows, w.shape.cols);
    let zero = Words::zeros(cx.device(), 1);
    let place = |i: usize| if i % cols < n { i / cols * n + i % cols } else { rows * n };
    let idx: Indices = (0..rows * cols).map(|i| place(i) as u32).collect();
    w.linear(Shape::new(rows, cols), |w| Words::concat(&[w, &zero]).gather(&idx))
}

/// Declared cost of [`sample`] for rows of n scores at `scale`.
pub fn sample_cost(rows: usize, n: usize, k: usize, scale: u32, ring_bits: u32) -> Cost {
    if n == 1 {
        return Cost::default();
    }
    let (all, (bits, noise_bits), (size, count)) = (rows * n, precision(n), groups(n));
    let max = |i: usize, scale| max::cost(all, rows, Levels::new(BUCKETS[i]), scale, ring_bits);
    let range = compare::cost(all, 1, bottom(scale))
        .then(product_cost(all, ring_bits))
        .then(bit::cost(all, BITS))
        .then(Cost::round(bytes(all, BITS)));
    let mut weights = max(1, FRACTION - 3).then(lut::cost(all, &EXP, WEIGHT_SCALE, ring_bits));
    if k < n {
        weights = weights
            .beside(threshold_cost(rows, n, ring_bits))
            .then(compare::cost(all, 1, KEEP))
            .then(bit::cost(all, ring_bits))
            .then(reshare_cost(all, ring_bits));
    }
    let pick = |m| pick_cost(rows, m, bits, noise_bits, ring_bits);
    let product = |n| product_cost(n, ring_bits).then(reshare_cost(n, ring_bits));
    max(0, scale)
        .beside(uniform_cost(2 * rows, noise_bits, ring_bits))
        .then(range)
        .then(weights)
        .then(pick(count))
        .then(product(rows * size))
        .then(pick(size))
        .then(product(all))
}
