//! `catamount eval`: how good a model is in the clear, in fixed point and in secret.

mod score;

use crate::host::{Host, ONE_DEALER, interruptible};
use crate::output::{JsonArgument, advance, step_bar};
use crate::{block_on, model};
use models::clear::Clear;
use models::evaluation::{self, ModelKind, Task};
use models::fetch;
use models::float::{Float, complete};
use models::model::{Cache, Model, OutputRows};
use models::tokenizer::Tokenizer;
use parties::device::DeviceChoice;
use parties::owner::OwnedModel;
use parties::private::{Pass, PrivateModel, Run};
use score::{Score, Summary};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A way of computing a model.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reading {
    /// 32-bit floating point, exact functions.
    Float,
    /// The protocol's integers and tables, in the clear.
    Clear,
    /// Three party processes.
    Secure,
}

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Eval {
    /// mrpc (paraphrases, by MiniLM), sst2-router (labels of the query router), lambada (last words, by SmolLM2) or
    /// perplexity (Moby-Dick, by SmolLM2).
    #[arg(long, value_name = "TASK")]
    task: Task,
    /// How many pairs, sentences, passages or windows; by default 200, 200, 50 and 4.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Which ways of computing, separated by commas. Differences are to the first.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["float", "clear", "secure"])]
    reading: Vec<Reading>,
    #[arg(long, value_name = "MODEL", help = model::HELP)]
    model: Option<String>,
    /// Tokens of a window of the perplexity task.
    #[arg(long, value_name = "N", default_value_t = 256)]
    window: usize,
    /// Text for the perplexity task instead of Moby-Dick.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArgument,
}

/// One example, tokenised.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    /// One sequence, or the two of a pair.
    pub(crate) sequences: Vec<Vec<u32>>,
    /// Whether a pair means the same.
    pub(crate) label: bool,
    /// Position from which on tokens are to be predicted.
    pub(crate) from: usize,
}

/// The readings of one model.
struct Readings<'m> {
    float: Option<Model<Float>>,
    clear: Option<Model<Clear>>,
    secure: Option<&'m PrivateModel<'m>>,
    /// A session that serves for all sequences of an encoder.
    run: Option<Run<'m>>,
    longest: usize,
}

impl Readings<'_> {
    /// Outputs for a sequence, all rows of a decoder.
    async fn outputs(&mut self, reading: Reading, tokens: &[u32]) -> anyhow::Result<Vec<f32>> {
        let rows = OutputRows::All;
        let input = tokens.to_vec();
        match reading {
            Reading::Float => {
                let m = self.float.as_ref().expect("loaded for this reading");
                let mut cache = Cache::new(&m.config);
                Ok(complete(m.forward(&Float::default(), &input, input.len(), &mut cache, rows))?.data)
            }
            Reading::Clear => {
                let m = self.clear.as_ref().expect("loaded for this reading");
                let clear = Clear::new(&kernels::cpu::Cpu::best());
                let mut cache = Cache::new(&m.config);
                let out = complete(m.forward(&clear, &input, input.len(), &mut cache, rows))?;
                Ok(out.data.iter().map(|&v| (v as i64 as f64 / 2f64.powi(36)) as f32).collect())
            }
            Reading::Secure => {
                let m = self.secure.expect("opened for this reading");
                let pass = Pass { tokens, segment: None };
                if m.config().is_decoder() {
                    // A session remembers what it has read; each passage begins anew.
                    let mut run = m.run(rows, tokens.len()).await?;
                    let (outputs, _) = run.pass(pass).await?;
                    run.close().await?;
                    return Ok(outputs);
                }
                if self.run.is_none() {
                    self.run = Some(m.run(OutputRows::Last, self.longest).await?);
                }
                let run = self.run.as_mut().expect("just opened");
                Ok(run.pass(pass).await?.0)
            }
        }
    }
}

