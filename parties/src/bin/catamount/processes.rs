//! Three party processes for a demo: started, watched, and ended whatever happens.

use anyhow::{Context, bail};
use parties::client::Client;
use parties::cluster::ClusterConfig;
use parties::device::DeviceChoice;
use parties::init::init_cluster;
use parties::relay::{NetworkModel, Relay, Route, Statistics};
use parties::transport::dials;
use protocol::Role;
use std::fs::{self, File};
use std::net::UdpSocket;
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

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Three free ports of the loopback interface.
    pub(crate) fn free_hosts() -> anyhow::Result<Vec<String>> {
        // Held together, so that the three differ.
        let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0"));
        let mut hosts = vec![];
        for s in &sockets {
            let s = s.as_ref().map_err(|e| anyhow::anyhow!("no free port on 127.0.0.1: {e}"))?;
            hosts.push(s.local_addr()?.to_string());
        }
        Ok(hosts)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Running parties, the network between them and the folder of their configuration; all go when this is dropped.
pub(crate) struct LocalCluster {
    children: Vec<Child>,
    directory: Folder,
    relay: Option<Relay>,
}

impl LocalCluster {
    /// Makes keys and starts three processes on free ports of the loopback interface, each on its device, with a network
    /// between them if there is to be one.
    pub(crate) fn start(
        devices: [DeviceChoice; 3],
        network: Option<NetworkModel>,
    ) -> anyhow::Result<LocalCluster> {
        let mut cluster = LocalCluster { directory: Folder::new("demo"), children: vec![], relay: None };
        let hosts = Folder::free_hosts()?;
        let files = init_cluster(cluster.directory.path(), &hosts)?;
        if let Some(model) = network {
            cluster.relay = Some(put_between(model, &hosts, &files)?);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let settings =
            format!("report_times = true\nmodel_directory = \"\"\nthreads = {}", (cores / 2).max(1));
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        for (role, config) in Role::ALL.into_iter().zip(&files) {
            // Shares of a demo stay in memory. The two evaluators work at the same time, the dealer beside them.
            let text = fs::read_to_string(config)?;
            let stored = format!("model_directory = \"models{}\"", role.index());
            fs::write(config, text.replace(&stored, &settings))?;
            let log = File::create(cluster.log(role))?;
            let mut command = Command::new(&program);
            command.args(["party", "--until-input-ends", "--config"]).arg(config);
            command.args(["--device", &devices[role.index()].to_string()]);
            // A party ends when this process is gone, however it went; Ctrl-C reaches this process only.
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
            #[cfg(unix)]
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            cluster.children.push(command.spawn().with_context(|| format!("cannot start {role}"))?);
        }
        Ok(cluster)
    }

    fn log(&self, role: Role) -> PathBuf {
        self.directory.path().join(format!("party{}.log", role.index()))
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
        for (role, child) in Role::ALL.into_iter().zip(&mut self.children) {
            if let Some(status) = child.try_wait()? {
                let log =
                    fs::read_to_string(self.directory.path().join(format!("party{}.log", role.index())));
                let log = log.unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                bail!("{role} has ended ({status}): {}", last.join("\n"));
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
        self.relay.as_ref().map(Relay::statistics)
    }

    /// Peak resident memory of each party, where the system tells.
    pub(crate) fn peak_memory(&self) -> [Option<u64>; 3] {
        std::array::from_fn(|i| self.children.get(i).and_then(|c| peak_memory(c.id())))
    }
}

/// VmHWM of a process, in bytes.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
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

/// Starts a relay on each link and has the party that dials dial the relay.
fn put_between(model: NetworkModel, hosts: &[String], files: &[PathBuf; 4]) -> anyhow::Result<Relay> {
    let (mut pairs, mut routes) = (vec![], vec![]);
    for own in Role::ALL {
        for peer in Role::ALL.into_iter().filter(|&peer| dials(own, peer)) {
            pairs.push((own, peer));
            routes.push(Route::to(hosts[peer.index()].parse()?));
        }
    }
    let relay = Relay::start(model, &routes)?;
    for ((own, peer), address) in pairs.into_iter().zip(relay.addresses()) {
        let file = &files[own.index()];
        let entry = |address: &str| format!("address = \"{address}\"");
        let text = fs::read_to_string(file)?;
        fs::write(file, text.replace(&entry(&hosts[peer.index()]), &entry(&address.to_string())))?;
    }
    Ok(relay)
}
