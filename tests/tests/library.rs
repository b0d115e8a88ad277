//! The library as a program uses it: three parties in this process, over QUIC, with shares of a tiny model on disk.

mod cluster;

use cluster::cluster;
use models::{
    dry::{Dry, Tokens},
    float::{Float, complete},
    model::{Cache, OutputRows},
    parameter::Parameter,
    shared::Choice,
};
use parties::{
    client::{UploadChunk, UploadSpec},
    ids::Digest,
    private::{Generation, MaxTokens, PrivateModel, Progress, Reveal},
    sampling::Sampling,
};
use protocol::{Ledger, Party};
use std::{collections::HashSet, time::Duration};
use tokio::sync::mpsc;

#[test]
fn private_scores_are_the_plaintext_scores_at_the_declared_cost() {
    cluster().run(async |client, cluster| {
        let owned = &cluster.owned;
        let (mut told, mut text) = (0, String::new());
        owned.share(client, "tiny", |done, total| told = done * 100 / total).await.unwrap();
        assert_eq!(told, 100);
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let prompt = model.chat("A prompt of more than one word").unwrap();
        let how = Generation { max_tokens: MaxTokens(10), keep_logits: true, ..Generation::default() };
        let answer = model.generate(&prompt, &how, |p| {
            if let Progress::Text(piece) = p {
                text.push_str(&piece);
            }
        });
        let answer = answer.await.unwrap();
        assert_eq!((&answer.text, answer.tokens.len()), (&text, 10));

        let (dry, plain) = (Dry::model(owned.config(), &owned.tables), owned.float().unwrap());
        let (mut cache, mut spent) = (Cache::new(owned.config()), Cache::new(&dry.config));
        let (mut input, mut declared) = (prompt.clone(), Ledger::default());
        for (token, private) in answer.tokens.iter().zip(&answer.logits) {
            let n = input.len();
            let float = Float::default();
            let pass = plain.forward(&float, &input, n, &mut cache, OutputRows::Last);
            let scores = complete(pass).unwrap().data;
            let size = scores.iter().fold(1_f32, |m, v| m.max(v.abs()));
            for (a, b) in private.iter().zip(&scores) {
                assert!((a - b).abs() < 4e-3 * size, "private {a}, plaintext {b}");
            }
            declared.add(&Dry::pass(&dry, n, &mut spent, OutputRows::Last).ledger);
            input = vec![*token];
        }
        let mut measured = answer.prompt_cost;
        measured.add(&answer.decode_cost);
        assert_eq!((measured.exchanges, measured.sent), (declared.exchanges, declared.sent));

        // The same prompt never looks the same to a party.
        let again = model.generate(&prompt, &how, |_| ()).await.unwrap();
        assert_eq!(again.tokens, answer.tokens);
        for role in 0..3 {
            let words = [&answer.seen.words[role], &again.seen.words[role]];
            let different: HashSet<_> = words.into_iter().flatten().collect();
            assert_eq!(different.len(), 8, "P{role}: {words:?}");
        }
    });
}

