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
    /// Part of a message, from a byte on. The whole message is kept until these words are made.
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
    /// What is only packed: whoever evaluates has it, and does not need it written.
    packed: Option<&'a HostWords>,
}

impl<'a> Fused<'a> {
    /// Calls in the order of their numbers.
    fn new(pending: &[&'a Pending], packed: Option<&'a HostWords>) -> Fused<'a> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Zip;
    use crate::cpu::scalar::Scalar;

    const N: usize = LONG + 77;

    fn words(seed: u64) -> HostWords {
        Buffer::ours((0..N as u64).map(|i| (i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()).into()
    }

    fn with(op: Zip, a: &HostWords, b: &HostWords) -> HostWords {
        let step =
            Step { to: Place::Output(0), of: Place::Input(0), change: Change::Zip(op, Place::Input(1)) };
        let inputs = vec![(a.clone(), None), (b.clone(), None)];
        call(&Scalar, Formula::assembled(vec![step], 1, 0), inputs, N).remove(0)
    }

    fn is_made(words: &HostWords) -> bool {
        words.0.made.get().is_some()
    }

    /// Inputs, results that are written, and temporary words of what makes these.
    fn fused(words: &HostWords, packed: bool) -> [usize; 3] {
        let Origin::Result(root) = &words.0.origin else { panic!("no result") };
        let calls = pending_below(root);
        let locked: Vec<_> = calls.iter().map(|c| c.lock()).collect();
        let pending: Vec<&Pending> = locked.iter().filter_map(|p| p.as_ref()).collect();
        let fused = Fused::new(&pending, packed.then_some(words));
        [fused.inputs.len(), fused.outputs.len(), fused.temporaries]
    }

    #[test]
    fn only_what_somebody_has_is_written() {
        let (a, b) = (words(1), words(2));
        let sum = with(Zip::Add, &a, &b);
        let product = with(Zip::Mul, &sum, &a);
        let end = with(Zip::Xor, &product, &sum);
        assert_eq!(fused(&end, false), [2, 3, 0]);
        drop(product);
        assert_eq!(fused(&end, false), [2, 2, 1]);
        assert_eq!(fused(&end, true), [2, 1, 2]);
        let other = with(Zip::Sub, &sum, &b);
        drop(sum);
        // A call that is not evaluated has it as well.
        assert_eq!(fused(&end, false), [2, 2, 1]);
        assert!(!is_made(&end) && !is_made(&other));
        let want = |i: usize| {
            let (x, y) = (a.words(&Scalar)[i], b.words(&Scalar)[i]);
            let sum = x.wrapping_add(y);
            (sum.wrapping_mul(x) ^ sum, x)
        };
        assert!((0..N).all(|i| (end.words(&Scalar)[i], other.words(&Scalar)[i]) == want(i)));
        assert!(matches!(&end.0.origin, Origin::Result(call) if call.lock().is_none() && end.calls() == 0));
    }

    #[test]
    fn what_is_packed_is_unpacked_only_for_who_needs_all_of_it() {
        let (a, mut bytes) = (words(3), vec![]);
        pack(&Scalar, a.clone(), 13, &mut bytes);
        let part = HostWords::packed(N, Packed::Part { message: Arc::new(bytes.clone()), at: 0, bits: 13 });
        let twice = with(Zip::Add, &part, &part);
        let mut out = vec![7];
        pack(&Scalar, with(Zip::Sub, &twice, &part), 13, &mut out);
        assert!(out[1..] == bytes && !is_made(&part) && is_made(&twice));
        assert!(part.words(&Scalar).iter().zip(a.words(&Scalar)).all(|(p, a)| *p == a & 0x1fff));
        assert!(twice.words(&Scalar).iter().zip(part.words(&Scalar)).all(|(t, p)| *t == 2 * p));
        // Packed and kept.
        let (sum, mut both) = (with(Zip::Add, &a, &twice), vec![]);
        pack(&Scalar, sum.clone(), 64, &mut both);
        assert!(is_made(&sum));
        assert!(both.as_chunks().0.iter().zip(sum.words(&Scalar)).all(|(b, w)| u64::from_le_bytes(*b) == *w));
        assert_eq!(both.len(), 8 * N);
    }

    #[test]
    fn words_of_several_owners_are_changed_for_one() {
        let mut a = words(4);
        let (other, later) = (a.clone(), with(Zip::Add, &a, &a));
        a.words_mut(&Scalar)[5] += 1;
        assert_eq!(a.words(&Scalar)[5], other.words(&Scalar)[5] + 1);
        assert_eq!(later.words(&Scalar)[5], other.words(&Scalar)[5].wrapping_mul(2));
    }

    #[test]
    fn chains_are_as_long_as_they_like() {
        let one = words(5);
        let mut sum = one.clone();
        for _ in 0..2000 {
            sum = with(Zip::Add, &sum, &one);
            assert!(sum.calls() <= CALLS);
        }
        assert_eq!(sum.words(&Scalar)[9], one.words(&Scalar)[9].wrapping_mul(2001));
    }

    /// Threads that need parts of the same at the same time.
    #[test]
    fn threads_make_words_together() {
        for seed in 0..200 {
            let (a, b) = (words(seed), words(seed + 1));
            let base = with(Zip::Mul, &a, &b);
            let ends: Vec<_> = [Zip::Add, Zip::Sub, Zip::Xor, Zip::Mul]
                .iter()
                .map(|op| with(*op, &with(*op, &base, &a), &base))
                .collect();
            let keep = if seed % 2 == 0 { Some(base) } else { None };
            std::thread::scope(|s| {
                for end in &ends {
                    s.spawn(|| assert_eq!(end.words(&Scalar).len(), N));
                }
                let keep = &keep;
                s.spawn(move || keep.as_ref().map(|base| assert_eq!(base.words(&Scalar).len(), N)));
            });
            let (x, y) = (a.words(&Scalar)[77], b.words(&Scalar)[77]);
            let base = x.wrapping_mul(y);
            let want = [
                base.wrapping_add(x).wrapping_add(base),
                0u64.wrapping_sub(x),
                x,
                base.wrapping_mul(x).wrapping_mul(base),
            ];
            assert!(ends.iter().zip(want).all(|(end, want)| end.words(&Scalar)[77] == want));
        }
    }
}
