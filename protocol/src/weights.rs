//! Weights as a party multiplies by them: prepared matrices, or the seeds of which they are drawn.
//!
//! Two of a shared matrix' three components are streams of their owner's seeds ([`input`]). A party may keep them as
//! words, ready for products, or keep the seed alone and draw each word where it is multiplied. Both give the same words of
//! every product, so each party chooses for itself and the others do not notice.

use crate::gates::input;
use crate::{Key, Role, Share};
use kernels::{KeyStream, Matrix, Words};
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
            Component::Drawn(d) => x.by_streams(&[d.stream()], d.n, d.k),
        }
    }
}

/// a · x + b · y. Where one is stored and the other drawn, each word is read or drawn once.
fn apply_both((a, x): (&Component, &Words), (b, y): (&Component, &Words)) -> Words {
    match (a, b) {
        (Component::Stored(a), Component::Drawn(b)) => a.apply_beside(x, y, b.stream()),
        (Component::Drawn(a), Component::Stored(b)) => b.apply_beside(y, x, a.stream()),
        _ => a.apply(x) + b.apply(y),
    }
}

/// What a mask is multiplied by alone, for several runs at once if need be.
#[derive(Clone, Debug)]
pub(crate) enum Factor {
    /// One component, or the sum of two that was stored.
    Stored(Matrix),
    /// The sum of two components, of which one is drawn at least.
    Sum([Component; 2]),
}

impl Factor {
    pub(crate) fn outputs(&self) -> usize {
        match self {
            Factor::Stored(m) => m.outputs(),
            Factor::Sum([a, _]) => a.outputs(),
        }
    }

    pub(crate) fn inputs(&self) -> usize {
        match self {
            Factor::Stored(m) => m.inputs(),
            Factor::Sum([a, _]) => a.inputs(),
        }
    }

    /// Whether both are one factor, not only equal ones.
    pub(crate) fn is(&self, other: &Factor) -> bool {
        match (self, other) {
            (Factor::Stored(a), Factor::Stored(b)) => a.is(b),
            (Factor::Sum(a), Factor::Sum(b)) => a.iter().zip(b).all(|(a, b)| a.is(b)),
            _ => false,
        }
    }

    /// x · self^T, as far as it counts modulo 2^bits.
    pub(crate) fn apply_low(&self, x: &Words, bits: u32) -> Words {
        match self {
            Factor::Stored(m) => m.apply_low(x, bits),
            Factor::Sum([Component::Drawn(a), Component::Drawn(b)]) => {
                x.by_streams(&[a.stream(), b.stream()], a.n, a.k)
            }
            Factor::Sum([a, b]) => apply_both((a, x), (b, x)),
        }
    }
}

/// One party's part of a shared weight matrix (n outputs of k inputs), prepared for products with shares.
#[derive(Clone, Debug)]
pub struct SharedMatrix {
    /// Fractional bits of the weights.
    pub scale: u32,
    pub(crate) form: Form,
}

/// How a party multiplies: [`product::matmul`](crate::gates::product::matmul) says why.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// The product with λx by itself, which can be made ahead.
    Apart {
        /// Multiplies an evaluator's Δx (P1: Δw + λw1, P2: λw0); the dealer has none.
        by_delta: Option<Matrix>,
        /// Multiplies λx (evaluators: Δw, dealer: λw).
        by_lambda: Factor,
    },
    /// Both products of an evaluator in one pass over its components.
    Together {
        /// P1's λw1, P2's λw0.
        lambda: Component,
        /// Δw.
        delta: Component,
        /// Whether this is P1, which adds λx to the Δx that Δw multiplies.
        p1: bool,
    },
}

impl SharedMatrix {
    /// Prepares a share of an n × k matrix. `p1` says whether this is P1 (its half of λ joins Δ).
    pub fn new(w: &Share, p1: bool) -> SharedMatrix {
        let (n, k) = (w.shape.rows, w.shape.cols);
        let of = |words: &Words| Matrix::new(words, n, k);
        match &w.delta {
            None => SharedMatrix::stored(w.scale, of(&w.lambda), None),
            Some(d) => {
                let by_delta = if p1 { of(&(d + &w.lambda)) } else { of(&w.lambda) };
                SharedMatrix::stored(w.scale, of(d), Some(by_delta))
            }
        }
    }

    /// Of what multiplies λ of the input (evaluators: Δw, dealer: λw) and, at evaluators, its Δ (P1: Δw + λw1, P2: λw0).
    pub fn stored(scale: u32, by_lambda: Matrix, by_delta: Option<Matrix>) -> SharedMatrix {
        SharedMatrix { scale, form: Form::Apart { by_delta, by_lambda: Factor::Stored(by_lambda) } }
    }

    /// Of the two components that a role has: its own half of λ and Δ, or the dealer's two halves of λ.
    ///
    /// # Panics
    /// If they are of different shapes.
    pub fn of_components(scale: u32, role: Role, [lambda, other]: [Component; 2]) -> SharedMatrix {
        let shape = |c: &Component| (c.outputs(), c.inputs());
        assert_eq!(shape(&lambda), shape(&other), "components of different shapes");
        let form = match role {
            Role::Dealer => Form::Apart { by_delta: None, by_lambda: Factor::Sum([lambda, other]) },
            evaluator => Form::Together { lambda, delta: other, p1: evaluator == Role::P1 },
        };
        SharedMatrix { scale, form }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        match &self.form {
            Form::Apart { by_lambda, .. } => by_lambda.outputs(),
            Form::Together { delta, .. } => delta.outputs(),
        }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        match &self.form {
            Form::Apart { by_lambda, .. } => by_lambda.inputs(),
            Form::Together { delta, .. } => delta.inputs(),
        }
    }
}

/// An evaluator's products with both of its components.
pub(crate) fn together(lambda: &Component, delta: &Component, p1: bool, x: [&Words; 2]) -> Words {
    let [x_delta, x_lambda] = x;
    let sum = p1.then(|| x_delta + x_lambda);
    apply_both((lambda, x_delta), (delta, sum.as_ref().unwrap_or(x_lambda)))
}
