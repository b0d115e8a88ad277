//! The configuration of GGUF files of both architectures, and what is refused.

mod common;

use common::{F32, STRING, U32, Writer, default_model, text};
use models::checkpoint::{ModelConfig, Rotary};
use models::gguf::Gguf;

fn config(w: &Writer) -> ModelConfig {
    ModelConfig::from_gguf(&mut w.open().unwrap()).unwrap()
}

fn refused(w: &Writer, words: &str) {
    let error = ModelConfig::from_gguf(&mut w.open().unwrap()).expect_err(words).to_string();
    assert!(error.contains(words), "{error}");
}

fn factors(w: &mut Writer, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    w.tensor("rope_freqs.weight", &[values.len() as u64], 0, &bytes);
}

/// The toy model under the other architecture's keys.
fn qwen2() -> Writer {
    let mut w = Writer::toy();
    for (key, ..) in &mut w.metadata {
        *key = key.replace("llama.", "qwen2.");
    }
    w.string("general.architecture", "qwen2");
    w
}

#[test]
fn both_architectures() {
    assert_eq!(config(&Writer::toy()), ModelConfig::toy());
    let rotary = |interleaved, factors| Some(Rotary { base: 10_000.0, interleaved, factors });
    let expected = ModelConfig { qkv_bias: true, rotary: rotary(false, vec![]), ..ModelConfig::toy() };
    assert_eq!(config(&qwen2()), expected);

    let mut w = Writer::toy();
    factors(&mut w, &[1.0, 1.1, 7.9, 8.0]);
    let expected = ModelConfig { rotary: rotary(true, vec![1.0, 1.1, 7.9, 8.0]), ..ModelConfig::toy() };
    assert_eq!(config(&w), expected);
    let mut w = Writer::toy();
    w.tensor("output.weight", &[32, 61], 0, &[0; 4 * 32 * 61]);
    assert!(!config(&w).tied);
}

#[test]
fn refusals() {
    for (architecture, start) in [("llama", Writer::toy()), ("qwen2", qwen2())] {
        let changed = |key: &str, kind: u32, value: &[u8]| {
            let mut w = start.clone();
            w.put(&format!("{architecture}.{key}"), kind, value);
            w
        };
        let number = |key: &str, value: u32| changed(key, U32, &value.to_le_bytes());
        refused(&changed("rope.scaling.type", STRING, &text("yarn")), "yarn");
        refused(&number("expert_count", 8), "8 experts");
        for key in ["attention.scale", "residual_scale", "logit_scale", "embedding_scale"] {
            refused(&changed(key, F32, &1f32.to_le_bytes()), key);
        }
        refused(&number("rope.dimension_count", 4), "dimension_count");
        refused(&number("attention.value_length", 4), "value_length");
        refused(&number("attention.head_count", 5), "5 heads");
        refused(&number("attention.head_count", 0), "0 heads");
        refused(&number("attention.head_count_kv", 3), "key heads");
        refused(&number("attention.key_length", 7), "even");
        refused(&number("block_count", u32::MAX), "layers");
        refused(&changed("block_count", F32, &2f32.to_le_bytes()), "block_count");
        refused(&changed("attention.layer_norm_rms_epsilon", F32, &f32::NAN.to_le_bytes()), "epsilon");
        refused(&changed("rope.freq_base", F32, &f32::INFINITY.to_le_bytes()), "rotary base");
        let mut w = start.clone();
        w.metadata.retain(|(key, ..)| !key.ends_with("context_length"));
        refused(&w, "context_length");
        for bad in [&[1.0; 3][..], &[0.0; 4], &[-1.0; 4], &[1.0; 2000]] {
            let mut w = start.clone();
            factors(&mut w, bad);
            refused(&w, if bad.len() == 2000 { "2000 elements" } else { "rotary factors" });
        }
    }
    for architecture in ["gemma3", "bert", "qwen3"] {
        let mut w = Writer::toy();
        w.string("general.architecture", architecture);
        refused(&w, architecture);
        refused(&w, "\"qwen2\"");
    }
}

#[test]
fn the_default_model() {
    let Some(path) = default_model("the_default_model") else { return };
    let found = ModelConfig::from_gguf(&mut Gguf::open(path).unwrap()).unwrap();
    let expected = ModelConfig {
        layers: 30,
        d_model: 576,
        d_ff: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49_152,
        context: 8192,
        rotary: Some(Rotary { base: 100_000.0, interleaved: true, factors: vec![] }),
        ..ModelConfig::toy()
    };
    assert_eq!(found, expected);
}
