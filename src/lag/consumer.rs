//! One consumer: the reader of one slot, across all its connections.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ident::{Oid, TableName};
use crate::lsn::Lsn;
use crate::pgoutput::Head;
use crate::time::PgTimestamp;
use crate::wire::DecodeError;
use crate::wire::copy_both::{Keepalive, StatusUpdate, XLogData};

use super::clock::ServerClock;
use super::report::{Lag, SlotKind, Stage, State, TableReport};
use super::source::WalPosition;
use super::timeline::Timeline;
use super::transactions::Transactions;

/// Why a stream cannot be followed. The bytes go on all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Untapped {
    /// A physical stream: there is nothing to decode.
    Physical,
    /// An output plugin other than pgoutput.
    Plugin,
    /// The command that started the stream was too long or not understood.
    Command,
    /// Message borders were lost.
    Frame,
    /// A message that is malformed or not known.
    Message,
}

impl Untapped {
    /// The reason as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Untapped::Physical => "physical",
            Untapped::Plugin => "plugin",
            Untapped::Command => "command",
            Untapped::Frame => "frame",
            Untapped::Message => "message",
        }
    }
}

/// How long a look at the source vouches that nothing is undecoded: the poller looks once a second.
const VOUCHES: Duration = Duration::from_secs(3);

/// What is known of one consumer.
#[derive(Debug)]
pub struct Consumer {
    kind: SlotKind,
    /// The server that it streams from, or did last.
    server: Box<str>,
    timeline: Timeline,
    clock: ServerClock,
    /// Names of the tables whose definitions have come by.
    tables: HashMap<Oid, TableName>,
    connection: Connection,
    /// Positions, 0/0 while they are not known.
    decoded: Lsn,
    sent: Lsn,
    applied: Lsn,
    /// When the server was last heard on the stream.
    last_frame: Option<Instant>,
}

#[derive(Debug)]
enum Connection {
    /// Nobody streams through the proxy.
    None,
    /// A stream that is followed, by the number of its attachment.
    Tapped(u64, Box<Transactions>),
    /// A stream that cannot be followed.
    Untapped(u64),
}

impl Consumer {
    /// A consumer of which nothing has been seen.
    pub(super) fn new(kind: SlotKind) -> Consumer {
        Consumer {
            kind,
            server: Box::default(),
            timeline: Timeline::default(),
            clock: ServerClock::default(),
            tables: HashMap::new(),
            connection: Connection::None,
            decoded: Lsn::INVALID,
            sent: Lsn::INVALID,
            applied: Lsn::INVALID,
            last_frame: None,
        }
    }

    /// The stream goes on but cannot be followed any further: nothing is known from here on.
    pub fn untap(&mut self) {
        if let Some(id) = self.attachment() {
            self.connection = Connection::Untapped(id);
        }
    }

    /// The stream has ended.
    pub fn detach(&mut self) {
        self.connection = Connection::None;
    }

    /// Takes a message of the stream, `len` bytes long of which `data.data` holds at least the beginning. To be
    /// followed by [`Consumer::heard`].
    #[inline]
    pub fn xlog_data(&mut self, data: &XLogData<'_>, len: u64, now: Instant) -> Result<(), DecodeError> {
        let Connection::Tapped(_, transactions) = &mut self.connection else { return Ok(()) };
        // By arm, so that a row's head stays in registers.
        match Head::parse(data.data, transactions.in_stream())? {
            Head::Insert { xid, relation } | Head::Update { xid, relation } | Head::Delete { xid, relation } => {
                transactions.row(xid, relation, len);
            }
            Head::Relation { relation, schema, name, .. } => {
                self.tables.insert(relation, table_name(schema, name));
            }
            head => {
                if let Some(commit) = transactions.steer(&head) {
                    // Commits come in the order of their records: none below this one's end is left to be sent.
                    self.decoded = self.decoded.max(commit.end_lsn);
                    self.timeline.commit(commit, now);
                }
            }
        }
        self.sent = self.sent.max(data.wal_start);
        Ok(())
    }

    /// Takes a keepalive. To be followed by [`Consumer::heard`].
    pub fn keepalive(&mut self, keepalive: &Keepalive) {
        if let Connection::Tapped(..) = self.connection {
            self.decoded = self.decoded.max(keepalive.wal_end);
        }
    }

    /// Notes when the server was heard: once for all messages that came in one piece, with the last one's send
    /// time.
    pub fn heard(&mut self, send_time: PgTimestamp, now: Instant) {
        self.clock.frame(send_time, now);
        self.last_frame = Some(now);
    }

    /// Takes a status update of the consumer; `acked` is called with the time from sending to now for each
    /// commit that it acknowledges.
    pub fn status_update(&mut self, update: &StatusUpdate, now: Instant, acked: impl FnMut(Duration)) {
        self.timeline.ack(update.flush, now, acked);
        self.applied = self.applied.max(update.apply);
    }

