//! All consumers of one source, and what the poller sees of the source itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ident::SlotName;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

use super::clock::WalClock;
use super::consumer::Consumer;
use super::report::{ConsumerReport, Observe, Positions, Rates, SlotKind};

/// Which history of WAL a position belongs to: positions of two histories cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// The cluster's system identifier.
    pub system: u64,
    /// Its timeline, where that is certain: a standby's is not to be had by SQL.
    pub timeline: Option<u32>,
}

impl History {
    fn contradicts(self, other: History) -> bool {
        let timelines = self.timeline.zip(other.timeline);
        self.system != other.system || timelines.is_some_and(|(own, other)| own != other)
    }
}

/// One stream of a consumer, from its start to its end.
#[derive(Clone, Debug)]
pub struct Attachment {
    slot: SlotName,
    id: u64,
}

/// A look at a source through an SQL session.
#[derive(Clone, Debug)]
pub struct SourcePoll {
    /// The server that was looked at, in the same words as the streams' own.
    pub server: Box<str>,
    /// Which history.
    pub history: History,
    /// How far its WAL is flushed (on a standby: replayed).
    pub flushed: Lsn,
    /// The server's clock at that moment.
    pub server_time: PgTimestamp,
    /// The rows of `pg_replication_slots`.
    pub slots: BTreeMap<SlotName, SlotRow>,
}

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug)]
pub struct SlotRow {
    /// `slot_type`
    pub kind: SlotKind,
    /// `plugin`
    pub plugin: Option<String>,
    /// `active`
    pub active: bool,
    /// `restart_lsn`
    pub restart_lsn: Option<Lsn>,
    /// `wal_status`
    pub wal_status: Option<String>,
    /// `safe_wal_size`, in bytes
    pub safe_wal_size: Option<i64>,
}

/// The source's WAL as the poller last saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalPosition<'a> {
    pub(super) flushed: Lsn,
    pub(super) age: Duration,
    pub(super) clock: &'a WalClock,
}

/// One source with its consumers.
#[derive(Debug)]
pub struct SourceLag {
    name: String,
    stale_after: Duration,
    consumers: BTreeMap<SlotName, Consumer>,
    history: Option<History>,
    attachments: u64,
    wal: WalClock,
    poll: Option<(SourcePoll, Instant)>,
}

impl SourceLag {
    /// A source of which nothing has been seen. Evidence older than `stale_after` does not count.
    pub fn new(name: impl Into<String>, stale_after: Duration) -> SourceLag {
        SourceLag {
            name: name.into(),
            stale_after,
            consumers: BTreeMap::new(),
            history: None,
            attachments: 0,
            wal: WalClock::default(),
            poll: None,
        }
    }

    /// Takes what the poller has seen. A consumer that is not streaming goes with its slot.
    pub fn poll(&mut self, poll: SourcePoll, now: Instant) {
        self.identify(poll.history);
        self.wal.sample(poll.flushed, poll.server_time);
        self.consumers.retain(|slot, consumer| {
            consumer.attached() || poll.slots.contains_key(slot) || *consumer.server() != *poll.server
        });
        self.poll = Some((poll, now));
    }

    /// The poller has lost its session: what it saw last vouches for nothing any more.
    pub fn lost(&mut self) {
        self.poll = None;
    }

    /// The server says which history it is of. After a failover or a restore nothing that was known holds:
    /// every consumer starts anew, as unknown.
    pub fn identify(&mut self, history: History) {
        if self.history.is_some_and(|known| known.contradicts(history)) {
            for consumer in self.consumers.values_mut() {
                *consumer = Consumer::new(consumer.kind());
            }
            self.wal = WalClock::default();
            self.poll = None;
        }
        let timeline = history.timeline.or(self.history.and_then(|known| known.timeline));
        self.history = Some(History { timeline, ..history });
    }

    /// A stream of a slot has started, from this server. It takes the place of an earlier one that has not ended: the server
    /// lets only one read a slot, so that one is dead.
    pub fn attach(&mut self, slot: SlotName, kind: SlotKind, server: &str) -> Attachment {
        self.attachments += 1;
        let id = self.attachments;
        self.consumers.entry(slot.clone()).or_insert_with(|| Consumer::new(kind)).attach(id, kind, server);
        Attachment { slot, id }
    }

