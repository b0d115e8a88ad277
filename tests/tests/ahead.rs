//! A dealer that works ahead of its clients, over QUIC: whatever a client does, it gets its answers, and sessions end.

mod cluster;

use cluster::{cluster, cluster_with};
use models::{
    dry::Dry,
    float::{Float, complete},
    model::{Cache, OutputRows},
};
use parties::private::{Generation, MaxTokens, Pass, PrivateModel, Run, Turn};
use protocol::Ledger;
use std::time::Duration;

#[test]
fn answers_and_costs_are_those_without_it() {
    let mut answers = vec![];
    for passes in [0, 1, 4] {
        cluster_with(|_, limits| limits.max_tokens_ahead = passes).run(async |client, cluster| {
            let owned = &cluster.owned;
            owned.share(client, "tiny", |_, _| ()).await.unwrap();
            let model = PrivateModel::open(client, "tiny").await.unwrap();
            let prompt = model.chat("A prompt of more than one word").unwrap();
            let how = Generation { max_tokens: MaxTokens(10), ..Generation::default() };
            let answer = model.generate(&prompt, &how, |_| ()).await.unwrap();
            let dry = Dry::model(owned.config(), &owned.tables);
            let (mut spent, mut declared) = (Cache::new(&dry.config), Ledger::default());
            for (i, _) in answer.tokens.iter().enumerate() {
                let count = if i == 0 { prompt.len() } else { 1 };
                declared.add(&Dry::pass(&dry, count, &mut spent, OutputRows::Last).ledger);
            }
            let mut measured = answer.prompt_cost;
            measured.add(&answer.decode_cost);
            assert_eq!((measured.exchanges, measured.sent), (declared.exchanges, declared.sent));
            let (dealing, cost) = (answer.decode_dealing, &answer.decode_cost.sent[0]);
            assert_eq!(dealing.ahead.bytes + dealing.asked.bytes, cost.iter().sum::<u64>());
            assert_eq!(dealing.ahead.bytes > 0, passes > 0);
            assert_eq!(dealing.wasted.bytes, 0);
            answers.push(answer.tokens);
        });
    }
    assert!(answers.iter().all(|a| *a == answers[0]), "{answers:?}");
}

/// The scores after a text, and the plaintext's.
async fn ask(run: &mut Run<'_>, tokens: &[u32]) -> Vec<f32> {
    run.pass(Pass { tokens, segment: None }).await.unwrap().0
}

#[test]
fn a_client_that_asks_for_something_else_is_answered() {
    cluster().run(async |client, cluster| {
        let owned = &cluster.owned;
        owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let text = model.chat("A prompt of more than one word, which comes in pieces").unwrap();
        let plain = owned.float().unwrap();
        let expected = |tokens: &[u32]| {
            let (float, mut cache) = (Float::default(), Cache::new(owned.config()));
            let (text, n) = (tokens.to_vec(), tokens.len());
            let pass = plain.forward(&float, &text, n, &mut cache, OutputRows::Last);
            complete(pass).unwrap().data
        };
        let close = |private: &[f32], plain: &[f32]| {
            let size = plain.iter().fold(1_f32, |m, v| m.max(v.abs()));
            private.iter().zip(plain).all(|(a, b)| (a - b).abs() < 4e-3 * size)
        };
        for pause in [0, 1, 5, 50] {
            let mut run = model.run_stepwise(2, 40).await.unwrap();
            let mut read = 0;
            // Single tokens were expected from the third on.
            for count in [2, 1, 3, 1, 1, 2, 1] {
                let scores = ask(&mut run, &text[read..read + count]).await;
                read += count;
                assert!(close(&scores, &expected(&text[..read])), "after {read} tokens");
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            // Guesses, of which none is right.
            let tokens = [text[read], text[read + 1], text[read + 1]];
            let pass = Pass { tokens: &tokens, segment: None };
            run.batch(&[Turn { sequence: 0, pass, drafted: 2 }]).await.unwrap();
            run.take_back(0, 2).unwrap();
            read += 1;
            let scores = ask(&mut run, &text[read..=read]).await;
            assert!(close(&scores, &expected(&text[..=read])), "after guesses");
            run.close().await.unwrap();
        }
    });
}

#[test]
fn a_session_ends_while_the_dealer_works_ahead() {
    let small =
        |_, limits: &mut parties::config::Limits| (limits.max_sessions, limits.max_tokens_ahead) = (2, 1000);
    cluster_with(small).run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let prompt = model.raw("Hello").unwrap();
        for round in 0..12 {
            let mut run = model.run_stepwise(prompt.len(), 60).await.unwrap();
            ask(&mut run, &prompt).await;
            // At once, or in the middle.
            tokio::time::sleep(Duration::from_millis(3 * round % 20)).await;
            if round % 2 == 0 {
                run.close().await.unwrap();
            } else {
                drop(run);
            }
        }
        // Places for sessions become free, and the parties serve on.
        let how = Generation { max_tokens: MaxTokens(5), ..Generation::default() };
        let mut answer = model.generate(&prompt, &how, |_| ()).await;
        for _ in 0..100 {
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer = model.generate(&prompt, &how, |_| ()).await;
        }
        assert_eq!(answer.unwrap().tokens.len(), 5);
    });
}

/// Links that hold less than a pass: the dealer waits in the middle of one, and goes on when it is asked for.
#[test]
fn a_slow_client_leaves_no_more_waiting_than_links_hold() {
    const QUEUE: usize = 64 << 10;
    cluster::cluster_of(|_, config| config.transport.link_queue_bytes = QUEUE).run(
        async |client, cluster| {
            cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
            let model = PrivateModel::open(client, "tiny").await.unwrap();
            let prompt = model.raw("Hello").unwrap();
            let mut run = model.run_stepwise(prompt.len(), 8).await.unwrap();
            ask(&mut run, &prompt).await;
            run.take_dealing();
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let (_, cost) = run.pass(Pass { tokens: &prompt[..1], segment: None }).await.unwrap();
                let dealing = run.take_dealing();
                assert!(dealing.ahead.bytes > 0);
                assert_eq!(dealing.ahead.bytes + dealing.asked.bytes, cost.sent[0].iter().sum::<u64>());
                // To each of two evaluators; a link holds one larger message by itself.
                assert!(dealing.ahead.bytes < 4 * QUEUE as u64, "{}", dealing.ahead.bytes);
            }
            run.close().await.unwrap();
        },
    );
}
