//! LLaMA checkpoints from GGUF files: small ones written here, and the default model.

mod common;

use common::{U32, Writer, default_model, gguf_name, toy_weights};
use models::checkpoint::{
    CheckpointError, FileCheckpoint, Kind, LayerTensor, ModelConfig, TensorId, TensorSource,
};
use models::gguf::{Gguf, TensorType};

fn checkpoint(mut gguf: Gguf) -> Result<FileCheckpoint, CheckpointError> {
    FileCheckpoint::new(ModelConfig::from_gguf(&mut gguf)?, Box::new(gguf))
}

fn refused(w: &Writer, words: &str) {
    let error = checkpoint(w.open().unwrap()).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn written_weights_are_read_back() {
    let mut read = checkpoint(Writer::toy().open().unwrap()).unwrap();
    let config = ModelConfig::toy();
    assert_eq!(read.config(), &config);
    let mut made = toy_weights();
    for which in TensorId::all(&config).into_iter().chain([TensorId::Output]) {
        assert_eq!(read.load(which).unwrap(), made.load(which).unwrap(), "{which:?}");
    }
    for which in [TensorId::Layer(2, LayerTensor::Q, Kind::Weight), TensorId::Positions] {
        let error = read.load(which).unwrap_err().to_string();
        assert!(error.contains("a LLaMA model of 2 layers has no tensor"), "{error}");
    }
}

#[test]
fn untied_output() {
    let mut w = Writer::toy();
    let data: Vec<u8> = (0..61 * 32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    w.tensor("output.weight", &[32, 61], 0, &data);
    let mut read = checkpoint(w.open().unwrap()).unwrap();
    assert!(!read.config().tied);
    assert_eq!(read.load(TensorId::Output).unwrap()[7], 7.0);
    assert_ne!(read.load(TensorId::Embedding).unwrap()[7], 7.0);
}

#[test]
fn tensors_must_be_those_of_the_configuration() {
    let mut w = Writer::toy();
    w.tensors.retain(|t| t.name != "blk.1.ffn_up.weight");
    refused(&w, "lacks tensor \"blk.1.ffn_up.weight\"");
    for extra in ["blk.0.attn_q.bias", "blk.2.attn_q.weight", "position_embd.weight"] {
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

#[test]
fn the_default_model_is_what_it_is_said_to_be() {
    let Some(path) = default_model("the_default_model_is_what_it_is_said_to_be") else { return };
    let gguf = Gguf::open(path).unwrap();
    let count = |t| gguf.tensors().filter(|info| info.tensor_type == t).count();
    assert_eq!((count(TensorType::Q4_1), count(TensorType::F32), count(TensorType::Q8_0)), (210, 61, 1));
    assert!(checkpoint(gguf).is_ok());
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
    let gguf = Gguf::open(&path).unwrap();
    let mut model = checkpoint(Gguf::open(&path).unwrap()).unwrap();
    let q = TensorId::Layer(0, LayerTensor::Q, Kind::Weight);
    for (which, first, sum) in [(TensorId::Embedding, EMBEDDING_FIRST, EMBEDDING_SUM), (q, Q_FIRST, Q_SUM)] {
        let weights = model.load(which).unwrap();
        let expected = first_block(&path, &gguf, &gguf_name(which));
        for (found, expected) in weights.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() <= expected.abs() * 1e-6,
                "{which:?}: {found} {expected}"
            );
        }
        assert_eq!(weights[..4], first, "{which:?}");
        let found: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        assert!((found - sum).abs() < 1e-3, "{which:?}: {found:.6}");
    }
    let mut total = 0;
    for which in TensorId::all(&model.config().clone()) {
        let weights = model.load(which).unwrap();
        let (rows, columns) = which.shape(model.config());
        assert_eq!(weights.len(), rows * columns, "{which:?}");
        let largest = weights.iter().fold(0f32, |m, w| m.max(w.abs()));
        assert!(largest > 0.0 && largest < 100.0, "{which:?}: {largest}");
        total += weights.len();
    }
    assert_eq!(total, 134_515_008);
}

// Taken with the `gguf` package of Python.
const EMBEDDING_FIRST: [f32; 4] = [-0.106_544_495, 0.032_978_058, 0.048_198_7, -0.022_830_963];
const EMBEDDING_SUM: f64 = -15_353.044_494;
const Q_FIRST: [f32; 4] = [-0.096_313_48, 0.157_348_63, -0.096_313_48, -0.730_468_75];
const Q_SUM: f64 = 59.223_221;
