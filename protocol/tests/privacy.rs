//! What each party receives in a whole small layer on Z_2^64: uniform, of the same size and distribution whatever the
//! secret, in bijection with the masks it does not know; and the rule's enforcement.

mod common;

use common::detect::{LIMIT, Seen, by_lane, different, lengths, not_uniform, without_k01, without_k02};
use common::{Fut, hash, solve_views};
use kernels::{Device, Ring, Words};
use protocol::gates::max::Levels;
use protocol::gates::norm::{NormKind, NormTable};
use protocol::gates::quadratic::{self, Quadratic};
use protocol::gates::softmax::SoftmaxTables;
use protocol::gates::table::{Table, TableSpec, gelu, silu};
use protocol::gates::{bit, compare, glu, norm, product, softmax, truncate};
use protocol::testing::World;
use protocol::{
    Cx, Group, Item, KeyId, PadUse, Pads, Purpose, Registry, Role, Sent, Shape, Share, SharedMatrix,
};

const F: u32 = 18;
const D: usize = 8;

#[derive(Clone)]
struct Layer {
    norm: NormTable,
    softmax: SoftmaxTables,
    silu: Table,
    gelu: Quadratic,
    wide: Quadratic,
}

impl Layer {
    fn new(device: &Device) -> Layer {
        Layer {
            norm: NormTable::new(device, NormKind::Rms, D, F, 1e-5, 0.01, 16.0),
            softmax: SoftmaxTables::new(device, 36, Levels::new(64), D),
            silu: Table::new(device, TableSpec::symmetric(4, 8, F, 12), silu),
            gelu: Quadratic::symmetric(device, (4, 7), F, 4, gelu),
            wide: Quadratic::factor(device, (5, 8), F, 34, 64, silu),
        }
    }

    /// Inputs: rows of D activations, a D × D weight matrix.
    fn run<'a>(&self, cx: Cx<'a>, inputs: Vec<Share>) -> Fut<'a> {
        let t = self.clone();
        Box::pin(async move {
            let (x, w) = (&inputs[0], &inputs[1]);
            let n = norm::norm(&cx.scope("norm"), x, &t.norm).await?;
            let w = SharedMatrix::new(w);
            let h = truncate::truncate(&cx.scope("project"), product::matmul(&cx, &n, &w)?, F).await?;
            let scores = product::reshare(&cx.scope("scores"), product::multiply(&cx, &h, &n)?).await?;
            let p = softmax::softmax(&cx.scope("softmax"), &scores, &t.softmax).await?;
            let g = glu::gated(&cx.scope("gate"), &h, &n, &t.silu, 64, F).await?;
            let b = compare::less_than(&cx.scope("relu"), x, &[0], compare::Window::EXACT31).await?;
            let r = product::reshare(&cx.scope("relu"), bit::bit_times(&cx, &b[0], x)?).await?;
            let narrow = glu::gated(&cx.scope("narrow gate"), &h, &n, &t.silu, 60, F).await?;
            let f = quadratic::lookup(&cx.scope("gelu"), &h, &t.gelu, F).await?;
            let wide = glu::gated(&cx.scope("wide gate"), &h, &n, &t.wide, 64, F).await?;
            let both = glu::gated(&cx.scope("wide, narrow gate"), &h, &n, &t.wide, 62, F).await?;
            Ok(vec![p, g, r, narrow, f, wide, both])
        })
    }
}

/// Rows of activations and a weight matrix. `kind` 0: ordinary; 1: tiny and all positive; 2: large, negative.
fn secret(kind: u64, rows: usize) -> [Vec<u64>; 2] {
    let real = |tag: u64, i: usize| hash(&[kind, tag, i as u64]) as f64 / 2f64.powi(64);
    let x = |i: usize| match kind {
        0 => 4.0 * real(1, i) - 2.0,
        1 => 0.11 + 0.01 * real(1, i),
        _ => -3.9 + 0.2 * real(1, i),
    };
    let fix = |v: f64| (v * 2f64.powi(F as i32)) as i64 as u64;
    [(0..rows * D).map(|i| fix(x(i))).collect(), (0..D * D).map(|i| fix(real(2, i) - 0.5)).collect()]
}

