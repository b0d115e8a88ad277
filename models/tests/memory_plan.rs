//! The memory plan against what a device of its own is really asked for.

mod secret;

use kernels::cuda::Cuda;
use kernels::cuda::driver::{Address, Arg, Driver, Launch};
use kernels::{Device, Fault};
use kernels_shim::{Order, Shim};
use models::benchmark::BenchmarkWeights;
use models::checkpoint::ModelConfig;
use models::memory::{Demand, Holder, MemoryPlan};
use models::model::OutputRows;
use models::plan::PlanTables;
use models::shared::{Assembly, PublicModel, Weights};
use protocol::{Party, Role};
use secret::{Shared, Step, run_dealt_by};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A driver that remembers the most it ever held.
#[derive(Debug)]
struct Peak {
    driver: Shim,
    most: AtomicU64,
}

impl Peak {
    fn held(&self) -> u64 {
        let (free, all) = self.driver.memory().unwrap();
        all - free
    }

    /// The most since the last time.
    fn most(&self) -> u64 {
        self.most.swap(self.held(), Ordering::SeqCst)
    }
}

impl Driver for Peak {
    fn name(&self) -> String {
        self.driver.name()
    }

    fn memory(&self) -> Option<(u64, u64)> {
        self.driver.memory()
    }

    fn status(&self) -> Result<(), Fault> {
        self.driver.status()
    }

    fn alloc(&self, bytes: u64) -> Result<Address, Fault> {
        let at = self.driver.alloc(bytes);
        self.most.fetch_max(self.held(), Ordering::SeqCst);
        at
    }

    unsafe fn free(&self, at: Address) {
        // SAFETY: the caller's promise, here and below.
        unsafe { self.driver.free(at) }
    }

    unsafe fn zero(&self, at: Address, bytes: u64) -> Result<(), Fault> {
        // SAFETY: as above.
        unsafe { self.driver.zero(at, bytes) }
    }

    unsafe fn copy_in(&self, to: Address, from: &[u8]) -> Result<(), Fault> {
        // SAFETY: as above.
        unsafe { self.driver.copy_in(to, from) }
    }

    unsafe fn copy_out(&self, to: &mut [u8], from: Address) -> Result<(), Fault> {
        // SAFETY: as above.
        unsafe { self.driver.copy_out(to, from) }
    }

    unsafe fn copy_within(&self, to: Address, from: Address, bytes: u64) -> Result<(), Fault> {
        // SAFETY: as above.
        unsafe { self.driver.copy_within(to, from, bytes) }
    }

    unsafe fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), Fault> {
        // SAFETY: as above.
        unsafe { self.driver.launch(launch, args) }
    }
}

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
    // Party 0 deals in all sessions, or there is none who does.
    let cases = Party::ALL.into_iter().flat_map(|party| {
        let every = move |dealer| [Weights::Stored, Weights::Regenerated].map(|w| (party, dealer, w));
        [Some(Party::Zero), None].into_iter().flat_map(every)
    });
    for (party, dealer, weights) in cases {
        let plays = dealer.map(|dealer| party.role(dealer));
        let holder = Holder { party, plays, weights };
        let plan = MemoryPlan::new(&c, &tables, holder, demand, 1 << 25);
        let Some(driver) = Shim::new(Order::Forward) else { return };
        let peak = Arc::new(Peak { driver, most: AtomicU64::new(0) });
        let device: Device = Arc::new(Cuda::with_driver(peak.clone()));
        let on = |device: &Device, tables: PlanTables, party, weights| {
            Arc::new(Assembly::make_up(device, party, public.clone(), tables, dealer, weights).unwrap())
        };
        let own = on(&device, public.plan.tables(&device, &c), party, weights);
        for role in plays.map_or(Role::ALL.to_vec(), |role| vec![role]) {
            own.playing(role).unwrap();
        }
        let (loaded, most) = (peak.held(), peak.most());
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
        let most = peak.most();
        close("a session", plan.model() + plan.session(), most, 6);
        println!("{party}: {plan:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
