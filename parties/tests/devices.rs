//! Parties whose device fails: the client is told which party and what to do, the others are told as well, and the party
//! serves on. The device is the CUDA kernels run on the host, behind a driver that fails when it is told to.

mod common;

use common::{Files, Running};
use kernels::cuda::Cuda;
use kernels::cuda::driver::{Address, Arg, Driver, Launch};
use kernels::{Device, Fault};
use kernels_shim::{Order, Shim};
use models::checkpoint::ModelConfig;
use models::memory::{Demand, Holder, MemoryPlan};
use models::model::OutputRows;
use models::plan::PlanTables;
use models::shared::{PublicModel, Weights};
use parties::{
    client::Client,
    config::{Dealing, PartyConfig},
    owner::{benchmark_model, share_benchmark},
    private::{Pass, PrivateModel},
    store::ModelStore,
    weights::WeightsChoice,
};
use protocol::Party;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};
use std::time::{Duration, Instant};

/// A device that is lost once it is told so, or after so many more operations.
#[derive(Debug)]
struct Losable {
    driver: Shim,
    left: Arc<AtomicU64>,
}

/// Operations left of a device that is not to be lost.
const ALL: u64 = u64::MAX;

impl Losable {
    fn there(&self) -> Result<(), Fault> {
        let count = |left| if left == ALL { Some(ALL) } else { u64::checked_sub(left, 1) };
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count);
        left.map(drop).map_err(|_| Fault::Driver { code: 719, text: "a failure for a test".into() })
    }
}

impl Driver for Losable {
    fn name(&self) -> String {
        self.driver.name()
    }

    fn memory(&self) -> Option<(u64, u64)> {
        self.driver.memory()
    }

    fn status(&self) -> Result<(), Fault> {
        self.there()
    }

    fn alloc(&self, bytes: u64) -> Result<Address, Fault> {
        self.there()?;
        self.driver.alloc(bytes)
    }

    unsafe fn free(&self, at: Address) {
        // SAFETY: the caller's promise, here and below.
        unsafe { self.driver.free(at) }
    }

    unsafe fn zero(&self, at: Address, bytes: u64) -> Result<(), Fault> {
        self.there()?;
        // SAFETY: as above.
        unsafe { self.driver.zero(at, bytes) }
    }

    unsafe fn copy_in(&self, to: Address, from: &[u8]) -> Result<(), Fault> {
        self.there()?;
        // SAFETY: as above.
        unsafe { self.driver.copy_in(to, from) }
    }

    unsafe fn copy_out(&self, to: &mut [u8], from: Address) -> Result<(), Fault> {
        self.there()?;
        // SAFETY: as above.
        unsafe { self.driver.copy_out(to, from) }
    }

    unsafe fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), Fault> {
        self.there()?;
        // SAFETY: as above.
        unsafe { self.driver.launch(launch, args) }
    }
}

/// Devices that one party opens, one after the other: each with its switch. `None` once there are no more.
#[derive(Clone, Default)]
struct Devices {
    left: Arc<Mutex<usize>>,
    switches: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
}

impl Devices {
    fn open(&self, capacity: u64) -> Result<Device, String> {
        let mut left = self.left.lock().unwrap();
        *left = left.checked_sub(1).ok_or("there is no device any more")?;
        let driver = Shim::new(Order::Forward).ok_or("no compiler")?.capacity(capacity);
        let left = Arc::new(AtomicU64::new(ALL));
        self.switches.lock().unwrap().push(left.clone());
        Ok(Arc::new(Cuda::with_driver(Arc::new(Losable { driver, left }))))
    }

    /// Loses the one that was opened last.
    fn lose(&self) {
        self.lose_after(0);
    }

    /// The same after so many more operations.
    fn lose_after(&self, operations: u64) {
        self.switches.lock().unwrap().last().unwrap().store(operations, Ordering::SeqCst);
    }

    fn opened(&self) -> usize {
        self.switches.lock().unwrap().len()
    }
}

/// A cluster in which `place` opens up to `count` devices of this capacity; all three are configured alike.
fn cluster(
    place: Party,
    devices: &Devices,
    count: usize,
    capacity: u64,
    configure: impl Fn(&mut PartyConfig),
) -> (Files, Vec<Running>) {
    *devices.left.lock().unwrap() = count;
    let files = Files::new();
    let parties = Party::ALL.map(|party| {
        let mut config = files.party(party.index());
        configure(&mut config);
        let devices = devices.clone();
        let store = if party == place {
            let first = devices.open(capacity).unwrap();
            ModelStore::on(&config, first).map(|s| s.reopened_by(move || devices.open(capacity)))
        } else {
            ModelStore::open(&config)
        };
        Running::start(config, Arc::new(store.unwrap()))
    });
    (files, parties.into())
}

