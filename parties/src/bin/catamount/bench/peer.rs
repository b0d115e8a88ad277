//! `catamount bench peer`: SecretFlow-SPU and Catamount, one run of each in turn, on the same shapes.

use super::median;
use crate::host::{Host, ONE_DEALER, interruptible};
use crate::output::{JsonArgument, links, megabytes, step_bar};
use crate::processes::Folder;
use crate::{block_on, model};
use anyhow::{Context, bail};
use models::calibrate::spread_tokens;
use models::checkpoint::{ModelConfig, RandomModel};
use models::float::{Float, complete};
use models::model::{Cache, OutputRows};
use parties::device::DeviceChoice;
use parties::owner::OwnedModel;
use parties::private::Pass;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// What drives the peer; the same file for those who want to run it alone.
const SCRIPT: &str = include_str!("../../../../../examples/peer/run_spu.py");
/// Lines of the peer's messages that are shown when it fails.
const LAST_WORDS: usize = 6;

/// Arguments of `bench peer`.
#[derive(clap::Args)]
pub(crate) struct BenchPeer {
    /// The Python that has SPU, for example `venv/bin/python`.
    #[arg(long, value_name = "PATH")]
    spu_python: PathBuf,
    /// Shapes of models, with random weights.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "gpt2")]
    shape: Vec<Shape>,
    /// Runs of each, alternately.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..))]
    runs: u16,
    /// Tokens of the text; otherwise 32 for gpt2, 128 for bert-base, 8 for smollm2.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    tokens: Option<u16>,
    /// Fewer layers than the shape has, where the peer takes too long.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    layers: Option<u16>,
    #[command(flatten)]
    json: JsonArgument,
}

/// Shapes that both sides know.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Shape {
    /// GPT-2 base.
    #[value(name = "gpt2")]
    Gpt2,
    /// BERT base with a classifier.
    BertBase,
    /// SmolLM2-135M.
    #[value(name = "smollm2")]
    SmolLm2,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Shape::Gpt2 => "gpt2",
            Shape::BertBase => "bert-base",
            Shape::SmolLm2 => "smollm2",
        }
    }

    fn tokens(self) -> usize {
        match self {
            Shape::Gpt2 => 32,
            Shape::BertBase => 128,
            Shape::SmolLm2 => 8,
        }
    }
}

/// One run.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct RunFigures {
    seconds: f64,
    bytes: u64,
    /// Largest difference of an output to floating point on the same weights.
    max_error: f64,
}

/// The peer's first line.
#[derive(Debug, Deserialize)]
struct Ready {
    version: String,
    jax: String,
}

#[derive(Debug, Serialize)]
struct Figures {
    shape: &'static str,
    layers: usize,
    tokens: usize,
    spu_version: String,
    jax_version: String,
    spu: Vec<RunFigures>,
    catamount: Vec<RunFigures>,
    /// Seconds of SPU over ours.
    speed_ratio: f64,
    /// Our bytes over SPU's.
    bytes_ratio: f64,
}

impl Figures {
    fn compare(&mut self) {
        let seconds = |runs: &[RunFigures]| median(&runs.iter().map(|r| r.seconds).collect::<Vec<_>>());
        let bytes = |runs: &[RunFigures]| median(&runs.iter().map(|r| r.bytes as f64).collect::<Vec<_>>());
        self.speed_ratio = seconds(&self.spu) / seconds(&self.catamount);
        self.bytes_ratio = bytes(&self.catamount) / bytes(&self.spu);
    }
}

impl BenchPeer {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let python = &self.spu_python;
        anyhow::ensure!(
            python.is_file(),
            "there is no program {}; give the path of the Python that has SPU",
            python.display()
        );
        let mut all = vec![];
        for &shape in &self.shape {
            let mut figures = self.compare(shape)?;
            figures.compare();
            self.json.say(&format!(
                "{}: {:.1} times as fast as SPU, {:.2} of its bytes (medians of {} runs each)\n",
                figures.shape, figures.speed_ratio, figures.bytes_ratio, self.runs
            ));
            all.push(figures);
        }
        self.json.write(&all)
    }

    fn compare(&self, shape: Shape) -> anyhow::Result<Figures> {
        let mut config = ModelConfig::published(shape.name()).context("a listed shape")?;
        if let Some(layers) = self.layers.map(usize::from) {
            anyhow::ensure!(
                layers <= config.layers,
                "{} has {} layers, not {layers}",
                shape.name(),
                config.layers
            );
            config.layers = layers;
        }
        let tokens = self.tokens.map_or(shape.tokens(), usize::from);
        block_on(interruptible(async {
            self.json.say(&format!("{}: SPU shares {tokens} tokens and the weights\n", shape.name()));
            let (mut spu, ready) = Spu::start(&self.spu_python, shape, tokens, config.layers).await?;
            let progress = step_bar("finding ranges");
            let bar = progress.clone();
            let labels = model::labels(&config);
            let random = RandomModel::new(config.clone(), weights_seed()?)?;
            let owned = tokio::task::spawn_blocking(move || {
                OwnedModel::new(Box::new(random), labels, None, |done, total| {
                    crate::output::advance(&bar, done as u64, total as u64);
                })
            });
            let ours = Ours::start(Arc::new(owned.await??), tokens).await?;
            progress.finish();
            let mut figures = Figures {
                shape: shape.name(),
                layers: config.layers,
                tokens,
                spu_version: ready.version,
                jax_version: ready.jax,
                spu: vec![],
                catamount: vec![],
                speed_ratio: 0.0,
                bytes_ratio: 0.0,
            };
            for run in 1..=self.runs {
                let (theirs, ours) = (spu.run().await?, ours.run().await?);
                for (name, f) in [("SPU", theirs), ("Catamount", ours)] {
                    self.json.say(&format!(
                        "run {run}: {name:<9} {:>8.3} s, {}, largest error {:.5}\n",
                        f.seconds,
                        megabytes(f.bytes),
                        f.max_error
                    ));
                }
                figures.spu.push(theirs);
                figures.catamount.push(ours);
            }
            spu.end().await;
            ours.host.close().await;
            Ok(figures)
        }))
    }
}

