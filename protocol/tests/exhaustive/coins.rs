//! Coins of the coarse maximum: what two levels of a row get is uniform and independent.

use kernels::cpu::Cpu;
use kernels::{Segments, Words, coin_words};
use protocol::gates::max::Levels;

/// What rows of `size` scores get: κ bits for each of W levels. Of each score, the levels that it reaches, and its coins.
fn combine(w: usize, kappa: usize, size: usize, reached: &[usize], coins: Vec<u64>) -> Vec<Vec<u64>> {
    let device = Cpu::best();
    let thermometer = |n: usize| {
        let ones = move |i: usize| n.saturating_sub(64 * i).min(64) as u32;
        (0..w.div_ceil(64)).map(move |i| u64::MAX.checked_shr(64 - ones(i)).unwrap_or(0))
    };
    let u = Words::upload(&device, reached.iter().flat_map(|n| thermometer(*n)).collect());
    let segments = Segments::even(reached.len() / size, size);
    let planes = u.random_combinations(&Words::upload(&device, coins), w, kappa, &segments);
    planes.transpose_bits(w, kappa, 0, kappa).to_vec().chunks(w).map(<[u64]>::to_vec).collect()
}

/// Whether each pair of values occurs equally often at any two levels that are reached: by two scores, whatever levels
/// each of them reaches, over all coins that are in `kept`.
fn independent(w: usize, kappa: usize, kept: u64) -> bool {
    let bits = w + 2 * kappa;
    let strings = 1u64 << (2 * bits);
    let coins: Vec<u64> = (0..strings).flat_map(|s| [s & kept, s >> bits & kept]).collect();
    (0..=w).flat_map(|one| (0..=w).map(move |other| [one, other])).all(|reached| {
        let got = combine(w, kappa, 2, &reached.repeat(strings as usize), coins.clone());
        (0..reached[0].max(reached[1])).flat_map(|b| (0..b).map(move |a| (a, b))).all(|(a, b)| {
            let mut seen = vec![0; 1 << (2 * kappa)];
            got.iter().for_each(|row| seen[(row[a] | row[b] << kappa) as usize] += 1);
            seen.iter().all(|n| *n == strings >> (2 * kappa))
        })
    })
}

#[test]
fn all_coins_of_a_small_maximum() {
    for (w, kappa) in [(4, 2), (3, 2), (2, 3)] {
        let q = (1 << (w + kappa)) - 1;
        let p = (1 << (w + 2 * kappa)) - 1 - q;
        assert!(independent(w, kappa, q | p), "{w} levels, κ = {kappa}");
        // The same coins at all levels, and coins of which neighbours share all but one.
        assert!(!independent(w, kappa, p), "{w} levels, κ = {kappa}: p alone");
        assert!(!independent(w, kappa, q), "{w} levels, κ = {kappa}: q alone");
    }
}

/// Dimension of what numbers span by xor.
fn rank(numbers: impl Iterator<Item = u64>) -> usize {
    let mut basis = [0u64; 64];
    for mut x in numbers {
        while x != 0 {
            let top = &mut basis[x.ilog2() as usize];
            if *top == 0 {
                *top = x;
                break;
            }
            x ^= *top;
        }
    }
    basis.iter().filter(|b| **b != 0).count()
}

/// What two levels get is linear in the coins: uniform and independent exactly if the rank is full.
#[test]
fn two_levels_have_full_rank() {
    for w in [64, 128] {
        let kappa = Levels::new(w).blocks.iter().sum::<u32>() as usize;
        let (bits, words) = (w + 2 * kappa, coin_words(w, kappa));
        // A row of one score for each coin, which is set alone.
        let mut coins = vec![0; bits * words];
        (0..bits).for_each(|i| coins[i * words + i / 64] = 1 << (i % 64));
        let got = combine(w, kappa, 1, &vec![w; bits], coins);
        let both = |a: usize, b: usize| got.iter().map(move |row| row[a] | row[b] << kappa);
        for (a, b) in (0..w).flat_map(|b| (0..b).map(move |a| (a, b))) {
            assert_eq!(rank(both(a, b)), 2 * kappa, "levels {a} and {b} of {w}");
            // p alone would be the same coins at all levels.
            assert_eq!(rank(both(a, b).skip(w + kappa)), kappa);
        }
    }
}
