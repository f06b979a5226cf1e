//! Transactions, rows and bytes are those of the ledger, by table too, at every step.

use walgate::scratch::Server;

use crate::held::{publish, rows_by_table, same, settle};
use crate::support::daemon::Walgate;
use crate::support::oracle::{Habits, Oracle};
use crate::support::{Sql, eventually, postgres};

#[test]
fn counts_are_exact_with_14() {
    counts_are_exact(14);
}

#[test]
fn counts_are_exact_with_15() {
    counts_are_exact(15);
}

#[test]
fn counts_are_exact_with_16() {
    counts_are_exact(16);
}

#[test]
fn counts_are_exact_with_18() {
    counts_are_exact(18);
}

/// The ways to consume that the version has, each with a slot's name.
fn habits(major: u32) -> Vec<(&'static str, Habits)> {
    let plain = Habits::PLAIN;
    let all = [
        (14, "plain", plain),
        (14, "zeros", Habits { sends_zeros: true, ..plain }),
        (14, "streamed", Habits { protocol: 2, streaming: Some("on"), acks_the_end: true, ..plain }),
        (15, "prepared", Habits { protocol: 3, streaming: Some("on"), two_phase: true, ..plain }),
        (16, "parallel", Habits { protocol: 4, streaming: Some("parallel"), two_phase: true, ..plain }),
    ];
    all.into_iter().filter(|(since, ..)| *since <= major).map(|(_, slot, habits)| (slot, habits)).collect()
}

fn counts_are_exact(major: u32) {
    let server = postgres(major).setting("logical_decoding_work_mem", "64kB").start().expect("the server starts");
    let sql = publish(&server, &["a", "b", "\"C d\""], &[]);
    sql.run("ALTER TABLE b REPLICA IDENTITY FULL; CREATE TABLE unpublished (id int)");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    let dsn = walgate.dsn(server.superuser(), "postgres");
    let consumers: Vec<(&str, Habits, Oracle)> = habits(major)
        .into_iter()
        .map(|(slot, habits)| {
            let two_phase = if habits.two_phase { ", false, true" } else { "" };
            sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput'{two_phase})"));
            let oracle = Oracle::start(&dsn, slot, "p", habits);
            oracle.hold();
            (slot, habits, oracle)
        })
        .collect();
    let every = |check: &dyn Fn(&str, Habits, &Oracle)| {
        consumers.iter().for_each(|(slot, habits, oracle)| check(slot, *habits, oracle));
    };

    write(&server, &sql, &|running, prepared| {
        every(&|slot, habits, oracle| {
            let (_, exact) = settle(&walgate, &sql, slot, oracle);
            let open = if habits.two_phase { running } else { running + prepared };
            let open = if habits.streaming.is_some() { open } else { 0 };
            assert_eq!((exact.open_transactions, exact.open_bytes > 0), (open, open > 0), "{slot}");
        });
    });
    every(&|slot, habits, oracle| {
        let (_, exact) = settle(&walgate, &sql, slot, oracle);
        // Prepared transactions are two commits each where they are decoded as such, and those rolled back are one.
        let (expected, deleted) = if habits.two_phase { (13, 2505) } else { (10, 0) };
        assert_eq!((exact.pending.transactions, exact.open_transactions), (expected, 0), "{slot}");
        let rows = [("public.\"C d\"", 3001), ("public.a", 2507 + deleted), ("public.b", 2802)];
        assert_eq!(rows_by_table(&exact), rows.into(), "{slot}");
        let ledger = oracle.ledger();
        if habits.streaming.is_some() {
            assert!(ledger.most_open >= 2 && ledger.aborted.0 >= 2 && ledger.aborted.1 >= 1, "{slot}: {ledger:?}");
        }
    });
    // Acknowledged one by one, by each at its own pace.
    every(&|slot, _, oracle| {
        let pending = oracle.ledger().pending().len();
        for done in 1..=pending {
            oracle.acknowledge(1);
            let (report, exact) = eventually(&format!("{slot}: {done} of {pending}"), || {
                let (report, exact) = (walgate.lag(slot).expect("it is known"), oracle.ledger().exact());
                let acted = oracle.ledger().done() == done;
                let equal = report["lag"]["transactions"].as_u64() == Some(exact.pending.transactions);
                if acted && equal { Ok((report, exact)) } else { Err((report, exact)) }
            });
            same(&report, &exact);
        }
        let report = walgate.lag_until(slot, "nothing is pending", |report| report["stage"] == "none");
        assert_eq!(oracle.ledger().exact().pending.transactions, 0);
        same(&report, &oracle.ledger().exact());
    });
}

