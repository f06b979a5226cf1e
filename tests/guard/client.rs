//! A client of the replication protocol that a test writes byte by byte.

use walgate::wire::backend::ErrorFields;

use crate::peers::{Peer, message, query, startup};
use crate::support::daemon::Walgate;

/// A walsender's client, logged in.
pub(crate) struct Client(Peer);

/// One message of the server's: its tag and its body.
pub(crate) type Message = (u8, Vec<u8>);

/// What a refusal says.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) detail: String,
    pub(crate) hint: String,
}

impl Client {
    /// Logs in through walgate, as the superuser, for logical replication of this database.
    #[track_caller]
    pub(crate) fn log_in(walgate: &Walgate, database: &str) -> Client {
        let mut client = Client(Peer::connect(walgate));
        client.0.send(&startup(&[("user", "postgres"), ("database", database), ("replication", "database")]));
        let greeting = client.answer();
        assert!(tags(&greeting).starts_with('R') && tags(&greeting).ends_with('Z'), "{greeting:?}");
        client
    }

    /// Sends a command and reads the answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str) -> Vec<Message> {
        self.send(&query(command));
        self.answer()
    }

    /// Sends these bytes.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.send(bytes);
    }

    /// Ends the stream that runs, and reads to the end of it.
    #[track_caller]
    pub(crate) fn end_stream(&mut self) {
        self.send(&message(b'c', b""));
        self.answer();
    }

    /// Reads up to ReadyForQuery, or to the begin of a stream.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Vec<Message> {
        let mut answer = Vec::new();
        loop {
            let header = self.0.receive(5);
            let len = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4;
            answer.push((header[0], self.0.receive(len)));
            if matches!(header[0], b'Z' | b'W') {
                return answer;
            }
        }
    }

    /// Says that nothing more will come, and reads to the end.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.end();
        self.0.receive_all()
    }
}

/// The tags of an answer, without the notices.
pub(crate) fn tags(answer: &[Message]) -> String {
    answer.iter().map(|(tag, _)| char::from(*tag)).filter(|tag| *tag != 'N').collect()
}

/// The error of an answer that is nothing but an error and ReadyForQuery.
#[track_caller]
pub(crate) fn refusal(answer: &[Message]) -> Refusal {
    assert_eq!(tags(answer), "EZ", "{}", text(answer));
    let fields = ErrorFields::parse(&answer[0].1).unwrap();
    let text = |field: Option<std::borrow::Cow<'_, str>>| field.unwrap_or_default().into_owned();
    Refusal {
        severity: fields.severity.to_string(),
        code: fields.code.to_string(),
        message: fields.message.to_string(),
        detail: text(fields.detail),
        hint: text(fields.hint),
    }
}

/// An answer for people.
pub(crate) fn text(answer: &[Message]) -> String {
    answer.iter().map(|(tag, body)| format!("{}: {}\n", char::from(*tag), String::from_utf8_lossy(body))).collect()
}
