//! How many bits the outputs of a block get: by everything that is added up in them, whatever the sample text shows.

mod read;
mod secret;

use models::calibrate;
use models::checkpoint::{
    CheckpointError, Kind, LayerTensor, ModelConfig, RandomModel, TensorId, TensorSource,
};
use models::model::OutputRows;
use read::{Readings, all_tokens, difference, largest};
use secret::{run, share};

/// A model of which some tensors are changed.
struct Changed<F> {
    model: RandomModel,
    change: F,
}

impl<F: Fn(TensorId, &mut [f32]) + Send> TensorSource for Changed<F> {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn load(&mut self, which: TensorId) -> Result<Vec<f32>, CheckpointError> {
        let mut data = self.model.load(which)?;
        (self.change)(which, &mut data);
        Ok(data)
    }
}

fn changed<F: Fn(TensorId, &mut [f32]) + Send>(config: &ModelConfig, change: F) -> Changed<F> {
    Changed { model: RandomModel::new(config.clone(), 41).unwrap(), change }
}

/// Of both matrices of layer 0 of a model, one of whose tensors is changed.
fn bits(config: &ModelConfig, which: TensorId, change: impl Fn(&mut [f32]) + Send) -> [u32; 2] {
    bits_of(config, move |id, data| {
        if id == which {
            change(data)
        }
    })
}

fn bits_of(config: &ModelConfig, change: impl Fn(TensorId, &mut [f32]) + Send) -> [u32; 2] {
    let texts = all_tokens(config);
    calibrate::calibrate(&mut changed(config, change), &texts, |_, _| {}).unwrap().layers[0].output_bits
}

/// A quarter of 2^13, less what the toy's weights add up to, and more than all of it.
const BELOW: f32 = 1500.0;
const ABOVE: f32 = 2050.0;

#[test]
fn everything_that_is_added_up_counts() {
    use LayerTensor::{Down, O};
    let (gpt2, bert) = (ModelConfig::toy_gpt2(), ModelConfig::toy_bert());
    for config in [&gpt2, &bert] {
        for (place, tensor) in [O, Down].into_iter().enumerate() {
            let of = |kind| TensorId::Layer(0, tensor, kind);
            let with = |bits: u32| {
                let mut both = [51; 2];
                both[place] = bits;
                both
            };
            assert_eq!(bits(config, of(Kind::Weight), |_| {}), [51; 2], "{tensor:?} as it is");
            let scaled = |by: f32| move |w: &mut [f32]| w.iter_mut().for_each(|w| *w *= by);
            assert_eq!(bits(config, of(Kind::Weight), scaled(1e4)), with(63), "{tensor:?} scaled");
            // As in GPT-2, whose outputs are centred, in both directions.
            let biased = |by: f32| {
                move |b: &mut [f32]| {
                    b.iter_mut().zip([1.0, -1.0].iter().cycle()).for_each(|(b, s)| *b = by * s)
                }
            };
            assert_eq!(bits(config, of(Kind::Bias), biased(BELOW)), [51; 2], "{tensor:?} with a bias");
            assert_eq!(bits(config, of(Kind::Bias), biased(ABOVE)), with(63), "{tensor:?} with a bias");
        }
    }
    // A residual of normalised rows: as long as √d, times the gain, which the next matrix takes back.
    let root = (bert.d_model as f32).sqrt();
    let gain = |by: f32| {
        bits_of(&bert, move |id, data| match id {
            TensorId::Layer(0, LayerTensor::AttentionNorm, Kind::Weight) => data.fill(by / root),
            TensorId::Layer(0, LayerTensor::Up, Kind::Weight) => {
                data.iter_mut().for_each(|w| *w *= root / by)
            }
            _ => {}
        })
    };
    assert_eq!([gain(BELOW)[1], gain(ABOVE)[1]], [51, 63], "beside a residual");
}

/// Outputs beyond 2^13, which 51 bits would not hold.
#[test]
fn outputs_that_need_more_bits_are_right() {
    let config = ModelConfig::toy_gpt2();
    let last = TensorId::Layer(config.layers - 1, LayerTensor::Down, Kind::Bias);
    let mut source = changed(&config, |id, b: &mut [f32]| {
        if id == last {
            b.iter_mut().zip([9_000.0, -9_000.0].iter().cycle()).for_each(|(b, by)| *b += by);
        }
    });
    let texts = all_tokens(&config);
    let r = Readings::calibrated(&mut source, &texts);
    assert_eq!(r.plan.layers.last().unwrap().output_bits, [51, 63]);
    let shared = share(&mut source, &texts);
    let ids = vec![0, 9, 4, 33, 21, 8];
    let (clear, float) = (r.clear(&ids, None).unwrap(), r.float(&ids, None));
    let (secure, _) = run(&shared, 3, std::slice::from_ref(&ids), OutputRows::All).remove(0);
    let secure: Vec<f64> = secure.into_iter().map(f64::from).collect();
    assert!(largest(&float) > 0.1 && difference(&clear, &float) < 5e-3 * largest(&float));
    assert!(difference(&secure, &clear) < 5e-3 * largest(&float));
}
