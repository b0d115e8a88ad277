//! How good a model is, and how close two ways of computing it: tasks, their data, their measures.
//!
//! Nothing here runs a model. [`mrpc`], [`sst2`], [`lambada`] and [`text`] read what
//! [`crate::fetch::evaluation_data`] and [`crate::fetch::moby_dick`] fetch, [`metrics`] turns a
//! model's outputs into numbers, and [`Task`] says what belongs together.

mod data;
pub mod metrics;
mod task;

pub use data::{EvaluationError, Lambada, Pair, Sentence, lambada, mrpc, sst2, text};
pub use task::{ModelKind, Task, UnknownTask};
