//! `--apply`, and the script that it runs.

use std::process::{Command, Stdio};
use std::thread;

use walgate::scratch::Server;

use crate::support::check::{self, answered, findings};
use crate::support::command::walgate;
use crate::support::{Sql, postgres};

/// Tables and columns whose names are as bad as names can be.
const NAMES: &str = r#"
    CREATE SCHEMA "s.1 'x"; CREATE SCHEMA "größe";
    CREATE TABLE "s.1 'x"."order" ("a ""b" int GENERATED ALWAYS AS IDENTITY, c text);
    CREATE TABLE "größe"."ÄÖ$walgate$; --" ("ID" uuid DEFAULT gen_random_uuid(), "back\slash" text);
    CREATE TABLE "größe"."two
lines" ("id" int, "select" text);
    INSERT INTO "größe"."two
lines" VALUES (1, 'x'), (2, 'y');
    CREATE TABLE "s.1 'x"."uni'que" (x int NOT NULL, "Y y" text NOT NULL);
    CREATE UNIQUE INDEX "in""dex '1" ON "s.1 'x"."uni'que" ("Y y", x);
    CREATE TABLE "größe"."un\named" (payload text); INSERT INTO "größe"."un\named" VALUES ('a'), ('a');
    CREATE PUBLICATION "p 'ü""" FOR ALL TABLES
"#;

