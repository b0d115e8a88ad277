//! The party process: accepts clients, dispatches their requests, runs sessions until it is told to stop.

mod requests;
mod session;

use crate::{
    config::{ConfigError, PartyConfig},
    device::{DeviceChoice, NoDevice},
    engine::Engine,
    keys::StaticSecret,
    store::ModelStore,
    transport::{CLOSE_BUSY, ClientConnection, Clients, Reactor, Transport, TransportError},
    weights::WeightsChoice,
};
use protocol::Party;
use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::sync::Semaphore;

/// Why a party does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its network does not start.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The runtime or the signal handlers do not start.
    #[error("the process cannot start: {0}")]
    Process(#[from] io::Error),
    /// Its device cannot be opened.
    #[error(transparent)]
    Device(#[from] NoDevice),
    /// The engine does not start.
    #[error("the engine cannot start: {0}")]
    Engine(String),
}

/// Connections that one client may have at the same time.
const CONNECTIONS_PER_CLIENT: usize = 8;

/// What all tasks of a party share.
pub(crate) struct Shared {
    party: Party,
    secret: StaticSecret,
    limits: crate::config::Limits,
    transport: Transport,
    engine: Arc<dyn Engine>,
    sessions: Arc<Semaphore>,
    /// Connections by client.
    connections: Mutex<HashMap<crate::ids::Fingerprint, usize>>,
}

/// A running party.
pub struct Server {
    shared: Arc<Shared>,
    clients: Clients,
}

impl Server {
    /// Binds the socket and begins to connect to the other parties, in the start of a reactor.
    ///
    /// # Errors
    /// The address is in use, or the keys are unusable.
    pub fn start(
        reactor: &Arc<Reactor>,
        config: &PartyConfig,
        engine: Arc<dyn Engine>,
    ) -> Result<Self, ServerError> {
        let (transport, clients) = Transport::start_on(reactor, config)?;
        let shared = Arc::new(Shared {
            party: config.party,
            secret: config.secret.clone(),
            limits: config.limits.clone(),
            transport,
            engine,
            sessions: Arc::new(Semaphore::new(config.limits.max_sessions)),
            connections: Mutex::default(),
        });
        Ok(Self { shared, clients })
    }

    /// Where it listens.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.shared.transport.local_address()
    }

    /// Serves until `stop` resolves, then tells everyone and closes.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                client = self.clients.next() => match client {
                    Some(client) => {
                        tokio::spawn(serve_client(self.shared.clone(), client));
                    }
                    None => break,
                },
            }
        }
        self.shared.transport.shutdown("is shutting down").await;
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.shared.party)
    }
}

async fn serve_client(shared: Arc<Shared>, client: ClientConnection) {
    let ClientConnection { identity, connection } = client;
    let count = |change: fn(&mut usize)| {
        let mut all = shared.connections.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = all.entry(identity.fingerprint).or_default();
        change(count);
        *count
    };
    if count(|n| *n += 1) <= CONNECTIONS_PER_CLIENT {
        tracing::info!("client {} has connected from {}", identity.name, connection.remote_address());
        while let Ok((send, receive)) = connection.accept_bi().await {
            tokio::spawn(requests::serve(shared.clone(), identity.clone(), send, receive));
        }
        tracing::info!("client {} has gone", identity.name);
    } else {
        let reason = format!("{} has too many connections of this client; close some", shared.party);
        connection.close(CLOSE_BUSY, reason.as_bytes());
    }
    count(|n| *n -= 1);
}

/// Runs the party that `config` describes until Ctrl-C or SIGTERM. Blocks. `engine` makes its engine.
///
/// # Errors
/// The network or the engine.
pub fn run_party_with(
    config: &PartyConfig,
    engine: impl FnOnce(&PartyConfig) -> Result<Arc<dyn Engine>, ServerError>,
) -> Result<(), ServerError> {
    let engine = engine(config)?;
    let party = config.party;
    // A worker in a long computation does not hold the process up.
    Reactor::run(|reactor| {
        let stop = stop_signal()?;
        let server = Server::start(reactor, config, engine)?;
        tracing::info!("{party} listens on {}", config.listen);
        Ok::<_, ServerError>(server.run(stop))
    })?;
    tracing::info!("{party} has stopped");
    Ok(())
}

/// Runs a party with the engine of this build, on `device` and with `weights` if they are given and else with its
/// configuration's.
///
/// # Errors
/// The configuration, the device, and as [`run_party_with`].
pub fn run_party(
    config: &Path,
    device: Option<DeviceChoice>,
    weights: Option<WeightsChoice>,
) -> Result<(), ServerError> {
    if !kernels::keep_freed_memory() {
        tracing::debug!("the allocator of this system is left as it is");
    }
    let mut config = PartyConfig::load(config)?;
    config.device = device.unwrap_or(config.device);
    config.weights = weights.unwrap_or(config.weights);
    run_party_with(&config, |config| {
        let device = config.device.open()?;
        Ok(Arc::new(ModelStore::on(config, device).map_err(ServerError::Engine)?))
    })
}

/// Resolves at Ctrl-C or SIGTERM, which no longer end the process from now on. Must be called on a tokio runtime.
///
/// # Errors
/// The handlers cannot be set.
#[cfg(unix)]
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Resolves at Ctrl-C. Must be called on a tokio runtime.
///
/// # Errors
/// None here.
#[cfg(not(unix))]
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}
