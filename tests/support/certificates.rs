//! Certificates for one test: an authority, what it signed, and the files that hold them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use walgate::scratch::Tls;

/// An authority with a directory for files.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    directory: TempDir,
}

/// A certificate and its key, as PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new([]).expect("no names are names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("the key signs").pem();
        Authority {
            issuer: Issuer::new(params, key),
            certificate,
            directory: TempDir::new().expect("a directory can be made"),
        }
    }

    /// Signs a certificate for these alternative names, and this common name.
    pub(crate) fn sign(&self, names: &[&str], common_name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key can be made");
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(names).expect("these are names");
        params.distinguished_name.push(DnType::CommonName, common_name);
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs").pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    /// What a server with a certificate for these names needs, which takes client certificates of this authority.
    pub(crate) fn server(&self, names: &[&str], common_name: &str) -> Tls {
        let Identity { certificate, key } = self.sign(names, common_name);
        Tls { certificate, key, client_roots: Some(self.certificate.clone()) }
    }

    /// The authority's certificate as a file.
    pub(crate) fn root(&self) -> String {
        self.file("root.crt", &self.certificate, 0o644).display().to_string()
    }

    /// Writes a file.
    pub(crate) fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode can be set");
        path
    }
}
