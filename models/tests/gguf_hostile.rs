//! GGUF files that are cut short, mutated, or made to deceive: always an error, never a panic, and
//! never an allocation that the file's own size does not justify.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{ARRAY, BOOL, F32, STRING, U32, Writer, text};
use models::checkpoint::{FileCheckpoint, Kind, ModelConfig, TensorId, TensorSource};
use models::gguf::{Array, Gguf, GgufError, TensorType, Value};
use models::tokenizer::Tokenizer;
use proptest::prelude::*;

/// The system's allocator, with the largest request of each thread remembered.
struct Watch;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    LARGEST.set(LARGEST.get().max(size));
}

// SAFETY: every call is passed on to the system's allocator unchanged; the thread-local needs neither
// an allocation nor a destructor.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watch = Watch;

/// Runs `f` on a file and checks that nothing it allocates is out of proportion to the file: there
/// are 8 bytes of memory for each byte of a metadata array, 12.2 for each byte of Q2_K weights, and
/// the buffers have a fixed size.
fn in_proportion<T>(bytes: Vec<u8>, f: impl FnOnce(Vec<u8>) -> T) -> T {
    let allowed = 64 * 1024 + 13 * bytes.len();
    LARGEST.set(0);
    let result = f(bytes);
    let largest = LARGEST.get();
    assert!(largest <= allowed, "{largest} bytes were allocated at once, {allowed} are in proportion");
    result
}

fn open(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
    in_proportion(bytes, common::open)
}

/// A small file with every kind of metadata and every supported tensor type.
fn sampler() -> Writer {
    let mut w = Writer::new();
    w.string("general.architecture", "llama");
    w.put("general.alignment", U32, &64u32.to_le_bytes());
    w.alignment = 64;
    for (kind, value) in
        [(0, &[7][..]), (1, &[0xff]), (2, &[1, 2]), (3, &[0xfe, 0xff]), (5, &[0xfd, 0xff, 0xff, 0xff])]
    {
        w.put(&format!("number.{kind}"), kind, value);
    }
    w.put("number.10", 10, &u64::MAX.to_le_bytes());
    w.put("number.11", 11, &i64::MIN.to_le_bytes());
    w.put("number.12", 12, &0.1f64.to_le_bytes());
    w.put("number.6", F32, &0.5f32.to_le_bytes());
    w.put("flag", BOOL, &[1]);
    w.strings("words", &["a", "", "caf\u{e9}"]);
    w.ints("ints", &[-1, 2]);
    let row = [&BOOL.to_le_bytes()[..], &2u64.to_le_bytes(), &[0, 1]].concat();
    let nested = [&ARRAY.to_le_bytes()[..], &2u64.to_le_bytes(), &row, &row].concat();
    w.put("nested", ARRAY, &nested);
    w.tensor("f32", &[3, 2], 0, &[0; 24]);
    w.tensor("f16", &[5], 1, &[0x3c; 10]);
    w.tensor("q4_0", &[32], 2, &[1; 18]);
    w.tensor("q4_1", &[32, 2], 3, &[1; 40]);
    w.tensor("q8_0", &[64], 8, &[1; 68]);
    for (name, kind, block, bytes) in [
        ("q5_0", 6, 32, 22),
        ("q5_1", 7, 32, 24),
        ("q2_k", 10, 256, 84),
        ("q3_k", 11, 256, 110),
        ("q4_k", 12, 256, 144),
        ("q5_k", 13, 256, 176),
        ("q6_k", 14, 256, 210),
    ] {
        w.tensor(name, &[block], kind, &vec![1; bytes]);
    }
    w.tensor("f64", &[1, 1, 1, 1], 28, &1.5f64.to_le_bytes());
    w.tensor("bf16", &[2], 30, &[0x80, 0x3f, 0x00, 0xc0]);
    w
}

/// Does with a file all that this crate ever does.
fn exercise(bytes: Vec<u8>) -> Result<(), String> {
    in_proportion(bytes, exercise_unwatched)
}

