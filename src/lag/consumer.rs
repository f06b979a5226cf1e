//! One consumer: the reader of one slot, across all its connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::ident::{Oid, TableName};
use crate::lsn::Lsn;
use crate::pgoutput::Head;
use crate::time::PgTimestamp;
use crate::wire::DecodeError;
use crate::wire::copy_both::{Keepalive, StatusUpdate, XLogData};

use super::clock::ServerClock;
use super::latency::AckLatency;
use super::pace::{Mark, Pace};
use super::poll::SlotRow;
use super::reading::{Copied, Reading, Untapped};
use super::report::{Rates, SlotKind, TableReport};
use super::timeline::{Figures, Timeline};
use crate::wire::command::StartReplication;

/// What is known of one consumer.
#[derive(Debug)]
pub struct Consumer {
    pub(super) kind: SlotKind,
    /// The server that it streams from, or did last.
    server: Box<str>,
    pub(super) timeline: Timeline,
    pub(super) clock: ServerClock,
    /// Names of the tables whose definitions have come by.
    tables: HashMap<Oid, TableName>,
    pub(super) reading: Reading,
    /// The command that started its stream, once it was seen.
    command: Option<StartReplication>,
    /// Positions, 0/0 while they are not known.
    pub(super) decoded: Lsn,
    /// The first that was heard since it is read along.
    first: Lsn,
    sent: Lsn,
    applied: Lsn,
    /// When the server was last heard on the stream.
    pub(super) last_frame: Option<Instant>,
    /// It has left its socket full.
    full: Arc<AtomicBool>,
    /// Since when a keepalive waits for an answer of the consumer.
    pub(super) asked: Option<Instant>,
    /// Up to where the server has said to have read and sent everything, and since when that has not been seen here.
    pub(super) said_sent: Option<(Lsn, Instant)>,
    /// The furthest that its own streams have acknowledged, of those that passed the proxy.
    told: Lsn,
    /// Its slot was moved on to here while it was away.
    moved: Lsn,
    /// The acknowledgement that the last look has shown.
    looked_acked: Lsn,
    /// It had acknowledged more a look ago than the server has now.
    pub(super) ahead: bool,
    /// Up to where commits may be missing from the timeline.
    doubt: Lsn,
    /// When its slot was last seen in a look at the source.
    pub(super) last_look: Option<Instant>,
    /// The walsender of its own stream, where the login has told, and when that was first heard.
    walsender: Option<i32>,
    begun: Option<Instant>,
    /// That look was begun while the stream was read, and shows the slot that it is of.
    shown: bool,
    /// Nothing had been seen of it before what is read now.
    unseen_before: bool,
    /// What was confirmed of the slot when a look first showed this reading of it, or where its reader wanted to begin, if that
    /// lies behind: everything behind that is sent in this reading.
    begins: Option<Lsn>,
    pub(super) pace: Pace,
    ack_latency: AckLatency,
    /// Why its slot cannot be copied.
    pub(super) hindrance: Option<String>,
    /// Its stream has shown that the schema may be another by now.
    schema_shown: bool,
    /// The furthest commit, and the first table that it changes.
    newest: (Lsn, Option<Oid>),
}

/// What a stream has shown up to some position.
#[derive(Clone, Debug, PartialEq)]
pub struct Followed {
    /// Whether it is the consumer's own, so that its acknowledgements are seen as they pass; else a copy's.
    pub own: bool,
    /// The server has read, and sent, everything that committed below it; 0/0 while that is not known.
    pub decoded: Lsn,
    /// Commits up to the position that are not acknowledged, at most.
    pub pending: Figures,
    /// The furthest commit that was ever seen.
    pub newest: Option<Lsn>,
    /// The furthest commit at or behind the position, and a table that it changes.
    pub behind: Option<(Lsn, Option<TableName>)>,
    /// Everything behind this was sent in this reading, which has not been broken since; `None` before that is known.
    pub from: Option<Lsn>,
    /// Commits may be missing from what is known.
    pub doubtful: bool,
    /// The slot was moved on to here while its consumer was away and nobody read along.
    pub moved: Option<Lsn>,
    /// The last look at the source shows that it is the stream of the slot that was looked at: its walsender holds the slot,
    /// or it is of a copy that was made before. Else it may be another server's, or of a slot that was dropped since.
    pub shown: bool,
    /// When the server was last heard.
    pub heard: Option<Instant>,
}

