//! Runs that are dealt ahead: they yield what ordinary runs yield, and whatever does not fit is an error, never a mask used
//! twice.

use kernels::{Ring, Words};
use protocol::gates::{product, truncate};
use protocol::testing::{MemoryNetwork, World};
use protocol::{Ahead, Cx, Error, NetError, Network, Product, Role, Session, Shape, Share, Step};
use std::pin::Pin;

const N: usize = 6;
const F: u32 = 18;

type Program<'n> = Pin<Box<dyn Future<Output = protocol::Result<Share>> + 'n>>;

/// (input · x) / 2^F, of an input that the dealer knows late.
fn program<'n>(cx: Cx<'n>, x: Share, late: Option<Vec<u64>>) -> Program<'n> {
    Box::pin(async move {
        let (op, shape) = (cx.op("input"), Shape::new(N, 1));
        let late = late.map(|l| Words::upload(cx.device(), l));
        let half = cx.deal_late(op, N, late.as_ref())?;
        let input = product::reshare(&cx, Product { shape, scale: F, bits: 64, half }).await?;
        truncate::truncate(&cx, product::multiply(&cx, &input, &x)?, F).await
    })
}

fn inputs(run: u64) -> Vec<u64> {
    (0..N as u64).map(|i| (i + 10 * run) << F).collect()
}

/// What a party does in turn.
#[derive(Clone, Copy)]
enum Do {
    /// The dealer deals so much of the next run.
    Ahead(usize),
    /// A run that may have been dealt ahead.
    Next(u64),
    /// A run that begins anew.
    Anew(u64),
}

/// Changes the dealer's messages, or how much a link holds.
struct Hooked<'h> {
    inner: MemoryNetwork,
    hook: &'h (dyn Fn(Role, Vec<u8>) -> Vec<u8> + Sync),
    capacity: usize,
}

impl Network for Hooked<'_> {
    fn send(&mut self, to: Role, message: Vec<u8>) -> Result<(), NetError> {
        self.inner.send(to, (self.hook)(to, message))
    }

    fn recv(&mut self, from: Role) -> Result<Vec<u8>, NetError> {
        self.inner.recv(from)
    }

    fn room(&self, _: Role, _: usize) -> bool {
        true
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

struct Party<'w> {
    session: Session,
    net: Hooked<'w>,
    x: Share,
    ahead: Vec<Ahead>,
}

impl Party<'_> {
    fn act(&mut self, what: Do) -> protocol::Result<Option<Share>> {
        let (x, dealer) = (self.x.clone(), self.session.role() == Role::Dealer);
        let late = |run| dealer.then(|| inputs(run));
        let (s, net) = (&mut self.session, &mut self.net);
        match what {
            Do::Ahead(_) if !dealer => Ok(None),
            Do::Ahead(steps) => {
                let ahead =
                    s.deal_ahead(net, |cx| Box::pin(async { program(cx, x, None).await.map(drop) }))?;
                let mut ahead = ahead.expect("there is room");
                for _ in 0..steps {
                    if ahead.step(s, net)? == Step::Complete {
                        break;
                    }
                }
                self.ahead.push(ahead);
                Ok(None)
            }
            Do::Next(run) if dealer && !self.ahead.is_empty() => {
                let mut ahead = self.ahead.remove(0);
                let value = Words::upload(s.device(), inputs(run));
                s.deal_late(net, &mut ahead, &value)?;
                ahead.finish(s, net).map(|()| None)
            }
            Do::Next(run) if !dealer => s.run_next(net, |cx| program(cx, x, late(run))).map(Some),
            Do::Next(run) | Do::Anew(run) => {
                self.ahead.clear();
                s.run(net, |cx| program(cx, x, late(run))).map(Some)
            }
        }
    }
}

