//! Models by name from the Hugging Face hub, into the cache that its own tools use (`$HF_HOME/hub`,
//! else `~/.cache/huggingface/hub`). `$HF_ENDPOINT` names a mirror; `$HF_TOKEN`, else the token that
//! the hub's command line keeps, opens restricted models. Only files that are read here are fetched,
//! none of which is a program.
//!
//! Nothing is asked of the network where the cache holds a whole model. All files are of one commit.

mod fetch;
#[cfg(test)]
mod tests;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo};

use crate::checkpoint::{FileError, INDEX_FILE, SINGLE_FILE, shard_names};
use fetch::{Request, Step};

/// How long the hub may say nothing, before or during a download.
const PATIENCE: Duration = Duration::from_secs(30);
const ENDPOINT: &str = "https://huggingface.co";
/// Longest part of an id.
const MAX_PART: usize = 96;

/// What a download is doing, for a progress display.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubEvent {
    /// The hub is asked which files there are.
    Asking {
        /// Its address.
        endpoint: String,
    },
    /// A file arrives.
    Downloading {
        /// Its name.
        file: String,
        /// Bytes that have arrived, some of them perhaps in an earlier attempt.
        received: u64,
        /// Bytes that it has.
        total: u64,
    },
    /// All files are in this folder.
    Ready(PathBuf),
}

/// Why a model could not be had from the hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// No name of a model.
    #[error("{0:?} is no model of the hub; they are named ORGANISATION/NAME")]
    Id(String),
    /// There is no directory to keep files in.
    #[error("no cache directory: set HF_HOME to a directory, or HOME")]
    NoCacheDir,
    /// No connection.
    #[error("cannot reach {endpoint} ({what}); {WITHOUT}")]
    Unreachable {
        /// The hub's address.
        endpoint: String,
        /// What happened.
        what: String,
    },
    /// The hub has stopped answering.
    #[error("{endpoint} has said nothing for {} s; {WITHOUT}", patience.as_secs_f32())]
    Silent {
        /// The hub's address.
        endpoint: String,
        /// For how long.
        patience: Duration,
    },
    /// The hub refuses.
    #[error(
        "{endpoint} does not give out {id} ({what}): check the name; if the model is restricted, accept its terms \
         there and set HF_TOKEN"
    )]
    Refused {
        /// The hub's address.
        endpoint: String,
        /// The model.
        id: String,
        /// What it answered.
        what: String,
    },
    /// The model is kept in another format.
    #[error(
        "{id} lacks {lacks}: choose a model with config.json and safetensors, or download a .gguf file of it and \
         give its path"
    )]
    Format {
        /// The model.
        id: String,
        /// What is missing.
        lacks: &'static str,
    },
    /// A file did not arrive.
    #[error("downloading {file} failed: {what}; try again, it goes on where it stopped")]
    Download {
        /// The file.
        file: String,
        /// What happened.
        what: String,
    },
    /// The list of files is broken.
    #[error(transparent)]
    File(#[from] FileError),
}

const WITHOUT: &str = "without the internet, give the path of a model that is on this machine: a .gguf file, or a \
                       folder with config.json, model.safetensors and tokenizer.json";

/// Whether a text names a model of the hub: two parts of letters, digits, `-`, `_` and `.` with a
/// slash between. A path may look the same; if it exists, it is probably meant.
pub fn is_model_id(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(inner)
            && part.len() <= MAX_PART
            && !part.contains("..")
            && !part.contains("--")
    };
    text.split_once('/').is_some_and(|(organisation, name)| part(organisation) && part(name))
}

/// The folder of a model of the hub, downloaded first where the cache does not hold all of it. It can
/// be opened as any folder is.
///
/// # Errors
/// There is no such model, it is of another format, or the hub cannot be reached; the error says what
/// to do without it. A download that broke off continues at the next call.
pub fn download(id: &str, progress: &mut dyn FnMut(HubEvent)) -> Result<PathBuf, HubError> {
    let has_home = env::var_os("HF_HOME").is_some() || env::home_dir().is_some();
    let cache = if has_home { Cache::from_env() } else { return Err(HubError::NoCacheDir) };
    let endpoint = env::var("HF_ENDPOINT").unwrap_or(ENDPOINT.to_owned());
    Hub { endpoint, cache, patience: PATIENCE }.download(id, progress)
}

/// A hub, and where its files are kept.
struct Hub {
    endpoint: String,
    cache: Cache,
    patience: Duration,
}

impl Hub {
    fn download(&self, id: &str, progress: &mut dyn FnMut(HubEvent)) -> Result<PathBuf, HubError> {
        if !is_model_id(id) {
            return Err(HubError::Id(id.to_owned()));
        }
        if let Some(folder) = self.cached(id) {
            progress(HubEvent::Ready(folder.clone()));
            return Ok(folder);
        }
        progress(HubEvent::Asking { endpoint: self.endpoint.clone() });
        // The client knows no time limits, so a thread waits for the network and this one for news of
        // it. A thread that is given up ends with its connection or with the process.
        let (news, steps) = mpsc::channel();
        let request = self.request(id)?;
        thread::spawn(move || {
            let result = request.run(&news);
            let _ = news.send(Step::Done(result));
        });
        loop {
            match steps.recv_timeout(self.patience) {
                Ok(Step::Event(event)) => progress(event),
                Ok(Step::Done(result)) => {
                    let folder = result?;
                    progress(HubEvent::Ready(folder.clone()));
                    return Ok(folder);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let (endpoint, patience) = (self.endpoint.clone(), self.patience);
                    return Err(HubError::Silent { endpoint, patience });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.unreachable("its answer makes no sense".into()));
                }
            }
        }
    }

    fn request(&self, id: &str) -> Result<Request, HubError> {
        let mut builder = ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_progress(false)
            .with_user_agent("catamount", env!("CARGO_PKG_VERSION"));
        if let Some(token) = env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build().map_err(|e| self.unreachable(e.to_string()))?;
        Ok(Request { api, cache: self.cache.clone(), id: id.to_owned(), endpoint: self.endpoint.clone() })
    }

    fn unreachable(&self, what: String) -> HubError {
        HubError::Unreachable { endpoint: self.endpoint.clone(), what }
    }

    /// The folder of a model all of whose files are in the cache.
    fn cached(&self, id: &str) -> Option<PathBuf> {
        let repo = self.cache.repo(Repo::model(id.to_owned()));
        let folder = repo.get("config.json")?.parent()?.to_path_buf();
        (folder.join("tokenizer.json").exists() && has_weights(&folder)).then_some(folder)
    }
}

fn has_weights(folder: &Path) -> bool {
    let index = folder.join(INDEX_FILE);
    folder.join(SINGLE_FILE).exists()
        || shard_names(&index).is_ok_and(|files| files.iter().all(|file| folder.join(file).exists()))
}