impl Consumer {
    /// A consumer of which nothing has been seen.
    pub(super) fn new(kind: SlotKind) -> Consumer {
        Consumer {
            kind,
            server: Box::default(),
            timeline: Timeline::new(Timeline::LIMIT),
            clock: ServerClock::default(),
            tables: HashMap::new(),
            reading: Reading::Nowhere,
            command: None,
            decoded: Lsn::INVALID,
            first: Lsn::INVALID,
            sent: Lsn::INVALID,
            applied: Lsn::INVALID,
            last_frame: None,
            full: Arc::default(),
            asked: None,
            said_sent: None,
            told: Lsn::INVALID,
            moved: Lsn::INVALID,
            looked_acked: Lsn::INVALID,
            ahead: false,
            doubt: Lsn::INVALID,
            last_look: None,
            walsender: None,
            begun: None,
            shown: false,
            unseen_before: true,
            begins: None,
            pace: Pace::default(),
            ack_latency: AckLatency::default(),
            hindrance: None,
            schema_shown: false,
            newest: (Lsn::INVALID, None),
        }
    }

    /// The stream goes on but cannot be followed any further: nothing is known from here on.
    pub fn untap(&mut self, reason: Untapped) {
        if let Some(id) = self.attachment() {
            self.reading = Reading::Untapped(id, reason);
        }
    }

    /// The stream has ended.
    pub fn detach(&mut self) {
        if let Reading::Copy(..) = self.reading {
            self.restart_timeline();
            self.last_frame = None;
        }
        self.reading = Reading::Nowhere;
        self.asked = None;
    }

    /// Takes a message of the stream, `len` bytes long of which `data.data` holds at least the beginning. To be
    /// followed by [`Consumer::heard`].
    #[inline]
    pub fn xlog_data(&mut self, data: &XLogData<'_>, len: u64, now: Instant) -> Result<(), DecodeError> {
        let (Reading::Stream(_, transactions) | Reading::Copy(_, _, transactions)) = &mut self.reading else {
            return Ok(());
        };
        // By arm, so that a row's head stays in registers.
        match Head::parse(data.data, transactions.in_stream())? {
            Head::Insert { xid, relation } | Head::Update { xid, relation } | Head::Delete { xid, relation } => {
                transactions.row(xid, relation, len);
            }
            Head::Relation { xid, relation, schema, name } => {
                self.tables.insert(relation, table_name(schema, name));
                self.schema_shown |= xid.is_none();
            }
            head => {
                self.schema_shown |= match head {
                    Head::Message { xid: None, prefix, .. } => is_zero_ddl(prefix),
                    // Nobody else sees what it has shown before.
                    Head::StreamCommit(_) => true,
                    _ => false,
                };
                if let Some(mut commit) = transactions.steer(&head) {
                    // Commits come in the order of their records: none below this one's end is left to be sent.
                    self.decoded = self.decoded.max(commit.end_lsn);
                    if commit.foreign {
                        // Its own time is another clock's. It was committed here before it was sent.
                        commit.commit_ts = data.send_time;
                    }
                    if commit.commit_lsn > self.newest.0 {
                        self.newest = (commit.commit_lsn, commit.tables.first().map(|(table, _)| *table));
                    }
                    self.timeline.commit(commit, now);
                }
            }
        }
        self.first = self.first.valid().or(data.wal_start.valid()).unwrap_or_default();
        self.sent = self.sent.max(data.wal_start);
        Ok(())
    }

