//! Checks and guards that are broken on purpose, one at a time, to see that the simulation notices.

use std::time::Duration;

use walgate::gate::{Evidence, Fence, Piece, Status, Taken, Terms, Verdict};
use walgate::lag::{Followed, Renewed};
use walgate::lsn::Lsn;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Nothing is broken.
    None,
    /// A check passes whatever it finds.
    Overlooks(&'static str),
    /// Evidence of any age counts.
    NeverStale,
    /// WAL that is not on disk does not matter to a fence.
    FencedUnflushed,
    /// A fence is always taken for one of a quiet server.
    AlwaysQuiet,
    /// A fence that nothing followed by transaction ids is never found out.
    NothingGiven,
    /// Snapshots are taken before sessions are looked at.
    SnapshotFirst,
    /// The stream of a copy counts as the consumer's own.
    CopyIsOwn,
    /// What the server has not decoded does not matter.
    AllDecoded,
    /// What the consumer has not acknowledged does not matter.
    NothingPending,
    /// A slot of the name is the slot.
    SlotIsSame,
    SlotNotRenewed,
    /// A stream counts whosever it is.
    AnyStream,
    /// WAL that is not flushed holds nothing.
    FlushedIsAll,
}

impl Mutant {
    pub(crate) fn falsify_fence(self, taken: &mut Taken) {
        match self {
            Mutant::FencedUnflushed => {
                if let walgate::gate::Barrier::Unwritten(inserted) = &mut taken.barrier {
                    *inserted = taken.flushed;
                }
            }
            Mutant::AlwaysQuiet => {
                (taken.before.quiet, taken.after.quiet) = (true, true);
                taken.before.next_xid = match taken.barrier {
                    walgate::gate::Barrier::Written { xid, .. } => xid,
                    walgate::gate::Barrier::Unwritten(_) => taken.after.next_xid,
                };
            }
            _ => {}
        }
    }

    pub(crate) fn falsify(self, evidence: &mut Evidence, fence: &mut Option<Fence>, terms: &mut Terms) {
        match self {
            Mutant::NeverStale => terms.limits.staleness = Duration::from_secs(86_400),
            Mutant::NothingGiven => {
                if let (Some(fence), Some(activity)) = (fence, evidence.source.activity.value()) {
                    fence.quiet_until = Some(activity.next_xid);
                }
            }
            Mutant::AnyStream => each_stream(evidence, |stream| stream.shown = true),
            Mutant::FlushedIsAll => {
                let flushed = evidence.source.standing.value().map(|standing| standing.flushed);
                if let Piece::Seen { value, .. } = &mut evidence.source.activity {
                    value.inserted = flushed;
                }
            }
            Mutant::CopyIsOwn => each_stream(evidence, |stream| stream.own = true),
            Mutant::AllDecoded => each_stream(evidence, |stream| stream.decoded = Lsn(u64::MAX)),
            Mutant::NothingPending => each_stream(evidence, |stream| stream.pending.transactions = 0),
            Mutant::SlotIsSame | Mutant::SlotNotRenewed => {
                for consumer in evidence.consumers.values_mut() {
                    if let Piece::Seen { value: Some(slot), .. } = &mut consumer.slot {
                        match self {
                            Mutant::SlotIsSame => slot.life.since = Lsn::INVALID,
                            _ => slot.life.renewed = Renewed::No,
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// What the verdict would be without the check.
    pub(crate) fn overlook(self, mut verdict: Verdict) -> Verdict {
        if let Mutant::Overlooks(id) = self {
            verdict.checks.retain(|check| check.id != id);
            let bad = |check: &walgate::gate::Check| !matches!(check.status, Status::Pass | Status::Skip);
            if !verdict.checks.iter().any(bad) {
                verdict.state = Status::Pass;
            }
        }
        verdict
    }
}

fn each_stream(evidence: &mut Evidence, change: impl Fn(&mut Followed)) {
    for consumer in evidence.consumers.values_mut() {
        if let Piece::Seen { value, .. } = &mut consumer.stream {
            change(value);
        }
    }
}
