//! Weights for measuring: made up from a public seed, so that nobody has to send them.
//!
//! What a pass costs depends on a model's shape only. To measure a large shape, every party makes the weights up on its own
//! device, parameter by parameter, and shares them with itself: components 1 and 0 are streams of two keys, component 2
//! is the weight less both. The keys are derived from the seed like the weights, so such a model has **no secrets**: its
//! description says so, and a description of a real model cannot.
//!
//! A weight is an integer of 256 equidistant levels around a mean. Their deviations keep activations within the ranges of
//! [`Plan::typical`], so that no ranges need be looked for: embeddings of mean square 1/4, outputs of matrices of the
//! size of their (normalised) inputs, each block's share of the residual stream 1/(2·layers).

use crate::algebra::SCALE;
use crate::checkpoint::{CheckpointError, Head, ModelConfig};
use crate::folded::ParameterSource;
use crate::parameter::{Parameter, Use};
use crate::plan::{PROGRAM_VERSION, Plan};
use crate::shared::{PublicModel, Seeds};
use kernels::{Device, Words};
use protocol::Shape;
use protocol::gates::embedding;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A weight's level is so many pseudo-random bits.
const LEVEL_BITS: u32 = 8;
/// Levels −255, −253, …, 255 have this standard deviation: √((256² − 1) / 3).
const LEVEL_DEVIATION: f64 = 147.8;

/// The seed of weights that are public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkWeights {
    seed: [u8; 32],
}

/// Rows of a parameter that are of one size.
struct Band {
    rows: usize,
    mean: f64,
    deviation: f64,
}

impl BenchmarkWeights {
    /// Of any seed; it becomes public.
    pub fn new(seed: [u8; 32]) -> BenchmarkWeights {
        BenchmarkWeights { seed }
    }

    fn key(&self, name: &str) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"catamount benchmark ")
            .chain_update(name)
            .chain_update(self.seed)
            .finalize()
            .into()
    }

    /// The keys of components 1 and 0.
    pub fn seeds(&self) -> Seeds {
        Seeds { one: self.key("component 1"), zero: self.key("component 0") }
    }

    /// Fixed-point integers of a parameter at its scale, row-major, made on the device: 8 pseudo-random bits an element.
    ///
    /// # Panics
    /// If the model has no such parameter.
    pub fn integers(&self, device: &Device, c: &ModelConfig, p: Parameter) -> Words {
        match &self.bands(device, c, p)[..] {
            [all] => all.clone(),
            bands => Words::concat(&bands.iter().collect::<Vec<_>>()),
        }
    }

    /// The words that are shared of it.
    ///
    /// # Panics
    /// As [`BenchmarkWeights::integers`].
    pub fn words(&self, device: &Device, c: &ModelConfig, p: Parameter) -> Words {
        if p.usage() != Use::Table {
            return self.integers(device, c, p);
        }
        let [low, high] = self.bands(device, c, p).try_into().expect("a table has two bands");
        embedding::pack(&low, &high)
    }

    fn bands(&self, device: &Device, c: &ModelConfig, p: Parameter) -> Vec<Words> {
        let number = Parameter::all(c).iter().position(|q| *q == p).expect("a parameter of the model");
        let (key, (_, cols)) = (self.key("weights"), p.shape(c));
        // Levels are multiples of an activation's unit, whatever the scale: exact in 32-bit floating point.
        let (unit, finer) = (f64::from(SCALE).exp2(), p.scale() - SCALE);
        bands(c, p)
            .into_iter()
            .enumerate()
            .map(|(i, band)| {
                let step = (band.deviation * unit / LEVEL_DEVIATION).round().max(1.0) as i64;
                let lowest = (band.mean * unit).round() as i64 - ((1 << LEVEL_BITS) - 1) * step;
                let nonce = (number as u64) << 8 | i as u64;
                let levels = Words::chacha12(device, &key, nonce, band.rows * cols, LEVEL_BITS);
                levels * ((2 * step as u64) << finer) + ((lowest as u64) << finer)
            })
            .collect()
    }

    /// The same, read back to this machine's memory.
    pub fn parameters(self, device: &Device, config: &ModelConfig) -> BenchmarkParameters {
        BenchmarkParameters { weights: self, device: device.clone(), config: config.clone() }
    }
}

fn bands(c: &ModelConfig, p: Parameter) -> Vec<Band> {
    use Parameter::*;
    let (rows, cols) = p.shape(c);
    let fan_in = (cols as f64).sqrt().recip();
    let block = (2.0 * c.layers as f64).sqrt().recip();
    let head = (c.head_dim as f64).sqrt().recip();
    let all = |mean, deviation| vec![Band { rows, mean, deviation }];
    match p {
        // One for each half of a word.
        Embedding => {
            let low = embedding::packed(Shape::new(rows, cols)).rows;
            [low, rows - low].map(|rows| Band { rows, mean: 0.0, deviation: 0.5 }).into()
        }
        Positions | Types => all(0.0, 0.1),
        // Queries have 1/√head_dim in them.
        Qkv(_) => {
            let q = c.q_dim();
            vec![
                Band { rows: q, mean: 0.0, deviation: fan_in * head },
                Band { rows: rows - q, mean: 0.0, deviation: fan_in },
            ]
        }
        QkvBias(_) => all(0.0, 0.1 * head),
        O(_) | Down(_) => all(0.0, fan_in * block),
        OBias(_) | DownBias(_) => all(0.0, 0.1 * block),
        Up(_) | Pooler => all(0.0, fan_in),
        Output => all(0.0, 2.0 * fan_in),
        AttentionGain(_) | FeedForwardGain(_) | PooledGain => all(1.0, 0.1),
        UpBias(_) | PoolerBias | OutputBias | PooledBias => all(0.0, 0.1),
    }
}

