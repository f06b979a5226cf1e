//! A message together with the tables it speaks of: its fields by name, ready to be shown.

use std::borrow::Cow;
use std::fmt::Write;

use super::relation::{ColumnDef, Relation, RelationCache, RelationColumn};
use super::{Column, ColumnDefs, CommitPrepared, Message, OldTuple, Prepare, RollbackPrepared, Tuple};
use crate::ident::{Identifier, Oid, Xid};
use crate::lsn::Lsn;
use crate::time::PgTimestamp;
use crate::wire::{DecodeError, Fault};

/// A message that was checked to its end, with the names of its tables and columns.
///
/// Serializes as one JSON object (see [`json`](super::json)) and prints as one line (see
/// [`text`](super::text)).
#[derive(Clone, Debug)]
pub struct Described<'m> {
    pub(super) kind: &'static str,
    pub(super) fields: Vec<(&'static str, Value<'m>)>,
}

/// A field, as both forms need it.
#[derive(Clone, Debug)]
pub(super) enum Value<'m> {
    Flag(bool),
    Oid(Oid),
    Xid(Xid),
    Lsn(Lsn),
    Time(PgTimestamp),
    /// A name from the stream, or a word of ours.
    Name(Cow<'m, str>),
    /// Tables or types, as SQL needs them.
    Qualified(String),
    Tables(Vec<String>),
    Bytes(&'m [u8]),
    Row(Vec<(Cow<'m, str>, Column<'m>)>),
    Columns(Vec<ColumnText<'m>>),
}

/// A column of a Relation message, with names as text.
#[derive(Clone, Debug)]
pub(super) struct ColumnText<'m> {
    pub(super) name: Cow<'m, str>,
    pub(super) type_oid: Oid,
    /// Known only of types that are not built in.
    pub(super) type_name: Option<String>,
    pub(super) type_modifier: i32,
    pub(super) key: bool,
}

impl<'m> Described<'m> {
    /// Puts the names of `relations` to a message, and walks all that [`Message::parse`] leaves for later.
    ///
    /// # Errors
    /// A malformed row, a row of another width than its table ([`Fault::Length`]), and a row of a table that
    /// was never described ([`Fault::OutOfPlace`]).
    pub fn new(message: &Message<'m>, relations: &'m RelationCache) -> Result<Described<'m>, DecodeError> {
        let mut described = Described { kind: "", fields: Vec::with_capacity(8) };
        described.fill(message, relations)?;
        Ok(described)
    }

    fn fill(&mut self, message: &Message<'m>, relations: &'m RelationCache) -> Result<(), DecodeError> {
        match message {
            Message::Begin(begin) => {
                self.kind = "begin";
                self.push("xid", Value::Xid(begin.xid));
                self.push("final_lsn", Value::Lsn(begin.final_lsn));
                self.push("commit_ts", Value::Time(begin.commit_ts));
            }
            Message::Commit(commit) => {
                self.kind = "commit";
                self.commit(commit.commit_lsn, commit.end_lsn, commit.commit_ts);
            }
            Message::Origin(origin) => {
                self.kind = "origin";
                self.push("name", Value::Name(escaped(origin.name)));
                self.push("commit_lsn", Value::Lsn(origin.commit_lsn));
            }
            Message::Relation(relation) => {
                self.kind = "relation";
                self.relation(relation.xid, qualified(relation.schema, relation.name));
                self.push("oid", Value::Oid(relation.relation));
                self.push("identity", Value::Name(relation.identity.as_str().into()));
                self.push("columns", Value::Columns(columns(&relation.columns, relations)?));
            }
            Message::Type(data_type) => {
                self.kind = "type";
                self.xid(data_type.xid);
                self.push("type", Value::Qualified(qualified(data_type.schema, data_type.name)));
                self.push("oid", Value::Oid(data_type.type_oid));
            }
            Message::Insert(insert) => {
                self.kind = "insert";
                let relation = find(relations, insert.relation, insert.xid)?;
                self.relation(insert.xid, name_of(relation));
                self.row("new", &insert.new, relation)?;
            }
            Message::Update(update) => {
                self.kind = "update";
                let relation = find(relations, update.relation, update.xid)?;
                self.relation(update.xid, name_of(relation));
                if let Some(old) = &update.old {
                    self.old(old, relation)?;
                }
                self.row("new", &update.new, relation)?;
            }
            Message::Delete(delete) => {
                self.kind = "delete";
                let relation = find(relations, delete.relation, delete.xid)?;
                self.relation(delete.xid, name_of(relation));
                self.old(&delete.old, relation)?;
            }
            Message::Truncate(truncate) => {
                self.kind = "truncate";
                let tables = truncate.relations().map(|oid| find(relations, oid, truncate.xid).map(name_of));
                self.xid(truncate.xid);
                self.push("relations", Value::Tables(tables.collect::<Result<_, _>>()?));
                self.push("cascade", Value::Flag(truncate.cascade));
                self.push("restart_identity", Value::Flag(truncate.restart_identity));
            }
            Message::Message(message) => {
                self.kind = "message";
                self.xid(message.xid);
                self.push("transactional", Value::Flag(message.transactional));
                self.push("message_lsn", Value::Lsn(message.lsn));
                self.push("prefix", Value::Name(escaped(message.prefix)));
                self.push("content", Value::Bytes(message.content));
            }
            Message::StreamStart(start) => {
                self.kind = "stream_start";
                self.push("xid", Value::Xid(start.xid));
                self.push("first", Value::Flag(start.first));
            }
            Message::StreamStop => self.kind = "stream_stop",
            Message::StreamCommit(commit) => {
                self.kind = "stream_commit";
                self.push("xid", Value::Xid(commit.xid));
                self.commit(commit.commit_lsn, commit.end_lsn, commit.commit_ts);
            }
            Message::StreamAbort(abort) => {
                self.kind = "stream_abort";
                self.push("xid", Value::Xid(abort.xid));
                self.push("subxid", Value::Xid(abort.subxid));
                if let Some((lsn, time)) = abort.abort {
                    self.push("abort_lsn", Value::Lsn(lsn));
                    self.push("abort_ts", Value::Time(time));
                }
            }
            Message::BeginPrepare(prepare) => self.prepare("begin_prepare", prepare),
            Message::Prepare(prepare) => self.prepare("prepare", prepare),
            Message::StreamPrepare(prepare) => self.prepare("stream_prepare", prepare),
            Message::CommitPrepared(CommitPrepared { commit_lsn, end_lsn, commit_ts, xid, gid }) => {
                self.kind = "commit_prepared";
                self.push("xid", Value::Xid(*xid));
                self.push("gid", Value::Name(escaped(gid)));
                self.commit(*commit_lsn, *end_lsn, *commit_ts);
            }
            Message::RollbackPrepared(rollback) => {
                let RollbackPrepared { prepare_end_lsn, rollback_end_lsn, prepare_ts, rollback_ts, xid, gid } =
                    *rollback;
                self.kind = "rollback_prepared";
                self.push("xid", Value::Xid(xid));
                self.push("gid", Value::Name(escaped(gid)));
                self.push("prepare_end_lsn", Value::Lsn(prepare_end_lsn));
                self.push("rollback_end_lsn", Value::Lsn(rollback_end_lsn));
                self.push("prepare_ts", Value::Time(prepare_ts));
                self.push("rollback_ts", Value::Time(rollback_ts));
            }
        }
        Ok(())
    }

    fn push(&mut self, name: &'static str, value: Value<'m>) {
        self.fields.push((name, value));
    }

    fn xid(&mut self, xid: Option<Xid>) {
        if let Some(xid) = xid {
            self.push("xid", Value::Xid(xid));
        }
    }

    fn relation(&mut self, xid: Option<Xid>, name: String) {
        self.push("relation", Value::Qualified(name));
        self.xid(xid);
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn, commit_ts: PgTimestamp) {
        self.push("commit_lsn", Value::Lsn(commit_lsn));
        self.push("end_lsn", Value::Lsn(end_lsn));
        self.push("commit_ts", Value::Time(commit_ts));
    }

    fn prepare(&mut self, kind: &'static str, prepare: &Prepare<'m>) {
        self.kind = kind;
        self.push("xid", Value::Xid(prepare.xid));
        self.push("gid", Value::Name(escaped(prepare.gid)));
        self.push("prepare_lsn", Value::Lsn(prepare.prepare_lsn));
        self.push("end_lsn", Value::Lsn(prepare.end_lsn));
        self.push("prepare_ts", Value::Time(prepare.prepare_ts));
    }

    fn row(&mut self, name: &'static str, tuple: &Tuple<'m>, relation: &'m Relation) -> Result<(), DecodeError> {
        let row = cells(tuple, relation)?.map(|(column, value)| (escaped(&column.name), value));
        self.push(name, Value::Row(row.collect()));
        Ok(())
    }

    /// An old row, or of an old key the columns that are the key: the nulls that stand for the others say
    /// nothing about them.
    fn old(&mut self, old: &OldTuple<'m>, relation: &'m Relation) -> Result<(), DecodeError> {
        match old {
            OldTuple::Row(tuple) => self.row("old", tuple, relation),
            OldTuple::Key(tuple) => {
                let key = cells(tuple, relation)?.filter(|(column, value)| column.key || *value != Column::Null);
                self.push("key", Value::Row(key.map(|(column, value)| (escaped(&column.name), value)).collect()));
                Ok(())
            }
        }
    }
}

