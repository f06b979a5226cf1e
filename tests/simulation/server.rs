//! A PostgreSQL server: WAL, transactions, one slot. What is here is what the server's sources do, and no more of it than
//! a verdict can depend on.

use std::time::Duration;

use walgate::gate::{Fork, Writer};
use walgate::lag::{History, Reader, SlotKind, SlotRow};
use walgate::lsn::Lsn;
use walgate::time::PgTimestamp;

use crate::dice::Dice;

/// A page of the WAL, and the header of one (`XLogPageHeaderData`).
const PAGE: u64 = 8192;
const HEADER: u64 = 24;

/// Transactions that a schedule can tell apart: bits of a set.
pub(crate) const SERIALS: u32 = 128;

/// A set of transactions, by their serial numbers.
pub(crate) type Set = u128;

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) system: u64,
    pub(crate) timeline: u32,
    /// Where those before it ended.
    pub(crate) forks: Vec<Fork>,
    /// It answers.
    pub(crate) alive: bool,
    pub(crate) wal: Vec<Record>,
    pub(crate) inserted: Lsn,
    pub(crate) flushed: Lsn,
    first_xid: u64,
    next_xid: u64,
    /// Counts crashes: no session survives one.
    pub(crate) lives: u32,
    /// What `pg_snapshot_xmax` shows is the one after it: an id that is given and still in progress does not move it.
    completed: u64,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) slot: Option<Slot>,
    next_pid: i32,
    /// What its clock is off by, in microseconds.
    pub(crate) skew: i64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
    pub(crate) xid: u64,
    pub(crate) what: What,
    /// When it was written.
    pub(crate) at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A row, or the part of a large transaction that is streamed.
    Change {
        published: bool,
        streamed: bool,
    },
    Commit(Content),
    Abort {
        streamed: bool,
    },
    Prepare(Content),
    CommitPrepared(Content),
    /// `xl_running_xacts`: from here on a decoder could begin, if nothing older were open.
    Running {
        oldest: Lsn,
    },
}

/// What a transaction holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Of those that must arrive, which one.
    pub(crate) serial: Option<u32>,
    /// A consumer is sent it: rows of published tables, or a message where it asks for messages.
    pub(crate) published: bool,
    pub(crate) streamed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) xid: Option<u64>,
    /// Of the database that is replicated.
    pub(crate) ours: bool,
    pub(crate) client: bool,
    pub(crate) content: Content,
    /// `synchronous_commit = off`
    pub(crate) hasty: bool,
    pub(crate) state: State,
    begun: Lsn,
    pid: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    Prepared,
    /// The commit is written and flushed, and the transaction still in progress for all others: it waits for a standby, or is
    /// about to end.
    Ending,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) restart: Lsn,
    pub(crate) confirmed: Lsn,
    /// What is on disk.
    saved: (Lsn, Lsn),
    pub(crate) reader: Option<i32>,
    /// What its reader has said of itself; a standby's slot.
    pub(crate) flush: Lsn,
    pub(crate) replay: Lsn,
}

impl Server {
    pub(crate) fn new(system: u64, dice: &mut Dice) -> Server {
        let start = Lsn(0x100_0000 + dice.below(1 << 10) * 8);
        let next_xid = 700 + dice.below(50);
        Server {
            system,
            timeline: 1,
            forks: Vec::new(),
            alive: true,
            wal: Vec::with_capacity(64),
            inserted: start,
            flushed: start,
            first_xid: next_xid,
            next_xid,
            lives: 0,
            completed: next_xid - 1,
            transactions: Vec::new(),
            slot: None,
            next_pid: 100 * system as i32,
            skew: 0,
        }
    }

    /// Begins with about the positions and transaction ids that another has.
    pub(crate) fn begin_like(&mut self, other: &Server, dice: &mut Dice) {
        let start = Lsn(other.flushed.0.saturating_sub(8 * dice.below(40)));
        (self.inserted, self.flushed) = (start, start);
        self.next_xid = other.next_xid.saturating_sub(dice.below(4));
        (self.first_xid, self.completed) = (self.next_xid, self.next_xid - 1);
    }

    pub(crate) fn history(&self) -> History {
        History { system: self.system, timeline: Some(self.timeline) }
    }

    pub(crate) fn clock(&self, now: Duration) -> PgTimestamp {
        PgTimestamp(1_000_000_000_000 + now.as_micros() as i64 + self.skew)
    }

    fn write(&mut self, xid: u64, what: What, now: Duration, dice: &mut Dice) -> Record {
        // A record that begins a page, or goes on there, lies around its header.
        let header = if self.inserted.0.is_multiple_of(PAGE) { HEADER } else { 0 };
        let start = Lsn(self.inserted.0 + header);
        let end = Lsn(start.0 + 8 * (3 + dice.below(12)));
        let goes_on = start.0 / PAGE != end.0 / PAGE && !end.0.is_multiple_of(PAGE);
        let end = if goes_on { Lsn(end.0 + HEADER) } else { end };
        let record = Record { start, end, xid, what, at: now };
        self.inserted = end;
        self.wal.push(record);
        record
    }

