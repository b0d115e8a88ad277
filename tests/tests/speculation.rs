//! Speculative decoding over three parties: the tokens of ordinary greedy decoding, whatever the guesses; what it costs;
//! and what a party refuses.

mod cluster;

use cluster::{cluster, cluster_with};
use models::{
    dry::Dry,
    model::{Cache, OutputRows},
    shared::{Choice, SessionOptions as Options, client as shares},
};
use parties::{
    client::{Client, SessionOptions},
    draft::{Draft, ModelDraft, PromptLookup},
    private::{Answer, Generation, MaxTokens, PrivateModel, Progress, Reveal, Speculation},
    sampling::Sampling,
    wire,
};
use protocol::Ledger;
use std::fs;

/// Knows the answer, and gives it where `right` says so.
struct Oracle<'a> {
    prompt: usize,
    answer: &'a [u32],
    right: fn(usize) -> bool,
}

impl Draft for Oracle<'_> {
    fn propose(&mut self, tokens: &[u32], count: usize) -> Vec<u32> {
        let from = tokens.len() - self.prompt;
        let all = self.answer.iter().enumerate().skip(from).take(count);
        all.map(|(i, &t)| if (self.right)(i) { t } else { (t + 1) % 250 }).collect()
    }
}

/// Tokens that no vocabulary has, more than were asked for, or none.
struct Odd(Vec<u32>);

impl Draft for Odd {
    fn propose(&mut self, _: &[u32], _: usize) -> Vec<u32> {
        self.0.clone()
    }
}

const NEW: usize = 23;

fn greedy() -> Generation {
    Generation { max_tokens: MaxTokens(NEW), keep_logits: true, ..Generation::default() }
}

async fn speculate(model: &PrivateModel<'_>, prompt: &[u32], tokens: usize, draft: &mut dyn Draft) -> Answer {
    let mut text = String::new();
    let (how, speculation) = (greedy(), Speculation { tokens, draft });
    let answer = model.speculate(prompt, &how, speculation, |p| {
        if let Progress::Text(piece) = p {
            text.push_str(&piece);
        }
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.text, text);
    assert_eq!(answer.gains.iter().sum::<usize>() + 1, answer.tokens.len());
    assert_eq!(answer.logits.len(), answer.tokens.len());
    answer
}

/// What an answer should have cost.
fn declared(dry: &models::model::Model<Dry>, prompt: usize, answer: &Answer, tokens: usize) -> Ledger {
    let mut cache = Cache::new(&dry.config);
    let mut all = Dry::pass(dry, prompt, &mut cache, OutputRows::Last).ledger;
    let mut kept = prompt;
    let mut made = 1;
    for gained in &answer.gains {
        cache.cut(kept);
        let drafted = tokens.min(NEW - made - 1);
        all.add(&Dry::pass(dry, 1 + drafted, &mut cache, OutputRows::All).ledger);
        (kept, made) = (kept + gained, made + gained);
    }
    all
}

#[test]
fn guesses_change_the_number_of_passes_and_nothing_else() {
    cluster().run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let dry = Dry::model(cluster.owned.config(), &cluster.owned.tables);
        let mut passes = 0;
        for text in ["Hello", "one, two, three, one, two, three, one,", "fn main() { fn"] {
            let prompt = model.raw(text).unwrap();
            let ordinary = model.generate(&prompt, &greedy(), |_| ()).await.unwrap();
            assert_eq!(ordinary.gains, [1; NEW - 1]);
            let check = |answer: &Answer, tokens: usize| {
                assert_eq!((&answer.tokens, &answer.text), (&ordinary.tokens, &ordinary.text));
                for (a, b) in answer.logits.iter().flatten().zip(ordinary.logits.iter().flatten()) {
                    assert!((a - b).abs() < 0.02, "{a} by speculation, {b} without");
                }
                let (mut measured, declared) =
                    (answer.prompt_cost, declared(&dry, prompt.len(), answer, tokens));
                measured.add(&answer.decode_cost);
                assert_eq!((measured.exchanges, measured.sent), (declared.exchanges, declared.sent));
            };
            let oracle = |right| Oracle { prompt: prompt.len(), answer: &ordinary.tokens, right };

            // Always right: all passes but the last give one token more than was guessed.
            let right = speculate(&model, &prompt, 4, &mut oracle(|_| true)).await;
            check(&right, 4);
            assert_eq!(right.gains, [5, 5, 5, 5, 2]);
            // Always wrong: the passes of ordinary decoding, each dearer.
            let wrong = speculate(&model, &prompt, 4, &mut oracle(|_| false)).await;
            check(&wrong, 4);
            assert_eq!(wrong.gains, [1; NEW - 1]);
            // Wrong now and then: right up to there. A pass after tokens 0 to t guesses t + 1 to t + 3.
            let mixed = speculate(&model, &prompt, 3, &mut oracle(|i| i % 5 != 4)).await;
            check(&mixed, 3);
            assert_eq!(mixed.gains, [4, 4, 1, 4, 1, 4, 1, 3]);
            // By looking up the text, and with a public model: here the very model, in the clear.
            let found = speculate(&model, &prompt, 6, &mut PromptLookup).await;
            check(&found, 6);
            passes += found.gains.len();
            let mut public = ModelDraft::load(&cluster.path).unwrap();
            public.check(model.tokenizer().unwrap()).unwrap();
            for _ in 0..2 {
                let drafted = speculate(&model, &prompt, 4, &mut public).await;
                check(&drafted, 4);
                assert_eq!(drafted.gains, [5, 5, 5, 5, 2]);
            }
            // Whatever else a draft says.
            for odd in [vec![], vec![u32::MAX; 3], vec![7; 100]] {
                check(&speculate(&model, &prompt, 2, &mut Odd(odd)).await, 2);
            }
        }
        assert!(passes < 3 * (NEW - 1), "looking up the text never found anything");

        // One token, or one more: nothing to guess.
        for new in [1, 2] {
            let prompt = model.raw("Hello").unwrap();
            let how = Generation { max_tokens: MaxTokens(new), ..greedy() };
            let ordinary = model.generate(&prompt, &how, |_| ()).await.unwrap();
            let speculation = Speculation { tokens: 4, draft: &mut PromptLookup };
            let answer = model.speculate(&prompt, &how, speculation, |_| ()).await.unwrap();
            assert_eq!(answer.tokens, ordinary.tokens);
            assert_eq!(answer.decode_cost.sent, ordinary.decode_cost.sent);
        }
    });
}

