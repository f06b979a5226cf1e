//! A gate over a zero-cache: its acknowledgements, and the position of the replica that it serves from.

use std::fs;

use walgate::scratch::Signal;

use crate::scene::{Gate, Way, add_role, dsn, grant, quiet};
use crate::support::Sql;
use crate::support::zero::{App, ZeroCache};

#[test]
fn zero_cache_is_waited_for_until_its_replica_has_everything() {
    let server = quiet(18).start().expect("the server starts");
    add_role(&server);
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE DATABASE state");
    sql.run("CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'x')");
    grant(&sql);
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let password = directory.path().join("password");
    fs::write(&password, "x").expect("the file can be written");
    let target = |port: u16| {
        format!(
            "[gate.target]\nkind = \"zero\"\nstatz_url = \"http://127.0.0.1:{port}/statz\"\nstatz_password_file = {password:?}"
        )
    };
    // What its slot is called is known once it has begun.
    let mut gate = Gate::start(&dsn(&server, "postgres"), Way::Proxy, &["not_yet"], &target(1));
    let url = |port: u16, database: &str| format!("postgresql://postgres:unused@127.0.0.1:{port}/{database}");
    let app = App { name: "zero", publications: &[], follows: true };
    let zero = ZeroCache::launch(&url(gate.walgate.port(), "postgres"), &url(server.port(), "state"), app);
    let zero = zero.unwrap_or_else(|log| panic!("{log}"));
    sql.until("SELECT count(*) FROM pg_replication_slots WHERE active", "1");
    let slot = sql.value("SELECT slot_name FROM pg_replication_slots WHERE active");
    gate.configure("not_yet", &slot);
    gate.configure("127.0.0.1:1/", &format!("127.0.0.1:{}/", zero.port()));

    sql.run("INSERT INTO orders VALUES (2, 'x')");
    gate.until("preflight", "pass", "may begin");
    gate.fence();
    let answer = gate.until("cutover", "pass", "nothing was written since");
    assert!(answer.said("applied").contains("zero-cache's replica is at"), "{answer}");
    gate.release();

    zero.signal(Signal::Stop);
    sql.run("INSERT INTO orders VALUES (3, 'x')");
    gate.fence();
    // It takes messages too, so the barrier is one.
    gate.check_until("cutover", "caught-up", "wait", &format!("{slot} has 2 transactions (1 row) to acknowledge"));
    let answer = gate.cutover();
    assert_ne!(answer.check("applied")["status"], "pass", "{answer}");
    zero.signal(Signal::Continue);
    gate.until("cutover", "pass", "nothing was written since");
    gate.release();

    drop(zero);
    sql.until("SELECT count(*) FROM pg_replication_slots WHERE active AND NOT temporary", "0");
    gate.fence();
    let answer = gate.check_until("cutover", "slot", "wait", &format!("nobody reads {slot}"));
    assert_eq!(answer.check("applied")["status"], "unknown", "{answer}");
}
