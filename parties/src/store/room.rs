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
        let weights = self.weights.on(device, stored.device() - stored.tables);
        tracing::info!(
            "{} needs for a session of {context} tokens on {}, {}, with weights {}: {}",
            self.party,
            device.name(),
            free(device),
            WeightsChoice::from(weights),
            full(weights)
        );
        let least = plan(weights, 1, 1);
        self.check(device, least.device() - least.tables, least.dealt)?;
        Ok(weights)
    }

    /// Refuses a session in this role of `sequences` sequences of `context` tokens whose keys and values would not fit.
    ///
    /// # Errors
    /// What is needed and what is free.
    pub(super) fn for_session(
        &self,
        device: &Device,
        c: &ModelConfig,
        (role, context, sequences): (Role, usize, usize),
    ) -> Result<(), String> {
        self.check(device, MemoryPlan::cache(c, role, context).saturating_mul(sequences as u64), 0)
    }

    fn check(&self, device: &Device, there: u64, host: u64) -> Result<(), String> {
        let needs = |needed: u64, free: u64, what: &str| {
            if needed <= free {
                return Ok(());
            }
            let (party, needed, free) = (self.party, gigabytes(needed), gigabytes(free));
            Err(format!("{party} needs {needed} more of {what}, {free} are free"))
        };
        let own = device.memory();
        if let Some((free, _)) = own {
            needs(there, free, "the device's memory")?;
        }
        let host = if own.is_some() { host } else { there + host };
        available().map_or(Ok(()), |free| needs(host, free, "main memory"))
    }
}

fn free(device: &Device) -> String {
    let free = device.memory().map(|(free, _)| free).or_else(available);
    free.map_or("free memory unknown".into(), |free| format!("{} free", gigabytes(free)))
}

/// Why a model is not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It is not what it should be.
    #[error("it is damaged: {0}; delete it and share the model again")]
    Damaged(String),
    /// The machine is too small.
    #[error("{0}; use a smaller model, another device or a larger machine")]
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
            Refused::NoRoom(what) => Failure::new(
                FailureCode::Limit,
                what,
                "use a smaller model, another device or a larger machine",
            ),
            Refused::Device(what) => Failure::new(FailureCode::Internal, what, "nothing of it is kept"),
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

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let cpu = Cpu::best();
        let room = Room {
            party: Party::One,
            plays: None,
            weights: WeightsChoice::Auto,
            context: 4096,
            queue: 1 << 25,
        };
        let c = ModelConfig::toy();
        let plan = Plan::typical(&c);
        let tables = plan.tables(&Cpu::best(), &c);
        room.for_model(&cpu, &c, &tables, plan.longest).unwrap();
        room.for_session(&cpu, &c, (Role::P1, 100, 1)).unwrap();
        if available().is_none() {
            return;
        }
        // 16 layers of 2^17 values a token for a million tokens: 34 TB.
        let vast = ModelConfig { layers: 16, kv_heads: 64, heads: 64, head_dim: 1024, ..c };
        let error = room.for_session(&cpu, &vast, (Role::P1, 500_000, 2)).unwrap_err();
        assert!(
            error.contains("P1 needs 33554.43 GB more of main memory") && error.contains("are free"),
            "{error}"
        );
    }
}
