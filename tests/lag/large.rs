//! One transaction of a million rows: while it is open, once it is committed, and when it is rolled back.

use crate::held::settle;
use crate::scene::Scene;
use crate::support::oracle::{Exact, Habits};
use crate::support::{Sql, eventually, postgres};

#[test]
fn a_transaction_of_a_million_rows_is_lag_only_once_it_is_committed() {
    let server = postgres(18).start().unwrap();
    let scene = Scene::of(server, Habits { protocol: 2, streaming: Some("on"), ..Habits::PLAIN });
    scene.oracle.hold();
    let writer = Sql::connect(&scene.server.dsn("postgres"));
    let insert = |from: u32| {
        writer.run(&format!("BEGIN; INSERT INTO t SELECT i, NULL FROM generate_series({from}, {from} + 999999) i"));
    };
    insert(1);
    // Something else commits, so that all of it is flushed.
    scene.sql.run("INSERT INTO unpublished VALUES (1)");
    let (report, exact) = settle(&scene.walgate, &scene.sql, "s", &scene.oracle);
    assert_eq!((exact.pending.transactions, exact.open_transactions), (0, 1));
    assert!(exact.open_bytes > 10_000_000, "{report}");
    scene.show("one transaction of a million rows is open");
    writer.run("COMMIT");
    let (report, exact) = settle(&scene.walgate, &scene.sql, "s", &scene.oracle);
    assert_eq!((exact.pending.transactions, exact.pending.rows, exact.open_bytes), (1, 1_000_000, 0));
    assert_eq!((&report["eta_seconds"], &report["stage"]), (&().into(), &"consumer".into()), "{report}");
    scene.show("it is committed");
    scene.oracle.release();
    scene.idle();

    insert(1_000_001);
    scene.sql.run("INSERT INTO unpublished VALUES (1)");
    eventually("it to be streamed", || match scene.oracle.ledger().exact() {
        exact if exact.open_bytes > 1_000_000 => Ok(()),
        exact => Err(exact),
    });
    writer.run("ROLLBACK");
    scene.sql.run("INSERT INTO unpublished VALUES (1)");
    let (_, exact) = settle(&scene.walgate, &scene.sql, "s", &scene.oracle);
    assert_eq!(exact, Exact::default());
    scene.show("another one is rolled back");
}
