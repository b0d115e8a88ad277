//! `catamount bench gates`: each gate by itself, at the sizes that it has in a model.

use super::loopback::{Loopback, Program};
use super::rates::Rates;
use super::report::{Expected, HtmlArgument, Line, Report, Section, command, machine};
use crate::block_on;
use crate::device::DeviceArgument;
use crate::host::interruptible;
use crate::output::{JsonArgument, megabytes, step_bar};
use kernels::{Device, Words};
use models::dry::Local;
use models::plan::{Step, TablePlan};
use protocol::gates::choice;
use protocol::gates::compare::{self, Window};
use protocol::gates::embedding::{self, EmbeddingKeys, SharedTable};
use protocol::gates::exp;
use protocol::gates::max::{self, Levels};
use protocol::gates::norm::{self, NormKind, NormTable};
use protocol::gates::row::{self, RowTable};
use protocol::gates::softmax::{self, EXP_SCALE, RECIPROCAL_SCALE, SoftmaxTables};
use protocol::gates::table::{gelu, silu};
use protocol::gates::{glu, product, quadratic, truncate};
use protocol::testing::World;
use protocol::{Cost, Cx, Key, Ledger, Masked, Result, Role, Shape, Share, SharedMatrix};
use std::pin::Pin;
use std::sync::Arc;

/// Fractional bits of activations and of weights.
const SCALE: u32 = 18;
/// Fractional bits of attention scores.
const SCORES: u32 = SCALE;
const RING: u32 = 64;
/// As in GPT-2 and BERT.
const WIDTH: usize = 768;
const HIDDEN: usize = 4 * WIDTH;
const HEADS: usize = 12;
/// Smaller than theirs, to fit in one process three times.
const VOCAB: usize = 8192;
/// Output scores of GPT-2.
const CHOICES: usize = 50257;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct BenchGates {
    /// Tokens that go through a gate at once; the other sizes are those of GPT-2 and BERT-base.
    #[arg(long, value_name = "N", default_value_t = 32)]
    tokens: usize,
    /// How often; the fastest is shown.
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    html: HtmlArgument,
    #[command(flatten)]
    json: JsonArgument,
}

/// A gate with its inputs at the three parties.
pub(super) struct Made {
    pub(super) name: &'static str,
    pub(super) size: String,
    declared: Cost,
    local: [Local; 3],
    pub(super) programs: [Program; 3],
}

impl BenchGates {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(
            (1..=1024).contains(&self.tokens) && self.runs > 0,
            "give 1 to 1024 tokens and 1 run or more"
        );
        // As in a cluster on one machine: the two evaluators work at the same time, the dealer beside them.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        kernels::cpu::use_threads((cores / 2).max(1));
        let devices = self.device.open()?;
        let loopback = Loopback::start()?;
        let rates = block_on(interruptible(Rates::measure(&devices[1], self.tokens, None)))?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let gates = on_each(&devices, seed, self.tokens)?;
        let bar = step_bar("gates");
        bar.set_length(gates.len() as u64);
        let mut lines = vec![];
        for gate in gates {
            let runs = loopback.run(&devices, &gate.programs, self.runs)?;
            let slowest =
                |profiles: &[_; 3]| profiles.iter().map(|p: &protocol::profile::Profile| p.wall).max();
            let fastest = runs.into_iter().min_by_key(|(profiles, _)| slowest(profiles));
            let (profiles, _) = fastest.ok_or_else(|| anyhow::anyhow!("no runs"))?;
            let mut cost = Ledger::default();
            cost += &gate.declared;
            let expected = Expected { cost, local: gate.local };
            lines
                .push(Line { size: gate.size, ..Line::whole(gate.name.into(), &profiles, expected, &rates) });
            bar.inc(1);
        }
        bar.finish_and_clear();
        let section = Section {
            title: "Gates by themselves".into(),
            about: format!(
                "Each gate alone, three parties in one process over QUIC on the loopback interface; the fastest of {} runs.",
                self.runs
            ),
            whole: None,
            lines,
            operations: vec![],
        };
        let title = format!("Gates, {} tokens{}", self.tokens, self.device.on());
        let report = Report { title, command: command(), machine: machine(), rates, sections: vec![section] };
        self.json.say(&table(&report.sections[0]));
        self.html.write(&report)?;
        self.json.write(&report)?;
        anyhow::ensure!(report.sections[0].as_declared(), "a gate does not cost what it declares; see above");
        Ok(())
    }
}

