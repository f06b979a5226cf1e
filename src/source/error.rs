//! Why there is no connection.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::error::DbError;

use crate::wire::DecodeError;
use crate::wire::backend::ErrorFields;

/// An error that the server reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, not translated.
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    /// One line.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl From<ErrorFields<'_>> for ServerError {
    fn from(fields: ErrorFields<'_>) -> ServerError {
        ServerError {
            severity: fields.severity.into_owned(),
            code: fields.code.into_owned(),
            message: fields.message.into_owned(),
            detail: fields.detail.map(Into::into),
            hint: fields.hint.map(Into::into),
        }
    }
}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> ServerError {
        ServerError {
            severity: error.severity().into(),
            code: error.code().code().into(),
            message: error.message().into(),
            detail: error.detail().map(Into::into),
            hint: error.hint().map(Into::into),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

/// Why one attempt to connect failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A certificate or key file that cannot be used.
    #[error("{}: {problem}", file.display())]
    CertificateFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The TLS settings cannot be used together.
    #[error("{0}")]
    TlsSettings(String),
    /// The name has no address.
    #[error("the name does not resolve: {0}; check host, or the resolver")]
    Dns(io::Error),
    /// Nothing listens there.
    #[error("connection refused: no server listens there; check host and port, and that it is running")]
    Refused,
    /// The socket could not be connected.
    #[error("cannot connect: {0}")]
    Unreachable(io::Error),
    /// It took longer than `connect_timeout`.
    #[error("no answer within {}; check host, port and firewalls, or raise connect_timeout", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The server ended the connection.
    #[error("the server closed the connection while {0}")]
    Closed(&'static str),
    /// The server has TLS turned off.
    #[error("the server does not offer TLS, and sslmode asks for it; turn ssl on there, or lower sslmode")]
    TlsNotOffered,
    /// The handshake failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// Another error of the socket.
    #[error("{0}")]
    Io(io::Error),
    /// The server answered with an error.
    #[error("{0}")]
    Server(ServerError),
    /// The server is of a major version before 14.
    #[error("the server is PostgreSQL {0}, and walgate needs 14 or later")]
    Version(u32),
    /// The session is not with one backend.
    #[error("a connection pooler answers, and shares the session out among backends; connect to the server itself")]
    Pooler,
    /// The login cannot go on on this side.
    #[error("{0}")]
    Auth(String),
    /// The server is not of the kind that `target_session_attrs` asks for.
    #[error("the server is {0}, which target_session_attrs rules out")]
    SessionAttrs(&'static str),
    /// The server answered something that the protocol does not allow here.
    #[error("unexpected answer while {during}: {problem}")]
    Protocol {
        /// What was under way.
        during: &'static str,
        /// What came.
        problem: String,
    },
}

impl Failure {
    /// A label of fixed cardinality.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::CertificateFile { .. } | Failure::TlsSettings(_) => "config",
            Failure::Dns(_) => "dns",
            Failure::Refused => "refused",
            Failure::Unreachable(_) => "unreachable",
            Failure::Timeout(_) => "timeout",
            Failure::Closed(_) => "closed",
            Failure::TlsNotOffered | Failure::Tls(_) => "tls",
            Failure::Io(_) => "io",
            // Class 28 is "invalid authorization specification".
            Failure::Server(error) if error.code.starts_with("28") => "auth",
            Failure::Server(_) => "server",
            Failure::Auth(_) => "auth",
            Failure::Version(_) => "version",
            Failure::Pooler => "pooler",
            Failure::SessionAttrs(_) => "session_attrs",
            Failure::Protocol { .. } => "protocol",
        }
    }

    /// Whether the same attempt may succeed later with nothing changed here.
    pub fn is_transient(&self) -> bool {
        match self {
            Failure::Dns(_)
            | Failure::Refused
            | Failure::Unreachable(_)
            | Failure::Timeout(_)
            | Failure::Closed(_)
            | Failure::Io(_)
            | Failure::SessionAttrs(_) => true,
            // Starting up or shutting down, out of connections or memory, a broken link behind a pooler.
            Failure::Server(error) => ["57P", "53", "08"].iter().any(|class| error.code.starts_with(class)),
            _ => false,
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Failure {
        Failure::Protocol { during: "reading a message", problem: error.to_string() }
    }
}

/// No host of a connection string gave a connection.
#[derive(Debug)]
pub struct ConnectError {
    /// Each attempt's host and why it failed, in order; never empty.
    attempts: Vec<(Option<String>, Failure)>,
}

impl ConnectError {
    pub(super) fn new(attempts: Vec<(Option<String>, Failure)>) -> ConnectError {
        ConnectError { attempts }
    }

    /// The failure that decided: the last one.
    pub fn failure(&self) -> Option<&Failure> {
        self.attempts.last().map(|(_, failure)| failure)
    }

    /// Its label.
    pub fn kind(&self) -> &'static str {
        self.failure().map_or("config", Failure::kind)
    }

    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        self.attempts.iter().any(|(_, failure)| failure.is_transient())
    }

    /// Whether every host has refused the connection: nothing listens there.
    pub fn is_refused(&self) -> bool {
        self.attempts.iter().all(|(_, failure)| matches!(failure, Failure::Refused))
    }

    /// The server's own error, where it answered with one.
    pub fn server_error(&self) -> Option<&ServerError> {
        self.attempts.iter().rev().find_map(|(_, failure)| match failure {
            Failure::Server(error) => Some(error),
            _ => None,
        })
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (host, failure)) in self.attempts.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            match host {
                Some(host) => write!(f, "{separator}{host}: {failure}")?,
                None => write!(f, "{separator}{failure}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> ConnectError {
        ConnectError::new(vec![(None, failure)])
    }
}
