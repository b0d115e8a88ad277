//! Weights in a folder as Hugging Face lays it out: `model.safetensors`, or several such files and
//! `model.safetensors.index.json`, which says what lies where.
//!
//! Opening reads the headers only. A tensor is read from its place when it is asked for, so memory
//! holds the headers and one tensor. Nobody vouches for the files: lengths are compared with the
//! file's before anything is allocated, the crate `safetensors` checks that the tensors cover the
//! data without a gap or an overlap, and the index cannot name a file outside the folder. Links are
//! followed, as download caches consist of them.
//!
//! ```text
//! header bytes:u64  header:JSON {name: {dtype, shape, data_offsets: [from, to]}}  data
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;

use super::{CheckpointError, FileError, Naming, Tensors};
use crate::gguf::f16_to_f32;

pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Largest header of a file, in bytes; some 100 000 tensors fit.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Largest index.
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// Most files of a checkpoint.
const MAX_SHARDS: usize = 256;
/// How much of a tensor is read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A checkpoint's safetensors files.
#[derive(Debug)]
pub struct SafetensorsFolder {
    shards: Vec<Shard>,
    /// Where each tensor is: number of the file, and the line of its header.
    places: BTreeMap<String, (usize, TensorInfo)>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    data_start: u64,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl SafetensorsFolder {
    /// Opens the files of a folder and reads their headers.
    ///
    /// # Errors
    /// A file is missing, broken, or lacks a tensor that the index promises.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, FileError> {
        let folder = folder.as_ref();
        let mut opened = Self { shards: Vec::new(), places: BTreeMap::new() };
        let single = folder.join(SINGLE_FILE);
        let index = folder.join(INDEX_FILE);
        if single.exists() {
            opened.add(&single)?;
        } else if index.exists() {
            let map = read_index(&index)?;
            for file in distinct(&map, &index)? {
                opened.add(&folder.join(file))?;
            }
            for (name, file) in &map {
                let found = opened.places.get(name).map(|(shard, _)| &opened.shards[*shard].path);
                if found != Some(&folder.join(file)) {
                    return Err(FileError::broken(&index, format!("tensor {name:?} is not in {file:?}")));
                }
            }
        } else {
            let what = match folder.join("pytorch_model.bin").exists() {
                true => {
                    "holds pytorch_model.bin, which is a program and is not run: convert it to safetensors"
                }
                false => "holds neither model.safetensors nor model.safetensors.index.json",
            };
            return Err(FileError::NotAModel { path: folder.to_path_buf(), what: what.into() });
        }
        Ok(opened)
    }

    /// Reads the header of one file.
    fn add(&mut self, path: &Path) -> Result<(), FileError> {
        let io = |e| FileError::io(path, e);
        let broken = |what: String| FileError::broken(path, what);
        let mut file = File::open(path).map_err(io)?;
        let file_bytes = file.seek(SeekFrom::End(0)).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        if file_bytes < 8 {
            return Err(broken(format!("it ends after {file_bytes} bytes, within the header's length")));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(io)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            let what = format!("a header of {length} bytes; at most {MAX_HEADER_BYTES} are read");
            return Err(broken(what));
        }
        if length > file_bytes - 8 {
            return Err(broken(format!("it ends within the header of {length} bytes")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(io)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| broken(e.to_string()))?;
        let (found, wanted) = (file_bytes - 8 - length, metadata.data_len() as u64);
        if found != wanted {
            return Err(broken(format!("it has {found} bytes of tensors, the header lists {wanted}")));
        }
        let number = self.shards.len();
        for (name, info) in metadata.tensors() {
            if let Some((other, _)) = self.places.get(&name) {
                let other = &self.shards[*other].path;
                return Err(broken(format!("tensor {name:?} is in {} too", other.display())));
            }
            self.places.insert(name, (number, info.clone()));
        }
        self.shards.push(Shard { path: path.to_path_buf(), file, data_start: 8 + length });
        Ok(())
    }
}

impl Tensors for SafetensorsFolder {
    fn naming(&self) -> Naming {
        Naming::HuggingFace
    }

    /// All names, those of integer tensors (`position_ids`) among them, which [`Tensors::load`] refuses.
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.places.get(name).map(|(_, info)| info.shape.clone())
    }

    fn load(&mut self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let Some((shard, info)) = self.places.get(name) else {
            return Err(CheckpointError::MissingTensor { name: name.to_owned() });
        };
        let decode = decoder(info.dtype)
            .ok_or_else(|| FileError::TensorType { name: name.to_owned(), found: info.dtype.to_string() })?;
        let Shard { path, file, data_start } = &mut self.shards[*shard];
        let (from, to) = info.data_offsets;
        let mut left = to - from;
        let elements = left / (info.dtype.bitsize() / 8);
        let mut weights = Vec::new();
        weights.try_reserve_exact(elements).map_err(|_| FileError::TooBig { name: name.to_owned() })?;

        let mut buffer = vec![0; left.min(CHUNK_BYTES)];
        file.seek(SeekFrom::Start(*data_start + from as u64)).map_err(|e| FileError::io(path, e))?;
        while left > 0 {
            let now = left.min(CHUNK_BYTES);
            file.read_exact(&mut buffer[..now]).map_err(|e| FileError::io(path, e))?;
            decode(&buffer[..now], &mut weights);
            left -= now;
        }
        match weights.iter().position(|w| !w.is_finite()) {
            None => Ok(weights),
            Some(at) => Err(FileError::NotFinite { name: name.to_owned(), value: weights[at], at }.into()),
        }
    }
}

/// The names of the files that an index lists.
pub(crate) fn shard_names(index: &Path) -> Result<BTreeSet<String>, FileError> {
    distinct(&read_index(index)?, index)
}

fn distinct(map: &HashMap<String, String>, index: &Path) -> Result<BTreeSet<String>, FileError> {
    let files: BTreeSet<String> = map.values().cloned().collect();
    match files.len() {
        0..=MAX_SHARDS => Ok(files),
        many => {
            let what = format!("{many} files are listed; at most {MAX_SHARDS} are read");
            Err(FileError::broken(index, what))
        }
    }
}

/// The names in the index with the file that holds each.
fn read_index(path: &Path) -> Result<HashMap<String, String>, FileError> {
    let json = super::open::read_text(path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_str(&json).map_err(|e| FileError::broken(path, e.to_string()))?;
    match index.weight_map.values().find(|file| !is_file_name(file)) {
        None => Ok(index.weight_map),
        Some(file) => Err(FileError::broken(path, format!("{file:?} is not the name of a file beside it"))),
    }
}

/// Whether a name means a file in the folder itself, on every system.
pub(super) fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    plain && !name.contains(['/', '\\', ':', '\0'])
}

type Decode = fn(&[u8], &mut Vec<f32>);

/// How elements of a type become f32. A chunk holds whole elements: its length is a power of two.
fn decoder(dtype: Dtype) -> Option<Decode> {
    match dtype {
        Dtype::F64 => Some(|bytes, out| each(bytes, out, |b| f64::from_le_bytes(b) as f32)),
        Dtype::F32 => Some(|bytes, out| each(bytes, out, f32::from_le_bytes)),
        Dtype::F16 => Some(|bytes, out| each(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b)))),
        Dtype::BF16 => Some(|bytes, out| {
            each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
        }),
        _ => None,
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, decode: impl Fn([u8; N]) -> f32) {
    out.extend(bytes.as_chunks::<N>().0.iter().map(|b| decode(*b)));
}
