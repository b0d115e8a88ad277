//! What a party asks of a device of its own: kernels started, copies, allocations, gate by gate and for a layer. The table in
//! `docs/gpu.md` is what `cargo test --release -p models --test launches -- --nocapture` prints.

mod secret;

use kernels::cuda::Cuda;
use kernels::{Device, Ring, Segments, Words};
use kernels_shim::{Asked, Counting, Order, Shim};
use models::benchmark::BenchmarkWeights;
use models::checkpoint::ModelConfig;
use models::model::OutputRows;
use models::plan::{Step, TablePlan};
use models::shared::{Assembly, Part, PartySession, PublicModel, Request, Weights, Work, client};
use protocol::gates::norm::{NormKind, NormTable, norm};
use protocol::gates::softmax::{EXP_SCALE, SoftmaxTables};
use protocol::gates::{exp, glu, max, product, quadratic, softmax, truncate};
use protocol::testing::{MemoryNetwork, World};
use protocol::{Cx, Party, Result, Role, Session, Shape, Share};
use std::pin::Pin;
use std::sync::Arc;

const SCALE: u32 = 18;

/// What each party asked for, and the number of exchanges.
struct Count {
    parties: [Asked; 3],
    exchanges: u64,
}

impl Count {
    /// Less what `other` was.
    fn less(&self, other: &Count) -> Count {
        let parties = std::array::from_fn(|i| {
            let (a, b) = (&self.parties[i], &other.parties[i]);
            let launches = a.launches.iter().map(|(k, n)| (*k, n - b.launches.get(k).unwrap_or(&0)));
            Asked {
                launches: launches.filter(|(_, n)| *n > 0).collect(),
                clearings: a.clearings - b.clearings,
                copies_in: a.copies_in - b.copies_in,
                copies_out: a.copies_out - b.copies_out,
                allocations: a.allocations - b.allocations,
            }
        });
        Count { parties, exchanges: self.exchanges - other.exchanges }
    }

    fn print(&self, name: &str) {
        let each = |f: fn(&Asked) -> u64| {
            let [a, b, c] = self.parties.each_ref().map(f);
            format!("{a} / {b} / {c}")
        };
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} |",
            self.exchanges,
            each(Asked::kernels),
            each(|a| a.clearings),
            each(|a| a.copies_in),
            each(|a| a.copies_out),
            each(|a| a.allocations)
        );
    }
}

/// A counted device for each party.
fn devices() -> Option<([Arc<Counting>; 3], [Device; 3])> {
    let shim = Arc::new(Shim::new(Order::Forward)?);
    let counted = [(); 3].map(|()| Arc::new(Counting::new(shim.clone())));
    let devices = counted.each_ref().map(|c| Arc::new(Cuda::with_driver(c.clone())) as Device);
    Some((counted, devices))
}

