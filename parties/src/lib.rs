//! Party processes, QUIC transport, client library and command line.
//!
//! Asynchronous code lives only in this crate. A party's transport and server run on one current-thread runtime; each
//! session has a blocking worker thread, which sees the network as a [`protocol::Network`] and drives the runtime while it
//! waits for a message.
//!
//! - [`config`], [`device`], [`weights`], [`cluster`], [`identity`], [`init`], [`ports`]: configuration, devices and keys.
//! - [`tls`], [`transport`]: mutually authenticated QUIC with pinned identities, links of sessions.
//! - [`keys`], [`seal`]: pairwise keys of the shared streams, sealed input shares.
//! - [`wire`], [`server`], [`client`], [`engine`]: clients and parties, and what runs the models.
//! - [`relay`]: networks on one machine, for measuring; [`netbench`]: the transport beside others.
//! - [`store`], [`owner`], [`private`]: a party's shares of models, sharing them, asking them.
//! - [`sampling`], [`draft`]: choosing a token from scores, guessing tokens ahead.

pub mod client;
pub mod cluster;
pub mod config;
pub mod device;
pub mod draft;
pub mod engine;
pub mod identity;
pub mod ids;
pub mod init;
pub mod keys;
pub mod netbench;
pub mod owner;
pub mod ports;
pub mod private;
pub mod relay;
pub mod sampling;
pub mod seal;
pub mod server;
pub mod store;
pub mod tls;
pub mod transport;
pub mod weights;
pub mod wire;

/// Logs to standard error; `RUST_LOG` chooses how much, `info` by default.
pub fn init_logging() {
    use std::io::IsTerminal as _;
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    let _ = log.with_writer(std::io::stderr).try_init();
}
