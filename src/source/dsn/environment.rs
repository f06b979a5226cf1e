//! What a connection string is completed from: variables, files and the operating system's user.
//!
//! Parsing takes all of it through [`Environment`], so that it is a function of its arguments and a test never
//! touches the process's environment.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The variables, files and user that complete a connection string.
pub trait Environment {
    /// The variable of this name; `None` where it is unset or not UTF-8.
    fn variable(&self, name: &str) -> Option<String>;

    /// The home directory, where `.pgpass`, `.pg_service.conf` and `.postgresql/` are looked for.
    fn home(&self) -> Option<PathBuf>;

    /// The operating system's name for the effective user, libpq's default for `user`.
    fn user(&self) -> Option<String>;

    /// The text of a file.
    ///
    /// # Errors
    ///
    /// As [`fs::read_to_string`].
    fn read(&self, path: &Path) -> io::Result<String>;

    /// What kind of file this is and who may read it; `None` where there is none.
    fn file(&self, path: &Path) -> Option<File>;
}

/// What libpq asks of a file before it trusts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// An ordinary file: not a directory, pipe, socket or device.
    pub is_regular: bool,
    /// The permission bits, as `0o600`.
    pub mode: u32,
    /// Whether root owns it.
    pub owned_by_root: bool,
}

impl File {
    /// What the file at `path` is; `None` where there is none.
    pub fn at(path: &Path) -> Option<File> {
        use std::os::unix::fs::MetadataExt as _;

        let metadata = fs::metadata(path).ok()?;
        Some(File {
            is_regular: metadata.is_file(),
            mode: metadata.mode() & 0o7777,
            owned_by_root: metadata.uid() == 0,
        })
    }

    /// Whether it is fit for a secret: root's may be readable by a group, any other by its owner only. It is what
    /// libpq asks of a private key (initialize_SSL in fe-secure-openssl.c).
    pub fn is_private(&self) -> bool {
        let forbidden = if self.owned_by_root { 0o037 } else { 0o077 };
        self.mode & forbidden == 0
    }
}

/// The process's own environment and the file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        env::var(name).ok()
    }

    fn home(&self) -> Option<PathBuf> {
        env::home_dir().filter(|home| !home.as_os_str().is_empty())
    }

    fn user(&self) -> Option<String> {
        whoami::username().ok()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn file(&self, path: &Path) -> Option<File> {
        File::at(path)
    }
}
