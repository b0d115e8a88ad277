//! `catamount share-model`.

use crate::output::JsonArgument;
use crate::{block_on, host, model, output};
use parties::client::Client;
use parties::cluster::ClusterConfig;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct ShareModel {
    #[arg(help = model::HELP)]
    model: String,
    /// The cluster file (client.toml of `cluster init`).
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Name at the parties; by default that of the file, folder or model.
    #[arg(long)]
    name: Option<String>,
    /// Replace a model of this name.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    json: JsonArgument,
}

impl ShareModel {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let cluster = ClusterConfig::load(&self.cluster)?;
        let name = self.name.clone().map_or_else(|| model::name(&self.model), Ok)?;
        let owned = model::load(&self.model)?;
        block_on(async {
            let client = Client::connect(&cluster).await?;
            if self.replace {
                client.delete_model(&name).await?;
            }
            let start = Instant::now();
            let digest = host::share(&owned, &client, &name).await?;
            let took = output::seconds(start.elapsed());
            self.json.say(&format!("shared {name} in {took} s; digest {digest}\n"));
            self.json
                .write(&serde_json::json!({ "name": name, "digest": digest.to_string(), "seconds": took }))?;
            client.close().await;
            Ok(())
        })
    }
}
