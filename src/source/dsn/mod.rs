//! Connection strings as libpq takes them: a URI or key=value pairs, completed from a service, `PG…` variables, the
//! password file and libpq's defaults, in that order of precedence. With no string at all, `DATABASE_URL` is taken.
//!
//! [`Dsn::resolve`] does all of it at once and gives typed, checked settings. Everything outside the string comes in
//! through [`Environment`]. It opens no connection and reads no certificate. Neither a [`Dsn`] nor an error prints a
//! password, and no error quotes the string: where it is malformed, any part may be part of the password.
//!
//! Where this differs from libpq: `connect_timeout` is 10 s unless set (0 waits without end, as there); an empty
//! variable counts as unset; a named certificate file must exist; `sslmode` with `sslrootcert=system` and other
//! conflicting pairs are refused as there.

mod environment;
mod error;
mod keyword;
mod passfile;
mod resolve;
mod service;
#[cfg(test)]
mod tests;
mod text;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use environment::{Environment, File, SystemEnvironment};
pub use error::{DsnError, DsnWarning, Origin};

use super::secret::Secret;

/// A resolved connection string: where to connect, how to encrypt, and as whom to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dsn {
    hosts: Vec<Host>,
    /// Whether to try the hosts in random order (`load_balance_hosts`).
    pub random_order: bool,
    /// The role, where one was given. [`Dsn::login_user`] adds the default.
    pub user: Option<String>,
    /// The database, where one was given. [`Dsn::login_database`] adds the default.
    pub database: Option<String>,
    system_user: Option<String>,
    /// Command-line options for the server (`options`).
    pub options: Option<String>,
    /// What the sessions call themselves.
    pub application_name: String,
    /// Which server of several will do.
    pub target_session_attrs: TargetSessionAttrs,
    /// How long one attempt may take, from resolving the name to the end of the login; `None` for no limit.
    pub connect_timeout: Option<Duration>,
    /// Settings of the TCP socket.
    pub tcp: TcpOptions,
    /// How to encrypt.
    pub tls: TlsOptions,
    /// Whether to bind the login to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// The ways of logging in that are acceptable; `None` for all.
    pub require_auth: Option<Vec<AuthMethod>>,
    /// What it was completed without, for a person to know.
    pub warnings: Vec<DsnWarning>,
}

/// One place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name, an address or a socket directory.
    pub target: Target,
    /// The TCP port, or the number in the socket's file name.
    pub port: u16,
    /// The password for this place.
    pub password: Option<Secret>,
}

/// What a host setting means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A host name or an address written as `host`.
    Name(String),
    /// An address given as `hostaddr`, not resolved; the name, where given, is what certificates are checked for.
    Address {
        /// Where to connect.
        address: IpAddr,
        /// The name that goes with it.
        name: Option<String>,
    },
    /// The directory of a Unix-domain socket, or `@name` in the abstract namespace.
    Socket(PathBuf),
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never encrypt.
    Disable,
    /// Encrypt only if the server wants it.
    Allow,
    /// Encrypt if the server can.
    #[default]
    Prefer,
    /// Always encrypt.
    Require,
    /// Always encrypt, and check that a trusted CA signed the certificate.
    VerifyCa,
    /// As `VerifyCa`, and check that the certificate is for this host.
    VerifyFull,
}

/// `sslnegotiation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslNegotiation {
    /// Ask by an SSLRequest.
    #[default]
    Postgres,
    /// Begin with the handshake (PostgreSQL 17 and later), naming the protocol `postgresql` by ALPN.
    Direct,
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// The operating system's.
    System,
    /// Those in a file.
    File {
        /// The file, in PEM.
        path: PathBuf,
        /// Whether it was named. The default, `~/.postgresql/root.crt`, need not exist.
        named: bool,
    },
    /// None were named and there is no home directory.
    None,
}

/// `sslcert` and `sslkey`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate and its chain, in PEM.
    pub certificate: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
    /// Whether the certificate was named. The default, `~/.postgresql/postgresql.crt`, need not exist.
    pub named: bool,
}

