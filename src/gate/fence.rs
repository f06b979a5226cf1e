//! The fence: the position T that every consumer must pass, and what must not happen behind it.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::evidence::{Activity, Fork};
use crate::ident::TableName;
use crate::lag::History;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;
use crate::units::age;

/// A page of the WAL, and its header, which is longer where a segment begins (of the usual size): where nothing follows yet, the
/// insert position is right behind the header of a page that is not there, and the flush position before it. Further behind it
/// a record goes on, of which the WAL writer may have flushed the first page only.
const PAGE: u64 = 8192;
const PAGE_HEADER: u64 = 24;
const SEGMENT: u64 = 16 << 20;
const SEGMENT_HEADER: u64 = 40;

/// A position taken after writes stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fence {
    /// T: everything that was committed before writes stopped lies below it.
    pub target_lsn: Lsn,
    /// What the barrier message carries; none where nothing was written, or the position is the caller's own.
    pub nonce: Option<String>,
    /// When it was set, by this machine's clock; unknown of a position of the caller's.
    pub set_at: Option<PgTimestamp>,
    /// What was seen before this moment was seen before it was set; `None` where that is not known.
    #[serde(skip)]
    pub taken: Option<Instant>,
    /// Which history the position is of.
    #[serde(skip)]
    pub history: Option<History>,
    /// Where the timelines before the server's own ended, oldest first: two servers that were promoted are of the same
    /// system and of timelines of the same number. `None` where that is not known.
    #[serde(skip)]
    pub forks: Option<Vec<Fork>>,
    /// The next transaction id when it was taken, if none but the barrier's was in progress or given meanwhile: as long
    /// as that is still the next one, nothing was committed behind the fence.
    #[serde(skip)]
    pub quiet_until: Option<u64>,
    /// What `pg_logical_emit_message` returned for the barrier: behind every commit before it, and not behind where its own
    /// begins.
    #[serde(skip)]
    pub barrier_lsn: Option<Lsn>,
    /// Whether its cutover has passed.
    #[serde(skip)]
    pub passed: bool,
    /// The first write behind it that was seen. Once seen it stands, whatever is seen later.
    pub stray: Option<Stray>,
    /// Why it holds no longer. Once lost it stays so, whatever is seen later.
    pub lost: Option<String>,
}

/// A published commit behind a fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stray {
    /// Its `commit_lsn`.
    pub commit_lsn: Lsn,
    /// A table that it changes, as SQL needs it.
    pub table: Option<String>,
}

/// How a fence was taken, step by step.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Who was at work before.
    pub before: Activity,
    /// What was done then.
    pub barrier: Barrier,
    /// How far the WAL was flushed then.
    pub flushed: Lsn,
    /// Who was at work after that.
    pub after: Activity,
    /// Which history the server was of.
    pub history: History,
    /// Where the timelines before its own ended, where that is known.
    pub forks: Option<Vec<Fork>>,
    /// Whether the server is a standby.
    pub in_recovery: bool,
    /// When, by this machine's clock.
    pub at: PgTimestamp,
}

/// What stands between before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// A transactional message was committed, and flushed.
    Written {
        /// What it carries.
        nonce: String,
        /// Its transaction id, with the epoch.
        xid: u64,
        /// What the function returned.
        at: Lsn,
    },
    /// Nothing was written; the insert position was here.
    Unwritten(Lsn),
}

/// Somebody who holds a transaction id, or a prepared transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Writer {
    /// The backend; none of a prepared transaction.
    pub pid: Option<i32>,
    /// `application_name`, or the `gid` of a prepared transaction.
    pub name: String,
    /// Whose it is.
    pub user: Option<String>,
    /// What it is at, in words: `idle in transaction`, `prepared`.
    pub state: String,
    /// For how long its transaction is open.
    #[serde(skip)]
    pub open: Option<Duration>,
}

/// Why there is no fence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody writes.
    #[error("writes have not stopped: {}", listed(.0))]
    Writers(Vec<Writer>),
    /// The source is a standby.
    #[error("the source is a standby: writes stop at its primary")]
    Standby,
    /// WAL before the fence is not on disk, so nobody has it.
    #[error(
        "WAL up to {inserted} is written and only flushed up to {flushed}: a commit without synchronous_commit may be left; try again"
    )]
    Unflushed {
        /// How far it is written.
        inserted: Lsn,
        /// How far it is flushed.
        flushed: Lsn,
    },
}

