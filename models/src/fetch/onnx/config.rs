//! The model's sizes and constants, and the configuration that says them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::graph::{Graph, Node};
use super::weights::Dense;
use super::{OnnxError, refuse};

/// The model's sizes.
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) d_model: usize,
    pub(super) d_ff: usize,
    pub(super) heads: usize,
    pub(super) vocab: usize,
    pub(super) positions: usize,
    pub(super) types: usize,
    pub(super) labels: usize,
}

impl Shape {
    pub(super) fn of(graph: &Graph, dense: &HashMap<&str, Dense<'_>>) -> Result<Self, OnnxError> {
        let embedding = |kind: &str| {
            let name = format!("bert.embeddings.{kind}_embeddings.weight");
            match graph.constants.get(&name).map(|tensor| tensor.dims.as_slice()) {
                Some(&[rows, width]) => Ok((rows, width)),
                _ => Err(refuse(format!("{name} is missing or no matrix"))),
            }
        };
        let columns = |base: &str| {
            let dims = dense.get(base).map(|dense| (dense.weight.dims.as_slice(), dense.transposed));
            match dims {
                Some((&[_, out], true) | (&[out, _], false)) => Ok(out),
                _ => Err(refuse(format!("the weights of {base} are missing or no matrix"))),
            }
        };
        let (vocab, d_model) = embedding("word")?;
        let layer = |i: usize| format!("bert.encoder.layer.{i}");
        let has_queries =
            |&i: &usize| dense.contains_key(format!("{}.attention.self.query", layer(i)).as_str());
        let layers = (0..).take_while(has_queries).count();
        let mut heads = (0..layers).map(|i| heads(graph, dense, &layer(i), d_model));
        let first = heads.next().ok_or_else(|| refuse("it has no layers".into()))??;
        if !heads.all(|heads| heads.is_ok_and(|heads| heads == first)) {
            return Err(refuse("the layers' numbers of heads differ or are unclear".into()));
        }
        Ok(Self {
            layers,
            d_model,
            d_ff: columns(&format!("{}.intermediate.dense", layer(0)))?,
            heads: first,
            vocab,
            positions: embedding("position")?.0,
            types: embedding("token_type")?.0,
            labels: columns("classifier")?,
        })
    }
}

/// The number of heads: an extent of the shape, put together by a `Concat`, that the queries are brought into.
fn heads(
    graph: &Graph,
    dense: &HashMap<&str, Dense<'_>>,
    layer: &str,
    d_model: usize,
) -> Result<usize, OnnxError> {
    let find = || {
        let queries = dense.get(format!("{layer}.attention.self.query").as_str())?.output;
        let reshape =
            |node: &&Node| node.op == "Reshape" && node.inputs.first().is_some_and(|i| i == queries);
        let shape = graph.nodes.iter().find(reshape)?.inputs.get(1)?;
        let concat = graph.nodes.iter().find(|node| node.op == "Concat" && node.output == *shape)?;
        let [_, _, heads, width] = concat.inputs.as_slice() else { return None };
        let extent = |name: &String| usize::try_from(graph.constants.get(name)?.integer()?).ok();
        let (heads, width) = (extent(heads)?, extent(width)?);
        (heads.checked_mul(width)? == d_model && d_model > 0).then_some(heads)
    };
    find().ok_or_else(|| refuse(format!("the number of heads of {layer} is unclear")))
}

/// Hugging Face's `config.json`.
#[derive(Serialize)]
pub(super) struct Config {
    architectures: [&'static str; 1],
    model_type: &'static str,
    hidden_act: &'static str,
    hidden_size: usize,
    id2label: BTreeMap<usize, &'static str>,
    intermediate_size: usize,
    label2id: BTreeMap<&'static str, usize>,
    layer_norm_eps: f32,
    max_position_embeddings: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_labels: usize,
    position_embedding_type: &'static str,
    type_vocab_size: usize,
    vocab_size: usize,
}

impl Config {
    pub(super) fn of(graph: &Graph, shape: &Shape, labels: &[&'static str]) -> Result<Self, OnnxError> {
        let count = |op: &str| graph.nodes.iter().filter(|node| node.op == op).count();
        if count("Erf") != shape.layers || count("Tanh") != 1 {
            return Err(refuse("its activation is not GELU, or its pooler has no tanh".into()));
        }
        Ok(Self {
            architectures: ["BertForSequenceClassification"],
            model_type: "bert",
            hidden_act: "gelu",
            hidden_size: shape.d_model,
            id2label: labels.iter().copied().enumerate().collect(),
            intermediate_size: shape.d_ff,
            label2id: labels.iter().copied().enumerate().map(|(i, label)| (label, i)).collect(),
            layer_norm_eps: epsilon(graph, shape)?,
            max_position_embeddings: shape.positions,
            num_attention_heads: shape.heads,
            num_hidden_layers: shape.layers,
            num_labels: shape.labels,
            position_embedding_type: "absolute",
            type_vocab_size: shape.types,
            vocab_size: shape.vocab,
        })
    }
}

/// What each LayerNorm adds to the mean square.
fn epsilon(graph: &Graph, shape: &Shape) -> Result<f32, OnnxError> {
    let means: HashSet<&String> =
        graph.nodes.iter().filter(|node| node.op == "ReduceMean").map(|node| &node.output).collect();
    let added = |node: &Node| {
        let [a, b] = node.inputs.as_slice() else { return None };
        let (_, constant) = [(a, b), (b, a)].into_iter().find(|(mean, _)| means.contains(mean))?;
        graph.constants.get(constant)?.scalar()
    };
    let all: Vec<f32> = graph.nodes.iter().filter(|node| node.op == "Add").filter_map(added).collect();
    let sound = |eps: &f32| eps.is_finite() && *eps > 0.0;
    match all.first() {
        Some(eps) if sound(eps) && all.len() == 2 * shape.layers + 1 && all.iter().all(|e| e == eps) => {
            Ok(*eps)
        }
        _ => Err(refuse(format!("its LayerNorms add {all:?}"))),
    }
}
