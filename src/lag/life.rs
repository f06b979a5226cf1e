//! Whether a slot is still the one that was seen before, and not another of its name: a server does not number them.

use std::time::{Duration, Instant};

use super::poll::SlotRow;
use super::report::SlotKind;
use crate::lsn::Lsn;

/// The least WAL that a transaction which is decoded takes: its commit record, in bytes.
const COMMIT: u64 = 32;

/// For how long one process, or none, must have held a slot that has appeared before anything is made of who takes it: while
/// its consumer begins it goes from one to the next, and its position moves with each table that is copied.
const SET_UP: Duration = Duration::from_secs(5);

/// A slot, since when it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLife {
    /// Where the source was, at the least, when the first look showed this very slot: it was created before. A look reads the
    /// flush position first, and a slot may be created between; that one has confirmed more.
    pub since: Lsn,
    /// Whether one of its name was there before, and this is another.
    pub renewed: Renewed,
    pid: Option<i32>,
    /// What was counted for it at the last look.
    decoded_transactions: u64,
    /// Behind which transaction id everything was confirmed at the last look, where the source stood still.
    confirmed_until: Option<u64>,
    /// The source's flush position at the last look that showed it; `None` once it was seen to be gone.
    seen: Option<Lsn>,
    /// Since when the same process, or none, holds it, while it is still being set up. What was there from the first look on
    /// is not, unless that look fell into its creation.
    setting_up: Option<Instant>,
}

/// Whether a slot is another one than a slot of its name that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Renewed {
    /// It is the first one that was seen.
    No,
    /// It was let go and taken again between two looks, and nothing tells whether it was dropped meanwhile.
    Perhaps,
    /// A look has shown that there was none.
    Certainly,
}

impl SlotLife {
    /// Of a slot that is seen for the first time, at `now`; `appeared` if an earlier look has not shown it.
    pub fn new(row: &SlotRow, flushed: Lsn, still: Option<u64>, appeared: bool, now: Instant) -> SlotLife {
        // Until a logical slot is ready it confirms nothing (`DecodingContextFindStartpoint` in `logical.c`).
        let is_being_created = row.kind == SlotKind::Logical && row.confirmed_flush.is_none();
        SlotLife {
            since: since(row, flushed),
            renewed: Renewed::No,
            pid: row.active_pid,
            decoded_transactions: row.decoded_transactions.unwrap_or(0),
            confirmed_until: confirmed_until(row, flushed, still),
            seen: Some(flushed),
            setting_up: (appeared || is_being_created).then_some(now),
        }
    }

    /// A look has not shown it.
    pub(super) fn gone(&mut self) {
        self.seen = None;
    }

    /// Takes what a look shows of the slot of this name; says whether it certainly is the one of before: the same process
    /// holds it; or it keeps WAL from before the last look, while one that is created reserves WAL from where the server then
    /// is (`ReplicationSlotReserveWal` in `slot.c`); or more transactions were decoded for it than the WAL since that look can
    /// hold, while the counts of one that is created begin at 0 (`pgstat_create_replslot`). Or it makes no difference: all was
    /// confirmed by then, and nothing was committed since. A standby says by itself what it
    /// has.
    pub(super) fn goes_on(&mut self, row: &SlotRow, flushed: Lsn, still: Option<u64>, now: Instant) -> bool {
        if self.setting_up.is_some_and(|since| now.saturating_duration_since(since) >= SET_UP) {
            self.setting_up = None;
        }
        if row.active_pid != self.pid {
            self.setting_up = self.setting_up.map(|_| now);
        }
        let same = self.seen.is_some_and(|seen| {
            let before = self.decoded_transactions;
            (row.active_pid.is_some() && row.active_pid == self.pid)
                || row.kind == SlotKind::Physical
                || row.restart_lsn.is_some_and(|restart| restart < seen)
                || self.confirmed_until.is_some() && self.confirmed_until == still
                || row.decoded_transactions >= Some(before) && before > flushed.bytes_since(seen) / COMMIT
        });
        if !same {
            let renewed = match self.seen {
                None => Renewed::Certainly,
                Some(_) if self.setting_up.is_some() => Renewed::No,
                Some(_) => Renewed::Perhaps,
            };
            (self.since, self.renewed) = (since(row, flushed), self.renewed.max(renewed));
        }
        *self = SlotLife {
            pid: row.active_pid,
            decoded_transactions: row.decoded_transactions.unwrap_or(0),
            confirmed_until: confirmed_until(row, flushed, still),
            seen: Some(flushed),
            ..*self
        };
        same
    }
}

