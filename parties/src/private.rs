//! A shared model as its client sees it: a prompt goes in, tokens come out, and nobody else learns either.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use parties::{client::Client, cluster::ClusterConfig, private::{Generation, PrivateModel}};
//! let cluster = ClusterConfig::load("cluster/client.toml".as_ref())?;
//! let client = Client::connect(&cluster).await?;
//! let model = PrivateModel::open(&client, "smollm2").await?;
//! let prompt = model.chat("What is the capital of France?")?;
//! let answer = model.generate(&prompt, &Generation::default(), |_| ()).await?;
//! println!("{}", answer.text);
//! # Ok(()) }
//! ```

use crate::client::{Client, ClientError, PassOutput, Session, SessionOptions};
use crate::ids::Digest;
use crate::owner::random;
use crate::sampling::Sampling;
use kernels::Device;
use models::shared::{PublicModel, SharedModelError, client as shares};
use models::tokenizer::{Tokenizer, TokenizerError};
use protocol::Ledger;
use std::time::{Duration, Instant};

/// Tokens of the prompt that go through the model at once.
const PREFILL: usize = 128;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// The parties.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The model's description, or what the parties answered.
    #[error(transparent)]
    Model(#[from] SharedModelError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Nothing to answer.
    #[error("the prompt is empty; write at least one word")]
    EmptyPrompt,
    /// Too much to answer.
    #[error(
        "the prompt has {prompt} tokens and {new} more are asked for, but the limit is {limit}; shorten the prompt or ask for fewer tokens"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        new: usize,
        /// What model and parties allow.
        limit: usize,
    },
    /// No tokens asked for.
    #[error("0 tokens are asked for; ask for at least 1")]
    NoTokens,
    /// A token that is not in the vocabulary.
    #[error("token {0} is not in the model's vocabulary; use the model's own tokenizer")]
    UnknownToken(u32),
    /// No randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(String),
    /// The parties computed for another model than the description says.
    #[error("the model's description does not fit its digest; share the model again")]
    Digest,
}

/// How to generate.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Most tokens of the answer.
    pub max_tokens: MaxTokens,
    /// How a token is chosen from the scores, on the client's machine.
    pub sampling: Sampling,
    /// Keep every step's output scores in the answer.
    pub keep_logits: bool,
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

/// The first words that each party received of the prompt: what it knows of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Seen {
    /// Hexadecimal words, by role.
    pub words: [Vec<String>; 3],
}

/// An answer and what it took.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Output scores before each token, if asked for.
    pub logits: Vec<Vec<f32>>,
    /// From sending the prompt to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decoding: Duration,
    /// What the first token took on the network between the parties.
    pub prompt_cost: Ledger,
    /// The same for the tokens after it.
    pub decode_cost: Ledger,
    /// What each party saw of the prompt.
    pub seen: Seen,
}

impl Answer {
    /// Tokens a second after the first; `None` if there is only one.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let n = self.tokens.len().saturating_sub(1);
        (n > 0).then(|| n as f64 / self.decoding.as_secs_f64())
    }
}

/// A model that the parties share.
pub struct PrivateModel<'c> {
    client: &'c Client,
    name: String,
    digest: Digest,
    public: PublicModel,
    tokenizer: Tokenizer,
    device: Device,
}

