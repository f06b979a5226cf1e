//! The leading bytes of a message: all that counting needs.

use super::message::{LogicalMessage, row_of, unknown_tag};
use super::relation::{TypeMessage, qualified_name};
use super::transaction::chunk_xid;
use super::{Begin, Commit, CommitPrepared, Origin, Prepare, RollbackPrepared, StreamAbort, StreamCommit, StreamStart};
use crate::ident::{Oid, Xid};
use crate::lsn::Lsn;
use crate::wire::{Cursor, DecodeError};

/// What the leading bytes of a message tell. An `xid` is there inside streamed chunks only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// A transaction begins.
    Begin(Begin),
    /// It ends.
    Commit(Commit),
    /// It was replicated from elsewhere.
    Origin(Origin<'a>),
    /// A table's definition.
    Relation {
        /// The transaction.
        xid: Option<Xid>,
        /// The table.
        relation: Oid,
        /// Its schema.
        schema: &'a [u8],
        /// Its name.
        name: &'a [u8],
    },
    /// A data type's name.
    Type(TypeMessage<'a>),
    /// A new row.
    Insert {
        /// The transaction.
        xid: Option<Xid>,
        /// The table.
        relation: Oid,
    },
    /// A changed row.
    Update {
        /// The transaction.
        xid: Option<Xid>,
        /// The table.
        relation: Oid,
    },
    /// A row removed.
    Delete {
        /// The transaction.
        xid: Option<Xid>,
        /// The table.
        relation: Oid,
    },
    /// Tables emptied.
    Truncate {
        /// The transaction.
        xid: Option<Xid>,
    },
    /// What `pg_logical_emit_message` wrote.
    Message {
        /// The transaction.
        xid: Option<Xid>,
        /// Whether it is part of a transaction.
        transactional: bool,
        /// Its position.
        lsn: Lsn,
        /// The prefix, as far as it is there.
        prefix: &'a [u8],
    },
    /// A chunk of a transaction in progress begins.
    StreamStart(StreamStart),
    /// The chunk ends.
    StreamStop,
    /// A streamed transaction was committed.
    StreamCommit(StreamCommit),
    /// A streamed transaction or a part of it was rolled back.
    StreamAbort(StreamAbort),
    /// A transaction begins that ends with a Prepare.
    BeginPrepare(Prepare<'a>),
    /// A transaction was prepared.
    Prepare(Prepare<'a>),
    /// A prepared transaction was committed.
    CommitPrepared(CommitPrepared<'a>),
    /// A prepared transaction was rolled back.
    RollbackPrepared(RollbackPrepared<'a>),
    /// A streamed transaction was prepared.
    StreamPrepare(Prepare<'a>),
}

impl<'a> Head<'a> {
    /// Reads a message of which only the leading bytes need be there (512 hold any but an absurdly long
    /// origin name or message prefix, which is then cut short). `in_stream` tells whether it lies between a
    /// Stream Start and its Stream Stop.
    #[inline(always)]
    pub fn parse(prefix: &'a [u8], in_stream: bool) -> Result<Head<'a>, DecodeError> {
        let mut cursor = Cursor::new(prefix);
        match cursor.u8("message type")? {
            b'I' => row_of(&mut cursor, in_stream).map(|(xid, relation)| Head::Insert { xid, relation }),
            b'U' => row_of(&mut cursor, in_stream).map(|(xid, relation)| Head::Update { xid, relation }),
            b'D' => row_of(&mut cursor, in_stream).map(|(xid, relation)| Head::Delete { xid, relation }),
            tag => Head::parse_other(tag, cursor, in_stream),
        }
    }

    /// Kept out of line, so that what is inlined into a caller's loop is the rows' path alone.
    #[inline(never)]
    fn parse_other(tag: u8, mut cursor: Cursor<'a>, in_stream: bool) -> Result<Head<'a>, DecodeError> {
        Ok(match tag {
            b'B' => Head::Begin(Begin::parse(cursor)?),
            b'C' => Head::Commit(Commit::parse(cursor)?),
            b'O' => Head::Origin(Origin::parse_head(cursor)?),
            b'R' => {
                let (xid, relation) = row_of(&mut cursor, in_stream)?;
                let (schema, name) = qualified_name(&mut cursor, "relation schema", "relation name")?;
                Head::Relation { xid, relation, schema, name }
            }
            b'Y' => Head::Type(TypeMessage::parse(cursor, in_stream)?),
            b'T' => Head::Truncate { xid: chunk_xid(&mut cursor, in_stream)? },
            b'M' => {
                let (xid, transactional, lsn) = LogicalMessage::parse_fixed(&mut cursor, in_stream)?;
                Head::Message { xid, transactional, lsn, prefix: cursor.cstr_or_rest() }
            }
            b'S' => Head::StreamStart(StreamStart::parse(cursor)?),
            b'E' => {
                cursor.finish("Stream Stop")?;
                Head::StreamStop
            }
            b'c' => Head::StreamCommit(StreamCommit::parse(cursor)?),
            b'A' => Head::StreamAbort(StreamAbort::parse(cursor)?),
            b'b' => Head::BeginPrepare(Prepare::parse_begin(cursor)?),
            b'P' => Head::Prepare(Prepare::parse(cursor)?),
            b'K' => Head::CommitPrepared(CommitPrepared::parse(cursor)?),
            b'r' => Head::RollbackPrepared(RollbackPrepared::parse(cursor)?),
            b'p' => Head::StreamPrepare(Prepare::parse(cursor)?),
            _ => return Err(unknown_tag(tag)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Fault;

    #[test]
    fn a_row_needs_no_more_than_its_first_bytes() {
        let head = Head::parse(b"I\x00\x00\x40\x07N", false);
        assert_eq!(head, Ok(Head::Insert { xid: None, relation: Oid(16391) }));
        let head = Head::parse(b"D\x00\x00\x02\xe4\x00\x00\x40\x07", true);
        assert_eq!(head, Ok(Head::Delete { xid: Some(Xid(740)), relation: Oid(16391) }));
    }

    #[test]
    fn a_prefix_that_is_cut_off_is_what_there_is_of_it() {
        let message = b"M\x01\x00\x00\x00\x00\x01\x5d\x5c\x40zero/0/d";
        let expected =
            Head::Message { xid: None, transactional: true, lsn: Lsn(0x15d_5c40), prefix: b"zero/0/d".as_slice() };
        assert_eq!(Head::parse(message, false), Ok(expected));
    }

    #[test]
    fn a_tag_that_is_not_known_is_an_error() {
        let error = DecodeError { fault: Fault::Unknown(b'Z'), field: "message type", offset: 0 };
        assert_eq!(Head::parse(b"Z", false), Err(error));
    }
}