    /// Takes a keepalive. To be followed by [`Consumer::heard`].
    pub fn keepalive(&mut self, keepalive: &Keepalive, now: Instant) {
        if let Reading::Stream(..) | Reading::Copy(..) = self.reading {
            self.first = self.first.valid().unwrap_or(keepalive.wal_end);
            self.decoded = self.decoded.max(keepalive.wal_end);
            self.timeline.reach(keepalive.wal_end);
        }
        if keepalive.reply_requested && self.asked.is_none() {
            self.asked = Some(now);
        }
    }

    /// Notes when the server was heard: once for all messages that came in one piece, with the last one's send
    /// time.
    pub fn heard(&mut self, send_time: PgTimestamp, now: Instant) {
        self.clock.frame(send_time, now);
        self.last_frame = Some(now);
        self.begun.get_or_insert(now);
    }

    /// The server has told who serves its stream.
    pub fn served_by(&mut self, walsender: Option<i32>) {
        self.walsender = walsender;
    }

    /// Takes a status update of the consumer.
    pub fn status_update(&mut self, update: &StatusUpdate, now: Instant) {
        self.timeline.ack(update.flush, now, |latency, commits| self.ack_latency.record(latency, commits));
        self.told = self.told.max(update.flush);
        self.applied = self.applied.max(update.apply);
        self.asked = None;
    }

    /// Whether the stream has shown since the last time that the schema may be another by now, for all to see: a table's
    /// definition has come, which the server sends before a table's first change and after the definition has changed, or
    /// zero-cache's message about DDL.
    pub fn take_schema_shown(&mut self) -> bool {
        std::mem::take(&mut self.schema_shown)
    }

    /// Nothing that was seen holds any more: the server is of another history. A stream that is attached may be of
    /// either, and is not followed any further.
    pub(super) fn forget(&mut self) {
        let attached = self.attachment().filter(|_| self.is_attached());
        let server = std::mem::take(&mut self.server);
        *self = Consumer::new(self.kind);
        if let Some(id) = attached {
            self.server = server;
            self.reading = Reading::Untapped(id, Untapped::History);
        }
    }

    /// What has been sent on the stream ends with a commit (or nothing has been sent); on a stream that is
    /// not followed, always.
    pub fn at_commit_boundary(&self) -> bool {
        match &self.reading {
            Reading::Stream(_, transactions) | Reading::Copy(_, _, transactions) => transactions.at_commit_boundary(),
            Reading::Nowhere | Reading::Untapped(..) => true,
        }
    }

    /// The furthest position that the server has decoded; `None` before it is known.
    pub fn decoded(&self) -> Option<Lsn> {
        self.decoded.valid()
    }

    /// Its own stream has started, through the proxy.
    pub(super) fn attach(
        &mut self,
        id: u64,
        kind: SlotKind,
        server: &str,
        command: Option<StartReplication>,
        full: Arc<AtomicBool>,
    ) {
        if let Reading::Copy(..) = self.reading {
            // What a copy has shown may be another choice of changes.
            self.restart_timeline();
        }
        self.kind = kind;
        self.server = server.into();
        self.command = command.or(self.command.take());
        self.full = full;
        self.read(Reading::Stream(id, Box::default()));
    }

    /// A copy of its slot was made, which begins where the consumer's acknowledgements end.
    pub(super) fn attach_copy(&mut self, id: u64, server: &str, copied: Copied) {
        self.restart_timeline();
        self.server = server.into();
        self.read(Reading::Copy(id, copied, Box::default()));
    }

    fn read(&mut self, reading: Reading) {
        self.reading = reading;
        self.unseen_before = self.newest.0 == Lsn::INVALID && self.told == Lsn::INVALID;
        // The server decodes anew from the restart position; what it had read before does not count. It sends everything
        // again that is not acknowledged.
        self.decoded = Lsn::INVALID;
        self.first = Lsn::INVALID;
        self.doubt = Lsn::INVALID;
        self.asked = None;
        self.said_sent = None;
        self.hindrance = None;
        (self.walsender, self.begun, self.shown, self.begins) = (None, None, false, None);
    }

