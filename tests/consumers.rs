//! Real consumers through the proxy: native subscriptions of every version with every setting, PostgreSQL's own tools,
//! a physical standby, and zero-cache.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::daemon::Walgate;
use support::zero::ZeroCache;
use support::{Sql, eventually, last_lines, postgres, tool};
use walgate::scratch::{Server, Signal};

/// The tables that the subscriptions follow: every kind of replica identity, TOAST, and types whose binary form differs
/// from their text.
const TABLES: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, balance numeric(12,2), opened timestamptz);
    CREATE TABLE documents (id int PRIMARY KEY, title varchar(80), body text, tags text[], extra jsonb);
    ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE readings (sensor int, value float8, ok bool, at date);
    ALTER TABLE readings REPLICA IDENTITY FULL;
    CREATE TABLE queue (id uuid NOT NULL, payload bytea);
    CREATE UNIQUE INDEX queue_key ON queue (id);
    ALTER TABLE queue REPLICA IDENTITY USING INDEX queue_key;";

/// What is there before the subscriptions are made, for the initial copy.
const ROWS_BEFORE: &str = "
    INSERT INTO accounts SELECT i, 'owner ' || i, i * 1.5, '2026-01-01Z'::timestamptz + i * interval '1 min'
        FROM generate_series(1, 300) i;
    INSERT INTO documents SELECT i, 'title ' || i, repeat(md5(i::text), 200), ARRAY['a', i::text], jsonb_build_object('n', i)
        FROM generate_series(1, 30) i;
    INSERT INTO readings SELECT i % 7, i / 3.0, i % 2 = 0, '2026-01-01'::date + i FROM generate_series(1, 100) i;
    INSERT INTO queue SELECT md5(i::text)::uuid, decode(md5(i::text), 'hex') FROM generate_series(1, 50) i;";

/// One transaction a statement, of every kind of change: small ones, one that is streamed while it runs where the
/// subscription wants that, one with parts that are rolled back, one that is rolled back as a whole, prepared ones.
const CHANGES: &[&str] = &[
    "INSERT INTO accounts VALUES (1001, 'new', 10, now())",
    "UPDATE accounts SET balance = balance + 1 WHERE id % 3 = 0",
    "UPDATE accounts SET id = id + 5000 WHERE id <= 5",
    "UPDATE documents SET title = title || ' (2)'",
    "UPDATE documents SET body = repeat(md5(body), 150) WHERE id % 4 = 0",
    "UPDATE readings SET value = -value WHERE sensor = 3; DELETE FROM readings WHERE sensor = 4",
    "UPDATE queue SET payload = NULL WHERE payload < '\\x80'; DELETE FROM queue WHERE payload IS NOT NULL",
    "BEGIN; INSERT INTO accounts SELECT i, 'bulk', i, now() FROM generate_series(10001, 13000) i;
     SAVEPOINT a; INSERT INTO accounts SELECT i, 'undone', i, now() FROM generate_series(20001, 22000) i; ROLLBACK TO a;
     UPDATE accounts SET balance = 0 WHERE id BETWEEN 10001 AND 10500; COMMIT",
    "BEGIN; INSERT INTO accounts SELECT i, 'undone', i, now() FROM generate_series(20001, 22000) i; ROLLBACK",
    "BEGIN; DELETE FROM accounts WHERE id = 7; PREPARE TRANSACTION 'small'",
    "COMMIT PREPARED 'small'",
    "BEGIN; INSERT INTO documents SELECT i, 'prepared', repeat('x', 3000), NULL, NULL FROM generate_series(101, 400) i;
     PREPARE TRANSACTION 'large'",
    "COMMIT PREPARED 'large'",
    "BEGIN; DELETE FROM accounts; PREPARE TRANSACTION 'undone'",
    "ROLLBACK PREPARED 'undone'",
    "TRUNCATE queue; INSERT INTO queue VALUES ('00000000-0000-0000-0000-000000000001', '\\x00')",
];

