//! The proxy: clients on one side, a source on the other, and every byte between them unchanged.
//!
//! A client connection gets one upstream connection of its own, for as long as it lives. `listener` accepts,
//! `handshake` reads up to the start-up packet, `login` passes the one part of a login that encryption on two
//! legs would break, `relay` moves the bytes, and `tap` reads along. The proxy never makes up a byte of a
//! stream; what it cannot understand it relays.

mod handshake;
mod listener;
mod login;
mod relay;
mod session;
mod tap;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use listener::{BindError, ListenAddr, Proxy};
pub use tap::Tap;

/// Limits of a proxy.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a client may take to send its start-up packet, TLS included.
    pub startup: Duration,
    /// Sessions at the same time; a client beyond that is refused with SQLSTATE 53300.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { startup: Duration::from_secs(10), sessions: 2048 }
    }
}

/// The certificate that clients are shown, which can be read again while clients connect.
#[derive(Debug)]
pub struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// The certificate file.
    #[error("{}: cannot read certificates in PEM: {why}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key file.
    #[error("{}: cannot read a private key in PEM: {why}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The two together.
    #[error("certificate {} and key {} cannot be used together: {why}", certificate.display(), key.display())]
    Pair {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What is wrong.
        why: rustls::Error,
    },
}

impl ServerTls {
    /// Reads a certificate chain and its key, both in PEM.
    ///
    /// # Errors
    /// If one cannot be read, or they do not belong together.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<ServerTls, ServerTlsError> {
        let config = RwLock::new(read_server_config(&certificate, &key)?);
        Ok(ServerTls { certificate, key, config })
    }

    /// Reads both files again. Connections that are open keep what they have.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; what was read before then stays in use.
    pub fn reload(&self) -> Result<(), ServerTlsError> {
        let config = read_server_config(&self.certificate, &self.key)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read_server_config(certificate: &PathBuf, key: &PathBuf) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let unusable = |why: String| ServerTlsError::Certificate { file: certificate.clone(), why };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(error.to_string()))?;
    if chain.is_empty() {
        return Err(unusable("there is none in it".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| ServerTlsError::Key { file: key.clone(), why: error.to_string() })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
    let mut config =
        config.map_err(|why| ServerTlsError::Pair { certificate: certificate.clone(), key: key.clone(), why })?;
    config.alpn_protocols = vec![handshake::ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Whether an error only says that the other side is gone.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
