//! Real processes.

mod common;

use common::Files;
use parties::client::Client;
use std::{
    io::Read as _,
    net::UdpSocket,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn party(files: &Files, role: usize) -> Killed {
    let child = Command::new(env!("CARGO_BIN_EXE_party"))
        .arg("--config")
        .arg(&files.paths[role])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Killed(child)
}

fn errors(mut child: Killed) -> (Option<i32>, String) {
    let mut text = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.0.wait().unwrap().code(), text)
}

#[test]
fn three_processes_serve_and_stop() {
    let files = Files::new();
    let parties = [0, 1, 2].map(|role| party(&files, role));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&files.client()).await.unwrap();
        assert!(client.list_models().await.unwrap().is_empty());
        let error = client.model_info("gpt2").await.unwrap_err().to_string();
        assert!(error.contains("gpt2"), "{error}");
    });
    #[cfg(unix)]
    for child in parties {
        let start = Instant::now();
        assert!(Command::new("kill").arg(child.0.id().to_string()).status().unwrap().success());
        let (code, text) = errors(child);
        assert_eq!(code, Some(0), "{text}");
        assert!(start.elapsed() < Duration::from_secs(6), "{text}");
    }
    #[cfg(not(unix))]
    let _ = (parties, Instant::now(), Duration::ZERO);
}

#[test]
fn a_taken_port_and_a_wrong_file_are_explained() {
    let files = Files::new();
    let _taken = UdpSocket::bind(files.party(0).listen).unwrap();
    let (code, text) = errors(party(&files, 0));
    assert_eq!(code, Some(1));
    assert!(text.contains("in use") && text.contains("`listen`"), "{text}");

    std::fs::write(&files.paths[1], "roll = 1").unwrap();
    let (code, text) = errors(party(&files, 1));
    assert_eq!(code, Some(1));
    assert!(text.contains("party1.toml") && text.contains("roll"), "{text}");
}

#[test]
fn the_command_line_makes_a_cluster_and_prints_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("cluster");
    let init = || {
        Command::new(env!("CARGO_BIN_EXE_catamount")).args(["cluster", "init"]).arg(&target).output().unwrap()
    };
    let first = init();
    assert!(first.status.success());
    assert!(String::from_utf8(first.stdout).unwrap().contains("client.toml"));
    assert!(target.join("party2.toml").exists());
    let second = init();
    assert!(!second.status.success());
    assert!(String::from_utf8(second.stderr).unwrap().contains("already there"));

    let defaults = Command::new(env!("CARGO_BIN_EXE_party")).arg("--print-defaults").output().unwrap();
    assert!(String::from_utf8(defaults.stdout).unwrap().contains("max_context_tokens = 4096"));
}
