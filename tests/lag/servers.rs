//! Situations of the server: it restarts, it fails over, and clocks differ.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use walgate::scratch::{Server, Stop};
use walgate::time::PgTimestamp;

use crate::held::{same, settle};
use crate::scene::{Scene, Stopped, is_idle, is_silent};
use crate::support::daemon::Walgate;
use crate::support::network::Network;
use crate::support::oracle::{Habits, Oracle};
use crate::support::{Sql, eventually, postgres};

#[test]
fn a_restart_of_the_server_takes_nothing_from_what_is_pending() {
    let mut scene = Scene::of(postgres(14).start().unwrap(), Habits::PLAIN);
    scene.oracle.hold();
    scene.write(1, 3);
    scene.pending(3);
    let restart = |scene: &mut Scene, how: Stop, holds: &dyn Fn(&Value) -> bool| {
        let before = scene.oracle.ledger().connections;
        scene.server.stop(how).unwrap();
        for _ in 0..20 {
            let report = scene.walgate.lag("s").expect("it is known");
            assert!(is_silent(&report) || holds(&report), "{report}");
        }
        scene.server.start().unwrap();
        eventually("the consumer to connect again", || match scene.oracle.ledger() {
            ledger if ledger.connections > before => Ok(()),
            ledger => Err(ledger.ended.clone()),
        });
        scene.sql = Sql::connect(&scene.server.dsn("postgres"));
    };
    // In order it would wait for the acknowledgements.
    restart(&mut scene, Stop::Immediate, &|report| report["lag"]["transactions"] == 3);
    let (_, exact) = settle(&scene.walgate, &scene.sql, "s", &scene.oracle);
    assert_eq!((exact.pending.transactions, exact.pending.rows), (3, 3));
    scene.oracle.release();
    scene.idle();
    restart(&mut scene, Stop::Fast, &|report| report["lag"]["transactions"] == 0);
    scene.idle();
    scene.oracle.hold();
    scene.write(11, 2);
    scene.pending(2);
}

#[test]
fn a_failover_starts_anew() {
    let mut primary = postgres(17).start().unwrap();
    let standby = primary.standby(&primary.dsn("postgres")).unwrap();
    let network = Network::to(primary.port());
    let upstream = format!("{} sslmode=disable", primary.dsn_via(network.port(), "postgres"));
    let scene = Scene::with(primary, Habits::PLAIN, |_| Walgate::run(&upstream, &[]), |dsn| dsn);
    scene.oracle.hold();
    scene.write(1, 3);
    scene.pending(3);
    let Scene { oracle, walgate, sql, usual, mut server } = scene;
    let there = Sql::connect(&standby.dsn("postgres"));
    there.until("SELECT count(*) FROM t", "3");
    drop((oracle, sql, usual));
    server.stop(Stop::Immediate).unwrap();
    standby.promote().unwrap();
    network.lead_to(standby.port());
    eventually("the old figures to go", || match walgate.lag("s") {
        None => Ok(()),
        Some(report) if is_idle(&report) => panic!("a false zero: {report}"),
        Some(report) => Err(report),
    });
    there.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    let dsn = walgate.dsn(standby.superuser(), "postgres");
    let oracle = Oracle::start(&dsn, "s", "p", Habits::PLAIN);
    walgate.lag_until("s", "nothing is pending", is_idle);
    oracle.hold();
    there.run("INSERT INTO t VALUES (11, 'x')");
    there.run("INSERT INTO t VALUES (12, 'x'), (13, 'y')");
    let (_, exact) = settle(&walgate, &there, "s", &oracle);
    assert_eq!((exact.pending.transactions, exact.pending.rows), (2, 3));
}

#[test]
fn a_client_that_acknowledges_0_0_has_acknowledged_nothing() {
    let scene = Scene::of(postgres(18).start().unwrap(), Habits::PLAIN);
    scene.oracle.hold();
    scene.write(1, 2);
    scene.pending(2);
    let seen = || scene.sql.value("SELECT reply_time FROM pg_stat_replication");
    let before = seen();
    scene.oracle.send_zero();
    eventually("the server to have it", || if seen() == before { Err(()) } else { Ok(()) });
    let (report, exact) = settle(&scene.walgate, &scene.sql, "s", &scene.oracle);
    assert_eq!((exact.pending.transactions, report["lag"]["transactions"].as_u64()), (2, Some(2)));
    scene.show("client acknowledges 0/0");
    scene.oracle.release();
    scene.idle();
}

