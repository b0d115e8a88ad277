//! Answers to prompts.

use super::making::Making;
use super::{PassTimes, PrivateError, PrivateModel, Seen, Speculation};
use crate::sampling::Sampling;
use models::shared::{Dealing, SessionOptions, Stepwise};
use protocol::Ledger;
use std::time::Duration;

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
    /// What the first token took on the network between the parties. Answers that are made side by side share their passes,
    /// and each has the costs of those in which it took part.
    pub prompt_cost: Ledger,
    /// The same for the tokens after it.
    pub decode_cost: Ledger,
    /// When the dealer worked for the tokens after the first.
    pub decode_dealing: Dealing,
    /// What each party saw of the prompt; where there were several prompts, see [`Answers::seen`].
    pub seen: Seen,
    /// Where the time of each pass went, if the model is [`PrivateModel::timed`]; for several prompts [`Answers::times`].
    pub times: Vec<PassTimes>,
}

/// Answers that were made side by side, and what they took together.
#[derive(Clone, Debug)]
pub struct Answers {
    /// In the order of the prompts.
    pub answers: Vec<Answer>,
    /// What the first tokens took on the network between the parties.
    pub prompt_cost: Ledger,
    /// The same for all tokens after them.
    pub decode_cost: Ledger,
    /// When the dealer worked for these.
    pub decode_dealing: Dealing,
    /// What each party saw of the prompts.
    pub seen: Seen,
    /// Where the time of each pass went, if the model is [`PrivateModel::timed`].
    pub times: Vec<PassTimes>,
}

impl Answers {
    /// From sending the prompts to the first token of all answers.
    pub fn first_token(&self) -> Duration {
        self.answers.iter().map(|a| a.first_token).max().unwrap_or_default()
    }

    /// From there to the last token of all answers.
    pub fn decoding(&self) -> Duration {
        let end = self.answers.iter().map(|a| a.first_token + a.decoding).max().unwrap_or_default();
        end - self.first_token()
    }

    /// Tokens of all answers together.
    pub fn tokens(&self) -> usize {
        self.answers.iter().map(|a| a.tokens.len()).sum()
    }

    /// Tokens of all answers a second, after the first of each; `None` if there are no others.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let n = self.tokens().saturating_sub(self.answers.len());
        (n > 0).then(|| n as f64 / self.decoding().as_secs_f64())
    }
}

impl Answer {
    pub(super) fn empty() -> Answer {
        Answer {
            text: String::new(),
            tokens: vec![],
            logits: vec![],
            first_token: Duration::ZERO,
            decoding: Duration::ZERO,
            gains: vec![],
            prompt_cost: Ledger::default(),
            decode_cost: Ledger::default(),
            decode_dealing: Dealing::default(),
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

    /// Answers several prompts in one session: every pass takes all of them on, so that its exchanges and its reading of the
    /// weights serve them all. Each answer is the one that [`PrivateModel::generate`] gives, and stops at its own end. Text
    /// is reported as it comes, with the number of its prompt.
    ///
    /// The parties learn the number of tokens of each prompt and, unless they choose the tokens themselves, where each
    /// answer ends.
    ///
    /// # Errors
    /// As [`PrivateModel::generate`], or there are more prompts than a party allows.
    pub async fn generate_all(
        &self,
        prompts: &[Vec<u32>],
        how: &Generation,
        progress: impl FnMut(usize, Progress),
    ) -> Result<Answers, PrivateError> {
        self.answers(prompts, how, None, progress).await
    }

    /// The answer to one prompt.
    pub(super) async fn answer(
        &self,
        prompt: &[u32],
        how: &Generation,
        speculation: Option<Speculation<'_>>,
        mut progress: impl FnMut(Progress),
    ) -> Result<Answer, PrivateError> {
        let prompts = [prompt.to_vec()];
        let Answers { mut answers, decode_dealing, seen, times, .. } =
            self.answers(&prompts, how, speculation, |_, p| progress(p)).await?;
        let answer = answers.pop().expect("an answer to each prompt");
        Ok(Answer { decode_dealing, seen, times, ..answer })
    }

    pub(super) async fn answers(
        &self,
        prompts: &[Vec<u32>],
        how: &Generation,
        speculation: Option<Speculation<'_>>,
        mut progress: impl FnMut(usize, Progress),
    ) -> Result<Answers, PrivateError> {
        if !self.config().is_decoder() {
            return Err(self.unsuitable("generate text", "use `catamount embed` or `catamount classify`"));
        }
        let new = how.max_tokens.0;
        if new == 0 {
            return Err(PrivateError::NoTokens);
        }
        prompts.iter().try_for_each(|prompt| self.check(prompt, new))?;
        let longest = prompts.iter().map(Vec::len).max().ok_or(PrivateError::EmptyPrompt)?;
        let drafts = speculation.as_ref().map_or(0, |s| s.tokens);
        self.check_passes(prompts.len(), drafts)?;
        let choice = match how.reveal {
            Reveal::Logits => None,
            Reveal::Tokens => Some(how.sampling.by_the_parties().map_err(PrivateError::Choice)?),
        };
        if let Some(choice) = &choice {
            choice.check(self.public()).map_err(PrivateError::Choice)?;
        }
        // One token a pass from the prompt on; the last token of the answer goes through no pass any more.
        let single = prompts.len() == 1 && choice.is_none() && speculation.is_none();
        let stepwise = single.then(|| Stepwise { from: longest, to: longest + new - 1 });
        let options = SessionOptions { choice, stepwise, ..SessionOptions::default() };
        let mut run = self.open_run(options, prompts.len(), longest + new).await?;
        let mut making = Making::new(self, prompts, how, &mut progress);
        let early = match choice {
            None => {
                making.by_the_client(&mut run, speculation).await?;
                false
            }
            Some(_) => making.by_the_parties(&mut run).await?,
        };
        let answers = making.finish(&mut run);
        let closed = run.close().await;
        // In the middle of a pass: whatever the parties say of that, the answers are complete.
        if !early {
            closed?;
        }
        Ok(answers)
    }
}
