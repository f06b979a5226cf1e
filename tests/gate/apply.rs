//! What the careless do to the subscription and to its slot: changes that are lost on the way, though the slot moves on.

use std::process::Command;

use crate::scene::{Pair, Way};
use crate::subscribed::{Subscribed, session_of};
use crate::support::{eventually, tool};

/// The subscription off, and nobody reading its slot.
#[track_caller]
fn switch_off(story: &Subscribed) {
    story.alter("DISABLE");
    story.blue.until(
        "SELECT bool_or(active) FROM pg_replication_slots WHERE database = current_database() AND NOT temporary",
        "f",
    );
}

/// Waits until the slot has confirmed everything.
#[track_caller]
fn confirmed(story: &Subscribed) {
    let lsn = story.blue.value("SELECT pg_current_wal_flush_lsn()");
    story.blue.until(
        &format!("SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{}'", story.name),
        "t",
    );
}

#[test]
fn a_subscription_that_fails_or_is_off_keeps_the_gate_shut() {
    for (major, ways) in [(14, &[Way::Proxy][..]), (18, &[Way::Proxy, Way::Poll])] {
        let pair = Pair::start(major, major);
        for way in ways {
            let story = Subscribed::start(&pair, way.as_str(), *way);
            let (gate, name) = (&story.gate, &story.name);
            story.arrived();
            gate.fence();
            gate.until("cutover", "pass", "nothing was written since");
            gate.release();

            story.alter("DISABLE");
            gate.turns("cutover", "fail", "no fence stands");
            gate.check_until("cutover", "subscription", "fail", &format!("{name} is disabled"));
            story.order();
            gate.fence();
            gate.until("cutover", "fail", &format!("{name} is disabled"));
            // A row that is there already.
            let next = story.blue.value("SELECT max(id) FROM orders");
            story.green.run(&format!("INSERT INTO orders VALUES ({next}, 'in the way')"));
            story.alter("ENABLE");
            if major == 14 {
                // It counts nothing.
                gate.until("cutover", "wait", "");
            } else {
                gate.check_until("cutover", "subscription", "fail", "errors or conflicts since walgate looks");
            }
            assert_ne!(gate.cutover().check("caught-up")["status"], "pass");
            story.green.run(&format!("DELETE FROM orders WHERE id = {next}"));
            story.arrived();
            if major > 14 {
                // Somebody has to have looked at it.
                gate.check_until("cutover", "caught-up", "pass", "");
                gate.until("cutover", "fail", "errors or conflicts since walgate looks");
                story.green.run("SELECT pg_stat_reset_subscription_stats(NULL)");
            }
            gate.until("cutover", "pass", "nothing was written since");
        }
    }
}

#[test]
fn a_skipped_row_keeps_the_gate_shut() {
    for (major, ways) in [(15, &[Way::Proxy][..]), (18, &[Way::Proxy, Way::Slot])] {
        let pair = Pair::start(major, major);
        for way in ways {
            let story = Subscribed::start(&pair, way.as_str(), *way);
            let (gate, name) = (&story.gate, &story.name);
            gate.until("preflight", "pass", "may begin");
            story.alter("SET (disable_on_error = true)");
            story.green.run("INSERT INTO orders VALUES (2, 'in the way')");
            story.order();
            story.green.until("SELECT bool_or(subenabled) FROM pg_subscription", "f");
            let log = pair.target.log();
            let at = log.rsplit("finished at ").next().and_then(|rest| rest.split_whitespace().next());
            let at = at.expect("the log says where it ends").to_owned();
            story.alter(&format!("SKIP (lsn = '{at}')"));
            gate.fence();
            gate.until("cutover", "fail", &format!("{name} is disabled"));
            story.alter("ENABLE");
            confirmed(&story);
            story.green.until("SELECT subskiplsn FROM pg_subscription", "0/0");
            gate.check_until("cutover", "caught-up", "pass", "");
            gate.until("cutover", "fail", "errors or conflicts since walgate looks");
        }
    }
}

#[test]
fn a_table_that_the_subscription_does_not_know_keeps_the_gate_shut() {
    let pair = Pair::start(18, 18);
    for way in [Way::Proxy, Way::Poll] {
        let story = Subscribed::start(&pair, way.as_str(), way);
        let (gate, name) = (&story.gate, &story.name);
        for sql in [&story.blue, &story.green] {
            sql.run("CREATE TABLE late (id int PRIMARY KEY)");
        }
        story.blue.run("ALTER PUBLICATION everything ADD TABLE late; INSERT INTO late VALUES (1)");
        gate.fence();
        confirmed(&story);
        gate.until("cutover", "fail", &format!("{name} drops the rows of tables that it does not know: public.late"));
        // Its copy meets a row that is there, and is tried again and again.
        story.green.run("INSERT INTO late VALUES (1)");
        story.alter("REFRESH PUBLICATION");
        let said = if way == Way::Proxy { "public.late (state " } else { "" };
        eventually("the copy to fail", || {
            let answer = gate.cutover();
            assert_ne!(answer.state(), "pass", "{answer}");
            let observed = answer.said("subscription").to_owned();
            if observed.contains("errors or conflicts") || (!said.is_empty() && observed.contains(said)) {
                Ok(())
            } else {
                Err(answer)
            }
        });
        story.green.run("TRUNCATE late");
        story.ready();
        story.green.run("SELECT pg_stat_reset_subscription_stats(NULL)");
        // The copying took place behind the fence.
        gate.release();
        gate.fence();
        gate.until("cutover", "pass", "nothing was written since");
        assert_eq!(story.green.value("SELECT count(*) FROM late"), "1");
    }
}

