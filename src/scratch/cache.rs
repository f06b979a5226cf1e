//! The cache: a directory of things that are costly to obtain, each made once, whoever asks and however many at a time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::account::Account;
use super::{Error, file};

/// A directory of finished entries. A killed process leaves at most an unfinished one, which the next replaces.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The user's cache: `$WALGATE_CACHE`, else `$XDG_CACHE_HOME/walgate`, `~/.cache/walgate`, for root
    /// `/var/cache/walgate`, or one in the directory for temporary files. For root it is the first that the user whom
    /// servers run as can read as well: root's home often is closed.
    pub fn open() -> Result<Cache, Error> {
        let owner = owner()?;
        let account = Account::below(owner)?;
        let closed = |directory: &Path| account.is_some_and(|account| !account.reaches(directory));
        let usable = |directory: &Path| -> Result<(), Error> {
            // Asked before as well, not to leave a directory where it is of no use.
            if closed(directory) {
                return Err(Error::NoCache);
            }
            fs::create_dir_all(directory).map_err(file("create", directory))?;
            if closed(directory) { Err(Error::NoCache) } else { Ok(()) }
        };
        let writable = |directory: &Path| usable(directory).is_ok() && tempfile::tempfile_in(directory).is_ok();
        if let Some(directory) = std::env::var_os("WALGATE_CACHE").map(PathBuf::from) {
            // It may be one that is filled already and not for this user to write to.
            usable(&directory)?;
            return Ok(Cache { directory });
        }
        let configured = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = std::env::home_dir().map(|home| home.join(".cache"));
        let system = (owner == 0).then(|| PathBuf::from("/var/cache"));
        let directories = [configured, home, system].into_iter().flatten().map(|path| path.join("walgate"));
        if let Some(directory) = directories.into_iter().find(|directory| writable(directory)) {
            return Ok(Cache { directory });
        }
        let directory = std::env::temp_dir().join(format!("walgate-cache-{owner}"));
        usable(&directory)?;
        // Anyone may make a directory of this name first, and what lies in it is run.
        let found = fs::metadata(&directory).map_err(file("read", &directory))?.uid();
        if found == owner { Ok(Cache { directory }) } else { Err(Error::NoCache) }
    }

    /// The path of the entry `name` if it is there.
    pub fn entry(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.join(name)).filter(|path| path.is_dir())
    }

    /// The path of the entry `name`, which `make` fills when it is not there: one process at a time, in another
    /// directory, which takes its place in one step.
    pub fn entry_or(&self, name: &str, make: impl FnOnce(&Path) -> Result<(), Error>) -> Result<PathBuf, Error> {
        if let Some(path) = self.entry(name) {
            return Ok(path);
        }
        let lock_path = self.directory.join(format!(".{name}.lock"));
        let lock = File::create(&lock_path).map_err(file("create", &lock_path))?;
        lock.lock().map_err(file("lock", &lock_path))?;
        if let Some(path) = self.entry(name) {
            return Ok(path);
        }
        let unfinished = self.directory.join(format!(".{name}.unfinished"));
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file("remove", &unfinished)(error)),
            _ => fs::create_dir(&unfinished).map_err(file("create", &unfinished))?,
        }
        make(&unfinished)?;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&unfinished, mode).map_err(file("change the mode of", &unfinished))?;
        let path = self.directory.join(name);
        fs::rename(&unfinished, &path).map_err(file("create", &path))?;
        Ok(path)
    }
}

/// The user who runs this process, by the owner of a file it makes: std has no `geteuid`.
fn owner() -> Result<u32, Error> {
    let directory = std::env::temp_dir();
    let probe = tempfile::tempfile().and_then(|file| file.metadata());
    Ok(probe.map_err(file("write to", &directory))?.uid())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn an_entry_is_made_once_by_however_many() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache { directory: directory.path().to_owned() };
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let path = cache.entry_or("thing-1", |path| {
                        made.fetch_add(1, Ordering::Relaxed);
                        fs::write(path.join("file"), "whole").map_err(file("write", path))
                    });
                    assert_eq!(fs::read_to_string(path.unwrap().join("file")).unwrap(), "whole");
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn what_failed_half_way_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache { directory: directory.path().to_owned() };
        let failed = cache.entry_or("thing-1", |path| {
            fs::write(path.join("half"), "").unwrap();
            Err(Error::NoAccount)
        });
        assert!(failed.is_err());
        assert_eq!(cache.entry("thing-1"), None);
        let path = cache.entry_or("thing-1", |_| Ok(())).unwrap();
        assert!(!path.join("half").exists());
    }
}