/// Models are kept in memory only, and the roles are always the same.
fn in_memory(config: &mut PartyConfig) {
    config.limits.model_directory = Default::default();
    config.limits.dealer = Dealing::Only(DEALER);
}

fn model() -> PublicModel {
    benchmark_model(ModelConfig::toy()).unwrap()
}

/// Of which weights are more than what a pass holds.
fn wide() -> PublicModel {
    let config = ModelConfig {
        layers: 8,
        d_model: 64,
        heads: 2,
        kv_heads: 2,
        head_dim: 32,
        d_ff: 384,
        ..ModelConfig::toy()
    };
    benchmark_model(config).unwrap()
}

async fn share(client: &Client, public: &PublicModel) -> Result<(), String> {
    let tables = public.plan.tables(&kernels::cpu::Cpu::best(), &public.config);
    share_benchmark(client, "toy", public, &tables).await.map(drop).map_err(|e| e.to_string())
}

/// What a party needs for a pass where [`DEALER`] deals.
fn needed(public: &PublicModel, tables: &PlanTables, party: Party, pass: usize, weights: Weights) -> u64 {
    let demand = Demand { context: 60, pass, sequences: 1 };
    let holder = Holder { party, plays: Some(party.role(DEALER)), weights };
    let plan = MemoryPlan::new(&public.config, tables, holder, demand, 1 << 25).device();
    // As close as plans are to what is held.
    plan * 106 / 100
}

/// Who deals where memory is short: a dealer needs less than an evaluator.
const DEALER: Party = Party::Zero;

/// One session of one pass.
async fn ask(client: &Client, tokens: usize) -> Result<Vec<f32>, String> {
    let model = PrivateModel::open(client, "toy").await.map_err(|e| e.to_string())?;
    let mut run = model.run(OutputRows::Last, tokens).await.map_err(|e| e.to_string())?;
    let tokens: Vec<u32> = (0..tokens as u32).map(|t| t % 60).collect();
    let (outputs, _) = run.pass(Pass { tokens: &tokens, segment: None }).await.map_err(|e| e.to_string())?;
    run.close().await.map_err(|e| e.to_string())?;
    Ok(outputs)
}

/// Other masks, other roundings; the same model.
fn assert_same(a: &[f32], b: &[f32]) {
    let size = a.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(size > 0.1 && a.len() == b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 4e-3 * size.max(1.0)), "{a:?} {b:?}");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

#[test]
fn a_party_that_lost_its_device_says_so_and_serves_on_another() {
    if Shim::new(Order::Forward).is_none() {
        return;
    }
    for (place, stored) in [(Party::One, true), (Party::Zero, false)] {
        let devices = Devices::default();
        let (files, _parties) = cluster(place, &devices, 2, 1 << 30, |config| {
            if !stored {
                in_memory(config);
            }
        });
        block_on(async {
            let client = Client::connect(&files.client()).await.unwrap();
            share(&client, &model()).await.unwrap();
            let whole = ask(&client, 5).await.unwrap();

            // Lost in the middle of a session.
            let model = PrivateModel::open(&client, "toy").await.unwrap();
            let mut run = model.run(OutputRows::Last, 8).await.unwrap();
            run.pass(Pass { tokens: &[1, 2], segment: None }).await.unwrap();
            devices.lose();
            let error = run.pass(Pass { tokens: &[3], segment: None }).await.unwrap_err().to_string();
            for word in [&place.to_string(), "driver error 719", "start the party again"] {
                assert!(error.contains(word), "{word:?} is missing from: {error}");
            }
            drop(run);

            assert_same(&whole, &ask(&client, 5).await.unwrap());
            assert_eq!(devices.opened(), 2);

            // And where there is no other one, that is said, once and again.
            devices.lose();
            for _ in 0..2 {
                let error = ask(&client, 5).await.unwrap_err();
                for word in
                    [&place.to_string(), "lost its device", "no device any more", "start the party again"]
                {
                    assert!(error.contains(word), "{word:?} is missing from: {error}");
                }
            }
            client.close().await;
        });
    }
}

