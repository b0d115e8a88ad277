//! Element-wise formulas, a piece of each buffer at a time: what is between the steps stays in the first-level cache.

use super::lanes::Lanes;
use super::par;
use crate::buffer;
use crate::formula::{Change, Formula, Place, Step};
use rayon::prelude::*;

/// Words of a piece. A formula's inputs, results and temporary words are a few of them.
const PIECE: usize = 1 << 9;
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

/// All steps on the first words, then all on the next.
fn chunk(lanes: &dyn Lanes, formula: &Formula, inputs: &[&[u64]], out: &mut [&mut [u64]]) {
    let n = inputs[0].len();
    let mut temporaries = vec![vec![0; PIECE.min(n)]; formula.temporaries()];
    for from in (0..n).step_by(PIECE) {
        let to = n.min(from + PIECE);
        for step in formula.steps() {
            self::step(lanes, step, from, to, inputs, out, &mut temporaries);
        }
    }
}

/// One step on words `from` to `to`.
fn step(
    lanes: &dyn Lanes,
    step: &Step,
    from: usize,
    to: usize,
    inputs: &[&[u64]],
    out: &mut [&mut [u64]],
    temporaries: &mut [Vec<u64>],
) {
    // The place to be written is taken out meanwhile: no other operand is there.
    let (mut result, mut temporary) = (&mut [][..], vec![]);
    let target = match step.to {
        Place::Output(i) => {
            result = std::mem::take(&mut out[i]);
            &mut result[from..to]
        }
        Place::Temporary(i) => {
            temporary = std::mem::take(&mut temporaries[i]);
            &mut temporary[..to - from]
        }
        Place::Input(_) => unreachable!("no step changes an input"),
    };
    let word = |place: Place| match place {
        Place::Input(i) => &inputs[i][from..to],
        Place::Output(i) => &out[i][from..to],
        Place::Temporary(i) => &temporaries[i][..to - from],
    };
    if step.of != step.to {
        target.copy_from_slice(word(step.of));
    }
    match step.change {
        Change::Zip(op, other) => lanes.zip(op, target, word(other)),
        Change::Map(op) => lanes.map(op, target),
    }
    match step.to {
        Place::Output(i) => out[i] = result,
        Place::Temporary(i) => temporaries[i] = temporary,
        Place::Input(_) => {}
    }
}
