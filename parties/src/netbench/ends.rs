//! Ends of connections that carry whole messages: over TLS and TCP, over TCP, as datagrams.

use super::NetbenchError;
use crate::{
    config::PartyConfig,
    relay::{LOCAL, NetworkModel, Relay, Route},
    tls::{self, Directory, SERVER_NAME},
};
use rustls::pki_types::ServerName;
use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// One end of a connection between two threads.
pub(super) trait End: Send {
    fn send(&mut self, message: Vec<u8>) -> Result<(), NetbenchError>;
    fn recv(&mut self) -> Result<Vec<u8>, NetbenchError>;
}

/// The longest message of the benchmark; a longer one is a mistake of ours.
const MOST: usize = 1 << 24;

fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length > MOST { Err(io::Error::other("a message is too long")) } else { Ok(length) }
}

/// Plain TCP, blocking.
pub(super) struct Plain(TcpStream);

impl Plain {
    pub(super) fn pair() -> Result<[Self; 2], NetbenchError> {
        let [near, far] = tcp()?;
        Ok([Self(near), Self(far)])
    }
}

fn tcp() -> io::Result<[TcpStream; 2]> {
    let listener = TcpListener::bind(LOCAL)?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    Ok([near, far])
}

impl End for Plain {
    fn send(&mut self, message: Vec<u8>) -> Result<(), NetbenchError> {
        // One call, so that head and body travel together.
        let head = (message.len() as u32).to_le_bytes();
        let parts = [io::IoSlice::new(&head), io::IoSlice::new(&message)];
        let written = self.0.write_vectored(&parts)?;
        if written < head.len() {
            self.0.write_all(&head[written..])?;
        }
        Ok(self.0.write_all(&message[written.saturating_sub(head.len())..])?)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetbenchError> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head)?;
        let mut message = vec![0; length(head)?];
        self.0.read_exact(&mut message)?;
        Ok(message)
    }
}

/// TLS over TCP with the parties' certificates. Each end drives its stream itself: there is no other thread to wake.
pub(super) struct Secured {
    runtime: Runtime,
    stream: TlsStream<tokio::net::TcpStream>,
}

impl Secured {
    /// The first party dials the second.
    pub(super) fn pair(own: &PartyConfig, peer: &PartyConfig) -> Result<[Self; 2], NetbenchError> {
        let pinned = own.peer(peer.party).ok_or(NetbenchError::Thread)?;
        let directory = Arc::new(Directory::new(&peer.peers, &[]));
        let server = tls::server_config(&peer.identity, peer.party, directory)?;
        let client = tls::client_config(&own.identity, pinned)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        let [near, far] = tcp()?;
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (here, there) = (runtime()?, runtime()?);
        let accepting = std::thread::spawn(move || {
            let stream = there
                .block_on(async { TlsAcceptor::from(Arc::new(server)).accept(asynchronous(far)?).await });
            stream.map(|stream| Self { runtime: there, stream: stream.into() })
        });
        let stream = here.block_on(async {
            TlsConnector::from(Arc::new(client)).connect(name, asynchronous(near)?).await
        });
        let far = accepting.join().map_err(|_| NetbenchError::Thread)?;
        Ok([Self { runtime: here, stream: stream?.into() }, far?])
    }
}

fn asynchronous(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

impl End for Secured {
    fn send(&mut self, message: Vec<u8>) -> Result<(), NetbenchError> {
        let stream = &mut self.stream;
        Ok(self.runtime.block_on(async {
            stream.write_all(&(message.len() as u32).to_le_bytes()).await?;
            stream.write_all(&message).await?;
            stream.flush().await
        })?)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetbenchError> {
        let stream = &mut self.stream;
        Ok(self.runtime.block_on(async {
            let mut head = [0; 4];
            stream.read_exact(&mut head).await?;
            let mut message = vec![0; length(head)?];
            stream.read_exact(&mut message).await?;
            Ok::<_, io::Error>(message)
        })?)
    }
}

/// Datagrams without any promise.
pub(super) struct Datagrams {
    pub(super) ends: [Datagram; 2],
    _relay: Option<Relay>,
}

pub(super) struct Datagram {
    socket: UdpSocket,
    to: SocketAddr,
    buffer: Vec<u8>,
}

impl Datagrams {
    pub(super) fn pair(network: Option<NetworkModel>) -> Result<Self, NetbenchError> {
        let (near, far) = (UdpSocket::bind(LOCAL)?, UdpSocket::bind(LOCAL)?);
        let relay = network.map(|model| Relay::start(model, &[Route::to(far.local_addr()?)])).transpose()?;
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        }
        let dialled = relay.as_ref().map_or(far.local_addr()?, |relay| relay.addresses()[0]);
        // The other side of a relay shows with the first datagram.
        near.send_to(&[0], dialled)?;
        let (_, back) = far.recv_from(&mut [0])?;
        let end = |socket, to| Datagram { socket, to, buffer: vec![0; 1 << 16] };
        Ok(Self { ends: [end(near, dialled), end(far, back)], _relay: relay })
    }
}

impl End for Datagram {
    fn send(&mut self, message: Vec<u8>) -> Result<(), NetbenchError> {
        self.socket.send_to(&message, self.to)?;
        Ok(())
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetbenchError> {
        let size = self.socket.recv(&mut self.buffer)?;
        Ok(self.buffer[..size].to_vec())
    }
}