#[test]
fn what_was_found_is_mended_whatever_the_names_are() {
    for major in [14, 18] {
        let server = postgres(major).start().unwrap();
        let dsn = server.dsn("postgres");
        Sql::connect(&dsn).run(NAMES);
        let told = answered(&[&dsn, "--apply"], "y\n");
        assert_eq!(told.status, Some(0), "on {major}: {told:?}");
        assert_eq!(told.output.matches("-- done in").count(), 5, "on {major}: {told:?}");
        let sql = Sql::connect(&dsn);
        sql.run(r#"UPDATE "s.1 'x"."order" SET c = 'x'"#);
        sql.run("UPDATE \"größe\".\"two\nlines\" SET \"select\" = 'x'");
        sql.run(r#"UPDATE "s.1 'x"."uni'que" SET x = 2; DELETE FROM "größe"."un\named"; DELETE FROM "größe"."ÄÖ$walgate$; --""#);
        // Nothing is left, so nobody is asked.
        let again = check::told(&[&dsn, "--apply"]);
        assert_eq!((again.status, again.output.contains("-- done in")), (Some(0), false), "on {major}: {again:?}");
    }
}

#[test]
fn the_script_does_the_same_and_can_be_run_twice() {
    let server = postgres(16).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run(NAMES);
    let script = check::told(&[&dsn, "--format", "sql"]);
    assert_eq!(script.status, Some(1));
    check::run(&dsn, &script.output);
    check::run(&dsn, &script.output);
    assert_eq!(check::told(&[&dsn]).status, Some(0));
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND conrelid > 16384";
    assert_eq!(Sql::connect(&dsn).value(keys), "3", "the tables whose first column is called or filled so");
}

#[test]
fn without_a_yes_nothing_is_changed() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run("CREATE TABLE t (id int NOT NULL); CREATE PUBLICATION p FOR TABLE t");
    for answer in ["", "n\n", "maybe\n"] {
        let told = answered(&[&dsn, "--apply"], answer);
        assert_eq!(told.status, Some(1), "{answer:?}: {told:?}");
        assert!(told.errors.contains("ALTER TABLE public.t ADD PRIMARY KEY (id)"), "{told:?}");
        assert!(told.errors.contains("Not run."), "{told:?}");
        assert_eq!(sql.value("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass"), "0");
    }
    assert_eq!(check::told(&[&dsn, "--apply", "--yes"]).status, Some(0));
}

#[test]
fn it_stops_at_the_first_failure_and_says_what_to_do() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run(
        "CREATE ROLE helper LOGIN; GRANT CREATE ON SCHEMA public TO helper;
         CREATE TABLE a (id int NOT NULL); ALTER TABLE a OWNER TO helper; CREATE TABLE b (id int NOT NULL); GRANT SELECT ON b TO helper;
         CREATE TABLE c (id int NOT NULL); ALTER TABLE c OWNER TO helper; CREATE PUBLICATION p FOR ALL TABLES",
    );
    let told = check::told(&[&format!("{dsn} user=helper"), "--apply", "--yes"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    assert!(told.errors.contains("must be owner of table b") && told.errors.contains("as the owner"), "{told:?}");
    let keyed =
        "SELECT string_agg(indrelid::regclass::text, ',') FROM pg_index WHERE indisprimary AND indrelid > 16384";
    assert_eq!(sql.value(keyed), "a");
    let standby = check::told(&[&format!("{dsn} options='-c default_transaction_read_only=on'"), "--apply", "--yes"]);
    assert!(standby.errors.contains("read-only") && standby.errors.contains("is written to"), "{standby:?}");
}

#[test]
fn a_lock_that_is_held_for_long_keeps_nobody_waiting() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run("CREATE TABLE t (id int NOT NULL); CREATE PUBLICATION p FOR TABLE t");
    let holder = Sql::connect(&dsn);
    holder.run("BEGIN; SELECT * FROM t");
    let told = check::told(&[&dsn, "--apply", "--yes"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    assert!(told.errors.contains("holds a lock") && told.errors.contains("run it again"), "{told:?}");
    holder.run("COMMIT");
    assert_eq!(check::told(&[&dsn, "--apply", "--yes"]).status, Some(0));
}

/// Of which an ordinary index would keep writers out for long; and what a first attempt has left behind.
#[test]
fn the_index_of_a_large_table_is_built_while_it_is_written_to() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    // A row a page.
    sql.run(
        "CREATE TABLE big (id int NOT NULL, filler char(900) NOT NULL) WITH (fillfactor = 10);
         INSERT INTO big SELECT n, '' FROM generate_series(1, 33000) AS n",
    );
    // It fails, and leaves an index that is not valid.
    sql.run("INSERT INTO big VALUES (1, '')");
    assert!(sql.try_rows("CREATE UNIQUE INDEX CONCURRENTLY big_pkey ON big (id)").is_err());
    sql.run(
        "DELETE FROM big WHERE ctid = (SELECT max(ctid) FROM big WHERE id = 1); CREATE PUBLICATION p FOR TABLE big",
    );
    assert_eq!(sql.value("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('big_pkey')"), "f");
    let told = check::told(&[&dsn, "--apply", "--yes"]);
    assert_eq!(told.status, Some(0), "{told:?}");
    let build = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS big_pkey ON public.big (id); -- done in";
    assert!(told.output.contains(build), "{told:?}");
    sql.run("UPDATE big SET filler = 'x' WHERE id = 1");
}

/// A table whose mend is an index that is built while others write.
struct Built {
    _server: Server,
    dsn: String,
    sql: Sql,
}

impl Built {
    #[track_caller]
    fn start() -> Built {
        let server = postgres(18).start().expect("the server starts");
        let dsn = server.dsn("postgres");
        let sql = Sql::connect(&dsn);
        sql.run(
            "CREATE TABLE t (id int PRIMARY KEY, b int NOT NULL); INSERT INTO t VALUES (1, 1);
             CREATE PUBLICATION p FOR TABLE t WHERE (b > 0)",
        );
        Built { _server: server, dsn, sql }
    }

    /// Somebody writes, and a build waits for the end of that.
    #[track_caller]
    fn writer(&self) -> Sql {
        let writer = Sql::connect(&self.dsn);
        writer.run("BEGIN; INSERT INTO t VALUES (2, 2)");
        writer
    }

    /// Waits until so many builds wait, for longer than so many seconds.
    #[track_caller]
    fn wait(&self, builds: u32, seconds: u32) {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE UNIQUE INDEX%'
             AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > '{seconds} s'"
        );
        self.sql.until(&waiting, &builds.to_string());
    }
}

/// It waits for whoever writes, and keeps nobody waiting.
#[test]
fn an_index_that_is_built_while_others_write_waits_for_them() {
    let built = Built::start();
    let Built { dsn, sql, .. } = &built;
    let apply: fn(&str) = |dsn| {
        let told = check::told(&[dsn, "--apply", "--yes"]);
        assert_eq!(told.status, Some(0), "{told:?}");
        let build = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS t_identity ON public.t (id, b); -- done in";
        assert!(told.output.contains(build), "{told:?}");
    };
    let script: fn(&str) = |dsn| check::run(dsn, &check::script(dsn, &[]));
    for mend in [apply, script] {
        let writer = built.writer();
        thread::scope(|scope| {
            scope.spawn(|| mend(dsn));
            // Longer than others are kept waiting.
            built.wait(1, 4);
            writer.run("ROLLBACK");
        });
        sql.run("UPDATE t SET b = 2; ALTER TABLE t REPLICA IDENTITY DEFAULT; DROP INDEX t_identity");
    }
}

#[test]
fn a_build_that_somebody_else_has_under_way_is_not_taken_for_left_behind() {
    let built = Built::start();
    let Built { dsn, sql, .. } = &built;
    let writer = built.writer();
    thread::scope(|scope| {
        let first = scope.spawn(|| check::told(&[dsn, "--apply", "--yes"]));
        built.wait(1, 0);
        let script = check::script(dsn, &[]);
        let second = check::told(&[dsn, "--apply", "--yes"]);
        assert_eq!(second.status, Some(1), "{second:?}");
        let why = "another session builds an index of public.t now: run this again";
        assert!(second.errors.contains(why), "{second:?}");
        writer.run("ROLLBACK");
        let first = first.join().unwrap();
        assert_eq!(first.status, Some(0), "{first:?}");
        check::run(dsn, &script);
    });
    sql.run("UPDATE t SET b = 2");
}

#[test]
fn one_that_is_stopped_says_so_and_can_be_run_again() {
    let built = Built::start();
    let Built { dsn, sql, .. } = &built;
    let writer = built.writer();
    let mut command = walgate(&["check", dsn, "--apply", "--yes"]);
    let mending = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    built.wait(1, 0);
    Command::new("kill").args(["-INT", &mending.id().to_string()]).status().unwrap();
    let stopped = mending.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{errors}");
    assert!(errors.contains("stopped") && errors.contains("run this again"), "{errors}");
    built.wait(0, 0);
    writer.run("ROLLBACK");
    assert_eq!(sql.value("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('t_identity')"), "f");
    let again = check::told(&[dsn, "--apply", "--yes"]);
    assert_eq!(again.status, Some(0), "{again:?}");
    sql.run("UPDATE t SET b = 2");
}

#[test]
fn columns_that_may_be_unique_by_accident_are_left_to_a_person() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run(
        "CREATE TABLE people (name text NOT NULL, born date NOT NULL); INSERT INTO people VALUES ('a', now()), ('b', now());
         CREATE TABLE twice (id int); INSERT INTO twice VALUES (1), (1);
         CREATE TABLE hole (id int); INSERT INTO hole VALUES (1), (NULL);
         CREATE PUBLICATION p FOR ALL TABLES",
    );
    let fix = |name: &str| {
        let found = findings(&dsn, &["--for", "zero"]);
        let of = found.iter().find(|finding| finding["table"] == name && finding["rule"] == "pg/no-identity");
        of.expect("it is found")["fix"].as_str().expect("it can be mended").to_owned()
    };
    assert!(
        fix("public.people").starts_with("-- ALTER TABLE public.people ADD PRIMARY KEY (name);"),
        "{}",
        fix("public.people")
    );
    for name in ["public.twice", "public.hole"] {
        assert!(fix(name).starts_with(&format!("-- ALTER TABLE {name} ADD COLUMN id1 bigint")), "{}", fix(name));
    }
}

