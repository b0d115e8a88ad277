//! `catamount cost`: the Dry reading.

use crate::model;
use crate::output::{JsonArgument, links, megabytes};
use models::dry::{Dry, Work};
use models::model::{Cache, OutputRows};
use protocol::Role;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

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
    /// Also what a pass over K drafted tokens costs, after the prompt (`--speculate` of `ask`).
    #[arg(long, value_name = "K", default_value_t = 0)]
    speculate: usize,
    /// `lan` (10 Gb/s, 0.1 ms), `wan` (100 Mb/s, 40 ms) or bandwidth and one-way latency, e.g. `1Gbps,5ms`.
    #[arg(long, value_name = "NETWORK", default_value = "lan")]
    network: NetworkModel,
    #[command(flatten)]
    json: JsonArgument,
}

/// A network between the parties.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct NetworkModel {
    /// Bits a second, each direction of each link.
    bits_per_second: f64,
    /// One way, seconds.
    latency: f64,
}

impl FromStr for NetworkModel {
    type Err = String;

    fn from_str(s: &str) -> Result<NetworkModel, String> {
        match s {
            "lan" => return Ok(NetworkModel { bits_per_second: 10e9, latency: 0.1e-3 }),
            "wan" => return Ok(NetworkModel { bits_per_second: 100e6, latency: 40e-3 }),
            _ => {}
        }
        let wrong = || format!("{s:?} is no network; write lan, wan or for example 1Gbps,5ms");
        let (bandwidth, latency) = s.split_once(',').ok_or_else(wrong)?;
        let number = |text: &str, units: &[(&str, f64)]| {
            let (digits, factor) = units
                .iter()
                .find_map(|(unit, factor)| text.trim().strip_suffix(unit).map(|d| (d, *factor)))?;
            digits.trim().parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0).map(|v| v * factor)
        };
        let bits = number(bandwidth, &[("Gbps", 1e9), ("Mbps", 1e6), ("kbps", 1e3)]).filter(|b| *b > 0.0);
        let latency = number(latency, &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0)]);
        Ok(NetworkModel { bits_per_second: bits.ok_or_else(wrong)?, latency: latency.ok_or_else(wrong)? })
    }
}

impl NetworkModel {
    /// Exchanges wait for each other; the dealer's stream runs beside them.
    fn seconds(&self, w: &Work) -> f64 {
        let time = |bytes: u64| bytes as f64 * 8.0 / self.bits_per_second;
        let exchanged = w.ledger.link(Role::P1, Role::P2).max(w.ledger.link(Role::P2, Role::P1));
        let online = w.ledger.exchanges as f64 * self.latency + time(exchanged);
        online.max(time(w.ledger.link(Role::Dealer, Role::P2)))
    }
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
            network_seconds: network.seconds(w),
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

impl CostCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.prompt_tokens > 0 && self.new_tokens > 0,
            "0 tokens cost nothing; ask for at least 1 of each"
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
        let mut cache = Cache::new(config);
        let first = Dry::pass(&dry, self.prompt_tokens, &mut cache, OutputRows::Last);
        let mut all = first;
        for _ in 1..self.new_tokens {
            let w = Dry::pass(&dry, 1, &mut cache, OutputRows::Last);
            all.ledger.add(&w.ledger);
            all.weight_macs += w.weight_macs;
        }
        let speculative = (self.speculate > 0).then(|| {
            let mut cache = Cache::new(config);
            Dry::pass(&dry, self.prompt_tokens, &mut cache, OutputRows::Last);
            Dry::pass(&dry, self.speculate + 1, &mut cache, OutputRows::All)
        });
        let figures = Figures {
            network: self.network,
            exchanges_per_layer: Dry::exchanges_by_layer(&dry).into_iter().max().unwrap_or(0),
            first_token: Part::of(&first, &self.network),
            all_tokens: Part::of(&all, &self.network),
            speculative_pass: speculative.map(|w| Part::of(&w, &self.network)),
        };
        self.json.say(&format!("first token: {}\n", figures.first_token));
        self.json.say(&format!("all tokens: {}\n", figures.all_tokens));
        if let Some(pass) = &figures.speculative_pass {
            self.json.say(&format!("a pass over {} drafted tokens: {pass}\n", self.speculate));
        }
        self.json.say(&format!("{} exchanges in the dearest layer\n", figures.exchanges_per_layer));
        self.json.write(&figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let n: NetworkModel = "1Gbps,5ms".parse().unwrap();
        assert_eq!((n.bits_per_second, n.latency), (1e9, 5e-3));
        assert_eq!("wan".parse::<NetworkModel>().unwrap().latency, 0.04);
        for wrong in ["", "fast", "1Gbps", "0Gbps,1ms", "1Gbps,-1ms", "NaNGbps,1ms", "1,1"] {
            assert!(wrong.parse::<NetworkModel>().is_err(), "{wrong}");
        }
    }
}
