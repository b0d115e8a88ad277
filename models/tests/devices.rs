//! Models on devices of different kinds: one party on a device of its own (the CUDA kernels, run on the host), in each of the
//! three places, sends and yields the same words as on the processor.

mod secret;

use kernels::cuda::Cuda;
use kernels::{Device, Fault};
use kernels_shim::{Failing, Order, Shim};
use models::benchmark::BenchmarkWeights;
use models::checkpoint::ModelConfig;
use models::clear::Clear;
use models::float::complete;
use models::model::{Cache, OutputRows};
use models::shared::{Assembly, Part, PartySession, PublicModel, Request, Stepwise, Weights, Work, client};
use protocol::testing::{MemoryNetwork, World};
use protocol::{Party, Role};
use secret::{Done, Shared, Step, run_steps};
use std::sync::Arc;

/// A benchmark model whose weights each party makes up on its device.
fn made_up(public: &PublicModel, devices: &[Device; 3]) -> Shared {
    let parties = Party::ALL.map(|party| {
        let device = &devices[party.index()];
        let tables = public.plan.tables(device, &public.config);
        Arc::new(Assembly::make_up(device, party, public.clone(), tables, None, Weights::Stored).unwrap())
    });
    Shared { parties, devices: devices.clone(), public: public.clone() }
}

fn words(done: &Done) -> Vec<(Role, u64, u8, &[u64])> {
    done.sent.iter().flatten().map(|s| (s.to, s.op, s.lane, &s.values[..])).collect()
}

#[test]
fn everything_sent_is_the_same_whatever_the_devices() {
    let cpu = kernels::cpu::Cpu::best();
    for config in [ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert()] {
        let public = PublicModel::benchmark(config.clone(), BenchmarkWeights::new([4; 32]), [5; 32]);
        let mut steps = vec![Step { keep: 0, tokens: vec![3, 1, 4, 1, 5] }];
        steps.extend(config.is_decoder().then(|| Step { keep: 5, tokens: vec![9] }));
        let rows = OutputRows::Last;
        let expected = run_steps(&made_up(&public, &[(); 3].map(|()| cpu.clone())), 11, &steps, rows);
        for (place, order) in [(0, Order::Forward), (1, Order::Reverse), (2, Order::Forward)] {
            let Some(own) = kernels_shim::device(order) else { return };
            let mut devices = [(); 3].map(|()| cpu.clone());
            devices[place] = own.clone();
            let seen = run_steps(&made_up(&public, &devices), 11, &steps, rows);
            own.status().unwrap();
            let name = config.family.name();
            for (a, b) in seen.iter().zip(&expected) {
                assert!(words(a) == words(b), "{name}: with P{place} on a device of its own");
                assert_eq!(a.outputs, b.outputs, "{name}: with P{place} on a device of its own");
                assert_eq!(a.cost, b.cost);
            }
            assert_eq!(seen.len(), steps.len());
        }
    }
}

/// All three on one device, against the same weights in the clear.
#[test]
fn weights_made_up_on_a_device_are_those_in_the_clear() {
    let Some(own) = kernels_shim::device(Order::Reverse) else { return };
    let (cpu, config) = (kernels::cpu::Cpu::best(), ModelConfig { tied: false, ..ModelConfig::toy() });
    let public = PublicModel::benchmark(config.clone(), BenchmarkWeights::new([6; 32]), [7; 32]);
    let shared = made_up(&public, &[(); 3].map(|()| own.clone()));
    let tokens = vec![7, 2, 50];
    let seen = run_steps(&shared, 12, &[Step { keep: 0, tokens: tokens.clone() }], OutputRows::All);
    let mut weights = public.benchmark.unwrap().parameters(&cpu, &config);
    let clear = Clear::read(&cpu, &mut weights, &public.plan.tables(&cpu, &config)).unwrap();
    let (reading, mut cache) = (Clear::new(&cpu), Cache::new(&config));
    let program = clear.forward(&reading, &tokens, tokens.len(), &mut cache, OutputRows::All);
    let expected: Vec<f32> =
        complete(program).unwrap().data.iter().map(|v| (*v as i64 as f64 / 2f64.powi(36)) as f32).collect();
    let size = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(size > 0.1 && seen[0].outputs.len() == expected.len());
    // As for other models (`secure.rs`): roundings of a whole model add up.
    for (a, b) in seen[0].outputs.iter().zip(&expected) {
        assert!((a - b).abs() < 4e-3 * size.max(1.0), "{a}, expected {b}");
    }
}

/// What stops a dealer that works ahead is told when the pass is asked for, instead of a pass that begins anew while the
/// evaluators have begun with what was dealt.
#[test]
fn a_lack_of_memory_ahead_is_told_when_the_pass_is_asked_for() {
    let Some(driver) = Shim::new(Order::Forward).map(Arc::new) else { return };
    let public = PublicModel::benchmark(ModelConfig::toy(), BenchmarkWeights::new([4; 32]), [5; 32]);
    let host = kernels::cpu::Cpu::best();
    // A dealer waits for nobody: it is alone. Allocations up to the end of the prompt, and the verdict on the next token.
    let run = |good: u64| -> (u64, protocol::Result<()>) {
        let failing = Arc::new(Failing::lacking_after(good, driver.clone()));
        let device: Device = Arc::new(Cuda::with_driver(failing.clone()));
        let tables = public.plan.tables(&device, &public.config);
        let model = Arc::new(
            Assembly::make_up(&device, Party::Zero, public.clone(), tables, None, Weights::Stored).unwrap(),
        );
        let streams = Box::new(World::new(8).chacha(Role::Dealer));
        let stepwise = Some(Stepwise { from: 2, to: 9 });
        let mut dealer = PartySession::new(model, Role::Dealer, streams).unwrap().dealing_ahead(1, stepwise);
        let [mut net, _p1, _p2] = MemoryNetwork::three();
        let pass = |dealer: &mut PartySession, net: &mut MemoryNetwork, tokens: &[u32], keep| {
            let input = client::split_tokens(&host, public.config.vocab, tokens, &[keep as u8; 32]).unwrap();
            let keys = dealer.keys(&input[0], tokens.len()).unwrap();
            let parts = vec![Part { sequence: 0, count: tokens.len(), segment: None, keep }];
            let request = Request { keys, parts, work: Work::Outputs(OutputRows::Last) };
            dealer.pass(net, &request, &mut |_, _| Ok::<_, protocol::Error>(()))
        };
        pass(&mut dealer, &mut net, &[3, 1], 0).unwrap();
        let asked = failing.operations();
        while dealer.deal_ahead(&mut net) != protocol::Step::Complete {}
        (asked, pass(&mut dealer, &mut net, &[4], 2))
    };
    let (asked, well) = run(u64::MAX);
    well.unwrap();
    let (_, verdict) = run(asked + 30);
    let error = verdict.expect_err("there was no memory");
    let lack = |e: &protocol::Error| match e {
        protocol::Error::Device { source, .. } => matches!(source.fault, Fault::OutOfMemory { .. }),
        _ => false,
    };
    assert!(lack(&error), "{error}");
}
