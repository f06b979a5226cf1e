//! TLS towards servers: rustls set up as each `sslmode` asks, the negotiation in front of the handshake, and the data
//! that binds a login to the channel.
//!
//! How much is checked follows libpq: `require` and below check nothing but the handshake's own signatures, unless there
//! is a root certificate file, whose CA must then have signed; `verify-ca` insists on such a file; `verify-full` also
//! checks the name. What rustls cannot verify is refused, never let through.

mod binding;
mod files;
mod verifier;

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(super) use binding::tls_server_end_point;

use super::dsn::{SslMode, SslNegotiation, Target, TlsOptions, TlsVersion};
use super::error::Failure;
use files::Roots;
use verifier::{Checks, Verifier};

/// `SSLRequest`: the length, then the code that no protocol version has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The ALPN name of PostgreSQL's protocol, which direct TLS demands.
const ALPN: &[u8] = b"postgresql";

/// TLS as a connection string asks for it.
#[derive(Clone, Debug)]
pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
    negotiation: SslNegotiation,
}

/// What the negotiation led to.
#[derive(Debug)]
pub(super) enum Negotiated {
    Tls(Box<TlsStream<TcpStream>>),
    /// The server said no, and goes on in clear on the same connection.
    NotOffered(TcpStream),
}

impl TlsClient {
    /// Reads the certificate files; `None` where TLS is turned off.
    pub(super) fn load(options: &TlsOptions) -> Result<Option<TlsClient>, Failure> {
        let provider = Arc::new(ring::default_provider());
        let checks = match (options.mode, files::roots(&options.roots)?) {
            (SslMode::Disable, _) => return Ok(None),
            (SslMode::VerifyFull, Some(roots)) => Checks::Name(roots),
            (_, Some(roots)) => Checks::Authority(roots),
            (SslMode::VerifyCa | SslMode::VerifyFull, None) => {
                return Err(Failure::TlsSettings(
                    "sslmode verify-ca and verify-full need a root certificate: name a file as sslrootcert, or put it \
                     at ~/.postgresql/root.crt, or set sslrootcert=system"
                        .into(),
                ));
            }
            (_, None) => Checks::Nothing,
        };
        let verifier = Verifier::new(checks, provider.signature_verification_algorithms);
        let builder = ClientConfig::builder_with_provider(Arc::<CryptoProvider>::clone(&provider))
            .with_protocol_versions(versions(options))
            .map_err(|error| Failure::TlsSettings(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match files::client_certificate(options.certificate.as_ref())? {
            None => builder.with_no_client_auth(),
            Some((chain, key, file)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                Failure::CertificateFile { file, problem: format!("does not go with its key: {error}") }
            })?,
        };
        config.enable_sni = options.server_name_indication;
        // PostgreSQL issues no tickets, and a resumed session would skip the checks.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Some(TlsClient { config: Arc::new(config), negotiation: options.negotiation }))
    }

    /// Asks for TLS and shakes hands.
    ///
    /// Of the server's answer exactly one byte is read. Whatever follows it goes to the handshake, which refuses what is
    /// not TLS, so that nothing injected in clear is ever taken for the server's (CVE-2021-23222).
    pub(super) async fn negotiate(
        &self,
        mut tcp: TcpStream,
        target: &Target,
        address: SocketAddr,
    ) -> Result<Negotiated, Failure> {
        if self.negotiation == SslNegotiation::Postgres {
            tcp.write_all(&SSL_REQUEST).await.map_err(Failure::Io)?;
            let mut answer = [0];
            if tcp.read(&mut answer).await.map_err(Failure::Io)? == 0 {
                return Err(Failure::Closed("asking for TLS"));
            }
            match answer {
                [b'S'] => {}
                [b'N'] => return Ok(Negotiated::NotOffered(tcp)),
                // An error this early comes in clear and could be anybody's: it is not shown (CVE-2024-10977).
                _ => {
                    let problem = "neither S nor N; is this a PostgreSQL server?".into();
                    return Err(Failure::Protocol { during: "asking for TLS", problem });
                }
            }
        }
        let name = server_name(target, address);
        match TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await {
            Ok(stream)
                if self.negotiation == SslNegotiation::Direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) =>
            {
                Err(Failure::Tls(
                    "the server did not agree to the protocol \"postgresql\"; is it PostgreSQL 17 or later?".into(),
                ))
            }
            Ok(stream) => Ok(Negotiated::Tls(Box::new(stream))),
            Err(error) => Err(Failure::Tls(explain(&error))),
        }
    }
}

/// The name that the certificate must be for: the host as written, else the address.
fn server_name(target: &Target, address: SocketAddr) -> ServerName<'static> {
    match target {
        Target::Name(name) | Target::Address { name: Some(name), .. } => {
            // The dot that ends an absolute name is not part of certificates' names.
            ServerName::try_from(name.trim_end_matches('.').to_owned())
                .unwrap_or(ServerName::IpAddress(address.ip().into()))
        }
        Target::Address { name: None, .. } | Target::Socket(_) => ServerName::IpAddress(address.ip().into()),
    }
}

fn versions(options: &TlsOptions) -> &'static [&'static SupportedProtocolVersion] {
    static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
    static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    match (options.min_version, options.max_version) {
        (_, TlsVersion::Tls12) => TLS12,
        (TlsVersion::Tls13, _) => TLS13,
        (TlsVersion::Tls12, TlsVersion::Tls13) => rustls::ALL_VERSIONS,
    }
}

/// What a failed handshake means to the person who set `sslmode`.
fn explain(error: &std::io::Error) -> String {
    use rustls::{AlertDescription, CertificateError, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let advice = match inner {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; sslrootcert does not hold the CA that signed it"
        }
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "; connect by a name in the certificate, or use sslmode=verify-ca",
        Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "; the server wants a client certificate: set sslcert and sslkey"
        }
        _ => "",
    };
    format!("{error}{advice}")
}
