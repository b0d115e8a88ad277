use std::collections::HashSet;

use super::{CheckpointError, LlamaConfig, LlamaTensor, TensorSource};
use crate::gguf::Gguf;

/// A LLaMA checkpoint in a GGUF file.
#[derive(Debug)]
pub struct GgufCheckpoint {
    gguf: Gguf,
    config: LlamaConfig,
}

impl GgufCheckpoint {
    /// Reads the configuration and compares the tensor table with it, so that loading later fails
    /// only for damaged weights.
    pub fn new(gguf: Gguf) -> Result<Self, CheckpointError> {
        let config = LlamaConfig::from_gguf(&gguf)?;
        let mut expected = HashSet::new();
        for which in LlamaTensor::all(&config) {
            let name = which.to_string();
            let Some(info) = gguf.info(&name) else {
                return Err(CheckpointError::MissingTensor { name });
            };
            let (rows, columns) = config.shape(which);
            let wanted = match rows {
                1 if is_vector(which) => vec![columns as u64],
                _ => vec![columns as u64, rows as u64],
            };
            if info.dims != wanted {
                return Err(CheckpointError::Shape { name, found: info.dims.clone(), wanted });
            }
            expected.insert(name);
        }
        if let Some(info) = gguf.tensors().find(|info| !expected.contains(&info.name)) {
            return Err(CheckpointError::ExtraTensor { name: info.name.clone() });
        }
        Ok(Self { gguf, config })
    }

    /// The file, for its tokenizer and other metadata.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }
}

fn is_vector(which: LlamaTensor) -> bool {
    use super::LayerTensor::{AttnNorm, FfnNorm};
    matches!(which, LlamaTensor::FinalNorm | LlamaTensor::Layer(_, AttnNorm | FfnNorm))
}

impl TensorSource for GgufCheckpoint {
    fn config(&self) -> &LlamaConfig {
        &self.config
    }

    fn load(&mut self, which: LlamaTensor) -> Result<Vec<f32>, CheckpointError> {
        self.config.check_index(which)?;
        let stored = match which {
            LlamaTensor::Output if self.config.tied => LlamaTensor::Embedding,
            _ => which,
        };
        Ok(self.gguf.tensor(&stored.to_string())?)
    }
}
