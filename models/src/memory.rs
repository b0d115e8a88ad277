//! What a party holds of a model and of a session, before any of it is there.
//!
//! Weights, tables, keys and values are counted exactly: 8 bytes a word, one word of a weight at a party that always deals,
//! two at one that always evaluates in one place, three at one that plays every role; two of the embedding table at all
//! parties ([`crate::shared`]). What a pass needs beside them is estimated from the declared
//! cost: the gate that moves most bytes also holds most, twice as many at its peak (found by measuring;
//! `models/tests/memory_plan.rs` holds the plan against measured peaks).

use crate::checkpoint::ModelConfig;
use crate::dry::Dry;
use crate::model::{Cache, OutputRows};
use crate::parameter::{Parameter, Use};
use crate::plan::PlanTables;
use protocol::Role;
use protocol::gates::embedding;
use std::collections::HashMap;
use std::fmt;

/// Bytes that a gate holds at its peak, for each byte that it sends or is dealt.
const HELD: u64 = 2;
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
    /// What a party needs that always plays `plays`, or (`None`) one role in one session and another in the next. `queue`
    /// bounds what waits on a link.
    pub fn new(
        c: &ModelConfig,
        tables: &PlanTables,
        plays: Option<Role>,
        demand: Demand,
        queue: u64,
    ) -> MemoryPlan {
        let components = match plays {
            Some(Role::Dealer) => 1,
            Some(Role::P1 | Role::P2) => 2,
            None => 3,
        };
        let (of_each, several) =
            (plays.map_or(Role::ALL.to_vec(), |role| vec![role]), demand.sequences as u64);
        let bytes = |usage: Use, components: u64| {
            let of_kind = Parameter::all(c).into_iter().filter(|p| p.usage() == usage);
            of_kind.map(|p| 8 * components * p.len(c) as u64).sum::<u64>()
        };
        let sizes = Parameter::all(c).into_iter().map(|p| (p, 8 * p.len(c) as u64));
        // The component that comes in full is there of all parameters before anything is made of any: not at the dealer.
        let mut waiting: u64 = if components == 1 { 0 } else { sizes.clone().map(|(_, size)| size).sum() };
        let (mut loaded, mut loading) = (tables.bytes(), 0);
        for (p, size) in sizes {
            waiting = waiting.saturating_sub(size);
            let held = if p.usage() == Use::Table { 2 } else { components };
            loading = loading.max(loaded + MAKING.max(held + 1) * size + waiting);
            loaded += held * size;
        }
        let passes = of_each.iter().map(|role| pass(c, tables, *role, demand.pass.max(1)));
        let (dealt, held) = passes.fold((0, 0), |most, one| (most.0.max(one.0), most.1.max(one.1)));
        let caches = of_each.iter().map(|role| MemoryPlan::cache(c, *role, demand.context));
        MemoryPlan {
            embedding: bytes(Use::Table, 2),
            matrices: bytes(Use::Matrix, components),
            rows: bytes(Use::Rows, components),
            tables: tables.bytes(),
            cache: several * caches.max().unwrap_or(0),
            activations: several * held,
            loading,
            dealt: (several * dealt).min(queue),
        }
    }

    /// Keys and values of `context` tokens; encoders keep none.
    pub fn cache(c: &ModelConfig, role: Role, context: usize) -> u64 {
        let components = if role == Role::Dealer { 1 } else { 2 };
        let numbers = if c.is_decoder() { 2 * c.layers * c.kv_dim() * context } else { 0 };
        8 * components * numbers as u64
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
    let gate = HELD * scopes.into_values().max().unwrap_or(0);
    (dealt, gate.max(embedding::held(count, c.vocab)))
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
