//! Three transports over loopback QUIC.

mod common;

use common::{Files, Node, nodes, open, spec};
use parties::{
    ids::Digest,
    transport::{SessionLinks, SessionSpec},
};
use protocol::{NetError, Network, Party, Role};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;

#[test]
fn keys_agree_pairwise_and_links_carry_messages() {
    let files = Files::new();
    let nodes = nodes(&files, |_| {});
    let [(mut p0, k0), (mut p1, k1), (mut p2, k2)] = open(&nodes, spec(1));
    assert_eq!(k0.with(Party::One), k1.with(Party::Zero));
    assert_eq!(k0.with(Party::Two), k2.with(Party::Zero));
    assert_eq!(k1.with(Party::Two), k2.with(Party::One));
    assert!(k0.with(Party::Zero).is_none() && k1.with(Party::One).is_none());
    assert_ne!(k0.with(Party::One), k0.with(Party::Two));
    assert_ne!(k0.with(Party::One), k1.with(Party::Two));

    p0.send(Role::P1, b"to one".to_vec()).unwrap();
    p0.send(Role::P2, Vec::new()).unwrap();
    p1.send(Role::P2, vec![7; 100_000]).unwrap();
    p2.send(Role::P1, b"x".to_vec()).unwrap();
    assert_eq!(p1.recv(Role::Dealer).unwrap(), b"to one");
    assert_eq!(p2.recv(Role::Dealer).unwrap(), b"");
    assert_eq!(p2.recv(Role::P1).unwrap(), vec![7; 100_000]);
    assert_eq!(p1.recv(Role::P2).unwrap(), b"x");

    // Nothing flows to the dealer, and nobody is his own peer.
    assert!(matches!(p1.send(Role::Dealer, vec![1]), Err(NetError::Bad { .. })));
    assert!(matches!(p0.recv(Role::P1), Err(NetError::Bad { .. })));
    assert!(matches!(p2.recv(Role::P2), Err(NetError::Bad { .. })));

    // A dropped end delivers everything, then says that it is gone.
    for i in 0..200_u8 {
        p0.send(Role::P2, vec![i; 50_000]).unwrap();
    }
    drop(p0);
    for i in 0..200_u8 {
        assert_eq!(p2.recv(Role::Dealer).unwrap(), vec![i; 50_000]);
    }
    let error = p2.recv(Role::Dealer).unwrap_err();
    assert!(
        matches!(&error, NetError::Lost { peer: Role::Dealer, reason } if reason.contains("ended")),
        "{error}"
    );
    // The others go on.
    p1.send(Role::P2, vec![9]).unwrap();
    assert_eq!(p2.recv(Role::P1).unwrap(), [9]);

    // The same id again: other keys.
    drop((p1, p2));
    let [(_p0, again), ..] = open(&nodes, spec(1));
    assert_ne!(k0.with(Party::One), again.with(Party::One));
    assert_ne!(k0.with(Party::Two), again.with(Party::Two));
}

