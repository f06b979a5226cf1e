//! `walgate slots drop`.

use std::process::{Command, Stdio};

use walgate::scratch::Server;

use crate::scene::{Asking, Running, command, make_slots, read, slots, source};
use crate::support::command::{Outcome, outcome};
use crate::support::{Sql, eventually, tool};

#[track_caller]
fn drop_slots(dsn: &str, arguments: &[&str]) -> Outcome {
    outcome(&mut command(&[&[dsn, "drop"], arguments].concat()))
}

#[test]
fn what_matches_is_dropped_wherever_it_is_and_the_rest_stays() {
    for major in [14, 15, 16, 17, 18] {
        let (server, sql) = source(major, &[]);
        let dsn = server.dsn("postgres");
        sql.run("CREATE DATABASE other");
        make_slots(&Sql::connect(&server.dsn("other")), &["zero_0_elsewhere"]);
        make_slots(&sql, &["zero_0_a", "zeros", "green_sub"]);
        sql.run("SELECT pg_create_physical_replication_slot('zero_0_standby', true)");
        sql.run("SELECT pg_create_physical_replication_slot('zero_0_unused')");

        let outcome = drop_slots(&dsn, &[r"zero\_%", "--yes"]);
        assert_eq!(outcome.status, Some(0), "{outcome:?}");
        let dropped: Vec<&str> = outcome.output.lines().filter_map(|line| line.split([' ', ',']).nth(1)).collect();
        assert_eq!(dropped, ["zero_0_a", "zero_0_elsewhere", "zero_0_standby", "zero_0_unused"], "{outcome:?}");
        assert_eq!(slots(&sql), ["green_sub", "zeros"]);

        // Run again, as a script that is repeated does.
        let again = drop_slots(&dsn, &[r"zero\_%", "--yes"]);
        assert_eq!((again.status, again.output.as_str()), (Some(0), ""), "{again:?}");
        assert!(again.errors.contains(r"no slot is like zero\_%; there are: green_sub, zeros"), "{again:?}");
    }
}

#[test]
fn nothing_is_dropped_without_a_yes() {
    let (server, sql) = source(16, &[]);
    let dsn = server.dsn("postgres");
    make_slots(&sql, &["zero_0_a", "zeros_0_a"]);
    let silent = drop_slots(&dsn, &["zero_%"]);
    assert_eq!((silent.status, slots(&sql).len()), (Some(1), 2), "{silent:?}");
    assert!(silent.errors.contains("These 2 slots are to be dropped."), "{silent:?}");
    assert!(silent.errors.contains("so zeros_0_a is matched as well; 'zero\\_%' would not"), "{silent:?}");
    let refused = Asking::start(&[&dsn, "drop", "zero%"]).answer("n\n");
    assert_eq!((refused.status, slots(&sql).len()), (Some(1), 2), "{refused:?}");
    let agreed = Asking::start(&[&dsn, "drop", "zero%"]).answer("y\n");
    assert_eq!((agreed.status, slots(&sql).len()), (Some(0), 0), "{agreed:?}");
}

#[test]
fn a_slot_that_somebody_reads_keeps_all_from_being_dropped_unless_its_reader_is_to_be_ended() {
    for major in [14, 18] {
        let (server, sql) = source(major, &[]);
        let dsn = server.dsn("postgres");
        make_slots(&sql, &["zero_0_a", "zero_0_b"]);
        let mut reader = read(&server, &sql, "zero_0_b");
        let refused = drop_slots(&dsn, &["zero%", "--yes"]);
        assert_eq!((refused.status, slots(&sql).len()), (Some(1), 2), "{refused:?}");
        assert!(refused.errors.contains("zero_0_b is read by reader at 127.0.0.1 (pid "), "{refused:?}");
        assert!(refused.errors.contains("give --terminate"), "{refused:?}");

        let ended = drop_slots(&dsn, &["zero%", "--yes", "--terminate"]);
        assert_eq!((ended.status, slots(&sql).len()), (Some(0), 0), "{ended:?}");
        assert!(ended.output.contains("; ended reader at 127.0.0.1 (pid "), "{ended:?}");
        eventually("the reader to end", || reader.0.try_wait().map_err(drop).and_then(|ended| ended.ok_or(())));
    }
}

/// Reads a slot again and again, without a pause.
fn read_on(server: &Server, slot: &str) -> Running {
    let again = r#"while :; do "$@" 2>/dev/null; done"#;
    let mut reader = Command::new("bash");
    reader.args(["-c", again, "reader"]).arg(tool("pg_recvlogical"));
    reader.args(["--dbname", &server.dsn("postgres"), "--slot", slot, "--start", "--file=/dev/null", "--no-loop"]);
    reader.args(["--option=proto_version=1", "--option=publication_names=p"]).stdin(Stdio::null());
    Running(reader.spawn().expect("bash starts"))
}

