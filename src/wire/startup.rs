//! The packets that open a connection, which have a length but no tag.

use super::cursor::{Cursor, DecodeError, Fault};

/// The longest packet read, its length included. PostgreSQL's own limit is 10,000 bytes
/// (`MAX_STARTUP_PACKET_LENGTH` in `pqcomm.h`).
pub const MAX_PACKET: usize = 16 * 1024;

const CANCEL_REQUEST: u32 = 1234 << 16 | 5678;
const SSL_REQUEST: u32 = 1234 << 16 | 5679;
const GSSENC_REQUEST: u32 = 1234 << 16 | 5680;

/// A first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartupPacket<'a> {
    /// Asks for TLS; answered by one byte, `S` or `N`.
    SslRequest,
    /// Asks for GSSAPI encryption; answered by one byte, `G` or `N`.
    GssEncRequest,
    /// Asks to cancel the query of another connection.
    CancelRequest(CancelKey<'a>),
    /// Starts a session.
    StartupMessage(StartupMessage<'a>),
}

/// What names a connection to be cancelled: the server's BackendKeyData, sent back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CancelKey<'a> {
    /// The backend's process id.
    pub pid: u32,
    /// The secret: 4 bytes up to protocol 3.0, up to 256 from 3.2 on.
    pub secret: &'a [u8],
}

/// A request for a session: the protocol version and the parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage<'a> {
    /// The major version, 3 for all that is spoken today.
    pub major: u16,
    /// The minor version: 0, or 2 from PostgreSQL 18 on.
    pub minor: u16,
    /// Names and values, in the order sent.
    pub parameters: Vec<(&'a [u8], &'a [u8])>,
}

/// What kind of session a client asks for with the `replication` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// No replication: SQL.
    Sql,
    /// `replication=database`: a walsender in one database, for logical replication and SQL.
    Logical,
    /// `replication=true`: a walsender without a database, for physical replication.
    Physical,
}

impl<'a> StartupPacket<'a> {
    /// The length of the body that follows a packet's first four bytes.
    ///
    /// # Errors
    /// A length below 8 or beyond [`MAX_PACKET`].
    pub fn body_len(length: [u8; 4]) -> Result<usize, DecodeError> {
        let length = i32::from_be_bytes(length);
        match usize::try_from(length) {
            Ok(len @ 8..=MAX_PACKET) => Ok(len - 4),
            _ => Err(DecodeError { fault: Fault::Length(length.into()), field: "start-up packet length", offset: 0 }),
        }
    }

    /// Parses a packet's body, what follows the length.
    pub fn parse(body: &'a [u8]) -> Result<StartupPacket<'a>, DecodeError> {
        let mut cursor = Cursor::new(body);
        match cursor.u32("protocol version")? {
            SSL_REQUEST => cursor.finish("SSLRequest").map(|()| StartupPacket::SslRequest),
            GSSENC_REQUEST => cursor.finish("GSSENCRequest").map(|()| StartupPacket::GssEncRequest),
            CANCEL_REQUEST => CancelKey::parse(cursor).map(StartupPacket::CancelRequest),
            version => StartupMessage::parse(version, cursor).map(StartupPacket::StartupMessage),
        }
    }
}

impl<'a> CancelKey<'a> {
    /// Parses what CancelRequest and BackendKeyData have in common.
    pub fn parse(mut cursor: Cursor<'a>) -> Result<CancelKey<'a>, DecodeError> {
        let pid = cursor.u32("process id")?;
        match cursor.take_rest() {
            secret if (1..=256).contains(&secret.len()) => Ok(CancelKey { pid, secret }),
            secret => Err(cursor.error(Fault::Length(secret.len() as i64), "cancel key")),
        }
    }
}

impl<'a> StartupMessage<'a> {
    fn parse(version: u32, mut cursor: Cursor<'a>) -> Result<StartupMessage<'a>, DecodeError> {
        let (major, minor) = ((version >> 16) as u16, version as u16);
        let mut parameters = Vec::new();
        // Only version 3 has this form of parameters; another one is for the caller to refuse by its number.
        if major == 3 {
            loop {
                let name = cursor.cstr("parameter name")?;
                if name.is_empty() {
                    break;
                }
                parameters.push((name, cursor.cstr("parameter value")?));
            }
            cursor.finish("start-up parameters")?;
        }
        Ok(StartupMessage { major, minor, parameters })
    }

    /// The value of a parameter; of one sent twice the last, as the server takes it.
    pub fn parameter(&self, name: &str) -> Option<&'a [u8]> {
        self.parameters.iter().rev().find(|(key, _)| *key == name.as_bytes()).map(|&(_, value)| value)
    }

