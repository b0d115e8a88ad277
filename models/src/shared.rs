//! A model as it is shared: what is public, what each party stores, and one session's passes over it.

use crate::algebra::SCALE;
use crate::checkpoint::LlamaConfig;
use crate::llama::{Cache, Layer, Llama, LogitRows, MatrixId};
use crate::plan::{PROGRAM_VERSION, Plan, PlanTables};
use crate::secure::{Secure, SecureValues};
use crate::tokenizer::TokenizerInfo;
use kernels::{Device, Words};
use protocol::gates::input::{self, InputPart};
use protocol::gates::reveal::Reveal;
use protocol::{Key, Ledger, Network, Role, Session, Shape, Share, SharedMatrix};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Everything public about a shared model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicModel {
    /// Version of the program it was shared for.
    pub program: u32,
    /// Shapes and constants.
    pub config: LlamaConfig,
    /// Ranges of the gates.
    pub plan: Plan,
    /// How text becomes tokens.
    pub tokenizer: TokenizerInfo,
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
        Ok(m)
    }

    /// What parties and clients compare.
    pub fn digest(&self, tables: &PlanTables) -> [u8; 32] {
        let mut h = Sha256::new();
        h.update(tables.digest(&self.config, &self.plan));
        h.update(self.sharing);
        h.update(serde_json::to_vec(&self.tokenizer).expect("plain data"));
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

    /// Δ of matrix number `index`: what both evaluators get in full.
    pub fn delta(&self, device: &Device, index: usize, encoded: Vec<u64>) -> Words {
        input::split(device, &Words::upload(device, encoded), &self.one, &self.zero, index as u64)
    }
}

/// One party's parts of a model while they arrive.
pub struct Assembly {
    device: Device,
    role: Role,
    seeds: Vec<u8>,
    config: LlamaConfig,
    matrices: Vec<Option<SharedMatrix>>,
}

impl Assembly {
    /// For one party with its seeds.
    pub fn new(
        device: &Device,
        role: Role,
        config: &LlamaConfig,
        seeds: Vec<u8>,
    ) -> Result<Assembly, SharedModelError> {
        let expected = if role == Role::Dealer { 64 } else { 32 };
        if seeds.len() != expected {
            return Err(SharedModelError::Upload(format!("{} bytes of seeds for {role}", seeds.len())));
        }
        let matrices = MatrixId::all(config).iter().map(|_| None).collect();
        Ok(Assembly { device: device.clone(), role, seeds, config: config.clone(), matrices })
    }

    fn part(&self, delta: Option<Words>) -> Result<InputPart, SharedModelError> {
        let key = |i: usize| self.seeds[32 * i..32 * (i + 1)].try_into().expect("checked in new");
        let missing = || SharedModelError::Upload("an evaluator's matrix without its values".into());
        Ok(match self.role {
            Role::Dealer => InputPart::Dealer(key(0), key(1)),
            Role::P1 => InputPart::P1(key(0), delta.ok_or_else(missing)?),
            Role::P2 => InputPart::P2(key(0), delta.ok_or_else(missing)?),
        })
    }

    /// Takes matrix number `index`; the dealer has no Δ.
    pub fn put(&mut self, index: usize, delta: Option<Words>) -> Result<(), SharedModelError> {
        let ids = MatrixId::all(&self.config);
        let id = *ids.get(index).ok_or_else(|| SharedModelError::Upload(format!("no matrix {index}")))?;
        let (rows, cols) = id.shape(&self.config);
        if let Some(d) = &delta
            && d.len() != rows * cols
        {
            let what = format!("matrix {index} has {} values, {} are needed", d.len(), rows * cols);
            return Err(SharedModelError::Upload(what));
        }
        let share =
            input::share(&self.device, &self.part(delta)?, Shape::new(rows, cols), SCALE, index as u64);
        self.matrices[index] = Some(SharedMatrix::new(&share, self.role == Role::P1));
        Ok(())
    }

    /// All matrices are there.
    pub fn finish(mut self, public: PublicModel, tables: PlanTables) -> Result<PartyModel, SharedModelError> {
        if self.role == Role::Dealer {
            for i in 0..self.matrices.len() {
                self.put(i, None)?;
            }
        }
        let mut matrices = self.matrices.into_iter().enumerate();
        let mut next = || match matrices.next() {
            Some((_, Some(m))) => Ok(m),
            Some((i, None)) => Err(SharedModelError::Upload(format!("matrix {i} is missing"))),
            None => Err(SharedModelError::Upload("too few matrices".into())),
        };
        let embedding = next()?;
        let layers = tables.layers.iter().map(|t| {
            Ok(Layer {
                attention_norm: t.attention_norm.clone(),
                qkv: next()?,
                softmax: t.softmax.clone(),
                o: next()?,
                feed_forward_norm: t.feed_forward_norm.clone(),
                gate_up: next()?,
                gate: t.gate.clone(),
                down: next()?,
            })
        });
        let layers = layers.collect::<Result<_, SharedModelError>>()?;
        let digest = public.digest(&tables);
        let llama = Llama {
            config: public.config.clone(),
            embedding,
            layers,
            final_norm: tables.final_norm.clone(),
            output: next()?,
        };
        Ok(PartyModel { public, digest, llama, device: self.device, role: self.role })
    }
}

/// One party's share of a model.
pub struct PartyModel {
    /// What is public.
    pub public: PublicModel,
    /// What parties compare.
    pub digest: [u8; 32],
    llama: Llama<SecureValues>,
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
        let cache = Cache::new(&model.llama.config);
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
        rows: LogitRows,
    ) -> protocol::Result<Option<Vec<u8>>> {
        let model = self.model.clone();
        let shape = Shape::new(count, model.llama.config.vocab);
        let tokens: Share = input::share(&model.device, input, shape, 0, 0);
        let cache = &mut self.cache;
        let out = self.session.run(net, |cx| {
            let model = &model;
            async move { model.llama.forward(&Secure::new(cx), &tokens, count, cache, rows).await }
        })?;
        Ok(out.map(|words| {
            let mut message = Vec::new();
            words.pack(Reveal::LOGITS.bits, &mut message);
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
        let delta = input::split(device, &Words::upload(device, rows), &one, &zero, 0);
        let evaluator = |seed: Key| {
            let mut part = seed.to_vec();
            delta.pack(64, &mut part);
            part
        };
        [[one, zero].concat(), evaluator(one), evaluator(zero)]
    }

    /// Output scores, row-major with `vocab` columns.
    pub fn combine_logits(
        device: &Device,
        p1: &[u8],
        p2: &[u8],
        vocab: usize,
    ) -> Result<Vec<f32>, SharedModelError> {
        let word = Reveal::LOGITS.bits as usize / 8;
        if p1.len() != p2.len() || p1.is_empty() || !p1.len().is_multiple_of(vocab * word) {
            let what = format!("output scores of {} and {} bytes from P1 and P2", p1.len(), p2.len());
            return Err(SharedModelError::Damaged(what));
        }
        let read = |bytes: &[u8]| Words::unpack(device, bytes, Reveal::LOGITS.bits, p1.len() / word).to_vec();
        Ok(read(p1).into_iter().zip(read(p2)).map(|(a, b)| Reveal::LOGITS.combine(a, b) as f32).collect())
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
