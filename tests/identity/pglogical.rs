//! What the extension pglogical says, which Debian has for its PostgreSQL 15.

use std::collections::BTreeSet;

use walgate::scratch::Server;

use crate::support::check;
use crate::support::{Sql, allow_pglogical, eventually, with_pglogical};

/// Two nodes, as databases of one server. They are never dropped: pglogical's workers would keep that from ending.
struct Nodes {
    server: Server,
    provider: Sql,
    subscriber: Sql,
}

impl Nodes {
    fn start() -> Nodes {
        let server = with_pglogical().start().expect("a server starts");
        let sql = Sql::connect(&server.dsn("postgres"));
        allow_pglogical(&sql);
        let [provider, subscriber] = ["provider", "subscriber"].map(|name| {
            sql.run(&format!("CREATE DATABASE {name}"));
            let node = Sql::connect(&server.dsn(name));
            node.run("CREATE EXTENSION pglogical");
            node.run(&format!("SELECT pglogical.create_node('{name}', '{}')", server.dsn(name)));
            node
        });
        Nodes { server, provider, subscriber }
    }

    /// Makes the tables on both sides, adds `t` to the default set, and waits until its rows are there.
    fn subscribe(&self, tables: &str, rows: &str) {
        self.provider.run(tables);
        self.provider.run(rows);
        self.subscriber.run(tables);
        self.provider.run("SELECT pglogical.replication_set_add_table('default', 't')");
        let provider = self.server.dsn("provider");
        self.subscriber.run(&format!(
            "SELECT pglogical.create_subscription('s', '{provider}', '{{default}}', synchronize_data := true)"
        ));
        self.subscriber.until("SELECT status FROM pglogical.show_subscription_status()", "replicating");
    }

    /// The rules that do not hold on the provider, and on which tables, but for what is only good to know.
    #[track_caller]
    fn found(&self) -> BTreeSet<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let findings = check::findings(&self.server.dsn("provider"), ARGUMENTS);
        let bad = findings.iter().filter(|finding| finding["severity"] != "info");
        bad.map(|finding| (text(&finding["rule"]), text(&finding["table"]))).collect()
    }

    /// Mends the provider as the check says.
    fn mend(&self) {
        let dsn = self.server.dsn("provider");
        let script = check::script(&dsn, ARGUMENTS);
        check::run(&dsn, &script);
        check::run(&dsn, &script);
    }
}

const ARGUMENTS: &[&str] = &["--for", "pglogical", "--fail-on", "warning"];

/// Tables that a set refuses, and in what differs.
const REFUSED: &str = "
    CREATE TABLE keyless (id int, b int); INSERT INTO keyless VALUES (1, 1), (2, 1);
    CREATE TABLE by_index (a int NOT NULL UNIQUE, b int);
    CREATE TABLE whole (id int, b int); INSERT INTO whole VALUES (1, 1), (2, 1); ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE whole_with_key (a int PRIMARY KEY, b int); ALTER TABLE whole_with_key REPLICA IDENTITY FULL;
    CREATE TABLE nothing (a int PRIMARY KEY, b int); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
    CREATE TABLE deferrable_key (a int PRIMARY KEY DEFERRABLE, b int);
";

const TAKEN: &str = "
    CREATE TABLE with_key (a int PRIMARY KEY, b int);
    CREATE TABLE by_chosen_index (a int NOT NULL UNIQUE, b int);
    ALTER TABLE by_chosen_index REPLICA IDENTITY USING INDEX by_chosen_index_a_key;
";

