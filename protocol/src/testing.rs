//! Three parties in one process, for tests: an in-memory network, and a world that runs a program on all three.

use crate::cx::{Cx, Sent, Session};
use crate::profile::Profile;
use crate::{ChaChaStreams, Error, Key, Ledger, NetError, Network, Product, Role, Shape, Share, Streams};
use kernels::{Device, Ring, Words};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How long a full link of a bounded network may stay full.
const PATIENCE: Duration = Duration::from_secs(60);

/// An end of a link, with the bytes that are on their way on it.
type End<E> = Option<(E, Arc<AtomicUsize>)>;

/// One party's ends of an in-memory network.
pub struct MemoryNetwork {
    to: [End<Sender<Vec<u8>>>; 3],
    from: [End<Receiver<Vec<u8>>>; 3],
    capacity: usize,
}

impl MemoryNetwork {
    /// The three parties' ends.
    pub fn three() -> [MemoryNetwork; 3] {
        MemoryNetwork::bounded(usize::MAX)
    }

    /// The same, whose links hold so many bytes or one larger message.
    pub fn bounded(capacity: usize) -> [MemoryNetwork; 3] {
        let mut ends =
            [(); 3].map(|()| MemoryNetwork { to: [const { None }; 3], from: [const { None }; 3], capacity });
        for a in 0..3 {
            for b in 0..3 {
                if a != b {
                    let ((s, r), waiting) = (channel(), Arc::<AtomicUsize>::default());
                    ends[a].to[b] = Some((s, waiting.clone()));
                    ends[b].from[a] = Some((r, waiting));
                }
            }
        }
        ends
    }
}

impl Network for MemoryNetwork {
    fn send(&mut self, to: Role, message: Vec<u8>) -> Result<(), NetError> {
        let lost = |why: &str| NetError::Lost { peer: to, reason: why.into() };
        let start = Instant::now();
        while !self.room(to, message.len()) {
            if start.elapsed() > PATIENCE {
                return Err(lost("it does not read"));
            }
            std::thread::yield_now();
        }
        let (link, waiting) = self.to[to.index()].as_ref().ok_or_else(|| lost("there is no link"))?;
        waiting.fetch_add(message.len(), Ordering::SeqCst);
        link.send(message).map_err(|_| lost("its thread ended"))
    }

    fn recv(&mut self, from: Role) -> Result<Vec<u8>, NetError> {
        let lost = || NetError::Lost { peer: from, reason: "its thread ended".into() };
        let (link, waiting) = self.from[from.index()].as_ref().ok_or_else(lost)?;
        let message = link.recv().map_err(|_| lost())?;
        waiting.fetch_sub(message.len(), Ordering::SeqCst);
        Ok(message)
    }

