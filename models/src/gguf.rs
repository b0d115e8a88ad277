//! Reading GGUF files (versions 2 and 3, little-endian) that nobody vouches for.
//!
//! [`Gguf::open`] reads the header only: metadata and the table of tensors. Each tensor is then read
//! from its place in the file when [`Gguf::tensor`] asks for it, so memory holds the header and one
//! tensor. Every count and length is compared with what is left of the file before anything is
//! allocated for it; a broken file gives a [`GgufError`], never a panic.
//!
//! ```text
//! "GGUF" version:u32 tensors:u64 entries:u64
//! entries x (key:string kind:u32 value)
//! tensors x (name:string dims:u32 dim:u64.. type:u32 offset:u64)
//! padding to general.alignment, then the tensor data
//! ```

mod dequantise;
mod error;
mod header;
mod k_quants;
mod tensor_type;
mod tensors;
mod value;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

pub(crate) use dequantise::f16_to_f32;
pub use error::GgufError;
pub use tensor_type::TensorType;
pub use value::{Array, FromValue, Value};

use header::Header;

/// Largest header (metadata and tensor table) that is read, in bytes of the file.
const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Most metadata entries, and most tensors, that a file may list.
const MAX_ENTRIES: u64 = 65_536;
/// Most elements in one metadata array.
const MAX_ARRAY: u64 = 1 << 24;
/// Most dimensions of a tensor.
const MAX_DIMS: u32 = 4;
/// How much of a tensor is read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// One line of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Extents in file order: the fastest-running dimension comes first, so a matrix with `out` rows
    /// of `in` weights each is listed as `[in, out]`.
    pub dims: Vec<u64>,
    /// How the weights are stored.
    pub tensor_type: TensorType,
    /// Number of weights: the product of `dims`.
    pub elements: u64,
    /// Where the data starts, counted from the start of the data section.
    pub offset: u64,
    /// Length of the data in the file.
    pub bytes: u64,
}

/// What the reader needs of a file; implemented for everything that has it.
trait Source: Read + Seek + Send {}
impl<T: Read + Seek + Send> Source for T {}

/// An opened GGUF file: its metadata, its tensor table, and the way to its tensors.
pub struct Gguf {
    source: Box<dyn Source>,
    version: u32,
    metadata: HashMap<String, Value>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    data_start: u64,
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("version", &self.version)
            .field("metadata", &self.metadata.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

impl Gguf {
    /// Opens a file and reads its header.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| GgufError::Open { path: path.to_path_buf(), source })?;
        Self::from_reader(file)
    }

    /// Reads the header of a GGUF file held by any seekable reader, starting at its beginning.
    pub fn from_reader(mut source: impl Read + Seek + Send + 'static) -> Result<Self, GgufError> {
        let file_bytes = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        let mut header = Header::new(BufReader::new(&mut source), file_bytes);
        let (version, tensor_count, entry_count) = header.preamble()?;
        let metadata = header.metadata(entry_count)?;
        let tensors = header.tensors(tensor_count)?;
        let alignment = alignment(&metadata)?;
        // `at` never exceeds the header cap and the alignment never exceeds 1 MiB: no overflow.
        let data_start = header.position().next_multiple_of(alignment);
        drop(header);

        check_ranges(&tensors, alignment, file_bytes.saturating_sub(data_start))?;
        let mut by_name = HashMap::with_capacity(tensors.len());
        for (index, tensor) in tensors.iter().enumerate() {
            if by_name.insert(tensor.name.clone(), index).is_some() {
                return Err(tensor_error(tensor, "is listed twice".into()));
            }
        }
        Ok(Self { source: Box::new(source), version, metadata, tensors, by_name, data_start })
    }

    /// The format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A metadata value as it stands in the file.
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A metadata value of a given type: `None` where the key is absent, an error where the value is
    /// of another type or out of that type's range.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(found) => Ok(Some(found)),
            None => {
                Err(GgufError::MetadataType { key: key.to_owned(), wanted: T::WANTED, found: value.kind() })
            }
        }
    }

    /// As [`Gguf::get`], with absence an error too.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.get(key)?.ok_or_else(|| GgufError::MetadataMissing { key: key.to_owned() })
    }

    /// The tensor table, in file order.
    pub fn tensors(&self) -> std::slice::Iter<'_, TensorInfo> {
        self.tensors.iter()
    }

    /// The line of the tensor table with this name.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// Reads one tensor and dequantises it, in file order. NaN and infinite weights are refused.
    pub fn tensor(&mut self, name: &str) -> Result<Vec<f32>, GgufError> {
        let index =
            *self.by_name.get(name).ok_or_else(|| GgufError::TensorMissing { name: name.to_owned() })?;
        let info = &self.tensors[index];
        let too_big = || tensor_error(info, "is too big for this machine's memory".into());
        let elements = usize::try_from(info.elements).map_err(|_| too_big())?;
        let mut weights = Vec::new();
        weights.try_reserve_exact(elements).map_err(|_| too_big())?;

        let block = info.tensor_type.block_bytes();
        let mut left = info.bytes;
        let chunk = (CHUNK_BYTES / block * block) as u64;
        let mut buffer = vec![0; chunk.min(left) as usize];
        self.source.seek(SeekFrom::Start(self.data_start + info.offset))?;
        while left > 0 {
            let now = &mut buffer[..chunk.min(left) as usize];
            self.source.read_exact(now)?;
            dequantise::append(info.tensor_type, now, &mut weights);
            left -= now.len() as u64;
        }
        match weights.iter().position(|w| !w.is_finite()) {
            None => Ok(weights),
            Some(at) => Err(tensor_error(
                info,
                format!("holds {} at element {at}: the file is damaged, get it again", weights[at]),
            )),
        }
    }
}

fn tensor_error(tensor: &TensorInfo, what: String) -> GgufError {
    GgufError::Tensor { name: tensor.name.clone(), what }
}

fn alignment(metadata: &HashMap<String, Value>) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(32),
        Some(value) => value
            .as_u64()
            .filter(|a| a.is_power_of_two() && *a <= 1 << 20)
            .ok_or_else(|| GgufError::Alignment { found: value.to_string() }),
    }
}

/// Every tensor starts on the alignment, ends inside the file and shares no byte with another.
fn check_ranges(tensors: &[TensorInfo], alignment: u64, data_bytes: u64) -> Result<(), GgufError> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    let mut previous: Option<(&TensorInfo, u64)> = None;
    for tensor in order {
        if tensor.offset % alignment != 0 {
            let what = format!("starts at {}, which is not a multiple of {alignment}", tensor.offset);
            return Err(tensor_error(tensor, what));
        }
        let end = tensor.offset.checked_add(tensor.bytes).filter(|end| *end <= data_bytes);
        let Some(end) = end else {
            let what = format!(
                "needs {} bytes from {} on, but the file holds {data_bytes} bytes of tensor data: it is cut \
                 short, get it again",
                tensor.bytes, tensor.offset
            );
            return Err(tensor_error(tensor, what));
        };
        if let Some((other, other_end)) = previous
            && tensor.offset < other_end
        {
            return Err(tensor_error(tensor, format!("overlaps tensor {:?}", other.name)));
        }
        previous = Some((tensor, end));
    }
    Ok(())
}
