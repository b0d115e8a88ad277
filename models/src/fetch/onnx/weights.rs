//! The weights: which constant is which, and in PyTorch's orientation.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::config::Shape;
use super::graph::{Graph, Tensor};
use super::{OnnxError, refuse};

/// A dense layer's weights and where its result goes.
pub(super) struct Dense<'a> {
    pub(super) weight: &'a Tensor,
    pub(super) weight_name: &'a str,
    /// Whether `weight` is \[in\]\[out\].
    pub(super) transposed: bool,
    pub(super) output: &'a str,
}

/// Dense layers by the name that their bias has before `.bias`.
pub(super) fn dense_layers(graph: &Graph) -> Result<HashMap<&str, Dense<'_>>, OnnxError> {
    let constant = |name: &String| graph.constants.get_key_value(name).filter(|(_, tensor)| tensor.is_f32());
    let mut products = HashMap::new();
    let mut layers = HashMap::new();
    let mut add = |bias: &'_ String, layer| {
        let (bias, _) = constant(bias)?;
        let base = bias.strip_suffix(".bias")?;
        Some((base, layers.insert(base, layer).is_some()))
    };
    for node in &graph.nodes {
        let added = match (node.op.as_str(), node.inputs.as_slice()) {
            ("MatMul", [_, weight]) => {
                if let Some((name, weight)) = constant(weight) {
                    products.insert(node.output.as_str(), (name, weight));
                }
                None
            }
            ("Add", [a, b]) => [(a, b), (b, a)].into_iter().find_map(|(bias, product)| {
                let &(weight_name, weight) = products.get(product.as_str())?;
                add(bias, Dense { weight, weight_name, transposed: true, output: &node.output })
            }),
            ("Gemm", [_, weight, bias]) => {
                let plain = node.integer("transA") == 0 && node.integer("transB") == 1;
                if !plain || node.float("alpha") != 1.0 || node.float("beta") != 1.0 {
                    return Err(refuse(format!("the product {} is not x·Wᵀ + b", node.output)));
                }
                let Some((weight_name, weight)) = constant(weight) else { continue };
                add(bias, Dense { weight, weight_name, transposed: false, output: &node.output })
            }
            _ => None,
        };
        if let Some((base, true)) = added {
            return Err(refuse(format!("two products belong to {base}.bias")));
        }
    }
    Ok(layers)
}

/// All weights in PyTorch's orientation, by PyTorch's names.
pub(super) fn weights(
    graph: &Graph,
    dense: &HashMap<&str, Dense<'_>>,
    shape: &Shape,
) -> Result<BTreeMap<String, Tensor>, OnnxError> {
    let mut all = BTreeMap::new();
    let mut used = HashSet::new();
    let mut take = |name: String, constant: &str, transposed: bool, dims: &[usize]| {
        let found = graph.constants.get_key_value(constant).filter(|(_, tensor)| tensor.is_f32());
        let (key, tensor) = found.ok_or_else(|| refuse(format!("{name} is missing")))?;
        // So no more is written than was read.
        if !used.insert(key.as_str()) {
            return Err(refuse(format!("{key} is used twice")));
        }
        let tensor = if transposed { transpose(tensor) } else { copy(tensor) };
        if tensor.dims != dims {
            return Err(refuse(format!("{name} has extents {:?}, not {dims:?}", tensor.dims)));
        }
        all.insert(name, tensor);
        Ok(())
    };
    for (name, dims) in plain_tensors(shape) {
        take(name.clone(), &name, false, &dims)?;
    }
    for (base, [out, inner]) in dense_tensors(shape) {
        let layer = dense.get(base.as_str()).ok_or_else(|| refuse(format!("{base} is missing")))?;
        take(format!("{base}.weight"), layer.weight_name, layer.transposed, &[out, inner])?;
        let bias = format!("{base}.bias");
        take(bias.clone(), &bias, false, &[out])?;
    }
    let mut constants = graph.constants.iter();
    let unknown = constants.find(|(name, tensor)| {
        tensor.is_f32() && tensor.data.len() > size_of::<f32>() && !used.contains(name.as_str())
    });
    match unknown {
        Some((name, _)) => Err(refuse(format!("{name} is no weight of such a model"))),
        None => Ok(all),
    }
}

/// Embeddings and LayerNorms, with their extents.
fn plain_tensors(shape: &Shape) -> Vec<(String, Vec<usize>)> {
    let d = shape.d_model;
    let embedding = |kind, rows| (format!("bert.embeddings.{kind}_embeddings.weight"), vec![rows, d]);
    let mut tensors = vec![
        embedding("word", shape.vocab),
        embedding("position", shape.positions),
        embedding("token_type", shape.types),
    ];
    let mut norm = |of: String| {
        tensors.extend(["weight", "bias"].map(|part| (format!("{of}.LayerNorm.{part}"), vec![d])));
    };
    norm("bert.embeddings".into());
    for i in 0..shape.layers {
        norm(format!("bert.encoder.layer.{i}.attention.output"));
        norm(format!("bert.encoder.layer.{i}.output"));
    }
    tensors
}

/// Dense layers, with their outputs and inputs.
fn dense_tensors(shape: &Shape) -> Vec<(String, [usize; 2])> {
    let (d, f) = (shape.d_model, shape.d_ff);
    let mut layers = vec![("bert.pooler.dense".into(), [d, d]), ("classifier".into(), [shape.labels, d])];
    for i in 0..shape.layers {
        let parts = [
            ("attention.self.query", [d, d]),
            ("attention.self.key", [d, d]),
            ("attention.self.value", [d, d]),
            ("attention.output.dense", [d, d]),
            ("intermediate.dense", [f, d]),
            ("output.dense", [d, f]),
        ];
        layers.extend(parts.map(|(part, dims)| (format!("bert.encoder.layer.{i}.{part}"), dims)));
    }
    layers
}

fn copy(tensor: &Tensor) -> Tensor {
    Tensor { dims: tensor.dims.clone(), data_type: tensor.data_type, data: tensor.data.clone() }
}

/// The transpose of a matrix; anything else as it is.
fn transpose(tensor: &Tensor) -> Tensor {
    let &[rows, columns] = tensor.dims.as_slice() else { return copy(tensor) };
    let mut data = Vec::with_capacity(tensor.data.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = size_of::<f32>() * (row * columns + column);
            data.extend_from_slice(&tensor.data[at..at + size_of::<f32>()]);
        }
    }
    Tensor { dims: vec![columns, rows], data_type: tensor.data_type, data }
}
