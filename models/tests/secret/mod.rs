//! A model shared among three parties in this process, over the in-memory network.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of this.

pub mod counting;

use kernels::{Device, Ring, Words};
use models::calibrate;
use models::checkpoint::{Head, TensorSource};
use models::folded::{Folding, ParameterSource};
use models::model::OutputRows;
use models::parameter::Parameter;
use models::plan::PROGRAM_VERSION;
use models::shared::{
    Account, Assembly, Dealing, Part, PartyModel, PartySession, PublicModel, Request, Seeds, Stepwise, Work,
    client,
};
use protocol::gates::input::PIECE;
use protocol::testing::{MemoryNetwork, World};
use protocol::{Ledger, PadUse, Party, Role, Sent, Session, Step as Dealt};
use std::sync::Arc;

/// A model shared among three parties in this process, each of which plays every role.
pub struct Shared {
    pub parties: [Arc<PartyModel>; 3],
    /// Where each of them computes.
    pub devices: [Device; 3],
    pub public: PublicModel,
}

/// Calibrates a model on `texts` and shares it.
pub fn share(source: &mut dyn TensorSource, texts: &[Vec<u32>]) -> Shared {
    share_on(source, texts, [(); 3].map(|()| kernels::cpu::Cpu::best()))
}

/// The same, each party on a device of its own.
pub fn share_on(source: &mut dyn TensorSource, texts: &[Vec<u32>], devices: [Device; 3]) -> Shared {
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
    share_parameters(&devices, public, &mut Folding(source), &seeds)
}

/// Shares parameters as their owner does, with parties on these devices.
pub fn share_parameters(
    devices: &[Device; 3],
    public: PublicModel,
    source: &mut dyn ParameterSource,
    seeds: &Seeds,
) -> Shared {
    let owner = kernels::cpu::Cpu::best();
    let parties = Party::ALL.map(|party| {
        let device = &devices[party.index()];
        let mut a = Assembly::new(device, party, &public.config, &seeds.for_party(party)).unwrap();
        if party != Party::Zero {
            for (i, p) in Parameter::all(&public.config).into_iter().enumerate() {
                let weights = source.numbers(p).unwrap();
                let words = p.words(&public.config, &weights, 0..p.shared(&public.config).len());
                let pieces: Vec<Words> = words
                    .chunks(PIECE)
                    .enumerate()
                    .map(|(piece, w)| seeds.rest(&owner, i, piece, w.to_vec()))
                    .collect();
                let rest = Words::concat(&pieces.iter().collect::<Vec<_>>()).to_vec();
                a.put(i, Words::upload(device, rest)).unwrap();
            }
        }
        let tables = public.plan.tables(device, &public.config);
        Arc::new(a.finish(public.clone(), tables, None).unwrap())
    });
    assert!(parties.iter().all(|p| p.digest == parties[0].digest));
    Shared { parties, devices: devices.clone(), public }
}

/// A pass over tokens that follow the first `keep` of the tokens so far.
#[derive(Clone)]
pub struct Step {
    pub keep: usize,
    pub tokens: Vec<u32>,
}

/// A sequence's tokens in a pass over several.
#[derive(Clone)]
pub struct Turn {
    pub sequence: usize,
    pub step: Step,
    pub segment: Option<usize>,
}

/// What a pass yielded, what it cost, what the parties sent.
pub struct Done {
    pub outputs: Vec<f32>,
    pub cost: Ledger,
    pub sent: [Vec<Sent>; 3],
    pub dealing: Dealing,
    /// All masks used so far, of all parties.
    pub pads: Vec<PadUse>,
    /// What the dealer has sent by then, with all that was for nothing.
    pub dealt: u64,
    /// Products with masks that had been made ahead by then, at each party.
    pub made_ahead: [u64; 3],
}

/// How far the dealer works ahead.
#[derive(Clone, Copy)]
pub struct Plan {
    /// At most so many passes,
    pub passes: usize,
    /// at these positions,
    pub stepwise: Option<Stepwise>,
    /// of each of which it deals a part so many times before the next pass is asked for,
    pub calls: usize,
    /// over links that hold so many bytes.
    pub capacity: usize,
}

impl Plan {
    pub const NONE: Plan = Plan { passes: 0, stepwise: None, calls: 0, capacity: usize::MAX };
}

/// Runs passes one after the other, party 0 dealing; returns each pass's output scores and cost.
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

/// Runs the passes of a session of one sequence in which party 0 deals.
pub fn run_steps(shared: &Shared, seed: u64, steps: &[Step], rows: OutputRows) -> Vec<Done> {
    run_ahead(shared, seed, steps, rows, Plan::NONE)
}

