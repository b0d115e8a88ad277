//! Answers in the making: side by side, each until its own end.

use super::generate::{Answer, Answers, Generation, Progress};
use super::times::Doing;
use super::{Pass, PrivateError, PrivateModel, Run, Speculation, Turn, prefill};
use crate::client::PassOutput;
use models::shared::client as shares;
use models::tokenizer::StreamDecoder;
use protocol::Ledger;
use std::time::Instant;

/// Answers to some prompts, one for each sequence of a session.
pub(super) struct Making<'a> {
    model: &'a PrivateModel<'a>,
    prompts: &'a [Vec<u32>],
    how: &'a Generation,
    answers: Vec<One<'a>>,
    /// What the passes cost so far, up to the first tokens and after them.
    prompt_cost: Ledger,
    decode_cost: Ledger,
    progress: &'a mut dyn FnMut(usize, Progress),
}

/// One answer.
struct One<'a> {
    model: &'a PrivateModel<'a>,
    start: Instant,
    stream: Option<StreamDecoder<'a>>,
    answer: Answer,
    ended: bool,
}

impl<'a> Making<'a> {
    pub(super) fn new(
        model: &'a PrivateModel<'a>,
        prompts: &'a [Vec<u32>],
        how: &'a Generation,
        progress: &'a mut dyn FnMut(usize, Progress),
    ) -> Making<'a> {
        let start = Instant::now();
        let tokenizer = model.tokenizer.as_ref();
        let one = |_| One {
            model,
            start,
            stream: tokenizer.map(|t| t.stream(true)),
            answer: Answer::empty(),
            ended: false,
        };
        let (prompt_cost, decode_cost) = Default::default();
        let answers = prompts.iter().map(one).collect();
        Making { model, prompts, how, answers, prompt_cost, decode_cost, progress }
    }

    /// Scores come to the client, tokens go back, followed by guesses if there is something that makes them. Sequences whose
    /// answer has ended are left out.
    pub(super) async fn by_the_client(
        &mut self,
        run: &mut Run<'_>,
        mut speculation: Option<Speculation<'_>>,
    ) -> Result<(), PrivateError> {
        let mut scores = vec![vec![]; self.prompts.len()];
        for turns in prefill::passes(self.prompts, self.model.pass_limit()) {
            let (rows, cost) = run.batch(&turns).await?;
            turns.iter().zip(rows).for_each(|(turn, rows)| scores[turn.sequence] = rows);
            self.spent(&turns, &cost);
            self.read(run, &turns);
        }
        run.take_dealing();
        let mut drafts = vec![vec![]; self.prompts.len()];
        loop {
            let mut next: Vec<(usize, Vec<u32>)> = vec![];
            for (i, one) in self.answers.iter_mut().enumerate().filter(|(_, one)| !one.ended) {
                let taken = one.take(&scores[i], &drafts[i], self.how, &mut |p| (self.progress)(i, p))?;
                let Some(gained) = taken else { continue };
                run.take_back(i, drafts[i].len() + 1 - gained)?;
                if let Some(speculation) = &mut speculation {
                    let text = [&self.prompts[i][..], &one.answer.tokens].concat();
                    let room = self.how.max_tokens.0 - one.answer.tokens.len();
                    drafts[i] = speculation.propose(&text, room, self.model.config().vocab);
                }
                let token = *one.answer.tokens.last().expect("a pass gives a token");
                next.push((i, [&[token], &drafts[i][..]].concat()));
            }
            if next.is_empty() {
                return Ok(());
            }
            let turns: Vec<Turn<'_>> = next
                .iter()
                .map(|(sequence, tokens)| Turn {
                    sequence: *sequence,
                    pass: Pass { tokens, segment: None },
                    drafted: tokens.len() - 1,
                })
                .collect();
            let (rows, cost) = run.batch(&turns).await?;
            turns.iter().zip(rows).for_each(|(turn, rows)| scores[turn.sequence] = rows);
            self.spent(&turns, &cost);
        }
    }

    /// The parties choose token after token of every sequence; the client only listens. Says whether it can leave before the
    /// parties are done, as all answers have ended.
    pub(super) async fn by_the_parties(&mut self, run: &mut Run<'_>) -> Result<bool, PrivateError> {
        let m = self.model;
        let mut passes = prefill::passes(self.prompts, m.pass_limit()).into_iter().peekable();
        while let Some(turns) = passes.next() {
            let last = passes.peek().is_none();
            let parts = run.parts(&turns)?;
            let pass = run.wire_pass(&turns, if last { self.how.max_tokens.0 } else { 0 });
            run.times.turn(Doing::Waits);
            run.session.begin(pass, parts).await?;
            run.advance(&turns);
            let mut read = !last;
            while let Some(PassOutput(outputs)) = run.session.next_output().await? {
                let (cost, [_, p1, p2]) = run.told(&outputs)?;
                run.times.end();
                run.times.turn(Doing::Waits);
                self.spent(&turns, &cost);
                if !last {
                    continue;
                }
                if !std::mem::replace(&mut read, true) {
                    self.read(run, &turns);
                    run.take_dealing();
                }
                let tokens = shares::combine_tokens(&m.device, m.config().vocab, turns.len(), p1, p2)?;
                for (i, (one, token)) in self.answers.iter_mut().zip(tokens).enumerate() {
                    // What the parties choose after an end is nobody's.
                    if !one.ended {
                        let further = !one.answer.tokens.is_empty();
                        one.answer.gains.extend(further.then_some(1));
                        one.ended = one.push(token, &mut |p| (self.progress)(i, p))?;
                    }
                }
                if self.answers.iter().all(|one| one.ended) {
                    return Ok(true);
                }
            }
            if !last {
                self.read(run, &turns);
            }
        }
        Ok(false)
    }

    /// Accounts a pass to all that took part in it and are not at their end.
    fn spent(&mut self, turns: &[Turn<'_>], cost: &Ledger) {
        let first = self.answers.iter().all(|one| one.answer.tokens.is_empty());
        (if first { &mut self.prompt_cost } else { &mut self.decode_cost }).add(cost);
        for turn in turns {
            let One { answer, ended, .. } = &mut self.answers[turn.sequence];
            match (*ended, first) {
                (true, _) => {}
                (false, true) => answer.prompt_cost.add(cost),
                (false, false) => answer.decode_cost.add(cost),
            }
        }
    }

    /// Tells how far the prompts of a pass are read.
    fn read(&mut self, run: &Run<'_>, turns: &[Turn<'_>]) {
        for &Turn { sequence, .. } in turns {
            let progress = Progress::Prompt(run.positions[sequence], self.prompts[sequence].len());
            (self.progress)(sequence, progress);
        }
    }

    /// What came of it, and what the session has seen and measured.
    pub(super) fn finish(self, run: &mut Run<'_>) -> Answers {
        let (seen, times) = (run.seen.take().unwrap_or_default(), run.take_times());
        let decode_dealing = run.take_dealing();
        let Making { answers, prompt_cost, decode_cost, progress, .. } = self;
        let finished = answers.into_iter().enumerate().map(|(i, one)| one.finish(&mut |p| progress(i, p)));
        Answers { answers: finished.collect(), prompt_cost, decode_cost, decode_dealing, seen, times }
    }
}

