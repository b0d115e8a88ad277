//! Secure against Clear and Float on a whole (random, small) model, over the in-memory network; declared cost against
//! measured cost for whole passes.

use models::calibrate;
use models::checkpoint::{RandomLlama, TensorSource};
use models::clear::Clear;
use models::dry::Dry;
use models::float::{Float, complete};
use models::folded;
use models::llama::{Cache, LogitRows, MatrixId};
use models::plan::PROGRAM_VERSION;
use models::shared::{Assembly, PartyModel, PartySession, PublicModel, Seeds, client, input_part};
use models::tokenizer::{ChatFormat, TokenizerInfo};
use models::weights::encode;
use protocol::testing::{MemoryNetwork, World};
use protocol::{Ledger, Role};
use std::sync::Arc;

/// A model shared among three parties in this process.
struct Shared {
    parties: [Arc<PartyModel>; 3],
    public: PublicModel,
}

fn share(source: &mut RandomLlama) -> Shared {
    let device = kernels::cpu::Cpu::best();
    let float = Float::load(source).unwrap();
    let ids: Vec<u32> = (0..source.config().vocab as u32).collect();
    let mut seen = calibrate::watch(&float, ids.clone());
    calibrate::merge(&mut seen, calibrate::watch(&float, ids.into_iter().rev().collect()));
    let plan = calibrate::plan(&float, &seen).unwrap();
    let config = source.config().clone();
    let tokenizer = TokenizerInfo { json: String::new(), eos: vec![], bos: None, chat: ChatFormat::Raw };
    let public = PublicModel { program: PROGRAM_VERSION, config, plan, tokenizer, sharing: [7; 32] };
    let seeds = Seeds { one: [1; 32], zero: [2; 32] };
    let parties = Role::ALL.map(|role| {
        let mut a = Assembly::new(&device, role, &public.config, seeds.for_party(role)).unwrap();
        if role != Role::Dealer {
            for (i, id) in MatrixId::all(&public.config).into_iter().enumerate() {
                let words = encode(&folded::load(source, id).unwrap());
                a.put(i, Some(seeds.delta(&device, i, words))).unwrap();
            }
        }
        let tables = public.plan.tables(&device, &public.config);
        Arc::new(a.finish(public.clone(), tables).unwrap())
    });
    assert!(parties.iter().all(|p| p.digest == parties[0].digest));
    Shared { parties, public }
}

/// Runs passes; returns each pass's output scores and cost.
fn run(shared: &Shared, seed: u64, passes: &[Vec<u32>], rows: LogitRows) -> Vec<(Vec<f32>, Ledger)> {
    let (world, device) = (World::new(seed), kernels::cpu::Cpu::best());
    let vocab = shared.public.config.vocab;
    let inputs: Vec<[Vec<u8>; 3]> = passes
        .iter()
        .enumerate()
        .map(|(i, ids)| client::split_tokens(&device, vocab, ids, [i as u8 + 10; 32], [i as u8 + 90; 32]))
        .collect();
    let outputs: Vec<Vec<(Option<Vec<u8>>, Ledger)>> = std::thread::scope(|s| {
        let threads: Vec<_> = Role::ALL
            .into_iter()
            .zip(MemoryNetwork::three())
            .map(|(role, mut net)| {
                let (world, device, inputs, model) =
                    (&world, &device, &inputs, shared.parties[role.index()].clone());
                s.spawn(move || {
                    let mut session = PartySession::new(model, Box::new(world.chacha(role)));
                    let mut out = vec![];
                    for (ids, parts) in passes.iter().zip(inputs) {
                        let part = input_part(device, role, &parts[role.index()], ids.len() * vocab).unwrap();
                        let before = *session.ledger();
                        let logits = session.pass(&mut net, &part, ids.len(), rows).unwrap();
                        out.push((logits, session.ledger().since(&before)));
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
            (client::combine_logits(&device, p1, p2, vocab).unwrap(), ledger)
        })
        .collect()
}

#[test]
fn secure_equals_clear_and_costs_what_is_declared() {
    let mut source = RandomLlama::toy(5);
    let shared = share(&mut source);
    let passes = [vec![3u32, 1, 4, 1, 5, 9], vec![2], vec![6], vec![5, 3]];
    for (seed, rows) in [(1, LogitRows::Last), (2, LogitRows::All)] {
        let outputs = run(&shared, seed, &passes, rows);

        let device = kernels::cpu::Cpu::best();
        let tables = shared.public.plan.tables(&device, &shared.public.config);
        let clear = Clear::load(&device, &mut source, &tables).unwrap();
        let float = Float::load(&mut source).unwrap();
        let dry = Dry::model(&shared.public.config, &tables);
        let (mut cc, mut cf, mut cd) =
            (Cache::new(&clear.config), Cache::new(&float.config), Cache::new(&dry.config));
        for (ids, (secure, ledger)) in passes.iter().zip(outputs) {
            let n = ids.len();
            let c = complete(clear.forward(&Clear::new(&device), ids, n, &mut cc, rows)).unwrap();
            let f = complete(float.forward(&Float::default(), ids, n, &mut cf, rows)).unwrap();
            let size = f.data.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(size > 0.1, "scores of no size prove nothing");
            assert_eq!(secure.len(), f.data.len());
            for ((s, c), f) in secure.iter().zip(&c.data).zip(&f.data) {
                let c = (*c as i64 as f64 / 2f64.powi(36)) as f32;
                assert!((s - c).abs() < 4e-3 * size.max(1.0), "secure {s}, clear {c}");
                assert!((s - f).abs() < 4e-3 * size.max(1.0), "secure {s}, float {f}");
            }
            let work = Dry::pass(&dry, n, &mut cd, rows);
            assert_eq!(
                (ledger.exchanges, ledger.sent),
                (work.ledger.exchanges, work.ledger.sent),
                "declared cost"
            );
        }
        println!("exchanges a layer: {}", Dry::exchanges_per_layer(&dry));
    }
}

#[test]
fn a_model_description_survives_the_journey_and_damage_is_an_error() {
    let shared = share(&mut RandomLlama::toy(6));
    let bytes = shared.public.to_bytes();
    assert_eq!(PublicModel::from_bytes(&bytes).unwrap().plan, shared.public.plan);
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert!(PublicModel::from_bytes(&bytes[..cut]).is_err());
    }
    let mut old = shared.public.clone();
    old.program += 1;
    assert!(PublicModel::from_bytes(&old.to_bytes()).unwrap_err().to_string().contains("version"));
    let mut wrong = shared.public.clone();
    wrong.plan.layers[0].gate_entries_log2 = 60;
    assert!(PublicModel::from_bytes(&wrong.to_bytes()).is_err());
}
