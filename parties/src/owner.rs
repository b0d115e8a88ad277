//! The model owner's side: find the gates' ranges, split every parameter, send the parts to the parties.
//!
//! Weights pass through memory one parameter at a time, so that a model may be larger than its owner's memory.
//! Benchmark models have no owner: [`share_benchmark`] names a seed.

use crate::client::{Client, ClientError, UploadChunk, UploadSpec};
use crate::ids::Digest;
use kernels::Device;
use models::benchmark::BenchmarkWeights;
use models::calibrate::{self, CalibrationError};
use models::checkpoint::{Checkpoint, CheckpointError, FileCheckpoint, ModelConfig, TensorSource};
use models::float::Float;
use models::folded;
use models::model::Model;
use models::parameter::Parameter;
use models::plan::{PROGRAM_VERSION, PlanTables};
use models::shared::{PublicModel, Seeds};
use models::tokenizer::{Tokenizer, TokenizerError};
use protocol::Party;
use protocol::gates::input::PIECE;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Why a model cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The model's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its ranges.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// Files without something.
    #[error("{what} is missing; {remedy}")]
    Missing {
        /// What.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(String),
    /// The parties.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A model in the owner's hands, in the clear.
pub struct OwnedModel {
    /// What will be public.
    pub public: PublicModel,
    /// Its tables.
    pub tables: PlanTables,
    /// Its tokenizer; none for random weights.
    pub tokenizer: Option<Tokenizer>,
    source: Mutex<Box<dyn TensorSource>>,
    device: Device,
}

impl OwnedModel {
    /// Opens a GGUF file or a folder of Hugging Face and finds the gates' ranges. `progress` is told how many layers of
    /// how many are done.
    ///
    /// # Errors
    /// The files or the model in them cannot be used.
    pub fn load(path: &Path, progress: impl FnMut(usize, usize)) -> Result<OwnedModel, OwnerError> {
        let Checkpoint { config, labels, tensors, tokenizer, .. } = Checkpoint::open(path)?;
        let tensors = tensors.ok_or(OwnerError::Missing {
            what: "model.safetensors (or model.safetensors.index.json)",
            remedy: "put it beside config.json",
        })?;
        let tokenizer = tokenizer
            .ok_or(OwnerError::Missing { what: "tokenizer.json", remedy: "put it beside config.json" })?;
        let source = FileCheckpoint::new(config, tensors)?;
        Self::new(Box::new(source), labels, Some(tokenizer), progress)
    }

    /// As [`OwnedModel::load`], for weights from anywhere. Without a tokenizer, ranges are found on the tokens
    /// themselves, and the model takes token numbers only.
    ///
    /// # Errors
    /// The model cannot be used.
    pub fn new(
        mut source: Box<dyn TensorSource>,
        labels: Vec<String>,
        tokenizer: Option<Tokenizer>,
        progress: impl FnMut(usize, usize),
    ) -> Result<OwnedModel, OwnerError> {
        let config = source.config().clone();
        let texts = match &tokenizer {
            Some(t) => calibrate::sample_tokens(t, &config)?,
            None => vec![calibrate::spread_tokens(&config)],
        };
        let plan = calibrate::calibrate(&mut *source, &texts, progress)?;
        let device = kernels::cpu::Cpu::best();
        let tables = plan.tables(&device, &config);
        let info = tokenizer.as_ref().map(Tokenizer::info).transpose()?;
        let public = PublicModel {
            program: PROGRAM_VERSION,
            config,
            plan,
            tokenizer: info,
            labels,
            sharing: random().map_err(OwnerError::Randomness)?,
            benchmark: None,
        };
        Ok(OwnedModel { public, tables, tokenizer, source: Mutex::new(source), device })
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.public.config
    }

    /// Where the weights are.
    pub fn source(&self) -> MutexGuard<'_, Box<dyn TensorSource>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the plaintext reference, all of it.
    ///
    /// # Errors
    /// The checkpoint is damaged.
    pub fn float(&self) -> Result<Model<Float>, CheckpointError> {
        Float::load(&mut **self.source())
    }

    /// Shares the model with the cluster under `name`. `progress` gets bytes sent and bytes in all.
    ///
    /// # Errors
    /// A party refuses or is lost; nothing is kept then.
    pub async fn share(
        self: &Arc<Self>,
        client: &Client,
        name: &str,
        progress: impl FnMut(u64, u64),
    ) -> Result<Digest, OwnerError> {
        let seed = || random().map_err(OwnerError::Randomness);
        let seeds = Seeds { one: seed()?, zero: seed()? };
        let config = self.config();
        let values: u64 = Parameter::all(config).into_iter().map(|p| 8 * p.shared(config).len() as u64).sum();
        let digest = Digest(self.public.digest(&self.tables));
        let spec = UploadSpec {
            name: name.into(),
            digest,
            metadata: self.public.to_bytes(),
            totals: [64, 32 + values, 32 + values],
        };
        let (sender, receiver) = mpsc::channel(4);
        let owner = self.clone();
        let producer = std::thread::spawn(move || owner.produce(&seeds, &sender));
        let result = client.upload_model(spec, receiver, progress).await;
        // The receiver is gone by now, so the producer ends at its next part.
        let _ = producer.join();
        result?;
        Ok(digest)
    }

    /// Puts all parts into the channel, until the other end is gone.
    fn produce(&self, seeds: &Seeds, parts: &mpsc::Sender<Result<UploadChunk, String>>) {
        let send = |party, tensor, offset: usize, bytes| {
            parts.blocking_send(Ok(UploadChunk { party, tensor, offset: offset as u64, bytes })).is_ok()
        };
        if !Party::ALL.into_iter().all(|party| send(party, 0, 0, seeds.for_party(party))) {
            return;
        }
        let mut source = self.source();
        for (i, p) in Parameter::all(self.config()).into_iter().enumerate() {
            let weights = match folded::load(&mut **source, p) {
                Ok(w) => w,
                Err(e) => {
                    let _ = parts.blocking_send(Err(e.to_string()));
                    return;
                }
            };
            let words = p.shared(self.config()).len();
            for (piece, start) in (0..words).step_by(PIECE).enumerate() {
                let mut bytes = Vec::new();
                let words = p.words(self.config(), &weights, start..words.min(start + PIECE));
                seeds.rest(&self.device, i, piece, words).pack(64, &mut bytes);
                let to = |party, bytes| send(party, i as u32 + 1, 8 * piece * PIECE, bytes);
                if !(to(Party::One, bytes.clone()) && to(Party::Two, bytes)) {
                    return;
                }
            }
        }
    }
}

/// Has the parties make up the weights of a benchmark model. Nothing but its description is sent; a party answers when it
/// has all weights on its device.
///
/// # Errors
/// A party refuses or is lost; nothing is kept then.
pub async fn share_benchmark(
    client: &Client,
    name: &str,
    public: &PublicModel,
    tables: &PlanTables,
) -> Result<Digest, OwnerError> {
    let digest = Digest(public.digest(tables));
    let spec = UploadSpec { name: name.into(), digest, metadata: public.to_bytes(), totals: [0; 3] };
    let (_, no_parts) = mpsc::channel(1);
    client.upload_model(spec, no_parts, |_, _| {}).await?;
    Ok(digest)
}

/// The description of a model of this shape whose weights come from a fresh public seed.
///
/// # Errors
/// The operating system gives no randomness.
pub fn benchmark_model(config: ModelConfig) -> Result<PublicModel, OwnerError> {
    let seed = || random().map_err(OwnerError::Randomness);
    Ok(PublicModel::benchmark(config, BenchmarkWeights::new(seed()?), seed()?))
}

/// 32 fresh random bytes.
pub(crate) fn random() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}
