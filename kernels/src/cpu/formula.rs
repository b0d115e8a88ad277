//! Element-wise formulas, a piece of each buffer at a time: what is between the steps stays in a near cache.

use super::deferred::Packed;
use super::elementwise::take;
use super::lanes::Lanes;
use super::{message, par};
use crate::buffer;
use crate::formula::{Change, Formula, Place, Step};
use crate::indices::{Grid, Indices, Places};
use rayon::prelude::*;
use std::ops::Range;

/// Words of a piece. A formula's inputs, results and temporary words are a few of them.
const PIECE: usize = 1 << 10;
/// Words of a cache line.
const LINE: usize = 8;
/// Words that one task handles.
const CHUNK: usize = 1 << 13;

/// An input.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// A buffer, and where its words are taken if not one after the other.
    Words { words: &'a [u64], at: Option<&'a Places> },
    /// Words that have to be unpacked.
    Packed(&'a Packed),
}

impl<'a> Source<'a> {
    /// Words in their order are a part of the buffer.
    pub(super) fn new(words: &'a [u64], at: Option<&'a Indices>, n: usize) -> Source<'a> {
        assert_eq!(at.map_or(words.len(), Indices::len), n, "a formula of inputs of different length");
        match at.map(Indices::places) {
            Some(Places::Grid(Grid { start, rows: 1, col: 1, .. })) if n > 0 => {
                Source::Words { words: &words[*start..][..n], at: None }
            }
            at => Source::Words { words, at },
        }
    }

    /// Whether pieces of it may have to be put somewhere.
    fn needs_room(&self) -> bool {
        !matches!(self, Source::Words { at: None, .. })
    }

    /// Some of the words: where they are, if they lie one after the other, or else in `room`.
    fn words<'b>(&self, lanes: &dyn Lanes, part: Range<usize>, room: &'b mut [u64]) -> &'b [u64]
    where
        'a: 'b,
    {
        let (words, at) = match *self {
            Source::Words { words, at } => (words, at),
            Source::Packed(packed) => {
                let room = &mut room[..part.len()];
                packed.read(lanes, part, room);
                return room;
            }
        };
        match at {
            None => &words[part],
            Some(Places::Grid(g)) if g.col == 1 && part.start / g.cols == (part.end - 1) / g.cols => {
                &words[g.start + part.start / g.cols * g.row + part.start % g.cols..][..part.len()]
            }
            Some(places) => {
                take(words, places, part.start, &mut room[..part.len()]);
                &room[..part.len()]
            }
        }
    }
}

/// Words that go into a message: their low `bits` are appended.
pub(super) struct Packing<'a> {
    pub(super) place: Place,
    pub(super) bits: u32,
    pub(super) out: &'a mut Vec<u8>,
}

/// All words of what is packed.
pub(super) fn unpacked(lanes: &dyn Lanes, packed: &Packed, n: usize) -> Vec<u64> {
    let mut out = buffer::unwritten(n);
    par::chunks(&mut out, CHUNK, |i, out| packed.read(lanes, i * CHUNK..i * CHUNK + out.len(), out));
    out
}

/// The results.
pub(super) fn evaluate(
    lanes: &dyn Lanes,
    formula: &Formula,
    inputs: &[Source<'_>],
    n: usize,
    mut packing: Option<Packing<'_>>,
) -> Vec<Vec<u64>> {
    let mut out: Vec<Vec<u64>> = (0..formula.outputs()).map(|_| buffer::unwritten(n)).collect();
    if let Some(packing) = &mut packing {
        packing.out.reserve(message::bytes(n, packing.bits));
    }
    if n < par::WORDS || rayon::current_num_threads() == 1 {
        let mut all: Vec<&mut [u64]> = out.iter_mut().map(Vec::as_mut_slice).collect();
        chunk(lanes, formula, inputs, 0..n, &mut all, packing);
        return out;
    }
    // Of each task its part of the results, and of the message.
    let mut tasks: Vec<(Vec<&mut [u64]>, Vec<u8>)> =
        (0..n.div_ceil(CHUNK)).map(|_| Default::default()).collect();
    for result in &mut out {
        tasks.iter_mut().zip(result.chunks_mut(CHUNK)).for_each(|((t, _), c)| t.push(c));
    }
    let to = packing.as_ref().map(|p| (p.place, p.bits));
    tasks.par_iter_mut().enumerate().for_each(|(i, (out, part))| {
        let packing = to.map(|(place, bits)| Packing { place, bits, out: part });
        chunk(lanes, formula, inputs, i * CHUNK..n.min((i + 1) * CHUNK), out, packing);
    });
    if let Some(packing) = packing {
        tasks.iter().for_each(|(_, part)| packing.out.extend_from_slice(part));
    }
    out
}

/// All steps on the first of some words, then all on the next. From the second piece on they begin where cache lines of the
/// first result do, and probably those of the other buffers, as large ones mostly begin alike: what crosses lines takes two
/// accesses. But where anything is packed they begin at whole bytes.
fn chunk<'a>(
    lanes: &dyn Lanes,
    formula: &Formula,
    inputs: &[Source<'a>],
    all: Range<usize>,
    out: &mut [&mut [u64]],
    mut packing: Option<Packing<'_>>,
) {
    let n = all.len();
    let to_line = |words: &[u64]| words.as_ptr().align_offset(LINE * size_of::<u64>());
    let piece = PIECE.min(n + 1).next_multiple_of(LINE);
    let rooms = inputs.iter().filter(|input| input.needs_room()).count();
    let mut scratch = vec![0; (formula.temporaries() + rooms) * piece + LINE];
    let aligned = to_line(&scratch);
    let (temporaries, rooms) = scratch[aligned..].split_at_mut(formula.temporaries() * piece);
    let temporaries = temporaries.chunks_exact_mut(piece);
    let mut written: Vec<&mut [u64]> = out.iter_mut().map(|o| &mut **o).chain(temporaries).collect();
    let bytes = packing.is_some() || inputs.iter().any(|i| matches!(i, Source::Packed(_)));
    let first = if bytes { PIECE } else { written.first().map_or(0, |w| to_line(w)) + PIECE - LINE };
    let (mut from, mut to) = (0, n.min(first));
    while from < n {
        let mut rooms = rooms.chunks_exact_mut(piece);
        let piece_of = |input: &Source<'a>| {
            let room = if input.needs_room() { rooms.next().expect("room for each") } else { &mut [] };
            input.words(lanes, all.start + from..all.start + to, room)
        };
        let words: Vec<&[u64]> = inputs.iter().map(piece_of).collect();
        for step in formula.steps() {
            self::step(lanes, step, from..to, &words, &mut written, formula.outputs());
        }
        if let Some(packing) = &mut packing {
            let made = match packing.place {
                Place::Input(i) => words[i],
                Place::Output(i) => &written[i][from..to],
                Place::Temporary(i) => &written[formula.outputs() + i][..to - from],
            };
            lanes.pack(made, packing.bits, packing.out);
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