#[test]
fn a_set_refuses_the_tables_that_the_check_finds_until_they_are_mended() {
    let nodes = Nodes::start();
    nodes.provider.run(REFUSED);
    nodes.provider.run(TAKEN);
    let tables = nodes
        .provider
        .rows("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace");
    let refused = || -> BTreeSet<(String, String)> {
        let tables = tables.iter().flatten().flatten();
        let refused = tables.filter(|table| {
            let added = nodes.provider.try_rows(&format!("BEGIN; SELECT pglogical.replication_set_add_table('default', '{table}')"));
            nodes.provider.run("ROLLBACK");
            let Err(error) = added else { return false };
            let error = error.as_db_error().expect("the server says it");
            assert_eq!(error.message(), format!("table {table} cannot be added to replication set default"));
            let why = "table does not have PRIMARY KEY and given replication set is configured to replicate UPDATEs and/or DELETEs";
            assert_eq!(error.detail(), Some(why));
            true
        });
        refused.map(|table| ("pglogical/no-key".to_owned(), format!("public.{table}"))).collect()
    };
    let found = nodes.found();
    assert_eq!(found.len(), 6, "{found:?}");
    assert_eq!(refused(), found);
    nodes.mend();
    // This one a person must choose.
    nodes.provider.run("ALTER TABLE deferrable_key DROP CONSTRAINT deferrable_key_pkey, ADD PRIMARY KEY (a)");
    assert_eq!((nodes.found(), refused()), (BTreeSet::new(), BTreeSet::new()));
}

#[test]
fn a_set_that_only_inserts_takes_every_table() {
    let nodes = Nodes::start();
    nodes.provider.run("CREATE TABLE t (a int, b int); CREATE TABLE t2 (a int PRIMARY KEY)");
    nodes.provider.run("SELECT pglogical.replication_set_add_table('default_insert_only', 't')");
    nodes.provider.run("SELECT pglogical.replication_set_add_table('default', 't2')");
    assert_eq!(nodes.found(), BTreeSet::new());
}

#[test]
fn deletes_are_lost_once_the_key_is() {
    let nodes = Nodes::start();
    nodes.subscribe("CREATE TABLE t (id int PRIMARY KEY, b int)", "INSERT INTO t VALUES (1, 1), (2, 1), (3, 1)");
    nodes.subscriber.until("SELECT count(*) FROM t", "3");
    assert_eq!(nodes.found(), BTreeSet::new());
    nodes.provider.run("ALTER TABLE t DROP CONSTRAINT t_pkey");
    nodes.provider.run("DELETE FROM t WHERE id = 1");
    nodes.provider.run("INSERT INTO t VALUES (4, 1)");
    nodes.subscriber.until("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t", "1 2 3 4");
    assert_eq!(nodes.found(), [("pglogical/no-key".into(), "public.t".into())].into());
    nodes.mend();
    assert_eq!(nodes.found(), BTreeSet::new());
    nodes.provider.run("DELETE FROM t WHERE id = 2");
    nodes.subscriber.until("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t", "1 3 4");
}

#[test]
fn a_deferrable_constraint_stops_the_subscription_at_a_swap() {
    let nodes = Nodes::start();
    nodes.subscribe(
        "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO t VALUES (1, 1), (2, 2)",
    );
    nodes.subscriber.until("SELECT count(*) FROM t", "2");
    assert_eq!(nodes.found(), [("pglogical/deferrable-unique".into(), "public.t".into())].into());
    nodes.provider.run("UPDATE t SET b = 3 - b");
    let said =
        ["ERROR:  pglogical doesn't support deferrable indexes", "relation public.t has deferrable indexes: t_b_key"];
    eventually("pglogical to stop", || match nodes.server.log() {
        log if said.iter().all(|said| log.contains(said)) => Ok(()),
        log => Err(log),
    });
    nodes.subscriber.until("SELECT status FROM pglogical.show_subscription_status()", "down");
    // If the application can do without: swaps fail then where they are made, and not at the subscriber.
    nodes.provider.run("ALTER TABLE t DROP CONSTRAINT t_b_key, ADD CONSTRAINT t_b_key UNIQUE (b)");
    assert_eq!(nodes.found(), BTreeSet::new());
    assert!(nodes.provider.try_rows("UPDATE t SET b = 3 - b").is_err());
}
