//! Benchmark models, whose weights the parties make up: the same as an owner's sharing of the same weights, and right.

mod secret;

use models::benchmark::BenchmarkWeights;
use models::checkpoint::ModelConfig;
use models::clear::Clear;
use models::float::{Float, complete};
use models::model::{Cache, OutputRows};
use models::shared::{Assembly, PublicModel, Weights};
use models::tokenizer::{ChatFormat, TokenizerInfo};
use protocol::{Party, Role};
use secret::{Done, Shared, Step, run_steps, share_parameters};
use std::sync::Arc;

/// Two LLaMA layers with query heads that share keys and values.
fn small_llama() -> ModelConfig {
    ModelConfig {
        d_model: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        d_ff: 172,
        vocab: 131,
        tied: false,
        ..ModelConfig::toy()
    }
}

fn made_up(public: &PublicModel) -> Shared {
    let device = kernels::cpu::Cpu::best();
    let parties = Party::ALL.map(|party| {
        let tables = public.plan.tables(&device, &public.config);
        Arc::new(Assembly::make_up(&device, party, public.clone(), tables, None, Weights::Stored).unwrap())
    });
    Shared { parties, devices: [(); 3].map(|()| device.clone()), public: public.clone() }
}

#[test]
fn made_up_is_what_an_owner_would_have_shared_and_computes_the_same_as_in_the_clear() {
    let configs = [small_llama(), ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert()];
    let device = kernels::cpu::Cpu::best();
    for (seed, config) in configs.into_iter().enumerate() {
        let weights = BenchmarkWeights::new([seed as u8; 32]);
        let public = PublicModel::benchmark(config.clone(), weights, [9; 32]);
        let steps = if config.is_decoder() {
            vec![Step { keep: 0, tokens: vec![3, 1, 4, 1, 5] }, Step { keep: 5, tokens: vec![9] }]
        } else {
            vec![Step { keep: 0, tokens: vec![3, 1, 4, 1, 5] }]
        };
        let parties = run_steps(&made_up(&public), seed as u64, &steps, OutputRows::Last);
        let mut parameters = weights.parameters(&device, &config);
        let cpus = [(); 3].map(|()| device.clone());
        let owner = share_parameters(&cpus, public.clone(), &mut parameters, &weights.seeds());
        for (a, b) in parties.iter().zip(run_steps(&owner, seed as u64, &steps, OutputRows::Last)) {
            assert_eq!(words(a), words(&b), "everything that was sent, word by word");
            assert_eq!(a.outputs, b.outputs);
        }

        let tables = public.plan.tables(&device, &config);
        let clear = Clear::read(&device, &mut parameters, &tables).unwrap();
        let mut cache = Cache::new(&config);
        for (step, done) in steps.iter().zip(&parties) {
            let (n, rows) = (step.tokens.len(), OutputRows::Last);
            let expected =
                complete(clear.forward(&Clear::new(&device), &step.tokens, n, &mut cache, rows)).unwrap();
            let expected: Vec<f32> =
                expected.data.iter().map(|v| (*v as i64 as f64 / 2f64.powi(36)) as f32).collect();
            assert_close(&done.outputs, &expected);
        }
        let float = Float::streamed(&mut parameters, &steps[0].tokens).unwrap();
        assert_close(&parties[0].outputs, &float.data);
    }
}

fn words(done: &Done) -> Vec<(Role, u64, u8, &[u64])> {
    done.sent.iter().flatten().map(|s| (s.to, s.op, s.lane, &s.values[..])).collect()
}

/// As for other models (`secure.rs`).
fn assert_close(seen: &[f32], expected: &[f32]) {
    let size = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(size > 0.1, "scores of no size prove nothing");
    assert_eq!(seen.len(), expected.len());
    for (a, b) in seen.iter().zip(expected) {
        assert!((a - b).abs() < 4e-3 * size.max(1.0), "{a}, expected {b}");
    }
}

#[test]
fn only_benchmark_models_are_made_up() {
    let device = kernels::cpu::Cpu::best();
    let config = ModelConfig::toy();
    let public = PublicModel::benchmark(config.clone(), BenchmarkWeights::new([1; 32]), [2; 32]);
    let read = PublicModel::from_bytes(&public.to_bytes()).unwrap();
    let tables = public.plan.tables(&device, &config);
    assert_eq!(read.digest(&tables), public.digest(&tables));
    let other = PublicModel { benchmark: Some(BenchmarkWeights::new([3; 32])), ..public.clone() };
    assert_ne!(other.digest(&tables), public.digest(&tables));
    let owned = PublicModel { benchmark: None, ..public.clone() };
    assert_ne!(owned.digest(&tables), public.digest(&tables));
    let error = Assembly::make_up(&device, Party::One, owned, tables, None, Weights::Stored)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("not public"), "{error}");
    // A model that reads text is somebody's.
    let info = TokenizerInfo { json: "{}".into(), eos: vec![], bos: None, chat: ChatFormat::Raw };
    let reads = PublicModel { tokenizer: Some(info), ..public.clone() };
    let error = PublicModel::from_bytes(&reads.to_bytes()).err().unwrap().to_string();
    assert!(error.contains("reads text"), "{error}");
    let mut text: serde_json::Value = serde_json::from_slice(&public.to_bytes()).unwrap();
    assert!(text["benchmark"]["seed"].is_array());
    text["benchmark"]["sed"] = 1.into();
    assert!(PublicModel::from_bytes(text.to_string().as_bytes()).is_err());
}
