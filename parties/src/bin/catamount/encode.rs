//! `catamount embed` and `catamount classify`.

use crate::block_on;
use crate::host::{Host, HostArguments, interruptible};
use crate::output::{JsonArgument, advance, links, megabytes, step_bar};
use models::evaluation::metrics::cosine;
use protocol::Ledger;
use serde_json::json;
use std::time::Instant;

/// Arguments of `embed`.
#[derive(clap::Args)]
pub(crate) struct Embed {
    /// Sentences, one argument each.
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    json: JsonArgument,
}

impl Embed {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let owned = self.host.prepare("minilm")?;
        block_on(interruptible(async {
            let host = self.host.open("minilm", owned).await?;
            let result = self.on(&host).await;
            host.close().await;
            result
        }))
    }

    async fn on(&self, host: &Host) -> anyhow::Result<()> {
        let model = host.model().await?;
        let bar = step_bar("embedding");
        let start = Instant::now();
        advance(&bar, 0, self.texts.len() as u64);
        let total = self.texts.len() as u64;
        let all = model.embed(&self.texts, |done| advance(&bar, done as u64, total)).await?;
        bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        let mut cost = Ledger::default();
        all.iter().for_each(|e| cost.add(&e.cost));
        let table: Vec<Vec<f64>> = all
            .iter()
            .map(|a| all.iter().map(|b| cosine(&a.vector, &b.vector).unwrap_or(0.0)).collect())
            .collect();
        self.json.say("cosine of each sentence with each:\n");
        for (text, row) in self.texts.iter().zip(&table) {
            let row: Vec<String> = row.iter().map(|v| format!("{v:7.4}")).collect();
            self.json.say(&format!("{}   {text}\n", row.join(" ")));
        }
        self.json.say(&format!(
            "{} sentences in {seconds:.2} s, {} exchanges, {} between the parties\n",
            all.len(),
            cost.exchanges,
            megabytes(links(&cost).values().sum())
        ));
        self.json.write(&json!({
            "embeddings": all.iter().map(|e| &e.vector).collect::<Vec<_>>(),
            "cosines": table,
            "seconds": seconds,
            "exchanges": cost.exchanges,
            "bytes": links(&cost),
        }))
    }
}

/// Arguments of `classify`.
#[derive(clap::Args)]
pub(crate) struct Classify {
    /// The text.
    text: String,
    /// A second text, for models that classify pairs. Where the first ends is public then.
    #[arg(long, value_name = "TEXT")]
    pair: Option<String>,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    json: JsonArgument,
}

impl Classify {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let owned = self.host.prepare("router")?;
        block_on(interruptible(async {
            let host = self.host.open("router", owned).await?;
            let result = self.on(&host).await;
            host.close().await;
            result
        }))
    }

    async fn on(&self, host: &Host) -> anyhow::Result<()> {
        let model = host.model().await?;
        let start = Instant::now();
        let c = model.classify(&self.text, self.pair.as_deref()).await?;
        let seconds = start.elapsed().as_secs_f64();
        let labels = &model.public().labels;
        let probabilities = c.probabilities();
        self.json.say(&format!("{}\n", labels[c.best()]));
        for (label, p) in labels.iter().zip(&probabilities) {
            self.json.say(&format!("  {label}: {p:.4}\n"));
        }
        self.json.say(&format!(
            "{} tokens in {seconds:.2} s, {} exchanges, {} between the parties\n",
            c.tokens,
            c.cost.exchanges,
            megabytes(links(&c.cost).values().sum())
        ));
        self.json.write(&json!({
            "label": labels[c.best()],
            "labels": labels,
            "scores": c.scores,
            "probabilities": probabilities,
            "tokens": c.tokens,
            "seconds": seconds,
            "exchanges": c.cost.exchanges,
            "bytes": links(&c.cost),
        }))
    }
}
