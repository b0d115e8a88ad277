//! Shares of models on the parties' disks: replaced, mixed up, damaged, and no room for them.

use crate::cluster::Cluster;
use std::{fs, os::unix::fs::symlink};

#[test]
fn a_name_is_taken_until_it_is_replaced() {
    let cluster = Cluster::with_model();
    let first = cluster.answer("Which one?", 16);
    cluster.share(2, "tiny", &[]).refused(&["already has a model \"tiny\"", "--replace", "--name"]);
    assert_eq!(cluster.answer("Which one?", 16), first, "the refused model changes nothing");
    let figures = cluster.share(2, "tiny", &["--replace", "--json", "-"]).fine().json();
    assert_eq!((&figures["name"], figures["digest"].as_str().unwrap().len()), (&"tiny".into(), 64));
    assert_ne!(cluster.answer("Which one?", 16), first);
    // There need not be one to replace.
    cluster.share(1, "other", &["--replace"]).fine();
    for role in 0..3 {
        assert_eq!(cluster.stored(role), ["other.share", "tiny.share"]);
    }
    cluster.finish();
}

#[test]
fn another_model_at_one_party_is_noticed_and_can_be_replaced() {
    let mut cluster = Cluster::with_model();
    // The same weights, shared once more: shares of the two do not fit together.
    cluster.share(1, "twin", &[]).fine();
    cluster.stop(1);
    fs::copy(cluster.share_file(1, "twin.share"), cluster.share_file(1, "tiny.share")).unwrap();
    cluster.start(1);
    cluster.ask("Hello", 4).refused(&["disagree on model tiny", "P0", "P1", "share"]);
    let twin = cluster.files.directory.path().join("seed1.gguf");
    cluster.share_path(&twin, "tiny", &[]).refused(&["--replace"]);
    cluster.share_path(&twin, "tiny", &["--replace"]).fine();
    cluster.answer("Hello", 4);

    // And a model that one party has lost.
    cluster.stop(2);
    fs::remove_file(cluster.share_file(2, "tiny.share")).unwrap();
    cluster.start(2);
    cluster.ask("Hello", 4).refused(&["P2 has no model \"tiny\": it has twin", "share it"]);
    cluster.share_path(&twin, "tiny", &["--replace"]).fine();
    cluster.answer("Hello", 4);
    cluster.finish();
}

#[test]
fn a_damaged_share_is_reported_and_left_out() {
    let mut cluster = Cluster::with_model();
    let sound = fs::read(cluster.share_file(1, "tiny.share")).unwrap();
    cluster.stop(1);
    let flip = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damaged = [
        ("short", sound[..sound.len() - 1].to_vec()),
        ("half", sound[..sound.len() / 2].to_vec()),
        ("long", [&sound[..], b"more"].concat()),
        ("empty", vec![]),
        ("magic", flip(3)),
        ("length", flip(22)),
        ("description", flip(60)),
        ("values", flip(sound.len() - 1000)),
        ("noise", sound.iter().map(|b| b.wrapping_mul(31) ^ 0x5a).collect()),
    ];
    for (name, bytes) in &damaged {
        fs::write(cluster.share_file(1, &format!("{name}.share")), bytes).unwrap();
    }
    // What an upload that was cut off by a power failure has left.
    fs::write(cluster.share_file(1, "cut.partial"), &sound[..1000]).unwrap();
    cluster.start(1);
    let log = cluster.party(1).err();
    for (name, _) in &damaged {
        let line = log.lines().find(|l| l.contains(&format!("{name}.share"))).unwrap_or_else(|| {
            panic!("nothing is said of {name}: {log}");
        });
        assert!(line.contains("is damaged") && line.contains("share the model again"), "{line}");
    }
    assert!(!cluster.stored(1).contains(&"cut.partial".to_string()));
    cluster.answer("Hello", 4);
    // A new share takes the place of a damaged one.
    cluster.share(1, "half", &[]).fine();
    cluster.finish();
}

#[test]
fn a_full_disk_leaves_nothing_and_the_next_try_works() {
    let mut cluster = Cluster::started();
    for role in 0..3 {
        // Whatever is written there finds no room.
        symlink("/dev/full", cluster.share_file(role, "tiny.partial")).unwrap();
        let remedy = "make room there or choose another limits.model_directory";
        let party = format!("P{role} cannot write");
        cluster.share(1, "tiny", &[]).refused(&[&party, "tiny.", "No space left", remedy]);
        for role in 0..3 {
            let party = cluster.party(role);
            party.until("a clean end", 5, |_| true);
            assert!(cluster.stored(role).is_empty(), "P{role}: {:?}", cluster.stored(role));
        }
        cluster.ask("Hello", 4).refused(&["has no model \"tiny\": it has none", "share it first"]);
    }
    cluster.share(1, "tiny", &[]).fine();
    cluster.answer("Hello", 4);
    cluster.finish();
}

#[test]
fn a_model_directory_that_cannot_be_one() {
    let cluster = Cluster::new();
    cluster.edit(0, |text| text.replace("\"models0\"", "\"party0.toml\""));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_party"));
    let ended = crate::process::run(command.arg("--config").arg(&cluster.files.paths[0]));
    ended.refused(&["party0.toml", "limits.model_directory"]);
}