fn weights_seed() -> anyhow::Result<u64> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    Ok(u64::from_le_bytes(seed))
}

/// Our three parties with the model.
struct Ours {
    host: Host,
    tokens: Vec<u32>,
    expected: Vec<f32>,
}

impl Ours {
    async fn start(owned: Arc<OwnedModel>, tokens: usize) -> anyhow::Result<Ours> {
        let config = owned.config();
        let tokens: Vec<u32> = spread_tokens(config).into_iter().cycle().take(tokens).collect();
        let (float, plain) = (owned.float()?, Float::default());
        let (mut cache, count) = (Cache::new(config), tokens.len());
        let expected = complete(float.forward(&plain, &tokens, count, &mut cache, OutputRows::Last))?.data;
        drop(float);
        let host = Host::local(&owned, [DeviceChoice::Cpu; 3], None, ONE_DEALER).await?;
        Ok(Ours { host, tokens, expected })
    }

    /// From making the client's keys to the outputs at the client.
    async fn run(&self) -> anyhow::Result<RunFigures> {
        let model = self.host.model().await?;
        let mut run = model.run(OutputRows::Last, self.tokens.len()).await?;
        let start = Instant::now();
        let (outputs, cost) = run.pass(Pass { tokens: &self.tokens, segment: None }).await?;
        let seconds = start.elapsed().as_secs_f64();
        run.close().await?;
        let errors = outputs.iter().zip(&self.expected).map(|(a, b)| f64::from((a - b).abs()));
        Ok(RunFigures { seconds, bytes: links(&cost).values().sum(), max_error: errors.fold(0.0, f64::max) })
    }
}

/// The peer: a Python process that makes one pass for each line it is sent.
struct Spu {
    child: Child,
    asks: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    folder: Folder,
}

impl Spu {
    async fn start(
        python: &Path,
        shape: Shape,
        tokens: usize,
        layers: usize,
    ) -> anyhow::Result<(Spu, Ready)> {
        let folder = Folder::new("bench-peer");
        // Fails if somebody else has put a folder there.
        std::fs::create_dir(folder.path())
            .with_context(|| format!("cannot make {}", folder.path().display()))?;
        let script = folder.path().join("run_spu.py");
        std::fs::write(&script, SCRIPT)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut child = Command::new(python)
            .arg(&script)
            .args(["--shape", shape.name(), "--tokens", &tokens.to_string(), "--layers", &layers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let asks = child.stdin.take().context("internal: no input of the peer")?;
        let output = child.stdout.take().context("internal: no output of the peer")?;
        let mut spu = Spu { child, asks, lines: BufReader::new(output).lines(), folder };
        let ready = spu.answer().await?;
        Ok((spu, ready))
    }

    async fn run(&mut self) -> anyhow::Result<RunFigures> {
        // A peer that has ended says so by its answer.
        let _ = self.asks.write_all(b"run\n").await;
        let figures: RunFigures = self.answer().await?;
        anyhow::ensure!(
            figures.seconds > 0.0 && figures.seconds.is_finite() && figures.bytes > 0,
            "the peer's figures make no sense: {figures:?}"
        );
        Ok(figures)
    }

    /// Its next line; its last words if there is none.
    async fn answer<T: for<'a> Deserialize<'a>>(&mut self) -> anyhow::Result<T> {
        match self.lines.next_line().await {
            Ok(Some(line)) => {
                serde_json::from_str(&line).with_context(|| format!("the peer answers {line:?}"))
            }
            Ok(None) | Err(_) => {
                let status = self.child.wait().await.map_or("lost".into(), |status| status.to_string());
                let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
                let log = String::from_utf8_lossy(&log).into_owned();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n");
                bail!(
                    "SPU has failed ({status}); does this Python have spu 0.9.5 and jax 0.4.34? Its last words:\n{last}"
                )
            }
        }
    }

    async fn end(self) {
        let Spu { mut child, asks, .. } = self;
        drop(asks);
        let patience = std::time::Duration::from_secs(10);
        let _ = tokio::time::timeout(patience, child.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians() {
        let run = |seconds, bytes| RunFigures { seconds, bytes, max_error: 0.0 };
        let mut figures = Figures {
            shape: "gpt2",
            layers: 1,
            tokens: 1,
            spu_version: String::new(),
            jax_version: String::new(),
            spu: vec![run(40.0, 1000), run(900.0, 1010), run(50.0, 990)],
            catamount: vec![run(2.0, 250), run(2.5, 250), run(0.1, 250)],
            speed_ratio: 0.0,
            bytes_ratio: 0.0,
        };
        figures.compare();
        assert_eq!((figures.speed_ratio, figures.bytes_ratio), (25.0, 0.25));
    }
}
