//! A party's configuration file: TOML, unknown keys refused, every default printable.

mod limits;

use crate::{
    device::DeviceChoice,
    identity::Identity,
    ids::{Fingerprint, PublicKey},
    keys::StaticSecret,
    weights::WeightsChoice,
};
use limits::MOST_SEQUENCES;
use protocol::Party;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

pub use limits::{Dealing, Limits};

/// What is wrong with a configuration, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable as this kind of file.
    #[error("{file}: {problem}\n{remedy}", file = file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// What the parser says, with the line and the key.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A key has a value that cannot be used.
    #[error("{file}: {key}: {problem}; {remedy}", file = file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The key in it.
        key: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

/// Where a problem is: gives errors their file and key.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) file: &'a Path,
    pub(crate) key: &'a str,
}

impl At<'_> {
    pub(crate) fn error(self, problem: impl Into<String>, remedy: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            file: self.file.to_owned(),
            key: self.key.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// An identity as a configuration names it: files beside the configuration, or the PEM texts themselves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// File with the certificate (PEM).
    pub certificate: Option<PathBuf>,
    /// File with its private key (PEM), readable by the owner only.
    pub key: Option<PathBuf>,
    /// The certificate itself, instead of a file.
    pub certificate_pem: Option<String>,
    /// The private key itself, instead of a file.
    pub key_pem: Option<String>,
}

/// Another party, as a party or a client knows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartyEntry {
    /// 0, 1 or 2: which party.
    pub role: u8,
    /// `host:port`.
    pub address: String,
    /// SHA-256 of its certificate.
    pub fingerprint: Fingerprint,
    /// Its X25519 public key.
    pub x25519: PublicKey,
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// Open sessions.
    Ask,
    /// Store and delete models.
    ShareModel,
}

/// A client that a party serves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientEntry {
    /// For logs.
    pub name: String,
    /// SHA-256 of its certificate.
    pub fingerprint: Fingerprint,
    /// What it may do.
    pub permissions: Vec<Permission>,
}

/// Settings of the QUIC transport.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransportSettings {
    /// Upper bound of MTU discovery, in bytes of UDP payload.
    pub mtu: u16,
    /// Size of each of the UDP socket's two buffers.
    pub socket_buffer_bytes: usize,
    /// Flow-control window of one stream. A connection's is this times the streams that `max_sessions` need.
    pub stream_window_bytes: u32,
    /// Bytes that wait in memory, per session, link and direction.
    pub link_queue_bytes: usize,
    /// How often an idle connection is probed.
    pub keep_alive_milliseconds: u64,
    /// A peer that is silent for so long is lost.
    pub idle_timeout_milliseconds: u64,
    /// How long a worker that waits for a message stays awake before it sleeps.
    pub spin_microseconds: u64,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            mtu: 8900,
            socket_buffer_bytes: 4 << 20,
            stream_window_bytes: 16 << 20,
            link_queue_bytes: 32 << 20,
            keep_alive_milliseconds: 1000,
            idle_timeout_milliseconds: 4000,
            spin_microseconds: 300,
        }
    }
}

