//! What this machine does at best, measured just before: products, reading, random words, bytes between parties,
//! exchanges. And the least that work can take at these rates.

use super::report::Expected;
use crate::host::on_a_thread;
use crate::processes::Folder;
use kernels::{Device, rates};
use models::dry::Local;
use parties::netbench;
use parties::relay::NetworkModel;
use rayon::ThreadPoolBuilder;
use serde::Serialize;

/// Inputs and outputs of the weights that products are measured with (32 MB).
const WEIGHTS: [usize; 2] = [1024, 4096];
/// Random words at a time: 256 KiB, as for a gate.
const RANDOM: usize = 1 << 15;
/// Seconds for each figure of the transport.
const SECONDS: f64 = 0.4;

/// Rates, from which floors are computed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rates {
    /// Products in the ring a second, on one thread.
    pub(crate) products_per_s: f64,
    /// The same on all cores.
    pub(crate) all_products_per_s: f64,
    /// Products modulo 2^52 a second, on all cores.
    pub(crate) all_low_products_per_s: f64,
    /// Rows that were multiplied with weights at once.
    pub(crate) rows: usize,
    /// Cores of this machine.
    pub(crate) cores: usize,
    /// Bytes of memory a second, on all cores.
    pub(crate) reading_per_s: f64,
    /// Bytes of ChaCha12 a second, on one core; on all of the device where it is no processor.
    pub(crate) random_per_s: f64,
    /// So many make them at the same time; 1 where that is a device of its own.
    pub(crate) random_cores: usize,
    /// Bytes a second of one link, QUIC.
    pub(crate) bytes_per_s: f64,
    /// Processor time of both ends of a link for 10^9 bytes.
    pub(crate) cpu_s_per_gb: f64,
    /// Seconds of an exchange of 64 bytes between P1 and P2.
    pub(crate) exchange_s: f64,
    /// The network of these three; none is loopback.
    pub(crate) network: Option<String>,
}

/// The least that something can take at these rates, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Floor {
    /// Products of all three parties, on all cores.
    pub(crate) products_ms: f64,
    /// Weights, keys and values read by all three parties, at the bandwidth that all cores share.
    pub(crate) reading_ms: f64,
    /// Random words, at least: a byte at each of two parties for each byte sent.
    pub(crate) random_ms: f64,
    /// Processor time of sending and receiving all bytes, on all cores.
    pub(crate) bytes_ms: f64,
    /// The fullest link, one direction.
    pub(crate) link_ms: f64,
    /// Exchanges, one after the other.
    pub(crate) exchanges_ms: f64,
    /// The longest of: all parties' work on all cores; the evaluators' work and the exchanges they wait for; the fullest
    /// link.
    pub(crate) total_ms: f64,
}

impl Floor {
    /// Products, or reading what is multiplied: these two overlap.
    pub(crate) fn products(&self) -> f64 {
        self.products_ms.max(self.reading_ms)
    }
}

