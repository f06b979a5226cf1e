//! Situations in which nothing is behind, though much is written.

use crate::scene::{Scene, is_idle};
use crate::support::oracle::Habits;
use crate::support::{Sql, postgres};

/// A consumer that acknowledges commits only. What PostgreSQL counts from grows with all that is written.
const COMMITS_ONLY: Habits = Habits { ignores_keepalives: true, ..Habits::PLAIN };

#[test]
fn a_busy_neighbour_database_is_no_lag() {
    let scene = Scene::of(postgres(17).start().unwrap(), COMMITS_ONLY);
    scene.sql.run("CREATE DATABASE neighbour");
    let neighbour = Sql::connect(&scene.server.dsn("neighbour"));
    neighbour.run("CREATE TABLE t (id int, v text)");
    stays_quiet(&scene, &neighbour, "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i");
    scene.show("idle source, 30 MB written in another database");
}

#[test]
fn busy_tables_that_are_not_published_are_no_lag() {
    let scene = Scene::of(postgres(14).start().unwrap(), COMMITS_ONLY);
    let insert = "INSERT INTO unpublished SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i";
    stays_quiet(&scene, &scene.sql, insert);
    scene.show("idle publication, 30 MB written in other tables");
}

/// Nothing is said to be behind at any time, and in the end it is known that nothing is.
fn stays_quiet(scene: &Scene, sql: &Sql, insert: &str) {
    scene.write(1, 3);
    scene.idle();
    for _ in 0..10 {
        sql.run(insert);
        let report = scene.walgate.lag("s").expect("it is known");
        let figures = ["seconds", "transactions", "rows", "bytes"].map(|figure| report["lag"][figure].as_f64());
        assert_eq!(figures, [Some(0.0); 4], "{report}");
    }
    let written = sql.value("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn");
    let written: u64 = written.parse().expect("a number");
    scene.until("all of it is decoded", |report| {
        let decoded = report["positions"]["decoded"].as_str().and_then(|position| position.parse().ok());
        is_idle(report) && decoded >= Some(walgate::lsn::Lsn(written))
    });
    let confirmed =
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) > 20000000 FROM pg_replication_slots";
    assert_eq!(scene.sql.value(confirmed), "t", "the usual figure is megabytes");
}