fn inputs(w: &World, kind: u64, rows: usize) -> [Vec<Share>; 3] {
    let [x, m] = secret(kind, rows);
    let (x, m) = (w.share(&x, Shape::new(rows, D), F, 1), w.share(&m, Shape::new(D, D), F, 2));
    x.into_iter().zip(m).map(|(x, m)| vec![x, m]).collect::<Vec<_>>().try_into().unwrap()
}

/// Everything the evaluators received in runs of the layer, by receiver and lane.
fn received(layer: &Layer, worlds: impl Iterator<Item = World>, kind: u64, rows: usize) -> Seen {
    by_lane(worlds.flat_map(|w| w.recorded().run_layer(layer, kind, rows)).flatten())
}

trait RunLayer {
    fn run_layer(&self, layer: &Layer, kind: u64, rows: usize) -> [Vec<Sent>; 3];
}

impl RunLayer for World {
    fn run_layer(&self, layer: &Layer, kind: u64, rows: usize) -> [Vec<Sent>; 3] {
        let o = self.run(inputs(self, kind, rows), |cx, i| layer.run(cx, i));
        assert_eq!(o.ledger.link(Role::P1, Role::Dealer) + o.ledger.link(Role::P2, Role::Dealer), 0);
        o.sent
    }
}

const ROWS: usize = 6;

fn worlds(first: u64) -> impl Iterator<Item = World> {
    (first..first + 6).map(World::new)
}

#[test]
fn views_are_uniform_and_do_not_depend_on_the_secret() {
    let layer = Layer::new(World::new(0).device());
    let seen: Vec<Seen> = (0..3).map(|k| received(&layer, worlds(100 + 10 * k), k, ROWS)).collect();
    for (kind, seen) in seen.iter().enumerate() {
        assert_eq!(not_uniform(seen), [], "secret {kind}");
        // Lanes of P1: product results, wrap bits, look-ups, comparison keys …; P2 also has everything dealt.
        let lanes = |r: Role| seen.iter().filter(|(to, _, _)| *to == r).count();
        assert!(lanes(Role::P1) >= 10 && lanes(Role::P2) >= 30, "{} {}", lanes(Role::P1), lanes(Role::P2));
    }
    assert_eq!(different(&seen[0], &seen[1]), []);
    assert_eq!(different(&seen[0], &seen[2]), []);
    assert_eq!(different(&seen[1], &seen[2]), []);
}

#[test]
fn message_lengths_do_not_depend_on_the_secret() {
    let layer = Layer::new(World::new(0).device());
    let all: Vec<_> =
        (0..3).map(|k| lengths(&World::new(200 + k).recorded().run_layer(&layer, k, ROWS))).collect();
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}

/// Largest correlation, in standard deviations, between a received bit and the sign of the secret it belongs to.
/// The inputs' own masks are left out if `bare`, so that only those of the gates remain.
fn sign_correlation(world: World, bare: bool) -> f64 {
    const N: usize = 1 << 13;
    let table = Table::new(world.device(), TableSpec::symmetric(4, 8, F, 12), silu);
    let wide = Quadratic::factor(world.device(), (5, 8), F, 34, 64, silu);
    let x: Vec<u64> = (0..N).map(|i| (hash(&[3, i as u64]) as i64 >> 42) as u64).collect();
    let u = vec![1u64 << F; N];
    let column = Shape::new(N, 1);
    let share = |v: &[u64], stream: u64| {
        let zeros = vec![0; N];
        if bare { world.share_under(v, &zeros, &zeros, column, F) } else { world.share(v, column, F, stream) }
    };
    let (xs, us) = (share(&x, 1), share(&u, 2));
    let inputs: Vec<Vec<Share>> = xs.into_iter().zip(us).map(|(x, u)| vec![x, u]).collect();
    let o = world.recorded().run(inputs.try_into().unwrap(), |cx, i: Vec<Share>| {
        let (table, wide) = (table.clone(), wide.clone());
        Box::pin(async move {
            let y = glu::gated(&cx, &i[0], &i[1], &table, 64, F).await?;
            glu::gated(&cx.scope("wide"), &i[0], &i[1], &wide, 64, F).await?;
            let b = compare::less_than(&cx, &i[0], &[0], compare::Window::EXACT31).await?;
            let z = product::reshare(&cx, bit::bit_times(&cx, &b[0], &i[0])?).await?;
            Ok((y, z))
        })
    });
    let mut worst = 0f64;
    for s in o.sent.iter().flatten() {
        // Several words for each element: one-hot rows side by side, bits one after the other.
        let per = s.values.len() / N;
        let side_by_side = s.lane == Purpose::OneHot as u8;
        for word in 0..per {
            let at = |e: usize| if side_by_side { e * per + word } else { word * N + e };
            for bit in 0..s.bits {
                let agree = (0..N).filter(|&e| s.values[at(e)] >> bit & 1 == x[e] >> 63).count() as f64;
                worst = worst.max((agree - N as f64 / 2.0).abs() / (N as f64 / 4.0).sqrt());
            }
        }
    }
    worst
}

