//! A BERT classifier that PyTorch exported to ONNX, back in the form of Hugging Face.
//!
//! It is for the file of [`super::router`], and strict: what it does not know, it refuses. Read are
//! the graph's constants (*initialisers*) and, of each node, the operation, the names of inputs and
//! output, and numeric attributes (`onnx.proto` of <https://github.com/onnx/onnx>; [`messages`] has
//! the fields). From these follow
//!
//! - *weights*: embeddings and LayerNorms keep their PyTorch names. A dense layer inside the encoder
//!   is `MatMul` by an anonymous constant W then `Add` of a bias, which keeps its name and so names W. As
//!   ONNX multiplies x·W, W is \[in\]\[out\] and is transposed to PyTorch's \[out\]\[in\]. Pooler
//!   and classifier are `Gemm` with `transB` = 1: not transposed. No number is changed;
//! - *layers, widths, vocabulary, labels*: from the tensors' extents, which must agree;
//! - *heads*: from the reshaping of each layer's queries to \[batch\]\[tokens\]\[heads\]\[width\];
//! - *ε*: the constant added to the mean square in each LayerNorm, the same in all;
//! - *activation*: exact GELU, as there is one `Erf` for each layer and no other such function.
//!
//! Refused are other operations, types but f32 and i64, data outside `raw_data`, f32 constants of more
//! than one element that are no weight of this model, and missing or ambiguous ones. Not checked
//! is how operations are wired beyond that: that the graph is a BERT's is known of the one file whose
//! SHA-256 is pinned.
//!
//! The output depends on the input alone, to the byte, so it is pinned by SHA-256 too.

mod config;
mod graph;
mod messages;
mod weights;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};

use config::{Config, Shape};
use graph::Graph;
use weights::{dense_layers, weights};

/// Why a file was not converted.
#[derive(Debug, thiserror::Error)]
pub(super) enum OnnxError {
    #[error("the ONNX file is damaged: {0}")]
    Damaged(#[from] prost::DecodeError),
    #[error("the ONNX file is not a BERT classifier of the known form: {0}")]
    Refused(String),
    #[error("the weights cannot be written: {0}")]
    Safetensors(#[from] SafeTensorError),
    #[error("the configuration cannot be written: {0}")]
    Config(#[from] serde_json::Error),
}

fn refuse(why: String) -> OnnxError {
    OnnxError::Refused(why)
}

/// The two files that are made.
pub(super) struct Converted {
    /// `model.safetensors`.
    pub(super) weights: Vec<u8>,
    /// `config.json`.
    pub(super) config: Vec<u8>,
}

/// Converts `model.onnx` in a folder to `model.safetensors` and `config.json` beside it.
pub(super) fn convert_in(folder: &Path, labels: &[&'static str]) -> Result<(), String> {
    let onnx = fs::read(folder.join("model.onnx")).map_err(|e| format!("cannot read model.onnx: {e}"))?;
    let converted = convert(&onnx, labels).map_err(|e| e.to_string())?;
    for (name, data) in [("model.safetensors", converted.weights), ("config.json", converted.config)] {
        fs::write(folder.join(name), data).map_err(|e| format!("cannot write {name}: {e}"))?;
    }
    Ok(())
}

/// Converts a file; `labels` names the classifier's outputs.
pub(super) fn convert(onnx: &[u8], labels: &[&'static str]) -> Result<Converted, OnnxError> {
    let graph = Graph::decode(onnx)?;
    check_operations(&graph)?;
    let dense = dense_layers(&graph)?;
    let shape = Shape::of(&graph, &dense)?;
    if shape.labels != labels.len() {
        return Err(refuse(format!("it has {} labels, not {}", shape.labels, labels.len())));
    }
    let weights = weights(&graph, &dense, &shape)?;
    let mut views = Vec::with_capacity(weights.len());
    for (name, tensor) in &weights {
        views.push((name, TensorView::new(Dtype::F32, tensor.dims.clone(), &tensor.data)?));
    }
    // Hugging Face's loader looks for this note of the orientation.
    let note = HashMap::from([("format".into(), "pt".into())]);
    let weights = safetensors::serialize(views, Some(note))?;
    let mut config = serde_json::to_vec_pretty(&Config::of(&graph, &shape, labels)?)?;
    config.push(b'\n');
    Ok(Converted { weights, config })
}

/// The operations of the known form.
const OPERATIONS: &[&str] = &[
    "Add",
    "Cast",
    "Concat",
    "Div",
    "Equal",
    "Erf",
    "Expand",
    "Gather",
    "Gemm",
    "MatMul",
    "Mul",
    "Pow",
    "ReduceMean",
    "Reshape",
    "Shape",
    "Slice",
    "Softmax",
    "Sqrt",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Where",
];

fn check_operations(graph: &Graph) -> Result<(), OnnxError> {
    match graph.nodes.iter().find(|node| !OPERATIONS.contains(&node.op.as_str())) {
        Some(node) => Err(refuse(format!("operation {:?}", node.op))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