/// The same, and `dealer` deals.
pub fn run_dealt_by(
    dealer: Party,
    shared: &Shared,
    seed: u64,
    steps: &[Step],
    rows: OutputRows,
) -> Vec<Done> {
    run_planned(shared, seed, (1, dealer), &alone(steps), rows, Plan::NONE)
}

/// The same with a dealer that works ahead: the client asks for a pass when it has dealt what it may.
pub fn run_ahead(shared: &Shared, seed: u64, steps: &[Step], rows: OutputRows, plan: Plan) -> Vec<Done> {
    run_planned(shared, seed, (1, Party::Zero), &alone(steps), rows, plan)
}

/// Passes of a single sequence.
fn alone(steps: &[Step]) -> Vec<Vec<Turn>> {
    steps.iter().map(|s| vec![Turn { sequence: 0, step: s.clone(), segment: None }]).collect()
}

/// Runs the passes of a session of some sequences.
pub fn run_batches(
    shared: &Shared,
    seed: u64,
    sequences: usize,
    steps: &[Vec<Turn>],
    rows: OutputRows,
) -> Vec<Done> {
    run_planned(shared, seed, (sequences, Party::Zero), steps, rows, Plan::NONE)
}

/// Runs the passes of a session of some sequences with one dealer, with the pad registry on. Passes at the same position of
/// their first sequence get the same keys from the client.
fn run_planned(
    shared: &Shared,
    seed: u64,
    (sequences, dealer): (usize, Party),
    steps: &[Vec<Turn>],
    rows: OutputRows,
    plan: Plan,
) -> Vec<Done> {
    let (world, device) = (World::new(seed), kernels::cpu::Cpu::best());
    let config = &shared.public.config;
    let tokens = |turns: &[Turn]| turns.iter().flat_map(|t| t.step.tokens.clone()).collect::<Vec<u32>>();
    let inputs: Vec<[Vec<u8>; 3]> = steps
        .iter()
        .map(|turns| {
            let key = [turns[0].step.keep as u8 + 10; 32];
            client::split_tokens(&device, config.vocab, &tokens(turns), &key).unwrap()
        })
        .collect();
    type Own = (Option<Vec<u8>>, Account, Vec<Sent>, Vec<PadUse>, [u64; 2]);
    let asked = &std::sync::Barrier::new(3);
    let mut own: [Vec<Own>; 3] = std::thread::scope(|s| {
        let threads: Vec<_> = Role::ALL
            .into_iter()
            .zip(MemoryNetwork::bounded(plan.capacity))
            .map(|(role, mut net)| {
                let party = role.party(dealer).index();
                let (world, inputs, model) = (&world, &inputs, shared.parties[party].clone());
                let device = shared.devices[party].clone();
                s.spawn(move || {
                    let streams = Box::new(world.chacha(role));
                    let session = Session::new(role, device, Ring::Z64, streams);
                    let session = session.with_registry().with_transcript();
                    let mut session = PartySession::within(model, session)
                        .unwrap()
                        .with_sequences(sequences)
                        .dealing_ahead(plan.passes, plan.stepwise);
                    let (mut out, mut told) = (vec![], 0);
                    for (turns, input) in steps.iter().zip(inputs) {
                        for _ in 0..plan.calls {
                            if session.deal_ahead(&mut net) != Dealt::More {
                                break;
                            }
                        }
                        asked.wait();
                        let parts: Vec<Part> = turns.iter().map(part).collect();
                        let count = parts.iter().map(|p| p.count).sum();
                        let keys = session.keys(&input[role.index()], count).unwrap();
                        let request = Request { keys, parts, work: Work::Outputs(rows) };
                        let mut yielded = None;
                        let mut reply = |account: Account, outputs| {
                            yielded = Some((outputs, account));
                            Ok::<_, protocol::Error>(())
                        };
                        session.pass(&mut net, &request, &mut reply).unwrap();
                        let (outputs, account) = yielded.unwrap();
                        let (sent, pads) =
                            (session.session().transcript(), session.session().pads().unwrap());
                        let all = session.ledger().sent.iter().flatten().sum();
                        let counts = [all, session.session().made_ahead()];
                        out.push((outputs, account, sent[told..].to_vec(), pads, counts));
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
            Done {
                outputs,
                cost: Ledger::merge(&[dealer.1.cost, p1.1.cost, p2.1.cost]),
                sent: [dealer.2, p1.2, p2.2],
                dealing: dealer.1.dealing.unwrap(),
                pads: [dealer.3, p1.3, p2.3].concat(),
                dealt: dealer.4[0],
                made_ahead: [dealer.4[1], p1.4[1], p2.4[1]],
            }
        })
        .collect()
}

fn part(t: &Turn) -> Part {
    let Turn { sequence, step: Step { keep, tokens }, segment } = t;
    Part { sequence: *sequence, count: tokens.len(), segment: *segment, keep: *keep }
}
