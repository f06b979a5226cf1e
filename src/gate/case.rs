//! One question to a gate: what is asked, of which gate, on which evidence, at which moment.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::Verdict;
use super::check::{Check, Status};
use super::evidence::{Activity, ConsumerSide, Evidence, Piece};
use super::fence::Fence;
use super::settling::Settling;
use super::terms::{Phase, Terms};
use crate::ident::SlotName;
use crate::lsn::Lsn;
use crate::units::Size;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Which phase.
    pub phase: Phase,
    /// Another limit than the gate's.
    pub max_lag: Option<Size>,
    /// Another limit than the gate's.
    pub max_age: Option<Duration>,
    /// A fence of the caller's own.
    pub target_lsn: Option<Lsn>,
}

impl Asked {
    /// The phase by the gate's own limits and fence.
    pub fn of(phase: Phase) -> Asked {
        Asked { phase, max_lag: None, max_age: None, target_lsn: None }
    }

    /// Whether the caller has limits of its own.
    pub fn names_limits(&self) -> bool {
        self.max_lag.is_some() || self.max_age.is_some()
    }
}

/// For how long what was read of a catalog counts.
const SETTLED: Duration = Duration::from_secs(60);

/// Everything that a verdict depends on.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The gate.
    pub terms: &'a Terms,
    /// What is asked of it.
    pub asked: Asked,
    /// When that was asked, where it is known: a position of the caller's is of before, and so are the writes that it stopped.
    pub asked_at: Option<Instant>,
    /// Since when that position is asked about, by whomever.
    pub named_at: Option<Instant>,
    /// What was seen; in a rollback with source and target exchanged.
    pub evidence: &'a Evidence,
    /// The fence that stands, on the side that is the source here.
    pub fence: Option<&'a Fence>,
    /// Since when consumers have been within which limits.
    pub settling: &'a Settling,
    /// The moment.
    pub now: Instant,
}