/// The values of a row beside the columns they belong to.
fn cells<'m>(
    tuple: &Tuple<'m>,
    relation: &'m Relation,
) -> Result<impl Iterator<Item = (&'m RelationColumn, Column<'m>)>, DecodeError> {
    let count = tuple.column_count();
    if usize::from(count) != relation.columns.len() {
        return Err(tuple.error(Fault::Length(count.into())));
    }
    let values = tuple.columns().collect::<Result<Vec<_>, _>>()?;
    Ok(relation.columns.iter().zip(values))
}

fn columns<'m>(columns: &ColumnDefs<'m>, relations: &RelationCache) -> Result<Vec<ColumnText<'m>>, DecodeError> {
    let column = |column: ColumnDef<'m>| ColumnText {
        name: escaped(column.name),
        type_oid: column.type_oid,
        type_name: relations.data_type(column.type_oid).map(|known| qualified(&known.schema, &known.name)),
        type_modifier: column.type_modifier,
        key: column.key,
    };
    columns.clone().map(|read| read.map(column)).collect()
}

fn find(relations: &RelationCache, oid: Oid, xid: Option<Xid>) -> Result<&Relation, DecodeError> {
    relations.relation(oid).ok_or(DecodeError {
        fault: Fault::OutOfPlace,
        field: "relation OID",
        offset: if xid.is_some() { 5 } else { 1 },
    })
}