#[test]
fn commit_timestamps_out_of_order_are_dated_by_the_oldest() {
    let scene = Scene::of(postgres(16).start().unwrap(), Habits { acks_the_end: true, ..Habits::PLAIN });
    scene.oracle.hold();
    // One of two busy writers is stopped again and again: at times between taking the time and writing it.
    let writers = [1, 2].map(|table| {
        scene.sql.run(&format!("CREATE TABLE t{table} (id int PRIMARY KEY); ALTER PUBLICATION p ADD TABLE t{table}"));
        Sql::connect(&scene.server.dsn("postgres"))
    });
    let pid = writers[0].value("SELECT pg_backend_pid()");
    let place = eventually("one out of order", || {
        let write = |table: usize| {
            writers[table - 1].run(&format!(
                "DO $$ BEGIN TRUNCATE t{table}; FOR i IN 1..8000 LOOP INSERT INTO t{table} VALUES (i); COMMIT; END LOOP; END $$"
            ));
        };
        std::thread::scope(|scope| {
            let writing = [1, 2].map(|table| scope.spawn(move || write(table)));
            while !writing.iter().all(|writer| writer.is_finished()) {
                drop(Stopped::process(&pid));
            }
        });
        settle(&scene.walgate, &scene.sql, "s", &scene.oracle);
        let inversion = {
            let ledger = scene.oracle.ledger();
            ledger.pending().windows(2).position(|pair| pair[1].commit_ts < pair[0].commit_ts)
        };
        let commits = scene.oracle.ledger().pending().len();
        inversion.ok_or_else(|| scene.oracle.acknowledge(commits))
    });
    let expected = scene.oracle.ledger().pending().len() - place;
    scene.oracle.acknowledge(place);
    scene.pending(expected as u64);
    let from = PgTimestamp::now();
    let report = scene.pending(expected as u64);
    let to = PgTimestamp::now();
    let ledger = scene.oracle.ledger();
    let (first, exact) = (ledger.pending()[0].clone(), ledger.exact());
    assert!(exact.oldest < Some(first.commit_ts), "the oldest is not the first");
    same(&report, &exact);
    let seconds = report["lag"]["seconds"].as_f64().expect("it is known");
    let age = |now: PgTimestamp| now.since(exact.oldest.expect("some are pending")).as_secs_f64();
    assert!(age(from) - 0.02 < seconds && seconds < age(to) + 0.02, "{} {report} {}", age(from), age(to));
}

/// Ahead of the server by five hours; the consumer is behind by seven.
const AHEAD: &str = "
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <time.h>
    int clock_gettime(clockid_t clock, struct timespec *time) {
        int (*next)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, \"clock_gettime\");
        int result = next(clock, time);
        if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += 5 * 3600;
        return result;
    }";

#[test]
fn clocks_that_are_hours_apart_do_not_matter() {
    let place = tempfile::tempdir().unwrap();
    let library = preload(place.path());
    let server = postgres(18).start().unwrap();
    let start = |server: &Server| Walgate::run_preloaded(&server.dsn("postgres"), &library);
    let scene = Scene::with(server, Habits { hours_ahead: -7, ..Habits::PLAIN }, start, |dsn| dsn);
    let logged = scene.walgate.log().split_whitespace().next().unwrap_or_default().to_owned();
    let hours = |hours: u64| PgTimestamp::now().plus(std::time::Duration::from_secs(hours * 3600)).to_string();
    assert!(hours(4) < logged && logged < hours(6), "its clock is not ahead: {logged}");
    scene.oracle.hold();
    scene.write(1, 2);
    let report = scene.pending(2);
    let seconds = report["lag"]["seconds"].as_f64().expect("it is known");
    assert!(seconds < 600.0 && report["lag"]["seconds_max"].as_f64() < Some(600.0), "{report}");
    scene.show("clocks of server, walgate and consumer hours apart");
    scene.oracle.release();
    scene.idle();
}

/// The C compiler is there wherever Rust links.
fn preload(directory: &Path) -> std::path::PathBuf {
    let (source, library) = (directory.join("ahead.c"), directory.join("ahead.so"));
    std::fs::write(&source, AHEAD).expect("a file can be written");
    let mut cc = Command::new("cc");
    let output =
        cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output().expect("cc starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}
