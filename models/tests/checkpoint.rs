//! LLaMA checkpoints from GGUF files: small ones written here, and the default model.

mod common;

use common::{F32, STRING, U32, Writer, default_model, text};
use models::checkpoint::{GgufCheckpoint, LayerTensor, LlamaConfig, LlamaTensor, RandomLlama, TensorSource};
use models::gguf::{Gguf, TensorType};

fn refused(w: &Writer, words: &str) {
    let error = GgufCheckpoint::new(w.open().unwrap()).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn written_weights_are_read_back() {
    let mut read = GgufCheckpoint::new(Writer::toy().open().unwrap()).unwrap();
    assert_eq!(read.config(), &LlamaConfig::toy());
    let mut made = RandomLlama::toy(1);
    for which in LlamaTensor::all(&LlamaConfig::toy()).chain([LlamaTensor::Output]) {
        assert_eq!(read.load(which).unwrap(), made.load(which).unwrap(), "{which}");
    }
    assert!(read.load(LlamaTensor::Layer(2, LayerTensor::Q)).is_err());
}

#[test]
fn untied_output() {
    let mut w = Writer::toy();
    let data: Vec<u8> = (0..61 * 32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    w.tensor("output.weight", &[32, 61], 0, &data);
    let mut read = GgufCheckpoint::new(w.open().unwrap()).unwrap();
    assert!(!read.config().tied);
    assert_eq!(read.load(LlamaTensor::Output).unwrap()[7], 7.0);
    assert_ne!(read.load(LlamaTensor::Embedding).unwrap()[7], 7.0);
}

#[test]
fn other_models_are_refused() {
    let changed = |key: &str, kind: u32, value: &[u8]| {
        let mut w = Writer::toy();
        w.put(key, kind, value);
        w
    };
    let number = |key: &str, value: u32| changed(key, U32, &value.to_le_bytes());
    for architecture in ["qwen2", "gemma3", "bert"] {
        let w = changed("general.architecture", STRING, &text(architecture));
        refused(&w, architecture);
        refused(&w, "\"llama\" is");
    }
    refused(&changed("llama.rope.scaling.type", STRING, &text("yarn")), "yarn");
    refused(&number("llama.expert_count", 8), "8 experts");
    refused(&number("llama.rope.dimension_count", 4), "dimension_count");
    refused(&number("llama.attention.value_length", 4), "value_length");
    refused(&number("llama.attention.head_count", 5), "5 heads");
    refused(&number("llama.attention.head_count", 0), "0 heads");
    refused(&number("llama.attention.head_count_kv", 3), "key heads");
    refused(&number("llama.attention.head_count_kv", 0), "kv_heads");
    refused(&number("llama.attention.key_length", 7), "even");
    refused(&number("llama.block_count", 0), "layers");
    refused(&number("llama.block_count", u32::MAX), "layers");
    refused(&changed("llama.block_count", F32, &2f32.to_le_bytes()), "llama.block_count");
    refused(&changed("llama.attention.layer_norm_rms_epsilon", F32, &f32::NAN.to_le_bytes()), "rms_eps");
    refused(&changed("llama.rope.freq_base", F32, &f32::INFINITY.to_le_bytes()), "rope_base");
    let mut w = Writer::toy();
    w.metadata.retain(|(key, ..)| key != "llama.context_length");
    refused(&w, "llama.context_length");
}

#[test]
fn tensors_must_be_those_of_the_configuration() {
    let mut w = Writer::toy();
    w.tensors.retain(|t| t.name != "blk.1.ffn_up.weight");
    refused(&w, "lacks tensor \"blk.1.ffn_up.weight\"");
    for extra in ["blk.0.attn_q.bias", "rope_freqs.weight", "blk.2.attn_q.weight"] {
        let mut w = Writer::toy();
        w.tensor(extra, &[32], 0, &[0; 128]);
        refused(&w, extra);
    }
    let mut w = Writer::toy();
    for tensor in &mut w.tensors {
        if tensor.name == "blk.0.ffn_down.weight" {
            tensor.dims.reverse();
        }
    }
    refused(&w, "blk.0.ffn_down.weight");
    refused(&w, "[48, 32]");
    let mut w = Writer::toy();
    w.put("llama.vocab_size", U32, &60u32.to_le_bytes());
    refused(&w, "token_embd.weight");
}

fn model(test: &str) -> Option<GgufCheckpoint> {
    let path = default_model(test)?;
    Some(GgufCheckpoint::new(Gguf::open(path).unwrap()).unwrap())
}

#[test]
fn the_default_model_is_what_it_is_said_to_be() {
    let Some(model) = model("the_default_model_is_what_it_is_said_to_be") else { return };
    let expected = LlamaConfig {
        layers: 30,
        d_model: 576,
        d_ff: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49_152,
        context: 8192,
        rms_eps: 1e-5,
        rope_base: 100_000.0,
        rope_interleaved: true,
        tied: true,
    };
    assert_eq!(model.config(), &expected);
    assert_eq!(expected.parameters(), 134_515_008);
    let count = |t| model.gguf().tensors().filter(|info| info.tensor_type == t).count();
    assert_eq!((count(TensorType::Q4_1), count(TensorType::F32), count(TensorType::Q8_0)), (210, 61, 1));
}

/// The first block of a tensor, straight from the file and by the format's definition in f64.
fn first_block(path: &std::path::Path, gguf: &Gguf, name: &str) -> Vec<f64> {
    let bytes = std::fs::read(path).unwrap();
    let info = gguf.info(name).unwrap();
    // The data section ends with the file; the last tensor's place gives its start.
    let last = gguf.tensors().max_by_key(|t| t.offset).unwrap();
    let start = bytes.len() as u64 - (last.offset + last.bytes).next_multiple_of(32) + info.offset;
    let block = &bytes[start as usize..];
    let half = |at: usize| {
        let bits = u16::from_le_bytes([block[at], block[at + 1]]);
        let exponent = i32::from(bits >> 10 & 31);
        assert!((1..31).contains(&exponent), "an ordinary number");
        let size = (1.0 + f64::from(bits & 1023) / 1024.0) * 2f64.powi(exponent - 15);
        if bits >> 15 == 1 { -size } else { size }
    };
    match info.tensor_type {
        TensorType::Q8_0 => (0..32).map(|i| f64::from(block[2 + i] as i8) * half(0)).collect(),
        TensorType::Q4_1 => {
            let nibble = |i: usize| if i < 16 { block[4 + i] & 15 } else { block[4 + i - 16] >> 4 };
            (0..32).map(|i| f64::from(nibble(i)) * half(0) + half(2)).collect()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn the_default_model_s_weights() {
    let Some(path) = default_model("the_default_model_s_weights") else { return };
    let mut model = model("the_default_model_s_weights").unwrap();
    let q = LlamaTensor::Layer(0, LayerTensor::Q);
    for (which, first, sum) in [(LlamaTensor::Embedding, EMBEDDING_FIRST, EMBEDDING_SUM), (q, Q_FIRST, Q_SUM)]
    {
        let weights = model.load(which).unwrap();
        let expected = first_block(&path, model.gguf(), &which.to_string());
        for (found, expected) in weights.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() <= expected.abs() * 1e-6,
                "{which}: {found} {expected}"
            );
        }
        assert_eq!(weights[..4], first, "{which}");
        let found: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        assert!((found - sum).abs() < 1e-3, "{which}: {found:.6}");
    }
    let mut total = 0;
    for which in LlamaTensor::all(&model.config().clone()) {
        let weights = model.load(which).unwrap();
        let (rows, columns) = model.config().shape(which);
        assert_eq!(weights.len(), rows * columns, "{which}");
        let largest = weights.iter().fold(0f32, |m, w| m.max(w.abs()));
        assert!(largest > 0.0 && largest < 100.0, "{which}: {largest}");
        total += weights.len();
    }
    assert_eq!(total, 134_515_008);
}

// Taken with the `gguf` package of Python.
const EMBEDDING_FIRST: [f32; 4] = [-0.106_544_495, 0.032_978_058, 0.048_198_7, -0.022_830_963];
const EMBEDDING_SUM: f64 = -15_353.044_494;
const Q_FIRST: [f32; 4] = [-0.096_313_48, 0.157_348_63, -0.096_313_48, -0.730_468_75];
const Q_SUM: f64 = 59.223_221;
