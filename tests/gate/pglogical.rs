//! S4, a fleet migrated with pglogical: forward replication, the switch, back replication and the way back, on the version
//! that Debian has it for.

use walgate::scratch::{Builder, Server};

use crate::examples::rights;
use crate::scene::{Gate, Way, dsn};
use crate::standby::becomes;
use crate::support::command::{outcome, walgate};
use crate::support::{Sql, allow_pglogical, with_pglogical};

/// Two servers with a node each.
struct Fleet {
    old: Server,
    new: Server,
}

/// The slots of the subscriptions forth and back.
const FORTH: &str = "pgl_app_old_forth";
const BACK: &str = "pgl_app_new_back";

const TABLES: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    CREATE TABLE audit_log (what text);
    CREATE SEQUENCE numbers;
    SELECT pglogical.replication_set_add_table('default', 'orders')";

impl Fleet {
    #[track_caller]
    fn start() -> Fleet {
        let start = |name: &str| {
            let server = builder().start().expect("the server starts");
            let sql = Sql::connect(&server.dsn("postgres"));
            allow_pglogical(&sql);
            sql.run("CREATE DATABASE app");
            let sql = Sql::connect(&server.dsn("app"));
            sql.run("CREATE EXTENSION pglogical");
            sql.run(&rights("pglogical.toml"));
            sql.run(&format!("SELECT pglogical.create_node('{name}', '{}')", server.dsn("app")));
            sql.run(TABLES);
            server
        };
        let fleet = Fleet { old: start("old"), new: start("new") };
        fleet.on_old().run("INSERT INTO orders VALUES (1, 'first')");
        subscribe(&fleet.new, "forth", &fleet.old, true);
        fleet.on_new().until("SELECT count(*) FROM orders", "1");
        fleet
    }

    #[track_caller]
    fn on_old(&self) -> Sql {
        Sql::connect(&self.old.dsn("app"))
    }

    #[track_caller]
    fn on_new(&self) -> Sql {
        Sql::connect(&self.new.dsn("app"))
    }

    /// The gate, with more lines.
    #[track_caller]
    fn gate(&self, more: &str) -> Gate {
        let (old, new) = (dsn(&self.old, "app"), dsn(&self.new, "app"));
        let target = format!(
            "{more}\n[gate.target]\nkind = \"pglogical\"\ndsn = \"{new}\"\n[gate.reverse]\nconsumers = [\"{BACK}\"]"
        );
        Gate::start(&old, Way::Poll, &[FORTH], &target)
    }
}

fn builder() -> Builder {
    // Nothing happens but what the test does, and the server writes nothing of itself where a slot could begin again.
    with_pglogical().setting("autovacuum", "off").setting("bgwriter_delay", "10s")
}

#[track_caller]
fn subscribe(at: &Server, name: &str, provider: &Server, copies: bool) {
    let sql = Sql::connect(&at.dsn("app"));
    sql.run(&format!(
        "SELECT pglogical.create_subscription('{name}', '{}', '{{default}}', synchronize_data := {copies}, \
         forward_origins := '{{}}')",
        provider.dsn("app")
    ));
    sql.until(
        &format!("SELECT status FROM pglogical.show_subscription_status() WHERE subscription_name = '{name}'"),
        "replicating",
    );
}

#[test]
fn a_fleet_is_switched_over_and_back_only_with_proof() {
    let fleet = Fleet::start();
    forth(&fleet);
    back(&fleet);
}