/// The lines of a section for a terminal.
pub(super) fn table(section: &Section) -> String {
    let mut text = format!(
        "{:<34} {:>9} {:>9} {:>6} {:>10} {:>9}  {}\n",
        "",
        "ms",
        "floor ms",
        "exch.",
        "bytes",
        "declared",
        "of P1's time: compute, streams, packing, peer, dealer"
    );
    for line in section.lines.iter().chain(&section.whole) {
        let total = line.total_ms[1].max(f64::MIN_POSITIVE);
        let parts: Vec<String> = protocol::profile::Part::ALL[..5]
            .iter()
            .map(|part| format!("{:.0} %", line.times_ms[1][part.name()] / total * 100.0))
            .collect();
        text += &format!(
            "{:<34} {:>9.2} {:>9} {:>6} {:>10} {:>9}  {}\n",
            line.name,
            line.critical_ms(),
            line.floor.map_or(String::new(), |f| format!("{:.2}", f.total_ms)),
            line.measured.exchanges,
            megabytes(line.measured.total()),
            line.as_declared.map_or("", |same| if same { "yes" } else { "NO" }),
            parts.join(", "),
        );
    }
    text
}

/// The gates with each party's inputs on its device: made once for each device, from the same random numbers.
pub(super) fn on_each(devices: &[Device; 3], seed: Key, tokens: usize) -> anyhow::Result<Vec<Made>> {
    let mut gates = Inputs::new(devices[0].clone(), seed, tokens).gates()?;
    for party in [1, 2] {
        if Arc::ptr_eq(&devices[party], &devices[0]) {
            continue;
        }
        for (gate, there) in gates.iter_mut().zip(Inputs::new(devices[party].clone(), seed, tokens).gates()?)
        {
            let [_, p1, p2] = there.programs;
            gate.programs[party] = if party == 1 { p1 } else { p2 };
        }
    }
    Ok(gates)
}

/// Made-up inputs of the gates.
struct Inputs {
    device: Device,
    world: World,
    seed: Key,
    tokens: usize,
}

impl Inputs {
    fn new(device: Device, seed: Key, tokens: usize) -> Inputs {
        let world = World::new(u64::from_le_bytes(seed[..8].try_into().expect("8 bytes")));
        Inputs { device, world, seed, tokens }
    }

    fn words(&self, stream: u64, n: usize) -> Words {
        Words::chacha12(&self.device, &self.seed, stream, n, RING)
    }

    /// Shares of numbers in ±`bound`.
    fn share(&self, shape: Shape, scale: u32, bound: f64) -> [Share; 3] {
        let top = (bound * f64::from(scale).exp2()) as i64;
        let numbers = self.words(1, shape.len()).to_vec();
        let values: Vec<u64> = numbers.into_iter().map(|v| ((v as i64 >> 1) % top) as u64).collect();
        let there = |w: &Words| Words::upload(&self.device, w.to_vec());
        self.world.share(&values, shape, scale, 2).map(|share| share.linear(shape, there))
    }

