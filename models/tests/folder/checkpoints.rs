//! Folders of Hugging Face with the weights of a [`RandomModel`], laid out as the library `transformers` saves them.
//! Names and layouts are written down here once more, from that library's classes.

use std::collections::BTreeMap;

use models::checkpoint::{
    Activation, Family, Head, Kind, LayerTensor, ModelConfig, RandomModel, TensorId, TensorSource,
};
use serde_json::{Value, json};

use super::{Folder, safetensors};

/// Tensors by name, to be changed before they are written: extents, and elements row by row.
pub struct Weights(pub BTreeMap<String, (Vec<usize>, Vec<f32>)>);

/// Whose habits a folder follows.
#[derive(Clone, Copy, Default)]
pub struct Style {
    /// Names of the body without the prefix of a model with a head.
    pub bare: bool,
    /// A norm's gain and bias are called gamma and beta.
    pub gamma: bool,
}

/// `config.json`.
pub fn config_json(c: &ModelConfig) -> Value {
    match c.family {
        Family::Llama => {
            let rotary = c.rotary.as_ref().unwrap();
            assert!(!rotary.interleaved && rotary.factors.is_empty(), "not of this library");
            let (class, model_type) = match c.qkv_bias {
                true => ("Qwen2ForCausalLM", "qwen2"),
                false => ("LlamaForCausalLM", "llama"),
            };
            json!({
                "architectures": [class], "model_type": model_type, "hidden_act": "silu",
                "hidden_size": c.d_model, "intermediate_size": c.d_ff, "num_hidden_layers": c.layers,
                "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim,
                "vocab_size": c.vocab, "max_position_embeddings": c.context, "rms_norm_eps": c.norm_eps,
                "rope_theta": rotary.base, "tie_word_embeddings": c.tied
            })
        }
        Family::Gpt2 => {
            let activation = if c.activation == Activation::Gelu { "gelu" } else { "gelu_new" };
            json!({
                "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": activation,
                "n_embd": c.d_model, "n_inner": c.d_ff, "n_layer": c.layers, "n_head": c.heads,
                "n_positions": c.context, "n_ctx": c.context, "vocab_size": c.vocab,
                "layer_norm_epsilon": c.norm_eps, "tie_word_embeddings": c.tied
            })
        }
        Family::Bert | Family::Roberta => {
            let roberta = c.family == Family::Roberta;
            let mut config = json!({
                "model_type": if roberta { "roberta" } else { "bert" }, "hidden_act": "gelu",
                "hidden_size": c.d_model, "intermediate_size": c.d_ff, "num_hidden_layers": c.layers,
                "num_attention_heads": c.heads, "vocab_size": c.vocab, "type_vocab_size": c.types,
                "max_position_embeddings": c.context + c.position_offset, "layer_norm_eps": c.norm_eps
            });
            if roberta {
                config["pad_token_id"] = json!(c.position_offset - 1);
            }
            let stem = if roberta { "Roberta" } else { "Bert" };
            match c.head {
                Head::Classifier { labels } => {
                    config["architectures"] = json!([format!("{stem}ForSequenceClassification")]);
                    config["num_labels"] = json!(labels);
                }
                _ => config["architectures"] = json!([format!("{stem}Model")]),
            }
            config
        }
    }
}

impl Weights {
    /// All tensors of a model.
    pub fn of(source: &mut RandomModel, style: Style) -> Self {
        let c = source.config().clone();
        let mut weights = BTreeMap::new();
        for which in TensorId::all(&c) {
            let data = source.load(which).unwrap();
            let (rows, columns) = which.shape(&c);
            let name = name(&c, which, style);
            if let (Family::Gpt2, TensorId::Layer(i, t, kind)) = (c.family, which) {
                match t {
                    LayerTensor::Q => {
                        let parts = [LayerTensor::Q, LayerTensor::K, LayerTensor::V]
                            .map(|t| source.load(TensorId::Layer(i, t, kind)).unwrap());
                        weights.insert(name, conv1d(&parts.concat(), 3 * rows, columns, kind));
                        continue;
                    }
                    LayerTensor::K | LayerTensor::V => continue,
                    LayerTensor::AttentionNorm | LayerTensor::FeedForwardNorm => {}
                    _ => {
                        weights.insert(name, conv1d(&data, rows, columns, kind));
                        continue;
                    }
                }
            }
            let shape = if is_vector(which) { vec![rows * columns] } else { vec![rows, columns] };
            weights.insert(name, (shape, data));
        }
        Self(weights)
    }

    /// Adds a tensor of some shape, all ones.
    pub fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.insert(name.into(), (shape.to_vec(), vec![1.0; shape.iter().product()]));
    }

    /// The tensor whose name ends so.
    pub fn find(&mut self, end: &str) -> &mut (Vec<usize>, Vec<f32>) {
        self.0.iter_mut().find(|(name, _)| name.ends_with(end)).map(|(_, tensor)| tensor).expect(end)
    }

    fn bytes<'a>(tensors: impl Iterator<Item = (&'a String, &'a (Vec<usize>, Vec<f32>))>) -> Vec<u8> {
        let tensors: Vec<_> = tensors
            .map(|(name, (shape, data))| {
                let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
                (&name[..], "F32", &shape[..], bytes)
            })
            .collect();
        safetensors(&tensors)
    }

    /// A folder with one file of weights.
    pub fn folder(&self, c: &ModelConfig) -> Folder {
        let folder = Folder::new();
        folder.write_json("config.json", &config_json(c));
        folder.write("model.safetensors", &Self::bytes(self.0.iter()));
        folder
    }

    /// A folder with the tensors dealt out to some files, and an index.
    pub fn sharded(&self, c: &ModelConfig, files: usize) -> Folder {
        let folder = Folder::new();
        folder.write_json("config.json", &config_json(c));
        let file = |i: usize| format!("model-{:05}-of-{files:05}.safetensors", i + 1);
        let mut map = serde_json::Map::new();
        for i in 0..files {
            let dealt = || self.0.iter().skip(i).step_by(files);
            folder.write(&file(i), &Self::bytes(dealt()));
            map.extend(dealt().map(|(name, _)| (name.clone(), json!(file(i)))));
        }
        folder.write_json("model.safetensors.index.json", &json!({"metadata": {}, "weight_map": map}));
        folder
    }
}

