//! Bytes through the proxy: the same on both sides, whatever they are, at any size, in any state of a socket.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::peers::{FakeServer, Peer, message, query, transaction, xlog_data};
use crate::support::daemon::Walgate;
use crate::support::eventually;

/// What the tests allow walgate's resident memory to grow by while a gibibyte passes: its buffers, and pages that the
/// allocator keeps. A message or a transaction that was held in memory would be far beyond it.
const FLAT: u64 = 16 << 20;

fn resident(walgate: &Walgate) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", walgate.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn metric(walgate: &Walgate, line: &str) -> bool {
    walgate.get("/metrics").1.as_str().unwrap().lines().any(|found| found == line)
}

#[test]
fn what_one_side_sends_the_other_receives_whatever_it_is() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let mut state = 1u64;
    // SplitMix64, so that a failure can be seen again.
    let mut byte = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 32) as u8
    };
    for parameters in [&[("user", "u")][..], crate::peers::REPLICATION, &[("user", "u"), ("replication", "1")]] {
        for _ in 0..8 {
            let (client, origin) = Peer::pair(&server, &walgate, parameters);
            let mut noise = |len| std::iter::repeat_with(&mut byte).take(len).collect::<Vec<u8>>();
            let (down, up) = (noise(300_000), noise(100_000));
            exchange(client, origin, &down, &up);
        }
    }
}

#[test]
fn recorded_streams_pass_unchanged() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let mut streams = 0;
    for version in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/proto-fixtures")).unwrap() {
        let version = version.unwrap().path();
        let Ok(files) = fs::read_dir(&version) else { continue };
        for file in files.map(|file| file.unwrap().path()).filter(|file| file.extension().is_some_and(|it| it == "bin"))
        {
            let (client, origin) = Peer::streaming_pair(&server, &walgate);
            let acks: Vec<u8> = (0..200u64).flat_map(|lsn| status_update(lsn * 1000)).collect();
            exchange(client, origin, &fs::read(&file).unwrap(), &acks);
            streams += 1;
        }
    }
    assert!(streams > 0, "there are no recordings");
    assert!(!walgate.log().contains("cannot be followed"), "{}", walgate.log());
}

