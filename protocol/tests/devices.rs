//! Parties on devices of different kinds, and devices that fail: what a party computes does not depend on its device, and
//! nothing leaves a party whose device failed.

use kernels::cuda::Cuda;
use kernels::{Device, Ring, Words};
use kernels_shim::{Failing, Order, Shim};
use protocol::gates::{bit, compare, product, truncate};
use protocol::testing::{MemoryNetwork, World};
use protocol::{Error, NetError, Network, Role, Session, Shape, Share};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

const N: usize = 9;

/// A comparison, a truncated square and a product.
async fn program(cx: protocol::Cx<'_>, x: Share) -> protocol::Result<Share> {
    let cx = cx.scope("layer");
    let less = compare::less_than(&cx.scope("relu"), &x, &[5 << 18], compare::Window::EXACT31).await?;
    let y = truncate::truncate(&cx.scope("square"), product::multiply(&cx, &x, &x)?, 18).await?;
    let z = product::reshare(&cx.scope("again"), product::multiply(&cx, &y, &x)?).await?;
    product::reshare(&cx.scope("chosen"), bit::bit_times(&cx, &less[0], &z)?).await
}

/// The same words on a device.
fn moved(share: Share, device: &Device) -> Share {
    let up = |w: &Words| Words::upload(device, w.to_vec());
    let [delta, first] = [&share.delta, &share.first].map(|known| known.as_ref().map(up));
    Share { delta, lambda: up(&share.lambda), first, ..share }
}

/// Notes how many operations its party's device had been asked for when it sent last.
struct Watched {
    inner: MemoryNetwork,
    device: Option<Arc<Failing>>,
    at_last_send: Arc<AtomicU64>,
}

impl Network for Watched {
    fn send(&mut self, to: Role, message: Vec<u8>) -> Result<(), NetError> {
        if let Some(device) = &self.device {
            self.at_last_send.store(device.operations(), Ordering::SeqCst);
        }
        self.inner.send(to, message)
    }

    fn recv(&mut self, from: Role) -> Result<Vec<u8>, NetError> {
        self.inner.recv(from)
    }
}

/// What became of a run.
struct Run {
    verdicts: [Result<Share, Error>; 3],
    /// Operations that the device on trial was asked for: in all, before the program, and up to the last message.
    asked: u64,
    before: u64,
    at_last_send: u64,
}

/// `party` computes on a device that fails after `good` operations, the others on the processor. `None` without a C++
/// compiler.
fn run(party: Role, good: u64) -> Option<Run> {
    let world = World::new(1);
    let x: Vec<u64> = (0..N as u64).map(|i| i << 18).collect();
    let shares = world.share(&x, Shape::new(N, 1), 18, 1);
    let failing = Arc::new(Failing::after(good, Arc::new(Shim::new(Order::Forward)?)));
    let at_last_send = Arc::new(AtomicU64::new(0));
    let mut before = 0;
    let (done, verdicts) = channel();
    for ((role, inner), share) in Role::ALL.into_iter().zip(MemoryNetwork::three()).zip(shares) {
        let on_trial = (role == party).then(|| failing.clone());
        let mut device = world.device().clone();
        if let Some(driver) = &on_trial {
            device = Arc::new(Cuda::with_driver(driver.clone()));
        }
        let share = moved(share, &device);
        if let Some(driver) = &on_trial {
            before = driver.operations();
        }
        let (done, streams, at_last_send) = (done.clone(), world.chacha(role), at_last_send.clone());
        std::thread::spawn(move || {
            let mut net = Watched { inner, device: on_trial, at_last_send };
            let mut session = Session::new(role, device, Ring::Z64, Box::new(streams)).with_registry();
            let verdict = session.run(&mut net, |cx| program(cx, share));
            drop(net);
            done.send((role, verdict)).expect("the test waits");
        });
    }
    drop(done);
    let mut all = [const { None }; 3];
    for _ in 0..3 {
        let (role, verdict) =
            verdicts.recv_timeout(Duration::from_secs(60)).expect("a party hangs or has panicked");
        all[role.index()] = Some(verdict);
    }
    let verdicts = all.map(|v| v.expect("three parties"));
    let (asked, at_last_send) = (failing.operations(), at_last_send.load(Ordering::SeqCst));
    Some(Run { verdicts, asked, before, at_last_send })
}

