//! Real servers behind the proxy: their errors, their walsenders, and their end.

use std::time::Duration;

use tokio_postgres::NoTls;
use walgate::lsn::Lsn;
use walgate::pgoutput::Head;
use walgate::scratch::{Server, Signal, Stop, signal};
use walgate::source::replication::{WalStream, Walsender};
use walgate::source::{Failure, ServerError};
use walgate::time::PgTimestamp;
use walgate::wire::copy_both::{StatusUpdate, WalMessage};

use crate::support::client::{ask, connector};
use crate::support::daemon::Walgate;
use crate::support::{Sql, eventually, postgres, session};

const PGOUTPUT: &[(&str, &str)] = &[("proto_version", "1"), ("publication_names", "p")];

/// A server with a published table and a slot, walgate in front of it, and a session past it.
fn scene(major: u32) -> (Server, Walgate, Sql) {
    let server = postgres(major).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE t");
    sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    (server, walgate, sql)
}

async fn stream(dsn: &str, slot: &str, options: &[(&str, &str)]) -> Result<WalStream, Failure> {
    let session = connector(dsn).replication(Walsender::Database).await.unwrap();
    session.start_logical(&slot.parse().unwrap(), Lsn::INVALID, options).await
}

/// Reads up to and with the next Commit; returns where it starts and how many rows came before it.
async fn next_commit(stream: &mut WalStream) -> Result<(Lsn, usize), Failure> {
    let mut rows = 0;
    loop {
        let Some(data) = stream.next().await? else { return Err(Failure::Closed("reading a transaction")) };
        let WalMessage::XLogData(message) = data.message()? else { continue };
        match Head::parse(message.data, false)? {
            Head::Insert { .. } => rows += 1,
            Head::Commit(commit) => return Ok((commit.commit_lsn, rows)),
            _ => {}
        }
    }
}

