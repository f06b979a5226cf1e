//! The messages that open, close and steer transactions. All of them are short and of a fixed layout
//! (a global transaction identifier has at most 200 bytes), so both tiers parse them whole.

use crate::ident::Xid;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;
use crate::wire::{Cursor, DecodeError};

/// The next messages, up to the Commit, are one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where the transaction's commit record starts: the [`Commit`]'s `commit_lsn`.
    pub final_lsn: Lsn,
    /// When it was committed.
    pub commit_ts: PgTimestamp,
    /// The transaction.
    pub xid: Xid,
}

impl Begin {
    pub(super) fn parse(mut cursor: Cursor<'_>) -> Result<Begin, DecodeError> {
        let begin = Begin {
            final_lsn: cursor.lsn("final LSN")?,
            commit_ts: cursor.timestamp("commit timestamp")?,
            xid: xid(&mut cursor)?,
        };
        cursor.finish("Begin")?;
        Ok(begin)
    }
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where its commit record starts.
    pub commit_lsn: Lsn,
    /// Where its commit record ends.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_ts: PgTimestamp,
}

impl Commit {
    pub(super) fn parse(mut cursor: Cursor<'_>) -> Result<Commit, DecodeError> {
        no_flags(&mut cursor)?;
        let commit = Commit {
            commit_lsn: cursor.lsn("commit LSN")?,
            end_lsn: cursor.lsn("end LSN")?,
            commit_ts: cursor.timestamp("commit timestamp")?,
        };
        cursor.finish("Commit")?;
        Ok(commit)
    }
}

/// Where the transaction came from, when it was itself replicated into the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The commit's position on the server of origin.
    pub commit_lsn: Lsn,
    /// The replication origin's name.
    pub name: &'a [u8],
}

