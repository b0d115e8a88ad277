//! Arrow streams with columns of texts and a column of labels.
//!
//! `arrow-ipc` decodes and verifies the messages. Columns are cut out of a message's body here: its
//! own reader (version 60.1) panics on some damaged streams, with data out of bounds or of odd length.
//!
//! A stream is a schema, then batches of rows, then a mark of the end. A text column of a batch has
//! three buffers in the body: which rows are null, where each text begins (i32, one more than rows),
//! and all texts in UTF-8; an integer column has two, without the middle one.
//! Layout: <https://arrow.apache.org/docs/format/Columnar.html>. Refused are other types of columns (even where
//! they are not asked for: their number of buffers is not known here), nulls, compression and dictionaries.

use std::array;

use arrow_ipc::{Endianness, Message, MessageHeader, RecordBatch, Schema, Type, root_as_message};

/// What comes before the length of each message.
const CONTINUATION: [u8; 4] = [0xff; 4];
const CUT: &str = "the stream is cut off";

/// The columns that were asked for, all batches together.
#[derive(Debug)]
pub(super) struct Rows<const N: usize> {
    pub(super) texts: [Vec<String>; N],
    pub(super) labels: Vec<i64>,
}

/// Reads `N` columns of texts and one of 64-bit integers.
pub(super) fn read<const N: usize>(
    mut stream: &[u8],
    texts: [&str; N],
    label: &str,
) -> Result<Rows<N>, String> {
    let mut rows = Rows { texts: array::from_fn(|_| Vec::new()), labels: Vec::new() };
    let mut columns = None;
    while let Some((message, body)) = next(&mut stream)? {
        match (message.header_type(), &columns) {
            (MessageHeader::Schema, None) => {
                let schema = message.header_as_schema().ok_or("the schema is missing")?;
                columns = Some(Columns::new(schema, texts, label)?);
            }
            (MessageHeader::RecordBatch, Some(columns)) => {
                let batch = message.header_as_record_batch().ok_or("a batch is missing")?;
                let batch = Batch::new(batch, body, columns)?;
                for (&buffer, texts) in columns.texts.iter().zip(&mut rows.texts) {
                    batch.read_texts(buffer, texts)?;
                }
                batch.read_integers(columns.label, &mut rows.labels)?;
            }
            (other, _) => return Err(format!("a message of type {other:?} is out of place")),
        }
    }
    Ok(rows)
}

/// Takes a message and its body off a stream; `None` at the mark of the end.
fn next<'a>(stream: &mut &'a [u8]) -> Result<Option<(Message<'a>, &'a [u8])>, String> {
    let (head, rest) = stream.split_first_chunk::<8>().ok_or(CUT)?;
    let [marker @ .., a, b, c, d] = *head;
    if marker != CONTINUATION {
        return Err("it is no Arrow stream".into());
    }
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length == 0 {
        return Ok(None);
    }
    let (message, rest) = rest.split_at_checked(length).ok_or(CUT)?;
    let message = root_as_message(message).map_err(|e| format!("a message is damaged: {e}"))?;
    let (body, rest) = rest.split_at_checked(extent(message.bodyLength())?).ok_or(CUT)?;
    *stream = rest;
    Ok(Some((message, body)))
}

/// Where the columns' buffers lie among those of a batch.
struct Columns<const N: usize> {
    /// The first buffer of each.
    texts: [usize; N],
    label: usize,
    columns: usize,
    buffers: usize,
}

impl<const N: usize> Columns<N> {
    fn new(schema: Schema<'_>, texts: [&str; N], label: &str) -> Result<Self, String> {
        if schema.endianness() != Endianness::Little {
            return Err("its numbers are big-endian".into());
        }
        let fields = schema.fields().ok_or("it has no columns")?;
        let mut places = [None; N];
        let mut label_place = None;
        let mut buffers = 0;
        for field in fields {
            let name = field.name().unwrap_or_default();
            let integer = field.type_as_int().map(|int| (int.bitWidth(), int.is_signed()));
            let of_type = |right: bool, what: &str| {
                if right { Ok(Some(buffers)) } else { Err(format!("column {name:?} does not hold {what}")) }
            };
            if let Some(i) = texts.iter().position(|text| *text == name) {
                places[i] = of_type(field.type_type() == Type::Utf8, "texts")?;
            }
            if name == label {
                label_place = of_type(integer == Some((64, true)), "64-bit integers")?;
            }
            buffers += match (field.type_type(), field.dictionary()) {
                (Type::Utf8, None) => 3,
                (Type::Int, None) => 2,
                _ => return Err(format!("column {name:?} holds neither texts nor integers")),
            };
        }
        let found = |place: Option<usize>, name| place.ok_or_else(|| format!("it has no column {name:?}"));
        let mut first = [0; N];
        for ((first, place), name) in first.iter_mut().zip(places).zip(texts) {
            *first = found(place, name)?;
        }
        Ok(Self { texts: first, label: found(label_place, label)?, columns: fields.len(), buffers })
    }
}

/// A batch whose buffers are as many as they should be, and inside the body.
struct Batch<'a> {
    rows: usize,
    buffers: Vec<&'a [u8]>,
}

impl<'a> Batch<'a> {
    fn new<const N: usize>(
        batch: RecordBatch<'a>,
        body: &'a [u8],
        columns: &Columns<N>,
    ) -> Result<Self, String> {
        if batch.compression().is_some() {
            return Err("it is compressed".into());
        }
        let rows = extent(batch.length())?;
        let nodes = batch.nodes().filter(|nodes| nodes.len() == columns.columns);
        for node in nodes.ok_or("a batch has too many or too few columns")? {
            if extent(node.length())? != rows {
                return Err("a column is shorter or longer than its batch".into());
            }
            if node.null_count() != 0 {
                return Err("values are missing".into());
            }
        }
        let buffers = batch.buffers().filter(|buffers| buffers.len() == columns.buffers);
        let buffers = buffers.ok_or("a batch has too many or too few buffers")?.iter().map(|buffer| {
            let from = body.get(extent(buffer.offset())?..).ok_or(CUT)?;
            Ok(from.get(..extent(buffer.length())?).ok_or(CUT)?)
        });
        Ok(Self { rows, buffers: buffers.collect::<Result<_, String>>()? })
    }

    fn read_integers(&self, first: usize, into: &mut Vec<i64>) -> Result<(), String> {
        let (values, _) = self.buffers[first + 1].as_chunks();
        let values = values.get(..self.rows).ok_or(CUT)?;
        into.extend(values.iter().map(|&value| i64::from_le_bytes(value)));
        Ok(())
    }

    fn read_texts(&self, first: usize, into: &mut Vec<String>) -> Result<(), String> {
        if self.rows == 0 {
            // Then the places may be left out.
            return Ok(());
        }
        let (places, _) = self.buffers[first + 1].as_chunks();
        let places = places.get(..=self.rows).ok_or(CUT)?;
        let mut from = extent(i32::from_le_bytes(places[0]).into())?;
        for &to in &places[1..] {
            let to = extent(i32::from_le_bytes(to).into())?;
            let text = self.buffers[first + 2].get(from..to).ok_or("a text is out of place")?;
            into.push(str::from_utf8(text).map_err(|e| format!("a text is damaged: {e}"))?.into());
            from = to;
        }
        Ok(())
    }
}

fn extent(number: i64) -> Result<usize, String> {
    usize::try_from(number).map_err(|_| "an extent is negative".into())
}
