//! What no write at the publisher shows: a subscriber stops, or has to look through the whole table.

use walgate::scratch::Server;

use crate::support::check;
use crate::support::{Sql, eventually, postgres};

/// A publisher and a subscriber, two databases of one server.
struct Pair {
    server: Server,
    publisher: Sql,
    subscriber: Sql,
}

impl Pair {
    fn of(major: u32) -> Pair {
        let server = postgres(major).start().expect("a server starts");
        let sql = Sql::connect(&server.dsn("postgres"));
        sql.run("CREATE DATABASE subscriber");
        let subscriber = Sql::connect(&server.dsn("subscriber"));
        Pair { publisher: sql, subscriber, server }
    }

    /// Makes the tables on both sides, and waits until the subscription streams.
    fn subscribe(&self, published: &str, subscribed: &str) {
        self.publisher.run(published);
        self.subscriber.run(subscribed);
        self.publisher.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
        // In one database a subscription would wait for its own transaction to make the slot.
        self.subscriber.run(&self.subscription("p"));
        self.subscriber.until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
    }

    fn subscription(&self, publications: &str) -> String {
        format!(
            "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION {publications} WITH (create_slot = false, slot_name = 's')",
            self.server.dsn("postgres").replace('\'', "''")
        )
    }

    /// Ends the subscription, and takes the tables away.
    fn forget(&self) {
        for statement in
            ["ALTER SUBSCRIPTION s DISABLE", "ALTER SUBSCRIPTION s SET (slot_name = NONE)", "DROP SUBSCRIPTION s"]
        {
            self.subscriber.run(statement);
        }
        let drop = "SELECT pg_drop_replication_slot('s')";
        eventually("the slot to be let go", || self.publisher.try_rows(drop).map_err(|error| error.to_string()));
        self.publisher.run("DROP TABLE t; DROP PUBLICATION p");
        self.subscriber.run("DROP TABLE t");
    }

    fn logs(&self, text: &str) {
        eventually(text, || match self.server.log() {
            log if log.contains(text) => Ok(()),
            log => Err(log),
        });
    }

    /// The rules that the check finds broken, with what it says.
    fn findings(&self) -> Vec<(String, String)> {
        let findings = check::findings(&self.server.dsn("postgres"), &[]);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let bad = findings.iter().filter(|finding| finding["severity"] != "info");
        bad.map(|finding| (text(&finding["rule"]), text(&finding["message"]))).collect()
    }
}

#[test]
fn a_generated_identity_stops_subscribers_before_18() {
    const TABLE: &str =
        "CREATE TABLE t (a int NOT NULL, b int, g int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, g))";
    const MENDED: &str = "CREATE TABLE t (a int PRIMARY KEY, b int, g int GENERATED ALWAYS AS (a * 2) STORED)";
    for major in 14..=17 {
        let pair = Pair::of(major);
        pair.subscribe(&format!("{TABLE}; INSERT INTO t VALUES (1, 1); CREATE PUBLICATION p FOR TABLE t"), TABLE);
        pair.publisher.run("UPDATE t SET b = 2");
        pair.logs(
            "publisher did not send replica identity column expected by the logical replication target relation \"public.t\"",
        );
        assert_eq!(pair.subscriber.value("SELECT b FROM t"), "1");
        let found: Vec<String> = pair.findings().into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(found, ["pg/generated-identity"], "on {major}");
        pair.forget();
        pair.subscribe(&format!("{MENDED}; INSERT INTO t VALUES (1, 1); CREATE PUBLICATION p FOR TABLE t"), MENDED);
        assert_eq!(pair.findings(), []);
        pair.publisher.run("UPDATE t SET b = 2");
        pair.subscriber.until("SELECT b FROM t", "2");
    }
}

