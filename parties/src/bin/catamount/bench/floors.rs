//! `catamount bench floors`: what passes must cost at least on this machine, and what they do cost, in one table.

use super::passes::{Ahead, Plan};
use super::rates::{Floor, Rates};
use super::report::{Expected, machine};
use crate::host::{Host, ONE_DEALER, interruptible};
use crate::output::{JsonArgument, links};
use crate::{block_on, model};
use anyhow::Context as _;
use models::calibrate::spread_tokens;
use models::dry::{Dry, Local, Work};
use models::fetch;
use models::model::{Cache, OutputRows};
use parties::device::DeviceChoice;
use parties::owner::OwnedModel;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// The part of a file that `--write` replaces, between a line that begins so and one that is this.
const BEGIN: &str = "<!-- FLOORS";
const END: &str = "<!-- /FLOORS -->";

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct BenchFloors {
    /// Passes: a model and the tokens of its text or prompt. Models that generate make one further token as well, for which
    /// the dealer deals nothing ahead, as its floor counts all of the dealer's work.
    /// Otherwise BERT-base with 128 tokens, GPT-2 with 32 and SmolLM2-135M with 8; weights are made up, but for SmolLM2 if
    /// it has been fetched before.
    #[arg(value_name = "MODEL:TOKENS")]
    passes: Vec<Asked>,
    /// How often; the fastest is shown.
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// Counts, rates and floors alone: no parties are started.
    #[arg(long)]
    no_run: bool,
    /// Put the table into FILE, between the lines `<!-- FLOORS ... -->` and `<!-- /FLOORS -->`; nothing else in it changes.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArgument,
}

/// One model with its prompt.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    model: String,
    tokens: usize,
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Asked, String> {
        let parts = text.rsplit_once(':').and_then(|(model, tokens)| Some((model, tokens.parse().ok()?)));
        match parts {
            Some((model, tokens)) if tokens > 0 && !model.is_empty() => {
                Ok(Asked { model: model.into(), tokens })
            }
            _ => Err(format!("{text:?} is no MODEL:TOKENS, for example random:gpt2:32")),
        }
    }
}

/// A pass: what it takes, what that must take, what it did take.
#[derive(Debug, Serialize)]
struct Figures {
    model: String,
    /// For people: "8 tokens", "next token".
    pass: String,
    /// New tokens of the pass.
    rows: usize,
    /// P0, P1, P2.
    local: [Local; 3],
    exchanges: u64,
    bytes: BTreeMap<String, u64>,
    products_per_s: f64,
    all_products_per_s: f64,
    all_low_products_per_s: f64,
    floor: Floor,
    /// The fastest of the runs.
    measured_s: Option<f64>,
    /// Measured over floor.
    ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Table {
    machine: String,
    /// Those of products are of the first pass; each pass has its own.
    rates: Rates,
    runs: Option<usize>,
    passes: Vec<Figures>,
}

impl BenchFloors {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.runs > 0, "0 runs measure nothing");
        if let Some(file) = &self.write {
            // Before minutes of measuring.
            replaced(&read(file)?, "").with_context(|| format!("{} cannot be written", file.display()))?;
        }
        let asked = if self.passes.is_empty() { published() } else { self.passes.clone() };
        let device = kernels::cpu::Cpu::best();
        self.json.say("measuring this machine\n");
        let rates = block_on(interruptible(Rates::measure(&device, asked[0].tokens, None)))?;
        let mut passes = vec![];
        for asked in &asked {
            let owned = model::load(&asked.model)?;
            for (pass, work) in counts(&owned, asked)? {
                let rows = pass.unwrap_or(1);
                let rates =
                    if rows == rates.rows { rates.clone() } else { rates.with_rows(&device, rows)? };
                passes.push(Figures::new(asked, pass, &work, &rates));
            }
            if !self.no_run {
                let (first, decode) = (passes.len() - if decodes(&owned) { 2 } else { 1 }, decodes(&owned));
                self.measure(&owned, asked, decode, &mut passes[first..])?;
            }
        }
        let table = Table { machine: machine(), rates, runs: (!self.no_run).then_some(self.runs), passes };
        let text = table.markdown();
        self.json.say(&text);
        if let Some(file) = &self.write {
            std::fs::write(file, replaced(&read(file)?, &text)?)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        self.json.write(&table)
    }

