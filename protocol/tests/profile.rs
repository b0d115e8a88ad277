//! Where time goes: accounts are complete, agree with the ledger, and change nothing.

use kernels::Words;
use protocol::gates::table::{Table, TableSpec, gelu};
use protocol::gates::{lut, product, truncate};
use protocol::profile::{Mark, Part, Profile, summarise};
use protocol::testing::{Outcome, World};
use protocol::{Cx, Ledger, Role, Shape, Share, join};

const F: u32 = 18;
const N: usize = 3000;

/// A look-up beside a product and its truncation: three exchanges, two of them shared.
async fn program(cx: Cx<'_>, x: Share, table: Table) -> protocol::Result<(Share, Share)> {
    let (a, b) = (cx.scope("side/a"), cx.scope("side/b"));
    let product = async { truncate::truncate(&a, product::multiply(&a, &x, &x)?, F).await };
    let (y, z) = join(product, lut::lookup(&b, &x, &table, F)).await?;
    Ok((product::reshare(&cx.scope("last"), product::halves(&cx, &y)).await?, z))
}

fn run(w: &World) -> Outcome<(Share, Share)> {
    let x: Vec<u64> = (0..N as u64).map(|i| i * 97).collect();
    let table = Table::new(w.device(), TableSpec::symmetric(4, 7, F, 12), gelu);
    w.run(w.share(&x, Shape::new(N, 1), F, 1), move |cx, x| Box::pin(program(cx, x, table.clone())))
}

fn profiled() -> ([Profile; 3], Ledger) {
    let o = run(&World::new(7).profiled());
    (o.profiles.expect("recorded"), o.ledger)
}

#[test]
fn every_nanosecond_belongs_to_one_operation_and_part() {
    let (profiles, _) = profiled();
    for p in &profiles {
        assert!(p.is_sound());
        assert_eq!(p.marks[0].at, 0);
        assert_eq!(p.spans().map(|(m, end)| end - m.at).sum::<u64>(), p.wall);
    }
    for depth in [0, 1, 2] {
        let rows = summarise(&profiles, |name| name.split('/').take(depth).collect::<Vec<_>>().join("/"));
        for (role, p) in Role::ALL.into_iter().zip(&profiles) {
            assert_eq!(rows.iter().map(|(_, r)| r.total(role)).sum::<u64>(), p.wall, "{role}");
        }
    }
}

#[test]
fn bytes_and_exchanges_are_the_ledgers() {
    let (profiles, ledger) = profiled();
    let rows = summarise(&profiles, |name| name.split('/').take(2).collect::<Vec<_>>().join("/"));
    let mut sent = [[0; 3]; 3];
    for (_, row) in &rows {
        sent.iter_mut().flatten().zip(row.cost.sent.iter().flatten()).for_each(|(a, b)| *a += b);
    }
    assert_eq!(sent, ledger.sent);
    let exchanges = |name: &str| rows.iter().find(|(n, _)| n == name).expect("a scope").1.cost.exchanges;
    assert_eq!((exchanges("side/a"), exchanges("last/reshare")), (2, 1));
    let [(_, all)] = &summarise(&profiles, |_| "all".into())[..] else { panic!("one group") };
    assert_eq!((all.cost.exchanges, all.cost.sent), (ledger.exchanges, ledger.sent));
    assert_eq!(profiles[1].rounds.len() as u64, ledger.exchanges);
}

/// Each party does what its role does, and the wait of a shared exchange is shared.
#[test]
fn parts_are_those_of_the_role() {
    let (profiles, _) = profiled();
    let [(_, all)] = &summarise(&profiles, |_| "all".into())[..] else { panic!("one group") };
    let spent = |role: Role, part: Part| all.times[role.index()][part as usize] > 0;
    for role in Role::ALL {
        assert!(spent(role, Part::Compute) && spent(role, Part::Streams) && spent(role, Part::Packing));
        assert_eq!(spent(role, Part::Peer), role != Role::Dealer, "{role}");
        assert_eq!(spent(role, Part::Pressure), role == Role::Dealer, "{role}");
    }
    assert!(spent(Role::P2, Part::Dealer));
    let waits = summarise(&profiles, |name| name.split('/').take(2).collect::<Vec<_>>().join("/"));
    let wait = |name: &str| waits.iter().find(|(n, _)| n == name).unwrap().1.times[1][Part::Peer as usize];
    assert!(wait("side/a") > 0 && wait("side/b") > 0);
    let shared = &profiles[1].rounds[0].openings;
    assert_eq!(shared.len(), 2, "{shared:?}");
}

#[test]
fn recording_changes_no_value_and_no_cost() {
    let (off, on) = (run(&World::new(7).recorded()), run(&World::new(7).recorded().profiled()));
    assert!(off.profiles.is_none());
    assert_eq!(off.ledger, on.ledger);
    let words = |o: &Outcome<(Share, Share)>| -> Vec<Vec<u64>> {
        let halves = |(a, b): &(Share, Share)| [&a.lambda, &b.lambda].map(Words::to_vec);
        o.results.iter().flat_map(halves).collect()
    };
    assert_eq!(words(&off), words(&on));
    let values = |o: &Outcome<_>| o.sent.iter().flatten().map(|s| s.values.clone()).collect::<Vec<_>>();
    assert_eq!(values(&off), values(&on));
}

#[test]
fn accounts_that_make_no_sense_are_told_from_sound_ones() {
    let (profiles, _) = profiled();
    let broken: [fn(&mut Profile); 5] = [
        |p| p.marks[3].at = p.wall + 1,
        |p| p.marks[1].scope = 1000,
        |p| p.marks.retain(|m| m.scope != Mark::EXCHANGE),
        |p| p.rounds[0].openings.clear(),
        |p| p.rounds[0].openings[0].0 = 1000,
    ];
    for (i, breaks) in broken.into_iter().enumerate() {
        let mut p = profiles[1].clone();
        assert!(p.is_sound());
        breaks(&mut p);
        assert!(!p.is_sound(), "{i}");
    }
}
