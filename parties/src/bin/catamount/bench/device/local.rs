//! What gates compute at each party, apart from the network: three parties in memory.

use crate::bench::gates::{Made, on_each};
use anyhow::ensure;
use kernels::{Device, Ring};
use protocol::profile::{Part, Profile};
use protocol::testing::MemoryNetwork;
use protocol::{ChaChaStreams, Key, Role, Sent, Session};
use serde::Serialize;
use std::thread;

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
/// party sends must be what it sends on the reference.
pub(super) fn gates(device: &Device, reference: &Device, tokens: usize) -> anyhow::Result<Vec<Gate>> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    let all = |d: &Device| [(); 3].map(|()| d.clone());
    let here = on_each(&all(device), seed, tokens)?;
    let there = on_each(&all(reference), seed, tokens)?;
    let mut gates = vec![];
    for (gate, expected) in here.into_iter().zip(there) {
        let seen = transcripts(device, &gate, seed)?;
        ensure!(
            seen == transcripts(reference, &expected, seed)?,
            "{} computes the gate {:?} wrongly (the reference is {}): do not use it, and report this",
            device.name(),
            gate.name,
            reference.name()
        );
        let mut local_ms = [f64::MAX; 3];
        for _ in 0..RUNS {
            for (best, (_, profile)) in local_ms.iter_mut().zip(run(device, &gate, seed, true)?) {
                let profile = profile.ok_or_else(|| anyhow::anyhow!("nothing was recorded"))?;
                *best = best.min(local(&profile));
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

fn transcripts(device: &Device, gate: &Made, seed: Key) -> anyhow::Result<Vec<Vec<Vec<u64>>>> {
    let parties = run(device, gate, seed, false)?;
    Ok(parties.into_iter().map(|(sent, _)| sent.into_iter().map(|s| s.values).collect()).collect())
}

/// Runs a gate once, all parties on the same kind of device, with masks from `seed`.
fn run(
    device: &Device,
    gate: &Made,
    seed: Key,
    profiled: bool,
) -> anyhow::Result<Vec<(Vec<Sent>, Option<Profile>)>> {
    let key = |i: usize| {
        let mut key = seed;
        key[0] ^= i as u8 + 1;
        Some(key)
    };
    let parties = thread::scope(|scope| {
        let threads: Vec<_> = Role::ALL
            .into_iter()
            .zip(MemoryNetwork::three())
            .map(|(role, mut net)| {
                let program = &gate.programs[role.index()];
                scope.spawn(move || {
                    let keys = match role {
                        Role::Dealer => [key(0), key(1), None],
                        Role::P1 => [key(0), None, key(2)],
                        Role::P2 => [None, key(1), key(2)],
                    };
                    let streams = Box::new(ChaChaStreams::new(keys));
                    let session = Session::new(role, device.clone(), Ring::Z64, streams);
                    let mut session =
                        if profiled { session.with_profile() } else { session.with_transcript() };
                    session.run(&mut net, program)?;
                    device.status().map_err(anyhow::Error::from)?;
                    Ok((session.transcript().to_vec(), session.profile()))
                })
            })
            .collect();
        let join = |t: thread::ScopedJoinHandle<'_, anyhow::Result<_>>| {
            t.join().map_err(|_| anyhow::anyhow!("a party's thread has failed"))?
        };
        threads.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(parties)
}
