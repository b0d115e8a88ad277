//! `catamount inspect`: what a model is and what sharing and asking it takes, without its weights.

use crate::cost::Part;
use crate::model;
use crate::output::{JsonArgument, megabytes};
use models::checkpoint::{Head, ModelConfig};
use models::dry::{Dry, Work};
use models::memory::{Demand, Holder, MemoryPlan};
use models::model::{Cache, OutputRows};
use models::parameter::Parameter;
use models::plan::{Plan, PlanTables};
use models::shared::Weights;
use parties::relay::NetworkModel;
use protocol::Party;
use serde::Serialize;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Inspect {
    #[arg(help = model::HELP)]
    model: String,
    /// Tokens of a prompt or text.
    #[arg(long, value_name = "N", default_value_t = 8)]
    tokens: usize,
    /// `lan` (10 Gb/s, 0.1 ms), `wan` (100 Mb/s, 40 ms) or bandwidth and one-way latency, e.g. `1Gbps,5ms`.
    #[arg(long, value_name = "NETWORK", default_value = "lan")]
    network: NetworkModel,
    #[command(flatten)]
    json: JsonArgument,
}

#[derive(Serialize)]
struct Figures {
    family: &'static str,
    config: ModelConfig,
    parameters: u64,
    shares: Vec<ShareSize>,
    tokens: usize,
    pass: Part,
    /// One more token, for models that generate.
    next_token: Option<Part>,
    exchanges_by_layer: u64,
}

/// What a party stores and holds.
#[derive(Serialize)]
struct ShareSize {
    party: Party,
    disk_bytes: u64,
    /// To play every role, and where party 0 always deals.
    memory_bytes: u64,
    memory_one_dealer_bytes: u64,
}

impl Inspect {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = model::shape(&self.model)?;
        anyhow::ensure!(
            (1..=config.context).contains(&self.tokens),
            "{} tokens, the model takes 1 to {}",
            self.tokens,
            config.context
        );
        let plan = Plan::typical(&config);
        let device = kernels::cpu::Cpu::best();
        let tables = plan.tables(&device, &config);
        let dry = Dry::model(&config, &tables);
        let mut cache = Cache::new(&config);
        let pass = Dry::pass(&dry, self.tokens, &mut cache, OutputRows::Last);
        let next = config.is_decoder().then(|| Dry::pass(&dry, 1, &mut cache, OutputRows::Last));
        let part = |w: &Work| Part::of(w, &self.network);
        let figures = Figures {
            family: config.family.name(),
            parameters: Parameter::all(&config).into_iter().map(|p| p.len(&config) as u64).sum(),
            shares: Party::ALL.map(|party| share_size(&config, &tables, party)).into(),
            tokens: self.tokens,
            pass: part(&pass),
            next_token: next.as_ref().map(part),
            exchanges_by_layer: Dry::exchanges_by_layer(&dry, &[self.tokens]).into_iter().max().unwrap_or(0),
            config,
        };
        self.report(&figures);
        self.json.write(&figures)
    }

    fn report(&self, f: &Figures) {
        let say = |text: String| self.json.say(&(text + "\n"));
        let c = &f.config;
        let what = match c.head {
            Head::LanguageModel => "language model".to_string(),
            Head::MeanPooling => "sentence embeddings (mean of the last layer)".to_string(),
            Head::Classifier { labels } => format!("classifier of {labels} labels"),
        };
        say(format!("{}, {what}", f.family));
        say(format!(
            "{} layers of width {}, feed-forward {}, {} heads of {} ({} of keys), vocabulary {}, context {}",
            c.layers, c.d_model, c.d_ff, c.heads, c.head_dim, c.kv_heads, c.vocab, c.context
        ));
        say(format!("{:.1} M numbers to share", f.parameters as f64 / 1e6));
        for s in &f.shares {
            say(format!(
                "share of {}: {} on disk, {} in memory ({} where P0 always deals)",
                s.party,
                megabytes(s.disk_bytes),
                megabytes(s.memory_bytes),
                megabytes(s.memory_one_dealer_bytes)
            ));
        }
        say(format!("{} tokens: {}", f.tokens, f.pass));
        if let Some(next) = &f.next_token {
            say(format!("next token: {next}"));
        }
        say(format!("{} exchanges a layer for {} tokens", f.exchanges_by_layer, f.tokens));
        say("computed for usual ranges; `catamount cost` finds the model's own from its weights".into());
    }
}

fn share_size(c: &ModelConfig, tables: &PlanTables, party: Party) -> ShareSize {
    // Party 0 stores two seeds, the others one and the component that none of them gives.
    let full: u64 = Parameter::all(c).into_iter().map(|p| 8 * p.shared(c).len() as u64).sum();
    let memory = |plays| {
        let holder = Holder { party, plays, weights: Weights::Stored };
        let demand = Demand { context: 1, pass: 1, sequences: 1 };
        MemoryPlan::new(c, tables, holder, demand, 0).model()
    };
    ShareSize {
        party,
        disk_bytes: if party == Party::Zero { 64 } else { 32 + full },
        memory_bytes: memory(None),
        memory_one_dealer_bytes: memory(Some(party.role(Party::Zero))),
    }
}
