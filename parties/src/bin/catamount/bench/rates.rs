//! What this machine does at best, measured just before: products, bytes between parties, exchanges.

use super::loopback::Loopback;
use kernels::{Device, Matrix, Words};
use parties::transport::SessionLinks;
use protocol::{NetError, Network, Role};
use serde::Serialize;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

/// Rates, from which floors are computed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Rates {
    /// Products in the ring a second: weights of 1024 inputs and 4096 outputs (32 MB), on one thread.
    pub(crate) products_per_s: f64,
    /// Rows that were multiplied with these weights at once.
    pub(crate) rows: usize,
    /// Cores that work at the same time; 1 where a device of its own does the products.
    pub(crate) cores: usize,
    /// Bytes a second of one link from P0 to P2, QUIC over the loopback interface.
    pub(crate) bytes_per_s: f64,
    /// Seconds of an exchange of 8 bytes between P1 and P2.
    pub(crate) exchange_s: f64,
}

/// The least that something can take at these rates.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Floor {
    /// Products of all three parties, spread over all cores.
    pub(crate) products_ms: f64,
    /// Bytes of all links, one link at a time: three parties on one machine share its memory and its cores.
    pub(crate) bytes_ms: f64,
    /// Exchanges, one after the other.
    pub(crate) exchanges_ms: f64,
    /// The sum.
    pub(crate) total_ms: f64,
}

impl Rates {
    /// Measures for products of `rows` rows. Takes about two seconds.
    pub(crate) fn measure(device: &Device, loopback: &Loopback, rows: usize) -> anyhow::Result<Rates> {
        let [(mut p0, _), (mut p1, _), (mut p2, _)] = loopback.open()?;
        let (bytes_per_s, exchange_s) = (stream(&mut p0, &mut p2)?, exchange(&mut p1, &mut p2)?);
        let own = device.memory().is_some();
        let cores = if own { 1 } else { thread::available_parallelism().map_or(1, usize::from) };
        // Kernels use all threads of the pool they are called in.
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        let products_per_s = one_thread.install(|| products(device, &seed, rows));
        Ok(Rates { products_per_s, rows, cores, bytes_per_s, exchange_s })
    }

    /// The least that this work can take.
    pub(crate) fn floor(&self, macs: u64, bytes: u64, exchanges: u64) -> Floor {
        let products_ms = macs as f64 / (self.products_per_s * self.cores as f64) * 1e3;
        let bytes_ms = bytes as f64 / self.bytes_per_s * 1e3;
        let exchanges_ms = exchanges as f64 * self.exchange_s * 1e3;
        Floor { products_ms, bytes_ms, exchanges_ms, total_ms: products_ms + bytes_ms + exchanges_ms }
    }
}

/// Products a second of one thread: the best of several.
fn products(device: &Device, seed: &[u8; 32], rows: usize) -> f64 {
    let (inputs, outputs) = (1024, 4096);
    let words = |n, stream| Words::chacha12(device, seed, stream, n, 64);
    let (weights, x) = (Matrix::new(&words(inputs * outputs, 1), outputs, inputs), words(rows * inputs, 2));
    let (begun, mut best) = (Instant::now(), f64::MAX);
    while begun.elapsed() < Duration::from_millis(500) || best == f64::MAX {
        let start = Instant::now();
        // A device of its own has computed it once a word of it is back.
        black_box(weights.apply(black_box(&x)).slice(0..1).to_vec());
        best = best.min(start.elapsed().as_secs_f64());
    }
    (rows * inputs * outputs) as f64 / best
}

/// Bytes a second from one party to another: the best of several batches.
fn stream(from: &mut SessionLinks, to: &mut SessionLinks) -> Result<f64, NetError> {
    const MESSAGE: usize = 1 << 20;
    const COUNT: usize = 48;
    const BATCHES: usize = 4;
    let (source, target) = (from.role(), to.role());
    thread::scope(|scope| {
        let sending =
            scope.spawn(move || (0..COUNT * BATCHES).try_for_each(|_| from.send(target, vec![1; MESSAGE])));
        let mut best = f64::MAX;
        for _ in 0..BATCHES {
            let start = Instant::now();
            for _ in 0..COUNT {
                black_box(to.recv(source)?);
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        sending.join().expect("it only sends")?;
        Ok((COUNT * MESSAGE) as f64 / best)
    })
}

/// Seconds of a small exchange: the best of several batches.
fn exchange(p1: &mut SessionLinks, p2: &mut SessionLinks) -> Result<f64, NetError> {
    const COUNT: usize = 200;
    const BATCHES: usize = 8;
    let side = |links: &mut SessionLinks, peer: Role| -> Result<f64, NetError> {
        let mut best = f64::MAX;
        for _ in 0..BATCHES {
            let start = Instant::now();
            for _ in 0..COUNT {
                links.send(peer, vec![0; 8])?;
                links.recv(peer)?;
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best / COUNT as f64)
    };
    thread::scope(|scope| {
        let other = scope.spawn(move || side(p2, Role::P1));
        let seconds = side(p1, Role::P2)?;
        other.join().expect("it only exchanges").map(|_| seconds)
    })
}
