use std::env;
use std::fs;
use std::io::Write;
use std::process;

use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, WIPOffset};
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

/// Two batches with the columns `sentence`, `label` and `idx`, written by Arrow's own library from Python (`pyarrow`).
const BY_PYARROW: &[u8] = include_bytes!("../../../tests/data/sst2_by_pyarrow.arrow");

#[derive(Clone)]
enum Column {
    Texts(&'static [&'static str]),
    Integers(&'static [i64]),
    Narrow(&'static [i32]),
    /// Integers of which one is null.
    Gap(&'static [i64]),
    /// Arrow's type `Null`, which has no buffers.
    Nothing(usize),
}
use Column::{Gap, Integers, Narrow, Nothing, Texts};

impl Column {
    /// Its type's number and, for integers, the bits.
    fn kind(&self) -> (u8, i32) {
        match self {
            Texts(_) => (5, 0),
            Integers(_) | Gap(_) => (2, 64),
            Narrow(_) => (2, 32),
            Nothing(_) => (1, 0),
        }
    }

    fn rows(&self) -> usize {
        match self {
            Texts(texts) => texts.len(),
            Integers(values) | Gap(values) => values.len(),
            Narrow(values) => values.len(),
            Nothing(rows) => *rows,
        }
    }

    /// Its buffers, of which the first, which rows are null, is left empty.
    fn buffers(&self) -> Vec<Vec<u8>> {
        match self {
            Texts(texts) => {
                let ends = (0..=texts.len()).map(|n| texts[..n].concat().len() as i32);
                vec![vec![], ends.flat_map(i32::to_le_bytes).collect(), texts.concat().into()]
            }
            Integers(values) | Gap(values) => {
                vec![vec![], values.iter().flat_map(|v| v.to_le_bytes()).collect()]
            }
            Narrow(values) => vec![vec![], values.iter().flat_map(|v| v.to_le_bytes()).collect()],
            Nothing(_) => vec![],
        }
    }
}

type Made = WIPOffset<TableFinishedWIPOffset>;

/// Where a vtable notes a field.
const fn slot(n: u16) -> u16 {
    4 + 2 * n
}

/// A message with its body, framed.
fn message(header_type: u8, body: &[u8], header: impl FnOnce(&mut FlatBufferBuilder<'_>) -> Made) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let header = header(&mut builder);
    let table = builder.start_table();
    builder.push_slot_always(slot(3), body.len() as i64);
    builder.push_slot_always(slot(2), header);
    builder.push_slot_always(slot(1), header_type);
    let table = builder.end_table(table);
    builder.finish_minimal(table);
    let data = builder.finished_data();
    [&[0xff; 4], &(data.len() as u32).to_le_bytes()[..], data, body].concat()
}

fn field(builder: &mut FlatBufferBuilder<'_>, name: &str, column: &Column) -> Made {
    let name = builder.create_string(name);
    let (kind, bits) = column.kind();
    let of_kind = builder.start_table();
    builder.push_slot(slot(0), bits, 0);
    builder.push_slot(slot(1), bits != 0, false);
    let of_kind = builder.end_table(of_kind);
    let field = builder.start_table();
    builder.push_slot_always(slot(0), name);
    builder.push_slot_always(slot(2), kind);
    builder.push_slot_always(slot(3), of_kind);
    builder.end_table(field)
}

fn pairs(builder: &mut FlatBufferBuilder<'_>, pairs: &[[i64; 2]]) -> WIPOffset<u32> {
    builder.start_vector::<i64>(2 * pairs.len());
    for number in pairs.as_flattened().iter().rev() {
        builder.push(*number);
    }
    WIPOffset::new(builder.end_vector::<i64>(pairs.len()).value())
}

/// An Arrow stream with all columns, twice.
fn stream(columns: &[(&str, Column)]) -> Vec<u8> {
    let schema = message(1, &[], |builder| {
        let fields: Vec<Made> = columns.iter().map(|(name, column)| field(builder, name, column)).collect();
        let fields = builder.create_vector(&fields);
        let schema = builder.start_table();
        builder.push_slot_always(slot(1), fields);
        builder.end_table(schema)
    });
    let (mut body, mut buffers, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
    for (_, column) in columns {
        nodes.push([column.rows() as i64, i64::from(matches!(column, Gap(_)))]);
        for buffer in column.buffers() {
            buffers.push([body.len() as i64, buffer.len() as i64]);
            body.extend(buffer);
        }
    }
    let batch = message(3, &body, |builder| {
        let (nodes, buffers) = (pairs(builder, &nodes), pairs(builder, &buffers));
        let batch = builder.start_table();
        builder.push_slot_always(slot(0), columns[0].1.rows() as i64);
        builder.push_slot_always(slot(1), nodes);
        builder.push_slot_always(slot(2), buffers);
        builder.end_table(batch)
    });
    [&schema, &batch, &batch, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0][..]].concat()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_stream_of_pyarrow() {
    let folder = Folder::new("pyarrow");
    folder.write("sst2.arrow", BY_PYARROW);
    let expected = [("unflinchingly bleak ", false), ("a café", true), ("", true)];
    let expected = expected.map(|(text, label)| Sentence { text: text.into(), label });
    assert_eq!(sst2(&folder.0).unwrap(), expected);
}

#[test]
fn arrow_columns_become_rows() {
    let folder = Folder::new("arrow");
    let columns = [
        ("label", Integers(&[1, 0])),
        ("idx", Narrow(&[7, 8])),
        ("sentence1", Texts(&["a", "b"])),
        ("text", Texts(&["x", "y"])),
        ("sentence2", Texts(&["c", "dé"])),
    ];
    folder.write("mrpc.arrow", &stream(&columns));
    let pairs = mrpc(&folder.0).unwrap();
    assert_eq!(pairs.len(), 4);
    assert_eq!(pairs[1], Pair { first: "b".into(), second: "dé".into(), label: false });
    assert_eq!(pairs[2], Pair { first: "a".into(), second: "c".into(), label: true });
}

#[test]
fn other_arrow_data_is_refused() {
    let folder = Folder::new("other");
    let (texts, labels) = (("sentence", Texts(&["a", "b"])), ("label", Integers(&[1, 0])));
    let cases = [
        ("no column \"label\"", vec![texts.clone()]),
        ("no column \"sentence\"", vec![("text", Texts(&["a", "b"])), labels.clone()]),
        ("column \"label\" does not hold 64-bit", vec![texts.clone(), ("label", Narrow(&[1, 0]))]),
        ("column \"label\" does not hold 64-bit", vec![texts.clone(), ("label", Texts(&["1", "0"]))]),
        ("column \"sentence\" does not hold texts", vec![("sentence", Integers(&[1, 0])), labels.clone()]),
        ("column \"x\" holds neither", vec![texts.clone(), ("x", Nothing(2)), labels.clone()]),
        ("neither 0 nor 1, in row 1", vec![texts.clone(), ("label", Integers(&[1, -1]))]),
        ("values are missing", vec![texts.clone(), ("label", Gap(&[1, 0]))]),
        ("shorter or longer", vec![texts, ("label", Integers(&[1]))]),
        ("no rows", vec![("sentence", Texts(&[])), ("label", Integers(&[]))]),
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
fn damaged_streams_do_not_panic() {
    for at in 0..BY_PYARROW.len() {
        let read = |bytes: &[u8]| arrow::read(bytes, ["sentence"], "label");
        assert!(read(&BY_PYARROW[..at]).is_err());
        let mut bytes = BY_PYARROW.to_vec();
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
        let mut bytes = BY_PYARROW.to_vec();
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
