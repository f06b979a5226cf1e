//! HTTP requests of walgate's own: who is trusted, and how long an answer may take.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// What makes requests, each of which may take this long, and follows no redirection. Trusted are the certificates of the
/// system (`SSL_CERT_FILE` names others), and these.
///
/// It blocks: not for a thread that relays.
pub fn agent(timeout: Duration, trusted: &[CertificateDer<'_>]) -> Agent {
    let system = rustls_native_certs::load_native_certs().certs;
    let roots = system.iter().chain(trusted).map(|root| Certificate::from_der(root).to_owned());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::from(roots.collect::<Vec<Certificate<'static>>>()))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build();
    Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("walgate/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build()
        .into()
}
