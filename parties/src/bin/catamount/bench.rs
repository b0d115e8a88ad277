//! `catamount bench`: what passes through a model take on this machine.

mod batch;
mod device;
pub(crate) mod floors;
mod gates;
mod html;
mod layer;
mod loopback;
mod memory;
mod passes;
pub(crate) mod peer;
mod rates;
mod report;
mod scopes;
mod sessions;
mod subject;

use crate::block_on;
use crate::device::{DeviceArgument, WeightsArgument};
use crate::host::{Host, ONE_DEALER, interruptible};
use crate::network::{NetworkArgument, NetworkFigures};
use crate::output::{self, JsonArgument, links, megabytes};
use crate::processes::Setup;
use crate::trace::TraceArgument;
use kernels::Device;
use models::calibrate::spread_tokens;
use models::dry::Dry;
use models::memory::Demand;
use models::model::{Cache, Model, OutputRows};
use models::shared::Dealing;
use parties::config::{self, Limits};
use parties::private::PassTimes;
use passes::Ahead;
use protocol::Party;
use rates::Rates;
use report::{HtmlArgument, Report, Section, command, machine};
use scopes::{Measured, fastest};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;
use subject::{Subject, SubjectArguments};

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
    /// Also B sequences of different lengths side by side in one session, beside one alone; several numbers, as in
    /// `2,4,8`, take turns.
    #[arg(long, value_name = "B", value_delimiter = ',')]
    batch: Vec<usize>,
    /// How often.
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// Beside each run with tokens after the first another one, for which the dealer deals nothing ahead.
    #[arg(long)]
    compare_ahead: bool,
    /// Record where the time goes, for the figures of --json; --html and --trace record it as well.
    #[arg(long)]
    profile: bool,
    /// So many sessions at once, each with a prompt of its own of up to N tokens, against the same one after the other;
    /// several numbers with commas between them.
    #[arg(long, value_name = "K", value_delimiter = ',', conflicts_with_all = ["batch", "compare_ahead", "html", "profile", "runs", "trace"])]
    sessions: Vec<usize>,
    /// With --sessions, who deals in them: `rotate`, one after the other, or always the party `0`, `1` or `2`.
    #[arg(long, value_name = "WHO", default_value = "rotate", requires = "sessions")]
    dealer: config::Dealing,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    weights: WeightsArgument,
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
    /// The same where the dealer deals nothing ahead, with `--compare-ahead`.
    decode_without_ahead_s: Vec<f64>,
    /// When the dealer worked for all further tokens.
    dealing: Dealing,
    exchanges: u64,
    bytes: BTreeMap<String, u64>,
    bytes_total: u64,
    declared: bool,
    upload_bytes: u64,
    max_error: f32,
    /// Sequences side by side, with `--batch`.
    batches: Vec<batch::Batch>,
    peak_rss_bytes: BTreeMap<String, Option<u64>>,
    /// What was planned.
    memory: memory::Needs,
    /// Where the time went, with `--profile`, `--html` or `--trace`.
    report: Option<Report>,
    network: Option<NetworkFigures>,
}

