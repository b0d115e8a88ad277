//! Servers and a client, with an engine that computes something simple.

mod common;

use common::{Files, Running};
use parties::{
    client::{Client, SessionOptions, UploadChunk, UploadSpec},
    config::{Dealing, PartyConfig},
    engine::{Engine, PassRequest, SessionContext, SessionRunner, StoredModel, Upload},
    ids::{Digest, SessionId},
    tls::ClientIdentity,
    wire::{Failure, FailureCode, ModelInfo, OpenSession, Part, Pass, PutModel},
};
use protocol::{NetError, Network, Party, Role};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

type Store = Arc<Mutex<BTreeMap<String, (StoredModel, Vec<u8>)>>>;

/// Stores models in memory. A pass: the dealer sends its share to P2, P1 and P2 exchange theirs; P1 answers with
/// P2's share, P2 with the dealer's and P1's.
#[derive(Default)]
struct Echo {
    store: Store,
    live: Arc<AtomicUsize>,
}

struct EchoUpload {
    store: Store,
    model: StoredModel,
    bytes: Vec<u8>,
}

struct EchoSession {
    role: Role,
    dealer: Party,
    live: Arc<AtomicUsize>,
}

impl Engine for Echo {
    fn list_models(&self) -> Result<Vec<StoredModel>, Failure> {
        Ok(self.store.lock().unwrap().values().map(|(model, _)| model.clone()).collect())
    }

    fn model_info(&self, name: &str) -> Result<StoredModel, Failure> {
        let store = self.store.lock().unwrap();
        let missing =
            || Failure::new(FailureCode::NotFound, format!("there is no model {name}"), "share it first");
        store.get(name).map(|(model, _)| model.clone()).ok_or_else(missing)
    }

    fn begin_upload(
        &self,
        _client: &ClientIdentity,
        model: PutModel,
        metadata: Vec<u8>,
    ) -> Result<Box<dyn Upload>, Failure> {
        let info = ModelInfo { name: model.name, digest: model.digest };
        let model = StoredModel { info, metadata };
        Ok(Box::new(EchoUpload { store: self.store.clone(), model, bytes: Vec::new() }))
    }

    fn delete_model(&self, _client: &ClientIdentity, name: &str) -> Result<(), Failure> {
        self.model_info(name)?;
        self.store.lock().unwrap().remove(name);
        Ok(())
    }

    fn open_session(
        &self,
        context: SessionContext,
        request: OpenSession,
        _options: Vec<u8>,
    ) -> Result<Box<dyn SessionRunner>, Failure> {
        self.model_info(&request.model)?;
        self.live.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(EchoSession {
            role: context.role(),
            dealer: context.session.dealer(),
            live: self.live.clone(),
        }))
    }
}

