//! `catamount ask`.

use crate::block_on;
use crate::host::{Host, HostArguments, interruptible};
use crate::model::{self, Place};
use crate::output::{AnswerFigures, AnswersFigures, JsonArgument, advance, megabytes, step_bar};
use anyhow::{Context, bail};
use parties::draft::{Draft, ModelDraft, PromptLookup};
use parties::private::{
    Answer, Generation, MaxTokens, PrivateError, PrivateModel, Progress, Reveal, Speculation,
};
use parties::sampling::Sampling;
use std::path::PathBuf;

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
    /// Speculative decoding: guess K tokens ahead on your machine, by looking up where the text's last tokens stood before,
    /// and have them verified in one pass. The same answer, in fewer passes where it repeats prompt or itself (lists, code,
    /// quotations), more slowly where it does not. The parties learn how many guesses of each pass were right, which depends
    /// on the text: such numbers can tell which of several known prompts was asked (Wei et al., arXiv 2411.01076).
    #[arg(long, value_name = "K")]
    pub(crate) speculate: Option<usize>,
    /// Guess with a public model on your machine instead, much smaller than the one that is asked and with the same
    /// vocabulary: a GGUF file, a folder, org/name or smollm2.
    #[arg(long, value_name = "MODEL", requires = "speculate")]
    pub(crate) draft: Option<String>,
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
            speculate: None,
            draft: None,
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
        let how = Generation { max_tokens: MaxTokens(self.max_tokens), sampling, reveal, keep_logits: false };
        if let Some(tokens) = self.speculate {
            Speculation::check(tokens, &how)?;
        }
        Ok(how)
    }

    /// Whoever guesses ahead, if anybody is to. Loading a model takes long, so it comes before anything asynchronous.
    pub(crate) fn guesser(&self) -> anyhow::Result<Option<Guesser>> {
        let Some(tokens) = self.speculate else { return Ok(None) };
        let model = match self.draft.as_deref().map(model::find).transpose()? {
            None => None,
            Some(Place::Files(path)) => Some(
                ModelDraft::load(&path).with_context(|| format!("cannot draft with {}", path.display()))?,
            ),
            Some(Place::Random(..)) => bail!("made-up weights guess nothing; give --draft a real model"),
        };
        Ok(Some(Guesser { tokens, model, lookup: PromptLookup }))
    }

    /// The prompt's tokens.
    pub(crate) fn tokens(&self, model: &PrivateModel<'_>, prompt: &str) -> anyhow::Result<Vec<u32>> {
        Ok(if self.raw { model.raw(prompt)? } else { model.chat(prompt)? })
    }
}

/// Who guesses ahead.
pub(crate) struct Guesser {
    tokens: usize,
    model: Option<ModelDraft>,
    /// Without a model.
    lookup: PromptLookup,
}

impl Guesser {
    /// For an answer of this model.
    fn speculation(&mut self, shared: &PrivateModel<'_>) -> anyhow::Result<Speculation<'_>> {
        let draft: &mut dyn Draft = match &mut self.model {
            None => &mut self.lookup,
            Some(model) => {
                model.check(shared.tokenizer()?)?;
                model
            }
        };
        Ok(Speculation { tokens: self.tokens, draft })
    }
}

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Ask {
    /// What to ask. Several questions are answered side by side in one session, which costs little more time than one; the
    /// parties learn which of them belong together, and the length of each.
    #[arg(value_name = "PROMPT", required_unless_present = "prompts")]
    asked: Vec<String>,
    /// Ask what is in FILE, one prompt a line.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
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
        let prompts = self.all_prompts()?;
        let generations = prompts.iter().map(|p| self.generation.generation(p));
        let generations = generations.collect::<anyhow::Result<Vec<_>>>()?;
        let generation = generations.into_iter().next().ok_or(PrivateError::EmptyPrompt)?;
        let mut guesser = self.generation.guesser()?;
        let owned = self.host.prepare("smollm2")?;
        block_on(interruptible(async {
            let host = self.host.open("smollm2", owned).await?;
            let result = match &prompts[..] {
                [prompt] => self.one(&host, prompt, &generation, guesser.as_mut()).await,
                _ => self.all(&host, &prompts, &generation, guesser.as_mut()).await,
            };
            host.close().await;
            result
        }))
    }

    /// Those of the command line, then those of the file.
    fn all_prompts(&self) -> anyhow::Result<Vec<String>> {
        let mut prompts = self.asked.clone();
        if let Some(file) = &self.prompts {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read prompts from {}", file.display()))?;
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            let before = prompts.len();
            prompts.extend(lines.map(str::to_owned));
            anyhow::ensure!(
                prompts.len() > before,
                "{} has no prompts; write one on each line",
                file.display()
            );
        }
        Ok(prompts)
    }

