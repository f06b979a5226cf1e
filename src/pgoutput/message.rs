//! Whole messages, borrowed from the bytes they came in.

use super::relation::{RelationMessage, TypeMessage};
use super::transaction::chunk_xid;
use super::tuple::Tuple;
use super::{
    Begin, Commit, CommitPrepared, Head, Origin, Prepare, RollbackPrepared, StreamAbort, StreamCommit, StreamStart,
};
use crate::ident::{Oid, Xid};
use crate::lsn::Lsn;
use crate::wire::{Cursor, DecodeError, Fault};

/// One message of pgoutput.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin(Begin),
    /// It ends.
    Commit(Commit),
    /// It was replicated from elsewhere.
    Origin(Origin<'a>),
    /// A table's definition.
    Relation(RelationMessage<'a>),
    /// A data type's name.
    Type(TypeMessage<'a>),
    /// A new row.
    Insert(Insert<'a>),
    /// A changed row.
    Update(Update<'a>),
    /// A row removed.
    Delete(Delete<'a>),
    /// Tables emptied.
    Truncate(Truncate<'a>),
    /// What `pg_logical_emit_message` wrote.
    Message(LogicalMessage<'a>),
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

impl<'a> Message<'a> {
    /// Reads a message that fills `bytes`. `in_stream` tells whether it lies between a Stream Start and its
    /// Stream Stop, where most messages carry an xid; [`Decoder`](super::Decoder) keeps count of that.
    ///
    /// Rows and column definitions are checked when they are walked.
    #[inline(always)]
    pub fn parse(bytes: &'a [u8], in_stream: bool) -> Result<Message<'a>, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        match cursor.u8("message type")? {
            b'I' => Insert::parse(cursor, in_stream),
            b'U' => Update::parse(cursor, in_stream),
            b'D' => Delete::parse(cursor, in_stream),
            tag => Message::parse_other(tag, cursor, in_stream),
        }
    }

    /// Kept out of line, so that what is inlined into a caller's loop is the rows' path alone.
    #[inline(never)]
    fn parse_other(tag: u8, cursor: Cursor<'a>, in_stream: bool) -> Result<Message<'a>, DecodeError> {
        Ok(match tag {
            b'B' => Message::Begin(Begin::parse(cursor)?),
            b'C' => Message::Commit(Commit::parse(cursor)?),
            b'O' => Message::Origin(Origin::parse(cursor)?),
            b'R' => Message::Relation(RelationMessage::parse(cursor, in_stream)?),
            b'Y' => Message::Type(TypeMessage::parse(cursor, in_stream)?),
            b'T' => Message::Truncate(Truncate::parse(cursor, in_stream)?),
            b'M' => Message::Message(LogicalMessage::parse(cursor, in_stream)?),
            b'S' => Message::StreamStart(StreamStart::parse(cursor)?),
            b'E' => {
                cursor.finish("Stream Stop")?;
                Message::StreamStop
            }
            b'c' => Message::StreamCommit(StreamCommit::parse(cursor)?),
            b'A' => Message::StreamAbort(StreamAbort::parse(cursor)?),
            b'b' => Message::BeginPrepare(Prepare::parse_begin(cursor)?),
            b'P' => Message::Prepare(Prepare::parse(cursor)?),
            b'K' => Message::CommitPrepared(CommitPrepared::parse(cursor)?),
            b'r' => Message::RollbackPrepared(RollbackPrepared::parse(cursor)?),
            b'p' => Message::StreamPrepare(Prepare::parse(cursor)?),
            tag => return Err(unknown_tag(tag)),
        })
    }

    /// What [`Head::parse`] reads from the same bytes.
    pub fn head(&self) -> Head<'a> {
        match *self {
            Message::Begin(begin) => Head::Begin(begin),
            Message::Commit(commit) => Head::Commit(commit),
            Message::Origin(origin) => Head::Origin(origin),
            Message::Relation(RelationMessage { xid, relation, schema, name, .. }) => {
                Head::Relation { xid, relation, schema, name }
            }
            Message::Type(data_type) => Head::Type(data_type),
            Message::Insert(Insert { xid, relation, .. }) => Head::Insert { xid, relation },
            Message::Update(Update { xid, relation, .. }) => Head::Update { xid, relation },
            Message::Delete(Delete { xid, relation, .. }) => Head::Delete { xid, relation },
            Message::Truncate(Truncate { xid, .. }) => Head::Truncate { xid },
            Message::Message(LogicalMessage { xid, transactional, lsn, prefix, .. }) => {
                Head::Message { xid, transactional, lsn, prefix }
            }
            Message::StreamStart(start) => Head::StreamStart(start),
            Message::StreamStop => Head::StreamStop,
            Message::StreamCommit(commit) => Head::StreamCommit(commit),
            Message::StreamAbort(abort) => Head::StreamAbort(abort),
            Message::BeginPrepare(prepare) => Head::BeginPrepare(prepare),
            Message::Prepare(prepare) => Head::Prepare(prepare),
            Message::CommitPrepared(commit) => Head::CommitPrepared(commit),
            Message::RollbackPrepared(rollback) => Head::RollbackPrepared(rollback),
            Message::StreamPrepare(prepare) => Head::StreamPrepare(prepare),
        }
    }
}

/// A row was inserted.
#[derive(Clone, Debug)]
pub struct Insert<'a> {
    /// The transaction, inside streamed chunks only.
    pub xid: Option<Xid>,
    /// The table.
    pub relation: Oid,
    /// The row.
    pub new: Tuple<'a>,
}

impl<'a> Insert<'a> {
    #[inline]
    fn parse(mut cursor: Cursor<'a>, in_stream: bool) -> Result<Message<'a>, DecodeError> {
        let (xid, relation) = row_of(&mut cursor, in_stream)?;
        cursor.code("tuple kind", |kind| (kind == b'N').then_some(()))?;
        Ok(Message::Insert(Insert { xid, relation, new: Tuple::parse(cursor)? }))
    }
}

/// A row was updated.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// The transaction, inside streamed chunks only.
    pub xid: Option<Xid>,
    /// The table.
    pub relation: Oid,
    /// The row before; `None` where the replica identity is a key that did not change.
    pub old: Option<OldTuple<'a>>,
    /// The row after.
    pub new: Tuple<'a>,
}

impl<'a> Update<'a> {
    #[inline]
    fn parse(mut cursor: Cursor<'a>, in_stream: bool) -> Result<Message<'a>, DecodeError> {
        let (xid, relation) = row_of(&mut cursor, in_stream)?;
        let kind = |kind| matches!(kind, b'K' | b'O' | b'N').then_some(kind);
        let old = match cursor.code("tuple kind", kind)? {
            b'K' => Some(OldTuple::Key(Tuple::parse_leading(&mut cursor)?)),
            b'O' => Some(OldTuple::Row(Tuple::parse_leading(&mut cursor)?)),
            _ => None,
        };
        if old.is_some() {
            cursor.code("tuple kind", |kind| (kind == b'N').then_some(()))?;
        }
        Ok(Message::Update(Update { xid, relation, old, new: Tuple::parse(cursor)? }))
    }
}

/// A row was deleted.
#[derive(Clone, Debug)]
pub struct Delete<'a> {
    /// The transaction, inside streamed chunks only.
    pub xid: Option<Xid>,
    /// The table.
    pub relation: Oid,
    /// The row as it was.
    pub old: OldTuple<'a>,
}

impl<'a> Delete<'a> {
    #[inline]
    fn parse(mut cursor: Cursor<'a>, in_stream: bool) -> Result<Message<'a>, DecodeError> {
        let (xid, relation) = row_of(&mut cursor, in_stream)?;
        let old = match cursor.code("tuple kind", |kind| matches!(kind, b'K' | b'O').then_some(kind))? {
            b'K' => OldTuple::Key(Tuple::parse(cursor)?),
            _ => OldTuple::Row(Tuple::parse(cursor)?),
        };
        Ok(Message::Delete(Delete { xid, relation, old }))
    }
}

/// What is sent of a row before its change.
#[derive(Clone, Debug)]
pub enum OldTuple<'a> {
    /// The columns of the replica identity; the others are there, as nulls.
    Key(Tuple<'a>),
    /// All columns: the replica identity is FULL.
    Row(Tuple<'a>),
}

impl<'a> OldTuple<'a> {
    /// The columns, whichever they are.
    pub fn tuple(&self) -> &Tuple<'a> {
        match self {
            OldTuple::Key(tuple) | OldTuple::Row(tuple) => tuple,
        }
    }
}

/// Tables were truncated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// The transaction, inside streamed chunks only.
    pub xid: Option<Xid>,
    /// `TRUNCATE … CASCADE`.
    pub cascade: bool,
    /// `TRUNCATE … RESTART IDENTITY`.
    pub restart_identity: bool,
    relations: &'a [[u8; 4]],
}

impl<'a> Truncate<'a> {
    fn parse(mut cursor: Cursor<'a>, in_stream: bool) -> Result<Truncate<'a>, DecodeError> {
        let xid = chunk_xid(&mut cursor, in_stream)?;
        let count = cursor.length("relation count")?;
        // Bits 0 and 1; PostgreSQL's subscriber ignores the others.
        let flags = cursor.u8("truncate flags")?;
        let (relations, _) = cursor.take(count.saturating_mul(4), "relation OIDs")?.as_chunks();
        cursor.finish("Truncate")?;
        Ok(Truncate { xid, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0, relations })
    }

    /// The tables.
    pub fn relations(&self) -> impl ExactSizeIterator<Item = Oid> + 'a {
        self.relations.iter().map(|&oid| Oid(u32::from_be_bytes(oid)))
    }
}

/// A message that `pg_logical_emit_message` wrote into the WAL; sent with the option `messages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// The transaction, inside streamed chunks only.
    pub xid: Option<Xid>,
    /// Whether it is part of a transaction; one that is not comes at once and alone.
    pub transactional: bool,
    /// Its position.
    pub lsn: Lsn,
    /// Says what the content means.
    pub prefix: &'a [u8],
    /// Any bytes.
    pub content: &'a [u8],
}

impl<'a> LogicalMessage<'a> {
    fn parse(mut cursor: Cursor<'a>, in_stream: bool) -> Result<LogicalMessage<'a>, DecodeError> {
        let (xid, transactional, lsn) = LogicalMessage::parse_fixed(&mut cursor, in_stream)?;
        let prefix = cursor.cstr("message prefix")?;
        let len = cursor.length("message length")?;
        let content = cursor.take(len, "message content")?;
        cursor.finish("Message")?;
        Ok(LogicalMessage { xid, transactional, lsn, prefix, content })
    }

    /// What stands before the prefix.
    pub(super) fn parse_fixed(
        cursor: &mut Cursor<'a>,
        in_stream: bool,
    ) -> Result<(Option<Xid>, bool, Lsn), DecodeError> {
        let xid = chunk_xid(cursor, in_stream)?;
        let transactional = cursor.u8("message flags")? & 1 != 0;
        Ok((xid, transactional, cursor.lsn("message LSN")?))
    }
}

/// The transaction and the table, with which every row message and Relation begins.
#[inline]
pub(super) fn row_of(cursor: &mut Cursor<'_>, in_stream: bool) -> Result<(Option<Xid>, Oid), DecodeError> {
    Ok((chunk_xid(cursor, in_stream)?, Oid(cursor.u32("relation OID")?)))
}

#[cold]
pub(super) fn unknown_tag(tag: u8) -> DecodeError {
    DecodeError { fault: Fault::Unknown(tag), field: "message type", offset: 0 }
}

/// Bytes from a PostgreSQL 18 server; `proto-fixtures` has the same of every version.
#[cfg(test)]
mod tests {
    use super::super::Column::{self, Null, Text};
    use super::*;

    fn columns<'a>(tuple: &Tuple<'a>) -> Vec<Column<'a>> {
        tuple.columns().map(Result::unwrap).collect()
    }

    #[test]
    fn an_insert_has_one_row() {
        let bytes = b"I\0\0B^N\0\x03t\0\0\0\x011t\0\0\0\x03onen";
        let Ok(Message::Insert(insert)) = Message::parse(bytes, false) else { panic!() };
        assert_eq!((insert.xid, insert.relation), (None, Oid(16990)));
        assert_eq!(columns(&insert.new), [Text(b"1"), Text(b"one"), Null]);
    }

    #[test]
    fn inside_a_chunk_the_xid_comes_first() {
        let bytes = b"I\0\0\x04]\0\0C\x0eN\0\x03t\0\0\0\x013t\0\0\0\x08streamedn";
        let Ok(Message::Insert(insert)) = Message::parse(bytes, true) else { panic!() };
        assert_eq!((insert.xid, insert.relation), (Some(Xid(1117)), Oid(17166)));
        let bytes = b"T\0\0\x04q\0\0\0\x01\0\0\0CF";
        let Ok(Message::Truncate(truncate)) = Message::parse(bytes, true) else { panic!() };
        assert_eq!((truncate.xid, truncate.relations().next()), (Some(Xid(1137)), Some(Oid(17222))));
        let bytes = b"M\0\0\x04o\x01\0\0\0\0\x02\x0c\x9b\xb8app/note\0\0\0\0\x0ain a chunk";
        let Ok(Message::Message(message)) = Message::parse(bytes, true) else { panic!() };
        assert_eq!((message.xid, message.content), (Some(Xid(1135)), &b"in a chunk"[..]));
    }

    #[test]
    fn an_update_has_an_old_key_only_where_the_key_changed() {
        let bytes = b"U\0\0B^N\0\x03t\0\0\0\x011t\0\0\0\x03unon";
        let Ok(Message::Update(update)) = Message::parse(bytes, false) else { panic!() };
        assert!(update.old.is_none());
        assert_eq!(columns(&update.new), [Text(b"1"), Text(b"uno"), Null]);

        let bytes = b"U\0\0B^K\0\x03t\0\0\0\x013nnN\0\x03t\0\0\0\x014t\0\0\0\0t\0\0\0\0";
        let Ok(Message::Update(update)) = Message::parse(bytes, false) else { panic!() };
        let Some(OldTuple::Key(key)) = update.old else { panic!() };
        assert_eq!(columns(&key), [Text(b"3"), Null, Null]);
        assert_eq!(columns(&update.new), [Text(b"4"), Text(b""), Text(b"")]);
    }

    #[test]
    fn with_full_identity_the_whole_old_row_is_there() {
        let bytes = b"U\0\0BfO\0\x03t\0\0\0\x011t\0\0\0\x01at\0\0\0\x06\\x00ff\
            N\0\x03t\0\0\0\x011t\0\0\0\x01bt\0\0\0\x06\\x00ff";
        let Ok(Message::Update(update)) = Message::parse(bytes, false) else { panic!() };
        let Some(OldTuple::Row(row)) = &update.old else { panic!() };
        assert_eq!(columns(row), [Text(b"1"), Text(b"a"), Text(b"\\x00ff")]);
        assert_eq!(columns(&update.new), [Text(b"1"), Text(b"b"), Text(b"\\x00ff")]);

        let Ok(Message::Delete(delete)) = Message::parse(b"D\0\0BfO\0\x03t\0\0\0\x012nn", false) else { panic!() };
        assert!(matches!(&delete.old, OldTuple::Row(row) if columns(row) == [Text(b"2"), Null, Null]));
        let Ok(Message::Delete(delete)) = Message::parse(b"D\0\0B^K\0\x03t\0\0\0\x011nn", false) else { panic!() };
        assert!(matches!(&delete.old, OldTuple::Key(key) if columns(key) == [Text(b"1"), Null, Null]));
    }

    #[test]
    fn a_truncate_lists_its_tables() {
        let Ok(Message::Truncate(truncate)) = Message::parse(b"T\0\0\0\x02\x01\0\0B^\0\0Bs", false) else { panic!() };
        assert_eq!((truncate.cascade, truncate.restart_identity), (true, false));
        assert_eq!(truncate.relations().collect::<Vec<_>>(), [Oid(16990), Oid(17011)]);
    }

    #[test]
    fn a_claimed_number_of_tables_or_bytes_is_not_believed() {
        let fault = |bytes| Message::parse(bytes, false).unwrap_err().fault;
        assert_eq!(fault(b"T\x7f\xff\xff\xff\x01\0\0B^"), Fault::Truncated);
        assert_eq!(fault(b"T\xff\xff\xff\xff\x01\0\0B^"), Fault::Length(-1));
        assert_eq!(fault(b"T\0\0\0\x01\x01\0\0B^\0"), Fault::TrailingBytes);
        assert_eq!(fault(b"M\0\0\0\0\0\0\0\0\x01p\0\x7f\xff\xff\xffx"), Fault::Truncated);
    }

    #[test]
    fn a_message_outside_of_transactions_is_marked_so() {
        let bytes = b"M\x01\0\0\0\0\x01\xf4u\xb8app/note\0\0\0\0\x06inside";
        let Ok(Message::Message(message)) = Message::parse(bytes, false) else { panic!() };
        let expected = LogicalMessage {
            xid: None,
            transactional: true,
            lsn: Lsn(0x1f4_75b8),
            prefix: b"app/note",
            content: b"inside",
        };
        assert_eq!(message, expected);
        let bytes = b"M\0\0\0\0\0\x01\xf4w\x80app/beat\0\0\0\0\0";
        let Ok(Message::Message(message)) = Message::parse(bytes, false) else { panic!() };
        assert!(!message.transactional && message.content.is_empty());
    }

    #[test]
    fn the_kind_of_row_must_fit_the_message() {
        let error = |bytes| Message::parse(bytes, false).unwrap_err();
        let kind = |byte| DecodeError { fault: Fault::Unknown(byte), field: "tuple kind", offset: 5 };
        assert_eq!(error(b"I\0\0B^K\0\x01n"), kind(b'K'));
        assert_eq!(error(b"U\0\0B^X\0\x01n"), kind(b'X'));
        assert_eq!(error(b"D\0\0B^N\0\x01n"), kind(b'N'));
        let second = DecodeError { fault: Fault::Unknown(b'O'), field: "tuple kind", offset: 9 };
        assert_eq!(error(b"U\0\0B^K\0\x01nO\0\x01n"), second);
    }
}