fn confirmed_until(row: &SlotRow, flushed: Lsn, still: Option<u64>) -> Option<u64> {
    still.filter(|_| row.confirmed_flush >= Some(flushed))
}

fn since(row: &SlotRow, flushed: Lsn) -> Lsn {
    flushed.max(row.confirmed_flush.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn a_slot_is_the_same_while_its_holder_its_wal_or_its_counts_say_so() {
        let held = |pid, restart, count| SlotRow {
            active_pid: Some(pid),
            restart_lsn: Some(Lsn(restart)),
            confirmed_flush: Some(Lsn(restart)),
            decoded_transactions: count,
            ..row()
        };
        let first = Instant::now();
        let later = first + Duration::from_secs(5);
        let after = |next: SlotRow| {
            let mut life = SlotLife::new(&held(1, 900, Some(5)), Lsn(1000), None, false, first);
            life.goes_on(&next, Lsn(1100), None, later);
            (life.renewed, life.since)
        };
        let same = (Renewed::No, Lsn(1000));
        assert_eq!(after(held(1, 1050, None)), same);
        assert_eq!(after(held(2, 999, None)), same);
        // In 100 bytes of WAL no five transactions can have been decoded.
        assert_eq!(after(held(2, 1000, Some(5))), same);
        let perhaps = (Renewed::Perhaps, Lsn(1100));
        assert_eq!(after(held(2, 1000, Some(4))), perhaps);
        assert_eq!(after(held(2, 1000, None)), perhaps);
        let mut life = SlotLife::new(&held(1, 900, Some(3)), Lsn(1000), None, true, first);
        life.goes_on(&held(2, 1000, Some(3)), Lsn(1100), None, first);
        assert_eq!((life.renewed, life.since), (Renewed::No, Lsn(1100)), "it is still being set up");
        let unready = SlotRow { confirmed_flush: None, ..held(1, 900, None) };
        let mut created = SlotLife::new(&unready, Lsn(1000), None, false, first);
        created.goes_on(&held(2, 1000, None), Lsn(1100), None, first);
        assert_eq!(created.renewed, Renewed::No, "the first look fell into its creation");
        life.goes_on(&held(3, 1100, Some(3)), Lsn(1200), None, later);
        assert_eq!(life.renewed, Renewed::Perhaps, "three may be those of a new one");
        life.gone();
        life.goes_on(&held(2, 900, Some(9)), Lsn(1100), None, later);
        assert_eq!(life.renewed, Renewed::Certainly);
    }

    #[test]
    fn a_slot_that_had_confirmed_everything_may_change_hands_while_nothing_is_committed() {
        let row = |pid, confirmed| SlotRow {
            active_pid: Some(pid),
            restart_lsn: Some(Lsn(1000)),
            confirmed_flush: Some(Lsn(confirmed)),
            ..row()
        };
        let after = |confirmed, still: [Option<u64>; 2]| {
            let now = Instant::now();
            let mut later = SlotLife::new(&row(1, 900), Lsn(900), None, false, now);
            later.goes_on(&row(1, confirmed), Lsn(1000), still[0], now);
            let mut at_once = SlotLife::new(&row(1, confirmed), Lsn(1000), still[0], false, now);
            for life in [&mut later, &mut at_once] {
                life.goes_on(&row(2, 1000), Lsn(1010), still[1], now);
            }
            assert_eq!(later.renewed, at_once.renewed);
            later.renewed
        };
        assert_eq!(after(1000, [Some(7), Some(7)]), Renewed::No);
        for (confirmed, still) in
            [(999, [Some(7), Some(7)]), (1000, [Some(7), Some(8)]), (1000, [Some(7), None]), (1000, [None, None])]
        {
            assert_eq!(after(confirmed, still), Renewed::Perhaps, "{confirmed} {still:?}");
        }
    }
}