    fn gates(&self) -> anyhow::Result<Vec<Made>> {
        let (t, device) = (self.tokens, &self.device);
        let (activations, inner) = (Shape::new(t, WIDTH), t * HIDDEN);
        let softmax = Arc::new(SoftmaxTables::new(device, SCORES, Levels::new(64), t));
        let scores = Shape::new(HEADS * t, t);
        let sized = |shape: Shape| format!("{} × {}", shape.rows, shape.cols);
        let mut gates = vec![self.truncated_product(activations)];

        // As in models: inputs in ±16, or in ±32 for quadratics, and products of gated activations in ±2^11.
        let x = self.share(Shape::new(inner, 1), SCALE, 8.0);
        let gelu = TablePlan::covering(4, Step::Activation, None).table(device, gelu).alone().clone();
        gates.push(Made {
            name: "activation (GELU)",
            size: format!("{inner} elements, {} entries", gelu.spec.entries),
            declared: gelu.cost(inner, SCALE, RING),
            local: Default::default(),
            programs: programs(x.clone(), move |cx, x| {
                let table = gelu.clone();
                Box::pin(async move { quadratic::lookup(&cx, &x, &table, SCALE).await })
            }),
        });
        for (name, range) in [("gated activation (SiLU)", 4), ("gated activation, quadratics (SiLU)", 5)] {
            let silu = TablePlan::gated(range, 11).table(device, silu).gated().clone();
            gates.push(Made {
                name,
                size: format!("{inner} elements, {} entries", silu.table.spec().entries),
                declared: glu::cost(inner, &*silu.table, SCALE, silu.bits, SCALE, RING),
                local: Default::default(),
                programs: programs(x.clone(), move |cx, x| {
                    let silu = silu.clone();
                    Box::pin(async move { glu::gated(&cx, &x, &x, &*silu.table, silu.bits, SCALE).await })
                }),
            });
        }
        gates.push(Made {
            name: "comparison",
            size: format!("{inner} elements with one threshold"),
            declared: compare::cost(inner, 1, Window::EXACT31),
            local: Default::default(),
            programs: programs(x, |cx, x| {
                Box::pin(async move {
                    let mut bits = compare::less_than(&cx, &x, &[0], Window::EXACT31).await?;
                    let Masked { delta, lambda } = bits.remove(0);
                    // A masked bit in a share's place: nothing is computed with it.
                    Ok(Share { shape: x.shape, scale: 0, delta, lambda, first: None })
                })
            }),
        });

        let x = self.share(scores, SCORES, 4.0);
        let offsets = kernels::Segments::even(scores.rows, scores.cols);
        let maximum = max::cost(scores.len(), scores.rows, softmax.levels, SCORES, softmax.score_bits());
        let exponential = softmax.exp.cost(scores.len(), EXP_SCALE, RING);
        let (levels, bits) = (softmax.levels, softmax.score_bits());
        gates.push(Made {
            name: "coarse maximum",
            size: format!("rows of scores, {}", sized(scores)),
            declared: maximum.clone(),
            local: Default::default(),
            programs: programs(x.clone(), move |cx, x| {
                let offsets = offsets.clone();
                Box::pin(async move { max::coarse_max(&cx, &x, &offsets, levels, bits).await })
            }),
        });
        let tables = softmax.clone();
        gates.push(Made {
            name: "exponential",
            size: format!("{} scores", scores.len()),
            declared: exponential.clone(),
            local: Default::default(),
            programs: programs(self.share(Shape::new(scores.len(), 1), SCORES, 4.0), move |cx, x| {
                let t = tables.clone();
                Box::pin(async move { exp::exp(&cx, &x, &t.exp, EXP_SCALE).await })
            }),
        });
        let sums = self.share(Shape::new(scores.rows, 1), EXP_SCALE, 60.0);
        let range = softmax.reciprocal(t).range();
        let table = Arc::new(RowTable::new(device, EXP_SCALE, range, 16, |s| 1.0 / s));
        gates.push(Made {
            name: "row gate (reciprocal)",
            size: format!("{} row sums", scores.rows),
            declared: table.cost(scores.rows, RECIPROCAL_SCALE, RING),
            local: Default::default(),
            programs: programs(sums, move |cx, x| {
                let t = table.clone();
                Box::pin(async move { row::evaluate(&cx, &x, &t, RECIPROCAL_SCALE).await })
            }),
        });
        let (dropped, table) = (EXP_SCALE + RECIPROCAL_SCALE - SCALE, softmax.reciprocal(t));
        gates.push(Made {
            name: "softmax",
            size: format!("rows of scores, {}", sized(scores)),
            declared: maximum
                .then(exponential)
                .then(table.cost(scores.rows, RING))
                .then(table.product_cost(scores.len(), scores.rows, RING))
                .then(truncate::cost(scores.len(), dropped, RING)),
            local: Default::default(),
            programs: programs(x, move |cx, x| {
                let t = softmax.clone();
                Box::pin(async move { softmax::softmax(&cx, &x, &t).await })
            }),
        });

        let norm = Arc::new(NormTable::new(device, NormKind::Rms, WIDTH, SCALE, 1e-5, 1e-2, 1e2));
        gates.push(Made {
            name: "row gate and norm (RMSNorm)",
            size: sized(activations),
            declared: norm.cost(t, WIDTH, RING),
            local: Default::default(),
            programs: programs(self.share(activations, SCALE, 2.0), move |cx, x| {
                let t = norm.clone();
                Box::pin(async move { norm::norm(&cx, &x, &t).await })
            }),
        });
        gates.push(self.embedding()?);
        let row = Shape::new(1, CHOICES);
        gates.push(Made {
            name: "argmax",
            size: format!("1 row of {CHOICES} scores"),
            declared: choice::argmax_cost(1, CHOICES, RING),
            local: Default::default(),
            programs: programs(self.share(row, SCALE, 30.0), |cx, x| {
                Box::pin(async move { choice::argmax(&cx, &x).await })
            }),
        });
        Ok(gates)
    }

