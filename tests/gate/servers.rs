//! What happens to the servers, to walgate and to the ways between them.

use walgate::scratch::{Server, Stop};

use crate::scene::{Gate, Pair, Way, add_role, dsn, quiet};
use crate::subscribed::Subscribed;
use crate::support::command::{outcome, walgate};
use crate::support::daemon::free_address;
use crate::support::network::Network;
use crate::support::{Sql, eventually};

#[test]
fn a_source_that_crashes_behind_the_fence_does_not_lose_what_was_before() {
    let mut pair = Pair::start(18, 18);
    for way in Way::ALL {
        let story = Subscribed::start(&pair, way.as_str(), way);
        story.order();
        story.arrived();
        story.gate.until("preflight", "pass", "");
        // The subscription is off, so that the order is still to come.
        story.alter("DISABLE");
        story.order();
        let target_lsn = story.gate.fence();
        let Subscribed { gate, green, .. } = &story;
        let hindered = gate.cutover();
        assert_ne!(hindered.state(), "pass", "{hindered}");
        pair.source.restart(Stop::Immediate).expect("it starts again");
        let blue = Sql::connect(&story.source);
        gate.check_until("cutover", "caught-up", "wait", "");
        story.alter("ENABLE");
        green.until("SELECT count(*) FROM orders", "3");
        let answer = eventually("the gate to say that all has arrived, or that nobody can tell", || {
            let answer = gate.cutover();
            let known = match way {
                Way::Poll => answer.check("caught-up")["status"] == "pass",
                _ => answer.state() == "pass",
            };
            if known { Ok(answer) } else { Err(answer) }
        });
        assert_eq!(answer.0["target_lsn"], target_lsn.to_string());
        blue.run("INSERT INTO orders VALUES (9, 'late')");
        let (state, said) =
            if way == Way::Poll { ("unknown", "transactions were committed") } else { ("fail", "table public.orders") };
        gate.turns("cutover", state, said);
    }
}

#[test]
fn a_subscription_that_reads_a_slot_of_the_same_name_elsewhere_is_not_taken_for_the_consumer() {
    let pair = Pair::start(18, 18);
    let (blue, green) = pair.databases("app");
    let third = Pair::start(18, 18);
    let (elsewhere, _) = third.databases("app");
    let subscription = |of: &Server, more: &str| {
        format!("CREATE SUBSCRIPTION app CONNECTION '{}' PUBLICATION everything {more}", of.dsn("app"))
    };
    green.run(&subscription(&third.source, ""));
    // Somebody else reads the slot on blue, which is called the same.
    Sql::connect(&pair.target.dsn("postgres")).run("CREATE DATABASE other");
    let other = Sql::connect(&pair.target.dsn("other"));
    other.run("CREATE TABLE orders (id int PRIMARY KEY, note text)");
    other.run(&subscription(&pair.source, ""));
    for sql in [&green, &other] {
        let ready = "SELECT string_agg(DISTINCT srsubstate::text, '') FROM pg_subscription_rel AS state \
                     JOIN pg_subscription AS own ON own.oid = srsubid JOIN pg_database AS here ON here.oid = subdbid \
                     WHERE datname = current_database()";
        sql.until(ready, "r");
    }
    let target = format!("[gate.target]\nkind = \"subscription\"\ndsn = \"{}\"", dsn(&pair.target, "app"));
    let gate = Gate::start(&dsn(&pair.source, "app"), Way::Slot, &["app"], &target);
    let written = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 20000000))";
    blue.run(written);
    gate.fence();
    gate.check_until("cutover", "caught-up", "pass", "");
    gate.check_until("cutover", "subscription", "wait", "app has received up to");
    elsewhere.run(written);
    elsewhere.run(written);
    gate.check_until("cutover", "subscription", "fail", "it reads another server");
    green.run("ALTER SUBSCRIPTION app DISABLE; ALTER SUBSCRIPTION app SET (slot_name = NONE); DROP SUBSCRIPTION app");
    other.run("ALTER SUBSCRIPTION app DISABLE");
    other.run("ALTER SUBSCRIPTION app SET (slot_name = NONE); DROP SUBSCRIPTION app");
    green.run(&subscription(&pair.source, "WITH (create_slot = false, copy_data = false)"));
    gate.until("cutover", "pass", "");
}

