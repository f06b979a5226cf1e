//! Real consumers that the guard refuses, and what they make of it.

use std::process::Command;

use crate::support::daemon::Walgate;
use crate::support::zero::{App, ZeroCache};
use crate::support::{Sql, eventually, last_lines, postgres, tool};

#[test]
fn a_subscription_is_refused_in_whole_and_an_apply_worker_comes_back_until_it_is_mended() {
    let (publisher, subscriber) = (postgres(18).start().unwrap(), postgres(18).start().unwrap());
    let source = Sql::connect(&publisher.dsn("postgres"));
    source.run("CREATE TABLE t (v text NOT NULL); CREATE PUBLICATION p FOR TABLE t");
    let walgate = Walgate::run(&publisher.dsn("postgres"), &["--guard", "block"]);
    let target = Sql::connect(&subscriber.dsn("postgres"));
    target.run("CREATE TABLE t (v text PRIMARY KEY)");
    let connection = walgate.dsn("postgres", "postgres");
    let create = format!("CREATE SUBSCRIPTION s CONNECTION '{connection}' PUBLICATION p WITH (disable_on_error)");

    let error = target.try_rows(&create).unwrap_err();
    let message = error.as_db_error().unwrap().message();
    for part in [
        "could not create replication slot \"s\": ERROR:  walgate's guard does not create replication slot \"s\"",
        "DETAIL:  table public.t: pg/no-identity: ",
        "HINT:  ALTER TABLE public.t ",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(source.value("SELECT count(*) FROM pg_replication_slots"), "0");
    assert_eq!(target.value("SELECT count(*) FROM pg_subscription"), "0");

    let recvlogical = |arguments: &[&str]| {
        let mut command = Command::new(tool("pg_recvlogical"));
        let output = command.args(["-d", &connection, "--slot", "r"]).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, errors) = recvlogical(&["--create-slot", "-P", "pgoutput"]);
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("ERROR:  walgate's guard does not create replication slot \"r\""), "{errors}");
    source.run("SELECT pg_create_logical_replication_slot('r', 'pgoutput')");
    let options = ["--start", "--no-loop", "-f", "-", "-o", "proto_version=1", "-o", "publication_names=p"];
    let (status, errors) = recvlogical(&options);
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("ERROR:  walgate's guard does not start replication from slot \"r\""), "{errors}");

    source.run("ALTER TABLE t ADD PRIMARY KEY (v)");
    target.run(&create);
    source.run("INSERT INTO t VALUES ('copied')");
    target.until("SELECT count(*) FROM t", "1");
    target.until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
    target.run("ALTER SUBSCRIPTION s SET (disable_on_error = false)");

    // The next stream asks for what is broken by now.
    source.run("ALTER TABLE t REPLICA IDENTITY NOTHING");
    let ended = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 's' AND active";
    source.until(ended, "t");
    let refused = "could not start WAL streaming: ERROR:  walgate's guard does not start replication from slot \"s\"";
    eventually("the apply worker to be refused", || match subscriber.log() {
        log if log.contains(refused) => Ok(()),
        log => Err(last_lines(&log)),
    });
    source.run("INSERT INTO t VALUES ('while it waits')");
    source.run("ALTER TABLE t REPLICA IDENTITY DEFAULT");
    target.until("SELECT count(*) FROM t", "2");
}

#[test]
fn a_physical_standby_is_not_the_guards_matter() {
    let mut primary = postgres(18).start().unwrap();
    let source = Sql::connect(&primary.dsn("postgres"));
    source.run("CREATE TABLE t (v text NOT NULL); CREATE PUBLICATION p FOR TABLE t");
    let walgate = Walgate::run(&primary.dsn("postgres"), &["--guard", "block"]);
    // It is restarted for the standby's sake.
    let standby = primary.standby(&walgate.dsn("postgres", "postgres")).unwrap();
    let source = Sql::connect(&primary.dsn("postgres"));
    source.run("INSERT INTO t VALUES ('x')");
    Sql::connect(&standby.dsn("postgres")).until("SELECT count(*) FROM t", "1");
    assert!(!walgate.log().contains("guard"), "{}", walgate.log());
}

#[test]
fn zero_cache_ends_at_its_first_start_and_says_why() {
    let server = postgres(17).start().unwrap();
    let source = Sql::connect(&server.dsn("postgres"));
    source.run("CREATE TABLE issue (id text PRIMARY KEY); CREATE TABLE log (v text)");
    let walgate = Walgate::run(&server.dsn("postgres"), &["--guard", "block", "--for", "zero"]);
    let url = format!("postgresql://postgres:unused@127.0.0.1:{}/postgres", walgate.port());
    let app = App { name: "zero", publications: &[], follows: true };
    let log = ZeroCache::try_start(&url, app).err().unwrap();
    let line = log.lines().find(|line| line.contains("exiting with error") && line.contains("WG001"));
    let line = line.unwrap_or_else(|| panic!("{}", last_lines(&log)));
    for part in ["walgate's guard does not create replication slot", "table public.log", "ALTER TABLE public.log"] {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(source.value("SELECT count(*) FROM pg_replication_slots"), "0");
    source.run("ALTER TABLE log ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
    let zero = ZeroCache::try_start(&url, app).unwrap_or_else(|log| panic!("{}", last_lines(&log)));
    assert!(zero.replica("SELECT id FROM log").is_ok());
}

#[test]
fn zero_cache_waits_on_a_reconnect_and_goes_on_once_it_is_mended() {
    let server = postgres(17).start().unwrap();
    let admin = Sql::connect(&server.dsn("postgres"));
    admin.run("CREATE DATABASE app");
    admin.run("CREATE DATABASE state");
    let source = Sql::connect(&server.dsn("app"));
    source.run("CREATE TABLE issue (id text PRIMARY KEY)");
    let arguments = ["--guard", "block", "--for", "zero", "--drain-timeout", "1s"];
    let walgate = Walgate::run(&server.dsn("app"), &arguments);
    let url = |port: u16, database: &str| format!("postgresql://postgres:unused@127.0.0.1:{port}/{database}");
    let zero = ZeroCache::start(&url(walgate.port(), "app"), &url(server.port(), "state"));

    source.run("CREATE TABLE later (v text)");
    let walgate = walgate.restart(&server.dsn("app"), &arguments);
    eventually("zero-cache to try again", || match zero.log() {
        log if log.lines().any(|line| line.contains("retrying change-streamer") && line.contains("WG001")) => Ok(()),
        log => Err((last_lines(&log), walgate.log())),
    });
    assert!(walgate.log().contains("tables=\"table public.later\""), "{}", walgate.log());
    assert_eq!(source.value("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'zero_0_a'"), "reserved");

    source.run("INSERT INTO issue VALUES ('while it waits')");
    source.run("ALTER TABLE later ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
    eventually("zero-cache to go on", || match zero.replica("SELECT id FROM issue") {
        Ok(rows) if rows[0]["id"] == "while it waits" => Ok(()),
        other => Err((other, walgate.log())),
    });
}
