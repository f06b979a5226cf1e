//! Two ends that a test plays itself: a server that says what it is told to, and a client that sends raw bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::daemon::Walgate;

/// How long a read may wait: it bounds a hang, nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that is played by the test.
pub(crate) struct FakeServer {
    listener: TcpListener,
}

impl FakeServer {
    pub(crate) fn new() -> FakeServer {
        FakeServer { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    /// Starts walgate in front of it, with no connections of its own.
    pub(crate) fn behind_walgate(&self, arguments: &[&str]) -> Walgate {
        let address = self.listener.local_addr().unwrap();
        let dsn = format!("host={} port={} sslmode=disable", address.ip(), address.port());
        Walgate::run(&dsn, &[&["--passive"], arguments].concat())
    }

    /// Takes the next connection and its start-up packet.
    pub(crate) fn accept(&self) -> Peer {
        let mut peer = Peer(self.listener.accept().unwrap().0);
        peer.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = u32::from_be_bytes(peer.receive(4).try_into().unwrap());
        peer.receive(length as usize - 4);
        peer
    }

    /// Whether somebody has connected.
    pub(crate) fn has_visitor(&self) -> bool {
        self.listener.set_nonblocking(true).unwrap();
        let visitor = self.listener.accept();
        self.listener.set_nonblocking(false).unwrap();
        visitor.is_ok()
    }
}

/// One end of a connection.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    /// A client of walgate that has sent nothing.
    pub(crate) fn connect(walgate: &Walgate) -> Peer {
        let stream = TcpStream::connect(("127.0.0.1", walgate.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer(stream)
    }

    /// A client and its server, through walgate, after the client's start-up packet.
    pub(crate) fn pair(server: &FakeServer, walgate: &Walgate, parameters: &[(&str, &str)]) -> (Peer, Peer) {
        let mut client = Peer::connect(walgate);
        client.send(&startup(parameters));
        (client, server.accept())
    }

    /// The same in the middle of a replication stream of slot `s` by pgoutput.
    pub(crate) fn streaming_pair(server: &FakeServer, walgate: &Walgate) -> (Peer, Peer) {
        let (mut client, mut origin) = Peer::pair(server, walgate, REPLICATION);
        let command = query("START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names 'p')");
        client.send(&command);
        origin.expect(&command);
        origin.send(COPY_BOTH);
        client.expect(COPY_BOTH);
        (client, origin)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next `len` bytes.
    pub(crate) fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Exactly these bytes come next.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        assert!(self.receive(bytes.len()) == bytes, "other bytes than were sent");
    }

    /// The other end has closed, after these bytes.
    #[track_caller]
    pub(crate) fn expect_end(&mut self, bytes: &[u8]) {
        assert_eq!(self.receive_all(), bytes);
    }

    /// What comes up to the end of the connection.
    #[track_caller]
    pub(crate) fn receive_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Says that nothing more will come.
    pub(crate) fn end(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }
}

pub(crate) const REPLICATION: &[(&str, &str)] = &[("user", "u"), ("replication", "database")];

/// CopyBothResponse, in the form a walsender sends it.
pub(crate) const COPY_BOTH: &[u8] = &[b'W', 0, 0, 0, 7, 0, 0, 0];

/// A start-up packet of protocol 3.0.
pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    [&(body.len() as u32 + 4).to_be_bytes(), &body[..]].concat()
}

/// A message with its tag and length.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

/// An XLogData with a message of pgoutput, in its frame.
pub(crate) fn xlog_data(lsn: u64, payload: &[u8]) -> Vec<u8> {
    let position = lsn.to_be_bytes();
    message(b'd', &[&[b'w'][..], &position, &position, &0i64.to_be_bytes(), payload].concat())
}

/// Begin, one Insert and Commit, each in its frame, of a transaction whose commit record is at `lsn`.
pub(crate) fn transaction(lsn: u64) -> [Vec<u8>; 3] {
    let begin = [&b"B"[..], &lsn.to_be_bytes(), &[0; 8], &[0, 0, 0, 1]].concat();
    let commit = [&b"C\0"[..], &lsn.to_be_bytes(), &(lsn + 8).to_be_bytes(), &[0; 8]].concat();
    [begin, b"I\0\0\0\x07N\0\x01t\0\0\0\x01x".to_vec(), commit].map(|payload| xlog_data(lsn, &payload))
}

/// The severity, SQLSTATE and message of an ErrorResponse.
#[track_caller]
pub(crate) fn error_of(bytes: &[u8]) -> [String; 3] {
    assert_eq!(bytes.first(), Some(&b'E'), "{bytes:?}");
    let fields = walgate::wire::backend::ErrorFields::parse(&bytes[5..]).unwrap();
    [fields.severity, fields.code, fields.message].map(|field| field.into_owned())
}