/// Sends both ways at once, in pieces of odd sizes, and compares what arrives.
fn exchange(mut client: Peer, mut origin: Peer, down: &[u8], up: &[u8]) {
    let (mut to_client, mut to_origin) = (origin.0.try_clone().unwrap(), client.0.try_clone().unwrap());
    thread::scope(|scope| {
        scope.spawn(move || {
            for piece in down.chunks(7919) {
                to_client.write_all(piece).unwrap();
            }
            to_client.shutdown(std::net::Shutdown::Write).unwrap();
        });
        scope.spawn(move || {
            for piece in up.chunks(613) {
                to_origin.write_all(piece).unwrap();
            }
            to_origin.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let received = scope.spawn(move || origin.receive_all());
        assert!(client.receive_all() == down, "the client received other bytes than the server sent");
        assert!(received.join().unwrap() == up, "the server received other bytes than the client sent");
    });
}

fn status_update(flush: u64) -> Vec<u8> {
    let position = flush.to_be_bytes();
    message(b'd', &[&b"r"[..], &position, &position, &position, &[0; 8], &[0]].concat())
}

#[test]
fn a_row_of_one_gibibyte_passes_without_being_held() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let (mut client, mut origin) = Peer::streaming_pair(&server, &walgate);
    let before = resident(&walgate);
    let [begin, _, commit] = transaction(0x100);
    // The longest message of the protocol, its length included: 1 GiB − 1.
    let body: usize = 0x3fff_ffff - 4;
    let insert = xlog_data(0x100, b"I\0\0\0\x07N");
    let mut head = [&[b'd'][..], &0x3fff_ffffu32.to_be_bytes()].concat();
    head.extend_from_slice(&insert[5..]);
    let rest = body - (insert.len() - 5);
    thread::scope(|scope| {
        scope.spawn(move || {
            origin.send(&begin);
            origin.send(&head);
            let piece = vec![b'x'; 1 << 20];
            let mut left = rest;
            while left > 0 {
                let len = left.min(piece.len());
                origin.send(&piece[..len]);
                left -= len;
            }
            origin.send(&commit);
            origin.end();
        });
        let mut piece = vec![0; 1 << 20];
        let (mut total, mut most) = (0, 0);
        loop {
            match client.0.read(&mut piece).unwrap() {
                0 => break,
                len => total += len,
            }
            most = most.max(resident(&walgate));
        }
        assert_eq!(total, body + 5 + transaction(0x100)[0].len() + transaction(0x100)[2].len());
        assert!(most < before + FLAT, "{most} bytes resident, {before} before");
    });
    assert!(metric(&walgate, r#"walgate_proxy_messages_total{source="main",type="insert"} 1"#));
    assert!(metric(&walgate, r#"walgate_proxy_messages_total{source="main",type="commit"} 1"#));
}

#[test]
fn a_length_beyond_the_protocol_passes_and_the_stream_is_marked() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let (mut client, mut origin) = Peer::streaming_pair(&server, &walgate);
    for bytes in [&b"d\x7f\xff\xff\xff"[..], &[1; 1000]] {
        origin.send(bytes);
        client.expect(bytes);
    }
    let report = walgate.lag_until("s", "unknown", |report| report["state"] == "unknown");
    assert!(report["lag"]["transactions"].is_null(), "{report}");
    assert!(metric(&walgate, r#"walgate_proxy_untapped_total{source="main",reason="frame"} 1"#));
}

#[test]
fn a_message_that_is_not_known_passes_and_the_stream_is_marked() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    for payload in [&b"z??"[..], b"I\0", b""] {
        let (mut client, mut origin) = Peer::streaming_pair(&server, &walgate);
        let bytes = [xlog_data(1, payload), transaction(2).concat()].concat();
        origin.send(&bytes);
        client.expect(&bytes);
        let report = walgate.lag_until("s", "unknown", |report| report["state"] == "unknown");
        assert!(report["lag"]["seconds"].is_null() && report["active"] == true, "{report}");
    }
    assert!(metric(&walgate, r#"walgate_proxy_untapped_total{source="main",reason="message"} 3"#));
}

#[test]
fn message_types_outside_of_streams_that_nobody_knows_pass() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let (mut client, mut origin) = Peer::pair(&server, &walgate, crate::peers::REPLICATION);
    let unknown = message(b'~', b"from the future");
    origin.send(&unknown);
    client.expect(&unknown);
    client.send(&unknown);
    origin.expect(&unknown);
    client.send(&query("IDENTIFY_SYSTEM"));
    origin.expect(&query("IDENTIFY_SYSTEM"));
}

#[test]
fn a_side_that_has_ended_still_receives() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let (mut client, mut origin) = Peer::pair(&server, &walgate, &[("user", "u")]);
    client.end();
    origin.expect_end(b"");
    origin.send(b"last words");
    drop(origin);
    client.expect_end(b"last words");

    let (mut client, mut origin) = Peer::pair(&server, &walgate, &[("user", "u")]);
    origin.end();
    client.expect_end(b"");
    client.send(b"last words");
    drop(client);
    origin.expect_end(b"last words");
}

#[test]
fn the_reason_a_server_gives_before_it_closes_arrives_though_the_client_was_sending() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    for _ in 0..20 {
        let (mut client, mut origin) = Peer::pair(&server, &walgate, &[("user", "u")]);
        client.0.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        while client.0.write(&[7; 1 << 16]).is_ok() {}
        origin.send(b"the reason");
        // Closed with bytes unread, which resets the connection.
        drop(origin);
        client.expect(b"the reason");
    }
}

#[test]
fn a_reset_is_passed_on_as_one() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    for reset_by_server in [true, false] {
        let (client, origin) = Peer::streaming_pair(&server, &walgate);
        let (one, mut other) = if reset_by_server { (origin, client) } else { (client, origin) };
        SockRef::from(&one.0).set_linger(Some(Duration::ZERO)).unwrap();
        drop(one);
        assert_eq!(other.0.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_client_that_does_not_read_holds_the_server_back_and_no_memory() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let (mut client, mut origin) = Peer::streaming_pair(&server, &walgate);
    let before = resident(&walgate);
    origin.0.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let bulk: Vec<u8> = (1..2000).flat_map(|lsn| transaction(lsn * 0x100).concat()).collect();
    let (mut sent, limit) = (0u64, 1 << 30);
    let blocked = loop {
        match origin.0.write(&bulk[(sent % bulk.len() as u64) as usize..]) {
            Ok(len) => sent += len as u64,
            Err(error) => break error,
        }
        assert!(sent < limit, "nobody reads, and yet a gibibyte was taken");
    };
    assert!(matches!(blocked.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{blocked}");
    assert!(resident(&walgate) < before + FLAT);
    // It all arrives once the client reads again.
    origin.end();
    assert_eq!(client.receive_all().len() as u64, sent);
}

#[test]
fn a_thousand_idle_sessions_are_held_and_cost_little() {
    rlimit::increase_nofile_limit(4096).unwrap();
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let before = resident(&walgate);
    let mut pairs: Vec<_> = (0..1000).map(|_| Peer::pair(&server, &walgate, &[("user", "u")])).collect();
    for (client, origin) in &mut pairs {
        origin.send(b"R");
        client.expect(b"R");
    }
    assert!(metric(&walgate, r#"walgate_proxy_sessions{source="main",kind="sql"} 1000"#));
    // Twice the target: this is the build without optimization.
    let each = resident(&walgate).saturating_sub(before) / 1000;
    assert!(each <= 48 << 10, "{each} bytes for each idle session");
    drop(pairs);
    eventually("no session", || {
        let none = metric(&walgate, r#"walgate_proxy_sessions{source="main",kind="sql"} 0"#);
        if none { Ok(()) } else { Err(()) }
    });
}
