//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), from verifiers as PostgreSQL stores them.
//!
//! [`Users`] is read from a file in the format of PgBouncer's `userlist.txt`; no password is in it and none can be
//! computed from it. [`Exchange`] is one login. A user that is not listed gets an exchange that looks like any other
//! and fails like one with a wrong password, so nobody learns which names there are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::crypto::{GetRandomFailed, ring};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The one mechanism that is offered. Without `-PLUS`: over TLS the client's own check of the certificate protects it.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// What PostgreSQL writes before a verifier.
const PREFIX: &str = "SCRAM-SHA-256$";

/// PostgreSQL's `scram_iterations` by default, and the length of its salts: what a user that is not listed is shown.
const ITERATIONS: u32 = 4096;
const SALT_LEN: usize = 16;

type Key = [u8; 32];

/// Who may log in.
#[derive(Clone)]
pub struct Users {
    verifiers: HashMap<String, Verifier>,
    /// Gives each unlisted user a salt that stays the same from one attempt to the next.
    decoy: Key,
}

/// What proves a password without holding it: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
#[derive(Clone)]
struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

/// A file of users that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("{}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line of it means nothing, or not what it has to.
    #[error("{}:{line}: {why}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong, and what to write instead.
        why: &'static str,
    },
    /// No randomness is to be had.
    #[error("no random numbers can be had from the operating system")]
    Random,
}

impl From<GetRandomFailed> for UsersError {
    fn from(_: GetRandomFailed) -> UsersError {
        UsersError::Random
    }
}

/// Why a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// What the client sent is not what the mechanism asks for.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The password is wrong, or the user unknown.
    #[error("password authentication failed")]
    Refused,
}

impl Users {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or a line is not a user with a SCRAM verifier.
    pub fn load(file: &Path) -> Result<Users, UsersError> {
        let text = std::fs::read_to_string(file).map_err(|error| UsersError::Read { file: file.into(), error })?;
        let mut verifiers = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let failed = |why| UsersError::Line { file: file.into(), line: index + 1, why };
            let line = line.trim();
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            let (user, rest) = quoted(line).ok_or_else(|| failed("expected \"user\" \"SCRAM-SHA-256$…\""))?;
            let (secret, rest) = quoted(rest).ok_or_else(|| failed("expected \"user\" \"SCRAM-SHA-256$…\""))?;
            if !rest.trim().is_empty() && !rest.trim_start().starts_with([';', '#', '"']) {
                return Err(failed("there is more behind the verifier"));
            }
            let verifier = Verifier::parse(&secret).map_err(failed)?;
            if verifiers.insert(user, verifier).is_some() {
                return Err(failed("this user was listed before"));
            }
        }
        Ok(Users { verifiers, decoy: random()? })
    }

    /// Begins a login with the client's first message.
    ///
    /// # Errors
    /// If the message is malformed or asks for what is not offered.
    pub fn begin(&self, user: &str, client_first: &[u8]) -> Result<Exchange, ScramError> {
        let malformed = ScramError::Malformed;
        let text = std::str::from_utf8(client_first).map_err(|_| malformed("not UTF-8"))?;
        let (header, bare) = match text.split_at_checked(3) {
            Some((header @ ("n,," | "y,,"), bare)) => (header, bare),
            None => return Err(malformed("no GS2 header")),
            Some(_) => return Err(malformed("channel binding and authorization identities are not offered")),
        };
        let mut attributes = bare.split(',');
        // libpq leaves the name empty: the one of the start-up packet counts.
        if !attributes.next().is_some_and(|name| name.starts_with("n=")) {
            return Err(malformed("no user name"));
        }
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).filter(|nonce| is_nonce(nonce));
        let client_nonce = nonce.ok_or(malformed("no nonce"))?;
        let own_nonce: [u8; 18] = random().map_err(|_| ScramError::Refused)?;
        let nonce = format!("{client_nonce}{}", BASE64.encode(own_nonce));
        let (verifier, listed) = match self.verifiers.get(user) {
            Some(verifier) => (verifier.clone(), true),
            None => (self.decoy(user), false),
        };
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let header = BASE64.encode(header);
        Ok(Exchange { bare: bare.into(), server_first, header, nonce, verifier, listed })
    }

    /// A verifier that no password matches.
    fn decoy(&self, user: &str) -> Verifier {
        let mut salt = mac(&self.decoy, &[user.as_bytes()]).to_vec();
        salt.truncate(SALT_LEN);
        Verifier { iterations: ITERATIONS, salt, stored_key: self.decoy, server_key: self.decoy }
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("users", &self.verifiers.len()).finish_non_exhaustive()
    }
}

/// One login, waiting for the client's proof.
pub struct Exchange {
    bare: String,
    server_first: String,
    header: String,
    nonce: String,
    verifier: Verifier,
    listed: bool,
}

