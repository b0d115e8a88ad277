//! What the three parties do together: replicated shares over Z_2^64 with a dealer that runs ahead.
//!
//! Every private value is x = λ + Δ. The dealer P0 knows the pseudo-random mask λ, the evaluators P1 and P2 know Δ
//! and half of λ each. A gate has two primitives only: the dealer's [`Cx::deal`] (shares of something it knows, sent
//! ahead) and the evaluators' [`Cx::open`] (a value opened under fresh masks, one exchange). Everything a party
//! receives is masked by a stream it does not know; see [`registry`](Registry) for the rule and its enforcement.

mod cost;
mod cx;
mod error;
pub mod gates;
mod join;
mod net;
mod prg;
pub mod profile;
mod registry;
mod role;
mod share;
pub mod testing;
mod weights;

pub use cost::{Cost, Ledger, bytes};
pub use cx::{Ahead, Cx, Group, Item, Masked, Op, Pads, Sent, Session, Step};
pub use error::{Error, Result};
pub use join::{join, join_all};
pub use net::{NetError, Network};
pub use prg::{ChaChaStreams, Key, KeyId, Purpose, Streams};
pub use registry::{PadUse, Registry};
pub use role::{Party, Role};
pub use share::{Factor, Product, Shape, Share, Taken};
pub use weights::{Component, DrawnMatrix, Seed, SharedMatrix, coefficients};
