//! Coarse maximum of a row in three exchanges, whatever its length: some M with M − 4 ≤ max(x) < M + 4.
//!
//! Softmax only needs *some* shift near the maximum. Scores fall into W buckets of width 4 (signed bucket k ∈
//! [−W/2, W/2), or one less because two addends are cut). The dealer deals one-hot rows of λ's bucket; rotated by Δ's
//! bucket and suffix-xored they are xor shares of the thermometer \[k ≥ level\]. For every level ℓ the evaluators
//! combine a row's thermometers with common coins c of κ bits: R_ℓ = ⊕ c_iℓ·th_iℓ is 0 if no score reaches the level, and
//! otherwise non-zero except with probability 2^−κ. R is tested for zero block by block: opened under a mask, looked
//! up in a dealt one-hot row of the mask. The flags' product over the blocks is expanded with dealt monomials, and
//! the number of reached levels is a linear function of it.
//! A false zero lowers M by 4; [`exp`](super::exp) is right up to 8, and the sum of a row as far as its reciprocal's range
//! goes (see [`softmax`](super::softmax)); κ = 24. So what counts is that no *two* levels of a row are false zeros, and for
//! that any two must be independent, not all.
//!
//! **Coins.** Score i has a string of W + 2κ: q_i of W + κ coins, then p_i of κ, and bit j of c_iℓ is p_i\[j\] ⊕ q_i\[ℓ + j\].
//! At two levels a < b these are uniform and independent: c_ia ⊕ c_ib has the bits q_i\[a + j\] ⊕ q_i\[b + j\], and the place
//! b + j is beyond all that those of lower j have, so it is uniform; p_i, which is nowhere in it, makes c_ia uniform given
//! it. A score that reaches b reaches a as well, so that its coins alone make R_a and R_b uniform and independent. With the
//! same coins at all levels, a leader far ahead of its row would lose all levels above the others' at once.
//!
//! Range: x in [−2W + 4, 2W). Source: own composition; one-hot thermometers as in the look-up gate.

use super::exp::BUCKET_LOG2;
use super::lut::{deal_one_hot, one_hot_bytes};
use super::product::reshare_modulo;
use super::truncate::sign;
use crate::{Cost, Cx, Group, Item, KeyId, Op, Product, Purpose, Result, Shape, Share, bytes};
use kernels::{Formula, Input, Segments, Term, Words, coin_words};

/// Levels and the zero test's blocks of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Number of buckets W, a power of two.
    pub buckets: usize,
    /// Bits of each block of the zero test; their sum is κ.
    pub blocks: &'static [u32],
}

impl Levels {
    /// 64 or 128 buckets, κ = 24: a row gets a false zero with probability below 128 · 2^−24, two with one below 2^−35.
    pub fn new(buckets: usize) -> Levels {
        Levels { buckets, blocks: &[6, 6, 6, 6] }
    }

    fn kappa(self) -> u32 {
        self.blocks.iter().sum()
    }

    /// The scores for which the gate is right: [low, high).
    pub fn range(self) -> (f64, f64) {
        let half = (self.buckets << BUCKET_LOG2) as f64 / 2.0;
        (4.0 - half, half)
    }
}

/// A shift for each row, modulo 2^bits; `offsets` cuts the flat scores into rows. The scores are needed as far as their
/// buckets go, modulo W buckets. Three exchanges.
pub async fn coarse_max(
    cx: &Cx<'_>,
    x: &Share,
    offsets: &Segments,
    levels: Levels,
    bits: u32,
) -> Result<Share> {
    let (op, w) = (cx.op("coarse max"), levels.buckets);
    let (rows, n, shift) = (offsets.count(), x.len(), x.scale + BUCKET_LOG2);
    let kappa = levels.kappa() as usize;
    let words = w.div_ceil(64);

    let (known, ring) = (x.delta.as_ref().unwrap_or(&x.lambda), cx.ring().bits());
    // Rotated by half of the buckets more, the lowest one comes first.
    let centre = if cx.is_dealer() { 0 } else { w as u64 / 2 };
    let bucket = Words::formula([known], |[x]| (x.low(ring) >> shift).low(w.trailing_zeros()) + centre);
    let row = deal_one_hot(cx, op, Purpose::OneHot, w, n, &bucket)?;
    let planes = row.share.map(|u| {
        let thermometer = u.rotate_bits(w, &bucket).suffix_xor(w);
        let coins = Item {
            op,
            purpose: Purpose::Coins,
            index: 0,
            n: n * coin_words(w, kappa),
            bits: 64,
            group: Group::Xor,
        };
        let coins = cx.draw(KeyId::K12, &coins).expect("evaluators know k12");
        thermometer.random_combinations(&coins, w, kappa, offsets)
    });
    let item = Item {
        op,
        purpose: Purpose::Planes,
        index: 0,
        n: rows * kappa * words,
        bits: w.min(64) as u32,
        group: Group::Xor,
    };
    let planes = cx.open(item, planes).await?;

    // [R_block = 0] = [D = λ], looked up in a one-hot row of λ.
    let known = planes.delta.as_ref().unwrap_or(&planes.lambda);
    let mut flags = Vec::new();
    let mut first = 0;
    for &count in levels.blocks {
        let index = known.transpose_bits(w, kappa, first, count as usize);
        let op = cx.op("zero test");
        let row = deal_one_hot(cx, op, Purpose::ZeroTest, 1 << count, rows * w, &index)?;
        flags.extend(row.share.map(|u| u.bit_at(1 << count, &index)));
        first += count as usize;
    }
    let blocks = levels.blocks.len();
    let half = (!flags.is_empty()).then(|| Words::concat(&flags.iter().collect::<Vec<_>>()));
    let item =
        Item { op, purpose: Purpose::Flags, index: 0, n: rows * w * blocks, bits: 1, group: Group::Xor };
    let flags = cx.open(item, half).await?;

    let missed = missed_levels(cx, op, &flags, rows, w, blocks, bits - shift)?;
    // The top reached level is W − missed − W/2 − 1; one more makes M centred.
    let centre = if cx.is_p1() { w as u64 / 2 } else { 0 };
    let half = missed.map(|m| Words::formula([&m], |[m]| ((-m + centre) << shift).low(ring)));
    let z = Product { shape: Shape::new(rows, 1), scale: x.scale, bits, half };
    reshare_modulo(cx, z, bits).await
}