#[test]
fn a_table_that_is_still_being_copied_is_waited_for() {
    let pair = Pair::start(18, 18);
    let story = Subscribed::start(&pair, "app", Way::Proxy);
    let gate = &story.gate;
    for sql in [&story.blue, &story.green] {
        sql.run("CREATE TABLE late (id int PRIMARY KEY)");
    }
    story.blue.run("INSERT INTO late VALUES (1); ALTER PUBLICATION everything ADD TABLE late");
    let lock = session_of(&story.target, "lock");
    lock.run("BEGIN; LOCK late IN SHARE MODE");
    story.alter("REFRESH PUBLICATION");
    gate.until("preflight", "wait", "public.late (state ");
    gate.check_until("cutover", "subscription", "wait", "public.late (state ");
    lock.run("COMMIT");
    story.ready();
    gate.check_until("cutover", "subscription", "pass", "");
    gate.fence();
    gate.until("cutover", "pass", "nothing was written since");
}

/// What takes changes from a slot.
type Loss = fn(&Subscribed);

#[test]
fn a_slot_that_others_have_moved_on_or_replaced_keeps_the_gate_shut() {
    let pair = Pair::start(18, 18);
    for way in [Way::Proxy, Way::Slot] {
        let losses: [(&str, Loss); 2] = [
            ("drained", |story| {
                let lsn = story.blue.value("SELECT pg_current_wal_flush_lsn()");
                let drained = Command::new(tool("pg_recvlogical"))
                    .args(["--start", "--file=/dev/null", "--no-loop", "--option=proto_version=1"])
                    .args(["--option=publication_names=everything", "--fsync-interval=0", "--status-interval=1"])
                    .args(["--slot", &story.name, "--endpos", &lsn, "--dbname"])
                    .arg(&story.source)
                    .output()
                    .expect("pg_recvlogical starts");
                assert!(drained.status.success(), "{drained:?}");
            }),
            ("advanced", |story| {
                story
                    .blue
                    .run(&format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_flush_lsn())", story.name));
            }),
        ];
        for (name, lose) in losses {
            let story = Subscribed::start(&pair, &format!("{}_{name}", way.as_str()), way);
            let gate = &story.gate;
            story.order();
            story.arrived();
            gate.until("preflight", "pass", "");
            switch_off(&story);
            story.order();
            gate.fence();
            lose(&story);
            // Before its consumer is there again, somebody has looked.
            gate.check_until("cutover", "subscription", "fail", "is disabled");
            story.alter("ENABLE");
            confirmed(&story);
            gate.check_until("cutover", "slot", "pass", "");
            eventually("what was lost to be noticed", || {
                let answer = gate.ask("cutover", "");
                assert_ne!(answer.state(), "pass", "{way:?} {name}: {answer}");
                // Either it was seen on a copy, or that the slot was moved on.
                let said = answer.said("applied");
                let noticed = said.contains("the last commit is at") || said.contains("while its consumer was away");
                if noticed { Ok(()) } else { Err(answer) }
            });
            assert_eq!(story.green.value("SELECT count(*) FROM orders"), "2");
        }

        let story = Subscribed::start(&pair, &format!("{}_replaced", way.as_str()), way);
        let (gate, name) = (&story.gate, &story.name);
        story.order();
        story.arrived();
        gate.until("preflight", "pass", "");
        switch_off(&story);
        story.order();
        gate.fence();
        story.blue.run(&format!("SELECT pg_drop_replication_slot('{name}')"));
        story.blue.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"));
        story.alter("ENABLE");
        // Seen to be gone or not: nobody can tell what was lost.
        eventually("the slot to be noticed", || {
            let answer = gate.cutover();
            assert_ne!(answer.state(), "pass", "{answer}");
            let noticed = ["slot", "caught-up"].map(|id| answer.said(id).contains("dropped and created again"));
            if noticed.contains(&true) { Ok(()) } else { Err(answer) }
        });
        assert_eq!(story.green.value("SELECT count(*) FROM orders"), "2");
    }
}
