//! Words that are made when somebody needs them.
//!
//! Between two messages a gate is a chain of element-wise operations on buffers larger than a near cache: most of their time they
//! wait for memory. So a long buffer need not be words. It may be *packed*, part of a message or of a key stream as it is, or a
//! *result* of a [`Call`] that nobody has made yet. Whoever needs the words makes them: all calls that they depend on
//! become one formula, which reads what is packed, makes a piece of all that is between in the first-level cache, and
//! writes only what somebody else still has, or packs it into a message. Nothing is made twice, and nothing that nobody has any more is
//! written at all.
//!
//! Who has something is what Rust's owners are: a result is written if there are more owners of it than calls of the same
//! formula.

use super::formula::{self, Packing, Source};
use super::lanes::Lanes;
use crate::buffer::{self, Buffer};
use crate::formula::{Change, Formula, Place, Step};
use crate::indices::Indices;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Words from which on a buffer is long: shorter ones stay in a near cache, and are made at once.
pub(super) const LONG: usize = 1 << 11;

/// Calls of one formula at most: what is between them has to fit into a near cache.
const CALLS: usize = 16;

/// The words of a buffer in main memory.
#[derive(Clone, Debug)]
pub struct HostWords(Arc<Slot>);

#[derive(Debug)]
struct Slot {
    n: usize,
    made: OnceLock<Buffer>,
    origin: Origin,
}

/// What words are made of.
#[derive(Debug)]
enum Origin {
    Nothing,
    /// Until they are made.
    Packed(Mutex<Option<Packed>>),
    Result(Arc<Call>),
}

/// Words of a few bits as they came.
#[derive(Clone)]
pub(super) enum Packed {
    /// Part of a message, from a byte on. All of the message is kept as long.
    Part { message: Arc<Vec<u8>>, at: usize, bits: u32 },
    /// Cells of a key stream, of which a mask is kept.
    Cells { stream: Arc<Buffer>, cell: usize, keep: u64 },
}

impl std::fmt::Debug for Packed {
    /// Shares must not end up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packed")
    }
}

impl Packed {
    /// Some words, from a multiple of 64 on.
    pub(super) fn read(&self, lanes: &dyn Lanes, range: Range<usize>, out: &mut [u64]) {
        debug_assert!(range.start.is_multiple_of(64) && out.len() == range.len());
        match self {
            Packed::Part { message, at, bits } => {
                lanes.unpack(&message[at + range.start * *bits as usize / 8..], *bits, out);
            }
            Packed::Cells { stream, cell, keep } => {
                lanes.cut(&stream[range.start * cell / 64..], *cell, *keep, out);
            }
        }
    }
}

/// A formula that has not been evaluated.
struct Call {
    /// Those of its inputs have lower ones.
    number: u64,
    /// Calls that evaluating it evaluates, itself included; 0 when it has been.
    size: AtomicUsize,
    pending: Mutex<Option<Pending>>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call {}", self.number)
    }
}

struct Pending {
    n: usize,
    formula: Formula,
    inputs: Vec<(HostWords, Option<Indices>)>,
    results: Vec<Weak<Slot>>,
}

impl Call {
    /// What a panic interrupted was not evaluated, and still can be.
    fn lock(&self) -> MutexGuard<'_, Option<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Buffer> for HostWords {
    fn from(words: Buffer) -> HostWords {
        let n = words.len();
        HostWords(Arc::new(Slot { n, made: OnceLock::from(words), origin: Origin::Nothing }))
    }
}

impl HostWords {
    pub(super) fn packed(n: usize, packed: Packed) -> HostWords {
        let origin = Origin::Packed(Mutex::new(Some(packed)));
        HostWords(Arc::new(Slot { n, made: OnceLock::new(), origin }))
    }

    pub(super) fn len(&self) -> usize {
        self.0.n
    }

    /// The words, which are made if they have not been.
    pub(super) fn words(&self, lanes: &dyn Lanes) -> &[u64] {
        if let Some(words) = self.0.made.get() {
            return words;
        }
        match &self.0.origin {
            Origin::Nothing => unreachable!("words of no origin are there"),
            Origin::Packed(packed) => {
                let mut packed = packed.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(packed) = packed.take() {
                    let made = formula::unpacked(lanes, &packed, self.0.n);
                    self.0.made.get_or_init(|| Buffer::ours(made));
                }
            }
            Origin::Result(call) => _ = evaluate(lanes, call, None),
        }
        self.0.made.get().expect("somebody has these words, so they were made")
    }

    /// The words, writable.
    pub(super) fn words_mut(&mut self, lanes: &dyn Lanes) -> &mut [u64] {
        self.words(lanes);
        if Arc::get_mut(&mut self.0).is_none() {
            *self = Buffer::ours(buffer::concat(&[self.words(lanes)])).into();
        }
        let slot = Arc::get_mut(&mut self.0).expect("nobody else has them");
        slot.made.get_mut().expect("they are there")
    }

    /// What they are made of if that is packed, and they have not been made.
    fn as_packed(&self) -> Option<Packed> {
        match &self.0.origin {
            Origin::Packed(packed) if self.0.made.get().is_none() => {
                packed.lock().unwrap_or_else(PoisonError::into_inner).clone()
            }
            _ => None,
        }
    }

    /// Calls that have to be evaluated for these words.
    fn calls(&self) -> usize {
        match &self.0.origin {
            Origin::Result(call) => call.size.load(Ordering::Relaxed),
            _ => 0,
        }
    }
}

