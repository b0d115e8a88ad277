//! `catamount cost`: the Dry reading.

use crate::model;
use crate::output::{JsonArgument, links, megabytes};
use models::dry::{Dry, Work};
use models::model::{Cache, Model, OutputRows, Sequence};
use parties::config::Limits;
use parties::private::prompt_passes;
use parties::relay::NetworkModel;
use protocol::Role;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct CostCommand {
    #[arg(long, value_name = "MODEL", default_value = "smollm2", help = model::HELP)]
    model: String,
    /// Tokens of the prompt, or of the text of an encoder.
    #[arg(long, value_name = "N", default_value_t = 8)]
    prompt_tokens: usize,
    /// Tokens of the answer.
    #[arg(long, value_name = "N", default_value_t = 1)]
    new_tokens: usize,
    /// So many prompts of that length side by side, in one session (`ask` with several prompts).
    #[arg(long, value_name = "B", default_value_t = 1)]
    prompts: usize,
    /// Also what a pass over K drafted tokens of each prompt costs, after the prompts (`--speculate` of `ask`).
    #[arg(long, value_name = "K", default_value_t = 0)]
    speculate: usize,
    /// `lan` (10 Gb/s, 0.1 ms), `wan` (100 Mb/s, 40 ms) or `BANDWIDTH,LATENCY[,LOSS[,JITTER]]`,
    /// for example `1Gbps,5ms`; half the jitter counts, loss does not.
    #[arg(long, value_name = "NETWORK", default_value = "lan")]
    network: NetworkModel,
    #[command(flatten)]
    json: JsonArgument,
}

/// Seconds of the messages: exchanges wait for each other; the dealer's stream runs beside them. A late datagram is late
/// by half the jitter on average; loss is not counted.
fn seconds(network: &NetworkModel, w: &Work) -> f64 {
    let time = |bytes: u64| bytes as f64 * 8.0 / network.bits_per_second;
    let exchanged = w.ledger.link(Role::P1, Role::P2).max(w.ledger.link(Role::P2, Role::P1));
    let online = w.ledger.exchanges as f64 * (network.latency + network.jitter / 2.0) + time(exchanged);
    online.max(time(w.ledger.link(Role::Dealer, Role::P2)))
}

/// What some passes take.
#[derive(Serialize)]
pub(crate) struct Part {
    exchanges: u64,
    bytes: BTreeMap<String, u64>,
    weight_multiplications: u64,
    network_seconds: f64,
}

impl Part {
    /// Of work on a network.
    pub(crate) fn of(w: &Work, network: &NetworkModel) -> Part {
        Part {
            exchanges: w.ledger.exchanges,
            bytes: links(&w.ledger),
            weight_multiplications: w.weight_macs,
            network_seconds: seconds(network, w),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links: Vec<String> = self.bytes.iter().map(|(l, b)| format!("{l} {}", megabytes(*b))).collect();
        write!(
            f,
            "{} exchanges, {}, {:.2} G multiplications with weights, {:.3} s on this network",
            self.exchanges,
            links.join(", "),
            self.weight_multiplications as f64 / 1e9,
            self.network_seconds
        )
    }
}

#[derive(Serialize)]
struct Figures {
    network: NetworkModel,
    exchanges_per_layer: u64,
    first_token: Part,
    all_tokens: Part,
    speculative_pass: Option<Part>,
}

/// Counted side by side, counted.
struct Counted<'d> {
    dry: &'d Model<Dry>,
    caches: Vec<Cache<Dry>>,
}

impl<'d> Counted<'d> {
    /// Reads prompts of these lengths in as many passes as they take, or an encoder's texts in one; what that takes.
    fn begin(dry: &'d Model<Dry>, lengths: &[usize]) -> (Counted<'d>, Work) {
        let caches = lengths.iter().map(|_| Cache::new(&dry.config)).collect();
        let (mut answers, mut work) = (Counted { dry, caches }, Work::default());
        let passes = if dry.config.is_decoder() {
            prompt_passes(lengths, Limits::default().max_context_tokens as usize)
        } else {
            vec![lengths.to_vec()]
        };
        passes.iter().for_each(|counts| work.add(&answers.pass(counts, OutputRows::Last)));
        (answers, work)
    }

    /// A pass over so many tokens of each sequence.
    fn pass(&mut self, counts: &[usize], rows: OutputRows) -> Work {
        let taken = self.caches.iter_mut().zip(counts).filter(|(_, count)| **count > 0);
        let mut sequences: Vec<_> = taken.map(|(cache, &count)| Sequence::new(cache, count)).collect();
        Dry::batch(self.dry, &mut sequences, rows)
    }
}

impl CostCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.prompt_tokens > 0 && self.new_tokens > 0 && self.prompts > 0,
            "0 prompts or tokens cost nothing; ask for at least 1 of each"
        );
        let owned = model::load(&self.model)?;
        let (config, limit) = (owned.config(), owned.public.plan.longest);
        anyhow::ensure!(
            config.is_decoder() || self.new_tokens == 1,
            "a {} model generates no tokens; leave --new-tokens out",
            config.family.name()
        );
        anyhow::ensure!(
            config.is_decoder() || self.speculate == 0,
            "a {} model generates no tokens; leave --speculate out",
            config.family.name()
        );
        let most = self.prompt_tokens.saturating_add(self.new_tokens).saturating_add(self.speculate);
        anyhow::ensure!(most <= limit, "{most} tokens, the model takes {limit}; ask for fewer");
        let dry = Dry::model(config, &owned.tables);
        let prompts = vec![self.prompt_tokens; self.prompts];
        let (mut answers, first) = Counted::begin(&dry, &prompts);
        let mut all = first;
        for _ in 1..self.new_tokens {
            all.add(&answers.pass(&vec![1; self.prompts], OutputRows::Last));
        }
        let speculative = (self.speculate > 0).then(|| {
            let (mut answers, _) = Counted::begin(&dry, &prompts);
            answers.pass(&vec![self.speculate + 1; self.prompts], OutputRows::All)
        });
        let figures = Figures {
            network: self.network,
            exchanges_per_layer: Dry::exchanges_by_layer(&dry, &prompts).into_iter().max().unwrap_or(0),
            first_token: Part::of(&first, &self.network),
            all_tokens: Part::of(&all, &self.network),
            speculative_pass: speculative.map(|w| Part::of(&w, &self.network)),
        };
        self.json.say(&format!("first token: {}\n", figures.first_token));
        self.json.say(&format!("all tokens: {}\n", figures.all_tokens));
        if let Some(pass) = &figures.speculative_pass {
            let each = if self.prompts > 1 { " of each prompt" } else { "" };
            self.json.say(&format!("a pass over {} drafted tokens{each}: {pass}\n", self.speculate));
        }
        self.json.say(&format!("{} exchanges in the dearest layer\n", figures.exchanges_per_layer));
        self.json.write(&figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_wait_and_the_dealer_runs_beside_them() {
        let mut work = Work::default();
        work.ledger.exchanges = 10;
        let network: NetworkModel = "1Gbps,5ms,1%,2ms".parse().unwrap();
        assert!((seconds(&network, &work) - 0.06).abs() < 1e-12);
    }
}
