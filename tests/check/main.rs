//! `walgate check` as its user runs it: what it prints, what it mends, and what it refuses. What the rules say, and whether
//! it comes true, is tried in `tests/identity` and `tests/zero`.

mod apply;
mod restore;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

use support::check::{self, findings};
use support::{Sql, postgres};

#[test]
fn what_will_happen_to_whom_and_what_mends_it_is_told_by_table() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run(
        "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL); INSERT INTO alembic_version VALUES ('a1b2');
         CREATE TABLE fine (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
         CREATE PUBLICATION _zero_public_0 FOR TABLES IN SCHEMA public WITH (publish_via_partition_root)",
    );
    let told = check::told(&[&dsn, "--for", "zero"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    let expected = "\
public.alembic_version
  error    pg/no-identity  (_zero_public_0)
           It has no primary key, so the application's own UPDATE and DELETE fail: cannot update table \"alembic_version\" \
because it does not have a replica identity and publishes updates
  error    zero/no-key  (_zero_public_0)
           zero-cache needs a key, a primary key or a unique index over NOT NULL columns that are published, and there is \
none: its clients never see the table: The \"alembic_version\" table is missing a primary key or non-null unique index and thus cannot be synced to the client
  mend     ALTER TABLE public.alembic_version ADD PRIMARY KEY (version_num);

the database
  info     pg/not-published
           The values of sequences are not replicated (1 in schema public): set them on the target at a cutover.

2 published tables were looked at: 2 errors, 1 for information.
See what mends it: walgate check DSN --for zero --format sql. Mend it: walgate check DSN --for zero --apply
";
    assert_eq!(told.output, expected);
    sql.run("ALTER TABLE alembic_version ADD PRIMARY KEY (version_num)");
    let told = check::told(&[&dsn, "--for", "zero"]);
    assert_eq!(told.status, Some(0), "{told:?}");
    assert!(told.output.ends_with("2 published tables were looked at: 1 for information.\n"), "{told:?}");
}

/// DESIGN gives the members of the JSON, and the statuses.
#[test]
fn the_json_is_what_scripts_rely_on() {
    let server = postgres(16).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run("CREATE TABLE t (a int, b json); CREATE PUBLICATION p FOR TABLE t");
    let told = check::told(&[&dsn, "--format", "json"]);
    let body: serde_json::Value = serde_json::from_str(&told.output).unwrap();
    assert_eq!(body["tables"], 1);
    let finding = body["findings"][0].as_object().unwrap();
    let members: Vec<&str> = finding.keys().map(String::as_str).collect();
    assert_eq!(members, ["fix", "message", "publication", "rule", "severity", "table"]);
    assert_eq!((&finding["rule"], &finding["table"]), (&"pg/no-identity".into(), &"public.t".into()));
    assert_eq!(told.status, Some(1));
}

#[test]
fn a_warning_counts_only_when_it_is_to() {
    let server = postgres(15).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run(
        "CREATE TABLE t (a int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t",
    );
    assert_eq!(check::told(&[&dsn]).status, Some(0));
    assert_eq!(check::told(&[&dsn, "--fail-on", "warning"]).status, Some(1));
}

#[test]
fn a_database_without_publications_is_clean_and_says_why() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run("CREATE TABLE t (a int)");
    let told = check::told(&[&dsn]);
    assert_eq!(told.status, Some(0), "{told:?}");
    assert_eq!(told.output, "No table is published, so there was nothing to look at: no findings.\n");
    // zero-cache is going to publish what there is.
    let rules: Vec<String> =
        findings(&dsn, &["--for", "zero"]).iter().map(|finding| finding["rule"].to_string()).collect();
    assert_eq!(rules, ["\"zero/no-key\""]);
}

#[test]
fn a_publication_that_does_not_exist_is_a_finding() {
    let server = postgres(17).start().unwrap();
    let dsn = server.dsn("postgres");
    let found = findings(&dsn, &["--publication", "nosuch"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["rule"], &found[0]["publication"]), (&"pg/publication-missing".into(), &"nosuch".into()));
    let message = |found: &[serde_json::Value]| found[0]["message"].to_string();
    assert!(message(&found).contains("does not exist; there is none in this database"), "{found:?}");
    // The name may be mistyped.
    Sql::connect(&dsn).run("CREATE PUBLICATION \"Such\" FOR ALL TABLES; CREATE PUBLICATION other");
    let found = findings(&dsn, &["--publication", "such"]);
    assert!(message(&found).contains("does not exist; there are: \\\"Such\\\", other"), "{found:?}");
}

#[test]
fn what_the_role_may_not_see_is_a_finding() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run(
        "CREATE ROLE watcher LOGIN; CREATE TABLE secret (a int, id int);
         CREATE TABLE part (id int NOT NULL); ALTER TABLE part ENABLE ROW LEVEL SECURITY; GRANT SELECT ON part TO watcher;
         INSERT INTO part SELECT 1 FROM generate_series(1, 2); CREATE PUBLICATION p FOR ALL TABLES",
    );
    let watcher = format!("{dsn} user=watcher");
    for name in ["secret", "part"] {
        let found = findings(&watcher, &[]);
        let of: Vec<_> = found.iter().filter(|finding| finding["table"] == format!("public.{name}")).collect();
        let rules: Vec<&str> = of.iter().map(|finding| finding["rule"].as_str().unwrap()).collect();
        assert_eq!(rules, ["pg/no-identity", "pg/no-rights"], "{of:?}");
        // Without having seen the values nothing is proposed that runs.
        assert!(of.iter().all(|finding| finding["fix"].as_str().unwrap().lines().all(|line| line.starts_with("--"))));
    }
    sql.run("REVOKE SELECT ON pg_catalog.pg_publication_rel FROM PUBLIC");
    let found = findings(&watcher, &["--publication", "p"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["rule"], &found[0]["severity"]), (&"pg/no-rights".into(), &"error".into()));
    // What was not seen is neither nothing nor clean.
    let body: serde_json::Value = serde_json::from_str(&check::told(&[&watcher, "--format", "json"]).output).unwrap();
    assert_eq!(body["tables"], serde_json::Value::Null);
    let told = check::told(&[&watcher]);
    assert!(told.output.ends_with("Which tables are published could not be seen: 1 error.\n"), "{told:?}");
    let script = check::script(&watcher, &[]);
    assert!(script.starts_with("-- What mends the findings of walgate check: 1 error.\n"), "{script}");
}