#[test]
fn received_bits_do_not_correlate_with_signs() {
    for bare in [false, true] {
        let z = sign_correlation(World::new(300), bare);
        assert!(z < LIMIT, "correlation of {z} standard deviations");
    }
}

#[test]
fn detectors_fire_without_masks() {
    let layer = Layer::new(World::new(0).device());
    for (make, blind) in [(without_k01 as fn(Role, &World) -> _, Role::P1), (without_k02, Role::P2)] {
        let seen: Vec<Seen> = (0..2)
            .map(|k| received(&layer, worlds(400 + 10 * k).map(|w| w.streams(make)), k, ROWS))
            .collect();
        let bad = [not_uniform(&seen[0]), not_uniform(&seen[1])];
        // Comparison keys need both roots; all else that lost its mask went to the other evaluator.
        for (to, lane) in bad.iter().flatten() {
            assert!(*to != blind || *lane == Purpose::Root as u8, "lane {lane} to {to}");
        }
        // Without k02, most of what P1 receives is still hidden from a look at single words by P2's dealt shares,
        // which P1 can compute from k01: only the bijection test sees that.
        let least = if blind == Role::P1 { 25 } else { 3 };
        assert!(bad.iter().all(|b| b.len() >= least), "few detectors fired: {bad:?}");
        if blind == Role::P1 {
            // Single words differ little between two secrets: this detector wants more of them.
            let many = |k: u64| {
                let first = 600 + 100 * k;
                received(&layer, (first..first + 24).map(|s| World::new(s).streams(make)), k, 4 * ROWS)
            };
            assert!(!different(&many(0), &many(1)).is_empty(), "two secrets look the same without masks");
        }
        let z = sign_correlation(World::new(420).streams(make), true);
        assert!(z > 2.0 * LIMIT, "a correlation of {z} is too small to be noticed");
    }
}

/// The triangular argument, executed on the whole layer: every transcript belongs to exactly one choice of the masks
/// that the party does not know, whatever the secret.
#[test]
fn layer_views_are_in_bijection_with_masks() {
    let layer = Layer::new(World::new(0).device());
    let secrets: Vec<Vec<u64>> = (0..2).map(|k| secret(k, 1).concat()).collect();
    for party in [Role::P1, Role::P2] {
        let shapes = [(Shape::new(1, D), F), (Shape::new(D, D), F)];
        let root = [Purpose::Root as u8];
        let messages =
            solve_views(500 + party as u64, Ring::Z64, party, &shapes, &secrets, &root, &|cx, i| {
                layer.run(cx, i)
            });
        assert!(messages.unwrap() >= 20);
    }
}

/// The same for a LayerNorm whose statistic comes from shortened inputs.
#[test]
fn norm_views_are_in_bijection_with_masks() {
    let t = NormTable::new(World::new(0).device(), NormKind::Layer, D, F, 1e-5, 1e3, 1e6);
    assert!(t.input_drop > 0 && t.statistic_drop > 0, "not the long way");
    let secrets = [0u64, 1, 2].map(|k| (0..D as u64).map(|i| hash(&[k, i]) >> 36).collect());
    for party in [Role::P1, Role::P2] {
        let root = [Purpose::Root as u8];
        let shape = [(Shape::new(1, D), F)];
        solve_views(510 + party as u64, Ring::Z64, party, &shape, &secrets, &root, &|cx, x| {
            let t = t.clone();
            Box::pin(async move { Ok(vec![norm::norm(&cx, &x[0], &t).await?]) })
        })
        .unwrap();
    }
}

// ---- The registry.

#[test]
#[should_panic(expected = "drawn twice")]
fn a_stream_is_drawn_once() {
    let mut r = Registry::default();
    r.draw(KeyId::K01, 3, 1);
    r.draw(KeyId::K02, 3, 1);
    r.draw(KeyId::K01, 3, 1);
}

