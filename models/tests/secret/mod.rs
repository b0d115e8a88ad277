//! A model shared among three parties in this process, over the in-memory network.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of this.

use kernels::Words;
use models::calibrate;
use models::checkpoint::{Head, TensorSource};
use models::folded;
use models::model::OutputRows;
use models::parameter::Parameter;
use models::plan::PROGRAM_VERSION;
use models::shared::{
    Account, Assembly, PartyModel, PartySession, PublicModel, Request, Seeds, Work, client,
};
use protocol::gates::input::PIECE;
use protocol::testing::{MemoryNetwork, World};
use protocol::{Ledger, Role};
use std::sync::Arc;

/// A model shared among three parties in this process.
pub struct Shared {
    pub parties: [Arc<PartyModel>; 3],
    pub public: PublicModel,
}

/// Calibrates a model on `texts` and shares it.
pub fn share(source: &mut dyn TensorSource, texts: &[Vec<u32>]) -> Shared {
    let device = kernels::cpu::Cpu::best();
    let config = source.config().clone();
    let plan = calibrate::calibrate(source, texts, |_, _| {}).unwrap();
    let labels = match config.head {
        Head::Classifier { labels } => (0..labels).map(|i| format!("label {i}")).collect(),
        _ => vec![],
    };
    let public =
        PublicModel { program: PROGRAM_VERSION, config, plan, tokenizer: None, labels, sharing: [7; 32] };
    let seeds = Seeds { one: [1; 32], zero: [2; 32] };
    let parties = Role::ALL.map(|role| {
        let mut a = Assembly::new(&device, role, &public.config, seeds.for_party(role)).unwrap();
        if role != Role::Dealer {
            for (i, p) in Parameter::all(&public.config).into_iter().enumerate() {
                let words = p.encode(&folded::load(source, p).unwrap());
                let pieces: Vec<Words> = words
                    .chunks(PIECE)
                    .enumerate()
                    .map(|(piece, w)| seeds.delta(&device, i, piece, w.to_vec()))
                    .collect();
                a.put(i, Some(Words::concat(&pieces.iter().collect::<Vec<_>>()))).unwrap();
            }
        }
        let tables = public.plan.tables(&device, &public.config);
        Arc::new(a.finish(public.clone(), tables).unwrap())
    });
    assert!(parties.iter().all(|p| p.digest == parties[0].digest));
    Shared { parties, public }
}

/// Runs passes; returns each pass's output scores and cost.
pub fn run(shared: &Shared, seed: u64, passes: &[Vec<u32>], rows: OutputRows) -> Vec<(Vec<f32>, Ledger)> {
    let (world, device) = (World::new(seed), kernels::cpu::Cpu::best());
    let vocab = shared.public.config.vocab;
    let inputs: Vec<[Vec<u8>; 3]> = passes
        .iter()
        .enumerate()
        .map(|(i, ids)| client::split_tokens(&device, vocab, ids, &[i as u8 + 10; 32]).unwrap())
        .collect();
    let outputs: Vec<Vec<(Option<Vec<u8>>, Ledger)>> = std::thread::scope(|s| {
        let threads: Vec<_> = Role::ALL
            .into_iter()
            .zip(MemoryNetwork::three())
            .map(|(role, mut net)| {
                let (world, inputs, model) = (&world, &inputs, shared.parties[role.index()].clone());
                s.spawn(move || {
                    let mut session = PartySession::new(model, Box::new(world.chacha(role)));
                    let mut out = vec![];
                    for (ids, parts) in passes.iter().zip(inputs) {
                        let keys = session.keys(&parts[role.index()], ids.len()).unwrap();
                        let request = Request { keys, segment: None, work: Work::Outputs(rows) };
                        let mut reply = |account: Account, outputs| {
                            out.push((outputs, account.cost));
                            Ok::<_, protocol::Error>(())
                        };
                        session.pass(&mut net, &request, &mut reply).unwrap();
                    }
                    out
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    (0..passes.len())
        .map(|i| {
            let (p1, p2) = (outputs[1][i].0.as_ref().unwrap(), outputs[2][i].0.as_ref().unwrap());
            assert!(outputs[0][i].0.is_none(), "the dealer has nothing for the client");
            let ledger = Ledger::merge(&[outputs[0][i].1, outputs[1][i].1, outputs[2][i].1]);
            (client::combine_outputs(&device, &shared.public.config, p1, p2).unwrap(), ledger)
        })
        .collect()
}
