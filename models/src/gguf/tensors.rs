use super::Gguf;
use crate::checkpoint::{CheckpointError, Naming, Tensors};

/// The tensors of a GGUF file, with shapes turned round: the file lists the fastest dimension first.
impl Tensors for Gguf {
    fn naming(&self) -> Naming {
        Naming::Gguf
    }

    fn names(&self) -> Vec<String> {
        self.tensors().map(|info| info.name.clone()).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        // An extent that this machine cannot count belongs to a tensor that it cannot load either.
        let extent = |dim: &u64| usize::try_from(*dim).unwrap_or(usize::MAX);
        Some(self.info(name)?.dims.iter().rev().map(extent).collect())
    }

    fn load(&mut self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        Ok(self.tensor(name)?)
    }
}
