//! TLS 1.3 with mutual authentication by pinned certificates.
//!
//! There is no certificate authority: a peer is who its certificate's fingerprint says, and nothing that the peer
//! itself says. The handshake signature is verified with the provider's algorithms, so that showing somebody's
//! certificate without its key gets nobody in. Resumption and early data are off: each connection is a full handshake.

use crate::{
    config::{ClientEntry, Peer, Permission},
    identity::{Identity, fingerprint},
    ids::Fingerprint,
};
use protocol::Party;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::{collections::HashMap, fmt, sync::Arc};

/// The application protocol; changes when the wire changes incompatibly.
pub const ALPN: &[u8] = b"catamount/1";

/// The name that clients put in the handshake. Nobody checks it: fingerprints decide.
pub(crate) const SERVER_NAME: &str = "catamount.invalid";

/// A client as its pinned certificate makes it known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The name in this party's configuration.
    pub name: String,
    /// Its certificate.
    pub fingerprint: Fingerprint,
    /// What it may do.
    pub permissions: Vec<Permission>,
}

impl ClientIdentity {
    /// Whether it may do this.
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }
}

/// Whom a fingerprint belongs to.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    Party(Party),
    Client(Arc<ClientIdentity>),
}

/// Everyone that a process knows.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    known: HashMap<Fingerprint, Known>,
}

impl Directory {
    pub(crate) fn new(peers: &[Peer], clients: &[ClientEntry]) -> Self {
        let parties = peers.iter().map(|peer| (peer.fingerprint, Known::Party(peer.party)));
        let clients = clients.iter().map(|client| {
            let identity = ClientIdentity {
                name: client.name.clone(),
                fingerprint: client.fingerprint,
                permissions: client.permissions.clone(),
            };
            (client.fingerprint, Known::Client(Arc::new(identity)))
        });
        Self { known: parties.chain(clients).collect() }
    }

    /// Who is at the other end of a connection, by its certificate.
    pub(crate) fn classify(&self, connection: &quinn::Connection) -> Option<Known> {
        let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        self.known.get(&fingerprint(chain.first()?)).cloned()
    }
}

/// Why a certificate is refused; its text travels to the other end in the closing message.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn refuse(text: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(Refusal(text)))))
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    // AES-128-GCM first: with hardware AES about 1.6 times as fast as ChaCha20-Poly1305.
    provider.cipher_suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// Accepts one certificate.
#[derive(Debug)]
struct OnlyServer {
    expected: Fingerprint,
    whom: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OnlyServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = fingerprint(end_entity);
        if found == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refuse(format!(
                "the certificate {found} is not the one pinned for {} ({})",
                self.whom,
                self.expected.short()
            )))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts the certificates of a directory.
#[derive(Debug)]
struct KnownClients {
    directory: Arc<Directory>,
    own: String,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for KnownClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let found = fingerprint(end_entity);
        if self.directory.known.contains_key(&found) {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(refuse(format!("{} does not know the certificate {found}", self.own)))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The configuration of the accepting side: exactly the certificates of `directory` get in.
pub(crate) fn server_config(
    identity: &Identity,
    own: Party,
    directory: Arc<Directory>,
) -> Result<rustls::ServerConfig, Error> {
    let provider = provider();
    let verifier = KnownClients { directory, own: own.to_string(), provider: provider.clone() };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![identity.certificate()], identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The configuration of the dialling side: exactly `peer` is accepted.
pub(crate) fn client_config(identity: &Identity, peer: &Peer) -> Result<rustls::ClientConfig, Error> {
    let provider = provider();
    let verifier =
        OnlyServer { expected: peer.fingerprint, whom: peer.party.to_string(), provider: provider.clone() };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![identity.certificate()], identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// Checks that key and certificate are usable and belong together.
pub(crate) fn check_identity(identity: &Identity) -> Result<(), Error> {
    server_config(identity, Party::Zero, Arc::default()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PublicKey;
    use rustls::{
        ClientConnection, ServerConnection,
        client::ResolvesClientCert,
        pki_types::PrivateKeyDer,
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    };

    fn identity(name: &str) -> Identity {
        let pem = Identity::generate_pem(name).unwrap();
        Identity::from_pem(&pem.certificate, &pem.key).unwrap()
    }

    fn peer(identity: &Identity) -> Peer {
        let (fingerprint, x25519) = (identity.fingerprint(), PublicKey([9; 32]));
        Peer { party: Party::One, address: "localhost:1".into(), fingerprint, x25519 }
    }

    fn entry(identity: &Identity) -> ClientEntry {
        ClientEntry {
            name: "c".into(),
            fingerprint: identity.fingerprint(),
            permissions: vec![Permission::Ask],
        }
    }

    /// Shows a certificate and signs with whatever key it was given.
    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);

    impl Shows {
        fn new(certificate: CertificateDer<'static>, key: &PrivateKeyDer<'_>) -> Arc<Self> {
            let key = ring::sign::any_supported_type(key).unwrap();
            Arc::new(Self(Arc::new(CertifiedKey::new(vec![certificate], key))))
        }
    }

    impl ResolvesClientCert for Shows {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(self.0.clone())
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    impl ResolvesServerCert for Shows {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(self.0.clone())
        }
    }

    fn handshake(client: rustls::ClientConfig, server: rustls::ServerConfig) -> Result<(), Error> {
        let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from(SERVER_NAME).unwrap())?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        for _ in 0..10 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(())
    }

    #[test]
    fn a_certificate_is_worth_nothing_without_its_key() {
        let (party, client, thief) = (identity("p1"), identity("c"), identity("thief"));
        let directory = Arc::new(Directory::new(&[], &[entry(&client)]));
        let server = || server_config(&party, Party::One, directory.clone()).unwrap();
        let dial = |own| client_config(own, &peer(&party)).unwrap();
        handshake(dial(&client), server()).unwrap();

        // The thief shows the client's certificate, and then the party's.
        let mut stolen = dial(&client);
        stolen.client_auth_cert_resolver = Shows::new(client.certificate(), &thief.key());
        let error = handshake(stolen, server()).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(CertificateError::BadSignature)), "{error}");
        let mut stolen = server();
        stolen.cert_resolver = Shows::new(party.certificate(), &thief.key());
        let error = handshake(dial(&client), stolen).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(CertificateError::BadSignature)), "{error}");

        // Strangers, and clients without any certificate.
        let error = handshake(dial(&thief), server()).unwrap_err().to_string();
        assert!(error.contains("P1 does not know the certificate"), "{error}");
        let stranger = server_config(&thief, Party::One, directory.clone()).unwrap();
        let error = handshake(dial(&client), stranger).unwrap_err().to_string();
        assert!(error.contains("not the one pinned for P1"), "{error}");
        let mut bare = dial(&client);
        bare.client_auth_cert_resolver = Arc::new(NoCertificate);
        assert!(handshake(bare, server()).is_err());
    }

    #[derive(Debug)]
    struct NoCertificate;

    impl ResolvesClientCert for NoCertificate {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }

        fn has_certs(&self) -> bool {
            false
        }
    }
}
