//! Element-wise formulas: one operation that reads the steps, so that none needs a compiler. What takes words from other places,
//! from messages too, is a formula of one step.

use super::buffer::Core;
use super::draft::{Draft, Recipe};
use super::elementwise::{map_number, zip_number};
use super::wave::{Kind, Operation, Span};
use super::{Cuda, DeviceWords};
use crate::backend::{Map, Zip};
use crate::formula::{Change, Formula, Input, Place, Step};
use crate::indices::{Grid, Indices, Places};
use std::sync::Arc;

/// The number of the first map.
const MAPS: u32 = 16;

/// The three words behind an input's address, see `formula.cu`, and the first of them unless words are taken by a rule.
type Taken = [u64; 3];
const IN_ORDER: Taken = [0; 3];
const TABLE: u64 = u64::MAX;
const PACKED: u64 = u64::MAX - 1;

/// A place's kind and number, in a byte.
fn place_number(place: Place) -> u32 {
    match place {
        Place::Temporary(i) => i as u32,
        Place::Input(i) => 1 << 6 | i as u32,
        Place::Output(i) => 2 << 6 | i as u32,
    }
}

/// A step as four bytes, and its constant.
fn step_number(step: &Step) -> (u32, u64) {
    let (op, other, constant) = match step.change {
        Change::Zip(op, other) => (zip_number(op), place_number(other), 0),
        Change::Map(op) => {
            let (op, constant) = map_number(op);
            (MAPS + op, 0, constant)
        }
    };
    (op | place_number(step.to) << 8 | place_number(step.of) << 16 | other << 24, constant)
}

fn step(to: Place, of: Place, change: Change) -> Step {
    Step { to, of, change }
}

/// Leaves an input as it is, for words from other places.
pub(super) const COPY: Step =
    Step { to: Place::Output(0), of: Place::Input(0), change: Change::Map(Map::Add(0)) };

/// An input of a formula: words in memory, and which of them are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taking {
    span: Span,
    taken: Taken,
    /// Where the table is, if one tells.
    table: Option<Span>,
}

impl Taking {
    /// All words.
    fn all(words: &DeviceWords) -> Taking {
        Taking::contiguous(words.span())
    }

    /// Words one after the other.
    pub(super) fn contiguous(span: Span) -> Taking {
        Taking { span, taken: IN_ORDER, table: None }
    }

    /// Words of so many bits of a message, from this byte on.
    pub(super) fn packed(message: &DeviceWords, first: usize, bits: u32) -> Taking {
        Taking::all(message).of_message(bits, first)
    }

    /// The same memory as a message: words of so many bits, from this byte on.
    pub(super) fn of_message(self, bits: u32, first: usize) -> Taking {
        Taking { taken: [PACKED, bits.into(), first as u64], ..self }
    }

    /// What is read.
    pub(super) fn spans(&self) -> impl Iterator<Item = Span> {
        [Some(self.span), self.table].into_iter().flatten()
    }

    /// The words, if these are contiguous.
    pub(super) fn in_order(&self) -> Option<Span> {
        (self.taken == IN_ORDER).then_some(self.span)
    }
}

impl Core {
    /// Writes a formula of so many elements down.
    fn formula(
        &self,
        name: &'static str,
        steps: &[Step],
        inputs: &[Taking],
        outputs: &[Span],
        elements: usize,
    ) {
        let used = inputs.iter().flat_map(Taking::spans).chain(outputs.iter().copied());
        self.add_to_queue(name, elements, used, |queue| {
            let draft = Draft { steps: steps.to_vec(), inputs: inputs.to_vec(), elements };
            let draft = queue.sooner(draft, outputs);
            let (args, reads) = (arguments(&draft, outputs), draft.reads().collect::<Vec<_>>());
            queue.add(&Operation {
                kind: Kind::Formula,
                elements,
                args: &args,
                reads: &reads,
                writes: outputs,
            });
            queue.note(Recipe::of(draft, outputs));
        });
    }

    /// Writes a copy of words down.
    pub(super) fn copy(&self, from: Span, to: Span, elements: usize) {
        self.formula("copy", &[COPY], &[Taking::contiguous(from)], &[to], elements);
    }
}

