//! Transformer models: their files, their tokenizers and the ways of computing them.

pub mod algebra;
pub mod attention;
pub mod benchmark;
mod bert;
pub mod calibrate;
pub mod checkpoint;
pub mod clear;
pub mod dry;
pub mod evaluation;
pub mod fetch;
pub mod float;
pub mod float_math;
pub mod folded;
pub mod gguf;
mod gpt2;
pub mod hub;
mod llama;
pub mod memory;
pub mod model;
pub mod parameter;
pub mod plan;
pub mod rotary;
pub mod secure;
pub mod shared;
pub mod tokenizer;
