//! Installed PostgreSQL: where its programs are and which version they have.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::npm;

/// The major versions that walgate supports.
pub const VERSIONS: [u32; 5] = [14, 15, 16, 17, 18];

/// One PostgreSQL with a server in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    bin: PathBuf,
    major: u32,
    version: String,
}

impl Installation {
    /// The one in the bin directory `bin`: it must hold `postgres` and `initdb`, and `postgres` must run.
    pub fn at(bin: &Path) -> Option<Installation> {
        let bin = bin.canonicalize().ok()?;
        if !bin.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.trim().strip_prefix("postgres (PostgreSQL) ")?.split(' ').next()?;
        let major = version.bytes().take_while(u8::is_ascii_digit).count();
        Some(Installation { major: version.get(..major)?.parse().ok()?, version: version.to_owned(), bin })
    }

    /// The major version: 14 to 18, or a newer one.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The version as the server prints it: `18.4`, `19devel`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The path of one of its programs, if it is there; a build from npm has only the server's.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        Some(self.bin.join(name)).filter(|path| path.is_file())
    }

    pub(super) fn bin(&self) -> &Path {
        &self.bin
    }
}

/// An installed PostgreSQL of this major version: from `WALGATE_PG_BIN` (bin directories, separated as in `PATH`), from
/// the `pg_config` on `PATH`, from where packages put it, or from the cache.
pub fn find(major: u32) -> Option<Installation> {
    let cached = || npm::cached(major).into_iter();
    configured().chain(installed()).chain(cached()).find(|installation| installation.major == major)
}

/// The newest installed PostgreSQL that walgate supports. When `WALGATE_PG_BIN` names one, only those it names count.
pub fn newest() -> Option<Installation> {
    let newest = |found: &mut dyn Iterator<Item = Installation>| {
        found.filter(|installation| installation.major >= VERSIONS[0]).max_by_key(|installation| installation.major)
    };
    let cached = VERSIONS.into_iter().filter_map(npm::cached);
    newest(&mut configured()).or_else(|| newest(&mut installed().chain(cached)))
}

/// Those that `WALGATE_PG_BIN` names.
pub(super) fn configured() -> impl Iterator<Item = Installation> {
    let path = std::env::var_os("WALGATE_PG_BIN").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).filter(|path| path.is_absolute()).collect();
    directories.into_iter().filter_map(|bin| Installation::at(&bin))
}

/// Those that the system has.
fn installed() -> impl Iterator<Item = Installation> {
    let pg_config = Command::new("pg_config").arg("--bindir").output().ok();
    let pg_config = pg_config.and_then(|output| String::from_utf8(output.stdout).ok());
    let mut directories: Vec<PathBuf> = pg_config.iter().map(|path| PathBuf::from(path.trim())).collect();
    // Debian, Red Hat, the source's own `make install`, Homebrew.
    directories.extend(below("/usr/lib/postgresql", "", "bin"));
    directories.extend(below("/usr", "pgsql-", "bin"));
    directories.extend(["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    for homebrew in ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"] {
        directories.extend(below(homebrew, "postgresql@", "bin"));
    }
    directories.into_iter().filter_map(|bin| Installation::at(&bin))
}

/// `root/*/last` for the directories whose name begins with `prefix`.
fn below(root: &str, prefix: &str, last: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let matching = names.filter(|name: &std::ffi::OsString| OsStr::to_string_lossy(name).starts_with(prefix));
    matching.map(|name| Path::new(root).join(name).join(last)).collect()
}
