//! The password file, `~/.pgpass` (PostgreSQL's manual, "The Password File").

use std::path::Path;

use super::environment::Environment;
use super::error::DsnWarning;
use crate::source::secret::Secret;

/// Reads the file: a missing one is no fault, one that others may read is ignored with a warning.
///
/// What libpq refuses and this accepts is root's own file that a group may read: systemd's LoadCredential and
/// Kubernetes' Secrets with an fsGroup lend files to a service that way, and no user can make one.
pub(super) fn read(path: &Path, environment: &dyn Environment) -> Result<Option<String>, DsnWarning> {
    let Some(file) = environment.file(path) else { return Ok(None) };
    if !file.is_regular {
        return Err(DsnWarning::PassfileNotRegular(path.into()));
    }
    if !file.is_private() {
        return Err(DsnWarning::PassfilePermissions(path.into()));
    }
    environment.read(path).map(Some).map_err(|_| DsnWarning::PassfileUnreadable(path.into()))
}

/// The password of the first line whose `host:port:database:user` match; `*` matches anything.
pub(super) fn password(text: &str, host: &str, port: u16, database: &str, user: &str) -> Option<Secret> {
    let port = port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in [host, &port, database, user] {
            let (field, after) = field(rest);
            // Only a bare * is the wildcard; \* is a star.
            let matches = rest.starts_with("*:") || field == wanted;
            rest = after.filter(|_| matches)?;
        }
        Some(field(rest).0).filter(|password| !password.is_empty()).map(Secret::new)
    })
}

/// The text up to a colon, with backslashes undone, and what follows the colon.
fn field(text: &str) -> (String, Option<&str>) {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => return (value, Some(chars.as_str())),
            '\\' => value.push(chars.next().unwrap_or('\\')),
            c => value.push(c),
        }
    }
    (value, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Option<String> {
        password(text, "db.example", 5432, "app", "me").map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_matching_line_counts() {
        let text = "# db.example:5432:app:me:comment\nother:5432:app:me:no\ndb.example:5432:app:me:yes\n*:*:*:*:late\n";
        assert_eq!(find(text).as_deref(), Some("yes"));
        assert_eq!(find("*:*:*:*:any\r\n").as_deref(), Some("any"));
        assert_eq!(find("db.example:5433:app:me:port\ndb.example:5432:app:you:user\n"), None);
        assert_eq!(find("db.example:5432:app:me\n\n:\n"), None);
    }

    #[test]
    fn backslashes_escape_colons_backslashes_and_stars() {
        assert_eq!(find(r"*:*:*:me:a\:b\\c").as_deref(), Some(r"a:b\c"));
        assert_eq!(find(r"\*:*:*:me:literal"), None);
        assert_eq!(password("fe80\\:\\:1:*:*:*:v6", "fe80::1", 1, "", "").unwrap().expose(), "v6");
    }
}
