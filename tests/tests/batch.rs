//! Several prompts in one session over three parties: the answers that each gets alone, in the exchanges of one.

mod cluster;

use cluster::{cluster, cluster_with};
use models::{
    dry::{Dry, Tokens},
    model::{Cache, OutputRows, Sequence},
    shared::{Choice, SessionOptions as Options, client as shares},
};
use parties::{
    client::{Client, SessionOptions},
    draft::Draft,
    private::{
        Answer, Answers, Generation, MaxTokens, Pass, PrivateModel, Progress, Reveal, Speculation, Turn,
    },
    sampling::Sampling,
    wire,
};
use protocol::Ledger;

const NEW: usize = 9;

fn how(reveal: Reveal) -> Generation {
    let keep_logits = reveal == Reveal::Logits;
    Generation { max_tokens: MaxTokens(NEW), reveal, keep_logits, ..Generation::default() }
}

/// Prompts of 1 to 170 tokens: more than go through the model in one pass.
fn prompts(model: &PrivateModel<'_>) -> Vec<Vec<u32>> {
    let long = "one, two, three, ".repeat(10);
    ["Hello", "A", "The capital of France", &long].map(|text| model.raw(text).unwrap()).to_vec()
}

async fn alone(model: &PrivateModel<'_>, prompts: &[Vec<u32>], how: &Generation) -> Vec<Answer> {
    let mut answers = vec![];
    for prompt in prompts {
        answers.push(model.generate(prompt, how, |_| ()).await.unwrap());
    }
    answers
}

fn assert_same(together: &Answers, alone: &[Answer]) {
    assert_eq!(together.answers.len(), alone.len());
    for (one, alone) in together.answers.iter().zip(alone) {
        assert_eq!((&one.tokens, &one.text), (&alone.tokens, &alone.text));
        assert_eq!(one.logits.len(), alone.logits.len());
        for (a, b) in one.logits.iter().flatten().zip(alone.logits.iter().flatten()) {
            assert!((a - b).abs() < 0.02, "{a} in a batch, {b} alone");
        }
    }
}

fn same_cost(measured: Ledger, declared: Ledger) {
    assert_eq!((measured.exchanges, measured.sent), (declared.exchanges, declared.sent));
}

#[test]
fn answers_side_by_side_are_those_of_each_prompt_alone_at_the_declared_cost() {
    cluster().run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let prompts = prompts(&model);
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        assert!(lengths[3] > 128 && lengths[1] == 1, "{lengths:?}");
        let (mut texts, mut read) = (vec![String::new(); 4], [0; 4]);
        let how = how(Reveal::Logits);
        let together = model.generate_all(&prompts, &how, |i, p| match p {
            Progress::Text(text) => texts[i].push_str(&text),
            Progress::Prompt(done, total) => {
                assert!(done > read[i] && total == lengths[i]);
                read[i] = done;
            }
        });
        let together = together.await.unwrap();
        let alone = alone(&model, &prompts, &how).await;
        assert_same(&together, &alone);
        assert_eq!(read, lengths[..]);
        for (answer, text) in together.answers.iter().zip(&texts) {
            assert_eq!(&answer.text, text);
        }

        // One pass of 128 tokens in the order of the prompts, one with the rest, then a token each.
        let dry = Dry::model(cluster.owned.config(), &cluster.owned.tables);
        let mut caches: Vec<_> = prompts.iter().map(|_| Cache::new(&dry.config)).collect();
        let mut declared = |counts: &[usize]| {
            let all = caches.iter_mut().zip(counts).filter(|(_, count)| **count > 0);
            let mut sequences: Vec<_> = all.map(|(cache, &count)| Sequence::new(cache, count)).collect();
            Dry::batch(&dry, &mut sequences, OutputRows::Last).ledger
        };
        let heads = [lengths[0] - 1, 0, lengths[2] - 1, 128 - (lengths[0] - 1) - (lengths[2] - 1)];
        let mut first = declared(&heads);
        first.add(&declared(&[1, 1, 1, lengths[3] - heads[3]]));
        same_cost(together.prompt_cost, first);
        let mut rest = Ledger::default();
        (1..NEW).for_each(|_| rest.add(&declared(&[1; 4])));
        same_cost(together.decode_cost, rest);
        assert_eq!(rest.exchanges, alone[0].decode_cost.exchanges, "the exchanges of one answer");
        same_cost(together.answers[0].decode_cost, rest);
    });
}