    fn restart_timeline(&mut self) {
        let acked = self.timeline.acked();
        self.timeline = Timeline::new(Timeline::LIMIT);
        self.timeline.ack(acked.unwrap_or_default(), Instant::now(), |_, _| {});
        self.pace = Pace::default();
    }

    /// Takes what a look says of its slot; `renewed` if that may be another than at the look before.
    pub(super) fn polled(&mut self, row: &SlotRow, renewed: bool, flushed: Lsn, now: Instant) {
        self.kind = row.kind;
        self.last_look = Some(now);
        let holds = self.walsender.is_some() && self.walsender == row.active_pid;
        self.shown = match &self.reading {
            // A process that has dropped the slot and created another streams anew, and is heard anew.
            Reading::Stream(..) => holds && self.begun.is_some_and(|begun| begun <= now),
            Reading::Copy(_, copied, _) => copied.at <= now,
            Reading::Nowhere | Reading::Untapped(..) => false,
        };
        // Who holds a slot streams from this very one: it was replaced before, and of before nothing is known.
        let renewed = renewed && !(holds && self.unseen_before && matches!(self.reading, Reading::Stream(..)));
        let acked = row.acked().unwrap_or_default();
        if self.shown && self.begins.is_none() {
            let wanted = self.command.as_ref().filter(|_| self.is_attached()).map(|command| command.start);
            self.begins = Some(acked.max(wanted.unwrap_or_default()));
        }
        if acked < self.looked_acked || renewed {
            // Another slot of the name, or the same as of before a crash: what was acknowledged of the one says nothing.
            self.doubt = self.doubt.max(self.decoded).max(self.timeline.newest());
            self.timeline = Timeline::new(Timeline::LIMIT);
            self.told = Lsn::INVALID;
            if let Reading::Copy(..) = self.reading {
                self.reading = Reading::Nowhere;
            }
        }
        // Only who reads a slot acknowledges: further than its client has, somebody else did.
        if matches!(self.reading, Reading::Nowhere) && self.told != Lsn::INVALID && acked > self.told {
            self.moved = acked;
        }
        // Of the same look it may be ahead by what was written meanwhile.
        self.ahead = self.looked_acked > flushed;
        self.looked_acked = acked;
        self.timeline.ack(acked, now, |_, _| {});
        self.applied = match row.kind {
            SlotKind::Logical => self.applied.max(row.reader.replay.unwrap_or_default()),
            SlotKind::Physical => row.reader.replay.unwrap_or_default(),
        };
        if row.reader.command.is_some() {
            self.command.clone_from(&row.reader.command);
        }
        if self.said_sent.is_none_or(|(said, _)| said <= self.decoded) {
            self.said_sent = row.reader.sent.filter(|sent| *sent >= flushed).map(|sent| (sent, now));
        }
        self.pace.note(self.mark(flushed), now);
    }

    fn mark(&self, flushed: Lsn) -> Mark {
        Mark {
            added_bytes: self.timeline.added_bytes(),
            acked_bytes: self.timeline.acked_bytes(),
            flushed,
            decoded: self.decoded,
            acked: self.timeline.acked().unwrap_or_default(),
        }
    }

    pub(super) fn attachment(&self) -> Option<u64> {
        match self.reading {
            Reading::Nowhere => None,
            Reading::Stream(id, _) | Reading::Copy(id, ..) | Reading::Untapped(id, _) => Some(id),
        }
    }

