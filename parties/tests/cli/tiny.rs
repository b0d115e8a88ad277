//! A tiny LLaMA model in a GGUF file: random weights, a tokenizer of single bytes. It is shared and answers within a
//! second, and its answers are printable ASCII without end: greedy ones, and by chance among the five likeliest.

use super::gguf::{BOOL, F32, Tensor, U32, Writer, gguf_name};
use models::checkpoint::{ModelConfig, RandomModel, TensorId, TensorSource};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Bytes, then `<|im_start|>` and `<|im_end|>`.
const VOCAB: usize = 258;
/// `<|im_end|>`, which ends an answer.
const END: u32 = 257;
/// Tokens of prompt and answer.
pub(crate) const CONTEXT: usize = 2048;

/// Its shape.
pub(crate) fn config() -> ModelConfig {
    ModelConfig { vocab: VOCAB, context: CONTEXT, tied: false, ..ModelConfig::toy() }
}

/// The bytes of a model file; models of different seeds differ in their weights.
pub(crate) fn gguf(seed: u64) -> Vec<u8> {
    let config = config();
    let mut weights = RandomModel::new(config.clone(), seed).unwrap();
    let mut w = Writer::new();
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
    tokenizer(&mut w);
    for which in TensorId::all(&config) {
        let (rows, columns) = which.shape(&config);
        let mut values = weights.load(which).unwrap();
        if which == TensorId::Output {
            // What is not printable is never the likeliest; the end, whose score is 0, not even among the likeliest.
            for (id, row) in values.chunks_exact_mut(columns).enumerate() {
                let scale = match id {
                    32..127 => 1.0,
                    _ if id as u32 == END => 0.0,
                    _ => 0.4,
                };
                row.iter_mut().for_each(|v| *v *= scale);
            }
        }
        let dims = if rows == 1 { vec![columns as u64] } else { vec![columns as u64, rows as u64] };
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        w.tensors.push(Tensor { name: gguf_name(which), dims, kind: 0, offset: None, data });
    }
    w.bytes()
}

fn tokenizer(w: &mut Writer) {
    let mut next = 0x100;
    let byte = |byte: u8| {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
        let code = if printable { u32::from(byte) } else { next };
        next += u32::from(!printable);
        char::from_u32(code).unwrap().to_string()
    };
    let mut tokens: Vec<String> = (0..=u8::MAX).map(byte).collect();
    tokens.extend(["<|im_start|>", "<|im_end|>"].map(String::from));
    let mut kinds = [1; VOCAB];
    kinds[256..].fill(3);
    w.string("tokenizer.ggml.model", "gpt2");
    w.string("tokenizer.ggml.pre", "smollm");
    w.strings("tokenizer.ggml.tokens", &tokens.iter().map(String::as_str).collect::<Vec<_>>());
    w.strings("tokenizer.ggml.merges", &[]);
    w.ints("tokenizer.ggml.token_type", &kinds);
    w.put("tokenizer.ggml.eos_token_id", U32, &END.to_le_bytes());
    w.put("tokenizer.ggml.bos_token_id", U32, &256u32.to_le_bytes());
    w.put("tokenizer.ggml.add_bos_token", BOOL, &[0]);
}

/// Writes `NAME.gguf` into a directory.
pub(crate) fn write(directory: &Path, name: &str, seed: u64) -> PathBuf {
    let path = directory.join(format!("{name}.gguf"));
    fs::write(&path, gguf(seed)).unwrap();
    path
}
