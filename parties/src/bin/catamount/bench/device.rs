//! `catamount bench device`: what one device achieves beside what it could, each figure after a check that its results
//! are those of the processor, bit for bit.

mod local;
mod published;

use crate::output::JsonArgument;
use anyhow::ensure;
use kernels::cpu::Cpu;
use kernels::{Device, KeyStream, Matrix, Words};
use parties::device::DeviceChoice;
use protocol::Key;
use protocol::gates::input::PIECE;
use published::Published;
use rayon::prelude::*;
use serde::Serialize;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct BenchDevice {
    /// cpu, cuda (the first GPU) or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Seconds for each figure; the best of all runs in that time counts.
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    seconds: f64,
    /// Rows that go through a gate at once.
    #[arg(long, value_name = "N", default_value_t = 32)]
    tokens: usize,
    #[command(flatten)]
    json: JsonArgument,
}

/// One figure.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    size: String,
    unit: &'static str,
    achieved: f64,
    /// A ceiling by a published rate, which cannot be passed; or what a loop that does nothing else was measured to reach here,
    /// which another one may pass a little.
    attainable: Option<f64>,
    /// Where that comes from; why there is none.
    source: &'static str,
}

#[derive(Serialize)]
struct Figures {
    device: String,
    reference: String,
    memory_free_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    /// Every result was compared with the reference's on fresh random inputs.
    exact: bool,
    figures: Vec<Figure>,
    gates: Vec<local::Gate>,
}

const UNKNOWN: &str = "unknown";
const DATA_SHEET: &str = "data sheet";
const STREAM_ALONE: &str = "ChaCha12 by itself, here";
const PLAIN_LOOP: &str = "a plain loop over the same memory on all cores";

/// Sizes of the figures: those of LLaMA-7B where there is a GPU, what takes a fraction of a second elsewhere.
struct Sizes {
    rows: usize,
    inputs: usize,
    outputs: usize,
    stream: usize,
}

impl BenchDevice {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        ensure!(
            self.seconds.is_finite() && (0.01..=600.0).contains(&self.seconds),
            "--seconds {} measures nothing; give 0.01 to 600",
            self.seconds
        );
        ensure!((1..=1024).contains(&self.tokens), "give 1 to 1024 tokens");
        let device = self.device.open()?;
        // The plain code is the reference for the fast code of the processor, that for everything else.
        let on_cpu = self.device == DeviceChoice::Cpu;
        let reference: Device = if on_cpu { Arc::new(Cpu::scalar()) } else { Cpu::best() };
        let published = Published::of(&device.name());
        let sizes = if on_cpu {
            Sizes { rows: 32, inputs: 2048, outputs: 5504, stream: 1 << 22 }
        } else {
            Sizes { rows: 128, inputs: 4096, outputs: 11008, stream: 1 << 26 }
        };
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let bench = Bench {
            device: &device,
            reference: &reference,
            seed,
            time: Duration::from_secs_f64(self.seconds),
        };
        let stream = bench.stream(&sizes, published)?;
        let figures = vec![
            bench.product(&sizes, published)?,
            bench.one_row(&sizes, published, on_cpu)?,
            bench.one_row_made(&sizes, stream.achieved)?,
            stream,
            bench.round_trip()?,
        ];
        let gates = local::gates(&device, &reference, self.tokens)?;
        let (free, total) = device.memory().unzip();
        let figures = Figures {
            device: device.name(),
            reference: reference.name(),
            memory_free_bytes: free,
            memory_total_bytes: total,
            exact: true,
            figures,
            gates,
        };
        self.json.say(&text(&figures));
        self.json.write(&figures)
    }
}

struct Bench<'d> {
    device: &'d Device,
    reference: &'d Device,
    seed: Key,
    time: Duration,
}

