//! Configuration files: what is wrong with them, and what `cluster init` writes.

mod common;

use common::Files;
use parties::{
    cluster::ClusterConfig,
    config::{Dealing, Limits, PartyConfig, TransportSettings},
    init::init_cluster,
    ports::free_hosts,
};
use protocol::Party;
use std::{fs, path::Path};

fn edit(path: &Path, change: impl Fn(String) -> String) {
    fs::write(path, change(fs::read_to_string(path).unwrap())).unwrap();
}

/// The error for party 0's file after a change.
fn refused(change: impl Fn(String) -> String) -> String {
    let files = Files::new();
    edit(&files.paths[0], change);
    let text = PartyConfig::load(&files.paths[0]).unwrap_err().to_string();
    assert!(text.contains("party0.toml"), "{text}");
    text
}

#[test]
fn a_new_cluster_loads_and_its_secrets_are_private() {
    let files = Files::new();
    let parties = [0, 1, 2].map(|role| PartyConfig::load(&files.paths[role]).unwrap());
    let client = ClusterConfig::load(&files.paths[3]).unwrap();
    for party in &parties {
        assert_eq!(party.party.index(), parties.iter().position(|p| p.party == party.party).unwrap());
        let seen = &client.parties[party.party.index()];
        assert_eq!(seen.fingerprint, party.identity.fingerprint());
        assert_eq!(seen.x25519, party.secret.public());
        assert_eq!(party.clients[0].fingerprint, client.identity.fingerprint());
        for peer in &party.peers {
            assert_eq!(peer.x25519, parties[peer.party.index()].secret.public());
        }
        assert!(!format!("{party:?}").contains(&format!("{:02x?}", party.secret.expose())));
        assert!(format!("{party:?}").contains("redacted"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mut private = 0;
        for entry in fs::read_dir(files.paths[0].parent().unwrap()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            if name.ends_with(".key.pem") || name.ends_with(".x25519") {
                assert_eq!(mode, 0o600, "{name}");
                private += 1;
            }
        }
        assert_eq!(private, 7);
        // And a secret that others may read is refused.
        let key = files.paths[1].with_file_name("party1.x25519");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let text = PartyConfig::load(&files.paths[1]).unwrap_err().to_string();
        assert!(text.contains("identity.x25519") && text.contains("chmod 600"), "{text}");
    }
}

#[test]
fn init_overwrites_nothing_and_cleans_up() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("c");
    init_cluster(&target, &free_hosts().unwrap()).unwrap();
    let before = fs::read_to_string(target.join("party0.toml")).unwrap();
    let text = init_cluster(&target, &free_hosts().unwrap()).unwrap_err().to_string();
    assert!(text.contains("already there"), "{text}");
    assert_eq!(fs::read_to_string(target.join("party0.toml")).unwrap(), before);

    // A conflict half way: what was written before it goes away, what was there stays.
    let half = directory.path().join("half");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("party2.toml"), "mine").unwrap();
    init_cluster(&half, &free_hosts().unwrap()).unwrap_err();
    let left: Vec<_> = fs::read_dir(&half).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["party2.toml"]);

    for hosts in [vec!["127.0.0.1:1"; 2], vec!["127.0.0.1:1"; 3], vec!["a", "b", "c"]] {
        let hosts: Vec<_> = hosts.into_iter().map(str::to_owned).collect();
        let text = init_cluster(&directory.path().join("no"), &hosts).unwrap_err().to_string();
        assert!(text.contains("--hosts"), "{text}");
    }
    assert!(!directory.path().join("no").exists());
}

