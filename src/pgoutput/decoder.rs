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
    #[inline]
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Message<'a>, DecodeError> {
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

    /// Whether the next message lies in a streamed chunk.
    #[inline]
    pub fn in_stream(&self) -> bool {
        self.place == Place::Stream
    }

    /// The tables and types described so far.
    pub fn relations(&self) -> &RelationCache {
        &self.relations
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
