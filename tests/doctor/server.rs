//! The server as a whole, and the role that looks.

use std::collections::BTreeSet;

use walgate::scratch::{Server, Stop};

use crate::scene::{doctor, dsn, problems, rules, statement, until_found, until_gone};
use crate::support::{Sql, eventually, postgres};

#[test]
fn a_healthy_server_is_0_and_a_role_that_does_not_see_all_of_it_is_told_what_it_lacks() {
    for major in 14..=18 {
        let server = postgres(major).start().expect("the server starts");
        let sql = Sql::connect(&server.dsn("postgres"));
        sql.run("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t; CREATE ROLE \"No One\" LOGIN");

        let told = doctor(&[&server.dsn("postgres")]);
        assert_eq!(told.status, Some(0), "PostgreSQL {major}: {told:?}");
        for seen in
            ["wal_level is logical", "0 of 20 replication slots", "1 publication, 1 published table", "\nhealthy\n"]
        {
            assert!(told.output.contains(seen), "PostgreSQL {major}, {seen}: {}", told.output);
        }

        let stranger = server.dsn("postgres").replace("user=postgres", "user='No One'");
        let found = problems(&stranger, &[]);
        let expected = [("role/replication", "No One"), ("role/unseen", "pg_wal"), ("role/unseen", "transactions")];
        let expected = expected.map(|(rule, subject)| (rule.to_owned(), subject.to_owned()));
        assert_eq!(rules(&found), expected.into(), "PostgreSQL {major}");
        for problem in &found {
            let line = problem["mend"][0].as_str().expect("each has a mend");
            sql.run(line);
        }
        let told = doctor(&[&stranger]);
        assert_eq!(told.status, Some(0), "PostgreSQL {major}: {told:?}");
    }
}

#[test]
fn a_server_that_cannot_decode_or_stream_is_told_and_its_mend_makes_it_one_that_can() {
    for major in [14, 18] {
        let settings = [("wal_level", "replica"), ("max_wal_senders", "0"), ("max_replication_slots", "1")];
        let builder = settings.iter().fold(postgres(major), |builder, (name, value)| builder.setting(name, value));
        let mut server = builder.start().expect("the server starts");
        let (dsn, sql) = (server.dsn("postgres"), Sql::connect(&server.dsn("postgres")));

        let found = problems(&dsn, &["--for", "zero"]);
        let mut expected =
            vec!["role/replication", "server/slots", "server/wal-level", "server/walsenders", "zero/wal-level"];
        if major < 15 {
            expected.push("zero/server-version");
        }
        let found_rules: BTreeSet<String> = rules(&found).into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(found_rules, expected.into_iter().map(str::to_owned).collect(), "PostgreSQL {major}");
        let of = |rule: &str| found.iter().find(|problem| problem["rule"] == rule).expect(rule);
        let severity = |rule| of(rule)["severity"].as_str();
        assert_eq!((severity("server/walsenders"), severity("server/slots")), (Some("error"), Some("warning")));
        // What the messages quote is what the server says; some versions put names in quotes.
        let said = |rule| of(rule)["message"].as_str().unwrap_or_default().replace('"', "");
        let refused =
            sql.try_rows("SELECT pg_create_logical_replication_slot('s', 'pgoutput')").expect_err("it cannot");
        let refused = refused.as_db_error().expect("the server says so").message().replace('"', "");
        assert!(said("server/wal-level").contains(&refused), "{refused}: {found:?}");
        let refused = "number of requested standby connections exceeds max_wal_senders";
        for rule in ["server/walsenders", "role/replication"] {
            assert!(said(rule).contains(refused), "{rule}: {found:?}");
        }

        for rule in ["server/wal-level", "server/walsenders", "server/slots"] {
            sql.run(&statement(of(rule), "ALTER SYSTEM"));
        }
        sql.run("SELECT pg_reload_conf()");
        sql.until("SELECT bool_and(pending_restart) FROM pg_settings WHERE name = 'wal_level'", "t");
        let waiting = until_found(&dsn, "server/wal-level");
        assert!(waiting["mend"][0].as_str().is_some_and(|mend| mend.contains("restart the server")), "{waiting}");
        server.restart(Stop::Fast).expect("it restarts");
        let told = doctor(&[&dsn]);
        assert_eq!(told.status, Some(0), "PostgreSQL {major}: {told:?}");
    }
}