    async fn one(
        &self,
        host: &Host,
        prompt: &str,
        generation: &Generation,
        guesser: Option<&mut Guesser>,
    ) -> anyhow::Result<()> {
        let model = host.model().await?;
        let tokens = self.generation.tokens(&model, prompt)?;
        let answer = stream(&model, &tokens, generation, guesser, &self.json).await?;
        let figures = AnswerFigures::of(&answer);
        let all = &figures.all;
        eprintln!(
            "{} tokens, first after {} s{}, {} exchanges, {} between the parties",
            all.tokens,
            all.first_token_s,
            all.tokens_per_s.map(|t| format!(", then {t} a second")).unwrap_or_default(),
            all.exchanges,
            megabytes(all.bytes.values().sum())
        );
        if let Some(speculation) = figures.speculation() {
            eprintln!("{speculation}");
        }
        self.json.write(&serde_json::json!({ "text": answer.text, "figures": figures }))
    }

    /// Several prompts side by side. Their texts come all at once, so each is printed when all are complete.
    async fn all(
        &self,
        host: &Host,
        prompts: &[String],
        generation: &Generation,
        guesser: Option<&mut Guesser>,
    ) -> anyhow::Result<()> {
        let model = host.model().await?;
        let tokens: Vec<Vec<u32>> =
            prompts.iter().map(|p| self.generation.tokens(&model, p)).collect::<Result<_, _>>()?;
        let bar = step_bar("reading prompts");
        bar.enable_steady_tick(std::time::Duration::from_millis(200));
        let (all, most) =
            (tokens.iter().map(Vec::len).sum::<usize>(), prompts.len() * generation.max_tokens.0);
        let (mut read, mut made) = (vec![0; prompts.len()], 0);
        let progress = |sequence: usize, p| match p {
            Progress::Prompt(done, _) => {
                read[sequence] = done;
                advance(&bar, read.iter().sum::<usize>() as u64, all as u64);
            }
            Progress::Text(_) => {
                made += 1;
                bar.set_message("writing answers");
                advance(&bar, made, most as u64);
            }
        };
        let answers = match guesser {
            None => model.generate_all(&tokens, generation, progress).await,
            Some(guesser) => {
                let speculation = guesser.speculation(&model)?;
                model.speculate_all(&tokens, generation, speculation, progress).await
            }
        };
        bar.finish_and_clear();
        let answers = answers?;
        for (prompt, answer) in prompts.iter().zip(&answers.answers) {
            self.json.say(&format!("> {prompt}\n{}\n\n", answer.text));
        }
        let figures = AnswersFigures::of(&answers);
        eprintln!(
            "{} answers, {} tokens, first of each after {} s{}, {} exchanges, {} between the parties",
            prompts.len(),
            figures.tokens,
            figures.first_token_s,
            figures.tokens_per_s.map(|t| format!(", then {t} a second of all")).unwrap_or_default(),
            figures.exchanges,
            megabytes(figures.bytes.values().sum())
        );
        if self.generation.speculate.is_some() {
            for (prompt, answer) in prompts.iter().zip(&answers.answers) {
                if let Some(speculation) = AnswerFigures::of(answer).speculation() {
                    eprintln!("> {prompt}: {speculation}");
                }
            }
        }
        let each: Vec<_> = prompts
            .iter()
            .zip(&answers.answers)
            .map(|(prompt, a)| {
                serde_json::json!({ "prompt": prompt, "text": a.text, "tokens": a.tokens.len(), "gains": a.gains })
            })
            .collect();
        self.json.write(&serde_json::json!({ "answers": each, "figures": figures }))
    }
}

/// Generates, printing text as it comes.
pub(crate) async fn stream(
    model: &PrivateModel<'_>,
    tokens: &[u32],
    generation: &Generation,
    guesser: Option<&mut Guesser>,
    out: &JsonArgument,
) -> anyhow::Result<Answer> {
    let bar = step_bar("reading prompt");
    advance(&bar, 0, tokens.len() as u64);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let progress = |p| match p {
        Progress::Prompt(done, total) => {
            advance(&bar, done as u64, total as u64);
            if done == total {
                bar.finish_and_clear();
            }
        }
        Progress::Text(text) => out.say(&text),
    };
    let answer = match guesser {
        None => model.generate(tokens, generation, progress).await,
        Some(guesser) => {
            let speculation = guesser.speculation(model)?;
            model.speculate(tokens, generation, speculation, progress).await
        }
    };
    bar.finish_and_clear();
    let answer = answer?;
    out.say("\n");
    Ok(answer)
}
