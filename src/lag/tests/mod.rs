//! The model of one source, driven second by second.

mod slots;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;
use crate::ident::SlotName;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;
use crate::wire::copy_both::{Keepalive, StatusUpdate, XLogData};

const STALE: Duration = Duration::from_secs(15);

fn at(seconds: i64) -> PgTimestamp {
    PgTimestamp(seconds * 1_000_000)
}

/// A slot whose acknowledgements are not shown, as walgate's role may be refused to see them.
pub(super) fn row() -> SlotRow {
    SlotRow {
        kind: SlotKind::Logical,
        plugin: Some("pgoutput".into()),
        database: Some("app".into()),
        temporary: false,
        two_phase: false,
        active: true,
        active_pid: Some(7),
        restart_lsn: Some(Lsn(10)),
        confirmed_flush: None,
        wal_status: Some("reserved".into()),
        safe_wal_size: None,
        invalidation_reason: None,
        inactive_since: None,
        decoded_transactions: None,
        reader: Reader::default(),
    }
}

/// The slot with this acknowledged.
fn confirmed(position: u64) -> SlotRow {
    SlotRow { confirmed_flush: Some(Lsn(position)), ..row() }
}

/// A source whose clock is a thousand seconds ahead of this machine's count.
struct Bench {
    lag: SourceLag,
    start: Instant,
    stream: Attachment,
    history: History,
}

impl Bench {
    fn new() -> Bench {
        let mut lag = SourceLag::new("main", Observe::Proxy, STALE);
        let stream = lag.attach("s".parse().unwrap(), SlotKind::Logical, "here", None);
        Bench { lag, start: Instant::now(), stream, history: History { system: 1, timeline: Some(1) } }
    }

