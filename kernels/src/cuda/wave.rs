//! Operations that wait for others to go with them.
//!
//! To ask a device for something takes about as long as a short operation takes it. So short operations are written down first,
//! and go when somebody waits for a result of one, or is to work with it in another way: those that do not depend on each other
//! are a wave, one launch of the kernel `wave`. An operation is in the first wave after those of which it reads what they write
//! and writes what they read or write. Memory that is given back meanwhile stays until they are done.

use super::draft::{Draft, Recipe};
use super::driver::{Address, Arg, Driver, Launch};
use super::formula::Taking;
use crate::failure::Fault;
use std::collections::BTreeMap;

/// Most operations of a wave, and words of them, in `wave.cu`.
const OPERATIONS: usize = 48;
const WORDS: usize = 448;

/// Elements that wait at most, so that a device does not: about as many as one works on at a time.
const WAITING: usize = 1 << 18;
/// Operations that wait at most: each is compared with others.
const MANY: usize = 1 << 10;
/// The part of a device's memory that waits at most to be given back: nobody need plan with it.
const FREED: u64 = 1 << 15;

/// An operation of the kernel `wave`, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Formula,
    ScatterByTable,
    ScatterByRule,
    Draw,
    Pack,
    MaskAndPack,
    FlipBit,
    BitAt,
    CountBits,
    RotateBits,
    SuffixXor,
    RandomCombinations,
    TransposeBits,
    MakeMaskAndPack,
}

/// Some words of a buffer of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Where the buffer begins and ends.
    pub(super) buffer: [Address; 2],
    /// Where the words do.
    pub(super) words: [Address; 2],
}

impl Span {
    pub(super) fn overlaps(&self, other: &Span) -> bool {
        self.buffer == other.buffer && self.words[0] < other.words[1] && other.words[0] < self.words[1]
    }
}

/// An operation on so many elements, and the memory that it reads and writes.
#[derive(Debug)]
pub(super) struct Operation<'a> {
    pub(super) kind: Kind,
    pub(super) elements: usize,
    pub(super) args: &'a [u64],
    pub(super) reads: &'a [Span],
    pub(super) writes: &'a [Span],
}

/// What operations that wait do with a buffer.
#[derive(Debug)]
struct Uses {
    end: Address,
    parts: Vec<Use>,
}

/// What they do with words of it.
#[derive(Debug)]
struct Use {
    words: Span,
    /// The first wave that comes after all that write them, and after all that read them.
    written: usize,
    read: usize,
}

/// One launch.
#[derive(Debug, Default)]
struct Wave {
    blocks: u64,
    operations: Vec<u64>,
    words: Vec<u64>,
}

impl Wave {
    fn has_room(&self, words: usize) -> bool {
        self.operations.len() < OPERATIONS && self.words.len() + words <= WORDS
    }

    fn add(&mut self, operation: &Operation<'_>) {
        assert!(self.blocks < 1 << 32, "a wave of {} blocks", self.blocks);
        self.operations.push(self.blocks << 32 | (self.words.len() as u64) << 8 | operation.kind as u64);
        self.words.push(operation.elements as u64);
        self.words.extend(operation.args);
        self.blocks += (operation.elements as u64).div_ceil(u64::from(Launch::THREADS));
    }

    fn launch(&self, driver: &dyn Driver) -> Result<(), Fault> {
        let mut block = [0; 2 + OPERATIONS + WORDS];
        block[..2].copy_from_slice(&[self.operations.len() as u64, self.blocks]);
        block[2..][..self.operations.len()].copy_from_slice(&self.operations);
        block[2 + OPERATIONS..][..self.words.len()].copy_from_slice(&self.words);
        let launch = Launch::blocks(NAME, self.blocks);
        // SAFETY: the addresses are of words that live, or are given back only after this; whoever wrote the operations down made
        // sure of the lengths.
        unsafe { driver.launch(&launch, &[Arg::Block(&block)]) }
    }
}

/// The kernel's name.
pub(super) const NAME: &str = "wave";

/// The operations that wait.
#[derive(Debug)]
pub(super) struct Queue {
    /// Bytes that wait at most to be given back.
    most_freed: u64,
    waves: Vec<Wave>,
    operations: usize,
    elements: usize,
    /// Of each buffer, by the address where it begins.
    uses: BTreeMap<Address, Uses>,
    /// How words are made that nothing has changed since.
    recipes: Vec<(Span, Recipe)>,
    /// The same of words that are drawn, as arguments of [`Kind::Draw`].
    draws: Vec<(Span, [u64; 8])>,
    freed: Vec<Address>,
    freed_bytes: u64,
}

impl Queue {
    /// Of a device with so many bytes of memory.
    pub(super) fn new(memory: u64) -> Queue {
        Queue {
            most_freed: memory / FREED,
            waves: vec![],
            operations: 0,
            elements: 0,
            uses: BTreeMap::new(),
            recipes: vec![],
            draws: vec![],
            freed: vec![],
            freed_bytes: 0,
        }
    }

