//! `catamount bench`: what passes through a model take on this machine.

pub(crate) mod peer;

use crate::host::{Host, interruptible};
use crate::network::{NetworkArgument, NetworkFigures};
use crate::output::{JsonArgument, links, megabytes};
use crate::{block_on, model};
use models::calibrate::spread_tokens;
use models::dry::Dry;
use models::float::{Float, complete};
use models::model::{Cache, OutputRows};
use parties::private::Pass;
use protocol::Ledger;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// Arguments of `bench model`.
#[derive(clap::Args)]
pub(crate) struct BenchModel {
    #[arg(help = model::HELP)]
    model: String,
    /// Tokens of the text or prompt.
    #[arg(long, value_name = "N", default_value_t = 32)]
    tokens: usize,
    /// Tokens after the first, for models that generate.
    #[arg(long, value_name = "N", default_value_t = 0)]
    decode: usize,
    /// How often.
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    network: NetworkArgument,
    #[command(flatten)]
    json: JsonArgument,
}

#[derive(Serialize)]
struct Figures {
    model: String,
    family: &'static str,
    layers: usize,
    tokens: usize,
    /// From splitting the prompt to its outputs at the client.
    pass_s: Vec<f64>,
    pass_median_s: f64,
    /// Each further token.
    decode_s: Vec<f64>,
    exchanges: u64,
    bytes: BTreeMap<String, u64>,
    bytes_total: u64,
    declared: bool,
    upload_bytes: u64,
    max_error: f32,
    peak_rss_bytes: BTreeMap<String, Option<u64>>,
    network: Option<NetworkFigures>,
}

impl BenchModel {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.tokens > 0 && self.runs > 0, "0 tokens or runs measure nothing");
        let owned = model::load(&self.model)?;
        let config = owned.config().clone();
        let limit = owned.public.plan.longest;
        anyhow::ensure!(
            self.tokens.saturating_add(self.decode) <= limit,
            "{} tokens, the model takes {limit}; ask for fewer",
            self.tokens + self.decode
        );
        anyhow::ensure!(
            self.decode == 0 || config.is_decoder(),
            "a {} model generates no tokens",
            config.family.name()
        );
        let all = spread_tokens(&config);
        let tokens: Vec<u32> = all.iter().copied().cycle().take(self.tokens).collect();
        let float = owned.float()?;
        let mut cache = Cache::new(&config);
        let (plain, count) = (Float::default(), tokens.len());
        let expected = complete(float.forward(&plain, &tokens, count, &mut cache, OutputRows::Last))?.data;
        drop(float);
        let network = self.network.measure(&self.json)?;
        let figures = block_on(interruptible(async {
            let host = Host::local(&owned, self.network.model()).await?;
            let model = host.model().await?;
            let (mut pass_s, mut decode_s, mut spent, mut max_error) =
                (vec![], vec![], Ledger::default(), 0f32);
            for _ in 0..self.runs {
                let mut run = model.run(OutputRows::Last, self.tokens + self.decode).await?;
                let start = Instant::now();
                let (outputs, cost) = run.pass(Pass { tokens: &tokens, segment: None }).await?;
                pass_s.push(start.elapsed().as_secs_f64());
                spent = cost;
                let errors = outputs.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                max_error = errors.fold(max_error, f32::max);
                for _ in 0..self.decode {
                    let start = Instant::now();
                    run.pass(Pass { tokens: &all[..1], segment: None }).await?;
                    decode_s.push(start.elapsed().as_secs_f64());
                }
                run.close().await?;
            }
            let dry = Dry::model(&config, &owned.tables);
            let work = Dry::pass(&dry, self.tokens, &mut Cache::new(&config), OutputRows::Last);
            let memory = host.local.as_ref().map(|l| l.peak_memory()).unwrap_or_default();
            let bytes = links(&spent);
            let figures = Figures {
                model: self.model.clone(),
                family: config.family.name(),
                layers: config.layers,
                tokens: self.tokens,
                pass_median_s: median(&pass_s),
                pass_s,
                decode_s,
                exchanges: spent.exchanges,
                bytes_total: bytes.values().sum(),
                bytes,
                declared: (spent.exchanges, spent.sent) == (work.ledger.exchanges, work.ledger.sent),
                upload_bytes: 3 * protocol::gates::embedding::token_bytes(config.vocab) as u64,
                max_error,
                peak_rss_bytes: (0..3).map(|i| (format!("P{i}"), memory[i])).collect(),
                network: network
                    .zip(host.local.as_ref().and_then(|l| l.relayed()))
                    .map(|(n, seen)| NetworkFigures::of(n, seen, &self.json)),
            };
            host.close().await;
            Ok(figures)
        }))?;
        self.json.say(&format!(
            "{} tokens through {}: {:.3} s (median of {}), {} exchanges, {} between the parties, largest error {:.5}\n",
            figures.tokens,
            figures.model,
            figures.pass_median_s,
            self.runs,
            figures.exchanges,
            megabytes(figures.bytes_total),
            figures.max_error
        ));
        if !figures.decode_s.is_empty() {
            self.json.say(&format!("each further token: {:.3} s (median)\n", median(&figures.decode_s)));
        }
        self.json.say(&format!(
            "{} bytes of keys a token from the client; the cost is {}the declared one\n",
            figures.upload_bytes,
            if figures.declared { "" } else { "NOT " }
        ));
        self.json.write(&figures)
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