impl Rates {
    /// Measures for products of `rows` rows. Takes about four seconds. Keys of the parties go even if nobody waits for the
    /// end.
    pub(crate) async fn measure(
        device: &Device,
        rows: usize,
        network: Option<NetworkModel>,
    ) -> anyhow::Result<Rates> {
        let (keys, configs) = Folder::of_parties("bench-rates")?;
        let quic = on_a_thread(move || Ok(netbench::quic(&configs, network, SECONDS)?)).await?;
        drop(keys);
        let (small, cpu) = (quic.exchanges.first(), quic.cpu_s_per_gb);
        let (Some(small), Some(cpu_s_per_gb)) = (small, cpu) else {
            anyhow::bail!("the transport was not measured");
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let own = device.memory().is_some();
        let rates = Rates {
            products_per_s: 0.0,
            all_products_per_s: 0.0,
            all_low_products_per_s: 0.0,
            rows,
            cores,
            random_cores: if own { 1 } else { cores },
            reading_per_s: on(cores, || rates::reading(device))?,
            random_per_s: on(1, || rates::random(device, RANDOM))?,
            bytes_per_s: quic.megabytes_per_second * 1e6,
            cpu_s_per_gb,
            exchange_s: small.best_us / 1e6,
            network: network.map(|n| n.to_string()),
        };
        rates.with_rows(device, rows)
    }

    /// The same, with products of `rows` rows.
    pub(crate) fn with_rows(&self, device: &Device, rows: usize) -> anyhow::Result<Rates> {
        let [inputs, outputs] = WEIGHTS;
        let products =
            |threads, bits| on(threads, move || rates::products(device, [rows, inputs, outputs], bits));
        Ok(Rates {
            products_per_s: products(1, 64)?,
            all_products_per_s: products(self.cores, 64)?,
            all_low_products_per_s: products(self.cores, 52)?,
            rows,
            ..self.clone()
        })
    }

    /// The least that this work can take.
    pub(crate) fn floor(&self, work: &Expected) -> Floor {
        let total = |sent: &[[u64; 3]]| sent.iter().flatten().sum::<u64>() as f64;
        let (sent, cores) = (&work.cost.sent, self.cores as f64);
        let cpu = |bytes: f64| bytes / 1e9 * self.cpu_s_per_gb / cores * 1e3;
        let products = |local: &[Local]| {
            let sum = |what: fn(&Local) -> u64| local.iter().map(what).sum::<u64>() as f64;
            let low = sum(|l| l.low) / self.all_low_products_per_s;
            (sum(|l| l.products() - l.low) / self.all_products_per_s + low) * 1e3
        };
        let reading =
            |local: &[Local]| local.iter().map(|l| l.read).sum::<u64>() as f64 / self.reading_per_s * 1e3;
        let fullest = sent.iter().flatten().copied().max().unwrap_or(0) as f64;
        let floor = Floor {
            products_ms: products(&work.local),
            reading_ms: reading(&work.local),
            random_ms: 2.0 * total(sent) / (self.random_per_s * self.random_cores as f64) * 1e3,
            bytes_ms: cpu(total(sent)),
            link_ms: fullest / self.bytes_per_s * 1e3,
            exchanges_ms: work.cost.exchanges as f64 * self.exchange_s * 1e3,
            total_ms: 0.0,
        };
        let all = floor.products() + floor.random_ms + floor.bytes_ms;
        // The dealer computes and sends while evaluators wait for each other. One of the two parties of each random byte
        // is the dealer, and so is the sender of what it deals.
        let [_dealer, evaluators @ ..] = &work.local;
        let evaluators = products(evaluators).max(reading(evaluators))
            + floor.random_ms / 2.0
            + cpu(total(&sent[1..]) + total(&sent[..1]) / 2.0);
        Floor { total_ms: all.max(evaluators + floor.exchanges_ms).max(floor.link_ms), ..floor }
    }
}

/// Measures in a pool of its own: kernels use all threads of the pool they are called in.
fn on(threads: usize, measure: impl FnOnce() -> f64 + Send) -> anyhow::Result<f64> {
    Ok(ThreadPoolBuilder::new().num_threads(threads).build()?.install(measure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Ledger;

    fn rates() -> Rates {
        Rates {
            products_per_s: 1e9,
            all_products_per_s: 2e9,
            all_low_products_per_s: 4e9,
            rows: 1,
            cores: 2,
            random_cores: 2,
            reading_per_s: 4e9,
            random_per_s: 1e9,
            bytes_per_s: 1e8,
            cpu_s_per_gb: 1.0,
            exchange_s: 1e-3,
            network: None,
        }
    }

    fn expected(local: Local, dealt: u64, exchanged: u64, exchanges: u64) -> Expected {
        let mut cost = Ledger { exchanges, ..Ledger::default() };
        cost.sent[0][2] = dealt;
        (cost.sent[1][2], cost.sent[2][1]) = (exchanged, exchanged);
        Expected { cost, local: local.of_factors() }
    }

    #[test]
    fn the_floor_is_the_longest_of_work_waiting_and_the_fullest_link() {
        // Three times 2 · 10^8 products: 300 ms. Reading overlaps, and takes less.
        let heavy = Local { weights: 150_000_000, attention: 50_000_000, read: 1000, ..Local::default() };
        let floor = rates().floor(&expected(heavy, 0, 0, 1));
        assert!((floor.total_ms - 300.0).abs() < 0.01, "{floor:?}");
        // Two of three parts are the evaluators': 200 ms, and they wait for 200 exchanges.
        let floor = rates().floor(&expected(heavy, 0, 0, 200));
        assert!((floor.total_ms - 400.0).abs() < 0.01, "{floor:?}");
        // Those that are low take half as long.
        let low = Local { low: 100_000_000, ..heavy };
        let floor = rates().floor(&expected(low, 0, 0, 1));
        assert!((floor.total_ms - 225.0).abs() < 0.01, "{floor:?}");
        // Weights that are read for little: 3 · 8 · 10^7 bytes.
        let read = Local { weights: 1, read: 80_000_000, ..Local::default() };
        assert!((rates().floor(&expected(read, 0, 0, 0)).total_ms - 60.0).abs() < 0.01);
        // 10^6 bytes: 10 ms on the link; 0.5 ms of sending and receiving, 1 ms of random words.
        let floor = rates().floor(&expected(Local::default(), 1_000_000, 0, 0));
        assert!((floor.bytes_ms - 0.5).abs() < 1e-9 && (floor.random_ms - 1.0).abs() < 1e-9, "{floor:?}");
        assert!((floor.total_ms - 10.0).abs() < 1e-9, "{floor:?}");
        // Half of that is the evaluators', beside 9 exchanges: 9.75 ms; with 10 it is longer than the link.
        let floor = rates().floor(&expected(Local::default(), 1_000_000, 0, 10));
        assert!((floor.total_ms - 10.75).abs() < 1e-9, "{floor:?}");
    }
}
