//! Opening a session: all halves present, all agreed, keys derived.

use super::{
    SessionLinks, SessionSpec, Transport, TransportError,
    frame::{Header, SessionHeader, stream_start},
    rendezvous::{Arrival, Occupied},
    session::{self, Outgoing, Phase, Shared, connection_loss, flows},
};
use crate::keys::{KeyContext, KeyError, SessionKeys, pair_key};
use protocol::{NetError, Party};
use quinn::Connection;
use std::sync::{Arc, atomic::Ordering};
use tokio::{sync::Notify, time::timeout};

impl Transport {
    /// Opens a session: waits, for a bounded time, until the connections and the other parties' streams are there,
    /// checks that all agree, and derives the keys.
    ///
    /// # Errors
    /// Says which party is missing or disagrees. The other parties are told as well.
    pub async fn open(&self, spec: SessionSpec) -> Result<(SessionLinks, SessionKeys), TransportError> {
        let inner = &self.inner;
        let mut connections = [None, None, None];
        for peer in Party::ALL {
            let Some(link) = &inner.links[peer.index()] else { continue };
            let mut watch = link.subscribe();
            let found = match timeout(inner.wait, watch.wait_for(Option::is_some)).await {
                Ok(Ok(connection)) => connection.clone(),
                _ => None,
            };
            connections[peer.index()] =
                Some(found.ok_or(TransportError::NoConnection { own: inner.party, peer })?);
        }
        let shared =
            Arc::new(Shared::new((spec.session, spec.dealer), inner.party, connections, inner.queue));
        let changed = inner.rendezvous.open(&shared).map_err(|occupied| match occupied {
            Occupied::InUse => TransportError::InUse { own: inner.party, session: spec.session },
            Occupied::Aborted(error) => TransportError::Net(error),
        })?;
        // From here on dropping the links gives the place back.
        let links = SessionLinks::new(shared.clone(), inner.clone());
        match self.join(&shared, &changed, spec).await {
            Ok(keys) => Ok((links, keys)),
            Err(error) => {
                let text = match &error {
                    TransportError::Net(NetError::Lost { reason, .. }) => reason.clone(),
                    other => other.to_string(),
                };
                links.abort(&text);
                Err(error)
            }
        }
    }