/// A formula as `formula.cu` takes it.
pub(super) fn arguments(draft: &Draft, outputs: &[Span]) -> Vec<u64> {
    let Draft { steps, inputs, .. } = draft;
    let mut args = Vec::with_capacity(1 + 4 * inputs.len() + outputs.len() + 2 * steps.len());
    args.push((steps.len() | inputs.len() << 8 | outputs.len() << 16) as u64);
    for input in inputs {
        args.push(input.span.words[0]);
        args.extend(input.taken);
    }
    args.extend(outputs.iter().map(|o| o.words[0]));
    let two = |two: &[Step]| two.iter().rev().fold(0, |word, s| word << 32 | u64::from(step_number(s).0));
    args.extend(steps.chunks(2).map(two));
    args.extend(steps.iter().map(|s| step_number(s).1));
    args
}

impl Cuda {
    pub(super) fn evaluated(
        &self,
        formula: &Formula,
        inputs: &[Input<'_, DeviceWords>],
        n: usize,
    ) -> Vec<DeviceWords> {
        let results: Vec<_> = (0..formula.outputs()).map(|_| self.core.alloc("formula", n)).collect();
        // Tables live until the operation is written down.
        let mut tables = vec![];
        let inputs: Vec<_> = inputs.iter().map(|input| self.input(input, n, &mut tables)).collect();
        let outputs: Vec<_> = results.iter().map(DeviceWords::span).collect();
        self.core.formula("formula", formula.steps(), &inputs, &outputs, n);
        results
    }

    /// out ← a op b; out may be a.
    pub(super) fn zip_into(&self, op: Zip, a: &DeviceWords, b: &DeviceWords, out: &DeviceWords) {
        assert_eq!(a.len(), b.len(), "element-wise operation of buffers of different length");
        let steps = [step(Place::Output(0), Place::Input(0), Change::Zip(op, Place::Input(1)))];
        self.core.formula("zip", &steps, &[Taking::all(a), Taking::all(b)], &[out.span()], a.len());
    }

    /// out ← op(a); out may be a.
    pub(super) fn map_into(&self, op: Map, a: &DeviceWords, out: &DeviceWords) {
        let steps = [step(Place::Output(0), Place::Input(0), Change::Map(op))];
        self.core.formula("map", &steps, &[Taking::all(a)], &[out.span()], a.len());
    }

    /// (a op b) mod 2^bits for what is taken of b.
    pub(super) fn combined_with(&self, op: Zip, a: &DeviceWords, b: Taking, bits: u32) -> DeviceWords {
        let out = self.core.alloc("combine_packed", a.len());
        let low = Change::Map(Map::And(u64::MAX >> (64 - bits)));
        let steps = [
            step(Place::Temporary(0), Place::Input(0), Change::Zip(op, Place::Input(1))),
            step(Place::Output(0), Place::Temporary(0), low),
        ];
        self.core.formula("combine_packed", &steps, &[Taking::all(a), b], &[out.span()], a.len());
        out
    }

    /// Words of a buffer at these places.
    pub(super) fn gathered(&self, words: &DeviceWords, at: &Indices) -> DeviceWords {
        let mut tables = vec![];
        let input = self.input(&Input { words, at: Some(at.clone()) }, at.len(), &mut tables);
        self.taken("gather", input, at.len())
    }

    /// So many words as they are taken.
    pub(super) fn taken(&self, name: &'static str, input: Taking, n: usize) -> DeviceWords {
        let out = self.core.alloc(name, n);
        self.core.formula(name, &[COPY], &[input], &[out.span()], n);
        out
    }

    /// An input as the kernel takes it.
    fn input(&self, input: &Input<'_, DeviceWords>, n: usize, tables: &mut Vec<Arc<DeviceWords>>) -> Taking {
        let len = input.at.as_ref().map_or(input.words.len(), Indices::len);
        assert_eq!(len, n, "a formula of inputs of different length");
        let Some(at) = &input.at else { return Taking::all(input.words) };
        assert!(at.end() <= input.words.len(), "an input beyond {} words", input.words.len());
        match at.places() {
            Places::Table(table) => {
                let places = self.table("formula", table);
                let at = places.span();
                tables.push(places);
                Taking { taken: [TABLE, at.words[0], 0], table: Some(at), ..Taking::all(input.words) }
            }
            Places::Grid(Grid { start, rows: 1, cols, col: 1, .. }) => {
                // Nothing may be taken from beyond the end.
                let start = *start.min(&input.words.len());
                Taking::contiguous(input.words.span_of(start..start + cols))
            }
            Places::Grid(Grid { start, row, cols, col, .. }) => {
                let span = input.words.span_of(*start.min(&input.words.len())..input.words.len());
                Taking { span, taken: [*cols, *row, *col].map(|w| w as u64), table: None }
            }
        }
    }
}