#[test]
fn the_parties_choose_tokens_side_by_side() {
    cluster().run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let prompts = &prompts(&model)[..3];
        let by_the_client = alone(&model, prompts, &how(Reveal::Logits)).await;
        let together = model.generate_all(prompts, &how(Reveal::Tokens), |_, _| ()).await.unwrap();
        for (a, b) in together.answers.iter().zip(&by_the_client) {
            assert_eq!((&a.tokens, &a.text), (&b.tokens, &b.text));
        }
        let dry = Dry::model(cluster.owned.config(), &cluster.owned.tables);
        let mut caches: Vec<_> = prompts.iter().map(|_| Cache::new(&dry.config)).collect();
        let mut declared = |tokens: fn(usize) -> Tokens, counts: Vec<usize>| {
            let tokens = tokens(counts.iter().sum());
            let sequences = caches.iter_mut().zip(counts).map(|(c, n)| Sequence::new(c, n));
            Dry::choosing_batch(&dry, tokens, &mut sequences.collect::<Vec<_>>(), Choice::Greedy).ledger
        };
        same_cost(together.prompt_cost, declared(Tokens::Keys, prompts.iter().map(Vec::len).collect()));
        let mut rest = Ledger::default();
        (1..NEW).for_each(|_| rest.add(&declared(Tokens::Chosen, vec![1; 3])));
        same_cost(together.decode_cost, rest);
        // By chance: an answer to each.
        let sampling = Sampling::new(3.0, 1.0, 4).unwrap();
        let by_chance = Generation { sampling, ..how(Reveal::Tokens) };
        let drawn = model.generate_all(prompts, &by_chance, |_, _| ()).await.unwrap();
        assert_eq!(drawn.tokens(), 3 * NEW);
    });
}

/// Knows one answer, and nothing of the others.
struct Oracle<'a> {
    prompt: &'a [u32],
    answer: &'a [u32],
}

impl Draft for Oracle<'_> {
    fn propose(&mut self, tokens: &[u32], count: usize) -> Vec<u32> {
        let Some(made) = tokens.strip_prefix(self.prompt) else { return vec![] };
        self.answer.iter().skip(made.len()).take(count).copied().collect()
    }
}

#[test]
fn a_sequence_that_ends_earlier_leaves_the_others_alone() {
    cluster().run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let prompts = prompts(&model);
        let how = how(Reveal::Logits);
        let alone = alone(&model, &prompts, &how).await;
        for fast in 0..2 {
            let draft = &mut Oracle { prompt: &prompts[fast], answer: &alone[fast].tokens };
            let speculation = Speculation { tokens: 3, draft };
            let together = model.speculate_all(&prompts, &how, speculation, |_, _| ()).await.unwrap();
            assert_same(&together, &alone);
            // Its guesses are right, those of the others are taken back, each sequence's by itself.
            assert_eq!(together.answers[fast].gains, [4, 4]);
            let slow = &together.answers[fast + 1];
            assert!(slow.gains.len() > 2, "the other answer repeats its last token");
            // The others go on in cheaper passes, which the first is no longer part of.
            let exchanges = |a: &Answer| a.decode_cost.exchanges;
            let passes = together.answers.iter().map(|a| a.gains.len()).max().unwrap() as u64;
            assert_eq!(together.decode_cost.exchanges, alone[0].decode_cost.exchanges / 8 * passes);
            assert_eq!(exchanges(&together.answers[fast]), alone[0].decode_cost.exchanges / 8 * 2);
        }
    });
}

