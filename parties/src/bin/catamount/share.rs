//! `catamount share-model`.

use crate::output::{JsonArgument, advance, byte_bar, step_bar};
use crate::{block_on, output};
use anyhow::Context;
use indicatif::ProgressBar;
use models::fetch::{FetchEvent, default_model};
use parties::client::Client;
use parties::cluster::ClusterConfig;
use parties::owner::OwnedModel;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct ShareModel {
    /// A GGUF file of the LLaMA family (F64, F32, F16, BF16, Q8_0, Q4_0, Q4_1), or `default` for SmolLM2-135M-Instruct.
    model: String,
    /// The cluster file (client.toml of `cluster init`).
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Name at the parties; by default that of the file.
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
        let path = if self.model == "default" { fetch()? } else { self.model.clone().into() };
        let name = match &self.name {
            Some(n) => n.clone(),
            None if self.model == "default" => "smollm2".into(),
            None => path
                .file_stem()
                .and_then(|n| n.to_str())
                .context("the file's name is not text; give --name")?
                .into(),
        };
        let owned = load(&path)?;
        block_on(async {
            let client = Client::connect(&cluster).await?;
            if self.replace {
                client.delete_model(&name).await?;
            }
            let start = Instant::now();
            let digest = share(&owned, &client, &name).await?;
            let took = output::seconds(start.elapsed());
            self.json.say(&format!("shared {name} in {took} s; digest {digest}\n"));
            self.json
                .write(&serde_json::json!({ "name": name, "digest": digest.to_string(), "seconds": took }))?;
            client.close().await;
            Ok(())
        })
    }
}

/// The default model's file, downloaded if need be.
pub(crate) fn fetch() -> anyhow::Result<PathBuf> {
    let mut bar: Option<ProgressBar> = None;
    let path = default_model(&mut |event| match event {
        FetchEvent::Downloading { received, total, .. } => {
            let bar = bar.get_or_insert_with(|| byte_bar("fetching model"));
            advance(bar, received, total);
        }
        FetchEvent::Damaged(why) => eprintln!("the model in the cache is damaged ({why}); fetching it again"),
        FetchEvent::Ready(path) => eprintln!("model: {}", path.display()),
        _ => {}
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    Ok(path)
}

/// Loads a model and finds its ranges.
pub(crate) fn load(path: &Path) -> anyhow::Result<Arc<OwnedModel>> {
    let bar = step_bar("finding ranges");
    let owned = OwnedModel::load(path, |done, total| advance(&bar, done as u64, total as u64))
        .with_context(|| format!("cannot use {}", path.display()))?;
    bar.finish();
    Ok(Arc::new(owned))
}

/// Sends the shares.
pub(crate) async fn share(
    owned: &Arc<OwnedModel>,
    client: &Client,
    name: &str,
) -> anyhow::Result<parties::ids::Digest> {
    let bar = byte_bar("sharing weights");
    let digest = owned.share(client, name, |done, total| advance(&bar, done, total)).await?;
    bar.finish();
    Ok(digest)
}
