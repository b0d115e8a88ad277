//! The algebra a transformer is written in, and its four readings.
//!
//! A family (`llama`, `gpt2`, `bert`) is one generic program over
//! [`Algebra`]. Read as [`Float`](crate::float::Float) it is the plaintext reference, as [`Clear`](crate::clear::Clear)
//! the same integers and tables in the clear, as [`Secure`](crate::secure::Secure) a party's part of the protocol, as
//! [`Dry`](crate::dry::Dry) the cost alone. Operations are asynchronous because a secure one exchanges messages;
//! operations joined with [`protocol::join`] share their exchanges.

use crate::attention::AttentionShape;
use crate::rotary::Rotation;
use protocol::Result;

/// Fractional bits of activations and weights.
pub const SCALE: u32 = 18;
/// Fractional bits of attention's values: one less, for the bit that a sum of them must leave free.
pub const VALUE_SCALE: u32 = SCALE - 1;

/// A matrix of one token a row, cut and put together by rows.
pub trait ByRows: Clone {
    /// Rows [from, to).
    fn rows(&self, from: usize, to: usize) -> Self;
    /// Rows of `above`, then those of `self`.
    fn below(&self, above: Option<&Self>) -> Self;
}

/// The kinds of values of a reading.
pub trait Values {
    /// An activation matrix.
    type Act: ByRows;
    /// Keys or values, as products of matrices take them.
    type Factor: ByRows;
    /// The token embeddings.
    type Table;
    /// A weight matrix.
    type Matrix;
    /// Rows that are added to activations, or multiplied with them element by element.
    type Rows;
    /// Parameters of a norm.
    type Norm;
    /// Parameters of a softmax.
    type Softmax;
    /// Parameters of a function of one variable.
    type Activation;
    /// The tokens of a pass.
    type Input;
    /// What a pass yields.
    type Output;
}

/// A linear layer: y = x · W^T + b.
pub struct Linear<V: Values> {
    /// W, one row an output.
    pub weight: V::Matrix,
    /// b, one row.
    pub bias: Option<V::Rows>,
    /// y is within ±2^(bits − 2) in units of the double scale, so that it may be computed modulo 2^bits.
    pub bits: u32,
}

/// The values of a reading.
pub type V<A> = <A as Algebra>::V;
/// An activation of a reading.
pub type Act<A> = <<A as Algebra>::V as Values>::Act;
/// Keys or values of a reading.
pub type FactorOf<A> = <<A as Algebra>::V as Values>::Factor;
/// Rows of a reading.
pub type Rows<A> = <<A as Algebra>::V as Values>::Rows;
/// A norm of a reading.
pub type Norm<A> = <<A as Algebra>::V as Values>::Norm;
/// A softmax of a reading.
pub type Softmax<A> = <<A as Algebra>::V as Values>::Softmax;
/// A function of a reading.
pub type Activation<A> = <<A as Algebra>::V as Values>::Activation;
/// Tokens of a reading.
pub type Input<A> = <<A as Algebra>::V as Values>::Input;
/// Output of a reading.
pub type Output<A> = <<A as Algebra>::V as Values>::Output;

/// What attention begins with.
#[derive(Clone, Debug)]
pub struct Scored<T, F> {
    /// Scores q · k^T of every head, flat (see [`AttentionShape`]).
    pub scores: T,
    /// Keys of each sequence, the earlier ones first.
    pub keys: Vec<F>,
    /// New values of all sequences.
    pub values: F,
}

/// One way of reading a model. Activations are matrices, one token a row.
// Programs are polled by the thread that made them, so their futures need not be `Send`.
#[allow(async_fn_in_trait)]
pub trait Algebra: Clone {
    /// The kinds of values.
    type V: Values;

    /// The same reading inside a named part of the model.
    fn scope(&self, name: &str) -> Self;

    /// Token embeddings.
    async fn embed(&self, tokens: &Input<Self>, table: &<Self::V as Values>::Table) -> Result<Act<Self>>;
    /// x plus one of the rows to each of its rows: `index[i]` to row i, none where it is `None`.
    fn add_rows(&self, x: &Act<Self>, rows: &Rows<Self>, index: &[Option<usize>]) -> Act<Self>;
    /// Rows divided by their root mean square or, centred, by their standard deviation; gains and biases are folded
    /// into what follows.
    async fn norm(&self, x: &Act<Self>, norm: &Norm<Self>) -> Result<Act<Self>>;
    /// x · W^T + b.
    async fn linear(&self, x: &Act<Self>, w: &Linear<Self::V>) -> Result<Act<Self>>;
    /// x · W^T + b + gain ∘ h: a linear layer and a residual of normalised rows h.
    async fn linear_beside(
        &self,
        x: &Act<Self>,
        w: &Linear<Self::V>,
        h: &Act<Self>,
        gain: &Rows<Self>,
    ) -> Result<Act<Self>>;
    /// x + y.
    fn add(&self, x: &Act<Self>, y: &Act<Self>) -> Act<Self>;
    /// Scores of new queries with the `kept` (sequence by sequence) and the new keys. Queries, keys and values are x · W^T + b,
    /// side by side; pairs of columns of queries and keys are rotated by public angles if there is a rotation.
    async fn scores(
        &self,
        x: &Act<Self>,
        w: &Linear<Self::V>,
        r: Option<&Rotation>,
        kept: &[Option<&FactorOf<Self>>],
        s: &AttentionShape,
        p: &Softmax<Self>,
    ) -> Result<Scored<Act<Self>, FactorOf<Self>>>;
    /// e^(score − some shift of its row).
    async fn exponentials(
        &self,
        scores: &Act<Self>,
        s: &AttentionShape,
        p: &Softmax<Self>,
    ) -> Result<Act<Self>>;
    /// Σ e · v / Σ e for every head and query; v sequence by sequence. The division comes last: it is a head's width of
    /// products a row instead of the row's length.
    async fn weighted_mean(
        &self,
        e: &Act<Self>,
        v: &[&FactorOf<Self>],
        s: &AttentionShape,
        p: &Softmax<Self>,
    ) -> Result<Act<Self>>;
    /// f(x · W^T + b), element by element.
    async fn activate(&self, x: &Act<Self>, w: &Linear<Self::V>, f: &Activation<Self>) -> Result<Act<Self>>;
    /// f(g) · u, element by element, where x · W^T + b is g and u side by side.
    async fn gated(&self, x: &Act<Self>, w: &Linear<Self::V>, f: &Activation<Self>) -> Result<Act<Self>>;
    /// Scores x · W^T + b, for the client.
    fn scores_out(&self, x: &Act<Self>, w: &Linear<Self::V>) -> Result<Output<Self>>;
    /// Sums over the rows of each sequence of gain ∘ x + bias, one row each, for the client; `counts` says how many rows.
    fn pooled_out(
        &self,
        x: &Act<Self>,
        counts: &[usize],
        gain: &Rows<Self>,
        bias: &Rows<Self>,
    ) -> Result<Output<Self>>;
}
