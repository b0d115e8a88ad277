//! Every quantised type of GGUF, bit for bit against an independent implementation: the file holds
//! random blocks and the weights that Python's package `gguf` makes of them, both in hexadecimal.

mod common;

use common::Writer;
use models::checkpoint::{Naming, Tensors};
use models::gguf::TensorType;
use serde_json::Value;

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn blocks_as_python_reads_them() {
    let file: Value = serde_json::from_str(include_str!("data/gguf_blocks.json")).unwrap();
    let types = file["types"].as_object().unwrap();
    for wanted in TensorType::ALL.iter().filter(|t| t.block_elements() > 1) {
        let case = &types[&wanted.to_string()];
        let blocks = bytes(&case["blocks"]);
        let expected: Vec<u32> = bytes(&case["weights"])
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b).to_bits())
            .collect();
        assert_eq!(expected.len() / wanted.block_elements(), blocks.len() / wanted.block_bytes());

        let mut w = Writer::new();
        let rows = (expected.len() / wanted.block_elements()) as u64;
        let code = case["code"].as_u64().unwrap() as u32;
        w.tensor("blocks", &[wanted.block_elements() as u64, rows], code, &blocks);
        let mut gguf = w.open().unwrap();
        assert_eq!(gguf.info("blocks").unwrap().tensor_type, *wanted);
        let found: Vec<u32> = gguf.load("blocks").unwrap().iter().map(|w| w.to_bits()).collect();
        assert_eq!(found, expected, "{wanted}");
        assert_eq!(gguf.shape("blocks"), Some(vec![rows as usize, wanted.block_elements()]));
        assert_eq!((gguf.naming(), gguf.names()), (Naming::Gguf, vec!["blocks".to_owned()]));
    }
}