/// A digest of every table, the same on both sides when their rows are.
const DIGEST: &str = "SELECT string_agg(d, ' ') FROM (
    SELECT count(*) || md5(string_agg(t::text, '|' ORDER BY t::text)) d FROM accounts t UNION ALL
    SELECT count(*) || md5(string_agg(t::text, '|' ORDER BY t::text)) FROM documents t UNION ALL
    SELECT count(*) || md5(string_agg(t::text, '|' ORDER BY t::text)) FROM readings t UNION ALL
    SELECT count(*) || md5(string_agg(t::text, '|' ORDER BY t::text)) FROM queue t) digests";

#[test]
fn subscriptions_of_14_work_with_every_setting() {
    subscriptions_work_with_every_setting(14);
}

#[test]
fn subscriptions_of_15_work_with_every_setting() {
    subscriptions_work_with_every_setting(15);
}

#[test]
fn subscriptions_of_16_work_with_every_setting() {
    subscriptions_work_with_every_setting(16);
}

#[test]
fn subscriptions_of_17_work_with_every_setting() {
    subscriptions_work_with_every_setting(17);
}

#[test]
fn subscriptions_of_18_work_with_every_setting() {
    subscriptions_work_with_every_setting(18);
}

/// Runs a subscription with each combination of settings at the same time, each in a database of its own.
fn subscriptions_work_with_every_setting(major: u32) {
    let roomy = || {
        let mut builder = postgres(major).setting("max_wal_senders", "60").setting("max_replication_slots", "60");
        builder = builder.setting("max_logical_replication_workers", "60").setting("max_worker_processes", "80");
        if major >= 18 {
            builder = builder.setting("max_active_replication_origins", "60");
        }
        // Streams every transaction of more than a few hundred rows.
        builder.setting("logical_decoding_work_mem", "64kB").start().expect("the server starts")
    };
    let (publisher, subscriber) = (roomy(), roomy());
    let source = database(&publisher, "app");
    source.run(TABLES);
    source.run(ROWS_BEFORE);
    source.run("CREATE PUBLICATION everything FOR ALL TABLES");

    let walgate = Walgate::run(&publisher.dsn("app"), &[]);
    let connection = walgate.dsn(publisher.superuser(), "app");
    let subscriptions: Vec<(String, Sql)> = settings(major)
        .into_iter()
        .enumerate()
        .map(|(number, settings)| {
            let name = format!("sub_{number}");
            let target = database(&subscriber, &name);
            target.run(TABLES);
            target.run(&format!(
                "CREATE SUBSCRIPTION {name} CONNECTION '{connection}' PUBLICATION everything WITH ({settings})"
            ));
            (format!("{name} ({settings})"), target)
        })
        .collect();

    let equal = |what: &str| {
        let expected = source.value(DIGEST);
        for (name, target) in &subscriptions {
            eventually(&format!("{name} to be equal {what}"), || match target.value(DIGEST) {
                digest if digest == expected => Ok(()),
                digest => Err((digest, expected.clone(), last_lines(&subscriber.log()))),
            });
        }
    };
    equal("after the initial copy");
    for (name, target) in &subscriptions {
        target.until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
        assert_eq!(target.value("SELECT count(*) FROM pg_subscription_rel"), "4", "{name}");
    }

    let (first, second) = CHANGES.split_at(CHANGES.len() / 2);
    first.iter().for_each(|change| source.run(change));
    equal("after the first changes");
    let walgate = walgate.restart(&publisher.dsn("app"), &[]);
    second.iter().for_each(|change| source.run(change));
    equal("after a restart of the proxy");
    for (name, _) in &subscriptions {
        let slot = name.split(' ').next().unwrap_or_default();
        walgate.lag_until(slot, "nothing is pending", is_idle);
    }
}

