//! Element-wise formulas, a piece of each buffer at a time: what is between the steps stays in the first-level cache.

use super::elementwise::take;
use super::lanes::Lanes;
use super::par;
use crate::buffer;
use crate::formula::{Change, Formula, Place, Step};
use crate::indices::{Grid, Indices, Places};
use rayon::prelude::*;
use std::ops::Range;

/// Words of a piece. A formula's inputs, results and temporary words are a few of them.
const PIECE: usize = 1 << 8;
/// Words of a cache line.
const LINE: usize = 8;
/// Words that one task handles.
const CHUNK: usize = 1 << 13;

/// An input: a buffer, and where its words are taken if not one after the other.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    words: &'a [u64],
    at: Option<&'a Places>,
}

impl<'a> Source<'a> {
    /// Words in their order are a part of the buffer.
    pub(super) fn new(words: &'a [u64], at: Option<&'a Indices>, n: usize) -> Source<'a> {
        assert_eq!(at.map_or(words.len(), Indices::len), n, "a formula of inputs of different length");
        match at.map(Indices::places) {
            Some(Places::Grid(Grid { start, rows: 1, col: 1, .. })) if n > 0 => {
                Source { words: &words[*start..][..n], at: None }
            }
            at => Source { words, at },
        }
    }

    /// Some of the words: where they are, if they lie one after the other, or else in `room`.
    fn words<'b>(&self, part: &Range<usize>, room: &'b mut [u64]) -> &'b [u64]
    where
        'a: 'b,
    {
        match self.at {
            None => &self.words[part.clone()],
            Some(Places::Grid(g)) if g.col == 1 && part.start / g.cols == (part.end - 1) / g.cols => {
                &self.words[g.start + part.start / g.cols * g.row + part.start % g.cols..][..part.len()]
            }
            Some(places) => {
                take(self.words, places, part.start, &mut room[..part.len()]);
                &room[..part.len()]
            }
        }
    }
}

pub(super) fn evaluate(
    lanes: &dyn Lanes,
    formula: &Formula,
    inputs: &[Source<'_>],
    n: usize,
) -> Vec<Vec<u64>> {
    let mut out: Vec<Vec<u64>> = (0..formula.outputs()).map(|_| buffer::unwritten(n)).collect();
    if n < par::WORDS || rayon::current_num_threads() == 1 {
        let mut all: Vec<&mut [u64]> = out.iter_mut().map(Vec::as_mut_slice).collect();
        chunk(lanes, formula, inputs, 0..n, &mut all);
        return out;
    }
    let mut tasks: Vec<Vec<&mut [u64]>> = (0..n.div_ceil(CHUNK)).map(|_| Vec::new()).collect();
    for result in &mut out {
        tasks.iter_mut().zip(result.chunks_mut(CHUNK)).for_each(|(t, c)| t.push(c));
    }
    tasks.par_iter_mut().enumerate().for_each(|(i, out)| {
        chunk(lanes, formula, inputs, i * CHUNK..n.min((i + 1) * CHUNK), out);
    });
    out
}

/// All steps on the first of some words, then all on the next. From the second piece on they begin where cache lines of the
/// first result do, and probably those of the other buffers, as large ones mostly begin alike: what crosses lines takes two
/// accesses.
fn chunk(
    lanes: &dyn Lanes,
    formula: &Formula,
    inputs: &[Source<'_>],
    all: Range<usize>,
    out: &mut [&mut [u64]],
) {
    let n = all.len();
    let to_line = |words: &[u64]| words.as_ptr().align_offset(LINE * size_of::<u64>());
    let piece = PIECE.min(n + 1).next_multiple_of(LINE);
    let moved = inputs.iter().filter(|input| input.at.is_some()).count();
    let mut scratch = vec![0; (formula.temporaries() + moved) * piece + LINE];
    let aligned = to_line(&scratch);
    let (temporaries, rooms) = scratch[aligned..].split_at_mut(formula.temporaries() * piece);
    let temporaries = temporaries.chunks_exact_mut(piece);
    let mut written: Vec<&mut [u64]> = out.iter_mut().map(|o| &mut **o).chain(temporaries).collect();
    let (mut from, mut to) = (0, n.min(written.first().map_or(0, |first| to_line(first)) + PIECE - LINE));
    while from < n {
        let mut words: [&[u64]; Formula::INPUTS] = [&[]; Formula::INPUTS];
        let mut rooms = rooms.chunks_exact_mut(piece);
        for (words, input) in words.iter_mut().zip(inputs) {
            let room = input.at.and_then(|_| rooms.next()).unwrap_or_default();
            *words = input.words(&(all.start + from..all.start + to), room);
        }
        for step in formula.steps() {
            self::step(lanes, step, from..to, &words, &mut written, formula.outputs());
        }
        (from, to) = (to, n.min(to + PIECE));
    }
}

/// One step on some of the words, given the inputs'. `written` are the results, then pieces of the temporary words.
fn step(
    lanes: &dyn Lanes,
    step: &Step,
    part: Range<usize>,
    inputs: &[&[u64]],
    written: &mut [&mut [u64]],
    outputs: usize,
) {
    let place = |place: Place| match place {
        Place::Input(_) => unreachable!("no step changes an input"),
        Place::Output(i) => (i, part.clone()),
        Place::Temporary(i) => (outputs + i, 0..part.len()),
    };
    // What is to be written is taken out meanwhile: no other operand is there.
    let (at, range) = place(step.to);
    let taken = std::mem::take(&mut written[at]);
    let to = &mut taken[range];
    let word = |from: Place| match from {
        Place::Input(i) => inputs[i],
        _ => {
            let (at, range) = place(from);
            &written[at][range]
        }
    };
    match step.change {
        Change::Zip(op, other) if step.of == step.to => lanes.zip(op, to, word(other)),
        Change::Zip(op, other) => lanes.zipped(op, word(step.of), word(other), to),
        Change::Map(op) if step.of == step.to => lanes.map(op, to),
        Change::Map(op) => lanes.mapped(op, word(step.of), to),
    }
    written[at] = taken;
}