    /// Three processes, real passes.
    fn measure(
        &self,
        owned: &Arc<OwnedModel>,
        asked: &Asked,
        decode: bool,
        passes: &mut [Figures],
    ) -> anyhow::Result<()> {
        let all = spread_tokens(owned.config());
        let tokens: Vec<u32> = all.iter().copied().cycle().take(asked.tokens).collect();
        let plan = Plan {
            tokens: &tokens,
            next: all[0],
            decode: usize::from(decode),
            runs: self.runs,
            // The floor of a further token counts all of the dealer's work.
            ahead: Ahead::Nothing,
        };
        let done = block_on(interruptible(async {
            let host = Host::local(owned, [DeviceChoice::Cpu; 3], None, ONE_DEALER).await?;
            let done = plan.run(&host, false).await?;
            host.close().await;
            Ok(done)
        }))?;
        let seconds = [&done.pass_s, &done.decode_s];
        let costs = [Some(done.cost), done.decode_cost];
        for ((figures, seconds), cost) in passes.iter_mut().zip(seconds).zip(costs) {
            let cost = cost.context("internal: a pass without a cost")?;
            anyhow::ensure!(
                (figures.exchanges, &figures.bytes) == (cost.exchanges, &links(&cost)),
                "{}, {}: {} exchanges and {:?} bytes were declared, {} and {:?} measured",
                figures.model,
                figures.pass,
                figures.exchanges,
                figures.bytes,
                cost.exchanges,
                links(&cost)
            );
            let fastest = seconds.iter().copied().fold(f64::MAX, f64::min);
            figures.measured_s = Some(fastest);
            figures.ratio = Some(fastest * 1e3 / figures.floor.total_ms);
        }
        Ok(())
    }
}

/// The models of the benchmarks.
fn published() -> Vec<Asked> {
    let smollm2 = if fetch::has_default_model() { "smollm2" } else { "random:smollm2" };
    [("random:bert-base", 128), ("random:gpt2", 32), (smollm2, 8)]
        .map(|(model, tokens)| Asked { model: model.into(), tokens })
        .into()
}

fn decodes(owned: &OwnedModel) -> bool {
    owned.config().is_decoder()
}

/// What a model's passes take: that over the prompt, with its tokens, and one further token if it generates any.
fn counts(owned: &OwnedModel, asked: &Asked) -> anyhow::Result<Vec<(Option<usize>, Work)>> {
    let (config, limit) = (owned.config(), owned.public.plan.longest);
    let most = asked.tokens.saturating_add(usize::from(decodes(owned)));
    anyhow::ensure!(most <= limit, "{}: {most} tokens, the model takes {limit}; ask for fewer", asked.model);
    let (dry, mut cache) = (Dry::model(config, &owned.tables), Cache::new(config));
    let mut passes = vec![(Some(asked.tokens), Dry::pass(&dry, asked.tokens, &mut cache, OutputRows::Last))];
    if decodes(owned) {
        passes.push((None, Dry::pass(&dry, 1, &mut cache, OutputRows::Last)));
    }
    Ok(passes)
}

impl Figures {
    fn new(asked: &Asked, tokens: Option<usize>, work: &Work, rates: &Rates) -> Figures {
        Figures {
            model: asked.model.clone(),
            pass: tokens.map_or("next token".into(), |n| format!("{n} tokens")),
            rows: tokens.unwrap_or(1),
            local: work.local,
            exchanges: work.ledger.exchanges,
            bytes: links(&work.ledger),
            products_per_s: rates.products_per_s,
            all_products_per_s: rates.all_products_per_s,
            all_low_products_per_s: rates.all_low_products_per_s,
            floor: rates.floor(&Expected { cost: work.ledger, local: work.local }),
            measured_s: None,
            ratio: None,
        }
    }
}

/// A line of the table: its name, and a cell for each pass.
type Line = (String, Box<dyn Fn(&Figures) -> String>);

