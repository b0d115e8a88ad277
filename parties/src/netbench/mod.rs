//! The transport at the machine's speed: QUIC as the parties use it, beside TLS over TCP, plain TCP and plain UDP.
//!
//! Both ends of a connection are threads of this process, so processor time is that of sender and receiver together.
//! Each transport carries messages of 1 MiB in one direction, and exchanges, in which both ends send a message and wait for
//! the other's. TLS uses the very configuration of QUIC: the same pinned certificates and cipher.

mod ends;
mod quic;

use crate::{
    config::{ConfigError, PartyConfig, TransportSettings},
    relay::{LOCAL, Measured, NetworkModel, Port, RelayError, flood},
    transport::TransportError,
};
use ends::{Datagrams, End, Plain, Secured};
use protocol::NetError;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::{
    io, thread,
    time::{Duration, Instant},
};

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum NetbenchError {
    /// Ours.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A session's links.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The network between.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// Their configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Sockets.
    #[error("a connection on this machine fails: {0}")]
    Io(#[from] io::Error),
    /// A thread of the benchmark.
    #[error("a thread of the benchmark has ended early")]
    Thread,
}

/// Exchanges of messages of one size.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Exchanges {
    /// Bytes that each end sends.
    pub bytes: usize,
    /// How many were made.
    pub count: usize,
    /// Microseconds of one in the fastest batch. Single exchanges can be shorter than any network allows, where the other
    /// end's message has come before.
    pub best_us: f64,
    /// Microseconds of one in the median batch. Two ends that send and wait in turn soon have two messages on their way that
    /// arrive together or apart: a single exchange takes between nothing and both ways, a batch of them what they cost.
    pub mean_us: f64,
    /// Microseconds.
    pub median_us: f64,
    /// All but a twentieth took no longer, microseconds.
    pub p95_us: f64,
}

/// What one transport does.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub transport: &'static str,
    /// Payload in one direction, 10^6 bytes a second.
    pub megabytes_per_second: f64,
    /// Processor seconds of both ends for 10^9 bytes; a relay's are not counted. `None`: not measured.
    pub cpu_s_per_gb: Option<f64>,
    /// Of small and of middle-sized messages; none where datagrams were lost.
    pub exchanges: Vec<Exchanges>,
}

/// Sizes of the messages of exchanges: an opening of one row of a small model, and of a larger one.
const SIZES: [usize; 2] = [64, 10_000];
/// Exchanges that make a batch.
const BATCH: usize = 100;
const MIB: usize = 1 << 20;
/// Sent before the clock starts, so that congestion windows are open: this part of the measuring time.
const WARM_UP: f64 = 0.3;

/// Measures all transports, each for about `seconds` a figure; with a network, those that can be led through its relay,
/// which has been measured already.
/// `configs` are the three parties' of a cluster on free ports of this machine.
///
/// # Errors
/// Sockets, keys or connections fail.
pub fn run(
    configs: [PartyConfig; 3],
    network: Option<&Measured>,
    seconds: f64,
) -> Result<Vec<Row>, NetbenchError> {
    let model = network.map(|measured| measured.asked);
    let mut rows = vec![quic(&configs, model, seconds)?];
    let configs = configs.map(|config| {
        let transport = TransportSettings { spin_microseconds: 0, ..config.transport };
        PartyConfig { transport, ..config }
    });
    rows.push(Row { transport: "QUIC (ours), asleep while it waits", ..quic(&configs, model, seconds)? });
    let none = || Duration::ZERO;
    if network.is_none() {
        let [_, one, two] = &configs;
        rows.push(measure("TLS over TCP (tokio-rustls)", &mut Secured::pair(one, two)?, seconds, none)?);
        rows.push(measure("TCP", &mut Plain::pair()?, seconds, none)?);
    }
    rows.push(udp(network, seconds)?);
    Ok(rows)
}

/// Measures the parties' own transport alone, with the settings of `configs`: about 2.3 · `seconds`.
///
/// # Errors
/// Sockets, keys or connections fail.
pub fn quic(
    configs: &[PartyConfig; 3],
    network: Option<NetworkModel>,
    seconds: f64,
) -> Result<Row, NetbenchError> {
    let mut quic = quic::Cluster::start(configs, network)?;
    let relayed = || quic.relay.as_ref().map(|r| r.statistics().cpu).unwrap_or_default();
    measure("QUIC (ours)", &mut quic.ends, seconds, relayed)
}

