//! The commits that a consumer has been sent and has not acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ident::Oid;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

use super::Volume;
use super::transactions::PublishedCommit;

/// Pending commits in the order of their LSNs, with their sums kept as they come and go.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pending: VecDeque<Pending>,
    /// What the pending commits change, one behind the other.
    changes: VecDeque<(Oid, Volume)>,
    /// Candidates for the oldest commit timestamp: of the pending commits those that are older than all
    /// behind them. Commit timestamps are not in the order of LSNs.
    oldest: VecDeque<(PgTimestamp, Lsn)>,
    total: Volume,
    /// Sums by table. One that has nothing pending any more stays: it will be back.
    tables: BTreeMap<Oid, TablePending>,
    /// The highest commit ever added; what comes again after a reconnect is not above it.
    newest: Lsn,
    acked: Lsn,
}

#[derive(Clone, Debug)]
struct Pending {
    commit_lsn: Lsn,
    sent_at: Instant,
    /// How many of `changes` are its own.
    tables: u32,
}

/// What is pending in one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablePending {
    /// Commits that change the table.
    pub transactions: u64,
    /// Their rows in it.
    pub volume: Volume,
}

impl Timeline {
    /// Adds a commit that was sent at `sent_at`. One that was added before, or that the consumer has
    /// acknowledged already, changes nothing: that is what a stream repeats after a reconnect.
    pub fn commit(&mut self, commit: PublishedCommit<'_>, sent_at: Instant) {
        if commit.commit_lsn <= self.newest.max(self.acked) {
            return;
        }
        self.newest = commit.commit_lsn;
        for (relation, volume) in commit.tables {
            self.total += *volume;
            let table = self.tables.entry(*relation).or_default();
            table.transactions += 1;
            table.volume += *volume;
        }
        self.changes.extend(commit.tables);
        while self.oldest.pop_back_if(|(time, _)| *time >= commit.commit_ts).is_some() {}
        self.oldest.push_back((commit.commit_ts, commit.commit_lsn));
        let tables = commit.tables.len() as u32;
        self.pending.push_back(Pending { commit_lsn: commit.commit_lsn, sent_at, tables });
    }

    /// Takes an acknowledgement: a commit is pending while its `commit_lsn` is above it. 0/0 gives no
    /// position, and none takes back an earlier one. `acked` is called with the time from sending to now for
    /// each commit that it covers.
    pub fn ack(&mut self, ack: Lsn, now: Instant, mut acked: impl FnMut(Duration)) {
        self.acked = self.acked.max(ack);
        while let Some(commit) = self.pending.pop_front_if(|commit| commit.commit_lsn <= ack) {
            for (relation, volume) in self.changes.drain(..commit.tables as usize) {
                self.total -= volume;
                if let Some(table) = self.tables.get_mut(&relation) {
                    table.transactions -= 1;
                    table.volume -= volume;
                }
            }
            acked(now.saturating_duration_since(commit.sent_at));
        }
        while self.oldest.pop_front_if(|(_, commit_lsn)| *commit_lsn <= ack).is_some() {}
    }

    /// The highest acknowledged position; `None` before the first.
    pub fn acked(&self) -> Option<Lsn> {
        self.acked.valid()
    }

    /// Commits pending.
    pub fn transactions(&self) -> u64 {
        self.pending.len() as u64
    }

    /// Their rows and bytes.
    pub fn total(&self) -> Volume {
        self.total
    }

    /// The oldest commit timestamp among them.
    pub fn oldest_commit_ts(&self) -> Option<PgTimestamp> {
        self.oldest.front().map(|(time, _)| *time)
    }