/// Every combination of the settings that the version has.
fn settings(major: u32) -> Vec<String> {
    let all: [(u32, &[(u32, &str)]); 4] = [
        (14, &[(14, "streaming = off"), (14, "streaming = on"), (16, "streaming = parallel")]),
        (14, &[(14, "binary = off"), (14, "binary = on")]),
        (15, &[(15, "two_phase = off"), (15, "two_phase = on")]),
        (16, &[(16, "origin = any"), (16, "origin = none")]),
    ];
    let mut combinations = vec![String::new()];
    for (_, values) in all.iter().filter(|(since, _)| *since <= major) {
        let values = values.iter().filter(|(since, _)| *since <= major);
        let longer = values.flat_map(|(_, value)| combinations.iter().map(move |rest| format!("{rest}, {value}")));
        combinations = longer.collect();
    }
    combinations.into_iter().map(|combination| combination.trim_start_matches(", ").to_owned()).collect()
}

#[test]
fn psql_and_pg_recvlogical_work() {
    let server = postgres(18).start().unwrap();
    let source = database(&server, "app");
    source.run("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t");
    let walgate = Walgate::run(&server.dsn("app"), &[]);
    let dsn = walgate.dsn(server.superuser(), "app");

    let script = "\\copy t FROM PROGRAM 'seq 1000'\n\\copy t TO /dev/null\nSELECT count(*) FROM t;\nSELECT 1/0;";
    let mut psql = Command::new(tool("psql"))
        .args(["-XAt", &dsn])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut psql.stdin.take().unwrap(), script.as_bytes()).unwrap();
    let output = psql.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "COPY 1000\nCOPY 1000\n1000\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "ERROR:  division by zero\n");
    // A cancel request goes its own way through the proxy.
    let started = Command::new(tool("psql"))
        .args(["-Xc", "SET application_name = 'slow'; SELECT pg_sleep(600)", &dsn])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    source
        .until("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'slow' AND wait_event = 'PgSleep'", "1");
    walgate::scratch::signal(i32::try_from(started.id()).unwrap(), Signal::Interrupt);
    assert!(!started.wait_with_output().unwrap().status.success());
    assert!(server.log().contains("slow: ERROR:  canceling statement due to user request"), "{}", server.log());

    let place = tempfile::tempdir().unwrap();
    let recvlogical = |arguments: &[&str]| {
        let mut command = Command::new(tool("pg_recvlogical"));
        command.args(["-d", &dsn, "--slot=received"]).args(arguments).current_dir(place.path());
        succeeds(&mut command);
    };
    recvlogical(&["--create-slot", "--plugin=test_decoding"]);
    source.run("INSERT INTO t SELECT generate_series(2001, 2100)");
    let end = source.value("SELECT pg_current_wal_flush_lsn()");
    recvlogical(&["--start", "--no-loop", "--fsync-interval=0", "--file=changes", &format!("--endpos={end}")]);
    let changes = std::fs::read_to_string(place.path().join("changes")).unwrap();
    assert_eq!(changes.matches("table public.t: INSERT: id[integer]:2").count(), 100, "{changes}");
    recvlogical(&["--drop-slot"]);
}

#[test]
fn pg_basebackup_works() {
    // The tool takes backups of its own version and older ones.
    let server = postgres(15).start().unwrap();
    let source = database(&server, "app");
    source.run("CREATE TABLE t AS SELECT md5(i::text) FROM generate_series(1, 50000) i");
    let walgate = Walgate::run(&server.dsn("app"), &[]);
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    let mut command = Command::new(tool("pg_basebackup"));
    command.args([
        "-d",
        &walgate.dsn(server.superuser(), "app"),
        "--wal-method=stream",
        "--checkpoint=fast",
        "--no-sync",
    ]);
    succeeds(command.arg("--pgdata").arg(&backup));
    succeeds(Command::new(tool("pg_verifybackup")).arg("--quiet").arg("--no-parse-wal").arg(&backup));
    assert!(backup.join("backup_label").exists());
}

