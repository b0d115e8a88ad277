//! One sharing, three dealers: whoever deals, the answer is the same and costs the same.

mod read;
mod secret;

use kernels::Device;
use models::checkpoint::{ModelConfig, RandomModel, TensorSource};
use models::clear::Clear;
use models::dry::Dry;
use models::float::complete;
use models::model::{Cache, OutputRows};
use protocol::{Party, Role};
use read::all_tokens;
use secret::{Done, Shared, Step, run_dealt_by, share};

fn device() -> Device {
    kernels::cpu::Cpu::best()
}

/// What a reading of the same integers in the clear says of passes that follow each other.
fn clear(shared: &Shared, source: &mut dyn TensorSource, passes: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let config = &shared.public.config;
    let tables = shared.public.plan.tables(&device(), config);
    let model = Clear::load(&device(), source, &tables).unwrap();
    let mut cache = Cache::new(config);
    let pass = |ids: &Vec<u32>| {
        let algebra = Clear::new(&device());
        let forward = model.forward(&algebra, ids, ids.len(), &mut cache, OutputRows::Last);
        let integers = complete(forward).unwrap().data;
        integers.iter().map(|c| (*c as i64 as f64 / 2f64.powi(36)) as f32).collect()
    };
    passes.iter().map(pass).collect()
}

fn steps(config: &ModelConfig, passes: &[Vec<u32>]) -> Vec<Step> {
    let mut read = 0;
    let step = |tokens: &Vec<u32>| {
        let keep = read;
        read += if config.is_decoder() { tokens.len() } else { 0 };
        Step { keep, tokens: tokens.clone() }
    };
    passes.iter().map(step).collect()
}

fn check(shared: &Shared, passes: &[Vec<u32>], done: &[Done], clear: &[Vec<f32>]) {
    let config = &shared.public.config;
    let dry = Dry::model(config, &shared.public.plan.tables(&device(), config));
    let mut spent = Cache::new(config);
    assert_eq!((done.len(), clear.len()), (passes.len(), passes.len()));
    for ((ids, done), clear) in passes.iter().zip(done).zip(clear) {
        let size = clear.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(size > 0.1, "scores of no size prove nothing");
        assert_eq!(done.outputs.len(), clear.len());
        for (s, c) in done.outputs.iter().zip(clear) {
            assert!((s - c).abs() < 4e-3 * size.max(1.0), "secure {s}, clear {c}");
        }
        let declared = Dry::pass(&dry, ids.len(), &mut spent, OutputRows::Last).ledger;
        assert_eq!((done.cost.exchanges, done.cost.sent), (declared.exchanges, declared.sent));
        assert!(done.sent.iter().flatten().all(|s| s.to != Role::Dealer), "the dealer received something");
    }
}

#[test]
fn whoever_deals_the_answer_is_the_clear_one_at_the_declared_cost() {
    let passes = [vec![3u32, 1, 4, 1, 5], vec![9], vec![2, 6]];
    for (i, config) in
        [ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert()].into_iter().enumerate()
    {
        let mut source = RandomModel::new(config.clone(), 50 + i as u64).unwrap();
        let shared = share(&mut source, &all_tokens(&config));
        let clear = clear(&shared, &mut source, &passes);
        for dealer in Party::ALL {
            let seed = 60 + 3 * i as u64 + dealer.index() as u64;
            let done = run_dealt_by(dealer, &shared, seed, &steps(&config, &passes), OutputRows::Last);
            check(&shared, &passes, &done, &clear);
        }
    }
}

#[test]
fn three_sessions_with_three_dealers_at_once() {
    let config = ModelConfig::toy();
    let mut source = RandomModel::new(config.clone(), 71).unwrap();
    let shared = share(&mut source, &all_tokens(&config));
    let prompts = [[vec![1u32, 2], vec![3]], [vec![4u32, 5, 6, 7], vec![8]], [vec![9u32], vec![10]]];
    let clear = prompts.each_ref().map(|p| clear(&shared, &mut source, p));
    // No role has been played before: all threads find them unmade.
    std::thread::scope(|s| {
        for ((dealer, passes), clear) in Party::ALL.into_iter().zip(&prompts).zip(&clear) {
            let (shared, config) = (&shared, &config);
            s.spawn(move || {
                let seed = 80 + dealer.index() as u64;
                let done = run_dealt_by(dealer, shared, seed, &steps(config, passes), OutputRows::Last);
                check(shared, passes, &done, clear);
            });
        }
    });
}
