//! Parties that run different programs, messages that are not what they should be, parties that disappear: an error
//! that names peer and place, never a panic, never a hang.

mod common;

use common::{Fut, Program};
use kernels::Ring;
use protocol::gates::{compare, product, truncate};
use protocol::testing::{MemoryNetwork, World};
use protocol::{Cx, Error, NetError, Network, Role, Session, Shape, Share};
use std::sync::mpsc::channel;
use std::time::Duration;

const N: usize = 9;

/// Changes or withholds a party's messages: receiver, number of the message, message; `None` is a lost connection.
type Hook = Box<dyn FnMut(Role, usize, Vec<u8>) -> Option<Vec<u8>> + Send>;

struct Hooked {
    inner: MemoryNetwork,
    hook: Hook,
    count: usize,
}

impl Network for Hooked {
    fn send(&mut self, to: Role, message: Vec<u8>) -> Result<(), NetError> {
        let at = self.count;
        self.count += 1;
        match (self.hook)(to, at, message) {
            Some(m) => self.inner.send(to, m),
            None => Err(NetError::Lost { peer: to, reason: "unplugged".into() }),
        }
    }

    fn recv(&mut self, from: Role) -> Result<Vec<u8>, NetError> {
        self.inner.recv(from)
    }
}

fn honest() -> Hook {
    Box::new(|_, _, m| Some(m))
}

