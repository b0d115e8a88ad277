//! Arrow streams with columns of texts and a column of labels.
//!
//! The crate `arrow-ipc` (60.1) was tried: it panics on some damaged streams, and takes two minutes of
//! a processor to compile. What is needed is little.
//!
//! A stream is a schema, then batches of rows, then a mark of the end. A text column of a batch has
//! three buffers in the body: which rows are null, where each text begins (i32, one more than rows),
//! and all texts in UTF-8; an integer column has two, without the middle one.
//! Layout: <https://arrow.apache.org/docs/format/Columnar.html>; the messages are FlatBuffers, whose
//! tables are in `format/Message.fbs` and `format/Schema.fbs` of <https://github.com/apache/arrow>.
//!
//! Refused are other types of columns (even where they are not asked for: their number of buffers is
//! not known here), nulls, compression and dictionaries.

use std::array;

use super::flatbuffer::Table;

// Slots of the tables that are read, and values of their enumerations.
const MESSAGE_HEADER_TYPE: usize = 1;
const MESSAGE_HEADER: usize = 2;
const MESSAGE_BODY_LENGTH: usize = 3;
const SCHEMA_ENDIANNESS: usize = 0;
const SCHEMA_FIELDS: usize = 1;
const FIELD_NAME: usize = 0;
const FIELD_TYPE_TYPE: usize = 2;
const FIELD_TYPE: usize = 3;
const FIELD_DICTIONARY: usize = 4;
const INT_BIT_WIDTH: usize = 0;
const INT_IS_SIGNED: usize = 1;
const BATCH_LENGTH: usize = 0;
const BATCH_NODES: usize = 1;
const BATCH_BUFFERS: usize = 2;
const BATCH_COMPRESSION: usize = 3;
const HEADER_IS_SCHEMA: u8 = 1;
const HEADER_IS_RECORD_BATCH: u8 = 3;
const TYPE_IS_INT: u8 = 2;
const TYPE_IS_UTF8: u8 = 5;

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
        let header = message.table(MESSAGE_HEADER).ok_or("a message is empty")?;
        match (u8::from_le_bytes(message.number(MESSAGE_HEADER_TYPE)), &columns) {
            (HEADER_IS_SCHEMA, None) => columns = Some(Columns::new(header, texts, label)?),
            (HEADER_IS_RECORD_BATCH, Some(columns)) => {
                let batch = Batch::new(header, body, columns)?;
                for (&buffer, texts) in columns.texts.iter().zip(&mut rows.texts) {
                    batch.read_texts(buffer, texts)?;
                }
                batch.read_integers(columns.label, &mut rows.labels)?;
            }
            (other, _) => return Err(format!("a message of type {other} is out of place")),
        }
    }
    Ok(rows)
}

/// Takes a message and its body off a stream; `None` at the mark of the end.
fn next<'a>(stream: &mut &'a [u8]) -> Result<Option<(Table<'a>, &'a [u8])>, String> {
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
    let message = Table::root(message).ok_or("a message is damaged")?;
    let body = extent(i64::from_le_bytes(message.number(MESSAGE_BODY_LENGTH)))?;
    let (body, rest) = rest.split_at_checked(body).ok_or(CUT)?;
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
    fn new(schema: Table<'_>, texts: [&str; N], label: &str) -> Result<Self, String> {
        if schema.number(SCHEMA_ENDIANNESS) != [0, 0] {
            return Err("its numbers are big-endian".into());
        }
        let fields = schema.tables(SCHEMA_FIELDS).ok_or("it has no columns")?;
        let columns = fields.len();
        let mut places = [None; N];
        let mut label_place = None;
        let mut buffers = 0;
        for field in fields {
            let field = field.ok_or("a column is damaged")?;
            let name = field.string(FIELD_NAME).unwrap_or_default();
            let kind = u8::from_le_bytes(field.number(FIELD_TYPE_TYPE));
            let is_i64 = |int: Table<'_>| {
                i32::from_le_bytes(int.number(INT_BIT_WIDTH)) == 64 && int.number(INT_IS_SIGNED) == [1]
            };
            let of_type = |right: bool, what: &str| {
                if right { Ok(Some(buffers)) } else { Err(format!("column {name:?} does not hold {what}")) }
            };
            if let Some(i) = texts.iter().position(|text| *text == name) {
                places[i] = of_type(kind == TYPE_IS_UTF8, "texts")?;
            }
            if name == label {
                label_place = of_type(
                    kind == TYPE_IS_INT && field.table(FIELD_TYPE).is_some_and(is_i64),
                    "64-bit integers",
                )?;
            }
            buffers += match (kind, field.has(FIELD_DICTIONARY)) {
                (TYPE_IS_UTF8, false) => 3,
                (TYPE_IS_INT, false) => 2,
                _ => return Err(format!("column {name:?} holds neither texts nor integers")),
            };
        }
        let found = |place: Option<usize>, name| place.ok_or_else(|| format!("it has no column {name:?}"));
        let mut first = [0; N];
        for ((first, place), name) in first.iter_mut().zip(places).zip(texts) {
            *first = found(place, name)?;
        }
        Ok(Self { texts: first, label: found(label_place, label)?, columns, buffers })
    }
}

/// A batch whose buffers are as many as they should be, and inside the body.
struct Batch<'a> {
    rows: usize,
    buffers: Vec<&'a [u8]>,
}

impl<'a> Batch<'a> {
    fn new<const N: usize>(batch: Table<'a>, body: &'a [u8], columns: &Columns<N>) -> Result<Self, String> {
        if batch.has(BATCH_COMPRESSION) {
            return Err("it is compressed".into());
        }
        let rows = extent(i64::from_le_bytes(batch.number(BATCH_LENGTH)))?;
        let nodes = batch.pairs(BATCH_NODES).filter(|nodes| nodes.len() == columns.columns);
        for [length, nulls] in nodes.ok_or("a batch has too many or too few columns")? {
            if extent(length)? != rows {
                return Err("a column is shorter or longer than its batch".into());
            }
            if nulls != 0 {
                return Err("values are missing".into());
            }
        }
        let buffers = batch.pairs(BATCH_BUFFERS).filter(|buffers| buffers.len() == columns.buffers);
        let buffers = buffers.ok_or("a batch has too many or too few buffers")?.map(|[offset, length]| {
            let from = body.get(extent(offset)?..).ok_or(CUT)?;
            Ok(from.get(..extent(length)?).ok_or(CUT)?)
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