    pub(crate) fn flush(&mut self) {
        self.flushed = self.inserted;
    }

    pub(crate) fn pid(&mut self) -> i32 {
        self.next_pid += 1;
        self.next_pid
    }

    pub(crate) fn begin(&mut self, content: Content, ours: bool, client: bool, hasty: bool) {
        let (begun, pid) = (self.inserted, self.pid());
        let state = State::Open;
        self.transactions.push(Transaction { xid: None, ours, client, content, hasty, state, begun, pid });
    }

    /// Lets a transaction do what it does next.
    pub(crate) fn advance(&mut self, which: usize, now: Duration, dice: &mut Dice) {
        let Transaction { xid, content, hasty, state, .. } = self.transactions[which];
        match (state, xid) {
            (State::Open, None) => {
                let xid = self.give_xid();
                self.transactions[which].xid = Some(xid);
                self.change(which, xid, now, dice);
            }
            (State::Open, Some(xid)) => match dice.below(10) {
                0 => {
                    self.write(xid, What::Abort { streamed: content.streamed }, now, dice);
                    self.end(which);
                }
                1 | 2 => self.change(which, xid, now, dice),
                3 => {
                    self.write(xid, What::Prepare(content), now, dice);
                    self.flush();
                    self.transactions[which].state = State::Prepared;
                }
                _ => {
                    self.write(xid, What::Commit(content), now, dice);
                    if hasty {
                        self.end(which);
                    } else {
                        self.flush();
                        self.transactions[which].state = State::Ending;
                    }
                }
            },
            (State::Prepared, Some(xid)) => {
                if dice.once_in(4) {
                    self.write(xid, What::Abort { streamed: false }, now, dice);
                } else {
                    self.write(xid, What::CommitPrepared(content), now, dice);
                }
                self.flush();
                self.end(which);
            }
            (State::Ending | State::Prepared, _) => self.end(which),
        }
    }

    fn change(&mut self, which: usize, xid: u64, now: Duration, dice: &mut Dice) {
        let Content { published, streamed, .. } = self.transactions[which].content;
        self.write(xid, What::Change { published, streamed }, now, dice);
    }

    /// Somebody ends a transaction: `pg_terminate_backend`, `ROLLBACK PREPARED`.
    pub(crate) fn kill(&mut self, which: usize, now: Duration, dice: &mut Dice) {
        let Transaction { xid, state, content, .. } = self.transactions[which];
        if let (Some(xid), true) = (xid, state != State::Ending) {
            self.write(xid, What::Abort { streamed: content.streamed && state == State::Open }, now, dice);
        }
        self.end(which);
    }

    fn give_xid(&mut self) -> u64 {
        self.next_xid += 1;
        self.next_xid - 1
    }

    fn end(&mut self, which: usize) {
        let ended = self.transactions.remove(which);
        self.completed = self.completed.max(ended.xid.unwrap_or(0));
    }

    /// The barrier is committed: its transaction id.
    pub(crate) fn barrier(&mut self, published: bool, now: Duration, dice: &mut Dice) -> u64 {
        let xid = self.give_xid();
        let content = Content { serial: None, published, streamed: false };
        self.write(xid, What::Commit(content), now, dice);
        self.flush();
        self.completed = self.completed.max(xid);
        xid
    }

    pub(crate) fn running_xacts(&mut self, now: Duration, dice: &mut Dice) {
        let with_xid = self.transactions.iter().filter(|transaction| transaction.xid.is_some());
        let oldest = with_xid.map(|transaction| transaction.begun).min().unwrap_or(self.inserted);
        self.write(0, What::Running { oldest }, now, dice);
    }

