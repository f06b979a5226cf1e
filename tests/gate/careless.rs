//! What the careless do to the source: they write while the fence is set, and after it.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::scene::{Gate, Pair, Way, quiet};
use crate::subscribed::{Subscribed, session_of};
use crate::support::{Sql, eventually, tool};

#[test]
fn a_fence_is_refused_while_somebody_writes_and_says_who() {
    let pair = Pair::start(18, 18);
    let story = Subscribed::start(&pair, "app", Way::Proxy);
    let gate = &story.gate;
    let worker = story.application("nightly");
    let pid = worker.value("SELECT pg_backend_pid()");
    worker.run("BEGIN; INSERT INTO orders VALUES (100, 'late')");
    let (status, problem) = gate.send("POST", "/fence");
    assert_eq!(status, 409, "{problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(&format!("pid {pid} \"nightly\" of postgres (idle in transaction")), "{problem}");
    assert_eq!(problem["writers"][0]["pid"].to_string(), pid, "{problem}");
    worker.run("PREPARE TRANSACTION 'two-phase'");
    let why = gate.refused_fence();
    assert!(why.contains("transaction \"two-phase\" of postgres (prepared"), "{why}");
    worker.run("ROLLBACK PREPARED 'two-phase'");

    // A commit that waits for a synchronous standby has been decoded, and is in no snapshot.
    pair.source.reload_with(&[("synchronous_standby_names", "nobody")]).expect("it is reloaded");
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The first ones may not wait: that they are to is known once the checkpointer has heard of it.
        let stuck = scope.spawn(|| {
            let orders = (101..).take_while(|_| !released.load(Ordering::Relaxed));
            orders.for_each(|id| worker.run(&format!("INSERT INTO orders VALUES ({id}, 'stuck')")));
        });
        story.blue.until("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
        let why = gate.refused_fence();
        assert!(
            why.contains(&format!("pid {pid} \"nightly\" of postgres (waiting for a synchronous standby")),
            "{why}"
        );
        released.store(true, Ordering::Relaxed);
        pair.source.reload_with(&[("synchronous_standby_names", "")]).expect("it is reloaded");
        stuck.join().expect("it is committed");
    });

    gate.fence();
    let why = gate.refused_fence();
    assert!(why.contains("a fence stands"), "{why}");
    gate.until("cutover", "pass", "nothing was written since");
    gate.release();
    let (status, problem) = gate.send("DELETE", "/fence");
    assert_eq!(status, 404, "{problem}");
}

/// A write behind the fence.
type Write = fn(&Subscribed);

#[test]
fn a_write_behind_the_fence_closes_the_gate_for_good() {
    let writes: [Write; 4] = [
        |story| drop(story.order()),
        // A transaction that was open at the fence, and had written nothing by then.
        |story| {
            let late = story.application("late");
            late.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders");
            story.gate.release();
            story.gate.fence();
            late.run("INSERT INTO orders VALUES (200, 'late')");
            story.gate.turns("cutover", "wait", "\"late\" of postgres (idle in transaction");
            late.run("COMMIT");
        },
        // One that nobody waits for.
        |story| {
            let hasty = story.application("hasty");
            hasty.run("SET synchronous_commit = off; INSERT INTO orders VALUES (300, 'x')");
        },
        // A walsender takes SQL too, and is no client backend.
        |story| {
            let url = format!("{} replication=database", story.source);
            let mut psql = Command::new(tool("psql"));
            let psql =
                psql.args(["-X", "-c", "UPDATE orders SET note = 'changed'", &url]).output().expect("psql starts");
            assert!(psql.status.success(), "{psql:?}");
        },
    ];
    let pair = Pair::start(18, 18);
    for way in Way::ALL {
        let story = Subscribed::start(&pair, way.as_str(), way);
        let gate = &story.gate;
        for (number, write) in writes.iter().enumerate() {
            gate.fence();
            gate.until("cutover", "pass", "nothing was written since");
            write(&story);
            let answer = match way {
                // Nobody has seen what it was.
                Way::Poll => gate.turns("cutover", "unknown", "transactions were committed after the fence"),
                _ => gate.turns("cutover", "fail", "table public.orders was written to at"),
            };
            // It arrives, which makes nothing good.
            story.arrived();
            let later = gate.cutover();
            let said = (later.state(), later.reason());
            assert_eq!(said, (answer.state(), answer.reason()), "{way:?}, write {number}: {later}");
            // Another fence, behind it, does.
            gate.release();
        }
        gate.fence();
        gate.until("cutover", "pass", "nothing was written since");
    }
}

