//! The walsender's commands and streams, on every version.

use std::time::Duration;

use tokio::time::timeout;
use walgate::lsn::Lsn;
use walgate::scratch::{Stop, VERSIONS};
use walgate::source::Failure;
use walgate::source::replication::{NewSlot, NewSlotKind, Snapshot, WalStream, Walsender};
use walgate::time::PgTimestamp;
use walgate::wire::copy_both::{StatusUpdate, WalMessage};

use super::support::client::connector;
use super::support::postgres;

/// Bounds a hang, and nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

fn logical(name: &str) -> NewSlot {
    let kind = NewSlotKind::Logical { plugin: "pgoutput".into(), snapshot: Snapshot::Nothing, two_phase: false };
    NewSlot { name: name.parse().expect("a slot name"), temporary: true, kind }
}

fn status(position: Lsn) -> StatusUpdate {
    let (write, flush, apply) = (position, position, position);
    StatusUpdate { write, flush, apply, send_time: PgTimestamp(0), reply_requested: false }
}

/// The tags of pgoutput's messages up to the first commit, acknowledging nothing.
async fn tags_of_one_transaction(stream: &mut WalStream) -> String {
    let mut tags = String::new();
    while !tags.ends_with('C') {
        let data = stream.next().await.expect("the stream is fine").expect("the stream goes on");
        if let WalMessage::XLogData(data) = data.message().expect("a message is one") {
            tags.push(data.data[0].into());
        }
    }
    tags
}

#[tokio::test]
async fn a_logical_stream_starts_runs_ends_and_gives_the_session_back() {
    for major in VERSIONS {
        let server = postgres(major).start().unwrap();
        let connector = connector(&server.dsn("postgres"));
        let sql = connector.sql().await.unwrap();
        sql.batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t").await.unwrap();

        let mut session = connector.replication(Walsender::Database).await.unwrap();
        let before = session.identify_system().await.unwrap();
        assert_eq!(before.timeline, 1);
        assert_eq!(session.show("wal_level").await.unwrap(), "logical");
        assert_eq!(session.query("SELECT 1, NULL, 'a'").await.unwrap(), [[Some("1".into()), None, Some("a".into())]]);
        let slot = logical("walgate_test");
        let created = session.create_slot(&slot).await.unwrap();
        assert!(created.consistent_point >= before.flush && created.snapshot.is_none());

        sql.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        let options = [("proto_version", "1"), ("publication_names", "p")];
        let mut stream = session.start_logical(&slot.name, Lsn::INVALID, &options).await.unwrap();
        assert_eq!(tags_of_one_transaction(&mut stream).await, "BRIC");

        stream.queue_status(&StatusUpdate { reply_requested: true, ..status(before.flush) });
        loop {
            let data = stream.next().await.unwrap().unwrap();
            assert_eq!(data.frame()[0], b'd');
            if matches!(data.message(), Ok(WalMessage::Keepalive(keepalive)) if !keepalive.reply_requested) {
                break;
            }
        }

        let (mut session, next) = timeout(PATIENCE, stream.finish()).await.unwrap().unwrap();
        assert_eq!(next, None);
        session.drop_slot(&slot.name, false).await.unwrap();
        assert_eq!(session.query("SELECT count(*) FROM pg_replication_slots").await.unwrap(), [[Some("0".into())]]);
        session.close().await.unwrap();
    }
}