/// The parties hold what they hold when all compute on the processor.
fn check(results: [Share; 3]) {
    let world = World::new(1);
    let x: Vec<u64> = (0..N as u64).map(|i| i << 18).collect();
    let shares = world.share(&x, Shape::new(N, 1), 18, 1);
    let want = world.run(shares, |cx, x| Box::pin(program(cx, x))).results;
    for (role, (got, want)) in Role::ALL.into_iter().zip(results.iter().zip(&want)) {
        let words = |s: &Share| (s.delta.as_ref().map(Words::to_vec), s.lambda.to_vec());
        assert!(words(got) == words(want) && got.shape == want.shape, "{role}");
    }
}

#[test]
fn devices_of_all_kinds_compute_the_same() {
    for party in Role::ALL {
        let Some(run) = run(party, u64::MAX) else { return };
        assert!(run.asked > run.before && run.at_last_send > run.before);
        check(run.verdicts.map(|v| v.expect("no failure")));
    }
}

#[test]
fn nothing_leaves_a_party_after_its_device_failed() {
    for party in Role::ALL {
        let Some(whole) = run(party, u64::MAX) else { return };
        let operations = whole.asked - whole.before;
        assert!(operations > 60, "{party}: {operations} operations are too few for this test");
        for n in (0..operations).step_by(3).chain([operations - 1]) {
            let good = whole.before + n;
            let run = run(party, good).expect("there was a compiler before");
            assert!(run.at_last_send <= good, "{party} sent something after operation {n} failed");
            for (role, verdict) in Role::ALL.into_iter().zip(run.verdicts) {
                match verdict {
                    Err(Error::Device { role: named, source, .. }) => {
                        assert!(named == party && role == party, "{role} reports {named}: {source}");
                    }
                    Err(Error::Net { source: NetError::Lost { .. }, .. }) if role != party => {}
                    // All that this party needs had been sent.
                    Ok(_) if role != party => {}
                    other => panic!("{role}, when operation {n} of {party} failed: {other:?}"),
                }
            }
        }
    }
}

/// The error says who, where, what, how much and what to do.
#[test]
fn a_full_device_is_named() {
    let Some(shim) = Shim::new(Order::Forward) else { return };
    let device: Device = Arc::new(Cuda::with_driver(Arc::new(shim.capacity(1000))));
    let session = |net: &mut MemoryNetwork, n: usize| {
        let streams = Box::new(World::new(1).chacha(Role::P1));
        Session::new(Role::P1, device.clone(), Ring::Z64, streams).run(net, |cx| async move {
            let cx = cx.scope("layer 3/attention");
            cx.op("scores");
            let fits = Words::zeros(cx.device(), 80).len();
            Ok(fits + Words::zeros(cx.device(), n).to_vec().len())
        })
    };
    let [mut dealing, mut net, _p2] = MemoryNetwork::three();
    let streams = Box::new(World::new(1).chacha(Role::Dealer));
    let mut dealer = Session::new(Role::Dealer, kernels::cpu::Cpu::best(), Ring::Z64, streams);
    // A run begins with the dealer's word.
    let mut begin = || dealer.run(&mut dealing, |_| async { Ok(()) }).unwrap();
    begin();
    let error = session(&mut net, 1000).expect_err("no room for 8000 bytes").to_string();
    for part in ["P1 at layer 3/attention/scores", "zeros", "8000 bytes asked and 1000 free", "smaller model"]
    {
        assert!(error.contains(part), "{error} lacks {part}");
    }
    // Less is possible again.
    begin();
    assert_eq!(session(&mut net, 100), Ok(180));
}

/// Gates on one device for all three parties.
#[test]
fn a_world_on_a_device() {
    for order in [Order::Forward, Order::Reverse] {
        let Some(device) = kernels_shim::device(order) else { return };
        let world = World::new(1).on(device);
        let x: Vec<u64> = (0..N as u64).map(|i| i << 18).collect();
        let shares = world.share(&x, Shape::new(N, 1), 18, 1);
        let outcome = world.run(shares, |cx, x| Box::pin(program(cx, x)));
        check(outcome.results);
    }
}
