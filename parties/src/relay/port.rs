//! A UDP socket that takes and sends many datagrams with one system call.

use super::shaper::Train;
use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

/// Of each direction; the system may grant less. A burst waits here while the thread sends another.
const SOCKET_BUFFER: usize = 8 << 20;
/// The largest batch of coalesced datagrams.
const BUFFER: usize = 1 << 16;
/// Calls in a row before due datagrams get their turn.
const CALLS: usize = 8;

/// Room for what one call brings.
pub(super) struct Buffers {
    bytes: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; BATCH_SIZE * BUFFER], meta: [RecvMeta::default(); BATCH_SIZE] }
    }
}

pub(crate) struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Port {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.bind(&address.into())?;
        let socket: UdpSocket = socket.into();
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Most datagrams of one train.
    pub(super) fn most_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Shows what has come to `each`, datagram by datagram, until there is no more or others should have their turn.
    pub(super) fn receive(
        &self,
        buffers: &mut Buffers,
        mut each: impl FnMut(Instant, &[u8], &RecvMeta),
    ) -> io::Result<()> {
        for _ in 0..CALLS {
            let mut slices: Vec<IoSliceMut<'_>> =
                buffers.bytes.chunks_exact_mut(BUFFER).map(IoSliceMut::new).collect();
            let received = match self.state.recv((&self.socket).into(), &mut slices, &mut buffers.meta) {
                Ok(received) => received,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // Nobody listens yet at the other end: the system tells who sent.
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => continue,
                    _ => return Err(error),
                },
            };
            let now = Instant::now();
            for (meta, bytes) in buffers.meta.iter().zip(buffers.bytes.chunks_exact(BUFFER)).take(received) {
                let bytes = &bytes[..meta.len];
                if bytes.is_empty() {
                    each(now, bytes, meta);
                }
                for datagram in bytes.chunks(meta.stride.max(1)) {
                    each(now, datagram, meta);
                }
            }
            if received < BATCH_SIZE {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends a train.
    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8], train: &Train) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn: train.ecn,
            contents: bytes,
            segment_size: (train.count > 1).then_some(train.segment),
            src_ip: None,
        };
        self.state.try_send((&self.socket).into(), &transmit)
    }
}
