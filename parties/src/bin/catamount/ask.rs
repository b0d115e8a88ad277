//! `catamount ask`.

use crate::block_on;
use crate::host::{Host, HostArguments, interruptible};
use crate::output::{AnswerFigures, JsonArgument, advance, megabytes, step_bar};
use parties::private::{Answer, Generation, MaxTokens, PrivateError, PrivateModel, Progress, Reveal};
use parties::sampling::Sampling;

/// How to generate.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct GenerationArguments {
    /// Most tokens of the answer.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) max_tokens: usize,
    /// Continue the prompt as plain text instead of putting it into the model's chat format.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Randomness of the choice of tokens; 0 takes the likeliest.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Choose among the likeliest tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Choose among so many of the likeliest tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: u32,
    /// What you get to see. `logits`: output scores, from which tokens are chosen on your machine; you learn more about
    /// the model, and each token takes a round trip. `tokens`: tokens alone; the parties choose them on shares, with
    /// randomness that no single one of them knows, and learn neither scores nor tokens.
    #[arg(long, value_enum, default_value_t = RevealArgument::Logits)]
    pub(crate) reveal: RevealArgument,
}

/// What the client sees.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub(crate) enum RevealArgument {
    /// Output scores.
    Logits,
    /// Tokens.
    Tokens,
}

impl Default for GenerationArguments {
    fn default() -> GenerationArguments {
        GenerationArguments {
            max_tokens: 64,
            raw: false,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            reveal: RevealArgument::Logits,
        }
    }
}

impl GenerationArguments {
    /// For the library. What can never be answered is refused before anything is started.
    pub(crate) fn generation(&self, prompt: &str) -> anyhow::Result<Generation> {
        anyhow::ensure!(self.max_tokens > 0, PrivateError::NoTokens);
        anyhow::ensure!(!prompt.trim().is_empty(), PrivateError::EmptyPrompt);
        let sampling = Sampling::new(self.temperature, self.top_p, self.top_k).map_err(anyhow::Error::msg)?;
        let reveal = match self.reveal {
            RevealArgument::Logits => Reveal::Logits,
            RevealArgument::Tokens => {
                sampling.by_the_parties().map_err(PrivateError::Choice)?;
                Reveal::Tokens
            }
        };
        Ok(Generation { max_tokens: MaxTokens(self.max_tokens), sampling, reveal, keep_logits: false })
    }

    /// The prompt's tokens.
    pub(crate) fn tokens(&self, model: &PrivateModel<'_>, prompt: &str) -> anyhow::Result<Vec<u32>> {
        Ok(if self.raw { model.raw(prompt)? } else { model.chat(prompt)? })
    }
}

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Ask {
    /// What to ask.
    prompt: String,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    generation: GenerationArguments,
    #[command(flatten)]
    json: JsonArgument,
}

impl Ask {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let generation = self.generation.generation(&self.prompt)?;
        let owned = self.host.prepare("smollm2")?;
        block_on(interruptible(async {
            let host = self.host.open("smollm2", owned).await?;
            let result = self.on(&host, &generation).await;
            host.close().await;
            result
        }))
    }

    async fn on(&self, host: &Host, generation: &Generation) -> anyhow::Result<()> {
        let model = host.model().await?;
        let tokens = self.generation.tokens(&model, &self.prompt)?;
        let answer = stream(&model, &tokens, generation, &self.json).await?;
        let figures = AnswerFigures::of(&answer);
        eprintln!(
            "{} tokens, first after {} s{}, {} exchanges, {} between the parties",
            figures.tokens,
            figures.first_token_s,
            figures.tokens_per_s.map(|t| format!(", then {t} a second")).unwrap_or_default(),
            figures.exchanges,
            megabytes(figures.bytes.values().sum())
        );
        self.json.write(&serde_json::json!({ "text": answer.text, "figures": figures }))
    }
}

/// Generates, printing text as it comes.
pub(crate) async fn stream(
    model: &PrivateModel<'_>,
    tokens: &[u32],
    generation: &Generation,
    out: &JsonArgument,
) -> anyhow::Result<Answer> {
    let bar = step_bar("reading prompt");
    advance(&bar, 0, tokens.len() as u64);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let answer = model
        .generate(tokens, generation, |p| match p {
            Progress::Prompt(done, total) => {
                advance(&bar, done as u64, total as u64);
                if done == total {
                    bar.finish_and_clear();
                }
            }
            Progress::Text(text) => out.say(&text),
        })
        .await;
    bar.finish_and_clear();
    let answer = answer?;
    out.say("\n");
    Ok(answer)
}