/// The evaluators' results of each run, or every party's verdict.
fn run(
    todo: &[Do],
    capacity: usize,
    hook: impl Fn(Role, Vec<u8>) -> Vec<u8> + Sync,
) -> [Result<Vec<Share>, Error>; 3] {
    let world = World::new(7);
    let x = world.share(&[3 << F; N], Shape::new(N, 1), F, 1);
    let (world, hook) = (&world, &hook);
    let plain = &|_, m| m;
    let parties: Vec<_> = std::thread::scope(|s| {
        let threads: Vec<_> = Role::ALL
            .into_iter()
            .zip(MemoryNetwork::three())
            .zip(x)
            .map(|((role, inner), x)| {
                s.spawn(move || {
                    let streams = Box::new(world.chacha(role));
                    let session = Session::new(role, world.device().clone(), Ring::Z64, streams);
                    let hook: &(dyn Fn(Role, Vec<u8>) -> Vec<u8> + Sync) =
                        if role == Role::Dealer { hook } else { plain };
                    let net = Hooked { inner, hook, capacity };
                    let session = session.with_registry();
                    let mut party = Party { session, net, x, ahead: vec![] };
                    let results: Result<Vec<_>, _> = todo.iter().map(|&d| party.act(d)).collect();
                    results.map(|all| all.into_iter().flatten().collect())
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    parties.try_into().expect("three parties")
}

/// Runs that must succeed, each with three times its input.
fn check(todo: &[Do], runs: &[u64]) {
    let [dealer, p1, p2] = run(todo, usize::MAX, |_, m| m);
    dealer.unwrap();
    let (p1, p2) = (p1.unwrap(), p2.unwrap());
    assert_eq!(p1.len(), runs.len());
    for ((run, a), b) in runs.iter().zip(&p1).zip(&p2) {
        assert_eq!(a.delta.as_ref().unwrap().to_vec(), b.delta.as_ref().unwrap().to_vec());
        let sum = a.delta.as_ref().unwrap() + &(&a.lambda + &b.lambda);
        for (y, x) in sum.to_vec().iter().zip(inputs(*run)) {
            let error = y.wrapping_sub(3 * x) as i64;
            assert!(error.abs() <= 1, "run {run}: {error}");
        }
    }
}

#[test]
fn runs_dealt_ahead_are_ordinary_runs() {
    check(&[Do::Anew(1), Do::Next(2)], &[1, 2]);
    check(&[Do::Ahead(100), Do::Next(1), Do::Next(2)], &[1, 2]);
    check(&[Do::Ahead(100), Do::Ahead(100), Do::Next(1), Do::Next(2), Do::Next(3)], &[1, 2, 3]);
    for steps in 0..4 {
        check(&[Do::Anew(1), Do::Ahead(steps), Do::Next(2), Do::Ahead(100), Do::Next(3)], &[1, 2, 3]);
        // Thrown away.
        check(&[Do::Ahead(100), Do::Ahead(steps), Do::Anew(1), Do::Ahead(steps), Do::Next(2)], &[1, 2]);
        check(&[Do::Ahead(100), Do::Ahead(steps), Do::Next(1), Do::Anew(2), Do::Next(3)], &[1, 2, 3]);
    }
}

fn diverged(verdict: &Result<Vec<Share>, Error>) -> bool {
    matches!(verdict, Err(Error::Diverged { peer: Role::Dealer, .. }))
}

/// The number of the run in a header, and where a beginning says how.
const RUN: usize = 4;
const HOW: usize = 8;
const HEADER: usize = 20;

/// The verdicts of the evaluators where the dealer's beginnings are those that `replayed` names, of all so far.
fn replays(todo: &[Do], replayed: impl Fn(usize) -> usize + Sync) -> [Error; 2] {
    let begun = std::sync::Mutex::new([vec![], vec![]]);
    let [_, p1, p2] = run(todo, usize::MAX, |to, m| {
        // Only beginnings are as short as a header.
        if m.len() > HEADER {
            return m;
        }
        let mut begun = begun.lock().unwrap();
        let begun: &mut Vec<Vec<u8>> = &mut begun[to.index() - 1];
        begun.push(m);
        begun[replayed(begun.len() - 1)].clone()
    });
    [p1.unwrap_err(), p2.unwrap_err()]
}

#[test]
fn an_evaluator_takes_no_number_twice() {
    // The dealer's first beginning, again: with its request, and ahead of it.
    let anew: &[Do] = &[Do::Anew(1), Do::Anew(2)];
    let ahead: &[Do] = &[Do::Ahead(100), Do::Next(1), Do::Ahead(100), Do::Next(2)];
    for todo in [anew, ahead] {
        for verdict in replays(todo, |_| 0) {
            assert!(matches!(&verdict, Error::Diverged { peer: Role::Dealer, .. }));
            assert!(verdict.to_string().contains("its run 0, ours 1"), "{verdict}");
        }
    }
    // One that was passed over, in the search for the beginning of a run.
    let todo = [Do::Ahead(0), Do::Ahead(0), Do::Ahead(0), Do::Anew(1)];
    for verdict in replays(&todo, |i| if i == 2 { 0 } else { i }) {
        assert!(verdict.to_string().contains("its run 0, ours 2"), "{verdict}");
    }
}

#[test]
fn a_beginning_belongs_to_its_number() {
    for place in [RUN, HOW, HEADER - 1] {
        let all = run(&[Do::Anew(1)], usize::MAX, |_, mut m| {
            m[place] ^= if m.len() == HEADER { 1 } else { 0 };
            m
        });
        assert!(diverged(&all[1]) && diverged(&all[2]), "byte {place}");
    }
}

#[test]
fn only_what_was_dealt_ahead_is_passed_over() {
    // A message of a run that has not begun, among those of one that is thrown away.
    let todo = [Do::Ahead(100), Do::Anew(1)];
    let all = run(&todo, usize::MAX, |_, mut m| {
        if m.len() > 20 && m[RUN] == 0 {
            m[RUN] = 9;
        }
        m
    });
    assert!(diverged(&all[2]));
}

#[test]
fn p2_puts_by_no_more_than_links_hold() {
    let todo = [[Do::Ahead(100); 20].as_slice(), &[Do::Next(1)]].concat();
    assert!(run(&todo, 1 << 20, |_, m| m).iter().all(Result::is_ok));
    let [_, _, p2] = run(&todo, 64, |_, m| m);
    assert!(diverged(&p2));
    assert!(p2.unwrap_err().to_string().contains("transport.link_queue_bytes"));
}

/// Nor more of the run that it waits with.
#[test]
fn p2_puts_by_no_more_of_its_own_run() {
    let [_, _, p2] = run(&[Do::Ahead(100), Do::Next(1)], 64, |to, mut m| {
        if to == Role::P2 && m.len() > HEADER {
            m.resize(m.len() + (40 << 20), 0);
        }
        m
    });
    assert!(p2.unwrap_err().to_string().contains("transport.link_queue_bytes"));
}
