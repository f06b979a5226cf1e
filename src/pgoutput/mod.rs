//! The messages of pgoutput, PostgreSQL's logical decoding plugin, protocol versions 1 to 4.
//!
//! Bytes come in as the payload of an XLogData message and leave as borrowed values: nothing is copied,
//! nothing is allocated by a length that was only claimed, and input that is not pgoutput is a
//! [`DecodeError`](crate::wire::DecodeError) that names the field and its offset. There are two ways in, over the same
//! parsers:
//!
//! - [`Head`] reads what stands in the leading bytes (which kind, which table, which transaction) and
//!   leaves the row alone. It is what the proxy's tap can afford for every message.
//! - [`Message`] reads the whole message; [`Tuple`]s are walked lazily. [`Decoder`] adds what one message
//!   cannot tell alone: whether it lies in a streamed chunk, which table an OID means, and whether it may
//!   come at this point at all.
//!
//! [`Described`] shows a message to people and programs, as [`json`] or [`text`].
//!
//! The formats are those of the manual's chapter "Logical Replication Message Formats" and of
//! PostgreSQL's `proto.c`. Text arrives in the client encoding of the replication session (names as well as
//! values), which only the session knows; so here both are bytes.
//!
//! Never here: sockets, clocks, async, or the meaning of a value (types are OIDs, values their text or
//! binary form).

mod decoder;
mod described;
mod head;
pub mod json;
mod message;
mod relation;
pub mod text;
mod transaction;
mod tuple;

pub use decoder::Decoder;
pub use described::Described;
pub use head::Head;
pub use message::{Delete, Insert, LogicalMessage, Message, OldTuple, Truncate, Update};
pub use relation::{
    ColumnDef, ColumnDefs, Relation, RelationCache, RelationColumn, RelationMessage, ReplicaIdentity, Type, TypeMessage,
};
pub use transaction::{
    Begin, Commit, CommitPrepared, Origin, Prepare, RollbackPrepared, StreamAbort, StreamCommit, StreamStart,
};
pub use tuple::{Column, Columns, OwnedTuple, Tuple};
