//! A model on its way into the store, part by part, and the file that it is written to meanwhile.

use super::room::Refused;
use super::{Claim, Entry, MAGIC, Models, PARTIAL, bad, lock};
use crate::{
    engine::Upload,
    ids::Digest,
    wire::{Failure, FailureCode, PutModel},
};
use kernels::{Device, Words};
use models::parameter::Parameter;
use models::plan::PlanTables;
use models::shared::{Assembly, PartyModel, PublicModel, Weights};
use protocol::Party;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

/// A model's parts as they come, parameter by parameter.
pub(super) struct Incoming {
    device: Device,
    party: Party,
    pub(super) public: PublicModel,
    pub(super) tables: PlanTables,
    /// Bytes of every part: seeds, then parameters.
    pub(super) sizes: Vec<usize>,
    /// How they are to be kept.
    pub(super) weights: Weights,
    assembly: Option<Assembly>,
    part: usize,
    bytes: Vec<u8>,
}

impl Incoming {
    pub(super) fn new(device: &Device, party: Party, metadata: &[u8]) -> Result<Incoming, String> {
        let public = PublicModel::from_bytes(metadata).map_err(|e| e.to_string())?;
        let tables = public.plan.tables(device, &public.config);
        let seeds = if party == Party::Zero { 64 } else { 32 };
        let values = Parameter::all(&public.config).into_iter().map(|p| 8 * p.shared(&public.config).len());
        let parts = std::iter::once(seeds).chain(values.take_while(|_| party != Party::Zero));
        // Of a benchmark model nothing is sent.
        let sizes = parts.take_while(|_| public.benchmark.is_none()).collect();
        let device = device.clone();
        let (weights, assembly, bytes) = (Weights::default(), None, Vec::new());
        Ok(Incoming { device, party, public, tables, sizes, weights, assembly, part: 0, bytes })
    }

    /// Does one step on the device, on whichever thread that is, and sees that the device did it.
    pub(super) fn step<T>(device: &Device, step: impl FnOnce() -> Result<T, String>) -> Result<T, Refused> {
        device.begin();
        let done = step()?;
        device.status().map_err(|e| Refused::Device(e.to_string()))?;
        Ok(done)
    }

    /// Parts come one after the other, each in order.
    pub(super) fn feed(&mut self, part: usize, offset: usize, bytes: &[u8]) -> Result<(), Refused> {
        if part != self.part || offset != self.bytes.len() || part >= self.sizes.len() {
            return Err(format!("part {part} at {offset} came out of turn").into());
        }
        let size = self.sizes[part];
        if bytes.len() > size - offset {
            return Err(format!("part {part} is longer than {size} bytes").into());
        }
        if self.bytes.is_empty() {
            self.bytes.reserve_exact(size);
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() < size {
            return Ok(());
        }
        let complete = std::mem::take(&mut self.bytes);
        self.part += 1;
        match &mut self.assembly {
            None => {
                let seeds = Zeroizing::new(complete);
                let assembly = Assembly::new(&self.device, self.party, &self.public.config, &seeds);
                self.assembly = Some(assembly.map_err(|e| e.to_string())?.keeping(self.weights));
                Ok(())
            }
            Some(assembly) => Incoming::step(&self.device, || {
                let values = Words::unpack(&self.device, &complete, 64, size / 8);
                drop(complete);
                assembly.put(part - 1, values).map_err(|e| e.to_string())
            }),
        }
    }

    pub(super) fn finish(self, dealer: Option<Party>) -> Result<PartyModel, Refused> {
        let Incoming { device, party, public, tables, weights, assembly, .. } = self;
        Incoming::step(&device, || {
            if public.benchmark.is_some() {
                tracing::warn!("{party} makes up the weights of a benchmark model: they are public");
                let made = Assembly::make_up(&device, party, public, tables, dealer, weights);
                return made.map_err(|e| e.to_string());
            }
            let assembly = assembly.ok_or("the seeds are missing")?;
            assembly.finish(public, tables, dealer).map_err(|e| e.to_string())
        })
    }
}

/// A share on its way to disk; removed again unless it is kept.
pub(super) struct ShareFile {
    party: Party,
    partial: PathBuf,
    path: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    kept: bool,
}

impl ShareFile {
    pub(super) fn create(path: PathBuf, party: Party, metadata: &[u8]) -> Result<ShareFile, Failure> {
        let partial = path.with_extension(PARTIAL);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&partial).map_err(|e| disk(party, &partial, &e))?;
        let mut share =
            ShareFile { party, partial, path, file: BufWriter::new(file), hash: Sha256::new(), kept: false };
        share.write(MAGIC)?;
        share.write(&(metadata.len() as u64).to_le_bytes())?;
        share.write(metadata)?;
        Ok(share)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(|e| disk(self.party, &self.partial, &e))
    }

    fn keep(mut self) -> Result<(), Failure> {
        let hash = std::mem::take(&mut self.hash).finalize();
        let synced = self
            .file
            .write_all(&hash)
            .and_then(|()| self.file.flush())
            .and_then(|()| self.file.get_ref().sync_all());
        synced
            .and_then(|()| fs::rename(&self.partial, &self.path))
            .map_err(|e| disk(self.party, &self.path, &e))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for ShareFile {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

pub(super) fn disk(party: Party, path: &Path, e: &std::io::Error) -> Failure {
    let message = format!("{party} cannot write {}: {e}", path.display());
    Failure::new(FailureCode::Internal, message, "make room there or choose another limits.model_directory")
}

pub(super) struct StoreUpload {
    pub(super) models: Models,
    pub(super) dealer: Option<Party>,
    pub(super) model: PutModel,
    pub(super) metadata: Vec<u8>,
    pub(super) incoming: Incoming,
    pub(super) file: Option<ShareFile>,
    /// Goes last.
    pub(super) _claim: Claim,
}

impl Upload for StoreUpload {
    fn chunk(&mut self, tensor: u32, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        if let Some(file) = &mut self.file {
            file.write(bytes)?;
        }
        let offset = usize::try_from(offset).map_err(|_| bad("an impossible offset"))?;
        Ok(self.incoming.feed(tensor as usize, offset, bytes)?)
    }

    fn commit(self: Box<Self>) -> Result<Digest, Failure> {
        let party = self.incoming.party;
        let model = self.incoming.finish(self.dealer)?;
        let digest = Digest(model.digest);
        if digest != self.model.digest {
            let message = format!("{party} computes another digest of the model than its owner");
            return Err(Failure::new(FailureCode::Disagreement, message, "use the same version everywhere"));
        }
        if let Some(file) = self.file {
            file.keep()?;
        }
        let entry = Entry { model: Arc::new(model), metadata: self.metadata };
        lock(&self.models).insert(self.model.name.clone(), entry);
        tracing::info!("{party} holds its share of {}", self.model.name);
        Ok(digest)
    }
}
