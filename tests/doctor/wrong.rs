//! Scenario S7: what is wrong here?

use std::thread;

use serde_json::Value;
use walgate::scratch::Server;

use crate::scene::{bundle, doctor, problems, rules, statement, until_found, until_gone};
use crate::support::{Sql, eventually, postgres};

const PASSWORDS: [&str; 4] =
    ["hunter2-of-walgate", "hunter2-of-a-subscription", "hunter2-in-a-statement", "hunter2-as-a-value"];

/// A server on which much is wrong, and who makes it so.
struct Ill {
    server: Server,
    sql: Sql,
    /// Those who have a transaction open and do nothing.
    idle: Vec<Sql>,
    /// Those who wait, and one who is at work.
    busy: Vec<thread::JoinHandle<()>>,
}

impl Ill {
    fn start(major: u32) -> Ill {
        let builder = postgres(major).password(PASSWORDS[0]).setting("max_replication_slots", "3");
        let server = builder.start().expect("the server starts");
        let client = |name: &str| Sql::connect(&format!("{} application_name={name}", server.dsn("postgres")));
        let sql = client("owner");
        sql.run("CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE TABLE audit (what text); CREATE ROLE app LOGIN");
        sql.run("CREATE PUBLICATION p FOR TABLE orders, audit");
        sql.run("SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')");
        sql.run(&format!(
            "CREATE SUBSCRIPTION \"From Green\" CONNECTION 'host=green.invalid user=repl dbname=app password={}' PUBLICATION p \
             WITH (connect = false)",
            PASSWORDS[1]
        ));
        client("gone").run("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'it''s 1'");
        let idle = [
            format!("BEGIN; INSERT INTO orders VALUES (2, '{}')", PASSWORDS[3]),
            format!("BEGIN; ALTER ROLE app PASSWORD '{}'", PASSWORDS[2]),
        ];
        let idle = idle.map(|statements| {
            let worker = client("worker");
            worker.run(&statements);
            worker
        });
        let batch = client("batch");
        let work = thread::spawn(move || {
            let ended = batch.try_rows("INSERT INTO audit VALUES ('night'); SELECT pg_sleep(600)");
            ended.expect_err("somebody ends it");
        });
        // They are at it one after the other.
        let busy = [
            ("migration", "ALTER TABLE orders ADD COLUMN seen bool"),
            ("web", "SELECT * FROM orders"),
            ("consumer", "SELECT pg_create_logical_replication_slot('fresh', 'pgoutput')"),
        ];
        let busy = busy.map(|(name, statement)| {
            let client = client(name);
            let waits = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND wait_event_type = 'Lock'"
            );
            let thread = thread::spawn(move || client.run(statement));
            sql.until(&waits, "1");
            thread
        });
        Ill { server, sql, idle: idle.into(), busy: busy.into_iter().chain([work]).collect() }
    }
}

#[test]
fn s7_what_is_wrong_here() {
    for ill in [14, 18].map(Ill::start) {
        let dsn = ill.server.dsn("postgres");
        let major = ill.server.installation().major();
        let expected = [
            ("lock/queue", "error"),
            ("lock/slot-creation", "error"),
            ("pg/no-identity", "error"),
            ("server/slots", "warning"),
            ("slot/unread", "warning"),
            ("subscription/disabled", "warning"),
            ("transaction/idle", "warning"),
            ("transaction/long", "warning"),
            ("transaction/prepared", "warning"),
        ];
        let found = eventually("all of it", || {
            let found = problems(&dsn, &[]);
            let is_there = |(rule, severity): &(&str, &str)| {
                found.iter().any(|problem| problem["rule"] == *rule && problem["severity"] == *severity)
            };
            // Two are idle.
            if expected.iter().all(is_there) && found.len() > expected.len() { Ok(found) } else { Err(rules(&found)) }
        });
        let idle = found.iter().filter(|problem| problem["rule"] == "transaction/idle").count();
        assert_eq!((found.len(), idle), (expected.len() + 1, 2), "PostgreSQL {major}: {:?}", rules(&found));
        let of = |rule: &str| found.iter().find(|problem| problem["rule"] == rule).expect(rule);
        let says = |rule: &str, what: &str| {
            let message = of(rule)["message"].as_str().unwrap_or_default();
            assert!(message.contains(what), "PostgreSQL {major}, {rule}: {message}");
        };
        says("lock/queue", "ALTER TABLE");
        says("lock/queue", "AccessExclusiveLock on public.orders, and 1 session after it");
        says("lock/queue", "a prepared transaction; pid ");
        says("transaction/long", "(batch, role postgres, database postgres)");
        says("pg/no-identity", "cannot update table \"audit\"");
        assert_eq!(of("lock/slot-creation")["subject"], "fresh");
        assert_eq!(of("slot/unread")["subject"], "forgotten");

        // For people, the worst first, and for the ticket.
        let told = doctor(&[&dsn]);
        assert_eq!(told.status, Some(1), "{told:?}");
        let at = |heading: &str| {
            told.output.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}: {told:?}"))
        };
        assert!(at("locks") < at("slots") && at("slots") < at("well"), "{}", told.output);
        assert!(told.output.contains("ROLLBACK PREPARED 'it''s 1'"), "{}", told.output);
        let (bundle, text) = bundle(&dsn, &[]);
        let secret = |text: &str| PASSWORDS.iter().find(|password| text.contains(**password)).copied();
        assert_eq!((secret(&text), secret(&told.output)), (None, None), "PostgreSQL {major}");
        let checkup = &bundle["checkup"];
        assert_eq!(checkup["subscriptions"][0]["source"], "postgresql://repl@green.invalid:5432/app");
        assert_eq!(checkup["prepared"][0]["gid"], "it's 1");
        assert_eq!(checkup["waits"].as_array().map(Vec::len), Some(3));

        mend(ill, &dsn, &found);
    }
}

/// Mends all of it by what it says.
fn mend(ill: Ill, dsn: &str, found: &[Value]) {
    let Ill { sql, idle, busy, server } = ill;
    let of = |rule: &'static str| found.iter().filter(move |problem| problem["rule"] == rule);
    for problem in of("transaction/prepared") {
        sql.run(&statement(problem, "ROLLBACK PREPARED"));
    }
    for problem in of("transaction/idle").chain(of("transaction/long")) {
        sql.run(&statement(problem, "SELECT pg_terminate_backend"));
    }
    for thread in busy {
        thread.join().expect("who has waited gets on");
    }
    drop(idle);
    for rule in ["lock/queue", "lock/slot-creation", "transaction/idle", "transaction/long", "transaction/prepared"] {
        until_gone(dsn, rule);
    }
    sql.run("ALTER TABLE audit ADD PRIMARY KEY (what)");
    until_gone(dsn, "pg/no-identity");
    for problem in of("subscription/disabled") {
        sql.run(&statement(problem, "ALTER SUBSCRIPTION"));
    }
    // There is no such host.
    until_found(dsn, "subscription/down");
    sql.run("ALTER SUBSCRIPTION \"From Green\" DISABLE; ALTER SUBSCRIPTION \"From Green\" SET (slot_name = NONE)");
    sql.run("DROP SUBSCRIPTION \"From Green\"");
    for problem in problems(dsn, &[]).iter().filter(|problem| problem["rule"] == "slot/unread") {
        sql.run(&statement(problem, "SELECT pg_drop_replication_slot"));
    }
    let told = doctor(&[dsn]);
    assert_eq!(told.status, Some(0), "{told:?}\n{}", server.log());
}
