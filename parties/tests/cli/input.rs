//! What people give by mistake.

use crate::{
    cluster::{Cluster, catamount},
    process::run,
    tiny,
};
use parties::ports::free_hosts;
use std::{
    fs,
    io::Read as _,
    net::UdpSocket,
    path::Path,
    process::{Command, Stdio},
};

fn demo(model: &Path, more: &[&str]) -> crate::process::Ended {
    run(catamount().args(["demo", "--model"]).arg(model).args(more))
}

#[test]
fn files_that_are_no_models() {
    let directory = tempfile::tempdir().unwrap();
    let model = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let whole = tiny::gguf(1);
    let garbage: Vec<u8> = (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (path, words) in [
        (model("garbage.gguf", &garbage), &["garbage.gguf", "GGUF"][..]),
        (model("empty.gguf", b""), &["empty.gguf"]),
        (model("head.gguf", &whole[..100]), &["head.gguf"]),
        (model("half.gguf", &whole[..whole.len() / 2]), &["half.gguf"]),
        (model("short.gguf", &whole[..whole.len() - 1]), &["short.gguf"]),
        (directory.path().join("nowhere.gguf"), &["nowhere.gguf", "no file or folder"]),
        (directory.path().to_owned(), &["folder without a config.json"]),
    ] {
        for ended in [demo(&path, &[]), run(catamount().arg("cost").arg("--model").arg(&path))] {
            let ended = ended.refused(words);
            assert!(ended.err.lines().count() < 12, "{}", ended.err);
        }
    }
}

#[test]
fn questions_that_cannot_be_asked() {
    let mut cluster = Cluster::with_model();
    let long = "word ".repeat(tiny::CONTEXT / 4);
    let refused = |prompt: &str, more: &[&str], words: &[&str]| {
        cluster.asking(prompt, 4, more).end(20).refused(words);
    };
    refused("", &[], &["the prompt is empty", "write"]);
    refused(" \n\t", &[], &["the prompt is empty", "write"]);
    refused("", &["--raw"], &["the prompt is empty", "write"]);
    refused(&long, &[], &["the prompt has", "the limit is 2048", "shorten the prompt"]);
    refused("Hello", &["--temperature", "-1"], &["temperature of -1", "choose 0"]);
    refused("Hello", &["--temperature", "NaN"], &["temperature of NaN", "choose 0"]);
    refused("Hello", &["--top-p", "0"], &["top-p of 0", "choose"]);
    let by_the_parties = ["--reveal", "tokens", "--temperature", "1", "--top-p", "0.9"];
    refused("Hello", &by_the_parties, &["cannot choose tokens by top-p", "--top-k"]);
    refused("Hello", &["--reveal", "tokens", "--temperature", "0.0001"], &["temperature", "between"]);
    refused("Hello", &["--speculate", "4", "--reveal", "tokens"], &["speculative", "use `--reveal logits`"]);
    refused("Hello", &["--speculate", "4", "--temperature", "0.5"], &["speculative", "temperature at 0"]);
    refused("Hello", &["--speculate", "0"], &["0 drafted tokens", "at least 1"]);
    refused("Hello", &["--speculate", "17"], &["17 drafted tokens", "allow 16", "draft fewer"]);
    refused(
        "Hello",
        &["--speculate", "4", "--draft", "nowhere.gguf"],
        &["nowhere.gguf", "no file or folder"],
    );
    refused("Hello", &["--speculate", "4", "--draft", "random:gpt2"], &["made-up weights", "--draft"]);
    refused("Hello", &["--prompts", "/nowhere/prompts.txt"], &["/nowhere/prompts.txt", "cannot read"]);
    refused("Hello", &["--prompts", "/dev/null"], &["/dev/null has no prompts", "one on each line"]);
    refused("Hello", &[" "], &["the prompt is empty", "write"]);
    refused("Hello", &["More"; 8], &["9 prompts at once", "allow 8", "limits.max_sequences"]);
    refused("Hello", &[&long[..]], &["the prompt has", "shorten the prompt"]);
    refused("Hello", &["--json", "/nowhere/figures.json"], &["/nowhere/figures.json"]);
    cluster.ask("Hello", 0).refused(&["0 tokens", "at least 1"]);
    cluster.ask("Hello", 5000).refused(&["5000 more are asked for", "the limit is 2048"]);
    cluster.ask("Hello", usize::MAX).refused(&["are asked for", "the limit is 2048"]);
    let mut unknown = catamount();
    unknown.args(["ask", "Hello", "--model", "gpt5", "--cluster"]).arg(&cluster.files.paths[3]);
    run(&mut unknown).refused(&["has no model \"gpt5\": it has tiny", "catamount share-model"]);
    for name in ["../tiny", "", ".hidden", "a b"] {
        cluster.share(1, name, &[]).refused(&["no name for a model", "letters"]);
    }

    // Limits of one party bind all.
    cluster.stop(2);
    cluster.edit(2, |text| text.replace("[limits]", "[limits]\nmax_context_tokens = 10"));
    cluster.start(2);
    cluster.ask("Hello", 4).fine();
    cluster.ask("Hello", 6).refused(&["the limit is 10", "ask for fewer tokens"]);
    cluster.finish();
}

#[test]
fn demos_and_costs_that_cannot_be() {
    let directory = tempfile::tempdir().unwrap();
    let model = tiny::write(directory.path(), "tiny", 1);
    let long = "word ".repeat(tiny::CONTEXT / 4);
    demo(&model, &["--max-tokens", "0"]).refused(&["0 tokens", "at least 1"]);
    demo(&model, &["--prompt", " "]).refused(&["the prompt is empty"]);
    demo(&model, &["--prompt", &long]).refused(&["the limit is 2048", "shorten the prompt"]);
    demo(&model, &["--temperature", "-1"]).refused(&["temperature of -1"]);
    let cost = |more: &[&str]| run(catamount().args(["cost", "--model"]).arg(&model).args(more));
    cost(&["--prompt-tokens", "0"]).refused(&["at least 1"]);
    cost(&["--prompts", "0"]).refused(&["at least 1"]);
    cost(&["--prompt-tokens", "9999999"]).refused(&["2048", "ask for fewer"]);
    cost(&["--speculate", "9999999"]).refused(&["2048", "ask for fewer"]);
    cost(&["--network", "fast"]).refused(&["fast", "lan, wan"]);
    cost(&["--new-tokens", "-3"]).refused(&["-3"]);
}

#[test]
fn files_and_places_that_are_wrong() {
    let cluster = Cluster::new();
    let [party, client] = [0, 3].map(|i| cluster.files.paths[i].clone());
    let sound = fs::read_to_string(&client).unwrap();
    let ask =
        |cluster: &Path| run(catamount().args(["ask", "Hi", "--model", "tiny", "--cluster"]).arg(cluster));

    // Nobody is there.
    let ended = ask(&client).refused(&["cannot reach P", "see that it runs", "cluster file"]);
    assert!(ended.took.as_secs() < 8, "{:?}", ended.took);
    ask(Path::new("/nowhere/client.toml")).refused(&["/nowhere/client.toml", "catamount cluster init"]);
    cluster.edit(3, |text| text.replace("role = 2", "role = 1"));
    ask(&client).refused(&["client.toml", "role 1 appears twice", "its own role"]);
    fs::write(&client, format!("colour = 1\n{sound}")).unwrap();
    ask(&client).refused(&["client.toml", "colour", "[[parties]]"]);
    fs::write(&client, [0xff, 0xfe, 0]).unwrap();
    ask(&client).refused(&["client.toml"]);
    fs::write(&client, sound.replace("client.key.pem", "nowhere.pem")).unwrap();
    ask(&client).refused(&["nowhere.pem", "catamount cluster init"]);
    // A party's file instead of the client's.
    ask(&party).refused(&["party0.toml", "a cluster file has"]);

    for program in [env!("CARGO_BIN_EXE_party"), env!("CARGO_BIN_EXE_catamount")] {
        let party_with = |config: &Path| {
            let mut command = Command::new(program);
            if program == env!("CARGO_BIN_EXE_catamount") {
                command.arg("party");
            }
            run(command.arg("--config").arg(config))
        };
        party_with(&client).refused(&["client.toml", "--print-defaults"]);
        party_with(Path::new("/nowhere.toml")).refused(&["/nowhere.toml", "catamount cluster init"]);
        let taken = UdpSocket::bind(cluster.files.party(0).listen).unwrap();
        party_with(&party).refused(&["is in use by another process", "`listen`"]);
        drop(taken);
    }

    let directory = cluster.files.directory.path().join("new");
    let init =
        |hosts: &str| run(catamount().args(["cluster", "init"]).arg(&directory).args(["--hosts", hosts]));
    init("127.0.0.1:1,127.0.0.1:1,127.0.0.1:2").refused(&["127.0.0.1:1 appears twice", "--hosts"]);
    init("127.0.0.1:1").refused(&["1 addresses", "--hosts"]);
    init("a,b,c").refused(&["\"a\" is not an IP address with a port", "--hosts"]);
    init(&free_hosts().unwrap().join(",")).fine();
    init(&free_hosts().unwrap().join(",")).refused(&["already there", "empty directory"]);
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_panic() {
    let cluster = Cluster::with_model();
    let mut command = catamount();
    command.args(["ask", "Hello", "--model", "tiny", "--max-tokens", "200", "--cluster"]);
    let mut child =
        command.arg(&cluster.files.paths[3]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // As `catamount ask ... | head -c 1` does.
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    drop(out);
    let ended = child.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert!(!err.contains("panicked at"), "{err}");
    assert!(matches!(ended.status.code(), Some(0 | 1)), "{:?}: {err}", ended.status);
    cluster.finish();
}