#[test]
fn too_many_prompts_and_wrong_ones_are_refused_before_anything_is_sent() {
    cluster_with(|role, limits| limits.max_sequences = 4 - role as u32).run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let hello = model.raw("Hello").unwrap();
        let refused = async |prompts: &[Vec<u32>]| {
            let answers = model.generate_all(prompts, &how(Reveal::Logits), |_, _| ()).await;
            answers.unwrap_err().to_string()
        };
        let error = refused(&vec![hello.clone(); 3]).await;
        assert!(error.contains("3 prompts") && error.contains("allow 2"), "{error}");
        assert!(error.contains("limits.max_sequences"), "{error}");
        assert!(refused(&[]).await.contains("prompt is empty"));
        assert!(refused(&[hello.clone(), vec![]]).await.contains("prompt is empty"));
        assert!(refused(&[hello.clone(), vec![u32::MAX]]).await.contains("not in the model's vocabulary"));
        assert!(refused(&[hello.clone(), vec![1; 5000]]).await.contains("shorten the prompt"));
        let two = model.generate_all(&vec![hello; 2], &how(Reveal::Logits), |_, _| ()).await.unwrap();
        assert_eq!(two.answers[0].tokens, two.answers[1].tokens);
    });
}

#[test]
fn passes_have_no_more_tokens_than_the_party_with_the_lowest_limit_allows() {
    cluster_with(|role, limits| limits.max_context_tokens = 60 - 10 * role as u32).run(
        async |client, cluster| {
            cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
            let model = PrivateModel::open(client, "tiny").await.unwrap();
            // Each fits into a pass, all together do not.
            let prompts = ["Hello, says the one", "A", "The capital of France", "Once upon a time, there"];
            let prompts = prompts.map(|text| model.raw(text).unwrap());
            assert!((41..=128).contains(&prompts.iter().map(Vec::len).sum::<usize>()));
            for reveal in [Reveal::Logits, Reveal::Tokens] {
                let how = how(reveal);
                let together = model.generate_all(&prompts, &how, |_, _| ()).await.unwrap();
                assert_same(&together, &alone(&model, &prompts, &how).await);
            }
            // Drafts count as well, those of all prompts together.
            let refused = async |prompts: usize, tokens| {
                let draft = &mut Oracle { prompt: &[], answer: &[] };
                let (prompts, how) = (vec![vec![65]; prompts], how(Reveal::Logits));
                let speculation = Speculation { tokens, draft };
                let answers = model.speculate_all(&prompts, &how, speculation, |_, _| ()).await;
                answers.map(|all| all.tokens()).map_err(|e| e.to_string())
            };
            assert_eq!(refused(4, 4).await, Ok(4 * NEW));
            let error = refused(3, 6).await.unwrap_err();
            assert!(error.contains("18 drafted") && error.contains("allow 16"), "{error}");
        },
    );
    let limits = |_, limits: &mut parties::config::Limits| limits.max_context_tokens = 11;
    cluster_with(limits).run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let draft = &mut Oracle { prompt: &[], answer: &[] };
        let speculation = Speculation { tokens: 3, draft };
        let prompts = vec![vec![65]; 3];
        let answers = model.speculate_all(&prompts, &how(Reveal::Logits), speculation, |_, _| ()).await;
        let error = answers.unwrap_err().to_string();
        assert!(error.contains("12 tokens a pass, but the parties allow 11"), "{error}");
        assert!(error.contains("limits.max_context_tokens"), "{error}");
    });
}

#[test]
fn turns_that_make_no_pass_are_refused_before_anything_is_sent() {
    cluster().run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let mut run = model.run_batch(OutputRows::Last, 2, 8).await.unwrap();
        let turn = |sequence, tokens| Turn { sequence, pass: Pass { tokens, segment: None }, drafted: 0 };
        for (turns, words) in [
            (vec![], "no sequence"),
            (vec![turn(1, &[1]), turn(0, &[1])], "out of order"),
            (vec![turn(1, &[1]), turn(1, &[1])], "out of order"),
            (vec![turn(0, &[1]), turn(2, &[1])], "has 2 sequences, and none of number 2"),
            (vec![turn(usize::MAX, &[1])], "has 2 sequences"),
            (vec![turn(0, &[]), turn(1, &[1])], "prompt is empty"),
            (vec![turn(0, &[u32::MAX])], "not in the model's vocabulary"),
        ] {
            let error = run.batch(&turns).await.unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
        assert!(run.take_back(2, 1).unwrap_err().to_string().contains("has 2 sequences"));
        // And the session goes on.
        assert_eq!(run.batch(&[turn(0, &[1, 2]), turn(1, &[3])]).await.unwrap().0.len(), 2);
        run.close().await.unwrap();

        // Parties that do not know what is asked of them do not ask for the model again.
        let opening = SessionOptions {
            model: "tiny".into(),
            digest: client.model_info("tiny").await.unwrap().0.digest,
            sequences: 1,
            context_tokens: 8,
            options: b"{\"rows\":7}".to_vec(),
        };
        let Err(error) = client.open_session(opening).await else { panic!("there are no such options") };
        let error = error.to_string();
        assert!(error.contains("session options") && error.contains("same version"), "{error}");
        assert!(!error.contains("share the model"), "{error}");
    });
}