    fn time(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn poll(&mut self, second: u64, flushed: u64) {
        self.look(second, flushed, row());
    }

    fn look(&mut self, second: u64, flushed: u64, row: SlotRow) {
        let poll = SourcePoll {
            server: "here".into(),
            database: "app".into(),
            history: self.history,
            running_since: at(0),
            in_recovery: false,
            flushed: Lsn(flushed),
            server_time: at(1000 + second as i64),
            spare: 8,
            still: None,
            counts_us: false,
            slots: BTreeMap::from([("s".parse().unwrap(), row)]),
        };
        self.lag.poll(poll, self.time(second));
    }

    fn keepalive(&mut self, second: u64, wal_end: u64) {
        let now = self.time(second);
        let send_time = at(1000 + second as i64);
        let keepalive = Keepalive { wal_end: Lsn(wal_end), send_time, reply_requested: false };
        let consumer = self.lag.stream(&self.stream).unwrap();
        consumer.keepalive(&keepalive, now);
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
        self.lag.stream(&self.stream).unwrap().status_update(&update, now);
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
    assert_eq!((report.lag.seconds, report.lag.transactions, report.stage), (Some(0.0), Some(0), Some(Stage::None)));
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
    let second = bench.lag.attach("s".parse().unwrap(), SlotKind::Logical, "here", None);
    assert!(bench.lag.stream(&bench.stream).is_none());
    assert_eq!(bench.report(2).state, State::Unknown);
    bench.stream = second;
    bench.transaction(3, 200);
    assert_eq!(bench.report(3).lag.transactions, Some(1), "a commit that is repeated counts once");
}

#[test]
fn a_commit_that_begins_where_the_fence_is_lies_behind_it() {
    let mut bench = Bench::new();
    bench.transaction(1, 200);
    let behind = |until| bench.lag.followed(&"s".parse().unwrap(), Lsn(until)).unwrap().behind.is_some();
    assert_eq!((behind(200), behind(208)), (true, false));
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
    }
}

#[test]
fn a_look_at_another_server_or_an_overdue_one_vouches_for_nothing() {
    let mut bench = Bench::new();
    bench.poll(0, 100);
    bench.keepalive(0, 100);
    assert_eq!(bench.report(3).state, State::Live);
    assert_eq!(bench.report(4).state, State::Bounded);
    let elsewhere = SourcePoll { server: "there".into(), ..bench.lag.last_look().unwrap().0.clone() };
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
    let now = bench.time(2);
    let send = |bench: &mut Bench, message: &[u8]| {
        let data = XLogData { wal_start: Lsn(400), wal_end: Lsn(400), send_time: at(1002), data: message };
        bench.lag.stream(&bench.stream).unwrap().xlog_data(&data, message.len() as u64, now).unwrap();
        let report = bench.report(2);
        assert_eq!((report.state, report.stage), (State::Bounded, Some(Stage::Walsender)));
        (report.lag.seconds, report.lag.seconds_max, report.lag.transactions)
    };
    // PostgreSQL 14 sends it before it knows whether anything is published.
    assert_eq!(send(&mut bench, &begin), (Some(0.0), Some(2.0), Some(0)));
    assert_eq!(send(&mut bench, b"I\0\0\0\x07N\0\0"), (Some(2.0), Some(2.0), Some(0)));
}

#[test]
fn a_stream_that_cannot_be_followed_is_unknown() {
    let mut bench = Bench::new();
    bench.poll(0, 100);
    bench.keepalive(0, 100);
    bench.lag.stream(&bench.stream).unwrap().untap(Untapped::Message);
    let report = bench.report(0);
    assert_eq!((report.state, report.active, report.lag.transactions), (State::Unknown, Some(true), None));
}

#[test]
fn a_consumer_that_is_only_polled_is_bounded_by_the_wal_clock() {
    let mut bench = Bench::new();
    bench.lag.stream(&bench.stream).unwrap().detach();
    for second in 0..10 {
        bench.look(second, 100 + 10 * second, confirmed(130));
    }
    let report = bench.report(9);
    assert_eq!((report.state, report.observe), (State::Bounded, Observe::Poll));
    assert_eq!((report.lag.seconds, report.lag.seconds_max, report.lag.transactions), (None, Some(6.0), None));
    assert_eq!(report.lag.undecoded_wal_bytes, Some(60));
    assert!(report.observe_reason.unwrap().contains("does not pass the proxy"));
    bench.look(10, 190, confirmed(190));
    let report = bench.report(10);
    assert_eq!((report.state, report.lag.seconds, report.lag.seconds_max), (State::Live, Some(0.0), Some(0.0)));
}

#[test]
fn what_lies_before_the_first_look_is_dated_by_what_was_known_then() {
    let mut bench = Bench::new();
    bench.lag.stream(&bench.stream).unwrap().detach();
    bench.lag.date(History { system: 1, timeline: Some(1) }, [(Lsn(50), at(400)), (Lsn(90), at(900))]);
    bench.look(0, 100, confirmed(60));
    assert_eq!(bench.report(0).lag.seconds_max, Some(600.0));
    bench.look(1, 100, confirmed(40));
    assert_eq!(bench.report(1).lag.seconds_max, None, "nothing is known of when that was written");
}

#[test]
fn what_the_server_has_sent_and_has_not_come_is_on_the_network() {
    let sent = |position| SlotRow { reader: Reader { sent: Some(Lsn(position)), ..Reader::default() }, ..row() };
    let mut bench = Bench::new();
    bench.look(0, 100, sent(100));
    bench.keepalive(0, 100);
    bench.look(1, 500, sent(500));
    assert_eq!(bench.report(1).stage, Some(Stage::Walsender), "it may still be on its way");
    bench.look(2, 500, sent(500));
    let report = bench.report(2);
    assert_eq!((report.state, report.stage), (State::Bounded, Some(Stage::Network)));
    bench.keepalive(3, 500);
    assert_eq!(bench.report(3).stage, Some(Stage::None));
}

#[test]
fn a_consumer_that_does_not_read_is_where_the_delay_is() {
    let mut bench = Bench::new();
    bench.look(0, 100, row());
    bench.keepalive(0, 100);
    bench.look(2, 500, row());
    assert_eq!(bench.report(2).stage, Some(Stage::Walsender));
    bench.stream.set_full(true);
    assert_eq!(bench.report(2).stage, Some(Stage::Consumer));
    bench.stream.set_full(false);
    assert_eq!(bench.report(2).stage, Some(Stage::Walsender));
}

#[test]
fn a_commit_that_another_clock_has_dated_is_bounded_by_its_position() {
    let mut bench = Bench::new();
    for second in 0..4 {
        bench.look(second, 100 + 100 * second, confirmed(100));
    }
    let time = at(-1_000_000).0;
    let begin = [&b"B"[..], &200u64.to_be_bytes(), &time.to_be_bytes(), &1u32.to_be_bytes()].concat();
    let origin = [&b"O"[..], &9u64.to_be_bytes(), b"there\0"].concat();
    let commit = [&b"C\0"[..], &200u64.to_be_bytes(), &400u64.to_be_bytes(), &time.to_be_bytes()].concat();
    let now = bench.time(3);
    for message in [begin, origin, b"I\0\0\0\x07N\0\0".to_vec(), commit] {
        let data = XLogData { wal_start: Lsn(200), wal_end: Lsn(200), send_time: at(1003), data: &message };
        let consumer = bench.lag.stream(&bench.stream).unwrap();
        consumer.xlog_data(&data, message.len() as u64, now).unwrap();
        consumer.heard(at(1003), now);
    }
    let report = bench.report(3);
    assert_eq!((report.state, report.lag.seconds, report.lag.seconds_max), (State::Bounded, Some(0.0), Some(3.0)));
}

#[test]
fn a_server_with_less_wal_than_it_had_is_another_one() {
    let mut bench = Bench::new();
    bench.look(0, 500, confirmed(400));
    bench.transaction(1, 450);
    bench.look(2, 300, confirmed(200));
    assert!(bench.lag.stream(&bench.stream).is_some(), "it may go on, and is not followed");
    let report = bench.report(2);
    assert_eq!((report.state, report.lag.transactions), (State::Bounded, None));
    assert_eq!((report.lag.undecoded_wal_bytes, report.positions.acked), (Some(100), Some(Lsn(200))));
    assert!(report.observe_reason.unwrap().contains("history"));
}

#[test]
fn changes_are_told_once() {
    let mut bench = Bench::new();
    bench.look(0, 100, row());
    assert_eq!(bench.lag.changes(bench.time(0)), [], "what was there before is no news");
    bench.keepalive(0, 100);
    bench.look(1, 100, SlotRow { wal_status: Some("extended".into()), ..row() });
    let told: Vec<_> = bench.lag.changes(bench.time(1)).into_iter().map(|event| (event.aspect, event.to)).collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        told,
        [(Aspect::WalStatus, text("extended")), (Aspect::State, text("live")), (Aspect::Stage, text("none"))]
    );
    assert_eq!(bench.lag.changes(bench.time(1)), []);
}