fn exercise_unwatched(bytes: Vec<u8>) -> Result<(), String> {
    let mut gguf = common::open(bytes).map_err(|e| e.to_string())?;
    let names: Vec<String> = gguf.tensors().map(|t| t.name.clone()).collect();
    for name in names {
        let elements = gguf.info(&name).unwrap().elements;
        let weights = gguf.tensor(&name).map_err(|e| e.to_string())?;
        assert_eq!(weights.len() as u64, elements);
        assert!(weights.iter().all(|w| w.is_finite()));
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        let _ = tokenizer.encode("some text");
    }
    let config = ModelConfig::from_gguf(&mut gguf).map_err(|e| e.to_string())?;
    let mut checkpoint = FileCheckpoint::new(config, Box::new(gguf)).map_err(|e| e.to_string())?;
    checkpoint.load(TensorId::Output).map_err(|e| e.to_string())?;
    Ok(())
}

#[test]
fn a_right_file_is_read() {
    let mut gguf = open(sampler().bytes()).unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.require::<&str>("general.architecture").unwrap(), "llama");
    assert_eq!(gguf.metadata("number.0"), Some(&Value::Unsigned(7)));
    assert_eq!(gguf.metadata("number.1"), Some(&Value::Signed(-1)));
    assert_eq!(gguf.metadata("number.2"), Some(&Value::Unsigned(0x201)));
    assert_eq!(gguf.metadata("number.3"), Some(&Value::Signed(-2)));
    assert_eq!(gguf.metadata("number.5"), Some(&Value::Signed(-3)));
    assert_eq!(gguf.require::<u64>("number.10").unwrap(), u64::MAX);
    assert_eq!(gguf.metadata("number.11"), Some(&Value::Signed(i64::MIN)));
    assert_eq!(gguf.require::<f64>("number.12").unwrap(), 0.1);
    assert_eq!(gguf.require::<f64>("number.6").unwrap(), 0.5);
    assert!(gguf.require::<bool>("flag").unwrap());
    assert_eq!(gguf.require::<&[String]>("words").unwrap(), ["a", "", "caf\u{e9}"]);
    assert_eq!(gguf.require::<&[i64]>("ints").unwrap(), [-1, 2]);
    let row = Array::Bool(vec![false, true]);
    assert_eq!(gguf.metadata("nested"), Some(&Value::Array(Array::Nested(vec![row.clone(), row]))));

    let types: Vec<TensorType> = gguf.tensors().map(|t| t.tensor_type).collect();
    assert!(TensorType::ALL.iter().all(|t| types.contains(t)));
    assert_eq!(gguf.info("f32").unwrap().dims, [3, 2]);
    assert_eq!(gguf.tensor("f64").unwrap(), [1.5]);
    assert_eq!(gguf.tensor("bf16").unwrap(), [1.0, -2.0]);
    assert_eq!(gguf.tensor("f16").unwrap(), [1.058_593_8; 5]);
    assert_eq!(gguf.tensor("q8_0").unwrap().len(), 64);

    assert!(matches!(gguf.require::<u32>("number.10"), Err(GgufError::MetadataType { .. })));
    assert!(matches!(gguf.get::<u64>("number.1"), Err(GgufError::MetadataType { .. })));
    assert!(matches!(gguf.require::<u64>("absent"), Err(GgufError::MetadataMissing { .. })));
    assert_eq!(gguf.get::<u64>("absent").unwrap(), None);
    assert!(matches!(gguf.tensor("absent"), Err(GgufError::TensorMissing { .. })));

    let mut second = sampler();
    second.version = 2;
    assert_eq!(open(second.bytes()).unwrap().version(), 2);
    let empty = open(Writer::new().bytes()).unwrap();
    assert_eq!(empty.tensors().len(), 0);
}