#[test]
fn what_cannot_be_speculated_is_refused_before_anything_is_sent() {
    cluster_with(|role, limits| limits.max_drafted_tokens = 4 - role as u32).run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let prompt = model.raw("Hello").unwrap();
        let refused = async |tokens, how: &Generation| {
            let speculation = Speculation { tokens, draft: &mut PromptLookup };
            model.speculate(&prompt, how, speculation, |_| ()).await.unwrap_err().to_string()
        };
        let error = refused(3, &greedy()).await;
        assert!(error.contains("3 drafted") && error.contains("allow 2"), "{error}");
        assert!(error.contains("limits.max_drafted_tokens"), "{error}");
        let error = refused(0, &greedy()).await;
        assert!(error.contains("at least 1"), "{error}");
        let error = refused(2, &Generation { reveal: Reveal::Tokens, ..greedy() }).await;
        assert!(error.contains("--reveal logits"), "{error}");
        let sampling = Sampling::new(0.5, 1.0, 0).unwrap();
        let error = refused(2, &Generation { sampling, ..greedy() }).await;
        assert!(error.contains("temperature"), "{error}");
        assert_eq!(speculate(&model, &prompt, 2, &mut PromptLookup).await.tokens.len(), NEW);

        // A public model must be one, and have the same vocabulary.
        let load = |name: &str, bytes: &[u8]| {
            let path = cluster.path.with_file_name(name);
            fs::write(&path, bytes).unwrap();
            ModelDraft::load(&path)
        };
        let mut bytes = fs::read(&cluster.path).unwrap();
        let error = load("half.gguf", &bytes[..bytes.len() / 2]).err().unwrap().to_string();
        assert!(error.contains("cut short"), "{error}");
        let name = b"<|im_start|>";
        let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
        bytes[at..][..name.len()].copy_from_slice(b"<|im_begin|>");
        let other = load("other.gguf", &bytes).unwrap();
        let error = other.check(model.tokenizer().unwrap()).unwrap_err().to_string();
        assert!(error.contains("another vocabulary") && error.contains("--draft"), "{error}");
    });
}

