//! Situations of the slot: its consumer comes and goes, or it is lost.

use crate::scene::{Scene, is_silent, show};
use crate::support::oracle::Habits;
use crate::support::{eventually, postgres};

#[test]
fn a_consumer_that_reconnects_in_a_loop_is_counted_once() {
    let scene = Scene::of(postgres(16).start().unwrap(), Habits::PLAIN);
    scene.oracle.hold();
    scene.write(1, 5);
    scene.pending(5);
    for _ in 0..20 {
        let before = scene.oracle.ledger().connections;
        scene.oracle.reconnect();
        eventually("it to connect again", || {
            let report = scene.walgate.lag("s").expect("it is known");
            let counted = report["lag"]["transactions"].as_u64();
            assert!(counted.is_none_or(|counted| counted == 5), "{report}");
            match scene.oracle.ledger() {
                ledger if ledger.connections > before => Ok(()),
                ledger => Err(ledger.ended.clone()),
            }
        });
    }
    scene.write(11, 1);
    let report = scene.pending(6);
    assert_eq!(report["lag"]["rows"], 6, "{report}");
    scene.show("consumer reconnecting in a loop, six transactions pending");
    scene.oracle.release();
    scene.idle();
}

#[test]
fn a_slot_that_is_lost_has_no_figures() {
    let server = postgres(15).setting("max_slot_wal_keep_size", "1MB").setting("min_wal_size", "32MB");
    let scene = Scene::of(server.start().unwrap(), Habits::PLAIN);
    scene.oracle.hold();
    scene.write(1, 5);
    scene.pending(5);
    for _ in 0..4 {
        scene.sql.run("SELECT pg_switch_wal(); INSERT INTO unpublished VALUES (1)");
    }
    // Its walsender is ended, and then what it needs is removed.
    scene.sql.run("CHECKPOINT");
    let report = scene.until("it is lost", |report| report["wal_status"] == "lost");
    assert!(is_silent(&report) && report["state"] == "unknown", "{report}");
    scene.show("slot lost through max_slot_wal_keep_size");
}

#[test]
fn a_slot_that_was_idle_for_too_long_has_no_figures() {
    let scene = Scene::of(postgres(18).start().unwrap(), Habits::PLAIN);
    let Scene { oracle, walgate, sql, usual, server } = scene;
    oracle.hold();
    drop(oracle);
    sql.until("SELECT active FROM pg_replication_slots", "f");
    assert_eq!(sql.value("SELECT unit FROM pg_settings WHERE name = 'idle_replication_slot_timeout'"), "s");
    server.reload_with(&[("idle_replication_slot_timeout", "1s")]).unwrap();
    sql.until("SHOW idle_replication_slot_timeout", "1s");
    eventually("the slot to be invalidated", || {
        sql.run("CHECKPOINT");
        let reason = sql.value("SELECT invalidation_reason FROM pg_replication_slots");
        if reason == "idle_timeout" { Ok(()) } else { Err(reason) }
    });
    let report = walgate.lag_until("s", "it is lost", |report| report["state"] == "unknown");
    assert!(is_silent(&report), "{report}");
    assert!(report["observe_reason"].as_str().is_some_and(|why| why.contains("idle_timeout")), "{report}");
    show("slot invalidated by idle_replication_slot_timeout", &walgate, &usual);
}
