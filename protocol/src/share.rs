//! Types of values: replicated shares, factors of products of matrices, un-reshared 2-of-2 results.
//!
//! x = λ + Δ, λ = x0 + x1. The dealer knows λ and both its halves, P1 knows x1, P2 knows x0, both evaluators know Δ (ASTRA's
//! masked sharing, which is replicated sharing with component 2 called Δ). λ is pseudo-random, so all data dependence
//! sits in Δ and the dealer can run ahead of the data.

use kernels::{Indices, Input, Segments, Term, Words};

/// Rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
}

impl Shape {
    /// `rows × cols`.
    pub const fn new(rows: usize, cols: usize) -> Shape {
        Shape { rows, cols }
    }

    /// Number of elements.
    pub const fn len(self) -> usize {
        self.rows * self.cols
    }

    /// No elements.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// One party's part of a replicated share of a matrix. The represented number is the ring element / 2^scale.
#[derive(Clone, Debug)]
pub struct Share {
    /// Rows and columns.
    pub shape: Shape,
    /// Fractional bits.
    pub scale: u32,
    /// Δ: known to both evaluators; the dealer has none.
    pub delta: Option<Words>,
    /// The dealer's λ, or an evaluator's half of it.
    pub lambda: Words,
    /// P1's half of λ, with which the dealer knows both halves; the evaluators have none.
    pub first: Option<Words>,
}

impl Share {
    /// Applies a linear map to every component held. The map must be the same for all parties.
    pub fn linear(&self, shape: Shape, f: impl Fn(&Words) -> Words) -> Share {
        let [delta, first] = [&self.delta, &self.first].map(|known| known.as_ref().map(&f));
        let s = Share { shape, scale: self.scale, delta, lambda: f(&self.lambda), first };
        debug_assert_eq!(s.lambda.len(), shape.len());
        s
    }

    /// x + y.
    pub fn add(&self, other: &Share) -> Share {
        self.each(other.into(), |a, b| a + b)
    }

    /// x − y.
    pub fn sub(&self, other: &Share) -> Share {
        self.each(other.into(), |a, b| a - b)
    }

    /// A linear map of two elements at each place, in one pass over all components.
    fn each(&self, other: Taken<'_>, f: impl for<'d> Fn(Term<'d>, Term<'d>) -> Term<'d>) -> Share {
        assert_eq!(
            (self.shape, self.scale),
            (other.shape, other.scale),
            "shares of different shape or scale"
        );
        let both = |known: &Words, others| {
            let inputs = [known.into(), others, (&self.lambda).into(), other.lambda.clone()];
            Words::formulas(inputs, |[a, b, c, d]| [f(a, b), f(c, d)])
        };
        let (delta, [known, lambda]) = match (&self.delta, &self.first, other.delta, other.first) {
            (Some(delta), None, Some(others), None) => (true, both(delta, others)),
            (None, Some(first), None, Some(others)) => (false, both(first, others)),
            _ => unreachable!("shares of different parties"),
        };
        let (delta, first) = if delta { (Some(known), None) } else { (None, Some(known)) };
        Share { shape: self.shape, scale: self.scale, delta, lambda, first }
    }

    /// As inputs of formulas, elements `idx` as a matrix of the given shape.
    pub fn at(&self, idx: &Indices, shape: Shape) -> Taken<'_> {
        let [delta, first] = [&self.delta, &self.first].map(|known| known.as_ref().map(|w| w.at(idx)));
        Taken { shape, scale: self.scale, delta, lambda: self.lambda.at(idx), first }
    }

    /// x + c for a public ring element c.
    pub fn add_public(&self, c: u64) -> Share {
        Share { delta: self.delta.as_ref().map(|d| d + c), ..self.clone() }
    }

    /// x − spread(m): one word of `m` for each of the given indices.
    pub fn sub_spread(&self, m: &Share, idx: &Indices) -> Share {
        self.each(Taken { scale: self.scale, ..m.at(idx, self.shape) }, |x, m| x - m)
    }

    /// Elements `idx`, as a matrix of the given shape.
    pub fn gather(&self, idx: &Indices, shape: Shape) -> Share {
        self.linear(shape, |w| w.gather(idx))
    }

    /// A block of whole rows.
    pub fn rows(&self, from: usize, to: usize) -> Share {
        let c = self.shape.cols;
        self.linear(Shape::new(to - from, c), |w| w.slice(from * c..to * c))
    }

    /// Rows of `self`, then rows of `other`.
    pub fn append_rows(&self, other: &Share) -> Share {
        assert_eq!((self.shape.cols, self.scale), (other.shape.cols, other.scale), "rows of different kinds");
        let both = |a: &Option<Words>, b: &Option<Words>| {
            a.as_ref().zip(b.as_ref()).map(|(a, b)| Words::concat(&[a, b]))
        };
        Share {
            shape: Shape::new(self.shape.rows + other.shape.rows, self.shape.cols),
            scale: self.scale,
            delta: both(&self.delta, &other.delta),
            lambda: Words::concat(&[&self.lambda, &other.lambda]),
            first: both(&self.first, &other.first),
        }
    }

