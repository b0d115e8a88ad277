//! Every family against plain 64-bit arithmetic on the tensors as they are: Float and Clear, all heads, several
//! lengths, two segments, and passes one after the other.

mod plain;
mod read;

use models::checkpoint::{Activation, Family, Head, ModelConfig, RandomModel, Rotary};
use models::float::{Float, complete};
use models::model::{Cache, OutputRows};
use plain::Plain;
use read::{Readings, difference, largest};

fn rotary(interleaved: bool, factors: &[f64]) -> Option<Rotary> {
    Some(Rotary { base: 5e5, interleaved, factors: factors.to_vec() })
}

fn all() -> Vec<ModelConfig> {
    let (llama, gpt2, bert, roberta) =
        (ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert(), ModelConfig::toy_roberta());
    vec![
        llama.clone(),
        ModelConfig { rotary: rotary(false, &[]), kv_heads: 1, head_dim: 12, tied: false, ..llama.clone() },
        ModelConfig { rotary: rotary(false, &[1.0, 1.5, 4.0, 8.0]), kv_heads: 4, ..llama.clone() },
        ModelConfig { rotary: rotary(false, &[]), qkv_bias: true, ..llama.clone() },
        ModelConfig { rotary: rotary(true, &[1.0, 1.5, 4.0, 8.0]), qkv_bias: true, layers: 3, ..llama },
        gpt2.clone(),
        ModelConfig { activation: Activation::Gelu, tied: false, d_ff: 80, ..gpt2 },
        bert.clone(),
        ModelConfig { head: Head::MeanPooling, ..bert.clone() },
        ModelConfig {
            activation: Activation::GeluTanh,
            types: 3,
            heads: 2,
            kv_heads: 2,
            head_dim: 16,
            ..bert
        },
        roberta.clone(),
        ModelConfig { head: Head::MeanPooling, ..roberta },
    ]
}

fn tokens(c: &ModelConfig, count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 37 + seed * 11 + i * i) % c.vocab) as u32).collect()
}

#[test]
fn float_and_clear_equal_plain_arithmetic() {
    for (i, config) in all().into_iter().enumerate() {
        let mut source = RandomModel::new(config.clone(), 21).unwrap();
        let plain = Plain::load(&mut source);
        let r = Readings::of(&mut source);
        let (mut worst_float, mut worst_clear) = (0f64, 0f64);
        for count in [1, 2, 7, 33, config.context] {
            let ids = tokens(&config, count, i);
            let types = matches!(config.family, Family::Bert) && count > 1;
            for segment in if types { vec![None, Some(count / 2), Some(1)] } else { vec![None] } {
                let exact = plain.outputs(&ids, segment);
                let size = largest(&exact);
                assert!(size > 0.1, "outputs of no size prove nothing: {size}");
                worst_float = worst_float.max(difference(&r.float(&ids, segment), &exact) / size);
                worst_clear = worst_clear.max(difference(&r.clear(&ids, segment).unwrap(), &exact) / size);
                if segment.is_some() {
                    let without = plain.outputs(&ids, None);
                    assert!(difference(&without, &exact) > 0.02 * size, "token types that do nothing");
                }
            }
        }
        println!("{i} {}: Float {worst_float:.1e}, Clear {worst_clear:.1e}", config.family.name());
        assert!(worst_float < 1e-4, "model {i}: Float differs by {worst_float:e} of the largest output");
        assert!(worst_clear < 2e-3, "model {i}: Clear differs by {worst_clear:e} of the largest output");
    }
}

#[test]
fn passes_one_after_the_other_equal_one() {
    for config in all().into_iter().filter(ModelConfig::is_decoder) {
        let r = Readings::of(&mut RandomModel::new(config.clone(), 22).unwrap());
        let ids = tokens(&config, 8, 5);
        let whole_float = r.float(&ids, None);
        let whole_clear = r.clear(&ids, None).unwrap();
        let (float, clear) = (Float::default(), models::clear::Clear::new(&r.device));
        let (mut fc, mut cc) = (Cache::new(&config), Cache::new(&config));
        let (mut in_float, mut in_clear) = (vec![], vec![]);
        for part in [&ids[..5], &ids[5..6], &ids[6..]] {
            let (ids, n) = (part.to_vec(), part.len());
            let f = complete(r.float_model.forward(&float, &ids, n, &mut fc, OutputRows::All)).unwrap();
            let c = complete(r.clear_model.forward(&clear, &ids, n, &mut cc, OutputRows::All)).unwrap();
            in_float.extend(f.data.into_iter().map(f64::from));
            in_clear.extend(read::numbers(&c));
        }
        assert_eq!((fc.tokens(), cc.tokens()), (8, 8));
        assert!(difference(&in_float, &whole_float) < 1e-5 * largest(&whole_float));
        // Integers do not depend on the order of a sum, and a row's gates not on other rows.
        assert_eq!(in_clear, whole_clear);
        // The last row alone.
        let mut cache = Cache::new(&config);
        let last = complete(r.float_model.forward(&float, &ids, 8, &mut cache, OutputRows::Last)).unwrap();
        let expected = &whole_float[7 * config.vocab..];
        let found: Vec<f64> = last.data.into_iter().map(f64::from).collect();
        assert!(difference(&found, expected) < 1e-5 * largest(expected));
    }
}
