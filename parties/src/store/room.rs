//! Whether what a party is about to hold fits: asked before any of it is made.

use super::bad;
use crate::weights::WeightsChoice;
use crate::wire::{Failure, FailureCode};
use kernels::Device;
use models::checkpoint::ModelConfig;
use models::memory::{Demand, Holder, MemoryPlan, gigabytes};
use models::plan::PlanTables;
use models::shared::Weights;
use protocol::{Party, Role};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tokens of a pass in the plan that a party prints; longer passes hold more.
const PASS: usize = 32;

/// A party's limits.
pub(super) struct Room {
    pub(super) party: Party,
    /// Its role, if it is always the same.
    pub(super) plays: Option<Role>,
    /// How it is to keep weights.
    pub(super) weights: WeightsChoice,
    /// Largest context of a session.
    pub(super) context: usize,
    /// Bytes that wait on a link at most.
    pub(super) queue: u64,
    /// Bytes that open sessions were promised and have not filled yet.
    pub(super) promised: Promised,
}

/// Bytes, shared by all who are promised some of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Promised(Arc<Mutex<u64>>);

impl Promised {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for a session's keys and values, until it ends. What it has filled is no longer promised: it is not free either.
#[derive(Debug)]
pub(super) struct Promise {
    promised: Promised,
    whole: u64,
    left: u64,
}

impl Promise {
    /// `filled` bytes are there now. (Drafts that are taken back give their room back.)
    pub(super) fn fill(&mut self, filled: u64) {
        let left = self.whole.saturating_sub(filled);
        let mut promised = self.promised.lock();
        *promised = *promised - self.left + left;
        self.left = left;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        *self.promised.lock() -= self.left;
    }
}

impl Room {
    /// Says what a model needs and how its weights are kept, and refuses one that would not fit together with a session of
    /// one token. Its tables are there already.
    ///
    /// # Errors
    /// What is needed and what is free.
    pub(super) fn for_model(
        &self,
        device: &Device,
        c: &ModelConfig,
        tables: &PlanTables,
        longest: usize,
    ) -> Result<Weights, String> {
        let context = longest.min(self.context);
        let plan = |weights, context, pass| {
            let holder = Holder { party: self.party, plays: self.plays, weights };
            let demand = Demand { context, pass, sequences: 1 };
            MemoryPlan::new(c, tables, holder, demand, self.queue)
        };
        let full = |weights| plan(weights, context, PASS.min(context));
        let stored = full(Weights::Stored);
        let promised = *self.promised.lock();
        let weights = self.weights.on(device, (stored.device() - stored.tables).saturating_add(promised));
        tracing::info!(
            "{} needs for a session of {context} tokens on {}, {}, with weights {}: {}",
            self.party,
            device.name(),
            free(device),
            WeightsChoice::from(weights),
            full(weights)
        );
        let least = plan(weights, 1, 1);
        self.check(device, least.device() - least.tables, least.dealt, promised).map_err(
            |what| match weights {
                Weights::Stored => {
                    let other = gigabytes(plan(Weights::Regenerated, 1, 1).device() - least.tables);
                    format!("{what}; with weights = \"regenerated\" it would be {other}")
                }
                Weights::Regenerated => what,
            },
        )?;
        Ok(weights)
    }

    /// Keeps room for the keys and values of a session of `sequences` sequences of `context` tokens.
    ///
    /// # Errors
    /// What is needed and what is free.
    pub(super) fn for_session(
        &self,
        device: &Device,
        c: &ModelConfig,
        (context, sequences): (usize, usize),
    ) -> Result<Promise, String> {
        let whole = MemoryPlan::cache(c, context).saturating_mul(sequences as u64);
        // Locked until it is promised: two sessions that are opened at once may not both be given the same room.
        let mut promised = self.promised.lock();
        self.check(device, whole, 0, *promised)?;
        *promised += whole;
        Ok(Promise { promised: self.promised.clone(), whole, left: whole })
    }

