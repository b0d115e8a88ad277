use crate::{NetError, Role};
use kernels::DeviceError;

/// Why a secure computation stopped. Nothing secret is in it.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum Error {
    /// The transport failed.
    #[error("at {scope}: {source}")]
    Net {
        /// Where in the program.
        scope: String,
        /// What happened.
        source: NetError,
    },
    /// A message does not belong to this place of the program.
    #[error(
        "at {scope}: {peer} runs a different program or is out of step ({what}); all parties need the same version, model and request"
    )]
    Diverged {
        /// Where in the program.
        scope: String,
        /// Whose message.
        peer: Role,
        /// What does not fit.
        what: String,
    },
    /// This party's device failed. Nothing that it computed since then was sent.
    #[error("{role} at {scope}: {source}")]
    Device {
        /// Whose device.
        role: Role,
        /// Where in the program.
        scope: String,
        /// What happened.
        source: DeviceError,
    },
    /// A value in the clear left the range its gate is built for.
    #[error("at {scope}: value {value} outside [{low}, {high}); share the model again with a wider range")]
    Range {
        /// Which gate.
        scope: String,
        /// The value, in units of the model.
        value: f64,
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
}

/// Result of a gate.
pub type Result<T> = std::result::Result<T, Error>;
