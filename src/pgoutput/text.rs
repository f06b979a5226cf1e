//! A message as one line for people, the `Display` of [`Described`].
//!
//! ```text
//! begin xid=740 final_lsn=0/15D5C40 commit_ts=2026-11-21T03:25:17.123456Z
//! relation public.t oid=16391 identity="default" columns: id=23 note=25 data=17
//! insert public.t new: id="1" note=null data=\x6869
//! update public.t key: id="1" new: id="2" note=unchanged data=\x6869
//! truncate public.t public.u cascade=false restart_identity=true
//! ```
//!
//! Text is quoted as in JSON, so that no value can break or forge a line; `\x` and hexadecimal digits stand
//! for a binary value, and for text that is not UTF-8.

use std::fmt::{self, Formatter};

use super::Column;
use super::described::{Described, Value};
use super::json::Hex;
use crate::ident::Identifier;

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        for (name, value) in &self.fields {
            f.write_str(" ")?;
            match value {
                Value::Flag(flag) => write!(f, "{name}={flag}")?,
                Value::Oid(oid) => write!(f, "{name}={oid}")?,
                Value::Xid(xid) => write!(f, "{name}={xid}")?,
                Value::Lsn(lsn) => write!(f, "{name}={lsn}")?,
                Value::Time(time) => write!(f, "{name}={time}")?,
                Value::Name(text) => {
                    write!(f, "{name}=")?;
                    quoted(text, f)?;
                }
                Value::Qualified(table) => on_a_line(table, f)?,
                Value::Tables(tables) => {
                    for (index, table) in tables.iter().enumerate() {
                        f.write_str(if index == 0 { "" } else { " " })?;
                        on_a_line(table, f)?;
                    }
                }
                Value::Bytes(bytes) => {
                    write!(f, "{name}=")?;
                    column(Column::Text(bytes), f)?;
                }
                Value::Row(row) => {
                    write!(f, "{name}:")?;
                    for (name, value) in row {
                        f.write_str(" ")?;
                        on_a_line(&Identifier(name).to_string(), f)?;
                        f.write_str("=")?;
                        column(*value, f)?;
                    }
                }
                Value::Columns(columns) => {
                    write!(f, "{name}:")?;
                    for column in columns {
                        f.write_str(" ")?;
                        on_a_line(&Identifier(&column.name).to_string(), f)?;
                        f.write_str("=")?;
                        match &column.type_name {
                            Some(type_name) => on_a_line(type_name, f)?,
                            None => column.type_oid.fmt(f)?,
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn column(value: Column<'_>, f: &mut Formatter<'_>) -> fmt::Result {
    match value {
        Column::Null => f.write_str("null"),
        Column::Unchanged => f.write_str("unchanged"),
        Column::Text(text) => match str::from_utf8(text) {
            Ok(text) => quoted(text, f),
            Err(_) => write!(f, "\\x{}", Hex(text)),
        },
        Column::Binary(bytes) => write!(f, "\\x{}", Hex(bytes)),
    }
}

/// A name as it is, or quoted where it would break the line.
fn on_a_line(name: &str, f: &mut Formatter<'_>) -> fmt::Result {
    if name.contains(char::is_control) { quoted(name, f) } else { f.write_str(name) }
}

fn quoted(text: &str, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
}
