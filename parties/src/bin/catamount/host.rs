//! Where a command computes: a cluster that runs already, or three processes of its own on this machine.

use crate::model;
use crate::output::{advance, byte_bar};
use crate::processes::{LocalCluster, Setup};
use parties::client::Client;
use parties::cluster::ClusterConfig;
use parties::config::Dealing;
use parties::device::DeviceChoice;
use parties::ids::Digest;
use parties::owner::OwnedModel;
use parties::private::PrivateModel;
use parties::relay::NetworkModel;
use parties::server::stop_signal;
use protocol::Party;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Which parties compute, and with which model.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct HostArguments {
    /// The cluster file (client.toml of `cluster init`) of running parties. Without one, three parties are started on
    /// this machine for this command and ended with it.
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster: Option<PathBuf>,
    /// With --cluster the model's name at the parties; else a model to share: a GGUF file, a folder of Hugging Face,
    /// org/name on the hub, smollm2, minilm or router.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
}

/// Where one session after the other is measured and shown, P0 deals in all of them: figures by party are by role then.
pub(crate) const ONE_DEALER: Dealing = Dealing::Only(Party::Zero);

/// Parties that have a model.
pub(crate) struct Host {
    /// Processes of this command's own.
    pub(crate) local: Option<LocalCluster>,
    /// The connection to them.
    pub(crate) client: Client,
    /// The model's name there.
    pub(crate) name: String,
}

impl HostArguments {
    /// Loads the model if this command is to share it; what it is called otherwise. Takes long, so it comes before
    /// anything asynchronous.
    pub(crate) fn prepare(&self, default: &str) -> anyhow::Result<Option<Arc<OwnedModel>>> {
        match &self.cluster {
            Some(_) => Ok(None),
            None => model::load(self.model.as_deref().unwrap_or(default)).map(Some),
        }
    }

    /// Connects.
    pub(crate) async fn open(&self, default: &str, owned: Option<Arc<OwnedModel>>) -> anyhow::Result<Host> {
        let asked = self.model.as_deref().unwrap_or(default);
        let Some(owned) = owned else {
            let file = self.cluster.as_ref().expect("without a cluster the model was prepared");
            let client = Client::connect(&ClusterConfig::load(file)?).await?;
            return Ok(Host { local: None, client, name: asked.into() });
        };
        Host::local(&owned, [DeviceChoice::Cpu; 3], None, ONE_DEALER).await
    }
}

/// Runs what uses a host; Ctrl-C ends it in order, so that parties of its own and their keys do not stay behind.
pub(crate) async fn interruptible<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let stop = stop_signal()?;
    tokio::select! {
        done = work => done,
        () = stop => anyhow::bail!("interrupted; parties that this command had started have been ended"),
    }
}

/// Runs what blocks on a thread of its own, which is left to itself if nobody waits any more.
pub(crate) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || done.send(work()));
    result.await.map_err(|_| anyhow::anyhow!("a thread of this command has failed"))?
}

impl Host {
    /// Starts three parties on this machine, each set up so, with a network between them if there is to be one, and
    /// shares the model. `dealing` says who deals.
    pub(crate) async fn local(
        owned: &Arc<OwnedModel>,
        setup: impl Into<Setup>,
        network: Option<NetworkModel>,
        dealing: Dealing,
    ) -> anyhow::Result<Host> {
        let host = Host::start(setup, network, dealing).await?;
        share(owned, &host.client, &host.name).await?;
        Ok(host)
    }

    /// The same without a model; one is to be shared under the host's name.
    pub(crate) async fn start(
        setup: impl Into<Setup>,
        network: Option<NetworkModel>,
        dealing: Dealing,
    ) -> anyhow::Result<Host> {
        let mut local = LocalCluster::start(setup, network, dealing)?;
        let client = local.connect(&ClusterConfig::load(&local.client_file())?).await?;
        Ok(Host { local: Some(local), client, name: "demo".into() })
    }

    /// The model.
    pub(crate) async fn model(&self) -> anyhow::Result<PrivateModel<'_>> {
        Ok(PrivateModel::open(&self.client, &self.name).await?)
    }

    /// Ends the connection, and the parties if they belong to this command.
    pub(crate) async fn close(self) {
        self.client.close().await;
    }
}

/// Sends the shares.
pub(crate) async fn share(owned: &Arc<OwnedModel>, client: &Client, name: &str) -> anyhow::Result<Digest> {
    let bar = byte_bar("sharing weights");
    let digest = owned.share(client, name, |done, total| advance(&bar, done, total)).await?;
    bar.finish();
    Ok(digest)
}