#[test]
fn what_is_published_to_nobody_does_not_close_the_gate_where_changes_are_decoded() {
    let pair = Pair::start(18, 18);
    Sql::connect(&pair.source.dsn("postgres")).run("CREATE DATABASE busy");
    let other = session_of(&pair.source.dsn("busy"), "other");
    other.run("CREATE TABLE busy (id int)");
    for way in Way::ALL {
        let accepted = "accept_unreplicated = [\"public.private\"]";
        let story = Subscribed::with(&pair, way.as_str(), way, accepted, |blue, green| {
            blue.run("CREATE TABLE private (id int)");
            green.run("CREATE TABLE private (id int)");
        });
        let gate = &story.gate;
        for write in
            ["ANALYZE", "INSERT INTO private VALUES (1)", "SELECT pg_current_xact_id()", "CREATE TEMP TABLE x ()"]
        {
            gate.fence();
            gate.until("cutover", "pass", "nothing was written since");
            story.blue.run(write);
            expected(gate, way);
            gate.release();
        }
        gate.fence();
        other.run("INSERT INTO busy SELECT generate_series(1, 1000)");
        expected(gate, way);
    }

    fn expected(gate: &Gate, way: Way) {
        if way == Way::Poll {
            gate.turns("cutover", "unknown", "transactions were committed after the fence");
        } else {
            gate.until("cutover", "pass", "nothing was written since");
        }
    }
}

#[test]
fn a_commit_that_was_not_flushed_yet_is_before_the_fence_or_there_is_none() {
    // WAL that nobody flushes stays where it is.
    let pair = Pair::of(quiet(18).setting("wal_writer_delay", "10s").setting("bgwriter_delay", "10s"), quiet(18));
    for (name, more) in [("barrier", ""), ("writefree", "barrier = false")] {
        let story = Subscribed::with(&pair, name, Way::Proxy, more, |_, _| {});
        let gate = &story.gate;
        story.arrived();
        let hasty = story.application("hasty");
        hasty.run("SET synchronous_commit = off; INSERT INTO orders VALUES (50, 'hasty')");
        if more.is_empty() {
            gate.fence();
        } else {
            let (status, problem) = gate.send("POST", "/fence");
            if status == 409 {
                let detail = problem["detail"].as_str().unwrap_or_default();
                assert!(detail.contains("a commit without synchronous_commit may be left"), "{problem}");
                story.blue.run("SELECT pg_logical_emit_message(true, 'flush', '')");
                gate.fence();
            }
        }
        gate.until("cutover", "pass", "nothing was written since");
        assert_eq!(story.green.value("SELECT note FROM orders WHERE id = 50"), "hasty");
    }
}

#[test]
fn who_waits_right_after_a_mend_is_not_told_of_what_was_before_it() {
    let pair = Pair::start(18, 18);
    let story = Subscribed::start(&pair, "app", Way::Proxy);
    story.arrived();
    story.gate.fence();
    story.gate.until("cutover", "pass", "");
    for _ in 0..3 {
        story.alter("DISABLE");
        story.gate.turns("cutover", "fail", "is disabled");
        story.alter("ENABLE");
        let answer = story.gate.ask("cutover", "&wait=60s");
        assert!(answer.is("pass", ""), "{answer}");
    }
}

#[test]
fn a_position_of_the_callers_own_is_a_fence_of_which_nothing_else_is_known() {
    let pair = Pair::start(18, 18);
    for way in Way::ALL {
        let story = Subscribed::start(&pair, way.as_str(), way);
        story.order();
        story.arrived();
        let lsn = story.blue.value("SELECT pg_current_wal_flush_lsn()");
        // What is known of the time since is what a stream has shown; the server says nothing of an old position.
        let (state, said) =
            if way == Way::Poll { ("unknown", "transactions were committed") } else { ("pass", "nothing was written") };
        eventually("the caller's own fence to be judged", || {
            let answer = story.gate.ask("cutover", &format!("&target_lsn={lsn}"));
            if answer.is(state, said) { Ok(()) } else { Err(answer) }
        });
        // Parts that are read seldom do not make it flicker.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let answer = story.gate.ask("cutover", &format!("&target_lsn={lsn}"));
            assert!(answer.is(state, said), "{answer}");
        }
        story.order();
        if way != Way::Poll {
            eventually("the stray write to be seen", || {
                let answer = story.gate.ask("cutover", &format!("&target_lsn={lsn}"));
                if answer.is("fail", "table public.orders") { Ok(()) } else { Err(answer) }
            });
        }
    }
}