#[test]
fn another_server_behind_the_same_address_is_not_taken_for_the_source() {
    let pair = Pair::start(18, 18);
    let (blue, green) = pair.databases("app");
    let network = Network::to(pair.source.port());
    let target = format!("[gate.target]\nkind = \"subscription\"\ndsn = \"{}\"", dsn(&pair.target, "app"));
    let source = dsn_via(&pair.source, network.port());
    let connection = pair.source.dsn("app");
    green.run(&format!("CREATE SUBSCRIPTION app CONNECTION '{connection}' PUBLICATION everything"));
    green.until("SELECT string_agg(DISTINCT srsubstate::text, '') FROM pg_subscription_rel", "r");
    let mut gate = Gate::start(&source, Way::Slot, &["app"], &target);
    gate.until("preflight", "pass", "");
    gate.fence();
    gate.until("cutover", "pass", "nothing was written since");

    // Another cluster with all that a careless operator would make there.
    let other = quiet(18).start().expect("the server starts");
    add_role(&other);
    Sql::connect(&other.dsn("postgres")).run("CREATE DATABASE app");
    let sql = Sql::connect(&other.dsn("app"));
    sql.run("CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE SEQUENCE numbers");
    sql.run(
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO walgate; CREATE PUBLICATION everything FOR TABLE orders",
    );
    sql.run("SELECT pg_create_logical_replication_slot('app', 'pgoutput')");
    let far = format!("SELECT pg_current_wal_flush_lsn() > '{}'", blue.value("SELECT pg_current_wal_flush_lsn()"));
    eventually("its WAL to be past the fence", || {
        sql.run("SELECT pg_logical_emit_message(true, 'x', repeat('x', 1000000))");
        if sql.value(&far) == "t" { Ok(()) } else { Err(()) }
    });
    sql.run("SELECT pg_replication_slot_advance('app', pg_current_wal_flush_lsn())");
    network.lead_to(other.port());
    gate.turns("cutover", "fail", "the fence at");
    // Back again: who knows what happened meanwhile.
    network.lead_to(pair.source.port());
    gate.check_until("cutover", "fence", "fail", "holds no longer");
    gate.release();
    eventually("a fence on the source that is there now", || match gate.send("POST", "/fence") {
        (201, _) => Ok(()),
        other => Err(other),
    });
    gate.until("cutover", "fail", "app was dropped and created again while walgate watched, or its server failed over");
    // A person has looked, and begins anew.
    gate.restart();
    gate.fence();
    gate.until("cutover", "pass", "nothing was written since");
}

#[test]
fn a_fence_stands_while_limits_are_changed_and_falls_with_what_it_is_about() {
    let pair = Pair::start(18, 18);
    let mut story = Subscribed::start(&pair, "app", Way::Slot);
    story.blue.run("CREATE TABLE audit_log (id int PRIMARY KEY)");
    story.gate.fence();
    story.gate.until("cutover", "fail", "public.audit_log");
    story.gate.configure("settle", "accept_unreplicated = [\"public.audit_log\"]\nsettle");
    story.gate.until("cutover", "pass", "nothing was written since");
    story.gate.configure("[\"app\"]", "[\"other\"]");
    story.gate.until("cutover", "fail", "no fence stands");
    assert!(story.gate.walgate.log().contains("so its fence is forgotten"), "{}", story.gate.walgate.log());
}

#[test]
fn a_walgate_that_was_started_again_knows_no_fence_and_says_so() {
    let pair = Pair::start(18, 18);
    let mut story = Subscribed::start(&pair, "app", Way::Slot);
    story.gate.fence();
    story.gate.until("cutover", "pass", "nothing was written since");
    story.gate.restart();
    let gate = &story.gate;
    let answer = gate.cutover();
    assert!(answer.is("fail", "one that was set before walgate started"), "{answer}");
    assert_eq!(gate.send("GET", "/receipt").0, 404);
    assert_eq!(gate.send("GET", "/fence").0, 404);
    gate.fence();
    gate.until("cutover", "pass", "nothing was written since");
}