    fn truncated_product(&self, shape: Shape) -> Made {
        let (t, square, known) = (shape.rows, Shape::new(WIDTH, WIDTH), product::factor_bits(RING));
        let weights = self.share(square, SCALE, 0.05);
        let mut inputs = self
            .share(shape, SCALE, 4.0)
            .into_iter()
            .zip(weights)
            .map(|(x, w)| (x, Arc::new(SharedMatrix::new(&w))));
        let inputs = [(); 3].map(|()| inputs.next().expect("three parties"));
        Made {
            name: "truncated product with weights",
            size: format!("{t} × {WIDTH} by {WIDTH} × {WIDTH}"),
            declared: product::product_cost(shape.len(), known).then(truncate::cost_from(
                shape.len(),
                known,
                SCALE,
                RING,
            )),
            local: Local {
                weights: (t * square.len()) as u64,
                read: 8 * square.len() as u64,
                ..Local::default()
            }
            .of_factors(),
            programs: programs(inputs, |cx, (x, w)| {
                Box::pin(async move { truncate::truncate(&cx, product::matmul(&cx, &x, &w)?, SCALE).await })
            }),
        }
    }

    fn embedding(&self) -> anyhow::Result<Made> {
        let (t, shape) = (self.tokens, Shape::new(WIDTH, VOCAB));
        let tokens: Vec<u32> = (0..t).map(|i| (i * 7919 % VOCAB) as u32).collect();
        let parts = embedding::split(&self.device, &tokens, VOCAB, &self.seed)?;
        let words = embedding::packed(shape).len();
        let [one, zero, delta] = [3, 4, 5].map(|stream| self.words(stream, words));
        let mut inputs = vec![];
        for (role, part) in Role::ALL.into_iter().zip(&parts) {
            let (first, second) = match role {
                Role::Dealer => (&one, &zero),
                Role::P1 => (&one, &delta),
                Role::P2 => (&zero, &delta),
            };
            let keys = EmbeddingKeys::parse(&self.device, role, part, t, VOCAB)?;
            inputs.push((keys, Arc::new(SharedTable::new(first, second, shape, SCALE))));
        }
        let inputs: [_; 3] = inputs.try_into().unwrap_or_else(|_| unreachable!("three parties"));
        Ok(Made {
            name: "private embedding",
            size: format!("{t} tokens of {VOCAB}, width {WIDTH}"),
            declared: embedding::cost(t, WIDTH),
            local: Local { read: 8 * words as u64, ..Local::default() }.table(),
            programs: programs(inputs, |cx, (keys, table): (EmbeddingKeys, Arc<SharedTable>)| {
                Box::pin(async move { embedding::embed(&cx, &keys, &table).await })
            }),
        })
    }
}

/// A program for each party, over its input.
fn programs<I: Clone + Send + Sync + 'static>(
    inputs: [I; 3],
    f: impl for<'n> Fn(Cx<'n>, I) -> Pin<Box<dyn Future<Output = Result<Share>> + 'n>>
    + Clone
    + Send
    + Sync
    + 'static,
) -> [Program; 3] {
    inputs.map(|input| {
        let f = f.clone();
        let program: Program = Box::new(move |cx| f(cx, input.clone()));
        program
    })
}