/// Two rights are needed to read a table.
#[test]
fn what_the_role_lacks_to_read_a_table_is_told_whole() {
    let server = postgres(14).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run(
        "CREATE ROLE watcher LOGIN; CREATE SCHEMA \"S\"; CREATE TABLE \"S\".t (a int, b int); CREATE PUBLICATION p FOR ALL TABLES",
    );
    let found = findings(&format!("{dsn} user=watcher"), &[]);
    let denied = found.iter().find(|finding| finding["rule"] == "pg/no-rights").expect("it may not read");
    // It may be large.
    let unnamed = found.iter().find(|finding| finding["rule"] == "pg/no-identity").expect("it has no key");
    let key = r#"-- CREATE UNIQUE INDEX CONCURRENTLY t_pkey ON "S".t (<columns>);"#;
    assert!(unnamed["fix"].as_str().unwrap().starts_with(key), "{unnamed}");
    let grants = "GRANT USAGE ON SCHEMA \"S\" TO watcher; GRANT SELECT ON \"S\".t TO watcher;";
    assert!(denied["fix"].as_str().unwrap().contains(grants), "{denied}");
}

#[test]
fn a_server_that_cannot_be_reached_is_not_clean() {
    let port = walgate::scratch::free_port().unwrap();
    let told = check::told(&[&format!("host=127.0.0.1 port={port} user=u dbname=d password=hunter2")]);
    assert_eq!(told.status, Some(4), "{told:?}");
    assert!(told.errors.contains("connection refused") && !told.errors.contains("hunter2"), "{told:?}");
    assert_eq!(check::told(&["host=h hots=x"]).status, Some(64));
    assert_eq!(check::told(&["host=h", "--for", "zeor"]).status, Some(64));
    assert_eq!(check::told(&["host=h", "--fail-on", "info"]).status, Some(64));
}

#[test]
fn ddl_while_the_catalog_is_read_makes_no_noise() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run("CREATE TABLE fine (id int PRIMARY KEY); CREATE PUBLICATION p FOR ALL TABLES");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let busy = Sql::connect(&dsn);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                busy.run(
                    "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (id bigserial PRIMARY KEY, m mood DEFAULT 'a', u int UNIQUE);
                     DROP TABLE t; DROP TYPE mood",
                );
            }
        });
        for _ in 0..20 {
            let told = check::told(&[&dsn, "--for", "zero", "--format", "json"]);
            assert_eq!(told.status, Some(0), "{told:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
