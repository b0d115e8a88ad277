//! A decoded graph: its constants by name, its nodes in order.

use std::collections::HashMap;

use prost::Message;

use super::messages::{self, FLOAT, INT64};
use super::{OnnxError, refuse};

/// Bounds on what is decoded. Decoding takes at most some 30 times a file's size in memory.
const MOST_BYTES: usize = 32 << 20;
const MOST_PARTS: usize = 1 << 14;

/// A constant; row-major and little-endian.
pub(super) struct Tensor {
    pub(super) dims: Vec<usize>,
    pub(super) data_type: i32,
    pub(super) data: Vec<u8>,
}

impl Tensor {
    fn new(name: &str, tensor: messages::Tensor) -> Result<Self, OnnxError> {
        let data_type = tensor.data_type.unwrap_or_default();
        let size = match data_type {
            FLOAT => 4,
            INT64 => 8,
            other => return Err(refuse(format!("{name} is of type {other}, neither f32 nor i64"))),
        };
        if tensor.data_location.is_some_and(|location| location != 0) {
            return Err(refuse(format!("the data of {name} lies in another file")));
        }
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|&n| usize::try_from(n).ok()).collect();
        let dims = dims.ok_or_else(|| refuse(format!("{name} has a negative extent")))?;
        let bytes = dims.iter().try_fold(size, |bytes: usize, &n| bytes.checked_mul(n));
        let data = tensor.raw_data.unwrap_or_default();
        if bytes != Some(data.len()) {
            return Err(refuse(format!("{name} has extents {dims:?} but {} bytes of raw data", data.len())));
        }
        Ok(Self { dims, data_type, data })
    }

    /// The one element of an f32 constant.
    pub(super) fn scalar(&self) -> Option<f32> {
        if self.data_type != FLOAT {
            return None;
        }
        Some(f32::from_le_bytes(self.data.as_slice().try_into().ok()?))
    }

    /// The one element of an i64 constant.
    pub(super) fn integer(&self) -> Option<i64> {
        if self.data_type != INT64 {
            return None;
        }
        Some(i64::from_le_bytes(self.data.as_slice().try_into().ok()?))
    }

    pub(super) fn is_f32(&self) -> bool {
        self.data_type == FLOAT
    }
}

/// An operation.
pub(super) struct Node {
    pub(super) op: String,
    pub(super) inputs: Vec<String>,
    /// Every operation here has one.
    pub(super) output: String,
    attributes: Vec<messages::Attribute>,
}

impl Node {
    fn new(node: messages::Node) -> Result<Self, OnnxError> {
        let op = node.op_type.unwrap_or_default();
        if node.domain.is_some_and(|domain| !domain.is_empty() && domain != "ai.onnx") {
            return Err(refuse(format!("operation {op} is not of ONNX itself")));
        }
        let [output] = <[String; 1]>::try_from(node.output)
            .map_err(|outputs| refuse(format!("operation {op} has {} outputs, not 1", outputs.len())))?;
        Ok(Self { op, inputs: node.input, output, attributes: node.attribute })
    }

    fn attribute(&self, name: &str) -> Option<&messages::Attribute> {
        self.attributes.iter().find(|attribute| attribute.name.as_deref() == Some(name))
    }

    /// An integer attribute, 0 if absent.
    pub(super) fn integer(&self, name: &str) -> i64 {
        self.attribute(name).and_then(|attribute| attribute.i).unwrap_or(0)
    }

    /// A float attribute, 1 if absent.
    pub(super) fn float(&self, name: &str) -> f32 {
        self.attribute(name).and_then(|attribute| attribute.f).unwrap_or(1.0)
    }
}

/// What is read of a file.
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) constants: HashMap<String, Tensor>,
}

impl Graph {
    pub(super) fn decode(onnx: &[u8]) -> Result<Self, OnnxError> {
        if onnx.len() > MOST_BYTES {
            return Err(refuse(format!("the file has {} bytes, more than {MOST_BYTES}", onnx.len())));
        }
        let model = messages::Model::decode(onnx)?;
        let graph = model.graph.ok_or_else(|| refuse("there is no graph".into()))?;
        let graph = messages::Graph::decode(graph.as_slice())?;
        let parts = graph.node.len().max(graph.initializer.len());
        if parts > MOST_PARTS {
            return Err(refuse(format!("the graph has {parts} nodes or constants, more than {MOST_PARTS}")));
        }
        if !graph.sparse_initializer.is_empty() {
            return Err(refuse("there are sparse constants".into()));
        }
        let mut constants = HashMap::with_capacity(graph.initializer.len());
        for bytes in graph.initializer {
            let mut tensor = messages::Tensor::decode(bytes.as_slice())?;
            let name = tensor.name.take().unwrap_or_default();
            let tensor = Tensor::new(&name, tensor)?;
            if constants.contains_key(&name) {
                return Err(refuse(format!("there are two constants {name}")));
            }
            constants.insert(name, tensor);
        }
        let decode = |bytes: Vec<u8>| Node::new(messages::Node::decode(bytes.as_slice())?);
        let nodes = graph.node.into_iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Self { nodes, constants })
    }
}