fn is_vector(which: TensorId) -> bool {
    use LayerTensor::{AttentionNorm, FeedForwardNorm};
    match which {
        TensorId::EmbeddingNorm(_) | TensorId::FinalNorm(_) => true,
        TensorId::Layer(_, AttentionNorm | FeedForwardNorm, _) | TensorId::Layer(.., Kind::Bias) => true,
        TensorId::Pooler(kind) | TensorId::Classifier(kind) => kind == Kind::Bias,
        _ => false,
    }
}

/// The library's `Conv1D`: one row an input.
fn conv1d(data: &[f32], rows: usize, columns: usize, kind: Kind) -> (Vec<usize>, Vec<f32>) {
    if kind == Kind::Bias {
        return (vec![data.len()], data.to_vec());
    }
    let turned = (0..columns).flat_map(|j| (0..rows).map(move |i| data[i * columns + j])).collect();
    (vec![columns, rows], turned)
}

fn name(c: &ModelConfig, which: TensorId, style: Style) -> String {
    use LayerTensor::{AttentionNorm, Down, FeedForwardNorm, Gate, K, O, Q, Up, V};
    let suffix = |kind| if kind == Kind::Weight { "weight" } else { "bias" };
    let norm_suffix = |kind| match (kind, style.gamma) {
        (Kind::Weight, true) => "gamma",
        (Kind::Bias, true) => "beta",
        (kind, false) => suffix(kind),
    };
    let prefix = match c.family {
        _ if style.bare => "",
        Family::Llama => "model.",
        Family::Gpt2 => "transformer.",
        Family::Bert => "bert.",
        Family::Roberta => "roberta.",
    };
    match (c.family, which) {
        (Family::Llama, TensorId::Embedding) => format!("{prefix}embed_tokens.weight"),
        (Family::Llama, TensorId::FinalNorm(kind)) => format!("{prefix}norm.{}", suffix(kind)),
        (Family::Llama | Family::Gpt2, TensorId::Output) => "lm_head.weight".into(),
        (Family::Llama, TensorId::Layer(i, t, kind)) => {
            let part = match t {
                AttentionNorm => "input_layernorm",
                Q => "self_attn.q_proj",
                K => "self_attn.k_proj",
                V => "self_attn.v_proj",
                O => "self_attn.o_proj",
                FeedForwardNorm => "post_attention_layernorm",
                Gate => "mlp.gate_proj",
                Up => "mlp.up_proj",
                Down => "mlp.down_proj",
            };
            format!("{prefix}layers.{i}.{part}.{}", suffix(kind))
        }
        (Family::Gpt2, TensorId::Embedding) => format!("{prefix}wte.weight"),
        (Family::Gpt2, TensorId::Positions) => format!("{prefix}wpe.weight"),
        (Family::Gpt2, TensorId::FinalNorm(kind)) => format!("{prefix}ln_f.{}", suffix(kind)),
        (Family::Gpt2, TensorId::Layer(i, t, kind)) => {
            let part = match t {
                AttentionNorm => "ln_1",
                Q | K | V => "attn.c_attn",
                O => "attn.c_proj",
                FeedForwardNorm => "ln_2",
                Up => "mlp.c_fc",
                Down => "mlp.c_proj",
                Gate => unreachable!("GPT-2 has no gate"),
            };
            format!("{prefix}h.{i}.{part}.{}", suffix(kind))
        }
        (_, TensorId::Embedding) => format!("{prefix}embeddings.word_embeddings.weight"),
        (_, TensorId::Positions) => format!("{prefix}embeddings.position_embeddings.weight"),
        (_, TensorId::Types) => format!("{prefix}embeddings.token_type_embeddings.weight"),
        (_, TensorId::EmbeddingNorm(kind)) => format!("{prefix}embeddings.LayerNorm.{}", norm_suffix(kind)),
        (Family::Roberta, TensorId::Pooler(kind)) => format!("classifier.dense.{}", suffix(kind)),
        (Family::Roberta, TensorId::Classifier(kind)) => format!("classifier.out_proj.{}", suffix(kind)),
        (_, TensorId::Pooler(kind)) => format!("{prefix}pooler.dense.{}", suffix(kind)),
        (_, TensorId::Classifier(kind)) => format!("classifier.{}", suffix(kind)),
        (_, TensorId::Layer(i, t, kind)) => {
            let part = match t {
                AttentionNorm => "attention.output.LayerNorm",
                Q => "attention.self.query",
                K => "attention.self.key",
                V => "attention.self.value",
                O => "attention.output.dense",
                FeedForwardNorm => "output.LayerNorm",
                Up => "intermediate.dense",
                Down => "output.dense",
                Gate => unreachable!("BERT has no gate"),
            };
            let suffix = match t {
                AttentionNorm | FeedForwardNorm => norm_suffix(kind),
                _ => suffix(kind),
            };
            format!("{prefix}encoder.layer.{i}.{part}.{suffix}")
        }
        (family, which) => unreachable!("{family:?} has no {which:?}"),
    }
}