impl TransportSettings {
    pub(crate) fn validate(&self, file: &Path) -> Result<(), ConfigError> {
        let at = |key| At { file, key };
        if !(1200..=65_507).contains(&self.mtu) {
            return Err(at("transport.mtu").error(format!("{}", self.mtu), "give 1200 to 65507"));
        }
        if self.stream_window_bytes < 64 << 10 || self.link_queue_bytes < 64 << 10 {
            return Err(at("transport.stream_window_bytes, transport.link_queue_bytes")
                .error("less than 65536", "give 65536 or more"));
        }
        if self.keep_alive_milliseconds == 0
            || self.idle_timeout_milliseconds < 2 * self.keep_alive_milliseconds
        {
            return Err(at("transport.idle_timeout_milliseconds").error(
                "shorter than two keep-alive periods",
                "give at least twice transport.keep_alive_milliseconds, which is at least 1",
            ));
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartyIdentityConfig {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    certificate_pem: Option<String>,
    key_pem: Option<String>,
    x25519: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartyFile {
    role: u8,
    listen: std::net::SocketAddr,
    #[serde(default)]
    device: DeviceChoice,
    #[serde(default)]
    weights: WeightsChoice,
    identity: PartyIdentityConfig,
    parties: Vec<PartyEntry>,
    #[serde(default)]
    clients: Vec<ClientEntry>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    transport: TransportSettings,
}

/// A party's configuration, checked, with its keys loaded.
#[derive(Debug)]
pub struct PartyConfig {
    /// Where it came from.
    pub file: PathBuf,
    /// Which party this is.
    pub party: Party,
    /// Where it listens.
    pub listen: std::net::SocketAddr,
    /// What it computes on.
    pub device: DeviceChoice,
    /// How it keeps its weights.
    pub weights: WeightsChoice,
    /// Its TLS identity.
    pub identity: Identity,
    /// Its X25519 secret.
    pub secret: StaticSecret,
    /// The two others, in order.
    pub peers: [Peer; 2],
    /// Whom it serves.
    pub clients: Vec<ClientEntry>,
    /// Its limits; paths resolved.
    pub limits: Limits,
    /// Its transport settings.
    pub transport: TransportSettings,
}

/// A party as the others know it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Which one.
    pub party: Party,
    /// `host:port`.
    pub address: String,
    /// Its pinned certificate.
    pub fingerprint: Fingerprint,
    /// Its X25519 public key.
    pub x25519: PublicKey,
}

impl PartyConfig {
    /// Reads and checks a party's configuration and the key files that it names.
    ///
    /// # Errors
    /// Names the file, the key in it and what to do.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let raw: PartyFile = read_toml(file, "`party --print-defaults` shows every key")?;
        let at = |key| At { file, key };
        let party = party_of(raw.role, at("role"))?;
        let peers = peers(&raw.parties, Some(party), at("parties"))?;
        let [a, b]: [Peer; 2] =
            peers.try_into().map_err(|_| at("parties").error("not two", "list the two other parties"))?;
        let identity = Identity::load(
            &IdentityConfig {
                certificate: raw.identity.certificate,
                key: raw.identity.key,
                certificate_pem: raw.identity.certificate_pem,
                key_pem: raw.identity.key_pem,
            },
            file,
        )?;
        let secret = read_secret(&raw.identity.x25519, at("identity.x25519"))?;
        check_names(&identity, &[&a, &b], &raw.clients, at("clients"))?;
        if secret.public() == a.x25519 || secret.public() == b.x25519 || a.x25519 == b.x25519 {
            return Err(at("parties.x25519").error("two parties have the same key", "give each its own"));
        }
        if raw.limits.max_sessions == 0 || raw.limits.max_sessions > 1000 {
            return Err(at("limits.max_sessions").error("out of range", "give 1 to 1000"));
        }
        if !(1..=MOST_SEQUENCES).contains(&raw.limits.max_sequences) {
            return Err(at("limits.max_sequences").error("out of range", "give 1 to 256"));
        }
        if !(4096..=1 << 30).contains(&raw.limits.max_message_bytes) {
            return Err(at("limits.max_message_bytes").error("out of range", "give 4096 to 1073741824"));
        }
        if raw.limits.idle_session_seconds == 0 || raw.limits.rendezvous_seconds == 0 {
            return Err(at("limits").error("a time of 0 seconds", "give 1 second or more"));
        }
        raw.transport.validate(file)?;
        let mut limits = raw.limits;
        if !limits.model_directory.as_os_str().is_empty() {
            limits.model_directory = beside(file, &limits.model_directory);
        }
        Ok(Self {
            file: file.to_owned(),
            party,
            listen: raw.listen,
            device: raw.device,
            weights: raw.weights,
            identity,
            secret,
            peers: [a, b],
            clients: raw.clients,
            limits,
            transport: raw.transport,
        })
    }

    /// The text of a party's configuration with every key, its meaning and its default.
    pub fn defaults_toml() -> &'static str {
        include_str!("party.defaults.toml")
    }

    /// What is known of another party.
    pub fn peer(&self, party: Party) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.party == party)
    }
}

