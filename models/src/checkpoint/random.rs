use super::{CheckpointError, Kind, LayerTensor, ModelConfig, TensorId, TensorSource};

/// A made-up checkpoint for tests and for measuring cost: the same weights for the same configuration and seed on
/// every machine, of such a size that activations neither vanish nor explode. It is not a model of anything.
#[derive(Debug, Clone)]
pub struct RandomModel {
    config: ModelConfig,
    seed: u64,
    /// A channel of the residual stream that the first token drives to this size (massive activations).
    outlier: f32,
}

impl RandomModel {
    /// A checkpoint of this configuration.
    ///
    /// # Errors
    /// The configuration is impossible.
    pub fn new(config: ModelConfig, seed: u64) -> Result<Self, CheckpointError> {
        config.validate()?;
        Ok(Self { config, seed, outlier: 0.0 })
    }

    /// The same with an outlier channel: token 0 puts `size` into one channel of the residual stream, as the first
    /// token of a LLaMA does (massive activations; Sun et al., arXiv 2402.17762).
    #[must_use]
    pub fn with_outlier(mut self, size: f32) -> Self {
        self.outlier = size;
        self
    }
}

impl TensorSource for RandomModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn load(&mut self, which: TensorId) -> Result<Vec<f32>, CheckpointError> {
        let all = TensorId::all(&self.config);
        if which == TensorId::Output && self.config.tied {
            return self.load(TensorId::Embedding);
        }
        let Some(kind) = all.iter().position(|t| *t == which) else {
            let (family, layers) = (self.config.family.name(), self.config.layers);
            return Err(CheckpointError::NoSuchTensor { which, family, layers });
        };
        let (rows, columns) = which.shape(&self.config);
        let fan_in = (columns as f32).sqrt().recip();
        let into_residual = (2.0 * self.config.layers as f32).sqrt().recip();
        let (mean, deviation) = match which {
            TensorId::Embedding | TensorId::Output => (0.0, 2.0 * fan_in),
            TensorId::Positions | TensorId::Types => (0.0, fan_in),
            TensorId::EmbeddingNorm(Kind::Weight)
            | TensorId::FinalNorm(Kind::Weight)
            | TensorId::Layer(_, LayerTensor::AttentionNorm | LayerTensor::FeedForwardNorm, Kind::Weight) => {
                (1.0, 0.1)
            }
            TensorId::Layer(_, LayerTensor::O | LayerTensor::Down, Kind::Weight) => {
                (0.0, fan_in * into_residual)
            }
            TensorId::Layer(_, _, Kind::Weight)
            | TensorId::Pooler(Kind::Weight)
            | TensorId::Classifier(Kind::Weight) => (0.0, fan_in),
            _ => (0.0, 0.1),
        };
        let mut state = mix(self.seed ^ mix(kind as u64));
        let mut data: Vec<f32> = (0..rows * columns).map(|_| mean + deviation * bell(&mut state)).collect();
        if which == TensorId::Embedding && self.outlier != 0.0 {
            data[columns / 3] = self.outlier;
        }
        Ok(data)
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
    use crate::checkpoint::{Activation, Head, Rotary};

    #[test]
    fn random_weights_are_of_the_right_size_and_repeatable() {
        let configs = [
            ModelConfig::toy(),
            ModelConfig::toy_gpt2(),
            ModelConfig::toy_bert(),
            ModelConfig::toy_roberta(),
        ];
        for config in configs {
            let mut model = RandomModel::new(config.clone(), 7).unwrap();
            for which in TensorId::all(&config) {
                let (rows, columns) = which.shape(&config);
                let weights = model.load(which).unwrap();
                assert_eq!(weights.len(), rows * columns, "{which:?}");
                assert_eq!(weights, RandomModel::new(config.clone(), 7).unwrap().load(which).unwrap());
                assert_ne!(weights, RandomModel::new(config.clone(), 8).unwrap().load(which).unwrap());
            }
            let q = |i| TensorId::Layer(i, LayerTensor::Q, Kind::Weight);
            let weights = model.load(q(0)).unwrap();
            let variance = weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32 * 32.0;
            assert!((variance - 1.0).abs() < 0.2, "{variance}");
            assert_ne!(weights, model.load(q(1)).unwrap());
            assert!(model.load(q(2)).unwrap_err().to_string().contains("2 layers"));
        }
    }

    #[test]
    fn a_tied_output_is_the_embedding() {
        let mut tied = RandomModel::new(ModelConfig::toy(), 7).unwrap();
        assert_eq!(tied.load(TensorId::Output).unwrap(), tied.load(TensorId::Embedding).unwrap());
        let config = ModelConfig { tied: false, ..ModelConfig::toy() };
        let mut own = RandomModel::new(config, 7).unwrap();
        assert_ne!(own.load(TensorId::Output).unwrap(), own.load(TensorId::Embedding).unwrap());
    }

    #[test]
    fn impossible_configurations() {
        let toy = ModelConfig::toy;
        let rotary = |base| Some(Rotary { base, interleaved: true, factors: vec![] });
        for (config, word) in [
            (ModelConfig { layers: 0, ..toy() }, "layers"),
            (ModelConfig { vocab: usize::MAX, ..toy() }, "vocab"),
            (ModelConfig { kv_heads: 3, ..toy() }, "key heads"),
            (ModelConfig { head_dim: 7, ..toy() }, "even"),
            (ModelConfig { norm_eps: f64::NAN, ..toy() }, "epsilon"),
            (ModelConfig { rotary: rotary(f64::INFINITY), ..toy() }, "rotary base"),
            (ModelConfig { rotary: None, ..toy() }, "positions"),
            (ModelConfig { head: Head::MeanPooling, ..toy() }, "head"),
            (ModelConfig { activation: Activation::Gelu, ..toy() }, "activation"),
            (ModelConfig { head_dim: 9, ..ModelConfig::toy_gpt2() }, "columns"),
            (ModelConfig { head: Head::LanguageModel, ..ModelConfig::toy_bert() }, "head"),
            (ModelConfig { types: 17, ..ModelConfig::toy_bert() }, "types"),
        ] {
            let error = RandomModel::new(config, 0).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
