//! A model in the readings that need no network.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of this.

use kernels::Device;
use models::calibrate;
use models::checkpoint::{ModelConfig, TensorSource};
use models::clear::{Clear, Ints};
use models::float::{Float, complete};
use models::model::{Cache, Model, OutputRows, Sequence};
use models::plan::Plan;

/// A calibrated model.
pub struct Readings {
    pub device: Device,
    pub plan: Plan,
    pub float_model: Model<Float>,
    pub clear_model: Model<Clear>,
}

/// Tokens that a toy model is calibrated with: all of its vocabulary, forwards and backwards.
pub fn all_tokens(c: &ModelConfig) -> Vec<Vec<u32>> {
    let ids: Vec<u32> = (0..c.vocab.min(c.context) as u32).collect();
    vec![ids.clone(), ids.into_iter().rev().collect()]
}

impl Readings {
    pub fn of(source: &mut dyn TensorSource) -> Self {
        let texts = all_tokens(source.config());
        Self::calibrated(source, &texts)
    }

    pub fn calibrated(source: &mut dyn TensorSource, texts: &[Vec<u32>]) -> Self {
        let plan = calibrate::calibrate(source, texts, |_, _| {}).unwrap();
        plan.validate(source.config()).unwrap();
        let device = kernels::cpu::Cpu::best();
        let tables = plan.tables(&device, source.config());
        let clear_model = Clear::load(&device, source, &tables).unwrap();
        Self { device, plan, float_model: Float::load(source).unwrap(), clear_model }
    }

    /// All outputs of one pass.
    pub fn float(&self, tokens: &[u32], segment: Option<usize>) -> Vec<f64> {
        let (a, m, mut cache) = (Float::default(), &self.float_model, Cache::new(&self.float_model.config));
        let (ids, n) = (tokens.to_vec(), tokens.len());
        let mut sequence = [Sequence { cache: &mut cache, count: n, segment }];
        let output = complete(m.batch(&a, &ids, &mut sequence, OutputRows::All)).unwrap();
        output.data.into_iter().map(f64::from).collect()
    }

    /// The same in integers.
    pub fn clear(&self, tokens: &[u32], segment: Option<usize>) -> protocol::Result<Vec<f64>> {
        let (a, m) = (Clear::new(&self.device), &self.clear_model);
        let (ids, n, mut cache) = (tokens.to_vec(), tokens.len(), Cache::new(&m.config));
        let mut sequence = [Sequence { cache: &mut cache, count: n, segment }];
        Ok(numbers(&complete(m.batch(&a, &ids, &mut sequence, OutputRows::All))?))
    }
}

/// Outputs are at the double scale.
pub fn numbers(x: &Ints) -> Vec<f64> {
    x.data.iter().map(|&v| v as i64 as f64 / 2f64.powi(36)).collect()
}

pub fn largest(v: &[f64]) -> f64 {
    v.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Largest difference of two vectors.
pub fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}