/// Opens a session of two sequences, reads some tokens of both and a draft of the second, then sends `parts`; what it is
/// told.
async fn told(client: &Client, keys: usize, parts: Vec<wire::Part>) -> Result<(), String> {
    let (info, metadata) = client.model_info("tiny").await.unwrap();
    let vocab = models::shared::PublicModel::from_bytes(&metadata).unwrap().config.vocab;
    let opening = SessionOptions {
        model: "tiny".into(),
        digest: info.digest,
        sequences: 2,
        context_tokens: 40,
        options: serde_json::to_vec(&Options::default()).unwrap(),
    };
    let mut session = client.open_session(opening).await.unwrap();
    let split = |tokens: usize| {
        let device = kernels::cpu::Cpu::best();
        shares::split_tokens(&device, vocab, &vec![65; tokens], &[tokens as u8; 32]).unwrap()
    };
    let pass = |parts| wire::Pass { counter: 0, parts, new_tokens: 0 };
    session.pass(pass(vec![part(0, 0, 5), part(1, 0, 2)]), split(7)).await.unwrap();
    let drafts = wire::Part { drafted: 2, ..part(1, 2, 3) };
    session.pass(pass(vec![part(0, 5, 1), drafts]), split(4)).await.unwrap();
    session.pass(pass(parts), split(keys)).await.map(drop).map_err(|e| e.to_string())
}

fn part(sequence: u32, position: u64, tokens: u32) -> wire::Part {
    wire::Part { sequence, ..wire::Part::new(position, tokens) }
}

#[test]
fn each_sequence_has_its_own_place_and_drafts() {
    cluster().run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        // 6 tokens, and 5 of which 2 are drafts.
        told(client, 2, vec![part(0, 6, 1), part(1, 3, 1)]).await.unwrap();
        told(client, 1, vec![part(1, 4, 1)]).await.unwrap();
        for (keys, parts, words) in [
            (2, vec![part(0, 5, 1), part(1, 5, 1)], "takes back drafts only"),
            (2, vec![part(0, 6, 1), part(1, 2, 1)], "takes back drafts only"),
            (2, vec![part(0, 7, 1), part(1, 5, 1)], "1 tokens at 7 after 6 tokens"),
            (2, vec![part(0, 6, 1), part(1, 6, 1)], "1 tokens at 6 after 5 tokens"),
            (1, vec![part(0, 6, 1), part(1, 5, 0)], "0 tokens at 5 after 5 tokens"),
            (1, vec![part(0, 6, 1), part(1, 5, 1)], "keys"),
            (3, vec![part(0, 6, 1), part(1, 5, 1)], "keys"),
            (2, vec![part(1, 5, 1), part(0, 6, 1)], "out of order"),
            (2, vec![part(0, 6, 1), part(2, 0, 1)], "sequence 2 of 2"),
        ] {
            let error = told(client, keys, parts).await.unwrap_err();
            assert!(error.contains(words) && error.contains('P'), "{words}: {error}");
        }
        // And go on.
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let mut run = model.run_batch(OutputRows::All, 2, 8).await.unwrap();
        let turn = |sequence, tokens| Turn { sequence, pass: Pass { tokens, segment: None }, drafted: 0 };
        let (rows, _) = run.batch(&[turn(0, &[1, 2, 3]), turn(1, &[4])]).await.unwrap();
        let vocab = model.config().vocab;
        assert_eq!(rows.iter().map(|r| r.len() / vocab).collect::<Vec<_>>(), [3, 1]);
        run.close().await.unwrap();
    });
}
