use std::collections::HashMap;
use std::io::Read;

use super::tensor_type::code_name;
use super::{
    Array, GgufError, MAX_ARRAY, MAX_DIMS, MAX_ENTRIES, MAX_HEADER_BYTES, TensorInfo, TensorType, Value,
};

/// Longest key and tensor name.
const MAX_NAME: u64 = 1024;
/// Deepest nesting of arrays.
const MAX_NESTING: u32 = 4;
/// Least bytes that a metadata entry (length, kind, value) and a tensor line take.
const LEAST_ENTRY: u64 = 8 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// A reader of the header that knows how far it has come and how far it may go.
pub(super) struct Header<R> {
    inner: R,
    at: u64,
    file_bytes: u64,
}

impl<R: Read> Header<R> {
    pub(super) fn new(inner: R, file_bytes: u64) -> Self {
        Self { inner, at: 0, file_bytes }
    }

    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Magic, version, and the counts of tensors and of metadata entries.
    pub(super) fn preamble(&mut self) -> Result<(u32, u64, u64), GgufError> {
        let found = self.take("the file's magic number")?;
        if &found != b"GGUF" {
            return Err(GgufError::Magic { found });
        }
        let version = self.u32("the version")?;
        match version {
            2 | 3 => {}
            _ if version & 0xffff == 0 && version != 0 => {
                let what = format!("big-endian GGUF version {}", version.swap_bytes());
                return Err(GgufError::Version { what });
            }
            _ => return Err(GgufError::Version { what: format!("GGUF version {version}") }),
        }
        let tensors = self.count("tensors", MAX_ENTRIES)?;
        let entries = self.count("metadata entries", MAX_ENTRIES)?;
        self.fits(entries, LEAST_ENTRY, "the metadata")?;
        self.fits(tensors, LEAST_TENSOR, "the tensor table")?;
        Ok((version, tensors, entries))
    }

    pub(super) fn metadata(&mut self, count: u64) -> Result<HashMap<String, Value>, GgufError> {
        let mut entries = HashMap::with_capacity(count as usize);
        for _ in 0..count {
            let key = self.name("a metadata key")?;
            let kind = self.u32("a metadata kind")?;
            let value = self.value(kind)?;
            if entries.contains_key(&key) {
                return Err(self.broken(format!("metadata entry {key:?} is given twice")));
            }
            entries.insert(key, value);
        }
        Ok(entries)
    }

    pub(super) fn tensors(&mut self, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
        let mut tensors = Vec::with_capacity(count as usize);
        for _ in 0..count {
            tensors.push(self.tensor()?);
        }
        Ok(tensors)
    }

