//! Clusters started by hand: questions, restarts, strangers' datagrams.

use crate::cluster::Cluster;
use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

#[test]
fn two_questions_at_once_and_again_after_a_restart() {
    let mut cluster = Cluster::with_model();
    let questions = ["The capital of France", "Once upon a time"];
    let alone = questions.map(|q| cluster.answer(q, 24));
    assert_ne!(alone[0], alone[1]);
    for text in &alone {
        assert_eq!(text.trim_end_matches('\n').len(), 24, "{text:?}");
    }
    let together = questions.map(|q| cluster.asking(q, 24, &[]));
    assert_eq!(together.map(|p| p.end(60).fine().out), alone);

    (0..3).for_each(|role| drop(cluster.stop(role)));
    for role in [2, 1, 0] {
        cluster.start(role);
        assert!(cluster.party(role).err().contains("has loaded its share of tiny"));
    }
    assert_eq!(questions.map(|q| cluster.answer(q, 24)), alone);

    // By chance instead of the likeliest: still an answer.
    let warm = ["--temperature", "0.8", "--top-p", "0.9", "--top-k", "5", "--raw", "--json", "-"];
    let warm = cluster.asking(questions[0], 8, &warm).end(60).fine();
    assert_eq!(warm.json()["figures"]["tokens"], 8);

    // The parties choose: the same text without output scores for the client, and a session that ends early.
    let hidden = cluster.asking(questions[0], 24, &["--reveal", "tokens"]).end(60).fine();
    assert_eq!(hidden.out, alone[0]);
    let drawn = ["--reveal", "tokens", "--temperature", "2", "--top-k", "5", "--json", "-"];
    let drawn = cluster.asking(questions[0], 8, &drawn).end(60).fine();
    assert_eq!(drawn.json()["figures"]["tokens"], 8);
    assert_eq!(cluster.answer(questions[0], 24), alone[0]);
    cluster.finish();
}

#[test]
fn several_questions_side_by_side() {
    let cluster = Cluster::with_model();
    let questions = ["The capital of France", "Once upon a time", "Why?"];
    let alone = questions.map(|q| cluster.answer(q, 12));
    let file = cluster.files.directory.path().join("prompts.txt");
    std::fs::write(&file, format!("{}\n\n{}\n", questions[1], questions[2])).unwrap();
    let file = file.to_str().unwrap();
    for more in [&[][..], &["--reveal", "tokens"], &["--speculate", "3"]] {
        let together =
            cluster.asking(questions[0], 12, &[&["--prompts", file], more].concat()).end(60).fine();
        for (question, answer) in questions.iter().zip(&alone) {
            assert!(together.out.contains(&format!("> {question}\n{answer}")), "{}", together.out);
        }
        assert!(together.err.contains("3 answers, 36 tokens"), "{}", together.err);
        // What speculation gives away of each answer is said.
        for question in &questions {
            let said = together.err.lines().find(|l| l.starts_with(&format!("> {question}: ")));
            assert_eq!(said.is_some(), more.contains(&"--speculate"), "{}", together.err);
            let Some((_, gains)) = said.and_then(|l| l.split_once("the parties know how many each gave: "))
            else {
                continue;
            };
            let gains: Vec<usize> = gains.split(' ').map(|n| n.parse().unwrap()).collect();
            assert_eq!(gains.iter().sum::<usize>(), 11, "after the first token: {gains:?}");
        }
    }
    // As arguments, and the figures of all and of each.
    let json = cluster.asking(questions[0], 12, &["--json", "-", questions[1]]).end(60).fine().json();
    assert_eq!(json["figures"]["tokens"], 24);
    let one = cluster.asking(questions[0], 12, &["--json", "-"]).end(60).fine().json();
    assert_eq!(json["figures"]["exchanges"], one["figures"]["exchanges"]);
    assert!(json["figures"]["dealing"]["asked"]["bytes"].as_u64() > Some(0), "{json}");
    let texts: Vec<_> = json["answers"].as_array().unwrap().iter().map(|a| &a["text"]).collect();
    assert!(texts.contains(&&one["text"]) && texts.len() == 2, "{json}");
    cluster.finish();
}

#[test]
fn strangers_datagrams_disturb_nobody() {
    let cluster = Cluster::with_model();
    let quiet = cluster.answer("Noise", 64);
    let targets = [0, 1, 2].map(|role| cluster.files.party(role).listen);
    let stop = AtomicBool::new(false);
    let (noisy, sent) = thread::scope(|scope| {
        let noise = scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let (mut state, mut sent) = (1_u64, 0);
            while !stop.load(Ordering::Relaxed) {
                let bytes: Vec<u8> = std::iter::repeat_with(|| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 33) as u8
                })
                .take((sent * 37) % 1500)
                .collect();
                for target in targets {
                    // Some look like first packets of QUIC, truncated or damaged.
                    let mut bytes = bytes.clone();
                    if let Some(start) = bytes.get_mut(..5).filter(|_| sent % 2 == 0) {
                        start.copy_from_slice(&[0xc3, 0, 0, 0, 1]);
                    }
                    let _ = socket.send_to(&bytes, target);
                }
                sent += 1;
                thread::sleep(Duration::from_micros(300));
            }
            sent
        });
        let noisy = cluster.answer("Noise", 64);
        stop.store(true, Ordering::Relaxed);
        (noisy, noise.join().unwrap())
    });
    assert_eq!(noisy, quiet);
    assert!(sent > 100, "{sent}");
    cluster.finish();
}