#[test]
fn whoever_deals_roles_have_their_keys_and_links() {
    let files = Files::new();
    let nodes = nodes(&files, |_| {});
    let mut seen = vec![];
    for dealer in Party::ALL {
        let mut parties = open(&nodes, SessionSpec { dealer, ..spec(20 + dealer.index() as u8) });
        for (party, (links, keys)) in Party::ALL.into_iter().zip(&parties) {
            assert_eq!((links.party(), links.role()), (party, party.role(dealer)));
            assert!(keys.with(party).is_none());
        }
        parties.rotate_left(dealer.index());
        let keys = [0, 1, 2].map(|i| parties[i].1.of_roles(Role::ALL[i].party(dealer), dealer));
        // k01, k02 and k12, each at two roles, and unknown to the third.
        assert!(keys[0][0].is_some() && keys[0][0] == keys[1][0] && keys[2][0].is_none());
        assert!(keys[0][1].is_some() && keys[0][1] == keys[2][1] && keys[1][1].is_none());
        assert!(keys[1][2].is_some() && keys[1][2] == keys[2][2] && keys[0][2].is_none());
        seen.extend([keys[0][0], keys[0][1], keys[1][2]]);

        let [(mut p0, _), (mut p1, _), (mut p2, _)] = parties;
        p0.send(Role::P1, vec![1]).unwrap();
        p0.send(Role::P2, vec![2]).unwrap();
        p1.send(Role::P2, vec![3]).unwrap();
        p2.send(Role::P1, vec![4]).unwrap();
        assert_eq!((p1.recv(Role::Dealer).unwrap(), p2.recv(Role::Dealer).unwrap()), (vec![1], vec![2]));
        assert_eq!((p2.recv(Role::P1).unwrap(), p1.recv(Role::P2).unwrap()), (vec![3], vec![4]));
        for evaluator in [&mut p1, &mut p2] {
            assert!(matches!(evaluator.send(Role::Dealer, vec![1]), Err(NetError::Bad { .. })));
        }
        // Who is lost is known by its role.
        p0.abort("enough");
        let error = p1.recv(Role::Dealer).unwrap_err();
        assert!(matches!(&error, NetError::Lost { peer: Role::Dealer, .. }), "{error}");
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count, "sessions with other dealers have other keys");
}

/// Every way in which three parties can take different ones for the dealer.
#[test]
fn parties_that_disagree_on_the_dealer_do_not_begin() {
    let files = Files::new();
    let nodes = nodes(&files, |config| config.limits.rendezvous_seconds = 2);
    let views = (0..27).map(|i| [i % 3, i / 3 % 3, i / 9]).filter(|v| v.iter().any(|d| *d != v[0]));
    for (i, view) in views.enumerate() {
        let spec = |party: usize| SessionSpec { dealer: Party::ALL[view[party]], ..spec(30 + i as u8) };
        let answers = [0, 1, 2].map(|party| nodes[party].ask(spec(party)));
        let mut told = String::new();
        for answer in answers {
            match answer.recv().unwrap() {
                Err(error) => told += &error.to_string(),
                // A dealer that waits for nobody learns of it from the others.
                Ok((mut links, _)) => {
                    let start = Instant::now();
                    let error = loop {
                        if let Err(error) = links.send(Role::P1, vec![0; 1000]) {
                            break error;
                        }
                        assert!(start.elapsed() < Duration::from_secs(5), "{view:?}: nobody objects");
                        thread::sleep(Duration::from_millis(5));
                    };
                    told += &error.to_string();
                }
            }
            told += "\n";
        }
        assert!(told.contains("the dealer"), "{view:?}: {told}");
    }
}

fn exchanges(p1: &mut SessionLinks, p2: &mut SessionLinks, rounds: usize, size: usize) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for (links, peer) in [(p1, Role::P2), (p2, Role::P1)] {
            scope.spawn(move || {
                for i in 0..rounds {
                    links.send(peer, vec![i as u8; size]).unwrap();
                    assert_eq!(links.recv(peer).unwrap()[0], i as u8);
                }
            });
        }
    });
    start.elapsed().as_secs_f64() * 1e6 / rounds as f64
}

#[test]
fn small_exchanges_are_quick() {
    for spin in [0, 100] {
        let files = Files::new();
        let nodes = nodes(&files, |config| config.transport.spin_microseconds = spin);
        let [_p0, (mut p1, _), (mut p2, _)] = open(&nodes, spec(2));
        exchanges(&mut p1, &mut p2, 500, 1000);
        for (rounds, size) in [(2000, 64), (2000, 10_000), (500, 100_000)] {
            let micros = exchanges(&mut p1, &mut p2, rounds, size);
            println!("spin {spin} µs, {size} bytes both ways: {micros:.0} µs per exchange");
            assert!(micros < 20_000.0);
        }
    }
}