    /// The kind of session asked for (`ProcessStartupPacket` in `backend_startup.c`). A value that the
    /// server will refuse counts as SQL: no replication comes of it.
    pub fn session_kind(&self) -> SessionKind {
        match self.parameter("replication") {
            Some(b"database") => SessionKind::Logical,
            Some(value) if is_true(value) => SessionKind::Physical,
            _ => SessionKind::Sql,
        }
    }
}

/// `parse_bool` in `bool.c`: any unambiguous beginning of true, yes or on, and 1.
fn is_true(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &[u8], least: usize| value.len() >= least && word.starts_with(&value);
    value == b"1" || begins(b"true", 1) || begins(b"yes", 1) || begins(b"on", 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start-up packet of psql 15 for `psql -U app shop`, behind its length.
    const PSQL: &[u8] = b"\0\x03\0\0user\0app\0database\0shop\0application_name\0psql\0client_encoding\0UTF8\0\0";

    fn message(body: &[u8]) -> StartupMessage<'_> {
        match StartupPacket::parse(body) {
            Ok(StartupPacket::StartupMessage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_startup_message_gives_its_version_and_parameters() {
        let psql = message(PSQL);
        assert_eq!((psql.major, psql.minor, psql.parameters.len()), (3, 0, 4));
        assert_eq!(psql.parameter("database"), Some(&b"shop"[..]));
        assert_eq!(psql.parameter("options"), None);
        let newer = message(b"\0\x03\0\x02user\0a\0_pq_.x\0\0\0");
        assert_eq!((newer.minor, newer.parameter("_pq_.x")), (2, Some(&b""[..])));
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(StartupPacket::parse(&[0x04, 0xd2, 0x16, 0x2f]), Ok(StartupPacket::SslRequest));
        assert_eq!(StartupPacket::parse(&[0x04, 0xd2, 0x16, 0x30]), Ok(StartupPacket::GssEncRequest));
        for len in [4, 32, 256] {
            let mut body = vec![0x04, 0xd2, 0x16, 0x2e, 0, 0, 1, 2];
            body.extend(std::iter::repeat_n(9, len));
            let Ok(StartupPacket::CancelRequest(key)) = StartupPacket::parse(&body) else { panic!("{len}") };
            assert_eq!((key.pid, key.secret.len()), (258, len));
        }
    }

    #[test]
    fn the_replication_parameter_is_read_as_the_server_reads_it() {
        for (value, kind) in [
            ("database", SessionKind::Logical),
            ("true", SessionKind::Physical),
            ("T", SessionKind::Physical),
            ("on", SessionKind::Physical),
            ("1", SessionKind::Physical),
            ("yE", SessionKind::Physical),
            ("o", SessionKind::Sql),
            ("off", SessionKind::Sql),
            ("0", SessionKind::Sql),
            ("", SessionKind::Sql),
            ("Database", SessionKind::Sql),
        ] {
            let body = format!("\0\x03\0\0user\0a\0replication\0{value}\0\0");
            assert_eq!(message(body.as_bytes()).session_kind(), kind, "{value:?}");
        }
        assert_eq!(message(PSQL).session_kind(), SessionKind::Sql);
    }

    #[test]
    fn every_truncation_is_an_error() {
        for len in 0..PSQL.len() {
            assert!(StartupPacket::parse(&PSQL[..len]).is_err(), "{len}");
        }
        let cancel = [0x04, 0xd2, 0x16, 0x2e, 0, 0, 1, 2, 9];
        for len in 0..cancel.len() {
            assert!(StartupPacket::parse(&cancel[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn what_lies_behind_the_end_is_an_error() {
        assert!(StartupPacket::parse(&[0x04, 0xd2, 0x16, 0x2f, 0]).is_err());
        assert!(StartupPacket::parse(&[PSQL, b"x"].concat()).is_err());
        let mut cancel = vec![0x04, 0xd2, 0x16, 0x2e, 0, 0, 1, 2];
        cancel.extend([9; 257]);
        assert!(StartupPacket::parse(&cancel).is_err());
    }

    #[test]
    fn the_length_is_bounded_before_anything_is_read() {
        assert_eq!(StartupPacket::body_len(8u32.to_be_bytes()), Ok(4));
        assert_eq!(StartupPacket::body_len(16384u32.to_be_bytes()), Ok(16380));
        for length in [0, 4, 7, 16385, 0x7fff_ffff, u32::MAX] {
            assert!(StartupPacket::body_len(length.to_be_bytes()).is_err(), "{length}");
        }
    }
}
