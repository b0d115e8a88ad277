//! The engine of a party: its shares of models, in memory and on disk, and the sessions that compute with them.
//!
//! A stored share is one file: magic, length of the public description, description, then the party's seeds and (at parties
//! 1 and 2) the values of every parameter, exactly as they were uploaded, then SHA-256 of all that. It is the same whoever
//! deals: two of three components ([`models::shared`]). With an empty
//! `model_directory` shares live in memory only.

mod devices;
pub mod room;
mod runner;
mod upload;

use crate::{
    config::PartyConfig,
    engine::{Engine, SessionContext, SessionRunner, StoredModel, Upload},
    ids::Digest,
    tls::ClientIdentity,
    wire::{Failure, FailureCode, ModelInfo, OpenSession, PutModel, check_model_name},
};
use devices::Reopened;
use kernels::Device;
use models::memory::MemoryPlan;
use models::shared::{PartyModel, PartySession, SessionOptions, SharedModelError, Stepwise};
use protocol::{ChaChaStreams, Party};
use room::{Promised, Refused, Room};
use runner::Runner;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use upload::{Incoming, ShareFile, StoreUpload, disk};

const MAGIC: &[u8; 16] = b"catamount share3";
const EXTENSION: &str = "share";
/// A share on its way to disk.
const PARTIAL: &str = "partial";
/// A description is a configuration and a tokenizer.
const MAX_DESCRIPTION: u64 = 64 << 20;

struct Entry {
    model: Arc<PartyModel>,
    metadata: Vec<u8>,
}

type Models = Arc<Mutex<HashMap<String, Entry>>>;

/// The right to store a model of some name, of which there is one at a time.
struct Claim {
    claims: Arc<Mutex<HashSet<String>>>,
    name: String,
}