impl One<'_> {
    /// Takes the tokens that a pass gives: the one after the token that was sent, and one more after each draft that is what
    /// would have been sent next. Says how many they are; `None` if the answer ends with them.
    fn take(
        &mut self,
        scores: &[f32],
        drafts: &[u32],
        how: &Generation,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<usize>, PrivateError> {
        let before = self.answer.tokens.len();
        let rows = scores.chunks_exact(self.model.config().vocab);
        for (row, draft) in rows.zip(drafts.iter().map(Some).chain([None])) {
            let token = how.sampling.choose(row).map_err(PrivateError::Randomness)?;
            if how.keep_logits {
                self.answer.logits.push(row.to_vec());
            }
            self.ended = self.push(token, progress)? || self.answer.tokens.len() == how.max_tokens.0;
            if self.ended || draft != Some(&token) {
                break;
            }
        }
        let gained = self.answer.tokens.len() - before;
        if before > 0 {
            self.answer.gains.push(gained);
        }
        Ok((!self.ended).then_some(gained))
    }

    /// Takes a token; says whether it ends the answer.
    fn push(&mut self, token: u32, progress: &mut dyn FnMut(Progress)) -> Result<bool, PrivateError> {
        if self.answer.tokens.is_empty() {
            self.answer.first_token = self.start.elapsed();
        }
        self.answer.tokens.push(token);
        self.answer.decoding = self.start.elapsed() - self.answer.first_token;
        let Some(stream) = &mut self.stream else { return Ok(false) };
        if self.model.tokenizer.as_ref().is_some_and(|t| t.is_eos(token)) {
            return Ok(true);
        }
        if let Some(text) = stream.push(token)? {
            self.answer.text.push_str(&text);
            progress(Progress::Text(text));
        }
        Ok(false)
    }

    fn finish(mut self, progress: &mut dyn FnMut(Progress)) -> Answer {
        if let Some(rest) = self.stream.take().and_then(StreamDecoder::finish) {
            self.answer.text.push_str(&rest);
            progress(Progress::Text(rest));
        }
        self.answer
    }
}
