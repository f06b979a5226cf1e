//! How soon findings are seen, and what `/v1/identity` and the console answer.

use serde_json::Value;
use walgate::scratch::Server;

use crate::support::daemon::{Walgate, free_address};
use crate::support::oracle::{Habits, Oracle};
use crate::support::{Sql, eventually, postgres};

/// A server with a publication of everything and a healthy table.
pub(crate) fn server() -> (Server, Sql) {
    let server = postgres(18).start().expect("PostgreSQL starts");
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE healthy (id int PRIMARY KEY)");
    sql.run("CREATE PUBLICATION everything FOR ALL TABLES");
    (server, sql)
}

/// Waits until a route of `/v1/identity` has a finding of this rule on this table, or has none.
#[track_caller]
pub(crate) fn until(walgate: &Walgate, route: &str, rule: &str, table: &str, there: bool) -> Value {
    eventually(&format!("{rule} on {table} to be there: {there}"), || match walgate.get(route) {
        (200, answer) if has(&answer, rule, table) == there => Ok(answer),
        other => Err(other),
    })
}

pub(crate) fn has(answer: &Value, rule: &str, table: &str) -> bool {
    let findings = answer["findings"].as_array().expect("findings are a list");
    findings.iter().any(|finding| finding["rule"] == rule && finding["table"] == table)
}

#[test]
fn a_finding_appears_and_goes_by_polling() {
    let (server, sql) = server();
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    let answer = until(&walgate, "/v1/identity", "pg/no-identity", "public.orders", false);
    assert_eq!((&answer["findings"], &answer["tables"]), (&Value::Array(vec![]), &1.into()));
    sql.run("CREATE TABLE orders (at timestamptz)");
    let answer = until(&walgate, "/v1/identity?source=main", "pg/no-identity", "public.orders", true);
    let finding = &answer["findings"][0];
    assert_eq!(
        (&finding["source"], &finding["severity"], &finding["publication"]),
        (&"main".into(), &"error".into(), &"everything".into())
    );
    assert!(finding["message"].is_string() && finding["fix"].is_string(), "{finding}");
    assert!(answer["observed_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{answer}");
    let console = Sql::connect(&walgate.dsn("ops", "walgate"));
    let rows = console.rows("SHOW FINDINGS");
    let shown: Vec<Option<&str>> = rows[0].iter().map(Option::as_deref).collect();
    for (column, name) in ["source", "rule", "severity", "table", "publication", "message", "fix"].iter().enumerate() {
        assert_eq!(shown[column], finding[name].as_str(), "{name}");
    }
    sql.run("ALTER TABLE orders REPLICA IDENTITY FULL");
    until(&walgate, "/v1/identity", "pg/no-identity", "public.orders", false);
}

#[test]
fn nothing_is_said_to_be_found_where_nothing_was_looked_at() {
    let (server, _) = server();
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    for (route, status, text) in [
        ("/v1/identity?for=zer", 400, "for: expected zero or pglogical"),
        ("/v1/identity?for=postgres", 400, "for: expected"),
        ("/v1/identity?for=", 400, "for: expected"),
        ("/v1/identity?fro=zero", 400, "fro"),
        ("/v1/identity?slot=s", 400, "slot"),
        ("/v1/identity?source=other", 404, "there is main"),
    ] {
        let (answered, problem) = walgate.get(route);
        assert_eq!(answered, status, "{route}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(text)), "{problem}");
    }
    for route in ["/v1/identity?for=zero", "/v1/identity?for=zero,pglogical&source=main"] {
        let answer = until(&walgate, route, "", "", false);
        assert!(answer["tables"].is_u64(), "{answer}");
    }

    let passive = Walgate::run(&format!("127.0.0.1:{}", server.port()), &["--passive"]);
    let console = Sql::connect(&passive.dsn("ops", "walgate"));
    assert_eq!(
        refused(&passive, &console),
        "source main is passive: walgate opens no connection of its own there, so nobody looks for findings; walgate check does"
    );

    let unreachable = Walgate::run(&format!("host={} user=u", free_address().replace(':', " port=")), &[]);
    let console = Sql::connect(&unreachable.dsn("ops", "walgate"));
    let reason = eventually("the attempt to fail", || match refused(&unreachable, &console) {
        reason if reason.contains("cannot be audited") => Ok(reason),
        reason => Err(reason),
    });
    assert!(reason.contains("refused"), "{reason}");
}

/// Why neither HTTP nor the console say anything.
#[track_caller]
fn refused(walgate: &Walgate, console: &Sql) -> String {
    let (status, problem) = walgate.get("/v1/identity");
    assert_eq!(status, 503, "{problem}");
    let error = console.try_rows("SHOW FINDINGS").expect_err("nothing is known");
    assert_eq!(error.code().map(|code| code.code()), Some("55000"));
    problem["detail"].as_str().expect("there is a detail").to_owned()
}

#[test]
fn a_finding_appears_as_the_stream_shows_it() {
    let (server, sql) = server();
    sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    let habits = Habits { messages: true, ..Habits::PLAIN };
    let _reader = Oracle::start(&walgate.dsn("postgres", "postgres"), "s", "everything", habits);
    until(&walgate, "/v1/identity", "", "", false);
    // What a table is like is sent before its first change.
    sql.run("CREATE TABLE orders (at timestamptz); INSERT INTO orders VALUES (now())");
    until(&walgate, "/v1/identity", "pg/no-identity", "public.orders", true);
    // And what zero-cache's event triggers emit for DDL.
    sql.run("CREATE TABLE carts (at timestamptz); SELECT pg_logical_emit_message(true, 'zero/0/ddl', '{}')");
    until(&walgate, "/v1/identity", "pg/no-identity", "public.carts", true);
}

#[test]
fn a_copy_of_a_slot_shows_it_too() {
    let (server, sql) = server();
    sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    let walgate = Walgate::run(&server.dsn("postgres"), &["--observe", "slot"]);
    sql.run("CREATE TABLE orders (at timestamptz); INSERT INTO orders VALUES (now())");
    walgate.lag_until("s", "is followed", |consumer| consumer["observe"] == "slot");
    until(&walgate, "/v1/identity", "pg/no-identity", "public.orders", true);
}