#[test]
fn errors_name_the_file_the_key_and_the_remedy() {
    let text = refused(|t| t.replace("[limits]", "[limits]\nmax_sesions = 3"));
    assert!(text.contains("max_sesions") && text.contains("--print-defaults"), "{text}");
    let text = refused(|t| t.replace("role = 2", "role = 1"));
    assert!(text.contains("role 1 appears twice"), "{text}");
    let text = refused(|t| t.replace("role = 2", "role = 0"));
    assert!(text.contains("this party's own"), "{text}");
    let text = refused(|t| t.replace("role = 2", "role = 7"));
    assert!(text.contains("7 is no role"), "{text}");
    let text = refused(|t| {
        let second = t.find("[[parties]]\nrole = 2").unwrap();
        let end = t.find("[[clients]]").unwrap();
        format!("{}{}", &t[..second], &t[end..])
    });
    assert!(text.contains("role 2 is missing") && text.contains("[[parties]]"), "{text}");
    let text = refused(|t| {
        let addresses: Vec<_> = t.lines().filter(|l| l.starts_with("address")).map(str::to_owned).collect();
        t.replace(&addresses[1], &addresses[0])
    });
    assert!(text.contains("appears twice") && text.contains("address"), "{text}");
    let text = refused(|t| t.replace("fingerprint = \"", "fingerprint = \"xyz"));
    assert!(text.contains("fingerprint") && text.contains("64 hex digits"), "{text}");
    let text = refused(|t| t.replace("party0.x25519", "nowhere"));
    assert!(text.contains("identity.x25519") && text.contains("nowhere"), "{text}");
    let text = refused(|t| t.replace("party0.key.pem", "party1.key.pem"));
    assert!(text.contains("identity") && text.contains("belongs to it"), "{text}");
    let text = refused(|t| t.replace("party0.key.pem", "party0.x25519"));
    assert!(text.contains("no private key"), "{text}");
    let text = refused(|t| t.replace("[limits]", "[transport]\nmtu = 100\n[limits]"));
    assert!(text.contains("transport.mtu"), "{text}");
    let text = refused(|t| t.replace("permissions = [\"ask\"", "permissions = [\"rule\""));
    assert!(text.contains("rule") && text.contains("ask"), "{text}");
    let missing = PartyConfig::load(Path::new("/nowhere/party.toml")).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/party.toml") && missing.contains("cluster init"), "{missing}");

    let files = Files::new();
    edit(&files.paths[3], |t| t.replace("role = 2", "role = 1"));
    let text = ClusterConfig::load(&files.paths[3]).unwrap_err().to_string();
    assert!(text.contains("client.toml") && text.contains("role 1 appears twice"), "{text}");
}

#[test]
fn who_deals_is_one_party_or_one_after_the_other() {
    let with = |dealer: &str| {
        let files = Files::new();
        edit(&files.paths[0], |t| t.replace("[limits]", &format!("[limits]\ndealer = {dealer}")));
        PartyConfig::load(&files.paths[0]).map(|c| c.limits.dealer).map_err(|e| e.to_string())
    };
    assert_eq!(with("\"rotate\""), Ok(Dealing::Rotate));
    for party in Party::ALL {
        assert_eq!(with(&party.index().to_string()), Ok(Dealing::Only(party)));
    }
    for wrong in ["3", "-1", "\"0\"", "\"\"", "true", "[0]"] {
        let text = with(wrong).unwrap_err();
        assert!(text.contains("party0.toml") && text.contains("\"rotate\", 0, 1 or 2"), "{wrong}: {text}");
    }
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    let files = Files::new();
    let defaults = PartyConfig::defaults_toml();
    let directory = files.paths[0].parent().unwrap();
    let path = directory.join("defaults.toml");
    fs::write(&path, defaults).unwrap();
    let config = PartyConfig::load(&path).unwrap();
    let models = directory.join("models");
    assert_eq!(config.limits, Limits { model_directory: models, ..Limits::default() });
    assert_eq!(config.transport, TransportSettings::default());
}

#[test]
fn identities_may_be_inline() {
    let files = Files::new();
    let directory = files.paths[3].parent().unwrap().to_owned();
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let (certificate, key) = (read("client.cert.pem"), read("client.key.pem"));
    edit(&files.paths[3], |t| {
        t.replace("certificate = \"client.cert.pem\"", &format!("certificate_pem = '''{certificate}'''"))
            .replace("key = \"client.key.pem\"", &format!("key_pem = '''{key}'''"))
    });
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let text = ClusterConfig::load(&files.paths[3]).unwrap_err().to_string();
        assert!(text.contains("chmod 600"), "{text}");
        fs::set_permissions(&files.paths[3], fs::Permissions::from_mode(0o600)).unwrap();
    }
    ClusterConfig::load(&files.paths[3]).unwrap();
}
