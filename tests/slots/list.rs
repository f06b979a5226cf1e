//! `walgate slots list`, and the command line.

use crate::scene::{command, make_slots, read, slots, source};
use crate::support::command::outcome;
use crate::support::{Sql, eventually};

#[test]
fn a_pattern_matches_what_like_matches() {
    let (server, sql) = source(14, &[]);
    make_slots(&sql, &["zero_0_a", "zero_0_b", "zeros_0_a", "zero", "aab", "banana", "_", "x9"]);
    for pattern in [
        "%",
        "_",
        "__",
        "%%",
        "%_%",
        "zero%",
        "zero_%",
        r"zero\_%",
        r"zero\_0\_%",
        "zero__%",
        "%a",
        "%a%a%",
        "a%b",
        "%ab",
        "_%_",
        r"\_",
        r"%\_a",
        r"\z%",
        "%_0_a",
        "z%o%b",
        "nothing",
        "zero_0_a_",
        "%zero_0_a%",
    ] {
        let outcome = outcome(&mut command(&[&server.dsn("postgres"), "list", pattern, "--format", "json"]));
        let matched: Vec<String> =
            outcome.slots().iter().map(|slot| slot["slot"].as_str().expect("a name").to_owned()).collect();
        let rows = sql.rows(&format!(
            "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE '{pattern}' ORDER BY slot_name COLLATE \"C\""
        ));
        let expected: Vec<String> = rows.into_iter().flatten().flatten().collect();
        assert_eq!((outcome.status, matched), (Some(0), expected), "{pattern}");
    }
    let loosely = outcome(&mut command(&[&server.dsn("postgres"), "list", "zero_0%"]));
    assert_eq!(loosely.errors, "");
    let loosely = outcome(&mut command(&[&server.dsn("postgres"), "list", "zero%_a"]));
    assert_eq!(loosely.errors, "");
    let loosely = outcome(&mut command(&[&server.dsn("postgres"), "list", "zero_%"]));
    assert_eq!(
        loosely.errors,
        "walgate: _ stands for any character, and so zeros_0_a is matched as well; 'zero\\_%' would not\n"
    );
    let nothing = outcome(&mut command(&[&server.dsn("postgres"), "list", "green%"]));
    assert!(nothing.errors.contains("no slot is like green%; there are: _, aab, banana,"), "{nothing:?}");
    assert_eq!((nothing.status, nothing.output), (Some(0), String::new()));
}

#[test]
fn everything_that_a_runbook_asks_for_is_shown() {
    for major in [14, 18] {
        let (server, sql) = source(major, &[]);
        let dsn = server.dsn("postgres");
        let nothing = outcome(&mut command(&[&dsn, "list"]));
        assert_eq!((nothing.status, nothing.errors.as_str()), (Some(0), "walgate: there are no replication slots\n"));
        make_slots(&sql, &["zero_0_a", "green_sub"]);
        sql.run("SELECT pg_create_physical_replication_slot('standby', true)");
        sql.run("CREATE DATABASE other");
        make_slots(&Sql::connect(&server.dsn("other")), &["elsewhere"]);
        sql.run("SELECT pg_create_logical_replication_slot('walgate_own', 'pgoutput', true)");
        let _reader = read(&server, &sql, "zero_0_a");

        let json = eventually("the reader to be named", || {
            let json = outcome(&mut command(&[&dsn, "list", "--format", "json"]));
            if json.slots().iter().any(|slot| slot["application_name"] == "reader") { Ok(json) } else { Err(json) }
        });
        let names: Vec<_> = json.slots().iter().map(|slot| slot["slot"].clone()).collect();
        assert_eq!(names, ["elsewhere", "green_sub", "standby", "zero_0_a"], "walgate's own are not shown");
        let zero = &json.slots()[3];
        assert_eq!(
            (&zero["active"], &zero["database"], &zero["wal_status"], &zero["safe_wal_bytes"]),
            (&true.into(), &"postgres".into(), &"reserved".into(), &serde_json::Value::Null)
        );
        let table = outcome(&mut command(&[&dsn, "list"]));
        let line = |name: &str| {
            let line = table.output.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table:?}"));
            line.split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(line("zero_0_a")[..6], ["zero_0_a", "logical", "pgoutput", "postgres", "yes", "reserved"]);
        assert_eq!(line("elsewhere")[3..5], ["other", "no"]);
        assert_eq!(line("standby")[1..5], ["physical", "-", "-", "no"]);
        assert!(table.output.contains("  read by reader at 127.0.0.1 (pid "), "{table:?}");
        // Since when nobody reads is known from 17 on.
        assert_eq!(table.output.contains("inactive for "), major >= 17, "{table:?}");
        assert_eq!(slots(&sql).len(), 5);
    }
}

#[test]
fn a_slot_near_its_loss_shows_what_is_left_and_one_that_is_lost_says_so() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")];
    let (server, sql) = source(17, &settings);
    make_slots(&sql, &["old"]);
    let list = || outcome(&mut command(&[&server.dsn("postgres"), "list"]));
    assert!(list().output.contains(" reserved ") && !list().output.contains("no limit"), "{:?}", list());
    sql.until_slot_is_lost();
    let lost = list();
    assert!(lost.output.contains("invalidated (wal_removed): its consumer must be set up anew"), "{lost:?}");
}

#[test]
fn a_standby_says_that_the_slots_are_its_own() {
    let (mut server, sql) = source(17, &[]);
    make_slots(&sql, &["s"]);
    let primary = format!("host=127.0.0.1 port={} user=postgres", server.port());
    let standby = server.standby(&primary).unwrap();
    let told = outcome(&mut command(&[&standby.dsn("postgres"), "list"]));
    assert_eq!(told.status, Some(0), "{told:?}");
    assert!(told.errors.contains("no replication slots on this standby"), "{told:?}");
}

#[test]
fn the_connection_string_goes_before_the_action_or_comes_from_the_environment() {
    let (server, sql) = source(16, &[]);
    make_slots(&sql, &["s"]);
    let (dsn, port) = (server.dsn("postgres"), server.port().to_string());
    assert_eq!(outcome(&mut command(&[&dsn, "list"])).output.lines().count(), 2);
    assert_eq!(outcome(command(&["list"]).env("DATABASE_URL", &dsn)).output.lines().count(), 2);
    let variables = [("PGHOST", "127.0.0.1"), ("PGPORT", &port), ("PGUSER", "postgres"), ("PGDATABASE", "postgres")];
    assert_eq!(outcome(command(&["list", "s"]).envs(variables)).output.lines().count(), 2);

    for arguments in [
        &["list", &dsn][..],
        &["list", "postgresql://db/app"],
        &[&dsn],
        &[&dsn, "list", "Zero%"],
        &[&dsn, "list", r"zero\"],
        &[&dsn, "drop"],
        &[&dsn, "erase", "zero%"],
        &[&dsn, "list", "--format", "yaml"],
        &["postgresql://me:se%ZZcret@db", "list"],
    ] {
        let outcome = outcome(&mut command(arguments));
        assert_eq!((outcome.status, outcome.output.as_str()), (Some(64), ""), "{arguments:?}: {outcome:?}");
        assert!(!outcome.errors.contains("cret"), "{outcome:?}");
    }
    let outcome = outcome(&mut command(&["127.0.0.1:1", "list"]));
    assert_eq!((outcome.status, outcome.output.as_str()), (Some(4), ""), "{outcome:?}");
}
