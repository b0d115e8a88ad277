//! What commands print, for people and for programs.

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use models::shared::Dealing;
use parties::private::{Answer, Answers};
use protocol::{Ledger, Party, Role};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Where a command's figures go.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct JsonArgument {
    /// Write figures as one JSON object to FILE, `-` for standard output (other output then goes to standard error).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl JsonArgument {
    /// Whether standard output belongs to the figures.
    pub(crate) fn takes_stdout(&self) -> bool {
        self.json.as_ref().is_some_and(|f| f.as_os_str() == "-")
    }

    /// Prints for people.
    pub(crate) fn say(&self, text: &str) {
        // Whoever reads may go away, as `head` does.
        let _ = if self.takes_stdout() {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
    }

    /// Writes the figures, if they are wanted.
    pub(crate) fn write(&self, figures: &impl Serialize) -> anyhow::Result<()> {
        let Some(file) = &self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(figures)? + "\n";
        if self.takes_stdout() {
            let mut out = std::io::stdout().lock();
            return out
                .write_all(text.as_bytes())
                .and_then(|()| out.flush())
                .context("cannot write figures to standard output");
        }
        std::fs::write(file, text).with_context(|| format!("cannot write figures to {}", file.display()))
    }
}

/// A bar over bytes.
pub(crate) fn byte_bar(what: &'static str) -> ProgressBar {
    styled(what, "{msg:>18} [{bar:32}] {bytes:>10} of {total_bytes} {bytes_per_sec:>13}")
}

/// A bar over steps.
pub(crate) fn step_bar(what: &'static str) -> ProgressBar {
    styled(what, "{msg:>18} [{bar:32}] {pos} of {len}")
}

fn styled(what: &'static str, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("own template").progress_chars("=> ");
    ProgressBar::new(0).with_style(style).with_message(what)
}

/// Shows done of total.
pub(crate) fn advance(bar: &ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}

/// Payload bytes on each directed link between parties.
pub(crate) fn links(l: &Ledger) -> BTreeMap<String, u64> {
    let pairs =
        [(Role::Dealer, Role::P1), (Role::Dealer, Role::P2), (Role::P1, Role::P2), (Role::P2, Role::P1)];
    pairs.into_iter().map(|(a, b)| (format!("{a}->{b}"), l.link(a, b))).collect()
}

/// Bytes for people.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// When the dealer worked for `tokens` tokens.
pub(crate) fn dealing(d: &Dealing, tokens: usize) -> String {
    let n = tokens.max(1) as f64;
    let each = |d: &models::shared::Dealt| {
        format!("{} in {:.3} s", megabytes((d.bytes as f64 / n) as u64), d.seconds / n)
    };
    let wasted = if d.wasted.bytes > 0 {
        format!("; dealt for nothing: {}", megabytes(d.wasted.bytes))
    } else {
        String::new()
    };
    format!("the dealer, a token: {} before it was asked, {} since{wasted}", each(&d.ahead), each(&d.asked))
}

/// A value for each party, by its name.
pub(crate) fn by_party<T>(values: [T; 3]) -> BTreeMap<String, T> {
    Party::ALL.into_iter().map(|p| p.to_string()).zip(values).collect()
}

/// Figures of an answer, or of answers that were made side by side: then of all of them together.
#[derive(Serialize)]
pub(crate) struct AnswersFigures {
    /// Seconds to the first token of each.
    pub(crate) first_token_s: f64,
    /// Tokens a second after that.
    pub(crate) tokens_per_s: Option<f64>,
    /// Tokens.
    pub(crate) tokens: usize,
    /// Exchanges between the evaluators.
    pub(crate) exchanges: u64,
    /// Bytes by link, prompts and answers together.
    pub(crate) bytes: BTreeMap<String, u64>,
    /// Bytes by link up to the first tokens.
    pub(crate) first_token_bytes: BTreeMap<String, u64>,
    /// When the dealer worked for the tokens after the first.
    pub(crate) dealing: Dealing,
}

impl AnswersFigures {
    /// Of answers.
    pub(crate) fn of(a: &Answers) -> AnswersFigures {
        let costs = [&a.prompt_cost, &a.decode_cost];
        AnswersFigures::new(a.first_token(), a.tokens_per_second(), a.tokens(), costs, a.decode_dealing)
    }

    fn new(
        first_token: Duration,
        tokens_per_second: Option<f64>,
        tokens: usize,
        [prompt, decode]: [&Ledger; 2],
        dealing: Dealing,
    ) -> AnswersFigures {
        let mut all = *prompt;
        all.add(decode);
        AnswersFigures {
            first_token_s: seconds(first_token),
            tokens_per_s: tokens_per_second.map(thousandths),
            tokens,
            exchanges: all.exchanges,
            bytes: links(&all),
            first_token_bytes: links(prompt),
            dealing,
        }
    }
}

/// Figures of one answer.
#[derive(Serialize)]
pub(crate) struct AnswerFigures {
    #[serde(flatten)]
    pub(crate) all: AnswersFigures,
    /// Tokens that each pass after the prompt gave; the parties know these numbers.
    pub(crate) gains: Vec<usize>,
    /// Their mean.
    pub(crate) tokens_per_pass: Option<f64>,
}

impl AnswerFigures {
    /// Of an answer.
    pub(crate) fn of(a: &Answer) -> AnswerFigures {
        let (costs, rate) = ([&a.prompt_cost, &a.decode_cost], a.tokens_per_second());
        AnswerFigures {
            all: AnswersFigures::new(a.first_token, rate, a.tokens.len(), costs, a.decode_dealing),
            gains: a.gains.clone(),
            tokens_per_pass: a.tokens_per_pass().map(thousandths),
        }
    }

    /// What speculation gave, and gave away; `None` if there was no pass after the prompt's.
    pub(crate) fn speculation(&self) -> Option<String> {
        let mean = self.tokens_per_pass?;
        let gains: Vec<String> = self.gains.iter().map(usize::to_string).collect();
        Some(format!(
            "{mean} tokens a pass after the prompt; the parties know how many each gave: {}",
            gains.join(" ")
        ))
    }
}

/// Three digits after the point.
fn thousandths(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// Milliseconds are enough.
pub(crate) fn seconds(d: Duration) -> f64 {
    thousandths(d.as_secs_f64())
}