impl Table {
    /// Lines of the table.
    fn lines(&self) -> Vec<Line> {
        fn line(name: &str, cell: impl Fn(&Figures) -> String + 'static) -> Line {
            (name.into(), Box::new(cell))
        }
        fn parties(name: &str, what: fn(&Local) -> u64) -> Line {
            line(name, move |f| f.local.each_ref().map(|l| giga(what(l))).join(" / "))
        }
        let time =
            |name: String, ms: fn(&Floor) -> f64| line(&name, move |f: &Figures| seconds(ms(&f.floor) / 1e3));
        let r = &self.rates;
        let bytes = |link: &'static str| move |f: &Figures| format!("{:.2}", f.bytes[link] as f64 / 1e6);
        let mut lines = vec![
            parties("products with weights, P0 / P1 / P2, G", |l| l.weights),
            parties("of these modulo 2^52 or less, P0 / P1 / P2, G", |l| l.low),
            parties("products of attention, P0 / P1 / P2, G", |l| l.attention),
            parties("weights, keys and values read, P0 / P1 / P2, GB", |l| l.read),
            line("P0 → P1, MB", bytes("P0->P1")),
            line("P0 → P2, MB", bytes("P0->P2")),
            line("P1 ⇄ P2, MB each way", bytes("P1->P2")),
            line("exchanges", |f| f.exchanges.to_string()),
            line("G products a second, one core / all", |f| {
                format!("{:.1} / {:.1}", f.products_per_s / 1e9, f.all_products_per_s / 1e9)
            }),
            line("the same modulo 2^52, all", |f| format!("{:.1}", f.all_low_products_per_s / 1e9)),
            time("time of all products, s".into(), |f| f.products_ms),
            time(format!("reading at {:.1} GB/s", r.reading_per_s / 1e9), |f| f.reading_ms),
            time(format!("random words at {:.1} GB/s a core", r.random_per_s / 1e9), |f| f.random_ms),
            time(format!("bytes at {:.2} CPU-s a GB", r.cpu_s_per_gb), |f| f.bytes_ms),
            time(format!("fullest link at {:.0} MB/s", r.bytes_per_s / 1e6), |f| f.link_ms),
            time(format!("exchanges of {:.0} µs", r.exchange_s * 1e6), |f| f.exchanges_ms),
            line("**floor, s**", |f| format!("**{}**", seconds(f.floor.total_ms / 1e3))),
        ];
        if let Some(runs) = self.runs {
            let shown = |value: Option<String>| value.map_or("–".into(), |v| format!("**{v}**"));
            lines.push(line(&format!("**measured, fastest of {runs}, s**"), move |f| {
                shown(f.measured_s.map(seconds))
            }));
            lines.push(line("**measured / floor**", move |f| shown(f.ratio.map(|r| format!("{r:.1}")))));
        }
        lines
    }

    /// For people, and for a page of the documentation.
    fn markdown(&self) -> String {
        let mut rows = vec![vec![String::new()]];
        rows[0].extend(self.passes.iter().map(|f| format!("{}, {}", f.model, f.pass)));
        for (name, cell) in self.lines() {
            rows.push(std::iter::once(name).chain(self.passes.iter().map(cell)).collect());
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..=self.passes.len()).map(width).collect();
        let mut text = format!("{}.\n\n", self.machine);
        for (i, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                text += &format!("| {cell:<width$} ");
            }
            text += "|\n";
            if i == 0 {
                text += &widths.iter().map(|w| format!("|{}", "-".repeat(w + 2))).collect::<String>();
                text += "|\n";
            }
        }
        text
    }
}

/// Three digits.
fn giga(n: u64) -> String {
    seconds(n as f64 / 1e9)
}

fn seconds(s: f64) -> String {
    match s {
        0.0 => "0".into(),
        _ if s < 0.0995 => format!("{s:.4}"),
        _ if s < 9.95 => format!("{s:.2}"),
        _ => format!("{s:.1}"),
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// A file's text with another table between the marks.
fn replaced(file: &str, table: &str) -> anyhow::Result<String> {
    let marks = || {
        let begin = file.find(BEGIN)?;
        let begin = begin + file[begin..].find('\n')? + 1;
        let end = begin + file[begin..].find(END)?;
        Some((begin, end))
    };
    let (begin, end) = marks().with_context(|| format!("it has no lines {BEGIN} ... --> and {END}"))?;
    Ok(format!("{}{table}{}", &file[..begin], &file[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_read() {
        let asked = Asked { model: "random:gpt2".into(), tokens: 32 };
        assert_eq!("random:gpt2:32".parse(), Ok(asked));
        for wrong in ["random:gpt2", "gpt2", ":3", "model:0", "model:-1", ""] {
            assert!(wrong.parse::<Asked>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_table_is_replaced() {
        let file = "before\n<!-- FLOORS: made by a command -->\nold\n<!-- /FLOORS -->\nafter\n";
        let new = replaced(file, "new\n").unwrap();
        assert_eq!(new, "before\n<!-- FLOORS: made by a command -->\nnew\n<!-- /FLOORS -->\nafter\n");
        assert_eq!(replaced(&new, "old\n").unwrap(), file);
        for wrong in ["", "<!-- FLOORS -->\n", "<!-- /FLOORS -->\n<!-- FLOORS -->\n"] {
            assert!(replaced(wrong, "new").unwrap_err().to_string().contains("has no lines"), "{wrong}");
        }
    }
}
