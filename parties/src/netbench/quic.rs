//! The parties' own transport: three of them on three threads, a session, the link between P1 and P2.

use super::{NetbenchError, ends::End};
use crate::{
    config::PartyConfig,
    ids::{Digest, SessionId},
    relay::{Between, NetworkModel},
    transport::{Reactor, SessionLinks, SessionSpec, Transport},
};
use protocol::{Network as _, Party, Role};
use std::{
    net::SocketAddr,
    sync::mpsc,
    thread::{self, JoinHandle},
};
use tokio::sync::oneshot;

/// One evaluator's end of the link to the other.
pub(super) struct Link {
    links: SessionLinks,
    peer: Role,
}

impl End for Link {
    fn send(&mut self, message: Vec<u8>) -> Result<(), NetbenchError> {
        Ok(self.links.send(self.peer, message)?)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetbenchError> {
        Ok(self.links.recv(self.peer)?)
    }
}

/// Fields are dropped in this order: links, then transports, then the network between them.
pub(super) struct Cluster {
    pub(super) ends: [Link; 2],
    _dealer: SessionLinks,
    _nodes: Vec<Node>,
    pub(super) relay: Option<Between>,
}

/// A transport on its thread.
struct Node {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Cluster {
    pub(super) fn start(
        configs: &[PartyConfig; 3],
        network: Option<NetworkModel>,
    ) -> Result<Self, NetbenchError> {
        let session = SessionId::dealt_by(Party::Zero).map_err(std::io::Error::other)?;
        let program = Digest([0; 32]);
        let spec = SessionSpec { session, attempt: 0, dealer: Party::Zero, program };
        let listens = configs.each_ref().map(|config| config.listen);
        let relay = network.map(|model| Between::start(model, &listens)).transpose()?;
        let dialled = |own: Party, peer: Party| -> SocketAddr {
            relay.as_ref().and_then(|relay| relay.dialled(own, peer)).unwrap_or(listens[peer.index()])
        };
        let (mut nodes, mut opening) = (vec![], vec![]);
        for config in configs {
            let mut config = copy(config)?;
            for peer in &mut config.peers {
                peer.address = dialled(config.party, peer.party).to_string();
            }
            let (stop, stopped) = oneshot::channel();
            let (opened, answer) = mpsc::channel();
            let thread = thread::spawn(move || {
                let failed = opened.clone();
                let run = Reactor::run(|reactor| {
                    let (transport, clients) = Transport::start_on(reactor, &config)?;
                    Ok::<_, NetbenchError>(async move {
                        let _none = clients;
                        let _ = opened.send(transport.open(spec).await.map_err(NetbenchError::from));
                        let _ = stopped.await;
                        transport.shutdown("is measured").await;
                    })
                });
                if let Err(error) = run {
                    let _ = failed.send(Err(error));
                }
            });
            nodes.push(Node { stop: Some(stop), thread: Some(thread) });
            opening.push(answer);
        }
        let mut links = Vec::with_capacity(3);
        for answer in opening {
            links.push(answer.recv().map_err(|_| NetbenchError::Thread)??.0);
        }
        let [dealer, one, two]: [SessionLinks; 3] = links.try_into().map_err(|_| NetbenchError::Thread)?;
        let ends = [Link { links: one, peer: Role::P2 }, Link { links: two, peer: Role::P1 }];
        Ok(Self { ends, _dealer: dealer, _nodes: nodes, relay })
    }
}

/// Read again: keys are not for copying.
fn copy(config: &PartyConfig) -> Result<PartyConfig, NetbenchError> {
    let mut again = PartyConfig::load(&config.file)?;
    again.transport = config.transport.clone();
    Ok(again)
}
