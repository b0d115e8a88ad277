//! Parties that die in the middle of an answer.

use crate::cluster::Cluster;
use std::time::{Duration, Instant};

#[test]
fn a_killed_party_is_named_and_missed_and_welcomed_back() {
    let mut cluster = Cluster::with_model();
    let answer = cluster.answer("Again", 8);
    for victim in [2, 0, 1] {
        let mut asking = cluster.asking("A long story", 1900, &[]);
        asking.until("an answer", 30, |p| p.out().len() > 20);
        cluster.kill(victim);
        let killed = Instant::now();
        let name = format!("P{victim}");
        asking.end(12).refused(&[&name]);
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(8), "{took:?}");
        println!("{name} missed after {:.1} s", took.as_secs_f64());
        for other in [0, 1, 2].into_iter().filter(|&role| role != victim) {
            let party = cluster.party(other);
            party.until("the loss", 10, |p| p.err().contains(&format!("lost {name}")));
        }
        // While it is away, the others say so.
        let start = Instant::now();
        cluster.ask("Anyone?", 4).refused(&["cannot reach", &name, "see that it runs"]);
        assert!(start.elapsed() < Duration::from_secs(8));
        cluster.start(victim);
        assert_eq!(cluster.answer("Again", 8), answer, "after {name} has come back");
    }
    cluster.finish();
}

#[test]
fn a_client_that_dies_leaves_no_session_behind() {
    let mut cluster = Cluster::new();
    for role in 0..3 {
        cluster.edit(role, |text| text.replace("[limits]", "[limits]\nmax_sessions = 1"));
        cluster.start(role);
    }
    cluster.share(1, "tiny", &[]).fine();
    let mut asking = cluster.asking("A long story", 1900, &[]);
    asking.until("an answer", 30, |p| p.out().len() > 20);
    cluster.ask("Me too", 4).refused(&["has 1 sessions open", "try again later", "limits.max_sessions"]);
    asking.kill();
    let start = Instant::now();
    while cluster.ask("Me too", 4).code != Some(0) {
        assert!(start.elapsed() < Duration::from_secs(10), "the session is still held");
    }
    cluster.finish();
}
