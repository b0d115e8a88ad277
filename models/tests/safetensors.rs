//! Safetensors folders: right ones of every type and in several files, and files that deceive, for
//! which there is an error, never a panic.

mod folder;

use folder::{Folder, safetensors};
use models::checkpoint::{CheckpointError, FileError, Naming, SafetensorsFolder, Tensors};
use proptest::prelude::*;
use serde_json::json;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn refused(folder: &Folder, words: &str) {
    let error = SafetensorsFolder::open(folder.path()).expect_err(words).to_string();
    assert!(error.contains(words), "{error}");
}

/// A file from a header as it stands and the bytes after it.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn every_type_is_read() {
    let folder = Folder::new();
    folder.write(
        SINGLE,
        &safetensors(&[
            ("f32", "F32", &[2, 3], f32s(&[1.0, -2.5, 0.1, 4.0, 5.0, 6.0])),
            ("f64", "F64", &[2], [0.1f64, -3.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
            ("f16", "F16", &[3], vec![0x00, 0x3e, 0x01, 0x00, 0xff, 0xfb]),
            ("bf16", "BF16", &[2], vec![0xc0, 0x3f, 0x20, 0xc1]),
            ("scalar", "F32", &[], f32s(&[7.0])),
            ("none", "F32", &[0, 4], vec![]),
            ("position_ids", "I64", &[1, 2], vec![0; 16]),
            ("poisoned", "F32", &[2], f32s(&[0.0, f32::NAN])),
        ]),
    );
    let mut read = SafetensorsFolder::open(folder.path()).unwrap();
    assert_eq!(read.naming(), Naming::HuggingFace);
    let names = ["bf16", "f16", "f32", "f64", "none", "poisoned", "position_ids", "scalar"];
    assert_eq!(read.names(), names);
    assert_eq!(read.shape("f32"), Some(vec![2, 3]));
    assert_eq!(read.shape("scalar"), Some(vec![]));
    assert_eq!(read.shape("absent"), None);
    assert_eq!(read.load("f32").unwrap(), [1.0, -2.5, 0.1, 4.0, 5.0, 6.0]);
    assert_eq!(read.load("f64").unwrap(), [0.1, -3.0]);
    assert_eq!(read.load("f16").unwrap(), [1.5, 2f32.powi(-24), -65504.0]);
    assert_eq!(read.load("bf16").unwrap(), [1.5, -10.0]);
    assert_eq!(read.load("scalar").unwrap(), [7.0]);
    assert_eq!(read.load("none").unwrap(), [0f32; 0]);
    let error = read.load("position_ids").unwrap_err();
    assert!(matches!(&error, CheckpointError::File(FileError::TensorType { found, .. }) if found == "I64"));
    let error = read.load("poisoned").unwrap_err().to_string();
    assert!(error.contains("poisoned") && error.contains("element 1"), "{error}");
    assert!(matches!(read.load("absent"), Err(CheckpointError::MissingTensor { .. })));
}

#[test]
fn a_tensor_longer_than_one_piece() {
    let values: Vec<f32> = (0..700_001).map(|i| i as f32 * 0.5).collect();
    let folder = Folder::new();
    folder.write(
        SINGLE,
        &safetensors(&[("a", "F32", &[1], f32s(&[9.0])), ("b", "F32", &[700_001], f32s(&values))]),
    );
    let mut read = SafetensorsFolder::open(folder.path()).unwrap();
    assert_eq!(read.load("b").unwrap(), values);
    assert_eq!(read.load("a").unwrap(), [9.0]);
}

fn sharded() -> Folder {
    let folder = Folder::new();
    folder.write("one.safetensors", &safetensors(&[("a", "F32", &[1], f32s(&[1.0]))]));
    let two = safetensors(&[("b", "F32", &[2], f32s(&[2.0, 3.0])), ("c", "F32", &[1], f32s(&[4.0]))]);
    folder.write("two.safetensors", &two);
    folder.write_json(INDEX, &index(&[("a", "one"), ("b", "two"), ("c", "two")]));
    folder
}

fn index(places: &[(&str, &str)]) -> serde_json::Value {
    let map: serde_json::Map<_, _> =
        places.iter().map(|(name, file)| (name.to_string(), json!(format!("{file}.safetensors")))).collect();
    json!({"metadata": {"total_size": 16}, "weight_map": map})
}

#[test]
fn several_files() {
    let folder = sharded();
    let mut read = SafetensorsFolder::open(folder.path()).unwrap();
    assert_eq!(read.names(), ["a", "b", "c"]);
    for (name, values) in [("c", &[4.0][..]), ("a", &[1.0]), ("b", &[2.0, 3.0])] {
        assert_eq!(read.load(name).unwrap(), values);
    }

    folder.write_json(INDEX, &index(&[("a", "one"), ("b", "two"), ("c", "one")]));
    refused(&folder, "\"c\" is not in \"one.safetensors\"");
    folder.write_json(INDEX, &index(&[("a", "one"), ("d", "two")]));
    refused(&folder, "\"d\" is not in");
    folder.write_json(INDEX, &index(&[("a", "one"), ("b", "three")]));
    refused(&folder, "three.safetensors");
    for outside in ["../one", "/tmp/one", "./one", "sub/one", "sub\\one", "C:one", "one\0", ".."] {
        folder.write_json(INDEX, &json!({"weight_map": {"a": outside}}));
        refused(&folder, "not the name of a file beside it");
    }
    for broken in ["", "[]", "{}", "{\"weight_map\": []}", "{\"weight_map\": {\"a\": 1}}"] {
        folder.write(INDEX, broken.as_bytes());
        refused(&folder, "index.json is broken");
    }
    let many: Vec<String> = (0..300).map(|i| format!("f{i}")).collect();
    folder.write_json(INDEX, &index(&many.iter().map(|f| (&f[..], &f[..])).collect::<Vec<_>>()));
    refused(&folder, "300 files");

    let folder = sharded();
    folder.write("one.safetensors", &safetensors(&[("b", "F32", &[1], f32s(&[1.0]))]));
    refused(&folder, "is in");
    let folder = Folder::new();
    refused(&folder, "holds neither");
    folder.write("pytorch_model.bin", b"");
    refused(&folder, "is not run");
}

#[test]
fn headers_that_lie() {
    let folder = Folder::new();
    let check = |bytes: &[u8], words: &str| {
        folder.write(SINGLE, bytes);
        refused(&folder, words);
    };
    check(b"", "ends after 0 bytes");
    check(&[1, 0, 0], "ends after 3 bytes");
    check(&u64::MAX.to_le_bytes(), "a header of 18446744073709551615 bytes");
    check(&(1u64 << 20).to_le_bytes(), "ends within the header");
    check(&raw("", b""), "EOF");
    check(&raw("[]", b""), "is broken");
    check(&raw(&"[".repeat(100_000), b""), "is broken");
    check(&raw("\u{e9}{}", b""), "is broken");
    let one = |fields: &str| raw(&format!("{{\"a\": {{{fields}}}}}"), &[0; 8]);
    let line = |shape: &str, from: &str, to: &str| {
        one(&format!("\"dtype\": \"F32\", \"shape\": {shape}, \"data_offsets\": [{from}, {to}]"))
    };
    folder.write(SINGLE, &line("[2]", "0", "8"));
    assert!(SafetensorsFolder::open(folder.path()).is_ok());
    check(&line("[2]", "0", "4"), "is broken");
    check(&line("[3]", "0", "12"), "8 bytes of tensors, the header lists 12");
    check(&line("[1]", "0", "4"), "8 bytes of tensors, the header lists 4");
    check(&line("[1]", "4", "8"), "is broken");
    check(&line("[1]", "8", "4"), "is broken");
    check(&line("[2]", "-8", "0"), "is broken");
    check(&line("[2]", "0", "18446744073709551615"), "is broken");
    check(&line("[4294967296, 4294967296, 2]", "0", "8"), "is broken");
    check(&line("[-2]", "0", "8"), "is broken");
    check(&line("[2.0]", "0", "8"), "is broken");
    check(&one("\"dtype\": \"F33\", \"shape\": [2], \"data_offsets\": [0, 8]"), "is broken");
    check(&one("\"dtype\": \"F32\", \"shape\": [2]"), "is broken");
    let two = |a: &str, b: &str| {
        let line = |at: &str| format!("{{\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [{at}]}}");
        raw(&format!("{{\"a\": {}, \"b\": {}}}", line(a), line(b)), &[0; 8])
    };
    check(&two("0, 4", "0, 4"), "is broken");
    check(&two("0, 4", "2, 6"), "is broken");
    check(&raw("{}", &[0; 8]), "8 bytes of tensors, the header lists 0");
}

#[test]
fn a_file_that_shrinks_after_it_was_opened() {
    let folder = Folder::new();
    folder.write(SINGLE, &safetensors(&[("a", "F32", &[4], f32s(&[1.0; 4]))]));
    let mut read = SafetensorsFolder::open(folder.path()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(folder.path().join(SINGLE)).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    assert!(matches!(read.load("a"), Err(CheckpointError::File(FileError::Io { .. }))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0x20u8..0x7f), 0..6),
        wild in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = safetensors(&[
            ("a", "F32", &[2, 2], f32s(&[1.0; 4])),
            ("b", "F16", &[3], vec![0; 6]),
            ("c", "I64", &[1], vec![0; 8]),
        ]);
        for (at, value) in changes {
            // Behind the header's length, which `wild` reaches.
            let at = 8 + at.index(bytes.len() - 8);
            bytes[at] = value;
        }
        if let Some((at, value)) = wild {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        exercise(&bytes);
    }

    #[test]
    fn arbitrary_headers(header in "\\PC{0,80}", data in prop::collection::vec(any::<u8>(), 0..40)) {
        exercise(&raw(&header, &data));
        exercise(&data);
    }
}

/// Whatever a file says, what can be loaded has the size that its shape says.
fn exercise(bytes: &[u8]) {
    let folder = Folder::new();
    folder.write(SINGLE, bytes);
    if let Ok(mut read) = SafetensorsFolder::open(folder.path()) {
        for name in read.names() {
            let size: usize = read.shape(&name).unwrap().iter().product();
            if let Ok(weights) = read.load(&name) {
                assert_eq!(weights.len(), size);
            }
        }
    }
}
