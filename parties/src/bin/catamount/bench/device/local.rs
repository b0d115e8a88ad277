//! What gates compute at each party, apart from the network: three parties in memory.

use crate::bench::gates::{Made, on_each};
use crate::bench::loopback::Program;
use anyhow::ensure;
use kernels::{Device, Words};
use protocol::profile::{Part, Profile};
use protocol::testing::{Outcome, World};
use protocol::{Sent, Share};
use serde::Serialize;

/// Runs that count.
const RUNS: usize = 3;

/// A gate's time at each party.
#[derive(Serialize)]
pub(super) struct Gate {
    pub(super) name: &'static str,
    pub(super) size: String,
    /// Computing, random streams and packing at P0, P1 and P2, in the best of some runs.
    pub(super) local_ms: [f64; 3],
}

/// All gates at their sizes in GPT-2 and BERT-base, at `tokens` tokens. On the same inputs and masks, everything that a
/// party sends, and its part of the result, must be what it is on the reference.
pub(super) fn gates(device: &Device, reference: &Device, tokens: usize) -> anyhow::Result<Vec<Gate>> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    let all = |d: &Device| [(); 3].map(|()| d.clone());
    let here = on_each(&all(device), seed, tokens)?;
    let there = on_each(&all(reference), seed, tokens)?;
    let world =
        |d: &Device| World::new(u64::from_le_bytes(seed[..8].try_into().expect("8 bytes"))).on(d.clone());
    let words =
        |d: &Device, gate: &Made| -> anyhow::Result<_> { Ok(words(run(&world(d).recorded(), gate)?)) };
    let mut gates = vec![];
    for (gate, expected) in here.into_iter().zip(there) {
        ensure!(
            words(device, &gate)? == words(reference, &expected)?,
            "{} computes the gate {:?} wrongly (the reference is {}): do not use it, and report this",
            device.name(),
            gate.name,
            reference.name()
        );
        let mut local_ms = [f64::MAX; 3];
        for _ in 0..RUNS {
            let profiles = run(&world(device).profiled(), &gate)?.profiles;
            let profiles = profiles.ok_or_else(|| anyhow::anyhow!("nothing was recorded"))?;
            for (best, profile) in local_ms.iter_mut().zip(&profiles) {
                *best = best.min(local(profile));
            }
        }
        gates.push(Gate { name: gate.name, size: gate.size, local_ms });
    }
    Ok(gates)
}

fn local(profile: &Profile) -> f64 {
    let own = [Part::Compute, Part::Streams, Part::Packing];
    let spans = profile.spans().filter(|(mark, _)| own.contains(&mark.part));
    // Nanoseconds.
    spans.map(|(mark, end)| (end - mark.at) as f64 / 1e6).sum()
}

/// What each party sent, and the words that it has in the end.
fn words(outcome: Outcome<Share>) -> Vec<Vec<Vec<u64>>> {
    let parties = outcome.sent.into_iter().zip(outcome.results);
    let words = |(sent, held): (Vec<Sent>, Share)| {
        let held = held.delta.iter().chain([&held.lambda]).map(Words::to_vec);
        sent.into_iter().map(|s| s.values).chain(held.collect::<Vec<_>>()).collect()
    };
    parties.map(words).collect()
}

/// Runs a gate once, all parties on the world's device.
fn run(world: &World, gate: &Made) -> anyhow::Result<Outcome<Share>> {
    let outcome = world.try_run(gate.programs.each_ref(), |cx, program: &Program| program(cx))?;
    world.device().status()?;
    Ok(outcome)
}