/// To psql a carriage return ends a line, and to a terminal an escape begins a command.
#[test]
fn a_name_does_not_leave_the_comment_that_it_stands_in() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    let name = "\"x\rCREATE TABLE pwned (); --\u{1b}[2J\"";
    sql.run(&format!(
        "CREATE TABLE {name} (a int); CREATE PUBLICATION \"p\rCREATE TABLE pwned (); --\" FOR ALL TABLES"
    ));
    for arguments in [&[][..], &["--for", "zero"], &["--fail-on", "warning"]] {
        check::run(&dsn, &check::script(&dsn, arguments));
        let told = check::told(&[&[&*dsn], arguments].concat());
        assert!(!told.output.contains(['\r', '\u{1b}']), "{told:?}");
    }
    assert_eq!(sql.value("SELECT count(*) FROM pg_class WHERE relname = 'pwned'"), "0");
}

#[test]
fn no_key_is_guessed_from_a_few_rows() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run(
        "CREATE TABLE users (id int PRIMARY KEY); CREATE TABLE posts (id int PRIMARY KEY);
         CREATE TABLE likes (user_id int NOT NULL REFERENCES users, post_id int REFERENCES posts, kind text, at date);
         CREATE TABLE comments (post_id int NOT NULL REFERENCES posts, body text);
         CREATE TABLE users_history (id int NOT NULL, name text); INSERT INTO users_history VALUES (1, 'a'), (2, 'b');
         CREATE TABLE later (id int NOT NULL, name text); CREATE PUBLICATION p FOR ALL TABLES",
    );
    let found = findings(&dsn, &["--for", "zero", "--publication", "p"]);
    let unnamed: Vec<_> = found.iter().filter(|finding| finding["rule"] == "pg/no-identity").collect();
    assert_eq!(unnamed.len(), 4, "{found:?}");
    assert!(unnamed.iter().all(|finding| finding["fix"].as_str().unwrap().starts_with("-- ")), "{unnamed:?}");
}

