//! What the guard does with the commands that begin a consumer, on real servers.

use walgate::scratch::Server;

use crate::client::{Client, refusal, tags, text};
use crate::peers::query;
use crate::support::daemon::{Walgate, free_address};
use crate::support::{Sql, eventually, postgres};

const CREATE: &str = "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput";

/// The command of a consumer of a publication, with the slot that is there.
fn start(publications: &str) -> String {
    format!("START_REPLICATION SLOT \"there\" LOGICAL 0/0 (proto_version '1', publication_names '{publications}')")
}

/// A database with the publications `good`, whose table has a key, and `bad`, whose table has none; and the slot `there`.
fn scene(server: &Server, database: &str) -> Sql {
    Sql::connect(&server.dsn("postgres")).run(&format!("CREATE DATABASE {database}"));
    let sql = Sql::connect(&server.dsn(database));
    sql.run("CREATE TABLE good (id int PRIMARY KEY); CREATE PUBLICATION good FOR TABLE good");
    sql.run("CREATE TABLE \"Bad\" (v text); CREATE PUBLICATION bad FOR TABLE \"Bad\"");
    sql.run("SELECT pg_create_logical_replication_slot('there', 'pgoutput')");
    sql
}

fn drop_scene(server: &Server, database: &str) {
    let sql = Sql::connect(&server.dsn(database));
    eventually("the slot to be free", || sql.try_rows("SELECT pg_drop_replication_slot('there')"));
}

#[test]
fn what_a_table_would_break_is_refused_with_the_sql_that_mends_it_and_passes_once_mended() {
    for major in [14, 18] {
        let server = postgres(major).start().unwrap();
        let sql = scene(&server, "app");
        let walgate = Walgate::run(&server.dsn("app"), &["--guard", "block"]);
        let mut client = Client::log_in(&walgate, "app");

        let error = refusal(&client.ask(CREATE));
        assert_eq!((&*error.severity, &*error.code), ("ERROR", "WG001"));
        assert_eq!(
            error.message,
            "walgate's guard does not create replication slot \"s\": table public.\"Bad\" would break it"
        );
        assert!(error.detail.starts_with("table public.\"Bad\": pg/no-identity: It has no primary key"), "{error:?}");
        assert!(
            error.hint.contains("ALTER TABLE public.\"Bad\" ") && error.hint.contains("walgate check"),
            "{error:?}"
        );

        // Only what the consumer asks for counts.
        assert_eq!(tags(&client.ask(&start("good"))), "W");
        client.end_stream();
        let error = refusal(&client.ask(&start("good, \"bad\"")));
        assert_eq!(
            error.message,
            "walgate's guard does not start replication from slot \"there\": table public.\"Bad\" would break it"
        );
        assert!(error.hint.contains("walgate check --publication 'good' --publication 'bad'"), "{error:?}");

        // The session goes on, and the server has not heard of it.
        assert_eq!(tags(&client.ask("IDENTIFY_SYSTEM")), "TDCZ");
        assert_eq!(sql.value("SELECT count(*) FROM pg_replication_slots"), "1");
        let (_, metrics) = walgate.get("/metrics");
        let refused = "walgate_guard_total{source=\"main\",command=\"START_REPLICATION\",outcome=\"refused\"} 1";
        assert!(metrics.as_str().unwrap().contains(refused), "{metrics}");
        assert!(walgate.log().contains("the guard has refused a consumer"), "{}", walgate.log());

        sql.run("ALTER TABLE \"Bad\" ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
        // On a session of its own: a walsender that has streamed sends a keepalive while it makes a slot.
        assert_eq!(tags(&Client::log_in(&walgate, "app").ask(CREATE)), "TDCZ");
        assert_eq!(tags(&client.ask(&start("bad"))), "W");
        client.end_stream();

        // And what is broken from now on is refused from now on.
        sql.run("ALTER TABLE \"Bad\" REPLICA IDENTITY NOTHING");
        assert!(refusal(&client.ask(&start("bad"))).detail.contains("pg/identity-nothing"));
    }
}

#[test]
fn the_transaction_that_a_refusal_falls_into_stays_as_it_is() {
    let server = postgres(18).start().unwrap();
    let _sql = scene(&server, "app");
    let walgate = Walgate::run(&server.dsn("app"), &["--guard", "block"]);
    let mut client = Client::log_in(&walgate, "app");
    client.ask("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ");
    let answer = client.ask("CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput USE_SNAPSHOT");
    assert_eq!(refusal(&answer).code, "WG001");
    assert_eq!(answer.last(), Some(&(b'Z', b"T".to_vec())));
    assert_eq!(tags(&client.ask("SELECT 1")), "TDCZ");
    assert_eq!(client.ask("COMMIT").last(), Some(&(b'Z', b"I".to_vec())));
}

#[test]
fn the_guard_can_be_switched_while_a_session_waits() {
    let server = postgres(18).start().unwrap();
    let _sql = scene(&server, "app");
    let listen = free_address();
    let file = |guard: &str, rule_sets: &str| {
        format!(
            "[http]\nlisten = \"HTTP\"\n[[source]]\nname = \"main\"\ndsn = \"{}\"\nlisten = \"{listen}\"\n\
             guard = \"{guard}\"\nfor = [{rule_sets}]\n",
            server.dsn("app")
        )
    };
    let walgate = Walgate::configured(&file("off", ""), &listen);
    let mut client = Client::log_in(&walgate, "app");
    assert_eq!(tags(&client.ask(CREATE)), "TDCZ");
    assert_eq!(tags(&client.ask("DROP_REPLICATION_SLOT s")), "CZ");
    walgate.configure(&file("block", "\"zero\""));
    assert!(refusal(&client.ask(CREATE)).hint.contains("walgate check --for zero --format sql"));
    walgate.configure(&file("warn", ""));
    // It warns of what the newest audit has found, which may be one from before.
    eventually("a warning", || {
        assert_eq!(tags(&client.ask(CREATE)), "TDCZ");
        assert_eq!(tags(&client.ask("DROP_REPLICATION_SLOT s")), "CZ");
        if walgate.log().contains("a consumer begins that will break") { Ok(()) } else { Err(walgate.log()) }
    });
    let (_, metrics) = walgate.get("/metrics");
    assert!(metrics.as_str().unwrap().contains("outcome=\"warned\""), "{metrics}");
    walgate.configure(&file("off", ""));
    assert_eq!(tags(&client.ask(CREATE)), "TDCZ");
}

#[test]
fn what_cannot_be_judged_passes_with_a_warning() {
    let server = postgres(18).start().unwrap();
    let (one, other) = (scene(&server, "one"), Sql::connect(&server.dsn("postgres")));
    // walgate's own role may not log in.
    let no_role = server.dsn("one").replace("user=postgres", "user=nobody");
    let no_rights = server.dsn("one").replace("user=postgres", "user=somebody");
    other.run("CREATE ROLE somebody LOGIN");
    one.run("REVOKE SELECT ON pg_class FROM PUBLIC");
    for (dsn, reason) in [(no_role, "nobody"), (no_rights, "permission denied")] {
        let walgate = Walgate::run(&dsn, &["--guard", "block"]);
        let mut client = Client::log_in(&walgate, "one");
        let answer = client.ask(CREATE);
        assert_eq!(tags(&answer), "TDCZ", "{}", text(&answer));
        let log = walgate.log();
        let line = log.lines().find(|line| line.contains("the guard cannot judge")).unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("ERROR") && line.contains(reason), "{line}");
        let (_, metrics) = walgate.get("/metrics");
        assert!(metrics.as_str().unwrap().contains("outcome=\"unjudged\"} 1"), "{metrics}");
    }
    // Another database than walgate's own.
    let walgate = Walgate::run(&server.dsn("postgres"), &["--guard", "block"]);
    assert_eq!(tags(&Client::log_in(&walgate, "one").ask(CREATE)), "TDCZ");
    assert!(walgate.log().contains("walgate's own sessions are in another database"), "{}", walgate.log());
    drop_scene(&server, "one");
}

