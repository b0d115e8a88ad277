//! A model as it is shared: what is public, what each party stores, and one session's passes over it.

use crate::checkpoint::{Head, ModelConfig};
use crate::model::{ActivationId, Cache, Model, NormId, OutputRows, Parts};
use crate::parameter::{Parameter, Use};
use crate::plan::{FunctionTable, PROGRAM_VERSION, Plan, PlanTables};
use crate::secure::{Secure, SecureValues};
use crate::tokenizer::TokenizerInfo;
use kernels::{Device, Words};
use protocol::gates::input::{self, InputPart};
use protocol::gates::norm::NormTable;
use protocol::gates::reveal::Reveal;
use protocol::gates::softmax::SoftmaxTables;
use protocol::{Key, Ledger, Network, Role, Session, Shape, Share, SharedMatrix};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// Everything public about a shared model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicModel {
    /// Version of the program it was shared for.
    pub program: u32,
    /// Shapes and constants.
    pub config: ModelConfig,
    /// Ranges of the gates.
    pub plan: Plan,
    /// How text becomes tokens.
    pub tokenizer: TokenizerInfo,
    /// Names of a classifier's labels.
    pub labels: Vec<String>,
    /// Random name of this sharing: shares of two sharings do not fit together.
    pub sharing: [u8; 32],
}

/// Why a description of a model was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharedModelError {
    /// Not readable.
    #[error("the model's description is damaged: {0}; share the model again")]
    Damaged(String),
    /// Made by another version.
    #[error(
        "the model was shared for program version {found}, this is version {}; share it again with this version",
        PROGRAM_VERSION
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// Parts that do not fit the description.
    #[error("the upload does not fit the model: {0}; share the model again")]
    Upload(String),
}

impl PublicModel {
    /// As bytes that travel.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }

    /// Reads and checks bytes that travelled.
    pub fn from_bytes(bytes: &[u8]) -> Result<PublicModel, SharedModelError> {
        let m: PublicModel =
            serde_json::from_slice(bytes).map_err(|e| SharedModelError::Damaged(e.to_string()))?;
        if m.program != PROGRAM_VERSION {
            return Err(SharedModelError::Version { found: m.program });
        }
        m.config.validate().map_err(|e| SharedModelError::Damaged(e.to_string()))?;
        m.plan.validate(&m.config).map_err(SharedModelError::Damaged)?;
        let labels = match m.config.head {
            Head::Classifier { labels } => labels,
            _ => 0,
        };
        if m.labels.len() != labels {
            let what = format!("{} names for {labels} labels", m.labels.len());
            return Err(SharedModelError::Damaged(what));
        }
        Ok(m)
    }

    /// What parties and clients compare.
    pub fn digest(&self, tables: &PlanTables) -> [u8; 32] {
        let mut h = Sha256::new();
        h.update(tables.digest(&self.config, &self.plan));
        h.update(self.sharing);
        h.update(serde_json::to_vec(&(&self.tokenizer, &self.labels)).expect("plain data"));
        h.finalize().into()
    }
}

/// The seeds of a sharing's pseudo-random components: fresh, the owner's own.
#[derive(Clone)]
pub struct Seeds {
    /// Of component 1: for the dealer and P1.
    pub one: Key,
    /// Of component 0: for the dealer and P2.
    pub zero: Key,
}

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seeds(redacted)")
    }
}

impl Seeds {
    /// What a party gets: the dealer both, an evaluator one.
    pub fn for_party(&self, role: Role) -> Vec<u8> {
        match role {
            Role::Dealer => [self.one, self.zero].concat(),
            Role::P1 => self.one.to_vec(),
            Role::P2 => self.zero.to_vec(),
        }
    }

    /// Δ of a piece of parameter number `index`: what both evaluators get in full.
    pub fn delta(&self, device: &Device, index: usize, piece: usize, encoded: Vec<u64>) -> Words {
        input::split(device, &Words::upload(device, encoded), &self.one, &self.zero, index as u32, piece)
    }
}

/// One party's parts of a model while they arrive.
pub struct Assembly {
    device: Device,
    role: Role,
    seeds: Vec<u8>,
    config: ModelConfig,
    parameters: Vec<Parameter>,
    held: HashMap<Parameter, Held>,
}

/// A party's share of a parameter, in the form in which it is used.
enum Held {
    Matrix(SharedMatrix),
    Rows(Share),
}

