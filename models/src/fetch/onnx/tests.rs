use proptest::prelude::*;
use prost::Message;
use safetensors::SafeTensors;

use super::messages::{Attribute, FLOAT, INT64, Model, Node, Tensor};
use super::{convert, messages};

const LABELS: &[&str] = &["no", "yes"];
const D: i64 = 4;

/// A file, still in parts.
#[derive(Clone)]
struct File {
    nodes: Vec<Node>,
    constants: Vec<Tensor>,
}

fn node(op: &str, inputs: &[&str], output: &str) -> Node {
    Node {
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        op_type: Some(op.into()),
        ..Node::default()
    }
}

impl File {
    fn constant(&mut self, name: &str, dims: &[i64], data_type: i32, data: Vec<u8>) {
        let (name, raw_data) = (Some(name.into()), Some(data));
        self.constants.push(Tensor {
            dims: dims.to_vec(),
            data_type: Some(data_type),
            name,
            raw_data,
            data_location: None,
        });
    }

    /// Elements 0, 1, 2 and so on.
    fn counting(&mut self, name: &str, dims: &[i64]) {
        let data = (0..dims.iter().product::<i64>()).flat_map(|i| (i as f32).to_le_bytes()).collect();
        self.constant(name, dims, FLOAT, data);
    }

    /// A LayerNorm, as far as it is read.
    fn norm(&mut self, of: &str) {
        self.counting(&format!("{of}.LayerNorm.weight"), &[D]);
        self.counting(&format!("{of}.LayerNorm.bias"), &[D]);
        let mean = format!("{of}/mean");
        self.nodes.push(node("ReduceMean", &["square"], &mean));
        self.nodes.push(node("Add", &[&mean, "eps"], &format!("{of}/variance")));
    }

    fn dense(&mut self, base: &str, inner: i64, out: i64) {
        let (weight, product, bias) =
            (format!("onnx::MatMul_{base}"), format!("{base}/product"), format!("{base}.bias"));
        self.counting(&weight, &[inner, out]);
        self.counting(&bias, &[out]);
        self.nodes.push(node("MatMul", &["x", &weight], &product));
        self.nodes.push(node("Add", &[&bias, &product], &format!("{base}/sum")));
    }

    fn gemm(&mut self, base: &str, out: i64) {
        let (weight, bias) = (format!("{base}.weight"), format!("{base}.bias"));
        self.counting(&weight, &[out, D]);
        self.counting(&bias, &[out]);
        let mut gemm = node("Gemm", &["x", &weight, &bias], &format!("{base}/sum"));
        gemm.attribute = vec![Attribute { name: Some("transB".into()), i: Some(1), f: None }];
        self.nodes.push(gemm);
    }

    /// Two layers, width 4, two heads, feed-forward width 6.
    fn new() -> Self {
        let mut file = Self { nodes: Vec::new(), constants: Vec::new() };
        for (kind, rows) in [("word", 7), ("position", 5), ("token_type", 2)] {
            file.counting(&format!("bert.embeddings.{kind}_embeddings.weight"), &[rows, D]);
        }
        file.constant("eps", &[], FLOAT, 1e-5f32.to_le_bytes().into());
        file.constant("two", &[1], INT64, 2i64.to_le_bytes().into());
        file.norm("bert.embeddings");
        for i in 0..2 {
            let layer = format!("bert.encoder.layer.{i}");
            for part in ["self.query", "self.key", "self.value", "output.dense"] {
                file.dense(&format!("{layer}.attention.{part}"), D, D);
            }
            let shape = format!("{layer}/shape");
            file.nodes.push(node("Concat", &["batch", "tokens", "two", "two"], &shape));
            let queries = format!("{layer}.attention.self.query/sum");
            file.nodes.push(node("Reshape", &[&queries, &shape], &format!("{layer}/queries")));
            file.norm(&format!("{layer}.attention.output"));
            file.dense(&format!("{layer}.intermediate.dense"), D, 6);
            file.nodes.push(node("Erf", &["x"], &format!("{layer}/erf")));
            file.dense(&format!("{layer}.output.dense"), 6, D);
            file.norm(&format!("{layer}.output"));
        }
        file.gemm("bert.pooler.dense", D);
        file.nodes.push(node("Tanh", &["x"], "tanh"));
        file.gemm("classifier", 2);
        file
    }

    fn encode(&self) -> Vec<u8> {
        let graph = messages::Graph {
            node: self.nodes.iter().map(Message::encode_to_vec).collect(),
            initializer: self.constants.iter().map(Message::encode_to_vec).collect(),
            sparse_initializer: Vec::new(),
        };
        Model { graph: Some(graph.encode_to_vec()) }.encode_to_vec()
    }

    fn refusal(&self) -> String {
        match convert(&self.encode(), LABELS) {
            Ok(_) => panic!("it was converted"),
            Err(error) => error.to_string(),
        }
    }

    fn node_mut(&mut self, output: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.output == [output]).unwrap()
    }

    fn constant_mut(&mut self, name: &str) -> &mut Tensor {
        self.constants.iter_mut().find(|tensor| tensor.name() == name).unwrap()
    }
}

