//! The certificate and key files, with libpq's checks on them.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::source::dsn::{ClientCertificate, File, RootCertificates};
use crate::source::error::Failure;

/// Whom to trust.
#[derive(Debug)]
pub(super) struct Roots {
    pub(super) store: RootCertStore,
    /// The same certificates as they are: a server may show one of them itself.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// A certificate chain, its key, and the file the chain came from.
pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, PathBuf);

fn unusable(file: &Path, problem: impl Into<String>) -> Failure {
    Failure::CertificateFile { file: file.into(), problem: problem.into() }
}

/// Reads the trusted certificates; `None` where none were named and the default file does not exist.
pub(super) fn roots(named: &RootCertificates) -> Result<Option<Roots>, Failure> {
    let certificates = match named {
        RootCertificates::None => return Ok(None),
        RootCertificates::File { path, named: false } if !path.exists() => return Ok(None),
        RootCertificates::File { path, .. } => certificates(path)?,
        RootCertificates::System => {
            let loaded = rustls_native_certs::load_native_certs();
            if loaded.certs.is_empty() {
                let why = loaded.errors.first().map_or_else(String::new, |error| format!(": {error}"));
                return Err(Failure::TlsSettings(format!(
                    "sslrootcert=system: the system has no trusted certificates{why}; install its CA bundle (ca-certificates)"
                )));
            }
            loaded.certs
        }
    };
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(certificates.iter().cloned());
    match named {
        RootCertificates::File { path, .. } if usable == 0 => {
            Err(unusable(path, "holds no certificate that can be used"))
        }
        _ => Ok(Some(Roots { store, certificates })),
    }
}

/// Reads the client's certificate and key; `None` where none was named and the default file does not exist.
pub(super) fn client_certificate(named: Option<&ClientCertificate>) -> Result<Option<Identity>, Failure> {
    let Some(ClientCertificate { certificate, key, named }) = named else { return Ok(None) };
    if !named && !certificate.exists() {
        return Ok(None);
    }
    let chain = certificates(certificate)?;
    let Some(file) = File::at(key) else {
        return Err(unusable(key, "the key of the client certificate does not exist; name it as sslkey"));
    };
    if !file.is_regular {
        return Err(unusable(key, "is not a plain file"));
    }
    if !file.is_private() {
        return Err(unusable(key, "others may read the key; chmod 600 it (640 if root owns it)"));
    }
    let bytes = fs::read(key).map_err(|error| unusable(key, error.to_string()))?;
    let private = match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(private) => private,
        Err(_) if bytes.windows(9).any(|window| window == b"ENCRYPTED") => {
            return Err(unusable(
                key,
                "the key is encrypted, which walgate cannot read; store it in clear, readable by its owner only",
            ));
        }
        Err(_) => return Err(unusable(key, "holds no private key in PEM")),
    };
    Ok(Some((chain, private, certificate.clone())))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let bytes = fs::read(path).map_err(|error| unusable(path, error.to_string()))?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(unusable(path, "holds no certificate in PEM")),
    }
}