#[test]
fn a_reader_that_comes_back_at_once_does_not_keep_its_slot() {
    let (server, sql) = source(17, &[]);
    make_slots(&sql, &["zero_0_a"]);
    let _reader = read_on(&server, "zero_0_a");
    sql.until("SELECT active FROM pg_replication_slots", "t");
    let ended = drop_slots(&server.dsn("postgres"), &["zero%", "--yes", "--terminate"]);
    assert_eq!((ended.status, slots(&sql).len()), (Some(0), 0), "{ended:?}");
}

#[test]
fn a_slot_that_others_take_all_the_time_is_dropped_or_refused_and_never_a_surprise() {
    let (server, sql) = source(18, &[]);
    let dsn = server.dsn("postgres");
    make_slots(&sql, &["zero_0_a"]);
    let _readers = [read_on(&server, "zero_0_a"), read_on(&server, "zero_0_a")];
    for _ in 0..10 {
        let outcome = drop_slots(&dsn, &["zero%", "--yes"]);
        match outcome.status {
            Some(0) => assert_eq!(slots(&sql), [""; 0], "{outcome:?}"),
            _ => assert!(outcome.status == Some(1) && slots(&sql).len() == 1, "{outcome:?}"),
        }
        if slots(&sql).is_empty() {
            make_slots(&sql, &["zero_0_a"]);
        }
    }
}

#[test]
fn what_changes_while_a_person_thinks_is_not_what_was_agreed_to() {
    let (server, sql) = source(18, &[]);
    let dsn = server.dsn("postgres");
    make_slots(&sql, &["zero_0_a"]);

    let asking = Asking::start(&[&dsn, "drop", "zero%"]);
    let reader = read(&server, &sql, "zero_0_a");
    let taken = asking.answer("y\n");
    assert_eq!((taken.status, slots(&sql).len()), (Some(1), 1), "{taken:?}");
    assert!(taken.errors.contains("zero_0_a was not dropped: reader at 127.0.0.1"), "{taken:?}");
    drop(reader);
    sql.until("SELECT active FROM pg_replication_slots", "f");

    // Another of the same name; with it comes one that was not shown.
    let asking = Asking::start(&[&dsn, "drop", "zero%", "--terminate"]);
    sql.run("SELECT pg_drop_replication_slot('zero_0_a'); INSERT INTO t VALUES (1)");
    make_slots(&sql, &["zero_0_a", "zero_0_b"]);
    let another = asking.answer("y\n");
    assert_eq!((another.status, slots(&sql).len()), (Some(1), 2), "{another:?}");
    assert!(another.errors.contains("another took its place"), "{another:?}");

    let asking = Asking::start(&[&dsn, "drop", "zero%"]);
    sql.run("SELECT pg_drop_replication_slot('zero_0_a')");
    let gone = asking.answer("y\n");
    assert_eq!((gone.status, slots(&sql).len()), (Some(0), 0), "{gone:?}");
    assert!(gone.output.starts_with("zero_0_a is gone already\ndropped zero_0_b"), "{gone:?}");
}

#[test]
fn temporary_slots_are_refused_and_walgates_own_never_seen() {
    let (server, sql) = source(15, &[]);
    let dsn = server.dsn("postgres");
    make_slots(&sql, &["zero_0_a"]);
    sql.run("SELECT pg_create_logical_replication_slot('zero_0_t', 'pgoutput', true)");
    sql.run("SELECT pg_create_logical_replication_slot('walgate_copy', 'pgoutput', true)");
    let refused = drop_slots(&dsn, &["%", "--yes", "--terminate"]);
    assert_eq!((refused.status, slots(&sql).len()), (Some(1), 3), "{refused:?}");
    assert!(refused.errors.contains("zero_0_t is temporary"), "{refused:?}");
    assert!(!refused.errors.contains("walgate_copy"), "{refused:?}");
}

#[test]
fn a_role_that_may_not_is_told_what_it_lacks_before_anybody_is_ended() {
    for major in [14, 16] {
        let (server, sql) = source(major, &[]);
        sql.run("CREATE ROLE watcher LOGIN; CREATE ROLE \"Op\" LOGIN REPLICATION");
        make_slots(&sql, &["zero_0_a"]);
        let as_role = |role: &str| server.dsn("postgres").replace("user=postgres", &format!("user={role}"));
        let all = ["zero%", "--yes", "--terminate"];
        let mut reader = read(&server, &sql, "zero_0_a");
        let refused = drop_slots(&as_role("watcher"), &all);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        assert!(refused.errors.contains("ALTER ROLE watcher REPLICATION"), "{refused:?}");
        let refused = drop_slots(&as_role("Op"), &all);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        assert!(refused.errors.contains("GRANT pg_signal_backend TO \"Op\""), "{refused:?}");
        assert!(reader.0.try_wait().expect("it is a child").is_none(), "it reads on");
        sql.run("GRANT pg_signal_backend TO \"Op\"");
        // The reader is the superuser's.
        assert_eq!(drop_slots(&as_role("Op"), &all).status, Some(1));
        drop(reader);
        sql.until("SELECT active FROM pg_replication_slots", "f");
        assert_eq!(drop_slots(&as_role("Op"), &all).status, Some(0));
        assert_eq!(slots(&sql).len(), 0);
    }
}
