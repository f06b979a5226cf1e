//! Subscriptions, and what a consumer that does not get on does to its source.

use serde_json::Value;

use crate::scene::{problems, rules, statement, until_found, until_gone};
use crate::support::{Sql, postgres};

#[test]
fn each_state_of_a_subscription_that_needs_somebody_is_told_and_gone_once_it_is_mended() {
    for major in [14, 18] {
        let settings = [("max_logical_replication_workers", "2"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
        let builder = settings.iter().fold(postgres(major), |builder, (name, value)| builder.setting(name, value));
        let server = builder.start().expect("the server starts");
        let (source, sql) = (server.dsn("postgres"), Sql::connect(&server.dsn("postgres")));
        sql.run("CREATE DATABASE target");
        let (target, there) = (server.dsn("target"), Sql::connect(&server.dsn("target")));
        for sql in [&sql, &there] {
            sql.run("CREATE TABLE t (id int PRIMARY KEY, note text); CREATE TABLE late (id int PRIMARY KEY)");
        }
        sql.run("CREATE PUBLICATION p FOR TABLE t");
        sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
        there.run(&format!(
            "CREATE SUBSCRIPTION \"S\" CONNECTION '{source}' PUBLICATION p WITH (create_slot = false, slot_name = s)"
        ));
        for rule in ["subscription/down", "subscription/tables"] {
            until_gone(&target, rule);
        }
        let found = problems(&target, &[]);
        assert_eq!(rules(&found), [("server/workers".to_owned(), String::new())].into(), "one is left: {found:?}");

        // The apply worker waits for a table, and its slot keeps WAL.
        let locker = Sql::connect(&target);
        locker.run("BEGIN; LOCK TABLE t");
        sql.run("INSERT INTO t VALUES (1, 'a')");
        for _ in 0..8 {
            sql.run("SELECT pg_logical_emit_message(false, 'fill', 'x'); SELECT pg_switch_wal()");
        }
        until_found(&target, "lock/queue");
        until_found(&source, "slot/pins-wal");
        let large = until_found(&source, "wal/size");
        assert!(large["message"].as_str().is_some_and(|message| message.contains("slot s keeps")), "{large}");
        locker.run("COMMIT");
        until_gone(&target, "lock/queue");
        crate::support::eventually("WAL to go", || {
            sql.run("SELECT pg_logical_emit_message(true, 'on', 'x'); CHECKPOINT");
            let found = rules(&problems(&source, &[]));
            if found.iter().any(|(rule, _)| rule == "wal/size" || rule == "slot/pins-wal") {
                Err(found)
            } else {
                Ok(())
            }
        });

        // A copy that fails.
        sql.run("INSERT INTO late VALUES (1); ALTER PUBLICATION p ADD TABLE late");
        there.run("INSERT INTO late VALUES (1)");
        there.run("ALTER SUBSCRIPTION \"S\" REFRESH PUBLICATION");
        let copying = until_found(&target, "subscription/tables");
        assert!(copying["message"].as_str().is_some_and(|message| message.contains("public.late")), "{copying}");
        if major >= 15 {
            assert_eq!(until_found(&target, "subscription/errors")["severity"], "info");
        }
        there.run("DELETE FROM late");
        until_gone(&target, "subscription/tables");

        if major >= 15 {
            there.run("SELECT pg_stat_reset_subscription_stats(NULL)");
            until_gone(&target, "subscription/errors");
            there.run("ALTER SUBSCRIPTION \"S\" SKIP (lsn = 'F/0')");
            mend(&there, &until_found(&target, "subscription/skips"), "ALTER SUBSCRIPTION");
            until_gone(&target, "subscription/skips");
        }

        there.run("ALTER SUBSCRIPTION \"S\" DISABLE");
        let disabled = until_found(&target, "subscription/disabled");
        let from = format!("its slot s at postgresql://postgres@127.0.0.1:{}/postgres keeps WAL", server.port());
        assert!(disabled["message"].as_str().is_some_and(|message| message.contains(&from)), "{disabled}");
        until_found(&source, "slot/unread");
        mend(&there, &disabled, "ALTER SUBSCRIPTION");
        until_gone(&target, "subscription/disabled");
        until_gone(&target, "subscription/down");
        until_gone(&source, "slot/unread");

        sql.run("ALTER PUBLICATION p DROP TABLE t, late");
        there.run("ALTER SUBSCRIPTION \"S\" REFRESH PUBLICATION");
        let empty = until_found(&target, "subscription/tables");
        sql.run("ALTER PUBLICATION p ADD TABLE t");
        there.run("TRUNCATE t");
        mend(&there, &empty, "ALTER SUBSCRIPTION");
        until_gone(&target, "subscription/tables");
    }
}

#[track_caller]
fn mend(sql: &Sql, problem: &Value, beginning: &str) {
    sql.run(&statement(problem, beginning));
}
