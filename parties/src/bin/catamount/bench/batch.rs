//! `bench model --batch`: several sequences side by side in one session, beside one alone.

use super::{BenchModel, median};
use crate::output::{links, megabytes};
use anyhow::ensure;
use models::dry::Dry;
use models::model::{Cache, Model, OutputRows, Sequence};
use parties::config::Limits;
use parties::private::{Pass, PrivateModel, Turn};
use protocol::Ledger;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// What so many sequences take.
#[derive(Serialize)]
pub(super) struct Batch {
    sequences: usize,
    /// Tokens of each text or prompt.
    lengths: Vec<usize>,
    /// The pass over all of them.
    pass_s: Vec<f64>,
    /// Each further token of all of them.
    decode_s: Vec<f64>,
    /// Tokens of all sequences a second, in the median pass.
    tokens_per_s: f64,
    /// The same after the first tokens.
    decode_tokens_per_s: Option<f64>,
    /// Times the rate of one sequence alone, measured in turn with it.
    ratio: f64,
    decode_ratio: Option<f64>,
    /// Of the pass.
    exchanges: u64,
    bytes: BTreeMap<String, u64>,
    /// Of the last further token.
    decode_exchanges: Option<u64>,
    decode_bytes: Option<BTreeMap<String, u64>>,
    declared: bool,
}

/// One alone, and each of the batches, in turn.
pub(super) async fn measure(
    model: &PrivateModel<'_>,
    dry: &Model<Dry>,
    text: &[u32],
    bench: &BenchModel,
) -> anyhow::Result<Vec<Batch>> {
    if bench.batch.is_empty() {
        return Ok(vec![]);
    }
    let sizes: Vec<usize> = std::iter::once(1).chain(bench.batch.iter().copied()).collect();
    let mut batches: Vec<Batch> = sizes.into_iter().map(|n| Batch::new(n, bench.tokens)).collect();
    for _ in 0..bench.runs {
        for batch in &mut batches {
            batch.run(model, dry, text, bench.decode).await?;
        }
    }
    for batch in &mut batches {
        let tokens = batch.lengths.iter().sum::<usize>() as f64;
        batch.tokens_per_s = tokens / median(&batch.pass_s);
        if bench.decode > 0 {
            batch.decode_tokens_per_s = Some(batch.sequences as f64 / median(&batch.decode_s));
        }
    }
    let (one, decode_one) = (batches[0].tokens_per_s, batches[0].decode_tokens_per_s);
    for batch in &mut batches {
        batch.ratio = batch.tokens_per_s / one;
        batch.decode_ratio = batch.decode_tokens_per_s.zip(decode_one).map(|(all, one)| all / one);
    }
    Ok(batches)
}

/// Whether parties take such batches; asked before anything is shared.
pub(super) fn check(bench: &BenchModel) -> anyhow::Result<()> {
    let limits = Limits::default();
    let (sequences, tokens) = (limits.max_sequences as usize, limits.max_context_tokens as usize);
    ensure!(
        bench.batch.is_empty() || bench.tokens <= tokens,
        "{} tokens in a pass, the parties take {tokens} (limits.max_context_tokens); ask for fewer",
        bench.tokens
    );
    for &n in &bench.batch {
        ensure!(n > 0, "a batch of 0 sequences measures nothing");
        ensure!(
            n <= sequences,
            "{n} sequences side by side, the parties take {sequences} (limits.max_sequences); ask for fewer"
        );
        let all: usize = lengths(n, bench.tokens).iter().sum();
        ensure!(
            all <= tokens,
            "{all} tokens of {n} sequences in a pass, the parties take {tokens} (limits.max_context_tokens); ask for fewer"
        );
    }
    Ok(())
}

/// Tokens of each of some sequences: between `tokens` and half of them.
fn lengths(sequences: usize, tokens: usize) -> Vec<usize> {
    (0..sequences).map(|i| tokens - i * (tokens / 2) / sequences).collect()
}

impl Batch {
    fn new(sequences: usize, tokens: usize) -> Batch {
        Batch {
            sequences,
            lengths: lengths(sequences, tokens),
            pass_s: vec![],
            decode_s: vec![],
            tokens_per_s: 0.0,
            decode_tokens_per_s: None,
            ratio: 1.0,
            decode_ratio: None,
            exchanges: 0,
            bytes: BTreeMap::new(),
            decode_exchanges: None,
            decode_bytes: None,
            declared: true,
        }
    }

    /// One session.
    async fn run(
        &mut self,
        model: &PrivateModel<'_>,
        dry: &Model<Dry>,
        text: &[u32],
        decode: usize,
    ) -> anyhow::Result<()> {
        let (n, longest) = (self.sequences, self.lengths.iter().max().copied().unwrap_or(0));
        // One alone as `ask` asks it: the dealer works ahead.
        let mut run = match n {
            1 => model.run_stepwise(longest, decode).await?,
            _ => model.run_batch(OutputRows::Last, n, longest + decode).await?,
        };
        let mut caches: Vec<_> = (0..n).map(|_| Cache::new(&dry.config)).collect();
        for step in 0..=decode {
            let lengths = if step == 0 { self.lengths.clone() } else { vec![1; n] };
            // Each sequence begins elsewhere in the text.
            let tokens = lengths.iter().enumerate();
            let tokens: Vec<Vec<u32>> = tokens
                .map(|(i, &count)| text.iter().copied().cycle().skip(i).take(count).collect())
                .collect();
            let turns: Vec<Turn<'_>> = tokens
                .iter()
                .enumerate()
                .map(|(sequence, tokens)| Turn { sequence, pass: Pass { tokens, segment: None }, drafted: 0 })
                .collect();
            let start = Instant::now();
            let (_, cost) = run.batch(&turns).await?;
            let took = start.elapsed().as_secs_f64();
            let mut sequences: Vec<_> =
                caches.iter_mut().zip(&lengths).map(|(cache, &count)| Sequence::new(cache, count)).collect();
            let declared = Dry::batch(dry, &mut sequences, OutputRows::Last).ledger;
            self.note(step, took, &cost, &declared);
        }
        Ok(run.close().await?)
    }

    fn note(&mut self, step: usize, took: f64, cost: &Ledger, declared: &Ledger) {
        self.declared &= (cost.exchanges, cost.sent) == (declared.exchanges, declared.sent);
        if step == 0 {
            self.pass_s.push(took);
            (self.exchanges, self.bytes) = (cost.exchanges, links(cost));
        } else {
            self.decode_s.push(took);
            (self.decode_exchanges, self.decode_bytes) = (Some(cost.exchanges), Some(links(cost)));
        }
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |b: &BTreeMap<String, u64>| megabytes(b.values().sum());
        write!(
            f,
            "{} side by side: {} tokens in {:.3} s (median of {}), {:.2} a second, {:.2} times one alone, {} exchanges, {}",
            self.sequences,
            self.lengths.iter().sum::<usize>(),
            median(&self.pass_s),
            self.pass_s.len(),
            self.tokens_per_s,
            self.ratio,
            self.exchanges,
            bytes(&self.bytes)
        )?;
        if let (Some(rate), Some(ratio), Some(sent)) =
            (self.decode_tokens_per_s, self.decode_ratio, &self.decode_bytes)
        {
            write!(
                f,
                "; a further token of each: {:.3} s, {rate:.2} tokens a second, {ratio:.2} times one alone, {}",
                median(&self.decode_s),
                bytes(sent)
            )?;
        }
        write!(f, "; the cost is {}the declared one", if self.declared { "" } else { "NOT " })
    }
}
