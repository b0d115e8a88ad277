//! Simulated networks and the comparison with a peer, as people start them.

use crate::{process::run, tiny};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

fn catamount() -> Command {
    Command::new(env!("CARGO_BIN_EXE_catamount"))
}

fn demo(model: &Path, network: Option<&str>) -> serde_json::Value {
    let mut command = catamount();
    command
        .args(["demo", "--raw", "--prompt", "ab", "--max-tokens", "2", "--json", "-", "--model"])
        .arg(model);
    command.args(network.map(|network| ["--network", network]).into_iter().flatten());
    let ended = run(&mut command).fine();
    if network.is_some() {
        assert!(ended.err.contains("measured: ping"), "{}", ended.err);
    }
    ended.json()
}

#[test]
fn a_network_between_the_parties_changes_the_time_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let model = tiny::write(directory.path(), "tiny", 5);
    let near = demo(&model, None);
    let far = demo(&model, Some("100Mbps,5ms"));
    assert_eq!(near["agree"], true);
    for same in ["agree", "private_text", "exchanges", "bytes"] {
        assert_eq!(near[same], far[same], "{same}");
    }
    // Every exchange waits for one way; the second token's time is within the rate's.
    let exchanges = far["exchanges"].as_f64().unwrap();
    let seconds = far["first_token_s"].as_f64().unwrap() + 1.0 / far["tokens_per_s"].as_f64().unwrap();
    println!("{exchanges} exchanges of 5 ms: {seconds} s");
    assert!(exchanges > 50.0 && seconds >= exchanges * 5e-3, "{exchanges} exchanges in {seconds} s");
    let network = &far["network"];
    assert!(network["measured"]["ping_median_s"].as_f64().unwrap() >= 10e-3);
    assert!(network["datagrams"].as_u64().unwrap() > 2 * exchanges as u64);
    assert!(near["network"].is_null());
}

#[test]
fn networks_that_cannot_be_are_refused() {
    for (network, words) in [
        ("fast", "is no network; write lan, wan or"),
        ("1Gbps,-1ms", "is no network"),
        ("1Gbps,9s", "latency of \"9s\" is too much"),
        ("1Gbps,1ms,99%", "loss of \"99%\" is too much"),
        ("0Mbps,1ms", "bandwidth of \"0Mbps\" is too little"),
    ] {
        for command in [&["demo"][..], &["bench", "network"], &["bench", "model", "random:gpt2"], &["cost"]] {
            run(catamount().args(command).arg(format!("--network={network}"))).refused(&[words]);
        }
    }
    run(catamount().args(["bench", "network", "--seconds", "NaN"]))
        .refused(&["--seconds NaN measures nothing"]);
}

#[test]
fn the_transport_is_measured_beside_others() {
    let ended = run(catamount().args(["bench", "network", "--seconds", "0.2", "--json", "-"])).fine();
    let figures = ended.json();
    let rows = figures["transports"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["transport"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for row in &rows[..4] {
        assert!(row["megabytes_per_second"].as_f64().unwrap() > 1.0, "{row}");
        assert!(row["cpu_s_per_gb"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["exchanges"].as_array().unwrap().len(), 2, "{row}");
    }
    for name in names {
        assert!(ended.err.contains(name), "{name} is missing from: {}", ended.err);
    }

    let far = ["bench", "network", "--seconds", "0.2", "--network", "50Mbps,4ms", "--json", "-"];
    let figures = run(catamount().args(far)).fine().json();
    for row in figures["transports"].as_array().unwrap() {
        let speed = row["megabytes_per_second"].as_f64().unwrap();
        assert!(speed > 0.0 && speed < 6.25 * 1.02, "{row}");
        for exchange in row["exchanges"].as_array().unwrap() {
            assert!(exchange["mean_us"].as_f64().unwrap() >= 4000.0, "{row}");
        }
    }
}

fn fake_python(directory: &Path, script: &str) -> PathBuf {
    let path = directory.join("python");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_peer_that_is_not_there_or_fails_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let peer = |python: &Path| {
        let mut command = catamount();
        command.args([
            "bench",
            "peer",
            "--shape",
            "bert-base",
            "--layers",
            "1",
            "--tokens",
            "2",
            "--spu-python",
        ]);
        run(command.arg(python))
    };
    peer(&directory.path().join("nowhere")).refused(&["there is no program", "nowhere"]);
    let text = directory.path().join("text");
    fs::write(&text, "no program").unwrap();
    peer(&text).refused(&["cannot start"]);
    let python =
        fake_python(directory.path(), "for i in 1 2 3 4 5 6 7 8 9; do echo line $i >&2; done; exit 3");
    let ended = peer(&python).refused(&["SPU has failed", "exit status: 3", "line 9"]);
    assert!(!ended.err.contains("line 3"), "{}", ended.err);
    peer(&fake_python(directory.path(), "echo hello; cat")).refused(&["the peer answers \"hello\""]);
    let nonsense =
        r#"echo '{"version":"1","jax":"2"}'; read x; echo '{"seconds":0,"bytes":1,"max_error":0}'; cat"#;
    peer(&fake_python(directory.path(), nonsense)).refused(&["make no sense"]);
    let mut few = catamount();
    run(few.args(["bench", "peer", "--runs", "2", "--spu-python"]).arg(&python))
        .refused(&["2 is not in 3.."]);
}

#[test]
fn a_peer_and_we_run_in_turn() {
    let directory = tempfile::tempdir().unwrap();
    // The script that it is given is the project's own; what it answers is not measured here.
    let script = r#"
        grep -q secretflow "$1" || grep -q SecretFlow "$1" || exit 9
        echo '{"ready":"bert-base","version":"0","jax":"0"}'
        while read line; do echo '{"seconds":1e6,"bytes":1000000000,"max_error":0.5}'; done"#;
    let python = fake_python(directory.path(), script);
    let mut command = catamount();
    command.args(["bench", "peer", "--shape", "bert-base", "--layers", "1", "--tokens", "2", "--json", "-"]);
    let figures = run(command.arg("--spu-python").arg(&python)).fine().json();
    let figures = &figures[0];
    assert_eq!((figures["layers"].as_u64(), figures["spu"].as_array().unwrap().len()), (Some(1), 3));
    let ours = figures["catamount"].as_array().unwrap();
    assert_eq!(ours.len(), 3);
    for run in ours {
        assert!(run["seconds"].as_f64().unwrap() > 0.0 && run["max_error"].as_f64().unwrap() < 0.05, "{run}");
        assert_eq!(run["bytes"], ours[0]["bytes"]);
    }
    let median = |side: &str, what: &str| {
        let runs = figures[side].as_array().unwrap();
        let mut all: Vec<f64> = runs.iter().map(|run| run[what].as_f64().unwrap()).collect();
        all.sort_by(f64::total_cmp);
        all[1]
    };
    for (ratio, what, (above, below)) in
        [("speed_ratio", "seconds", ("spu", "catamount")), ("bytes_ratio", "bytes", ("catamount", "spu"))]
    {
        let expected = median(above, what) / median(below, what);
        assert!((figures[ratio].as_f64().unwrap() / expected - 1.0).abs() < 1e-2, "{ratio}, not {expected}");
    }
    assert!(figures["speed_ratio"].as_f64().unwrap() > 1.0);
    assert!((0.0..1.0).contains(&figures["bytes_ratio"].as_f64().unwrap()));
}
