//! Whether a slot is still the one that was seen before, and not another of its name: a server does not number them.

use super::poll::SlotRow;
use super::report::SlotKind;
use crate::lsn::Lsn;

/// A slot, since when it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLife {
    /// The source's flush position at the first look that showed this very slot.
    pub since: Lsn,
    /// One of its name was there before, and this is, or may be, another.
    pub renewed: bool,
    pid: Option<i32>,
    /// The source's flush position at the last look that showed it; `None` once it was seen to be gone.
    seen: Option<Lsn>,
}

impl SlotLife {
    /// Of a slot that is seen for the first time.
    pub fn new(row: &SlotRow, flushed: Lsn) -> SlotLife {
        SlotLife { since: flushed, renewed: false, pid: row.active_pid, seen: Some(flushed) }
    }

    /// A look has not shown it.
    pub(super) fn gone(&mut self) {
        self.seen = None;
    }

    /// Takes what a look shows of the slot of this name; says whether it certainly is the one of before: the same process
    /// holds it, or it keeps WAL from before the last look. A slot that is created reserves WAL from where the server then
    /// is (`ReplicationSlotReserveWal` in `slot.c`). A standby says by itself what it has.
    pub(super) fn goes_on(&mut self, row: &SlotRow, flushed: Lsn) -> bool {
        let same = self.seen.is_some_and(|seen| {
            (row.active_pid.is_some() && row.active_pid == self.pid)
                || row.kind == SlotKind::Physical
                || row.restart_lsn.is_some_and(|restart| restart < seen)
        });
        if !same {
            (self.since, self.renewed) = (flushed, true);
        }
        (self.pid, self.seen) = (row.active_pid, Some(flushed));
        same
    }
}
