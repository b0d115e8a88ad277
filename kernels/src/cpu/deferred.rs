//! Words that are made when somebody needs them.
//!
//! Between two messages a gate is a chain of element-wise operations, often on buffers larger than a near cache. So the words of
//! a long buffer need not be there: they may be *packed*, part of a message or of a key stream as it is, or *results* of a [`Call`],
//! a formula that has not been evaluated. Whoever needs words makes them: all calls that they depend on become one formula, which
//! unpacks what is packed, keeps what is between in a near cache, a piece at a time, and writes only what somebody else
//! still has, or packs it into a message. Nothing is made twice (but for the unpacking), and what nobody has any more is not written.
//!
//! Who has something is known from its owners: a result is written if it has more of them than the calls that are evaluated.
//! So a gate does well to drop what it needs no more before it sends.

mod fused;

use super::formula::{self, Packing};
use super::lanes::Lanes;
use crate::buffer::{self, Buffer};
use crate::formula::{Change, Formula, Place, Step};
use crate::indices::Indices;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use fused::Fused;

/// Words from which on a buffer is long: shorter ones stay in a near cache, and are made at once.
pub(super) const LONG: usize = 1 << 14;

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
    /// Part of a message, from a byte on. The message is kept until these words are made, or nobody has them.
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
    /// What a panic interrupted has not been evaluated, and still can be.
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

/// The first input changed by these steps.
pub(super) fn in_turn(steps: &[Change]) -> Formula {
    let step = |(i, change): (usize, &Change)| Step {
        to: Place::Output(0),
        of: if i == 0 { Place::Input(0) } else { Place::Output(0) },
        change: *change,
    };
    Formula::assembled(steps.iter().enumerate().map(step).collect(), 1, 0)
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
        let (calls, end) = (words.calls(), at.as_ref().map_or(0, Indices::end));
        assert!(end <= words.len(), "place {} of {} words", end.wrapping_sub(1), words.len());
        if at.is_some() || size + calls > CALLS {
            words.words(lanes);
        } else {
            size += calls;
        }
        assert_eq!(
            at.as_ref().map_or(words.len(), Indices::len),
            n,
            "a formula of inputs of different length"
        );
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let call = Arc::new(Call { number, size: AtomicUsize::new(size), pending: Mutex::new(None) });
    let result = |_| Slot { n, made: OnceLock::new(), origin: Origin::Result(call.clone()) };
    let results: Vec<HostWords> =
        (0..formula.outputs()).map(result).map(|s| HostWords(Arc::new(s))).collect();
    let weak = results.iter().map(|r| Arc::downgrade(&r.0)).collect();
    *call.lock() = Some(Pending { n, formula, inputs, results: weak });
    results
}

/// Appends the low `bits` of words to a message. They are not written if nobody else has them.
pub(super) fn pack(lanes: &dyn Lanes, words: HostWords, bits: u32, out: &mut Vec<u8>) {
    let packed = match &words.0.origin {
        Origin::Result(call) => evaluate(lanes, call, Some((&words, bits, out))),
        _ => false,
    };
    if !packed {
        super::message::pack(lanes, words.words(lanes), bits, out);
    }
}

/// Evaluates a call and all that it depends on, and packs one of its results into a message if that is wanted. Whether it did that:
/// the call may have been evaluated before.
fn evaluate(lanes: &dyn Lanes, root: &Arc<Call>, message: Option<(&HostWords, u32, &mut Vec<u8>)>) -> bool {
    let calls = pending_below(root);
    // All threads lock them in this order. What another one has evaluated meanwhile is made, as these calls have it.
    let mut locked: Vec<MutexGuard<'_, Option<Pending>>> = calls.iter().map(|call| call.lock()).collect();
    if locked.last().is_none_or(|root| root.is_none()) {
        return false;
    }
    let pending: Vec<&Pending> = locked.iter().filter_map(|p| p.as_ref()).collect();
    let fused = Fused::new(&pending, message.as_ref().map(|(words, ..)| *words));
    let packing = message.map(|(words, bits, out)| {
        let place = fused.place(words);
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

#[cfg(test)]
mod tests;