    /// Sum of each segment, as a column.
    pub fn sum_segments(&self, offsets: &Segments) -> Share {
        self.linear(Shape::new(offsets.count(), 1), |w| w.sum_segments(offsets))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A share as inputs of formulas, perhaps words of a larger one.
#[derive(Clone, Debug)]
pub struct Taken<'a> {
    /// Rows and columns.
    pub shape: Shape,
    /// Fractional bits.
    pub scale: u32,
    /// Δ; the dealer has none.
    pub delta: Option<Input<'a>>,
    /// λ, or an evaluator's half of it.
    pub lambda: Input<'a>,
    /// P1's half of λ at the dealer; the evaluators have none.
    pub first: Option<Input<'a>>,
}

impl<'a> From<&'a Share> for Taken<'a> {
    fn from(x: &'a Share) -> Taken<'a> {
        let [delta, first] = [&x.delta, &x.first].map(|known| known.as_ref().map(Input::from));
        Taken { shape: x.shape, scale: x.scale, delta, lambda: (&x.lambda).into(), first }
    }
}

/// A value as a factor of products of matrices: one word an element at each party, of which the evaluators' have the value
/// as their mean. `product` says what for. Source: own composition.
/// ```text
/// P1: u1 = Δ + 2·x1    P2: u0 = Δ + 2·x0    x = (u1 + u0) / 2    P0: (u1 − u0) / 2 = x1 − x0
/// ```
#[derive(Clone, Debug)]
pub struct Factor {
    /// Rows and columns.
    pub shape: Shape,
    /// Fractional bits.
    pub scale: u32,
    /// This party's words.
    pub words: Words,
}

impl From<&Share> for Factor {
    /// # Panics
    /// If the share has neither Δ nor, at the dealer, P1's half of λ.
    fn from(x: &Share) -> Factor {
        let words = match (&x.delta, &x.first) {
            (Some(delta), _) => Words::formula([delta, &x.lambda], |[delta, half]| delta + (half << 1u32)),
            (None, Some(first)) => Words::formula([first, &x.lambda], |[first, sum]| (first << 1u32) - sum),
            (None, None) => panic!("a share without a second component"),
        };
        Factor { shape: x.shape, scale: x.scale, words }
    }
}

impl Factor {
    /// Applies a linear map. The map must be the same for all parties.
    pub fn linear(&self, shape: Shape, f: impl Fn(&Words) -> Words) -> Factor {
        let words = f(&self.words);
        debug_assert_eq!(words.len(), shape.len());
        Factor { shape, scale: self.scale, words }
    }

    /// A block of whole rows.
    pub fn rows(&self, from: usize, to: usize) -> Factor {
        let c = self.shape.cols;
        self.linear(Shape::new(to - from, c), |w| w.slice(from * c..to * c))
    }

    /// Rows of `self`, then rows of `other`.
    pub fn append_rows(&self, other: &Factor) -> Factor {
        assert_eq!((self.shape.cols, self.scale), (other.shape.cols, other.scale), "rows of different kinds");
        let shape = Shape::new(self.shape.rows + other.shape.rows, self.shape.cols);
        self.linear(shape, |w| Words::concat(&[w, &other.words]))
    }
}

/// An additive 2-of-2 sharing between the evaluators that has not been reshared: z = z1 + z2 modulo 2^bits. It may be
/// combined linearly; only resharing, truncation and reveal turn it into something else.
#[derive(Clone, Debug)]
#[must_use = "a 2-of-2 result is of no use until it is reshared, truncated or revealed"]
pub struct Product {
    /// Rows and columns.
    pub shape: Shape,
    /// Fractional bits.
    pub scale: u32,
    /// Low bits of z that are known. The halves may have others.
    pub bits: u32,
    /// An evaluator's half; the dealer has none.
    pub half: Option<Words>,
}

impl Product {
    /// Applies a linear map to the half.
    pub fn linear(&self, shape: Shape, f: impl Fn(&Words) -> Words) -> Product {
        Product { shape, half: self.half.as_ref().map(f), ..*self }
    }

    /// As a value that is known modulo 2^bits only.
    ///
    /// # Panics
    /// If it is known to fewer bits.
    pub fn modulo(self, bits: u32) -> Product {
        assert!(bits <= self.bits, "{bits} bits of a product that is known to {}", self.bits);
        Product { bits, ..self }
    }

    /// z + w.
    pub fn plus(self, other: Product) -> Product {
        assert_eq!(
            (self.shape, self.scale),
            (other.shape, other.scale),
            "products of different shape or scale"
        );
        let half = self.half.zip(other.half).map(|(a, b)| a + b);
        Product { bits: self.bits.min(other.bits), half, shape: self.shape, scale: self.scale }
    }
}
