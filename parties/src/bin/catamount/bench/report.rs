//! What a benchmark found: figures by gate or by part of the program, for programs as JSON, for people as a page.

use super::rates::{Floor, Rates};
use crate::output::links;
use anyhow::Context as _;
use models::dry::Local;
use protocol::profile::{Part, Profile, Row, summarise};
use protocol::{Ledger, Role};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where a page goes.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct HtmlArgument {
    /// Write a report as one self-contained page to FILE: where the time of each party went, bytes, exchanges, declared
    /// costs and floors. It needs no network and no server.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl HtmlArgument {
    /// Whether a page is wanted.
    pub(crate) fn wanted(&self) -> bool {
        self.html.is_some()
    }

    /// Writes the page, if it is wanted.
    pub(crate) fn write(&self, report: &Report) -> anyhow::Result<()> {
        let Some(file) = &self.html else { return Ok(()) };
        std::fs::write(file, super::html::page(report))
            .with_context(|| format!("cannot write the report to {}", file.display()))
    }
}

/// A benchmark.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// What was measured.
    pub(crate) title: String,
    /// The command that was run.
    pub(crate) command: String,
    /// The processor and its instruction sets.
    pub(crate) machine: String,
    /// Rates that the floors are computed from.
    pub(crate) rates: Rates,
    /// One for each kind of run.
    pub(crate) sections: Vec<Section>,
}

/// One program: where its time went.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Section {
    /// What it is.
    pub(crate) title: String,
    /// What runs were made and which of them is shown.
    pub(crate) about: String,
    /// The program as a whole; none where the lines are programs by themselves.
    pub(crate) whole: Option<Line>,
    /// Its parts, in order.
    pub(crate) lines: Vec<Line>,
    /// The same by kind of operation.
    pub(crate) operations: Vec<Line>,
}

/// A gate, or a part of a program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// Its name.
    pub(crate) name: String,
    /// Its size, where it is measured by itself.
    pub(crate) size: String,
    /// Milliseconds, by party and by kind of work.
    pub(crate) times_ms: [BTreeMap<&'static str, f64>; 3],
    /// The sum of these for each party.
    pub(crate) total_ms: [f64; 3],
    /// Exchanges and bytes by link, as measured.
    pub(crate) measured: Traffic,
    /// The same as declared; `None` where nothing is declared at this granularity.
    pub(crate) declared: Option<Traffic>,
    /// Whether the two are the same.
    pub(crate) as_declared: Option<bool>,
    /// Products with weights and of attention, of all three parties.
    pub(crate) products: u64,
    /// The least it can take.
    pub(crate) floor: Option<Floor>,
    /// Milliseconds in which each party's thread was ready without getting a core.
    pub(crate) ready_ms: [Option<f64>; 3],
}

/// Exchanges and payload bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Traffic {
    /// Between P1 and P2.
    pub(crate) exchanges: u64,
    /// By link.
    pub(crate) bytes: BTreeMap<String, u64>,
}

impl Traffic {
    /// Of a ledger.
    pub(crate) fn of(ledger: &Ledger) -> Traffic {
        Traffic { exchanges: ledger.exchanges, bytes: links(ledger) }
    }

    /// On all links.
    pub(crate) fn total(&self) -> u64 {
        self.bytes.values().sum()
    }
}

/// What is known of a line before it runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected {
    /// Exchanges and bytes.
    pub(crate) cost: Ledger,
    /// What each party does by itself.
    pub(crate) local: [Local; 3],
}

impl Line {
    /// A line of what was measured and what had been expected.
    pub(crate) fn new(name: String, row: &Row, expected: Option<Expected>, rates: &Rates) -> Line {
        let measured = Traffic::of(&row.cost);
        let declared = expected.map(|e| Traffic::of(&e.cost));
        let products = expected.map_or(0, |e| e.local.iter().map(Local::products).sum());
        Line {
            name,
            size: String::new(),
            times_ms: row.times.map(|times| {
                Part::ALL.into_iter().zip(times).map(|(part, ns)| (part.name(), milliseconds(ns))).collect()
            }),
            total_ms: Role::ALL.map(|role| milliseconds(row.total(role))),
            as_declared: declared.as_ref().map(|d| *d == measured),
            floor: expected.map(|e| rates.floor(&e)),
            measured,
            declared,
            products,
            ready_ms: [None; 3],
        }
    }

    /// A whole run.
    pub(crate) fn whole(name: String, profiles: &[Profile; 3], expected: Expected, rates: &Rates) -> Line {
        let row = summarise(profiles, |_| String::new()).swap_remove(0).1;
        let ready_ms = profiles.each_ref().map(|p| p.scheduled.map(|s| milliseconds(s.ready)));
        Line { ready_ms, ..Line::new(name, &row, Some(expected), rates) }
    }

    /// Milliseconds of the slower evaluator, who is on the critical path.
    pub(crate) fn critical_ms(&self) -> f64 {
        self.total_ms[1].max(self.total_ms[2])
    }
}

impl Section {
    /// Whether every line that declares a cost has it.
    pub(crate) fn as_declared(&self) -> bool {
        self.whole.iter().chain(&self.lines).all(|line| line.as_declared != Some(false))
    }
}

fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The processor, for people.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map(|l| l.trim_start_matches([' ', '\t', ':']));
    let kernels = kernels::cpu::Cpu::detect().isa();
    format!("{}, {cores} cores for all parties, {kernels:?}", name.unwrap_or(std::env::consts::ARCH))
}

/// The command line of this process.
pub(crate) fn command() -> String {
    std::iter::once("catamount".to_string()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}