#[test]
fn a_file_from_disk() {
    let path = std::env::temp_dir().join(format!("catamount-gguf-{}.gguf", std::process::id()));
    std::fs::write(&path, Writer::toy().bytes()).unwrap();
    let result =
        Gguf::open(&path).map(|gguf| FileCheckpoint::new(ModelConfig::toy(), Box::new(gguf)).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(result.unwrap().load(TensorId::FinalNorm(Kind::Weight)).unwrap().len(), 32);
    let error = Gguf::open(&path).unwrap_err().to_string();
    assert!(error.contains("catamount-gguf-"), "{error}");
}

#[test]
fn cut_short_anywhere() {
    for bytes in [sampler().bytes(), Writer::toy().bytes()] {
        // The padding after the last tensor's data may be missing.
        let needed = bytes.len() - 64;
        let step = (bytes.len() / 2000).max(1);
        for length in (0..needed).step_by(step) {
            let error = exercise(bytes[..length].to_vec()).expect_err("cut short yet accepted");
            assert!(error.contains("again") || error.contains("not a GGUF"), "at {length}: {error}");
        }
    }
}

#[test]
fn headers_that_lie() {
    let whole = sampler().bytes();
    let with = |at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        open(bytes).unwrap_err().to_string()
    };
    let has = |error: String, words: &str| assert!(error.contains(words), "{error}");
    has(with(0, b"GGML"), "not a GGUF file");
    has(with(4, &1u32.to_le_bytes()), "version 1");
    has(with(4, &4u32.to_le_bytes()), "version 4");
    has(with(4, &3u32.to_be_bytes()), "big-endian");
    for at in [8, 16] {
        has(with(at, &u64::MAX.to_le_bytes()), "at most");
        has(with(at, &60_000u64.to_le_bytes()), "too early");
    }
    // The first key's length.
    has(with(24, &u64::MAX.to_le_bytes()), "at most");
    has(with(24, &1000u64.to_le_bytes()), "GGUF");
    // Its kind, and its value's length.
    let kind_at = 24 + 8 + "general.architecture".len();
    has(with(kind_at, &13u32.to_le_bytes()), "unknown metadata kind 13");
    has(with(kind_at + 4, &u64::MAX.to_le_bytes()), "at most");
    has(with(kind_at + 4, &(1u64 << 25).to_le_bytes()), "too early");
    has(with(kind_at + 12, &[0xff]), "UTF-8");

    let array = |kind: u32, count: u64| {
        let mut w = Writer::new();
        w.put("array", ARRAY, &[&kind.to_le_bytes()[..], &count.to_le_bytes(), &[0; 64]].concat());
        open(w.bytes()).unwrap_err().to_string()
    };
    for kind in 0..=12 {
        has(array(kind, u64::MAX), "at most");
        has(array(kind, 1 << 24), "too early");
    }
    has(array(13, 0), "unknown metadata kind 13");

    let mut w = Writer::new();
    let layer = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    w.put("deep", ARRAY, &layer.repeat(100));
    has(open(w.bytes()).unwrap_err().to_string(), "nested");

    let mut w = Writer::new();
    w.metadata = vec![("twice".into(), BOOL, vec![0]), ("twice".into(), BOOL, vec![1])];
    has(open(w.bytes()).unwrap_err().to_string(), "given twice");
}

#[test]
fn alignments() {
    for (kind, value) in [
        (U32, 0u32.to_le_bytes().to_vec()),
        (U32, 24u32.to_le_bytes().to_vec()),
        (U32, (1u32 << 31).to_le_bytes().to_vec()),
        (F32, 32f32.to_le_bytes().to_vec()),
        (STRING, text("32")),
    ] {
        let mut w = sampler();
        w.put("general.alignment", kind, &value);
        let error = open(w.bytes()).unwrap_err();
        assert!(matches!(error, GgufError::Alignment { .. }), "{error}");
    }
    // Data laid out for 32 read with 64.
    let mut w = sampler();
    w.alignment = 32;
    let error = open(w.bytes()).unwrap_err().to_string();
    assert!(error.contains("not a multiple of 64") || error.contains("cut short"), "{error}");
}