/// A TLS version that can be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// How to encrypt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// Whether, and how much to check.
    pub mode: SslMode,
    /// How to begin.
    pub negotiation: SslNegotiation,
    /// Whom to trust.
    pub roots: RootCertificates,
    /// What to show the server; `None` for nothing.
    pub certificate: Option<ClientCertificate>,
    /// Whether to name the host in the handshake (`sslsni`).
    pub server_name_indication: bool,
    /// The oldest version to speak.
    pub min_version: TlsVersion,
    /// The newest version to speak.
    pub max_version: TlsVersion,
}

/// Settings of a TCP socket. `None` leaves the system's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Whether to probe an idle connection.
    pub keepalives: bool,
    /// How long a connection is idle before the first probe.
    pub keepalives_idle: Option<Duration>,
    /// How long between probes.
    pub keepalives_interval: Option<Duration>,
    /// How many probes may go unanswered.
    pub keepalives_count: Option<u32>,
    /// How long sent bytes may go unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If both sides can.
    #[default]
    Prefer,
    /// Refuse a login without.
    Require,
}

/// A way of logging in, as `require_auth` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// The password in clear.
    Password,
    /// The password's MD5 hash.
    Md5,
    /// SCRAM-SHA-256, with or without channel binding.
    ScramSha256,
    /// No exchange: trust, peer, or a client certificate.
    None,
    /// GSSAPI, SSPI or OAuth, none of which walgate speaks.
    Other,
}

/// `target_session_attrs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// Any server.
    #[default]
    Any,
    /// One whose sessions can write by default.
    ReadWrite,
    /// One whose sessions cannot.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is.
    Standby,
    /// A standby if there is one, else any.
    PreferStandby,
}

impl Dsn {
    /// Resolves what a person names a source by: a connection string, or an address alone, `host:port` or the directory
    /// of a socket. With nothing named, as [`Dsn::resolve`].
    ///
    /// # Errors
    ///
    /// As [`Dsn::resolve`].
    pub fn from_argument(argument: Option<&str>, environment: &dyn Environment) -> Result<Dsn, DsnError> {
        let text = argument.map(|text| match text.contains("://") || text.contains('=') {
            true => Cow::Borrowed(text),
            false if text.starts_with('/') => Cow::Owned(format!("host={text}")),
            false => Cow::Owned(format!("postgresql://{text}")),
        });
        Dsn::resolve(text.as_deref(), environment)
    }

    /// The places to connect to, in the order given; never empty.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role to log in as: the one given, else the operating system's user, which libpq takes too.
    pub fn login_user(&self) -> Option<&str> {
        self.user.as_deref().or(self.system_user.as_deref())
    }

    /// The database to log in to: the one given, else the one named like the role.
    pub fn login_database(&self) -> Option<&str> {
        self.database.as_deref().or(self.login_user())
    }
}

/// A URI that can be copied, without the password and everything behind the `?`.
impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgresql://")?;
        if let Some(user) = &self.user {
            write!(f, "{}@", encode(user))?;
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match &host.target {
                Target::Socket(directory) => {
                    write!(f, "{comma}{}:{}", encode(&directory.to_string_lossy()), host.port)?;
                }
                _ => write!(f, "{comma}{host}")?,
            }
        }
        match &self.database {
            Some(database) => write!(f, "/{}", encode(database)),
            None => Ok(()),
        }
    }
}

/// `name:port`, `[address]:port` or the path of the socket.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Name(name) | Target::Address { name: Some(name), .. } if name.contains(':') => {
                write!(f, "[{name}]:{}", self.port)
            }
            Target::Name(name) | Target::Address { name: Some(name), .. } => write!(f, "{name}:{}", self.port),
            Target::Address { address: IpAddr::V6(address), name: None } => write!(f, "[{address}]:{}", self.port),
            Target::Address { address: IpAddr::V4(address), name: None } => write!(f, "{address}:{}", self.port),
            Target::Socket(directory) => write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port),
        }
    }
}

fn encode(text: &str) -> impl fmt::Display {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(text, KEPT)
}
