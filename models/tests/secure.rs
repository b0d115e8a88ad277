//! Secure against Clear and Float on a whole (random, small) model, over the in-memory network; declared cost against
//! measured cost for whole passes.

mod read;
mod secret;

use models::checkpoint::{Head, ModelConfig, RandomModel, Rotary};
use models::clear::Clear;
use models::dry::Dry;
use models::float::{Float, complete};
use models::model::{Cache, OutputRows};
use models::shared::PublicModel;
use read::all_tokens;
use secret::{run, share};

/// Secure equals Clear and Float for passes of this model, and costs what Dry says.
fn check(config: ModelConfig, passes: &[Vec<u32>], seed: u64) {
    let mut source = RandomModel::new(config.clone(), 5).unwrap();
    let texts = all_tokens(&config);
    let shared = share(&mut source, &texts);
    let config = shared.public.config.clone();
    let rows = [OutputRows::Last, OutputRows::All];
    for &rows in if config.is_decoder() { &rows[..] } else { &rows[..1] } {
        let outputs = run(&shared, seed, passes, rows);

        let device = kernels::cpu::Cpu::best();
        let tables = shared.public.plan.tables(&device, &config);
        let clear = Clear::load(&device, &mut source, &tables).unwrap();
        let float = Float::load(&mut source).unwrap();
        let dry = Dry::model(&config, &tables);
        let (mut cc, mut cf, mut cd) = (Cache::new(&config), Cache::new(&config), Cache::new(&config));
        for (ids, (secure, ledger)) in passes.iter().zip(outputs) {
            let n = ids.len();
            let c = complete(clear.forward(&Clear::new(&device), ids, n, &mut cc, rows)).unwrap();
            let f = complete(float.forward(&Float::default(), ids, n, &mut cf, rows)).unwrap();
            let size = f.data.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(size > 0.1, "scores of no size prove nothing");
            assert_eq!(secure.len(), f.data.len());
            let mut worst = 0f32;
            for ((s, c), f) in secure.iter().zip(&c.data).zip(&f.data) {
                let c = (*c as i64 as f64 / 2f64.powi(36)) as f32;
                assert!((s - c).abs() < 4e-3 * size.max(1.0), "secure {s}, clear {c}, float {f}");
                assert!((s - f).abs() < 4e-3 * size.max(1.0), "secure {s}, float {f}");
                worst = worst.max((s - f).abs());
            }
            println!("{}: {n} tokens, largest {size}, error {worst}", config.family.name());
            let work = Dry::pass(&dry, n, &mut cd, rows);
            assert_eq!(
                (ledger.exchanges, ledger.sent),
                (work.ledger.exchanges, work.ledger.sent),
                "declared cost"
            );
        }
        println!("exchanges by layer: {:?}", Dry::exchanges_by_layer(&dry, &[1]));
    }
}

#[test]
fn llama_is_computed_in_secret_at_the_declared_cost() {
    let passes = [vec![3u32, 1, 4, 1, 5, 9], vec![2], vec![6], vec![5, 3]];
    check(ModelConfig::toy(), &passes, 1);
    // Multi-head attention, halves rotated, LLaMA 3's divisors, Qwen2's biases, an output layer of its own.
    let rotary = Rotary { base: 5e5, interleaved: false, factors: vec![1.0, 1.0, 3.5, 8.0] };
    let other =
        ModelConfig { kv_heads: 4, rotary: Some(rotary), qkv_bias: true, tied: false, ..ModelConfig::toy() };
    check(other, &passes, 2);
}

#[test]
fn gpt2_is_computed_in_secret_at_the_declared_cost() {
    check(ModelConfig::toy_gpt2(), &[vec![3u32, 1, 4, 1, 5, 9], vec![2], vec![6, 0]], 3);
}

#[test]
fn bert_is_computed_in_secret_at_the_declared_cost() {
    let passes = [vec![3u32, 1, 4, 1, 5, 9], vec![60], vec![6, 0]];
    check(ModelConfig::toy_bert(), &passes, 4);
    check(ModelConfig { head: Head::MeanPooling, ..ModelConfig::toy_bert() }, &passes, 5);
    check(ModelConfig::toy_roberta(), &passes, 6);
}

#[test]
fn a_model_description_survives_the_journey_and_damage_is_an_error() {
    let config = ModelConfig::toy();
    let shared = share(&mut RandomModel::new(config.clone(), 6).unwrap(), &all_tokens(&config));
    let bytes = shared.public.to_bytes();
    assert_eq!(PublicModel::from_bytes(&bytes).unwrap().plan, shared.public.plan);
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert!(PublicModel::from_bytes(&bytes[..cut]).is_err());
    }
    let mut old = shared.public.clone();
    old.program += 1;
    // Another version may have other fields.
    let other = String::from_utf8(old.to_bytes()).unwrap().replace("\"entries_log2\"", "\"entries\"");
    for bytes in [old.to_bytes(), other.into_bytes()] {
        assert!(PublicModel::from_bytes(&bytes).unwrap_err().to_string().contains("version"));
    }
    let mut wrong = shared.public.clone();
    wrong.plan.layers[0].activation.entries_log2 = 60;
    assert!(PublicModel::from_bytes(&wrong.to_bytes()).is_err());
}
