//! What a party needs from a network: ordered, reliable, authenticated messages to and from the two others.

use crate::Role;

/// Why a message could not be sent or received. A program knows the others by their roles, a transport by who they are.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum NetError<Peer = Role> {
    /// The other end is gone (process ended, connection lost or reset), or the session was cancelled.
    #[error("lost {peer}: {reason}")]
    Lost {
        /// Who is gone.
        peer: Peer,
        /// What the transport knows about it.
        reason: String,
    },
    /// The transport refuses the message or what arrived is not one.
    #[error("bad message {direction} {peer}: {reason}")]
    Bad {
        /// `to` or `from`.
        direction: &'static str,
        /// The other end.
        peer: Peer,
        /// What is wrong with it.
        reason: String,
    },
}

impl<Peer> NetError<Peer> {
    /// The same about whom `name` makes of the other end.
    pub fn named<Other>(self, name: impl FnOnce(Peer) -> Other) -> NetError<Other> {
        match self {
            NetError::Lost { peer, reason } => NetError::Lost { peer: name(peer), reason },
            NetError::Bad { direction, peer, reason } => {
                NetError::Bad { direction, peer: name(peer), reason }
            }
        }
    }
}

/// One session's links of one party. Calls block; messages of one direction arrive whole and in order.
pub trait Network: Send {
    /// Hands a message to the transport. Blocks while the link's bounded queue is full.
    fn send(&mut self, to: Role, message: Vec<u8>) -> Result<(), NetError>;
    /// The next message from `from`; blocks until it is there or the link is lost.
    fn recv(&mut self, from: Role) -> Result<Vec<u8>, NetError>;
    /// Whether a message of so many bytes can be handed over without blocking: what nobody has asked for is sent only then.
    fn room(&self, to: Role, bytes: usize) -> bool {
        let _ = (to, bytes);
        false
    }
    /// Bytes that wait at most at one end of a link (one larger message by itself does, too).
    fn capacity(&self) -> usize {
        0
    }
}