#[test]
fn a_catalog_that_is_locked_is_not_waited_for_long() {
    let server = postgres(18).start().unwrap();
    let sql = scene(&server, "app");
    let walgate = Walgate::run(&server.dsn("app"), &["--guard", "block"]);
    let mut client = Client::log_in(&walgate, "app");
    sql.run("BEGIN; LOCK pg_publication_rel");
    assert_eq!(tags(&client.ask(&start("bad"))), "W");
    assert!(walgate.log().contains("the guard cannot judge a consumer, and lets it pass"), "{}", walgate.log());
    client.end_stream();
    // A client that goes away meanwhile leaves nothing behind.
    let mut gone = Client::log_in(&walgate, "app");
    gone.send(&query(&start("bad")));
    drop(gone);
    eventually("one session to be left", || match walgate.get("/metrics").1.as_str().unwrap_or_default() {
        metrics if metrics.contains("walgate_proxy_sessions{source=\"main\",kind=\"logical\"} 1\n") => Ok(()),
        metrics => Err(metrics.to_owned()),
    });
    sql.run("ROLLBACK");
    assert_eq!(refusal(&client.ask(CREATE)).code, "WG001");
}

#[test]
fn other_commands_and_plugins_and_physical_replication_pass() {
    let server = postgres(18).start().unwrap();
    let sql = scene(&server, "app");
    let walgate = Walgate::run(&server.dsn("app"), &["--guard", "block"]);
    let mut client = Client::log_in(&walgate, "app");
    for (command, expected) in [
        ("IDENTIFY_SYSTEM", "TDCZ"),
        ("CREATE_REPLICATION_SLOT p TEMPORARY PHYSICAL", "TDCZ"),
        ("CREATE_REPLICATION_SLOT d TEMPORARY LOGICAL test_decoding", "TDCZ"),
        ("READ_REPLICATION_SLOT p", "TDCZ"),
        ("SELECT 'CREATE_REPLICATION_SLOT s LOGICAL pgoutput'", "TDCZ"),
        // Not understood by the server either.
        ("CREATE_REPLICATION_SLOT", "EZ"),
        ("START_REPLICATION SLOT there LOGICAL 0/0", "EZ"),
        // No publication, no table.
        ("START_REPLICATION SLOT there LOGICAL 0/0 (proto_version '1', publication_names '')", "W"),
    ] {
        let answer = client.ask(command);
        assert_eq!(tags(&answer), expected, "{command}: {}", text(&answer));
        assert!(!text(&answer).contains("WG001"), "{command}");
        if expected == "W" {
            client.end_stream();
        }
    }
    let lsn = sql.value("SELECT pg_current_wal_lsn()");
    let mut client = Client::log_in(&walgate, "app");
    client.ask("CREATE_REPLICATION_SLOT q TEMPORARY PHYSICAL");
    assert_eq!(tags(&client.ask(&format!("START_REPLICATION SLOT q PHYSICAL {lsn}"))), "W");
    assert!(!walgate.log().contains("guard"), "{}", walgate.log());
}
