//! Answers to prompts.

use super::run::split_outputs;
use super::times::Doing;
use super::{Pass, PassTimes, PrivateError, PrivateModel, Run, Seen, Speculation};
use crate::client::PassOutput;
use crate::sampling::Sampling;
use models::shared::{SessionOptions, client as shares};
use models::tokenizer::StreamDecoder;
use protocol::Ledger;
use std::time::{Duration, Instant};

/// Tokens of the prompt that go through the model at once.
const PREFILL: usize = 128;

/// Passes that a prompt of so many tokens takes.
pub fn prompt_passes(tokens: usize) -> usize {
    tokens.div_ceil(PREFILL)
}

/// How to generate.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Most tokens of the answer.
    pub max_tokens: MaxTokens,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Who chooses it.
    pub reveal: Reveal,
    /// Keep every step's output scores in the answer.
    pub keep_logits: bool,
}

/// What the client gets to see, which decides who chooses tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reveal {
    /// Output scores: the client chooses, and sends each token back.
    #[default]
    Logits,
    /// Tokens only: the parties choose on shares, and go on without the client.
    Tokens,
}

/// Most tokens of an answer; 64 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxTokens(pub usize);

impl Default for MaxTokens {
    fn default() -> Self {
        MaxTokens(64)
    }
}

/// What happens while an answer is made.
#[derive(Clone, Debug)]
pub enum Progress {
    /// So many tokens of the prompt of so many have been read.
    Prompt(usize, usize),
    /// More text.
    Text(String),
}

/// An answer and what it took.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Output scores before each token, if asked for and revealed.
    pub logits: Vec<Vec<f32>>,
    /// From sending the prompt to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decoding: Duration,
    /// Tokens that each pass after the prompt gave: 1, or more by speculation. The parties know these numbers.
    pub gains: Vec<usize>,
    /// What the first token took on the network between the parties.
    pub prompt_cost: Ledger,
    /// The same for the tokens after it.
    pub decode_cost: Ledger,
    /// What each party saw of the prompt.
    pub seen: Seen,
    /// Where the time of each pass went, if the model is [`PrivateModel::timed`].
    pub times: Vec<PassTimes>,
}

impl Answer {
    fn empty() -> Answer {
        Answer {
            text: String::new(),
            tokens: vec![],
            logits: vec![],
            first_token: Duration::ZERO,
            decoding: Duration::ZERO,
            gains: vec![],
            prompt_cost: Ledger::default(),
            decode_cost: Ledger::default(),
            seen: Seen::default(),
            times: vec![],
        }
    }

    /// Tokens that a pass after the prompt gave on average; `None` if there was none.
    pub fn tokens_per_pass(&self) -> Option<f64> {
        let passes = self.gains.len();
        (passes > 0).then(|| self.gains.iter().sum::<usize>() as f64 / passes as f64)
    }

    /// Tokens a second after the first; `None` if there is only one.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let n = self.tokens.len().saturating_sub(1);
        (n > 0).then(|| n as f64 / self.decoding.as_secs_f64())
    }
}

impl PrivateModel<'_> {
    /// Answers a prompt. Text is reported as it comes.
    ///
    /// # Errors
    /// The prompt does not fit, the model does not generate, or a party fails.
    pub async fn generate(
        &self,
        prompt: &[u32],
        how: &Generation,
        progress: impl FnMut(Progress),
    ) -> Result<Answer, PrivateError> {
        self.answer(prompt, how, None, progress).await
    }

    pub(super) async fn answer(
        &self,
        prompt: &[u32],
        how: &Generation,
        speculation: Option<Speculation<'_>>,
        mut progress: impl FnMut(Progress),
    ) -> Result<Answer, PrivateError> {
        if !self.config().is_decoder() {
            return Err(self.unsuitable("generate text", "use `catamount embed` or `catamount classify`"));
        }
        let new = how.max_tokens.0;
        if new == 0 {
            return Err(PrivateError::NoTokens);
        }
        self.check(prompt, new)?;
        let choice = match how.reveal {
            Reveal::Logits => None,
            Reveal::Tokens => Some(how.sampling.by_the_parties().map_err(PrivateError::Choice)?),
        };
        if let Some(choice) = &choice {
            choice.check(self.public()).map_err(PrivateError::Choice)?;
        }
        let options = SessionOptions { choice, ..SessionOptions::default() };
        let run = self.open_run(options, prompt.len() + new).await?;
        let start = Instant::now();
        let tokenizer = self.tokenizer.as_ref();
        let mut making = Making {
            start,
            stream: tokenizer.map(|t| t.stream(true)),
            model: self,
            answer: Answer::empty(),
            progress: &mut progress,
        };
        match choice {
            None => making.by_the_client(run, prompt, how, speculation).await?,
            Some(_) => making.by_the_parties(run, prompt, new).await?,
        }
        making.finish()
    }
}