/// The results of a formula, `n` words each, for later. What is taken at other places than the results have is made now.
pub(super) fn call(
    lanes: &dyn Lanes,
    formula: Formula,
    inputs: Vec<(HostWords, Option<Indices>)>,
    n: usize,
) -> Vec<HostWords> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut size = 1;
    for (words, at) in &inputs {
        let calls = words.calls();
        if at.is_some() || size + calls > CALLS {
            words.words(lanes);
        } else {
            size += calls;
        }
        assert_eq!(at.as_ref().map_or(words.len(), Indices::len), n, "a formula of inputs of different length");
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let call = Arc::new(Call { number, size: AtomicUsize::new(size), pending: Mutex::new(None) });
    let result = |_| Slot { n, made: OnceLock::new(), origin: Origin::Result(call.clone()) };
    let results: Vec<HostWords> = (0..formula.outputs()).map(result).map(|s| HostWords(Arc::new(s))).collect();
    let weak = results.iter().map(|r| Arc::downgrade(&r.0)).collect();
    *call.lock() = Some(Pending { n, formula, inputs, results: weak });
    results
}

/// Appends the low `bits` of words that nobody else need have to a message.
pub(super) fn pack(lanes: &dyn Lanes, words: HostWords, bits: u32, out: &mut Vec<u8>) {
    let packed = match &words.0.origin {
        Origin::Result(call) => evaluate(lanes, call, Some((&words, bits, out))),
        _ => false,
    };
    if !packed {
        super::message::pack(lanes, words.words(lanes), bits, out);
    }
}

/// Evaluates a call and all that it depends on; one result, perhaps, into a message. Whether it did: another thread may have evaluated
/// it before.
fn evaluate(
    lanes: &dyn Lanes,
    root: &Arc<Call>,
    message: Option<(&HostWords, u32, &mut Vec<u8>)>,
) -> bool {
    let calls = pending_below(root);
    // Everybody locks later calls first. What another thread has evaluated meanwhile is made.
    let mut locked: Vec<MutexGuard<'_, Option<Pending>>> = calls.iter().rev().map(|c| c.lock()).collect();
    locked.reverse();
    let pending: Vec<&Pending> = locked.iter().filter_map(|p| p.as_ref()).collect();
    if locked[calls.len() - 1].is_none() {
        return false;
    }
    let mut fused = Fused::new(&pending, message.as_ref().map(|(words, ..)| *words));
    pending.iter().for_each(|p| fused.add(p));
    let packing = message.map(|(words, bits, out)| {
        let place = fused.places[&Arc::as_ptr(&words.0)];
        Packing { place, bits, out }
    });
    let packed = packing.is_some();
    let written = fused.evaluate(lanes, packing);
    for (slot, made) in written {
        slot.made.get_or_init(|| Buffer::ours(made));
    }
    for (call, pending) in calls.iter().zip(&mut locked) {
        call.size.store(0, Ordering::Relaxed);
        **pending = None;
    }
    packed
}

/// A call and all those below it that have not been evaluated, by their numbers.
fn pending_below(root: &Arc<Call>) -> Vec<Arc<Call>> {
    let mut found = HashMap::from([(root.number, root.clone())]);
    let mut next = vec![root.clone()];
    while let Some(call) = next.pop() {
        for (words, _) in call.lock().iter().flat_map(|p| &p.inputs) {
            if let Origin::Result(below) = &words.0.origin
                && words.0.made.get().is_none()
                && found.insert(below.number, below.clone()).is_none()
            {
                next.push(below.clone());
            }
        }
    }
    let mut all: Vec<_> = found.into_values().collect();
    all.sort_unstable_by_key(|call| call.number);
    all
}

/// What a formula reads: words, as they are packed if they have not been made, perhaps at other places.
struct Read<'a> {
    words: &'a HostWords,
    packed: Option<Packed>,
    at: Option<&'a Indices>,
}

/// Calls as one formula.
struct Fused<'a> {
    n: usize,
    steps: Vec<Step>,
    inputs: Vec<Read<'a>>,
    outputs: Vec<Arc<Slot>>,
    temporaries: usize,
    free: Vec<usize>,
    /// Where the results of calls are, and how many inputs of later calls they still are.
    places: HashMap<*const Slot, Place>,
    uses: HashMap<*const Slot, usize>,
    /// What the caller has of it is not written.
    packed: Option<&'a HostWords>,
}

impl<'a> Fused<'a> {
    fn new(pending: &[&'a Pending], packed: Option<&'a HostWords>) -> Fused<'a> {
        let mut uses = HashMap::new();
        for (words, _) in pending.iter().flat_map(|p| &p.inputs) {
            *uses.entry(Arc::as_ptr(&words.0)).or_insert(0) += 1;
        }
        Fused {
            n: pending.first().map_or(0, |p| p.n),
            steps: vec![],
            inputs: vec![],
            outputs: vec![],
            temporaries: 0,
            free: vec![],
            places: HashMap::new(),
            uses,
            packed,
        }
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
            let kept = self.packed.is_some_and(|p| Arc::ptr_eq(&p.0, &words.0));
            if let (0, false, Some(Place::Temporary(t))) = (*left, kept, self.places.get(&at)) {
                self.free.push(*t);
            }
        }
    }

    /// The buffers that somebody has, and what is in them.
    fn evaluate<'s>(&'s self, lanes: &dyn Lanes, packing: Option<Packing<'_>>) -> Vec<(Arc<Slot>, Vec<u64>)> {
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
