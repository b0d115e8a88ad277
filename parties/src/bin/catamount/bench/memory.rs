//! What three parties on this machine will hold, before they are started.

use super::subject::Subject;
use crate::device::{DeviceArgument, WeightsArgument};
use crate::output::JsonArgument;
use anyhow::ensure;
use kernels::Device;
use models::memory::{Demand, Holder, MemoryPlan, gigabytes};
use models::shared::Weights;
use parties::config::TransportSettings;
use parties::store::room::available;
use parties::weights::WeightsChoice;
use protocol::{Party, Role};
use serde::Serialize;

/// What each party needs.
#[derive(Serialize)]
pub(super) struct Needs {
    /// By party.
    pub(super) parties: Vec<MemoryPlan>,
    /// How each of them keeps its weights.
    pub(super) weights: [WeightsChoice; 3],
    /// All of them together, of this machine's main memory.
    main_memory_bytes: u64,
    /// What is free of it.
    main_memory_free_bytes: Option<u64>,
}

/// Prints what the parties need for such sessions, in their roles or (`None`) in all of them by turns, and refuses what
/// does not fit.
pub(super) fn plan(
    subject: &Subject,
    plays: [Option<Role>; 3],
    (argument, devices, weights): (&DeviceArgument, &[Device; 3], &WeightsArgument),
    demand: Demand,
    out: &JsonArgument,
) -> anyhow::Result<Needs> {
    let queue = TransportSettings::default().link_queue_bytes as u64;
    let (config, tables) = (&subject.public().config, subject.tables());
    let plan = |party: Party, weights| {
        let holder = Holder { party, plays: plays[party.index()], weights };
        MemoryPlan::new(config, tables, holder, demand, queue)
    };
    let weights = weights.of(argument, devices, |p| plan(p, Weights::Stored).device());
    let parties: Vec<MemoryPlan> =
        Party::ALL.into_iter().zip(weights).map(|(party, weights)| plan(party, weights)).collect();
    let weights = weights.map(WeightsChoice::from);
    let main: u64 = parties
        .iter()
        .zip(devices)
        .map(|(p, d)| p.dealt + p.tables + if d.memory().is_some() { 0 } else { p.device() })
        .sum();
    let mut shortages = vec![];
    for ((party, plan), choice) in Party::ALL.into_iter().zip(&parties).zip(argument.choices()) {
        out.say(&format!("{party} on {choice}, weights {}: {plan}\n", weights[party.index()]));
        // Parties that share a device share its memory: said once, at the first of them.
        let together = || parties.iter().zip(argument.choices()).filter(|(_, c)| *c == choice);
        let first = argument.choices().iter().position(|c| *c == choice) == Some(party.index());
        let Some((free, _)) = devices[party.index()].memory().filter(|_| first) else { continue };
        let needed: u64 = together().map(|(p, _)| p.device()).sum();
        let line = format!("{} of {choice} needed, {} free", gigabytes(needed), gigabytes(free));
        out.say(&format!("{line}\n"));
        if needed > free {
            shortages.push(line);
        }
    }
    let free = available();
    let said = free.map_or("unknown".into(), gigabytes);
    let line = format!("{} of this machine's main memory needed, {said} free", gigabytes(main));
    out.say(&format!("{line}\n"));
    if free.is_some_and(|free| main > free) {
        shortages.push(line);
    }
    ensure!(
        shortages.is_empty(),
        "{}; take a smaller shape, fewer --layers or tokens, or more devices (--device)",
        shortages.join("; ")
    );
    Ok(Needs { parties, weights, main_memory_bytes: main, main_memory_free_bytes: free })
}