impl Assembly {
    /// For one party with its seeds.
    ///
    /// # Errors
    /// They are not a party's seeds.
    pub fn new(
        device: &Device,
        role: Role,
        config: &ModelConfig,
        seeds: Vec<u8>,
    ) -> Result<Assembly, SharedModelError> {
        let expected = if role == Role::Dealer { 64 } else { 32 };
        if seeds.len() != expected {
            return Err(SharedModelError::Upload(format!("{} bytes of seeds for {role}", seeds.len())));
        }
        let parameters = Parameter::all(config);
        let config = config.clone();
        Ok(Assembly { device: device.clone(), role, seeds, config, parameters, held: HashMap::new() })
    }

    fn part(&self, delta: Option<Words>) -> Result<InputPart, SharedModelError> {
        let key = |i: usize| self.seeds[32 * i..32 * (i + 1)].try_into().expect("checked in new");
        let missing = || SharedModelError::Upload("an evaluator's parameter without its values".into());
        Ok(match self.role {
            Role::Dealer => InputPart::Dealer(key(0), key(1)),
            Role::P1 => InputPart::P1(key(0), delta.ok_or_else(missing)?),
            Role::P2 => InputPart::P2(key(0), delta.ok_or_else(missing)?),
        })
    }

    /// Takes parameter number `index`; the dealer has no Δ.
    ///
    /// # Errors
    /// There is none of this number, or its size is wrong.
    pub fn put(&mut self, index: usize, delta: Option<Words>) -> Result<(), SharedModelError> {
        let unknown = || SharedModelError::Upload(format!("no parameter {index}"));
        let p = *self.parameters.get(index).ok_or_else(unknown)?;
        let (rows, cols) = p.shape(&self.config);
        if let Some(d) = &delta
            && d.len() != rows * cols
        {
            let what = format!("{p:?} has {} values, {} are needed", d.len(), rows * cols);
            return Err(SharedModelError::Upload(what));
        }
        let shape = Shape::new(rows, cols);
        let share = input::share(&self.device, &self.part(delta)?, shape, p.scale(), index as u32);
        let held = match p.usage() {
            Use::Table | Use::Matrix => Held::Matrix(SharedMatrix::new(&share, self.role == Role::P1)),
            Use::Rows => Held::Rows(share),
        };
        self.held.insert(p, held);
        Ok(())
    }

    /// All parameters are there.
    ///
    /// # Errors
    /// One is not.
    pub fn finish(mut self, public: PublicModel, tables: PlanTables) -> Result<PartyModel, SharedModelError> {
        if self.role == Role::Dealer {
            for i in 0..self.parameters.len() {
                self.put(i, None)?;
            }
        }
        let digest = public.digest(&tables);
        let mut parts = SharedParts { held: self.held, tables: &tables };
        let model = Model::build(&self.config, &mut parts)?;
        Ok(PartyModel { public, digest, model, device: self.device, role: self.role })
    }
}

struct SharedParts<'t> {
    held: HashMap<Parameter, Held>,
    tables: &'t PlanTables,
}

fn missing(p: Parameter) -> SharedModelError {
    SharedModelError::Upload(format!("{p:?} is missing"))
}

impl Parts<SecureValues> for SharedParts<'_> {
    type Error = SharedModelError;

    fn table(&mut self) -> Result<SharedMatrix, SharedModelError> {
        self.matrix(Parameter::Embedding)
    }

    fn matrix(&mut self, p: Parameter) -> Result<SharedMatrix, SharedModelError> {
        match self.held.remove(&p) {
            Some(Held::Matrix(m)) => Ok(m),
            _ => Err(missing(p)),
        }
    }

    fn rows(&mut self, p: Parameter) -> Result<Share, SharedModelError> {
        match self.held.remove(&p) {
            Some(Held::Rows(r)) => Ok(r),
            _ => Err(missing(p)),
        }
    }

    fn norm(&mut self, n: NormId) -> Arc<NormTable> {
        self.tables.norm(n)
    }

    fn softmax(&mut self, layer: usize) -> Arc<SoftmaxTables> {
        self.tables.softmax(layer)
    }

    fn activation(&mut self, a: ActivationId) -> Arc<FunctionTable> {
        self.tables.activation(a)
    }
}

/// One party's share of a model.
pub struct PartyModel {
    /// What is public.
    pub public: PublicModel,
    /// What parties compare.
    pub digest: [u8; 32],
    model: Model<SecureValues>,
    device: Device,
    role: Role,
}

/// One session's state at one party: keys and values of all tokens so far.
pub struct PartySession {
    model: Arc<PartyModel>,
    session: Session,
    cache: Cache<SecureValues>,
}

