//! Connections to the other parties and from clients: who dials, who is let in, what comes on their streams.

use super::{
    ClientConnection, Inner,
    frame::{CODE_ABORT, FrameError, Header, Messages, read_start},
    rendezvous::Arrival,
    session::{connection_loss, flows},
};
use crate::{
    config::Peer,
    tls::{Known, SERVER_NAME},
};
use protocol::{NetError, Party};
use quinn::{Connection, ConnectionError, Incoming, RecvStream, VarInt};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};

/// Connection close codes.
pub(crate) const CLOSE_SHUTDOWN: VarInt = VarInt::from_u32(0);
pub(crate) const CLOSE_UNKNOWN: VarInt = VarInt::from_u32(1);
pub(crate) const CLOSE_SUPERSEDED: VarInt = VarInt::from_u32(2);
pub(crate) const CLOSE_BUSY: VarInt = VarInt::from_u32(3);

const HANDSHAKE: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(2);
/// A stream's header must come within this time.
const HEADER: Duration = Duration::from_secs(5);

/// Whether `own` dials `peer`: the lower party of a pair does.
pub fn dials(own: Party, peer: Party) -> bool {
    own < peer
}

/// Keeps a connection to `peer`, for ever.
pub(crate) async fn dial(inner: Arc<Inner>, peer: Peer, config: quinn::ClientConfig) {
    let mut backoff = FIRST_BACKOFF;
    let mut last_problem = String::new();
    loop {
        match connect(&inner, &peer, &config).await {
            Ok(connection) => {
                backoff = FIRST_BACKOFF;
                last_problem.clear();
                tracing::info!("connected to {} at {}", peer.party, peer.address);
                install(&inner, peer.party, connection.clone());
                let reason = connection_loss(&connection.closed().await);
                if inner.closing() {
                    return;
                }
                tracing::warn!("lost {}: {reason}", peer.party);
            }
            Err(problem) => {
                if problem != last_problem {
                    tracing::warn!("cannot reach {} at {}: {problem}; trying on", peer.party, peer.address);
                    last_problem = problem;
                }
                if inner.closing() {
                    return;
                }
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(LAST_BACKOFF);
            }
        }
    }
}

async fn connect(inner: &Inner, peer: &Peer, config: &quinn::ClientConfig) -> Result<Connection, String> {
    let address = resolve(&peer.address).await?;
    let connecting =
        inner.endpoint.connect_with(config.clone(), address, SERVER_NAME).map_err(|e| e.to_string())?;
    match timeout(HANDSHAKE, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".into()),
    }
}

/// `host:port` to an address.
pub(crate) async fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut found = tokio::net::lookup_host(address).await.map_err(|e| e.to_string())?;
    found.next().ok_or_else(|| "the name has no address".into())
}

/// Accepts connections, for ever.
pub(crate) async fn accept(inner: Arc<Inner>, clients: mpsc::Sender<ClientConnection>) {
    while let Some(incoming) = inner.endpoint.accept().await {
        tokio::spawn(admit(inner.clone(), incoming, clients.clone()));
    }
}

async fn admit(inner: Arc<Inner>, incoming: Incoming, clients: mpsc::Sender<ClientConnection>) {
    let from = incoming.remote_address();
    let connection = match incoming.accept() {
        Ok(connecting) => match timeout(HANDSHAKE, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::warn!("refused {from}: {error}"),
            Err(_) => return tracing::warn!("{from} did not complete the handshake"),
        },
        Err(error) => return tracing::warn!("refused {from}: {error}"),
    };
    match inner.directory.classify(&connection) {
        Some(Known::Party(peer)) if dials(peer, inner.party) => {
            tracing::info!("{peer} has connected from {from}");
            install(&inner, peer, connection.clone());
            drop(clients);
            let closed = connection.closed().await;
            // A connection that a newer one has replaced is no loss.
            if !inner.closing() && closed != ConnectionError::LocallyClosed {
                tracing::warn!("lost {peer}: {}", connection_loss(&closed));
            }
        }
        Some(Known::Party(peer)) => {
            let reason = format!("{peer} is dialled by {}, not the other way round", inner.party);
            connection.close(CLOSE_UNKNOWN, reason.as_bytes());
        }
        Some(Known::Client(identity)) => {
            let client = ClientConnection { identity, connection: connection.clone() };
            if clients.try_send(client).is_err() {
                connection
                    .close(CLOSE_BUSY, format!("{} serves no more clients now", inner.party).as_bytes());
            }
        }
        // The handshake has refused it already.
        None => {
            connection.close(CLOSE_UNKNOWN, format!("{} does not know this identity", inner.party).as_bytes())
        }
    }
}

/// Makes `connection` the one to `peer`, and serves its streams until it closes.
fn install(inner: &Arc<Inner>, peer: Party, connection: Connection) {
    let Some(link) = &inner.links[peer.index()] else { return };
    if let Some(old) = link.send_replace(Some(connection.clone())) {
        old.close(CLOSE_SUPERSEDED, b"a newer connection takes its place");
    }
    let inner = inner.clone();
    tokio::spawn(async move {
        while let Ok(stream) = connection.accept_uni().await {
            tokio::spawn(receive(inner.clone(), peer, connection.clone(), stream));
        }
        if let Some(link) = &inner.links[peer.index()] {
            link.send_if_modified(|current| {
                let ours = current.as_ref().is_some_and(|c| c.stable_id() == connection.stable_id());
                if ours {
                    *current = None;
                }
                ours
            });
        }
    });
}

/// A stream of another party.
async fn receive(inner: Arc<Inner>, peer: Party, connection: Connection, mut stream: RecvStream) {
    let header = match timeout(HEADER, read_start::<Header>(&mut stream)).await {
        Ok(Ok(header)) => header,
        Ok(Err(FrameError::Read(_))) => return,
        Ok(Err(error)) => {
            tracing::warn!("a stream of {peer}: {error}");
            let _ = stream.stop(CODE_ABORT);
            return;
        }
        Err(_) => {
            let _ = stream.stop(CODE_ABORT);
            return;
        }
    };
    match header {
        Header::Abort { session, about, reason } => {
            let error = if about == inner.party {
                // Not so: this party is well, it is the way between the two that is not.
                let reason = format!("it has lost its connection to {about}: {reason}");
                NetError::Lost { peer, reason }
            } else {
                NetError::Lost { peer: about, reason }
            };
            inner.rendezvous.abort(session, error);
        }
        Header::Session(header) if flows(peer, inner.party, header.dealer) => {
            let messages = Messages::new(stream, inner.max_message);
            inner.rendezvous.arrive(peer, Arrival { header, messages, connection });
        }
        Header::Session(_) => {
            tracing::warn!("{peer} sends data to the dealer; refused");
            let _ = stream.stop(CODE_ABORT);
        }
    }
}
