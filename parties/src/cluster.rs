//! The cluster file: what a client or model owner needs to reach the three parties.

use crate::{
    config::{At, ConfigError, IdentityConfig, PartyEntry, Peer, TransportSettings, peers, read_toml},
    identity::Identity,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    identity: IdentityConfig,
    parties: Vec<PartyEntry>,
    #[serde(default)]
    transport: TransportSettings,
}

/// The three parties and the client's own identity.
#[derive(Debug)]
pub struct ClusterConfig {
    /// Where it came from.
    pub file: PathBuf,
    /// The parties, in the order of their roles.
    pub parties: [Peer; 3],
    /// The client's TLS identity.
    pub identity: Identity,
    /// Transport settings.
    pub transport: TransportSettings,
}

impl ClusterConfig {
    /// Reads and checks a cluster file and the key files that it names.
    ///
    /// # Errors
    /// Names the file, the key in it and what to do.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let raw: ClusterFile =
            read_toml(file, "a cluster file has [identity], three [[parties]] and optionally [transport]")?;
        let at = At { file, key: "parties" };
        let parties = peers(&raw.parties, None, at)?
            .try_into()
            .map_err(|_| at.error("not three parties", "list each of the roles 0, 1 and 2 once"))?;
        raw.transport.validate(file)?;
        let identity = Identity::load(&raw.identity, file)?;
        Ok(Self { file: file.to_owned(), parties, identity, transport: raw.transport })
    }
}
