//! Calls that are evaluated together, as one formula.

use super::{HostWords, Packed, Pending, Slot};
use crate::cpu::formula::{self, Packing, Source};
use crate::cpu::lanes::Lanes;
use crate::formula::{Change, Formula, Place, Step};
use crate::indices::Indices;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// What a formula reads: words, as they are packed if they have not been made, perhaps at other places.
pub(super) struct Read<'a> {
    words: &'a HostWords,
    packed: Option<Packed>,
    at: Option<&'a Indices>,
}

/// Calls as one formula.
pub(super) struct Fused<'a> {
    n: usize,
    steps: Vec<Step>,
    pub(super) inputs: Vec<Read<'a>>,
    pub(super) outputs: Vec<Arc<Slot>>,
    pub(super) temporaries: usize,
    free: Vec<usize>,
    /// Where the results of calls are, and how many inputs of later calls they still are.
    places: HashMap<*const Slot, Place>,
    uses: HashMap<*const Slot, usize>,
    /// What is only packed: whoever evaluates has it, and does not need it written.
    packed: Option<&'a HostWords>,
}

impl<'a> Fused<'a> {
    /// Calls in the order of their numbers.
    pub(super) fn new(pending: &[&'a Pending], packed: Option<&'a HostWords>) -> Fused<'a> {
        let mut uses = HashMap::new();
        for (words, _) in pending.iter().flat_map(|p| &p.inputs) {
            *uses.entry(Arc::as_ptr(&words.0)).or_insert(0) += 1;
        }
        let mut fused = Fused {
            n: pending.first().map_or(0, |p| p.n),
            steps: vec![],
            inputs: vec![],
            outputs: vec![],
            temporaries: 0,
            free: vec![],
            places: HashMap::new(),
            uses,
            packed,
        };
        pending.iter().for_each(|call| fused.add(call));
        fused
    }

    /// Where a result is.
    pub(super) fn place(&self, words: &HostWords) -> Place {
        self.places[&Arc::as_ptr(&words.0)]
    }

    fn temporary(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.temporaries += 1;
            self.temporaries - 1
        })
    }

    /// Where an input is.
    fn input(&mut self, words: &'a HostWords, at: Option<&'a Indices>) -> Place {
        if let Some(place) = self.places.get(&Arc::as_ptr(&words.0)).filter(|_| at.is_none()) {
            return *place;
        }
        let same = |read: &Read<'_>| Arc::ptr_eq(&read.words.0, &words.0) && read.at.is_none();
        let known = self.inputs.iter().position(same).filter(|_| at.is_none());
        Place::Input(known.unwrap_or_else(|| {
            let packed = if at.is_none() { words.as_packed() } else { None };
            self.inputs.push(Read { words, packed, at });
            self.inputs.len() - 1
        }))
    }

    /// Where a result goes: into a buffer of its own if anybody else has it.
    fn output(&mut self, slot: &Weak<Slot>) -> Place {
        let mut inside = self.uses.get(&slot.as_ptr()).copied().unwrap_or(0);
        inside += usize::from(self.packed.is_some_and(|p| std::ptr::eq(Arc::as_ptr(&p.0), slot.as_ptr())));
        let place = match slot.upgrade() {
            Some(slot) if Arc::strong_count(&slot) - 1 > inside => {
                self.outputs.push(slot);
                Place::Output(self.outputs.len() - 1)
            }
            _ => Place::Temporary(self.temporary()),
        };
        self.places.insert(slot.as_ptr(), place);
        place
    }

    fn add(&mut self, call: &'a Pending) {
        let formula = &call.formula;
        let inputs: Vec<Place> =
            call.inputs.iter().map(|(words, at)| self.input(words, at.as_ref())).collect();
        let own: Vec<usize> = (0..formula.temporaries()).map(|_| self.temporary()).collect();
        let outputs: Vec<Place> = call.results.iter().map(|slot| self.output(slot)).collect();
        let to = |place| match place {
            Place::Input(i) => inputs[i],
            Place::Output(i) => outputs[i],
            Place::Temporary(i) => Place::Temporary(own[i]),
        };
        self.steps.extend(formula.steps().iter().map(|s| {
            let change = match s.change {
                Change::Zip(op, other) => Change::Zip(op, to(other)),
                map => map,
            };
            Step { to: to(s.to), of: to(s.of), change }
        }));
        self.free.extend(own);
        // A temporary word is free after its last reader.
        for (words, _) in &call.inputs {
            let at = Arc::as_ptr(&words.0);
            let left = self.uses.get_mut(&at).expect("an input is used");
            *left -= 1;
            if let (0, Some(Place::Temporary(t))) = (*left, self.places.get(&at)) {
                self.free.push(*t);
            }
        }
    }

    /// The buffers that somebody has, and what is in them.
    pub(super) fn evaluate<'s>(
        &'s self,
        lanes: &dyn Lanes,
        packing: Option<Packing<'_>>,
    ) -> Vec<(Arc<Slot>, Vec<u64>)> {
        let source = |read: &'s Read<'a>| match &read.packed {
            Some(packed) => Source::Packed(packed),
            None => Source::new(read.words.words(lanes), read.at, self.n),
        };
        let sources: Vec<Source<'s>> = self.inputs.iter().map(source).collect();
        let formula = Formula::assembled(self.steps.clone(), self.outputs.len(), self.temporaries);
        let made = formula::evaluate(lanes, &formula, &sources, self.n, packing);
        self.outputs.iter().cloned().zip(made).collect()
    }
}