impl Claim {
    fn new(claims: &Arc<Mutex<HashSet<String>>>, name: &str) -> Option<Claim> {
        let free = claims.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        free.then(|| Claim { claims: claims.clone(), name: name.into() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// Shares of models of one party.
pub struct ModelStore {
    party: Party,
    /// Who deals in all sessions, if it is always the same.
    dealer: Option<Party>,
    devices: Reopened,
    room: Room,
    directory: Option<PathBuf>,
    /// Whether clients may know where this party's time goes.
    report_times: bool,
    /// Passes that the dealer deals ahead.
    passes_ahead: usize,
    models: Models,
    claims: Arc<Mutex<HashSet<String>>>,
}

impl ModelStore {
    /// Loads what is stored, onto the device that the configuration names.
    ///
    /// # Errors
    /// As [`ModelStore::on`], or there is no such device.
    pub fn open(config: &PartyConfig) -> Result<ModelStore, String> {
        ModelStore::on(config, config.device.open().map_err(|e| e.to_string())?)
    }

    /// Loads what is stored, onto this device. If it is lost, the one that the configuration names is opened.
    ///
    /// # Errors
    /// The directory cannot be used. A damaged share is reported in the log and left out.
    pub fn on(config: &PartyConfig, device: Device) -> Result<ModelStore, String> {
        // The name tells the number of threads.
        kernels::cpu::use_threads(config.limits.threads);
        tracing::info!("{} computes on {}", config.party, device.name());
        let directory = Some(config.limits.model_directory.clone()).filter(|d| !d.as_os_str().is_empty());
        let store = ModelStore {
            party: config.party,
            dealer: config.limits.dealer.only(),
            devices: Reopened::new(device.clone(), config.device),
            room: Room {
                party: config.party,
                plays: config.limits.dealer.only().map(|dealer| config.party.role(dealer)),
                weights: config.weights,
                context: config.limits.max_context_tokens as usize,
                queue: config.transport.link_queue_bytes as u64,
                promised: Promised::default(),
            },
            directory,
            report_times: config.limits.report_times,
            passes_ahead: config.limits.max_tokens_ahead as usize,
            models: Models::default(),
            claims: Arc::default(),
        };
        store.load_all(&device)?;
        Ok(store)
    }

    /// Loads what lies in the directory, if there is one.
    fn load_all(&self, device: &Device) -> Result<(), String> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let cannot = |e: std::io::Error| {
            format!(
                "cannot use the model directory {}: {e}; choose another limits.model_directory",
                directory.display()
            )
        };
        fs::create_dir_all(directory).map_err(cannot)?;
        for entry in fs::read_dir(directory).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default().to_string();
            let uploading = || self.claims.lock().unwrap_or_else(PoisonError::into_inner).contains(&name);
            if path.extension().is_some_and(|e| e == PARTIAL) && !uploading() {
                // Left by a party that was killed in the middle of an upload.
                let _ = fs::remove_file(&path);
            }
            if path.extension().is_some_and(|e| e == EXTENSION) && check_model_name(&name).is_ok() {
                match self.load(device, &path) {
                    Ok(entry) => {
                        tracing::info!("{} has loaded its share of {name}", self.party);
                        lock(&self.models).insert(name, entry);
                    }
                    Err(e) => tracing::warn!("{} is left out: {e}", path.display()),
                }
            }
        }
        Ok(())
    }

    /// Begins to put a model together, if there is room for it.
    fn incoming(&self, device: &Device, metadata: &[u8]) -> Result<Incoming, Refused> {
        let mut incoming = Incoming::step(device, || Incoming::new(device, self.party, metadata))?;
        let public = &incoming.public;
        let room = self.room.for_model(device, &public.config, &incoming.tables, public.plan.longest);
        incoming.weights = room.map_err(Refused::NoRoom)?;
        Ok(incoming)
    }

    fn load(&self, device: &Device, path: &Path) -> Result<Entry, Refused> {
        let mut file = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
        let there = file.get_ref().metadata().map_err(|e| e.to_string())?.len();
        let mut hash = Sha256::new();
        let mut read = |n: usize| {
            if n as u64 > there {
                return Err("it is cut off".to_string());
            }
            let mut bytes = vec![0; n];
            file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
            hash.update(&bytes);
            Ok(bytes)
        };
        if read(16)? != MAGIC {
            return Err("it is no share of this version".to_string().into());
        }
        let length = u64::from_le_bytes(read(8)?.try_into().expect("8 bytes"));
        if length > MAX_DESCRIPTION {
            return Err("an impossible length".to_string().into());
        }
        let metadata = read(length as usize)?;
        let mut incoming = self.incoming(device, &metadata)?;
        for tensor in 0..incoming.sizes.len() {
            let bytes = read(incoming.sizes[tensor])?;
            incoming.feed(tensor, 0, &bytes)?;
        }
        let computed = hash.finalize();
        let mut rest = Vec::new();
        file.take(33).read_to_end(&mut rest).map_err(|e| e.to_string())?;
        if rest[..] != computed[..] {
            return Err("its checksum is wrong".to_string().into());
        }
        let model = Arc::new(incoming.finish(self.dealer)?);
        Ok(Entry { model, metadata })
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.directory.as_ref().map(|d| d.join(format!("{name}.{EXTENSION}")))
    }

    fn find<T>(&self, name: &str, f: impl FnOnce(&Entry) -> T) -> Result<T, Failure> {
        let models = lock(&self.models);
        models.get(name).map(f).ok_or_else(|| {
            let mut known: Vec<&str> = models.keys().map(String::as_str).collect();
            known.sort_unstable();
            let known =
                if known.is_empty() { "it has none".into() } else { format!("it has {}", known.join(", ")) };
            let message = format!("{} has no model {name:?}: {known}", self.party);
            Failure::new(FailureCode::NotFound, message, "share it first: catamount share-model")
        })
    }
}

fn lock(models: &Models) -> MutexGuard<'_, HashMap<String, Entry>> {
    models.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stored(name: &str, entry: &Entry) -> StoredModel {
    let info = ModelInfo { name: name.into(), digest: Digest(entry.model.digest) };
    StoredModel { info, metadata: entry.metadata.clone() }
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::BadRequest, message, "share the model again with this version of catamount")
}

fn unknown_options(party: Party, e: &serde_json::Error) -> Failure {
    let message = format!("session options that {party} does not know: {e}");
    Failure::new(FailureCode::BadRequest, message, "use the same version of catamount as the parties")
}

impl Engine for ModelStore {
    fn list_models(&self) -> Result<Vec<StoredModel>, Failure> {
        self.device()?;
        let mut all: Vec<StoredModel> = lock(&self.models).iter().map(|(n, e)| stored(n, e)).collect();
        all.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        Ok(all)
    }

    fn model_info(&self, name: &str) -> Result<StoredModel, Failure> {
        // While a device is lost, so are the models that were on it.
        self.device()?;
        self.find(name, |e| stored(name, e))
    }

