//! PostgreSQL's own subscriptions.

use walgate::gate::Subscription;
use walgate::lsn::Lsn;
use walgate::scratch::Stop;
use walgate::source::evidence::subscription::subscriptions;
use walgate::source::sql::SqlSession;

use crate::scene::{Scene, seen, unseen, until};
use crate::support::Sql;

/// A source and a target, as databases of one server, with a subscription `s` of the one table `t`.
struct Subscribed {
    scene: Scene,
    target: Sql,
    session: SqlSession,
}

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, b int); CREATE TABLE late (id int PRIMARY KEY)";

impl Subscribed {
    async fn start(major: u32) -> Subscribed {
        let scene = Scene::start(major);
        scene.sql.run("CREATE DATABASE target");
        let target = Sql::connect(&scene.server.dsn("target"));
        for sql in [&scene.sql, &target] {
            sql.run(TABLES);
        }
        target.run("GRANT EXECUTE ON FUNCTION pg_show_replication_origin_status() TO walgate");
        scene.sql.run("INSERT INTO t VALUES (1, 1); CREATE PUBLICATION p FOR TABLE t");
        scene.sql.run("SELECT pg_create_logical_replication_slot('s_slot', 'pgoutput')");
        target.run(&format!(
            "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (create_slot = false, slot_name = s_slot)",
            scene.server.dsn("postgres")
        ));
        let session = scene.session("walgate", "target").await;
        Subscribed { scene, target, session }
    }

    async fn look(&self) -> Subscription {
        let mut found = seen(subscriptions(&self.session).await);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Subscription) -> bool) -> Subscription {
        until(what, async || self.look().await, holds).await
    }

    /// The end of the last commit.
    fn end(&self) -> Lsn {
        self.scene.sql.value("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN")
    }
}

