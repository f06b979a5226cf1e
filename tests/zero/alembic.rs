//! S1: a table without a key, made by Alembic in a schema that zero-cache replicates, is found before it breaks somebody,
//! at each step of how it is usually made worse, and mended.

use serde_json::{Value, json};
use walgate::scratch::Server;

use crate::support::check;
use crate::support::daemon::Walgate;
use crate::support::zero::{App, ZeroCache};
use crate::support::{Sql, eventually, last_lines, postgres};

/// As Alembic makes it.
const VERSION: &str = "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)";
const UPGRADE: &str = "UPDATE alembic_version SET version_num = 'c3d4' WHERE version_num = 'a1b2'";
const STOPS: &str = "Cannot replicate table \"alembic_version\" without a PRIMARY KEY or UNIQUE INDEX";
const ZERO: App<'_> = App { name: "zero", publications: &[], follows: true };

#[test]
fn a_table_that_alembic_made_without_a_key_is_raised_named_and_mended() {
    let server = postgres(17).start().unwrap();
    let (dsn, sql) = (server.dsn("postgres"), Sql::connect(&server.dsn("postgres")));
    sql.run("CREATE TABLE note (id int PRIMARY KEY, body text)");
    let walgate = Walgate::run(&dsn, &["--for", "zero"]);
    let upstream = format!("postgresql://{}:unused@127.0.0.1:{}/postgres", server.superuser(), walgate.port());
    let mut zero = ZeroCache::try_start(&upstream, ZERO).unwrap_or_else(|log| panic!("{}", last_lines(&log)));
    raised(&walgate, &[]);

    sql.run(VERSION);
    sql.run("INSERT INTO alembic_version VALUES ('a1b2')");
    raised(&walgate, &["pg/no-identity", "zero/no-key"]);
    let refused = sql.try_rows(UPGRADE).unwrap_err();
    let refused = refused.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    let because = "because it does not have a replica identity and publishes updates";
    assert_eq!(refused, format!("cannot update table \"alembic_version\" {because}"));
    let found = check::findings(&dsn, &["--for", "zero"]);
    assert!(found.iter().any(|finding| finding["message"].to_string().contains(because)), "{found:?}");
    let (columns, key) = (json!({ "version_num": { "type": "string" } }), ["version_num"]);
    let client = json!({ "alembic_version": { "columns": columns, "primaryKey": key } });
    let refusal = zero.refuses(&client).unwrap_or_default();
    assert!(refusal.starts_with("The \"alembic_version\" table is missing a primary key"), "{refusal}");
    assert!(found.iter().any(|finding| finding["message"].as_str().is_some_and(|text| text.contains(&refusal))));

    // What PostgreSQL's hint suggests makes PostgreSQL content, and zero-cache end: again with what it has, and anew.
    sql.run("ALTER TABLE alembic_version REPLICA IDENTITY FULL");
    raised(&walgate, &["zero/full-without-key"]);
    sql.run(UPGRADE);
    stops(&zero.ends());
    let log = zero.start_again().err().unwrap_or_else(|| zero.ends());
    stops(&log);
    drop(zero);
    let mut zero = renewed(&server, &sql, &upstream);
    sql.run("UPDATE alembic_version SET version_num = 'e5f6'");
    stops(&zero.ends());
    drop(zero);

    let found = check::findings(&dsn, &["--for", "zero"]);
    let worst = found.iter().find(|finding| finding["severity"] == "error").unwrap();
    assert_eq!((&worst["rule"], &worst["table"]), (&"zero/full-without-key".into(), &"public.alembic_version".into()));
    assert!(worst["message"].as_str().is_some_and(|text| text.contains(STOPS)), "{worst}");
    let mends = "ALTER TABLE public.alembic_version ADD PRIMARY KEY (version_num);";
    assert!(worst["fix"].as_str().is_some_and(|fix| fix.starts_with(mends)), "{worst}");

    check::run(&dsn, &check::script(&dsn, &["--for", "zero"]));
    assert_eq!(errors(&check::findings(&dsn, &["--for", "zero"])), Vec::<String>::new());
    raised(&walgate, &[]);
    let mut zero = renewed(&server, &sql, &upstream);
    sql.run("UPDATE alembic_version SET version_num = '0789'");
    eventually("the upgrade to arrive", || match zero.replica("SELECT version_num FROM alembic_version") {
        Ok(rows) if rows[0]["version_num"] == "0789" => Ok(()),
        other => Err((other, last_lines(&zero.log()))),
    });
    assert_eq!(zero.refuses(&client), None);
    assert!(!zero.has_ended(), "{}", last_lines(&zero.log()));
}

#[test]
fn it_is_mended_by_one_command() {
    let server = postgres(18).start().unwrap();
    let (dsn, sql) = (server.dsn("postgres"), Sql::connect(&server.dsn("postgres")));
    sql.run("CREATE PUBLICATION _zero_public_0 FOR TABLES IN SCHEMA public WITH (publish_via_partition_root = true)");
    sql.run(VERSION);
    sql.run("INSERT INTO alembic_version VALUES ('a1b2'); ALTER TABLE alembic_version REPLICA IDENTITY FULL");
    let mended = check::told(&[&dsn, "--for", "zero", "--apply", "--yes"]);
    assert_eq!(mended.status, Some(0), "{mended:?}");
    assert_eq!(check::findings(&dsn, &["--for", "zero"]), Vec::<Value>::new());
    sql.run(UPGRADE);
}

/// Waits until what the daemon says breaks something is this.
#[track_caller]
fn raised(walgate: &Walgate, expected: &[&str]) {
    eventually(&format!("{expected:?} to be raised"), || {
        let (status, answer) = walgate.get("/v1/identity");
        let found = answer["findings"].as_array().cloned().unwrap_or_default();
        if status == 200 && errors(&found) == expected { Ok(()) } else { Err(answer) }
    });
}

/// The rules that are broken badly.
fn errors(findings: &[Value]) -> Vec<String> {
    let errors = findings.iter().filter(|finding| finding["severity"] == "error");
    errors.filter_map(|finding| finding["rule"].as_str()).map(str::to_owned).collect()
}

#[track_caller]
fn stops(log: &str) {
    assert!(log.contains(&STOPS.replace('"', "\\\"")), "{}", last_lines(log));
}

/// A zero-cache that begins anew: the slots of the one before are dropped.
#[track_caller]
fn renewed(server: &Server, sql: &Sql, upstream: &str) -> ZeroCache {
    eventually("the slots to be free", || {
        sql.try_rows("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name ~ '^zero_'")
            .map_err(|error| (format!("{error:?}"), last_lines(&server.log())))
    });
    ZeroCache::try_start(upstream, ZERO).unwrap_or_else(|log| panic!("{}", last_lines(&log)))
}
