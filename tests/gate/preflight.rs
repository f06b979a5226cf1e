//! May we start: every check made to fail for real, each told by what is wrong and where, and then mended.

use crate::scene::{Gate, Pair, Way, dsn, quiet};
use crate::subscribed::Subscribed;
use crate::support::eventually;

/// Both databases with the same tables and sequences, which one side then has otherwise.
const SAME: &str = "CREATE TABLE narrow (id int PRIMARY KEY, a int, b text); CREATE SEQUENCE counter; CREATE TABLE strict \
                    (id int PRIMARY KEY, a int); CREATE TABLE typed (id int PRIMARY KEY, a int)";

#[test]
fn every_check_of_a_start_names_what_is_wrong_until_it_is_mended() {
    let pair = Pair::start(18, 18);
    let more = "max_transaction_age = \"1ms\"\naccept_unreplicated = [\"public.accepted\"]";
    let story = Subscribed::with(&pair, "app", Way::Slot, more, |blue, green| {
        blue.run(SAME);
        green.run(SAME);
        blue.run("ALTER PUBLICATION everything ADD TABLE narrow, strict, typed");
    });
    let Subscribed { gate, blue, green, .. } = &story;
    gate.until("preflight", "pass", "may begin");

    // Everything at once.
    blue.run("CREATE TABLE keyless (id int); ALTER PUBLICATION everything ADD TABLE keyless");
    blue.run("CREATE UNLOGGED TABLE forgotten (id int PRIMARY KEY); CREATE TABLE accepted (id int PRIMARY KEY)");
    green.run("CREATE TABLE keyless (id int); CREATE TABLE forgotten (id int PRIMARY KEY); CREATE TABLE accepted (id int PRIMARY KEY)");
    green.run("ALTER TABLE narrow DROP COLUMN b; DROP SEQUENCE counter; DROP EXTENSION plpgsql");
    let idle = story.application("forgotten");
    let pid = idle.value("SELECT pg_backend_pid()");
    idle.run("BEGIN; SELECT 1");
    all(
        gate,
        &[
            ("identity", "fail", "public.keyless, publication everything: pg/no-identity"),
            ("transactions", "wait", &format!("pid {pid} \"forgotten\" of postgres (idle in transaction")),
            ("schema", "fail", "public.narrow lacks column \"b\" on the target"),
            ("sequences", "fail", "sequence public.counter is missing on the target"),
            ("unreplicated", "fail", "public.forgotten (unlogged table)"),
            ("extensions", "fail", "plpgsql 1.0 is missing on the target"),
            ("subscription", "fail", "app drops the rows of tables that it does not know: public.keyless"),
        ],
    );

    // Mended, and wrong in other ways.
    idle.run("ROLLBACK; BEGIN; INSERT INTO orders VALUES (77, 'x'); PREPARE TRANSACTION 'left'");
    blue.run("ALTER PUBLICATION everything DROP TABLE keyless; DROP TABLE keyless, forgotten");
    green.run("DROP TABLE keyless, forgotten; CREATE EXTENSION plpgsql; CREATE SEQUENCE counter INCREMENT 2");
    green.run(
        "ALTER TABLE narrow ADD b text; ALTER TABLE typed ALTER a TYPE bigint; GRANT SELECT ON counter TO walgate",
    );
    blue.run("CREATE MATERIALIZED VIEW sums AS SELECT count(*) FROM orders");
    story.alter("DISABLE");
    all(
        gate,
        &[
            ("identity", "pass", ""),
            ("transactions", "wait", "\"left\" of postgres (prepared"),
            ("schema", "fail", "public.typed.a is integer and on the target bigint"),
            ("sequences", "fail", "sequence public.counter is defined differently"),
            ("unreplicated", "fail", "public.sums (materialized view)"),
            ("extensions", "pass", ""),
            ("subscription", "fail", "app is disabled"),
            ("slot", "wait", "nobody reads app"),
        ],
    );

    blue.run("ROLLBACK PREPARED 'left'");
    blue.run("DROP MATERIALIZED VIEW sums");
    green.run("ALTER TABLE typed ALTER a TYPE int; ALTER SEQUENCE counter INCREMENT 1");
    green.run("ALTER TABLE strict ADD CHECK (a > 0)");
    story.alter("ENABLE");
    idle.run("BEGIN; LOCK TABLE strict IN ACCESS EXCLUSIVE MODE");
    all(
        gate,
        &[
            ("schema", "unknown", "somebody has locked a table that has to be looked at"),
            ("transactions", "wait", "forgotten"),
            ("sequences", "pass", ""),
            ("subscription", "pass", ""),
            ("slot", "pass", ""),
        ],
    );
    idle.run("ROLLBACK");
    all(gate, &[("schema", "fail", "public.strict has on the target only: CHECK ((a > 0))")]);
    green.run("ALTER TABLE strict DROP CONSTRAINT strict_a_check; ALTER TABLE strict ALTER a SET NOT NULL");
    all(gate, &[("schema", "fail", "public.strict.a is NOT NULL on the target only"), ("transactions", "pass", "")]);
    green.run("ALTER TABLE strict ALTER a DROP NOT NULL");
    gate.until("preflight", "pass", "may begin");
}

