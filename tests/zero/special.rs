//! What SQL alone cannot show: the server, the role, and what changes while zero-cache runs.

use walgate::scratch::{Server, Stop};

use crate::support::check;
use crate::support::zero::{App, ZeroCache};
use crate::support::{Sql, eventually, last_lines, postgres};

/// The rules that are proven here.
pub(crate) const RULES: [&str; 4] =
    ["zero/wal-level", "zero/server-version", "zero/no-event-triggers", "zero/row-filter"];

/// A zero-cache that makes its own publication.
const APP: App<'_> = App { name: "zero", publications: &[], follows: true };
/// One that is told what to replicate.
const MINE: App<'_> = App { name: "zero", publications: &["mine"], follows: true };

#[test]
fn a_server_without_logical_decoding_is_named() {
    let mut server = postgres(18).setting("wal_level", "replica").start().unwrap();
    assert_eq!(rules(&server), ["zero/wal-level"]);
    refused(&server, r#"Postgres must be configured with "wal_level = logical""#);
    server.reload_with(&[("wal_level", "logical")]).unwrap();
    server.restart(Stop::Fast).unwrap();
    assert_eq!(rules(&server), Vec::<String>::new());
    served(&server, APP);
}

#[test]
fn an_old_server_is_named() {
    let old = postgres(14).start().unwrap();
    assert_eq!(rules(&old), ["zero/server-version"]);
    refused(&old, "Must be running Postgres 15 or higher");
    let new = postgres(15).start().unwrap();
    assert_eq!(rules(&new), Vec::<String>::new());
    served(&new, APP);
}

#[test]
fn a_role_that_may_not_create_event_triggers_is_named() {
    const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION mine FOR TABLE t";
    const CHANGE: &str = "ALTER TABLE t ADD COLUMN v int; INSERT INTO t VALUES (1, 2)";
    let server = postgres(18).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE ROLE plain LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO plain; CREATE SCHEMA AUTHORIZATION plain");
    sql.run(&format!("SET ROLE plain; {SCHEMA}; RESET ROLE"));
    let mut zero =
        ZeroCache::try_start(&url(&server, "plain"), MINE).unwrap_or_else(|log| panic!("{}", last_lines(&log)));
    assert!(zero.log().contains("Unable to create event triggers"), "{}", last_lines(&zero.log()));
    assert_eq!(rules(&server), ["zero/no-event-triggers"]);
    sql.run("SET search_path = plain");
    sql.run(CHANGE);
    let log = zero.ends();
    assert!(log.contains("Schema changes cannot be reliably replicated without event trigger support."), "{log}");

    let server = postgres(18).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run(SCHEMA);
    let zero = served(&server, MINE);
    assert_eq!(rules(&server), Vec::<String>::new());
    sql.run(CHANGE);
    holds(&zero, "SELECT v AS answer FROM t", 2);
}

#[test]
fn a_publication_that_leaves_deletes_out_while_it_runs_is_named() {
    let server = postgres(18).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); CREATE PUBLICATION mine FOR TABLE t");
    let mut zero = served(&server, MINE);
    assert_eq!(rules(&server), Vec::<String>::new());
    sql.run("ALTER PUBLICATION mine SET (publish = 'insert, update, truncate')");
    assert_eq!(rules(&server), ["zero/publication-operations"]);
    sql.run("DELETE FROM t WHERE id = 1");
    sql.run("INSERT INTO t VALUES (3)");
    holds(&zero, "SELECT count(*) AS answer FROM t WHERE id = 3", 1);
    holds(&zero, "SELECT count(*) AS answer FROM t", 3);
    assert!(!zero.has_ended(), "{}", last_lines(&zero.log()));
    sql.run("ALTER PUBLICATION mine SET (publish = 'insert, update, delete, truncate')");
    assert_eq!(rules(&server), Vec::<String>::new());
    sql.run("DELETE FROM t WHERE id = 2");
    holds(&zero, "SELECT count(*) AS answer FROM t", 2);
}

#[test]
fn a_filter_that_changes_is_not_applied_to_the_rows_that_are_there() {
    let server = postgres(18).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)");
    sql.run("CREATE PUBLICATION mine FOR TABLE t WHERE (id > 2)");
    let zero = served(&server, MINE);
    assert_eq!(rules(&server), ["zero/row-filter"]);
    sql.run("ALTER PUBLICATION mine SET TABLE t WHERE (id > 0)");
    sql.run("INSERT INTO t VALUES (4)");
    holds(&zero, "SELECT count(*) AS answer FROM t WHERE id = 4", 1);
    holds(&zero, "SELECT count(*) AS answer FROM t", 2);
    assert_eq!(sql.value("SELECT count(*) FROM t"), "4");
}

/// The rules that do not hold, but for what is only good to know of PostgreSQL's.
#[track_caller]
fn rules(server: &Server) -> Vec<String> {
    let findings = check::findings(&server.dsn("postgres"), &["--for", "zero"]);
    let rules = findings.iter().filter_map(|finding| finding["rule"].as_str());
    rules.filter(|rule| *rule != "pg/not-published").map(str::to_owned).collect()
}

#[track_caller]
fn served(server: &Server, app: App<'_>) -> ZeroCache {
    ZeroCache::try_start(&url(server, server.superuser()), app)
        .unwrap_or_else(|log| panic!("it does not start: {}", last_lines(&log)))
}

#[track_caller]
fn refused(server: &Server, says: &str) {
    match ZeroCache::try_start(&url(server, server.superuser()), APP) {
        Ok(zero) => panic!("it serves: {}", last_lines(&zero.log())),
        Err(log) => assert!(log.contains(says), "{}", last_lines(&log)),
    }
}

/// Waits until a query of the replica has this answer.
#[track_caller]
fn holds(zero: &ZeroCache, sql: &str, expected: u64) {
    eventually(sql, || match zero.replica(sql) {
        Ok(rows) if rows[0]["answer"] == expected => Ok(()),
        other => Err((other, last_lines(&zero.log()))),
    });
}

fn url(server: &Server, role: &str) -> String {
    format!("postgresql://{role}:unused@127.0.0.1:{}/postgres", server.port())
}
