//! `catamount bench`: what passes through a model take on this machine.

mod device;
mod gates;
mod html;
mod layer;
mod loopback;
mod memory;
pub(crate) mod peer;
mod rates;
mod report;
mod scopes;
mod subject;

use crate::block_on;
use crate::device::DeviceArgument;
use crate::host::{Host, interruptible};
use crate::network::{NetworkArgument, NetworkFigures};
use crate::output::{JsonArgument, links, megabytes};
use crate::trace::TraceArgument;
use loopback::Loopback;
use models::calibrate::spread_tokens;
use models::dry::Dry;
use models::memory::Demand;
use models::model::{Cache, Model, OutputRows};
use parties::private::{Pass, PassTimes};
use protocol::Ledger;
use rates::Rates;
use report::{HtmlArgument, Report, Section, command, machine};
use scopes::{Measured, fastest};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;
use subject::SubjectArguments;

pub(crate) use device::BenchDevice;
pub(crate) use gates::BenchGates;
pub(crate) use layer::BenchLayer;

/// Arguments of `bench model`.
#[derive(clap::Args)]
pub(crate) struct BenchModel {
    #[command(flatten)]
    subject: SubjectArguments,
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
    device: DeviceArgument,
    #[command(flatten)]
    html: HtmlArgument,
    #[command(flatten)]
    trace: TraceArgument,
    #[command(flatten)]
    network: NetworkArgument,
    #[command(flatten)]
    json: JsonArgument,
}

#[derive(Serialize)]
struct Figures {
    model: String,
    device: String,
    family: &'static str,
    layers: usize,
    tokens: usize,
    /// Splitting and sending the weights, or making them up.
    sharing_s: f64,
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
    /// What was planned.
    memory: memory::Needs,
    /// Where the time went, with `--html`.
    report: Option<Report>,
    network: Option<NetworkFigures>,
}

impl BenchModel {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.tokens > 0 && self.runs > 0, "0 tokens or runs measure nothing");
        let devices = self.device.open()?;
        let subject = self.subject.load()?;
        let config = subject.public().config.clone();
        let limit = subject.public().plan.longest;
        anyhow::ensure!(
            self.tokens.saturating_add(self.decode) <= limit,
            "{} tokens, the model takes {limit}; ask for fewer",
            self.tokens.saturating_add(self.decode)
        );
        anyhow::ensure!(
            self.decode == 0 || config.is_decoder(),
            "a {} model generates no tokens",
            config.family.name()
        );
        let demand = Demand { context: self.tokens + self.decode, pass: self.tokens };
        let memory =
            memory::plan(subject.public(), subject.tables(), &self.device, &devices, demand, &self.json)?;
        let all = spread_tokens(&config);
        let tokens: Vec<u32> = all.iter().copied().cycle().take(self.tokens).collect();
        let expected = subject.expected(&tokens)?;
        // Recording takes time of its own: only where it is wanted.
        let timed = self.html.wanted() || self.trace.wanted();
        let rates = self.html.wanted().then(|| Rates::measure(&devices[1], &Loopback::start()?, self.tokens));
        let rates = rates.transpose()?;
        let network = self.network.measure(&self.json)?;
        let figures = block_on(interruptible(async {
            let host = Host::start(self.device.choices(), self.network.model()).await?;
            let start = Instant::now();
            subject.share(&host).await?;
            let sharing_s = start.elapsed().as_secs_f64();
            let model = host.model().await?;
            let model = if timed { model.timed() } else { model };
            let mut times: Vec<Vec<PassTimes>> = vec![];
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
                times.push(run.take_times());
                run.close().await?;
            }
            let dry = Dry::model(&config, subject.tables());
            let work = Dry::pass(&dry, self.tokens, &mut Cache::new(&config), OutputRows::Last);
            self.trace.write(&times.concat())?;
            let sections = || self.sections(&dry, &times, rates.as_ref()?);
            let report = sections().zip(rates).map(|(sections, rates)| Report {
                title: format!("{} tokens through {}{}", self.tokens, self.subject.name(), self.device.on()),
                command: command(),
                machine: machine(),
                rates,
                sections,
            });
            let peak = host.local.as_ref().map(|l| l.peak_memory()).unwrap_or_default();
            let bytes = links(&spent);
            let figures = Figures {
                model: self.subject.name(),
                device: self.device.name(),
                family: config.family.name(),
                layers: config.layers,
                tokens: self.tokens,
                sharing_s,
                pass_median_s: median(&pass_s),
                pass_s,
                decode_s,
                exchanges: spent.exchanges,
                bytes_total: bytes.values().sum(),
                bytes,
                declared: (spent.exchanges, spent.sent) == (work.ledger.exchanges, work.ledger.sent),
                upload_bytes: 3 * protocol::gates::embedding::token_bytes(config.vocab) as u64,
                max_error,
                peak_rss_bytes: (0..3).map(|i| (format!("P{i}"), peak[i])).collect(),
                memory,
                report,
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
        if let Some(report) = &figures.report {
            self.html.write(report)?;
        }
        self.json.write(&figures)
    }

    /// The pass, and a further token, each in the fastest of its runs.
    fn sections(&self, dry: &Model<Dry>, times: &[Vec<PassTimes>], rates: &Rates) -> Option<Vec<Section>> {
        let mut cache = Cache::new(&dry.config);
        let charges = Dry::itemised(dry, self.tokens, &mut cache, OutputRows::Last);
        let first: Vec<PassTimes> = times.iter().filter_map(|run| run.first().cloned()).collect();
        let about = |what, runs| {
            format!("{what}; three party processes on this machine, the fastest of {runs} runs.")
        };
        let pass = Measured {
            title: format!("A pass of {} tokens", self.tokens),
            about: about("Sums over all layers", first.len()),
            times: fastest(&first)?,
            charges,
        };
        let mut sections = vec![pass.section(None, rates)];
        if self.decode > 0 {
            // Costs grow with the position: of all runs, the last token's.
            let last: Vec<PassTimes> = times.iter().filter_map(|run| run.last().cloned()).collect();
            for _ in 1..self.decode {
                Dry::pass(dry, 1, &mut cache, OutputRows::Last);
            }
            let charges = Dry::itemised(dry, 1, &mut cache, OutputRows::Last);
            let token = Measured {
                title: format!("One further token, after {}", self.tokens + self.decode - 1),
                about: about("Sums over all layers", last.len()),
                times: fastest(&last)?,
                charges,
            };
            sections.push(token.section(None, rates));
        }
        Some(sections)
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
