//! Components of weights that a party draws from their seeds instead of storing them: nobody sends another word, wherever
//! that is done, whoever deals, and however far ahead.

mod secret;

use Weights::{Regenerated, Stored};
use kernels::Device;
use models::benchmark::BenchmarkWeights;
use models::checkpoint::ModelConfig;
use models::model::OutputRows;
use models::parameter::{Parameter, Use};
use models::shared::{Assembly, PublicModel, Stepwise, Weights};
use protocol::gates::input::PIECE;
use protocol::{Party, Role};
use secret::{Done, Plan, Shared, Step, run_ahead, run_dealt_by};
use std::sync::Arc;

fn cpu() -> Device {
    kernels::cpu::Cpu::best()
}

/// A benchmark model of which each party, on its device, keeps the weights as it is told.
fn kept(public: &PublicModel, parties: &[(Device, Weights); 3]) -> Shared {
    let models = Party::ALL.map(|party| {
        let (device, weights) = &parties[party.index()];
        let tables = public.plan.tables(device, &public.config);
        Arc::new(Assembly::make_up(device, party, public.clone(), tables, None, *weights).unwrap())
    });
    Shared { parties: models, devices: parties.each_ref().map(|p| p.0.clone()), public: public.clone() }
}

fn public(config: &ModelConfig) -> PublicModel {
    PublicModel::benchmark(config.clone(), BenchmarkWeights::new([4; 32]), [5; 32])
}

fn words(done: &Done) -> Vec<(Role, u64, u8, &[u64])> {
    done.sent.iter().flatten().map(|s| (s.to, s.op, s.lane, &s.values[..])).collect()
}

fn assert_same(seen: &[Done], expected: &[Done], what: &str) {
    assert_eq!(seen.len(), expected.len());
    for (seen, expected) in seen.iter().zip(expected) {
        assert!(words(seen) == words(expected), "{what}: another word is sent");
        assert_eq!(seen.outputs, expected.outputs, "{what}");
        assert_eq!(seen.cost, expected.cost, "{what}");
    }
}

/// Passes of one row, of few and of many.
fn steps(config: &ModelConfig) -> Vec<Step> {
    let mut steps = vec![Step { keep: 0, tokens: vec![3, 1, 4, 1, 5, 9, 2, 6, 5] }];
    if config.is_decoder() {
        steps.extend([Step { keep: 9, tokens: vec![3] }, Step { keep: 10, tokens: vec![5, 8, 9, 7, 9] }]);
    }
    steps
}

#[test]
fn everything_sent_is_the_same_however_weights_are_kept() {
    // The last has a matrix of several pieces.
    let large = ModelConfig { vocab: 16_500, tied: false, ..ModelConfig::toy() };
    assert!(Parameter::Output.len(&large) > PIECE, "one piece proves little");
    let configs = [ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert(), large];
    for config in configs {
        let (public, steps) = (public(&config), steps(&config));
        let stored = kept(&public, &[(); 3].map(|()| (cpu(), Stored)));
        for dealer in Party::ALL {
            let expected = run_dealt_by(dealer, &stored, 11, &steps, OutputRows::Last);
            let one =
                Party::ALL.map(|party| Party::ALL.map(|p| if p == party { Regenerated } else { Stored }));
            for weights in one.into_iter().chain([[Regenerated; 3]]) {
                let shared = kept(&public, &weights.map(|w| (cpu(), w)));
                let seen = run_dealt_by(dealer, &shared, 11, &steps, OutputRows::Last);
                let what = format!("{}, {dealer} deals, {weights:?}", config.family.name());
                assert_same(&seen, &expected, &what);
            }
        }
    }
}

#[test]
fn everything_sent_is_the_same_on_a_device_of_its_own() {
    let config = ModelConfig::toy();
    let (public, steps) = (public(&config), steps(&config));
    let stored = kept(&public, &[(); 3].map(|()| (cpu(), Stored)));
    for dealer in Party::ALL {
        let expected = run_dealt_by(dealer, &stored, 12, &steps, OutputRows::Last);
        for (party, order) in Party::ALL.into_iter().zip([
            kernels_shim::Order::Forward,
            kernels_shim::Order::Reverse,
            kernels_shim::Order::Forward,
        ]) {
            let Some(own) = kernels_shim::device(order) else { return };
            let on = |p| if p == party { (own.clone(), Regenerated) } else { (cpu(), Stored) };
            let seen =
                run_dealt_by(dealer, &kept(&public, &Party::ALL.map(on)), 12, &steps, OutputRows::Last);
            own.status().unwrap();
            assert_same(&seen, &expected, &format!("{dealer} deals, {party} draws weights on its device"));
        }
    }
}

/// A dealer that works ahead multiplies the masks of several runs at once: of drawn weights too.
#[test]
fn masks_of_several_runs_are_multiplied_at_once() {
    let config = ModelConfig::toy();
    let public = public(&config);
    let singles = (0..5).map(|i| Step { keep: 4 + i, tokens: vec![7 * i as u32] });
    let steps: Vec<Step> = [Step { keep: 0, tokens: vec![3, 1, 4, 1] }].into_iter().chain(singles).collect();
    let stepwise = Some(Stepwise { from: 4, to: 12 });
    let plan = Plan { passes: 3, stepwise, calls: usize::MAX, capacity: usize::MAX };
    let run = |weights| {
        run_ahead(&kept(&public, &[(); 3].map(|()| (cpu(), weights))), 13, &steps, OutputRows::Last, plan)
    };
    let (stored, drawn) = (run(Stored), run(Regenerated));
    for (a, b) in stored.iter().zip(&drawn) {
        assert!(words(a) == words(b) && a.outputs == b.outputs);
    }
    let made = |done: &[Done]| done.last().unwrap().made_ahead;
    assert!(made(&drawn)[0] > 0 && made(&drawn)[0] == made(&stored)[0], "{:?}", made(&drawn));
    // An evaluator needs both products of a matrix in one pass over it.
    assert_eq!(made(&drawn)[1..], [0, 0]);
}

/// In every role party 0 holds no word of a matrix, and the others hold c12 once.
#[test]
fn what_is_not_stored_takes_no_memory() {
    // Rows of products are whole steps of the device.
    let config = ModelConfig {
        d_model: 64,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        d_ff: 96,
        vocab: 700,
        tied: false,
        ..ModelConfig::toy()
    };
    let public = public(&config);
    let all = Parameter::all(&config);
    let bytes = |usage| {
        all.iter().filter(|p| p.usage() == usage).map(|p| 8 * p.shared(&config).len() as u64).sum::<u64>()
    };
    for party in Party::ALL {
        let held = |weights| {
            let driver = Arc::new(kernels_shim::Shim::new(kernels_shim::Order::Forward)?);
            let device: Device = Arc::new(kernels::cuda::Cuda::with_driver(driver.clone()));
            let tables = public.plan.tables(&device, &config);
            let before = device.memory().unwrap().0;
            let own = Assembly::make_up(&device, party, public.clone(), tables, None, weights).unwrap();
            assert!(Role::ALL.into_iter().all(|role| own.playing(role).is_ok()));
            Some(before - device.memory().unwrap().0)
        };
        let (Some(stored), Some(drawn)) = (held(Stored), held(Regenerated)) else { return };
        // Biases, gains and the embedding table are stored either way.
        let (matrices, kept) = (bytes(Use::Matrix), if party == Party::Zero { 0 } else { 1 });
        assert_eq!(stored - drawn, (3 - kept) * matrices, "{party}");
    }
}