/// A benchmark model's parameters for the readings in the clear.
pub struct BenchmarkParameters {
    weights: BenchmarkWeights,
    device: Device,
    config: ModelConfig,
}

impl ParameterSource for BenchmarkParameters {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn numbers(&mut self, p: Parameter) -> Result<Vec<f32>, CheckpointError> {
        let unit = f64::from(p.scale()).exp2();
        Ok(self.integers(p)?.into_iter().map(|w| (w as i64 as f64 / unit) as f32).collect())
    }

    fn integers(&mut self, p: Parameter) -> Result<Vec<u64>, CheckpointError> {
        Ok(self.weights.integers(&self.device, &self.config, p).to_vec())
    }
}

impl PublicModel {
    /// A model of this shape whose weights are public, for measuring. `sharing` is fresh.
    pub fn benchmark(config: ModelConfig, weights: BenchmarkWeights, sharing: [u8; 32]) -> PublicModel {
        let labels = match config.head {
            Head::Classifier { labels } => (0..labels).map(|i| format!("label {i}")).collect(),
            _ => vec![],
        };
        PublicModel {
            program: PROGRAM_VERSION,
            plan: Plan::typical(&config),
            config,
            tokenizer: None,
            labels,
            sharing,
            benchmark: Some(weights),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algebra::Algebra;
    use crate::clear::{Clear, Ints};
    use crate::float::complete;
    use crate::secure::Secure;
    use crate::shared::{Assembly, Weights};
    use protocol::testing::World;
    use protocol::{Party, Shape};
    use std::sync::Arc;

    /// A layer of made-up weights, at the three parties and in the clear: the same to one unit in the last place.
    #[test]
    fn the_parties_weights_are_those_in_the_clear() {
        check_linear(&kernels::cpu::Cpu::best());
        if let Some(device) = kernels_shim::device(kernels_shim::Order::Forward) {
            check_linear(&device);
        }
    }

    fn check_linear(device: &Device) {
        let c = ModelConfig::toy();
        let public = PublicModel::benchmark(c.clone(), BenchmarkWeights::new([5; 32]), [6; 32]);
        let tables = public.plan.tables(device, &c);
        let parties = Party::ALL.map(|party| {
            let (public, tables) = (public.clone(), tables.clone());
            let own = Assembly::make_up(device, party, public, tables, Some(Party::Zero), Weights::Stored);
            Arc::new(own.unwrap())
        });
        // Made on the processor, so that both sides do not err alike.
        let cpu = kernels::cpu::Cpu::best();
        let mut parameters = public.benchmark.unwrap().parameters(&cpu, &c);
        let clear = Clear::read(&cpu, &mut parameters, &tables).unwrap();

        let (world, shape) = (World::new(7).on(device.clone()), Shape::new(5, c.d_model));
        // Inputs in ±4.
        let inputs: Vec<u64> =
            world.data(1, shape.len(), 21).into_iter().map(|v| v.wrapping_sub(1 << 20)).collect();
        let mut parts = world.share(&inputs, shape, 18, 2).into_iter().zip(&parties);
        let parts = [(); 3].map(|()| parts.next().map(|(x, model)| (x, model.clone())).unwrap());
        for up in [false, true] {
            let secure = world.run(parts.clone(), |cx, (x, model)| {
                Box::pin(async move {
                    let role = cx.role();
                    let layer = &model.playing(role).unwrap().layers[1];
                    Secure::new(cx).linear(&x, if up { &layer.up } else { &layer.qkv }).await
                })
            });
            let layer = &clear.layers[1];
            let x = Ints { rows: shape.rows, cols: shape.cols, data: inputs.clone() };
            let w = if up { &layer.up } else { &layer.qkv };
            let expected = complete(Clear::new(&cpu).linear(&x, w)).unwrap().data;
            let seen = world.open(&secure.results).values;
            let size = expected.iter().map(|v| (*v as i64).unsigned_abs()).max().unwrap();
            assert!(size > 1 << 16, "outputs of no size prove nothing");
            assert_eq!(seen.len(), expected.len());
            let apart = |(a, b): (&u64, &u64)| (a.wrapping_sub(*b) as i64).unsigned_abs();
            assert!(seen.iter().zip(&expected).map(apart).max() <= Some(1));
        }
    }

    #[test]
    fn weights_are_of_the_declared_size_and_depend_on_the_seed() {
        let device = kernels::cpu::Cpu::best();
        for c in [ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert()] {
            let mut own = BenchmarkWeights::new([7; 32]).parameters(&device, &c);
            let mut other = BenchmarkWeights::new([8; 32]).parameters(&device, &c);
            for p in Parameter::all(&c) {
                let (integers, numbers) = (own.integers(p).unwrap(), own.numbers(p).unwrap());
                assert_eq!(integers.len(), p.len(&c), "{p:?}");
                assert_eq!(p.encode(&numbers), integers, "{p:?}: exact in floating point");
                assert_ne!(integers, other.integers(p).unwrap(), "{p:?}");
                let mut rest = &numbers[..];
                for Band { rows, mean, deviation } in bands(&c, p) {
                    let (band, after) = rest.split_at(rows * p.shape(&c).1);
                    rest = after;
                    let n = band.len() as f64;
                    let seen = band.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
                    let square = band.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
                    // Five deviations of the mean, and of the mean square, of n uniform numbers.
                    assert!((seen - mean).abs() < 5.0 * deviation / n.sqrt(), "{p:?}: mean {seen}");
                    let error = square / deviation.powi(2) - 1.0;
                    assert!(error.abs() < 5.0 * (0.8 / n).sqrt() + 0.01, "{p:?}: square {square}");
                }
                assert!(rest.is_empty(), "{p:?}");
            }
        }
    }
}
