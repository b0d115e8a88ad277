//! `cluster init`: keys and configuration of a whole cluster, for trials and for one administrator.
//!
//! Operators who do not trust each other each make their own keys and exchange fingerprints and public keys: then no
//! machine ever sees two parties' secrets.

use crate::{
    identity::{Identity, fingerprint},
    ids::{Fingerprint, PublicKey},
    keys::StaticSecret,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Why no cluster was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file is already there.
    #[error("{} is already there; give an empty directory, nothing is overwritten", .0.display())]
    Exists(PathBuf),
    /// Not three addresses.
    #[error("{problem}; give three addresses, as in --hosts 10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400")]
    Hosts {
        /// What is wrong.
        problem: String,
    },
    /// The disk refuses.
    #[error("{}: {error}; what was written before it has been removed", .path.display())]
    Disk {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Keys could not be made.
    #[error("keys could not be made: {0}")]
    Keys(String),
}

/// The addresses of a cluster on one machine.
pub const LOCAL_HOSTS: [&str; 3] = ["127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402"];

struct NewParty {
    host: String,
    fingerprint: Fingerprint,
    x25519: PublicKey,
}

/// Writes `party0.toml`, `party1.toml`, `party2.toml` and `client.toml` with their key files into `directory`.
/// Returns the four configuration files. Overwrites nothing; on an error removes what it has written.
///
/// # Errors
/// See [`InitError`].
pub fn init_cluster(directory: &Path, hosts: &[String]) -> Result<[PathBuf; 4], InitError> {
    check_hosts(hosts)?;
    let mut files = Files { directory: directory.to_owned(), written: Vec::new(), made_directory: false };
    files.make_directory()?;
    let result = write_all(&mut files, hosts);
    if result.is_err() {
        files.remove();
    }
    result
}

fn check_hosts(hosts: &[String]) -> Result<(), InitError> {
    let problem = |problem| Err(InitError::Hosts { problem });
    if hosts.len() != 3 {
        return problem(format!("{} addresses", hosts.len()));
    }
    for (i, host) in hosts.iter().enumerate() {
        if host.parse::<std::net::SocketAddr>().map_or(true, |address| address.port() == 0) {
            return problem(format!("{host:?} is not an IP address with a port"));
        }
        if hosts[..i].contains(host) {
            return problem(format!("{host} appears twice"));
        }
    }
    Ok(())
}

fn write_all(files: &mut Files, hosts: &[String]) -> Result<[PathBuf; 4], InitError> {
    let keys = |e: &dyn std::fmt::Display| InitError::Keys(e.to_string());
    let mut parties = Vec::with_capacity(3);
    for (role, host) in hosts.iter().enumerate() {
        let secret = StaticSecret::generate().map_err(|e| keys(&e))?;
        let mut text = zeroize::Zeroizing::new(String::with_capacity(65));
        for byte in secret.expose() {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        files.write(&format!("party{role}.x25519"), &text, true)?;
        let fingerprint = write_identity(files, &format!("party{role}"))?;
        parties.push(NewParty { host: host.clone(), fingerprint, x25519: secret.public() });
    }
    let client = write_identity(files, "client")?;
    let mut paths = Vec::with_capacity(4);
    for role in 0..3 {
        paths.push(files.write(&format!("party{role}.toml"), &party_toml(role, &parties, client), false)?);
    }
    paths.push(files.write("client.toml", &client_toml(&parties), false)?);
    paths.try_into().map_err(|_| InitError::Keys("internal: not four files".into()))
}

fn write_identity(files: &mut Files, name: &str) -> Result<Fingerprint, InitError> {
    let pem = Identity::generate_pem(name).map_err(|e| InitError::Keys(e.to_string()))?;
    files.write(&format!("{name}.cert.pem"), &pem.certificate, false)?;
    files.write(&format!("{name}.key.pem"), &pem.key, true)?;
    let certificate = CertificateDer::from_pem_slice(pem.certificate.as_bytes())
        .map_err(|e| InitError::Keys(e.to_string()))?;
    Ok(fingerprint(&certificate))
}

fn entry(role: usize, party: &NewParty) -> String {
    format!(
        "[[parties]]\nrole = {role}\naddress = \"{}\"\nfingerprint = \"{}\"\nx25519 = \"{}\"\n",
        party.host, party.fingerprint, party.x25519
    )
}

fn party_toml(role: usize, parties: &[NewParty], client: Fingerprint) -> String {
    let others: Vec<_> =
        parties.iter().enumerate().filter(|(i, _)| *i != role).map(|(i, p)| entry(i, p)).collect();
    format!(
        "# Party {role} of a Catamount cluster. `party --print-defaults` shows every key.\n\
         role = {role}\nlisten = \"{host}\"\n\n\
         [identity]\ncertificate = \"party{role}.cert.pem\"\nkey = \"party{role}.key.pem\"\nx25519 = \"party{role}.x25519\"\n\n\
         {others}\n\
         [[clients]]\nname = \"client\"\nfingerprint = \"{client}\"\npermissions = [\"ask\", \"share-model\"]\n\n\
         [limits]\nmodel_directory = \"models{role}\"\n",
        host = parties[role].host,
        others = others.join("\n"),
    )
}

fn client_toml(parties: &[NewParty]) -> String {
    let all: Vec<_> = parties.iter().enumerate().map(|(i, p)| entry(i, p)).collect();
    format!(
        "# A Catamount cluster as its client sees it.\n\
         [identity]\ncertificate = \"client.cert.pem\"\nkey = \"client.key.pem\"\n\n{}",
        all.join("\n")
    )
}

/// Files written so far, to be removed if a later one fails.
struct Files {
    directory: PathBuf,
    written: Vec<PathBuf>,
    made_directory: bool,
}

impl Files {
    fn make_directory(&mut self) -> Result<(), InitError> {
        let path = &self.directory;
        self.made_directory = !path.exists();
        fs::create_dir_all(path).map_err(|error| InitError::Disk { path: path.clone(), error })
    }

    fn write(&mut self, name: &str, text: &str, private: bool) -> Result<PathBuf, InitError> {
        let path = self.directory.join(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(if private { 0o600 } else { 0o644 });
        }
        let _ = private;
        let mut file = options.open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => InitError::Exists(path.clone()),
            _ => InitError::Disk { path: path.clone(), error },
        })?;
        self.written.push(path.clone());
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| InitError::Disk { path: path.clone(), error })?;
        Ok(path)
    }

    fn remove(&self) {
        for path in &self.written {
            let _ = fs::remove_file(path);
        }
        if self.made_directory {
            let _ = fs::remove_dir(&self.directory);
        }
    }
}
