//! S3: the slots of a real zero-cache are reset as the runbook has it.

use serde_json::Value;
use walgate::scratch::{Server, Signal};

use crate::reset::Resets;
use crate::scene::{command, slots};
use crate::support::command::outcome;
use crate::support::zero::ZeroCache;
use crate::support::{Sql, eventually, last_lines, postgres};

const PATTERN: &str = r"zero\_%";

/// A server with a schema that zero-cache can replicate, and a session in its database.
fn app(major: u32) -> (Server, Sql) {
    let server = postgres(major).start().expect("the server starts");
    for database in ["app", "state"] {
        Sql::connect(&server.dsn("postgres")).run(&format!("CREATE DATABASE {database}"));
    }
    let sql = Sql::connect(&server.dsn("app"));
    sql.run(
        "CREATE TABLE issue (id text PRIMARY KEY, title text NOT NULL);
         INSERT INTO issue SELECT i::text, 'issue ' || i FROM generate_series(1, 500) i",
    );
    (server, sql)
}

#[track_caller]
fn deploy(server: &Server) -> ZeroCache {
    let url = |database: &str| format!("postgresql://postgres:unused@127.0.0.1:{}/{database}", server.port());
    ZeroCache::start(&url("app"), &url("state"))
}

#[track_caller]
fn holds(zero: &ZeroCache, sql: &str, expected: impl Into<Value>) {
    let expected = expected.into();
    eventually(&format!("zero-cache's replica: {sql}"), || match zero.replica(sql) {
        Ok(rows) if rows[0]["answer"] == expected => Ok(()),
        other => Err((other, last_lines(&zero.log()))),
    });
}

#[test]
fn the_slots_of_zero_cache_are_reset_in_order_and_watched_until_it_has_caught_up() {
    let (server, sql) = app(17);
    let resets = Resets::at(&server.dsn("app"));
    let reset = [PATTERN, "--for", "zero", "--yes"];
    let zero = deploy(&server);
    holds(&zero, "SELECT count(*) AS answer FROM issue", 500);
    let list = outcome(&mut command(&[&server.dsn("app"), "list", PATTERN]));
    assert!(list.output.contains("\nzero_0_a  ") && list.output.contains("read by zero-replicator at "), "{list:?}");

    // A migration, and a table that breaks it: mended first.
    sql.run("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)");
    let refused = resets.run(&reset);
    assert_eq!((refused.status, slots(&sql)), (Some(1), vec!["zero_0_a".to_owned()]), "{refused:?}");
    assert!(refused.errors.contains("public.alembic_version: "), "{refused:?}");
    sql.run("ALTER TABLE alembic_version ADD PRIMARY KEY (version_num); INSERT INTO alembic_version VALUES ('1')");

    // It runs: nothing is dropped under it.
    let refused = resets.run(&reset);
    assert_eq!((refused.status, slots(&sql)), (Some(1), vec!["zero_0_a".to_owned()]), "{refused:?}");
    assert!(refused.errors.contains("zero_0_a is read by zero-replicator at "), "{refused:?}");

    // It is stopped, and its slot dropped. Somebody stops the reset, too.
    drop(zero);
    sql.until("SELECT count(*) FROM pg_replication_slots WHERE active", "0");
    let dropping = resets.start(&reset);
    dropping.until("waiting for a new slot zero_0_…");
    assert_eq!(slots(&sql), [""; 0]);
    dropping.signal(Signal::Kill);
    dropping.end();
    let watching = resets.start(&reset);
    watching.until("waiting for a new slot zero_0_…");

    // It is deployed anew, and copies what there is. Whoever resets now, even so, leaves it alone.
    sql.run("INSERT INTO issue VALUES ('x', 'while it was away')");
    let zero = deploy(&server);
    let done = watching.end();
    assert_eq!(done.status, Some(0), "{done:?}");
    assert!(done.errors.contains("zero_0_a is read by zero-replicator at "), "{done:?}");
    assert_eq!(slots(&sql), ["zero_0_a"]);
    let refused = resets.run(&reset);
    assert!(refused.status == Some(1) && refused.errors.contains("nothing is wrong with zero_0_a"), "{refused:?}");
    holds(&zero, "SELECT count(*) AS answer FROM issue", 501);
    sql.run("INSERT INTO issue VALUES ('y', 'after the reset')");
    holds(&zero, "SELECT count(*) AS answer FROM issue", 502);
    holds(&zero, "SELECT count(*) AS answer FROM alembic_version", 1);
}

#[test]
fn a_zero_cache_that_runs_is_ended_and_the_one_that_follows_it_is_not() {
    let (server, sql) = app(18);
    let resets = Resets::at(&server.dsn("app"));
    let reset = [PATTERN, "--for", "zero", "--yes", "--terminate"];
    let mut zero = deploy(&server);
    holds(&zero, "SELECT count(*) AS answer FROM issue", 500);
    let ending = resets.start(&reset);
    ending.until("waiting for a new slot zero_0_…");
    zero.ends();
    ending.signal(Signal::Kill);
    ending.end();
    drop(zero);

    let mut zero = deploy(&server);
    let restart = sql.value("SELECT confirmed_flush_lsn IS NOT NULL FROM pg_replication_slots");
    assert_eq!(restart, "t");
    // The job that resets is started again, with the same arguments.
    let done = resets.run(&reset);
    assert_eq!(done.status, Some(0), "{done:?}");
    assert!(done.errors.contains("zero_0_a was made since, and stays"), "{done:?}");
    assert!(!zero.has_ended(), "{}", last_lines(&zero.log()));
    sql.run("INSERT INTO issue VALUES ('y', 'after the reset')");
    holds(&zero, "SELECT count(*) AS answer FROM issue", 501);
}
