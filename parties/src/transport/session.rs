//! What the two sides of a session's links share: its queues, its failure, its end.

use super::{
    frame::{CODE_ABORT, CODE_DONE, FrameError, Header, Messages, stream_start, truncated},
    queue::{End, Queue},
};
use crate::ids::SessionId;
use bytes::Bytes;
use protocol::{NetError, Party};
use quinn::{Connection, ReadError, SendStream, WriteError};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch, time::timeout};

/// How long an abort notice may take before the streams are reset anyway.
const NOTICE: Duration = Duration::from_secs(1);
/// Taken from an outgoing queue at once.
const BATCH: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// The links were dropped: outgoing data is still delivered, incoming data is not wanted.
    Closed,
    /// The session has failed: streams are reset.
    Failed,
}

/// The state of one session at one party.
pub(crate) struct Shared {
    pub(crate) id: SessionId,
    pub(crate) party: Party,
    pub(crate) dealer: Party,
    pub(crate) outgoing: [Option<Queue<Bytes>>; 3],
    pub(crate) incoming: [Option<Queue<Vec<u8>>>; 3],
    pub(crate) connections: [Option<Connection>; 3],
    failure: OnceLock<NetError<Party>>,
    phase: watch::Sender<Phase>,
    runtime: Handle,
}

/// Whether data flows from one party to another within a session: never to its dealer.
pub(crate) fn flows(from: Party, to: Party, dealer: Party) -> bool {
    from != to && to != dealer
}

impl Shared {
    pub(crate) fn new(
        (id, dealer): (SessionId, Party),
        party: Party,
        connections: [Option<Connection>; 3],
        queue: usize,
    ) -> Self {
        Self {
            id,
            party,
            dealer,
            outgoing: Party::ALL.map(|peer| flows(party, peer, dealer).then(|| Queue::new(queue))),
            incoming: Party::ALL.map(|peer| flows(peer, party, dealer).then(|| Queue::new(queue))),
            connections,
            failure: OnceLock::new(),
            phase: watch::channel(Phase::Running).0,
            runtime: Handle::current(),
        }
    }

    pub(crate) fn failure(&self) -> Option<&NetError<Party>> {
        self.failure.get()
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = *now == Phase::Running || (*now == Phase::Closed && phase == Phase::Failed);
            if later {
                *now = phase;
            }
            later
        });
    }

    /// Resolves when the phase is `phase` or a later one.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut watch = self.phase.subscribe();
        let _ = watch.wait_for(|&now| now == phase || now == Phase::Failed).await;
    }

    /// Fails the session here at once; with `tell`, the peers too. Only the first failure counts.
    pub(crate) fn fail(self: &Arc<Self>, error: NetError<Party>, tell: bool) {
        if *self.phase.borrow() != Phase::Running || self.failure.set(error.clone()).is_err() {
            return;
        }
        self.outgoing.iter().flatten().for_each(|queue| queue.fail(error.clone()));
        self.incoming.iter().flatten().for_each(|queue| queue.fail(error.clone()));
        if !tell {
            self.set_phase(Phase::Failed);
            return;
        }
        let (about, reason) = match error {
            NetError::Lost { peer, reason } => (peer, reason),
            other => (self.party, format!("{} broke off: {other}", self.party)),
        };
        let this = self.clone();
        self.runtime.spawn(async move {
            let notices: Vec<_> = this
                .connections
                .iter()
                .flatten()
                .map(|connection| tokio::spawn(notify(connection.clone(), this.id, about, reason.clone())))
                .collect();
            for notice in notices {
                let _ = notice.await;
            }
            // Streams are reset after the notices, so that the peers learn the reason first.
            this.set_phase(Phase::Failed);
        });
    }

    /// The worker has dropped its links.
    pub(crate) fn close(&self) {
        if self.failure.get().is_some() {
            // The streams are reset when the peers have been told why.
            return;
        }
        self.outgoing.iter().flatten().for_each(Queue::finish);
        self.set_phase(Phase::Closed);
        let error = NetError::Lost { peer: self.party, reason: "the session is closed".into() };
        self.incoming.iter().flatten().for_each(|queue| queue.fail(error.clone()));
    }

    fn lost(&self, peer: Party, reason: impl Into<String>) -> NetError<Party> {
        NetError::Lost { peer, reason: reason.into() }
    }
}

