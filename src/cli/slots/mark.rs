//! Where a reset stands, in a file: what tells a slot that the redeployed consumer has just made from one that is yet to be
//! dropped, when a reset is stopped and run again. The server does not say when a slot was made.
//!
//! The mark is written before anything is dropped and after each slot that is, and removed once the reset is done. Where
//! it cannot tell, nothing is dropped.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::pattern::Pattern;
use crate::lag::{SlotReport, SourcePoll};
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// For how long a reset goes on by itself when it is run again.
const GOES_ON_FOR: Duration = Duration::from_secs(24 * 3600);

/// A reset that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// When, by the server's clock, as [`PgTimestamp`] counts.
    began: i64,
    /// How far the WAL was flushed then. A logical slot that was made later begins there or behind it
    /// (`ReplicationSlotReserveWal` in PostgreSQL's `slot.c` takes the insert position), and one that was there before it,
    /// before.
    position: String,
    /// The slots that were to be dropped and may still be there.
    left: Vec<String>,
    /// Those that are dropped.
    dropped: Vec<String>,
}

/// What a slot is to a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was there before.
    Old,
    /// It was made since.
    New,
    /// It may be either.
    Unclear,
}

/// The file for the reset of these slots of a server.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
}

impl Mark {
    pub(super) fn new(look: &SourcePoll) -> Mark {
        Mark { began: look.server_time.0, position: look.flushed.to_string(), left: Vec::new(), dropped: Vec::new() }
    }

    /// When it began, by the server's clock.
    pub(super) fn began(&self) -> PgTimestamp {
        PgTimestamp(self.began)
    }

    /// Whether it began so long ago that another reset may be meant.
    pub(super) fn is_old(&self, now: PgTimestamp) -> bool {
        now.since(self.began()) > GOES_ON_FOR
    }

    /// Notes slots that are about to be dropped.
    pub(super) fn intend(&mut self, slots: &[SlotReport]) {
        let names = slots.iter().map(|report| report.slot.to_string());
        let names: Vec<String> = names.filter(|name| !self.left.contains(name)).collect();
        self.dropped.retain(|name| !names.contains(name));
        self.left.extend(names);
    }

    /// Notes that a slot is gone.
    pub(super) fn dropped(&mut self, slot: &str) {
        self.left.retain(|name| name != slot);
        self.dropped.push(slot.to_owned());
    }

    /// Every slot that was to be dropped.
    pub(super) fn slots(&self) -> impl Iterator<Item = &str> {
        self.left.iter().chain(&self.dropped).map(String::as_str)
    }

    pub(super) fn standing(&self, report: &SlotReport) -> Standing {
        let is_in = |names: &[String]| names.iter().any(|name| name == report.slot.as_str());
        let position = self.position.parse().unwrap_or(Lsn::INVALID);
        match report.restart_lsn {
            // Nothing will come of it, whenever it was made.
            _ if is_lost(report) => Standing::Old,
            _ if is_in(&self.dropped) => Standing::New,
            Some(restart) if restart < position => Standing::Old,
            _ if is_in(&self.left) => Standing::Unclear,
            _ => Standing::New,
        }
    }
}

/// Whether nobody can read a slot any more.
pub(super) fn is_lost(report: &SlotReport) -> bool {
    report.wal_status.as_deref() == Some("lost") || report.invalidation_reason.is_some()
}

impl Store {
    /// In `$XDG_STATE_HOME/walgate`, else `~/.local/state/walgate`.
    ///
    /// # Errors
    /// If there is no home.
    pub(super) fn new(look: &SourcePoll, pattern: &Pattern) -> io::Result<Store> {
        let configured = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let directory = configured.or_else(|| home().map(|home| home.join(".local/state")));
        let directory = directory.ok_or_else(|| io::Error::other("there is no home directory"))?;
        let which = Sha256::digest(format!("{}\0{}", look.database, pattern.as_str()));
        let which: String = which.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Store { path: directory.join("walgate").join(format!("reset-{}-{which}.json", look.history.system)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The mark, if there is one of this server's history.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn read(&self, look: &SourcePoll) -> io::Result<Option<Mark>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mark: Mark = serde_json::from_slice(&text)?;
        let position: Lsn = mark.position.parse().map_err(io::Error::other)?;
        // A server that was restored from a backup since has slots of another time.
        Ok(Some(mark).filter(|_| position <= look.flushed))
    }

    /// Finds out whether a mark can be written.
    ///
    /// # Errors
    /// If it cannot.
    pub(super) fn try_out(&self) -> io::Result<()> {
        self.temporary().map(drop)
    }

    fn temporary(&self) -> io::Result<NamedTempFile> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        NamedTempFile::new_in(directory)
    }

    /// Writes the mark, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&self, mark: &Mark) -> io::Result<()> {
        let mut file = self.temporary()?;
        serde_json::to_writer(&mut file, mark)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }

    /// The reset is done.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lag::SlotKind;

    fn slot(name: &str, restart: Option<u64>) -> SlotReport {
        SlotReport {
            source: "main".into(),
            slot: name.parse().unwrap(),
            kind: SlotKind::Logical,
            plugin: Some("pgoutput".into()),
            database: Some("app".into()),
            temporary: false,
            two_phase: false,
            active: false,
            active_pid: None,
            application_name: None,
            client_addr: None,
            inactive_since: None,
            restart_lsn: restart.map(Lsn),
            confirmed_flush_lsn: None,
            retained_wal_bytes: None,
            wal_status: None,
            safe_wal_bytes: None,
            invalidation_reason: None,
        }
    }

    #[test]
    fn a_slot_is_new_if_it_was_made_since_and_unclear_if_it_may_be_the_one_that_was_to_be_dropped() {
        let mut mark = Mark { began: 0, position: "0/64".into(), left: Vec::new(), dropped: Vec::new() };
        mark.intend(&[slot("zero_0_a", Some(90)), slot("zero_0_b", None), slot("zero_0_c", Some(50))]);
        mark.dropped("zero_0_a");
        assert_eq!(mark.slots().collect::<Vec<_>>(), ["zero_0_b", "zero_0_c", "zero_0_a"]);
        for (name, restart, standing) in [
            ("zero_0_a", Some(100), Standing::New),
            ("zero_0_b", None, Standing::Unclear),
            ("zero_0_b", Some(99), Standing::Old),
            ("zero_0_c", Some(50), Standing::Old),
            ("zero_0_c", Some(100), Standing::Unclear),
            ("zero_0_d", Some(99), Standing::Old),
            ("zero_0_d", Some(100), Standing::New),
        ] {
            assert_eq!(mark.standing(&slot(name, restart)), standing, "{name} at {restart:?}");
        }
        let lost = SlotReport { wal_status: Some("lost".into()), ..slot("zero_0_a", None) };
        assert_eq!(mark.standing(&lost), Standing::Old);
    }
}
