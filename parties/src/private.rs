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

mod encode;
mod generate;
mod making;
mod prefill;
mod run;
mod speculate;
mod times;

use crate::client::{Client, ClientError};
use crate::ids::Digest;
use kernels::Device;
use models::checkpoint::ModelConfig;
use models::shared::{PublicModel, SharedModelError};
use models::tokenizer::{Tokenizer, TokenizerError};

pub use encode::{Classification, Embedding};
pub use generate::{Answer, Answers, Generation, MaxTokens, Progress, Reveal};
pub use prefill::prompt_passes;
pub use run::{Pass, Run, Seen, Turn};
pub use speculate::Speculation;
pub use times::{ClientSpan, Doing, PassTimes};

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
    /// Too many prompts for one session.
    #[error(
        "{sequences} prompts at once, but the parties allow {limit}; ask fewer at a time, or let their operators raise limits.max_sequences"
    )]
    TooMany {
        /// Asked for.
        sequences: usize,
        /// What the parties allow.
        limit: usize,
    },
    /// Too many prompts, or drafted tokens of each, for one pass.
    #[error(
        "a token and its drafts of all prompts are {tokens} tokens a pass, but the parties allow {limit}; ask fewer prompts at a time, draft fewer tokens, or let their operators raise limits.max_context_tokens"
    )]
    LongPass {
        /// New tokens of each pass.
        tokens: usize,
        /// What the parties allow.
        limit: usize,
    },
    /// A pass that no session can make.
    #[error("{0}")]
    Pass(String),
    /// No tokens asked for.
    #[error("0 tokens are asked for; ask for at least 1")]
    NoTokens,
    /// A token that is not in the vocabulary.
    #[error("token {0} is not in the model's vocabulary; use the model's own tokenizer")]
    UnknownToken(u32),
    /// No randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(String),
    /// Something that this model does not do.
    #[error("{model} is a {family} model, which does not {what}; {remedy}")]
    Unsuitable {
        /// Its name.
        model: String,
        /// Its family.
        family: &'static str,
        /// What was asked for.
        what: &'static str,
        /// What does.
        remedy: &'static str,
    },
    /// A model of made-up weights.
    #[error("model {0} has no tokenizer: its weights are made up, for measuring only; share a real model")]
    NoTokenizer(String),
    /// A way of choosing tokens that the parties do not have.
    #[error("the parties cannot choose tokens {0}")]
    Choice(String),
    /// Drafts that cannot be verified.
    #[error("speculative decoding {0}")]
    Speculation(String),
    /// The parties computed for another model than the description says.
    #[error("the model's description does not fit its digest; share the model again")]
    Digest,
}

/// A model that the parties share.
pub struct PrivateModel<'c> {
    client: &'c Client,
    name: String,
    digest: Digest,
    public: PublicModel,
    tokenizer: Option<Tokenizer>,
    device: Device,
    timed: bool,
}

impl<'c> PrivateModel<'c> {
    /// Fetches the model's public description, which all three parties must agree on.
    ///
    /// # Errors
    /// There is no such model, or the parties disagree.
    pub async fn open(client: &'c Client, name: &str) -> Result<PrivateModel<'c>, PrivateError> {
        let (info, metadata) = client.model_info(name).await?;
        let public = PublicModel::from_bytes(&metadata)?;
        let tokenizer = public.tokenizer.as_ref().map(Tokenizer::from_info).transpose()?;
        let device = kernels::cpu::Cpu::best();
        if Digest(public.digest(&public.plan.tables(&device, &public.config))) != info.digest {
            return Err(PrivateError::Digest);
        }
        let timed = false;
        Ok(PrivateModel { client, name: info.name, digest: info.digest, public, tokenizer, device, timed })
    }

    /// The same; the parties say where their time goes ([`Run::take_times`], [`Answer::times`]). They refuse unless
    /// their configuration allows it (`limits.report_times`).
    #[must_use]
    pub fn timed(self) -> PrivateModel<'c> {
        PrivateModel { timed: true, ..self }
    }

    /// What is public about it.
    pub fn public(&self) -> &PublicModel {
        &self.public
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.public.config
    }

    /// Its name at the parties.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// It has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, PrivateError> {
        self.tokenizer.as_ref().ok_or_else(|| PrivateError::NoTokenizer(self.name.clone()))
    }

    fn unsuitable(&self, what: &'static str, remedy: &'static str) -> PrivateError {
        let family = self.config().family.name();
        PrivateError::Unsuitable { model: self.name.clone(), family, what, remedy }
    }

    /// A user's message as a prompt in the model's chat format.
    ///
    /// # Errors
    /// The message is empty.
    pub fn chat(&self, message: &str) -> Result<Vec<u32>, PrivateError> {
        if message.trim().is_empty() {
            return Err(PrivateError::EmptyPrompt);
        }
        let tokenizer = self.tokenizer()?;
        Ok(tokenizer.encode(&tokenizer.chat(message))?)
    }

    /// Plain text as a prompt, to be continued.
    ///
    /// # Errors
    /// The text is empty.
    pub fn raw(&self, text: &str) -> Result<Vec<u32>, PrivateError> {
        if text.is_empty() {
            return Err(PrivateError::EmptyPrompt);
        }
        Ok(self.tokenizer()?.encode(text)?)
    }
}