impl<'a> Origin<'a> {
    pub(super) fn parse(mut cursor: Cursor<'a>) -> Result<Origin<'a>, DecodeError> {
        Ok(Origin { commit_lsn: cursor.lsn("origin commit LSN")?, name: cursor.last_cstr("origin name")? })
    }

    /// As [`Origin::parse`], where the name may be cut off: before PostgreSQL 18 it has no longest length.
    pub(super) fn parse_head(mut cursor: Cursor<'a>) -> Result<Origin<'a>, DecodeError> {
        Ok(Origin { commit_lsn: cursor.lsn("origin commit LSN")?, name: cursor.cstr_or_rest() })
    }
}

/// A two-phase transaction at its PREPARE TRANSACTION: the body of Begin Prepare, Prepare and
/// Stream Prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare<'a> {
    /// Where the prepare record starts.
    pub prepare_lsn: Lsn,
    /// Where the prepare record ends.
    pub end_lsn: Lsn,
    /// When it was prepared.
    pub prepare_ts: PgTimestamp,
    /// The transaction.
    pub xid: Xid,
    /// The global transaction identifier that PREPARE TRANSACTION gave it.
    pub gid: &'a [u8],
}

impl<'a> Prepare<'a> {
    /// The body of Begin Prepare, which has no flags.
    pub(super) fn parse_begin(mut cursor: Cursor<'a>) -> Result<Prepare<'a>, DecodeError> {
        Ok(Prepare {
            prepare_lsn: cursor.lsn("prepare LSN")?,
            end_lsn: cursor.lsn("end LSN")?,
            prepare_ts: cursor.timestamp("prepare timestamp")?,
            xid: xid(&mut cursor)?,
            gid: cursor.last_cstr("gid")?,
        })
    }

    /// The body of Prepare and Stream Prepare.
    pub(super) fn parse(mut cursor: Cursor<'a>) -> Result<Prepare<'a>, DecodeError> {
        no_flags(&mut cursor)?;
        Prepare::parse_begin(cursor)
    }
}

/// COMMIT PREPARED of a transaction whose rows came with its Prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPrepared<'a> {
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// Where the commit record ends.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_ts: PgTimestamp,
    /// The transaction.
    pub xid: Xid,
    /// The global transaction identifier.
    pub gid: &'a [u8],
}

impl<'a> CommitPrepared<'a> {
    pub(super) fn parse(mut cursor: Cursor<'a>) -> Result<CommitPrepared<'a>, DecodeError> {
        no_flags(&mut cursor)?;
        Ok(CommitPrepared {
            commit_lsn: cursor.lsn("commit LSN")?,
            end_lsn: cursor.lsn("end LSN")?,
            commit_ts: cursor.timestamp("commit timestamp")?,
            xid: xid(&mut cursor)?,
            gid: cursor.last_cstr("gid")?,
        })
    }
}

/// ROLLBACK PREPARED of a transaction whose rows came with its Prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackPrepared<'a> {
    /// Where the prepare record ends.
    pub prepare_end_lsn: Lsn,
    /// Where the rollback record ends.
    pub rollback_end_lsn: Lsn,
    /// When it was prepared.
    pub prepare_ts: PgTimestamp,
    /// When it was rolled back.
    pub rollback_ts: PgTimestamp,
    /// The transaction.
    pub xid: Xid,
    /// The global transaction identifier.
    pub gid: &'a [u8],
}

impl<'a> RollbackPrepared<'a> {
    pub(super) fn parse(mut cursor: Cursor<'a>) -> Result<RollbackPrepared<'a>, DecodeError> {
        no_flags(&mut cursor)?;
        Ok(RollbackPrepared {
            prepare_end_lsn: cursor.lsn("prepare end LSN")?,
            rollback_end_lsn: cursor.lsn("rollback end LSN")?,
            prepare_ts: cursor.timestamp("prepare timestamp")?,
            rollback_ts: cursor.timestamp("rollback timestamp")?,
            xid: xid(&mut cursor)?,
            gid: cursor.last_cstr("gid")?,
        })
    }
}

/// A chunk of a transaction that is still in progress begins; it ends with a Stream Stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStart {
    /// The top-level transaction.
    pub xid: Xid,
    /// Whether this is its first chunk.
    pub first: bool,
}

impl StreamStart {
    pub(super) fn parse(mut cursor: Cursor<'_>) -> Result<StreamStart, DecodeError> {
        let first = |byte| match byte {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        let start = StreamStart { xid: xid(&mut cursor)?, first: cursor.code("first segment", first)? };
        cursor.finish("Stream Start")?;
        Ok(start)
    }
}

/// A streamed transaction was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCommit {
    /// The top-level transaction.
    pub xid: Xid,
    /// Where its commit record starts.
    pub commit_lsn: Lsn,
    /// Where its commit record ends.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_ts: PgTimestamp,
}

impl StreamCommit {
    pub(super) fn parse(mut cursor: Cursor<'_>) -> Result<StreamCommit, DecodeError> {
        let xid = xid(&mut cursor)?;
        let Commit { commit_lsn, end_lsn, commit_ts } = Commit::parse(cursor)?;
        Ok(StreamCommit { xid, commit_lsn, end_lsn, commit_ts })
    }
}

/// A streamed transaction, or one sub-transaction of it, was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAbort {
    /// The top-level transaction.
    pub xid: Xid,
    /// What was rolled back: a sub-transaction, or the same as `xid`.
    pub subxid: Xid,
    /// Position and time of the rollback, sent only with `streaming 'parallel'` (protocol 4).
    pub abort: Option<(Lsn, PgTimestamp)>,
}

impl StreamAbort {
    pub(super) fn parse(mut cursor: Cursor<'_>) -> Result<StreamAbort, DecodeError> {
        let (xid, subxid) = (xid(&mut cursor)?, Xid(cursor.u32("subtransaction xid")?));
        let abort = if cursor.rest().is_empty() {
            None
        } else {
            Some((cursor.lsn("abort LSN")?, cursor.timestamp("abort timestamp")?))
        };
        cursor.finish("Stream Abort")?;
        Ok(StreamAbort { xid, subxid, abort })
    }
}

/// The transaction that a message inside a streamed chunk belongs to (a sub-transaction's own xid);
/// outside of chunks the field does not exist.
#[inline]
pub(super) fn chunk_xid(cursor: &mut Cursor<'_>, in_stream: bool) -> Result<Option<Xid>, DecodeError> {
    if in_stream { xid(cursor).map(Some) } else { Ok(None) }
}

#[inline]
fn xid(cursor: &mut Cursor<'_>) -> Result<Xid, DecodeError> {
    cursor.u32("xid").map(Xid)
}

/// Flags that have no meaning yet and are zero; as in PostgreSQL's own subscriber, anything else is refused.
fn no_flags(cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
    cursor.code("flags", |byte| (byte == 0).then_some(()))
}

/// Bytes from a PostgreSQL 18 server; `proto-fixtures` has the same of every version.
#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;
    use crate::wire::Fault;