    /// Whether bytes on the device, and others in main memory, fit beside what is `promised` on the device.
    fn check(&self, device: &Device, there: u64, host: u64, promised: u64) -> Result<(), String> {
        let needs = |needed: u64, free: u64, promised: u64, what: &str| {
            if needed.saturating_add(promised) <= free {
                return Ok(());
            }
            let (party, needed, free) = (self.party, gigabytes(needed), gigabytes(free));
            let kept = match promised {
                0 => String::new(),
                bytes => format!(", of which open sessions may yet take {}", gigabytes(bytes)),
            };
            Err(format!("{party} needs {needed} more of {what}, {free} are free{kept}"))
        };
        let own = device.memory();
        if let Some((free, _)) = own {
            needs(there, free, promised, "the device's memory")?;
        }
        let (host, promised) = if own.is_some() { (host, 0) } else { (there + host, promised) };
        available().map_or(Ok(()), |free| needs(host, free, promised, "main memory"))
    }
}

fn free(device: &Device) -> String {
    let free = device.memory().map(|(free, _)| free).or_else(available);
    free.map_or("free memory unknown".into(), |free| format!("{} free", gigabytes(free)))
}

/// What to do where there is no room for a model.
const LARGER: &str = "use a smaller model, another device or a larger machine";

/// Why a model is not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It is not what it should be.
    #[error("it is damaged: {0}; delete it and share the model again")]
    Damaged(String),
    /// The machine is too small.
    #[error("{0}; {LARGER}")]
    NoRoom(String),
    /// The device failed while it was loaded.
    #[error("{0}")]
    Device(String),
}

impl From<String> for Refused {
    fn from(what: String) -> Refused {
        Refused::Damaged(what)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        match refused {
            Refused::Damaged(what) => bad(what),
            Refused::NoRoom(what) => Failure::new(FailureCode::Limit, what, LARGER),
            Refused::Device(what) => {
                Failure::new(FailureCode::Internal, what, "nothing of it is kept; start the party again")
            }
        }
    }
}

/// Bytes of main memory that this process may still take; `None` where the system does not tell.
pub fn available() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = system.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let system = 1024 * line.split_whitespace().next()?.parse::<u64>().ok()?;
    // In a container the limit may be lower; what is cached of files counts as used there, and can be taken back.
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let limit = read("memory.max").and_then(number);
    let used = read("memory.current").and_then(number);
    let cached = read("memory.stat").and_then(|stat| {
        let line = stat.lines().find_map(|l| l.strip_prefix("inactive_file ").map(str::to_owned));
        line.and_then(number)
    });
    let container =
        limit.zip(used).map(|(limit, used)| limit.saturating_sub(used - cached.unwrap_or(0).min(used)));
    Some(container.map_or(system, |c| c.min(system)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::cpu::Cpu;
    use models::plan::Plan;

    fn room() -> Room {
        Room {
            party: Party::One,
            plays: None,
            weights: WeightsChoice::Auto,
            context: 4096,
            queue: 1 << 25,
            promised: Promised::default(),
        }
    }

    /// Two sessions at once, of which one alone fits.
    #[test]
    fn room_is_promised_once() {
        let c = ModelConfig::toy();
        let session = MemoryPlan::cache(&c, 100);
        let Some(shim) = kernels_shim::Shim::new(kernels_shim::Order::Forward) else { return };
        let shim = shim.capacity(2 * session - 1);
        let device: Device = std::sync::Arc::new(kernels::cuda::Cuda::with_driver(std::sync::Arc::new(shim)));
        let room = room();
        let open = || room.for_session(&device, &c, (100, 1));
        let both = std::thread::scope(|s| [0; 2].map(|_| s.spawn(open)).map(|t| t.join().unwrap()));
        assert_eq!(both.iter().filter(|r| r.is_ok()).count(), 1, "{both:?}");
        let refused = both.iter().find_map(|r| r.as_ref().err()).expect("one is refused");
        assert!(refused.contains("P1 needs") && refused.contains("open sessions may yet take"), "{refused}");
        let mut first = both.into_iter().find_map(Result::ok).expect("one is open");
        // What it has filled is not free, and not promised twice.
        let filled = device.zeros(session as usize / 8 / 2);
        assert!(open().is_err());
        first.fill(session / 2);
        assert_eq!(*room.promised.lock(), session / 2);
        assert!(open().is_err());
        drop((first, filled));
        assert_eq!(*room.promised.lock(), 0);
        open().expect("the first has ended");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let cpu = Cpu::best();
        let room = room();
        let c = ModelConfig::toy();
        let plan = Plan::typical(&c);
        let tables = plan.tables(&Cpu::best(), &c);
        room.for_model(&cpu, &c, &tables, plan.longest).unwrap();
        room.for_session(&cpu, &c, (100, 1)).unwrap();
        if available().is_none() {
            return;
        }
        // 16 layers of 2^17 values a token for a million tokens: 17 TB.
        let vast = ModelConfig { layers: 16, kv_heads: 64, heads: 64, head_dim: 1024, ..c };
        let error = room.for_session(&cpu, &vast, (500_000, 2)).unwrap_err();
        assert!(
            error.contains("P1 needs 16777.22 GB more of main memory") && error.contains("are free"),
            "{error}"
        );
    }
}
