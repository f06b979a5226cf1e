//! Measurements, run by hand: how soon a finding is seen, and what audits cost.

use std::thread;
use std::time::{Duration, Instant};

use walgate::identity::{self, RuleSet, Scope};
use walgate::source::catalog;

use crate::findings::{has, server, until};
use crate::support::client::connector;
use crate::support::daemon::Walgate;
use crate::support::oracle::{Habits, Oracle};
use crate::support::{Sql, eventually, postgres};

/// From a commit that the stream shows to the finding, and by polling.
/// `cargo test --test watch -- --ignored --nocapture how_long`
#[test]
#[ignore = "a measurement"]
fn how_long_it_takes_from_a_commit_to_its_finding() {
    let (server, sql) = server();
    sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    let _reader = Oracle::start(
        &walgate.dsn("postgres", "postgres"),
        "s",
        "everything",
        Habits { messages: true, ..Habits::PLAIN },
    );
    until(&walgate, "/v1/identity", "", "", false);
    for (how, rounds, change) in [
        ("shown by a Relation message", 30, "INSERT INTO TABLE VALUES (now())"),
        ("shown by a message of zero-cache's", 30, "SELECT pg_logical_emit_message(true, 'zero/0/ddl', '{}')"),
        ("by polling", 10, "SELECT"),
    ] {
        let mut took: Vec<Duration> = (0..rounds)
            .map(|round| {
                let table = format!("{}_{round}", how.replace([' ', '-', '\''], "_"));
                // Somewhere between two audits.
                thread::sleep(Duration::from_millis(1300 + 97 * (round % 11)));
                sql.run(&format!("CREATE TABLE {table} (at timestamptz); {}", change.replace("TABLE", &table)));
                let committed = Instant::now();
                let deadline = committed + Duration::from_secs(10);
                let table = format!("public.{}", table.to_lowercase());
                while !has(&walgate.get("/v1/identity").1, "pg/no-identity", &table) {
                    assert!(Instant::now() < deadline, "no finding on {table}");
                    thread::sleep(Duration::from_millis(1));
                }
                committed.elapsed()
            })
            .collect();
        took.sort();
        let (median, most, worst) = (took[took.len() / 2], took[took.len() * 9 / 10], took[took.len() - 1]);
        println!("{how}: median {median:?}, 9 of 10 within {most:?}, worst of {rounds} {worst:?}");
    }
}

/// What audits of many tables take, and how long they hold up an answer over HTTP, which comes from the thread that relays.
/// `cargo test --test watch -- --ignored --nocapture what_audits_cost`
#[tokio::test]
#[ignore = "a measurement"]
async fn what_audits_cost() {
    let server = postgres(18).setting("max_locks_per_transaction", "1024").start().expect("PostgreSQL starts");
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE PUBLICATION everything FOR ALL TABLES");
    let scope = Scope { rule_sets: [RuleSet::Zero].into(), ..Scope::default() };
    let mut made = 0;
    for tables in [1_000, 20_000] {
        for first in (made..tables).step_by(1000) {
            // Ten columns, three of them with defaults, two indexes; one in a hundred without a key.
            sql.run(&format!(
                "DO $$ BEGIN FOR i IN {first}..{first} + 999 LOOP EXECUTE format('CREATE TABLE t%s (id bigint GENERATED \
                 ALWAYS AS IDENTITY %s, a text NOT NULL DEFAULT %L, b text, c jsonb, d timestamptz DEFAULT now(), \
                 e int[], f uuid DEFAULT gen_random_uuid(), g numeric(10,2), h boolean, i date)', i, \
                 CASE WHEN i % 100 > 0 THEN 'PRIMARY KEY' ELSE '' END, 'x'); EXECUTE format('CREATE INDEX ON t%s (a, d)', i); \
                 END LOOP; END $$"
            ));
        }
        made = tables;
        sql.run("ANALYZE");
        let session = connector(&server.dsn("postgres")).sql().await.expect("a session");
        for _ in 0..3 {
            let begun = Instant::now();
            let catalog = catalog::read(&session).await.expect("a catalog");
            let read = begun.elapsed();
            let questions = identity::questions(&catalog, &scope).len();
            let audit = identity::audit(&catalog, &identity::Survey::new(), &scope);
            let (judged, findings) = (begun.elapsed() - read, audit.findings.len());
            println!("{tables} tables: read {read:?}, judged {judged:?}, {questions} questions, {findings} findings");
        }
        let walgate = Walgate::run(&server.dsn("postgres"), &["--for", "zero"]);
        eventually("an audit", || match walgate.get("/v1/identity") {
            (200, _) => Ok(()),
            other => Err(other),
        });
        let (begun, mut worst) = (Instant::now(), Duration::ZERO);
        while begun.elapsed() < Duration::from_secs(20) {
            let asked = Instant::now();
            walgate.get("/livez");
            worst = worst.max(asked.elapsed());
            thread::sleep(Duration::from_millis(1));
        }
        println!("{tables} tables: an answer over HTTP came within {worst:?}");
    }
}