fn udp(network: Option<&Measured>, seconds: f64) -> Result<Row, NetbenchError> {
    let mut datagrams = Datagrams::pair(network.map(|measured| measured.asked))?;
    let exchanges =
        SIZES.iter().map_while(|&size| exchange(&mut datagrams.ends, size, seconds).ok()).collect();
    let far = Port::bind(LOCAL)?;
    let start = cpu();
    let (bits, cpu_s_per_gb) = match network {
        Some(measured) => (measured.bits_per_second, None),
        None => {
            let begin = Instant::now();
            let bits = flood(&far, far.address()?, f64::INFINITY, 8900, Duration::ZERO)?;
            // Sending and receiving end together but for a pause in which nobody computes.
            let gigabytes = bits / 8e9 * (begin.elapsed().as_secs_f64() - 0.1);
            (bits, Some((cpu() - start).as_secs_f64() / gigabytes))
        }
    };
    Ok(Row { transport: "UDP, unreliable", megabytes_per_second: bits / 8e6, cpu_s_per_gb, exchanges })
}

fn measure<E: End>(
    transport: &'static str,
    ends: &mut [E; 2],
    seconds: f64,
    relay: impl Fn() -> Duration,
) -> Result<Row, NetbenchError> {
    bulk(ends, WARM_UP * seconds)?;
    let before = cpu().saturating_sub(relay());
    let (bytes, took) = bulk(ends, seconds)?;
    let spent = cpu().saturating_sub(relay()).saturating_sub(before);
    let exchanges = SIZES.iter().map(|&size| exchange(ends, size, seconds)).collect::<Result<_, _>>()?;
    Ok(Row {
        transport,
        megabytes_per_second: bytes / 1e6 / took,
        cpu_s_per_gb: Some(spent.as_secs_f64() / (bytes / 1e9)),
        exchanges,
    })
}

/// Processor time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Messages from the first end to the second for so long; bytes, and seconds until the last has come. A message of one
/// byte ends them, and its answer tells that all have come.
fn bulk<E: End>(ends: &mut [E; 2], seconds: f64) -> Result<(f64, f64), NetbenchError> {
    let [near, far] = ends;
    let start = Instant::now();
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut bytes = 0;
            loop {
                match far.recv()?.len() {
                    1 => break,
                    size => bytes += size,
                }
            }
            far.send(vec![1])?;
            Ok::<_, NetbenchError>(bytes as f64)
        });
        while start.elapsed().as_secs_f64() < seconds {
            near.send(vec![7; MIB])?;
        }
        near.send(vec![1])?;
        near.recv()?;
        let took = start.elapsed().as_secs_f64();
        Ok((reader.join().map_err(|_| NetbenchError::Thread)??, took))
    })
}

/// Exchanges for so long. The first byte of the first end's message says whether another follows.
fn exchange<E: End>(ends: &mut [E; 2], size: usize, seconds: f64) -> Result<Exchanges, NetbenchError> {
    let [near, far] = ends;
    let start = Instant::now();
    let mut micros = thread::scope(|scope| {
        let other = scope.spawn(move || {
            loop {
                far.send(vec![0; size])?;
                if far.recv()?.first() != Some(&1) {
                    return Ok::<_, NetbenchError>(());
                }
            }
        });
        let mut micros = vec![];
        loop {
            let begin = Instant::now();
            let goes_on = start.elapsed().as_secs_f64() < seconds;
            let mut message = vec![0; size];
            message[0] = u8::from(goes_on);
            near.send(message)?;
            near.recv()?;
            micros.push(begin.elapsed().as_secs_f64() * 1e6);
            if !goes_on {
                break;
            }
        }
        other.join().map_err(|_| NetbenchError::Thread)??;
        Ok::<_, NetbenchError>(micros)
    })?;
    let mean = |batch: &[f64]| batch.iter().sum::<f64>() / batch.len() as f64;
    let mut batches: Vec<f64> = micros.chunks(BATCH).filter(|b| b.len() == BATCH).map(mean).collect();
    if batches.is_empty() {
        batches.push(mean(&micros));
    }
    batches.sort_unstable_by(f64::total_cmp);
    micros.sort_unstable_by(f64::total_cmp);
    let (count, last) = (micros.len(), micros.len() - 1);
    Ok(Exchanges {
        bytes: size,
        count,
        best_us: batches[0],
        mean_us: batches[batches.len() / 2],
        median_us: micros[last / 2],
        p95_us: micros[last * 19 / 20],
    })
}
