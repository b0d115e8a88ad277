//! What one party computes alone: arithmetic in Z_2^64, pseudo-random streams, table look-ups,
//! distributed comparison and point functions, as whole-buffer operations on a device.
//!
//! A [`Words`] is a vector of 64-bit words that lives on a [`Device`]. Only [`Words::upload`],
//! [`Words::to_vec`], [`Words::pack`] and [`Words::unpack`] cross the border between host and device.
//! Every [`Backend`] computes the same bits; the conformance suite in `tests/` runs on all of them.

mod backend;
mod buffer;
mod comparison;
pub mod cpu;
pub mod cuda;
mod failure;
mod formula;
mod indices;
mod matrix;
mod message;
pub mod rates;
mod readings;
mod ring;
mod words;

pub use backend::{
    Backend, DPF_LEAF, Device, DpfKeys, EXP_BITS, GemmBatch, KeyStream, MADE_AT_ONCE, Map, Storage, Strides,
    Zip, coin_words, dpf_key_bytes, dpf_levels, exp_fraction,
};
pub use buffer::{Buffer, keep_freed_memory};
pub use comparison::{DcfKeys, DcfShape, DcfThresholds};
pub use failure::{DeviceError, Fault};
pub use formula::{Change, Formula, Input, Place, Step, Term};
pub use indices::{Indices, Segments};
pub use matrix::{Matrix, Tables};
pub use message::{Message, Received};
pub use ring::Ring;
pub use words::Words;
