//! Clients that do not get as far as a session.

use std::io::Read as _;
use std::net::TcpListener;

use crate::peers::{FakeServer, Peer, error_of, message, startup};
use crate::support::daemon::Walgate;
use crate::support::eventually;

const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSSENC_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

#[test]
fn a_packet_of_impossible_length_is_refused() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    for head in [*b"\0\0\0\0", *b"\0\0\0\x07", *b"\0\0\x40\x01", *b"\xff\xff\xff\xff", *b"GET "] {
        let mut client = Peer::connect(&walgate);
        client.send(&head);
        let error = error_of(&client.receive_all());
        assert_eq!(error, ["FATAL", "08P01", "invalid length of startup packet"]);
    }
    assert!(!server.has_visitor(), "a server is not bothered with it");
}

#[test]
fn a_packet_that_makes_no_sense_is_refused() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    for body in [&b"\0\x03\0\0user\0u"[..], b"\0\x03\0\0user\0u\0\0more", b"\0\x03\0\0user\0"] {
        let mut client = Peer::connect(&walgate);
        client.send(&[&(body.len() as u32 + 4).to_be_bytes(), body].concat());
        let error = error_of(&client.receive_all());
        assert_eq!(error, ["FATAL", "08P01", "invalid startup packet layout"]);
    }
    assert!(!server.has_visitor());
}

#[test]
fn another_major_version_is_refused_by_its_number() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let mut client = Peer::connect(&walgate);
    client.send(&[0, 0, 0, 8, 0, 2, 0, 0]);
    let [_, code, text] = error_of(&client.receive_all());
    assert_eq!((code.as_str(), text.contains("2.0")), ("0A000", true), "{text}");
}

#[test]
fn a_minor_version_is_the_servers_business() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let mut packet = startup(&[("user", "u")]);
    packet[7] = 2;
    let mut client = Peer::connect(&walgate);
    client.send(&packet);
    let mut origin = server.accept();
    let negotiate = message(b'v', b"\0\x03\0\0\0\0\0\0");
    origin.send(&negotiate);
    client.expect(&negotiate);
}

#[test]
fn bytes_behind_a_request_for_encryption_are_refused() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let mut client = Peer::connect(&walgate);
        client.send(&[request, &startup(&[("user", "u")])].concat());
        let mut answer = Vec::new();
        // Closed with bytes unread, a connection may end in a reset, after the error or instead of it.
        let _ = client.0.read_to_end(&mut answer);
        assert!(answer.is_empty() || error_of(&answer)[2].contains("unencrypted data"), "{answer:?}");
    }
    eventually("the refusal in the log", || match walgate.log() {
        log if log.matches("unencrypted data behind the request").count() == 2 => Ok(()),
        log => Err(log),
    });
    assert!(!server.has_visitor());
}

#[test]
fn encryption_that_is_not_configured_is_declined_and_the_session_goes_on() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let mut client = Peer::connect(&walgate);
    for request in [GSSENC_REQUEST, SSL_REQUEST] {
        client.send(request);
        client.expect(b"N");
    }
    client.send(&startup(&[("user", "u")]));
    server.accept().send(b"R");
    client.expect(b"R");
}

#[test]
fn encryption_asked_for_again_and_again_is_refused() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let mut client = Peer::connect(&walgate);
    client.send(SSL_REQUEST);
    client.expect(b"N");
    client.send(SSL_REQUEST);
    client.expect_end(b"");
}

#[test]
fn a_client_that_keeps_silent_is_closed() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    let silent = Peer::connect(&walgate);
    let mut half = Peer::connect(&walgate);
    half.send(&startup(&[("user", "u")])[..7]);
    for mut client in [silent, half] {
        client.expect_end(b"");
    }
    eventually("both in the log", || match walgate.log() {
        log if log.matches("no start-up packet in time").count() == 2 => Ok(()),
        log => Err(log),
    });
    assert!(!server.has_visitor());
}

#[test]
fn a_look_whether_somebody_listens_is_not_an_error() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&[]);
    for _ in 0..3 {
        let mut client = Peer::connect(&walgate);
        client.end();
        client.expect_end(b"");
    }
    assert!(!walgate.log().contains("WARN") && !walgate.log().contains("refused"), "{}", walgate.log());
}

#[test]
fn a_client_beyond_the_limit_is_told_so_and_a_place_is_free_again_afterwards() {
    let server = FakeServer::new();
    let walgate = server.behind_walgate(&["--max-sessions", "1"]);
    let first = Peer::pair(&server, &walgate, &[("user", "u")]);
    let mut second = Peer::connect(&walgate);
    second.send(&startup(&[("user", "u")]));
    assert_eq!(error_of(&second.receive_all())[..2], ["FATAL", "53300"]);
    drop(first);
    eventually("a free place", || {
        let mut client = Peer::connect(&walgate);
        client.send(&startup(&[("user", "u")]));
        client.0.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let mut answer = [0];
        match client.0.read(&mut answer) {
            // Nothing is said because the session waits for the server.
            Err(_) if server.has_visitor() => Ok(()),
            other => Err(other),
        }
    });
}

#[test]
fn a_server_that_is_not_there_is_named_as_the_reason() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let walgate = Walgate::run(&format!("127.0.0.1:{port}"), &["--passive"]);
    let mut client = Peer::connect(&walgate);
    client.send(&startup(&[("user", "u"), ("replication", "database")]));
    let [severity, code, text] = error_of(&client.receive_all());
    assert_eq!([severity.as_str(), code.as_str()], ["FATAL", "08001"]);
    assert_eq!(text, "walgate cannot reach the source: connection refused");
    let (status, problem) = walgate.get("/readyz");
    assert_eq!((status, problem["status"].as_u64()), (503, Some(503)));
    assert!(problem["detail"].as_str().unwrap().contains("refused"), "{problem}");
}
