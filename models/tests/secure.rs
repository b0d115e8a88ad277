//! Secure against Clear and Float on a whole (random, small) model, over the in-memory network; declared cost against
//! measured cost for whole passes.

use kernels::Words;
use models::calibrate;
use models::checkpoint::{Head, ModelConfig, RandomModel, Rotary, TensorSource};
use models::clear::Clear;
use models::dry::Dry;
use models::float::{Float, complete};
use models::folded;
use models::model::{Cache, OutputRows};
use models::parameter::Parameter;
use models::plan::PROGRAM_VERSION;
use models::shared::{Assembly, PartyModel, PartySession, PublicModel, Request, Seeds, Work, client};
use protocol::gates::input::PIECE;
use protocol::testing::{MemoryNetwork, World};
use protocol::{Ledger, Role};
use std::sync::Arc;

/// A model shared among three parties in this process.
struct Shared {
    parties: [Arc<PartyModel>; 3],
    public: PublicModel,
}

fn share(source: &mut RandomModel) -> Shared {
    let device = kernels::cpu::Cpu::best();
    let config = source.config().clone();
    let ids: Vec<u32> = (0..config.vocab as u32).collect();
    let plan =
        calibrate::calibrate(source, &[ids.clone(), ids.into_iter().rev().collect()], |_, _| {}).unwrap();
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
fn run(shared: &Shared, seed: u64, passes: &[Vec<u32>], rows: OutputRows) -> Vec<(Vec<f32>, Ledger)> {
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
                        let before = *session.ledger();
                        let request = Request { keys, segment: None, work: Work::Outputs(rows) };
                        let logits = session.pass(&mut net, &request).unwrap();
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
            (client::combine_outputs(&device, &shared.public.config, p1, p2).unwrap(), ledger)
        })
        .collect()
}

/// Secure equals Clear and Float for passes of this model, and costs what Dry says.
fn check(config: ModelConfig, passes: &[Vec<u32>], seed: u64) {
    let mut source = RandomModel::new(config, 5).unwrap();
    let shared = share(&mut source);
    let config = shared.public.config.clone();
    let rows = [OutputRows::Last, OutputRows::All];
    for &rows in if config.is_decoder() { &rows[..] } else { &rows[..1] } {
        let outputs = run(&shared, seed, passes, rows);

        let device = kernels::cpu::Cpu::best();
        let tables = shared.public.plan.tables(&device, &config);
        let clear = Clear::load(&device, &mut source, &tables).unwrap();
        let float = Float::load(&mut source).unwrap();
        let dry = Dry::model(&config, &tables);
        let (mut cc, mut cf, mut cd) = (Cache::new(&config), Cache::new(&config), Cache::new(&config));
        for (ids, (secure, ledger)) in passes.iter().zip(outputs) {
            let n = ids.len();
            let c = complete(clear.forward(&Clear::new(&device), ids, n, &mut cc, rows)).unwrap();
            let f = complete(float.forward(&Float::default(), ids, n, &mut cf, rows)).unwrap();
            let size = f.data.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(size > 0.1, "scores of no size prove nothing");
            assert_eq!(secure.len(), f.data.len());
            let mut worst = 0f32;
            for ((s, c), f) in secure.iter().zip(&c.data).zip(&f.data) {
                let c = (*c as i64 as f64 / 2f64.powi(36)) as f32;
                assert!((s - c).abs() < 4e-3 * size.max(1.0), "secure {s}, clear {c}, float {f}");
                assert!((s - f).abs() < 4e-3 * size.max(1.0), "secure {s}, float {f}");
                worst = worst.max((s - f).abs());
            }
            println!("{}: {n} tokens, largest {size}, error {worst}", config.family.name());
            let work = Dry::pass(&dry, n, &mut cd, rows);
            assert_eq!(
                (ledger.exchanges, ledger.sent),
                (work.ledger.exchanges, work.ledger.sent),
                "declared cost"
            );
        }
        println!("exchanges by layer: {:?}", Dry::exchanges_by_layer(&dry));
    }
}

#[test]
fn llama_is_computed_in_secret_at_the_declared_cost() {
    let passes = [vec![3u32, 1, 4, 1, 5, 9], vec![2], vec![6], vec![5, 3]];
    check(ModelConfig::toy(), &passes, 1);
    // Multi-head attention, halves rotated, LLaMA 3's divisors, Qwen2's biases, an output layer of its own.
    let rotary = Rotary { base: 5e5, interleaved: false, factors: vec![1.0, 1.0, 3.5, 8.0] };
    let other =
        ModelConfig { kv_heads: 4, rotary: Some(rotary), qkv_bias: true, tied: false, ..ModelConfig::toy() };
    check(other, &passes, 2);
}

#[test]
fn gpt2_is_computed_in_secret_at_the_declared_cost() {
    check(ModelConfig::toy_gpt2(), &[vec![3u32, 1, 4, 1, 5, 9], vec![2], vec![6, 0]], 3);
}

#[test]
fn bert_is_computed_in_secret_at_the_declared_cost() {
    let passes = [vec![3u32, 1, 4, 1, 5, 9], vec![60], vec![6, 0]];
    check(ModelConfig::toy_bert(), &passes, 4);
    check(ModelConfig { head: Head::MeanPooling, ..ModelConfig::toy_bert() }, &passes, 5);
    check(ModelConfig::toy_roberta(), &passes, 6);
}

#[test]
fn a_model_description_survives_the_journey_and_damage_is_an_error() {
    let shared = share(&mut RandomModel::new(ModelConfig::toy(), 6).unwrap());
    let bytes = shared.public.to_bytes();
    assert_eq!(PublicModel::from_bytes(&bytes).unwrap().plan, shared.public.plan);
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert!(PublicModel::from_bytes(&bytes[..cut]).is_err());
    }
    let mut old = shared.public.clone();
    old.program += 1;
    assert!(PublicModel::from_bytes(&old.to_bytes()).unwrap_err().to_string().contains("version"));
    let mut wrong = shared.public.clone();
    wrong.plan.layers[0].activation.entries_log2 = 60;
    assert!(PublicModel::from_bytes(&wrong.to_bytes()).is_err());
}