/// Halves of Σ over levels of Π_b flag_b, modulo 2^width.
fn missed_levels(
    cx: &Cx,
    op: Op,
    flags: &crate::Masked,
    rows: usize,
    w: usize,
    blocks: usize,
    width: u32,
) -> Result<Option<Words>> {
    let n = rows * w;
    let by_block =
        |m| -> Vec<Input<'_>> { (0..blocks).map(|b| Words::part(m, b * n..(b + 1) * n)).collect() };
    let item = |index| Item { op, purpose: Purpose::FlagMonomial0, index, n, bits: width, group: Group::Add };
    let sets: Vec<usize> = (1..1 << blocks).collect();
    let mut monomials = vec![];
    for sets in sets.chunks(Formula::OUTPUTS) {
        let products = cx.is_dealer().then(|| {
            Words::formulas_of(&by_block(&flags.lambda), |masks| {
                let members = |set: usize| (0..blocks).filter(move |b| set >> b & 1 == 1).map(|b| masks[b]);
                sets.iter().map(|&set| members(set).reduce(|a, m| a & m).expect("a non-empty set")).collect()
            })
        });
        let mut products = products.into_iter().flatten();
        for &set in sets {
            monomials.extend(cx.deal(item(set), || products.next().expect("the dealer made them"))?);
        }
    }
    let Some(delta) = &flags.delta else { return Ok(None) };
    let (mut inputs, p1) = (by_block(delta), cx.is_p1());
    inputs.extend(monomials.iter().map(Input::from));
    let zero = Words::formulas_of(&inputs, |terms| {
        let (flags, monomials) = terms.split_at(blocks);
        let flags: Vec<[Term<'_>; 2]> = flags.iter().map(|&e| [e, sign(e)]).collect();
        vec![zeros(&flags, 0, monomials, p1).expect("at least one block")]
    });
    Ok(Some(zero[0].sum_rows(w)))
}

/// An evaluator's half of Π_b flag_b over some of the blocks, times Π_b λ_b over the others, which are `set`. With
/// flag_b = E_b + (1 − 2E_b)·λ_b this is Horner's rule for
/// ```text
/// Σ_S Π_{b∉S} E_b · Π_{b∈S} (1 − 2E_b) · [Π_{b∈S} λ_b]
/// ```
/// `flags` are E_b and 1 − 2E_b. `None` is 1 at P1 and 0 at P2: the product over no block.
fn zeros<'d>(flags: &[[Term<'d>; 2]], set: usize, monomials: &[Term<'d>], p1: bool) -> Option<Term<'d>> {
    let Some(([e, sign], others)) = flags.split_last() else {
        return set.checked_sub(1).map(|i| monomials[i]);
    };
    let with = *sign * zeros(others, set | 1 << others.len(), monomials, p1).expect("of a non-empty set");
    match zeros(others, set, monomials, p1) {
        Some(without) => Some(*e * without + with),
        None if p1 => Some(with + *e),
        None => Some(with),
    }
}

/// Bytes that an evaluator holds at the most: shares of all monomials, for one pass over them, and of the flags twice, as
/// they came and block by block, with the result.
pub fn held(rows: usize, levels: Levels) -> u64 {
    let blocks = levels.blocks.len();
    let buffers = (1 << blocks) - 1 + 3 * blocks + 2;
    (8 * buffers * rows * levels.buckets) as u64
}

/// Declared cost for `n` scores in `rows` rows, at `scale`, of a shift modulo 2^bits.
pub fn cost(n: usize, rows: usize, levels: Levels, scale: u32, bits: u32) -> Cost {
    let (w, kappa) = (levels.buckets, levels.kappa() as usize);
    let blocks = levels.blocks.len();
    let tests: u64 = levels.blocks.iter().map(|&b| one_hot_bytes(rows * w, 1 << b)).sum();
    let monomials = ((1 << blocks) - 1) * bytes(rows * w, bits - scale - BUCKET_LOG2);
    Cost {
        rounds: vec![one_hot_bytes(rows * kappa, w), bytes(rows * w * blocks, 1), bytes(rows, bits)],
        dealt: [0, one_hot_bytes(n, w) + tests + monomials],
    }
}
