//! TLS identities: a self-signed certificate, its key, and the fingerprint that others pin.

use crate::{
    config::{At, ConfigError, IdentityConfig, beside, read_private},
    ids::Fingerprint,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use std::{fmt, fs, path::Path};
use zeroize::Zeroizing;

/// A certificate and its private key. The key is never printed.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// The texts of a fresh identity.
pub(crate) struct IdentityPem {
    pub(crate) certificate: String,
    pub(crate) key: Zeroizing<String>,
}

impl Identity {
    /// A fresh identity: a self-signed Ed25519 certificate. Nobody checks its name or dates, only its fingerprint.
    pub(crate) fn generate_pem(name: &str) -> Result<IdentityPem, rcgen::Error> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = parameters.self_signed(&key)?;
        Ok(IdentityPem { certificate: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
    }

    /// From PEM texts.
    ///
    /// # Errors
    /// Names which of the two texts is not what it should be.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, String> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|e| format!("no certificate in PEM: {e}"))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|e| format!("no private key in PEM: {e}"))?;
        Ok(Self { certificate, key })
    }

    /// As a configuration file names it.
    pub(crate) fn load(config: &IdentityConfig, file: &Path) -> Result<Self, ConfigError> {
        let at = |key| At { file, key };
        let certificate = match (&config.certificate, &config.certificate_pem) {
            (Some(path), None) => {
                let path = beside(file, path);
                fs::read_to_string(&path).map_err(|e| {
                    at("identity.certificate").error(
                        format!("{}: {e}", path.display()),
                        "correct the path, or make new keys with `catamount cluster init DIR`",
                    )
                })?
            }
            (None, Some(text)) => text.clone(),
            _ => {
                return Err(at("identity.certificate")
                    .error("given twice or not at all", "give one of certificate and certificate_pem"));
            }
        };
        let key = Zeroizing::new(match (&config.key, &config.key_pem) {
            (Some(path), None) => read_private(path, at("identity.key"))?,
            (None, Some(text)) => {
                read_private(Path::new(file.file_name().unwrap_or_default()), at("identity.key_pem"))?;
                text.clone()
            }
            _ => {
                return Err(
                    at("identity.key").error("given twice or not at all", "give one of key and key_pem")
                );
            }
        });
        let identity = Self::from_pem(&certificate, &key)
            .map_err(|e| at("identity").error(e, "make new keys with `catamount cluster init DIR`"))?;
        crate::tls::check_identity(&identity).map_err(|e| {
            at("identity").error(e.to_string(), "give a certificate and the key that belongs to it")
        })?;
        Ok(identity)
    }

    /// What others pin.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.certificate)
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, key redacted)", self.fingerprint().short())
    }
}

/// SHA-256 of a certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate.as_ref()).into())
}