    /// Whether its own stream passes the proxy.
    pub(super) fn is_attached(&self) -> bool {
        matches!(self.reading, Reading::Stream(..) | Reading::Untapped(..))
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// The command that started its stream, once it was seen.
    pub(super) fn command(&self) -> Option<&StartReplication> {
        self.command.as_ref()
    }

    pub(super) fn sent(&self) -> Option<Lsn> {
        self.sent.valid()
    }

    /// What it has acknowledged. A standby may be set up anew from an older backup, and then goes back.
    pub(super) fn acked(&self) -> Option<Lsn> {
        match self.kind {
            SlotKind::Logical => self.timeline.acked(),
            SlotKind::Physical => self.looked_acked.valid(),
        }
    }

    /// Commits may be missing from the timeline until everything up to here is acknowledged.
    pub(super) fn is_doubtful(&self) -> bool {
        self.timeline.acked().unwrap_or_default() < self.doubt
    }

    pub(super) fn applied(&self) -> Option<Lsn> {
        self.applied.valid()
    }

    /// What its stream has shown up to a position; `None` where nobody reads along.
    pub(super) fn followed(&self, until: Lsn) -> Option<Followed> {
        let own = match self.reading {
            Reading::Stream(..) => true,
            Reading::Copy(..) => false,
            Reading::Nowhere | Reading::Untapped(..) => return None,
        };
        let (newest, table) = self.newest;
        let table = table.and_then(|table| self.tables.get(&table)).cloned();
        Some(Followed {
            own,
            decoded: self.decoded,
            pending: self.timeline.pending(until).most,
            newest: newest.valid(),
            // A position is where WAL ended: what begins there came later.
            behind: (newest >= until).then_some((newest, table)),
            // The first that is heard may lie before what was confirmed: the server reads from the restart position.
            from: self.first.valid().zip(self.begins).map(|(first, begins)| first.max(begins)),
            doubtful: self.is_doubtful(),
            moved: self.moved.valid(),
            shown: self.shown,
            heard: self.last_frame,
        })
    }

    /// How long its commits have waited, where its own stream shows that.
    pub(super) fn ack_latency(&self) -> Option<&AckLatency> {
        Some(&self.ack_latency).filter(|latency| latency.count() > 0)
    }

    pub(super) fn rates(&self) -> Rates {
        self.pace.rates()
    }

    /// Whether it has not taken for as long what was sent to it, so that nothing more could be read from the server.
    pub(super) fn is_full_for(&self, time: Duration, now: Instant) -> bool {
        self.full.load(Ordering::Relaxed) && self.last_frame_age(now).is_some_and(|age| age >= time)
    }

    /// Seconds since the server was last heard on the stream.
    pub(super) fn last_frame_age(&self, now: Instant) -> Option<Duration> {
        self.last_frame.map(|at| now.saturating_duration_since(at))
    }

    /// What is pending in each table, most rows first.
    pub(super) fn tables(&self) -> Vec<TableReport> {
        let mut tables: Vec<_> = self
            .timeline
            .tables()
            .filter_map(|(relation, pending)| {
                Some(TableReport {
                    table: self.tables.get(&relation)?.clone(),
                    transactions: pending.transactions,
                    rows: pending.volume.rows,
                    bytes: pending.volume.bytes,
                })
            })
            .collect();
        tables.sort_unstable_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.table.cmp(&b.table)));
        tables
    }
}

/// Whether this is the prefix of what zero-cache's event triggers emit for DDL, `{app}/{shard}/ddl`.
fn is_zero_ddl(prefix: &[u8]) -> bool {
    let shard = prefix.strip_suffix(b"/ddl").and_then(|rest| rest.rsplit(|byte| *byte == b'/').next());
    shard.is_some_and(|shard| !shard.is_empty() && shard.iter().all(u8::is_ascii_digit))
}

/// The server sends `pg_catalog` as an empty string (`logicalrep_write_namespace` in `proto.c`). Names that
/// are not UTF-8 are shown with replacement characters: they are for people and labels.
fn table_name(schema: &[u8], name: &[u8]) -> TableName {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into_boxed_str();
    TableName { schema: if schema.is_empty() { "pg_catalog".into() } else { text(schema) }, name: text(name) }
}
