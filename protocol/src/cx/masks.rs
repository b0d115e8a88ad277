//! Products of weights with masks, for several runs at once.
//!
//! A third of the products of a linear layer (at the dealer, all) are those of a matrix with this party's own part of the
//! input's mask, which is a stream and depends on no data. Where the next runs will be runs of the same program, their
//! masks are known already: the same operation's streams, under the next numbers. One product with several rows reads the
//! matrix once for all these runs.
//!
//! Nothing is taken on trust: what was made ahead serves only if it was made with this matrix, and the mask it was made for
//! is the input's, word by word.
//! The streams are drawn here once more than masks are; what is made of them stays here.

use super::rounds::{Core, RUNS};
use super::{Cx, Op, Session, lock};
use crate::prg::{KeyId, Purpose};
use crate::weights::Factor;
use kernels::Words;
use std::collections::{HashMap, VecDeque};

/// Masks of this run that are kept in mind.
const RECENT: usize = 8;

/// What is made ahead, and what is needed for it.
#[derive(Default)]
pub(super) struct Masks {
    /// Operations that opened values of the full ring, and their masks.
    opened: VecDeque<(u64, Words)>,
    /// By operation.
    made: HashMap<u64, Made>,
    used: u64,
}

/// A product that was made ahead, and of what.
struct Made {
    factor: Factor,
    mask: Words,
    bits: u32,
    product: Words,
}

impl Masks {
    /// A run begins: those of lower numbers are over.
    pub(super) fn begin(&mut self, run: u32) {
        self.opened.clear();
        self.made.retain(|op, _| *op >> 32 >= u64::from(run));
    }

    fn take(&mut self, op: u64, w: &Factor, mask: &[u64], modulo: u32) -> Option<Words> {
        let Made { factor, mask: made_for, bits, product } = self.made.remove(&op)?;
        let fits = factor.is(w) && bits == modulo && made_for.to_vec() == mask;
        self.used += u64::from(fits);
        fits.then_some(product)
    }

    fn source(&self, mask: &[u64]) -> Option<u64> {
        let same = |m: &Words| m.len() == mask.len() && m.to_vec() == mask;
        self.opened.iter().rev().find(|(_, m)| same(m)).map(|(op, _)| *op)
    }
}

impl Session {
    /// After the next run that begins, as many like it are expected: its products with masks are made for these as well.
    pub fn expect_more(&mut self, runs: usize) {
        self.expected = runs as u64;
    }

    /// Products that had been made ahead when they were needed.
    pub fn made_ahead(&self) -> u64 {
        lock(&self.masks).used
    }

    /// This party's part of the mask under which an operation opens, if there will be one of this number.
    fn own_mask(&self, op: u64, n: usize) -> Option<Words> {
        if op >> 32 >= u64::from(RUNS) {
            return None;
        }
        let (lane, bits) = (Purpose::Result.lane(0), self.ring.bits());
        let [a, b] = [KeyId::K01, KeyId::K02].map(|k| self.streams.draw(&self.device, k, op, lane, n, bits));
        match (a, b) {
            (Some(a), Some(b)) => Some((a + b).low(bits)),
            (a, b) => a.or(b),
        }
    }
}

impl Core<'_> {
    /// Keeps in mind where a mask comes from.
    pub(super) fn note_mask(&mut self, op: u64, mask: &Words) {
        if self.session.expected == 0 {
            return;
        }
        let opened = &mut lock(&self.session.masks).opened;
        if opened.len() == RECENT {
            opened.pop_front();
        }
        opened.push_back((op, mask.clone()));
    }

    fn by_mask(&mut self, op: u64, w: &Factor, mask: &Words, bits: u32) -> Words {
        let s = &*self.session;
        let mut masks = lock(&s.masks);
        if s.expected == 0 && masks.made.is_empty() {
            return w.apply_low(mask, bits);
        }
        let words = mask.to_vec();
        if let Some(product) = masks.take(op, w, &words, bits) {
            return product;
        }
        let source = (s.expected > 0).then(|| masks.source(&words)).flatten();
        let n = words.len();
        let later = |source| (1..=s.expected).map_while(move |i| s.own_mask(source + (i << 32), n)).collect();
        let later: Vec<Words> = source.map(later).unwrap_or_default();
        if later.is_empty() {
            return w.apply_low(mask, bits);
        }
        let rows = Words::concat(&[mask].into_iter().chain(&later).collect::<Vec<_>>());
        let product = w.apply_low(&rows, bits);
        let n = mask.len() / w.inputs() * w.outputs();
        for (i, mask) in (1..).zip(later) {
            let product = product.slice(i * n..(i + 1) * n);
            masks.made.insert(op + ((i as u64) << 32), Made { factor: w.clone(), mask, bits, product });
        }
        product.slice(0..n)
    }
}

impl Cx<'_> {
    /// w · λ modulo 2^bits for this party's part λ of an input's mask, in an operation that does this once.
    pub(crate) fn by_mask(&self, op: Op, w: &Factor, mask: &Words, bits: u32) -> Words {
        self.core.borrow_mut().by_mask(op.number, w, mask, bits)
    }
}