    async fn join(
        &self,
        shared: &Arc<Shared>,
        changed: &Notify,
        spec: SessionSpec,
    ) -> Result<SessionKeys, TransportError> {
        let inner = &self.inner;
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|e| KeyError::Randomness(e.to_string()))?;
        let header = SessionHeader {
            session: spec.session,
            attempt: spec.attempt,
            dealer: spec.dealer,
            program: spec.program,
            nonce,
        };
        let writers = begin_streams(shared, &header).await?;
        let arrivals = self.arrivals(shared, changed, &header).await?;
        let keys = self.keys(shared, spec, nonce, &arrivals)?;
        for (peer, stream) in writers {
            let (shared, inner) = (shared.clone(), inner.clone());
            inner.writers.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                session::write_stream(shared, peer, stream).await;
                inner.writers.fetch_sub(1, Ordering::Relaxed);
                inner.drained.notify_waiters();
            });
        }
        for (peer, arrival) in arrivals {
            tokio::spawn(session::read_stream(shared.clone(), peer, arrival.messages));
        }
        Ok(keys)
    }

    /// The keys shared with each of the two others.
    fn keys(
        &self,
        shared: &Shared,
        spec: SessionSpec,
        own_nonce: [u8; 32],
        arrivals: &[(Party, Arrival)],
    ) -> Result<SessionKeys, TransportError> {
        let inner = &self.inner;
        let mut keys = [None, None, None];
        for peer in Party::ALL {
            let (Some(public), Some(connection)) =
                (&inner.public[peer.index()], &shared.connections[peer.index()])
            else {
                continue;
            };
            // The dealer's nonce, else the lower party's: of whom a stream flows to the other.
            let theirs =
                arrivals.iter().find(|(from, _)| *from == peer).map(|(_, arrival)| arrival.header.nonce);
            let nonce = match theirs {
                Some(nonce) if peer == spec.dealer || peer < inner.party => nonce,
                _ => own_nonce,
            };
            let mut channel = zeroize::Zeroizing::new([0; 32]);
            connection
                .export_keying_material(&mut *channel, b"EXPORTER-catamount-pair-key", &spec.session.0)
                .map_err(|_| NetError::Lost { peer, reason: "its connection has no exporter".into() })?;
            let context = KeyContext {
                session: spec.session,
                dealer: spec.dealer,
                attempt: spec.attempt,
                program: spec.program,
                nonce,
                channel: &channel,
            };
            keys[peer.index()] = Some(pair_key((inner.party, &inner.secret), (peer, public), &context)?);
        }
        Ok(SessionKeys::new(keys))
    }

    /// The streams of the parties that send to this one. Each is compared as it comes: parties that take different ones for
    /// the dealer may wait for streams that never come.
    async fn arrivals(
        &self,
        shared: &Arc<Shared>,
        changed: &Notify,
        ours: &SessionHeader,
    ) -> Result<Vec<(Party, Arrival)>, TransportError> {
        let sends = |&peer: &Party| flows(peer, shared.party, shared.dealer);
        let mut missing: Vec<_> = Party::ALL.into_iter().filter(sends).collect();
        let mut arrivals = Vec::with_capacity(2);
        let deadline = tokio::time::Instant::now() + self.inner.wait;
        loop {
            // Nobody sends to the dealer: whoever does takes another party for it, and does not get past the comparison.
            for peer in Party::ALL {
                let Some(arrival) = self.inner.rendezvous.take(ours.session, peer) else { continue };
                compare(shared.party, ours, peer, &arrival.header)?;
                missing.retain(|&missing| missing != peer);
                arrivals.push((peer, arrival));
            }
            let Some(&peer) = missing.first() else { break };
            let Some(connection) = &shared.connections[peer.index()] else { break };
            tokio::select! {
                () = changed.notified() => {}
                () = shared.reached(Phase::Failed) => return Err(failure(shared)),
                error = connection.closed() => {
                    return Err(NetError::Lost { peer, reason: connection_loss(&error) }.into());
                }
                () = tokio::time::sleep_until(deadline) => {
                    let seconds = self.inner.wait.as_secs();
                    return Err(TransportError::NotJoined { peer, session: ours.session, seconds });
                }
            }
        }
        for (peer, arrival) in &arrivals {
            let ours = shared.connections[peer.index()].as_ref().map(Connection::stable_id);
            if ours != Some(arrival.connection.stable_id()) {
                let reason = "it has connected anew meanwhile; try again".into();
                return Err(NetError::Lost { peer: *peer, reason }.into());
            }
        }
        Ok(arrivals)
    }
}

/// Opens this party's streams and writes their headers.
async fn begin_streams(
    shared: &Arc<Shared>,
    header: &SessionHeader,
) -> Result<Vec<(Party, Outgoing)>, TransportError> {
    let start = stream_start(&Header::Session(header.clone())).map_err(|reason| NetError::Bad {
        direction: "to",
        peer: shared.party,
        reason,
    })?;
    let mut streams = Vec::with_capacity(2);
    for peer in Party::ALL.into_iter().filter(|&peer| flows(shared.party, peer, shared.dealer)) {
        let Some(connection) = &shared.connections[peer.index()] else { continue };
        let mut stream = tokio::select! {
            stream = connection.open_uni() => {
                stream.map_err(|e| NetError::Lost { peer, reason: connection_loss(&e) })?
            }
            () = shared.reached(Phase::Failed) => return Err(failure(shared)),
        };
        let sent = stream.write_chunk(start.clone()).await;
        sent.map_err(|e| NetError::Lost { peer, reason: e.to_string() })?;
        streams.push((peer, Outgoing(stream)));
    }
    Ok(streams)
}

fn failure(shared: &Shared) -> TransportError {
    let unknown = || NetError::Lost { peer: shared.party, reason: "the session has failed".into() };
    shared.failure().cloned().unwrap_or_else(unknown).into()
}

/// Two parties must describe a session alike.
fn compare(
    own: Party,
    ours: &SessionHeader,
    peer: Party,
    theirs: &SessionHeader,
) -> Result<(), TransportError> {
    let what = if ours.program != theirs.program {
        ("the model's digest", ours.program.to_string(), theirs.program.to_string())
    } else if ours.dealer != theirs.dealer {
        ("the dealer", ours.dealer.to_string(), theirs.dealer.to_string())
    } else if ours.attempt != theirs.attempt {
        ("the attempt", ours.attempt.to_string(), theirs.attempt.to_string())
    } else {
        return Ok(());
    };
    let (what, ours, theirs) = what;
    Err(TransportError::Disagreement { own, peer, what, ours, theirs })
}
