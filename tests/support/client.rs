//! walgate's own way to connect, for tests that need TLS or what a login says.

use std::path::{Path, PathBuf};
use std::{fs, io};

use walgate::source::dsn::{Environment, File};
use walgate::source::{ConnectError, Connector, Dsn};

/// No variables, and an empty home or the given one.
pub(crate) struct Bare(pub(crate) Option<PathBuf>);

impl Environment for Bare {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn home(&self) -> Option<PathBuf> {
        self.0.clone()
    }

    fn user(&self) -> Option<String> {
        Some("nobody-in-particular".into())
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn file(&self, path: &Path) -> Option<File> {
        File::at(path)
    }
}

/// A connection string made ready, of which every part is good.
#[track_caller]
pub(crate) fn connector(dsn: &str) -> Connector {
    try_connector(dsn).unwrap_or_else(|error| panic!("{dsn}: {error}"))
}

/// The same, where a certificate file may be bad.
#[track_caller]
pub(crate) fn try_connector(dsn: &str) -> Result<Connector, ConnectError> {
    Connector::new(Dsn::resolve(Some(dsn), &Bare(None)).unwrap_or_else(|error| panic!("{dsn}: {error}")))
}

/// What one query says in a new session.
pub(crate) async fn ask(dsn: &str, sql: &str) -> Result<String, ConnectError> {
    let session = connector(dsn).sql().await?;
    let row = session.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    session.close().await;
    Ok(row.get(0))
}

/// Whether a session is encrypted.
pub(crate) const ENCRYPTED: &str = "SELECT coalesce(version, 'plain') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
