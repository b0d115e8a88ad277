//! `catamount demo`, with the tiny model and with the real one.

use crate::{
    cluster::catamount,
    gguf::default_model,
    process::{Process, exists, run, signal},
    tiny,
};
use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// A demo whose temporary files lie in `directory`.
fn demo(directory: &Path) -> Command {
    let mut command = catamount();
    command.arg("demo").env("TMPDIR", directory);
    command
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn figures_are_one_object_and_cost_what_was_declared() {
    let (models, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = tiny::write(models.path(), "tiny", 1);
    let arguments = ["--prompt", "Hello", "--max-tokens", "12", "--json", "-", "--model"];
    let ended = run(demo(temporary.path()).args(arguments).arg(&model)).fine();
    let figures = ended.json();
    assert_eq!(figures["agree"], true, "{figures}");
    assert_eq!(figures["private_text"], figures["plaintext_text"]);
    assert_eq!(figures["private_text"].as_str().unwrap().len(), 12);
    assert_eq!((&figures["tokens"], &figures["prompt_tokens"]), (&12.into(), &5.into()));
    for positive in ["first_token_s", "tokens_per_s", "exchanges_per_layer", "sharing_s"] {
        assert!(figures[positive].as_f64().unwrap() > 0.0, "{positive}: {figures}");
    }
    assert!(figures["max_logit_error"].as_f64().unwrap() < 0.05, "{figures}");
    for party in ["P0", "P1", "P2"] {
        let rss = figures["peak_rss_bytes"][party].as_u64().unwrap();
        assert!((1 << 20..1 << 30).contains(&rss), "{party}: {rss}");
        assert!(!figures["seen_of_the_prompt"][party].as_array().unwrap().is_empty());
    }

    // The plaintext cost says the same before anything has run.
    let arguments = ["cost", "--prompt-tokens", "5", "--new-tokens", "12", "--json", "-", "--model"];
    let cost = run(catamount().args(arguments).arg(&model)).fine().json();
    let layer = figures["exchanges_per_layer"].as_f64().unwrap();
    let dearest = cost["exchanges_per_layer"].as_f64().unwrap();
    assert!(
        layer <= dearest && dearest <= 40.0,
        "{layer} measured, {dearest} declared for the dearest layer"
    );
    assert_eq!(figures["exchanges"], cost["all_tokens"]["exchanges"]);
    assert_eq!(figures["bytes"], cost["all_tokens"]["bytes"]);
    assert_eq!(figures["first_token_bytes"], cost["first_token"]["bytes"]);
    assert_eq!(figures["bytes"].as_object().unwrap().len(), 4);

    // For people: the answer and the figures, on standard output, and the figures in a file.
    let file = models.path().join("figures.json");
    let arguments = ["--prompt", "Hello", "--max-tokens", "3", "--json"];
    let ended = run(demo(temporary.path()).args(arguments).arg(&file).arg("--model").arg(&model)).fine();
    for words in ["private answer: ", "plaintext answer: ", "the two agree", "what each party saw"] {
        assert!(ended.out.contains(words), "{words} is missing from {}", ended.out);
    }
    let figures: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(figures["tokens"], 3);
    assert!(is_empty(temporary.path()), "a demo leaves nothing behind");
}

#[test]
fn speculation_is_shown_beside_the_ordinary_run() {
    let (models, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = tiny::write(models.path(), "tiny", 1);
    let file = models.path().join("figures.json");
    let mut command = demo(temporary.path());
    command.args(["--prompt", "Hello", "--max-tokens", "12", "--speculate", "4", "--draft"]).arg(&model);
    let ended = run(command.arg("--json").arg(&file).arg("--model").arg(&model)).fine();
    let figures: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(figures["agree"], true, "{figures}");
    let (ordinary, speculative) = (&figures["ordinary"], &figures["speculative"]);
    assert_eq!((&ordinary["tokens"], &speculative["tokens"]), (&12.into(), &12.into()));
    // The draft is the model itself.
    assert_eq!(ordinary["gains"], serde_json::json!([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]));
    assert_eq!(speculative["gains"], serde_json::json!([5, 5, 1]));
    // The same exchanges a pass.
    let exchanges = |f: &serde_json::Value| f["exchanges"].as_u64().unwrap();
    assert_eq!(exchanges(ordinary) / 12, exchanges(speculative) / 4);
    let layer = figures["exchanges_per_layer"].as_f64().unwrap();
    assert!(layer > 30.0 && layer <= 40.0, "{layer}");
    for words in
        ["the same by speculation: ", "by speculation, ", "the parties know how many each gave: 5 5 1"]
    {
        assert!(ended.out.contains(words), "{words} is missing from {}", ended.out);
    }

    // The declared cost of such a pass.
    let arguments = ["cost", "--prompt-tokens", "5", "--speculate", "4", "--json", "-", "--model"];
    let cost = run(catamount().args(arguments).arg(&model)).fine().json();
    assert_eq!(cost["speculative_pass"]["exchanges"], cost["first_token"]["exchanges"]);
}

/// A demo that generates for long, and its parties.
fn long(directory: &Path, model: &Path) -> (Process, Vec<u32>) {
    let mut command = demo(directory);
    command.args(["--max-tokens", "1900", "--model"]).arg(model).process_group(0);
    let mut process = Process::start(&mut command);
    process
        .until("an answer", 30, |p| p.out().split("private answer: ").nth(1).is_some_and(|t| !t.is_empty()));
    let out = process.out();
    let list = out.lines().find_map(|l| l.strip_prefix("three party processes are running: ")).unwrap();
    let parties: Vec<u32> = list.split(", ").map(|n| n.parse().unwrap()).collect();
    assert!(parties.len() == 3 && parties.iter().all(|&p| exists(p)));
    (process, parties)
}

fn gone(parties: &[u32], seconds: u64) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while parties.iter().any(|&p| exists(p)) {
        assert!(Instant::now() < end, "parties are left over");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn whatever_ends_a_demo_ends_its_parties() {
    let (models, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = tiny::write(models.path(), "tiny", 1);
    for name in ["INT", "TERM"] {
        let (process, parties) = long(temporary.path(), &model);
        signal(name, i64::from(process.id()));
        process.end(5).refused(&["interrupted", "the three parties have been ended"]);
        gone(&parties, 0);
        assert!(is_empty(temporary.path()), "{name}");
    }
    // Ctrl-C in a terminal goes to all four.
    let (process, parties) = long(temporary.path(), &model);
    signal("INT", -i64::from(process.id()));
    process.end(5).refused(&["interrupted"]);
    gone(&parties, 0);
    assert!(is_empty(temporary.path()));
    // No chance to clean up: the parties see that they are alone.
    let (mut process, parties) = long(temporary.path(), &model);
    process.kill();
    gone(&parties, 5);
    // A party that dies is named.
    let (process, parties) = long(temporary.path(), &model);
    signal("KILL", i64::from(parties[1]));
    process.end(12).refused(&["P1", "signal: 9"]);
    gone(&parties, 0);
}

/// With the real model; skipped, loudly, where it cannot be had.
#[test]
fn the_real_model_answers_privately() {
    let Some(model) = default_model("the_real_model_answers_privately") else { return };
    let prompt = "What is the capital of France?";
    let mut command = catamount();
    command.args(["demo", "--prompt", prompt, "--max-tokens", "12", "--json", "-", "--model"]).arg(model);
    let figures = Process::start(&mut command).end(280).fine().json();
    println!("{figures:#}");
    assert_eq!(figures["agree"], true);
    assert_eq!(figures["private_text"], figures["plaintext_text"]);
    assert!(figures["private_text"].as_str().unwrap().contains("Paris"), "{figures}");
    assert!(figures["max_logit_error"].as_f64().unwrap() <= 0.05, "{figures}");
    assert!(figures["exchanges_per_layer"].as_f64().unwrap() <= 40.0, "{figures}");
    let rss = |party: &str| figures["peak_rss_bytes"][party].as_u64().unwrap();
    assert!(rss("P0") + rss("P1") + rss("P2") < 12_000_000_000, "{figures}");
}
