//! The bytes: commands that come in pieces, or ahead of the answers.

use crate::client::{Client, refusal, tags};
use crate::peers::query;
use crate::support::daemon::Walgate;
use crate::support::{Sql, postgres};

#[test]
fn a_command_in_pieces_is_judged_whole_wherever_it_is_cut_and_answers_keep_their_order() {
    let server = postgres(18).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE bad (v text); CREATE PUBLICATION bad FOR TABLE bad");
    let walgate = Walgate::run(&server.dsn("postgres"), &["--guard", "block"]);
    let mut client = Client::log_in(&walgate, "postgres");

    let create = query("CREATE_REPLICATION_SLOT s LOGICAL pgoutput");
    for cut in 1..create.len() {
        let (first, second) = create.split_at(cut);
        client.send(first);
        // So that it is mostly read in two pieces; it holds either way.
        std::thread::sleep(std::time::Duration::from_millis(1));
        client.send(second);
        assert_eq!(refusal(&client.answer()).code, "WG001", "cut at {cut}");
    }

    // Many commands in one write: each answer in its place.
    let slow = query("SELECT pg_sleep(0.05), 'slow'");
    let (between, identify) = (query("SELECT 'between'"), query("IDENTIFY_SYSTEM"));
    let all = [&slow, &create, &between, &create, &create, &identify, &slow].map(Vec::as_slice).concat();
    for cut in [1, slow.len() - 1, slow.len(), slow.len() + 3, slow.len() + create.len() + 2] {
        let (first, second) = all.split_at(cut);
        client.send(first);
        client.send(second);
        for expected in ["TDCZ", "EZ", "TDCZ", "EZ", "EZ", "TDCZ", "TDCZ"] {
            assert_eq!(tags(&client.answer()), expected);
        }
    }

    // The second refusal is there before the answer that it must wait for.
    client.send(&[&create[..], &query("SELECT pg_sleep(0.5)"), &create, &identify].concat());
    for expected in ["EZ", "TDCZ", "EZ", "TDCZ"] {
        assert_eq!(tags(&client.answer()), expected);
    }

    // Longer than a buffer of the relay, and than the guard reads.
    let long = query(&format!("SELECT '{}'", "x".repeat(600_000)));
    let long_command = query(&format!("{}CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput", " ".repeat(70_000)));
    client.send(&[&long[..], &create, &long, &long_command].concat());
    for expected in ["TDCZ", "EZ", "TDCZ", "TDCZ"] {
        assert_eq!(tags(&client.answer()), expected);
    }
    assert!(walgate.log().contains("it is too long"), "{}", walgate.log());

    // Behind the end of a stream, in the same write.
    sql.run("CREATE TABLE good (id int PRIMARY KEY); CREATE PUBLICATION good FOR TABLE good");
    let start = |publication: &str| {
        query(&format!("START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names '{publication}')"))
    };
    client.send(&start("good"));
    assert_eq!(tags(&client.answer()), "W");
    client.send(&[&crate::peers::message(b'c', b"")[..], &start("bad"), &query("IDENTIFY_SYSTEM")].concat());
    assert!(tags(&client.answer()).ends_with("CCZ"));
    assert_eq!(refusal(&client.answer()).code, "WG001");
    assert_eq!(tags(&client.answer()), "TDCZ");

    // A client that ends within a command: what it sent arrives, and is nothing.
    client.send(&create[..create.len() - 1]);
    assert_eq!(client.end(), b"");
}

#[test]
fn the_walsender_refuses_the_extended_protocol_by_itself() {
    let server = postgres(18).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE bad (v text); CREATE PUBLICATION bad FOR TABLE bad");
    let walgate = Walgate::run(&server.dsn("postgres"), &["--guard", "block"]);
    let mut client = Client::log_in(&walgate, "postgres");
    let parse = crate::peers::message(b'P', b"\0CREATE_REPLICATION_SLOT s LOGICAL pgoutput\0\0\0");
    client.send(&[parse, crate::peers::message(b'S', b"")].concat());
    let error = refusal(&client.answer());
    assert_eq!((&*error.code, sql.value("SELECT count(*) FROM pg_replication_slots").as_str()), ("08P01", "0"));
}