impl Exchange {
    /// The server's first message.
    pub fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Checks the client's final message; the server's is the answer.
    ///
    /// # Errors
    /// If the message is malformed, or proves nothing.
    pub fn finish(self, client_final: &[u8]) -> Result<String, ScramError> {
        let malformed = ScramError::Malformed;
        let text = std::str::from_utf8(client_final).map_err(|_| malformed("not UTF-8"))?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(malformed("no proof"))?;
        let mut attributes = without_proof.split(',');
        if attributes.next().and_then(|header| header.strip_prefix("c=")) != Some(&*self.header) {
            return Err(malformed("the GS2 header is not the one it began with"));
        }
        if attributes.next().and_then(|nonce| nonce.strip_prefix("r=")) != Some(&*self.nonce) {
            return Err(malformed("the nonce is not the one that was agreed on"));
        }
        let mut client_key = key(proof).ok_or(malformed("the proof is not 32 bytes in Base64"))?;
        let signed: [&[u8]; 5] =
            [self.bare.as_bytes(), b",", self.server_first.as_bytes(), b",", without_proof.as_bytes()];
        for (byte, signature) in client_key.iter_mut().zip(mac(&self.verifier.stored_key, &signed)) {
            *byte ^= signature;
        }
        let stored_key: Key = Sha256::digest(client_key).into();
        let proven = bool::from(stored_key.ct_eq(&self.verifier.stored_key));
        if !(proven & self.listed) {
            return Err(ScramError::Refused);
        }
        Ok(format!("v={}", BASE64.encode(mac(&self.verifier.server_key, &signed))))
    }
}

impl Verifier {
    fn parse(text: &str) -> Result<Verifier, &'static str> {
        let Some(text) = text.strip_prefix(PREFIX) else {
            return Err(if text.len() == 35 && text.starts_with("md5") {
                "an MD5 hash cannot be used; write the SCRAM-SHA-256$… verifier that pg_authid.rolpassword shows after \
                 the password was set with password_encryption = 'scram-sha-256'"
            } else {
                "a password in plain text is not taken; write the SCRAM-SHA-256$… verifier that \
                 pg_authid.rolpassword shows for the role"
            });
        };
        let parse = || {
            let (params, keys) = text.split_once('$')?;
            let (iterations, salt) = params.split_once(':')?;
            let (stored, server) = keys.split_once(':')?;
            let iterations = iterations.parse().ok().filter(|&iterations: &u32| iterations > 0)?;
            let salt = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?;
            Some(Verifier { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
        };
        parse().ok_or("not a SCRAM verifier; expected SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>")
    }
}

/// A quoted text, in which `""` is a quote, and what is behind it.
fn quoted(line: &str) -> Option<(String, &str)> {
    let mut rest = line.trim_start().strip_prefix('"')?;
    let mut text = String::new();
    loop {
        let (part, behind) = rest.split_once('"')?;
        text.push_str(part);
        match behind.strip_prefix('"') {
            Some(more) => {
                text.push('"');
                rest = more;
            }
            None => return Some((text, behind)),
        }
    }
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn mac(key: &Key, parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn random<const N: usize>() -> Result<[u8; N], GetRandomFailed> {
    let mut bytes = [0; N];
    ring::default_provider().secure_random.fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use postgres_protocol::password::scram_sha_256;

    use super::*;

    fn users(text: &str) -> Result<Users, UsersError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Users::load(file.path())
    }

    fn log_in(users: &Users, user: &str, password: &str) -> Result<(), ScramError> {
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let exchange = users.begin(user, client.message())?;
        client.update(exchange.server_first().as_bytes()).unwrap();
        let last = exchange.finish(client.message())?;
        client.finish(last.as_bytes()).unwrap();
        Ok(())
    }

    #[test]
    fn the_password_behind_a_verifier_lets_in_and_no_other() {
        let text = format!("; users\n\n\"a\"\"b\" \"{}\"\n# more", scram_sha_256(b"secret"));
        let users = users(&text).unwrap();
        assert_eq!(log_in(&users, "a\"b", "secret"), Ok(()));
        assert_eq!(log_in(&users, "a\"b", "Secret"), Err(ScramError::Refused));
        assert_eq!(log_in(&users, "nobody", "secret"), Err(ScramError::Refused));
    }

    #[test]
    fn an_unknown_user_sees_the_same_salt_each_time() {
        let users = users("").unwrap();
        let salt = |user| {
            let exchange = users.begin(user, b"n,,n=,r=abc").unwrap();
            exchange.server_first().split(',').nth(1).unwrap().to_owned()
        };
        assert_eq!(salt("x"), salt("x"));
        assert_ne!(salt("x"), salt("y"));
    }

    #[test]
    fn a_line_that_is_no_verifier_is_named() {
        for (line, part) in [
            ("\"a\" \"hunter2\"", "plain text"),
            ("\"a\" \"md5d8578edf8458ce06fbc5bb76a58c5ca4\"", "MD5"),
            ("\"a\" \"SCRAM-SHA-256$x\"", "not a SCRAM verifier"),
            ("a b", "expected"),
            ("\"a\"", "expected"),
            ("\"a", "expected"),
        ] {
            let error = users(&format!("\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains(":2: ") && error.contains(part), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn malformed_messages_are_errors() {
        let users = users("").unwrap();
        for first in ["", "n", "n,,", "n,,n=", "n,,n=,r=", "p=tls-unique,,n=,r=a", "n,a=x,n=,r=a", "é,,", "n,,r=a"] {
            assert!(matches!(users.begin("x", first.as_bytes()), Err(ScramError::Malformed(_))), "{first:?}");
        }
        for last in ["", "c=biws", "c=biws,r=abc,p=AAAA", "c=xxxx,r=abc,p=", ",p=", "p="] {
            let exchange = users.begin("x", b"n,,n=,r=abc").unwrap();
            assert!(matches!(exchange.finish(last.as_bytes()), Err(ScramError::Malformed(_))), "{last:?}");
        }
        assert!(users.begin("x", &[0xff; 9]).is_err());
    }
}
