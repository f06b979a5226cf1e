//! Connection service files (PostgreSQL's manual, "The Connection Service File").

use std::io;
use std::path::PathBuf;

use super::environment::Environment;
use super::error::DsnError;
use super::keyword;
use super::text::Setting;

/// Where the system's file lies when `PGSYSCONFDIR` does not say: libpq asks the build, and these are Debian's
/// and Red Hat's.
const SYSTEM_DIRECTORIES: &[&str] = &["/etc/postgresql-common", "/etc/sysconfig/pgsql"];

/// The settings of a service: from the user's file, else from the system's.
pub(super) fn settings(
    name: &str,
    servicefile: Option<&str>,
    environment: &dyn Environment,
) -> Result<Vec<Setting>, DsnError> {
    let user_file = match servicefile {
        Some(path) => Some(PathBuf::from(path)),
        None => environment.home().map(|home| home.join(".pg_service.conf")),
    };
    let system_files: Vec<PathBuf> = match environment.variable("PGSYSCONFDIR") {
        Some(directory) => vec![PathBuf::from(directory).join("pg_service.conf")],
        None => SYSTEM_DIRECTORIES.iter().map(|directory| PathBuf::from(directory).join("pg_service.conf")).collect(),
    };

    let mut searched = Vec::new();
    for file in user_file.into_iter().chain(system_files) {
        match environment.read(&file) {
            Ok(text) => {
                if let Some(settings) = section(name, &text, &file)? {
                    return Ok(settings);
                }
            }
            // A file that was named must be there; the usual ones need not.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && (servicefile.is_none() || !searched.is_empty()) => {}
            Err(error) => {
                let problem = format!("cannot be read: {error}");
                return Err(DsnError::ServiceFile { file, line: 0, problem });
            }
        }
        searched.push(file);
    }
    Err(DsnError::NoService { name: name.into(), searched })
}

/// The settings under `[name]`; `None` where the file has no such section.
fn section(name: &str, text: &str, file: &std::path::Path) -> Result<Option<Vec<Setting>>, DsnError> {
    let mut found: Option<Vec<Setting>> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let fault = |problem: String| DsnError::ServiceFile { file: file.into(), line: index + 1, problem };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(heading) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if heading.split(']').next() == Some(name) {
                found = Some(Vec::new());
            }
            continue;
        }
        let Some(settings) = &mut found else { continue };
        if line.starts_with("ldap") {
            return Err(fault("walgate does not look services up in LDAP; write the settings out".into()));
        }
        let (key, value) = line.split_once('=').ok_or_else(|| fault("expected key=value".into()))?;
        match keyword::find(key) {
            Some(keyword) if matches!(keyword.name, "service" | "servicefile") => {
                return Err(fault("a service cannot refer to another one".into()));
            }
            Some(keyword) => {
                // As in libpq, the first of two settings of one key counts here.
                if !settings.iter().any(|(known, _)| known.name == keyword.name) {
                    settings.push((keyword, value.into()));
                }
            }
            None => {
                let nearest = keyword::nearest(key);
                let place = format!("{}, line {},", file.display(), index + 1);
                return Err(DsnError::UnknownKey { place, nearest });
            }
        }
    }
    Ok(found)
}