impl<'a> Case<'a> {
    /// The slots of the consumers that must have everything: in a rollback those of the way back.
    pub fn consumers(&self) -> &'a [SlotName] {
        self.terms.consumers_of(self.asked.phase)
    }

    /// The fence that is asked about: the caller's own position before the one that stands.
    pub fn fence(&self) -> Option<Cow<'a, Fence>> {
        match self.callers_position() {
            Some(lsn) => {
                let (history, forks) = self.fence.map_or((None, None), |fence| (fence.history, fence.forks.clone()));
                Some(Cow::Owned(Fence { history, forks, ..Fence::of_caller(lsn) }))
            }
            None => self.fence.map(Cow::Borrowed),
        }
    }

    /// A position that the caller names, unless it is that of the fence that stands, or that one has been lost or written
    /// behind: what has happened to it is not to be passed by.
    fn callers_position(&self) -> Option<Lsn> {
        let is_standing =
            |lsn| self.fence.is_some_and(|it| it.target_lsn == lsn || it.lost.is_some() || it.stray.is_some());
        self.asked.target_lsn.filter(|lsn| !is_standing(*lsn))
    }

    /// T.
    pub fn target_lsn(&self) -> Option<Lsn> {
        self.asked.target_lsn.or(self.fence.map(|fence| fence.target_lsn))
    }

    /// The most that may be pending.
    pub fn max_lag(&self) -> Size {
        self.asked.max_lag.unwrap_or(self.terms.limits.lag)
    }

    /// The most that a consumer may be behind.
    pub fn max_age(&self) -> Duration {
        self.asked.max_age.unwrap_or(self.terms.limits.age)
    }

    /// A piece of evidence, if it counts: under a fence, what was seen before it was set does not, for it says nothing of
    /// what has happened since.
    ///
    /// # Errors
    /// If it is missing or too old, with why.
    pub fn fresh<T>(&self, piece: &'a Piece<T>) -> Result<&'a T, String> {
        let value = piece.fresh(self.now, self.terms.limits.staleness)?;
        self.since_fence(piece)?;
        Ok(value)
    }

    /// A piece that a large catalog is read for, which takes its time: it counts for a minute, and for as long as no
    /// transaction id is given behind a fence, without which no catalog changes; but not from before the fence.
    ///
    /// # Errors
    /// If it is missing or too old, with why.
    pub fn settled<T>(&self, piece: &'a Piece<T>) -> Result<&'a T, String> {
        let is_still = self.is_fenced() && self.fence().is_some_and(|fence| self.is_still(&fence));
        let lasts = if is_still { Duration::MAX } else { SETTLED.max(self.terms.limits.staleness) };
        let value = piece.fresh(self.now, lasts)?;
        self.since_fence(piece)?;
        Ok(value)
    }

    /// Whether what is asked speaks of a fence.
    pub(super) fn is_fenced(&self) -> bool {
        matches!(self.asked.phase, Phase::Cutover | Phase::Rollback)
    }

    /// Whether no transaction id was given since the fence.
    pub(super) fn is_still(&self, fence: &Fence) -> bool {
        self.activity().is_ok_and(|activity| fence.quiet_until == Some(activity.next_xid))
    }

    /// What was seen before the fence was set says nothing of what has happened since; nor, of a position of the caller's,
    /// what was seen before the caller asked.
    fn since_fence<T>(&self, piece: &Piece<T>) -> Result<(), String> {
        let caller = self.callers_position();
        let taken = match caller {
            Some(_) => self.named_at,
            None => self.fence.and_then(|fence| fence.taken),
        };
        let taken = taken.filter(|_| self.is_fenced());
        match piece {
            Piece::Seen { at, from, .. } if taken.is_some_and(|taken| *at < taken) => {
                let what = if caller.is_some() { "the position was first asked about" } else { "the fence was set" };
                Err(format!("{from} has not been looked at since {what}"))
            }
            _ => Ok(()),
        }
    }

    /// What was seen of a consumer.
    ///
    /// # Errors
    /// If that is nothing.
    pub fn consumer(&self, slot: &SlotName) -> Result<&'a ConsumerSide, String> {
        self.evidence.consumers.get(slot).ok_or_else(|| format!("{slot} has not been looked at yet"))
    }

    /// Whether nothing but the comparison of the data is missing, so that it is worth beginning.
    pub fn wants_data(&self, verdict: &Verdict) -> bool {
        let open = |check: &&Check| !matches!(check.status, Status::Pass | Status::Skip);
        let mut open = verdict.checks.iter().filter(open).map(|check| check.id);
        self.terms.data && open.next() == Some("data") && open.next().is_none()
    }

    /// Who is at work on the server whose positions the verdict speaks of.
    ///
    /// # Errors
    /// If that is not known, or was seen of another server: each is asked on a connection of its own, and what is behind a
    /// name may be exchanged between.
    pub(super) fn activity(&self) -> Result<&'a Activity, String> {
        let activity = self.fresh(&self.evidence.source.activity)?;
        // Who names a position may have stopped writes only just before.
        let by_caller = self.is_fenced() && self.callers_position().is_some();
        let asked_at = self.asked_at.filter(|_| by_caller);
        if asked_at.is_some_and(|asked_at| self.evidence.source.activity.at() < Some(asked_at)) {
            return Err("who is at work has not been looked at since the question".into());
        }
        let standing = self.fresh(&self.evidence.source.standing)?.history;
        match activity.history {
            Some(history) if !history.contradicts(standing) => Ok(activity),
            Some(history) => Err(format!("who is at work was seen of {history}, and WAL positions of {standing}")),
            None => Err("of which server it was seen who is at work is not known".into()),
        }
    }

    /// What a pass means, for a person.
    pub(super) fn pass_in_words(&self) -> String {
        let all = match self.consumers() {
            [one] => one.to_string(),
            several => format!("all {} consumers", several.len()),
        };
        match (self.asked.phase, self.target_lsn()) {
            (Phase::Preflight, _) => format!("{all} may begin: everything that was looked at is ready"),
            (Phase::Post, _) => "the target has taken over".into(),
            (Phase::Cutover | Phase::Rollback, Some(lsn)) => {
                format!("everything up to {lsn} has arrived at {all}, and nothing was written since")
            }
            (Phase::Cutover | Phase::Rollback, None) => "nothing is in the way".into(),
        }
    }
}
