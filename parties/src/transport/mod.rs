//! QUIC between the parties: one endpoint per process, one connection per pair, a stream per session and direction.
//!
//! Everything asynchronous runs on one current-thread runtime. Workers use [`SessionLinks`], whose calls block; on a
//! [`Reactor`] a worker that waits drives the transport itself.

mod endpoint;
pub(crate) mod frame;
mod links;
mod open;
mod peers;
mod queue;
mod reactor;
mod rendezvous;
mod session;
mod spin;
#[cfg(test)]
mod tests;

pub use links::{AbortHandle, SessionLinks};
pub use peers::dials;
pub(crate) use peers::{CLOSE_BUSY, CLOSE_SHUTDOWN, resolve};
pub use reactor::Reactor;

use crate::{
    config::{PartyConfig, Peer, TransportSettings},
    identity::Identity,
    ids::{Digest, PublicKey, SessionId},
    keys::{KeyError, StaticSecret},
    tls::{self, ClientIdentity, Directory},
};
use protocol::{NetError, Party};
use quinn::{
    Connection, Endpoint,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rendezvous::Rendezvous;
use session::notify;
use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

/// Why the transport does not start, or a session is not opened.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Another process listens there.
    #[error("{address} is in use by another process; end it, or choose another `listen` address")]
    PortInUse {
        /// Where.
        address: SocketAddr,
    },
    /// The socket cannot be bound.
    #[error("cannot listen on {address}: {error}; correct `listen`")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// TLS cannot be set up with these keys.
    #[error("TLS: {0}; make new keys with `catamount cluster init DIR`")]
    Tls(String),
    /// There is no connection to another party.
    #[error(
        "no connection from {own} to {peer}; see that {peer} runs and that its address is right in the configuration"
    )]
    NoConnection {
        /// This party.
        own: Party,
        /// The other.
        peer: Party,
    },
    /// The other parties' halves of a session did not come.
    #[error("{peer} has not joined session {} within {seconds} s; ask all three parties at the same time", .session.short())]
    NotJoined {
        /// Who is missing.
        peer: Party,
        /// The session.
        session: SessionId,
        /// The time it had.
        seconds: u64,
    },
    /// The parties are not about to do the same.
    #[error(
        "{own} and {peer} disagree on {what}: {ours} at {own}, {theirs} at {peer}; share the same model with all three parties"
    )]
    Disagreement {
        /// This party.
        own: Party,
        /// The other.
        peer: Party,
        /// What they disagree on.
        what: &'static str,
        /// This party's value.
        ours: String,
        /// The other's.
        theirs: String,
    },
    /// The session id is in use.
    #[error("session {} is already open at {own}; choose a fresh random id", .session.short())]
    InUse {
        /// This party.
        own: Party,
        /// The session.
        session: SessionId,
    },
    /// Lost, or aborted by a peer.
    #[error(transparent)]
    Net(#[from] NetError<Party>),
    /// No keys.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What the parties must agree on before a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSpec {
    /// The session.
    pub session: SessionId,
    /// Attempt (epoch) number.
    pub attempt: u32,
    /// Who deals.
    pub dealer: Party,
    /// What is computed.
    pub program: Digest,
}

/// A client that has connected, known by its certificate.
#[derive(Debug, Clone)]
pub(crate) struct ClientConnection {
    pub(crate) identity: Arc<ClientIdentity>,
    pub(crate) connection: Connection,
}

/// Clients as they connect.
pub struct Clients {
    waiting: mpsc::Receiver<ClientConnection>,
}

