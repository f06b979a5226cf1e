//! Who is at work.

use std::thread;

use walgate::gate::Activity;
use walgate::source::evidence::activity::{Reach, activity};
use walgate::source::sql::SqlSession;

use crate::scene::{Scene, dsn, seen, unseen, until};
use crate::support::Sql;

/// The writers, by name and by what they are at.
fn writers(activity: &Activity) -> Vec<(&str, &str)> {
    let mut writers: Vec<_> = activity.writers.iter().map(|w| (w.name.as_str(), w.state.as_str())).collect();
    writers.sort_unstable();
    writers
}

async fn look(session: &SqlSession) -> Activity {
    seen(activity(session, Reach::Database).await)
}

fn client(scene: &Scene, database: &str, name: &str) -> Sql {
    Sql::connect(&format!("{} application_name={name}", scene.server.dsn(database)))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_transaction_id_writes() {
    for major in 14..=18 {
        let scene = Scene::start(major);
        scene.sql.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
        scene.sql.run("CREATE DATABASE other");
        let session = scene.session("walgate", "postgres").await;
        let quiet = look(&session).await;
        assert_eq!((writers(&quiet), quiet.quiet), (vec![], true), "PostgreSQL {major}");

        let [shop, nested, locking, reader, gone] =
            ["shop", "nested", "locking", "reader", "gone"].map(|name| client(&scene, "postgres", name));
        shop.run("BEGIN; INSERT INTO t VALUES (2)");
        nested.run("BEGIN; SAVEPOINT a; INSERT INTO t VALUES (3); RELEASE a");
        locking.run("BEGIN; SELECT * FROM t WHERE id = 1 FOR UPDATE");
        reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t");
        gone.run("BEGIN; INSERT INTO t VALUES (4); PREPARE TRANSACTION 'two phases'");
        drop(gone);
        let elsewhere = client(&scene, "other", "elsewhere");
        elsewhere.run("BEGIN; SELECT pg_current_xact_id()");
        let idle = "idle in transaction";
        let expected = vec![("locking", idle), ("nested", idle), ("shop", idle), ("two phases", "prepared")];
        let busy = look(&session).await;
        assert_eq!(writers(&busy), expected, "PostgreSQL {major}");
        assert!(busy.writers.iter().all(|writer| writer.user.as_deref() == Some("postgres") && writer.open.is_some()));
        assert!(busy.clients.iter().any(|client| client.ends_with(" reader")), "{:?}", busy.clients);
        assert!(!busy.clients.iter().any(|client| client.contains("walgate") || client.ends_with(" elsewhere")));
        assert_eq!(busy.oldest.map(|(writer, _)| writer.name).as_deref(), Some("shop"));
        // What ends is past the highest that has ended; what runs is not, and does not make it less quiet.
        shop.run("COMMIT");
        let next = look(&session).await.next_xid;
        assert!(next > quiet.next_xid);

        for (client, end) in [(&nested, "ROLLBACK"), (&locking, "COMMIT"), (&shop, "ROLLBACK PREPARED 'two phases'")] {
            client.run(end);
        }
        let after = look(&session).await;
        assert_eq!(writers(&after), [], "PostgreSQL {major}");
        elsewhere.run("COMMIT");
        let quiet = look(&session).await;
        assert!(quiet.quiet);
        assert_eq!(quiet.next_xid, look(&session).await.next_xid, "looking takes no transaction id");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_for_a_standby_is_still_a_writer_though_no_snapshot_tells() {
    for major in [14, 18] {
        let scene = Scene::start(major);
        scene.sql.run("CREATE TABLE t (id int PRIMARY KEY)");
        let session = scene.session("walgate", "postgres").await;
        let before = look(&session).await;
        scene.server.reload_with(&[("synchronous_standby_names", "nobody")]).expect("it reloads");
        let dsn = format!("{} application_name=waiting", scene.server.dsn("postgres"));
        thread::spawn(move || Sql::connect(&dsn).try_rows("INSERT INTO t VALUES (1)"));
        let waiting = scene.session("walgate", "postgres").await;
        scene.sql.until("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
        let during = look(&waiting).await;
        assert_eq!(writers(&during), [("waiting", "waiting for a synchronous standby")]);
        assert_eq!((during.next_xid, during.quiet), (before.next_xid, true));
        scene.server.reload_with(&[("synchronous_standby_names", "")]).expect("it reloads");
        scene.sql.until("SELECT count(*) FROM t", "1");
        assert!(look(&waiting).await.next_xid > before.next_xid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_connection_that_writes_by_sql_and_an_apply_worker_are_writers() {
    for major in 14..=18 {
        let scene = Scene::start(major);
        scene.sql.run("CREATE DATABASE target");
        let target = Sql::connect(&scene.server.dsn("target"));
        for sql in [&scene.sql, &target] {
            sql.run("CREATE TABLE t (id int PRIMARY KEY)");
        }
        scene.sql.run("CREATE PUBLICATION p FOR TABLE t");
        scene.sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
        target.run(&format!(
            "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (create_slot = false, copy_data = false)",
            scene.server.dsn("postgres")
        ));
        // It waits for this one.
        let holds = client(&scene, "target", "holds");
        holds.run("BEGIN; INSERT INTO t VALUES (1)");
        scene.sql.run("INSERT INTO t VALUES (1)");
        let session = scene.session("walgate", "target").await;
        let worker = if major < 17 { "logical replication worker" } else { "logical replication apply worker" };
        let at_work = until("two writers", async || look(&session).await, |seen| seen.writers.len() == 2).await;
        assert_eq!(writers(&at_work), [("", worker), ("holds", "idle in transaction")], "PostgreSQL {major}");

        let walsender = walgate::source::replication::Walsender::Database;
        let connector = crate::support::client::connector(&scene.server.dsn("postgres"));
        let mut replication = connector.replication(walsender).await.expect("a session");
        for sql in ["BEGIN", "INSERT INTO t VALUES (2)"] {
            replication.query(sql).await.expect("it is done");
        }
        let session = scene.session("walgate", "postgres").await;
        let activity = look(&session).await;
        assert_eq!(activity.writers.len(), 1, "PostgreSQL {major}: {activity:?}");
        assert_eq!(activity.writers[0].state, "walsender");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_is_told_by_its_first_words() {
    for major in [14, 18] {
        let scene = Scene::start(major);
        scene.sql.run("CREATE TABLE t (id int PRIMARY KEY, secret text)");
        let session = scene.session("walgate", "postgres").await;
        let ddl = |activity: &Activity| activity.ddl.iter().map(|w| w.state.clone()).collect::<Vec<_>>();
        let [alters, writes] = ["alters", "writes"].map(|name| client(&scene, "postgres", name));
        alters.run("BEGIN; ALTER TABLE t ALTER secret SET DEFAULT 'hush'");
        assert_eq!(ddl(&look(&session).await), ["BEGIN"]);
        alters.run("ALTER TABLE t ALTER secret SET DEFAULT 'hush'");
        assert_eq!(ddl(&look(&session).await), ["ALTER TABLE"]);
        alters.run("ROLLBACK");
        assert_eq!(ddl(&look(&session).await), [""; 0]);
        // Builds an index once this one has ended.
        writes.run("BEGIN; INSERT INTO t VALUES (1)");
        let dsn = scene.server.dsn("postgres");
        let index = thread::spawn(move || Sql::connect(&dsn).run("CREATE INDEX CONCURRENTLY ON t (secret)"));
        scene.sql.until("SELECT count(*) FROM pg_stat_progress_create_index", "1");
        assert_eq!(ddl(&look(&session).await), ["CREATE INDEX"]);
        writes.run("ROLLBACK");
        index.join().expect("it is built");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_see_sessions_nothing_is_claimed() {
    for major in [14, 18] {
        let scene = Scene::start(major);
        let why = unseen(activity(&scene.session("nobody", "postgres").await, Reach::Database).await);
        assert_eq!(
            why, "pg_stat_activity: other roles' sessions are hidden; GRANT pg_monitor TO walgate's role",
            "PostgreSQL {major}"
        );
        // Another session of the same role is walgate's only if it says so.
        let session = scene.session("walgate", "postgres").await;
        let other = Sql::connect(&format!("{} application_name=psql", dsn(&scene.server, "walgate", "postgres")));
        other.run("BEGIN; SELECT pg_current_xact_id()");
        assert_eq!(writers(&look(&session).await), [("psql", "idle in transaction")]);
    }
}
