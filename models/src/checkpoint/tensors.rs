//! Named tensors, wherever they are stored.

use super::CheckpointError;

/// How a file names tensors and orders their elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// As in the checkpoints of Hugging Face (`model.layers.0.mlp.up_proj.weight`).
    HuggingFace,
    /// As in GGUF files (`blk.0.ffn_up.weight`).
    Gguf,
}

/// A checkpoint's tensors, read one at a time.
pub trait Tensors: Send {
    /// How they are named.
    fn naming(&self) -> Naming;

    /// All names.
    fn names(&self) -> Vec<String>;

    /// Extents, the slowest-running first (`[rows, columns]`); `None` if there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// All elements in row-major order. Elements may be infinite or no numbers: whoever uses them checks.
    ///
    /// # Errors
    /// There is no such tensor, or the file is broken.
    fn load(&mut self, name: &str) -> Result<Vec<f32>, CheckpointError>;
}
