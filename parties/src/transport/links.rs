//! A session's links as the protocol sees them: blocking calls of a worker thread, roles in the place of parties.

use super::{
    Inner,
    queue::{End, Queue},
    session::Shared,
    spin,
};
use crate::ids::SessionId;
use bytes::Bytes;
use protocol::{NetError, Network, Party, Role};
use std::{fmt, sync::Arc};

/// One session's links to the two other parties. Dropping it ends the streams cleanly: what was sent is still
/// delivered. Dropping it in a panic aborts the session at all parties.
pub struct SessionLinks {
    shared: Arc<Shared>,
    inner: Arc<Inner>,
    max_message: usize,
}

/// Aborts a session from anywhere.
#[derive(Clone)]
pub struct AbortHandle {
    shared: Arc<Shared>,
}

impl AbortHandle {
    /// Fails the session here and at the other parties with this reason. The reason travels: no secrets in it.
    pub fn abort(&self, reason: &str) {
        abort(&self.shared, reason);
    }

    /// Why the session has failed, if it has.
    pub fn failure(&self) -> Option<NetError<Party>> {
        self.shared.failure().cloned()
    }

    /// Resolves when the session has failed or is closed.
    pub async fn ended(&self) {
        self.shared.reached(super::session::Phase::Closed).await;
    }
}

fn abort(shared: &Arc<Shared>, reason: &str) {
    let party = shared.party;
    shared.fail(NetError::Lost { peer: party, reason: format!("{party} broke off: {reason}") }, true);
}

impl SessionLinks {
    pub(crate) fn new(shared: Arc<Shared>, inner: Arc<Inner>) -> Self {
        let max_message = inner.max_message;
        Self { shared, inner, max_message }
    }

    /// The session.
    pub fn id(&self) -> SessionId {
        self.shared.id
    }

    /// This party.
    pub fn party(&self) -> Party {
        self.shared.party
    }

    /// Its part in the session.
    pub fn role(&self) -> Role {
        self.shared.party.role(self.shared.dealer)
    }

    /// Fails the session here and at the other parties with this reason. The reason travels: no secrets in it.
    pub fn abort(&self, reason: &str) {
        abort(&self.shared, reason);
    }

    /// For aborting from another thread.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle { shared: self.shared.clone() }
    }

    fn ended(&self, peer: Party, end: End) -> NetError<Party> {
        match (self.shared.failure(), end) {
            (Some(error), _) => error.clone(),
            (None, End::Failed(error)) => error,
            (None, End::Finished) => NetError::Lost { peer, reason: "it has ended the session".into() },
        }
    }

    fn no_link(&self, direction: &'static str, peer: Party) -> NetError<Party> {
        let reason = if peer == self.party() {
            "that is this party itself".into()
        } else {
            "nothing is sent to the dealer within a session".to_owned()
        };
        NetError::Bad { direction, peer, reason }
    }

    fn push(&self, to: Party, message: Vec<u8>) -> Result<(), NetError<Party>> {
        let queue: &Queue<Bytes> =
            self.shared.outgoing[to.index()].as_ref().ok_or_else(|| self.no_link("to", to))?;
        if message.len() > self.max_message {
            let reason = format!(
                "{} bytes; at most {} are allowed (limits.max_message_bytes)",
                message.len(),
                self.max_message
            );
            return Err(NetError::Bad { direction: "to", peer: to, reason });
        }
        let message = Bytes::from(message);
        let driven = match &self.inner.reactor {
            Some(reactor) if !queue.takes(message.len()) => reactor.drive(queue.push(message.clone())),
            _ => None,
        };
        driven.unwrap_or_else(|| queue.push_blocking(message)).map_err(|end| self.ended(to, end))
    }

    fn pop(&self, from: Party) -> Result<Vec<u8>, NetError<Party>> {
        let queue = self.shared.incoming[from.index()].as_ref().ok_or_else(|| self.no_link("from", from))?;
        let spin = self.inner.spin;
        let drive =
            || self.inner.reactor.as_ref().and_then(|reactor| reactor.drive(spin::awake(spin, queue.pop())));
        let popped = queue.pop_now().or_else(drive);
        popped.unwrap_or_else(|| queue.pop_blocking(spin)).map_err(|end| self.ended(from, end))
    }

    /// The worker sends nothing for a while and expects nothing: the transport's own thread takes over.
    pub(crate) fn pause(&self) {
        if let Some(reactor) = &self.inner.reactor {
            reactor.release();
        }
    }

    /// An error as the protocol sees it.
    fn in_session(&self, error: NetError<Party>) -> NetError {
        error.named(|party| party.role(self.shared.dealer))
    }
}

impl Network for SessionLinks {
    fn send(&mut self, to: Role, message: Vec<u8>) -> Result<(), NetError> {
        self.push(to.party(self.shared.dealer), message).map_err(|e| self.in_session(e))
    }

    fn recv(&mut self, from: Role) -> Result<Vec<u8>, NetError> {
        self.pop(from.party(self.shared.dealer)).map_err(|e| self.in_session(e))
    }

    fn room(&self, to: Role, bytes: usize) -> bool {
        let to = to.party(self.shared.dealer).index();
        self.shared.outgoing[to].as_ref().is_none_or(|queue| queue.takes(bytes))
    }

    fn capacity(&self) -> usize {
        let queues = self.shared.outgoing.iter().flatten();
        let sizes =
            queues.map(Queue::capacity).chain(self.shared.incoming.iter().flatten().map(Queue::capacity));
        sizes.min().unwrap_or(0)
    }
}

impl Drop for SessionLinks {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort("its worker failed; see its log");
        } else {
            self.shared.close();
        }
        self.inner.rendezvous.remove(self.shared.id, &self.shared);
    }
}

impl fmt::Debug for SessionLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionLinks({} of {})", self.party(), self.id().short())
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AbortHandle({})", self.shared.id.short())
    }
}
