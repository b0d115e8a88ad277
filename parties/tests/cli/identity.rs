//! Wrong certificates, wrong keys, swapped roles.

use crate::{cluster::Cluster, common::Files};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// Puts files of another cluster in place of a cluster's own.
fn replace(cluster: &Cluster, foreign: &Files, names: &[&str]) {
    for name in names {
        let at = |files: &Files| files.paths[0].with_file_name(name);
        fs::copy(at(foreign), at(&cluster.files)).unwrap();
    }
}

/// Swaps two words of a text.
fn swap(text: String, a: &str, b: &str) -> String {
    text.replace(a, "\0").replace(b, a).replace('\0', b)
}

#[test]
fn a_client_that_is_not_listed_is_told_what_to_do() {
    let cluster = Cluster::started();
    replace(&cluster, &Files::new(), &["client.cert.pem", "client.key.pem"]);
    let own = cluster.files.client().identity.fingerprint().to_string();
    let words = ["does not know this client's certificate", "[[clients]]", &own];
    cluster.ask("Hello", 4).refused(&words);
    cluster.share(1, "tiny", &[]).refused(&words);
    cluster.finish();
}

#[test]
fn a_client_may_only_what_it_is_allowed() {
    let mut cluster = Cluster::new();
    cluster.edit(2, |text| text.replace("[\"ask\", \"share-model\"]", "[]"));
    (0..3).for_each(|role| cluster.start(role));
    cluster.share(1, "tiny", &[]).refused(&["may not store models at P2", "[[clients]]"]);
    // Parties that had begun to store it take it back once the client is gone.
    let start = Instant::now();
    while (0..3).any(|role| !cluster.stored(role).is_empty()) {
        assert!(start.elapsed() < Duration::from_secs(5), "what was begun stays");
        thread::sleep(Duration::from_millis(10));
    }
    cluster.finish();
}

#[test]
fn a_party_with_another_certificate_is_refused_by_everyone() {
    let mut cluster = Cluster::with_model();
    cluster.stop(1);
    replace(&cluster, &Files::new(), &["party1.cert.pem", "party1.key.pem"]);
    cluster.start(1);
    let ended = cluster.ask("Hello", 4).refused(&["P1", "is not the one pinned", "compare fingerprints"]);
    assert!(ended.took < Duration::from_secs(8));
    // The other parties do not talk to it either.
    for role in [0, 2] {
        let party = cluster.party(role);
        party.until("a refusal", 10, |p| {
            let log = p.err();
            log.contains("pinned") || log.contains("refused") || log.contains("does not know")
        });
    }
    cluster.finish();
}

#[test]
fn swapped_parties_in_the_client_s_file() {
    let cluster = Cluster::with_model();
    let [one, two] = [1, 2].map(|role| cluster.files.party(role));
    let (a, b) = (one.listen.to_string(), two.listen.to_string());
    cluster.edit(3, |text| swap(text, &a, &b));
    cluster.ask("Hello", 4).refused(&["is not the one pinned", "compare fingerprints"]);
    cluster.edit(3, |text| swap(text, &a, &b));
    // The sealed input of one party can only be opened by it.
    let (a, b) = (one.secret.public().to_string(), two.secret.public().to_string());
    cluster.edit(3, |text| swap(text, &a, &b));
    cluster.ask("Hello", 4).refused(&["P", "cluster file has this party's key"]);
    cluster.edit(3, |text| swap(text, &a, &b));
    cluster.answer("Hello", 4);
    cluster.finish();
}

#[test]
fn swapped_parties_in_a_party_s_file() {
    let mut cluster = Cluster::new();
    let [one, two] = [1, 2].map(|role| cluster.files.party(role).listen.to_string());
    cluster.edit(0, |text| swap(text, &one, &two));
    (0..3).for_each(|role| cluster.start(role));
    cluster.share(1, "tiny", &[]).fine();
    let ended = cluster.ask("Hello", 4).refused(&["P0", "see that"]);
    assert!(ended.took < Duration::from_secs(8));
    cluster.party(0).until("the reason", 10, |p| p.err().contains("pinned"));
    cluster.finish();
}