impl BenchModel {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.tokens > 0 && self.runs > 0, "0 tokens or runs measure nothing");
        batch::check(&self)?;
        let devices = self.device.open()?;
        let subject = self.subject.load()?;
        let config = subject.public().config.clone();
        let limit = subject.public().plan.longest;
        let (most, allowed) =
            (self.tokens.saturating_add(self.decode), Limits::default().max_context_tokens as usize);
        anyhow::ensure!(most <= limit, "{most} tokens, the model takes {limit}; ask for fewer");
        anyhow::ensure!(
            most <= allowed,
            "{most} tokens, the parties take {allowed} (limits.max_context_tokens); ask for fewer"
        );
        anyhow::ensure!(
            self.decode == 0 || config.is_decoder(),
            "a {} model generates no tokens",
            config.family.name()
        );
        let memory = self.plan(&subject, &devices)?;
        if !self.sessions.is_empty() {
            return self.run_sessions(&subject, memory);
        }
        let all = spread_tokens(&config);
        let tokens: Vec<u32> = all.iter().copied().cycle().take(self.tokens).collect();
        let expected = subject.expected(&tokens)?;
        // Recording takes time of its own: only where it is wanted.
        let timed = self.profile || self.html.wanted() || self.trace.wanted();
        let measure =
            || block_on(interruptible(Rates::measure(&devices[1], self.tokens, self.network.model())));
        let rates = timed.then(measure).transpose()?;
        let network = self.network.measure(&self.json)?;
        let figures = block_on(interruptible(async {
            let setup = Setup { devices: self.device.choices(), weights: memory.weights };
            let host = Host::start(setup, self.network.model(), ONE_DEALER).await?;
            let start = Instant::now();
            subject.share(&host).await?;
            let sharing_s = start.elapsed().as_secs_f64();
            let work = passes::Plan {
                tokens: &tokens,
                next: all[0],
                decode: self.decode,
                runs: self.runs,
                ahead: if self.compare_ahead { Ahead::Compared } else { Ahead::Allowed },
            };
            let passes = work.run(&host, timed).await?;
            let dry = Dry::model(&config, subject.tables());
            let batches = batch::measure(&host.model().await?, &dry, &all, &self).await?;
            let work = Dry::pass(&dry, self.tokens, &mut Cache::new(&config), OutputRows::Last);
            self.trace.write(&passes.times.concat())?;
            let sections = || self.sections(&dry, &passes.times, rates.as_ref()?);
            let report = sections().zip(rates).map(|(sections, rates)| Report {
                title: format!("{} tokens through {}{}", self.tokens, self.subject.name(), self.device.on()),
                command: command(),
                machine: machine(),
                rates,
                sections,
            });
            let peak = host.local.as_ref().map(|l| l.peak_memory()).unwrap_or_default();
            let (bytes, spent) = (links(&passes.cost), passes.cost);
            let figures = Figures {
                model: self.subject.name(),
                device: self.device.name(),
                family: config.family.name(),
                layers: config.layers,
                tokens: self.tokens,
                sharing_s,
                pass_median_s: median(&passes.pass_s),
                pass_s: passes.pass_s,
                decode_s: passes.decode_s,
                decode_without_ahead_s: passes.decode_without_ahead_s,
                dealing: passes.dealing,
                exchanges: spent.exchanges,
                bytes_total: bytes.values().sum(),
                bytes,
                declared: (spent.exchanges, spent.sent) == (work.ledger.exchanges, work.ledger.sent),
                upload_bytes: 3 * protocol::gates::embedding::token_bytes(config.vocab) as u64,
                max_error: passes
                    .outputs
                    .iter()
                    .map(|o| largest_difference(o, &expected))
                    .fold(0.0, f32::max),
                batches,
                peak_rss_bytes: output::by_party(peak),
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
            let tokens = figures.decode_s.len();
            self.json.say(&format!("each further token: {:.3} s (median)\n", median(&figures.decode_s)));
            self.json.say(&(output::dealing(&figures.dealing, tokens) + "\n"));
        }
        if !figures.decode_without_ahead_s.is_empty() {
            let without = median(&figures.decode_without_ahead_s);
            self.json.say(&format!("each further token, nothing dealt ahead: {without:.3} s (median)\n"));
        }
        self.json.say(&format!(
            "{} bytes of keys a token from the client; the cost is {}the declared one\n",
            figures.upload_bytes,
            if figures.declared { "" } else { "NOT " }
        ));
        figures.batches.iter().for_each(|b| self.json.say(&format!("{b}\n")));
        if let Some(report) = &figures.report {
            self.html.write(report)?;
        }
        self.json.write(&figures)
    }

    /// What the parties will hold: of one sequence, of all those of the largest batch, or of all sessions at once.
    fn plan(&self, subject: &Subject, devices: &[Device; 3]) -> anyhow::Result<memory::Needs> {
        let several = if self.sessions.is_empty() { &self.batch } else { &self.sessions };
        let sequences = several.iter().copied().max().unwrap_or(1);
        let demand = Demand { context: self.tokens + self.decode, pass: self.tokens, sequences };
        let dealer = if self.sessions.is_empty() { ONE_DEALER } else { self.dealer };
        let plays = dealer.only().map_or([None; 3], |dealer| Party::ALL.map(|p| Some(p.role(dealer))));
        let machines = (&self.device, devices, &self.weights);
        memory::plan(subject, plays, machines, demand, &self.json)
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

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
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
