//! S5, blue and green with native logical replication, where everybody is careful.

use serde_json::Value;

use crate::scene::{Pair, Way};
use crate::subscribed::Subscribed;
use crate::support::eventually;

/// From preflight to the receipt.
#[track_caller]
fn cut_over(pair: &Pair, name: &str, way: Way) {
    let story = Subscribed::start(pair, name, way);
    let Subscribed { gate, blue, green, .. } = &story;
    story.order();
    gate.until("preflight", "pass", "may begin");
    let answer = gate.cutover();
    assert!(answer.is("fail", "no fence stands"), "{answer}");
    story.order();

    let target_lsn = gate.fence();
    let (status, standing) = gate.send("GET", "/fence");
    assert_eq!((status, standing["target_lsn"].as_str()), (200, Some(&*target_lsn.to_string())), "{standing}");
    let answer = gate.ask("cutover", "&wait=30s");
    assert_eq!(answer.state(), "pass", "{way:?}: {answer}");
    // What was written before the fence is there, whenever a pass says so.
    let orders = "SELECT count(*) FROM orders";
    assert_eq!(blue.value(orders), green.value(orders));
    let receipt = &answer.0["receipt"];
    assert_eq!(receipt["target_lsn"], target_lsn.to_string(), "{receipt}");
    let (status, latest) = gate.send("GET", "/receipt");
    assert_eq!((status, &latest["nonce"]), (200, &receipt["nonce"]));
    // A pass stays one while nothing happens.
    assert_eq!(gate.cutover().state(), "pass");
    gate.release();
    assert!(gate.cutover().is("fail", "no fence stands"));
}

#[test]
fn a_careful_cutover_passes_on_every_version_by_every_way() {
    for (source, target, ways) in [
        (18, 18, &Way::ALL[..]),
        (17, 17, &[Way::Proxy]),
        (16, 16, &[Way::Slot]),
        (15, 15, &[Way::Proxy, Way::Slot]),
        (14, 14, &[Way::Proxy, Way::Poll]),
        (15, 18, &[Way::Proxy, Way::Poll]),
    ] {
        let pair = Pair::start(source, target);
        for way in ways {
            cut_over(&pair, way.as_str(), *way);
        }
    }
}

#[test]
fn the_command_line_walks_through_a_cutover_with_its_exit_statuses() {
    let pair = Pair::start(18, 18);
    let story = Subscribed::start(&pair, "app", Way::Proxy);
    let run = |arguments: &[&str]| {
        let output = story.gate.command(arguments);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let said = |(code, text): (Option<i32>, String), expected: i32, what: &str| {
        assert!(code == Some(expected) && text.contains(what), "exit {code:?} and not {expected}, {what}: {text}");
    };
    said(run(&["wait", "blue-green", "--phase", "preflight", "--timeout", "30s"]), 0, "");
    said(run(&["check", "blue-green"]), 1, "no fence stands");
    said(run(&["release", "blue-green"]), 1, "no fence");
    story.order();
    said(run(&["fence", "blue-green"]), 0, "");
    said(run(&["fence", "blue-green"]), 1, "a fence stands");
    said(run(&["wait", "blue-green", "--timeout", "30s"]), 0, "");
    said(run(&["check", "blue-green"]), 0, "");
    said(run(&["check", "nowhere"]), 2, "nowhere");
    said(run(&["release", "blue-green"]), 0, "");
}

#[test]
fn one_that_waits_is_told_what_is_left_and_answered_once_it_passes() {
    let pair = Pair::start(18, 18);
    for way in Way::ALL {
        let story = Subscribed::start(&pair, way.as_str(), way);
        let gate = &story.gate;
        story.arrived();
        let lock = crate::support::Sql::connect(&story.target);
        lock.run("BEGIN; LOCK orders IN ACCESS EXCLUSIVE MODE");
        story.order();
        gate.fence();
        let counted = if way == Way::Poll { " before " } else { "1 transaction (1 row) to acknowledge before" };
        gate.check_until("cutover", "caught-up", "wait", counted);
        gate.until("cutover", "wait", "");
        std::thread::scope(|scope| {
            let held = scope.spawn(|| gate.ask("cutover", "&wait=60s"));
            // It is held: somebody is told of it meanwhile.
            eventually("the gate to wait", || match &gate.send("GET", "/check?status=200") {
                (200, body) if body["state"] == "wait" => Ok(()),
                other => Err(other.clone()),
            });
            lock.run("COMMIT");
            let answer = held.join().expect("it is answered");
            assert_eq!(answer.state(), "pass", "{answer}");
        });
        let gates = story.gate.walgate.get("/v1/gates").1;
        assert_eq!(gates["gates"][0]["states"]["cutover"], Value::from("pass"), "{gates}");
    }
}
