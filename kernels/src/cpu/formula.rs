//! Element-wise formulas, a piece of each buffer at a time: what is between the steps stays in the first-level cache.

use super::lanes::Lanes;
use super::par;
use crate::buffer;
use crate::formula::{Change, Formula, Place, Step};
use rayon::prelude::*;
use std::ops::Range;

/// Words of a piece. A formula's inputs, results and temporary words are a few of them.
const PIECE: usize = 1 << 9;
/// Words of a cache line.
const LINE: usize = 8;
/// Words that one task handles.
const CHUNK: usize = 1 << 13;

pub(super) fn evaluate(lanes: &dyn Lanes, formula: &Formula, inputs: &[&[u64]]) -> Vec<Vec<u64>> {
    let n = inputs[0].len();
    assert!(inputs.iter().all(|a| a.len() == n), "a formula of buffers of different length");
    let mut out: Vec<Vec<u64>> = (0..formula.outputs()).map(|_| buffer::unwritten(n)).collect();
    if n < par::WORDS || rayon::current_num_threads() == 1 {
        chunk(lanes, formula, inputs, &mut out.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        return out;
    }
    let mut tasks: Vec<Vec<&mut [u64]>> = (0..n.div_ceil(CHUNK)).map(|_| Vec::new()).collect();
    for result in &mut out {
        tasks.iter_mut().zip(result.chunks_mut(CHUNK)).for_each(|(t, c)| t.push(c));
    }
    tasks.par_iter_mut().enumerate().for_each(|(i, out)| {
        let part = i * CHUNK..n.min((i + 1) * CHUNK);
        let inputs: Vec<&[u64]> = inputs.iter().map(|a| &a[part.clone()]).collect();
        chunk(lanes, formula, &inputs, out);
    });
    out
}

/// All steps on the first words, then all on the next. From the second piece on they begin where cache lines of the first
/// result do, and probably those of the other buffers, as large ones mostly begin alike: what crosses lines takes two accesses.
fn chunk(lanes: &dyn Lanes, formula: &Formula, inputs: &[&[u64]], out: &mut [&mut [u64]]) {
    let n = inputs[0].len();
    let to_line = |words: &[u64]| words.as_ptr().align_offset(LINE * size_of::<u64>());
    let piece = PIECE.min(n + 1).next_multiple_of(LINE);
    let mut scratch = vec![0; formula.temporaries() * piece + LINE];
    let aligned = to_line(&scratch);
    let temporaries = scratch[aligned..].chunks_exact_mut(piece);
    let mut written: Vec<&mut [u64]> = out.iter_mut().map(|o| &mut **o).chain(temporaries).collect();
    let (mut from, mut to) = (0, n.min(written.first().map_or(0, |first| to_line(first)) + PIECE - LINE));
    while from < n {
        for step in formula.steps() {
            self::step(lanes, step, from..to, inputs, &mut written, formula.outputs());
        }
        (from, to) = (to, n.min(to + PIECE));
    }
}

/// One step on some of the words. `written` are the results, then pieces of the temporary words.
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
        Place::Input(i) => &inputs[i][part.clone()],
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
