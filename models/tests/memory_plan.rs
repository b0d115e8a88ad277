//! The memory plan against what a device of its own is really asked for.

mod secret;

use kernels::Device;
use kernels::cuda::Cuda;
use kernels_shim::{Counting, Order, Shim};
use models::benchmark::BenchmarkWeights;
use models::checkpoint::ModelConfig;
use models::memory::{Demand, Holder, MemoryPlan};
use models::model::OutputRows;
use models::plan::PlanTables;
use models::shared::{Assembly, PublicModel, Weights};
use protocol::{Party, Role};
use secret::{Shared, Step, run_dealt_by};
use std::sync::Arc;

/// Wide enough that weights outweigh tables, as in real models.
fn config() -> ModelConfig {
    ModelConfig {
        layers: 3,
        d_model: 128,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        d_ff: 384,
        vocab: 1500,
        context: 64,
        tied: false,
        ..ModelConfig::toy()
    }
}

#[test]
fn the_plan_is_what_is_held() {
    check(config(), 20);
    check(config(), 60);
    // The largest parameter comes first.
    check(
        ModelConfig {
            layers: 1,
            vocab: 6000,
            d_model: 64,
            heads: 4,
            head_dim: 16,
            d_ff: 128,
            ..ModelConfig::toy_bert()
        },
        20,
    );
}

fn check(c: ModelConfig, pass: usize) {
    let public = PublicModel::benchmark(c.clone(), BenchmarkWeights::new([1; 32]), [2; 32]);
    let cpu = kernels::cpu::Cpu::best();
    let tables = public.plan.tables(&cpu, &c);
    let demand = Demand { context: pass + 4, pass, sequences: 1 };
    let mut wrong = vec![];
    // Party 0 deals in all sessions, or there is none who does; or another one, so that parts are not those where party 0 deals.
    let cases = Party::ALL.into_iter().flat_map(|party| {
        let every = move |dealer| [Weights::Stored, Weights::Regenerated].map(|w| (party, dealer, w));
        let other = (party, Some(Party::One), Weights::Stored);
        [Some(Party::Zero), None].into_iter().flat_map(every).chain([other])
    });
    for (party, dealer, weights) in cases {
        let plays = dealer.map(|dealer| party.role(dealer));
        let holder = Holder { party, plays, weights };
        let plan = MemoryPlan::new(&c, &tables, holder, demand, 1 << 25);
        let Some(driver) = Shim::new(Order::Forward) else { return };
        let peak = Arc::new(Counting::new(Arc::new(driver)));
        let device: Device = Arc::new(Cuda::with_driver(peak.clone()));
        let on = |device: &Device, tables: PlanTables, party, weights| {
            Arc::new(Assembly::make_up(device, party, public.clone(), tables, dealer, weights).unwrap())
        };
        let own = on(&device, public.plan.tables(&device, &c), party, weights);
        for role in plays.map_or(Role::ALL.to_vec(), |role| vec![role]) {
            own.playing(role).unwrap();
        }
        let (loaded, most) = (peak.held(), peak.most_held());
        let mut close = |what: &str, planned: u64, seen: u64, percent: u64| {
            let line = format!(
                "{party}, {}, {weights:?}: {what}: {planned} planned, {seen} measured",
                plays.map_or("every role".into(), |role| role.to_string())
            );
            println!("{pass} tokens: {line}");
            if planned.abs_diff(seen) * 100 > percent * seen {
                wrong.push(line);
            }
        };
        close("weights and tables", plan.model(), loaded, 3);
        close("while loading", plan.loading, most, 5);

        let devices = Party::ALL.map(|p| if p == party { device.clone() } else { cpu.clone() });
        let parties = Party::ALL
            .map(|p| if p == party { own.clone() } else { on(&cpu, tables.clone(), p, Weights::Stored) });
        let shared = Shared { parties, devices, public: public.clone() };
        let tokens: Vec<u32> = (0..pass as u32).map(|i| i * 70 % c.vocab as u32).collect();
        let mut steps = vec![Step { keep: 0, tokens }];
        if c.is_decoder() {
            steps.extend((pass..pass + 4).map(|keep| Step { keep, tokens: vec![3] }));
        }
        // A party that plays every role is planned as an evaluator, which holds more.
        let dealer = dealer.unwrap_or(if party == Party::Zero { Party::One } else { Party::Zero });
        run_dealt_by(dealer, &shared, 7, &steps, OutputRows::Last);
        let most = peak.most_held();
        close("a session", plan.model() + plan.session(), most, 6);
        println!("{party}: {plan:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
