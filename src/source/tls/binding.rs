//! Channel binding data of type `tls-server-end-point` (RFC 5929, section 4.1).

use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// The hash of the server's certificate, by the hash function of its signature; SHA-256 where that is MD5 or SHA-1.
/// `None` where the signature names no hash function (Ed25519), which leaves the type undefined.
pub(in crate::source) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = parsed.signature_algorithm();
    match algorithm.oid.to_string().as_str() {
        // RSA with MD5 or SHA-1, DSA and ECDSA with SHA-1; RSA, DSA and ECDSA with SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10040.4.3"
        | "1.2.840.10045.4.1"
        | "1.2.840.113549.1.1.11"
        | "2.16.840.1.101.3.4.3.2"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Sha384::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Sha512::digest(certificate).to_vec()),
        // RSA-PSS has the hash function among its parameters.
        "1.2.840.113549.1.1.10" => pss(certificate, algorithm.parameters.as_ref()?.value()),
        _ => None,
    }
}

/// The first OID of `RSASSA-PSS-params`, if it is within the tag of `hashAlgorithm`; SHA-1 is the default there.
fn pss(certificate: &[u8], parameters: &[u8]) -> Option<Vec<u8>> {
    const SHA2: [u8; 8] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    // [0] { SEQUENCE { OID (9 bytes), … } }: a0 len 30 len 06 09 …
    match parameters {
        [0xa0, _, 0x30, _, 0x06, 9, oid @ ..] => match oid.strip_prefix(&SHA2)?.first()? {
            1 => Some(Sha256::digest(certificate).to_vec()),
            2 => Some(Sha384::digest(certificate).to_vec()),
            3 => Some(Sha512::digest(certificate).to_vec()),
            _ => None,
        },
        _ => Some(Sha256::digest(certificate).to_vec()),
    }
}