    /// What has been sent on the stream ends with a commit (or nothing has been sent); on a stream that is
    /// not followed, always.
    pub fn at_commit_boundary(&self) -> bool {
        match &self.connection {
            Connection::Tapped(_, transactions) => transactions.at_commit_boundary(),
            Connection::None | Connection::Untapped(_) => true,
        }
    }

    /// A stream has started.
    pub(super) fn attach(&mut self, id: u64, kind: SlotKind, server: &str) {
        self.kind = kind;
        self.server = server.into();
        self.connection = Connection::Tapped(id, Box::default());
        // The server decodes anew from the restart position; what it had read before does not count.
        self.decoded = Lsn::INVALID;
    }

    pub(super) fn attachment(&self) -> Option<u64> {
        match self.connection {
            Connection::None => None,
            Connection::Tapped(id, _) | Connection::Untapped(id) => Some(id),
        }
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn kind(&self) -> SlotKind {
        self.kind
    }

    /// Whether a stream of this consumer passes the proxy.
    pub(super) fn attached(&self) -> bool {
        self.attachment().is_some()
    }

    pub(super) fn decoded(&self) -> Option<Lsn> {
        self.decoded.valid()
    }

    pub(super) fn sent(&self) -> Option<Lsn> {
        self.sent.valid()
    }

    pub(super) fn acked(&self) -> Option<Lsn> {
        self.timeline.acked()
    }

    pub(super) fn applied(&self) -> Option<Lsn> {
        self.applied.valid()
    }

    /// Seconds since the server was last heard on the stream.
    pub(super) fn last_frame_age(&self, now: Instant) -> Option<Duration> {
        self.last_frame.map(|at| now.saturating_duration_since(at))
    }

    /// The estimate: the figures, their state, and where the delay is. `wal` is what the poller has seen of
    /// the source, if it is fresh; `stale_after` is the age at which evidence no longer counts.
    pub(super) fn estimate(
        &self,
        wal: Option<WalPosition<'_>>,
        stale_after: Duration,
        now: Instant,
    ) -> (State, Option<Stage>, Lag) {
        let unknown = |state| (state, None, Lag::default());
        let heard = match (&self.connection, self.last_frame) {
            (Connection::Untapped(_), _) | (_, None) => return unknown(State::Unknown),
            (_, Some(heard)) => now.saturating_duration_since(heard),
        };
        if heard > stale_after && wal.is_none() {
            return unknown(State::Stale);
        }
        // Before the first keepalive or commit of a stream there is no telling what the server still holds.
        let (Some(server_now), Some(decoded)) = (self.clock.now(now), self.decoded.valid()) else {
            return unknown(State::Unknown);
        };
        let age = |time: PgTimestamp| server_now.since(time).as_secs_f64();
        let undecoded = wal.map(|wal| wal.flushed.bytes_since(decoded));
        let (open, begun) = match &self.connection {
            Connection::Tapped(_, transactions) => (transactions.open(), transactions.begun()),
            Connection::None | Connection::Untapped(_) => ((0, 0), None),
        };
        let oldest = self.timeline.oldest_commit_ts().into_iter().chain(begun).min();
        let seconds = oldest.map_or(0.0, age);
        let seconds_max = match (undecoded, wal) {
            (Some(0), _) => Some(seconds),
            (Some(_), Some(wal)) => wal.clock.last_within(decoded).map(|time| age(time).max(seconds)),
            _ => None,
        };
        let transactions = self.timeline.transactions();
        let lag = Lag {
            seconds: Some(seconds),
            seconds_max,
            transactions: Some(transactions),
            rows: Some(self.timeline.total().rows),
            bytes: Some(self.timeline.total().bytes),
            undecoded_wal_bytes: undecoded,
            open_transactions: Some(open.0),
            open_bytes: Some(open.1),
        };
        // What was written since the last look is not known yet: a look that is overdue vouches for nothing.
        let exact = undecoded == Some(0) && begun.is_none() && wal.is_some_and(|wal| wal.age <= VOUCHES);
        let stage = match (transactions, undecoded) {
            (1.., _) => Some(Stage::Consumer),
            (0, _) if begun.is_some() => Some(Stage::Walsender),
            (0, Some(1..)) => Some(Stage::Walsender),
            (0, Some(0)) => Some(Stage::None),
            (0, None) => None,
        };
        (if exact { State::Live } else { State::Bounded }, stage, lag)
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

/// The server sends `pg_catalog` as an empty string (`logicalrep_write_namespace` in `proto.c`). Names that
/// are not UTF-8 are shown with replacement characters: they are for people and labels.
fn table_name(schema: &[u8], name: &[u8]) -> TableName {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into_boxed_str();
    TableName { schema: if schema.is_empty() { "pg_catalog".into() } else { text(schema) }, name: text(name) }
}
