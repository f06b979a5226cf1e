//! The messages of a session: what a client sends, parsed, and what it is answered.
//!
//! Not pgwire's: its decoder panics where a message ends early, and takes messages of up to 1 GiB before a login.

use std::borrow::Cow;

use bytes::{BufMut as _, BytesMut};

use super::table::{Column, Value};
use crate::wire::backend::put_message;
use crate::wire::{Cursor, DecodeError};

/// A message of the client's, the password messages apart, which mean different things at different times.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Query(Cow<'a, str>),
    Parse {
        statement: Cow<'a, str>,
        text: Cow<'a, str>,
    },
    Bind {
        portal: Cow<'a, str>,
        statement: Cow<'a, str>,
        parameters: u16,
        formats: Vec<i16>,
    },
    DescribeStatement(Cow<'a, str>),
    DescribePortal(Cow<'a, str>),
    Execute {
        portal: Cow<'a, str>,
        max_rows: usize,
    },
    CloseStatement(Cow<'a, str>),
    ClosePortal(Cow<'a, str>),
    Flush,
    Sync,
    Terminate,
    /// Of no meaning here: copy data behind a failed COPY, a function call, what is not known.
    Other(u8),
}

impl<'a> Message<'a> {
    /// Parses a message.
    pub(super) fn parse(tag: u8, body: &'a [u8]) -> Result<Message<'a>, DecodeError> {
        let mut cursor = Cursor::new(body);
        let message = match tag {
            b'Q' => Message::Query(text(&mut cursor, "query")?),
            b'P' => {
                let statement = text(&mut cursor, "statement name")?;
                let query = text(&mut cursor, "query")?;
                for _ in 0..cursor.count("parameter types")? {
                    cursor.u32("parameter type")?;
                }
                Message::Parse { statement, text: query }
            }
            b'B' => {
                let portal = text(&mut cursor, "portal name")?;
                let statement = text(&mut cursor, "statement name")?;
                for _ in 0..cursor.count("parameter formats")? {
                    cursor.i16("parameter format")?;
                }
                let parameters = cursor.count("parameters")?;
                for _ in 0..parameters {
                    // -1 is null.
                    if let Ok(len) = usize::try_from(cursor.i32("parameter length")?) {
                        cursor.take(len, "parameter")?;
                    }
                }
                let mut formats = Vec::new();
                for _ in 0..cursor.count("result formats")? {
                    formats.push(cursor.i16("result format")?);
                }
                Message::Bind { portal, statement, parameters, formats }
            }
            b'D' | b'C' => {
                let what = cursor.u8("kind of object")?;
                let name = text(&mut cursor, "object name")?;
                match (tag, what) {
                    (b'D', b'S') => Message::DescribeStatement(name),
                    (b'D', b'P') => Message::DescribePortal(name),
                    (b'C', b'S') => Message::CloseStatement(name),
                    (b'C', b'P') => Message::ClosePortal(name),
                    _ => return Err(cursor.error(crate::wire::Fault::Length(what.into()), "kind of object")),
                }
            }
            b'E' => {
                let portal = text(&mut cursor, "portal name")?;
                // 0 is no limit.
                let max_rows = usize::try_from(cursor.i32("row limit")?).ok().filter(|&max| max > 0);
                Message::Execute { portal, max_rows: max_rows.unwrap_or(usize::MAX) }
            }
            b'H' => Message::Flush,
            b'S' => Message::Sync,
            b'X' => Message::Terminate,
            other => return Ok(Message::Other(other)),
        };
        cursor.finish("message").map(|()| message)
    }
}

fn text<'a>(cursor: &mut Cursor<'a>, field: &'static str) -> Result<Cow<'a, str>, DecodeError> {
    cursor.cstr(field).map(String::from_utf8_lossy)
}

/// Appends a message without a body.
pub(super) fn put_empty(out: &mut BytesMut, tag: u8) {
    put_message(out, tag, |_| {});
}

/// Appends a message of one string.
pub(super) fn put_text(out: &mut BytesMut, tag: u8, text: &str) {
    put_message(out, tag, |body| put_cstr(body, text));
}

/// Appends an authentication request, or the message that it is done.
pub(super) fn put_authentication(out: &mut BytesMut, code: u32, data: &[u8]) {
    put_message(out, b'R', |body| {
        body.put_u32(code);
        body.put_slice(data);
    });
}

/// Appends ReadyForQuery, outside of a transaction: there are none.
pub(super) fn put_ready(out: &mut BytesMut) {
    put_message(out, b'Z', |body| body.put_u8(b'I'));
}

/// Appends a setting.
pub(super) fn put_parameter(out: &mut BytesMut, name: &str, value: &str) {
    put_message(out, b'S', |body| {
        put_cstr(body, name);
        put_cstr(body, value);
    });
}

/// Appends RowDescription. Formats as Bind gives them: none for text, one for all columns, or one each.
pub(super) fn put_columns(out: &mut BytesMut, columns: &[Column], formats: &[i16]) {
    put_message(out, b'T', |body| {
        body.put_u16(columns.len() as u16);
        for (index, column) in columns.iter().enumerate() {
            put_cstr(body, column.name);
            // Of no table.
            body.put_u32(0);
            body.put_u16(0);
            body.put_u32(column.kind.oid());
            body.put_i16(column.kind.size());
            body.put_i32(-1);
            body.put_i16(format(formats, index));
        }
    });
}

/// Appends a row.
pub(super) fn put_row(out: &mut BytesMut, row: &[Value], formats: &[i16]) {
    put_message(out, b'D', |body| {
        body.put_u16(row.len() as u16);
        let mut bytes = BytesMut::new();
        for (index, value) in row.iter().enumerate() {
            bytes.clear();
            match value {
                Value::Null => {
                    body.put_i32(-1);
                    continue;
                }
                value if format(formats, index) == 1 => value.put_binary(&mut bytes),
                value => value.put_text(&mut bytes),
            }
            body.put_u32(bytes.len() as u32);
            body.put_slice(&bytes);
        }
    });
}

fn format(formats: &[i16], index: usize) -> i16 {
    match formats {
        [all] => *all,
        each => each.get(index).copied().unwrap_or(0),
    }
}

/// Appends a string with its end. A zero byte would end it early and garble all that follows.
pub(super) fn put_cstr(out: &mut BytesMut, text: &str) {
    out.extend(text.bytes().filter(|&byte| byte != 0));
    out.put_u8(0);
}

#[cfg(test)]
mod tests {
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
            assert!(Message::parse(tag, body).is_ok(), "{}", tag as char);
            for len in 0..body.len() {
                assert!(Message::parse(tag, &body[..len]).is_err(), "{} {len}", tag as char);
            }
            assert!(Message::parse(tag, &[body, b"x"].concat()).is_err(), "{}", tag as char);
        }
        assert_eq!(Message::parse(b'D', b"Xs\0").ok(), None);
        assert_eq!(Message::parse(b'd', b"anything"), Ok(Message::Other(b'd')));
    }
}
