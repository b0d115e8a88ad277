//! Several sessions at once, against the same sessions one after the other.

use super::memory::Needs;
use super::subject::Subject;
use super::{BenchModel, median};
use crate::block_on;
use crate::host::{Host, interruptible};
use crate::output::{by_party, megabytes};
use crate::processes::{Setup, Usage};
use anyhow::Context;
use models::calibrate::spread_tokens;
use parties::client::Client;
use parties::private::{Pass, PrivateModel};
use protocol::Party;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

/// What one session is given.
#[derive(Clone)]
struct Question {
    prompt: Vec<u32>,
    /// Tokens after the first.
    decode: usize,
    /// The plaintext model's outputs after the prompt.
    expected: Vec<f32>,
}

/// One session as its client saw it.
#[derive(Serialize)]
struct Seen {
    dealer: Party,
    prompt_tokens: usize,
    first_token_s: f64,
    /// Median of the tokens after it.
    token_s: Option<f64>,
    #[serde(skip)]
    max_error: f32,
}

/// The same questions, so many at a time.
#[derive(Serialize)]
struct Row {
    at_once: usize,
    wall_s: f64,
    /// Of all sessions together: first tokens and those after them.
    tokens_per_s: f64,
    /// To one session at a time in this run.
    ratio: f64,
    /// In how many sessions each party dealt.
    dealt: BTreeMap<String, usize>,
    /// Processor seconds of each party.
    cpu_s: BTreeMap<String, f64>,
    /// Share of this machine's cores that the three parties kept busy.
    busy: f64,
    resident_bytes: BTreeMap<String, u64>,
    sessions: Vec<Seen>,
}

#[derive(Serialize)]
struct Figures {
    model: String,
    device: String,
    tokens: usize,
    decode: usize,
    rows: Vec<Row>,
    peak_rss_bytes: BTreeMap<String, Option<u64>>,
    /// What was planned.
    memory: Needs,
    max_error: f32,
}

impl BenchModel {
    /// Runs the command for several sessions.
    pub(super) fn run_sessions(&self, subject: &Subject, memory: Needs) -> anyhow::Result<()> {
        let most = self.sessions.iter().copied().max().unwrap_or(1);
        anyhow::ensure!(self.sessions.iter().all(|&k| (1..=8).contains(&k)), "give 1 to 8 sessions");
        let mut counts = self.sessions.clone();
        counts.retain(|&k| k > 1);
        counts.insert(0, 1);
        let questions = self.questions(subject, most)?;
        let (rows, peak) = block_on(interruptible(async {
            let setup = Setup { devices: self.device.choices(), weights: memory.weights };
            let host = Host::start(setup, self.network.model(), self.dealer).await?;
            subject.share(&host).await?;
            let Host { local, client, name } = host;
            let parties = local.context("parties of this command's own")?;
            let client = Arc::new(client);
            // Every party plays every role once, so that no row pays for the first time.
            ask(&client, &name, &[(); 3].map(|()| questions[0].clone()), 1).await?;
            let mut rows: Vec<Row> = vec![];
            for k in counts {
                let before = parties.usage()?;
                let (seen, wall_s) = ask(&client, &name, &questions, k).await?;
                let alone = rows.first().map_or(wall_s, |row| row.wall_s);
                rows.push(self.row(k, seen, (wall_s, alone), (before, parties.usage()?)));
            }
            let peak = parties.peak_memory();
            if let Ok(client) = Arc::try_unwrap(client) {
                client.close().await;
            }
            Ok((rows, peak))
        }))?;
        let max_error = rows.iter().flat_map(|r| &r.sessions).map(|s| s.max_error).fold(0f32, f32::max);
        let figures = Figures {
            model: self.subject.name(),
            device: self.device.name(),
            tokens: self.tokens,
            decode: self.decode,
            rows,
            peak_rss_bytes: by_party(peak),
            memory,
            max_error,
        };
        self.tell(&figures);
        self.json.write(&figures)
    }

    /// Prompts of different lengths, from half of the tokens asked for to all of them.
    fn questions(&self, subject: &Subject, count: usize) -> anyhow::Result<Vec<Question>> {
        let all = spread_tokens(&subject.public().config);
        let question = |i: usize| {
            let length = self.tokens - i * (self.tokens / 2) / count;
            let prompt: Vec<u32> = all.iter().copied().cycle().skip(i).take(length).collect();
            let expected = subject.expected(&prompt)?;
            Ok(Question { prompt, decode: self.decode, expected })
        };
        (0..count).map(question).collect()
    }