/// An answer in the making.
struct Making<'a> {
    start: Instant,
    stream: Option<StreamDecoder<'a>>,
    model: &'a PrivateModel<'a>,
    answer: Answer,
    progress: &'a mut dyn FnMut(Progress),
}

impl Making<'_> {
    /// Scores come to the client, tokens go back, followed by guesses if there is something that makes them.
    async fn by_the_client(
        &mut self,
        mut run: Run<'_>,
        prompt: &[u32],
        how: &Generation,
        mut speculation: Option<Speculation<'_>>,
    ) -> Result<(), PrivateError> {
        let mut scores = vec![];
        for tokens in prompt.chunks(PREFILL) {
            let (last, cost) = run.pass(Pass { tokens, segment: None }).await?;
            scores = last;
            self.answer.prompt_cost.add(&cost);
            (self.progress)(Progress::Prompt(run.position, prompt.len()));
        }
        let mut drafts = vec![];
        while let Some(gained) = self.take(&scores, &drafts, how)? {
            run.take_back(drafts.len() + 1 - gained);
            if let Some(speculation) = &mut speculation {
                let text = [prompt, &self.answer.tokens].concat();
                let room = how.max_tokens.0 - self.answer.tokens.len();
                drafts = speculation.propose(&text, room, self.model.config().vocab);
            }
            let token = *self.answer.tokens.last().expect("a pass gives a token");
            let (rows, cost) = run.verify(token, &drafts).await?;
            scores = rows;
            self.answer.decode_cost.add(&cost);
        }
        self.keep(&mut run);
        run.close().await
    }

    /// What the session has seen and measured.
    fn keep(&mut self, run: &mut Run<'_>) {
        self.answer.seen = run.seen.take().unwrap_or_default();
        self.answer.times = run.take_times();
    }

    /// Takes the tokens that a pass gives: the one after the token that was sent, and one more after each draft that is what
    /// would have been sent next. Says how many they are; `None` if the answer ends with them.
    fn take(
        &mut self,
        scores: &[f32],
        drafts: &[u32],
        how: &Generation,
    ) -> Result<Option<usize>, PrivateError> {
        let before = self.answer.tokens.len();
        let rows = scores.chunks_exact(self.model.config().vocab);
        let mut ended = false;
        for (row, draft) in rows.zip(drafts.iter().map(Some).chain([None])) {
            let token = how.sampling.choose(row).map_err(PrivateError::Randomness)?;
            if how.keep_logits {
                self.answer.logits.push(row.to_vec());
            }
            ended = self.push(token)? || self.answer.tokens.len() == how.max_tokens.0;
            if ended || draft != Some(&token) {
                break;
            }
        }
        let gained = self.answer.tokens.len() - before;
        if before > 0 {
            self.answer.gains.push(gained);
        }
        Ok((!ended).then_some(gained))
    }

    /// The parties choose token after token; the client only listens, and leaves when the answer ends.
    async fn by_the_parties(
        &mut self,
        mut run: Run<'_>,
        prompt: &[u32],
        new: usize,
    ) -> Result<(), PrivateError> {
        let m = self.model;
        let mut chunks = prompt.chunks(PREFILL).peekable();
        while let Some(tokens) = chunks.next() {
            let parts = run.parts(tokens)?;
            let last = chunks.peek().is_none();
            let pass = run.wire_pass(Pass { tokens, segment: None }, if last { new } else { 0 });
            run.times.turn(Doing::Waits);
            run.session.begin(pass, parts).await?;
            run.advance(tokens.len());
            while let Some(PassOutput(outputs)) = run.session.next_output().await? {
                let (cost, [_, p1, p2]) = split_outputs(&outputs, &mut run.times)?;
                run.times.end();
                run.times.turn(Doing::Waits);
                let first = self.answer.tokens.is_empty();
                let total = if first { &mut self.answer.prompt_cost } else { &mut self.answer.decode_cost };
                total.add(&cost);
                if !last {
                    continue;
                }
                if first {
                    (self.progress)(Progress::Prompt(run.position, prompt.len()));
                }
                if !first {
                    self.answer.gains.push(1);
                }
                let token = shares::combine_token(&m.device, m.config().vocab, p1, p2)?;
                if self.push(token)? {
                    // In the middle of a pass: whatever the parties say of that, the answer is complete.
                    self.keep(&mut run);
                    let _ = run.close().await;
                    return Ok(());
                }
            }
            (self.progress)(Progress::Prompt(run.position, prompt.len()));
        }
        self.keep(&mut run);
        run.close().await
    }

    /// Takes a token; says whether it ends the answer.
    fn push(&mut self, token: u32) -> Result<bool, PrivateError> {
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
            (self.progress)(Progress::Text(text));
        }
        Ok(false)
    }

    fn finish(mut self) -> Result<Answer, PrivateError> {
        if let Some(rest) = self.stream.take().and_then(StreamDecoder::finish) {
            self.answer.text.push_str(&rest);
            (self.progress)(Progress::Text(rest));
        }
        Ok(self.answer)
    }
}