#[test]
fn an_archiver_that_fails_and_a_standby_that_commits_wait_for_are_told() {
    let archiving = [("archive_mode", "on"), ("archive_command", "false")];
    let builder = archiving.iter().fold(postgres(18), |builder, (name, value)| builder.setting(name, value));
    let server = builder.start().expect("the server starts");
    let (dsn, sql) = (server.dsn("postgres"), Sql::connect(&server.dsn("postgres")));
    sql.run("CREATE TABLE t (id int PRIMARY KEY); SELECT pg_switch_wal()");
    until_found(&dsn, "wal/archiver");
    server.reload_with(&[("archive_command", "true")]).expect("it reloads");
    until_gone(&dsn, "wal/archiver");

    server.reload_with(&[("synchronous_standby_names", "nobody")]).expect("it reloads");
    let problem = until_found(&dsn, "server/synchronous");
    sql.run(&statement(&problem, "ALTER SYSTEM"));
    sql.run("SELECT pg_reload_conf()");
    until_gone(&dsn, "server/synchronous");
}

#[test]
fn a_standby_is_looked_at_as_one() {
    for major in [14, 18] {
        let mut primary = postgres(major).start().expect("the server starts");
        Sql::connect(&primary.dsn("postgres"))
            .run("CREATE ROLE walgate LOGIN REPLICATION; GRANT pg_monitor TO walgate");
        // Its workers are its primary's business.
        Sql::connect(&primary.dsn("postgres"))
            .run("CREATE SUBSCRIPTION s CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)");
        let source = primary.dsn("postgres").replace(" dbname=postgres", "");
        let standby = primary.standby(&source).expect("the standby starts");
        let dsn = dsn(&standby, "walgate");
        until_gone(&dsn, "standby/receiver");
        let told = doctor(&[&dsn]);
        assert_eq!(told.status, Some(0), "PostgreSQL {major}: {told:?}");
        assert!(
            told.output.contains(", a standby, ") && told.output.contains("streaming from its primary"),
            "{told:?}"
        );
        if major >= 17 {
            slots_are_kept_in_step(&primary, &standby, &dsn);
        }
        primary.stop(Stop::Fast).expect("it stops");
        until_found(&dsn, "standby/receiver");
    }
}

/// A slot that a standby keeps for the day when it is promoted is not to be read there.
fn slots_are_kept_in_step(primary: &Server, standby: &Server, dsn: &str) {
    let (source, copy) = (Sql::connect(&primary.dsn("postgres")), Sql::connect(&standby.dsn("postgres")));
    source.run("SELECT pg_create_physical_replication_slot('standby', true)");
    source.run("SELECT pg_create_logical_replication_slot('consumer', 'pgoutput', failover => true)");
    let settings = [
        ("primary_conninfo", &*primary.dsn("postgres")),
        ("primary_slot_name", "standby"),
        ("hot_standby_feedback", "on"),
        ("sync_replication_slots", "on"),
    ];
    standby.reload_with(&settings).expect("it reloads");
    eventually("the slot to be there", || {
        source.run("SELECT pg_log_standby_snapshot()");
        let seen = copy.value("SELECT bool_and(synced AND NOT temporary) FROM pg_replication_slots");
        if seen == "t" { Ok(()) } else { Err(seen) }
    });
    until_found(&primary.dsn("postgres"), "slot/unread");
    assert_eq!(doctor(&[dsn]).status, Some(0));
}