#[test]
fn tensors_that_lie() {
    let refused = |w: &Writer, words: &str| {
        let error = open(w.bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        error
    };
    let one = |dims: &[u64], kind: u32| {
        let mut w = Writer::new();
        w.tensor("one", dims, kind, &[0; 64]);
        w
    };
    refused(&one(&[], 0), "0 dimensions");
    refused(&one(&[1; 5], 0), "5 dimensions");
    let mut w = one(&[1], 0);
    w.tensors[0].dims = vec![1; 1000];
    refused(&w, "1000 dimensions");
    refused(&one(&[0], 0), "impossible size");
    refused(&one(&[u64::MAX, 2], 0), "impossible size");
    refused(&one(&[1 << 62, 1], 0), "impossible size");
    refused(&one(&[1 << 61, 1], 0), "cut short");
    refused(&one(&[17], 0), "cut short");
    refused(&one(&[16, 2], 8), "multiples of 32");
    for (kind, name) in [(15, "Q8_K"), (20, "IQ4_NL"), (24, "I8"), (4, "type number 4")] {
        let error = refused(&one(&[256], kind), name);
        assert!(
            error.contains("\"one\"") && error.contains("BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K"),
            "{error}"
        );
    }
    let mut w = one(&[16], 0);
    w.tensors[0].offset = Some(32);
    refused(&w, "cut short");
    w.tensors[0].offset = Some(u64::MAX - 31);
    refused(&w, "cut short");
    w.tensors[0].offset = Some(4);
    refused(&w, "multiple of 32");
    let mut w = one(&[16], 0);
    w.tensor("two", &[16], 0, &[0; 64]);
    w.tensors[1].offset = Some(32);
    refused(&w, "overlaps");
    w.tensors[1].offset = Some(0);
    refused(&w, "overlaps");
    let mut w = one(&[16], 0);
    w.tensor("one", &[16], 0, &[0; 64]);
    refused(&w, "listed twice");

    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut w = Writer::new();
        w.tensor("poisoned", &[3], 0, &[0f32, 1.0, bad].map(f32::to_le_bytes).concat());
        let error = open(w.bytes()).unwrap().tensor("poisoned").unwrap_err().to_string();
        assert!(error.contains("poisoned") && error.contains("element 2"), "{error}");
    }
    let mut w = Writer::new();
    w.tensor("scale", &[32], 8, &[&[0x00, 0x7c][..], &[1; 32]].concat());
    assert!(open(w.bytes()).unwrap().tensor("scale").is_err(), "an infinite scale");
    let mut w = Writer::new();
    w.tensor("wide", &[1], 28, &1e300f64.to_le_bytes());
    assert!(open(w.bytes()).unwrap().tensor("wide").is_err(), "beyond f32");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files(
        toy in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        // Mostly the header is hit: that is where it matters.
        let mut bytes = if toy { Writer::toy().bytes() } else { sampler().bytes() };
        let reach = if toy { 2000 } else { bytes.len() };
        for (at, value) in &changes {
            bytes[at.index(reach)] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = exercise(bytes);
        }

    #[test]
    fn mutated_words(at in any::<prop::sample::Index>(), value in prop::sample::select(vec![
        0u64, 1, 0xff, 1 << 16, 1 << 24, (1 << 24) + 1, 1 << 31, 1 << 32, 1 << 40, 1 << 63, u64::MAX,
    ]), toy in any::<bool>()) {
        let mut bytes = if toy { Writer::toy().bytes() } else { sampler().bytes() };
        let at = at.index(if toy { 2000 } else { bytes.len() - 8 });
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let _ = exercise(bytes);
        }

    #[test]
    fn arbitrary_bytes(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = exercise([b"GGUF\x03\0\0\0", &tail[..]].concat());
        let _ = exercise(tail);
        }
}
