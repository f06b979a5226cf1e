//! A message as one JSON object, made for `jq`.
//!
//! [`Described`] serializes as such an object, [`Line`] puts the position in front. Every object has a
//! `kind`; fields that a message does not have are left out (an `xid` is there for Begin, two-phase and
//! stream control, and for messages inside streamed chunks).
//!
//! ```json
//! {"kind":"begin","xid":740,"final_lsn":"0/15D5C40","commit_ts":"2026-11-21T03:25:17.123456Z"}
//! {"kind":"relation","relation":"public.t","oid":16391,"identity":"default",
//!  "columns":[{"name":"id","type":23,"typmod":-1,"key":true},
//!             {"name":"mood","type":16385,"type_name":"public.mood","typmod":-1,"key":false}]}
//! {"kind":"insert","relation":"public.t","new":{"id":"1","note":null}}
//! {"kind":"update","relation":"public.t","key":{"id":"1"},"new":{"id":"2","note":{"unchanged":true}}}
//! {"kind":"delete","relation":"public.t","old":{"id":"2","note":"x"}}
//! {"kind":"truncate","relations":["public.t"],"cascade":false,"restart_identity":true}
//! {"kind":"message","transactional":true,"message_lsn":"0/15D5C40","prefix":"app","content":"text"}
//! {"kind":"commit","commit_lsn":"0/15D5C40","end_lsn":"0/15D5C70","commit_ts":"…"}
//! ```
//!
//! The other kinds are `origin`, `type`, `stream_start`, `stream_stop`, `stream_commit`, `stream_abort`,
//! `begin_prepare`, `prepare`, `stream_prepare`, `commit_prepared` and `rollback_prepared`.
//!
//! | value | JSON |
//! |---|---|
//! | text | the string, exactly; where it is not UTF-8 `{"bytes":"hex"}` |
//! | binary | `{"binary":"hex"}` |
//! | NULL | `null` |
//! | TOASTed and not changed | `{"unchanged":true}` |
//!
//! `old` is a whole row, `key` the columns of the replica identity. Positions and times (RFC 3339) are
//! strings, tables `schema.table` quoted as SQL needs it. Names that are not UTF-8 show the bytes that are
//! not as `\xNN`.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::Column;
use super::described::{ColumnText, Described, Value};
use crate::lsn::Lsn;

/// A message at its place in the stream: `{"lsn":"0/15D5C40","kind":…}`.
#[derive(Clone, Debug, Serialize)]
pub struct Line<'m> {
    /// The `wal_start` of the XLogData that carried it.
    pub lsn: Lsn,
    /// The message.
    #[serde(flatten)]
    pub message: Described<'m>,
}

impl Serialize for Described<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len() + 1))?;
        map.serialize_entry("kind", self.kind)?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Flag(flag) => flag.serialize(serializer),
            Value::Oid(oid) => oid.serialize(serializer),
            Value::Xid(xid) => xid.serialize(serializer),
            Value::Lsn(lsn) => lsn.serialize(serializer),
            Value::Time(time) => time.serialize(serializer),
            Value::Name(name) => name.serialize(serializer),
            Value::Qualified(name) => name.serialize(serializer),
            Value::Tables(names) => names.serialize(serializer),
            Value::Bytes(bytes) => Column::Text(bytes).serialize(serializer),
            Value::Row(row) => serializer.collect_map(row.iter().map(|(name, value)| (name, value))),
            Value::Columns(columns) => columns.serialize(serializer),
        }
    }
}

impl Serialize for Column<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Column::Null => serializer.serialize_unit(),
            Column::Unchanged => serializer.collect_map([("unchanged", true)]),
            Column::Text(text) => match str::from_utf8(text) {
                Ok(text) => serializer.serialize_str(text),
                Err(_) => serializer.collect_map([("bytes", format_args!("{}", Hex(text)))]),
            },
            Column::Binary(bytes) => serializer.collect_map([("binary", format_args!("{}", Hex(bytes)))]),
        }
    }
}

impl Serialize for ColumnText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("type", &self.type_oid)?;
        if let Some(type_name) = &self.type_name {
            map.serialize_entry("type_name", type_name)?;
        }
        map.serialize_entry("typmod", &self.type_modifier)?;
        map.serialize_entry("key", &self.key)?;
        map.end()
    }
}

/// Bytes as hexadecimal digits.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