/// The tables with their states, as `t:r`.
fn tables(subscription: &Subscription) -> Vec<String> {
    subscription.tables.iter().map(|(table, state)| format!("{}:{state}", table.name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_subscription_tells_the_end_of_the_last_commit_that_it_has_applied() {
    for major in 14..=18 {
        let subscribed = Subscribed::start(major).await;
        let found = subscribed.until("it to run", |s| s.running && tables(s) == ["t:r"]).await;
        assert_eq!((found.name.as_str(), found.enabled, found.skip), ("s", true, None), "PostgreSQL {major}");
        assert_eq!(found.slot.map(|slot| slot.to_string()).as_deref(), Some("s_slot"));
        assert_eq!(found.publications, ["p"]);
        assert_eq!((found.errors, found.conflicts), ((major > 14).then_some(0), (major > 17).then_some(0)));

        // The target is of the same server: once its own writes have ended, nothing is between commit and flush position.
        subscribed.scene.sql.run("BEGIN; UPDATE t SET b = 2");
        subscribed.scene.sql.run("COMMIT");
        subscribed.target.until("SELECT b FROM t", "2");
        let applied = subscribed.look().await.applied.expect("it has applied a commit");
        let own: Lsn = subscribed
            .target
            .value("SELECT remote_lsn FROM pg_replication_origin_status WHERE external_id LIKE 'pg_%'")
            .parse()
            .expect("an LSN");
        assert_eq!(applied, own);
        // A message is not applied.
        subscribed.scene.sql.run("SELECT pg_logical_emit_message(true, 'walgate/barrier', 'nonce')");
        let fence = subscribed.end();
        let confirmed = format!("SELECT confirmed_flush_lsn >= '{fence}' FROM pg_replication_slots");
        subscribed.scene.sql.until(&confirmed, "t");
        assert_eq!(subscribed.look().await.applied, Some(applied));
        // It has heard of it, all the same.
        let heard = |s: &Subscription| s.received[0].is_some_and(|(received, _)| received >= fence);
        subscribed.until("the fence to be received", heard).await;
        // Those of other databases are not this one's.
        assert_eq!(seen(subscriptions(&subscribed.scene.session("walgate", "postgres").await).await), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_names_what_can_be_no_slot_reads_none() {
    let scene = Scene::start(18);
    scene
        .sql
        .run("CREATE SUBSCRIPTION \"From Blue\" CONNECTION 'host=blue.invalid' PUBLICATION p WITH (connect = false)");
    scene.sql.run("GRANT EXECUTE ON FUNCTION pg_show_replication_origin_status() TO walgate");
    let found = seen(subscriptions(&scene.session("walgate", "postgres").await).await);
    let found: Vec<_> = found.iter().map(|s| (s.name.as_str(), &s.slot, s.enabled)).collect();
    assert_eq!(found, [("From Blue", &None, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_worker_fails_does_not_run_and_counts_its_errors() {
    for major in 14..=18 {
        let subscribed = Subscribed::start(major).await;
        subscribed.until("it to run", |s| s.running && tables(s) == ["t:r"]).await;
        subscribed.target.run("INSERT INTO t VALUES (2, 2)");
        subscribed.scene.sql.run("INSERT INTO t VALUES (2, 1)");
        let failing = subscribed.until("it to fail", |s| !s.running && (major == 14 || s.errors > Some(0))).await;
        assert!(failing.enabled);
        if major == 14 {
            assert_eq!(failing.errors, None);
            continue;
        }
        subscribed.until("it to fail again", |s| s.errors > failing.errors).await;
        if major >= 18 {
            subscribed.until("the conflict to be counted", |s| s.conflicts > Some(0)).await;
        }
        subscribed.target.run("ALTER SUBSCRIPTION s SET (disable_on_error = true)");
        subscribed.until("it to be disabled", |s| !s.enabled && !s.running).await;
        // What is skipped counts as applied. The log says where it ends.
        let log = subscribed.scene.server.log();
        let at = log.rsplit("finished at ").next().and_then(|rest| rest.split_whitespace().next()).expect("it says");
        subscribed.target.run(&format!("ALTER SUBSCRIPTION s SKIP (lsn = '{at}')"));
        let at: Lsn = at.parse().expect("an LSN");
        assert_eq!(subscribed.look().await.skip, Some(at), "PostgreSQL {major}");
        subscribed.target.run("ALTER SUBSCRIPTION s ENABLE");
        let skipped = subscribed.until("it to be skipped", |s| s.skip.is_none()).await;
        subscribed.until("it to run", |s| s.running && s.applied > Some(at)).await;
        assert!(skipped.errors >= failing.errors, "that is all that is left to see");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_unknown_to_it_or_not_copied_are_told_though_its_slot_moves_on() {
    for major in 14..=18 {
        let subscribed = Subscribed::start(major).await;
        subscribed.until("it to run", |s| s.running && tables(s) == ["t:r"]).await;
        let confirmed = || {
            subscribed.scene.sql.run("SELECT pg_logical_emit_message(true, 'walgate/barrier', 'nonce')");
            let fence = subscribed.end();
            subscribed.scene.sql.until(
                &format!(
                    "SELECT confirmed_flush_lsn >= '{fence}' FROM pg_replication_slots WHERE slot_name = 's_slot'"
                ),
                "t",
            );
        };
        subscribed.scene.sql.run("ALTER PUBLICATION p ADD TABLE late; INSERT INTO late VALUES (1)");
        confirmed();
        let found = subscribed.look().await;
        assert_eq!((tables(&found), found.running), (vec!["t:r".to_owned()], true), "PostgreSQL {major}");
        assert_eq!(subscribed.target.value("SELECT count(*) FROM late"), "0");

        // Copying meets a row that is there.
        subscribed.target.run("INSERT INTO late VALUES (1)");
        subscribed.target.run("ALTER SUBSCRIPTION s REFRESH PUBLICATION");
        let copying = ["late:d".to_owned(), "t:r".to_owned()];
        let fails = |s: &Subscription| tables(s) == copying && (major == 14 || s.errors > Some(0));
        assert!(subscribed.until("the copy to fail", fails).await.running);
        confirmed();
        subscribed.target.run("TRUNCATE late");
        subscribed.until("both to be ready", |s| tables(s) == ["late:r", "t:r"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_that_were_set_back_or_lost_are_told_from_those_of_before() {
    for major in 15..=18 {
        let mut subscribed = Subscribed::start(major).await;
        subscribed.until("it to run", |s| s.running && tables(s) == ["t:r"]).await;
        subscribed.target.run("INSERT INTO t VALUES (2, 2)");
        subscribed.scene.sql.run("INSERT INTO t VALUES (2, 1)");
        let since = subscribed.until("it to fail", |s| s.errors > Some(0)).await.counted_since;
        subscribed.target.run("DELETE FROM t WHERE id = 2");
        subscribed.until("it to go on", |s| s.running).await;
        assert_eq!(subscribed.look().await.counted_since, since, "PostgreSQL {major}");
        subscribed.target.run("SELECT pg_stat_reset_subscription_stats(oid) FROM pg_subscription");
        let reset = subscribed.until("them to be set back", |s| s.counted_since != since).await.counted_since;
        subscribed.scene.server.restart(Stop::Immediate).expect("it starts again");
        subscribed.session = subscribed.scene.session("walgate", "target").await;
        subscribed.until("them to be lost", |s| s.counted_since != reset).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_off_or_has_no_slot_says_so() {
    for major in [14, 18] {
        let subscribed = Subscribed::start(major).await;
        subscribed.until("it to run", |s| s.running).await;
        subscribed.target.run("ALTER SUBSCRIPTION s DISABLE");
        let off = subscribed.until("its worker to end", |s| !s.running).await;
        assert_eq!((off.enabled, off.status.as_deref()), (false, Some("no apply worker runs")));
        subscribed.target.run("ALTER SUBSCRIPTION s SET (slot_name = NONE)");
        assert_eq!(subscribed.look().await.slot, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_see_origins_nothing_is_claimed() {
    for major in 14..=18 {
        let subscribed = Subscribed::start(major).await;
        let nobody = subscribed.scene.session("nobody", "target").await;
        assert_eq!(
            unseen(subscriptions(&nobody).await),
            "pg_subscription: permission denied for function pg_show_replication_origin_status; GRANT EXECUTE ON FUNCTION \
             pg_catalog.pg_show_replication_origin_status() TO walgate's role, in this database"
        );
        // It is all that is needed.
        subscribed.target.run("GRANT EXECUTE ON FUNCTION pg_show_replication_origin_status() TO nobody");
        assert_eq!(seen(subscriptions(&nobody).await).len(), 1, "PostgreSQL {major}");
    }
}
