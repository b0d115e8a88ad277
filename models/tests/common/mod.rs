//! What several test files need: a writer of small GGUF files and the default model.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of this.

use std::env;
use std::io::{self, Cursor, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use models::checkpoint::{Kind, LayerTensor, ModelConfig, RandomModel, TensorId, TensorSource};
use models::fetch;
use models::gguf::{Gguf, GgufError};

/// The default model's file; downloaded if need be. `None`, said loudly, where it cannot be had,
/// unless CATAMOUNT_REQUIRE_MODEL=1 makes that a failure.
pub fn default_model(test: &str) -> Option<PathBuf> {
    static PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let path = PATH.get_or_init(|| fetch::default_model(&mut |_| {}).map_err(|e| e.to_string()));
    or_skip(test, "the default model", path.clone())
}

/// What was to be fetched; as for [`default_model`] where it cannot be had.
pub fn or_skip(test: &str, what: &str, path: Result<PathBuf, String>) -> Option<PathBuf> {
    match path {
        Ok(path) => Some(path),
        Err(error) => {
            let required = env::var("CATAMOUNT_REQUIRE_MODEL").is_ok_and(|v| v == "1");
            assert!(!required, "{test} needs {what}: {error}");
            // Not `eprintln`, which the test runner keeps to itself.
            let _ = writeln!(io::stderr(), "\nSKIPPED: {test} needs {what}: {error}");
            None
        }
    }
}

pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// Writes GGUF files, right ones and, as its fields are open, wrong ones.
#[derive(Clone)]
pub struct Writer {
    pub version: u32,
    pub alignment: u64,
    pub metadata: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: u32,
    /// As written; where the data goes if `None`.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The weights that [`Writer::toy`] writes.
pub fn toy_weights() -> RandomModel {
    RandomModel::new(ModelConfig::toy(), 1).unwrap()
}

/// What GGUF files call the tensors of a LLaMA.
pub fn gguf_name(which: TensorId) -> String {
    use LayerTensor::{AttentionNorm, Down, FeedForwardNorm, Gate, K, O, Q, Up, V};
    let (stem, kind) = match which {
        TensorId::Embedding => ("token_embd".to_owned(), Kind::Weight),
        TensorId::FinalNorm(kind) => ("output_norm".to_owned(), kind),
        TensorId::Output => ("output".to_owned(), Kind::Weight),
        TensorId::Layer(i, t, kind) => {
            let name = match t {
                AttentionNorm => "attn_norm",
                Q => "attn_q",
                K => "attn_k",
                V => "attn_v",
                O => "attn_output",
                FeedForwardNorm => "ffn_norm",
                Gate => "ffn_gate",
                Up => "ffn_up",
                Down => "ffn_down",
            };
            (format!("blk.{i}.{name}"), kind)
        }
        other => panic!("a LLaMA has no {other:?}"),
    };
    format!("{stem}.{}", if kind == Kind::Bias { "bias" } else { "weight" })
}

impl Writer {
    pub fn new() -> Self {
        Self { version: 3, alignment: 32, metadata: Vec::new(), tensors: Vec::new() }
    }

    /// A complete model of the toy configuration with random weights and a tokenizer of single bytes.
    pub fn toy() -> Self {
        let mut model = toy_weights();
        let config = ModelConfig::toy();
        let mut w = Self::new();
        w.string("general.architecture", "llama");
        for (key, value) in [
            ("llama.block_count", config.layers),
            ("llama.context_length", config.context),
            ("llama.embedding_length", config.d_model),
            ("llama.feed_forward_length", config.d_ff),
            ("llama.attention.head_count", config.heads),
            ("llama.attention.head_count_kv", config.kv_heads),
            ("llama.vocab_size", config.vocab),
        ] {
            w.put(key, U32, &(value as u32).to_le_bytes());
        }
        w.put("llama.attention.layer_norm_rms_epsilon", F32, &1e-5f32.to_le_bytes());
        for which in TensorId::all(&config) {
            let (rows, columns) = which.shape(&config);
            let dims = if rows == 1 { vec![columns as u64] } else { vec![columns as u64, rows as u64] };
            let data = model.load(which).unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
            w.tensors.push(Tensor { name: gguf_name(which), dims, kind: 0, offset: None, data });
        }
        w
    }

    pub fn put(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.metadata.retain(|(k, ..)| k != key);
        self.metadata.push((key.to_owned(), kind, value.to_vec()));
    }

    pub fn string(&mut self, key: &str, value: &str) {
        self.put(key, STRING, &text(value));
    }

    pub fn strings(&mut self, key: &str, values: &[&str]) {
        let mut bytes = [&STRING.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| bytes.extend(text(v)));
        self.put(key, ARRAY, &bytes);
    }

    pub fn ints(&mut self, key: &str, values: &[i32]) {
        let mut bytes = [&5u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        self.put(key, ARRAY, &bytes);
    }

    pub fn tensor(&mut self, name: &str, dims: &[u64], kind: u32, data: &[u8]) {
        let (name, dims, data) = (name.to_owned(), dims.to_vec(), data.to_vec());
        self.tensors.push(Tensor { name, dims, kind, offset: None, data });
    }

    pub fn bytes(&self) -> Vec<u8> {
        let pad = |bytes: &mut Vec<u8>| {
            bytes.resize((bytes.len() as u64).next_multiple_of(self.alignment.max(1)) as usize, 0);
        };
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut data = Vec::new();
        for Tensor { name, dims, kind, offset, data: bytes } in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(bytes);
            pad(&mut data);
        }
        pad(&mut out);
        out.extend(data);
        out
    }

    pub fn open(&self) -> Result<Gguf, GgufError> {
        open(self.bytes())
    }
}

pub fn open(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
    Gguf::from_reader(Cursor::new(bytes))
}