#[test]
fn a_stream_tells_that_the_schema_may_be_another_once_that_can_be_seen() {
    let mut bench = Bench::new();
    let message = |prefix: &str, xid: &[u8]| {
        let position = 200u64.to_be_bytes();
        [b"M", xid, b"\x01", &position, prefix.as_bytes(), b"\0", b"\0\0\0\x02{}"].concat()
    };
    let xid: &[u8] = &7u32.to_be_bytes();
    let stream_commit = [b"c", xid, &[0; 25]].concat();
    for (bytes, shown) in [
        (b"R\0\0\0\x07public\0t\0d\0\0".to_vec(), true),
        (b"I\0\0\0\x07N\0\0".to_vec(), false),
        (message("zero/0/ddl", b""), true),
        (message("my/app/12/ddl", b""), true),
        (message("zero/0/lag-report/v1", b""), false),
        (message("zero/x/ddl", b""), false),
        (message("ddl", b""), false),
        // What is streamed of a transaction in progress can be seen by nobody before its commit.
        ([b"S", xid, b"\x01"].concat(), false),
        ([b"R", xid, b"\0\0\0\x07public\0t\0d\0\0"].concat(), false),
        (message("zero/0/ddl", xid), false),
        (b"E".to_vec(), false),
        (stream_commit, true),
    ] {
        let data = XLogData { wal_start: Lsn(200), wal_end: Lsn(200), send_time: PgTimestamp(0), data: &bytes };
        let consumer = bench.lag.stream(&bench.stream).unwrap();
        consumer.xlog_data(&data, bytes.len() as u64, bench.start).unwrap();
        assert_eq!(consumer.take_schema_shown(), shown, "{:?}", String::from_utf8_lossy(&bytes));
        assert!(!consumer.take_schema_shown());
    }
}
