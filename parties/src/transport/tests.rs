//! What a party makes of bytes that are wrong: P0 here is a bare QUIC connection with P0's identity.

use super::{frame, *};
use crate::{init::init_cluster, ports};
use protocol::{Network as _, Role};
use std::net::UdpSocket;

struct Bench {
    _directory: tempfile::TempDir,
    configs: [PartyConfig; 3],
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let paths = init_cluster(&directory.path().join("c"), &ports::free_hosts().unwrap()).unwrap();
    let configs = [0, 1, 2].map(|role| {
        let mut config = PartyConfig::load(&paths[role]).unwrap();
        config.limits.rendezvous_seconds = 2;
        config.limits.max_message_bytes = 1 << 20;
        config
    });
    Bench { _directory: directory, configs }
}

/// Dials `to` as P0.
async fn dealer(bench: &Bench, to: Party) -> (Endpoint, Connection) {
    let config = &bench.configs[0];
    let peer = config.peer(to).unwrap();
    let endpoint = endpoint::bind("127.0.0.1:0".parse().unwrap(), &config.transport, None).unwrap();
    let client = client_config(&config.identity, peer, &config.transport, 16).unwrap();
    let address = resolve(&peer.address).await.unwrap();
    let connection = endpoint.connect_with(client, address, tls::SERVER_NAME).unwrap().await.unwrap();
    (endpoint, connection)
}

fn spec(byte: u8) -> SessionSpec {
    SessionSpec { session: SessionId([byte; 32]), attempt: 0, dealer: Party::Zero, program: Digest([1; 32]) }
}

fn start(spec: SessionSpec) -> bytes::Bytes {
    let header = frame::SessionHeader {
        session: spec.session,
        attempt: 0,
        dealer: Party::Zero,
        program: spec.program,
        nonce: [5; 32],
    };
    frame::stream_start(&frame::Header::Session(header)).unwrap()
}

#[test]
fn wrong_bytes_are_errors_that_name_the_sender() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = bench();
        let (p1, _c1) = Transport::start(&bench.configs[1]).unwrap();
        let (p2, _c2) = Transport::start(&bench.configs[2]).unwrap();
        let (_e1, to_p1) = dealer(&bench, Party::One).await;
        let (_e2, to_p2) = dealer(&bench, Party::Two).await;

        let cases: [(&[u8], bool, &str); 4] = [
            (&[100, 0, 0, 0, 1, 2, 3], true, "middle of a message"),
            (&[100, 0], true, "middle of a message"),
            (&[1, 0, 16, 0], false, "at most 1048576 are allowed"),
            (&[0xff; 64], false, "at most 1048576 are allowed"),
        ];
        for (i, (bytes, finish, expected)) in cases.into_iter().enumerate() {
            let spec = self::spec(i as u8 + 1);
            let (mut wrong, mut right) = (to_p1.open_uni().await.unwrap(), to_p2.open_uni().await.unwrap());
            wrong.write_all(&start(spec)).await.unwrap();
            right.write_all(&start(spec)).await.unwrap();
            let (first, second) = tokio::join!(p1.open(spec), p2.open(spec));
            let ((mut first, _), (mut second, _)) = (first.unwrap(), second.unwrap());
            wrong.write_all(bytes).await.unwrap();
            if finish {
                wrong.finish().unwrap();
            }
            // P2 waits for P1, which fails because of P0.
            let receive = move || (first.recv(Role::Dealer).unwrap_err(), second.recv(Role::P1).unwrap_err());
            let (direct, told) = tokio::task::spawn_blocking(receive).await.unwrap();
            assert!(
                matches!(&direct, NetError::Bad { direction: "from", peer: Role::Dealer, reason } if reason.contains(expected)),
                "{direct}"
            );
            assert!(
                matches!(&told, NetError::Lost { peer: Role::P1, reason } if reason.contains(expected) && reason.contains("P0")),
                "{told}"
            );
        }

        // Streams that do not even begin properly are stopped, and the connection lives on.
        let mut version = start(spec(9)).to_vec();
        version[4] = 99;
        let mut long = start(spec(9)).to_vec();
        long[6..8].copy_from_slice(&[0xff, 0xff]);
        for garbage in [vec![0xaa; 200], b"GET / HTTP/1.1\r\n".to_vec(), version, long] {
            let mut stream = to_p1.open_uni().await.unwrap();
            stream.write_all(&garbage).await.unwrap();
            assert_eq!(stream.stopped().await.unwrap(), Some(frame::CODE_ABORT));
        }
        assert!(to_p1.close_reason().is_none());

        // A peer that resets its stream without a word.
        let spec = self::spec(10);
        let (mut one, mut two) = (to_p1.open_uni().await.unwrap(), to_p2.open_uni().await.unwrap());
        one.write_all(&start(spec)).await.unwrap();
        two.write_all(&start(spec)).await.unwrap();
        let (first, second) = tokio::join!(p1.open(spec), p2.open(spec));
        let ((mut first, _), (second, _)) = (first.unwrap(), second.unwrap());
        one.reset(frame::CODE_ABORT).unwrap();
        let error = tokio::task::spawn_blocking(move || first.recv(Role::P2).unwrap_err()).await.unwrap();
        assert!(matches!(&error, NetError::Lost { peer: Role::Dealer, .. }), "{error}");
        drop(second);

        // Stray streams and notices fill nothing: a stream that nobody asked for is refused in the end.
        let mut stray = to_p1.open_uni().await.unwrap();
        stray.write_all(&start(self::spec(11))).await.unwrap();
        assert_eq!(stray.stopped().await.unwrap(), Some(frame::CODE_ABORT));
        p1.shutdown("ends").await;
        p2.shutdown("ends").await;
    });
}

#[test]
fn a_taken_port_is_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = bench();
        let taken = UdpSocket::bind(bench.configs[0].listen).unwrap();
        let error = Transport::start(&bench.configs[0]).err().unwrap();
        assert!(
            matches!(error, TransportError::PortInUse { address } if address == taken.local_addr().unwrap())
        );
        assert!(error.to_string().contains("choose another `listen` address"), "{error}");
    });
}
