//! Three party processes for a demo: started, watched, and ended whatever happens.

use anyhow::{Context, bail};
use parties::client::Client;
use parties::cluster::ClusterConfig;
use parties::config::{Dealing, PartyConfig};
use parties::device::DeviceChoice;
use parties::init::init_cluster;
use parties::ports;
use parties::relay::{Between, NetworkModel, Statistics};
use parties::weights::WeightsChoice;
use protocol::Party;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A folder of this process's own, for keys and configuration; goes when this is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Names it; whoever writes into it makes it.
    pub(crate) fn new(purpose: &str) -> Folder {
        Folder(std::env::temp_dir().join(format!("catamount-{purpose}-{}", std::process::id())))
    }

    /// A folder with the keys and configuration of three parties on free ports of this machine.
    pub(crate) fn of_parties(purpose: &str) -> anyhow::Result<(Folder, [PartyConfig; 3])> {
        let folder = Folder::new(purpose);
        let [zero, one, two, _] = init_cluster(folder.path(), &free_hosts()?)?;
        let configs = [PartyConfig::load(&zero)?, PartyConfig::load(&one)?, PartyConfig::load(&two)?];
        Ok((folder, configs))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// Where three parties of this machine may listen.
fn free_hosts() -> anyhow::Result<Vec<String>> {
    ports::free_hosts().context("no free port on 127.0.0.1")
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What each party computes on, and how it keeps its weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// By party.
    pub(crate) devices: [DeviceChoice; 3],
    /// By party.
    pub(crate) weights: [WeightsChoice; 3],
}

impl From<[DeviceChoice; 3]> for Setup {
    fn from(devices: [DeviceChoice; 3]) -> Setup {
        Setup { devices, weights: Default::default() }
    }
}

/// Running parties, the network between them and the folder of their configuration; all go when this is dropped.
pub(crate) struct LocalCluster {
    children: Vec<Child>,
    directory: Folder,
    relay: Option<Between>,
}

impl LocalCluster {
    /// Makes keys and starts three processes on free ports of the loopback interface, each set up so, with a network
    /// between them if there is to be one. `dealing` says who deals.
    pub(crate) fn start(
        setup: impl Into<Setup>,
        network: Option<NetworkModel>,
        dealing: Dealing,
    ) -> anyhow::Result<LocalCluster> {
        let Setup { devices, weights } = setup.into();
        let mut cluster = LocalCluster { directory: Folder::new("demo"), children: vec![], relay: None };
        let hosts = free_hosts()?;
        let files = init_cluster(cluster.directory.path(), &hosts)?;
        if let Some(model) = network {
            cluster.relay = Some(put_between(model, &hosts, &files)?);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let dealer = dealing.only().map_or("\"rotate\"".into(), |party| party.index().to_string());
        let settings = format!(
            "report_times = true\nmodel_directory = \"\"\nthreads = {}\ndealer = {dealer}",
            (cores / 2).max(1)
        );
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        for (party, config) in Party::ALL.into_iter().zip(&files) {
            // Shares of a demo stay in memory. The two evaluators work at the same time, the dealer beside them.
            let text = fs::read_to_string(config)?;
            let stored = format!("model_directory = \"models{}\"", party.index());
            fs::write(config, text.replace(&stored, &settings))?;
            let log = File::create(cluster.log(party))?;
            let mut command = Command::new(&program);
            command.args(["party", "--until-input-ends", "--config"]).arg(config);
            command.args(["--device", &devices[party.index()].to_string()]);
            command.args(["--weights", &weights[party.index()].to_string()]);
            // A party ends when this process is gone, however it went; Ctrl-C reaches this process only.
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
            #[cfg(unix)]
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            cluster.children.push(command.spawn().with_context(|| format!("cannot start {party}"))?);
        }
        Ok(cluster)
    }

    fn log(&self, party: Party) -> PathBuf {
        self.directory.path().join(format!("party{}.log", party.index()))
    }

    /// The client's cluster file.
    pub(crate) fn client_file(&self) -> PathBuf {
        self.directory.path().join("client.toml")
    }

    /// Connects, waiting until the parties listen. A party that has ended is an error with its last words.
    pub(crate) async fn connect(&mut self, cluster: &ClusterConfig) -> anyhow::Result<Client> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match Client::connect(cluster).await {
                Ok(client) => return Ok(client),
                Err(e) if Instant::now() > end => return Err(e.into()),
                Err(_) => {}
            }
            self.check()?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Fails if a party has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for (party, child) in Party::ALL.into_iter().zip(&mut self.children) {
            if let Some(status) = child.try_wait()? {
                let log =
                    fs::read_to_string(self.directory.path().join(format!("party{}.log", party.index())));
                let log = log.unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                bail!("{party} has ended ({status}): {}", last.join("\n"));
            }
        }
        Ok(())
    }

    /// Process numbers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// What has passed between the parties, if a relay is between them.
    pub(crate) fn relayed(&self) -> Option<Statistics> {
        self.relay.as_ref().map(Between::statistics)
    }

    /// What each party has used so far.
    pub(crate) fn usage(&self) -> anyhow::Result<[Usage; 3]> {
        let all = self.children.iter().map(|c| usage(c.id())).collect::<Option<Vec<_>>>();
        let all = all.context("this system does not say what processes use (/proc)")?;
        all.try_into().map_err(|_| anyhow::anyhow!("not three parties"))
    }

    /// Peak resident memory of each party, where the system tells.
    pub(crate) fn peak_memory(&self) -> [Option<u64>; 3] {
        std::array::from_fn(|i| self.children.get(i).and_then(|c| peak_memory(c.id())))
    }
}

/// What a process has used.
pub(crate) struct Usage {
    /// Processor time, of the process and in the system on its behalf.
    pub(crate) cpu_s: f64,
    /// Memory now.
    pub(crate) resident_bytes: u64,
}

/// Linux counts processor time in hundredths of a second there, whatever the kernel's own clock.
const TICKS: f64 = 100.0;

fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // After the name, which may hold anything: fields 3 (state) and on.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Usage { cpu_s: (ticks(14)? + ticks(15)?) as f64 / TICKS, resident_bytes: memory(pid, "VmRSS:")? })
}

/// VmHWM of a process, in bytes.
fn peak_memory(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find(|l| l.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// Puts a network between the parties and has the one that dials dial the relay.
fn put_between(model: NetworkModel, hosts: &[String], files: &[PathBuf; 4]) -> anyhow::Result<Between> {
    let listen = [hosts[0].parse()?, hosts[1].parse()?, hosts[2].parse()?];
    let between = Between::start(model, &listen)?;
    for (own, file) in Party::ALL.into_iter().zip(files) {
        let mut text = fs::read_to_string(file)?;
        for peer in Party::ALL {
            let Some(address) = between.dialled(own, peer) else { continue };
            let entry = |address: &str| format!("address = \"{address}\"");
            text = text.replace(&entry(&hosts[peer.index()]), &entry(&address.to_string()));
        }
        fs::write(file, text)?;
    }
    Ok(between)
}