fn server_error(failure: Failure) -> ServerError {
    match failure {
        Failure::Server(error) => error,
        other => panic!("not the server's: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_errors_arrive_as_they_are() {
    let (server, walgate, _) = scene(18);
    let (direct, relayed) = (server.dsn("postgres"), walgate.dsn("postgres", "postgres"));
    let _holder = stream(&direct, "s", PGOUTPUT).await.unwrap();
    let in_use =
        |error: ServerError| (error.code, error.message.split(" for PID").next().unwrap_or_default().to_owned());
    for (slot, code) in [("s", "55006"), ("missing", "42704")] {
        let expected = in_use(server_error(stream(&direct, slot, PGOUTPUT).await.unwrap_err()));
        assert_eq!(expected.0, code);
        assert_eq!(in_use(server_error(stream(&relayed, slot, PGOUTPUT).await.unwrap_err())), expected);
    }
    let refused = |dsn: String| async move { ask(&dsn, "SELECT ''").await.unwrap_err().server_error().cloned() };
    let missing = |dsn: &str| dsn.replace("dbname=postgres", "dbname=missing");
    let expected = refused(missing(&direct)).await;
    assert_eq!(expected.as_ref().map(|error| error.code.as_str()), Some("3D000"));
    assert_eq!(refused(missing(&relayed)).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_and_not_acknowledged_is_shown_exactly() {
    for major in [14, 18] {
        let (_server, walgate, sql) = scene(major);
        let mut stream = stream(&walgate.dsn("postgres", "postgres"), "s", PGOUTPUT).await.unwrap();
        sql.run("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 10) g");
        sql.run("INSERT INTO t VALUES (11, 'x')");
        let (first, rows) = next_commit(&mut stream).await.unwrap();
        assert_eq!(rows, 10);
        next_commit(&mut stream).await.unwrap();
        let report = walgate.lag_until("s", "two commits", |report| report["lag"]["transactions"] == 2);
        assert_eq!((report["lag"]["rows"].as_u64(), report["stage"].as_str()), (Some(11), Some("consumer")));
        assert_eq!(report["tables"][0]["table"], "public.t");

        let (write, flush, apply) = (first, first, first);
        let send_time = PgTimestamp::now();
        stream.queue_status(&StatusUpdate { write, flush, apply, send_time, reply_requested: false });
        stream.flush().await.unwrap();
        let report = walgate.lag_until("s", "one commit", |report| report["lag"]["transactions"] == 1);
        assert_eq!(
            (report["lag"]["rows"].as_u64(), report["positions"]["acked"].as_str()),
            (Some(1), Some(&*first.to_string()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_plugin_passes_and_is_marked() {
    let (_server, walgate, sql) = scene(16);
    sql.run("SELECT pg_create_logical_replication_slot('other', 'test_decoding')");
    let mut stream = stream(&walgate.dsn("postgres", "postgres"), "other", &[]).await.unwrap();
    sql.run("INSERT INTO t VALUES (1, 'x')");
    let mut seen = String::new();
    while !seen.contains("COMMIT") {
        let data = stream.next().await.unwrap().unwrap();
        if let WalMessage::XLogData(message) = data.message().unwrap() {
            seen.push_str(&String::from_utf8_lossy(message.data));
        }
    }
    assert!(seen.contains("table public.t: INSERT"), "{seen}");
    let report = walgate.lag_until("other", "positions only", |report| report["state"] == "bounded");
    assert_eq!((report["plugin"].as_str(), report["observe"].as_str()), (Some("test_decoding"), Some("poll")));
    assert!(report["lag"]["transactions"].is_null() && report["lag"]["undecoded_wal_bytes"].as_u64() > Some(0));
    assert_eq!(report["observe_reason"], "its output plugin is test_decoding, not pgoutput");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_reaches_its_session() {
    let (_server, walgate, _) = scene(18);
    let client = session(&walgate.dsn("postgres", "postgres")).await.unwrap();
    let token = client.cancel_token();
    let query = tokio::spawn(async move { client.simple_query("SELECT pg_sleep(600)").await });
    let error = loop {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", walgate.port())).await.unwrap();
        token.cancel_query_raw(stream, NoTls).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        if query.is_finished() {
            break query.await.unwrap().unwrap_err();
        }
    };
    assert_eq!(error.code().unwrap().code(), "57014");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_ends_its_sessions_and_serves_again_after_its_restart() {
    let (mut server, walgate, _) = scene(17);
    let dsn = walgate.dsn("postgres", "postgres");
    let mut streaming = stream(&dsn, "s", PGOUTPUT).await.unwrap();
    let sql = Sql::connect(&dsn);
    server.stop(Stop::Immediate).unwrap();
    assert!(sql.try_rows("SELECT 1").is_err());
    while let Ok(Some(_)) = streaming.next().await {}
    eventually("/readyz to say no", || match walgate.get("/readyz") {
        (503, _) => Ok(()),
        other => Err(other),
    });
    server.start().unwrap();
    eventually("/readyz to say yes", || match walgate.get("/readyz") {
        (200, _) => Ok(()),
        other => Err(other),
    });
    assert_eq!(ask(&dsn, "SELECT 'in'").await.unwrap(), "in");
    let mut streaming = stream(&dsn, "s", PGOUTPUT).await.unwrap();
    Sql::connect(&dsn).run("INSERT INTO t VALUES (1, 'x')");
    assert_eq!(next_commit(&mut streaming).await.unwrap().1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_a_long_transaction_lets_it_end() {
    const ROWS: usize = 200_000;
    let (_server, walgate, sql) = scene(16);
    let mut stream = stream(&walgate.dsn("postgres", "postgres"), "s", PGOUTPUT).await.unwrap();
    sql.run(&format!("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, {ROWS}) g"));
    sql.run("INSERT INTO t VALUES (0, 'behind it')");
    loop {
        let data = stream.next().await.unwrap().unwrap();
        if matches!(data.message(), Ok(WalMessage::XLogData(message)) if message.data.starts_with(b"B")) {
            break;
        }
    }
    assert!(signal(walgate.pid(), Signal::Terminate));
    eventually("the drain", || if walgate.log().contains("draining") { Ok(()) } else { Err(walgate.log()) });
    let (_, rows) = next_commit(&mut stream).await.unwrap();
    assert_eq!(rows, ROWS);
    let end = stream.next().await;
    assert!(matches!(end, Err(Failure::Closed(_))), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_read_makes_the_walsender_wait() {
    let (_server, walgate, sql) = scene(18);
    let stream = stream(&walgate.dsn("postgres", "postgres"), "s", PGOUTPUT).await.unwrap();
    sql.run("INSERT INTO t SELECT g, repeat(md5(g::text), 100) FROM generate_series(1, 20000) g");
    sql.until("SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'walsender'", "WalSenderWriteData");
    drop(stream);
    sql.until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'", "0");
}
