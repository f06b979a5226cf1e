//! Tables with PostgreSQL's types, in its text and its binary format.

use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::types::Type;

use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// A type of column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int8,
    Float8,
    Bool,
    PgLsn,
    Timestamptz,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Text(String),
    Int8(i64),
    Float8(f64),
    Bool(bool),
    PgLsn(Lsn),
    Timestamptz(PgTimestamp),
}

/// A row.
pub(super) type Row = Vec<Value>;

impl Kind {
    pub(super) fn oid(self) -> u32 {
        match self {
            Kind::Text => Type::TEXT,
            Kind::Int8 => Type::INT8,
            Kind::Float8 => Type::FLOAT8,
            Kind::Bool => Type::BOOL,
            Kind::PgLsn => Type::PG_LSN,
            Kind::Timestamptz => Type::TIMESTAMPTZ,
        }
        .oid()
    }

    /// `pg_type.typlen`.
    pub(super) fn size(self) -> i16 {
        match self {
            Kind::Text => -1,
            Kind::Bool => 1,
            Kind::Int8 | Kind::Float8 | Kind::PgLsn | Kind::Timestamptz => 8,
        }
    }

    /// What `format_type` says.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Int8 => "bigint",
            Kind::Float8 => "double precision",
            Kind::Bool => "boolean",
            Kind::PgLsn => "pg_lsn",
            Kind::Timestamptz => "timestamp with time zone",
        }
    }
}

impl Value {
    pub(super) fn put_text(&self, out: &mut BytesMut) {
        // Writing to memory does not fail.
        let _ = match self {
            Value::Null => Ok(()),
            Value::Text(text) => out.write_str(text),
            Value::Int8(number) => write!(out, "{number}"),
            Value::Float8(number) => write!(out, "{number}"),
            Value::Bool(yes) => out.write_str(if *yes { "t" } else { "f" }),
            Value::PgLsn(lsn) => write!(out, "{lsn}"),
            // DateStyle ISO, TimeZone UTC.
            Value::Timestamptz(time) => out.write_str(&time.to_string().replace('T', " ").replace('Z', "+00")),
        };
    }

    pub(super) fn put_binary(&self, out: &mut BytesMut) {
        match self {
            Value::Null => {}
            Value::Text(text) => out.put_slice(text.as_bytes()),
            Value::Int8(number) => out.put_i64(*number),
            Value::Float8(number) => out.put_f64(*number),
            Value::Bool(yes) => out.put_u8((*yes).into()),
            Value::PgLsn(lsn) => out.put_u64(lsn.0),
            Value::Timestamptz(time) => out.put_i64(time.0),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Int8(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int8(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Float8(number)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Value {
        Value::Bool(yes)
    }
}

impl From<Lsn> for Value {
    fn from(lsn: Lsn) -> Value {
        Value::PgLsn(lsn)
    }
}

impl From<PgTimestamp> for Value {
    fn from(time: PgTimestamp) -> Value {
        Value::Timestamptz(time)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_postgresql_prints_them() {
        for (value, text) in [
            (Value::from(-7i64), "-7"),
            (Value::from(0.25), "0.25"),
            (Value::from(true), "t"),
            (Value::from(Lsn(0x16_b374_d848)), "16/B374D848"),
            (Value::from(PgTimestamp(1_500_000)), "2000-01-01 00:00:01.500000+00"),
            (Value::from(PgTimestamp(i64::MAX)), "infinity"),
            (Value::from("é"), "é"),
        ] {
            let mut out = BytesMut::new();
            value.put_text(&mut out);
            assert_eq!(std::str::from_utf8(&out), Ok(text));
        }
    }
}
