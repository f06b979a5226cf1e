//! Which user a server runs as. PostgreSQL refuses root, so a server that root starts steps down to another user,
//! who must be able to reach the files it needs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::{Error, file};

/// The user to step down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The user to step down to when `owner`, who runs this process, is root; else none.
    pub(super) fn below(owner: u32) -> Result<Option<Account>, Error> {
        if owner != 0 {
            return Ok(None);
        }
        let path = Path::new("/etc/passwd");
        let users = fs::read_to_string(path).map_err(file("read", path))?;
        let account = ["postgres", "nobody"].iter().find_map(|name| Account::parse(&users, name));
        account.map(Some).ok_or(Error::NoAccount)
    }

    fn parse(users: &str, name: &str) -> Option<Account> {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (user, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let account = Account { uid: uid.parse().ok()?, gid: gid.parse().ok()? };
            (user == name && account.uid != 0).then_some(account)
        })
    }

    /// Makes `command` run as this user.
    pub(super) fn run(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Gives `path` to this user.
    pub(super) fn own(self, path: &Path) -> Result<(), Error> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).map_err(file("change the owner of", path))
    }

    /// Whether this user may enter `directory` and every directory above it, as far as they exist, by the mode bits.
    pub(super) fn reaches(self, directory: &Path) -> bool {
        directory.ancestors().all(|ancestor| {
            let Ok(metadata) = fs::metadata(ancestor) else { return true };
            let enter = match metadata {
                ref m if m.uid() == self.uid => 0o100,
                ref m if m.gid() == self.gid => 0o010,
                _ => 0o001,
            };
            metadata.mode() & enter != 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_looked_up_by_its_whole_name_and_never_is_root() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104:a,b:/var:/bin/sh\n\
                     toor:x:0:0::/:/bin/sh\nmac:*:-2:-2::/:/bin/sh\nbroken\n";
        assert_eq!(Account::parse(users, "postgres"), Some(Account { uid: 101, gid: 104 }));
        for name in ["nobody", "root", "toor", "mac", "broken"] {
            assert_eq!(Account::parse(users, name), None, "{name}");
        }
    }

    #[test]
    fn only_root_steps_down() {
        assert_eq!(Account::below(1000).unwrap(), None);
    }

    #[test]
    fn a_directory_behind_a_closed_one_is_out_of_reach() {
        use std::os::unix::fs::PermissionsExt;
        let closed = tempfile::tempdir().unwrap();
        let inner = closed.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = Account { uid: 4_000_000, gid: 4_000_000 };
        assert!(!stranger.reaches(&inner));
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(stranger.reaches(&inner), stranger.reaches(&std::env::temp_dir()));
    }
}