/// Where a consumer has answered a keepalive, the next commit's record may begin: a position equal to its `commit_lsn`
/// was acknowledged before it was written.
#[test]
fn a_commit_that_begins_where_an_answered_keepalive_ended_is_pending() {
    let server = postgres(18).start().expect("the server starts");
    let sql = publish(&server, &["a"], &["s"]);
    sql.run("CREATE TABLE unpublished (id int)");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    let dsn = walgate.dsn(server.superuser(), "postgres");
    let oracle = Oracle::start(&dsn, "s", "p", Habits { acks_the_end: true, ..Habits::PLAIN });
    let writer = Sql::connect(&server.dsn("postgres"));
    let found = (0..20).any(|id| {
        writer.run(&format!("BEGIN; INSERT INTO a VALUES ({id}, 'thinking')"));
        sql.run("INSERT INTO unpublished VALUES (1)");
        let end = sql.value("SELECT pg_current_wal_insert_lsn()");
        sql.until(&format!("SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots"), "t");
        oracle.hold();
        writer.run("COMMIT");
        let (report, exact) = settle(&walgate, &sql, "s", &oracle);
        assert_eq!((report["lag"]["transactions"].as_u64(), exact.pending.transactions), (Some(1), 1), "{report}");
        let commit_lsn = oracle.ledger().pending()[0].commit_lsn;
        oracle.release();
        walgate.lag_until("s", "nothing is pending", |report| report["stage"] == "none");
        commit_lsn.to_string() == end
    });
    assert!(found, "no commit began where a keepalive ended");
}

/// Writes of every kind. `look` is called before anything is rolled back, with the numbers of large transactions
/// that run and that are prepared.
fn write(server: &Server, sql: &Sql, look: &dyn Fn(u64, u64)) {
    let other = || Sql::connect(&server.dsn("postgres"));
    let (first, second, third) = (other(), other(), other());
    sql.run("INSERT INTO a VALUES (1, 'one'), (2, 'two'); INSERT INTO b VALUES (1, 'one')");
    first.run("BEGIN; INSERT INTO a SELECT i, 'first' FROM generate_series(1001, 3000) i");
    second.run("BEGIN; INSERT INTO \"C d\" SELECT i, 'second' FROM generate_series(1001, 3000) i");
    third.run("BEGIN; INSERT INTO a SELECT i, 'undone' FROM generate_series(9001, 11000) i");
    first.run("SAVEPOINT s; INSERT INTO b SELECT i, 'undone' FROM generate_series(1001, 3000) i");
    second.run("SAVEPOINT t; INSERT INTO a SELECT i, 'undone' FROM generate_series(7001, 9000) i");
    sql.run("INSERT INTO a VALUES (3, 'between')");
    look(3, 0);
    first.run(
        "ROLLBACK TO s; SAVEPOINT s; INSERT INTO b SELECT i, 'kept' FROM generate_series(4001, 6000) i; RELEASE s",
    );
    second.run("ROLLBACK TO t; SAVEPOINT t; INSERT INTO \"C d\" SELECT i, 'kept' FROM generate_series(4001, 5000) i");
    sql.run("INSERT INTO a VALUES (5, 'between')");
    look(3, 0);
    second.run("COMMIT");
    first.run("UPDATE b SET v = v || '!' WHERE id BETWEEN 4001 AND 4100; COMMIT");
    third.run("ROLLBACK");
    sql.run("UPDATE b SET v = 'one more' WHERE id = 1; DELETE FROM b WHERE id BETWEEN 4001 AND 4200");
    sql.run("BEGIN; INSERT INTO a VALUES (4, 'small'); PREPARE TRANSACTION 'small'");
    sql.run("COMMIT PREPARED 'small'");
    sql.run(
        "BEGIN; INSERT INTO b SELECT i, 'large' FROM generate_series(7001, 7500) i;
         INSERT INTO a SELECT i, 'large' FROM generate_series(11001, 11500) i; PREPARE TRANSACTION 'large'",
    );
    sql.run("COMMIT PREPARED 'large'");
    sql.run("BEGIN; DELETE FROM a; PREPARE TRANSACTION 'undone'");
    // Where it is known to be rolled back it is not decoded any more, from PostgreSQL 18 on.
    look(0, 1);
    sql.run("ROLLBACK PREPARED 'undone'");
    sql.run("INSERT INTO unpublished SELECT generate_series(1, 5000)");
    sql.run("TRUNCATE \"C d\"");
    sql.run("INSERT INTO \"C d\" VALUES (1, 'after'); DELETE FROM a WHERE id <= 2");
}