    /// What is pending in each table that has anything pending.
    pub fn tables(&self) -> impl Iterator<Item = (Oid, TablePending)> {
        let tables = self.tables.iter().map(|(relation, pending)| (*relation, *pending));
        tables.filter(|(_, pending)| pending.transactions > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A commit that the test owns.
    #[derive(Clone)]
    struct Commit(u64, i64, Vec<(Oid, Volume)>);

    impl Commit {
        fn published(&self) -> PublishedCommit<'_> {
            let (commit_lsn, end_lsn) = (Lsn(self.0), Lsn(self.0 + 8));
            PublishedCommit { commit_lsn, end_lsn, commit_ts: PgTimestamp(self.1), tables: &self.2 }
        }
    }

    fn commit(lsn: u64, ts: i64, tables: &[(u32, u64)]) -> Commit {
        let tables = tables.iter().map(|&(oid, rows)| (Oid(oid), Volume { rows, bytes: rows * 10 }));
        Commit(lsn, ts, tables.collect())
    }

    #[test]
    fn an_ack_of_the_commit_or_of_its_end_clears_it() {
        for ack in [100, 108] {
            let mut timeline = Timeline::default();
            timeline.commit(commit(100, 1, &[(1, 2)]).published(), Instant::now());
            timeline.commit(commit(200, 2, &[(1, 3)]).published(), Instant::now());
            let mut count = 0;
            timeline.ack(Lsn(ack), Instant::now(), |_| count += 1);
            assert_eq!((count, timeline.transactions(), timeline.total()), (1, 1, Volume { rows: 3, bytes: 30 }));
            assert_eq!(timeline.oldest_commit_ts(), Some(PgTimestamp(2)));
        }
    }

    #[test]
    fn no_position_and_an_earlier_one_change_nothing() {
        let mut timeline = Timeline::default();
        timeline.ack(Lsn(150), Instant::now(), |_| {});
        timeline.commit(commit(200, 1, &[(1, 1)]).published(), Instant::now());
        for ack in [Lsn::INVALID, Lsn(100)] {
            timeline.ack(ack, Instant::now(), |_| panic!("nothing is acked"));
            assert_eq!((timeline.acked(), timeline.transactions()), (Some(Lsn(150)), 1));
        }
    }

    #[test]
    fn what_a_reconnect_repeats_counts_once() {
        let mut timeline = Timeline::default();
        for _ in 0..3 {
            for lsn in [100, 200, 300] {
                timeline.commit(commit(lsn, 1, &[(7, 1)]).published(), Instant::now());
            }
            timeline.ack(Lsn(100), Instant::now(), |_| {});
        }
        assert_eq!((timeline.transactions(), timeline.total().rows), (2, 2));
    }

    proptest! {
        /// Against a plain list that is summed up anew each time.
        #[test]
        fn sums_never_drift(steps in prop::collection::vec(
            (any::<bool>(), 0u64..60, 0i64..100, prop::collection::vec((0u32..4, 0u64..5), 0..4)), 0..200,
        )) {
            let mut timeline = Timeline::default();
            let mut model: BTreeMap<u64, Commit> = BTreeMap::new();
            let (mut acked, mut newest) = (0, 0);
            for (is_commit, lsn, ts, tables) in steps {
                let tables: Vec<(u32, u64)> = BTreeMap::from_iter(tables).into_iter().collect();
                if is_commit {
                    // Mostly forward, sometimes a repetition.
                    let lsn = newest + lsn.saturating_sub(20) + 1;
                    let lsn = if ts % 7 == 0 { lsn.saturating_sub(30) } else { lsn };
                    let commit = commit(lsn, ts, &tables);
                    timeline.commit(commit.published(), Instant::now());
                    if lsn > acked && lsn > newest {
                        newest = lsn;
                        model.insert(lsn, commit);
                    }
                } else {
                    let ack = acked + lsn;
                    timeline.ack(Lsn(ack), Instant::now(), |_| {});
                    acked = acked.max(ack);
                    model.retain(|lsn, _| *lsn > ack);
                }
                let mut sum = Volume::default();
                let mut per_table: BTreeMap<Oid, TablePending> = BTreeMap::new();
                for (relation, volume) in model.values().flat_map(|commit| commit.2.iter().copied()) {
                    sum += volume;
                    let table = per_table.entry(relation).or_default();
                    table.transactions += 1;
                    table.volume += volume;
                }
                prop_assert_eq!(timeline.transactions(), model.len() as u64);
                prop_assert_eq!(timeline.total(), sum);
                prop_assert_eq!(BTreeMap::from_iter(timeline.tables()), per_table);
                prop_assert_eq!(timeline.oldest_commit_ts(), model.values().map(|commit| PgTimestamp(commit.1)).min());
            }
        }
    }
}
