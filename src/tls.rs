//! The certificate that walgate shows: to clients of the proxy, and over HTTP.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The certificate that clients are shown, which can be read again while clients connect.
#[derive(Debug)]
pub struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    /// What clients may name in ALPN.
    protocol: Vec<u8>,
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
    /// Reads a certificate chain and its key, both in PEM, for clients of this protocol, as ALPN names it.
    ///
    /// # Errors
    /// If one cannot be read, or they do not belong together.
    pub fn load(certificate: PathBuf, key: PathBuf, protocol: &[u8]) -> Result<ServerTls, ServerTlsError> {
        let protocol = protocol.to_vec();
        let config = RwLock::new(read_server_config(&certificate, &key, &protocol)?);
        Ok(ServerTls { certificate, key, protocol, config })
    }

    /// Reads both files again. Connections that are open keep what they have.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; what was read before then stays in use.
    pub fn reload(&self) -> Result<(), ServerTlsError> {
        let config = read_server_config(&self.certificate, &self.key, &self.protocol)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// The file of the certificate chain.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// What to accept a connection with.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read_server_config(
    certificate: &PathBuf,
    key: &PathBuf,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, ServerTlsError> {
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
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}
