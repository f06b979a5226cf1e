//! Watching a source: every slot of it, by copies and by positions, with the rights that a role has and has not.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use walgate::lag::{ConsumerReport, Observe, Stage, State};
use walgate::lsn::Lsn;
use walgate::scratch::Server;
use walgate::source::replication::{WalStream, Walsender};
use walgate::source::{Health, Source, watch};
use walgate::time::PgTimestamp;
use walgate::wire::copy_both::{StatusUpdate, WalMessage};

use crate::support::client::connector;
use crate::support::{Sql, eventually, postgres};

/// A source that is watched until this is dropped.
struct Watched {
    source: Arc<Source>,
    stop: CancellationToken,
}

impl Watched {
    fn start(dsn: &str, observe: Observe) -> Watched {
        Watched::start_naming(dsn, observe, &[])
    }

    /// The same, where consumers that are not there to be asked read these publications.
    fn start_naming(dsn: &str, observe: Observe, publications: &[&str]) -> Watched {
        let source = Arc::new(Source::new("main", connector(dsn), observe, Duration::from_secs(15)));
        source.lag().assume_publications(publications.iter().map(ToString::to_string).collect());
        let stop = CancellationToken::new();
        tokio::spawn(watch(Arc::clone(&source), stop.clone()));
        Watched { source, stop }
    }

    fn report(&self, slot: &str) -> Option<ConsumerReport> {
        let reports = self.source.lag().reports(std::time::Instant::now());
        reports.into_iter().find(|report| report.slot.as_str() == slot)
    }

