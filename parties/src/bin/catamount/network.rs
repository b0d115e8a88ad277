//! `--network`: a simulated network between the parties of this machine, and `bench network`.

use crate::block_on;
use crate::host::{interruptible, on_a_thread};
use crate::output::JsonArgument;
use crate::processes::Folder;
use parties::netbench::{self, Row};
use parties::relay::{Measured, NetworkModel, Statistics, measure};
use serde::Serialize;

/// A network to measure on.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct NetworkArgument {
    /// Delay and slow down what the three parties send each other, by a relay on this machine that needs no rights:
    /// `lan` (10 Gb/s, 0.1 ms one way), `wan` (100 Mb/s, 40 ms) or `BANDWIDTH,LATENCY[,LOSS[,JITTER]]`, for example
    /// `1Gbps,5ms,0.1%,1ms`. What the relay gives is measured and printed first. The client is beside the parties.
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkModel>,
}

impl NetworkArgument {
    /// Measures the network and says what it is; nothing without one.
    pub(crate) fn measure(&self, out: &JsonArgument) -> anyhow::Result<Option<Measured>> {
        let Some(model) = self.network else { return Ok(None) };
        let measured = measure(model)?;
        out.say(&format!("network between the parties: {measured}\n"));
        Ok(Some(measured))
    }

    /// The setting.
    pub(crate) fn model(&self) -> Option<NetworkModel> {
        self.network
    }
}

/// A network of a benchmark, in its figures.
#[derive(Serialize)]
pub(crate) struct NetworkFigures {
    measured: Measured,
    datagrams: u64,
    dropped: u64,
    lost: u64,
    refused: u64,
    late_p95_us: u128,
    relay_cpu_s: f64,
}

impl NetworkFigures {
    /// What passed in a benchmark; says how late the relay was.
    pub(crate) fn of(measured: Measured, seen: Statistics, out: &JsonArgument) -> NetworkFigures {
        out.say(&format!(
            "relay: {} datagrams, {} found a full queue, {} lost, {} refused by the system, 95 % at most {} µs late, {:.2} s of processor time\n",
            seen.datagrams,
            seen.dropped,
            seen.lost,
            seen.refused,
            seen.late_p95.as_micros(),
            seen.cpu.as_secs_f64()
        ));
        NetworkFigures {
            measured,
            datagrams: seen.datagrams,
            dropped: seen.dropped,
            lost: seen.lost,
            refused: seen.refused,
            late_p95_us: seen.late_p95.as_micros(),
            relay_cpu_s: seen.cpu.as_secs_f64(),
        }
    }
}

/// Arguments of `bench network`.
#[derive(clap::Args)]
pub(crate) struct BenchNetwork {
    #[command(flatten)]
    network: NetworkArgument,
    /// Seconds for each figure.
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    #[command(flatten)]
    json: JsonArgument,
}

#[derive(Serialize)]
struct Figures {
    network: Option<Measured>,
    transports: Vec<Row>,
}

impl BenchNetwork {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.seconds.is_finite() && (0.05..=600.0).contains(&self.seconds),
            "--seconds {} measures nothing; give 0.05 to 600",
            self.seconds
        );
        let network = self.network.measure(&self.json)?;
        let (folder, configs) = Folder::of_parties("bench-network")?;
        // Interrupted, the measuring thread ends with the process; the folder is gone before.
        let transports = block_on(interruptible(on_a_thread(move || {
            Ok(netbench::run(configs, network.as_ref(), self.seconds)?)
        })))?;
        drop(folder);
        self.json.say(&format!("{:<31} {:>9} {:>12}", "", "MB/s", "CPU-s a GB"));
        for exchange in transports.iter().map(|t| &t.exchanges).max_by_key(|e| e.len()).into_iter().flatten()
        {
            self.json.say(&format!(" {:>34}", format!("exchange of {} B, µs", exchange.bytes)));
        }
        self.json.say("\n");
        for row in &transports {
            let cpu = row.cpu_s_per_gb.map_or("–".into(), |c| format!("{c:.2}"));
            self.json.say(&format!("{:<31} {:>9.1} {:>12}", row.transport, row.megabytes_per_second, cpu));
            for e in &row.exchanges {
                self.json.say(&format!(
                    " {:>34}",
                    format!("{:.0} (of single: {:.0}, 95 %: {:.0})", e.mean_us, e.median_us, e.p95_us)
                ));
            }
            self.json.say("\n");
        }
        if let Some(network) = &network {
            // An exchange takes one way; a ping takes two.
            let delay = network.ping_median_s * 1e6 / 2.0;
            for row in &transports {
                let Some(small) = row.exchanges.first() else { continue };
                let above = small.mean_us - delay;
                self.json.say(&format!(
                    "{}: an exchange of {} B takes {above:.0} µs more than the relay's own {delay:.0} µs\n",
                    row.transport, small.bytes
                ));
            }
            self.json.say("TCP does not pass the relay, which carries datagrams\n");
        }
        self.json.write(&Figures { network, transports })
    }
}