#[test]
fn a_physical_standby_streams() {
    let mut primary = postgres(18).start().unwrap();
    let walgate = Walgate::run(&primary.dsn("postgres"), &[]);
    let standby = primary.standby(&walgate.dsn(primary.superuser(), "postgres")).unwrap();
    let (source, target) = (Sql::connect(&primary.dsn("postgres")), Sql::connect(&standby.dsn("postgres")));
    let port = |sql: &Sql| sql.value("SELECT sender_port FROM pg_stat_wal_receiver");
    eventually("the standby to stream through the proxy", || match port(&target) {
        found if found == walgate.port().to_string() => Ok(()),
        found => Err((found, standby.log())),
    });
    source.run("CREATE TABLE t AS SELECT md5(i::text) FROM generate_series(1, 50000) i");
    target.until("SELECT to_regclass('t') IS NOT NULL", "t");
    assert_eq!(target.value("SELECT count(*) FROM t"), "50000");
}

#[test]
fn zero_cache_syncs_and_follows() {
    let server = postgres(17).start().unwrap();
    let source = database(&server, "app");
    source.run(
        "CREATE TABLE issue (id text PRIMARY KEY, title text NOT NULL, n int);
         INSERT INTO issue SELECT i::text, 'issue ' || i, i FROM generate_series(1, 500) i",
    );
    database(&server, "state");
    let walgate = Walgate::run(&server.dsn("app"), &[]);
    let url = |port: u16, database: &str| format!("postgresql://postgres:unused@127.0.0.1:{port}/{database}");
    let zero = ZeroCache::start(&url(walgate.port(), "app"), &url(server.port(), "state"));
    let holds = |sql: &str, expected: Value| {
        eventually(&format!("zero-cache's replica: {sql}"), || match zero.replica(sql) {
            Ok(rows) if rows[0]["answer"] == expected => Ok(()),
            other => Err(other),
        });
    };
    let slot = "zero_0_a";
    let idle = |walgate: &Walgate| {
        walgate.lag_until(slot, "nothing is pending", is_idle);
    };
    holds("SELECT count(*) AS answer FROM issue", 500.into());
    source.run("INSERT INTO issue VALUES ('x', 'after the sync', 501)");
    holds("SELECT count(*) AS answer FROM issue", 501.into());
    source.run("ALTER TABLE issue ADD COLUMN done boolean");
    source.run("CREATE TABLE comment (id text PRIMARY KEY, body text)");
    source.run("UPDATE issue SET done = true WHERE id = 'x'; INSERT INTO comment VALUES ('c', 'hello')");
    holds("SELECT sum(done) AS answer FROM issue", 1.into());
    holds("SELECT body AS answer FROM comment", "hello".into());
    idle(&walgate);

    let walgate = walgate.restart(&server.dsn("app"), &[]);
    source.run("INSERT INTO comment VALUES ('d', 'after the restart')");
    holds("SELECT count(*) AS answer FROM comment", 2.into());
    idle(&walgate);

    zero.signal(Signal::Stop);
    source.run("INSERT INTO comment VALUES ('e', 'one row')");
    source.run("INSERT INTO comment SELECT i::text, 'ten rows' FROM generate_series(1, 10) i");
    source.run("UPDATE issue SET n = n + 1 WHERE n <= 5");
    let stalled = walgate.lag_until(slot, "three transactions are pending", |consumer| {
        consumer["lag"]["transactions"] == 3 && consumer["lag"]["seconds"].as_f64() > Some(1.0)
    });
    assert_eq!(stalled["lag"]["rows"], 16, "{stalled}");
    assert_eq!(stalled["state"], "live", "{stalled}");
    zero.signal(Signal::Continue);
    idle(&walgate);
    holds("SELECT count(*) AS answer FROM comment", 13.into());
}

/// Whether a consumer is known to have everything.
fn is_idle(consumer: &Value) -> bool {
    let figures = ["transactions", "rows", "bytes", "seconds", "open_transactions"];
    consumer["state"] == "live" && figures.iter().all(|figure| consumer["lag"][figure].as_f64() == Some(0.0))
}

/// A new database, and a session in it.
fn database(server: &Server, name: &str) -> Sql {
    Sql::connect(&server.dsn("postgres")).run(&format!("CREATE DATABASE {name}"));
    Sql::connect(&server.dsn(name))
}

#[track_caller]
fn succeeds(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    let name = Path::new(command.get_program()).display();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}
