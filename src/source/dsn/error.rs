//! Why a connection string cannot be used.

use std::fmt;
use std::path::PathBuf;

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The connection string itself.
    Text,
    /// A service file's section of this name.
    Service(String),
    /// An environment variable.
    Variable(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Text => f.write_str("in the connection string"),
            Origin::Service(name) => write!(f, "of service \"{name}\""),
            Origin::Variable(name) => write!(f, "from {name}"),
        }
    }
}

/// Why a connection string cannot be used, and what to do.
///
/// No message quotes the connection string: where one is malformed, any part of it may be part of the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    /// A word without `=` in a key=value string.
    #[error(
        "no \"=\" after the word at character {at} of the connection string; write key=value or postgresql://…, and a database's name as dbname=…"
    )]
    MissingEquals {
        /// Where the word begins, counted from 1.
        at: usize,
    },
    /// A quote that never closes.
    #[error(
        "the quote at character {at} of the connection string is not closed; inside quotes write ' as \\' and \\ as \\\\"
    )]
    UnterminatedQuote {
        /// Where it opens, counted from 1.
        at: usize,
    },
    /// A key that libpq does not know.
    #[error("{place} has a key that libpq does not know; did you mean \"{nearest}\"?")]
    UnknownKey {
        /// Which one, and where.
        place: String,
        /// The known key most like it.
        nearest: &'static str,
    },
    /// The URI does not have the form of one.
    #[error(
        "the connection URI {problem}; write / : @ ? # % in a user, password or database as %2F %3A %40 %3F %23 %25"
    )]
    Uri {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A value that the key does not take.
    #[error("{key} {origin} must be {expected}")]
    InvalidValue {
        /// The key.
        key: &'static str,
        /// Where its value came from.
        origin: Origin,
        /// What it takes.
        expected: &'static str,
    },
    /// A value that is none of those the key takes.
    #[error("{key} {origin} must be one of {names}")]
    NotOneOf {
        /// The key.
        key: &'static str,
        /// Where its value came from.
        origin: Origin,
        /// What it takes.
        names: String,
    },
    /// A setting that libpq has and walgate cannot honour.
    #[error("{key} {origin} cannot be honoured: {instead}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Where its value came from.
        origin: Origin,
        /// What to do.
        instead: &'static str,
    },
    /// Lists that belong together have different lengths.
    #[error("{hosts} hosts and {others} of {key}: give one for each host{}", if *.key == "port" { ", or one for all" } else { "" })]
    Counts {
        /// The list that does not match the hosts.
        key: &'static str,
        /// How many hosts.
        hosts: usize,
        /// How many of the other.
        others: usize,
    },
    /// Two settings that exclude each other.
    #[error("{0}")]
    Conflict(&'static str),
    /// No such service.
    #[error("service \"{name}\" is not defined in {}; add a section [{name}] or correct the name", list(.searched))]
    NoService {
        /// Its name.
        name: String,
        /// The files looked into.
        searched: Vec<PathBuf>,
    },
    /// A service file that cannot be used.
    #[error("{}, line {line}: {problem}", file.display())]
    ServiceFile {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1; 0 for the whole file.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { "any service file".into() } else { names.join(" or ") }
}

/// Something the connection string was completed without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DsnWarning {
    /// The password file can be read by others.
    #[error("password file {} is ignored: others may read it; chmod 600 it", .0.display())]
    PassfilePermissions(PathBuf),
    /// The password file is a directory, a pipe or a device.
    #[error("password file {} is ignored: it is not a plain file", .0.display())]
    PassfileNotRegular(PathBuf),
    /// The password file is there and cannot be read.
    #[error("password file {} is ignored: it cannot be read", .0.display())]
    PassfileUnreadable(PathBuf),
}
