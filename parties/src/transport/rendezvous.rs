//! Where the halves of a session meet: streams of the other parties may come before or after the client's request.

use super::{
    frame::{Messages, SessionHeader},
    session::{Shared, flows},
};
use crate::ids::SessionId;
use protocol::{NetError, Party};
use quinn::Connection;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// A peer's stream of a session, its header read. Dropped, it is refused.
pub(crate) struct Arrival {
    pub(crate) header: SessionHeader,
    pub(crate) messages: Messages,
    pub(crate) connection: Connection,
}

struct Slot {
    arrived: [Option<Arrival>; 3],
    /// A peer has aborted it before it was opened here.
    aborted: Option<NetError<Party>>,
    open: Option<Arc<Shared>>,
    changed: Arc<Notify>,
    since: Instant,
}

impl Slot {
    fn new() -> Self {
        Self {
            arrived: [None, None, None],
            aborted: None,
            open: None,
            changed: Arc::default(),
            since: Instant::now(),
        }
    }
}

/// Sessions that are open here, and what has come for those that are not open yet.
pub(crate) struct Rendezvous {
    slots: Mutex<HashMap<SessionId, Slot>>,
    /// Slots at most: the sessions open here, and as many again that are not.
    most: usize,
}

/// Why a session cannot be opened here.
pub(crate) enum Occupied {
    InUse,
    Aborted(NetError<Party>),
}

impl Rendezvous {
    pub(crate) fn new(most: usize) -> Self {
        Self { slots: Mutex::default(), most }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Slot>> {
        self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes a session's place. The notifier tells of arrivals.
    pub(crate) fn open(&self, shared: &Arc<Shared>) -> Result<Arc<Notify>, Occupied> {
        let mut slots = self.lock();
        let slot = slots.entry(shared.id).or_insert_with(Slot::new);
        if slot.open.is_some() {
            return Err(Occupied::InUse);
        }
        if let Some(error) = slot.aborted.clone() {
            return Err(Occupied::Aborted(error));
        }
        slot.open = Some(shared.clone());
        Ok(slot.changed.clone())
    }

    /// The stream of `peer`, once it has come.
    pub(crate) fn take(&self, session: SessionId, peer: Party) -> Option<Arrival> {
        self.lock().get_mut(&session)?.arrived[peer.index()].take()
    }

    /// A peer's stream has come. It is refused if that peer's stream is there already or too many wait. The session fails if
    /// it is open here and the peer is not one that sends to this party.
    pub(crate) fn arrive(&self, peer: Party, arrival: Arrival) {
        let mut slots = self.lock();
        let full = slots.len() >= self.most;
        let (session, dealer) = (arrival.header.session, arrival.header.dealer);
        let slot = match slots.get_mut(&session) {
            Some(slot) => slot,
            None if full => {
                drop(slots);
                return;
            }
            None => slots.entry(session).or_insert_with(Slot::new),
        };
        let place = &mut slot.arrived[peer.index()];
        let _refused = match place {
            Some(waiting) if waiting.connection.close_reason().is_none() => Some(arrival),
            // The one that waits, if any, belongs to a connection that is gone.
            _ => place.replace(arrival),
        };
        let changed = slot.changed.clone();
        let misled = slot.open.clone().filter(|open| !flows(peer, open.party, open.dealer));
        drop(slots);
        changed.notify_one();
        if let Some(open) = misled {
            let reason = format!("it takes {dealer} for the dealer, {} takes {}", open.party, open.dealer);
            open.fail(NetError::Bad { direction: "from", peer, reason }, true);
        }
    }

    /// A peer says that a session has failed.
    pub(crate) fn abort(&self, session: SessionId, error: NetError<Party>) {
        let mut slots = self.lock();
        let full = slots.len() >= self.most;
        let shared = match slots.get_mut(&session) {
            Some(slot) => {
                slot.aborted.get_or_insert(error.clone());
                slot.open.clone()
            }
            None => {
                if !full {
                    slots.insert(session, Slot { aborted: Some(error.clone()), ..Slot::new() });
                }
                None
            }
        };
        drop(slots);
        if let Some(shared) = shared {
            shared.fail(error, false);
        }
    }

    /// Gives a session's place back, if `shared` holds it.
    pub(crate) fn remove(&self, session: SessionId, shared: &Arc<Shared>) {
        let mut slots = self.lock();
        if slots
            .get(&session)
            .is_some_and(|slot| slot.open.as_ref().is_some_and(|open| Arc::ptr_eq(open, shared)))
        {
            let _slot = slots.remove(&session);
            drop(slots);
        }
    }

    /// Drops what has waited for longer than `limit`. Returns who is to be told of which session.
    pub(crate) fn expire(&self, limit: Duration) -> Vec<(Connection, SessionId)> {
        let mut late = Vec::new();
        self.lock().retain(|id, slot| {
            let keep = slot.open.is_some() || slot.since.elapsed() < limit;
            if !keep {
                for arrival in slot.arrived.iter_mut().filter_map(Option::take) {
                    late.push((arrival.connection.clone(), *id));
                }
            }
            keep
        });
        late
    }

    /// The sessions open here.
    pub(crate) fn open_sessions(&self) -> Vec<Arc<Shared>> {
        self.lock().values().filter_map(|slot| slot.open.clone()).collect()
    }
}

impl fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rendezvous({} sessions)", self.lock().len())
    }
}
