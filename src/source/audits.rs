//! The audits of a source: by which rules, the newest one and for how long it holds, why there is none, and what has
//! changed from one to the next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{Notify, broadcast, watch};

use super::catalog::Audited;
use super::watched::{Source, lock};
use crate::identity::{Catalog, Changes, RuleSet, Scope};
use crate::time::PgTimestamp;

/// Changes that a listener may be behind.
const CHANGES: usize = 64;

/// What a source knows of its audits.
#[derive(Debug)]
pub(super) struct Audits {
    scope: Mutex<Scope>,
    /// Nothing is audited.
    passive: AtomicBool,
    /// Wakes the auditor before its time.
    wanted: Notify,
    /// Wakes it at once.
    hurried: Notify,
    newest: watch::Sender<Option<Arc<AuditReport>>>,
    /// Why the last attempt failed.
    failure: Mutex<Option<String>>,
    changes: broadcast::Sender<Arc<FindingChanges>>,
}

/// What an audit found, of what, and when.
#[derive(Clone, Debug)]
pub struct AuditReport {
    /// The catalog, what the values of tables showed, and how both were judged.
    pub audited: Audited,
    /// By which rules.
    pub scope: Scope,
    /// When it was begun.
    pub begun: Instant,
    /// The same, by this machine's clock.
    pub observed_at: PgTimestamp,
    /// It counts until then, if no other comes.
    pub holds_until: Instant,
}

impl AuditReport {
    /// Whether walgate's role could read all that the rules look at. If not, that is a finding, and what was not found may
    /// be there all the same.
    pub fn is_whole(&self) -> bool {
        let Catalog { denied, sets_denied, .. } = &*self.audited.catalog;
        denied.is_none() && (sets_denied.is_none() || !self.scope.rule_sets.contains(&RuleSet::Pglogical))
    }
}

/// Findings of a source that have come and gone with an audit.
#[derive(Clone, Debug)]
pub struct FindingChanges {
    /// The source's name.
    pub source: String,
    /// Which.
    pub changes: Changes,
    /// When the audit was begun, by this machine's clock.
    pub at: PgTimestamp,
}

/// Why nothing can be said of the findings of a source: that none is known does not mean that there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAudited {
    /// walgate opens no connection of its own.
    #[error(
        "source {0} is passive: walgate opens no connection of its own there, so nobody looks for findings; walgate \
         check does"
    )]
    Passive(String),
    /// The first audit has not ended.
    #[error("source {0} has not been audited yet")]
    NotYet(String),
    /// The last attempt failed, and what was found before is too old.
    #[error("source {source_name} cannot be audited: {reason}")]
    Failed {
        /// The source.
        source_name: String,
        /// What went wrong.
        reason: String,
    },
    /// It takes too long.
    #[error("the last audit of source {source_name} is {seconds} s old, and does not count any more")]
    Old {
        /// The source.
        source_name: String,
        /// Since it was begun.
        seconds: u64,
    },
}

impl Default for Audits {
    fn default() -> Audits {
        Audits {
            scope: Mutex::default(),
            passive: AtomicBool::new(false),
            wanted: Notify::new(),
            hurried: Notify::new(),
            newest: watch::Sender::new(None),
            failure: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES),
        }
    }
}

impl Source {
    /// Audits by these rules from now on.
    pub fn set_scope(&self, scope: Scope) {
        let before = std::mem::replace(&mut *lock(&self.audits.scope), scope.clone());
        if before != scope {
            self.want_audit();
        }
    }

    /// By which rules it is audited.
    pub fn scope(&self) -> Scope {
        lock(&self.audits.scope).clone()
    }

    /// Says from now on that it is not audited, or that it is.
    pub fn set_passive(&self, passive: bool) {
        self.audits.passive.store(passive, Ordering::Relaxed);
    }

    /// Asks for an audit before its time: the stream, or somebody, says that the schema has changed. An audit that is under
    /// way does not count for it.
    pub fn want_audit(&self) {
        self.audits.wanted.notify_one();
    }

    /// Asks for an audit that rests from none before it: somebody waits behind a fence for what is published. Not to be asked
    /// for more often than a fence is set.
    pub fn hurry_audit(&self) {
        self.audits.hurried.notify_one();
    }

    /// The audits: the newest one, and what comes. Whether that one still counts, [`Source::audited`] knows.
    pub fn audits(&self) -> watch::Receiver<Option<Arc<AuditReport>>> {
        self.audits.newest.subscribe()
    }

    /// The newest audit by the rules that hold now.
    ///
    /// # Errors
    /// If there is none that counts.
    pub fn audited(&self, now: Instant) -> Result<Arc<AuditReport>, NotAudited> {
        let name = || self.name().to_owned();
        if self.audits.passive.load(Ordering::Relaxed) {
            return Err(NotAudited::Passive(name()));
        }
        let newest = self.audits.newest.borrow().clone().filter(|report| report.scope == *lock(&self.audits.scope));
        let failure = lock(&self.audits.failure).clone();
        match (newest, failure) {
            (Some(report), _) if now <= report.holds_until => Ok(report),
            (_, Some(reason)) => Err(NotAudited::Failed { source_name: name(), reason }),
            (Some(report), None) => {
                let seconds = now.saturating_duration_since(report.begun).as_secs();
                Err(NotAudited::Old { source_name: name(), seconds })
            }
            (None, None) => Err(NotAudited::NotYet(name())),
        }
    }

    /// The findings that come and go from now on, audit by audit.
    pub fn finding_changes(&self) -> broadcast::Receiver<Arc<FindingChanges>> {
        self.audits.changes.subscribe()
    }

    /// Waits until an audit is asked for. Cancel-safe.
    pub(super) async fn audit_wanted(&self) {
        self.audits.wanted.notified().await;
    }

    /// Waits until an audit is hurried. Cancel-safe.
    pub(super) async fn audit_hurried(&self) {
        self.audits.hurried.notified().await;
    }

    /// Takes an audit, and what has changed with it.
    pub(super) fn take_audit(&self, report: AuditReport, changes: Changes) {
        *lock(&self.audits.failure) = None;
        let at = report.observed_at;
        self.audits.newest.send_replace(Some(Arc::new(report)));
        if !changes.is_empty() {
            // Nobody may be listening.
            let _ = self.audits.changes.send(Arc::new(FindingChanges { source: self.name().to_owned(), changes, at }));
        }
    }

    /// Notes why an audit failed; returns whether that is news.
    pub(super) fn audit_failed(&self, reason: String) -> bool {
        let before = lock(&self.audits.failure).replace(reason.clone());
        before.as_ref() != Some(&reason)
    }

    /// What was found before may be of another database.
    pub(super) fn forget_audits(&self) {
        *lock(&self.audits.failure) = None;
        self.audits.newest.send_replace(None);
    }
}
