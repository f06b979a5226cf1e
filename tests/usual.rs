//! The usual figures beside walgate's, in the situation that raises most false alarms.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::process::{Child, Command, Stdio};

use support::daemon::Walgate;
use support::usual::{Figures, Usual};
use support::{Sql, eventually, postgres, tool};

/// A program that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_idle_consumer_beside_a_busy_database_is_behind_by_the_usual_figures_alone() {
    let server = postgres(18).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE orders (id int PRIMARY KEY)");
    sql.run("CREATE PUBLICATION orders FOR TABLE orders");
    sql.run("SELECT pg_create_logical_replication_slot('orders', 'pgoutput')");
    sql.run("CREATE DATABASE neighbour");
    let neighbour = Sql::connect(&server.dsn("neighbour"));
    neighbour.run("CREATE TABLE busy (filler text)");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    // It says where it is every ten seconds, and when the server asks.
    let mut consumer = Command::new(tool("pg_recvlogical"));
    consumer.args(["--dbname", &walgate.dsn("postgres", "postgres"), "--slot=orders", "--start", "--file=/dev/null"]);
    consumer.args(["--option=proto_version=1", "--option=publication_names=orders"]).stdin(Stdio::null());
    let _consumer = Running(consumer.spawn().expect("pg_recvlogical starts"));
    sql.run("INSERT INTO orders VALUES (1)");
    walgate.lag_until("orders", "nothing is pending", |orders| {
        orders["state"] == "live" && orders["lag"]["transactions"] == 0
    });

    let usual = Usual::of(&server);
    let said = eventually("figures that mislead", || {
        neighbour.run("INSERT INTO busy SELECT repeat(md5(i::text), 8) FROM generate_series(1, 5000) i");
        let lag = walgate.lag("orders").expect("it is known")["lag"].clone();
        assert_eq!((&lag["transactions"], lag["seconds"].as_f64()), (&0.into(), Some(0.0)), "{lag}");
        let said = usual.figures("orders");
        let misleads = said.behind_confirmed > Some(1e6) && said.exporter_slot > Some(1e6);
        if misleads { Ok(said) } else { Err(said) }
    });
    assert!(said.sent_unflushed.is_some(), "{said:?}");
    // And what it says at rest is exact: nothing is left that the server has not decoded.
    let live = |orders: &serde_json::Value| orders["state"] == "live" && orders["lag"]["seconds_max"] == 0.0;
    walgate.lag_until("orders", "nothing can be pending", live);
    println!("{}\n{said}", Figures::HEAD);
    assert_eq!(said.to_string().matches('|').count(), 6);
    assert_eq!(usual.figures("none"), Figures::default());
}
