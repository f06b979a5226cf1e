//! The way back, once green is in use: the proof of a cutover with the roles exchanged.

use crate::scene::{Gate, Pair, Way, dsn};
use crate::support::Sql;

/// Blue and green, and a gate with a way back.
struct Scene {
    pair: Pair,
    gate: Gate,
}

impl Scene {
    /// The cutover has passed, green is in use, and its changes go to blue.
    #[track_caller]
    fn switched() -> Scene {
        let pair = Pair::start(18, 18);
        let (blue, green) = pair.databases("app");
        green.run("CREATE PUBLICATION back FOR TABLE orders");
        let target = format!(
            "[gate.target]\nkind = \"subscription\"\ndsn = \"{}\"\n[gate.reverse]\nconsumers = [\"blue_sub\"]",
            dsn(&pair.target, "app")
        );
        let gate = Gate::start(&dsn(&pair.source, "app"), Way::Slot, &["green_sub"], &target);
        let source = pair.source.dsn("app");
        green.run(&format!("CREATE SUBSCRIPTION green_sub CONNECTION '{source}' PUBLICATION everything"));
        green.until("SELECT count(*) FROM orders", "1");
        gate.until("preflight", "pass", "");
        gate.fence();
        gate.until("rollback", "fail", "no fence stands");
        gate.until("cutover", "pass", "");

        gate.until("post", "fail", "the target has no slot blue_sub");
        green.run("DROP SUBSCRIPTION green_sub");
        let target = pair.target.dsn("app");
        blue.run(&format!(
            "CREATE SUBSCRIPTION blue_sub CONNECTION '{target}' PUBLICATION back WITH (copy_data = false, origin = none)"
        ));
        drop(blue);
        gate.until("post", "pass", "the target has taken over");
        Scene { pair, gate }
    }

    #[track_caller]
    fn blue(&self) -> Sql {
        Sql::connect(&self.pair.source.dsn("app"))
    }

    #[track_caller]
    fn green(&self) -> Sql {
        Sql::connect(&self.pair.target.dsn("app"))
    }

    /// Sets the fence of the way back; returns what is said.
    #[track_caller]
    fn fence(&self, expected: u16) -> String {
        let (status, body) = self.gate.send("POST", "/fence?phase=rollback");
        assert_eq!(status, expected, "{body}");
        body["detail"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn release(&self) {
        let (status, body) = self.gate.send("DELETE", "/fence?phase=rollback");
        assert_eq!(status, 204, "{body}");
    }
}

#[test]
fn a_way_back_is_proven_as_the_way_there_was() {
    let scene = Scene::switched();
    let (gate, blue, green) = (&scene.gate, scene.blue(), scene.green());
    let application = scene.green();
    application.run("BEGIN; INSERT INTO orders VALUES (10, 'on green')");
    let why = scene.fence(409);
    assert!(why.contains("idle in transaction"), "{why}");
    application.run("COMMIT");
    // For the phase post, the target is asked every now and then whether it takes writes; never behind a fence.
    gate.ask("post", "");
    scene.fence(201);
    let answer = gate.until("rollback", "pass", "");
    assert!(answer.said("stray-writes").contains("no transaction id was given since"), "{answer}");
    assert_eq!(blue.value("SELECT note FROM orders WHERE id = 10"), "on green");
    for _ in 0..3 {
        gate.ask("post", "");
        gate.until("rollback", "pass", "");
    }
    scene.release();

    // The careless.
    scene.fence(201);
    green.run("INSERT INTO orders VALUES (11, 'late')");
    gate.until("rollback", "fail", "orders was written to");
    scene.release();
    blue.run("ALTER SUBSCRIPTION blue_sub DISABLE");
    green.run("INSERT INTO orders VALUES (12, 'while it was disabled')");
    scene.fence(201);
    gate.check_until("rollback", "subscription", "fail", "blue_sub is disabled");
    blue.run("ALTER SUBSCRIPTION blue_sub ENABLE");
    gate.until("rollback", "pass", "");
    scene.release();

    // What replication does not carry back.
    green.run("SELECT nextval('numbers') FROM generate_series(1, 10)");
    scene.fence(201);
    let answer = gate.check_until("rollback", "sequences", "wait", "public.numbers");
    let mend = "walgate gate sequences blue-green -c FILE --phase rollback --apply";
    assert_eq!(answer.check("sequences")["fix"], mend, "{answer}");
    blue.run("SELECT setval('numbers', 10)");
    gate.until("rollback", "pass", "");
    scene.release();
    green.run("CREATE TABLE since (what text)");
    scene.fence(201);
    gate.check_until("rollback", "unreplicated", "fail", "public.since");
    green.run("DROP TABLE since");
    drop((blue, green));
}

#[test]
fn where_no_way_back_is_configured_there_is_none() {
    let pair = Pair::start(18, 18);
    drop(pair.databases("app"));
    let target = format!("[gate.target]\nkind = \"subscription\"\ndsn = \"{}\"", dsn(&pair.target, "app"));
    let gate = Gate::start(&dsn(&pair.source, "app"), Way::Poll, &["green_sub"], &target);
    gate.until("rollback", "fail", "no way back is configured");
    let (status, body) = gate.send("POST", "/fence?phase=rollback");
    assert!(status == 409 && body["detail"].to_string().contains("no way back is configured"), "{status} {body}");
}