fn name_of(relation: &Relation) -> String {
    qualified(&relation.schema, &relation.name)
}

/// `schema.name` as SQL needs it.
fn qualified(schema: &[u8], name: &[u8]) -> String {
    format!("{}.{}", Identifier(&escaped(schema)), Identifier(&escaped(name)))
}

/// A name as text. Bytes that are not UTF-8, which only a session with another client encoding sends,
/// stand as `\xNN`.
fn escaped(name: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(name) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut text = String::with_capacity(name.len() * 2);
            for chunk in name.utf8_chunks() {
                text.push_str(chunk.valid());
                for byte in chunk.invalid() {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "\\x{byte:02x}");
                }
            }
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    /// Both forms of the last of `messages`.
    fn shown(messages: &[&[u8]]) -> Result<(String, String), DecodeError> {
        let mut decoder = Decoder::new();
        let (last, before) = messages.split_last().unwrap();
        for message in before {
            decoder.decode(message).unwrap();
        }
        let message = decoder.decode(last).unwrap();
        let described = Described::new(&message, decoder.relations())?;
        Ok((serde_json::to_string(&described).unwrap(), described.to_string()))
    }

    const BEGIN: &[u8] = b"B\0\0\0\0\x01\xf4b\x10\0\x03\x03\xc2\x8b\xbc\xe2\xdc\0\0\x04\x0a";
    const TABLE: &[u8] =
        b"R\0\0B^public\0Odd name\0d\0\x02\x01id\0\0\0\0\x17\xff\xff\xff\xff\0a\nb\0\0\0\0\x19\xff\xff\xff\xff";

    #[test]
    fn a_row_shows_names_and_values() {
        let update = b"U\0\0B^K\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x012u";
        let (json, text) = shown(&[BEGIN, TABLE, update]).unwrap();
        let expected = r#"{"kind":"update","relation":"public.\"Odd name\"","key":{"id":"1"},"new":{"id":"2","a\nb":{"unchanged":true}}}"#;
        assert_eq!(json, expected);
        assert_eq!(text, r#"update public."Odd name" key: id="1" new: id="2" "\"a\nb\""=unchanged"#);
    }

    #[test]
    fn a_description_shows_columns() {
        let (_, text) = shown(&[BEGIN, TABLE]).unwrap();
        let expected = r#"relation public."Odd name" oid=16990 identity="default" columns: id=23 "\"a\nb\""=25"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_kept() {
        let insert = b"I\0\0B^N\0\x02b\0\0\0\x02\x01\xfft\0\0\0\x02\xe9!";
        let (json, text) = shown(&[BEGIN, TABLE, insert]).unwrap();
        assert!(json.ends_with(r#""new":{"id":{"binary":"01ff"},"a\nb":{"bytes":"e921"}}}"#), "{json}");
        assert!(text.ends_with(r#"new: id=\x01ff "\"a\nb\""=\xe921"#), "{text}");
        let origin = b"O\0\0\0\0\0\xab\xcd\xefcaf\xe9\0";
        let (json, text) = shown(&[BEGIN, origin]).unwrap();
        assert_eq!(json, r#"{"kind":"origin","name":"caf\\xe9","commit_lsn":"0/ABCDEF"}"#);
        assert_eq!(text, r#"origin name="caf\\xe9" commit_lsn=0/ABCDEF"#);
    }

    #[test]
    fn no_value_can_forge_a_line() {
        let beat = b"M\0\0\0\0\0\x01\xf4w\x80p\nq\0\0\0\0\x03\"\n\x1b";
        let (_, text) = shown(&[beat]).unwrap();
        assert_eq!(text, r#"message transactional=false message_lsn=0/1F47780 prefix="p\nq" content="\"\n\u001b""#);
    }

    #[test]
    fn a_row_that_does_not_fit_its_table_is_refused() {
        let fault = |row| shown(&[BEGIN, TABLE, row]).unwrap_err().fault;
        assert_eq!(fault(b"I\0\0B^N\0\x01n"), Fault::Length(1));
        assert_eq!(fault(b"I\0\0B^N\0\x02nt\0\0\0\x05x"), Fault::Truncated);
        assert_eq!(fault(b"I\0\0\0\x01N\0\x02nn"), Fault::OutOfPlace);
        assert_eq!(fault(b"T\0\0\0\x01\0\0\0\0\x01"), Fault::OutOfPlace);
    }
}