impl Upload for EchoUpload {
    fn chunk(&mut self, _tensor: u32, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        assert_eq!(offset as usize, self.bytes.len());
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<Digest, Failure> {
        let digest = self.model.info.digest;
        self.store.lock().unwrap().insert(self.model.info.name.clone(), (self.model, self.bytes));
        Ok(digest)
    }
}

impl SessionRunner for EchoSession {
    fn pass(
        &mut self,
        network: &mut dyn Network,
        request: PassRequest,
        reply: &mut dyn FnMut(Vec<u8>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if request.share == b"fail" {
            return Err(Failure::new(
                FailureCode::Internal,
                "range exceeded in layer 2",
                "shorten the prompt",
            ));
        }
        let lost = |e: NetError| Failure::from(e.named(|role| role.party(self.dealer)));
        match self.role {
            Role::Dealer => network.send(Role::P2, request.share).map_err(lost)?,
            Role::P1 => {
                network.send(Role::P2, request.share).map_err(lost)?;
                let bytes = network.recv(Role::P2).map_err(lost)?;
                for piece in bytes.chunks(7_000) {
                    reply(piece.to_vec())?;
                }
            }
            Role::P2 => {
                network.send(Role::P1, request.share).map_err(lost)?;
                let mut bytes = network.recv(Role::Dealer).map_err(lost)?;
                bytes.extend(network.recv(Role::P1).map_err(lost)?);
                reply(bytes)?;
            }
        }
        Ok(())
    }
}

impl Drop for EchoSession {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Cluster {
    files: Files,
    stores: [Store; 3],
    live: Arc<AtomicUsize>,
    parties: Vec<Running>,
}

fn cluster(change: impl Fn(&mut PartyConfig)) -> Cluster {
    let files = Files::new();
    let stores: [Store; 3] = Default::default();
    let live = Arc::new(AtomicUsize::new(0));
    let parties = (0..3)
        .map(|role| {
            let mut config = files.party(role);
            change(&mut config);
            let engine = Echo { store: stores[role].clone(), live: live.clone() };
            Running::start(config, Arc::new(engine))
        })
        .collect();
    Cluster { files, stores, live, parties }
}

const DIGEST: Digest = Digest([3; 32]);

fn spec(totals: [u64; 3]) -> UploadSpec {
    UploadSpec { name: "echo".into(), digest: DIGEST, metadata: b"public".to_vec(), totals }
}

async fn share(client: &Client, megabytes: u32) {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    let producer = std::thread::spawn(move || {
        for i in 0..megabytes {
            for party in Party::ALL {
                let bytes = vec![i as u8 ^ party.index() as u8; 1 << 20];
                let chunk = UploadChunk { party, tensor: 0, offset: u64::from(i) << 20, bytes };
                if sender.blocking_send(Ok(chunk)).is_err() {
                    return;
                }
            }
        }
    });
    let mut last = (0, 0);
    client
        .upload_model(spec([u64::from(megabytes) << 20; 3]), receiver, |done, total| last = (done, total))
        .await
        .unwrap();
    let all = u64::from(3 * megabytes) << 20;
    assert_eq!(last, (all, all));
    producer.join().unwrap();
}

fn pass(position: u64, tokens: u32) -> Pass {
    Pass::new(Part::new(position, tokens))
}

fn options() -> SessionOptions {
    let (model, options) = ("echo".into(), Vec::new());
    SessionOptions { model, digest: DIGEST, sequences: 1, context_tokens: 100, options }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn wait_until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(5), "it does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn models_and_two_sessions_at_once() {
    let cluster = cluster(|_| {});
    block_on(async {
        let client = Client::connect(&cluster.files.client()).await.unwrap();
        assert_eq!(client.limits().max_context_tokens, 4096);
        assert!(client.list_models().await.unwrap().is_empty());
        let start = Instant::now();
        share(&client, 40).await;
        println!("upload: {:.0} MB/s", 3.0 * 41.9 / start.elapsed().as_secs_f64());
        let (info, metadata) = client.model_info("echo").await.unwrap();
        assert_eq!((info.digest, metadata.as_slice()), (DIGEST, &b"public"[..]));
        assert_eq!(client.list_models().await.unwrap().len(), 1);
        assert_eq!(cluster.stores[2].lock().unwrap()["echo"].1[5 << 20], 5 ^ 2);

        let run = |tag: u8| {
            let client = &client;
            async move {
                let start = Instant::now();
                let mut session = client.open_session(options()).await.unwrap();
                for i in 0..20_u64 {
                    let share = |party: u8| vec![tag ^ party; 20_000 + i as usize];
                    let output = session.pass(pass(i, 1), [share(0), share(1), share(2)]).await.unwrap();
                    assert_eq!(output.0[1], share(2));
                    assert_eq!(output.0[2], [share(0), share(1)].concat());
                }
                println!("20 passes after {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
                session.close().await.unwrap();
            }
        };
        tokio::join!(run(16), run(32));
        wait_until(|| cluster.live.load(Ordering::SeqCst) == 0).await;

        client.delete_model("echo").await.unwrap();
        let error = client.model_info("echo").await.unwrap_err().to_string();
        assert!(error.contains("there is no model echo") && error.contains("share it first"), "{error}");
        assert!(client.delete_model("../etc").await.unwrap_err().to_string().contains("no name"));
        client.close().await;
    });
}

#[test]
fn three_sessions_in_a_row_have_three_dealers() {
    let cluster = cluster(|_| {});
    block_on(async {
        let client = Client::connect(&cluster.files.client()).await.unwrap();
        share(&client, 1).await;
        let mut sessions = vec![];
        for _ in 0..6 {
            sessions.push(client.open_session(options()).await.unwrap());
        }
        let dealers: Vec<Party> = sessions.iter().map(|s| s.id().dealer()).collect();
        for party in Party::ALL {
            assert!(dealers[..3].contains(&party) && dealers[3..].contains(&party), "{dealers:?}");
        }
        // Shares and outputs are those of roles.
        for (i, session) in sessions.iter_mut().enumerate() {
            let share = |role: u8| vec![16 * i as u8 + role; 10];
            let output = session.pass(pass(0, 1), [share(0), share(1), share(2)]).await.unwrap();
            assert_eq!(output.0, [vec![], share(2), [share(0), share(1)].concat()]);
        }
        // A session that fails disturbs none of the others.
        let shares = [b"a".to_vec(), b"fail".to_vec(), b"c".to_vec()];
        sessions.remove(1).pass(pass(1, 1), shares).await.unwrap_err();
        drop(sessions.remove(1));
        for mut session in sessions {
            let output = session.pass(pass(1, 1), [vec![1], vec![2], vec![3]]).await.unwrap();
            assert_eq!(output.0, [vec![], vec![3], vec![1, 2]]);
            session.close().await.unwrap();
        }
        wait_until(|| cluster.live.load(Ordering::SeqCst) == 0).await;
    });
}

#[test]
fn parties_may_settle_who_deals() {
    for only in Party::ALL {
        // One party that insists is enough.
        let cluster = cluster(|config| {
            if config.party == Party::One {
                config.limits.dealer = Dealing::Only(only);
            }
        });
        block_on(async {
            let client = Client::connect(&cluster.files.client()).await.unwrap();
            share(&client, 1).await;
            for _ in 0..3 {
                let session = client.open_session(options()).await.unwrap();
                assert_eq!(session.id().dealer(), only);
                session.close().await.unwrap();
            }
            let other = Party::ALL[(only.index() + 1) % 3];
            let id = SessionId::dealt_by(other).unwrap();
            let error = client.open_session_as(id, options()).await.unwrap_err().to_string();
            let words = format!("P1 takes part in sessions that {only} deals, not {other}");
            assert!(error.contains(&words) && error.contains("limits.dealer"), "{error}");
        });
    }
}

#[test]
fn uploads_that_break_off_leave_nothing() {
    let cluster = cluster(|_| {});
    block_on(async {
        let client = Client::connect(&cluster.files.client()).await.unwrap();
        let chunk = |party, bytes: usize| UploadChunk { party, tensor: 0, offset: 0, bytes: vec![1; bytes] };
        let mut upload = client.begin_upload(spec([1000; 3])).await.unwrap();
        upload.chunk(chunk(Party::One, 500)).await.unwrap();
        drop(upload);
        let mut upload = client.begin_upload(spec([1000; 3])).await.unwrap();
        upload.chunk(chunk(Party::One, 500)).await.unwrap();
        assert!(upload.commit(DIGEST).await.unwrap_err().to_string().contains("nothing was kept"));
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.send(Err("the file is damaged".into())).await.unwrap();
        let error = client.upload_model(spec([1000; 3]), receiver, |_, _| {}).await.unwrap_err().to_string();
        assert!(error.contains("the file is damaged"), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(client.list_models().await.unwrap().is_empty());
        assert!(cluster.stores.iter().all(|store| store.lock().unwrap().is_empty()));
    });
}

#[test]
fn failures_reach_the_client_and_free_the_session() {
    let cluster = cluster(|config| {
        config.limits.idle_session_seconds = 1;
        config.limits.max_sessions = 1;
    });
    block_on(async {
        let client = Client::connect(&cluster.files.client()).await.unwrap();
        share(&client, 1).await;
        // One party fails in a pass: its own words reach the client, though all three end.
        let mut session = client.open_session(options()).await.unwrap();
        let shares = [b"a".to_vec(), b"fail".to_vec(), b"c".to_vec()];
        let failing = Role::P1.party(session.id().dealer()).to_string();
        let error = session.pass(pass(0, 1), shares).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&failing) && error.contains("layer 2") && error.contains("shorten"),
            "{error}"
        );
        wait_until(|| cluster.live.load(Ordering::SeqCst) == 0).await;

        // A session too many, a context too long, another digest, a pass beyond the context.
        let session = client.open_session(options()).await.unwrap();
        let error = client.open_session(options()).await.unwrap_err().to_string();
        assert!(error.contains("1 sessions open") && error.contains("limits.max_sessions"), "{error}");
        session.close().await.unwrap();
        wait_until(|| cluster.live.load(Ordering::SeqCst) == 0).await;
        let long = SessionOptions { context_tokens: 5000, ..options() };
        let error = client.open_session(long).await.unwrap_err().to_string();
        assert!(error.contains("5000 tokens"), "{error}");
        let mut session = client.open_session(options()).await.unwrap();
        let error = session.pass(pass(90, 11), [vec![], vec![], vec![]]).await.unwrap_err().to_string();
        assert!(error.contains("101 tokens"), "{error}");
        wait_until(|| cluster.live.load(Ordering::SeqCst) == 0).await;
        let none = SessionOptions { model: "none".into(), ..options() };
        let error = client.open_session(none).await.unwrap_err().to_string();
        assert!(error.contains("there is no model none"), "{error}");

        // An idle session expires.
        let mut session = client.open_session(options()).await.unwrap();
        wait_until(|| cluster.live.load(Ordering::SeqCst) == 0).await;
        let error = session.pass(pass(0, 1), [vec![], vec![], vec![]]).await.unwrap_err().to_string();
        assert!(error.contains("without a request") || error.contains("dropped the session"), "{error}");

        // A client that vanishes frees its session.
        let session = client.open_session(options()).await.unwrap();
        assert_eq!(cluster.live.load(Ordering::SeqCst), 3);
        drop(session);
        let start = Instant::now();
        wait_until(|| cluster.live.load(Ordering::SeqCst) == 0).await;
        assert!(start.elapsed() < Duration::from_secs(1));
        drop(client.open_session(options()).await.unwrap());
    });
}

#[test]
fn sessions_and_passes_over_sequences_that_cannot_be_are_refused() {
    let cluster = cluster(|config| config.limits.max_context_tokens = 200);
    block_on(async {
        let client = Client::connect(&cluster.files.client()).await.unwrap();
        assert_eq!(client.limits().max_sequences, 8);
        share(&client, 1).await;
        for sequences in [0, 9] {
            let error = client.open_session(SessionOptions { sequences, ..options() }).await.unwrap_err();
            let error = error.to_string();
            assert!(error.contains(&format!("{sequences} sequences")), "{error}");
            assert!(error.contains("allows 8") && error.contains("limits.max_sequences"), "{error}");
        }
        // Parts of a pass that make no sense together: each ends its session, none the party.
        let part = |sequence, position, tokens| Part { sequence, ..Part::new(position, tokens) };
        let drafted = |sequence| Part { drafted: 9, ..part(sequence, 0, 10) };
        for (parts, words) in [
            (vec![], "no sequence"),
            (vec![part(0, 0, 1), part(0, 0, 1)], "out of order"),
            (vec![part(2, 0, 1), part(1, 0, 1)], "out of order"),
            (vec![part(1, 0, 1), part(3, 0, 1)], "sequence 3 of 3"),
            (vec![part(u32::MAX, 0, 1)], "sequence 4294967295 of 3"),
            (vec![part(0, 0, 1), part(1, 100, 1)], "101 tokens of context"),
            (vec![part(0, 0, 1), part(1, u64::MAX, u32::MAX)], "tokens of context"),
            (vec![part(0, 0, 90), part(1, 0, 90), part(2, 0, 21)], "201 tokens in a pass, P"),
            // No sequence has too many drafts, the pass has.
            (vec![drafted(0), drafted(1)], "18 drafted tokens, P"),
        ] {
            let three = SessionOptions { sequences: 3, ..options() };
            let mut session = client.open_session(three).await.unwrap();
            let pass = Pass { counter: 0, parts, new_tokens: 0 };
            let error = session.pass(pass, [vec![], vec![], vec![]]).await.unwrap_err().to_string();
            assert!(error.contains(words) && error.contains('P'), "{words}: {error}");
        }
        wait_until(|| cluster.live.load(Ordering::SeqCst) == 0).await;
    });
}

#[test]
fn strangers_and_the_unauthorised_are_refused() {
    let cluster = cluster(|config| config.clients[0].permissions.truncate(1));
    let foreign = Files::new();
    block_on(async {
        let mut stranger = cluster.files.client();
        stranger.identity = foreign.client().identity;
        let own = stranger.identity.fingerprint().to_string();
        let start = Instant::now();
        let error = Client::connect(&stranger).await.unwrap_err().to_string();
        assert!(error.contains("does not know this client") && error.contains(&own), "{error}");
        assert!(start.elapsed() < Duration::from_secs(3));

        let mut misled = cluster.files.client();
        misled.parties[1].fingerprint = foreign.client().parties[1].fingerprint;
        let error = Client::connect(&misled).await.unwrap_err().to_string();
        assert!(error.contains("P1") && error.contains("not the one pinned"), "{error}");

        // May ask, may not store.
        let client = Client::connect(&cluster.files.client()).await.unwrap();
        let error = match client.begin_upload(spec([0; 3])).await {
            Ok(upload) => upload.commit(DIGEST).await.unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("may not store models") && error.contains("[[clients]]"), "{error}");

        // A share sealed to the wrong key does not open.
        for store in &cluster.stores {
            let info = ModelInfo { name: "echo".into(), digest: DIGEST };
            let model = StoredModel { info, metadata: Vec::new() };
            store.lock().unwrap().insert("echo".into(), (model, Vec::new()));
        }
        let mut wrong = cluster.files.client();
        wrong.parties[2].x25519 = foreign.client().parties[2].x25519;
        let client = Client::connect(&wrong).await.unwrap();
        let mut session = client.open_session(options()).await.unwrap();
        let error = session.pass(pass(0, 1), [vec![1], vec![2], vec![3]]).await.unwrap_err().to_string();
        assert!(error.contains("P2") && error.contains("does not open"), "{error}");
    });
}

#[test]
fn a_party_that_stops_is_named() {
    let mut cluster = cluster(|_| {});
    block_on(async {
        let client = Client::connect(&cluster.files.client()).await.unwrap();
        share(&client, 1).await;
        let mut session = client.open_session_as(SessionId([9; 32]), options()).await.unwrap();
        drop(cluster.parties.remove(2));
        let start = Instant::now();
        let error = session.pass(pass(0, 1), [vec![1], vec![2], vec![3]]).await.unwrap_err().to_string();
        assert!(error.contains("P2"), "{error}");
        println!("{error}");
        assert!(start.elapsed() < Duration::from_secs(3));
        assert!(Client::connect(&cluster.files.client()).await.unwrap_err().to_string().contains("P2"));
    });
}
