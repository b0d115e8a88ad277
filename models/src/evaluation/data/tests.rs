use std::env;
use std::fs;
use std::io::Write;
use std::process;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, NullArray, RecordBatch, StringArray};
use arrow_ipc::writer::StreamWriter;
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use super::*;

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("catamount-evaluation-{}-{name}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn integers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

/// An Arrow stream with all columns, twice.
fn stream(columns: &[(&str, ArrayRef)]) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns.to_vec()).unwrap();
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    bytes
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn arrow_columns_become_rows() {
    let folder = Folder::new("arrow");
    let labels = integers(&[1, 0]);
    let (first, second) = (strings(&["a", "b"]), strings(&["c", "dé"]));
    folder.write(
        "mrpc.arrow",
        &stream(&[("label", labels.clone()), ("sentence1", first.clone()), ("sentence2", second)]),
    );
    let pairs = mrpc(&folder.0).unwrap();
    assert_eq!(pairs.len(), 4);
    assert_eq!(pairs[1], Pair { first: "b".into(), second: "dé".into(), label: false });
    assert_eq!(pairs[2], Pair { first: "a".into(), second: "c".into(), label: true });

    folder.write("sst2.arrow", &stream(&[("sentence", first), ("label", labels)]));
    let sentences = sst2(&folder.0).unwrap();
    assert_eq!(sentences.len(), 4);
    assert_eq!(sentences[3], Sentence { text: "b".into(), label: false });
}

#[test]
fn other_arrow_data_is_refused() {
    let folder = Folder::new("other");
    let texts = || strings(&["a", "b"]);
    let missing: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let unlabelled: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![1, 0]));
    let cases = [
        ("no column \"label\"", vec![("sentence", texts())]),
        ("no column \"sentence\"", vec![("text", texts()), ("label", integers(&[1, 0]))]),
        ("column \"label\" does not hold 64-bit integers", vec![("sentence", texts()), ("label", narrow)]),
        (
            "column \"sentence\" does not hold texts",
            vec![("sentence", integers(&[1, 0])), ("label", integers(&[1, 0]))],
        ),
        ("neither 0 nor 1, in row 1", vec![("sentence", texts()), ("label", integers(&[1, -1]))]),
        ("values are missing", vec![("sentence", missing), ("label", integers(&[1, 0]))]),
        ("values are missing", vec![("sentence", texts()), ("label", unlabelled)]),
        ("no rows", vec![("sentence", strings(&[])), ("label", integers(&[]))]),
    ];
    for (expected, columns) in cases {
        folder.write("sst2.arrow", &stream(&columns));
        let error = sst2(&folder.0).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("sst2.arrow"), "{expected}: {error}");
    }
    assert!(matches!(mrpc(&folder.0), Err(EvaluationError::Io { .. })), "there is no such file");
    folder.write("mrpc.arrow", b"");
    assert!(matches!(mrpc(&folder.0), Err(EvaluationError::Data { .. })));
}

#[test]
fn columns_beside_are_passed_over() {
    let folder = Folder::new("beside");
    let labels = || integers(&[1, 0]);
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![1, 0]));
    let columns = [("text", strings(&["a", "b"])), ("idx", narrow), ("sentence", strings(&["c", "d"]))];
    folder.write("sst2.arrow", &stream(&[columns.as_slice(), &[("label", labels())]].concat()));
    assert_eq!(sst2(&folder.0).unwrap()[1], Sentence { text: "d".into(), label: false });
    let nothing: ArrayRef = Arc::new(NullArray::new(2));
    folder.write(
        "sst2.arrow",
        &stream(&[("sentence", strings(&["c", "d"])), ("x", nothing), ("label", labels())]),
    );
    let error = sst2(&folder.0).unwrap_err().to_string();
    assert!(error.contains("column \"x\" holds neither"), "{error}");
}

#[test]
fn damaged_streams_do_not_panic() {
    let good = stream(&[("sentence", strings(&["a", "b"])), ("label", integers(&[1, 0]))]);
    for at in 0..good.len() {
        let read = |bytes: &[u8]| arrow::read(bytes, ["sentence"], "label");
        assert!(read(&good[..at]).is_err());
        let mut bytes = good.clone();
        for to in 0..=u8::MAX {
            bytes[at] = to;
            // What is damaged may be a letter of a text.
            let _ = read(&bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn heavily_damaged_streams_do_not_panic(damages: Vec<(prop::sample::Index, u8)>) {
        let mut bytes = stream(&[("sentence", strings(&["a", "b"])), ("label", integers(&[1, 0]))]);
        for (at, to) in damages {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        let _ = arrow::read(&bytes, ["sentence"], "label");
    }
}

#[test]
fn passages() {
    let folder = Folder::new("lambada");
    let line = |context: &str, word: &str| {
        format!("{{\"idx\": 0, \"request\": {{\"context\": \"{context}\", \"continuation\": \"{word}\"}}}}\n")
    };
    folder.write("lambada.jsonl.gz", &gzip(&(line("I don't care about", " signs") + &line("b", " c"))));
    let rows = lambada(&folder.0).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], Lambada { context: "I don't care about".into(), target: " signs".into() });

    let whole = gzip(&line("a", " b").repeat(100));
    let cases: [(&[u8], &str); 7] = [
        (&gzip(&(line("a", " b") + "{}\n")), "line 2: missing field `request`"),
        (&gzip(&(line("a", " b") + "\n")), "line 2"),
        (&gzip(&line("a", " ")), "last word is empty"),
        (&gzip(""), "no lines"),
        (b"plain text", "cannot read"),
        (&whole[..whole.len() - 12], "cannot read"),
        (b"", "lambada.jsonl.gz"),
    ];
    for (bytes, expected) in cases {
        folder.write("lambada.jsonl.gz", bytes);
        let error = lambada(&folder.0).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    // 300 MB of zeros in 300 KB.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    io::copy(&mut io::repeat(b'0').take(MOST_BYTES + 100), &mut encoder).unwrap();
    folder.write("lambada.jsonl.gz", &encoder.finish().unwrap());
    assert!(lambada(&folder.0).unwrap_err().to_string().contains("more than"));
}

#[test]
fn windows() {
    let folder = Folder::new("text");
    folder.write("text", "abcdéfg".as_bytes());
    let path = folder.0.join("text");
    let letters = |text: &str| Ok::<_, String>(text.chars().map(u32::from).collect());
    let cut = text(&path, 3, letters).unwrap();
    assert_eq!(cut, [['a', 'b', 'c'].map(u32::from), ['d', 'é', 'f'].map(u32::from)]);
    assert_eq!(text(&path, 7, letters).unwrap().len(), 1);
    for window in [0, 8] {
        assert!(text(&path, window, letters).unwrap_err().to_string().contains("7 tokens"));
    }
    let error = text(&path, 3, |_| Err("it will not")).unwrap_err().to_string();
    assert!(error.ends_with("into tokens: it will not"), "{error}");
    folder.write("text", b"\xff");
    assert!(matches!(text(&path, 1, letters), Err(EvaluationError::Io { .. })));
}