#[tokio::test]
async fn waiting_for_a_message_can_be_cancelled_at_any_time() {
    let server = postgres(18).start().unwrap();
    let connector = connector(&server.dsn("postgres"));
    let sql = connector.sql().await.unwrap();
    sql.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE t").await.unwrap();
    let mut session = connector.replication(Walsender::Database).await.unwrap();
    let slot = logical("walgate_test");
    session.create_slot(&slot).await.unwrap();
    let options = [("proto_version", "1"), ("publication_names", "p")];
    let mut stream = session.start_logical(&slot.name, Lsn::INVALID, &options).await.unwrap();
    // Rows longer than what is read at once, so that waits end within them.
    sql.batch_execute("INSERT INTO t SELECT i, repeat('x', 300000) FROM generate_series(1, 50) i").await.unwrap();
    let mut tags = String::new();
    while !tags.ends_with('C') {
        tokio::select! {
            biased;
            data = stream.next() => {
                if let WalMessage::XLogData(data) = data.unwrap().unwrap().message().unwrap() {
                    tags.push(data.data[0].into());
                    if data.data[0] == b'I' {
                        assert!(data.data.len() > 300_000);
                    }
                }
            }
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(tags, format!("BR{}C", "I".repeat(50)));
}

#[tokio::test]
async fn a_physical_stream_gives_wal_and_a_promotion_its_history() {
    let mut primary = postgres(15).start().unwrap();
    let standby = primary.standby(&format!("host=127.0.0.1 port={} user=postgres", primary.port())).unwrap();
    let dsn = primary.dsn("postgres");
    let mut session = connector(&dsn).replication(Walsender::Cluster).await.unwrap();
    let slot =
        NewSlot { name: "phys".parse().unwrap(), temporary: true, kind: NewSlotKind::Physical { reserve_wal: true } };
    assert_eq!(session.create_slot(&slot).await.unwrap().consistent_point, Lsn::INVALID);
    let before = session.identify_system().await.unwrap();
    let mut stream = session.start_physical(Some(&slot.name), before.flush, Some(1)).await.unwrap();
    let sql = connector(&dsn).sql().await.unwrap();
    sql.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    let after = loop {
        let data = stream.next().await.unwrap().unwrap();
        if let WalMessage::XLogData(data) = data.message().unwrap() {
            assert!(!data.data.is_empty() && data.wal_start >= before.flush);
            break data.wal_end;
        }
    };
    assert!(after > before.flush);
    let (mut session, _) = timeout(PATIENCE, stream.finish()).await.unwrap().unwrap();
    assert!(matches!(session.timeline_history(1).await, Err(Failure::Server(_))));

    standby.promote().unwrap();
    let dsn = standby.dsn("postgres");
    let mut session = connector(&dsn).replication(Walsender::Cluster).await.unwrap();
    let now = session.identify_system().await.unwrap();
    assert_eq!((now.system_identifier, now.timeline), (before.system_identifier, 2));
    let history = session.timeline_history(2).await.unwrap();
    assert_eq!(history.file_name, "00000002.history");
    let fork: Lsn = history.content.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(fork >= before.flush);

    // The first timeline has ended, and the stream says where the next begins: behind the last WAL, or with none at all.
    for start in [before.flush, fork] {
        let mut stream = session.start_physical(None, start, Some(1)).await.unwrap();
        while stream.next().await.unwrap().is_some() {}
        let next;
        (session, next) = timeout(PATIENCE, stream.finish()).await.unwrap().unwrap();
        assert_eq!(next.map(|next| (next.timeline, next.start)), Some((2, fork)));
        assert_eq!(session.identify_system().await.unwrap().timeline, 2);
    }
}

#[tokio::test]
async fn a_server_that_stops_or_crashes_ends_the_stream_with_an_error() {
    for how in [Stop::Fast, Stop::Immediate] {
        let mut server = postgres(17).start().unwrap();
        let connector = connector(&server.dsn("postgres"));
        let sql = connector.sql().await.unwrap();
        sql.batch_execute("CREATE PUBLICATION p FOR ALL TABLES").await.unwrap();
        let mut session = connector.replication(Walsender::Database).await.unwrap();
        session.create_slot(&logical("walgate_test")).await.unwrap();
        let options = [("proto_version", "4"), ("publication_names", "p")];
        let slot = "walgate_test".parse().unwrap();
        let mut stream = session.start_logical(&slot, Lsn::INVALID, &options).await.unwrap();
        let reader = tokio::spawn(async move {
            loop {
                // A server that stops waits until its walsenders' clients have everything.
                let position = match stream.next().await {
                    Ok(Some(data)) => match data.message() {
                        Ok(WalMessage::Keepalive(keepalive)) => keepalive.wal_end,
                        _ => continue,
                    },
                    Ok(None) => return None,
                    Err(failure) => return Some(failure),
                };
                stream.queue_status(&status(position));
            }
        });
        tokio::task::spawn_blocking(move || server.stop(how)).await.unwrap().unwrap();
        let failure = timeout(PATIENCE, reader).await.unwrap().unwrap().expect("an error");
        assert!(failure.is_transient(), "{failure}");
    }
}

#[tokio::test]
async fn commands_that_the_server_refuses_leave_the_session_usable() {
    let server = postgres(14).start().unwrap();
    let mut session = connector(&server.dsn("postgres")).replication(Walsender::Database).await.unwrap();
    let mut slot = logical("walgate_test");
    slot.kind = NewSlotKind::Logical { plugin: "no_such_plugin".into(), snapshot: Snapshot::Export, two_phase: false };
    let Err(Failure::Server(error)) = session.create_slot(&slot).await else { panic!("created") };
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "58P01"));
    assert!(matches!(session.drop_slot(&slot.name, true).await, Err(Failure::Server(_))));
    assert!(matches!(session.query("SELECT 1/0").await, Err(Failure::Server(_))));
    slot = logical("walgate_test");
    if let NewSlotKind::Logical { snapshot, .. } = &mut slot.kind {
        *snapshot = Snapshot::Export;
    }
    assert!(session.create_slot(&slot).await.unwrap().snapshot.is_some());
    let options = [("proto_version", "9"), ("publication_names", "\"it's\"")];
    let Err(Failure::Server(error)) = session.start_logical(&slot.name, Lsn::INVALID, &options).await else {
        panic!("started")
    };
    assert!(error.message.contains("proto_version=9"), "{error}");
}