#[test]
fn a_type_without_equality_stops_subscribers_that_have_no_key() {
    for major in 14..=18 {
        let pair = Pair::of(major);
        for (sql_type, value) in [("json", "{}"), ("point[]", "{}"), ("box", "(1,1),(0,0)")] {
            let table = format!("CREATE TABLE t (a int NOT NULL, b {sql_type})");
            let published = format!(
                "{table}; INSERT INTO t VALUES (1, '{value}'); ALTER TABLE t REPLICA IDENTITY FULL;
                 CREATE PUBLICATION p FOR TABLE t"
            );
            pair.subscribe(&published, &table);
            pair.publisher.run("UPDATE t SET a = 2");
            pair.logs(&format!("could not identify an equality operator for type {sql_type}"));
            let found = pair.findings();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, "pg/identity-full");
            assert!(found[0].1.contains(&format!("b ({sql_type})")), "{found:?}");
            // A key of the subscriber's own is enough for it.
            pair.subscriber.run("ALTER TABLE t ADD PRIMARY KEY (a)");
            pair.subscriber.until("SELECT a FROM t", "2");
            pair.forget();
        }
    }
}

#[test]
fn a_full_identity_makes_subscribers_before_16_look_through_the_whole_table() {
    let scans = |pair: &Pair| {
        let [table, index] = ["seq_scan", "idx_scan"].map(|column| {
            pair.subscriber.value(&format!("SELECT coalesce({column}, 0) FROM pg_stat_user_tables WHERE relname = 't'"))
        });
        [table, index].map(|scans| scans.parse::<u32>().expect("a number"))
    };
    const TABLES: &str = "CREATE TABLE t (a int, b int); CREATE TABLE done (a serial PRIMARY KEY)";
    for major in 14..=18 {
        let pair = Pair::of(major);
        let published = format!(
            "{TABLES}; INSERT INTO t SELECT g, g FROM generate_series(1, 1000) AS g; ALTER TABLE t REPLICA IDENTITY FULL;
             CREATE PUBLICATION p FOR TABLE t, done"
        );
        pair.subscribe(&published, &format!("{TABLES}; CREATE INDEX ON t (a)"));
        pair.subscriber.run("ANALYZE t");
        let before = scans(&pair);
        pair.publisher.run("UPDATE t SET b = 0 WHERE a <= 20");
        eventually("20 scans", || {
            // A worker reports what it did at the end of a transaction, if the last report is a while ago.
            pair.publisher.run("INSERT INTO done DEFAULT VALUES");
            let now = scans(&pair);
            match (now[0] - before[0], now[1] - before[1]) {
                (20.., ..20) if major < 16 => Ok(()),
                (..20, 20..) if major >= 16 => Ok(()),
                scans => Err((major, scans)),
            }
        });
    }
}

#[test]
fn different_column_lists_are_refused_to_a_subscription_at_once() {
    for major in 15..=18 {
        let pair = Pair::of(major);
        pair.publisher.run(
            "CREATE TABLE t (a int PRIMARY KEY, b int, c int); CREATE PUBLICATION p FOR TABLE t (a, b);
             CREATE PUBLICATION q FOR TABLE t (a, c)",
        );
        let error = pair.subscriber.try_rows(&pair.subscription("p, q")).unwrap_err();
        let message = error.as_db_error().expect("the server says it").message();
        assert_eq!(message, "cannot use different column lists for table \"public.t\" in different publications");
    }
}

#[test]
fn from_18_on_a_missing_publication_is_passed_over_with_a_warning() {
    let pair = Pair::of(18);
    pair.publisher.run("CREATE TABLE t (a int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t");
    pair.publisher.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    pair.publisher.run("INSERT INTO t VALUES (1)");
    let changes = "SELECT count(*) > 0 FROM pg_logical_slot_get_binary_changes(
        's', NULL, NULL, 'proto_version', '1', 'publication_names', 'p,q')";
    assert_eq!(pair.publisher.value(changes), "t");
    pair.logs("WARNING:  skipped loading publication \"q\"");
}
