//! A checkpoint in files.

use super::layout::{ignored, prefixes};
use super::{CheckpointError, LARGEST_WEIGHT, ModelConfig, TensorId, TensorSource, Tensors};
use std::collections::HashSet;

/// Named tensors that have been compared with a configuration.
pub struct FileCheckpoint {
    config: ModelConfig,
    tensors: Box<dyn Tensors>,
    prefix: &'static str,
}

impl FileCheckpoint {
    /// Compares the list of tensors with the configuration, so that loading later fails only for damaged weights.
    ///
    /// # Errors
    /// A tensor is missing, has no use, or has another shape.
    pub fn new(config: ModelConfig, tensors: Box<dyn Tensors>) -> Result<Self, CheckpointError> {
        config.validate()?;
        let naming = tensors.naming();
        let all = prefixes(&config, naming);
        let has = |prefix: &&str| {
            tensors.shape(&TensorId::Embedding.stored(&config, naming, prefix).name).is_some()
        };
        let prefix = all.iter().copied().find(has).unwrap_or(all[0]);
        let checkpoint = Self { config, tensors, prefix };
        let mut expected = HashSet::new();
        for which in TensorId::all(&checkpoint.config) {
            let stored = which.stored(&checkpoint.config, naming, prefix);
            let name = checkpoint.actual_name(stored.name);
            let Some(found) = checkpoint.tensors.shape(&name) else {
                return Err(CheckpointError::MissingTensor { name });
            };
            let (rows, columns) = stored.whole;
            let wanted = match (which.is_vector(), stored.transposed) {
                (true, _) => vec![rows * columns],
                (false, false) => vec![rows, columns],
                (false, true) => vec![columns, rows],
            };
            if found != wanted {
                return Err(CheckpointError::Shape { name, found, wanted });
            }
            expected.insert(name);
        }
        let (config, tensors) = (&checkpoint.config, &checkpoint.tensors);
        let extra = tensors
            .names()
            .into_iter()
            .find(|name| !expected.contains(name) && !ignored(config, naming, prefix, name));
        match extra {
            Some(name) => Err(CheckpointError::ExtraTensor { name, family: config.family.name() }),
            None => Ok(checkpoint),
        }
    }

    /// Older checkpoints call a norm's gain gamma and its bias beta.
    fn actual_name(&self, name: String) -> String {
        if self.tensors.shape(&name).is_none()
            && let Some(stem) = name.strip_suffix("LayerNorm.weight")
        {
            return format!("{stem}LayerNorm.gamma");
        }
        if self.tensors.shape(&name).is_none()
            && let Some(stem) = name.strip_suffix("LayerNorm.bias")
        {
            return format!("{stem}LayerNorm.beta");
        }
        name
    }
}

impl std::fmt::Debug for FileCheckpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileCheckpoint").field("config", &self.config).finish_non_exhaustive()
    }
}

impl TensorSource for FileCheckpoint {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn load(&mut self, which: TensorId) -> Result<Vec<f32>, CheckpointError> {
        let known = TensorId::all(&self.config);
        let which = match which {
            TensorId::Output if self.config.tied => TensorId::Embedding,
            other if known.contains(&other) => other,
            which => {
                let (family, layers) = (self.config.family.name(), self.config.layers);
                return Err(CheckpointError::NoSuchTensor { which, family, layers });
            }
        };
        let stored = which.stored(&self.config, self.tensors.naming(), self.prefix);
        let name = self.actual_name(stored.name);
        let mut data = self.tensors.load(&name)?;
        let bad = |v: &f32| !v.is_finite() || v.abs() >= LARGEST_WEIGHT;
        if let Some(index) = data.iter().position(bad) {
            let value = data[index];
            return Err(CheckpointError::Value { name, index, value, limit: LARGEST_WEIGHT });
        }
        let (rows, columns) = stored.whole;
        if stored.transposed {
            data = crate::folded::transpose(&data, columns, rows);
        }
        Ok(match stored.part {
            Some(part) if rows == 1 => data[part].to_vec(),
            Some(part) => data[part.start * columns..part.end * columns].to_vec(),
            None => data,
        })
    }
}
