//! What the daemon runs with: validated, with every file that it names read.
//!
//! It comes from a TOML file ([`read`]) or from flags. Nothing further in looks at either.

mod file;
mod gate;
mod values;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use file::{FileError, read, read_secret};
pub use gate::{Gate, Statz};

use crate::identity::RuleSet;
use crate::lag::Observe;
use crate::proxy::{Guard, Limits, ListenAddr};
use crate::scram::{Users, UsersError};
use crate::source::dsn::TargetSessionAttrs;
use crate::source::{Connector, Secret};
use crate::tls::{ServerTls, ServerTlsError};
use crate::webhook::Url;

/// Everything.
#[derive(Debug)]
pub struct Config {
    /// The HTTP interface; `None` where there is to be none.
    pub http: Option<Http>,
    /// The SQL console.
    pub console: Console,
    /// Where findings that come and go are posted.
    pub webhook: Option<Url>,
    /// How long sessions may take to end after SIGTERM, or when their source goes.
    pub drain_timeout: Duration,
    /// At least one.
    pub sources: Vec<Source>,
    /// Each about one of the sources.
    pub gates: Vec<Gate>,
}

/// The HTTP interface.
#[derive(Debug)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What `/v1` routes want to be shown.
    pub token: Option<Secret>,
    /// With what certificate.
    pub tls: Option<Arc<ServerTls>>,
}

/// The SQL console.
#[derive(Clone, Debug, Default)]
pub struct Console {
    /// The database name that asks for it; `None` where there is to be none.
    pub database: Option<String>,
    /// Who may ask, with SCRAM verifiers; without it, clients on this machine may.
    pub auth_file: Option<PathBuf>,
    /// Those whom the file lists.
    pub users: Option<Arc<Users>>,
}

impl Console {
    /// The database name that asks for it unless another is given.
    pub const DATABASE: &str = "walgate";

    /// A console of this name, or none where it is `off`, for whom the file lists.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn new(database: String, auth_file: Option<PathBuf>) -> Result<Console, UsersError> {
        let users = auth_file.as_deref().map(Users::load).transpose()?.map(Arc::new);
        Ok(Console { database: Some(database).filter(|database| database != "off"), auth_file, users })
    }
}

/// A source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// How to reach it.
    pub connector: Connector,
    /// Where clients connect; `None` where there is to be no proxy.
    pub listen: Option<ListenAddr>,
    /// How its consumers are observed at best.
    pub observe: Observe,
    /// walgate opens no connection of its own.
    pub passive: bool,
    /// What is done with consumers that begin while a table would break them.
    pub guard: Guard,
    /// The rules that tables must keep, besides PostgreSQL's own.
    pub rule_sets: BTreeSet<RuleSet>,
    /// The certificate that clients are shown.
    pub tls: Option<Arc<ServerTls>>,
    /// Limits of its proxy.
    pub limits: Limits,
    /// The age at which evidence no longer counts.
    pub stale_after: Duration,
}

/// What is wrong with a source, whichever way it was described.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Of the two files that make up a certificate one is missing.
    #[error("tls_cert and tls_key belong together: give both or neither")]
    HalfCertificate,
    /// The certificate or its key.
    #[error("{0}")]
    Tls(#[from] ServerTlsError),
    /// There is nothing for it to do.
    #[error("passive without listen leaves nothing to do: give listen, or leave passive out")]
    NothingToDo,
    /// Which of several hosts is meant only a login can tell.
    #[error("passive opens no connection that could tell which host target_session_attrs means; name one host")]
    PassiveChoice,
    /// Copies of slots are made on connections of walgate's own.
    #[error("observe = \"slot\" opens connections, which passive rules out")]
    PassiveSlot,
    /// The guard reads the catalog on a connection of walgate's own.
    #[error(
        "guard = \"block\" must read the catalog, for which passive allows no connection: leave passive out, or set \
         guard to \"warn\" or \"off\""
    )]
    PassiveGuard,
    /// The guard stands where clients pass.
    #[error("guard = \"block\" without listen guards nothing: give listen, or set guard to \"warn\" or \"off\"")]
    NothingToGuard,
}

impl Source {
    /// Checks what is not a matter of one setting alone.
    ///
    /// # Errors
    /// If settings contradict each other.
    pub fn check(self) -> Result<Source, SourceError> {
        let dsn = self.connector.dsn();
        if self.passive {
            if self.listen.is_none() {
                return Err(SourceError::NothingToDo);
            }
            if self.observe == Observe::Slot {
                return Err(SourceError::PassiveSlot);
            }
            if self.guard == Guard::Block {
                return Err(SourceError::PassiveGuard);
            }
            if dsn.hosts().len() > 1 && dsn.target_session_attrs != TargetSessionAttrs::Any {
                return Err(SourceError::PassiveChoice);
            }
        }
        if self.guard == Guard::Block && self.listen.is_none() {
            return Err(SourceError::NothingToGuard);
        }
        Ok(self)
    }
}

/// Reads a certificate and its key, where they are given; with the application protocol that clients may ask for.
///
/// # Errors
/// If only one is given, or they cannot be used.
pub fn certificate(
    certificate: Option<&Path>,
    key: Option<&Path>,
    protocol: &[u8],
) -> Result<Option<Arc<ServerTls>>, SourceError> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Ok(Some(Arc::new(ServerTls::load(certificate.to_owned(), key.to_owned(), protocol)?)))
        }
        (None, None) => Ok(None),
        _ => Err(SourceError::HalfCertificate),
    }
}

/// Where to answer HTTP, or not to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpAddr {
    /// Here.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

impl Default for HttpAddr {
    fn default() -> HttpAddr {
        HttpAddr::At(SocketAddr::from(([127, 0, 0, 1], 9632)))
    }
}

impl FromStr for HttpAddr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<HttpAddr, Self::Err> {
        match text {
            "off" => Ok(HttpAddr::Off),
            _ => text.parse().map(HttpAddr::At).map_err(|_| "expected address:port, like 127.0.0.1:9632, or off"),
        }
    }
}

/// How long sessions may take to end, by default: less than the 30 s that Kubernetes gives.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// The age at which evidence no longer counts, by default.
pub const STALE_AFTER: Duration = Duration::from_secs(15);

/// The most sessions that can be asked for: what a semaphore holds.
pub const MAX_SESSIONS: usize = 0x1fff_ffff;
