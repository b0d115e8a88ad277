//! Massive activations: one channel of the residual stream, or one neuron, a thousand times larger than the others.

mod read;
mod secret;

use models::calibrate;
use models::checkpoint::{
    CheckpointError, Kind, LayerTensor, ModelConfig, RandomModel, Rotary, TensorId, TensorSource,
};
use models::model::OutputRows;
use read::{Readings, all_tokens, difference, largest};
use secret::{Shared, run, share};

fn llama() -> ModelConfig {
    let rotary = Some(Rotary { base: 10_000.0, interleaved: false, factors: vec![] });
    ModelConfig { d_model: 96, d_ff: 192, heads: 6, head_dim: 16, rotary, tied: false, ..ModelConfig::toy() }
}

fn gpt2() -> ModelConfig {
    let heads = 4;
    ModelConfig {
        d_model: 64,
        d_ff: 256,
        heads,
        kv_heads: heads,
        head_dim: 16,
        tied: false,
        ..ModelConfig::toy_gpt2()
    }
}

/// A model with one neuron of the feed-forward blocks scaled up, and its output down.
struct Neuron {
    model: RandomModel,
    /// Factors of what goes into it, and of what comes out.
    into: f32,
    out: f32,
}

impl TensorSource for Neuron {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn load(&mut self, which: TensorId) -> Result<Vec<f32>, CheckpointError> {
        const NEURON: usize = 7;
        let mut data = self.model.load(which)?;
        let (rows, columns) = which.shape(self.config());
        match which {
            TensorId::Layer(_, LayerTensor::Up | LayerTensor::Gate, Kind::Weight) => {
                data[NEURON * columns..(NEURON + 1) * columns].iter_mut().for_each(|w| *w *= self.into);
            }
            TensorId::Layer(_, LayerTensor::Down, Kind::Weight) => {
                (0..rows).for_each(|i| data[i * columns + NEURON] *= self.out);
            }
            _ => {}
        }
        Ok(data)
    }
}

/// A model with a channel of this size at the third position.
struct Position(RandomModel, f32);

impl TensorSource for Position {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }

    fn load(&mut self, which: TensorId) -> Result<Vec<f32>, CheckpointError> {
        let mut data = self.0.load(which)?;
        if which == TensorId::Positions {
            data[2 * self.0.config().d_model + 5] = self.1;
        }
        Ok(data)
    }
}

/// Clear close to Float, and Secure to both, whether the outlier leads, follows, repeats or is absent.
fn check(name: &str, source: &mut dyn TensorSource) {
    let config = source.config().clone();
    let texts = all_tokens(&config);
    let r = Readings::calibrated(source, &texts);
    println!("{name}: {:?}", r.plan.layers[1]);
    let shared: Shared = share(source, &texts);
    for ids in [vec![0, 9, 4, 33, 21, 8], vec![5, 17, 0, 60, 0, 2, 44], vec![1, 2, 3], vec![0]] {
        let float = r.float(&ids, None);
        let clear = r.clear(&ids, None).unwrap();
        let (secure, _) = run(&shared, 3, std::slice::from_ref(&ids), OutputRows::All).remove(0);
        let secure: Vec<f64> = secure.into_iter().map(f64::from).collect();
        let size = largest(&float);
        assert!(size > 0.5, "scores of no size prove nothing");
        let (of_clear, of_secure) = (difference(&clear, &float) / size, difference(&secure, &clear) / size);
        println!("{name} {ids:?}: largest {size:.2}, Clear {of_clear:.1e}, Secure {of_secure:.1e}");
        assert!(of_clear < 2e-3, "{name} {ids:?}: Clear differs by {of_clear:e} of the largest score");
        assert!(of_secure < 2e-3, "{name} {ids:?}: Secure differs by {of_secure:e} of the largest score");
    }
}

#[test]
fn a_channel() {
    for size in [1000.0, 4000.0] {
        for config in [llama(), gpt2()] {
            let name = format!("{} with a channel of {size}", config.family.name());
            check(&name, &mut RandomModel::new(config, 31).unwrap().with_outlier(size));
        }
    }
}

#[test]
fn a_neuron() {
    // Products of gate and up grow with the square.
    let model = RandomModel::new(llama(), 32).unwrap();
    check("LLaMA with a neuron", &mut Neuron { model, into: 20.0, out: 0.05 });
    let model = RandomModel::new(gpt2(), 33).unwrap();
    check("GPT-2 with a neuron", &mut Neuron { model, into: 25.0, out: 0.04 });
}

#[test]
fn what_no_gate_covers_is_refused() {
    let refused = |source: &mut dyn TensorSource, words: &str| {
        let texts = all_tokens(source.config());
        let error = calibrate::calibrate(source, &texts, |_, _| {}).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("cannot be shared"), "{error}");
    };
    let outlier = |config, size| RandomModel::new(config, 34).unwrap().with_outlier(size);
    refused(&mut outlier(llama(), 4100.0), "token embeddings can reach 4100, the ring holds 4096");
    refused(&mut outlier(ModelConfig { tied: true, ..llama() }, 4090.0), "output scores can reach");
    // The others' rows would drown in the roundings of this one: of a position, or of a token after a layer.
    let model = RandomModel::new(ModelConfig::toy_bert(), 34).unwrap();
    refused(&mut Position(model, 8100.0), "too far apart for one gate");
    let model = RandomModel::new(llama(), 34).unwrap();
    refused(&mut Neuron { model, into: 20.0, out: 50.0 }, "too far apart for one gate");
    let model = RandomModel::new(llama(), 35).unwrap();
    refused(&mut Neuron { model, into: 100.0, out: 1.0 }, "the feed-forward input reaches");
}