#[test]
fn the_parties_choose_the_tokens_that_the_client_would_have_chosen() {
    cluster().run(async |client, cluster| {
        let owned = &cluster.owned;
        owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let prompt = model.chat("Another prompt").unwrap();
        let mut how = Generation { max_tokens: MaxTokens(9), ..Generation::default() };
        let by_the_client = model.generate(&prompt, &how, |_| ()).await.unwrap();
        how.reveal = Reveal::Tokens;
        let mut text = String::new();
        let answer = model.generate(&prompt, &how, |p| {
            if let Progress::Text(piece) = p {
                text.push_str(&piece);
            }
        });
        let answer = answer.await.unwrap();
        assert_eq!((&answer.tokens, &answer.text), (&by_the_client.tokens, &by_the_client.text));
        assert_eq!(answer.text, text);
        assert!(answer.logits.is_empty());

        // At the declared cost, and without a byte from the client after the prompt.
        let dry = Dry::model(owned.config(), &owned.tables);
        let (mut spent, mut declared) = (Cache::new(&dry.config), Ledger::default());
        let mut tokens = Tokens::Keys(prompt.len());
        for _ in &answer.tokens {
            declared.add(&Dry::choosing_pass(&dry, tokens, &mut spent, Choice::Greedy).ledger);
            tokens = Tokens::Chosen(1);
        }
        let mut measured = answer.prompt_cost;
        measured.add(&answer.decode_cost);
        assert_eq!((measured.exchanges, measured.sent), (declared.exchanges, declared.sent));

        // Sampling: one of two likeliest is always one of them; another time another text.
        how.sampling = Sampling::new(5.0, 1.0, 2).unwrap();
        how.max_tokens = MaxTokens(24);
        let one = model.generate(&prompt, &how, |_| ()).await.unwrap();
        let other = model.generate(&prompt, &how, |_| ()).await.unwrap();
        assert_ne!(one.tokens, other.tokens, "24 fair coins fell alike");
        let (float, plain, mut cache) =
            (Float::default(), owned.float().unwrap(), Cache::new(owned.config()));
        let mut input = prompt.clone();
        for &token in &one.tokens {
            let n = input.len();
            let scores =
                complete(plain.forward(&float, &input, n, &mut cache, OutputRows::Last)).unwrap().data;
            let higher = scores.iter().filter(|s| **s > scores[token as usize] + 0.05).count();
            assert!(higher < 2, "token {token} is not among the two likeliest");
            input = vec![token];
        }

        // What the parties cannot do is refused before anything is sent.
        for (sampling, words) in [
            (Sampling::new(1.0, 0.9, 0).unwrap(), "top-p"),
            (Sampling::new(1e-4, 1.0, 0).unwrap(), "temperature"),
        ] {
            let how = Generation { sampling, ..how.clone() };
            let error = model.generate(&prompt, &how, |_| ()).await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        // Neither can a language model classify.
        let error = model.classify("A text", None).await.unwrap_err().to_string();
        assert!(error.contains("does not classify"), "{error}");
    });
}

/// A chunk's party, tensor, offset and size.
type Piece = (Party, u32, u64, usize);

#[test]
fn uploads_that_do_not_fit_leave_nothing() {
    cluster().run(async |client, cluster| {
        let public = &cluster.owned.public;
        let sizes: Vec<usize> =
            Parameter::all(&public.config).into_iter().map(|p| 8 * p.shared(&public.config).len()).collect();
        let share = 32 + sizes.iter().sum::<usize>() as u64;
        let mut whole: Vec<Piece> =
            vec![(Party::Zero, 0, 0, 64), (Party::One, 0, 0, 32), (Party::Two, 0, 0, 32)];
        for (tensor, &size) in (1..).zip(&sizes) {
            whole.extend([Party::One, Party::Two].map(|party| (party, tensor, 0, size)));
        }
        // What is said of an upload that differs from a sound one.
        let refused = async |change: &dyn Fn(&mut UploadSpec, &mut Vec<Piece>)| {
            let mut spec = UploadSpec {
                name: "odd".into(),
                digest: Digest(public.digest(&cluster.owned.tables)),
                metadata: public.to_bytes(),
                totals: [64, share, share],
            };
            let mut pieces = whole.clone();
            change(&mut spec, &mut pieces);
            let (sender, receiver) = mpsc::channel(pieces.len());
            for (party, tensor, offset, size) in pieces {
                let chunk = UploadChunk { party, tensor, offset, bytes: vec![1; size] };
                sender.send(Ok(chunk)).await.unwrap();
            }
            drop(sender);
            client.upload_model(spec, receiver, |_, _| ()).await.unwrap_err().to_string()
        };
        let one =
            |words: &'static str, change: &'static dyn Fn(&mut UploadSpec, &mut Vec<Piece>)| (words, change);
        for (words, change) in [
            one("share the model again with this version", &|spec, _| spec.metadata.truncate(100)),
            one("computes another digest", &|spec, _| spec.digest = Digest([7; 32])),
            one("bytes announced, 64 belong to this model", &|spec, pieces| {
                spec.totals[0] += 8;
                pieces.push((Party::Zero, 1, 0, 8));
            }),
            one("came out of turn", &|_, pieces| {
                pieces.iter_mut().for_each(|p| p.1 += u32::from(p.1 > 0));
            }),
            one("came out of turn", &|_, pieces| pieces[4].2 = 8),
            one("came out of turn", &|_, pieces| pieces[4].2 = u64::MAX),
            one("part 1 is longer than", &|_, pieces| {
                pieces[4].3 += 8;
                pieces.last_mut().unwrap().3 -= 8;
            }),
            one("nothing was kept", &|_, pieces| pieces.truncate(pieces.len() - 1)),
        ] {
            let error = refused(change).await;
            assert!(error.contains(words), "{words}: {error}");
        }
        let (sender, receiver) = mpsc::channel(1);
        sender.send(Err("no more ink".into())).await.unwrap();
        drop(sender);
        let spec = UploadSpec {
            name: "odd".into(),
            digest: Digest(public.digest(&cluster.owned.tables)),
            metadata: public.to_bytes(),
            totals: [64, share, share],
        };
        let error = client.upload_model(spec.clone(), receiver, |_, _| ()).await.unwrap_err().to_string();
        assert!(error.contains("no more ink"), "{error}");

        // One model of a name at a time.
        settled().await;
        let under_way = client.begin_upload(spec).await.unwrap();
        settled().await;
        let error = refused(&|_, _| ()).await;
        assert!(error.contains("is receiving a model \"odd\" already"), "{error}");
        drop(under_way);
        settled().await;
        assert!(client.list_models().await.unwrap().is_empty());
        assert_eq!(cluster.stored(), Vec::<String>::new());
        cluster.owned.share(client, "odd", |_, _| ()).await.unwrap();
        assert_eq!(cluster.stored(), ["odd.share"; 3]);
    });
}

/// Until the parties have noticed.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