impl Bench<'_> {
    fn random(&self, device: &Device, stream: u64, n: usize) -> Words {
        Words::chacha12(device, &self.seed, stream, n, 64)
    }

    /// Fails unless `f` gives the same words on both devices. These come back from the device, which must be well after it.
    fn check(&self, what: &str, f: impl Fn(&Device) -> Words) -> anyhow::Result<()> {
        let (seen, expected) = (f(self.device).to_vec(), f(self.reference).to_vec());
        self.device.status()?;
        ensure!(
            seen == expected,
            "{} computes {what} wrongly (the reference is {}): do not use it, and report this with its driver's version",
            self.device.name(),
            self.reference.name()
        );
        Ok(())
    }

    /// Seconds of one run of `f`, the best of many. Work is queued on some devices: the clock stops when a word of the
    /// result is back.
    fn best(&self, f: impl Fn() -> Words) -> anyhow::Result<f64> {
        let (begun, mut best) = (Instant::now(), f64::MAX);
        while begun.elapsed() < self.time || best == f64::MAX {
            let start = Instant::now();
            black_box(f().slice(0..1).to_vec());
            best = best.min(start.elapsed().as_secs_f64());
        }
        self.device.status()?;
        Ok(best)
    }

    fn matrices(&self, s: &Sizes, rows: usize, device: &Device) -> (Words, Matrix) {
        let w = self.random(device, 1, s.inputs * s.outputs);
        (self.random(device, 2, rows * s.inputs), Matrix::new(&w, s.outputs, s.inputs))
    }

    fn product(&self, s: &Sizes, published: Option<Published>) -> anyhow::Result<Figure> {
        let apply = |rows| {
            move |d: &Device| {
                let (x, w) = self.matrices(s, rows, d);
                w.apply(&x)
            }
        };
        self.check("products", apply(s.rows))?;
        let (x, w) = self.matrices(s, s.rows, self.device);
        let seconds = self.best(|| w.apply(&x))?;
        Ok(Figure {
            name: "product",
            size: format!("{} × {} by {} × {}", s.rows, s.inputs, s.inputs, s.outputs),
            unit: "TMAC/s",
            achieved: (s.rows * s.inputs * s.outputs) as f64 / seconds / 1e12,
            attainable: published.map(|p| p.ring_tmac_s()),
            source: published.map_or(UNKNOWN, |_| "data sheet: 8-bit products, 36 to a product in the ring"),
        })
    }

    fn one_row(&self, s: &Sizes, published: Option<Published>, on_cpu: bool) -> anyhow::Result<Figure> {
        self.check("products with one row", |d| {
            let (x, w) = self.matrices(s, 1, d);
            w.apply(&x)
        })?;
        let (x, w) = self.matrices(s, 1, self.device);
        let seconds = self.best(|| w.apply(&x))?;
        let words = s.inputs * s.outputs;
        let (attainable, source) = match published {
            Some(p) => (Some(p.memory_tb_s), DATA_SHEET),
            None if on_cpu => (Some(self.plain_reading(words)), PLAIN_LOOP),
            None => (None, UNKNOWN),
        };
        Ok(Figure {
            name: "product with one row",
            size: format!("1 × {} by {} × {}", s.inputs, s.inputs, s.outputs),
            unit: "TB/s of weights",
            achieved: 8.0 * words as f64 / seconds / 1e12,
            attainable,
            source,
        })
    }

    /// An evaluator's product with weights of which it stores one component and makes the other: see decision 20.
    fn one_row_made(&self, s: &Sizes, stream_tb_s: f64) -> anyhow::Result<Figure> {
        let stream = KeyStream { key: &self.seed, nonce: 1 << 32, piece: PIECE };
        self.check("products with weights that are made from their stream", |d| {
            let (x, w) = self.matrices(s, 1, d);
            w.apply_beside(&x, &self.random(d, 5, s.inputs), stream)
        })?;
        let ((x, w), y) = (self.matrices(s, 1, self.device), self.random(self.device, 5, s.inputs));
        let seconds = self.best(|| w.apply_beside(&x, &y, stream))?;
        Ok(Figure {
            name: "the same, a half made",
            size: format!("2 rows × {} by {} × {}", s.inputs, s.inputs, s.outputs),
            unit: "TB/s of weights made",
            achieved: (8 * s.inputs * s.outputs) as f64 / seconds / 1e12,
            attainable: Some(stream_tb_s),
            source: STREAM_ALONE,
        })
    }

    fn stream(&self, s: &Sizes, published: Option<Published>) -> anyhow::Result<Figure> {
        self.check("ChaCha12", |d| self.random(d, 3, s.stream))?;
        let seconds = self.best(|| self.random(self.device, 3, s.stream))?;
        Ok(Figure {
            name: "ChaCha12",
            size: format!("{} words", s.stream),
            unit: "TB/s",
            achieved: 8.0 * s.stream as f64 / seconds / 1e12,
            attainable: published.map(|p| p.memory_tb_s),
            source: published.map_or(UNKNOWN, |_| "data sheet: its result is written once"),
        })
    }

    /// Words there and back: what every exchange between the parties takes beside the network.
    fn round_trip(&self) -> anyhow::Result<Figure> {
        const WORDS: usize = 8;
        let there = |d: &Device| Words::upload(d, (1..=WORDS as u64).collect()) + 1;
        self.check("sums", there)?;
        let seconds = self.best(|| there(self.device))?;
        Ok(Figure {
            name: "host round trip",
            size: format!("{WORDS} words there, a sum, a word back"),
            unit: "µs",
            achieved: seconds * 1e6,
            attainable: None,
            source: UNKNOWN,
        })
    }

    /// TB/s at which all cores read `words` words and add them up.
    fn plain_reading(&self, words: usize) -> f64 {
        let memory = self.random(self.reference, 4, words).to_vec();
        let part = words.div_ceil(rayon::current_num_threads());
        let sum = |part: &[u64]| part.iter().fold(0u64, |sum, w| sum.wrapping_add(*w));
        let (begun, mut best) = (Instant::now(), f64::MAX);
        while begun.elapsed() < self.time || best == f64::MAX {
            let start = Instant::now();
            black_box(memory.par_chunks(part).map(sum).reduce(|| 0, u64::wrapping_add));
            best = best.min(start.elapsed().as_secs_f64());
        }
        8.0 * words as f64 / best / 1e12
    }
}

fn text(f: &Figures) -> String {
    let mut text = format!("{}; every result below was first compared with {}\n", f.device, f.reference);
    if let (Some(free), Some(total)) = (f.memory_free_bytes, f.memory_total_bytes) {
        text += &format!("{:.1} GB of memory, {:.1} free\n", total as f64 / 1e9, free as f64 / 1e9);
    }
    text += &format!("{:<22} {:>34} {:>10} {:>10}  {}\n", "", "", "achieved", "attainable", "unit");
    for figure in &f.figures {
        let attainable = figure.attainable.map_or("unknown".into(), |v| format!("{v:.4}"));
        let source =
            if figure.attainable.is_some() { format!(" ({})", figure.source) } else { String::new() };
        text += &format!(
            "{:<22} {:>34} {:>10.4} {:>10}  {}{source}\n",
            figure.name, figure.size, figure.achieved, attainable, figure.unit
        );
    }
    text += "local part of each gate, ms: P0, P1, P2 (computing, random streams, packing)\n";
    for gate in &f.gates {
        let [p0, p1, p2] = gate.local_ms;
        text += &format!("{:<30} {p0:>9.3} {p1:>9.3} {p2:>9.3}  {}\n", gate.name, gate.size);
    }
    text
}
