//! Readers of evaluation data. The files come from elsewhere: sizes are bounded, and what is wrong
//! is an error that says where.

mod arrow;
mod flatbuffer;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

/// Longest file that is read, and longest text after decompression.
const MOST_BYTES: u64 = 256 << 20;

/// Why data could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// The file cannot be read, or is no gzip file or no text.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system, or the decompressor, said.
        source: io::Error,
    },
    /// It is read, but it is not the expected data.
    #[error("{} is not the expected data: {why}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The caller's tokenizer failed.
    #[error("cannot cut {} into tokens: {why}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer said.
        why: String,
    },
}

/// A pair of sentences of MRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The first sentence.
    pub first: String,
    /// The second sentence.
    pub second: String,
    /// Whether they mean the same.
    pub label: bool,
}

/// A sentence of SST-2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// The sentence, in lower case, tokens set apart by spaces; often with a space at the end.
    pub text: String,
    /// Whether it is positive.
    pub label: bool,
}

/// A passage of LAMBADA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lambada {
    /// The passage without its last word, with no space at the end.
    pub context: String,
    /// The last word, with a space in front.
    pub target: String,
}

/// `mrpc.arrow` of a folder: the columns `sentence1`, `sentence2` and `label`.
///
/// # Errors
/// The file is missing, damaged, or other data.
pub fn mrpc(folder: &Path) -> Result<Vec<Pair>, EvaluationError> {
    let ([first, second], labels) = rows(&folder.join("mrpc.arrow"), ["sentence1", "sentence2"])?;
    let rows = first.into_iter().zip(second).zip(labels);
    Ok(rows.map(|((first, second), label)| Pair { first, second, label }).collect())
}

/// `sst2.arrow` of a folder: the columns `sentence` and `label`.
///
/// # Errors
/// The file is missing, damaged, or other data.
pub fn sst2(folder: &Path) -> Result<Vec<Sentence>, EvaluationError> {
    let ([texts], labels) = rows(&folder.join("sst2.arrow"), ["sentence"])?;
    Ok(texts.into_iter().zip(labels).map(|(text, label)| Sentence { text, label }).collect())
}

/// Reads columns of texts and the column `label` of an Arrow stream, all of one length.
fn rows<const N: usize>(
    path: &Path,
    texts: [&str; N],
) -> Result<([Vec<String>; N], Vec<bool>), EvaluationError> {
    let data = |why| EvaluationError::Data { path: path.into(), why };
    let rows = arrow::read(&read_all(path)?, texts, "label").map_err(data)?;
    if rows.labels.is_empty() {
        return Err(data("it has no rows".into()));
    }
    let label = |(row, label): (usize, i64)| match label {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(data(format!("the label is {other}, neither 0 nor 1, in row {row}"))),
    };
    let labels = rows.labels.into_iter().enumerate().map(label).collect::<Result<_, _>>()?;
    Ok((rows.texts, labels))
}

/// `lambada.jsonl.gz` of a folder: in each line `request.context` and `request.continuation`.
///
/// # Errors
/// The file is missing, damaged, or other data.
pub fn lambada(folder: &Path) -> Result<Vec<Lambada>, EvaluationError> {
    #[derive(serde::Deserialize)]
    struct Line {
        request: Request,
    }
    #[derive(serde::Deserialize)]
    struct Request {
        context: String,
        continuation: String,
    }

    let path = folder.join("lambada.jsonl.gz");
    let io = |source| EvaluationError::Io { path: path.clone(), source };
    let data = |why: String| EvaluationError::Data { path: path.clone(), why };
    let file = File::open(&path).map_err(io)?;
    let text = MultiGzDecoder::new(BufReader::new(file)).take(MOST_BYTES + 1);
    let mut rows = Vec::new();
    let mut bytes = 0;
    for (number, line) in BufReader::new(text).lines().enumerate() {
        let line = line.map_err(io)?;
        bytes += line.len() as u64 + 1;
        if bytes > MOST_BYTES {
            return Err(data(format!("it holds more than {MOST_BYTES} bytes")));
        }
        let line: Line =
            serde_json::from_str(&line).map_err(|e| data(format!("line {}: {e}", number + 1)))?;
        let Request { context, continuation: target } = line.request;
        if context.is_empty() || target.trim().is_empty() {
            return Err(data(format!("line {}: the passage or its last word is empty", number + 1)));
        }
        rows.push(Lambada { context, target });
    }
    if rows.is_empty() {
        return Err(data("it has no lines".into()));
    }
    Ok(rows)
}

/// A file of plain text, cut into windows of `window` tokens that follow one another; what is left at the end
/// is dropped. `tokenize` gets the whole text at once.
///
/// # Errors
/// The file is missing or not UTF-8, the tokenizer fails, or there is not one whole window.
pub fn text<E: std::fmt::Display>(
    path: &Path,
    window: usize,
    tokenize: impl FnOnce(&str) -> Result<Vec<u32>, E>,
) -> Result<Vec<Vec<u32>>, EvaluationError> {
    let invalid =
        |e| EvaluationError::Io { path: path.into(), source: io::Error::new(io::ErrorKind::InvalidData, e) };
    let text = String::from_utf8(read_all(path)?).map_err(invalid)?;
    let tokens =
        tokenize(&text).map_err(|e| EvaluationError::Tokenizer { path: path.into(), why: e.to_string() })?;
    if window == 0 || tokens.len() < window {
        let why = format!("it has {} tokens, and windows are to have {window}", tokens.len());
        return Err(EvaluationError::Data { path: path.into(), why });
    }
    Ok(tokens.chunks_exact(window).map(<[u32]>::to_vec).collect())
}

/// All bytes of a file of bounded size.
fn read_all(path: &Path) -> Result<Vec<u8>, EvaluationError> {
    let io = |source| EvaluationError::Io { path: path.into(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MOST_BYTES {
        let why = format!("it has more than {MOST_BYTES} bytes");
        return Err(EvaluationError::Data { path: path.into(), why });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