    /// The consumer that a stream belongs to; `None` once another stream or a new history took its place.
    pub fn stream(&mut self, stream: &Attachment) -> Option<&mut Consumer> {
        self.consumers.get_mut(&stream.slot).filter(|consumer| consumer.attachment() == Some(stream.id))
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seconds since each consumer's server was last heard on its stream.
    pub fn last_frame_ages(&self, now: Instant) -> impl Iterator<Item = (&SlotName, Duration)> {
        self.consumers.iter().filter_map(move |(slot, consumer)| Some((slot, consumer.last_frame_age(now)?)))
    }

    /// Every consumer, in the order of the slots' names.
    pub fn reports(&self, now: Instant) -> Vec<ConsumerReport> {
        self.consumers.iter().map(|(slot, consumer)| self.report(slot, consumer, now)).collect()
    }

    fn report(&self, slot: &SlotName, consumer: &Consumer, now: Instant) -> ConsumerReport {
        // Positions of one server say nothing about a stream from another.
        let poll = self.poll.as_ref().filter(|(poll, _)| *poll.server == *consumer.server());
        let poll = poll.map(|(poll, at)| (poll, now.saturating_duration_since(*at)));
        let poll_age = poll.map(|(_, age)| age);
        let fresh = poll.filter(|(_, age)| *age <= self.stale_after);
        let wal = fresh.map(|(poll, age)| WalPosition { flushed: poll.flushed, age, clock: &self.wal });
        let fresh = fresh.map(|(poll, _)| poll);
        let (state, stage, lag) = consumer.estimate(wal, self.stale_after, now);
        let row = fresh.and_then(|poll| poll.slots.get(slot));
        let observed_age = match (consumer.last_frame_age(now), poll_age) {
            (Some(frame), Some(poll)) => Some(frame.min(poll)),
            (frame, poll) => frame.or(poll),
        };
        ConsumerReport {
            source: self.name.clone(),
            slot: slot.clone(),
            kind: consumer.kind(),
            plugin: row.and_then(|row| row.plugin.clone()),
            active: if consumer.attached() { Some(true) } else { row.map(|row| row.active) },
            state,
            stage,
            retained_wal_bytes: fresh
                .zip(row.and_then(|row| row.restart_lsn))
                .map(|(poll, restart)| poll.flushed.bytes_since(restart)),
            wal_status: row.and_then(|row| row.wal_status.clone()),
            safe_wal_bytes: row.and_then(|row| row.safe_wal_size),
            positions: Positions {
                server: fresh.map(|poll| poll.flushed),
                decoded: consumer.decoded(),
                sent: consumer.sent(),
                acked: consumer.acked(),
                applied: consumer.applied(),
            },
            rates: Rates::default(),
            eta_seconds: None,
            tables: if lag.transactions.is_some() { consumer.tables() } else { Vec::new() },
            observed_age_seconds: observed_age.map(|age| age.as_secs_f64()),
            lag,
            observe: Observe::Proxy,
            observe_reason: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Stage, State};
    use super::*;
    use crate::wire::copy_both::{Keepalive, StatusUpdate, XLogData};

    const STALE: Duration = Duration::from_secs(15);

    fn at(seconds: i64) -> PgTimestamp {
        PgTimestamp(seconds * 1_000_000)
    }

    /// A source whose clock is a thousand seconds ahead of this machine's count.
    struct Bench {
        lag: SourceLag,
        start: Instant,
        stream: Attachment,
    }

    impl Bench {
        fn new() -> Bench {
            let mut lag = SourceLag::new("main", STALE);
            let stream = lag.attach("s".parse().unwrap(), SlotKind::Logical, "here");
            Bench { lag, start: Instant::now(), stream }
        }

        fn time(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        fn poll(&mut self, second: u64, flushed: u64) {
            let row = SlotRow {
                kind: SlotKind::Logical,
                plugin: Some("pgoutput".into()),
                active: true,
                restart_lsn: Some(Lsn(10)),
                wal_status: Some("reserved".into()),
                safe_wal_size: None,
            };
            let poll = SourcePoll {
                server: "here".into(),
                history: History { system: 1, timeline: Some(1) },
                flushed: Lsn(flushed),
                server_time: at(1000 + second as i64),
                slots: BTreeMap::from([("s".parse().unwrap(), row)]),
            };
            self.lag.poll(poll, self.time(second));
        }

        fn keepalive(&mut self, second: u64, wal_end: u64) {
            let now = self.time(second);
            let send_time = at(1000 + second as i64);
            let keepalive = Keepalive { wal_end: Lsn(wal_end), send_time, reply_requested: false };
            let consumer = self.lag.stream(&self.stream).unwrap();
            consumer.keepalive(&keepalive);
            consumer.heard(send_time, now);
        }

        /// A transaction of one row, committed and sent at that second, with its commit record at `lsn`.
        fn transaction(&mut self, second: u64, lsn: u64) {
            let time = (1000 + second as i64) * 1_000_000;
            let relation = b"R\0\0\0\x07public\0t\0d\0\0".to_vec();
            let begin = [&b"B"[..], &lsn.to_be_bytes(), &time.to_be_bytes(), &1u32.to_be_bytes()].concat();
            let insert = b"I\0\0\0\x07N\0\0".to_vec();
            let end = (lsn + 8).to_be_bytes();
            let commit = [&b"C\0"[..], &lsn.to_be_bytes(), &end, &time.to_be_bytes()].concat();
            let now = self.time(second);
            for message in [begin, relation, insert, commit] {
                let data =
                    XLogData { wal_start: Lsn(lsn), wal_end: Lsn(lsn), send_time: PgTimestamp(time), data: &message };
                let consumer = self.lag.stream(&self.stream).unwrap();
                consumer.xlog_data(&data, message.len() as u64, now).unwrap();
                consumer.heard(PgTimestamp(time), now);
            }
        }

        fn ack(&mut self, second: u64, flush: u64) {
            let now = self.time(second);
            let (write, flush, apply) = (Lsn(flush), Lsn(flush), Lsn(flush));
            let update = StatusUpdate { write, flush, apply, send_time: at(0), reply_requested: false };
            self.lag.stream(&self.stream).unwrap().status_update(&update, now, |_| {});
        }

        fn report(&self, second: u64) -> ConsumerReport {
            self.lag.reports(self.time(second)).pop().unwrap()
        }
    }

    #[test]
    fn nothing_is_claimed_before_the_first_sign_of_where_the_server_is() {
        let mut bench = Bench::new();
        bench.poll(0, 100);
        let report = bench.report(0);
        assert_eq!((report.state, report.lag), (State::Unknown, Default::default()));
        bench.keepalive(1, 100);
        let report = bench.report(1);
        assert_eq!((report.state, report.lag.transactions, report.lag.seconds), (State::Live, Some(0), Some(0.0)));
    }

    #[test]
    fn lag_grows_with_the_servers_clock_and_goes_with_the_ack() {
        let mut bench = Bench::new();
        bench.poll(0, 100);
        bench.transaction(1, 200);
        bench.transaction(3, 300);
        bench.poll(10, 308);
        let report = bench.report(11);
        assert_eq!((report.state, report.stage), (State::Live, Some(Stage::Consumer)));
        assert_eq!((report.lag.seconds, report.lag.seconds_max), (Some(10.0), Some(10.0)));
        assert_eq!((report.lag.transactions, report.lag.rows, report.lag.bytes), (Some(2), Some(2), Some(16)));
        assert_eq!(report.tables[0].table.to_string(), "public.t");
        bench.ack(12, 200);
        assert_eq!(bench.report(13).lag.seconds, Some(10.0));
        bench.ack(14, 308);
        let report = bench.report(14);
        assert_eq!(
            (report.lag.seconds, report.lag.transactions, report.stage),
            (Some(0.0), Some(0), Some(Stage::None))
        );
        assert_eq!(report.tables, []);
    }

    #[test]
    fn a_walsender_that_does_not_read_is_bounded_and_named() {
        let mut bench = Bench::new();
        bench.poll(0, 100);
        bench.keepalive(0, 100);
        bench.poll(1, 100);
        for second in 2..20 {
            bench.poll(second, 100 * second);
        }
        let report = bench.report(20);
        assert_eq!((report.state, report.stage), (State::Bounded, Some(Stage::Walsender)));
        assert_eq!(report.lag.undecoded_wal_bytes, Some(1800));
        assert_eq!((report.lag.seconds, report.lag.seconds_max), (Some(0.0), Some(19.0)));
    }

    #[test]
    fn evidence_that_is_too_old_shows_no_number() {
        let mut bench = Bench::new();
        bench.poll(0, 100);
        bench.keepalive(0, 100);
        // An idle server says nothing; the poller vouches for it.
        bench.poll(30, 100);
        assert_eq!(bench.report(30).state, State::Live);
        let report = bench.report(46);
        assert_eq!((report.state, report.lag, report.stage), (State::Stale, Default::default(), None));
        assert_eq!((report.positions.server, report.wal_status), (None, None));
    }

    #[test]
    fn without_a_poller_the_figures_are_bounds() {
        let mut bench = Bench::new();
        bench.keepalive(0, 100);
        let report = bench.report(1);
        assert_eq!((report.state, report.lag.seconds_max, report.stage), (State::Bounded, None, None));
        assert_eq!(report.lag.undecoded_wal_bytes, None);
    }

    #[test]
    fn a_new_stream_takes_over_and_the_old_one_is_not_heard_any_more() {
        let mut bench = Bench::new();
        bench.poll(0, 100);
        bench.transaction(1, 200);
        let second = bench.lag.attach("s".parse().unwrap(), SlotKind::Logical, "here");
        assert!(bench.lag.stream(&bench.stream).is_none());
        assert_eq!(bench.report(2).state, State::Unknown);
        bench.stream = second;
        bench.transaction(3, 200);
        assert_eq!(bench.report(3).lag.transactions, Some(1), "a commit that is repeated counts once");
    }

    #[test]
    fn after_a_failover_everything_is_unknown_again() {
        for history in [History { system: 1, timeline: Some(2) }, History { system: 2, timeline: None }] {
            let mut bench = Bench::new();
            bench.poll(0, 100);
            bench.transaction(1, 200);
            bench.lag.identify(History { system: 1, timeline: None });
            assert_eq!(bench.report(1).state, State::Live);
            bench.lag.identify(history);
            assert_eq!(bench.report(1).state, State::Unknown);
            assert!(bench.lag.stream(&bench.stream).is_none());
        }
    }

    #[test]
    fn a_look_at_another_server_or_an_overdue_one_vouches_for_nothing() {
        let mut bench = Bench::new();
        bench.poll(0, 100);
        bench.keepalive(0, 100);
        assert_eq!(bench.report(3).state, State::Live);
        assert_eq!(bench.report(4).state, State::Bounded);
        let elsewhere = SourcePoll { server: "there".into(), ..bench.lag.poll.clone().unwrap().0 };
        bench.lag.poll(elsewhere, bench.time(4));
        let report = bench.report(4);
        assert_eq!((report.state, report.lag.undecoded_wal_bytes), (State::Bounded, None));
        bench.poll(5, 100);
        assert_eq!(bench.report(5).state, State::Live);
        bench.lag.lost();
        assert_eq!(bench.report(5).state, State::Bounded);
    }

    #[test]
    fn a_transaction_that_is_being_sent_is_behind_though_its_commit_has_not_come() {
        let mut bench = Bench::new();
        bench.poll(0, 100);
        bench.keepalive(0, 500);
        let begin = [&b"B"[..], &400u64.to_be_bytes(), &at(1000).0.to_be_bytes(), &1u32.to_be_bytes()].concat();
        let data = XLogData { wal_start: Lsn(400), wal_end: Lsn(400), send_time: at(1002), data: &begin };
        let now = bench.time(2);
        bench.lag.stream(&bench.stream).unwrap().xlog_data(&data, begin.len() as u64, now).unwrap();
        let report = bench.report(2);
        assert_eq!((report.state, report.lag.seconds, report.lag.transactions), (State::Bounded, Some(2.0), Some(0)));
        assert_eq!(report.stage, Some(Stage::Walsender));
    }

    #[test]
    fn a_stream_that_cannot_be_followed_is_unknown() {
        let mut bench = Bench::new();
        bench.poll(0, 100);
        bench.keepalive(0, 100);
        bench.lag.stream(&bench.stream).unwrap().untap();
        let report = bench.report(0);
        assert_eq!((report.state, report.active, report.lag.transactions), (State::Unknown, Some(true), None));
    }

    #[test]
    fn a_consumer_goes_with_its_slot_but_not_while_it_streams() {
        let mut bench = Bench::new();
        bench.poll(0, 100);
        let gone = SourcePoll { slots: BTreeMap::new(), ..bench.lag.poll.clone().unwrap().0 };
        bench.lag.poll(gone.clone(), bench.time(1));
        assert_eq!(bench.lag.reports(bench.time(1)).len(), 1);
        bench.lag.stream(&bench.stream).unwrap().detach();
        bench.lag.poll(gone, bench.time(2));
        assert_eq!(bench.lag.reports(bench.time(2)).len(), 0);
    }
}
