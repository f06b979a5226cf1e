//! What is asked of a server's certificate.
//!
//! rustls' own verifier is for the web's certificates. Those of PostgreSQL servers are often made by hand, and three
//! kinds that libpq takes need care here: one that is its own root (`openssl req -x509`, the manual's first recipe),
//! one that names the host only in its subject, and, where nothing is to be verified, one of X.509 version 1.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;

use super::Roots;

/// How much to check.
#[derive(Debug)]
pub(super) enum Checks {
    /// That the server has the certificate's key, which every handshake shows.
    Nothing,
    /// That a trusted CA signed it.
    Authority(Roots),
    /// That it is for this host, too.
    Name(Roots),
}

#[derive(Debug)]
pub(super) struct Verifier {
    checks: Checks,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(checks: Checks, algorithms: WebPkiSupportedAlgorithms) -> Verifier {
        Verifier { checks, algorithms }
    }

    fn verify_authority(
        &self,
        roots: &Roots,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // webpki refuses a CA's certificate as a server's; OpenSSL takes one that is trusted as it stands.
        if roots.certificates.iter().any(|root| root == shown) {
            let validity = *parse(shown)?.tbs_certificate().validity();
            let now = std::time::Duration::from_secs(now.as_secs());
            return if now < validity.not_before.to_unix_duration() {
                Err(CertificateError::NotValidYet.into())
            } else if now > validity.not_after.to_unix_duration() {
                Err(CertificateError::Expired.into())
            } else {
                Ok(())
            };
        }
        let parsed = ParsedCertificate::try_from(shown)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots.store, intermediates, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.checks {
            Checks::Nothing => {}
            Checks::Authority(roots) => self.verify_authority(roots, shown, intermediates, now)?,
            Checks::Name(roots) => {
                self.verify_authority(roots, shown, intermediates, now)?;
                verify_name(shown, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match verify_tls12_signature(message, certificate, signed, &self.algorithms) {
            Err(error) if self.is_version_1(&error) => verify_with_key(message, certificate, signed, &self.algorithms),
            verified => verified,
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match verify_tls13_signature(message, certificate, signed, &self.algorithms) {
            Err(error) if self.is_version_1(&error) => verify_with_key(message, certificate, signed, &self.algorithms),
            verified => verified,
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Verifier {
    /// webpki reads no certificate of X.509 version 1, as `openssl x509 -req` makes them; where nothing is verified but
    /// the handshake's signature, its key is enough.
    fn is_version_1(&self, error: &Error) -> bool {
        matches!((&self.checks, error), (Checks::Nothing, Error::InvalidCertificate(_)))
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// The name among the subject's alternatives; without any, the subject's common name, which libpq still takes.
fn verify_name(shown: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let refused = match verify_server_name(&ParsedCertificate::try_from(shown)?, name) {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    let certificate = parse(shown)?;
    let subject = certificate.tbs_certificate();
    if !matches!(subject.get_extension::<SubjectAltName>(), Ok(None)) {
        return Err(refused);
    }
    match subject.subject().common_name() {
        Ok(Some(common_name)) if names_host(&common_name.value(), &name.to_str()) => Ok(()),
        _ => Err(refused),
    }
}

/// `pq_verify_peer_name_matches_certificate_name` in `fe-secure-common.c`: a leading `*` stands for one label.
fn names_host(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((_, host_domain))) => domain.contains('.') && domain.eq_ignore_ascii_case(host_domain),
        _ => false,
    }
}

/// Checks a handshake's signature with the certificate's key alone.
fn verify_with_key(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = parse(certificate)?;
    let key = certificate.tbs_certificate().subject_public_key_info();
    let key_algorithm = key.algorithm.to_der().map_err(|_| CertificateError::BadEncoding)?;
    let key_bytes = key.subject_public_key.as_bytes().ok_or(CertificateError::BadEncoding)?;
    let candidates = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
    for algorithm in candidates.flat_map(|(_, algorithms)| algorithms.iter()) {
        // What rustls calls the algorithm's id is the contents of the certificate's AlgorithmIdentifier.
        if key_algorithm.ends_with(algorithm.public_key_alg_id().as_ref()) {
            return match algorithm.verify_signature(key_bytes, message, signed.signature()) {
                Ok(()) => Ok(HandshakeSignatureValid::assertion()),
                Err(_) => Err(CertificateError::BadSignature.into()),
            };
        }
    }
    Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_matches_whole_or_by_one_wildcard_label() {
        for (pattern, host, expected) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("*", "db", false),
            ("d*.example.com", "db.example.com", false),
        ] {
            assert_eq!(names_host(pattern, host), expected, "{pattern} {host}");
        }
    }
}
