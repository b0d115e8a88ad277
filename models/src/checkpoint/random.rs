use super::{CheckpointError, LayerTensor, LlamaConfig, LlamaTensor, TensorSource};

/// A made-up checkpoint for tests: the same weights for the same configuration and seed on every
/// machine, of such a size that activations neither vanish nor explode. It is not a model of
/// anything.
#[derive(Debug, Clone)]
pub struct RandomLlama {
    config: LlamaConfig,
    seed: u64,
}

impl RandomLlama {
    /// A checkpoint of this configuration.
    pub fn new(config: LlamaConfig, seed: u64) -> Result<Self, CheckpointError> {
        config.validate()?;
        Ok(Self { config, seed })
    }

    /// A checkpoint of [`LlamaConfig::toy`].
    pub fn toy(seed: u64) -> Self {
        Self { config: LlamaConfig::toy(), seed }
    }
}

impl TensorSource for RandomLlama {
    fn config(&self) -> &LlamaConfig {
        &self.config
    }

    fn load(&mut self, which: LlamaTensor) -> Result<Vec<f32>, CheckpointError> {
        self.config.check_index(which)?;
        let (rows, columns) = self.config.shape(which);
        let fan_in = (columns as f32).sqrt().recip();
        let into_residual = (2.0 * self.config.layers as f32).sqrt().recip();
        let (kind, mean, deviation) = match which {
            LlamaTensor::Output if self.config.tied => return self.load(LlamaTensor::Embedding),
            LlamaTensor::Embedding => (0, 0.0, 2.0 * fan_in),
            LlamaTensor::Output => (1, 0.0, 2.0 * fan_in),
            LlamaTensor::FinalNorm => (2, 1.0, 0.1),
            LlamaTensor::Layer(index, tensor) => {
                let kind = 3 + index * LayerTensor::ALL.len() + tensor as usize;
                match tensor {
                    LayerTensor::AttnNorm | LayerTensor::FfnNorm => (kind, 1.0, 0.1),
                    LayerTensor::O | LayerTensor::Down => (kind, 0.0, fan_in * into_residual),
                    _ => (kind, 0.0, fan_in),
                }
            }
        };
        let mut state = mix(self.seed ^ mix(kind as u64));
        Ok((0..rows * columns).map(|_| mean + deviation * bell(&mut state)).collect())
    }
}

/// SplitMix64's finaliser.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A bell-shaped number of mean 0 and variance 1 within ±3.5: the sum of four uniform ones, which
/// takes exact operations only and so is the same everywhere.
fn bell(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = mix(*state);
    let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
    // Each has mean 32767.5 and variance (2^32 - 1) / 12.
    const DEVIATION: f32 = 37_837.23;
    (sum as f32 - 131_070.0) / DEVIATION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_weights_are_of_the_right_size_and_repeatable() {
        let mut model = RandomLlama::toy(7);
        let config = model.config().clone();
        assert_eq!(
            config.parameters(),
            61 * 32 + 32 + 2 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)
        );
        for which in LlamaTensor::all(&config) {
            let (rows, columns) = config.shape(which);
            let weights = model.load(which).unwrap();
            assert_eq!(weights.len(), rows * columns, "{which}");
            assert_eq!(weights, RandomLlama::toy(7).load(which).unwrap());
            assert_ne!(weights, RandomLlama::toy(8).load(which).unwrap());
            let mean = weights.iter().sum::<f32>() / weights.len() as f32;
            let want = if rows == 1 { 1.0 } else { 0.0 };
            assert!((mean - want).abs() < 0.06, "{which}: {mean}");
        }
        assert_eq!(model.load(LlamaTensor::Output).unwrap(), model.load(LlamaTensor::Embedding).unwrap());
        let q = model.load(LlamaTensor::Layer(0, LayerTensor::Q)).unwrap();
        let variance = q.iter().map(|w| w * w).sum::<f32>() / q.len() as f32 * 32.0;
        assert!((variance - 1.0).abs() < 0.2, "{variance}");
        assert_ne!(q, model.load(LlamaTensor::Layer(1, LayerTensor::Q)).unwrap());
        let error = model.load(LlamaTensor::Layer(2, LayerTensor::Q)).unwrap_err();
        assert!(error.to_string().contains("blk.2.attn_q.weight"), "{error}");
    }

    #[test]
    fn untied_output_is_its_own() {
        let config = LlamaConfig { tied: false, ..LlamaConfig::toy() };
        let mut model = RandomLlama::new(config, 7).unwrap();
        assert_ne!(model.load(LlamaTensor::Output).unwrap(), model.load(LlamaTensor::Embedding).unwrap());
    }

    #[test]
    fn impossible_configurations() {
        let toy = LlamaConfig::toy;
        for (config, word) in [
            (LlamaConfig { layers: 0, ..toy() }, "layers"),
            (LlamaConfig { vocab: usize::MAX, ..toy() }, "vocab"),
            (LlamaConfig { kv_heads: 3, ..toy() }, "key heads"),
            (LlamaConfig { head_dim: 7, ..toy() }, "even"),
            (LlamaConfig { rms_eps: f64::NAN, ..toy() }, "rms_eps"),
            (LlamaConfig { rope_base: f64::INFINITY, ..toy() }, "rope_base"),
        ] {
            let error = RandomLlama::new(config, 0).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