/// Waits for an answer in which each of these checks is so.
#[track_caller]
fn all(gate: &Gate, expected: &[(&str, &str, &str)]) {
    eventually("every check to be as it should", || {
        let answer = gate.ask("preflight", "");
        let otherwise = expected
            .iter()
            .find(|(id, status, said)| answer.check(id)["status"] != *status || !answer.said(id).contains(said));
        match otherwise {
            None => Ok(()),
            Some(expected) => Err((*expected, answer)),
        }
    });
}

#[test]
fn consumers_that_are_too_far_behind_are_waited_for() {
    let pair = Pair::start(18, 18);
    for way in Way::ALL {
        let story = Subscribed::start(&pair, way.as_str(), way);
        let gate = &story.gate;
        gate.until("preflight", "pass", "may begin");
        let lock = crate::subscribed::session_of(&story.target, "lock");
        lock.run("BEGIN; LOCK orders IN ACCESS EXCLUSIVE MODE");
        story.blue.run("INSERT INTO orders SELECT n, repeat('x', 1000) FROM generate_series(1000, 2000) n");
        eventually("it to be behind", || {
            let answer = gate.ask("preflight", "&max_lag=100kB");
            assert!(answer.check("lag")["status"] != "pass" || answer.state() == "pass", "{answer}");
            let said = answer.said("lag").contains(&format!("{} is up to", story.name));
            if answer.check("lag")["status"] == "wait" && said { Ok(()) } else { Err(answer) }
        });
        lock.run("ROLLBACK");
        gate.until("preflight", "pass", "may begin");
    }
}

#[test]
fn a_slot_that_is_missing_or_lost_and_a_server_without_room_are_told() {
    // Room on the source for one slot, which is not the consumer's; none on the target for a worker.
    let source = quiet(18).setting("max_replication_slots", "2").setting("max_slot_wal_keep_size", "1MB");
    let target = quiet(18).setting("wal_level", "replica").setting("max_logical_replication_workers", "0");
    let pair = Pair::of(source, target);
    let (blue, _green) = pair.databases("app");
    blue.run(
        "SELECT pg_create_physical_replication_slot('one', true), pg_create_physical_replication_slot('two', true)",
    );
    let lines =
        |more: &str| format!("{more}\n[gate.target]\nkind = \"subscription\"\ndsn = \"{}\"", dsn(&pair.target, "app"));
    let back = "reverse = { consumers = [\"back\"] }";
    let gate = Gate::start(&dsn(&pair.source, "app"), Way::Poll, &["app"], &lines(back));
    all(
        &gate,
        &[
            ("capacity", "fail", "2 of max_replication_slots = 2 are in use on the source, and 1 more are needed"),
            ("slot", "fail", "there is no slot app"),
            ("wal-level", "fail", "replica on the target, from where the way back leads"),
            ("subscription", "fail", "no subscription on the target reads app"),
        ],
    );
    blue.run("SELECT pg_drop_replication_slot('one'), pg_drop_replication_slot('two')");
    all(
        &gate,
        &[(
            "capacity",
            "fail",
            "0 of max_logical_replication_workers = 0 are in use on the target, and 1 more are needed",
        )],
    );
    blue.run(
        "SELECT pg_create_logical_replication_slot('app', 'pgoutput'); CREATE TABLE t (id int PRIMARY KEY, note text)",
    );
    all(&gate, &[("slot", "fail", "more WAL and app is lost")]);
    blue.until_slot_is_lost();
    all(&gate, &[("slot", "fail", "app is lost")]);
    gate.fence();
    gate.check_until("cutover", "caught-up", "fail", "app is lost");
}

#[test]
fn a_role_without_replication_and_a_target_of_another_encoding_are_told() {
    let pair = Pair::start(18, 18);
    let (blue, green) = pair.databases("app");
    blue.run(
        "CREATE ROLE plain LOGIN; GRANT pg_monitor TO plain; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO plain",
    );
    green.run("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let latin = crate::support::Sql::connect(&pair.target.dsn("latin"));
    crate::scene::grant(&latin);
    let target = format!("[gate.target]\nkind = \"subscription\"\ndsn = \"{}\"", dsn(&pair.target, "latin"));
    let plain = dsn(&pair.source, "app").replace("user=walgate", "user=plain");
    let gate = Gate::start(&plain, Way::Poll, &["app"], &target);
    all(
        &gate,
        &[
            ("role", "unknown", "replication"),
            ("encoding", "fail", "UTF8, collation C (libc) on the source; LATIN1, collation C (libc) on the target"),
            ("schema", "fail", "public.orders is missing on the target"),
        ],
    );
}
