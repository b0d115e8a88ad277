//! `--trace FILE`: what every process did when, in the JSON format that Perfetto and Chrome's `about:tracing` open.
//!
//! Each party is a process with one thread, on which the parts of the program lie as nested slices: layer, gate,
//! operation, and in it what is no computation. Clocks of other machines are set back as far as messages tell (see
//! [`clocks`]); the trace says by how much, and how well that is known.

mod clocks;

use anyhow::Context as _;
use clocks::Clocks;
use parties::private::PassTimes;
use protocol::Role;
use protocol::profile::{Mark, Part, Profile};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Where a trace goes.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct TraceArgument {
    /// Write a trace of all parties on one time line to FILE, for ui.perfetto.dev or chrome://tracing. Recording takes
    /// a little time of its own.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// One slice (`ph` X) or name (`ph` M) of the format; times in microseconds.
#[derive(Debug, Serialize)]
struct Event {
    name: String,
    ph: &'static str,
    pid: usize,
    tid: usize,
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    args: Value,
    /// How many slices it lies in: of slices that are equally long, the outer one comes first.
    #[serde(skip)]
    depth: usize,
}

/// Slices of one thread, kept open while the program stays within them.
struct Thread {
    pid: usize,
    /// Nanoseconds since 1970 at time 0 of the trace.
    zero: u64,
    open: Vec<(String, u64)>,
    events: Vec<Event>,
}

impl TraceArgument {
    /// Whether a trace is wanted.
    pub(crate) fn wanted(&self) -> bool {
        self.trace.is_some()
    }

    /// Writes it, if it is wanted.
    pub(crate) fn write(&self, passes: &[PassTimes]) -> anyhow::Result<()> {
        let Some(file) = &self.trace else { return Ok(()) };
        let problem = || format!("cannot write the trace to {}", file.display());
        let mut out = BufWriter::new(File::create(file).with_context(problem)?);
        let clocks = Clocks::of(passes);
        write_events(&mut out, &clocks, &events(passes, &clocks))
            .and_then(|()| out.flush())
            .with_context(problem)
    }
}

fn write_events(out: &mut impl Write, clocks: &Clocks, events: &[Event]) -> std::io::Result<()> {
    let about = json!({ "clock": "that of the client", "clocks of the parties": clocks.describe() });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":[")?;
    for (i, event) in events.iter().enumerate() {
        out.write_all(if i == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, event)?;
    }
    out.write_all(b"\n]}\n")
}

/// All events: names of processes, then slices in order of their start, enclosing ones first.
fn events(passes: &[PassTimes], clocks: &Clocks) -> Vec<Event> {
    let set = |role: usize, p: &Profile| p.start.saturating_add_signed(-clocks.offset(role));
    let starts = passes.iter().flat_map(|p| {
        let parties = p.parties.iter().enumerate().map(|(role, q)| set(role, q));
        parties.chain(p.client.iter().map(|span| span.start))
    });
    let zero = starts.min().unwrap_or(0);
    let thread = |pid| Thread { pid, zero, open: vec![], events: vec![] };
    let mut all: Vec<Event> = vec![];
    for role in Role::ALL {
        let mut thread = thread(role.index() + 1);
        for (i, pass) in passes.iter().enumerate() {
            let profile = &pass.parties[role.index()];
            thread.party(i, profile, set(role.index(), profile));
        }
        all.append(&mut thread.events);
    }
    let mut client = thread(4);
    for span in passes.iter().flat_map(|p| &p.client) {
        client.slice(span.doing.name().into(), span.start, span.start + span.length, "client", Value::Null);
    }
    all.append(&mut client.events);
    all.sort_by(|a, b| {
        a.ts.total_cmp(&b.ts).then(b.dur.partial_cmp(&a.dur).expect("numbers")).then(a.depth.cmp(&b.depth))
    });
    let mut named: Vec<Event> = vec![];
    for (pid, process, thread) in [
        (1, "P0 (dealer)", "session"),
        (2, "P1 (evaluator)", "session"),
        (3, "P2 (evaluator)", "session"),
        (4, "client", "passes"),
    ] {
        for (kind, name) in [("process_name", process), ("thread_name", thread)] {
            let (name, args) = (kind.into(), json!({ "name": name }));
            named.push(Event { name, ph: "M", pid, tid: 1, ts: 0.0, dur: None, cat: None, args, depth: 0 });
        }
    }
    named.extend(all);
    named
}

impl Thread {
    fn slice(&mut self, name: String, start: u64, end: u64, cat: &'static str, args: Value) {
        if end == start {
            return;
        }
        let micros = |ns: u64| ns as f64 / 1000.0;
        // Differences of whole nanoseconds: slices that touch do not overlap by rounding.
        let (ts, dur) = (micros(start - self.zero), micros(end - start));
        self.events.push(Event {
            name,
            ph: "X",
            pid: self.pid,
            tid: 1,
            ts,
            dur: Some(dur),
            cat: Some(cat),
            args,
            depth: self.open.len() + 1,
        });
    }