fn use_of(key: KeyId, to: Role) -> PadUse {
    PadUse { key, op: 3, lane: 1, to }
}

fn registry() -> Registry {
    let mut r = Registry::default();
    for key in [KeyId::K01, KeyId::K02, KeyId::K12] {
        r.draw(key, 3, 1);
    }
    r
}

#[test]
#[should_panic(expected = "pad used twice")]
fn a_pad_masks_one_message() {
    let mut r = registry();
    r.pad(use_of(KeyId::K01, Role::P2));
    r.pad(use_of(KeyId::K01, Role::P2));
}

#[test]
#[should_panic(expected = "never drawn")]
fn a_pad_is_drawn() {
    Registry::default().pad(use_of(KeyId::K01, Role::P2));
}

#[test]
#[should_panic(expected = "must come from K01")]
fn a_pad_is_not_the_receivers() {
    registry().pad(use_of(KeyId::K02, Role::P2));
}

#[test]
#[should_panic(expected = "must come from K02")]
fn a_common_coin_is_not_a_pad() {
    registry().pad(use_of(KeyId::K12, Role::P1));
}

#[test]
#[should_panic(expected = "the dealer receives nothing")]
fn nobody_sends_to_the_dealer() {
    registry().pad(use_of(KeyId::K12, Role::Dealer));
}

/// How a run panics, if it does.
fn panics(program: impl for<'a> Fn(Cx<'a>, Share) -> Fut<'a> + Sync) -> String {
    let world = World::new(600);
    let x = world.share(&[1, 2, 3], Shape::new(3, 1), F, 1);
    let run = std::panic::AssertUnwindSafe(|| drop(world.run(x, |cx, x| program(cx, x))));
    let Err(panic) = std::panic::catch_unwind(run) else { return String::new() };
    panic.downcast_ref::<String>().cloned().expect("a message")
}

fn item(cx: &Cx, name: &str) -> Item {
    Item { op: cx.op(name), purpose: Purpose::Result, index: 0, n: 3, bits: 64, group: Group::Add }
}

#[test]
fn a_running_gate_is_watched() {
    // The control: an honest opening.
    let control = panics(|cx, x| {
        Box::pin(async move {
            cx.open(item(&cx, "open"), product::halves(&cx, &x).half).await?;
            Ok(vec![])
        })
    });
    assert_eq!(control, "");
    // One item opened twice.
    let twice = panics(|cx, x| {
        Box::pin(async move {
            let item = item(&cx, "open");
            cx.open(item, product::halves(&cx, &x).half).await?;
            cx.open(item, product::halves(&cx, &x).half).await?;
            Ok(vec![])
        })
    });
    assert!(twice.contains("a party panicked"), "{twice}");
    // Two messages under one item's pads.
    let same_item = panics(|cx, x| {
        Box::pin(async move {
            let (item, half) = (item(&cx, "open"), product::halves(&cx, &x).half);
            let pads = cx.pads(&item);
            cx.swap(item, half.clone(), &pads).await?;
            cx.swap(item, half, &pads).await?;
            Ok(vec![])
        })
    });
    assert!(same_item.contains("a party panicked"), "{same_item}");
    // Pads of another item.
    let other = panics(|cx, x| {
        Box::pin(async move {
            let (a, b) = (item(&cx, "a"), item(&cx, "b"));
            let pads: Pads = cx.pads(&a);
            cx.swap(b, product::halves(&cx, &x).half, &pads).await?;
            Ok(vec![])
        })
    });
    assert!(other.contains("a party panicked"), "{other}");
    // Dealt and opened under the same stream: no single party sees it, the world does.
    let dealt = panics(|cx, x| {
        Box::pin(async move {
            let item = item(&cx, "both");
            if cx.role() != Role::P1 {
                cx.deal(item, || x.lambda.clone())?;
            }
            let pads = if cx.role() == Role::P1 { cx.pads(&item) } else { Pads { p1: None, p2: None } };
            let zeros = Words::zeros(cx.device(), 3);
            if cx.role() == Role::P1 {
                cx.swap(item, Some(zeros), &pads).await?;
            } else {
                let half = product::halves(&cx, &x).half;
                cx.open(Item { purpose: Purpose::Theta, ..item }, half).await?;
            }
            Ok(vec![])
        })
    });
    assert!(dealt.contains("two parties used the same pad"), "{dealt}");
}
