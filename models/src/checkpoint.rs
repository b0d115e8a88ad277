//! Checkpoints: a model's configuration, and its weights one tensor at a time.
//!
//! A [`TensorSource`] is where weights come from: [`FileCheckpoint`] reads files, [`RandomModel`] makes them up for
//! tests and for measuring cost. Both give the same shapes, row-major with one row per output.

mod config;
mod file;
mod file_error;
mod gguf_config;
mod hf_config;
mod layout;
mod open;
mod random;
mod safetensors;
mod tensors;

use crate::gguf::GgufError;

pub use config::{Activation, Family, Head, ModelConfig, Rotary};
pub use file::FileCheckpoint;
pub use file_error::FileError;
pub use hf_config::HfConfig;
pub use layout::{Kind, LayerTensor, TensorId};
pub use open::Checkpoint;
pub use random::RandomModel;
pub use safetensors::SafetensorsFolder;
pub(crate) use safetensors::{INDEX_FILE, SINGLE_FILE, shard_names};
pub use tensors::{Naming, Tensors};

/// Why a checkpoint was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file is broken or uses something that is not read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The files of the checkpoint are broken or ask for something that is not implemented.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another architecture.
    #[error(
        "the model's architecture is {found:?}, which is not supported; {supported} is: choose a model of that family"
    )]
    Architecture {
        /// What the file says.
        found: String,
        /// What would work.
        supported: &'static str,
    },
    /// A variant of the architecture that is computed differently.
    #[error("the model uses {0}, which is not supported; choose a plain LLaMA model")]
    Variant(String),
    /// The configuration contradicts itself or is out of bounds.
    #[error("impossible configuration: {0}")]
    Config(String),
    /// A tensor that the configuration calls for is absent.
    #[error("the checkpoint lacks tensor {name:?}; get all files of the model")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor that the configuration does not call for, so that the model would be computed wrongly.
    #[error(
        "the checkpoint has tensor {name:?}, for which a plain {family} model has no use; choose a plain {family} model"
    )]
    ExtraTensor {
        /// Its name.
        name: String,
        /// What the configuration says it is.
        family: &'static str,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name:?} has shape {found:?} (rows first); the configuration calls for {wanted:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its extents.
        found: Vec<usize>,
        /// What the configuration says.
        wanted: Vec<usize>,
    },
    /// Weights that no computation can use.
    #[error(
        "tensor {name:?} holds {value} at element {index}; weights must be finite and below {limit} in magnitude: the checkpoint is damaged, or its training has diverged"
    )]
    Value {
        /// The tensor.
        name: String,
        /// Where in it.
        index: usize,
        /// What is there.
        value: f32,
        /// What fits the fixed-point numbers.
        limit: f32,
    },
    /// A tensor that this configuration does not have was asked for.
    #[error("a {family} model of {layers} layers has no tensor {which:?}")]
    NoSuchTensor {
        /// The tensor.
        which: TensorId,
        /// Its family.
        family: &'static str,
        /// Number of layers.
        layers: usize,
    },
}

/// Largest magnitude of a weight: with 18 fractional bits each, a weight times an activation of a tenth of its size is
/// below 2^59. Sums are certified by calibration.
pub const LARGEST_WEIGHT: f32 = 8192.0;

/// Where a model's weights come from.
pub trait TensorSource: Send {
    /// The model's configuration.
    fn config(&self) -> &ModelConfig;

    /// One tensor, row-major `[out][in]` (gains and biases are one row), its length that of [`TensorId::shape`],
    /// every element finite and below [`LARGEST_WEIGHT`].
    ///
    /// # Errors
    /// The checkpoint does not have it, or it is damaged.
    fn load(&mut self, which: TensorId) -> Result<Vec<f32>, CheckpointError>;
}
