//! The dealer's products of weights with masks, for several runs at once.
//!
//! All that the dealer multiplies a matrix with is the difference of a mask's halves, streams that depend on no data. Where the
//! next runs will be runs of the same program, their masks are known already: the same operation's streams, under the next
//! numbers. One product with several rows reads the matrix once for all these runs.
//!
//! Nothing is taken on trust: what was made ahead serves only if it was made with this matrix, and what it was made of is the
//! input's factor, word by word.
//! The streams are drawn here once more than masks are; what is made of them stays here.

use super::rounds::{Core, RUNS};
use super::{Cx, Op, Session, lock};
use crate::prg::{KeyId, Purpose};
use crate::{Factor, Role, Share, SharedMatrix};
use kernels::Words;
use std::collections::{HashMap, VecDeque};

/// Factors of this run that are kept in mind.
const RECENT: usize = 8;

/// What is made ahead, and what is needed for it.
#[derive(Default)]
pub(super) struct Masks {
    /// Operations that opened values of the full ring, and what products are made with.
    opened: VecDeque<(u64, Words)>,
    /// By operation.
    made: HashMap<u64, Made>,
    used: u64,
}

/// A product that was made ahead, and of what.
struct Made {
    matrix: SharedMatrix,
    factor: Words,
    bits: u32,
    product: Words,
}

impl Masks {
    /// A run begins: those of lower numbers are over.
    pub(super) fn begin(&mut self, run: u32) {
        self.opened.clear();
        self.made.retain(|op, _| *op >> 32 >= u64::from(run));
    }

    fn take(&mut self, op: u64, w: &SharedMatrix, factor: &[u64], modulo: u32) -> Option<Words> {
        let Made { matrix, factor: made_of, bits, product } = self.made.remove(&op)?;
        let fits = matrix.is(w) && bits == modulo && made_of.to_vec() == factor;
        self.used += u64::from(fits);
        fits.then_some(product)
    }

    fn source(&self, factor: &[u64]) -> Option<u64> {
        let same = |f: &Words| f.len() == factor.len() && f.to_vec() == factor;
        self.opened.iter().rev().find(|(_, f)| same(f)).map(|(op, _)| *op)
    }
}

impl Session {
    /// After the next run that begins, as many like it are expected: the dealer's products with masks are made for these as
    /// well. Nothing comes of it at an evaluator.
    pub fn expect_more(&mut self, runs: usize) {
        self.expected = runs as u64;
    }

    /// Products that had been made ahead when they were needed: the dealer's.
    pub fn made_ahead(&self) -> u64 {
        lock(&self.masks).used
    }

    /// The dealer's factor of what an operation opens, if there will be one of this number.
    fn own_factor(&self, op: u64, n: usize) -> Option<Words> {
        if op >> 32 >= u64::from(RUNS) {
            return None;
        }
        let (lane, bits) = (Purpose::Result.lane(0), self.ring.bits());
        let half = |key| self.streams.draw(&self.device, key, op, lane, n, bits);
        let (first, second) = (half(KeyId::K01)?, half(KeyId::K02)?);
        Some(Words::formula([&first, &second], |[first, second]| {
            (first << 1u32) - (first + second).low(bits)
        }))
    }
}

impl Core<'_> {
    /// Keeps in mind where a factor comes from.
    pub(super) fn note_factor(&mut self, op: u64, x: &Share) {
        if self.session.expected == 0 || self.session.role != Role::Dealer {
            return;
        }
        let opened = &mut lock(&self.session.masks).opened;
        if opened.len() == RECENT {
            opened.pop_front();
        }
        opened.push_back((op, Factor::from(x).words));
    }

    fn by_factor(&mut self, op: u64, w: &SharedMatrix, factor: &Words, bits: u32) -> Words {
        let s = &*self.session;
        if s.role != Role::Dealer {
            return w.apply(factor, bits);
        }
        let mut masks = lock(&s.masks);
        if s.expected == 0 && masks.made.is_empty() {
            return w.apply(factor, bits);
        }
        let words = factor.to_vec();
        if let Some(product) = masks.take(op, w, &words, bits) {
            return product;
        }
        let source = (s.expected > 0).then(|| masks.source(&words)).flatten();
        let n = words.len();
        let later =
            |source| (1..=s.expected).map_while(move |i| s.own_factor(source + (i << 32), n)).collect();
        let later: Vec<Words> = source.map(later).unwrap_or_default();
        if later.is_empty() {
            return w.apply(factor, bits);
        }
        let rows = Words::concat(&[factor].into_iter().chain(&later).collect::<Vec<_>>());
        let product = w.apply(&rows, bits);
        let n = factor.len() / w.inputs() * w.outputs();
        for (i, factor) in (1..).zip(later) {
            let product = product.slice(i * n..(i + 1) * n);
            let made = Made { matrix: w.clone(), factor, bits, product };
            masks.made.insert(op + ((i as u64) << 32), made);
        }
        product.slice(0..n)
    }
}

impl Cx<'_> {
    /// factor · w^T modulo 2^bits of this party's words, in an operation that does this once.
    pub(crate) fn by_factor(&self, op: Op, w: &SharedMatrix, factor: &Words, bits: u32) -> Words {
        self.core.borrow_mut().by_factor(op.number, w, factor, bits)
    }
}