    fn begin_upload(
        &self,
        _client: &ClientIdentity,
        model: PutModel,
        metadata: Vec<u8>,
    ) -> Result<Box<dyn Upload>, Failure> {
        if lock(&self.models).contains_key(&model.name) {
            let message = format!("{} already has a model {:?}", self.party, model.name);
            return Err(Failure::new(
                FailureCode::Exists,
                message,
                "choose another --name, or replace it with --replace",
            ));
        }
        let claim = Claim::new(&self.claims, &model.name).ok_or_else(|| {
            let message = format!("{} is receiving a model {:?} already", self.party, model.name);
            Failure::new(FailureCode::Busy, message, "wait until it is there, or choose another --name")
        })?;
        let incoming = self.incoming(&self.device()?, &metadata)?;
        let total: u64 = incoming.sizes.iter().map(|&s| s as u64).sum();
        if total != model.total {
            return Err(bad(format!("{} bytes announced, {total} belong to this model", model.total)));
        }
        let file = self.path(&model.name).map(|p| ShareFile::create(p, self.party, &metadata)).transpose()?;
        Ok(Box::new(StoreUpload {
            models: self.models.clone(),
            dealer: self.dealer,
            model,
            metadata,
            incoming,
            file,
            _claim: claim,
        }))
    }

    fn delete_model(&self, _client: &ClientIdentity, name: &str) -> Result<(), Failure> {
        self.find(name, |_| ())?;
        if let Some(path) = self.path(name) {
            fs::remove_file(&path).map_err(|e| disk(self.party, &path, &e))?;
        }
        lock(&self.models).remove(name);
        Ok(())
    }

    fn open_session(
        &self,
        context: SessionContext,
        request: OpenSession,
        options: Vec<u8>,
    ) -> Result<Box<dyn SessionRunner>, Failure> {
        let device = self.device()?;
        let model = self.find(&request.model, |e| e.model.clone())?;
        if Digest(model.digest) != request.digest {
            let message = format!("{} has another model under the name {:?}", self.party, request.model);
            return Err(Failure::new(
                FailureCode::Disagreement,
                message,
                "share the model with all three again",
            ));
        }
        let options: SessionOptions =
            serde_json::from_slice(&options).map_err(|e| unknown_options(self.party, &e))?;
        if let Some(choice) = &options.choice {
            let refuse = |what: String| Failure::new(FailureCode::BadRequest, what, "ask otherwise");
            if !model.public.config.is_decoder() {
                return Err(refuse(format!("{} cannot choose tokens with this model", self.party)));
            }
            choice.check(&model.public).map_err(|e| refuse(format!("{} cannot choose {e}", self.party)))?;
        }
        if options.profile && !self.report_times {
            let message = format!("{} does not say where its time goes", self.party);
            let remedy = "ask its operator to set limits.report_times, or ask without times";
            return Err(Failure::new(FailureCode::Forbidden, message, remedy));
        }
        let longest = model.public.plan.longest;
        if request.context_tokens as usize > longest {
            let message = format!("{} tokens of context, the model takes {longest}", request.context_tokens);
            return Err(Failure::new(
                FailureCode::Limit,
                message,
                "shorten the prompt or ask for fewer tokens",
            ));
        }
        let keys_and_values = (request.context_tokens as usize, request.sequences as usize);
        let promise =
            self.room.for_session(&device, &model.public.config, keys_and_values).map_err(|message| {
                let remedy =
                    "ask fewer prompts at a time, for fewer tokens, or when other sessions have ended";
                Failure::new(FailureCode::Limit, message, remedy)
            })?;
        let streams = ChaChaStreams::new(context.keys.of_roles(context.party, context.session.dealer()));
        let token = MemoryPlan::cache(&model.public.config, 1);
        let session = PartySession::new(model, context.role(), Box::new(streams));
        let session = session.map_err(|e| match e {
            SharedModelError::Device { .. } => Failure::new(
                FailureCode::Internal,
                format!("{e}, while it made its part of {} ready", request.model),
                "wait until other sessions have ended, and ask again",
            ),
            _ => Failure::new(
                FailureCode::Forbidden,
                e.to_string(),
                "let the party deal that its configuration names",
            ),
        })?;
        // Never beyond the session's context.
        let most = request.context_tokens as usize;
        let stepwise = options.stepwise.map(|s| Stepwise { to: s.to.min(most), ..s });
        let mut session =
            session.with_sequences(request.sequences as usize).dealing_ahead(self.passes_ahead, stepwise);
        if options.profile {
            session = session.with_profile();
        }
        Ok(Box::new(Runner::new(&context, session, options, (promise, token))))
    }
}
