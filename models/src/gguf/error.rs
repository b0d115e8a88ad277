use std::path::PathBuf;

use super::TensorType;

/// Why a GGUF file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be opened.
    #[error("cannot open {}: {source}; check the path", path.display())]
    Open {
        /// The path that was asked for.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Reading failed after the file was opened.
    #[error("reading the GGUF file failed: {0}")]
    Io(#[from] std::io::Error),
    /// The file is something else.
    #[error("this is not a GGUF file (it starts with {found:02x?}, not \"GGUF\"); give a .gguf model file")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A version or byte order that is not read.
    #[error(
        "{what} is not supported; GGUF versions 2 and 3, little-endian, are: convert the file again with a current llama.cpp"
    )]
    Version {
        /// What the file is.
        what: String,
    },
    /// The file ends early.
    #[error(
        "the GGUF file ends too early: {needs} bytes are needed for {what} at byte {at}, {left} are left; get the file again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: u64,
        /// How many bytes it takes.
        needs: u64,
        /// How many are left.
        left: u64,
    },
    /// A count, length or code in the header is out of bounds.
    #[error("broken GGUF header at byte {at}: {what}")]
    Header {
        /// Where.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// `general.alignment` is not one.
    #[error("general.alignment is {found}; it must be a power of two up to 1048576")]
    Alignment {
        /// The value.
        found: String,
    },
    /// A metadata key that is needed is absent.
    #[error(
        "the GGUF file has no metadata entry {key:?}; it may hold a tokenizer or adapter only: give a whole model"
    )]
    MetadataMissing {
        /// The key.
        key: String,
    },
    /// A metadata value has another type than the one needed.
    #[error("metadata entry {key:?} is {found}, not {wanted}")]
    MetadataType {
        /// The key.
        key: String,
        /// What was asked for.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A tensor uses a storage type that cannot be dequantised here.
    #[error(
        "tensor {name:?} is stored as {type_name}, which is not supported; {} are: convert the file, for \
         example with `llama-quantize --allow-requantize IN.gguf OUT.gguf Q8_0`",
        TensorType::supported_names()
    )]
    TensorType {
        /// The tensor.
        name: String,
        /// The type's name in ggml, or its number where that is unknown too.
        type_name: String,
    },
    /// There is no such tensor.
    #[error("the GGUF file has no tensor {name:?}")]
    TensorMissing {
        /// The name asked for.
        name: String,
    },
    /// A tensor's line or its data are wrong.
    #[error("tensor {name:?} {what}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong, worded to follow the name.
        what: String,
    },
}