    fn room(&self, to: Role, bytes: usize) -> bool {
        self.to[to.index()].as_ref().is_none_or(|(_, waiting)| {
            let waiting = waiting.load(Ordering::SeqCst);
            waiting == 0 || waiting.saturating_add(bytes) <= self.capacity
        })
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

/// What the three parties know of a shared matrix, put together.
#[derive(Clone, Debug)]
pub struct Opened {
    /// λ + Δ in the ring.
    pub values: Vec<u64>,
    /// λ: decides roundings, so that tests can ask for exact results.
    pub lambda: Vec<u64>,
}

/// A program's results and what it left behind.
pub struct Outcome<T> {
    /// Each party's result.
    pub results: [T; 3],
    /// Costs of all parties together.
    pub ledger: Ledger,
    /// Everything sent, by sender.
    pub sent: [Vec<Sent>; 3],
    /// Where each party's time went, in a world that is [`World::profiled`].
    pub profiles: Option<[Profile; 3]>,
}

/// Makes one party's streams.
pub type MakeStreams = fn(Role, &World) -> Box<dyn Streams>;

/// Three parties with fresh keys from a seed (printed when a test fails).
pub struct World {
    device: Device,
    ring: Ring,
    seed: u64,
    streams: Option<MakeStreams>,
    record: bool,
    profile: bool,
}

impl World {
    /// A world over Z_2^64.
    pub fn new(seed: u64) -> World {
        let device = kernels::cpu::Cpu::best();
        World { device, ring: Ring::Z64, seed, streams: None, record: false, profile: false }
    }

    /// The same on another device.
    pub fn on(mut self, device: Device) -> World {
        self.device = device;
        self
    }

    /// The same over another ring.
    pub fn ring(mut self, ring: Ring) -> World {
        self.ring = ring;
        self
    }

    /// Records everything sent.
    pub fn recorded(mut self) -> World {
        self.record = true;
        self
    }

    /// Records where the parties' time goes.
    pub fn profiled(mut self) -> World {
        self.profile = true;
        self
    }

    /// Replaces the streams.
    pub fn streams(mut self, streams: MakeStreams) -> World {
        self.streams = Some(streams);
        self
    }

    /// Where buffers live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The keys k01, k02, k12 of this world.
    pub fn keys(&self) -> [Key; 3] {
        [1u8, 2, 3].map(|i| {
            let mut key = [i; 32];
            key[..8].copy_from_slice(&self.seed.to_le_bytes());
            key
        })
    }

    /// One party's streams.
    pub fn chacha(&self, role: Role) -> ChaChaStreams {
        let [k01, k02, k12] = self.keys();
        ChaChaStreams::new(match role {
            Role::Dealer => [Some(k01), Some(k02), None],
            Role::P1 => [Some(k01), None, Some(k12)],
            Role::P2 => [None, Some(k02), Some(k12)],
        })
    }

    /// A reproducible stream of test data of this world, apart from the keys.
    pub fn data(&self, stream: u64, n: usize, bits: u32) -> Vec<u64> {
        let mut key = [0xdd; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        Words::chacha12(&self.device, &key, stream, n, bits).to_vec()
    }

    /// Shares of `values` under given masks (component 0 for P2, component 1 for P1).
    pub fn share_under(
        &self,
        values: &[u64],
        x0: &[u64],
        x1: &[u64],
        shape: Shape,
        scale: u32,
    ) -> [Share; 3] {
        let up = |v: Vec<u64>| Words::upload(&self.device, v).low(self.ring.bits());
        let each = |f: &dyn Fn(usize) -> u64| up((0..values.len()).map(f).collect());
        let delta = each(&|i| values[i].wrapping_sub(x0[i]).wrapping_sub(x1[i]));
        let lambda = each(&|i| x0[i].wrapping_add(x1[i]));
        let (first, second) = (each(&|i| x1[i]), each(&|i| x0[i]));
        let share = |delta, lambda, first| Share { shape, scale, delta, lambda, first };
        [
            share(None, lambda, Some(first.clone())),
            share(Some(delta.clone()), first, None),
            share(Some(delta), second, None),
        ]
    }

    /// Shares of `values` under masks of data stream `stream`.
    pub fn share(&self, values: &[u64], shape: Shape, scale: u32, stream: u64) -> [Share; 3] {
        let masks = self.data(stream, 2 * values.len(), 64);
        self.share_under(values, &masks[..values.len()], &masks[values.len()..], shape, scale)
    }

    /// Runs `program` on three threads, each party with its part of `inputs`. The pad registry is on, and the three
    /// records are held against each other. Any party's error is returned, the root cause before lost peers.
    pub fn try_run<I: Send, T: Send>(
        &self,
        inputs: [I; 3],
        program: impl Fn(Cx<'_>, I) -> std::pin::Pin<Box<dyn Future<Output = crate::Result<T>> + '_>> + Sync,
    ) -> Result<Outcome<T>, Error> {
        let parts: Vec<(Session, Result<T, Error>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = Role::ALL
                .into_iter()
                .zip(MemoryNetwork::three())
                .zip(inputs)
                .map(|((role, mut net), input)| {
                    let program = &program;
                    scope.spawn(move || {
                        let streams = match self.streams {
                            Some(make) => make(role, self),
                            None => Box::new(self.chacha(role)),
                        };
                        let mut session =
                            Session::new(role, self.device.clone(), self.ring, streams).with_registry();
                        if self.record {
                            session = session.with_transcript();
                        }
                        if self.profile {
                            session = session.with_profile();
                        }
                        let result = session.run(&mut net, |cx| program(cx, input));
                        (session, result)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("a party panicked")).collect()
        });
        let lost = |e: &Error| matches!(e, Error::Net { source: NetError::Lost { .. }, .. });
        let errors: Vec<&Error> = parts.iter().filter_map(|(_, r)| r.as_ref().err()).collect();
        if let Some(e) = errors.iter().find(|e| !lost(e)).or(errors.first()) {
            return Err((*e).clone());
        }
        let mut pads: Vec<_> = parts.iter().flat_map(|(s, _)| s.pads().expect("on")).collect();
        let all = pads.len();
        pads.sort_unstable();
        pads.dedup();
        assert_eq!(pads.len(), all, "two parties used the same pad towards one receiver");
        let ledgers: Vec<Ledger> = parts.iter().map(|(s, _)| *s.ledger()).collect();
        let mut sent = [vec![], vec![], vec![]];
        let (mut results, mut profiles) = (vec![], vec![]);
        for (i, (mut s, r)) in parts.into_iter().enumerate() {
            sent[i] = s.transcript();
            results.extend(r);
            profiles.extend(s.profile());
        }
        let results = results.try_into().unwrap_or_else(|_| unreachable!("three results"));
        Ok(Outcome { results, ledger: Ledger::merge(&ledgers), sent, profiles: profiles.try_into().ok() })
    }

    /// Like [`World::try_run`] for programs that must succeed.
    pub fn run<I: Send, T: Send>(
        &self,
        inputs: [I; 3],
        program: impl Fn(Cx<'_>, I) -> std::pin::Pin<Box<dyn Future<Output = crate::Result<T>> + '_>> + Sync,
    ) -> Outcome<T> {
        self.try_run(inputs, program).unwrap_or_else(|e| panic!("world with seed {}: {e}", self.seed))
    }

    /// Puts a share together, checking that the parties' components are consistent.
    pub fn open(&self, [p0, p1, p2]: &[Share; 3]) -> Opened {
        let bits = self.ring.bits();
        let delta = p1.delta.as_ref().expect("P1 knows Δ");
        assert_eq!(
            delta.to_vec(),
            p2.delta.as_ref().expect("P2 knows Δ").to_vec(),
            "evaluators disagree on Δ"
        );
        let lambda = p0.lambda.clone().low(bits).to_vec();
        let sum = (&p1.lambda + &p2.lambda).low(bits).to_vec();
        assert_eq!(lambda, sum, "the dealer's λ is not the sum of the evaluators' halves");
        let first = p0.first.clone().expect("the dealer knows both halves").low(bits).to_vec();
        assert_eq!(first, p1.lambda.clone().low(bits).to_vec(), "the dealer's idea of P1's half");
        Opened { values: (delta + &p0.lambda).low(bits).to_vec(), lambda }
    }

    /// Puts a 2-of-2 value together.
    pub fn open_product(&self, [_, p1, p2]: &[Product; 3]) -> Vec<u64> {
        let (a, b) = (p1.half.as_ref().expect("P1's half"), p2.half.as_ref().expect("P2's half"));
        (a + b).low(p1.bits).to_vec()
    }
}
