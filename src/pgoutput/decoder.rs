//! What one message cannot tell alone: the place in the stream, and the tables seen so far.

use super::Message;
use super::relation::RelationCache;
use crate::wire::{DecodeError, Fault};

/// Decodes the messages of one replication session in their order.
///
/// It follows whether a message lies in a streamed chunk, remembers tables and types, and refuses a
/// message that the server cannot send at this point: then the bytes are not what they seem, and what
/// would be read from them is not to be trusted. After an error its state is as before the message.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    place: Place,
    relations: RelationCache,
}

/// Where in the stream the next message lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Between transactions.
    #[default]
    Outside,
    /// Between Begin and Commit.
    Transaction,
    /// Between Begin Prepare and Prepare.
    TwoPhase,
    /// Between Stream Start and Stream Stop.
    Stream,
}

impl Decoder {
    /// A decoder at the start of a session.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Reads the next message. Allocates only when it describes a table or type that is new or changed.
    ///
    /// # Errors
    /// What [`Message::parse`] refuses, and [`Fault::OutOfPlace`].
    // Always inline, as the two `parse`: a message that crosses a call goes through memory, which takes
    // as long again as to decode a row of 8 columns.
    #[inline(always)]
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Message<'a>, DecodeError> {
        match bytes {
            // Rows change nothing here. Almost every message is one, and its parts go straight to the caller.
            [b'I' | b'U' | b'D', ..] if self.place != Place::Outside => Message::parse(bytes, self.in_stream()),
            _ => self.decode_other(bytes),
        }
    }

    /// Whether the next message lies in a streamed chunk.
    #[inline]
    pub fn in_stream(&self) -> bool {
        self.place == Place::Stream
    }

    /// The tables and types described so far.
    pub fn relations(&self) -> &RelationCache {
        &self.relations
    }

    #[inline(never)]
    fn decode_other<'a>(&mut self, bytes: &'a [u8]) -> Result<Message<'a>, DecodeError> {
        let message = Message::parse(bytes, self.in_stream())?;
        let place = self.place.after(&message).ok_or(DecodeError {
            fault: Fault::OutOfPlace,
            field: "message type",
            offset: 0,
        })?;
        match &message {
            Message::Relation(relation) => {
                self.relations.insert_relation(relation)?;
            }
            Message::Type(data_type) => {
                self.relations.insert_type(data_type);
            }
            _ => {}
        }
        self.place = place;
        Ok(message)
    }
}

impl Place {
    /// Where the stream is behind `message`; `None` where it cannot come here.
    #[inline]
    fn after(self, message: &Message<'_>) -> Option<Place> {
        use Place::{Outside, Stream, Transaction, TwoPhase};
        match (message, self) {
            (
                Message::Insert(_)
                | Message::Update(_)
                | Message::Delete(_)
                | Message::Truncate(_)
                | Message::Relation(_)
                | Message::Type(_)
                | Message::Origin(_),
                Transaction | TwoPhase | Stream,
            ) => Some(self),
            (Message::Message(message), _) if self != Outside || !message.transactional => Some(self),
            (Message::Begin(_), Outside) => Some(Transaction),
            (Message::Commit(_), Transaction) => Some(Outside),
            (Message::BeginPrepare(_), Outside) => Some(TwoPhase),
            (Message::Prepare(_), TwoPhase) => Some(Outside),
            (Message::StreamStart(_), Outside) => Some(Stream),
            (Message::StreamStop, Stream) => Some(Outside),
            (
                Message::StreamCommit(_)
                | Message::StreamAbort(_)
                | Message::StreamPrepare(_)
                | Message::CommitPrepared(_)
                | Message::RollbackPrepared(_),
                Outside,
            ) => Some(Outside),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &[u8] = b"B\0\0\0\0\x01\xf4b\x10\0\x03\x03\xc2\x8b\xbc\xe2\xdc\0\0\x04\x0a";
    const COMMIT: &[u8] = b"C\0\0\0\0\0\x01\xf4b\x10\0\0\0\0\x01\xf4b@\0\x03\x03\xc2\x8b\xbc\xe2\xdc";
    const START: &[u8] = b"S\0\0\x04]\x01";
    const STOP: &[u8] = b"E";
    const DELETE: &[u8] = b"D\0\0B^K\0\x03t\0\0\0\x011nn";
    const BEAT: &[u8] = b"M\0\0\0\0\0\x01\xf4w\x80app/beat\0\0\0\0\0";
    const ABORT: &[u8] = b"A\0\0\x04o\0\0\x04p";

    fn behind(messages: &[&[u8]]) -> Decoder {
        let mut decoder = Decoder::new();
        for message in messages {
            decoder.decode(message).unwrap();
        }
        decoder
    }

    #[test]
    fn a_message_that_cannot_come_here_is_refused_and_changes_nothing() {
        let outside = (behind(&[]), vec![COMMIT, STOP, DELETE]);
        let transaction = (behind(&[BEGIN]), vec![BEGIN, START, STOP, ABORT]);
        let chunk = (behind(&[START]), vec![BEGIN, COMMIT, START, ABORT]);
        for (mut decoder, refused) in [outside, transaction, chunk] {
            let place = decoder.place;
            for message in refused {
                assert_eq!(decoder.decode(message).unwrap_err().fault, Fault::OutOfPlace, "{place:?}: {message:?}");
                assert_eq!(decoder.place, place);
            }
        }
    }

    #[test]
    fn chunks_and_transactions_take_turns() {
        let mut decoder = behind(&[START]);
        assert!(decoder.in_stream());
        for message in [STOP, BEAT, BEGIN, DELETE, COMMIT, START, STOP, ABORT] {
            decoder.decode(message).unwrap();
        }
        assert!(!decoder.in_stream());
    }

    #[test]
    fn a_malformed_table_leaves_the_decoder_as_it_was() {
        let mut decoder = behind(&[BEGIN]);
        assert!(decoder.decode(b"R\0\0B^public\0kv\0d\0\x03\x01id\0").is_err());
        assert_eq!(decoder.relations().relations().count(), 0);
        decoder.decode(b"R\0\0B^public\0kv\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff").unwrap();
        assert_eq!(decoder.relations().relations().count(), 1);
    }
}
