//! A model shared among three parties in this process, over the in-memory network.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of this.

use kernels::{Device, Ring, Words};
use models::calibrate;
use models::checkpoint::{Head, TensorSource};
use models::folded::{Folding, ParameterSource};
use models::model::OutputRows;
use models::parameter::Parameter;
use models::plan::PROGRAM_VERSION;
use models::shared::{
    Account, Assembly, PartyModel, PartySession, PublicModel, Request, Seeds, Work, client,
};
use protocol::gates::input::PIECE;
use protocol::testing::{MemoryNetwork, World};
use protocol::{Ledger, Role, Sent, Session};
use std::sync::Arc;

/// A model shared among three parties in this process.
pub struct Shared {
    pub parties: [Arc<PartyModel>; 3],
    pub public: PublicModel,
}

/// Calibrates a model on `texts` and shares it.
pub fn share(source: &mut dyn TensorSource, texts: &[Vec<u32>]) -> Shared {
    let config = source.config().clone();
    let plan = calibrate::calibrate(source, texts, |_, _| {}).unwrap();
    let labels = match config.head {
        Head::Classifier { labels } => (0..labels).map(|i| format!("label {i}")).collect(),
        _ => vec![],
    };
    let public = PublicModel {
        program: PROGRAM_VERSION,
        config,
        plan,
        tokenizer: None,
        labels,
        sharing: [7; 32],
        benchmark: None,
    };
    let seeds = Seeds { one: [1; 32], zero: [2; 32] };
    let cpu = kernels::cpu::Cpu::best();
    share_on(&[cpu.clone(), cpu.clone(), cpu], public, &mut Folding(source), &seeds)
}

/// Shares parameters as their owner does, with parties on these devices.
pub fn share_on(
    devices: &[Device; 3],
    public: PublicModel,
    source: &mut dyn ParameterSource,
    seeds: &Seeds,
) -> Shared {
    let owner = kernels::cpu::Cpu::best();
    let parties = Role::ALL.map(|role| {
        let device = &devices[role.index()];
        let mut a = Assembly::new(device, role, &public.config, seeds.for_party(role)).unwrap();
        if role != Role::Dealer {
            for (i, p) in Parameter::all(&public.config).into_iter().enumerate() {
                let words = source.integers(p).unwrap();
                let pieces: Vec<Words> = words
                    .chunks(PIECE)
                    .enumerate()
                    .map(|(piece, w)| seeds.delta(&owner, i, piece, w.to_vec()))
                    .collect();
                let delta = Words::concat(&pieces.iter().collect::<Vec<_>>()).to_vec();
                a.put(i, Some(Words::upload(device, delta))).unwrap();
            }
        }
        let tables = public.plan.tables(device, &public.config);
        Arc::new(a.finish(public.clone(), tables).unwrap())
    });
    assert!(parties.iter().all(|p| p.digest == parties[0].digest));
    Shared { parties, public }
}

/// A pass over tokens that follow the first `keep` of the tokens so far.
pub struct Step {
    pub keep: usize,
    pub tokens: Vec<u32>,
}

/// What a pass yielded, what it cost, what the parties sent.
pub struct Done {
    pub outputs: Vec<f32>,
    pub cost: Ledger,
    pub sent: [Vec<Sent>; 3],
}

/// Runs passes one after the other; returns each pass's output scores and cost.
pub fn run(shared: &Shared, seed: u64, passes: &[Vec<u32>], rows: OutputRows) -> Vec<(Vec<f32>, Ledger)> {
    let mut read = 0;
    let steps: Vec<Step> = passes
        .iter()
        .map(|tokens| {
            let keep = read;
            read += if shared.public.config.is_decoder() { tokens.len() } else { 0 };
            Step { keep, tokens: tokens.clone() }
        })
        .collect();
    run_steps(shared, seed, &steps, rows).into_iter().map(|d| (d.outputs, d.cost)).collect()
}

/// Runs the passes of a session, with the pad registry on. Passes at the same position get the same keys from the client.
pub fn run_steps(shared: &Shared, seed: u64, steps: &[Step], rows: OutputRows) -> Vec<Done> {
    let (world, device) = (World::new(seed), kernels::cpu::Cpu::best());
    let config = &shared.public.config;
    let inputs: Vec<[Vec<u8>; 3]> = steps
        .iter()
        .map(|s| client::split_tokens(&device, config.vocab, &s.tokens, &[s.keep as u8 + 10; 32]).unwrap())
        .collect();
    type Own = (Option<Vec<u8>>, Ledger, Vec<Sent>);
    let mut own: [Vec<Own>; 3] = std::thread::scope(|s| {
        let threads: Vec<_> = Role::ALL
            .into_iter()
            .zip(MemoryNetwork::three())
            .map(|(role, mut net)| {
                let (world, inputs, model) = (&world, &inputs, shared.parties[role.index()].clone());
                s.spawn(move || {
                    let streams = Box::new(world.chacha(role));
                    let session = Session::new(role, model.device().clone(), Ring::Z64, streams);
                    let session = session.with_registry().with_transcript();
                    let mut session = PartySession::within(model, session);
                    let (mut out, mut told) = (vec![], 0);
                    for (step, parts) in steps.iter().zip(inputs) {
                        let keys = session.keys(&parts[role.index()], step.tokens.len()).unwrap();
                        let work = Work::Outputs(rows);
                        let request = Request { keys, segment: None, keep: step.keep, work };
                        let mut yielded = None;
                        let mut reply = |account: Account, outputs| {
                            yielded = Some((outputs, account.cost));
                            Ok::<_, protocol::Error>(())
                        };
                        session.pass(&mut net, &request, &mut reply).unwrap();
                        let (outputs, cost) = yielded.unwrap();
                        let sent = session.session().transcript();
                        out.push((outputs, cost, sent[told..].to_vec()));
                        told = sent.len();
                    }
                    out.reverse();
                    out
                })
            })
            .collect();
        let all: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        all.try_into().unwrap_or_else(|_| unreachable!("three threads"))
    });
    steps
        .iter()
        .map(|_| {
            let [dealer, p1, p2] = own.each_mut().map(|passes| passes.pop().unwrap());
            assert!(dealer.0.is_none(), "the dealer has nothing for the client");
            let outputs = client::combine_outputs(&device, config, &p1.0.unwrap(), &p2.0.unwrap()).unwrap();
            Done { outputs, cost: Ledger::merge(&[dealer.1, p1.1, p2.1]), sent: [dealer.2, p1.2, p2.2] }
        })
        .collect()
}