/// Up to the switch, with everything that may be in the way of it.
#[track_caller]
fn forth(fleet: &Fleet) {
    let gate = fleet.gate("");
    gate.check_until("preflight", "unreplicated", "fail", "public.audit_log");
    drop(gate);
    let gate = fleet.gate("accept_unreplicated = [\"public.audit_log\"]");
    gate.until("preflight", "pass", "");
    let (old, new) = (fleet.on_old(), fleet.on_new());
    assert!(gate.cutover().is("fail", "no fence stands"));

    // Disabled: a person must act.
    new.run("SELECT pglogical.alter_subscription_disable('forth', true)");
    old.run("INSERT INTO orders VALUES (2, 'while it was disabled')");
    gate.fence();
    let answer = gate.check_until("cutover", "subscription", "fail", "forth is disabled");
    assert_eq!(answer.check("caught-up")["status"], "wait", "{answer}");
    new.run("SELECT pglogical.alter_subscription_enable('forth', true)");
    gate.until("cutover", "pass", "");
    gate.release();

    // Its worker fails at every row.
    new.run("ALTER TABLE orders ADD CONSTRAINT few CHECK (id < 3)");
    old.run("INSERT INTO orders VALUES (3, 'too much')");
    gate.fence();
    gate.check_until("cutover", "subscription", "wait", "forth: down");
    gate.check_until("cutover", "caught-up", "wait", FORTH);
    new.run("ALTER TABLE orders DROP CONSTRAINT few");
    // It would try again by itself within a minute or two.
    new.run("SELECT pglogical.alter_subscription_disable('forth', true)");
    new.run("SELECT pglogical.alter_subscription_enable('forth', true)");
    gate.until("cutover", "pass", "");
    gate.release();

    // Its worker hangs, with every sign of life but one.
    let lock = fleet.on_new();
    lock.run("BEGIN; LOCK orders IN ACCESS EXCLUSIVE MODE");
    old.run("INSERT INTO orders VALUES (4, 'behind a lock')");
    let fence = gate.fence();
    gate.check_until("cutover", "caught-up", "wait", &format!("before {fence}"));
    lock.run("ROLLBACK");
    gate.until("cutover", "pass", "");

    // A write after the fence. Nobody decodes it, so it cannot be named; it is no pass either.
    old.run("INSERT INTO orders VALUES (5, 'careless')");
    becomes(&gate, "cutover", "unknown", "committed after the fence");
    gate.release();

    // Sequences that are behind.
    old.run("SELECT nextval('numbers') FROM generate_series(1, 10)");
    gate.fence();
    gate.check_until("cutover", "sequences", "wait", "public.numbers");
    mend_sequences(fleet, "cutover");
    let answer = gate.until("cutover", "pass", "");
    assert_eq!(new.value("SELECT count(*) FROM orders"), "5");
    assert_eq!(answer.0["receipt"]["slots"].as_array().map(Vec::len), Some(1), "{}", answer.0);

    // The switch. What carries changes back is to run before the old side is opened again.
    gate.until("post", "fail", &format!("the target has no slot {BACK}"));
    new.run("SELECT pglogical.drop_subscription('forth')");
    drop((old, new));
    subscribe(&fleet.old, "back", &fleet.new, false);
    let answer = gate.until("post", "pass", "");
    assert_eq!(answer.check("reverse")["status"], "pass", "{answer}");
    let old = fleet.on_old();
    becomes(&gate, "post", "wait", "connected to the old source");
    old.run("SELECT pglogical.alter_subscription_disable('back', true)");
    becomes(&gate, "post", "fail", "back is disabled");
    old.run("SELECT pglogical.alter_subscription_enable('back', true)");
}

/// The way back, with the same proof.
#[track_caller]
fn back(fleet: &Fleet) {
    // What has no key goes back by hand, and whether it did only the data tell.
    let accepted = "accept_unreplicated = [\"public.audit_log\"]";
    let gate = fleet.gate(accepted);
    gate.check_until("rollback", "unreplicated", "unknown", "the rows of public.audit_log were copied back");
    drop(gate);
    let (old, new) = (fleet.on_old(), fleet.on_new());
    for sql in [&old, &new] {
        sql.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO walgate");
    }
    let gate = fleet.gate(&format!("{accepted}\ndata = true"));
    gate.until("rollback", "fail", "no fence stands");
    new.run("INSERT INTO orders VALUES (6, 'on the new side')");
    let fence = |expected: u16| {
        let (status, body) = gate.send("POST", "/fence?phase=rollback");
        assert_eq!(status, expected, "{body}");
        body
    };
    let application = fleet.on_new();
    application.run("BEGIN; INSERT INTO orders VALUES (7, 'open')");
    let refused = fence(409)["detail"].to_string();
    assert!(refused.contains("idle in transaction"), "{refused}");
    application.run("ROLLBACK");

    old.run("SELECT pglogical.alter_subscription_disable('back', true)");
    new.run("INSERT INTO orders VALUES (8, 'while it was disabled')");
    fence(201);
    gate.check_until("rollback", "subscription", "fail", "back is disabled");
    old.run("SELECT pglogical.alter_subscription_enable('back', true)");
    gate.until("rollback", "pass", "");
    assert_eq!(old.value("SELECT count(*) FROM orders"), "7");
    new.run("INSERT INTO orders VALUES (9, 'careless')");
    becomes(&gate, "rollback", "unknown", "committed after the fence");
    assert_eq!(gate.send("DELETE", "/fence?phase=rollback").0, 204);

    new.run("SELECT nextval('numbers') FROM generate_series(1, 100)");
    fence(201);
    gate.check_until("rollback", "sequences", "wait", "public.numbers");
    mend_sequences(fleet, "rollback");
    gate.until("rollback", "pass", "");
    assert_eq!(old.value("SELECT count(*) FROM orders"), "8");
    assert_eq!(gate.send("DELETE", "/fence?phase=rollback").0, 204);
    new.run("INSERT INTO audit_log VALUES ('on the new side')");
    fence(201);
    gate.check_until("rollback", "data", "fail", "public.audit_log");
    // Keyless tables were not carried back by anybody.
    drop(gate);
    let gate = fleet.gate("");
    gate.check_until("rollback", "unreplicated", "fail", "public.audit_log");
}

/// As the gate's mend says.
#[track_caller]
fn mend_sequences(fleet: &Fleet, phase: &str) {
    let (from, to) = if phase == "rollback" { (&fleet.new, &fleet.old) } else { (&fleet.old, &fleet.new) };
    let (from, to) = (from.dsn("app"), to.dsn("app"));
    let mended = outcome(&mut walgate(&["gate", "sequences", "--source", &from, "--target", &to, "--apply", "--yes"]));
    assert_eq!(mended.status, Some(0), "{mended:?}");
}
