//! The UDP socket and quinn's settings.

use super::TransportError;
use crate::config::TransportSettings;
use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime as _, TokioRuntime,
    TransportConfig, UdpPoller, VarInt,
    udp::{RecvMeta, Transmit},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// Congestion window at the start: local networks carry this at once.
const INITIAL_WINDOW: u64 = 128 << 10;
/// Assumed round trip at the start; a first packet that finds nobody is sent again after three of these.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Streams that a peer may have open in one direction.
pub(crate) fn max_streams(max_sessions: usize) -> u32 {
    // One per session and link, as many again for sessions that one side has not opened yet, and abort notices.
    u32::try_from(2 * max_sessions + 8).unwrap_or(u32::MAX)
}

/// quinn's settings. The connection's window holds all of its streams' windows, so that one session whose reader is
/// slow cannot starve the others.
pub(crate) fn transport_config(settings: &TransportSettings, streams: u32) -> Arc<TransportConfig> {
    let connection_window = u64::from(settings.stream_window_bytes) * u64::from(streams);
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(settings.mtu);
    let mut cubic = quinn::congestion::CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW);
    config
        .max_concurrent_uni_streams(streams.into())
        .max_concurrent_bidi_streams(streams.into())
        .stream_receive_window(settings.stream_window_bytes.into())
        .receive_window(VarInt::from_u64(connection_window).unwrap_or(VarInt::MAX))
        .send_window(connection_window)
        .keep_alive_interval(Some(Duration::from_millis(settings.keep_alive_milliseconds)))
        .max_idle_timeout(VarInt::from_u64(settings.idle_timeout_milliseconds).ok().map(IdleTimeout::from))
        .initial_rtt(INITIAL_RTT)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(cubic));
    Arc::new(config)
}

/// Binds the UDP socket and makes an endpoint of it. Must be called on a tokio runtime.
pub(crate) fn bind(
    address: SocketAddr,
    settings: &TransportSettings,
    server: Option<quinn::ServerConfig>,
) -> Result<Endpoint, TransportError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => TransportError::PortInUse { address },
        _ => TransportError::Bind { address, error },
    };
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(failed)?;
    let wanted = settings.socket_buffer_bytes;
    // A refusal shows in the sizes read back.
    let _ = socket.set_recv_buffer_size(wanted);
    let _ = socket.set_send_buffer_size(wanted);
    let (receive, send) =
        (socket.recv_buffer_size().unwrap_or_default(), socket.send_buffer_size().unwrap_or_default());
    // Linux reports twice the usable size.
    let usable = if cfg!(target_os = "linux") { receive.min(send) / 2 } else { receive.min(send) };
    if usable < wanted {
        tracing::warn!(
            "the system grants a UDP buffer of {usable} bytes of the {wanted} asked for: transfers will be slow; \
             raise net.core.rmem_max and net.core.wmem_max"
        );
    }
    socket.bind(&address.into()).map_err(failed)?;
    let runtime = Arc::new(TokioRuntime);
    let inner = runtime.wrap_udp_socket(socket.into()).map_err(failed)?;
    let most_segments = usize::from(u16::MAX - 28) / usize::from(settings.mtu);
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(settings.mtu)
        .map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
    let socket = Arc::new(CappedSocket { inner, most_segments });
    Endpoint::new_with_abstract_socket(config, server, socket, runtime).map_err(failed)
}

/// A UDP socket that puts no more segments into one system call than fit into 64 KiB: with large datagrams the kernel
/// refuses quinn's ten, and quinn then takes the path for one that carries only small datagrams.
#[derive(Debug)]
struct CappedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    most_segments: usize,
}

impl AsyncUdpSocket for CappedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(self.most_segments).max(1)
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