    /// A party's pass, which began at `start` by the client's clock.
    fn party(&mut self, number: usize, p: &Profile, start: u64) {
        let mut args = json!({ "exchanges": p.rounds.len() });
        if let Some(s) = p.scheduled {
            args["ms on a core"] = json!(s.running as f64 / 1e6);
            args["ms ready without a core"] = json!(s.ready as f64 / 1e6);
        }
        self.slice(format!("pass {}", number + 1), start, start + p.wall, "pass", args);
        let mut rounds = p.rounds.iter();
        for (mark, end) in p.spans() {
            let (from, to) = (start + mark.at, start + end);
            let mut args = Value::Null;
            if mark.scope == Mark::EXCHANGE {
                let Some(round) = rounds.next() else { continue };
                let of: Vec<&str> =
                    round.openings.iter().map(|&(s, _)| p.scopes[s as usize].as_str()).collect();
                self.move_to(&common_path(&of), from);
                let bytes: u64 = round.openings.iter().map(|o| o.1).sum();
                args = json!({ "bytes each way": bytes, "of": of });
            } else if mark.scope != 0 {
                let path: Vec<&str> = p.scopes[mark.scope as usize].split('/').collect();
                self.move_to(&path, from);
            }
            if mark.part != Part::Compute {
                self.slice(mark.part.name().into(), from, to, "part", args);
            }
        }
        self.move_to(&[], start + p.wall);
    }

    /// Closes and opens slices so that those of `path` are open.
    fn move_to(&mut self, path: &[&str], now: u64) {
        let kept = self.open.iter().zip(path).take_while(|((name, _), part)| name == *part).count();
        while self.open.len() > kept {
            let (name, start) = self.open.pop().expect("more than were kept");
            self.slice(name, start, now, "scope", Value::Null);
        }
        self.open.extend(path[kept..].iter().map(|part| (part.to_string(), now)));
    }
}

/// What paths have in common.
fn common_path<'p>(paths: &[&'p str]) -> Vec<&'p str> {
    let Some((first, rest)) = paths.split_first() else { return vec![] };
    let mut common: Vec<&str> = first.split('/').collect();
    for path in rest {
        let same = common.iter().zip(path.split('/')).take_while(|(a, b)| *a == b).count();
        common.truncate(same);
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::profile::Round;

    fn profile() -> Profile {
        let mark = |at, scope, part| Mark { at, scope, part };
        Profile {
            start: 1_000_000,
            wall: 100,
            scopes: ["", "layer.0/qkv/matmul", "layer.0/qkv/\"truncate\"", "layer.0/norm/product"]
                .map(String::from)
                .into(),
            marks: vec![
                mark(0, 0, Part::Compute),
                mark(5, 1, Part::Compute),
                mark(20, 1, Part::Dealer),
                mark(30, 2, Part::Streams),
                mark(40, Mark::EXCHANGE, Part::Peer),
                mark(70, 0, Part::Compute),
                mark(75, 3, Part::Compute),
            ],
            rounds: vec![Round { openings: vec![(2, 8), (3, 16)] }],
            dealt: vec![],
            scheduled: None,
        }
    }

    /// The file is JSON, in order, and slices of a thread lie within or beside each other.
    #[test]
    fn traces_parse_and_nest() {
        let passes = [PassTimes { parties: [profile(), profile(), profile()], client: vec![] }];
        let (mut out, clocks) = (vec![], Clocks::of(&passes));
        write_events(&mut out, &clocks, &events(&passes, &clocks)).unwrap();
        let trace: Value = serde_json::from_slice(&out).unwrap();
        let all = trace["traceEvents"].as_array().unwrap();
        let (names, slices): (Vec<&Value>, Vec<&Value>) = all.iter().partition(|e| e["ph"] == "M");
        assert_eq!(names.len(), 8);
        let of = |pid: usize| -> Vec<(&str, i64, i64)> {
            let ns = |v: &Value| (v.as_f64().unwrap() * 1000.0).round() as i64;
            let mine = slices.iter().filter(|e| e["pid"] == pid);
            mine.map(|e| (e["name"].as_str().unwrap(), ns(&e["ts"]), ns(&e["ts"]) + ns(&e["dur"]))).collect()
        };
        let expected = [
            ("pass 1", 0, 100),
            ("layer.0", 5, 100),
            ("qkv", 5, 40),
            ("matmul", 5, 30),
            ("wait for dealer", 20, 30),
            ("\"truncate\"", 30, 40),
            ("random streams", 30, 40),
            ("exchange with peer", 40, 70),
            ("norm", 75, 100),
            ("product", 75, 100),
        ];
        for pid in 1..=3 {
            assert_eq!(of(pid), expected);
        }
    }

    #[test]
    fn common_paths() {
        assert_eq!(common_path(&["a/b/c"]), ["a", "b", "c"]);
        assert_eq!(common_path(&["a/b/c", "a/b/d", "a/b"]), ["a", "b"]);
        assert!(common_path(&["a", "b"]).is_empty() && common_path(&[]).is_empty());
    }
}