/// Three parties, each on a device of its own; the exchanges that an evaluator counts.
fn parties(f: impl Fn(Role, MemoryNetwork) -> u64 + Sync) -> u64 {
    std::thread::scope(|s| {
        let threads: Vec<_> = Role::ALL
            .into_iter()
            .zip(MemoryNetwork::three())
            .map(|(role, net)| {
                s.spawn({
                    let f = &f;
                    move || f(role, net)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).max().unwrap()
    })
}

type Done<'n> = Pin<Box<dyn Future<Output = Result<Share>> + 'n>>;

/// One gate on a column of shares at the scale of activations; `make` prepares its tables on a device.
fn gate<T: Send + Sync>(
    n: usize,
    make: impl Fn(&Device) -> T,
    run: impl for<'n> Fn(Cx<'n>, Share, Arc<T>) -> Done<'n> + Sync,
) -> Option<Count> {
    let (counted, devices) = devices()?;
    let world = World::new(1);
    let values: Vec<u64> = (0..n as u64).map(|i| (i + 1) << 16).collect();
    let shares = world.share(&values, Shape::new(1, n), SCALE, 1);
    let inputs: Vec<_> = shares
        .into_iter()
        .zip(&devices)
        .map(|(share, device)| {
            let tables = Arc::new(make(device));
            (share.linear(share.shape, |w| Words::upload(device, w.to_vec())), tables)
        })
        .collect();
    counted.iter().for_each(|c| drop(c.take()));
    let exchanges = parties(|role, mut net| {
        let (share, tables) = inputs[role.index()].clone();
        let device = devices[role.index()].clone();
        let mut session = Session::new(role, device, Ring::Z64, Box::new(world.chacha(role)));
        session.run(&mut net, |cx| run(cx, share, tables)).unwrap();
        session.ledger().exchanges
    });
    Some(Count { parties: counted.map(|c| c.take()), exchanges })
}

/// Passes over so many tokens each, in a toy of so many layers.
fn model(config: &ModelConfig, layers: usize, passes: &[usize]) -> Option<Count> {
    let (counted, devices) = devices()?;
    let config = ModelConfig { layers, ..config.clone() };
    let public = PublicModel::benchmark(config.clone(), BenchmarkWeights::new([4; 32]), [5; 32]);
    let held = Party::ALL.map(|party| {
        let device = &devices[party.index()];
        let tables = public.plan.tables(device, &config);
        Arc::new(Assembly::make_up(device, party, public.clone(), tables, None, Weights::Stored).unwrap())
    });
    counted.iter().for_each(|c| drop(c.take()));
    let (world, host) = (World::new(3), kernels::cpu::Cpu::best());
    let exchanges = parties(|role, mut net| {
        let streams = Box::new(world.chacha(role));
        let mut session = PartySession::new(held[role.index()].clone(), role, streams).unwrap();
        let mut keep = 0;
        for &count in passes {
            let tokens: Vec<u32> = (0..count as u32).collect();
            let input = client::split_tokens(&host, config.vocab, &tokens, &[keep as u8; 32]).unwrap();
            let keys = session.keys(&input[role.index()], count).unwrap();
            let parts = vec![Part { sequence: 0, count, segment: None, keep }];
            let request = Request { keys, parts, work: Work::Outputs(OutputRows::Last) };
            session.pass(&mut net, &request, &mut |_, _| Ok::<_, protocol::Error>(())).unwrap();
            keep += count;
        }
        session.ledger().exchanges
    });
    Some(Count { parties: counted.map(|c| c.take()), exchanges })
}

/// One layer's part of the last pass.
fn layer(config: &ModelConfig, passes: &[usize]) -> Option<Count> {
    let last = |layers| {
        let all = model(config, layers, passes)?;
        match passes.len() {
            1 => Some(all),
            n => Some(all.less(&model(config, layers, &passes[..n - 1])?)),
        }
    };
    Some(last(2)?.less(&last(1)?))
}

#[test]
fn launches() {
    println!("| | exchanges | kernels, P0 / P1 / P2 | clearings | copies in | copies out | allocations |");
    let gates: [(&str, Option<Count>); 10] = [
        (
            "truncation",
            gate(
                16,
                |_| (),
                |cx, x, _| {
                    Box::pin(async move { truncate::truncate(&cx, product::halves(&cx, &x), 8).await })
                },
            ),
        ),
        (
            "truncation to 40 bits",
            gate(
                16,
                |_| (),
                |cx, x, _| {
                    Box::pin(
                        async move { truncate::truncate_to(&cx, product::halves(&cx, &x), 18, 40).await },
                    )
                },
            ),
        ),
        (
            "activation",
            gate(
                16,
                |d| TablePlan::covering(4, Step::Activation, None).table(d, |x| x).alone().clone(),
                |cx, x, t| Box::pin(async move { quadratic::lookup(&cx, &x, &t, SCALE).await }),
            ),
        ),
        (
            "gated activation",
            gate(
                16,
                |d| TablePlan::covering(4, Step::Gated, Some(11)).table(d, |x| x).gated().clone(),
                |cx, x, t| Box::pin(async move { glu::gated(&cx, &x, &x, &*t.table, t.bits, SCALE).await }),
            ),
        ),
        (
            "gated activation by quadratics",
            gate(
                16,
                |d| TablePlan::covering(5, Step::GatedWide, Some(11)).table(d, |x| x).gated().clone(),
                |cx, x, t| Box::pin(async move { glu::gated(&cx, &x, &x, &*t.table, t.bits, SCALE).await }),
            ),
        ),
        (
            "coarse maximum",
            gate(
                16,
                |d| SoftmaxTables::new(d, SCALE, max::Levels::new(64), 16),
                |cx, x, t| {
                    Box::pin(async move {
                        max::coarse_max(&cx, &x, &Segments::new(vec![0, 8, 16]), t.levels, t.score_bits())
                            .await
                    })
                },
            ),
        ),
        (
            "exponential",
            gate(
                16,
                |d| SoftmaxTables::new(d, SCALE, max::Levels::new(64), 16),
                |cx, x, t| Box::pin(async move { exp::exp(&cx, &x, &t.exp, EXP_SCALE).await }),
            ),
        ),
        (
            "softmax",
            gate(
                16,
                |d| SoftmaxTables::new(d, SCALE, max::Levels::new(64), 16),
                |cx, x, t| Box::pin(async move { softmax::softmax(&cx, &x, &t).await }),
            ),
        ),
        ("RMSNorm", normed(NormKind::Rms)),
        ("LayerNorm", normed(NormKind::Layer)),
    ];
    for (name, count) in gates {
        let Some(count) = count else { return };
        count.print(name);
    }
    let layers = [
        ("LLaMA layer, 8 tokens", layer(&ModelConfig::toy(), &[8])),
        ("LLaMA layer, a further token", layer(&ModelConfig::toy(), &[8, 1])),
        ("BERT layer, 8 tokens", layer(&ModelConfig::toy_bert(), &[8])),
    ];
    for (name, count) in layers {
        let Some(count) = count else { return };
        count.print(name);
        for (party, asked) in count.parties.iter().enumerate() {
            println!("P{party}: {:?}", asked.launches);
        }
        // Operation by operation these were 652, 1069 and 964.
        for (asked, most) in count.parties.iter().zip([150, 150, 150]) {
            assert!(asked.kernels() <= most, "{name}: {} kernels, {most} expected", asked.kernels());
        }
    }
}

fn normed(kind: NormKind) -> Option<Count> {
    gate(
        16,
        move |d| NormTable::new(d, kind, 16, SCALE, 1e-5, 0.1, 100.0),
        |cx, x, t| Box::pin(async move { norm(&cx, &x, &t).await }),
    )
}
