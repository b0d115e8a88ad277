//! The first of the highest elements of each row, as a one-hot row: a tournament of groups.
//!
//! A level cuts each row into groups. In a group every pair is compared once, \[x_i < x_j\] for i < j: j wins if it is
//! higher, i if it is not lower, so that equal elements give way to the first. An element is its group's winner if it
//! wins all its pairs, w = Π of up to a − 1 bits, and the winner's value Σ w·x goes on to the next level. The element
//! that wins the row is the one whose groups win on every level: the conjunction of the wins of all levels but the
//! last is made beside the last level, and its product with the last win is the result.
//! Values are only needed modulo 2^31, since comparisons look at 31 bits.
//! Range: |x_i − x_j| < 2^30 units for all elements of a row; callers certify it. The result is exact.
//! Cost: four exchanges a level. A pair costs 33.6 dealt bytes and 1.5 each way, so the first level of a long row
//! has small groups, and later ones large groups. For n = 49152, one row, levels in exchanges and MB of all links:
//!
//! | groups of | exchanges | MB |
//! |---|---|---|
//! | 4 | 32 | 6.7 |
//! | 8 | 24 | 10.4 |
//! | 16 | 16 | 231 |
//! | 5, 8, 8, 13, 12 (here) | 20 | 7.7 |
//!
//! Sources: tournament of comparisons as in Falcon and other three-party maxima (Wagh et al., PoPETs 2021), with
//! round-robin groups; conjunctions by dealt monomials, see `bits`.

use super::super::bit::{self, bit_times_modulo};
use super::super::compare::{self, Window};
use super::super::product::{reshare, reshare_cost};
use super::bits::{and, and_cost, both, gather, less_than, ones, to_ring, with_one};
use crate::{Cost, Cx, Group, Item, Masked, Product, Purpose, Result, Shape, Share, bytes, join};
use kernels::{Indices, Segments, Words};

/// What comparisons look at: exact for differences below 2^30.
pub const WINDOW: Window = Window::EXACT31;

const VALUE_BITS: u32 = 31;

/// Size of the groups in which rows of m elements play.
fn arity(m: usize) -> usize {
    match m {
        // One level, or two. The conjunction takes 2^(a−1) bits an element, which is nothing for so few.
        0..=13 => m,
        14..=169 => m.isqrt() + usize::from(m.isqrt().pow(2) < m),
        170..=16384 => 8,
        _ => 5,
    }
}

/// Lengths of the rows of each level and sizes of their groups. The last group of a row may be smaller.
fn levels(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut m = n;
    std::iter::from_fn(move || {
        let level = (m, arity(m));
        (m > 1).then(|| {
            m = m.div_ceil(level.1);
            level
        })
    })
}

/// Number of pairs in the groups of a row.
fn pairs(m: usize, a: usize) -> usize {
    let pairs = |s: usize| s * s.saturating_sub(1) / 2;
    m / a * pairs(a) + pairs(m % a)
}

/// One-hot rows at scale 0 for the rows of x. 4 exchanges a level, none for rows of one element.
pub async fn argmax(cx: &Cx<'_>, x: &Share) -> Result<Share> {
    let (rows, n) = (x.shape.rows, x.shape.cols);
    let plan: Vec<(usize, usize)> = levels(n).collect();
    let Some((&(last, last_arity), early)) = plan.split_last() else { return Ok(ones(cx, x.shape)) };
    let (mut values, mut wins) = (x.clone(), vec![]);
    for &(m, a) in early {
        let won = contest(&cx.scope(&format!("level of {m}")), &values, a).await?;
        values = winners(cx, &won, &values, a).await?;
        wins.push((won, m));
    }
    let final_cx = cx.scope(&format!("level of {last}"));
    let contest = contest(&final_cx, &values, last_arity);
    let half = if wins.is_empty() {
        to_ring(cx, &contest.await?, cx.ring().bits())?
    } else {
        let (won, path) = join(contest, path(cx, &wins, rows, n)).await?;
        both(cx, &path, &won, &group_of(rows, n, last, early.iter().map(|l| l.1).product()))?
    };
    reshare(cx, Product { shape: x.shape, scale: 0, bits: cx.ring().bits(), half }).await
}

/// Whether each element is the first of the highest of its group. Three exchanges.
async fn contest(cx: &Cx<'_>, x: &Share, a: usize) -> Result<Masked> {
    let games = Games::new(x.shape.rows, x.shape.cols, a);
    let column = Shape::new(games.pairs[0].len(), 1);
    let difference = x.gather(&games.pairs[0], column).sub(&x.gather(&games.pairs[1], column));
    let less = less_than(cx, &difference, &[0], WINDOW).await?.remove(0);
    let outcomes = with_one(cx, &less);
    let factors: Vec<Masked> = games
        .factors
        .iter()
        .map(|(idx, flip)| {
            let m = gather(&outcomes, idx);
            let flip = Words::upload(cx.device(), flip.clone());
            Masked { delta: m.delta.map(|d| d ^ flip), lambda: m.lambda }
        })
        .collect();
    and(cx, &factors).await
}

