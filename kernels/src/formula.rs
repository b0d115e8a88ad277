//! Element-wise formulas: all operations on the words at one place of some buffers, and then those at the next. So a formula
//! is one pass over memory, and one launch on a device, whatever its length.
//!
//! [`Words::formula`] writes one down by running a closure on [`Term`]s, which stand for the words at any one place. Inputs may
//! be taken at other places than the results have ([`Input`]): rows' factors, parts of buffers, columns of a matrix.

use crate::backend::{Map, Zip};
use crate::indices::Indices;
use crate::words::Words;
use std::cell::RefCell;
use std::ops::{Add, BitAnd, BitXor, Mul, Neg, Range, Shl, Shr, Sub};

/// Where a step of a formula finds a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An input.
    Input(usize),
    /// A result. One that was written can be read.
    Output(usize),
    /// A word that nobody else sees.
    Temporary(usize),
}

/// What a step does to a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Combines it with another one.
    Zip(Zip, Place),
    /// Changes it alone.
    Map(Map),
}

/// `to` ← change(of).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Never an input, nor the second operand.
    pub to: Place,
    /// The first operand.
    pub of: Place,
    /// The operation.
    pub change: Change,
}

/// An input of a formula: word i is `words[at[i]]`, or `words[i]`.
#[derive(Clone, Debug)]
pub struct Input<'a, W = Words> {
    /// The buffer.
    pub words: &'a W,
    /// Where its words are taken.
    pub at: Option<Indices>,
}

impl<'a> From<&'a Words> for Input<'a> {
    fn from(words: &'a Words) -> Input<'a> {
        Input { words, at: None }
    }
}

impl Input<'_> {
    /// Number of words that a formula takes from it.
    pub(crate) fn len(&self) -> usize {
        self.at.as_ref().map_or_else(|| self.words.len(), Indices::len)
    }
}

impl Words {
    /// As an input of a formula: the words at these places.
    pub fn at(&self, places: &Indices) -> Input<'_> {
        Input { words: self, at: Some(places.clone()) }
    }

    /// As an input of a formula: each word `cols` times, as one word a row of a matrix of so many columns.
    pub fn for_rows(&self, cols: usize) -> Input<'_> {
        self.at(&Indices::grid(0, [(self.len(), 1), (cols, 0)]))
    }

    /// As an input of a formula: all words `rows` times, as one word a column of a matrix of so many rows.
    pub fn for_cols(&self, rows: usize) -> Input<'_> {
        self.at(&Indices::grid(0, [(rows, 0), (self.len(), 1)]))
    }

    /// As an input of a formula: a contiguous part.
    pub fn part(&self, range: Range<usize>) -> Input<'_> {
        self.at(&Indices::grid(range.start, [(1, 0), (range.len(), 1)]))
    }
}

/// An element-wise formula.
#[derive(Clone, Debug)]
pub struct Formula {
    steps: Vec<Step>,
    outputs: usize,
    temporaries: usize,
}

impl Formula {
    /// Most inputs.
    pub const INPUTS: usize = 20;
    /// Most results.
    pub const OUTPUTS: usize = 6;
    /// Most steps.
    pub const STEPS: usize = 80;
    /// Most temporary words.
    pub const TEMPORARIES: usize = 12;

    /// Writes down what the closure makes of so many inputs.
    ///
    /// # Panics
    /// If it is too large.
    pub fn new(inputs: usize, f: impl for<'d> FnOnce(&[Term<'d>]) -> Vec<Term<'d>>) -> Formula {
        let draft = Draft::default();
        let terms: Vec<_> = (0..inputs).map(|i| Term { draft: &draft, value: Value::Input(i) }).collect();
        let results: Vec<Value> = f(&terms).iter().map(|t| t.value).collect();
        let formula = placed(&draft.0.borrow(), &results);
        let (outputs, steps, temporaries) = (formula.outputs, formula.steps.len(), formula.temporaries);
        assert!(
            inputs <= Formula::INPUTS
                && outputs <= Formula::OUTPUTS
                && steps <= Formula::STEPS
                && temporaries <= Formula::TEMPORARIES,
            "a formula of {inputs} inputs, {outputs} results, {steps} steps, {temporaries} temporary words"
        );
        formula
    }

    /// Of steps that are there, for whoever evaluates formulas of any size.
    pub(crate) fn assembled(steps: Vec<Step>, outputs: usize, temporaries: usize) -> Formula {
        Formula { steps, outputs, temporaries }
    }

    /// In order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Number of results.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of temporary words.
    pub fn temporaries(&self) -> usize {
        self.temporaries
    }
}

