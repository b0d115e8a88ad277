//! The client library: three mutually authenticated connections, models, sessions.
//!
//! Asynchronous, on any tokio runtime; on a current-thread runtime do not compute for seconds between two calls, or the
//! connections time out (4 s by default). Every error names the party, what failed and what to do.

mod session;
mod upload;

pub use session::{PassOutput, Session, SessionOptions};
pub use upload::{ModelUpload, UploadChunk, UploadSpec};

use crate::{
    cluster::ClusterConfig,
    config::Peer,
    ids::{PublicKey, SessionId},
    tls::SERVER_NAME,
    transport::{CLOSE_SHUTDOWN, TransportError, client_endpoint, frame::FrameError, resolve},
    wire::{
        Failure, FailureCode, FrameReader, FrameWriter, ModelInfo, PublicLimits, Reply, Request, WireError,
    },
};
use bytes::Bytes;
use protocol::Party;
use quinn::{Connection, ConnectionError, Endpoint};
use std::{fmt, sync::atomic::AtomicUsize, time::Duration};
use tokio::time::timeout;

/// Why something asked of the cluster did not work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// This end cannot start.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A party cannot be reached.
    #[error("cannot reach {party} at {address}: {problem}; {remedy}")]
    Unreachable {
        /// Which party.
        party: Party,
        /// Where it should be.
        address: String,
        /// What happened.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The connection to a party broke off.
    #[error("lost {party} while {doing}: {problem}; see that {party} runs, then connect again")]
    Lost {
        /// Which party.
        party: Party,
        /// What was being done.
        doing: &'static str,
        /// What happened.
        problem: String,
    },
    /// A party answered that it did not work.
    #[error("{party}, {doing}: {failure}")]
    Refused {
        /// Which party.
        party: Party,
        /// What was being done.
        doing: &'static str,
        /// What it says.
        failure: Failure,
    },
    /// A party's answer makes no sense.
    #[error("{party} answered {doing} with nonsense: {problem}; use the same version everywhere")]
    Nonsense {
        /// Which party.
        party: Party,
        /// What was being done.
        doing: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The parties do not have the same model.
    #[error("the parties disagree on model {model}: {details}; share it with all three again")]
    Disagreement {
        /// Which model.
        model: String,
        /// Who has what.
        details: String,
    },
    /// The request cannot be made.
    #[error("{problem}; {remedy}")]
    Invalid {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

impl ClientError {
    /// How directly an error names the cause: of several parties' errors the most telling one is shown.
    fn weight(&self) -> u8 {
        use crate::wire::FailureCode::{BadRequest, PeerLost};
        match self {
            Self::Refused { failure, .. } if failure.code == PeerLost => 1,
            Self::Refused { failure, .. } if failure.code == BadRequest => 2,
            Self::Refused { .. } | Self::Disagreement { .. } => 4,
            Self::Lost { .. } => 3,
            _ => 0,
        }
    }
}

/// Connecting may take so long.
const CONNECT: Duration = Duration::from_secs(6);

struct PartyLink {
    party: Party,
    x25519: PublicKey,
    connection: Connection,
    limits: PublicLimits,
}

/// A client of a cluster.
pub struct Client {
    endpoint: Endpoint,
    parties: [PartyLink; 3],
    /// Counts sessions, so that the parties take turns as dealers.
    turn: AtomicUsize,
}

/// One request's stream at one party.
pub(crate) struct Call {
    party: Party,
    doing: &'static str,
    writer: FrameWriter,
    reader: FrameReader<Reply>,
}

impl Client {
    /// Connects to the three parties.
    ///
    /// # Errors
    /// Names the party that cannot be reached, or that refuses this client.
    pub async fn connect(cluster: &ClusterConfig) -> Result<Self, ClientError> {
        let (endpoint, configs) = client_endpoint(&cluster.identity, &cluster.parties, &cluster.transport)?;
        let [a, b, c] = &cluster.parties;
        let [config_a, config_b, config_c] = configs;
        let parties = tokio::try_join!(
            connect(&endpoint, cluster, a, config_a),
            connect(&endpoint, cluster, b, config_b),
            connect(&endpoint, cluster, c, config_c),
        )?;
        // Clients that ask once do not all begin with the same dealer.
        let turn = AtomicUsize::new(SessionId::random().map_err(randomness)?.dealer().index());
        Ok(Self { endpoint, parties: parties.into(), turn })
    }

    /// The strictest of the three parties' limits.
    pub fn limits(&self) -> PublicLimits {
        let [a, b, c] = self.parties.each_ref().map(|party| party.limits);
        PublicLimits {
            max_context_tokens: a.max_context_tokens.min(b.max_context_tokens).min(c.max_context_tokens),
            max_sequences: a.max_sequences.min(b.max_sequences).min(c.max_sequences),
            max_drafted_tokens: a.max_drafted_tokens.min(b.max_drafted_tokens).min(c.max_drafted_tokens),
            max_body_bytes: a.max_body_bytes.min(b.max_body_bytes).min(c.max_body_bytes),
            dealer: a.dealer.or(b.dealer).or(c.dealer),
        }
    }

    /// The models that all three parties have.
    ///
    /// # Errors
    /// A party fails, or two have different models of one name.
    pub async fn list_models(&self) -> Result<Vec<(ModelInfo, Vec<u8>)>, ClientError> {
        let [a, b, c] = &self.parties;
        let [mut first, second, third] = all(a.list(), b.list(), c.list()).await?;
        first.retain(|(model, _)| {
            [&second, &third].iter().all(|all| all.iter().any(|(other, _)| other.name == model.name))
        });
        for (model, metadata) in &first {
            for (party, others) in [(Party::One, &second), (Party::Two, &third)] {
                let other = others.iter().find(|(other, _)| other.name == model.name);
                agree((Party::Zero, model, metadata), other.map(|(info, data)| (party, info, data)))?;
            }
        }
        Ok(first)
    }

    /// A model's digest and public metadata, the same at all three parties.
    ///
    /// # Errors
    /// A party does not have it, or they disagree.
    pub async fn model_info(&self, name: &str) -> Result<(ModelInfo, Vec<u8>), ClientError> {
        let [a, b, c] = &self.parties;
        let [first, second, third] = all(a.info(name), b.info(name), c.info(name)).await?;
        for (party, other) in [(Party::One, &second), (Party::Two, &third)] {
            agree((Party::Zero, &first.0, &first.1), Some((party, &other.0, &other.1)))?;
        }
        Ok(first)
    }

    /// Deletes a model at all parties that have it; says whether any did.
    ///
    /// # Errors
    /// A party has failed; the others have been asked all the same.
    pub async fn delete_model(&self, name: &str) -> Result<bool, ClientError> {
        let [a, b, c] = &self.parties;
        Ok(all(a.delete(name), b.delete(name), c.delete(name)).await?.contains(&true))
    }

    /// Closes the connections. What is under way breaks off.
    pub async fn close(self) {
        self.endpoint.close(CLOSE_SHUTDOWN, b"the client is done");
        let _ = timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

fn randomness(error: getrandom::Error) -> ClientError {
    ClientError::Invalid {
        problem: format!("the operating system gives no randomness: {error}"),
        remedy: "try again".into(),
    }
}

fn agree(
    first: (Party, &ModelInfo, &Vec<u8>),
    other: Option<(Party, &ModelInfo, &Vec<u8>)>,
) -> Result<(), ClientError> {
    let (party, info, metadata) = first;
    let Some((other_party, other_info, other_metadata)) = other else { return Ok(()) };
    let details = if info.digest != other_info.digest {
        format!("{party} has digest {}, {other_party} {}", info.digest.short(), other_info.digest.short())
    } else if metadata != other_metadata {
        format!("the public metadata at {party} and {other_party} differ")
    } else {
        return Ok(());
    };
    Err(ClientError::Disagreement { model: info.name.clone(), details })
}

async fn connect(
    endpoint: &Endpoint,
    cluster: &ClusterConfig,
    peer: &Peer,
    config: quinn::ClientConfig,
) -> Result<PartyLink, ClientError> {
    let party = peer.party;
    let unreachable = |problem: String, remedy: &str| ClientError::Unreachable {
        party,
        address: peer.address.clone(),
        problem,
        remedy: remedy.to_owned(),
    };
    let running = "see that it runs and that its address is right in the cluster file";
    // What a refusal looks like at this end: the other end's words, after this end took the handshake for done.
    let explain = |error: &ConnectionError| {
        let text = error.to_string();
        let own = cluster.identity.fingerprint();
        if text.contains("does not know") {
            let remedy = format!("ask its operator to add the fingerprint {own} under [[clients]]");
            unreachable("it does not know this client's certificate".into(), &remedy)
        } else if text.contains("is not the one pinned") {
            unreachable(
                text,
                "somebody else answers there, or its keys are new: compare fingerprints with its operator",
            )
        } else {
            unreachable(text, running)
        }
    };
    let address = resolve(&peer.address).await.map_err(|e| unreachable(e, running))?;
    let connecting = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(|e| unreachable(e.to_string(), running))?;
    let connection = match timeout(CONNECT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(explain(&error)),
        Err(_) => return Err(unreachable("no answer".into(), running)),
    };
    let limits = PublicLimits::default();
    let mut link = PartyLink { party, x25519: peer.x25519, connection, limits };
    let welcome = async {
        let mut call = link.call("connecting").await?;
        call.send(&Request::Welcome, Bytes::new()).await?;
        call.receive().await
    };
    let reply = match timeout(CONNECT, welcome).await {
        Ok(reply) => reply,
        Err(_) => return Err(unreachable("it does not answer requests".into(), running)),
    };
    match (reply, link.connection.close_reason()) {
        (Ok((Reply::Welcome { party: who, limits, .. }, _)), _) if who == party => {
            link.limits = limits;
            Ok(link)
        }
        (Ok((reply, _)), _) => {
            Err(ClientError::Nonsense { party, doing: "connecting", problem: format!("{reply:?}") })
        }
        (Err(_), Some(reason)) => Err(explain(&reason)),
        (Err(error), None) => Err(error),
    }
}

impl PartyLink {
    async fn call(&self, doing: &'static str) -> Result<Call, ClientError> {
        let party = self.party;
        let lost = |problem: String| ClientError::Lost { party, doing, problem };
        let (send, receive) = self.connection.open_bi().await.map_err(|e| lost(e.to_string()))?;
        let writer = FrameWriter::begin(send).await.map_err(|e| lost(e.to_string()))?;
        // Answers are bounded by what this end is willing to hold, whatever the party allows itself.
        Ok(Call { party, doing, writer, reader: FrameReader::new(receive, MAX_ANSWER) })
    }

    async fn list(&self) -> Result<Vec<(ModelInfo, Vec<u8>)>, ClientError> {
        let mut call = self.call("listing models").await?;
        call.send(&Request::ListModels, Bytes::new()).await?;
        let mut models = Vec::new();
        loop {
            match call.receive().await? {
                (Reply::Model(info), metadata) => models.push((info, metadata)),
                (Reply::Done, _) => return Ok(models),
                (other, _) => return Err(call.nonsense(&other)),
            }
        }
    }

    async fn info(&self, name: &str) -> Result<(ModelInfo, Vec<u8>), ClientError> {
        let mut call = self.call("describing a model").await?;
        call.send(&Request::ModelInfo { name: name.to_owned() }, Bytes::new()).await?;
        match call.receive().await? {
            (Reply::Model(info), metadata) => Ok((info, metadata)),
            (other, _) => Err(call.nonsense(&other)),
        }
    }

    async fn delete(&self, name: &str) -> Result<bool, ClientError> {
        let mut call = self.call("deleting a model").await?;
        call.send(&Request::DeleteModel { name: name.to_owned() }, Bytes::new()).await?;
        match call.receive().await {
            Ok((Reply::Done, _)) => Ok(true),
            Ok((other, _)) => Err(call.nonsense(&other)),
            Err(ClientError::Refused { failure, .. }) if failure.code == FailureCode::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Largest body of an answer that a client takes.
const MAX_ANSWER: usize = 1 << 30;

impl Call {
    fn lost(&self, problem: impl ToString) -> ClientError {
        ClientError::Lost { party: self.party, doing: self.doing, problem: problem.to_string() }
    }

    fn nonsense(&self, reply: &Reply) -> ClientError {
        let problem = format!("unexpected {reply:?}");
        ClientError::Nonsense { party: self.party, doing: self.doing, problem }
    }

    /// Sends a frame. If the party has stopped listening, its answer says why.
    async fn send(&mut self, request: &Request, body: Bytes) -> Result<(), ClientError> {
        match self.writer.send(request, body).await {
            Ok(()) => Ok(()),
            Err(error @ WireError::Write(quinn::WriteError::Stopped(_))) => Err(self.refusal(error).await),
            Err(error) => Err(self.lost(error)),
        }
    }

    async fn refusal(&mut self, error: WireError) -> ClientError {
        let reason = async {
            loop {
                if let Err(error) = self.receive().await {
                    return error;
                }
            }
        };
        match timeout(Duration::from_secs(1), reason).await {
            Ok(reason) => reason,
            Err(_) => self.lost(error),
        }
    }

    async fn receive(&mut self) -> Result<(Reply, Vec<u8>), ClientError> {
        match self.reader.next().await {
            Ok(Some((Reply::Error(failure), _))) => {
                Err(ClientError::Refused { party: self.party, doing: self.doing, failure })
            }
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(self.lost("it ended the stream")),
            Err(FrameError::Read(error)) => Err(self.lost(error)),
            Err(error) => Err(ClientError::Nonsense {
                party: self.party,
                doing: self.doing,
                problem: error.to_string(),
            }),
        }
    }
}

/// After a party has failed, the others have so long to say why they failed.
const GRACE: Duration = Duration::from_secs(1);

/// The results of all three parties, or the most telling error.
async fn all<T>(
    a: impl Future<Output = Result<T, ClientError>>,
    b: impl Future<Output = Result<T, ClientError>>,
    c: impl Future<Output = Result<T, ClientError>>,
) -> Result<[T; 3], ClientError> {
    tokio::pin!(a, b, c);
    let mut results: [Option<T>; 3] = [None, None, None];
    let mut done = [false; 3];
    let mut worst: Option<ClientError> = None;
    let grace = tokio::time::sleep(GRACE);
    tokio::pin!(grace);
    while done != [true; 3] {
        let (party, result) = tokio::select! {
            result = &mut a, if !done[0] => (0, result),
            result = &mut b, if !done[1] => (1, result),
            result = &mut c, if !done[2] => (2, result),
            () = &mut grace, if worst.is_some() => break,
        };
        done[party] = true;
        match result {
            Ok(value) => results[party] = Some(value),
            Err(error) => {
                if worst.is_none() {
                    grace.as_mut().reset(tokio::time::Instant::now() + GRACE);
                }
                if worst.as_ref().is_none_or(|worst| worst.weight() < error.weight()) {
                    worst = Some(error);
                }
            }
        }
    }
    match (worst, results) {
        (None, [Some(a), Some(b), Some(c)]) => Ok([a, b, c]),
        (Some(error), _) => Err(error),
        (None, _) => Err(ClientError::Invalid {
            problem: "internal: an answer is missing".into(),
            remedy: "report this".into(),
        }),
    }
}
