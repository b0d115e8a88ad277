//! Child processes whose output is caught as it comes, and which never outlive a test.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What a pipe has brought so far.
struct Caught {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Caught {
    fn new(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
        let sink = bytes.clone();
        let thread = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut piece) {
                sink.lock().unwrap().extend_from_slice(&piece[..n]);
            }
        });
        Self { bytes, thread: Some(thread) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}

/// A running program.
pub(crate) struct Process {
    child: Child,
    start: Instant,
    out: Caught,
    err: Caught,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { child, start: Instant::now(), out: Caught::new(out), err: Caught::new(err) }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn out(&self) -> String {
        self.out.text()
    }

    pub(crate) fn err(&self) -> String {
        self.err.text()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for something of a running process.
    pub(crate) fn until(&mut self, what: &str, seconds: u64, mut test: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while !test(self) {
            let in_time = self.runs() && Instant::now() < end;
            assert!(in_time, "waited for {what}\n{}\n{}", self.out(), self.err());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end, which must come in time.
    pub(crate) fn end(mut self, seconds: u64) -> Ended {
        let end = Instant::now() + Duration::from_secs(seconds);
        while self.runs() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        let took = self.start.elapsed();
        assert!(!self.runs(), "still running after {took:?}\n{}\n{}", self.out(), self.err());
        for caught in [&mut self.out, &mut self.err] {
            caught.thread.take().unwrap().join().unwrap();
        }
        Ended { code: self.child.wait().unwrap().code(), out: self.out(), err: self.err(), took }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// It did what it should.
    pub(crate) fn fine(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked at"), "{}", self.err);
        self
    }

    /// It explains itself: an exit code of its own, these words, no panic.
    pub(crate) fn refused(self, words: &[&str]) -> Self {
        assert!(!self.err.contains("panicked at"), "{}", self.err);
        assert!(matches!(self.code, Some(1 | 2)), "exit code {:?}\n{}\n{}", self.code, self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is missing from: {}", self.err);
        }
        self
    }

    /// The one JSON object on standard output.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// Sends a signal to a process, or to a group if `process` is negative.
pub(crate) fn signal(name: &str, process: i64) {
    let kill = Command::new("kill").args([&format!("-{name}"), "--", &process.to_string()]).status();
    assert!(kill.unwrap().success());
}

/// Whether there is such a process (a dead one that nobody has waited for counts as gone).
pub(crate) fn exists(process: u32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"));
    status.is_ok_and(|s| !s.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

/// Runs a program that must end within 60 seconds.
pub(crate) fn run(command: &mut Command) -> Ended {
    Process::start(command).end(60)
}
