//! What a party holds of a model and of a session, before any of it is there.
//!
//! Weights, tables, keys and values are counted exactly: 8 bytes a word, one word of a weight for each role that a party plays;
//! two of two numbers of the embedding table at all parties ([`crate::shared`]). Of matrices whose seeded components are regenerated, one word of a weight at parties 1 and 2
//! and none at party 0, whatever they play. What a pass needs beside them is estimated from the declared
//! cost: the gate that moves most bytes also holds most, twice as many at its peak (found by measuring;
//! `models/tests/memory_plan.rs` holds the plan against measured peaks).

use crate::checkpoint::ModelConfig;
use crate::dry::Dry;
use crate::model::{Cache, OutputRows};
use crate::parameter::{Parameter, Use};
use crate::plan::PlanTables;
use crate::shared::Weights;
use kernels::MADE_AT_ONCE;
use protocol::gates::{embedding, max};
use protocol::{Party, Role};
use std::collections::HashMap;
use std::fmt;

/// Bytes that a gate holds at its peak, for so many that are sent or dealt in it.
const HELD: [u64; 2] = [3, 2];
/// Buffers of a parameter's size, at least, while what a role takes is made of two components.
const MAKING: u64 = 3;

/// Sessions to plan for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Tokens of prompt and answer together.
    pub context: usize,
    /// Tokens of the longest pass.
    pub pass: usize,
    /// Sequences at the same time, in one session or in several: each of so many tokens.
    pub sequences: usize,
}

/// Whose memory is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which party.
    pub party: Party,
    /// Its role, if it is always the same; else it plays one role in one session and another in the next.
    pub plays: Option<Role>,
    /// How it keeps its weights.
    pub weights: Weights,
}

impl Holder {
    /// Words of a weight that it holds.
    fn components(&self, usage: Use) -> u64 {
        match (usage, self.weights, self.plays) {
            (Use::Table, ..) => 2,
            // Each role's model has copies of its own, beside the components if there are several.
            (Use::Rows, _, Some(_)) => 2,
            (Use::Rows, _, None) => 2 + 2 * self.roles(),
            (Use::Matrix, Weights::Regenerated, _) => u64::from(self.party != Party::Zero),
            (Use::Matrix, Weights::Stored, _) => self.roles(),
        }
    }

    /// The same while they are made, before what its role does not need goes.
    fn components_at_first(&self, usage: Use) -> u64 {
        let elsewhere = self.party != Party::Zero && self.plays.is_some_and(|role| role != self.home());
        match (usage, self.weights) {
            (Use::Rows, _) => 2 + 2 * self.roles(),
            (Use::Matrix, Weights::Stored) if elsewhere => 2,
            _ => self.components(usage),
        }
    }

    /// How many roles it plays.
    fn roles(&self) -> u64 {
        if self.plays.is_some() { 1 } else { Role::ALL.len() as u64 }
    }

    /// Its role where party 0 deals.
    fn home(&self) -> Role {
        self.party.role(Party::Zero)
    }

    /// What products hold beside inputs and results, at most: what is made of the largest matrix at a time.
    fn scratch(&self, c: &ModelConfig) -> u64 {
        match self.weights {
            Weights::Stored => 0,
            Weights::Regenerated => {
                // Outputs are wanted of few rows, whose words are drawn in registers.
                let many = |p: &Parameter| p.usage() == Use::Matrix && *p != Parameter::Output;
                let matrices = Parameter::all(c).into_iter().filter(many);
                let largest = matrices.map(|p| p.shared(c).len()).max().unwrap_or(0);
                8 * largest.min(MADE_AT_ONCE) as u64
            }
        }
    }

    /// The most that is held while a model of which `tables` are there already is loaded.
    fn loading(&self, c: &ModelConfig, tables: u64) -> u64 {
        let sizes = || Parameter::all(c).into_iter().map(|p| (p, 8 * p.shared(c).len() as u64));
        // What comes in full is there of all parameters before anything is made of any: not at party 0.
        let none = self.party == Party::Zero;
        // Matrices that are multiplied by as they are.
        let ready = self.weights == Weights::Regenerated || !none && self.plays == Some(self.home());
        let mut waiting = if none { 0 } else { sizes().map(|(_, size)| size).sum() };
        let (mut loaded, mut most) = (tables, 0);
        for (p, size) in sizes() {
            waiting -= size.min(waiting);
            let held = self.components_at_first(p.usage());
            let made = match p.usage() {
                Use::Matrix if ready => held,
                // The last of them, beside the others: of two streams.
                Use::Matrix if none => held - 1 + MAKING,
                _ => MAKING.max(held + 1),
            };
            most = most.max(loaded + made * size + waiting);
            loaded += held * size;
        }
        // While it comes: what came before, and buffers of the one that is there now.
        let mut come = tables;
        for (_, size) in sizes().filter(|_| !none) {
            most = most.max(come + MAKING * size);
            come += size;
        }
        most
    }
}