/// Tells a peer that a session has failed.
pub(crate) async fn notify(connection: Connection, session: SessionId, about: Party, reason: String) {
    let Ok(start) = stream_start(&Header::abort(session, about, &reason)) else { return };
    let send = async {
        let mut stream = connection.open_uni().await.ok()?;
        stream.write_chunk(start).await.ok()?;
        stream.finish().ok()?;
        stream.stopped().await.ok()
    };
    let _ = timeout(NOTICE, send).await;
}

/// Why a connection is gone, for people.
pub(crate) fn connection_loss(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::TimedOut => {
            "it has not answered for seconds; see whether its process runs".into()
        }
        quinn::ConnectionError::Reset => "its process was started anew".into(),
        quinn::ConnectionError::LocallyClosed => "the connection was closed at this end".into(),
        other => truncated(&other.to_string()),
    }
}

/// An outgoing stream. Dropped before its end it is reset: quinn's own would end cleanly, in the middle of anything.
pub(crate) struct Outgoing(pub(crate) SendStream);

impl Drop for Outgoing {
    fn drop(&mut self) {
        let _ = self.0.reset(CODE_ABORT);
    }
}

/// Serves an outgoing queue. The stream's header has been written.
pub(crate) async fn write_stream(shared: Arc<Shared>, peer: Party, mut outgoing: Outgoing) {
    let Some(queue) = &shared.outgoing[peer.index()] else { return };
    let stream = &mut outgoing.0;
    let stopped = stream.stopped();
    let work = async {
        loop {
            match queue.pop_some(BATCH).await {
                Ok(messages) => {
                    let mut chunks = Vec::with_capacity(2 * messages.len());
                    for message in messages {
                        chunks.push(Bytes::copy_from_slice(&(message.len() as u32).to_le_bytes()));
                        chunks.push(message);
                    }
                    stream.write_all_chunks(&mut chunks).await?;
                }
                Err(End::Finished) => {
                    let _ = stream.finish();
                    // Everything is acknowledged, or the peer wants no more.
                    let _ = stream.stopped().await;
                    return Ok(());
                }
                Err(End::Failed(_)) => std::future::pending::<()>().await,
            }
        }
    };
    let result: Result<(), WriteError> = tokio::select! {
        biased;
        () = shared.reached(Phase::Failed) => {
            return;
        }
        result = work => result,
        stopped = stopped => match stopped {
            Ok(Some(code)) => Err(WriteError::Stopped(code)),
            Ok(None) => Ok(()),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(WriteError::ConnectionLost(error)),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(WriteError::ZeroRttRejected),
        },
    };
    match result {
        Ok(()) => {}
        Err(WriteError::Stopped(code)) if code == CODE_DONE => {
            queue.fail(shared.lost(peer, "it has ended the session"));
        }
        Err(WriteError::ConnectionLost(error)) => {
            shared.fail(shared.lost(peer, connection_loss(&error)), true);
        }
        Err(error) => reset_by_peer(&shared, peer, &error.to_string()).await,
    }
}

/// A peer's stream broke off: its notice with the reason is on the way, or it never comes.
async fn reset_by_peer(shared: &Arc<Shared>, peer: Party, what: &str) {
    if timeout(NOTICE, shared.reached(Phase::Failed)).await.is_err() {
        shared.fail(shared.lost(peer, format!("it broke the session off without a reason ({what})")), true);
    }
}

/// Feeds an incoming queue. The stream's header has been read.
pub(crate) async fn read_stream(shared: Arc<Shared>, peer: Party, mut messages: Messages) {
    let Some(queue) = &shared.incoming[peer.index()] else { return };
    let work = async {
        loop {
            match messages.next().await {
                Ok(Some(message)) => {
                    if queue.push(message).await.is_err() {
                        // Failed or closed: the phase follows.
                        std::future::pending::<()>().await;
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    let result = tokio::select! {
        biased;
        () = shared.reached(Phase::Closed) => {
            if shared.failure().is_none() {
                let _ = messages.stream().stop(CODE_DONE);
            }
            return;
        }
        result = work => result,
    };
    match result {
        Ok(()) => queue.finish(),
        Err(FrameError::Read(ReadError::ConnectionLost(error))) => {
            shared.fail(shared.lost(peer, connection_loss(&error)), true);
        }
        Err(FrameError::Read(error)) => reset_by_peer(&shared, peer, &error.to_string()).await,
        Err(error) => {
            shared.fail(NetError::Bad { direction: "from", peer, reason: error.to_string() }, true);
            shared.reached(Phase::Failed).await;
        }
    }
}