/// Who plays whom.
struct Games {
    /// First and second element of every pair.
    pairs: [Indices; 2],
    /// For every element its k-th pair (or the constant after them) and whether the bit is negated.
    factors: Vec<(Indices, Vec<u64>)>,
}

impl Games {
    fn new(rows: usize, m: usize, a: usize) -> Games {
        let total = rows * pairs(m, a);
        let mut pairs = [Vec::with_capacity(total), Vec::with_capacity(total)];
        // The constant 1 stands in for partners that a smaller last group lacks.
        let mut factors = vec![(vec![total as u32; rows * m], vec![0; rows * m]); a - 1];
        for (row, from) in (0..rows).flat_map(|r| (0..m).step_by(a).map(move |f| (r, f))) {
            let members = row * m + from..row * m + m.min(from + a);
            for (p, i) in members.clone().enumerate() {
                for (q, j) in members.clone().enumerate().skip(p + 1) {
                    let game = pairs[0].len() as u32;
                    pairs[0].push(i as u32);
                    pairs[1].push(j as u32);
                    // i wins unless x_i < x_j; its pair with q is its (q − 1)-th, j's with p the p-th.
                    factors[q - 1].0[i] = game;
                    factors[q - 1].1[i] = 1;
                    factors[p].0[j] = game;
                }
            }
        }
        let factors = factors.into_iter().map(|(idx, flip)| (idx.into(), flip)).collect();
        Games { pairs: pairs.map(Indices::from), factors }
    }
}

/// Each group's winner, modulo 2^31. One exchange.
async fn winners(cx: &Cx<'_>, won: &Masked, x: &Share, a: usize) -> Result<Share> {
    let (rows, m) = (x.shape.rows, x.shape.cols);
    let groups = m.div_ceil(a);
    let bits = VALUE_BITS.min(cx.ring().bits());
    let mut offsets: Vec<usize> = (0..rows * groups).map(|g| g / groups * m + g % groups * a).collect();
    offsets.push(rows * m);
    let segments = Segments::new(offsets);
    let shape = Shape::new(rows, groups);
    let z = bit_times_modulo(cx, won, x, bits)?.linear(shape, |w| w.sum_segments(&segments).low(bits));
    let op = cx.op("winner");
    let item = Item { op, purpose: Purpose::Result, index: 0, n: shape.len(), bits, group: Group::Add };
    cx.open_share(item, z.half, shape, x.scale).await
}

/// For each element of rows of n, the place of its group among rows of m; `size` elements are a group's.
fn group_of(rows: usize, n: usize, m: usize, size: usize) -> Indices {
    (0..rows * n).map(|i| (i / n * m + i % n / size) as u32).collect()
}

/// Whether an element and its groups win on all levels given. At most one exchange.
async fn path(cx: &Cx<'_>, wins: &[(Masked, usize)], rows: usize, n: usize) -> Result<Masked> {
    let mut size = 1;
    let mut factors: Vec<Masked> = Vec::with_capacity(wins.len());
    for (won, m) in wins {
        factors.push(gather(won, &group_of(rows, n, *m, size)));
        size *= arity(*m);
    }
    if factors.len() == 1 { Ok(factors.remove(0)) } else { and(cx, &factors).await }
}

/// The meaning in the clear: number of the first of the highest, for one row of differences below 2^30.
pub fn clear(row: &[i64]) -> usize {
    (0..row.len()).rev().max_by_key(|&i| row[i]).unwrap_or(0)
}

/// Declared cost of [`argmax`].
pub fn argmax_cost(rows: usize, n: usize, ring_bits: u32) -> Cost {
    let plan: Vec<(usize, usize)> = levels(n).collect();
    let Some((&(m, a), early)) = plan.split_last() else { return Cost::default() };
    let contest =
        |m: usize, a: usize| compare::cost(rows * pairs(m, a), 1, WINDOW).then(and_cost(rows * m, a - 1));
    let mut cost = Cost::default();
    for &(m, a) in early {
        let bits = VALUE_BITS.min(ring_bits);
        let winners = bit::cost(rows * m, bits).then(Cost::round(bytes(rows * m.div_ceil(a), bits)));
        cost = cost.then(contest(m, a)).then(winners);
    }
    let path = if early.len() > 1 { and_cost(rows * n, early.len()) } else { Cost::default() };
    let constants = |n: usize| Cost::dealt(bytes(n, ring_bits));
    let product = match early.len() {
        0 => constants(rows * n),
        _ => constants(rows * n).then(constants(rows * n)).then(constants(rows * m)),
    };
    cost.then(contest(m, a).beside(path)).then(product).then(reshare_cost(rows * n, ring_bits))
}
