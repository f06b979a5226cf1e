//! Subscriptions of the extension pglogical, which Debian has for its PostgreSQL 15, forth and back.

use walgate::gate::{Kind, Subscription};
use walgate::lsn::Lsn;
use walgate::scratch::Server;
use walgate::source::evidence::subscription::subscriptions;
use walgate::source::evidence::unreplicated::{catalog, unreplicated};

use crate::scene::{seen, session, unseen, until};
use crate::support::{Sql, allow_pglogical, with_pglogical};

/// Two nodes, as databases of one server. They are never dropped: pglogical's workers would keep that from ending.
struct Nodes {
    server: Server,
    blue: Sql,
    green: Sql,
}

const RIGHTS: &str = "
    GRANT USAGE ON SCHEMA pglogical TO walgate;
    GRANT SELECT ON pglogical.subscription, pglogical.local_sync_status TO walgate;
    GRANT SELECT ON pglogical.replication_set, pglogical.replication_set_table, pglogical.replication_set_seq TO walgate;
    GRANT SELECT ON pglogical.local_node TO walgate;
    GRANT EXECUTE ON FUNCTION pg_show_replication_origin_status() TO walgate";

impl Nodes {
    fn start() -> Nodes {
        let server = with_pglogical().start().expect("a server starts");
        let sql = Sql::connect(&server.dsn("postgres"));
        allow_pglogical(&sql);
        sql.run("CREATE ROLE walgate LOGIN; GRANT pg_monitor TO walgate");
        let [blue, green] = ["blue", "green"].map(|name| {
            sql.run(&format!("CREATE DATABASE {name}"));
            let node = Sql::connect(&server.dsn(name));
            node.run("CREATE EXTENSION pglogical; CREATE TABLE t (id int PRIMARY KEY, b int)");
            node.run(&format!("SELECT pglogical.create_node('{name}', '{}')", server.dsn(name)));
            node.run("SELECT pglogical.replication_set_add_table('default', 't')");
            node
        });
        blue.run("INSERT INTO t VALUES (1, 1)");
        let nodes = Nodes { server, blue, green };
        nodes.subscribe(&nodes.green, "forth", "blue", true);
        nodes.green.until("SELECT count(*) FROM t", "1");
        nodes.subscribe(&nodes.blue, "back", "green", false);
        nodes
    }

    fn subscribe(&self, at: &Sql, name: &str, provider: &str, copies: bool) {
        let provider = self.server.dsn(provider);
        at.run(&format!(
            "SELECT pglogical.create_subscription('{name}', '{provider}', '{{default}}', synchronize_data := {copies}, \
             forward_origins := '{{}}')"
        ));
        at.until("SELECT status FROM pglogical.show_subscription_status()", "replicating");
    }

    async fn look(&self, database: &str) -> Subscription {
        let session = session(&self.server, "walgate", database).await;
        let mut found = seen(subscriptions(&session).await);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The end of the last commit.
    fn end(&self) -> Lsn {
        self.blue.value("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_tell_what_they_apply_and_when_they_are_down() {
    let nodes = Nodes::start();
    let session = session(&nodes.server, "walgate", "green").await;
    let why = unseen(subscriptions(&session).await);
    assert!(
        why.starts_with("pg_subscription: permission denied for schema pglogical; GRANT USAGE ON SCHEMA pglogical")
    );
    for node in [&nodes.blue, &nodes.green] {
        node.run(RIGHTS);
    }
    let forth = nodes.look("green").await;
    assert_eq!((forth.name.as_str(), forth.enabled, forth.running), ("forth", true, true));
    assert_eq!(forth.slot.map(|slot| slot.to_string()).as_deref(), Some("pgl_green_blue_forth"));
    assert_eq!((forth.publications, forth.errors), (vec!["default".to_owned()], None));
    let tables: Vec<String> = forth.tables.iter().map(|(table, state)| format!("{table} {state}")).collect();
    assert_eq!(tables, ["public.t r"]);

    // The position is the end of the last commit, as its own message tells it.
    nodes.blue.run("SELECT pg_create_logical_replication_slot('peek', 'test_decoding')");
    nodes.blue.run("UPDATE t SET b = 2");
    nodes.green.until("SELECT b FROM t", "2");
    let commits = "SELECT max(lsn) FROM pg_logical_slot_peek_changes('peek', NULL, NULL) WHERE data LIKE 'COMMIT%'";
    let end: Lsn = nodes.blue.value(commits).parse().expect("an LSN");
    let applied = until("the commit", async || nodes.look("green").await, |forth| forth.applied >= Some(end)).await;
    assert_eq!(applied.applied, Some(end));
    nodes.green.run("INSERT INTO t VALUES (2, 2)");
    nodes.blue.until("SELECT count(*) FROM t", "2");
    let back = nodes.look("blue").await;
    assert_eq!((back.name.as_str(), back.running, back.applied > Some(end)), ("back", true, true));

    // Its worker fails, and says so; a slot that stays behind is the proof.
    nodes.green.run("ALTER TABLE t ADD CHECK (b < 100)");
    nodes.blue.run("INSERT INTO t VALUES (3, 300)");
    let fence = nodes.end();
    let down = until("it to be down", async || nodes.look("green").await, |forth| !forth.running).await;
    assert_eq!((down.status.as_deref(), down.enabled, down.applied < Some(fence)), (Some("down"), true, true));
    nodes.green.run("SELECT pglogical.alter_subscription_disable('forth', true)");
    let off = nodes.look("green").await;
    assert!(!off.enabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_replication_set_has_is_left_out() {
    let nodes = Nodes::start();
    nodes.blue.run(RIGHTS);
    nodes.blue.run("CREATE TABLE appended (id int); CREATE TABLE forgotten (id int PRIMARY KEY)");
    nodes.blue.run("SELECT pglogical.replication_set_add_table('default_insert_only', 'appended')");
    // A publication is another's.
    nodes.blue.run("CREATE PUBLICATION p FOR ALL TABLES");
    let session = session(&nodes.server, "walgate", "blue").await;
    let catalog = seen(catalog(&session).await);
    let found = unreplicated(&catalog, Kind::Pglogical, None).expect("it may be read");
    let found: Vec<_> = found.iter().map(|item| (item.name.as_str(), item.what.as_str())).collect();
    assert_eq!(
        found,
        [
            ("public.appended", "table without its updates and deletes"),
            ("public.forgotten", "table that nothing replicates")
        ]
    );
    nodes.blue.run("REVOKE USAGE ON SCHEMA pglogical FROM walgate");
    let catalog = seen(walgate::source::evidence::unreplicated::catalog(&session).await);
    let why = unreplicated(&catalog, Kind::Pglogical, None).expect_err("it may not be read");
    assert!(why.contains("permission denied for schema pglogical"), "{why}");
}
