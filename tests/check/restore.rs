//! S2: a dump carries no DEFAULT identity.

use std::process::Command;

use crate::support::check::{self, findings};
use crate::support::{Sql, postgres, tool};

const SCHEMA: &str = "
    CREATE TABLE keyed (id int PRIMARY KEY, note text);
    CREATE TABLE indexed (code text NOT NULL UNIQUE, note text);
    CREATE TABLE pairs (a int NOT NULL, b int NOT NULL, UNIQUE (b, a));
    CREATE TABLE log (at timestamptz, line text);
    INSERT INTO keyed VALUES (1, 'x'); INSERT INTO indexed VALUES ('a', 'x'), ('b', 'x');
    INSERT INTO pairs VALUES (1, 2), (1, 3); INSERT INTO log VALUES (now(), 'x'), (now(), 'x');
    CREATE PUBLICATION p FOR ALL TABLES";

/// The tables without a replica identity.
const WRITES: [&str; 4] = [
    "UPDATE keyed SET note = 'y'",
    "UPDATE indexed SET note = 'y'",
    "UPDATE pairs SET a = 2 WHERE b = 3",
    "UPDATE log SET line = 'y'",
];

#[test]
fn s2_one_script_serves_before_a_dump_and_after_a_restore() {
    let (old, new) = (postgres(15).start().unwrap(), postgres(17).start().unwrap());
    let source = old.dsn("postgres");
    Sql::connect(&source).run(SCHEMA);
    let before = check::told(&[&source, "--format", "sql"]);
    let dump = Command::new(tool("pg_dump")).args(["--no-owner", "--dbname", &source]).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let target = new.dsn("postgres");
    check::run(&target, &String::from_utf8(dump.stdout).unwrap());

    let sql = Sql::connect(&target);
    let fails = |write: &&str| sql.try_rows(write).is_err();
    assert_eq!(WRITES.iter().filter(|write| fails(write)).count(), 3, "the primary key came with the dump");
    let after = check::told(&[&target, "--format", "sql"]);
    let statements = |script: &str| -> Vec<String> {
        script.lines().filter(|line| line.contains("REPLICA IDENTITY")).map(str::to_owned).collect()
    };
    assert_eq!(statements(&before.output), statements(&after.output));
    assert_eq!(
        statements(&after.output),
        [
            "ALTER TABLE public.indexed REPLICA IDENTITY USING INDEX indexed_code_key;",
            "ALTER TABLE public.log REPLICA IDENTITY FULL;",
            "ALTER TABLE public.pairs REPLICA IDENTITY USING INDEX pairs_b_a_key;",
        ]
    );
    // The one from before the dump does for the restored database, and twice for the dumped one.
    for dsn in [&target, &source, &source] {
        check::run(dsn, &before.output);
        assert_eq!(check::told(&[dsn]).status, Some(0));
    }
    assert_eq!(WRITES.iter().filter(|write| fails(write)).count(), 0);
}

#[test]
fn for_zero_cache_full_is_never_proposed() {
    let server = postgres(17).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run(SCHEMA);
    let found = findings(&dsn, &["--for", "zero", "--publication", "p"]);
    assert!(!found.is_empty());
    assert!(found.iter().all(|finding| !finding["fix"].to_string().contains("FULL")), "{found:?}");
}