    fn row(
        &self,
        at_once: usize,
        sessions: Vec<Seen>,
        (wall_s, alone): (f64, f64),
        (before, after): ([Usage; 3], [Usage; 3]),
    ) -> Row {
        let spent: [f64; 3] = std::array::from_fn(|i| after[i].cpu_s - before[i].cpu_s);
        let dealt = |party| sessions.iter().filter(|s| s.dealer == party).count();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Row {
            at_once,
            wall_s,
            tokens_per_s: (sessions.len() * (1 + self.decode)) as f64 / wall_s,
            ratio: alone / wall_s,
            dealt: by_party(Party::ALL.map(dealt)),
            cpu_s: by_party(spent),
            busy: spent.iter().sum::<f64>() / wall_s / cores,
            resident_bytes: by_party(after.map(|u| u.resident_bytes)),
            sessions,
        }
    }

    fn tell(&self, f: &Figures) {
        for row in &f.rows {
            let first: Vec<f64> = row.sessions.iter().map(|s| s.first_token_s).collect();
            let next: Vec<f64> = row.sessions.iter().filter_map(|s| s.token_s).collect();
            let next = if next.is_empty() { String::new() } else { format!(", then {:.3} s", median(&next)) };
            self.json.say(&format!(
                "{} at once: {:.2} tokens a second, {:.2} times one; first token {:.2} s (median){next}; {:.1} processor seconds, {:.0} % of the cores; dealt {}\n",
                row.at_once,
                row.tokens_per_s,
                row.ratio,
                median(&first),
                row.cpu_s.values().sum::<f64>(),
                100.0 * row.busy,
                row.dealt.iter().map(|(p, n)| format!("{p} {n}")).collect::<Vec<_>>().join(", "),
            ));
        }
        let peak: Option<u64> = f.peak_rss_bytes.values().copied().sum();
        self.json.say(&format!(
            "peak memory of the three parties together: {}; largest error {:.5}\n",
            peak.map_or("unknown".into(), megabytes),
            f.max_error
        ));
    }
}

/// Asks all questions, `at_once` at a time, each of these in a thread of its own; what the sessions saw, and seconds from
/// the first prompt to the last token.
async fn ask(
    client: &Arc<Client>,
    name: &str,
    questions: &[Question],
    at_once: usize,
) -> anyhow::Result<(Vec<Seen>, f64)> {
    let (next, together) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(at_once)));
    let threads: Vec<_> = (0..at_once)
        .map(|_| {
            let (client, name, questions) = (client.clone(), name.to_string(), questions.to_vec());
            let (next, together, runtime) = (next.clone(), together.clone(), Handle::current());
            spawn_blocking(move || {
                let model = runtime.block_on(PrivateModel::open(&client, &name));
                together.wait();
                let (model, start) = (model?, Instant::now());
                let mut seen = vec![];
                while let Some(question) = questions.get(next.fetch_add(1, Ordering::Relaxed)) {
                    seen.push(runtime.block_on(session(&model, question))?);
                }
                Ok::<_, anyhow::Error>((seen, start, Instant::now()))
            })
        })
        .collect();
    let mut done = vec![];
    for thread in threads {
        done.push(thread.await??);
    }
    let start = done.iter().map(|d| d.1).min().context("no session")?;
    let end = done.iter().map(|d| d.2).max().context("no session")?;
    Ok((done.into_iter().flat_map(|d| d.0).collect(), (end - start).as_secs_f64()))
}

async fn session(model: &PrivateModel<'_>, q: &Question) -> anyhow::Result<Seen> {
    // As `ask` asks: the dealer works ahead.
    let mut run = model.run_stepwise(q.prompt.len(), q.decode).await?;
    let dealer = run.dealer();
    let start = Instant::now();
    let (outputs, _) = run.pass(Pass { tokens: &q.prompt, segment: None }).await?;
    let first_token_s = start.elapsed().as_secs_f64();
    let errors = outputs.iter().zip(&q.expected).map(|(a, b)| (a - b).abs());
    let max_error = errors.fold(0f32, f32::max);
    let mut further = vec![];
    for _ in 0..q.decode {
        let start = Instant::now();
        run.pass(Pass { tokens: &q.prompt[..1], segment: None }).await?;
        further.push(start.elapsed().as_secs_f64());
    }
    run.close().await?;
    let token_s = (!further.is_empty()).then(|| median(&further));
    Ok(Seen { dealer, prompt_tokens: q.prompt.len(), first_token_s, token_s, max_error })
}