/// A column is not looked at where another is likelier to be the key, and is it: to sort a large table by each of its columns
/// takes longer than there is.
#[test]
fn the_likeliest_columns_are_looked_at_first() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run(
        "CREATE TYPE slow; CREATE FUNCTION slow_in(cstring) RETURNS slow LANGUAGE internal IMMUTABLE STRICT AS 'textin';
         CREATE FUNCTION slow_out(slow) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
         CREATE TYPE slow (INPUT = slow_in, OUTPUT = slow_out, LIKE = text);
         CREATE FUNCTION compare(slow, slow) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE 'too slow'; END$$;
         CREATE FUNCTION is_so(slow, slow) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT public.compare($1, $2) = 0';
         CREATE OPERATOR = (LEFTARG = slow, RIGHTARG = slow, FUNCTION = is_so);
         CREATE OPERATOR < (LEFTARG = slow, RIGHTARG = slow, FUNCTION = is_so);
         CREATE OPERATOR CLASS slow_ops DEFAULT FOR TYPE slow USING btree AS OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 compare(slow, slow);
         CREATE TABLE t (id int NOT NULL, a slow); INSERT INTO t VALUES (1, 'x'), (2, 'y');
         CREATE TABLE unlikely (b int NOT NULL, a slow); INSERT INTO unlikely VALUES (1, 'x'), (2, 'y');
         CREATE PUBLICATION p FOR ALL TABLES",
    );
    let found = findings(&dsn, &[]);
    let fixes: Vec<&str> = found.iter().map(|finding| finding["fix"].as_str().unwrap()).collect();
    assert_eq!(fixes[0], "ALTER TABLE public.t ADD PRIMARY KEY (id);");
    assert!(fixes[1].contains("could not be looked at"), "{fixes:?}");
}

/// FULL is what lets the application write where a publication filters by a column outside of the key.
#[test]
fn what_works_is_not_mended_into_what_does_not() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run(
        "CREATE TABLE t (id int PRIMARY KEY, b int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 1);
         CREATE PUBLICATION p FOR TABLE t WHERE (b > 0);
         CREATE TABLE k (id int NOT NULL, b int); ALTER TABLE k REPLICA IDENTITY FULL; INSERT INTO k VALUES (1, 1), (2, 1);
         ALTER PUBLICATION p ADD TABLE k WHERE (b > 0);
         CREATE TABLE u (a int, b int); CREATE PUBLICATION mine FOR TABLE u WITH (publish = 'insert')",
    );
    let told = check::told(&[&dsn, "--fail-on", "warning", "--apply", "--yes"]);
    assert_eq!((told.status, &*told.output.matches("-- done in").collect::<String>()), (Some(1), ""), "{told:?}");
    let told = check::told(&[
        &dsn,
        "--for",
        "zero",
        "--publication",
        "p",
        "--publication",
        "mine",
        "--fail-on",
        "warning",
        "--apply",
        "--yes",
    ]);
    assert_eq!(told.status, Some(1), "{told:?}");
    sql.run("UPDATE t SET b = 2; UPDATE u SET b = 2; UPDATE k SET b = 2");
    // zero-cache needs a key, and takes one that is not the identity.
    let rules = check::rules(&findings(&dsn, &["--for", "zero", "--publication", "p"]), |_| true);
    assert!(!rules.contains(&("zero/full-without-key".into(), "public.k".into())), "{rules:?}");
}

#[test]
fn what_the_key_of_a_partitioned_table_must_be_is_told() {
    let server = postgres(17).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run(
        "CREATE TABLE t (a text, at date NOT NULL, kind int NOT NULL) PARTITION BY RANGE (at);
         CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (kind);
         CREATE TABLE t_1_1 PARTITION OF t_1 FOR VALUES IN (1); CREATE PUBLICATION p FOR TABLE t",
    );
    let fix = findings(&dsn, &[])[0]["fix"].to_string();
    assert!(fix.contains("ALTER TABLE public.t ADD PRIMARY KEY") && fix.contains("partitions it: at, kind."), "{fix}");
}

/// An index that covers what one publication's WHERE uses is of no use where another's column list leaves that out.
#[test]
fn what_no_identity_mends_is_left_to_a_person() {
    let server = postgres(15).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run(
        "CREATE TABLE t (id int PRIMARY KEY, b int NOT NULL); CREATE PUBLICATION filter FOR TABLE t WHERE (b > 0);
         CREATE PUBLICATION list FOR TABLE t (id)",
    );
    let told = check::told(&[&dsn, "--apply", "--yes"]);
    assert_eq!((told.status, told.output.contains("-- done in")), (Some(1), false), "{told:?}");
    assert!(told.output.contains("-- BEGIN; ALTER PUBLICATION list DROP TABLE public.t"), "{told:?}");
}
