//! HTTP requests of walgate's own: who is trusted, and how long an answer may take.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;
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

/// Does what blocks on a thread of its own: the end of the process would wait for one of the runtime's.
///
/// # Errors
/// If there is no thread to be had.
pub async fn aside<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, outcome) = oneshot::channel();
    thread::Builder::new().name("request".into()).spawn(move || {
        // Nobody may wait for it any more.
        let _ = done.send(what());
    })?;
    outcome.await.map_err(|_| io::Error::other("the request has panicked"))
}

/// Why a request failed, without its URL, which may be a secret.
pub fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => "its URL cannot be used".into(),
        ureq::Error::Timeout(_) => "no answer in time".into(),
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}