impl<'c> PrivateModel<'c> {
    /// Fetches the model's public description, which all three parties must agree on.
    ///
    /// # Errors
    /// There is no such model, or the parties disagree.
    pub async fn open(client: &'c Client, name: &str) -> Result<PrivateModel<'c>, PrivateError> {
        let (info, metadata) = client.model_info(name).await?;
        let public = PublicModel::from_bytes(&metadata)?;
        let tokenizer = Tokenizer::from_info(&public.tokenizer)?;
        let device = kernels::cpu::Cpu::best();
        if Digest(public.digest(&public.plan.tables(&device, &public.config))) != info.digest {
            return Err(PrivateError::Digest);
        }
        Ok(PrivateModel { client, name: info.name, digest: info.digest, public, tokenizer, device })
    }

    /// What is public about it.
    pub fn public(&self) -> &PublicModel {
        &self.public
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// A user's message as a prompt in the model's chat format.
    ///
    /// # Errors
    /// The message is empty.
    pub fn chat(&self, message: &str) -> Result<Vec<u32>, PrivateError> {
        if message.trim().is_empty() {
            return Err(PrivateError::EmptyPrompt);
        }
        Ok(self.tokenizer.encode(&self.tokenizer.chat(message))?)
    }

    /// Plain text as a prompt, to be continued.
    ///
    /// # Errors
    /// The text is empty.
    pub fn raw(&self, text: &str) -> Result<Vec<u32>, PrivateError> {
        if text.is_empty() {
            return Err(PrivateError::EmptyPrompt);
        }
        Ok(self.tokenizer.encode(text)?)
    }

    /// Answers a prompt. Text is reported as it comes.
    ///
    /// # Errors
    /// The prompt does not fit, or a party fails.
    pub async fn generate(
        &self,
        prompt: &[u32],
        how: &Generation,
        mut progress: impl FnMut(Progress),
    ) -> Result<Answer, PrivateError> {
        let (vocab, new) = (self.public.config.vocab, how.max_tokens.0);
        let limit = self.public.plan.longest.min(self.client.limits().max_context_tokens as usize);
        match prompt.iter().find(|&&t| t as usize >= vocab) {
            _ if prompt.is_empty() => return Err(PrivateError::EmptyPrompt),
            _ if new == 0 => return Err(PrivateError::NoTokens),
            _ if prompt.len().saturating_add(new) > limit => {
                return Err(PrivateError::TooLong { prompt: prompt.len(), new, limit });
            }
            Some(&t) => return Err(PrivateError::UnknownToken(t)),
            None => {}
        }
        let options = SessionOptions {
            model: self.name.clone(),
            digest: self.digest,
            context_tokens: (prompt.len() + new) as u32,
            options: vec![],
        };
        let mut run =
            Run { model: self, session: self.client.open_session(options).await?, position: 0, seen: None };
        let start = Instant::now();
        let mut stream = self.tokenizer.stream(true);
        let mut answer = Answer {
            text: String::new(),
            tokens: vec![],
            logits: vec![],
            first_token: Duration::ZERO,
            decoding: Duration::ZERO,
            prompt_cost: Ledger::default(),
            decode_cost: Ledger::default(),
            seen: Seen { words: Default::default() },
        };
        let mut logits = vec![];
        for part in prompt.chunks(PREFILL) {
            let (scores, cost) = run.pass(part).await?;
            logits = scores;
            answer.prompt_cost.add(&cost);
            progress(Progress::Prompt(run.position, prompt.len()));
        }
        loop {
            let token = how.sampling.choose(&logits).map_err(PrivateError::Randomness)?;
            if answer.tokens.is_empty() {
                answer.first_token = start.elapsed();
            }
            answer.tokens.push(token);
            if how.keep_logits {
                answer.logits.push(std::mem::take(&mut logits));
            }
            if self.tokenizer.is_eos(token) {
                break;
            }
            if let Some(text) = stream.push(token)? {
                answer.text.push_str(&text);
                progress(Progress::Text(text));
            }
            if answer.tokens.len() == new {
                break;
            }
            let (scores, cost) = run.pass(&[token]).await?;
            logits = scores;
            answer.decode_cost.add(&cost);
        }
        answer.decoding = start.elapsed() - answer.first_token;
        if let Some(rest) = stream.finish() {
            answer.text.push_str(&rest);
            progress(Progress::Text(rest));
        }
        answer.seen = run.seen.unwrap_or(answer.seen);
        run.session.close().await?;
        Ok(answer)
    }
}

/// One session under way.
struct Run<'m, 'c> {
    model: &'m PrivateModel<'c>,
    session: Session,
    position: usize,
    seen: Option<Seen>,
}

impl Run<'_, '_> {
    /// Sends tokens as shares, puts the evaluators' messages together.
    async fn pass(&mut self, tokens: &[u32]) -> Result<(Vec<f32>, Ledger), PrivateError> {
        let m = self.model;
        let seed = || random().map_err(|e| PrivateError::Randomness(e.to_string()));
        let vocab = m.public.config.vocab;
        let parts = shares::split_tokens(&m.device, vocab, tokens, seed()?, seed()?);
        if self.seen.is_none() {
            self.seen = Some(Seen { words: parts.each_ref().map(|p| first_words(p)) });
        }
        let PassOutput(outputs) = self.session.pass(self.position as u64, tokens.len() as u32, parts).await?;
        self.position += tokens.len();
        let damaged = |e: String| PrivateError::Model(SharedModelError::Damaged(e));
        let mut ledgers = vec![];
        let mut messages = vec![];
        for output in &outputs {
            let (ledger, message) = split_output(output).map_err(damaged)?;
            ledgers.push(ledger);
            messages.push(message);
        }
        let logits = shares::combine_logits(&m.device, messages[1], messages[2], vocab)?;
        Ok((logits, Ledger::merge(&ledgers)))
    }
}

/// A party's account of the pass, then its message.
fn split_output(output: &[u8]) -> Result<(Ledger, &[u8]), String> {
    let (length, rest) = output.split_first_chunk::<4>().ok_or("an answer without a beginning")?;
    let (ledger, message) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("a truncated answer")?;
    Ok((serde_json::from_slice(ledger).map_err(|e| e.to_string())?, message))
}

/// The first four words of a part, behind an evaluator's seed.
fn first_words(part: &[u8]) -> Vec<String> {
    let from = if part.len() > 64 { 32 } else { 0 };
    part[from..]
        .chunks_exact(8)
        .take(4)
        .map(|w| format!("{:016x}", u64::from_le_bytes(w.try_into().expect("8 bytes"))))
        .collect()
}
