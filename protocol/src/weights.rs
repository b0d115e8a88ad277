//! Weights as a party multiplies by them: prepared matrices, or the seeds of which they are drawn.
//!
//! Two of a shared matrix' three components are streams of their owner's seeds ([`input`]). A party may keep them as
//! words, ready for products, or keep the seed alone and draw each word where it is multiplied. Both give the same words of
//! every product, so each party chooses for itself and the others do not notice.

use crate::gates::input;
use crate::{Factor, Key, Role, Share};
use kernels::{KeyStream, Matrix, Words};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A seed of weights' components, a secret of two parties. It lives as long as anything is drawn from it; erased when
/// dropped, never printed.
#[derive(Clone)]
pub struct Seed(Arc<Zeroizing<Key>>);

impl Seed {
    /// Of its bytes.
    pub fn new(key: &Key) -> Seed {
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(key);
        Seed(Arc::new(seed))
    }

    /// Its bytes.
    pub fn key(&self) -> &Key {
        &self.0
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(redacted)")
    }
}

/// A component of a matrix of n outputs of k inputs of which the seed alone is kept.
#[derive(Clone, Debug)]
pub struct DrawnMatrix {
    seed: Seed,
    stream: u32,
    n: usize,
    k: usize,
}

impl DrawnMatrix {
    /// Component of a seed of matrix number `stream`, n rows of k words: the words of [`input::component`].
    pub fn new(seed: &Seed, stream: u32, n: usize, k: usize) -> DrawnMatrix {
        DrawnMatrix { seed: seed.clone(), stream, n, k }
    }

    fn stream(&self) -> KeyStream<'_> {
        input::key_stream(self.seed.key(), self.stream)
    }
}

/// One of the three components of a weight matrix, as a party keeps it.
#[derive(Clone, Debug)]
pub enum Component {
    /// Prepared for products: 8 bytes a weight.
    Stored(Matrix),
    /// Drawn whenever it is multiplied with: nothing.
    Drawn(DrawnMatrix),
}

impl Component {
    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        match self {
            Component::Stored(m) => m.outputs(),
            Component::Drawn(d) => d.n,
        }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        match self {
            Component::Stored(m) => m.inputs(),
            Component::Drawn(d) => d.k,
        }
    }

    /// Whether both are one component, not only equal ones.
    fn is(&self, other: &Component) -> bool {
        match (self, other) {
            (Component::Stored(a), Component::Stored(b)) => a.is(b),
            (Component::Drawn(a), Component::Drawn(b)) => {
                Arc::ptr_eq(&a.seed.0, &b.seed.0) && (a.stream, a.n, a.k) == (b.stream, b.n, b.k)
            }
            _ => false,
        }
    }

    /// `x[m×k] · C^T = [m×n]` for this component C.
    pub fn apply(&self, x: &Words) -> Words {
        match self {
            Component::Stored(m) => m.apply(x),
            Component::Drawn(d) => x.by_stream(&d.stream(), d.n, d.k),
        }
    }
}

/// One party's part of a shared weight matrix (n outputs of k inputs) as a factor of products: what [`Factor`](crate::Factor)
/// says of its components, at the dealer with the other sign.
#[derive(Clone, Debug)]
pub struct SharedMatrix {
    /// Fractional bits of the weights.
    pub scale: u32,
    /// The sum of components, each times a number.
    terms: Vec<(u64, Component)>,
}

/// By what a role multiplies its half of λ, and Δ; the dealer λ1, and λ0:
/// ```text
/// P1: 2·λ1 + Δ    P2: 2·λ0 + Δ    dealer: −λ1 + λ0
/// ```
pub const fn coefficients(role: Role) -> [u64; 2] {
    match role {
        Role::Dealer => [u64::MAX, 1],
        Role::P1 | Role::P2 => [2, 1],
    }
}

impl SharedMatrix {
    /// Prepares a share of an n × k matrix.
    ///
    /// # Panics
    /// If the share has neither Δ nor, at the dealer, P1's half of λ.
    pub fn new(w: &Share) -> SharedMatrix {
        let Factor { shape, scale, words } = Factor::from(w);
        let words = if w.delta.is_some() { words } else { -words };
        SharedMatrix::of(scale, vec![(1, Component::Stored(Matrix::new(&words, shape.rows, shape.cols)))])
    }

    /// Of components, each times a number.
    ///
    /// # Panics
    /// If there is none, or if they are of different shapes.
    pub fn of(scale: u32, terms: Vec<(u64, Component)>) -> SharedMatrix {
        assert!(!terms.is_empty(), "a matrix of no component");
        let shape = |(_, c): &(u64, Component)| (c.outputs(), c.inputs());
        assert!(terms.iter().all(|term| shape(term) == shape(&terms[0])), "components of different shapes");
        SharedMatrix { scale, terms }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.terms[0].1.outputs()
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.terms[0].1.inputs()
    }

    /// Whether both are one matrix, not only equal ones.
    pub(crate) fn is(&self, other: &SharedMatrix) -> bool {
        let same = |((a, x), (b, y)): (&(u64, Component), &(u64, Component))| a == b && x.is(y);
        self.terms.len() == other.terms.len() && self.terms.iter().zip(&other.terms).all(same)
    }

    /// x · self^T, as far as it counts modulo 2^bits. Where one component is stored and another one drawn, each word is read or
    /// drawn once.
    pub fn apply(&self, x: &Words, bits: u32) -> Words {
        let times = |n: u64| if n == 1 { Cow::Borrowed(x) } else { Cow::Owned(x * n) };
        match &self.terms[..] {
            [(n, Component::Stored(m))] => m.apply_in_step(&times(*n), bits),
            [(a, Component::Stored(m)), (b, Component::Drawn(d))]
            | [(b, Component::Drawn(d)), (a, Component::Stored(m))] => {
                m.apply_beside(&times(*a), &times(*b), d.stream())
            }
            terms => {
                let products = terms.iter().map(|(n, component)| component.apply(&times(*n)));
                products.reduce(|a, b| a + b).expect("a component at least")
            }
        }
    }
}