    fn tensor(&mut self) -> Result<TensorInfo, GgufError> {
        let name = self.name("a tensor name")?;
        let count = self.u32("a number of dimensions")?;
        if !(1..=MAX_DIMS).contains(&count) {
            let what = format!("has {count} dimensions; 1 to {MAX_DIMS} are possible");
            return Err(GgufError::Tensor { name, what });
        }
        let mut dims = Vec::with_capacity(count as usize);
        for _ in 0..count {
            dims.push(self.u64("a tensor dimension")?);
        }
        let code = self.u32("a tensor type")?;
        let offset = self.u64("a tensor offset")?;
        let Some(tensor_type) = TensorType::from_code(code) else {
            return Err(GgufError::TensorType { name, type_name: code_name(code) });
        };
        let block = tensor_type.block_elements() as u64;
        let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n > 0);
        let bytes = elements.and_then(|n| (n / block).checked_mul(tensor_type.block_bytes() as u64));
        let (Some(elements), Some(bytes)) = (elements, bytes) else {
            let what = format!("has the impossible size {dims:?}");
            return Err(GgufError::Tensor { name, what });
        };
        if dims[0] % block != 0 {
            let what = format!("has rows of {} weights; {tensor_type} needs multiples of {block}", dims[0]);
            return Err(GgufError::Tensor { name, what });
        }
        Ok(TensorInfo { name, dims, tensor_type, elements, offset, bytes })
    }

    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        const WHAT: &str = "a metadata value";
        Ok(match kind {
            0 | 2 | 4 | 10 => Value::Unsigned(self.unsigned(kind)?),
            1 | 3 | 5 | 11 => Value::Signed(self.signed(kind)?),
            6 | 12 => Value::Float(self.float(kind)?),
            7 => Value::Bool(self.take::<1>(WHAT)?[0] != 0),
            8 => Value::Text(self.text(WHAT, MAX_HEADER_BYTES)?),
            9 => Value::Array(self.array(1)?),
            _ => return Err(self.broken(format!("unknown metadata kind {kind}"))),
        })
    }

    fn array(&mut self, depth: u32) -> Result<Array, GgufError> {
        const WHAT: &str = "a metadata array";
        if depth > MAX_NESTING {
            return Err(self.broken(format!("arrays are nested more than {MAX_NESTING} deep")));
        }
        let kind = self.u32(WHAT)?;
        let count = self.count("array elements", MAX_ARRAY)?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 4 + 8,
            _ => return Err(self.broken(format!("unknown metadata kind {kind}"))),
        };
        self.fits(count, least, WHAT)?;
        let n = 0..count;
        Ok(match kind {
            0 | 2 | 4 | 10 => Array::Unsigned(n.map(|_| self.unsigned(kind)).collect::<Result<_, _>>()?),
            1 | 3 | 5 | 11 => Array::Signed(n.map(|_| self.signed(kind)).collect::<Result<_, _>>()?),
            6 | 12 => Array::Float(n.map(|_| self.float(kind)).collect::<Result<_, _>>()?),
            7 => Array::Bool(n.map(|_| Ok(self.take::<1>(WHAT)?[0] != 0)).collect::<Result<_, GgufError>>()?),
            8 => Array::Text(n.map(|_| self.text(WHAT, MAX_HEADER_BYTES)).collect::<Result<_, _>>()?),
            _ => Array::Nested(n.map(|_| self.array(depth + 1)).collect::<Result<_, _>>()?),
        })
    }

    fn unsigned(&mut self, kind: u32) -> Result<u64, GgufError> {
        const WHAT: &str = "an unsigned value";
        Ok(match kind {
            0 => self.take::<1>(WHAT)?[0].into(),
            2 => u16::from_le_bytes(self.take(WHAT)?).into(),
            4 => self.u32(WHAT)?.into(),
            _ => self.u64(WHAT)?,
        })
    }

    fn signed(&mut self, kind: u32) -> Result<i64, GgufError> {
        const WHAT: &str = "a signed value";
        Ok(match kind {
            1 => i8::from_le_bytes(self.take(WHAT)?).into(),
            3 => i16::from_le_bytes(self.take(WHAT)?).into(),
            5 => i32::from_le_bytes(self.take(WHAT)?).into(),
            _ => i64::from_le_bytes(self.take(WHAT)?),
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64, GgufError> {
        const WHAT: &str = "a float value";
        Ok(match kind {
            6 => f32::from_le_bytes(self.take(WHAT)?).into(),
            _ => f64::from_le_bytes(self.take(WHAT)?),
        })
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.take(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.take(what)?))
    }

    fn count(&mut self, what: &'static str, most: u64) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        if count > most {
            return Err(self.broken(format!("{count} {what}; at most {most} are read")));
        }
        Ok(count)
    }

    fn name(&mut self, what: &'static str) -> Result<String, GgufError> {
        self.text(what, MAX_NAME)
    }

    fn text(&mut self, what: &'static str, most: u64) -> Result<String, GgufError> {
        let length = self.u64(what)?;
        if length > most {
            return Err(self.broken(format!("{what} of {length} bytes; at most {most} are read")));
        }
        self.fits(length, 1, what)?;
        let mut bytes = vec![0; length as usize];
        self.inner.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| self.broken(format!("{what} is not UTF-8")))
    }

    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        self.fits(N as u64, 1, what)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Refuses `count` things of at least `each` bytes that the rest of the file cannot hold.
    fn fits(&self, count: u64, each: u64, what: &'static str) -> Result<(), GgufError> {
        let needs = count.saturating_mul(each);
        let left = self.file_bytes - self.at;
        if needs > left {
            return Err(GgufError::Truncated { what, at: self.at, needs, left });
        }
        if needs > MAX_HEADER_BYTES - self.at.min(MAX_HEADER_BYTES) {
            return Err(self.broken(format!("the header is longer than {MAX_HEADER_BYTES} bytes")));
        }
        Ok(())
    }

    fn broken(&self, what: String) -> GgufError {
        GgufError::Header { at: self.at, what }
    }
}
