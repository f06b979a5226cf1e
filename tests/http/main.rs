//! The HTTP interface of a running walgate, beside `/v1/lag` and `/metrics`, which the other tests ask; and the commands
//! that ask it.

mod command;
mod document;
mod gates;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::Value;
use support::daemon::Walgate;
use support::{Sql, eventually, postgres};

#[test]
fn every_slot_is_listed_with_what_it_retains_and_who_holds_it() {
    let server = postgres(18).setting("max_slot_wal_keep_size", "1GB").start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("SELECT pg_create_logical_replication_slot('changes', 'pgoutput')");
    sql.run("SELECT pg_create_physical_replication_slot('standby', true)");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    let slots = eventually("both slots", || match walgate.get("/v1/slots").1["slots"].as_array() {
        Some(slots) if slots.len() == 2 => Ok(slots.clone()),
        other => Err(other.cloned()),
    });
    let [changes, standby] = &slots[..] else { panic!("{slots:?}") };
    assert_eq!(
        (&changes["slot"], &changes["kind"], &changes["database"]),
        (&"changes".into(), &"logical".into(), &"postgres".into())
    );
    assert_eq!((&changes["active"], &changes["wal_status"]), (&false.into(), &"reserved".into()));
    assert!(changes["safe_wal_bytes"].as_i64() > Some(0) && changes["retained_wal_bytes"].is_u64(), "{changes}");
    assert!(changes["confirmed_flush_lsn"].is_string() && changes["inactive_since"].is_string(), "{changes}");
    assert_eq!(
        (&standby["slot"], &standby["kind"], &standby["confirmed_flush_lsn"]),
        (&"standby".into(), &"physical".into(), &Value::Null)
    );

    let (_, one) = walgate.get("/v1/slots?source=main&slot=standby");
    assert_eq!(one["slots"].as_array().map(Vec::len), Some(1));
    for (route, status, text) in [
        ("/v1/slots?sorce=main", 400, "sorce"),
        ("/v1/slots?source=other", 404, "there is main"),
        ("/v1/sources?slot=s", 400, "/v1/slots"),
        ("/v1/events?source=other", 404, "there is main"),
    ] {
        let (answered, problem) = walgate.get(route);
        assert_eq!(answered, status, "{route}");
        assert!(problem["detail"].as_str().unwrap().contains(text), "{problem}");
    }
}

#[test]
fn a_source_says_what_it_is_and_how_it_is_observed() {
    let server = postgres(16).start().unwrap();
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    let source = eventually("a look", || match walgate.get("/v1/sources").1["sources"][0].clone() {
        source if source["state"] == "reached" => Ok(source),
        source => Err(source),
    });
    let sql = Sql::connect(&server.dsn("postgres"));
    assert_eq!(source["system_identifier"], sql.value("SELECT system_identifier FROM pg_control_system()"));
    assert_eq!((&source["timeline"], &source["in_recovery"]), (&1.into(), &false.into()));
    assert!(source["server_version"].as_str().unwrap().starts_with("16."), "{source}");
    assert_eq!((&source["observe"], &source["database"]), (&"proxy".into(), &"postgres".into()));
    assert_eq!(source["server"], format!("127.0.0.1:{}", server.port()));

    drop(server);
    let source = eventually("the loss", || match walgate.get("/v1/sources").1["sources"][0].clone() {
        source if source["state"] == "unreachable" => Ok(source),
        source => Err(source),
    });
    assert!(source["reason"].is_string() && source["observed_age_seconds"].is_null(), "{source}");
}

#[test]
fn changes_are_told_as_they_happen() {
    let server = postgres(17).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    walgate.ready();
    let mut stream = TcpStream::connect(("127.0.0.1", walgate.http())).unwrap();
    stream.write_all(b"GET /v1/events?slot=s HTTP/1.1\r\nHost: walgate\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
    assert!(lines.by_ref().take_while(|line| !line.is_empty()).any(|line| line == "content-type: text/event-stream"));

    sql.run("SELECT pg_create_logical_replication_slot('other', 'pgoutput')");
    sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    let mut next = |kind: &str, aspect: &str| {
        lines.by_ref().find(|line| *line == format!("event: {kind}")).expect("the event comes");
        let data = lines.next().unwrap();
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&event["source"], &event["slot"]), (&"main".into(), &"s".into()), "{event}");
        if event["aspect"] == aspect { Some(event) } else { None }
    };
    let appeared = next("slot", "slot").unwrap();
    assert_eq!((&appeared["from"], &appeared["to"]), (&Value::Null, &"present".into()));
    sql.run("SELECT pg_drop_replication_slot('s')");
    let gone = std::iter::repeat_with(|| next("slot", "slot")).flatten().next().unwrap();
    assert_eq!((&gone["from"], &gone["to"]), (&"present".into(), &Value::Null));
}
