//! The messages of a session: they are pgwire's, which writes the answers.
//!
//! Requests are parsed here: pgwire's decoder panics where a message ends early (0.42.1 on `P\0\0\0\x06a\0`).

use bytes::{BufMut as _, Bytes, BytesMut};
use pgwire::messages::data::{DataRow, FORMAT_CODE_BINARY, FORMAT_CODE_TEXT, FieldDescription, RowDescription};
use pgwire::messages::extendedquery::{Bind, Close, Describe, Execute, Flush, Parse, Sync};
use pgwire::messages::simplequery::Query;
use pgwire::messages::terminate::Terminate;
use pgwire::messages::{Message, PgWireFrontendMessage as Request};

use super::table::{Column, Value};
use crate::wire::{Cursor, DecodeError};

/// Parses a request, the password messages apart, which mean different things at different times. `None` is what has
/// no meaning here: copy data behind a failed COPY, a function call, what is not known.
pub(super) fn parse(tag: u8, body: &[u8]) -> Result<Option<Request>, DecodeError> {
    let cursor = &mut Cursor::new(body);
    let object = |kind: u8| matches!(kind, b'S' | b'P').then_some(kind);
    let request = match tag {
        b'Q' => Request::Query(Query::new(text(cursor, "query")?)),
        b'P' => {
            let (statement, query) = (name(cursor, "statement name")?, text(cursor, "query")?);
            let types = list(cursor, "parameter types", |cursor| cursor.u32("parameter type"))?;
            Request::Parse(Parse::new(statement, query, types))
        }
        b'B' => {
            let (portal, statement) = (name(cursor, "portal name")?, name(cursor, "statement name")?);
            let formats = list(cursor, "parameter formats", |cursor| cursor.i16("parameter format"))?;
            // -1 is null.
            let parameter = |cursor: &mut Cursor<'_>| match usize::try_from(cursor.i32("parameter length")?) {
                Ok(len) => cursor.take(len, "parameter").map(Bytes::copy_from_slice).map(Some),
                Err(_) => Ok(None),
            };
            let parameters = list(cursor, "parameters", parameter)?;
            let results = list(cursor, "result formats", |cursor| cursor.i16("result format"))?;
            Request::Bind(Bind::new(portal, statement, formats, parameters, results))
        }
        b'D' => Request::Describe(Describe::new(cursor.code("kind of object", object)?, name(cursor, "object name")?)),
        b'C' => Request::Close(Close::new(cursor.code("kind of object", object)?, name(cursor, "object name")?)),
        b'E' => Request::Execute(Execute::new(name(cursor, "portal name")?, cursor.i32("row limit")?)),
        b'H' => Request::Flush(Flush::new()),
        b'S' => Request::Sync(Sync::new()),
        b'X' => Request::Terminate(Terminate::new()),
        _ => return Ok(None),
    };
    cursor.clone().finish("message").map(|()| Some(request))
}

fn text(cursor: &mut Cursor<'_>, field: &'static str) -> Result<String, DecodeError> {
    cursor.cstr(field).map(|text| String::from_utf8_lossy(text).into_owned())
}

/// `None` is the unnamed one.
fn name(cursor: &mut Cursor<'_>, field: &'static str) -> Result<Option<String>, DecodeError> {
    text(cursor, field).map(|name| Some(name).filter(|name| !name.is_empty()))
}

fn list<'a, T>(
    cursor: &mut Cursor<'a>,
    field: &'static str,
    mut item: impl FnMut(&mut Cursor<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    (0..cursor.count(field)?).map(|_| item(cursor)).collect()
}

/// Appends an answer. One that is longer than libpq reads, which only absurd names make, is left out.
pub(super) fn put(out: &mut BytesMut, answer: impl Message) {
    let len = out.len();
    if answer.encode(out).is_err() {
        out.truncate(len);
    }
}

/// What describes columns. Formats as Bind gives them: none for text, one for all columns, or one each.
pub(super) fn description(columns: &[Column], formats: &[i16]) -> RowDescription {
    let field = |(index, column): (usize, &Column)| {
        let Column { name, kind } = *column;
        // Of no table, and with no modifier.
        FieldDescription::new(name.to_owned(), 0, 0, kind.oid(), kind.size(), -1, format(formats, index))
    };
    RowDescription::new(columns.iter().enumerate().map(field).collect())
}

/// A row in these formats.
pub(super) fn row(values: &[Value], formats: &[i16]) -> DataRow {
    let (mut data, mut bytes) = (BytesMut::new(), BytesMut::new());
    for (index, value) in values.iter().enumerate() {
        bytes.clear();
        match value {
            Value::Null => {
                data.put_i32(-1);
                continue;
            }
            value if format(formats, index) == FORMAT_CODE_BINARY => value.put_binary(&mut bytes),
            value => value.put_text(&mut bytes),
        }
        data.put_u32(bytes.len() as u32);
        data.put_slice(&bytes);
    }
    DataRow::new(data, values.len() as i16)
}

fn format(formats: &[i16], index: usize) -> i16 {
    match formats {
        [all] => *all,
        each => each.get(index).copied().unwrap_or(FORMAT_CODE_TEXT),
    }
}

#[cfg(test)]
mod tests {
    use pgwire::messages::startup::ParameterStatus;

    use super::*;

    #[test]
    fn every_message_parses_and_no_truncation_of_one_does() {
        let bodies: [(u8, &[u8]); 7] = [
            (b'Q', b"SHOW LAG\0"),
            (b'P', b"s\0SHOW LAG\0\0\x01\0\0\0\x19"),
            (b'B', b"p\0s\0\0\x01\0\0\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\x01"),
            (b'D', b"Ss\0"),
            (b'D', b"Pp\0"),
            (b'C', b"Ss\0"),
            (b'E', b"p\0\0\0\0\x05"),
        ];
        for (tag, body) in bodies {
            assert!(parse(tag, body).is_ok(), "{}", tag as char);
            for len in 0..body.len() {
                assert!(parse(tag, &body[..len]).is_err(), "{} {len}", tag as char);
            }
            assert!(parse(tag, &[body, b"x"].concat()).is_err(), "{}", tag as char);
        }
        assert!(parse(b'D', b"Xs\0").is_err());
        assert!(matches!(parse(b'd', b"anything"), Ok(None)));
    }

    #[test]
    fn an_answer_that_no_client_reads_leaves_no_trace() {
        let mut out = BytesMut::from(&b"before"[..]);
        put(&mut out, ParameterStatus::new("application_name".into(), "x".repeat(40_000)));
        assert_eq!(out, "before");
    }
}