impl PartySession {
    /// A session over fresh streams.
    pub fn new(model: Arc<PartyModel>, streams: Box<dyn protocol::Streams>) -> PartySession {
        let session = Session::new(model.role, model.device.clone(), kernels::Ring::Z64, streams);
        let cache = Cache::new(&model.model.config);
        PartySession { model, session, cache }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.cache.tokens()
    }

    /// Costs so far.
    pub fn ledger(&self) -> &Ledger {
        self.session.ledger()
    }

    /// Runs `count` tokens, shared as one-hot rows. An evaluator returns its message to the client.
    pub fn pass(
        &mut self,
        net: &mut dyn Network,
        input: &InputPart,
        count: usize,
        rows: OutputRows,
    ) -> protocol::Result<Option<Vec<u8>>> {
        let model = self.model.clone();
        let shape = Shape::new(count, model.model.config.vocab);
        let tokens: Share = input::share(&model.device, input, shape, 0, 0);
        let cache = &mut self.cache;
        let out = self.session.run(net, |cx| {
            let model = &model;
            async move { model.model.forward(&Secure::new(cx), &tokens, count, cache, rows).await }
        })?;
        Ok(out.map(|words| {
            let mut message = Vec::new();
            words.pack(revealed(&self.model.public.config).bits, &mut message);
            message
        }))
    }
}

/// The client's side: shares of tokens, and output scores from the evaluators' messages.
pub mod client {
    use super::*;

    /// Three parts of `tokens` under fresh random seeds: what the dealer, P1 and P2 receive.
    pub fn split_tokens(device: &Device, vocab: usize, tokens: &[u32], one: Key, zero: Key) -> [Vec<u8>; 3] {
        let mut rows = vec![0u64; tokens.len() * vocab];
        for (t, &id) in tokens.iter().enumerate() {
            rows[t * vocab + id as usize] = 1;
        }
        let pieces: Vec<Words> = rows
            .chunks(input::PIECE)
            .enumerate()
            .map(|(i, p)| input::split(device, &Words::upload(device, p.to_vec()), &one, &zero, 0, i))
            .collect();
        let delta = Words::concat(&pieces.iter().collect::<Vec<_>>());
        let evaluator = |seed: Key| {
            let mut part = seed.to_vec();
            delta.pack(64, &mut part);
            part
        };
        [[one, zero].concat(), evaluator(one), evaluator(zero)]
    }

    /// What a pass yielded, row-major with [`output_width`] columns.
    ///
    /// # Errors
    /// The messages have impossible lengths.
    pub fn combine_outputs(
        device: &Device,
        c: &ModelConfig,
        p1: &[u8],
        p2: &[u8],
    ) -> Result<Vec<f32>, SharedModelError> {
        let format = revealed(c);
        let word = format.bits as usize / 8;
        if p1.len() != p2.len() || p1.is_empty() || !p1.len().is_multiple_of(output_width(c) * word) {
            let what = format!("outputs of {} and {} bytes from P1 and P2", p1.len(), p2.len());
            return Err(SharedModelError::Damaged(what));
        }
        let read = |bytes: &[u8]| Words::unpack(device, bytes, format.bits, p1.len() / word).to_vec();
        Ok(read(p1).into_iter().zip(read(p2)).map(|(a, b)| format.combine(a, b) as f32).collect())
    }
}

/// How outputs travel.
fn revealed(c: &ModelConfig) -> Reveal {
    match c.head {
        Head::MeanPooling => Reveal::POOLED,
        _ => Reveal::LOGITS,
    }
}

/// Numbers in a row of output.
pub fn output_width(c: &ModelConfig) -> usize {
    match c.head {
        Head::LanguageModel => c.vocab,
        Head::MeanPooling => c.d_model,
        Head::Classifier { labels } => labels,
    }
}

/// Reads a party's part of the input as it came from the client.
pub fn input_part(
    device: &Device,
    role: Role,
    bytes: &[u8],
    values: usize,
) -> Result<InputPart, SharedModelError> {
    let expected = if role == Role::Dealer { 64 } else { 32 + 8 * values };
    if bytes.len() != expected {
        let what = format!("the client's input part has {} bytes, {expected} are needed", bytes.len());
        return Err(SharedModelError::Damaged(what));
    }
    let key = |i: usize| bytes[32 * i..32 * (i + 1)].try_into().expect("length checked");
    let delta = || Words::unpack(device, &bytes[32..], 64, values);
    Ok(match role {
        Role::Dealer => InputPart::Dealer(key(0), key(1)),
        Role::P1 => InputPart::P1(key(0), delta()),
        Role::P2 => InputPart::P2(key(0), delta()),
    })
}