    #[track_caller]
    fn until(&self, slot: &str, what: &str, holds: impl Fn(&ConsumerReport) -> bool) -> ConsumerReport {
        eventually(&format!("{slot}: {what}"), || match self.report(slot) {
            Some(report) if holds(&report) => Ok(report),
            other => Err(Box::new((other, self.source.health()))),
        })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn source_server(major: u32) -> (Server, Sql) {
    let server = postgres(major).start().expect("the server starts");
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE t (id int PRIMARY KEY, v text)");
    sql.run("CREATE TABLE other (id int PRIMARY KEY)");
    sql.run("CREATE PUBLICATION p FOR TABLE t");
    sql.run("CREATE PUBLICATION q FOR TABLE other");
    sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    (server, sql)
}

async fn consume(server: &Server, options: &[(&str, &str)]) -> WalStream {
    let session = connector(&server.dsn("postgres")).replication(Walsender::Database).await.expect("a session");
    session.start_logical(&"s".parse().expect("a name"), Lsn::INVALID, options).await.expect("a stream")
}

/// Reads as many commits; returns where the last one ends.
async fn commits(stream: &mut WalStream, mut count: u32) -> Lsn {
    loop {
        let data = stream.next().await.expect("it goes on").expect("it goes on");
        if let WalMessage::XLogData(message) = data.message().expect("a message")
            && message.data[0] == b'C'
        {
            count -= 1;
            if count == 0 {
                return Lsn(u64::from_be_bytes(message.data[10..18].try_into().expect("8 bytes")));
            }
        }
    }
}

async fn ack(stream: &mut WalStream, position: Lsn) {
    let (write, flush, apply) = (position, position, position);
    let send_time = PgTimestamp::now();
    stream.queue_status(&StatusUpdate { write, flush, apply, send_time, reply_requested: false });
    stream.flush().await.expect("it is written");
}

fn is_zero(report: &ConsumerReport) -> bool {
    report.state == State::Live && report.lag.transactions == Some(0) && report.lag.seconds == Some(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_slot_counts_what_an_active_consumer_has_not_acknowledged() {
    for major in 14..=18 {
        let (server, sql) = source_server(major);
        let mut stream = consume(&server, &[("proto_version", "1"), ("publication_names", "p")]).await;
        sql.run("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i");
        sql.run("INSERT INTO t VALUES (11, 'y')");
        sql.run("INSERT INTO other VALUES (1)");
        // A new slot would wait for this one to end.
        let open = Sql::connect(&server.dsn("postgres"));
        open.run("BEGIN; INSERT INTO t VALUES (1000, 'open')");
        let first = commits(&mut stream, 1).await;
        let watched = Watched::start(&server.dsn("postgres"), Observe::Slot);
        let report = watched.until("s", "two commits", |report| report.state == State::Live);
        assert_eq!((report.lag.transactions, report.lag.rows), (Some(2), Some(11)), "PostgreSQL {major}");
        assert_eq!(
            (report.observe, &report.observe_reason, report.stage),
            (Observe::Slot, &None, Some(Stage::Consumer))
        );
        assert_eq!(report.tables[0].table.to_string(), "public.t");
        assert!(report.lag.seconds > Some(0.0));
        ack(&mut stream, first).await;
        let report = watched.until("s", "one commit", |report| report.lag.transactions == Some(1));
        assert_eq!((report.lag.rows, report.positions.acked), (Some(1), Some(first)));
        let last = commits(&mut stream, 1).await;
        ack(&mut stream, last).await;
        watched.until("s", "nothing", is_zero);
        open.run("COMMIT");
        watched.until("s", "the open one", |report| report.lag.transactions == Some(1));
        assert_eq!(sql.value("SELECT count(*) FROM pg_replication_slots WHERE temporary"), "1");
        let slots = watched.source.lag().slots(std::time::Instant::now());
        assert_eq!(slots.iter().map(|slot| slot.slot.as_str()).collect::<Vec<_>>(), ["s"], "copies are not shown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inactive_slot_is_read_without_moving_it() {
    let (server, sql) = source_server(17);
    let before = sql.rows("SELECT restart_lsn, confirmed_flush_lsn FROM pg_replication_slots");
    let watched = Watched::start(&server.dsn("postgres"), Observe::Slot);
    let report = watched.until("s", "nothing", |report| report.lag.transactions == Some(0));
    assert_eq!((report.state, report.active), (State::Live, Some(false)));
    sql.run("INSERT INTO t VALUES (1, 'x'); INSERT INTO other VALUES (1)");
    // Which of the two publications its consumer reads nobody has seen.
    let report =
        watched.until("s", "a bound", |report| report.observe == Observe::Slot && report.lag.seconds_max > Some(0.0));
    assert_eq!((report.state, report.lag.seconds, report.lag.transactions), (State::Bounded, None, None));
    assert!(report.observe_reason.unwrap().contains("are not known; in all publications 1 transactions of 2 rows"));
    assert_eq!(
        sql.rows("SELECT restart_lsn, confirmed_flush_lsn FROM pg_replication_slots WHERE NOT temporary"),
        before
    );

    // One that was made since is none that it reads.
    sql.run("CREATE PUBLICATION later FOR ALL TABLES; INSERT INTO t VALUES (2, 'x')");
    drop(watched);
    let watched = Watched::start(&server.dsn("postgres"), Observe::Slot);
    watched.until("s", "a bound", |report| report.observe == Observe::Slot && report.lag.seconds_max > Some(0.0));

    let mut stream = consume(&server, &[("proto_version", "1"), ("publication_names", "q")]).await;
    watched.until("s", "what it reads", |report| report.lag.transactions == Some(1) && report.active == Some(true));
    let last = commits(&mut stream, 1).await;
    ack(&mut stream, last).await;
    watched.until("s", "nothing", is_zero);
    drop(stream);
    sql.run("INSERT INTO other VALUES (2)");
    // Now it has been seen.
    watched.until("s", "one", |report| report.active == Some(false) && report.lag.transactions == Some(1));
}

/// A function that fits better than the system's would be run with the rights of walgate's role.
#[tokio::test(flavor = "multi_thread")]
async fn functions_of_others_are_not_run() {
    let (server, sql) = source_server(14);
    sql.run("CREATE ROLE app LOGIN");
    let app = Sql::connect(&format!("{} user=app", server.dsn("postgres")));
    app.run(
        "CREATE FUNCTION public.to_jsonb(pg_replication_slots) RETURNS jsonb LANGUAGE plpgsql AS
         $$ BEGIN ALTER ROLE app SUPERUSER; RETURN '{}'; END $$",
    );
    let watched = Watched::start(&server.dsn("postgres"), Observe::Slot);
    watched.until("s", "it is seen", |_| true);
    assert_eq!(sql.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'app'"), "f");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_never_a_synchronous_standby() {
    let (server, sql) = source_server(16);
    sql.run("INSERT INTO t VALUES (1, 'x')");
    let watched = Watched::start(&server.dsn("postgres"), Observe::Slot);
    watched.until("s", "it is followed", |report| report.observe == Observe::Slot);
    server.reload_with(&[("synchronous_standby_names", "ANY 1 (*)")]).unwrap();
    let report = watched.until("s", "the copy's end", |report| {
        report.observe_reason.as_deref().is_some_and(|reason| reason.contains("synchronous_standby_names"))
    });
    assert_eq!(report.observe, Observe::Poll);
    sql.until("SELECT count(*) FROM pg_stat_replication", "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_a_database_in_another_encoding_blinds_nobody() {
    let (server, sql) = source_server(17);
    sql.run("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    let latin = Sql::connect(&server.dsn("latin"));
    latin.run("CREATE PUBLICATION \"café\" FOR ALL TABLES");
    latin.run("SELECT pg_create_logical_replication_slot('l', 'pgoutput')");
    let session = connector(&server.dsn("latin")).replication(Walsender::Database).await.unwrap();
    let options = [("proto_version", "1"), ("publication_names", "\"caf\u{e9}\"")];
    let _stream = session.start_logical(&"l".parse().unwrap(), Lsn::INVALID, &options).await.unwrap();
    let watched = Watched::start(&server.dsn("postgres"), Observe::Slot);
    watched.until("l", "it is active", |report| report.active == Some(true));
    assert_eq!(watched.source.health(), Health::Reached);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_slot_in_the_place_of_one_is_not_taken_for_it() {
    let (server, sql) = source_server(15);
    sql.run("SELECT pg_create_logical_replication_slot('behind', 'pgoutput')");
    sql.run("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000) i");
    sql.run("SELECT pg_replication_slot_advance('s', pg_current_wal_lsn())");
    let watched = Watched::start(&server.dsn("postgres"), Observe::Poll);
    watched.until("s", "nothing is behind", |report| report.lag.undecoded_wal_bytes < Some(1000));
    sql.run("SELECT pg_drop_replication_slot('s'), pg_copy_logical_replication_slot('behind', 's')");
    let report = watched.until("s", "it is behind", |report| report.lag.undecoded_wal_bytes > Some(50_000));
    assert_eq!(report.state, State::Bounded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_is_told_what_it_needs() {
    let (server, sql) = source_server(16);
    sql.run("CREATE ROLE plain LOGIN");
    let dsn = format!("{} user=plain", server.dsn("postgres"));
    let watched = Watched::start(&dsn, Observe::Slot);
    let report = watched.until("s", "the missing right", |report| {
        report.observe_reason.as_deref().is_some_and(|reason| reason.contains("REPLICATION"))
    });
    assert_eq!(report.observe, Observe::Poll);
    assert!(watched.source.remarks()[0].contains("GRANT pg_monitor"), "{:?}", watched.source.remarks());
    drop(watched);
    sql.run("GRANT pg_monitor TO plain; ALTER ROLE plain REPLICATION");
    let watched = Watched::start(&dsn, Observe::Slot);
    watched.until("s", "nothing", is_zero);
    assert_eq!(watched.source.remarks(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_slots_are_left_to_consumers() {
    let server = postgres(18).setting("max_replication_slots", "4").start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t");
    sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    sql.run("INSERT INTO t VALUES (1)");
    let watched = Watched::start(&server.dsn("postgres"), Observe::Slot);
    watched.until("s", "it is followed", |report| report.observe == Observe::Slot);
    // Of four one is left beside the copy.
    sql.run("SELECT pg_create_logical_replication_slot('second', 'pgoutput')");
    sql.run("INSERT INTO t VALUES (2)");
    let report = watched.until("second", "why it is not", |report| {
        report.observe_reason.as_deref().is_some_and(|reason| reason.contains("max_replication_slots"))
    });
    assert_eq!((report.observe, report.state), (Observe::Poll, State::Bounded));
    sql.run("SELECT pg_create_logical_replication_slot('third', 'pgoutput')");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_database_is_bounded_and_says_so() {
    let (server, sql) = source_server(18);
    sql.run("CREATE DATABASE app");
    Sql::connect(&server.dsn("app")).run("SELECT pg_create_logical_replication_slot('elsewhere', 'pgoutput')");
    sql.run("SELECT pg_create_physical_replication_slot('standby', true)");
    sql.run("INSERT INTO t VALUES (1, 'x')");
    let watched = Watched::start(&server.dsn("postgres"), Observe::Slot);
    watched.until("elsewhere", "why", |report| {
        report.observe_reason.as_deref().is_some_and(|reason| reason.contains("of the database app"))
    });
    let report = watched.until("standby", "a bound", |report| report.lag.undecoded_wal_bytes > Some(0));
    assert_eq!((report.state, report.observe), (State::Bounded, Observe::Poll));
    assert_eq!(report.observe_reason.as_deref(), Some("physical replication is not decoded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_of_before_walgate_started_is_dated_by_the_wal_files() {
    let (server, sql) = source_server(17);
    // Files are dated in whole seconds, and those of before the start do not count.
    sql.until("SELECT clock_timestamp() > pg_postmaster_start_time() + interval '1 second'", "t");
    sql.run("INSERT INTO t VALUES (1, 'x')");
    for _ in 0..3 {
        sql.run("SELECT pg_switch_wal(); INSERT INTO other SELECT coalesce(max(id), 0) + 1 FROM other");
    }
    let watched = Watched::start(&server.dsn("postgres"), Observe::Poll);
    let report = watched.until("s", "a bound", |report| report.state == State::Bounded);
    // The slot's position lies in the first file, and no file ends before it: nothing is known of its age.
    assert_eq!(report.lag.seconds_max, None);
    sql.run("SELECT pg_replication_slot_advance('s', pg_current_wal_lsn())");
    sql.run("SELECT pg_switch_wal(); INSERT INTO t VALUES (2, 'x')");
    drop(watched);
    let watched = Watched::start(&server.dsn("postgres"), Observe::Poll);
    let report = watched.until("s", "a bound", |report| report.state == State::Bounded);
    assert!(report.lag.seconds_max.is_some(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logical_slot_of_a_standby_is_followed_there() {
    for major in 16..=18 {
        let mut primary = postgres(major).setting("hot_standby_feedback", "on").start().unwrap();
        let standby = primary.standby(&primary.dsn("postgres")).unwrap();
        let sql = Sql::connect(&primary.dsn("postgres"));
        sql.run("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t");
        let there = Sql::connect(&standby.dsn("postgres"));
        let created = tokio::task::spawn_blocking(move || {
            there.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
        });
        // Creating a slot on a standby waits for word of the running transactions.
        eventually("the slot", || {
            sql.run("SELECT pg_log_standby_snapshot()");
            if created.is_finished() { Ok(()) } else { Err(()) }
        });
        sql.run("INSERT INTO t VALUES (1)");
        let watched = Watched::start_naming(&standby.dsn("postgres"), Observe::Slot, &["p"]);
        let report = watched.until("s", "one commit", |report| report.lag.transactions == Some(1));
        assert_eq!((report.state, report.observe), (State::Live, Observe::Slot), "PostgreSQL {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut packet = [0; 1024];
            let _ = client.read(&mut packet).await;
            let _ = client.write_all(b"R\0\0\0\x08\0\0\0\0S\0\0\0\x18server_version\x0013.4\0Z\0\0\0\x05I").await;
        }
    });
    let watched = Watched::start(&format!("host=127.0.0.1 port={port} user=x sslmode=disable"), Observe::Poll);
    let reason = eventually("a refusal", || match watched.source.health() {
        Health::Unreachable { kind: "version", reason } => Ok(reason),
        other => Err(other),
    });
    assert!(reason.contains("PostgreSQL 13") && reason.contains("14 or later"), "{reason}");
}

/// What a pooler does: it answers logins itself, so that the process id it gives is not the backend's.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_front_is_named() {
    let (server, _sql) = source_server(15);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, upstream) = (listener.local_addr().unwrap().port(), server.port());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut backend = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
            tokio::spawn(async move {
                let mut packet = [0; 4096];
                let len = client.read(&mut packet).await?;
                backend.write_all(&packet[..len]).await?;
                let len = backend.read(&mut packet).await?;
                let key = packet.windows(5).position(|window| window == b"K\0\0\0\x0c").expect("a key");
                packet[key + 5] ^= 0x40;
                client.write_all(&packet[..len]).await?;
                tokio::io::copy_bidirectional(&mut client, &mut backend).await
            });
        }
    });
    let dsn = server.dsn_via(port, "postgres");
    let watched = Watched::start(&format!("{dsn} sslmode=disable"), Observe::Poll);
    watched.until("s", "it is seen", |_| true);
    assert!(watched.source.remarks()[0].contains("pooler"), "{:?}", watched.source.remarks());
}
