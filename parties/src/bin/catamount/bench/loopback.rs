//! Three parties in one process, a thread each, over real QUIC on the loopback interface.

use crate::processes::Folder;
use anyhow::Context as _;
use kernels::{Device, Ring};
use parties::config::PartyConfig;
use parties::ids::{Digest, SessionId};
use parties::keys::SessionKeys;
use parties::transport::{Reactor, SessionLinks, SessionSpec, Transport, TransportError};
use protocol::profile::Profile;
use protocol::{ChaChaStreams, Cx, Ledger, Party, Session, Share};
use std::pin::Pin;
use std::sync::{Arc, Barrier, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc as asynchronous, oneshot};

/// One party's part of a program, which ends with its part of a result.
pub(crate) type Program =
    Box<dyn for<'n> Fn(Cx<'n>) -> Pin<Box<dyn Future<Output = protocol::Result<Share>> + 'n>> + Send + Sync>;

type Opened = Result<(SessionLinks, SessionKeys), TransportError>;

/// A party's transport on a thread of its own.
struct Node {
    sessions: Option<asynchronous::UnboundedSender<(SessionSpec, mpsc::Sender<Opened>)>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// The three transports; they end when this is dropped.
pub(crate) struct Loopback {
    nodes: [Node; 3],
}

impl Node {
    fn start(config: PartyConfig) -> anyhow::Result<Node> {
        let (sessions, mut asked) = asynchronous::unbounded_channel::<(SessionSpec, mpsc::Sender<Opened>)>();
        let (started, starts) = oneshot::channel();
        let serve = move || {
            Reactor::run(|reactor| {
                // Nobody connects as a client, and nobody is answered.
                let (transport, _clients) = Transport::start_on(reactor, &config)?;
                let transport = Arc::new(transport);
                Ok::<_, anyhow::Error>(async move {
                    let _ = started.send(());
                    while let Some((spec, answer)) = asked.recv().await {
                        let transport = transport.clone();
                        tokio::spawn(async move { answer.send(transport.open(spec).await) });
                    }
                    transport.shutdown("has measured enough").await;
                })
            })
        };
        let thread = thread::spawn(serve);
        if starts.blocking_recv().is_err() {
            thread.join().map_err(|_| anyhow::anyhow!("a transport's thread has failed"))??;
            anyhow::bail!("a transport's thread has ended");
        }
        Ok(Node { sessions: Some(sessions), thread: Some(thread) })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.sessions.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Loopback {
    /// Fresh keys, free ports, three transports that know each other.
    pub(crate) fn start() -> anyhow::Result<Loopback> {
        let (keys, [zero, one, two]) = Folder::of_parties("bench")?;
        drop(keys);
        let loopback = Loopback { nodes: [Node::start(zero)?, Node::start(one)?, Node::start(two)?] };
        // The parties look for each other; the first sessions may find a connection missing.
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match loopback.open() {
                Ok(_) => return Ok(loopback),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// A fresh session.
    pub(crate) fn open(&self) -> anyhow::Result<[(SessionLinks, SessionKeys); 3]> {
        let session = SessionId::dealt_by(Party::Zero).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let program = Digest([0; 32]);
        let spec = SessionSpec { session, attempt: 0, dealer: Party::Zero, program };
        let mut answers = vec![];
        for node in &self.nodes {
            let (answer, answers_of_node) = mpsc::channel();
            let asked = node.sessions.as_ref().is_some_and(|s| s.send((spec, answer)).is_ok());
            anyhow::ensure!(asked, "a transport's thread has ended");
            answers.push(answers_of_node);
        }
        let mut opened = vec![];
        for answer in answers {
            opened.push(answer.recv().context("a transport's thread has ended")?);
        }
        let opened = opened.into_iter().collect::<Result<Vec<_>, _>>()?;
        opened.try_into().map_err(|_| anyhow::anyhow!("not three parties"))
    }

    /// Runs a program `runs` times in one session, after one run that does not count, each run begun by all three at
    /// the same time. Where the time of each went, and what it cost.
    pub(crate) fn run(
        &self,
        devices: &[Device; 3],
        programs: &[Program; 3],
        runs: usize,
    ) -> anyhow::Result<Vec<([Profile; 3], Ledger)>> {
        let together = Barrier::new(3);
        let parties = thread::scope(|scope| {
            let threads: Vec<_> = self
                .open()?
                .into_iter()
                .zip(programs)
                .map(|((mut links, keys), program)| {
                    let together = &together;
                    scope.spawn(move || {
                        let role = links.role();
                        let keys = keys.of_roles(links.party(), Party::Zero);
                        let streams = Box::new(ChaChaStreams::new(keys));
                        let mut session =
                            Session::new(role, devices[role.index()].clone(), Ring::Z64, streams)
                                .with_profile();
                        let mut done = vec![];
                        for run in 0..=runs {
                            together.wait();
                            let before = *session.ledger();
                            let result = session.run(&mut links, program);
                            let profile = session.profile().expect("it is recorded");
                            // After an error the others fail as well, and all three go on to the end together.
                            if run > 0 || result.is_err() {
                                done.push(result.map(|_| (profile, session.ledger().since(&before))));
                            }
                        }
                        done.into_iter().collect::<protocol::Result<Vec<_>>>()
                    })
                })
                .collect();
            let join = |t: thread::ScopedJoinHandle<'_, protocol::Result<_>>| {
                t.join()
                    .map_err(|_| anyhow::anyhow!("a party's thread has failed"))?
                    .map_err(anyhow::Error::from)
            };
            threads.into_iter().map(join).collect::<anyhow::Result<Vec<Vec<(Profile, Ledger)>>>>()
        })?;
        let parties: [Vec<_>; 3] = parties.try_into().map_err(|_| anyhow::anyhow!("not three parties"))?;
        let [p0, p1, p2] = parties.map(Vec::into_iter);
        let together =
            p0.zip(p1.zip(p2)).map(|(a, (b, c))| ([a.0, b.0, c.0], Ledger::merge(&[a.1, b.1, c.1])));
        Ok(together.collect())
    }
}