/// Bytes by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    /// Token embeddings: both components that the party holds.
    pub embedding: u64,
    /// Weight matrices, prepared for products.
    pub matrices: u64,
    /// Biases, gains, positions.
    pub rows: u64,
    /// Tables of functions.
    pub tables: u64,
    /// Keys and values of all tokens of the context.
    pub cache: u64,
    /// The most that a gate of the longest pass holds.
    pub activations: u64,
    /// The most while the model is loaded: parameters so far, and buffers of the one that is made ready.
    pub loading: u64,
    /// In main memory whatever the device: what the dealer has dealt of the pass and nobody has used yet.
    pub dealt: u64,
}

impl MemoryPlan {
    /// What a party needs. `queue` bounds what waits on a link.
    pub fn new(
        c: &ModelConfig,
        tables: &PlanTables,
        holder: Holder,
        demand: Demand,
        queue: u64,
    ) -> MemoryPlan {
        let of_each = holder.plays.map_or(Role::ALL.to_vec(), |role| vec![role]);
        let several = demand.sequences as u64;
        let bytes = |usage: Use| {
            let of_kind = Parameter::all(c).into_iter().filter(|p| p.usage() == usage);
            of_kind.map(|p| 8 * holder.components(usage) * p.shared(c).len() as u64).sum::<u64>()
        };
        let passes = of_each.iter().map(|role| pass(c, tables, *role, demand.pass.max(1)));
        let (dealt, held) = passes.fold((0, 0), |most, one| (most.0.max(one.0), most.1.max(one.1)));
        MemoryPlan {
            embedding: bytes(Use::Table),
            matrices: bytes(Use::Matrix),
            rows: bytes(Use::Rows),
            tables: tables.bytes(),
            cache: several * MemoryPlan::cache(c, demand.context),
            // What a product draws is gone before a gate holds most.
            activations: (several * held).max(holder.scratch(c)),
            loading: holder.loading(c, tables.bytes()),
            dealt: (several * dealt).min(queue),
        }
    }

    /// Keys and values of `context` tokens; encoders keep none.
    pub fn cache(c: &ModelConfig, context: usize) -> u64 {
        let numbers = if c.is_decoder() { 2 * c.layers * c.kv_dim() * context } else { 0 };
        8 * numbers as u64
    }

    /// Weights and tables: what stays as long as the model does.
    pub fn model(&self) -> u64 {
        self.embedding + self.matrices + self.rows + self.tables
    }

    /// What a session adds.
    pub fn session(&self) -> u64 {
        self.cache + self.activations
    }

    /// The most that is on the device at any time: while the model is loaded, or in a session.
    pub fn device(&self) -> u64 {
        (self.model() + self.session()).max(self.loading)
    }
}

/// Bytes dealt in a pass of `count` tokens to or by the party, and bytes that it holds in its largest gate.
fn pass(c: &ModelConfig, tables: &PlanTables, role: Role, count: usize) -> (u64, u64) {
    let dry = Dry::model(c, tables);
    let mut dealt = 0;
    let mut scopes: HashMap<_, u64> = HashMap::new();
    for charge in Dry::itemised(&dry, count, &mut Cache::new(c), OutputRows::Last) {
        dealt += match role {
            Role::Dealer => charge.sent[0].iter().sum::<u64>(),
            evaluator => charge.sent[0][evaluator.index()],
        };
        *scopes.entry(charge.scope).or_default() += charge.sent.iter().flatten().sum::<u64>();
    }
    let [held, of] = HELD;
    let gate = held * scopes.into_values().max().unwrap_or(0) / of;
    // One at a time, but for the flags of a coarse maximum.
    let levels = (0..c.layers).map(|layer| max::held(c.heads * count, tables.softmax(layer).levels));
    let flags = if role == Role::Dealer { 0 } else { levels.max().unwrap_or(0) };
    (dealt, gate.max(flags).max(embedding::held(count, c.vocab)))
}

/// Bytes for people.
pub fn gigabytes(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.2} GB", bytes as f64 / 1e9),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let g = gigabytes;
        write!(
            f,
            "{} in all: embeddings {}, matrices {}, biases and gains {}, tables {}, then keys and values {} and the largest gate {} ({} while loading); dealt and waiting in main memory {}",
            g(self.device()),
            g(self.embedding),
            g(self.matrices),
            g(self.rows),
            g(self.tables),
            g(self.cache),
            g(self.activations),
            g(self.loading),
            g(self.dealt),
        )
    }
}
