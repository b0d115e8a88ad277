//! The algebra a transformer is written in, and its four readings.
//!
//! A family (see [`llama`](crate::llama)) is one generic program over [`Algebra`]. Read as
//! [`Float`](crate::float::Float) it is the plaintext reference, as [`Clear`](crate::clear::Clear) the same integers
//! and tables in the clear, as [`Secure`](crate::secure::Secure) a party's part of the protocol, as
//! [`Dry`](crate::dry::Dry) the cost alone. Operations are asynchronous because a secure one exchanges messages;
//! operations joined with [`protocol::join`] share their exchanges.

use crate::attention::AttentionShape;
use crate::rotary::Rotation;
use protocol::Result;

/// Fractional bits of activations and weights.
pub const SCALE: u32 = 18;

/// The kinds of values of a reading.
pub trait Values {
    /// An activation matrix.
    type Act: Clone;
    /// A weight matrix.
    type Matrix;
    /// Parameters of a norm.
    type Norm;
    /// Parameters of a softmax.
    type Softmax;
    /// Parameters of a gated activation.
    type Gate;
    /// The tokens of a pass.
    type Input;
    /// What a pass yields.
    type Logits;
}

/// An activation of a reading.
pub type Act<A> = <<A as Algebra>::V as Values>::Act;
/// A weight matrix of a reading.
pub type Matrix<A> = <<A as Algebra>::V as Values>::Matrix;
/// A norm of a reading.
pub type Norm<A> = <<A as Algebra>::V as Values>::Norm;
/// A softmax of a reading.
pub type Softmax<A> = <<A as Algebra>::V as Values>::Softmax;
/// A gate of a reading.
pub type Gate<A> = <<A as Algebra>::V as Values>::Gate;
/// Tokens of a reading.
pub type Input<A> = <<A as Algebra>::V as Values>::Input;
/// Output of a reading.
pub type Logits<A> = <<A as Algebra>::V as Values>::Logits;

/// One way of reading a model. Activations are matrices, one token a row.
// Programs are polled by the thread that made them, so their futures need not be `Send`.
#[allow(async_fn_in_trait)]
pub trait Algebra: Clone {
    /// The kinds of values.
    type V: Values;

    /// The same reading inside a named part of the model.
    fn scope(&self, name: &str) -> Self;

    /// Token embeddings.
    async fn embed(&self, tokens: &Input<Self>, table: &Matrix<Self>) -> Result<Act<Self>>;
    /// Rows divided by their root mean square; gains are folded into the matrix that follows.
    async fn norm(&self, x: &Act<Self>, norm: &Norm<Self>) -> Result<Act<Self>>;
    /// x · W^T.
    async fn linear(&self, x: &Act<Self>, w: &Matrix<Self>) -> Result<Act<Self>>;
    /// x · W^T with pairs of columns rotated by public angles.
    async fn linear_rotated(&self, x: &Act<Self>, w: &Matrix<Self>, r: &Rotation) -> Result<Act<Self>>;
    /// Number of columns.
    fn width(&self, x: &Act<Self>) -> usize;
    /// Columns [from, to).
    fn columns(&self, x: &Act<Self>, from: usize, to: usize) -> Act<Self>;
    /// Rows [from, to).
    fn rows(&self, x: &Act<Self>, from: usize, to: usize) -> Act<Self>;
    /// Rows of `cache`, then rows of `x`.
    fn append(&self, cache: Option<&Act<Self>>, x: &Act<Self>) -> Act<Self>;
    /// x + y.
    fn add(&self, x: &Act<Self>, y: &Act<Self>) -> Act<Self>;
    /// Causal scores q · k^T of every head, flat (see [`AttentionShape`]).
    async fn scores(&self, q: &Act<Self>, k: &Act<Self>, s: &AttentionShape) -> Result<Act<Self>>;
    /// e^(score − some shift of its row).
    async fn exponentials(
        &self,
        scores: &Act<Self>,
        s: &AttentionShape,
        p: &Softmax<Self>,
    ) -> Result<Act<Self>>;
    /// Σ e · v for every head and query.
    async fn weighted_sum(&self, e: &Act<Self>, v: &Act<Self>, s: &AttentionShape) -> Result<Act<Self>>;
    /// 1 / Σ e for every head and query.
    async fn reciprocal_sums(
        &self,
        e: &Act<Self>,
        s: &AttentionShape,
        p: &Softmax<Self>,
    ) -> Result<Act<Self>>;
    /// Each head's columns times its row's factor.
    async fn scale_heads(&self, o: &Act<Self>, r: &Act<Self>, s: &AttentionShape) -> Result<Act<Self>>;
    /// f(g) · u, element-wise.
    async fn gated(&self, g: &Act<Self>, u: &Act<Self>, p: &Gate<Self>) -> Result<Act<Self>>;
    /// Output scores of the given rows.
    fn logits(&self, x: &Act<Self>, w: &Matrix<Self>) -> Result<Logits<Self>>;
}