    /// Backends of the database with a transaction id, as `pg_stat_activity` shows them.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = Writer> {
        let writing = |t: &&Transaction| t.ours && t.client && t.xid.is_some() && t.state != State::Prepared;
        self.transactions.iter().filter(writing).map(|t| Writer { pid: Some(t.pid), ..Writer::default() })
    }

    /// `pg_prepared_xacts` of the database.
    pub(crate) fn prepared(&self) -> impl Iterator<Item = Writer> {
        self.transactions.iter().filter(|t| t.ours && t.state == State::Prepared).map(|_| Writer::default())
    }

    /// `xmin` and `xmax` of `pg_current_snapshot()`.
    pub(crate) fn snapshot(&self) -> (u64, u64) {
        let xmax = self.completed + 1;
        let running = self.transactions.iter().filter_map(|transaction| transaction.xid);
        (running.filter(|xid| *xid < xmax).min().unwrap_or(xmax), xmax)
    }

    /// What certainly is on disk comes back; whoever was connected is not any more.
    pub(crate) fn crash(&mut self) {
        self.lives += 1;
        self.cut(self.flushed);
        if let Some(slot) = &mut self.slot {
            (slot.restart, slot.confirmed) = slot.saved;
            slot.reader = None;
        }
    }

    fn cut(&mut self, end: Lsn) {
        self.wal.retain(|record| record.end <= end);
        (self.inserted, self.flushed) = (end, end);
        let wal = &self.wal;
        self.transactions.retain(|transaction| {
            let kept = |what: &Record| Some(what.xid) == transaction.xid && matches!(what.what, What::Prepare(_));
            transaction.state == State::Prepared && wal.iter().any(kept)
        });
        let seen = wal.iter().map(|record| record.xid).max().unwrap_or(0);
        // Ids of which nothing is in the WAL are given again.
        self.next_xid = (seen + 1).max(self.first_xid);
        self.completed = self.next_xid - 1;
    }

    /// A standby that has replayed up to there takes over. `slot` is what it has of the slot.
    pub(crate) fn promoted(&self, end: Lsn, slot: Option<Slot>) -> Server {
        let mut promoted = self.clone();
        promoted.cut(end);
        promoted.forks.push(Fork { timeline: self.timeline, at: end });
        promoted.timeline += 1;
        promoted.next_pid += 50;
        promoted.alive = true;
        promoted.slot = slot;
        promoted
    }

    /// Creates the slot; nothing may be under way.
    pub(crate) fn create_slot(&mut self, now: Duration, dice: &mut Dice) {
        let restart = self.inserted;
        self.running_xacts(now, dice);
        self.flush();
        let confirmed = self.inserted;
        let flush = Lsn::INVALID;
        let saved = (restart, confirmed);
        self.slot = Some(Slot { restart, confirmed, saved, reader: None, flush, replay: flush });
    }

    /// The slot's reader has acknowledged.
    pub(crate) fn confirm(&mut self, flush: Lsn, replay: Lsn) {
        let Some(slot) = &mut self.slot else { return };
        slot.flush = slot.flush.max(flush);
        slot.replay = slot.replay.max(replay);
        if flush <= slot.confirmed {
            return;
        }
        slot.confirmed = flush;
        let begins = self.wal.iter().rev().find_map(|record| match record.what {
            What::Running { oldest } if record.end <= flush => Some(oldest.min(record.start)),
            _ => None,
        });
        if let Some(restart) = begins.filter(|restart| *restart > slot.restart) {
            slot.restart = restart;
            slot.saved = (slot.restart, slot.confirmed);
        }
    }

    /// A checkpoint writes slots.
    pub(crate) fn checkpoint(&mut self, now: Duration, dice: &mut Dice) {
        self.running_xacts(now, dice);
        self.flush();
        if let Some(slot) = &mut self.slot {
            slot.saved = (slot.restart, slot.confirmed);
        }
    }

    /// The slot as a failover slot on a standby has it.
    pub(crate) fn synced_slot(&self, end: Lsn) -> Option<Slot> {
        let slot = self.slot.filter(|slot| slot.saved.1 <= end)?;
        Some(Slot { restart: slot.saved.0, confirmed: slot.saved.1, reader: None, ..slot })
    }

    pub(crate) fn slot_row(&self, kind: SlotKind) -> Option<SlotRow> {
        let slot = self.slot?;
        let logical = kind == SlotKind::Logical;
        let reading = slot.reader.is_some();
        Some(SlotRow {
            kind,
            plugin: logical.then(|| "pgoutput".into()),
            database: logical.then(|| "app".into()),
            temporary: false,
            two_phase: false,
            active: reading,
            active_pid: slot.reader,
            restart_lsn: Some(slot.restart),
            confirmed_flush: logical.then_some(slot.confirmed),
            wal_status: Some("reserved".into()),
            safe_wal_size: None,
            invalidation_reason: None,
            inactive_since: None,
            decoded_transactions: None,
            reader: Reader {
                flush: slot.flush.valid().filter(|_| reading),
                replay: slot.replay.valid().filter(|_| reading),
                ..Reader::default()
            },
        })
    }

    /// Of those that must arrive, what was committed by then, behind some position.
    pub(crate) fn committed(&self, behind: Lsn, by: Duration) -> Set {
        let records = self.wal.iter().filter(|record| record.at <= by && record.start >= behind);
        let commits = records.filter_map(|record| match record.what {
            What::Commit(content) | What::CommitPrepared(content) => content.serial,
            _ => None,
        });
        commits.fold(0, |set, serial| set | 1 << serial)
    }
}