/// A word of a formula: an input's, or what a step made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Input(usize),
    Made(usize),
}

#[derive(Clone, Copy)]
enum Drafted {
    Zip(Zip, Value, Value),
    Map(Map, Value),
}

/// The steps of a formula that is being written down; step i makes value i.
#[derive(Default)]
struct Draft(RefCell<Vec<Drafted>>);

/// The word at some place, in a formula that is being written down.
#[derive(Clone, Copy)]
pub struct Term<'d> {
    draft: &'d Draft,
    value: Value,
}

impl<'d> Term<'d> {
    fn make(self, step: Drafted) -> Term<'d> {
        let mut steps = self.draft.0.borrow_mut();
        steps.push(step);
        Term { value: Value::Made(steps.len() - 1), ..self }
    }

    fn map(self, op: Map) -> Term<'d> {
        self.make(Drafted::Map(op, self.value))
    }

    fn zip(self, op: Zip, b: Term<'d>) -> Term<'d> {
        self.make(Drafted::Zip(op, self.value, b.value))
    }

    /// Its low `bits`.
    pub fn low(self, bits: u32) -> Term<'d> {
        if bits >= 64 { self } else { self.map(Map::And((1 << bits) - 1)) }
    }

    /// As [`Words::exp`].
    ///
    /// # Panics
    /// If s is not between 1 and 63.
    pub fn exp(self, s: u32) -> Term<'d> {
        assert!((1..64).contains(&s), "fraction of {s} bits");
        self.map(Map::Exp(s))
    }
}

macro_rules! term {
    ($($tr:ident $f:ident $b:ty, |$x:ident| $op:expr;)*) => {$(
        impl<'d> $tr<$b> for Term<'d> {
            type Output = Term<'d>;
            fn $f(self, $x: $b) -> Term<'d> {
                $op(self)
            }
        }
    )*};
}
term! {
    Add add Term<'d>, |b| |a: Self| a.zip(Zip::Add, b);
    Sub sub Term<'d>, |b| |a: Self| a.zip(Zip::Sub, b);
    Mul mul Term<'d>, |b| |a: Self| a.zip(Zip::Mul, b);
    BitXor bitxor Term<'d>, |b| |a: Self| a.zip(Zip::Xor, b);
    BitAnd bitand Term<'d>, |b| |a: Self| a.zip(Zip::And, b);
    Add add u64, |c| |a: Self| if c == 0 { a } else { a.map(Map::Add(c)) };
    Sub sub u64, |c| |a: Self| a + u64::wrapping_neg(c);
    Mul mul u64, |c| |a: Self| a.map(Map::Mul(c));
    Shl shl u32, |s| |a: Self| if s == 0 { a } else { a.map(Map::Shl(s)) };
    Shr shr u32, |s| |a: Self| if s == 0 { a } else { a.map(Map::Shr(s)) };
}

impl<'d> Neg for Term<'d> {
    type Output = Term<'d>;
    fn neg(self) -> Term<'d> {
        self.map(Map::Neg)
    }
}

