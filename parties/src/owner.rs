//! The model owner's side: find the gates' ranges, split every matrix, send the parts to the parties.

use crate::client::{Client, ClientError, UploadChunk, UploadSpec};
use crate::ids::Digest;
use kernels::Device;
use models::calibrate::{CalibrationError, calibrate};
use models::checkpoint::{CheckpointError, GgufCheckpoint, TensorSource};
use models::float::Float;
use models::gguf::{Gguf, GgufError};
use models::llama::{Llama, MatrixId};
use models::plan::{PROGRAM_VERSION, PlanTables};
use models::shared::{PublicModel, Seeds};
use models::tokenizer::{Tokenizer, TokenizerError};
use models::{folded, weights};
use protocol::Role;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// Bytes of a piece of a matrix on its way.
const CHUNK: usize = 4 << 20;

/// Why a model cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The file.
    #[error(transparent)]
    File(#[from] GgufError),
    /// The model in it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its ranges.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The tokenizer and the embeddings do not belong together.
    #[error("the tokenizer has {tokens} tokens, the model {vocab}; use a complete model file")]
    Vocabulary {
        /// Of the tokenizer.
        tokens: usize,
        /// Of the model.
        vocab: usize,
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
    /// The plaintext reference.
    pub float: Llama<Float>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    source: Mutex<GgufCheckpoint>,
    device: Device,
}

impl OwnedModel {
    /// Loads a GGUF file and finds the gates' ranges. `progress` is told how many samples of how many were watched.
    ///
    /// # Errors
    /// The file or the model in it cannot be used.
    pub fn load(path: &Path, progress: impl FnMut(usize, usize)) -> Result<OwnedModel, OwnerError> {
        let gguf = Gguf::open(path)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let mut source = GgufCheckpoint::new(gguf)?;
        let config = source.config().clone();
        if tokenizer.vocab_size() > config.vocab {
            return Err(OwnerError::Vocabulary { tokens: tokenizer.vocab_size(), vocab: config.vocab });
        }
        let float = Float::load(&mut source)?;
        let plan = calibrate(&float, &tokenizer, progress)?;
        let device = kernels::cpu::Cpu::best();
        let tables = plan.tables(&device, &config);
        let sharing = random()?;
        let tokenizer_info = tokenizer.info()?;
        let public =
            PublicModel { program: PROGRAM_VERSION, config, plan, tokenizer: tokenizer_info, sharing };
        Ok(OwnedModel { public, tables, float, tokenizer, source: Mutex::new(source), device })
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
        let seeds = Seeds { one: random()?, zero: random()? };
        let config = &self.public.config;
        let matrices: u64 = MatrixId::all(config)
            .into_iter()
            .map(|id| {
                let (rows, cols) = id.shape(config);
                8 * (rows * cols) as u64
            })
            .sum();
        let digest = Digest(self.public.digest(&self.tables));
        let spec = UploadSpec {
            name: name.into(),
            digest,
            metadata: self.public.to_bytes(),
            totals: [64, 32 + matrices, 32 + matrices],
        };
        let (sender, receiver) = mpsc::channel(8);
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
        if !Role::ALL.into_iter().all(|role| send(role, 0, 0, seeds.for_party(role))) {
            return;
        }
        let mut source = self.source.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (i, id) in MatrixId::all(&self.public.config).into_iter().enumerate() {
            let weights = match folded::load(&mut *source, id) {
                Ok(w) => weights::encode(&w),
                Err(e) => {
                    let _ = parts.blocking_send(Err(e.to_string()));
                    return;
                }
            };
            let mut bytes = Vec::new();
            seeds.delta(&self.device, i, weights).pack(64, &mut bytes);
            for (piece, chunk) in bytes.chunks(CHUNK).enumerate() {
                let to = |role| send(role, i as u32 + 1, piece * CHUNK, chunk.to_vec());
                if !(to(Role::P1) && to(Role::P2)) {
                    return;
                }
            }
        }
    }
}

/// 32 fresh random bytes.
pub(crate) fn random() -> Result<[u8; 32], OwnerError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| OwnerError::Randomness(e.to_string()))?;
    Ok(bytes)
}