    fn parse(bytes: &[u8]) -> Message<'_> {
        Message::parse(bytes, false).unwrap()
    }

    #[test]
    fn begin_and_commit_name_the_commit_record() {
        let Message::Begin(begin) = parse(b"B\0\0\0\0\x01\xf4b\x10\0\x03\x03\xc2\x8b\xbc\xe2\xdc\0\0\x04\x0a") else {
            panic!()
        };
        let commit_ts = PgTimestamp(0x3_03c2_8bbc_e2dc);
        assert_eq!(begin, Begin { final_lsn: Lsn(0x1f4_6210), commit_ts, xid: Xid(1034) });
        assert_eq!(commit_ts.to_string(), "2026-11-21T06:50:33.082588Z");
        let Message::Commit(commit) =
            parse(b"C\0\0\0\0\0\x01\xf4b\x10\0\0\0\0\x01\xf4b@\0\x03\x03\xc2\x8b\xbc\xe2\xdc")
        else {
            panic!()
        };
        assert_eq!(commit, Commit { commit_lsn: Lsn(0x1f4_6210), end_lsn: Lsn(0x1f4_6240), commit_ts });
    }

    #[test]
    fn an_origin_has_a_name_and_the_position_there() {
        let Message::Origin(origin) = parse(b"O\0\0\0\0\0\xab\xcd\xefrec_elsewhere\0") else { panic!() };
        assert_eq!(origin, Origin { commit_lsn: Lsn(0xab_cdef), name: b"rec_elsewhere" });
    }

    #[test]
    fn a_prepared_transaction_is_the_same_in_begin_prepare_and_prepare() {
        let Message::BeginPrepare(begin) =
            parse(b"b\0\0\0\0\x02\x04\xb8\xb0\0\0\0\0\x02\x04\xb9\xa8\0\x03\x03\xc2\x8b\xd8\x85\xd7\0\0\x04[gid one\0")
        else {
            panic!()
        };
        let expected = Prepare {
            prepare_lsn: Lsn(0x204_b8b0),
            end_lsn: Lsn(0x204_b9a8),
            prepare_ts: PgTimestamp(0x3_03c2_8bd8_85d7),
            xid: Xid(1115),
            gid: b"gid one",
        };
        assert_eq!(begin, expected);
        let Message::Prepare(prepare) = parse(
            b"P\0\0\0\0\0\x02\x04\xb8\xb0\0\0\0\0\x02\x04\xb9\xa8\0\x03\x03\xc2\x8b\xd8\x85\xd7\0\0\x04[gid one\0",
        ) else {
            panic!()
        };
        assert_eq!(prepare, expected);
        let Message::StreamPrepare(prepare) = parse(
            b"p\0\0\0\0\0\x02\x06\xa3\x08\0\0\0\0\x02\x06\xa4h\0\x03\x03\xc2\x8b\xd8\x8e\x8d\0\0\x04]gid three\0",
        ) else {
            panic!()
        };
        assert_eq!((prepare.prepare_lsn, prepare.xid, prepare.gid), (Lsn(0x206_a308), Xid(1117), &b"gid three"[..]));
    }

    #[test]
    fn a_prepared_transaction_is_committed_or_rolled_back() {
        let Message::CommitPrepared(commit) = parse(
            b"K\0\0\0\0\0\x02\x04\xb9\xa8\0\0\0\0\x02\x04\xb9\xe8\0\x03\x03\xc2\x8b\xd8\x86\xe4\0\0\x04[gid one\0",
        ) else {
            panic!()
        };
        let expected = CommitPrepared {
            commit_lsn: Lsn(0x204_b9a8),
            end_lsn: Lsn(0x204_b9e8),
            commit_ts: PgTimestamp(0x3_03c2_8bd8_86e4),
            xid: Xid(1115),
            gid: b"gid one",
        };
        assert_eq!(commit, expected);
        let Message::RollbackPrepared(rollback) = parse(
            b"r\0\0\0\0\0\x02\x04\xbbh\0\0\0\0\x02\x04\xbb\xa8\0\x03\x03\xc2\x8b\xd8\x88.\0\x03\x03\xc2\x8b\xd8\x88\x96\0\0\x04\\gid two\0",
        ) else {
            panic!()
        };
        let expected = RollbackPrepared {
            prepare_end_lsn: Lsn(0x204_bb68),
            rollback_end_lsn: Lsn(0x204_bba8),
            prepare_ts: PgTimestamp(0x3_03c2_8bd8_882e),
            rollback_ts: PgTimestamp(0x3_03c2_8bd8_8896),
            xid: Xid(1116),
            gid: b"gid two",
        };
        assert_eq!(rollback, expected);
    }

    #[test]
    fn a_streamed_transaction_starts_and_commits() {
        let Message::StreamStart(start) = parse(b"S\0\0\x04]\x01") else { panic!() };
        assert_eq!(start, StreamStart { xid: Xid(1117), first: true });
        let Message::StreamCommit(commit) =
            parse(b"c\0\0\x04o\0\0\0\0\0\x02\x106\x10\0\0\0\0\x02\x107(\0\x03\x03\xc2\x8b\xdfZ>")
        else {
            panic!()
        };
        let expected = StreamCommit {
            xid: Xid(1135),
            commit_lsn: Lsn(0x210_3610),
            end_lsn: Lsn(0x210_3728),
            commit_ts: PgTimestamp(0x3_03c2_8bdf_5a3e),
        };
        assert_eq!(commit, expected);
    }

    #[test]
    fn a_stream_abort_has_a_position_only_when_streaming_is_parallel() {
        let parallel = b"A\0\0\x04o\0\0\x04p\0\0\0\0\x02\x0ebh\0\x03\x03\xc2\x8b\xdfH\xda";
        let Message::StreamAbort(abort) = parse(parallel) else { panic!() };
        let at = (Lsn(0x20e_6268), PgTimestamp(0x3_03c2_8bdf_48da));
        assert_eq!(abort, StreamAbort { xid: Xid(1135), subxid: Xid(1136), abort: Some(at) });
        let Message::StreamAbort(abort) = parse(&parallel[..9]) else { panic!() };
        assert_eq!(abort, StreamAbort { xid: Xid(1135), subxid: Xid(1136), abort: None });
    }

    #[test]
    fn flags_and_markers_without_a_meaning_are_refused() {
        let error = |fault, field, offset| DecodeError { fault, field, offset };
        let commit = b"C\x02\0\0\0\x01\xf4b\x10\0\0\0\0\x01\xf4b@\0\x03\x03\xc2\x8b\xbc\xe2\xdc";
        assert_eq!(Message::parse(commit, false).unwrap_err(), error(Fault::Unknown(2), "flags", 1));
        let start = Message::parse(b"S\0\0\x04]\x02", false);
        assert_eq!(start.unwrap_err(), error(Fault::Unknown(2), "first segment", 5));
    }
}