impl Words {
    /// A formula of the words at each place of inputs of one length: buffers, or words of them ([`Words::at`]). One pass over
    /// memory.
    ///
    /// # Panics
    /// If the inputs differ in length or go beyond their buffers, or there are too many of them or of steps
    /// ([`Formula::INPUTS`] and so on).
    pub fn formula<'a, const I: usize>(
        inputs: [impl Into<Input<'a>>; I],
        f: impl for<'d> FnOnce([Term<'d>; I]) -> Term<'d>,
    ) -> Words {
        let [result] = Words::formulas(inputs, |terms| [f(terms)]);
        result
    }

    /// The same with several results.
    ///
    /// # Panics
    /// As [`Words::formula`].
    pub fn formulas<'a, const I: usize, const O: usize>(
        inputs: [impl Into<Input<'a>>; I],
        f: impl for<'d> FnOnce([Term<'d>; I]) -> [Term<'d>; O],
    ) -> [Words; O] {
        let all = Words::formulas_of(&inputs.map(Into::into), |terms| {
            f(std::array::from_fn(|i| terms[i])).to_vec()
        });
        all.try_into().unwrap_or_else(|_| unreachable!("a result for each formula"))
    }

    /// The same with a number of inputs and results that is not known beforehand.
    ///
    /// # Panics
    /// As [`Words::formula`], and without inputs.
    pub fn formulas_of(
        inputs: &[Input<'_>],
        f: impl for<'d> FnOnce(&[Term<'d>]) -> Vec<Term<'d>>,
    ) -> Vec<Words> {
        Words::evaluate(inputs, &Formula::new(inputs.len(), f))
    }
}

/// The last step that reads each value, if any does; results are read at the end.
fn last_uses(draft: &[Drafted], results: &[Value]) -> Vec<Option<usize>> {
    let mut last = vec![None; draft.len()];
    let note = |last: &mut [Option<usize>], value: Value, step: usize| {
        if let Value::Made(v) = value {
            last[v].get_or_insert(step);
        }
    };
    results.iter().for_each(|r| note(&mut last, *r, draft.len()));
    for (i, step) in draft.iter().enumerate().rev() {
        match *step {
            _ if last[i].is_none() => {}
            Drafted::Map(_, a) => note(&mut last, a, i),
            Drafted::Zip(_, a, b) => [a, b].into_iter().for_each(|v| note(&mut last, v, i)),
        }
    }
    last
}

/// Finds a place for each value that is read: results in their outputs, the others in temporary words, which serve again when
/// nobody reads them any more, for the next value in place if possible.
fn placed(draft: &[Drafted], results: &[Value]) -> Formula {
    let last_use = last_uses(draft, results);
    let mut places: Vec<Place> = Vec::with_capacity(draft.len());
    let (mut steps, mut free, mut temporaries) = (Vec::with_capacity(draft.len()), Vec::new(), 0);
    for (i, step) in draft.iter().enumerate() {
        if last_use[i].is_none() {
            // Nobody asks for its place.
            places.push(Place::Temporary(usize::MAX));
            continue;
        }
        let place = |v: Value| match v {
            Value::Input(j) => Place::Input(j),
            Value::Made(j) => places[j],
        };
        // The temporary word that nobody reads after this step.
        let dying = |v: Value| match v {
            Value::Made(j) if last_use[j] == Some(i) => {
                Some(places[j]).filter(|p| matches!(p, Place::Temporary(_)))
            }
            _ => None,
        };
        let (of, change, mut ends) = match *step {
            Drafted::Map(op, a) => (place(a), Change::Map(op), [dying(a), None]),
            Drafted::Zip(op, a, b) if op != Zip::Sub && dying(a).is_none() && dying(b).is_some() => {
                (place(b), Change::Zip(op, place(a)), [dying(b), None])
            }
            // A word is not changed in place by itself.
            Drafted::Zip(op, a, b) if a == b => (place(a), Change::Zip(op, place(b)), [None, dying(b)]),
            Drafted::Zip(op, a, b) => (place(a), Change::Zip(op, place(b)), [dying(a), dying(b)]),
        };
        let to = match results.iter().position(|r| *r == Value::Made(i)) {
            Some(output) => Place::Output(output),
            None => ends[0].take().or_else(|| free.pop()).unwrap_or_else(|| {
                temporaries += 1;
                Place::Temporary(temporaries - 1)
            }),
        };
        free.extend(ends.into_iter().flatten());
        places.push(to);
        steps.push(Step { to, of, change });
    }
    for (output, result) in results.iter().enumerate() {
        let from = match *result {
            Value::Input(j) => Place::Input(j),
            Value::Made(j) => places[j],
        };
        if from != Place::Output(output) {
            steps.push(Step { to: Place::Output(output), of: from, change: Change::Map(Map::Add(0)) });
        }
    }
    Formula { steps, outputs: results.len(), temporaries }
}