#[test]
fn a_target_that_is_the_source_is_refused_or_has_nothing_to_show() {
    let pair = Pair::start(18, 18);
    let _story = Subscribed::start(&pair, "app", Way::Slot);
    let source = dsn(&pair.source, "app");
    let file = |target: &str| {
        format!(
            "[http]\nlisten = \"{}\"\n[[source]]\nname = \"blue\"\ndsn = \"{source}\"\nobserve = \"slot\"\n\
             [[gate]]\nname = \"g\"\nsource = \"blue\"\nconsumers = [\"app\"]\n\
             target = {{ kind = \"subscription\", dsn = \"{target}\" }}\n",
            free_address()
        )
    };
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("walgate.toml");
    std::fs::write(&path, file(&source)).expect("the file can be written");
    let told = outcome(walgate(&["run", "-c"]).arg(&path));
    assert!(told.status == Some(64) && told.errors.contains("the target is the source"), "{told:?}");

    // By another name only the server can tell.
    let alias = source.replace("host=127.0.0.1", &format!("host={}", pair.source.socket_directory().display()));
    let target = format!("[gate.target]\nkind = \"subscription\"\ndsn = \"{alias}\"");
    let gate = Gate::start(&source, Way::Slot, &["app"], &target);
    gate.fence();
    gate.until("cutover", "fail", "no subscription on the target reads app");
    gate.until("preflight", "fail", "no subscription on the target reads app");
}

#[test]
fn what_cannot_be_reached_or_read_is_never_a_pass() {
    let mut pair = Pair::start(18, 18);
    let story = Subscribed::start(&pair, "app", Way::Slot);
    story.gate.fence();
    story.gate.until("cutover", "pass", "nothing was written since");
    for (sql, role) in [(&story.blue, "blind"), (&story.green, "blind")] {
        sql.run(&format!("CREATE ROLE {role} LOGIN REPLICATION"));
    }
    let blind = |server: &Server| dsn(server, "app").replace("user=walgate", "user=blind");
    let target = |dsn: &str| format!("[gate.target]\nkind = \"subscription\"\ndsn = \"{dsn}\"");
    // Without pg_monitor on the source.
    let gate = Gate::start(&blind(&pair.source), Way::Slot, &["app"], &target(&dsn(&pair.target, "app")));
    let (status, problem) = gate.send("POST", "/fence");
    assert!(status == 503 && problem["detail"].as_str().unwrap_or_default().contains("GRANT pg_monitor"), "{problem}");
    gate.check_until("cutover", "writers", "unknown", "GRANT pg_monitor TO walgate's role");
    // Without the right to see origins on the target.
    let gate = Gate::start(&dsn(&pair.source, "app"), Way::Slot, &["app"], &target(&blind(&pair.target)));
    gate.fence();
    gate.check_until("cutover", "applied", "unknown", "GRANT EXECUTE ON FUNCTION");
    gate.until("cutover", "unknown", "");
    drop(gate);

    let gate = &story.gate;
    pair.target.stop(Stop::Fast).expect("it stops");
    gate.turns("cutover", "unknown", "target of blue-green cannot be asked");
    pair.target.start().expect("it starts");
    gate.until("cutover", "pass", "nothing was written since");
    pair.source.stop(Stop::Fast).expect("it stops");
    // The subscription counts as an error that its source has gone.
    gate.check_until("cutover", "writers", "unknown", "blue cannot be asked");
    let (status, problem) = gate.send("POST", "/fence");
    assert_ne!(status, 201, "{problem}");
}

fn dsn_via(server: &Server, port: u16) -> String {
    server.dsn_via(port, "app").replace("user=postgres", "user=walgate")
}
