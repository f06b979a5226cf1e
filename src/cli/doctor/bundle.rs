//! The file for a ticket: one JSON document.
//!
//! ```json
//! {"walgate": "0.1.0", "written_at": "2026-11-21T03:25:17.123456Z", "healthy": false,
//!  "problems": [{"rule", "severity", "subject", "message", "mend": ["…"]}], "well": [{"rule", "seen"}],
//!  "checkup": {"server": {…}, "settings": {…}, "limits": {…}, "slots": […], "transactions": […], …}}
//! ```
//!
//! `checkup` is the [`Checkup`] that was judged: a part of it that was not seen is `{"unseen": "why", "mend": "GRANT …"}`.
//! There is nothing secret in it because nothing secret is read: of queries the first words, of the connection strings of
//! subscriptions where they lead, of settings those that are listed.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

use super::{Checkup, Diagnosis, DoctorError, print};
use crate::time::PgTimestamp;

/// Where it goes.
pub(super) enum Bundle {
    /// Standard output.
    Output,
    /// A file, which is at its place once it is whole, and never takes another's.
    File(PathBuf),
}

#[derive(Serialize)]
struct Document<'a> {
    walgate: &'static str,
    written_at: PgTimestamp,
    healthy: bool,
    #[serde(flatten)]
    diagnosis: &'a Diagnosis,
    checkup: &'a Checkup,
}

impl Bundle {
    /// Makes sure that it can be written.
    ///
    /// # Errors
    /// If there is a file of the name, or none can be made.
    pub(super) fn begin(path: &str) -> Result<Bundle, DoctorError> {
        if path == "-" {
            return Ok(Bundle::Output);
        }
        let path = PathBuf::from(path);
        if path.symlink_metadata().is_ok() {
            return Err(refused(&path, TAKEN));
        }
        // Before anything is looked at; nothing is left of it.
        NamedTempFile::new_in(directory(&path)).map_err(|error| refused(&path, error))?;
        Ok(Bundle::File(path))
    }

    /// Writes it.
    ///
    /// # Errors
    /// If it cannot be written, or somebody has made a file of the name meanwhile.
    pub(super) fn write(self, checkup: &Checkup, diagnosis: &Diagnosis) -> Result<(), DoctorError> {
        let document = Document {
            walgate: env!("CARGO_PKG_VERSION"),
            written_at: PgTimestamp::now(),
            healthy: diagnosis.is_healthy(),
            diagnosis,
            checkup,
        };
        let mut text = serde_json::to_string_pretty(&document).map_err(io::Error::from)?;
        text.push('\n');
        match self {
            Bundle::Output => drop(print(&text)?),
            Bundle::File(path) => {
                // Nobody else can read it.
                let draft = NamedTempFile::new_in(directory(&path));
                let written = draft.and_then(|mut draft| draft.write_all(text.as_bytes()).map(|()| draft));
                let draft = written.map_err(|error| refused(&path, error))?;
                draft.persist_noclobber(&path).map_err(|error| match error.error.kind() {
                    io::ErrorKind::AlreadyExists => refused(&path, TAKEN),
                    _ => refused(&path, error.error),
                })?;
                eprintln!("walgate: all of it is in {}", path.display());
            }
        }
        Ok(())
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn refused(path: &Path, problem: impl Display) -> DoctorError {
    DoctorError::Bundle(format!("--bundle {}: {problem}", path.display()))
}

const TAKEN: &str = "there is such a file already, and it is not written over; name another";