/// A pass as a client should not send it.
struct Wrong {
    position: u64,
    /// Tokens whose keys are sent.
    keys: usize,
    tokens: u32,
    drafted: u32,
    new_tokens: u32,
}

/// Reads five tokens, then two drafts after a sixth, then sends something wrong; what it is told.
async fn told(client: &Client, options: Options, wrong: Wrong) -> String {
    let (info, metadata) = client.model_info("tiny").await.unwrap();
    let vocab = models::shared::PublicModel::from_bytes(&metadata).unwrap().config.vocab;
    let opening = SessionOptions {
        model: "tiny".into(),
        digest: info.digest,
        sequences: 1,
        context_tokens: 40,
        options: serde_json::to_vec(&options).unwrap(),
    };
    let mut session = client.open_session(opening).await.unwrap();
    let keys = |tokens: usize| {
        let device = kernels::cpu::Cpu::best();
        shares::split_tokens(&device, vocab, &vec![65; tokens], &[tokens as u8; 32]).unwrap()
    };
    let pass = |position, tokens, drafted| {
        wire::Pass::new(wire::Part { drafted, ..wire::Part::new(position, tokens) })
    };
    session.pass(pass(0, 5, 0), keys(5)).await.unwrap();
    if options.choice.is_none() {
        session.pass(pass(5, 3, 2), keys(3)).await.unwrap();
    }
    let Wrong { position, tokens, drafted, new_tokens, .. } = wrong;
    let sent = wire::Pass { new_tokens, ..pass(position, tokens, drafted) };
    let error = session.pass(sent, keys(wrong.keys)).await.unwrap_err().to_string();
    // The session is over, in order.
    let again = session.pass(pass(8, 1, 0), keys(1)).await.unwrap_err().to_string();
    assert!(!again.contains("panicked"), "{again}");
    error
}

#[test]
fn parties_take_back_drafts_only_and_survive_whatever_is_asked() {
    cluster().run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let logits = Options::default();
        let tokens = Options { choice: Some(Choice::Greedy), ..logits };
        let wrong =
            |position, keys, tokens, drafted| Wrong { position, keys, tokens, drafted, new_tokens: 0 };
        for (options, pass, words) in [
            // Kept: more than there is, less than the drafts leave.
            (logits, wrong(9, 1, 1, 0), ["1 tokens at 9 after 8 tokens", "open a new session"]),
            (logits, wrong(u64::MAX, 1, 1, 0), ["tokens of context", "shorten"]),
            (
                logits,
                wrong(5, 1, 1, 0),
                ["takes back drafts only, which the last 2 are", "open a new session"],
            ),
            (logits, wrong(0, 1, 1, 0), ["takes back drafts only", "open a new session"]),
            // Drafts: too many, more than tokens, no tokens.
            (logits, wrong(8, 18, 18, 17), ["17 drafted tokens", "limits.max_drafted_tokens"]),
            (logits, wrong(8, 1, 1, u32::MAX), ["drafted tokens", "limits.max_drafted_tokens"]),
            (logits, wrong(8, 3, 3, 3), ["3 drafts in a pass of 3 tokens", "one token and its drafts"]),
            (logits, wrong(8, 5, 5, 2), ["2 drafts in a pass of 5 tokens", "one token and its drafts"]),
            (logits, wrong(8, 0, 0, 1), ["0 tokens at 8", "open a new session"]),
            (logits, wrong(38, 3, 3, 2), ["41 tokens of context", "max_context_tokens"]),
            // Keys: more and fewer than announced.
            (logits, wrong(7, 4, 3, 2), ["keys", "same version"]),
            (logits, wrong(7, 2, 3, 2), ["keys", "same version"]),
            // Tokens that are not the client's to verify.
            (tokens, wrong(5, 3, 3, 2), ["no scores that drafts could be compared with", "--reveal logits"]),
            (tokens, wrong(4, 1, 1, 0), ["takes back drafts only", "open a new session"]),
        ] {
            let error = told(client, options, pass).await;
            assert!(words.iter().all(|w| error.contains(w)), "{words:?}: {error}");
            assert!(["P0", "P1", "P2"].iter().any(|p| error.starts_with(p)), "{error}");
        }
        // And go on.
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let prompt = model.raw("Hello").unwrap();
        assert_eq!(speculate(&model, &prompt, 4, &mut PromptLookup).await.tokens.len(), NEW);
    });
}
