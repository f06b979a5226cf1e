//! What is to be dropped: shown, agreed to, and carried out, slot by slot. It is about the slots that were shown, and a slot
//! of the same name that has taken the place of one is left alone.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::SlotsError;
use super::list::{loosely, reader, table};
use super::pattern::Pattern;
use crate::cli::lag::figures::size;
use crate::cli::output::{ask, is_coloured, print};
use crate::ident::Identifier;
use crate::lag::{SlotReport, SlotRow};
use crate::source::ServerError;
use crate::source::slots::{Dropping, SlotSession};
use crate::time::PgTimestamp;

/// How long a slot is fought for with a reader that comes back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts, while a reader that was told to end does so.
const PAUSE: Duration = Duration::from_millis(5);

/// `insufficient_privilege`
const NOT_ALLOWED: &str = "42501";

/// How the dropping of slots is to be gone about.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Agreement {
    /// End who reads a slot that is to be dropped
    #[arg(long)]
    pub(super) terminate: bool,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
}

/// Slots that are to be dropped, as they were at a moment.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) slots: Vec<SlotReport>,
    pub(super) agreement: &'a Agreement,
    /// Whose rights count, for what is said of them.
    pub(super) role: &'a str,
}

impl Plan<'_> {
    /// What stands against it: the slots that cannot be dropped as they are, and rights that are missing.
    ///
    /// # Errors
    /// If the session is lost.
    pub(super) async fn objections(&self, session: &SlotSession) -> Result<Vec<String>, SlotsError> {
        let mut objections = Vec::new();
        for report in &self.slots {
            let SlotReport { slot, .. } = report;
            match reader(report) {
                _ if report.temporary => objections.push(format!(
                    "{slot} is temporary: it goes with the session that made it, and nobody else can drop it; a pattern that \
                     leaves it out drops the others"
                )),
                Some(reader) if !self.agreement.terminate => {
                    objections.push(format!("{slot} is read by {reader}: stop that first, or give --terminate"));
                }
                _ => {}
            }
        }
        if let Err(error) = session.may_drop().await? {
            objections.push(self.not_dropped(&error));
        }
        Ok(objections)
    }

    /// Shows it.
    pub(super) fn show(&self, pattern: &Pattern, now: PgTimestamp) -> io::Result<()> {
        let mut output = io::stderr().lock();
        let coloured = is_coloured() && output.is_terminal();
        write!(output, "{}", table(&self.slots, now, coloured))?;
        if let Some(remark) = loosely(pattern, &self.slots) {
            writeln!(output, "{remark}")?;
        }
        let readers = self.slots.iter().filter(|slot| self.agreement.terminate && slot.active).count();
        let ended = match readers {
            0 => "",
            1 => ", and the reader that is there ended first",
            _ => ", and the readers that are there ended first",
        };
        match self.slots.len() {
            1 => writeln!(output, "This slot is to be dropped{ended}."),
            slots => writeln!(output, "These {slots} slots are to be dropped{ended}."),
        }
    }

    /// Asks whether to go on, unless that was agreed to.
    pub(super) fn is_agreed(&self) -> io::Result<bool> {
        if self.agreement.yes {
            return Ok(true);
        }
        let is_agreed = ask("What their consumers have not taken is lost to them. Go on?")?;
        if !is_agreed {
            eprintln!("Nothing was dropped. --yes goes on without asking.");
        }
        Ok(is_agreed)
    }

    /// Drops one of its slots, and says how that went. Returns whether the slot is gone.
    ///
    /// # Errors
    /// If the session is lost: the slot may be dropped or not.
    pub(super) async fn drop_slot(&self, session: &mut SlotSession, shown: &SlotReport) -> Result<bool, SlotsError> {
        let slot = &shown.slot;
        let deadline = Instant::now() + PATIENCE;
        let mut ended: Vec<(Option<i32>, String)> = Vec::new();
        let refusal = loop {
            let look = session.look().await?;
            let now = look.slots.get(slot).filter(|row| !is_another(shown, row));
            let report = look.slot_reports("").into_iter().find(|report| report.slot == *slot);
            let holder = report.as_ref().and_then(reader);
            match (now, &holder) {
                (None, _) if report.is_none() => {
                    print(&format!("{slot} is gone already\n"))?;
                    return Ok(true);
                }
                (None, _) => {
                    break "it is not as it was shown: it was read, or another took its place; see what it is now, and run \
                           this again"
                        .to_owned();
                }
                (Some(_), Some(holder)) if !self.agreement.terminate => {
                    break format!("{holder} has taken it meanwhile: stop that first, or give --terminate");
                }
                (Some(_), Some(holder)) if Instant::now() > deadline => {
                    break format!("{holder} takes it again as often as its reader is ended: stop that first");
                }
                // It was told to, and needs a moment.
                (Some(row), Some(_)) if ended.last().is_some_and(|(pid, _)| *pid == row.active_pid) => {
                    sleep(PAUSE).await
                }
                (Some(row), Some(holder)) => {
                    if let Some(pid) = row.active_pid
                        && let Err(error) = session.end_holder(slot, pid).await?
                    {
                        break self.not_ended(holder, &error);
                    }
                    ended.push((row.active_pid, holder.clone()));
                }
                (Some(_), None) => {}
            }
            match session.drop_slot(slot).await? {
                Dropping::Dropped | Dropping::Gone => {
                    let kept = shown.retained_wal_bytes.map(|bytes| format!(", which kept {}", size(bytes)));
                    let ended: Vec<&str> = ended.iter().map(|(_, reader)| reader.as_str()).collect();
                    let ended = if ended.is_empty() { String::new() } else { format!("; ended {}", ended.join(", ")) };
                    print(&format!("dropped {slot}{}{ended}\n", kept.unwrap_or_default()))?;
                    return Ok(true);
                }
                // Who took it, the next look tells.
                Dropping::Held(error) if !self.agreement.terminate && Instant::now() > deadline => {
                    break error.to_string();
                }
                Dropping::Held(_) => {}
                Dropping::Refused(error) => break self.not_dropped(&error),
            }
        };
        eprintln!("walgate: {slot} was not dropped: {refusal}");
        Ok(false)
    }

    fn not_dropped(&self, error: &ServerError) -> String {
        match error.code.as_str() {
            NOT_ALLOWED => format!(
                "{role} may not drop slots ({}): ALTER ROLE {role} REPLICATION, or grant it what stands for that where a \
                 provider runs the server (rds_replication on Amazon RDS)",
                error.message,
                role = Identifier(self.role)
            ),
            _ => error.to_string(),
        }
    }

    fn not_ended(&self, holder: &str, error: &ServerError) -> String {
        match error.code.as_str() {
            NOT_ALLOWED => format!(
                "{role} may not end {holder} ({}): GRANT pg_signal_backend TO {role}; a superuser's session only a superuser \
                 can end",
                error.message,
                role = Identifier(self.role)
            ),
            _ => error.to_string(),
        }
    }
}

/// Whether a slot is not the one that was shown. One that nobody read stays as it is until it is read or lost; where one that
/// was read has got to cannot be told.
fn is_another(shown: &SlotReport, now: &SlotRow) -> bool {
    let is_same_kind = shown.kind == now.kind && shown.plugin == now.plugin && shown.database == now.database;
    let has_moved = !shown.active && now.restart_lsn != shown.restart_lsn && !now.is_lost();
    !is_same_kind || has_moved
}