impl Eval {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.reading.is_empty(), "no reading; choose float, clear, secure");
        anyhow::ensure!(self.limit != Some(0), "0 examples; choose at least 1");
        let default = match self.task.model() {
            ModelKind::SentenceEncoder => "minilm",
            ModelKind::Classifier => "router",
            ModelKind::LanguageModel => "smollm2",
        };
        let name = self.model.as_deref().unwrap_or(default);
        let owned = model::load(name)?;
        self.check(&owned, name)?;
        let examples = self.examples(&owned)?;
        let secure = self.reading.contains(&Reading::Secure);
        let summary = block_on(interruptible(async {
            let host = match secure {
                true => Some(Host::local(&owned, [DeviceChoice::Cpu; 3], None, ONE_DEALER).await?),
                false => None,
            };
            let result = match &host {
                Some(host) => self.evaluate(&owned, Some(&host.model().await?), &examples).await,
                None => self.evaluate(&owned, None, &examples).await,
            };
            if let Some(host) = host {
                host.close().await;
            }
            result
        }))?;
        self.json.say(&summary.to_string());
        self.json.write(&summary)
    }

    fn check(&self, owned: &OwnedModel, name: &str) -> anyhow::Result<()> {
        use models::checkpoint::Head;
        let fits = matches!(
            (self.task.model(), owned.config().head),
            (ModelKind::SentenceEncoder, Head::MeanPooling)
                | (ModelKind::Classifier, Head::Classifier { .. })
                | (ModelKind::LanguageModel, Head::LanguageModel)
        );
        anyhow::ensure!(fits, "task {} is for a {}, which {name} is not", self.task, self.task.model());
        Ok(())
    }

    /// The first examples of the task.
    fn examples(&self, owned: &OwnedModel) -> anyhow::Result<Vec<Example>> {
        let tokenizer = owned.tokenizer.as_ref();
        let tokenizer = tokenizer.ok_or_else(|| anyhow::anyhow!("made-up weights cannot be evaluated"))?;
        let limit = self.limit.unwrap_or(match self.task {
            Task::Mrpc | Task::Sst2Router => 200,
            Task::Lambada => 50,
            Task::Perplexity => 4,
        });
        let whole = |tokens| Example { sequences: vec![tokens], label: false, from: 1 };
        let examples = match self.task {
            Task::Perplexity => {
                let path = match &self.text {
                    Some(path) => path.clone(),
                    None => model::fetched(fetch::moby_dick)?,
                };
                let windows = evaluation::text(&path, self.window, |text| all_tokens(tokenizer, text))?;
                windows.into_iter().take(limit).map(whole).collect()
            }
            _ => self.labelled(&model::fetched(fetch::evaluation_data)?, tokenizer, limit)?,
        };
        let longest = owned.public.plan.longest;
        for (i, e) in examples.iter().enumerate() {
            for s in &e.sequences {
                anyhow::ensure!(
                    s.len() <= longest,
                    "example {} of {} has {} tokens, the model takes {longest}; choose a smaller --limit or --window",
                    i + 1,
                    self.task,
                    s.len()
                );
            }
        }
        Ok(examples)
    }

    fn labelled(&self, data: &Path, t: &Tokenizer, limit: usize) -> anyhow::Result<Vec<Example>> {
        let one = |tokens, label| Example { sequences: vec![tokens], label, from: 0 };
        Ok(match self.task {
            Task::Mrpc => {
                let pair = |p: evaluation::Pair| {
                    let sequences = vec![t.encode(&p.first)?, t.encode(&p.second)?];
                    Ok(Example { sequences, label: p.label, from: 0 })
                };
                evaluation::mrpc(data)?.into_iter().take(limit).map(pair).collect::<anyhow::Result<_>>()?
            }
            Task::Sst2Router => {
                let sentence = |s: evaluation::Sentence| Ok(one(t.encode(s.text.trim())?, s.label));
                evaluation::sst2(data)?
                    .into_iter()
                    .take(limit)
                    .map(sentence)
                    .collect::<anyhow::Result<_>>()?
            }
            Task::Lambada => {
                let passage = |l: evaluation::Lambada| {
                    let (context, target) = (t.encode(&l.context)?, t.encode(&l.target)?);
                    let from = context.len();
                    Ok(Example { sequences: vec![[context, target].concat()], label: false, from })
                };
                evaluation::lambada(data)?
                    .into_iter()
                    .take(limit)
                    .map(passage)
                    .collect::<anyhow::Result<_>>()?
            }
            Task::Perplexity => unreachable!("plain text has no labels"),
        })
    }

    async fn evaluate(
        &self,
        owned: &Arc<OwnedModel>,
        secure: Option<&PrivateModel<'_>>,
        examples: &[Example],
    ) -> anyhow::Result<Summary> {
        let wants = |r: Reading| self.reading.contains(&r);
        let device = kernels::cpu::Cpu::best();
        let longest = examples.iter().flat_map(|e| &e.sequences).map(Vec::len).max().unwrap_or(1);
        let mut readings = Readings {
            float: wants(Reading::Float).then(|| owned.float()).transpose()?,
            clear: wants(Reading::Clear)
                .then(|| Clear::load(&device, &mut **owned.source(), &owned.tables))
                .transpose()?,
            secure,
            run: None,
            longest,
        };
        let mut summary = Summary::new(self.task, &self.reading);
        let bar = step_bar("evaluating");
        for (i, example) in examples.iter().enumerate() {
            advance(&bar, i as u64, examples.len() as u64);
            let mut scores: Vec<Score> = vec![];
            for (r, &reading) in self.reading.iter().enumerate() {
                let start = Instant::now();
                let mut outputs = vec![];
                for tokens in &example.sequences {
                    outputs.push(readings.outputs(reading, tokens).await?);
                }
                summary.spent(r, start.elapsed());
                scores.push(Score::of(self.task, example, outputs));
            }
            summary.add(example, scores);
        }
        bar.finish_and_clear();
        if let Some(run) = readings.run.take() {
            run.close().await?;
        }
        Ok(summary.finish())
    }
}

/// Longer texts than the tokenizer takes at once, paragraph by paragraph.
fn all_tokens(tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<u32>> {
    let mut tokens = vec![];
    for paragraph in text.split_inclusive("\n\n") {
        tokens.extend(tokenizer.encode(paragraph)?);
    }
    Ok(tokens)
}