#[test]
fn weights_are_named_and_turned() {
    let converted = convert(&File::new().encode(), LABELS).unwrap();
    let tensors = SafeTensors::deserialize(&converted.weights).unwrap();
    assert_eq!(tensors.len(), 3 + 2 + 2 * 16 + 4);
    let read = |name: &str| {
        let tensor = tensors.tensor(name).unwrap();
        let elements = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        (tensor.shape().to_vec(), elements.collect::<Vec<f32>>())
    };
    // In the file [4][6] with elements 0, 1, 2 …
    let (shape, elements) = read("bert.encoder.layer.1.intermediate.dense.weight");
    assert_eq!(shape, [6, 4]);
    assert_eq!(elements[..6], [0.0, 6.0, 12.0, 18.0, 1.0, 7.0]);
    let (shape, elements) = read("classifier.weight");
    assert_eq!(shape, [2, 4]);
    assert_eq!(elements, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);

    let config: serde_json::Value = serde_json::from_slice(&converted.config).unwrap();
    let expected = serde_json::json!({
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_act": "gelu",
        "hidden_size": 4, "id2label": {"0": "no", "1": "yes"}, "intermediate_size": 6,
        "label2id": {"no": 0, "yes": 1}, "layer_norm_eps": 1e-5, "max_position_embeddings": 5,
        "num_attention_heads": 2, "num_hidden_layers": 2, "num_labels": 2,
        "position_embedding_type": "absolute", "type_vocab_size": 2, "vocab_size": 7,
    });
    assert_eq!(config, expected);
}

#[test]
fn output_depends_on_the_input_alone() {
    let mut file = File::new();
    let first = convert(&file.encode(), LABELS).unwrap();
    file.constants.reverse();
    let second = convert(&file.encode(), LABELS).unwrap();
    assert!(first.weights == second.weights && first.config == second.config);
}

type Spoil = fn(&mut File);

#[test]
fn refusals_name_the_trouble() {
    let cases: &[(&str, Spoil)] = &[
        ("operation \"Relu\"", |f| f.node_mut("tanh").op_type = Some("Relu".into())),
        ("not of ONNX itself", |f| f.node_mut("tanh").domain = Some("com.microsoft".into())),
        ("has 2 outputs", |f| f.node_mut("tanh").output.push("more".into())),
        ("pooler has no tanh", |f| f.nodes.retain(|n| n.output != ["tanh"])),
        ("activation is not GELU", |f| f.node_mut("bert.encoder.layer.1/erf").op_type = Some("Sqrt".into())),
        ("is not x·Wᵀ + b", |f| f.node_mut("classifier/sum").attribute[0].i = Some(0)),
        ("is not x·Wᵀ + b", |f| {
            let attribute = Attribute { name: Some("alpha".into()), f: Some(0.5), i: None };
            f.node_mut("classifier/sum").attribute.push(attribute);
        }),
        ("numbers of heads", |f| f.node_mut("bert.encoder.layer.1/shape").input[2] = "batch".into()),
        ("it has no layers", |f| f.nodes.retain(|n| n.op_type() != "MatMul")),
        ("two products belong", |f| {
            f.nodes.push(node("Add", &["classifier.bias", "bert.encoder.layer.0.output.dense/product"], "y"));
        }),
        ("LayerNorms add", |f| {
            f.constant("other", &[], FLOAT, 2f32.to_le_bytes().into());
            f.node_mut("bert.embeddings/variance").input[1] = "other".into();
        }),
        ("is missing", |f| f.constants.retain(|t| t.name() != "bert.encoder.layer.1.output.LayerNorm.bias")),
        ("is no weight of such a model", |f| f.counting("bert.encoder.adapter", &[2, 2])),
        ("used twice", |f| {
            let product = f.node_mut("bert.encoder.layer.1.attention.self.key/product");
            product.input[1] = "onnx::MatMul_bert.encoder.layer.1.attention.self.query".into();
        }),
        ("two constants eps", |f| f.counting("eps", &[])),
        ("neither f32 nor i64", |f| f.constant_mut("eps").data_type = Some(10)),
        ("lies in another file", |f| f.constant_mut("eps").data_location = Some(1)),
        ("negative extent", |f| f.constant_mut("eps").dims = vec![-1, -1]),
        ("bytes of raw data", |f| f.constant_mut("eps").dims = vec![i64::MAX, i64::MAX, 16]),
        ("bytes of raw data", |f| f.constant_mut("eps").raw_data = None),
        ("nodes or constants", |f| f.nodes.resize(20_000, Node::default())),
    ];
    for (expected, spoil) in cases {
        let mut file = File::new();
        spoil(&mut file);
        let refusal = file.refusal();
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    let mut file = File::new();
    file.constant_mut("onnx::MatMul_bert.encoder.layer.1.output.dense").dims.reverse();
    assert!(file.refusal().contains("has extents [6, 4], not [4, 6]"), "{}", file.refusal());
    let one = convert(&File::new().encode(), &["one"]).err().unwrap().to_string();
    assert!(one.contains("has 2 labels, not 1"), "{one}");
    assert!(convert(b"", LABELS).err().unwrap().to_string().contains("no graph"));
    assert!(convert(&vec![0; 33 << 20], LABELS).err().unwrap().to_string().contains("more than"));
}

proptest! {
    #[test]
    fn damage_is_an_error_or_goes_unnoticed(at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
        let mut onnx = File::new().encode();
        let at = at.index(onnx.len());
        onnx[at] = to;
        // The result may be right or wrong: it is only that nothing panics.
        let _ = convert(&onnx, LABELS);
        prop_assert!(convert(&onnx[..cut.index(onnx.len())], LABELS).is_err());
    }
}
