//! A cluster in one process: each party's transport or server on a thread and runtime of its own.
#![allow(dead_code, unreachable_pub)]

use parties::{
    cluster::ClusterConfig,
    config::PartyConfig,
    engine::Engine,
    ids::{Digest, SessionId},
    init::init_cluster,
    keys::SessionKeys,
    ports::free_hosts,
    server::Server,
    transport::{Clients, Reactor, SessionLinks, SessionSpec, Transport, TransportError},
};
use protocol::Party;
use std::{
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::sync::{mpsc as tokio_mpsc, oneshot};

/// Files of a fresh cluster on free ports.
pub struct Files {
    pub directory: tempfile::TempDir,
    pub paths: [PathBuf; 4],
}

impl Files {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let paths = init_cluster(&directory.path().join("cluster"), &free_hosts().unwrap()).unwrap();
        Self { directory, paths }
    }

    pub fn party(&self, role: usize) -> PartyConfig {
        let mut config = PartyConfig::load(&self.paths[role]).unwrap();
        config.limits.rendezvous_seconds = 3;
        config
    }

    pub fn client(&self) -> ClusterConfig {
        ClusterConfig::load(&self.paths[3]).unwrap()
    }
}

type Opened = Result<(SessionLinks, SessionKeys), TransportError>;

enum Command {
    Open(SessionSpec, mpsc::Sender<Opened>),
    Freeze,
    Stop,
}

/// A party's transport on its own thread: P1's alone drives, those of the others lend it to workers.
pub struct Node {
    commands: tokio_mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
    frozen: bool,
}

impl Node {
    pub fn start(config: PartyConfig) -> Self {
        let (commands, mut queue) = tokio_mpsc::unbounded_channel();
        let serve = move |transport: Transport, clients: Clients| async move {
            let (transport, _clients) = (Arc::new(transport), clients);
            while let Some(command) = queue.recv().await {
                match command {
                    Command::Open(spec, answer) => {
                        let transport = transport.clone();
                        tokio::spawn(async move {
                            let _ = answer.send(transport.open(spec).await);
                        });
                    }
                    // Like a machine that is gone: no word of farewell.
                    Command::Freeze => loop {
                        thread::sleep(Duration::from_secs(60));
                    },
                    Command::Stop => break,
                }
            }
            transport.shutdown("is shutting down").await;
        };
        let thread = thread::spawn(move || {
            if config.party == Party::One {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (transport, clients) = Transport::start(&config).unwrap();
                    serve(transport, clients).await;
                });
            } else {
                Reactor::run(|reactor| {
                    let (transport, clients) = Transport::start_on(reactor, &config).unwrap();
                    Ok::<_, io::Error>(serve(transport, clients))
                })
                .unwrap();
            }
        });
        Self { commands, thread: Some(thread), frozen: false }
    }

    pub fn ask(&self, spec: SessionSpec) -> mpsc::Receiver<Opened> {
        let (answer, answers) = mpsc::channel();
        self.commands.send(Command::Open(spec, answer)).ok().unwrap();
        answers
    }

    pub fn freeze(&mut self) {
        self.frozen = true;
        self.commands.send(Command::Freeze).ok().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if !self.frozen {
            self.thread.take().unwrap().join().unwrap();
        }
    }
}

pub fn nodes(files: &Files, change: impl Fn(&mut PartyConfig)) -> [Node; 3] {
    let nodes = [0, 1, 2].map(|role| {
        let mut config = files.party(role);
        change(&mut config);
        Node::start(config)
    });
    // Once a session opens, all connections are up.
    for byte in 200..=255 {
        let answers = nodes.each_ref().map(|node| node.ask(spec(byte)));
        if answers.map(|answer| answer.recv().unwrap()).iter().all(Result::is_ok) {
            break;
        }
    }
    nodes
}

pub fn spec(byte: u8) -> SessionSpec {
    SessionSpec { session: SessionId([byte; 32]), attempt: 0, dealer: Party::Zero, program: Digest([1; 32]) }
}

/// Opens a session at all three.
pub fn open(nodes: &[Node; 3], spec: SessionSpec) -> [(SessionLinks, SessionKeys); 3] {
    nodes.each_ref().map(|node| node.ask(spec)).map(|answer| answer.recv().unwrap().unwrap())
}

/// A party's server on its own thread.
pub struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(config: PartyConfig, engine: Arc<dyn Engine>) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let stop_signal = async move {
            let _ = stopped.await;
        };
        let thread = thread::spawn(move || {
            Reactor::run(|reactor| {
                let server = Server::start(reactor, &config, engine).unwrap();
                Ok::<_, io::Error>(server.run(stop_signal))
            })
            .unwrap();
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}