/// A device that is lost while all three compute: the client is told by whom, and the other two, who wait for its messages,
/// end the session too. Each may have one session at a time, so the next one finds them free.
#[test]
fn nobody_waits_for_a_party_that_lost_its_device_in_a_pass() {
    if Shim::new(Order::Forward).is_none() {
        return;
    }
    for (place, operations) in [(Party::Zero, 60), (Party::One, 200), (Party::Two, 700)] {
        let devices = Devices::default();
        let (files, _parties) = cluster(place, &devices, 2, 1 << 30, |c| c.limits.max_sessions = 1);
        block_on(async {
            let client = Client::connect(&files.client()).await.unwrap();
            share(&client, &model()).await.unwrap();
            let whole = ask(&client, 5).await.unwrap();
            devices.lose_after(operations);
            let began = Instant::now();
            let error = ask_when_free(&client, began).await.unwrap_err();
            for word in [&place.to_string(), "driver error 719", "start the party again"] {
                assert!(error.contains(word), "{word:?} is missing from: {error}");
            }
            assert_same(&whole, &ask_when_free(&client, began).await.unwrap());
            assert_eq!(devices.opened(), 2);
            assert!(began.elapsed() < WAIT, "somebody waited for {place}");
            client.close().await;
        });
    }
}

/// Much longer than a session of the toy model takes, and shorter than anything that only waits.
const WAIT: Duration = Duration::from_secs(60);

/// A session as soon as the parties have ended the last one.
async fn ask_when_free(client: &Client, began: Instant) -> Result<Vec<f32>, String> {
    loop {
        let answer = tokio::time::timeout(WAIT, ask(client, 5)).await.expect("an answer or an error");
        match answer {
            Err(e) if e.contains("no more are allowed") && began.elapsed() < WAIT => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

/// Memory for a short pass with stored weights, not for a long one.
#[test]
fn a_pass_too_long_for_the_memory_ends_its_session_only() {
    if Shim::new(Order::Forward).is_none() {
        return;
    }
    let public = model();
    let tables = public.plan.tables(&kernels::cpu::Cpu::best(), &public.config);
    let place = Party::Two;
    let needs = |pass| needed(&public, &tables, place, pass, Weights::Stored);
    let needed = needs(4);
    assert!(needed < needs(60) / 2);
    let devices = Devices::default();
    let (files, _parties) = cluster(place, &devices, 1, needed, |config| {
        in_memory(config);
        config.weights = WeightsChoice::Stored;
    });
    block_on(async {
        let client = Client::connect(&files.client()).await.unwrap();
        share(&client, &public).await.unwrap();
        let whole = ask(&client, 4).await.unwrap();
        let error = ask(&client, 60).await.unwrap_err();
        for word in ["P2", "out of memory", "free", "fewer tokens"] {
            assert!(error.contains(word), "{word:?} is missing from: {error}");
        }
        assert_same(&whole, &ask(&client, 4).await.unwrap());
        assert_eq!(devices.opened(), 1);
        client.close().await;
    });
}

/// Where stored weights and a session have no room, weights are regenerated: the same answers in less memory.
#[test]
fn weights_that_do_not_fit_are_regenerated() {
    if Shim::new(Order::Forward).is_none() {
        return;
    }
    let public = wide();
    let tables = public.plan.tables(&kernels::cpu::Cpu::best(), &public.config);
    // What an evaluator multiplies by, where party 0 deals, is stored either way.
    let place = Party::Zero;
    let [stored, little] =
        [Weights::Stored, Weights::Regenerated].map(|w| needed(&public, &tables, place, 4, w));
    assert!(little * 108 / 100 < stored, "nothing is gained");
    let answer = |weights, capacity| {
        let devices = Devices::default();
        let (files, _parties) = cluster(place, &devices, 1, capacity, |config| {
            in_memory(config);
            config.weights = weights;
        });
        block_on(async {
            let client = Client::connect(&files.client()).await.unwrap();
            share(&client, &public).await?;
            let answer = ask(&client, 4).await;
            client.close().await;
            answer
        })
    };
    let expected = answer(WeightsChoice::Stored, 8 * stored).unwrap();
    for weights in [WeightsChoice::Auto, WeightsChoice::Regenerated] {
        assert_same(&expected, &answer(weights, little).unwrap());
    }
    let error = answer(WeightsChoice::Stored, little).unwrap_err();
    assert!(error.contains("P0") && error.contains("memory"), "{error}");
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_it_is_loaded() {
    if Shim::new(Order::Forward).is_none() {
        return;
    }
    let public = model();
    let tables = public.plan.tables(&kernels::cpu::Cpu::best(), &public.config);
    let devices = Devices::default();
    let (files, _parties) = cluster(Party::One, &devices, 1, tables.bytes() + 100_000, in_memory);
    block_on(async {
        let client = Client::connect(&files.client()).await.unwrap();
        let error = share(&client, &public).await.unwrap_err();
        for word in ["P1 needs", "more of the device's memory", "0.1 MB are free", "smaller model"] {
            assert!(error.contains(word), "{word:?} is missing from: {error}");
        }
        // Nobody keeps it.
        assert!(client.list_models().await.unwrap().is_empty());
        client.close().await;
    });
}
