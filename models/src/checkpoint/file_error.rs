use std::io;
use std::path::{Path, PathBuf};

use crate::tokenizer::TokenizerError;

/// Why the files of a checkpoint were refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file cannot be opened or read.
    #[error("cannot read {}: {source}; check that the path is right and the download complete", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The path is not one of a model.
    #[error(
        "{} {what}; give a .gguf file, a folder with config.json and model.safetensors, or a config.json",
        path.display()
    )]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is wrong with it, worded to follow the path.
        what: String,
    },
    /// A file contradicts its format.
    #[error("{} is broken: {what}; get the file again", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A tensor of integers, or of a float type that is not read, was asked for.
    #[error("tensor {name:?} is stored as {found}; F64, F32, F16 and BF16 are read: convert the checkpoint")]
    TensorType {
        /// The tensor.
        name: String,
        /// How it is stored.
        found: String,
    },
    /// A tensor holds something that is no number.
    #[error("tensor {name:?} holds {value} at element {at}: the file is damaged, get it again")]
    NotFinite {
        /// The tensor.
        name: String,
        /// The element.
        value: f32,
        /// Its place.
        at: usize,
    },
    /// A tensor does not fit into memory.
    #[error("tensor {name:?} is too big for this machine's memory")]
    TooBig {
        /// The tensor.
        name: String,
    },
    /// The configuration asks for something that is not implemented.
    #[error("{what} is not supported; {supported} can be run: choose such a model")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What would have worked.
        supported: &'static str,
    },
    /// A setting of the configuration is absent or of the wrong type.
    #[error("the model's configuration has {found} for {key:?}, not {wanted}; get the file again")]
    Setting {
        /// Its name.
        key: String,
        /// What is there.
        found: String,
        /// What must be there.
        wanted: &'static str,
    },
    /// The tokenizer is refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tokenizer and the embeddings do not belong together.
    #[error(
        "the tokenizer has {tokens} tokens, the model {vocab}: use the tokenizer that came with the model"
    )]
    Vocabulary {
        /// Of the tokenizer.
        tokens: usize,
        /// Of the model.
        vocab: usize,
    },
}

impl FileError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(super) fn broken(path: &Path, what: impl Into<String>) -> Self {
        Self::Broken { path: path.to_path_buf(), what: what.into() }
    }
}