impl Clients {
    pub(crate) async fn next(&mut self) -> Option<ClientConnection> {
        self.waiting.recv().await
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

pub(crate) struct Inner {
    pub(crate) party: Party,
    pub(crate) endpoint: Endpoint,
    pub(crate) directory: Arc<Directory>,
    pub(crate) links: [Option<watch::Sender<Option<Connection>>>; 3],
    pub(crate) rendezvous: Rendezvous,
    /// How long a worker that waits stays awake.
    pub(crate) spin: Duration,
    /// Workers may drive it.
    pub(crate) reactor: Option<Arc<Reactor>>,
    pub(crate) max_message: usize,
    secret: StaticSecret,
    public: [Option<PublicKey>; 3],
    queue: usize,
    wait: Duration,
    closing: AtomicBool,
    writers: AtomicUsize,
    drained: Notify,
}

impl Inner {
    pub(crate) fn closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

/// A party's end of the network.
pub struct Transport {
    inner: Arc<Inner>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Clients that may wait to be served.
const CLIENT_BACKLOG: usize = 64;
/// How long a shutdown waits for data on the way.
const DRAIN: Duration = Duration::from_secs(3);

impl Transport {
    /// Binds the socket, begins to dial and to accept. Clients that connect come out of the receiver. Must be called on a
    /// tokio runtime, best a current-thread one of its own, which alone drives the transport.
    ///
    /// # Errors
    /// The address cannot be bound, or the keys are unusable.
    pub fn start(config: &PartyConfig) -> Result<(Self, Clients), TransportError> {
        Self::start_with(config, None)
    }

    /// The same on a reactor, for its `start`: workers that wait for messages drive the transport.
    ///
    /// # Errors
    /// As [`Transport::start`].
    pub fn start_on(reactor: &Arc<Reactor>, config: &PartyConfig) -> Result<(Self, Clients), TransportError> {
        Self::start_with(config, Some(reactor.clone()))
    }

    fn start_with(
        config: &PartyConfig,
        reactor: Option<Arc<Reactor>>,
    ) -> Result<(Self, Clients), TransportError> {
        let party = config.party;
        let settings = &config.transport;
        let streams = endpoint::max_streams(config.limits.max_sessions);
        let directory = Arc::new(Directory::new(&config.peers, &config.clients));
        let tls = tls::server_config(&config.identity, party, directory.clone()).map_err(tls_error)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(tls_error)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(endpoint::transport_config(settings, streams))
            .max_incoming(256)
            .migration(false);
        let endpoint = endpoint::bind(config.listen, settings, Some(server))?;
        let inner = Arc::new(Inner {
            party,
            endpoint,
            directory,
            links: Party::ALL.map(|peer| (peer != party).then(|| watch::channel(None).0)),
            rendezvous: Rendezvous::new(2 * config.limits.max_sessions + 8),
            spin: Duration::from_micros(settings.spin_microseconds),
            reactor,
            max_message: config.limits.max_message_bytes,
            secret: config.secret.clone(),
            public: Party::ALL.map(|peer| config.peer(peer).map(|peer| peer.x25519)),
            queue: settings.link_queue_bytes,
            wait: config.limits.rendezvous(),
            closing: AtomicBool::new(false),
            writers: AtomicUsize::new(0),
            drained: Notify::new(),
        });
        let (clients, waiting) = mpsc::channel(CLIENT_BACKLOG);
        let mut tasks =
            vec![tokio::spawn(peers::accept(inner.clone(), clients)), tokio::spawn(expire(inner.clone()))];
        for peer in config.peers.iter().filter(|peer| peers::dials(party, peer.party)) {
            let client = client_config(&config.identity, peer, settings, streams)?;
            tasks.push(tokio::spawn(peers::dial(inner.clone(), peer.clone(), client)));
        }
        Ok((Self { inner, tasks: Mutex::new(tasks) }, Clients { waiting }))
    }

    /// Where it listens.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.inner.endpoint.local_addr().ok()
    }

    /// Tells the other parties that this one does not take part in a session that was never opened here.
    pub(crate) fn refuse(&self, session: SessionId, reason: &str) {
        for link in self.inner.links.iter().flatten() {
            if let Some(connection) = link.borrow().clone() {
                tokio::spawn(notify(connection, session, self.inner.party, reason.to_owned()));
            }
        }
    }

    /// Aborts all sessions with `reason`, waits for what is on the way, closes all connections.
    pub async fn shutdown(&self, reason: &str) {
        let inner = &self.inner;
        inner.closing.store(true, Ordering::Relaxed);
        for shared in inner.rendezvous.open_sessions() {
            let error = NetError::Lost { peer: inner.party, reason: format!("{} {reason}", inner.party) };
            shared.fail(error, true);
        }
        let drained = async {
            loop {
                let notified = inner.drained.notified();
                if inner.writers.load(Ordering::Relaxed) == 0 {
                    return;
                }
                // Looks again now and then: a writer may end between the two lines above.
                let _ = timeout(Duration::from_millis(50), notified).await;
            }
        };
        let _ = timeout(DRAIN, drained).await;
        let tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
        inner.endpoint.close(CLOSE_SHUTDOWN, format!("{} {reason}", inner.party).as_bytes());
        let _ = timeout(Duration::from_secs(1), inner.endpoint.wait_idle()).await;
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({})", self.inner.party)
    }
}

fn tls_error(error: impl fmt::Display) -> TransportError {
    TransportError::Tls(error.to_string())
}

/// quinn's configuration for dialling `peer`.
fn client_config(
    identity: &Identity,
    peer: &Peer,
    settings: &TransportSettings,
    streams: u32,
) -> Result<quinn::ClientConfig, TransportError> {
    let tls = tls::client_config(identity, peer).map_err(tls_error)?;
    let crypto = QuicClientConfig::try_from(tls).map_err(tls_error)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(endpoint::transport_config(settings, streams));
    Ok(config)
}

/// An endpoint that only dials, and one configuration per party: what a client needs.
pub(crate) fn client_endpoint(
    identity: &Identity,
    parties: &[Peer; 3],
    settings: &TransportSettings,
) -> Result<(Endpoint, [quinn::ClientConfig; 3]), TransportError> {
    let [a, b, c] = parties;
    let config = |peer| client_config(identity, peer, settings, 16);
    let configs = [config(a)?, config(b)?, config(c)?];
    let endpoint = endpoint::bind(SocketAddr::from(([0, 0, 0, 0], 0)), settings, None)?;
    Ok((endpoint, configs))
}

/// Tells peers of sessions that no client has asked for here.
async fn expire(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        ticks.tick().await;
        for (connection, session) in inner.rendezvous.expire(inner.wait) {
            let reason = format!(
                "no client has asked {} for this session within {} s; ask all three parties at the same time",
                inner.party,
                inner.wait.as_secs()
            );
            tokio::spawn(notify(connection, session, inner.party, reason));
        }
    }
}