fn check_names(
    identity: &Identity,
    peers: &[&Peer],
    clients: &[ClientEntry],
    at: At<'_>,
) -> Result<(), ConfigError> {
    let mut seen = HashSet::from([identity.fingerprint()]);
    let all = peers.iter().map(|p| (p.fingerprint, p.party.to_string()));
    for (fingerprint, name) in all.chain(clients.iter().map(|c| (c.fingerprint, c.name.clone()))) {
        if !seen.insert(fingerprint) {
            return Err(at.error(
                format!("the fingerprint of {name} ({}) is somebody else's too", fingerprint.short()),
                "an identity has one role: give each party and client its own certificate",
            ));
        }
    }
    Ok(())
}

pub(crate) fn party_of(number: u8, at: At<'_>) -> Result<Party, ConfigError> {
    Party::ALL
        .get(usize::from(number))
        .copied()
        .ok_or_else(|| at.error(format!("{number} is no role"), "give 0, 1 or 2"))
}

/// Checks that the parties are all but `own`, each once, at different addresses; sorts them.
pub(crate) fn peers(
    entries: &[PartyEntry],
    own: Option<Party>,
    at: At<'_>,
) -> Result<Vec<Peer>, ConfigError> {
    let mut peers: Vec<Peer> = Vec::with_capacity(3);
    for entry in entries {
        let party = party_of(entry.role, at)?;
        if Some(party) == own {
            return Err(at.error(
                format!("role {} is this party's own", entry.role),
                "list only the two other parties, or correct `role`",
            ));
        }
        if peers.iter().any(|p| p.party == party) {
            return Err(
                at.error(format!("role {} appears twice", entry.role), "give each party its own role")
            );
        }
        if peers.iter().any(|p| p.address == entry.address) {
            return Err(at.error(
                format!("the address {} appears twice", entry.address),
                "give each party its own address",
            ));
        }
        if peers.iter().any(|p| p.fingerprint == entry.fingerprint || p.x25519 == entry.x25519) {
            return Err(at.error(
                format!("{party} has the keys of another party"),
                "give each party its own certificate and X25519 key",
            ));
        }
        let port = entry.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            return Err(at.error(
                format!("the address {:?} of {party} has no port", entry.address),
                "write host:port",
            ));
        }
        peers.push(Peer {
            party,
            address: entry.address.clone(),
            fingerprint: entry.fingerprint,
            x25519: entry.x25519,
        });
    }
    if let Some(missing) =
        Party::ALL.into_iter().find(|&party| Some(party) != own && peers.iter().all(|p| p.party != party))
    {
        return Err(
            at.error(format!("role {} is missing", missing.index()), "add a [[parties]] table for it")
        );
    }
    peers.sort_by_key(|peer| peer.party);
    Ok(peers)
}

pub(crate) fn read_toml<T: DeserializeOwned>(file: &Path, remedy: &str) -> Result<T, ConfigError> {
    let parse = |problem: String, remedy: &str| ConfigError::Parse {
        file: file.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    };
    let text = fs::read_to_string(file).map_err(|e| {
        parse(e.to_string(), "give the path of a configuration; `catamount cluster init DIR` writes them")
    })?;
    toml::from_str(&text).map_err(|e| parse(e.to_string().trim_end().to_owned(), remedy))
}

/// A path of a configuration file's, relative to that file.
pub(crate) fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// Reads a secret file: refuses one that others may read.
pub(crate) fn read_private(path: &Path, at: At<'_>) -> Result<String, ConfigError> {
    let path = beside(at.file, path);
    let show = path.display();
    let metadata = fs::metadata(&path).map_err(|e| {
        at.error(
            format!("{show}: {e}"),
            "correct the path, or make new keys with `catamount cluster init DIR`",
        )
    })?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(
                at.error(format!("{show}: other users may read it"), format!("run `chmod 600 {show}`"))
            );
        }
    }
    let _ = metadata;
    fs::read_to_string(&path)
        .map_err(|e| at.error(format!("{show}: {e}"), "make it readable to the user that runs this"))
}

fn read_secret(path: &Path, at: At<'_>) -> Result<StaticSecret, ConfigError> {
    let text = zeroize::Zeroizing::new(read_private(path, at)?);
    let bytes = text.trim().parse::<PublicKey>().map_err(|e| {
        at.error(format!("{}: {e}", beside(at.file, path).display()), "a secret is one line of 64 hex digits")
    })?;
    Ok(StaticSecret::from_bytes(bytes.0))
}
