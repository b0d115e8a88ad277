use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use sha2::{Digest, Sha256};

use super::{HubError, HubEvent};
use crate::checkpoint::{INDEX_FILE, SINGLE_FILE, shard_names};

const CONFIG: &str = "config.json";
/// Files that are fetched where they exist.
const OPTIONAL: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
];

/// News from the thread that waits for the network.
pub(super) enum Step {
    Event(HubEvent),
    Done(Result<PathBuf, HubError>),
}

/// A model to be fetched.
pub(super) struct Request {
    pub(super) api: Api,
    pub(super) cache: Cache,
    pub(super) id: String,
    pub(super) endpoint: String,
}

impl Request {
    /// Fetches what is missing; gives the folder.
    pub(super) fn run(&self, news: &Sender<Step>) -> Result<PathBuf, HubError> {
        let info = self.api.model(self.id.clone()).info().map_err(|e| self.asking(&e))?;
        if info.sha.len() != 40 || !info.sha.bytes().all(|b| b.is_ascii_hexdigit()) {
            let what = "it gives no commit".into();
            return Err(HubError::Unreachable { endpoint: self.endpoint.clone(), what });
        }
        let has = |name: &str| info.siblings.iter().any(|file| file.rfilename == name);
        let lacks = |lacks| Err(HubError::Format { id: self.id.clone(), lacks });
        if !has(CONFIG) {
            return lacks("config.json");
        }
        let repo = Repo::with_revision(self.id.clone(), RepoType::Model, info.sha.clone());
        let commit = Commit { remote: self.api.repo(repo.clone()), local: self.cache.repo(repo) };
        commit.fetch(CONFIG, news)?;
        for name in OPTIONAL.into_iter().filter(|name| has(name)) {
            commit.fetch(name, news)?;
        }
        if has(SINGLE_FILE) {
            commit.fetch(SINGLE_FILE, news)?;
        } else if has(INDEX_FILE) {
            let index = commit.fetch(INDEX_FILE, news)?;
            for name in shard_names(&index)? {
                commit.fetch(&name, news)?;
            }
        } else {
            return lacks("model.safetensors");
        }
        // The branch is said to be at this commit last, so that it is only found with all its files.
        let branch = self.cache.repo(Repo::model(self.id.clone()));
        branch.create_ref(&info.sha).map_err(|e| failed("refs/main", &ApiError::IoError(e)))?;
        Ok(branch.pointer_path(&info.sha))
    }

    /// The client's error has no types for this: it is told by its text.
    fn asking(&self, error: &ApiError) -> HubError {
        let what = error.to_string();
        let endpoint = self.endpoint.clone();
        match what.contains("status: 4") {
            true => HubError::Refused { endpoint, id: self.id.clone(), what },
            false => HubError::Unreachable { endpoint, what },
        }
    }
}

/// The files of one commit, here and there.
struct Commit {
    remote: ApiRepo,
    local: CacheRepo,
}

impl Commit {
    /// One file, from the cache or else from the hub.
    fn fetch(&self, name: &str, news: &Sender<Step>) -> Result<PathBuf, HubError> {
        if let Some(path) = self.local.get(name) {
            return Ok(path);
        }
        let mut report =
            Report { news: news.clone(), file: name.to_owned(), received: 0, total: 0, told: None };
        let path =
            self.remote.download_with_progress(name, Borrowed(&mut report)).map_err(|e| failed(name, &e))?;
        verify(&path, name, &mut report)?;
        Ok(path)
    }
}

/// Compares a large file with its SHA-256, which is what the hub calls it by; small files are called
/// by another number. A wrong one is removed.
fn verify(path: &Path, name: &str, report: &mut Report) -> Result<(), HubError> {
    let io = |e| failed(name, &ApiError::IoError(e));
    let blob = path.canonicalize().map_err(io)?;
    let wanted = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if wanted.len() != 64 {
        return Ok(());
    }
    let (mut file, mut hash) = (File::open(&blob).map_err(io)?, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
        report.update(0);
    }
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found == wanted {
        return Ok(());
    }
    for path in [path, &blob] {
        fs::remove_file(path).map_err(io)?;
    }
    Err(HubError::Download { file: name.to_owned(), what: format!("its SHA-256 is {found}, not {wanted}") })
}

fn failed(file: &str, error: &ApiError) -> HubError {
    HubError::Download { file: file.to_owned(), what: error.to_string() }
}

/// Passes progress on, a few times a second at most.
struct Report {
    news: Sender<Step>,
    file: String,
    received: u64,
    total: u64,
    told: Option<Instant>,
}

impl Report {
    fn update(&mut self, more: u64) {
        self.received += more;
        if self.told.is_none_or(|told| told.elapsed() > Duration::from_millis(200)) {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.told = Some(Instant::now());
        let Self { file, received, total, .. } = self;
        let event = HubEvent::Downloading { file: file.clone(), received: *received, total: *total };
        // Nobody may be listening any more.
        let _ = self.news.send(Step::Event(event));
    }
}

/// The client wants the progress display for itself.
struct Borrowed<'a>(&'a mut Report);

impl Progress for Borrowed<'_> {
    fn init(&mut self, size: usize, _: &str) {
        self.0.total = size as u64;
        self.0.received = 0;
    }

    fn update(&mut self, size: usize) {
        self.0.update(size as u64);
    }

    fn finish(&mut self) {
        self.0.tell();
    }
}