impl Fence {
    /// The fence that was taken so.
    ///
    /// # Errors
    /// If it proves nothing.
    pub fn take(taken: Taken) -> Result<Fence, Refusal> {
        if taken.in_recovery {
            return Err(Refusal::Standby);
        }
        let mut writers = taken.after.writers.clone();
        let is_known = |writer: &&Writer| !writers.iter().any(|known| known.is(writer));
        let gone: Vec<Writer> = taken.before.writers.iter().filter(is_known).cloned().collect();
        writers.extend(gone);
        if !writers.is_empty() {
            return Err(Refusal::Writers(writers));
        }
        let (before, after) = (&taken.before, &taken.after);
        let (nonce, barrier_lsn, given) = match taken.barrier {
            Barrier::Written { nonce, xid, at } => {
                (Some(nonce), Some(at), before.next_xid == xid && after.next_xid == xid + 1)
            }
            Barrier::Unwritten(inserted) if !is_flushed(inserted, taken.flushed) => {
                return Err(Refusal::Unflushed { inserted, flushed: taken.flushed });
            }
            Barrier::Unwritten(_) => (None, None, before.next_xid == after.next_xid),
        };
        Ok(Fence {
            target_lsn: taken.flushed,
            nonce,
            set_at: Some(taken.at),
            taken: None,
            history: Some(taken.history),
            forks: taken.forks,
            barrier_lsn,
            passed: false,
            quiet_until: (given && before.quiet && after.quiet).then_some(after.next_xid),
            stray: None,
            lost: None,
        })
    }

    /// A position that the caller vouches for. Of what happened around it nothing is known.
    pub fn of_caller(target_lsn: Lsn) -> Fence {
        Fence {
            target_lsn,
            nonce: None,
            set_at: None,
            taken: None,
            history: None,
            forks: None,
            barrier_lsn: None,
            passed: false,
            quiet_until: None,
            stray: None,
            lost: None,
        }
    }
}

impl Writer {
    /// Whether it is the same backend, or the same prepared transaction.
    fn is(&self, other: &Writer) -> bool {
        self.pid == other.pid && (self.pid.is_some() || self.name == other.name)
    }
}

/// From a commit behind a fence as a stream has shown it, with a table that it changes.
impl From<(Lsn, Option<TableName>)> for Stray {
    fn from((commit_lsn, table): (Lsn, Option<TableName>)) -> Stray {
        Stray { commit_lsn, table: table.map(|table| table.to_string()) }
    }
}

/// Whether everything below the insert position is flushed (or decoded: what is read last ends where the flushed WAL does).
pub(super) fn is_flushed(inserted: Lsn, flushed: Lsn) -> bool {
    let header = if flushed.0.is_multiple_of(SEGMENT) { SEGMENT_HEADER } else { PAGE_HEADER };
    flushed >= inserted || flushed.0.is_multiple_of(PAGE) && inserted.bytes_since(flushed) == header
}

/// `table public.orders was written to at 0/5A2E4F8`
impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.table {
            Some(table) => write!(f, "table {table} was written to at {}", self.commit_lsn),
            None => write!(f, "something was published at {}", self.commit_lsn),
        }
    }
}

/// Names everybody, the first few with what they are at.
pub(super) fn listed(writers: &[Writer]) -> String {
    const SHOWN: usize = 3;
    let mut all: Vec<String> = writers.iter().take(SHOWN).map(ToString::to_string).collect();
    if writers.len() > SHOWN {
        all.push(format!("{} more", writers.len() - SHOWN));
    }
    all.join(", ")
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => f.write_str("transaction")?,
        }
        if !self.name.is_empty() {
            write!(f, " {:?}", self.name)?;
        }
        if let Some(user) = &self.user {
            write!(f, " of {user}")?;
        }
        write!(f, " ({}", self.state)?;
        if let Some(open) = self.open {
            write!(f, " for {}", age(open.as_secs_f64()))?;
        }
        f.write_str(")")
    }
}