/// Each party's program and network; each party's verdict. Fails if one of them hangs or panics.
fn run(seed: u64, programs: [Program<'static>; 3], hooks: [Hook; 3]) -> [Result<Vec<Share>, Error>; 3] {
    let world = World::new(seed);
    let x: Vec<u64> = (0..N as u64).map(|i| i << 18).collect();
    let shares = world.share(&x, Shape::new(N, 1), 18, 1);
    let (done, verdicts) = channel();
    let parties = Role::ALL.into_iter().zip(MemoryNetwork::three()).zip(programs).zip(hooks).zip(shares);
    for ((((role, inner), program), hook), share) in parties {
        let (done, streams, device) = (done.clone(), world.chacha(role), world.device().clone());
        std::thread::spawn(move || {
            let mut net = Hooked { inner, hook, count: 0 };
            let mut session = Session::new(role, device, Ring::Z64, Box::new(streams)).with_registry();
            let verdict = session.run(&mut net, |cx| program(cx, vec![share]));
            drop(net);
            done.send((role, verdict)).expect("the test waits");
        });
    }
    drop(done);
    let mut all = [const { None }; 3];
    for _ in 0..3 {
        let (role, verdict) =
            verdicts.recv_timeout(Duration::from_secs(30)).expect("a party hangs or has panicked");
        all[role.index()] = Some(verdict);
    }
    all.map(|v| v.expect("three parties"))
}

/// A comparison, a product, a truncation, twice: messages on all links that evaluators have, in several rounds.
fn ordinary(cx: Cx<'_>, x: Vec<Share>) -> Fut<'_> {
    Box::pin(async move { body(&cx.scope("layer"), &x[0], 18).await })
}

async fn body(cx: &Cx<'_>, x: &Share, f: u32) -> protocol::Result<Vec<Share>> {
    compare::less_than(&cx.scope("relu"), x, &[0], compare::Window::EXACT31).await?;
    let y = truncate::truncate(&cx.scope("square"), product::multiply(cx, x, x)?, f).await?;
    let z = product::reshare(&cx.scope("again"), product::multiply(cx, &y, x)?).await?;
    Ok(vec![z])
}

fn extra_operation(cx: Cx<'_>, x: Vec<Share>) -> Fut<'_> {
    Box::pin(async move {
        let _unused = product::multiply(&cx, &x[0], &x[0])?;
        body(&cx.scope("layer"), &x[0], 18).await
    })
}

fn extra_exchange(cx: Cx<'_>, x: Vec<Share>) -> Fut<'_> {
    Box::pin(async move {
        let out = body(&cx.scope("layer"), &x[0], 18).await?;
        product::reshare(&cx, product::halves(&cx, &out[0])).await?;
        Ok(out)
    })
}

fn other_name(cx: Cx<'_>, x: Vec<Share>) -> Fut<'_> {
    Box::pin(async move { body(&cx.scope("layer 2"), &x[0], 18).await })
}

fn other_shape(cx: Cx<'_>, x: Vec<Share>) -> Fut<'_> {
    Box::pin(async move { body(&cx.scope("layer"), &x[0].rows(0, N - 2), 18).await })
}

fn other_shift(cx: Cx<'_>, x: Vec<Share>) -> Fut<'_> {
    Box::pin(async move { body(&cx.scope("layer"), &x[0], 10).await })
}

fn is_lost(e: &Error) -> bool {
    matches!(e, Error::Net { source: NetError::Lost { .. }, .. })
}

fn is_diverged(e: &Error) -> bool {
    matches!(e, Error::Diverged { .. })
}

#[test]
fn the_same_program_runs() {
    let all = run(1, [&ordinary; 3], [honest(), honest(), honest()]);
    assert!(all.iter().all(Result::is_ok), "{all:?}");
}

#[test]
fn other_programs_are_noticed() {
    let others: [(Program<'static>, &str); 5] = [
        (&extra_operation, "extra operation"),
        (&extra_exchange, "extra exchange"),
        (&other_name, "other name"),
        (&other_shape, "other shape"),
        (&other_shift, "other shift"),
    ];
    for (i, (other, name)) in others.into_iter().enumerate() {
        for odd in Role::ALL {
            let mut programs: [Program<'static>; 3] = [&ordinary; 3];
            programs[odd.index()] = other;
            let all = run(10 + i as u64, programs, [honest(), honest(), honest()]);
            let errors: Vec<(Role, &Error)> =
                Role::ALL.into_iter().zip(&all).filter_map(|(r, v)| Some((r, v.as_ref().err()?))).collect();
            for (_, e) in &errors {
                assert!(is_diverged(e) || is_lost(e), "{name} at {odd}: {e}");
                assert!(e.to_string().contains(" P"), "{e} names nobody");
            }
            let at_evaluators = errors.iter().filter(|(r, _)| *r != Role::Dealer).count();
            match (name, odd) {
                // The dealer's last operation deals nothing and the evaluators' program is over.
                ("extra exchange", Role::Dealer) => assert_eq!(at_evaluators, 0, "{errors:?}"),
                // The others are done when it begins.
                ("extra exchange", _) => assert!(matches!(&errors[..], [(r, e)] if *r == odd && is_lost(e))),
                _ => {
                    assert_eq!(at_evaluators, 2, "{name} at {odd}: {errors:?}");
                    let named = errors.iter().any(|(_, e)| is_diverged(e) && e.to_string().contains("layer"));
                    assert!(named, "{name} at {odd}: no error names the place: {errors:?}");
                }
            }
        }
    }
}

/// Every message of the program, spoilt in every way that the header or the length shows.
#[test]
fn spoilt_messages_are_errors() {
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let spoils: [(&str, Spoil); 8] = [
        ("empty", |_| vec![]),
        ("half a header", |m| m[..9].to_vec()),
        ("only a header", |m| m[..20].to_vec()),
        ("one byte short", |m| m[..m.len() - 1].to_vec()),
        ("one byte more", |m| [m, vec![0]].concat()),
        ("another round", |mut m| {
            m[0] ^= 1;
            m
        }),
        ("another part", |mut m| {
            m[8] ^= 1;
            m
        }),
        ("another program", |mut m| {
            m[15] ^= 0x80;
            m
        }),
    ];
    for from in Role::ALL {
        for message in 0.. {
            let mut seen = false;
            for (name, spoil) in spoils {
                let (tell, told) = channel();
                let mut hooks = [honest(), honest(), honest()];
                hooks[from.index()] = Box::new(move |to, at, m| {
                    if at == message {
                        tell.send((to, m.len())).expect("the test waits");
                        return Some(spoil(m));
                    }
                    Some(m)
                });
                let all = run(50, [&ordinary; 3], hooks);
                let Ok((to, length)) = told.try_recv() else { continue };
                seen = true;
                if length == 20 && matches!(name, "only a header" | "one byte short") {
                    continue;
                }
                let e = all[to.index()].as_ref().expect_err(name);
                assert!(is_diverged(e) || is_lost(e), "{name}: {e}");
                // Of dealt words more may come, so a short message shows as the next one, or none, from the dealer.
                assert!(e.to_string().contains(&from.to_string()), "{name} from {from} to {to}: {e}");
            }
            if !seen {
                assert!(message > 2, "{from} sends {message} messages");
                break;
            }
        }
    }
}

/// Payload that is garbage but of the right length cannot be told from masked words: no error, no panic.
#[test]
fn garbage_of_the_right_length_does_no_harm() {
    for from in Role::ALL {
        let mut hooks = [honest(), honest(), honest()];
        hooks[from.index()] = Box::new(|_, at, mut m| {
            for (i, b) in m[20..].iter_mut().enumerate() {
                *b ^= (at * 31 + i * 7 + 1) as u8;
            }
            Some(m)
        });
        let all = run(60, [&ordinary; 3], hooks);
        assert!(all.iter().all(Result::is_ok));
    }
}

#[test]
fn a_party_that_disappears_is_lost() {
    for gone in Role::ALL {
        for after in 0.. {
            let mut hooks = [honest(), honest(), honest()];
            hooks[gone.index()] = Box::new(move |_, at, m| (at < after).then_some(m));
            let all = run(70, [&ordinary; 3], hooks);
            if all.iter().all(Result::is_ok) {
                assert!(after > 2, "{gone} sends {after} messages");
                break;
            }
            for e in all.iter().filter_map(|v| v.as_ref().err()) {
                assert!(is_lost(e), "{gone} after {after}: {e}");
            }
            // The one that waits for it names it.
            let named = Role::ALL
                .into_iter()
                .filter(|r| *r != gone)
                .filter_map(|r| all[r.index()].as_ref().err())
                .any(|e| e.to_string().contains(&format!("lost {gone}")));
            assert!(named, "{gone} after {after}: {all:?}");
            let ended = Role::ALL.into_iter().filter(|r| all[r.index()].is_err()).count();
            assert!(ended >= 2, "{gone} after {after}: {all:?}");
        }
    }
}

/// A second run of the same session goes on where the first ended; a party that missed the first is noticed.
#[test]
fn runs_of_a_session_are_told_apart() {
    let world = World::new(80);
    let share = || world.share(&[1; N], Shape::new(N, 1), 18, 1);
    let runs = [2, 2, 1];
    let verdicts: Vec<Vec<bool>> = std::thread::scope(|s| {
        let parties: Vec<_> = Role::ALL
            .into_iter()
            .zip(MemoryNetwork::three())
            .zip(share())
            .map(|((role, mut net), x)| {
                let world = &world;
                s.spawn(move || {
                    let mut session =
                        Session::new(role, world.device().clone(), Ring::Z64, Box::new(world.chacha(role)));
                    (0..runs[role.index()])
                        .map(|_| session.run(&mut net, |cx| ordinary(cx, vec![x.clone()])).is_ok())
                        .collect()
                })
            })
            .collect();
        parties.into_iter().map(|p| p.join().expect("no panic")).collect()
    });
    assert_eq!(verdicts[2], [true]);
    assert_eq!(verdicts[1], [true, false]);
}
