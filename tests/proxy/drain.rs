//! SIGTERM: streams end after a commit, other sessions finish, and what does not is closed.

use std::io::Read as _;
use std::time::Duration;

use walgate::scratch::{Signal, signal};

use crate::peers::{COPY_BOTH, FakeServer, Peer, REPLICATION, query, transaction};
use crate::support::daemon::Walgate;
use crate::support::eventually;

fn terminate(walgate: &Walgate) {
    assert!(signal(walgate.pid(), Signal::Terminate));
    eventually("the drain to begin", || match walgate.log() {
        log if log.contains("draining") => Ok(()),
        log => Err(log),
    });
}

#[test]
fn a_stream_in_the_middle_of_a_transaction_ends_behind_its_commit() {
    let server = FakeServer::new();
    let mut walgate = server.behind_walgate(&[]);
    let (mut client, mut origin) = Peer::streaming_pair(&server, &walgate);
    let [begin, insert, commit] = transaction(0x100);
    let (begun, rest) = ([&begin, &insert[..10]].concat(), &insert[10..]);
    origin.send(&begun);
    client.expect(&begun);
    terminate(&walgate);
    client.0.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(client.0.read(&mut [0]).is_err(), "it goes on, with nothing to send yet");
    client.0.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The commit is the last that passes, though more came with it.
    origin.send(&[rest, &commit, &transaction(0x200).concat()].concat());
    client.expect_end(&[rest, &commit].concat());
    // What the client says about it still reaches the server.
    client.send(b"last ack");
    origin.expect(b"last ack");
    drop(client);
    origin.expect_end(b"");
    assert_eq!(walgate.end(Signal::Continue).code(), Some(0));
}

#[test]
fn a_stream_at_rest_and_one_that_nobody_follows_end_at_once() {
    let server = FakeServer::new();
    let mut walgate = server.behind_walgate(&[]);
    let mut resting = Peer::streaming_pair(&server, &walgate);
    let [begin, insert, commit] = transaction(0x100);
    let whole = [begin, insert, commit].concat();
    resting.1.send(&whole);
    resting.0.expect(&whole);
    let mut physical = Peer::pair(&server, &walgate, &[("user", "u"), ("replication", "true")]);
    let command = query("START_REPLICATION SLOT p PHYSICAL 0/0");
    physical.0.send(&command);
    physical.1.expect(&command);
    physical.1.send(COPY_BOTH);
    physical.0.expect(COPY_BOTH);
    terminate(&walgate);
    for (client, origin) in [&mut resting, &mut physical] {
        client.expect_end(b"");
        origin.expect_end(b"");
    }
    assert_eq!(walgate.end(Signal::Continue).code(), Some(0));
}

#[test]
fn sessions_without_a_stream_finish_first() {
    let server = FakeServer::new();
    let mut walgate = server.behind_walgate(&[]);
    let sql = Peer::pair(&server, &walgate, &[("user", "u")]);
    let initial_copy = Peer::pair(&server, &walgate, REPLICATION);
    terminate(&walgate);
    assert!(std::net::TcpStream::connect(("127.0.0.1", walgate.port())).is_err(), "no new clients");
    assert_eq!(walgate.get("/readyz").0, 503);
    for (mut client, mut origin) in [sql, initial_copy] {
        for bytes in [b"one", b"two"] {
            client.send(bytes);
            origin.expect(bytes);
            origin.send(bytes);
            client.expect(bytes);
        }
    }
    assert_eq!(walgate.end(Signal::Continue).code(), Some(0));
}

#[test]
fn what_does_not_finish_is_closed_at_the_deadline() {
    let server = FakeServer::new();
    let mut walgate = server.behind_walgate(&["--drain-timeout", "300ms"]);
    let (mut client, mut origin) = Peer::pair(&server, &walgate, &[("user", "u")]);
    let mut streaming = Peer::streaming_pair(&server, &walgate);
    let begin = &transaction(0x100)[0];
    streaming.1.send(begin);
    streaming.0.expect(begin);
    terminate(&walgate);
    for peer in [&mut client, &mut origin, &mut streaming.0, &mut streaming.1] {
        peer.expect_end(b"");
    }
    assert_eq!(walgate.end(Signal::Continue).code(), Some(0));
    assert!(walgate.log().contains("did not end in time"), "{}", walgate.log());
}