#[test]
fn a_slow_reader_bounds_the_dealer_and_starves_nobody() {
    let files = Files::new();
    let nodes = nodes(&files, |config| {
        config.transport.link_queue_bytes = 4 * MIB;
        config.transport.stream_window_bytes = 4 * MIB as u32;
    });
    let [(mut p0, _), (mut p1, _), (mut p2, _)] = open(&nodes, spec(3));
    let [(mut q0, _), (mut q1, _), (q2, _)] = open(&nodes, spec(4));
    const COUNT: usize = 300;
    let sent = Arc::new(AtomicU64::new(0));
    let dealer = {
        let sent = sent.clone();
        thread::spawn(move || {
            for i in 0..COUNT {
                p0.send(Role::P1, vec![i as u8; MIB]).unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    // Nobody reads: the dealer stops after the queues and windows are full, with no more than these in memory.
    let mut before = u64::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(300));
    }
    println!("the dealer ran {before} MiB ahead");
    assert!((4..=24).contains(&before), "{before}");
    // Meanwhile another session over the same connections is served, and so are the evaluators' own links.
    let start = Instant::now();
    let other = thread::spawn(move || {
        for i in 0..100 {
            q0.send(Role::P1, vec![i; MIB]).unwrap();
        }
    });
    for i in 0..100 {
        assert_eq!(q1.recv(Role::Dealer).unwrap()[0], i);
    }
    println!("another session meanwhile: {:.0} MB/s", 104.9 / start.elapsed().as_secs_f64());
    other.join().unwrap();
    drop(q2);
    assert!(exchanges(&mut p1, &mut p2, 100, 1000) < 20_000.0);
    // Then the reader reads.
    let start = Instant::now();
    for i in 0..COUNT {
        let message = p1.recv(Role::Dealer).unwrap();
        assert!(message.len() == MIB && message[0] == i as u8 && message[MIB - 1] == i as u8);
    }
    println!("dealer to evaluator: {:.0} MB/s", (COUNT * MIB) as f64 / 1e6 / start.elapsed().as_secs_f64());
    dealer.join().unwrap();
}

#[test]
fn bulk_throughput() {
    let files = Files::new();
    let nodes = nodes(&files, |_| {});
    let [(mut p0, _), (mut p1, _), _p2] = open(&nodes, spec(5));
    let start = Instant::now();
    let dealer = thread::spawn(move || {
        for _ in 0..500 {
            p0.send(Role::P1, vec![1; MIB]).unwrap();
        }
    });
    for _ in 0..500 {
        p1.recv(Role::Dealer).unwrap();
    }
    dealer.join().unwrap();
    println!("one direction: {:.0} MB/s", 524.3 / start.elapsed().as_secs_f64());
}

#[test]
fn a_silent_peer_is_lost_within_seconds() {
    let files = Files::new();
    let mut nodes = nodes(&files, |_| {});
    let [(mut p0, _), _p1, (mut p2, _)] = open(&nodes, spec(6));
    nodes[1].freeze();
    let start = Instant::now();
    let blocked = [
        thread::spawn(move || {
            loop {
                if let Err(error) = p0.send(Role::P1, vec![0; 4 * MIB]) {
                    return error;
                }
            }
        }),
        thread::spawn(move || p2.recv(Role::P1).unwrap_err()),
    ];
    for thread in blocked {
        let error = thread.join().unwrap();
        assert!(matches!(&error, NetError::Lost { peer: Role::P1, .. }), "{error}");
        println!("{error} (after {:.1} s)", start.elapsed().as_secs_f64());
    }
    assert!(start.elapsed() < Duration::from_secs(6));
}

#[test]
fn an_abort_carries_its_reason_to_everyone_at_once() {
    let files = Files::new();
    let nodes = nodes(&files, |_| {});
    let [(mut p0, _), (mut p1, _), (mut p2, _)] = open(&nodes, spec(7));
    let start = Instant::now();
    let p2_waits = thread::spawn(move || p2.recv(Role::P1).unwrap_err());
    let p0_waits = thread::spawn(move || {
        loop {
            if let Err(error) = p0.send(Role::P2, vec![0; MIB]) {
                return error;
            }
        }
    });
    thread::sleep(Duration::from_millis(50));
    p1.abort("layer 3: shapes differ");
    let own = p1.recv(Role::P2).unwrap_err();
    for error in [own, p2_waits.join().unwrap(), p0_waits.join().unwrap()] {
        assert!(
            matches!(&error, NetError::Lost { peer: Role::P1, reason } if reason.contains("layer 3: shapes differ")),
            "{error}"
        );
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    // A panic in a worker aborts as well.
    let [_p0, (p1, _), (mut p2, _)] = open(&nodes, spec(8));
    let _ = thread::spawn(move || {
        let _held = p1;
        panic!("a bug (this panic belongs to the test)");
    })
    .join();
    let error = p2.recv(Role::P1).unwrap_err();
    assert!(error.to_string().contains("its worker failed"), "{error}");
}

#[test]
fn parties_that_disagree_or_come_late_say_so() {
    let files = Files::new();
    let nodes = nodes(&files, |config| config.limits.rendezvous_seconds = 1);
    let other = parties::transport::SessionSpec { program: Digest([2; 32]), ..spec(9) };
    let answers = [nodes[0].ask(spec(9)), nodes[1].ask(spec(9)), nodes[2].ask(other)];
    let [p0, p1, p2] = answers.map(|answer| answer.recv().unwrap());
    for result in [p1.map(drop), p2.map(drop)] {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("disagree on the model's digest") && text.contains("0101"), "{text}");
    }
    // The dealer learns it too.
    if let Ok((mut links, _)) = p0 {
        let start = Instant::now();
        let error = loop {
            if let Err(error) = links.send(Role::P1, vec![0; 1000]) {
                break error;
            }
        };
        assert!(error.to_string().contains("disagree"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    // One party late, but in time.
    let early = [nodes[0].ask(spec(10)), nodes[1].ask(spec(10))];
    thread::sleep(Duration::from_millis(500));
    let late = nodes[2].ask(spec(10));
    for answer in early.into_iter().chain([late]) {
        answer.recv().unwrap().unwrap();
    }

    // One party too late: the others have given up, and it learns that.
    let early = [nodes[0].ask(spec(11)), nodes[1].ask(spec(11))];
    let [_p0, p1] = early.map(|answer| answer.recv().unwrap());
    let text = p1.unwrap_err().to_string();
    assert!(text.contains("P2") && text.contains("1 s"), "{text}");
    if let Ok((mut links, _)) = nodes[2].ask(spec(11)).recv().unwrap() {
        links.recv(Role::P1).unwrap_err();
    }

    // An id that is in use.
    let _open = open(&nodes, spec(12));
    let text = nodes[1].ask(spec(12)).recv().unwrap().unwrap_err().to_string();
    assert!(text.contains("already open at P1"), "{text}");
}

#[test]
fn a_party_with_another_certificate_is_refused() {
    let (files, foreign) = (Files::new(), Files::new());
    let mut imposter = files.party(1);
    let genuine = imposter.identity;
    imposter.identity = foreign.party(1).identity;
    let mut dealer = files.party(0);
    dealer.limits.rendezvous_seconds = 1;
    let (dealer, imposter) = (Node::start(dealer), Node::start(imposter));
    let text = dealer.ask(spec(1)).recv().unwrap().unwrap_err().to_string();
    assert!(text.contains("no connection from P0 to P1"), "{text}");
    drop((imposter, genuine));
}

#[test]
fn a_party_that_restarts_is_dialled_again() {
    let files = Files::new();
    let [p0, p1, p2] = nodes(&files, |_| {});
    let nodes = [p0, p1, p2];
    drop(open(&nodes, spec(1)));
    let [p0, p1, p2] = nodes;
    drop(p1);
    let nodes = [p0, Node::start(files.party(1)), p2];
    let start = Instant::now();
    drop(open(&nodes, spec(2)));
    println!("again after {:.1} s", start.elapsed().as_secs_f64());
}