    /// Writes an operation down.
    pub(super) fn add(&mut self, operation: &Operation<'_>) {
        let size = 1 + operation.args.len();
        assert!(size <= WORDS, "an operation of {size} words");
        let first = self.first_after(operation.reads.iter().copied(), operation.writes);
        let place = (first..self.waves.len()).find(|w| self.waves[*w].has_room(size));
        let place = place.unwrap_or_else(|| {
            self.waves.push(Wave::default());
            self.waves.len() - 1
        });
        self.waves[place].add(operation);
        self.operations += 1;
        self.elements += operation.elements;
        for span in operation.reads {
            let read = &mut self.used(span).read;
            *read = (*read).max(place + 1);
        }
        for span in operation.writes {
            self.used(span).written = place + 1;
            self.recipes.retain(|(made, _)| !made.overlaps(span));
            self.draws.retain(|(drawn, _)| !drawn.overlaps(span));
        }
    }

    /// The first wave after all that writes these reads, and after all that reads or writes these writes.
    fn first_after(&self, reads: impl Iterator<Item = Span>, writes: &[Span]) -> usize {
        let read = reads.map(|span| self.written(&span));
        let written = writes.iter().flat_map(|span| self.overlapping(span)).map(|u| u.written.max(u.read));
        read.chain(written).max().unwrap_or(0)
    }

    /// The first wave after all that writes these words.
    fn written(&self, span: &Span) -> usize {
        self.overlapping(span).map(|u| u.written).max().unwrap_or(0)
    }

    /// Says how words are made that were written down as results just now.
    pub(super) fn note(&mut self, recipes: impl Iterator<Item = (Span, Recipe)>) {
        self.recipes.extend(recipes);
    }

    /// Says how words are drawn that were written down just now.
    pub(super) fn note_draw(&mut self, drawn: Span, draw: [u64; 8]) {
        self.draws.push((drawn, draw));
    }

    /// How words and the masks that they will have are made, if neither need be waited for then: the formula, its temporary word
    /// for them, and the stream. What the words were made of has not changed since if it is there before they are.
    pub(super) fn making(&self, words: Span, mask: Span) -> Option<(Draft, usize, [u64; 8])> {
        let (_, recipe) = self.recipes.iter().rev().find(|(made, _)| *made == words)?;
        let (_, draw) = self.draws.iter().rev().find(|(drawn, _)| *drawn == mask)?;
        let (draft, kept) = recipe.unwritten()?;
        (self.first_after(draft.reads(), &[]) < self.written(&words)).then_some((draft, kept, *draw))
    }

    /// A formula that writes `outputs` and makes those of its inputs itself for which it would have to wait, if it then need
    /// not. What they were made of may have changed since, or be what it writes: then it would have to come after that
    /// change, or after what read it, and that is no sooner.
    pub(super) fn sooner(&self, mut draft: Draft, outputs: &[Span]) -> Draft {
        loop {
            let first = self.first_after(draft.reads(), outputs);
            if first == 0 {
                return draft;
            }
            let late = |(j, input): (usize, &Taking)| {
                let late = input.spans().any(|span| self.written(&span) == first);
                late.then_some((j, input.in_order()))
            };
            let late: Vec<_> = draft.inputs.iter().enumerate().filter_map(late).collect();
            let making = |draft: Draft, (j, span): (usize, Option<Span>)| {
                let recipe = self.recipes.iter().rev().find(|(made, _)| Some(*made) == span);
                recipe.and_then(|(_, recipe)| draft.making(j, recipe))
            };
            let made = late.into_iter().try_fold(draft.clone(), making);
            match made {
                Some(made) if self.first_after(made.reads(), outputs) < first => draft = made,
                _ => return draft,
            }
        }
    }

    /// Uses of any of these words.
    fn overlapping(&self, span: &Span) -> impl Iterator<Item = &Use> {
        let parts = self.uses.get(&span.buffer[0]).map_or(&[][..], |uses| &uses.parts);
        parts.iter().filter(|part| part.words.overlaps(span))
    }

    /// The use of just these words.
    fn used(&mut self, span: &Span) -> &mut Use {
        let [start, end] = span.buffer;
        let parts = &mut self.uses.entry(start).or_insert(Uses { end, parts: vec![] }).parts;
        let at = parts.iter().position(|part| part.words == *span).unwrap_or_else(|| {
            parts.push(Use { words: *span, written: 0, read: 0 });
            parts.len() - 1
        });
        &mut parts[at]
    }

    /// Whether an operation that waits uses the buffer that this is an address in.
    pub(super) fn uses(&self, at: Address) -> bool {
        self.uses.range(..=at).next_back().is_some_and(|(_, uses)| at < uses.end)
    }

    /// Whether there is so much that it should go.
    pub(super) fn is_full(&self) -> bool {
        self.operations >= MANY || self.elements >= WAITING || self.freed_bytes > self.most_freed
    }

    /// Gives back a buffer that operations use.
    pub(super) fn free(&mut self, [start, end]: [Address; 2]) {
        self.freed.push(start);
        self.freed_bytes += end - start;
    }

    /// Starts all that waits. After a failure the rest is not started.
    pub(super) fn start(&mut self, driver: &dyn Driver) -> Result<(), Fault> {
        let waves = std::mem::take(&mut self.waves);
        let started = waves.iter().try_for_each(|wave| wave.launch(driver));
        self.give_up(driver);
        started
    }

    /// Forgets what waits; memory goes back.
    pub(super) fn give_up(&mut self, driver: &dyn Driver) {
        let empty = Queue { most_freed: self.most_freed, ..Queue::new(0) };
        for at in std::mem::replace(self, empty).freed {
            // SAFETY: its owner has gone, and what used it is in the driver's queue or never will be.
            unsafe { driver.free(at) };
        }
    }
}

#[cfg(test)]
mod tests;
