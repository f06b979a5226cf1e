//! The one reader of untrusted bytes: every parser of `wire` and `pgoutput` goes through it.

use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// Why bytes could not be decoded: what was being read, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} in {field} at byte {offset}")]
pub struct DecodeError {
    /// What is wrong.
    pub fault: Fault,
    /// The field that was being read, in PostgreSQL's words.
    pub field: &'static str,
    /// Bytes from the start of the message to the field's.
    pub offset: usize,
}

/// What can be wrong with bytes from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The message ends before the field does.
    #[error("message too short")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("trailing bytes")]
    TrailingBytes,
    /// A string without its terminating zero byte.
    #[error("unterminated string")]
    Unterminated,
    /// A length or count below zero, or beyond what the protocol allows.
    #[error("impossible length or count {0}")]
    Length(i64),
    /// A tag, flag or kind byte that is not known.
    #[error("unknown code 0x{0:02x}")]
    Unknown(u8),
    /// A message that may not come at this point.
    #[error("message out of place")]
    OutOfPlace,
}

/// A position in a slice that only ever moves forward.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    end: usize,
}

impl<'a> Cursor<'a> {
    /// Reads `bytes` from their start.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes, end: bytes.len() }
    }

    /// The next `len` bytes.
    #[inline]
    pub fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.error(Fault::Truncated, field))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    #[inline]
    pub fn take_array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.error(Fault::Truncated, field))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A string up to its zero byte, which is consumed and not part of the result.
    #[inline]
    pub fn cstr(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.rest.iter().position(|&byte| byte == 0).ok_or_else(|| self.error(Fault::Unterminated, field))?;
        let text = self.take(len, field)?;
        self.take(1, field)?;
        Ok(text)
    }

    /// A string of which the end may be missing: up to its zero byte, else all that is left. For readers
    /// of the leading bytes of a message; nothing can follow it.
    pub fn cstr_or_rest(self) -> &'a [u8] {
        self.rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// A string made of all that is left, with its zero byte as the last of the message.
    pub fn last_cstr(mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let text = self.cstr(field)?;
        self.finish(field)?;
        Ok(text)
    }

    /// A byte that `known` gives a meaning; one without is an error.
    #[inline]
    pub fn code<T>(&mut self, field: &'static str, known: impl FnOnce(u8) -> Option<T>) -> Result<T, DecodeError> {
        let before = self.clone();
        let byte = self.u8(field)?;
        known(byte).ok_or_else(|| before.error(Fault::Unknown(byte), field))
    }

    /// A count of two bytes, which may not be negative.
    #[inline]
    pub fn count(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        let before = self.clone();
        let count = self.i16(field)?;
        u16::try_from(count).map_err(|_| before.error(Fault::Length(count.into()), field))
    }

    /// A length or count of four bytes, which may not be negative. It is what the sender claims: nothing
    /// may be allocated by it before as many bytes are there.
    #[inline]
    pub fn length(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let before = self.clone();
        let length = self.i32(field)?;
        usize::try_from(length).map_err(|_| before.error(Fault::Length(length.into()), field))
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.take_array(field).map(u8::from_be_bytes)
    }

    /// Two bytes, most significant first.
    #[inline]
    pub fn i16(&mut self, field: &'static str) -> Result<i16, DecodeError> {
        self.take_array(field).map(i16::from_be_bytes)
    }

    /// Four bytes, most significant first.
    #[inline]
    pub fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.take_array(field).map(i32::from_be_bytes)
    }

    /// Four bytes without sign, most significant first.
    #[inline]
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.take_array(field).map(u32::from_be_bytes)
    }

    /// Eight bytes, most significant first.
    #[inline]
    pub fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.take_array(field).map(i64::from_be_bytes)
    }

    /// A WAL position.
    #[inline]
    pub fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        self.take_array(field).map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// A point in time.
    #[inline]
    pub fn timestamp(&mut self, field: &'static str) -> Result<PgTimestamp, DecodeError> {
        self.i64(field).map(PgTimestamp)
    }

    /// A cursor of its own over the next `len` bytes; this one goes on behind them. Offsets in the
    /// errors of both count from the start of the whole message.
    #[inline]
    pub fn sub(&mut self, len: usize, field: &'static str) -> Result<Cursor<'a>, DecodeError> {
        let start = self.offset();
        let rest = self.take(len, field)?;
        Ok(Cursor { rest, end: start + len })
    }

    /// All that is left.
    #[inline]
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Ends the message: bytes that are left are an error.
    #[inline]
    pub fn finish(self, field: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(Fault::TrailingBytes, field)) }
    }

    /// What has not been read.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes from the start of the message to here.
    #[inline]
    pub fn offset(&self) -> usize {
        self.end - self.rest.len()
    }

    /// An error at this place.
    #[inline]
    pub fn error(&self, fault: Fault, field: &'static str) -> DecodeError {
        failed(fault, field, self.offset())
    }
}

/// Apart from [`Cursor::error`], for a cold function that borrowed the cursor would keep it out of registers.
#[cold]
fn failed(fault: Fault, field: &'static str, offset: usize) -> DecodeError {
    DecodeError { fault, field, offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_network_byte_order_and_rejects_the_rest() {
        let mut cursor = Cursor::new(&[1, 0, 2, 0, 0, 0, 3, b'a', 0, 9]);
        assert_eq!(cursor.u8("a"), Ok(1));
        assert_eq!(cursor.i16("b"), Ok(2));
        assert_eq!(cursor.i32("c"), Ok(3));
        assert_eq!(cursor.cstr("d"), Ok(&b"a"[..]));
        assert_eq!(cursor.finish("e"), Err(DecodeError { fault: Fault::TrailingBytes, field: "e", offset: 9 }));
    }

    #[test]
    fn an_error_names_the_field_and_where_it_starts() {
        let mut cursor = Cursor::new(&[1, 2, 3, 4, 5]);
        cursor.u8("first").unwrap();
        let error = cursor.i64("commit_lsn").unwrap_err();
        assert_eq!(error, DecodeError { fault: Fault::Truncated, field: "commit_lsn", offset: 1 });
        assert_eq!(error.to_string(), "message too short in commit_lsn at byte 1");
        assert_eq!(cursor.cstr("name").unwrap_err().fault, Fault::Unterminated);
    }

    #[test]
    fn a_negative_count_and_an_unknown_code_are_errors_at_their_own_place() {
        let mut cursor = Cursor::new(&[7, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xfd, b'x']);
        assert_eq!(cursor.u8("first"), Ok(7));
        let error = |fault, field, offset| DecodeError { fault, field, offset };
        assert_eq!(cursor.count("columns"), Err(error(Fault::Length(-2), "columns", 1)));
        assert_eq!(cursor.length("length"), Err(error(Fault::Length(-3), "length", 3)));
        let known = |byte| (byte == b'N').then_some(());
        assert_eq!(cursor.code("kind", known), Err(error(Fault::Unknown(b'x'), "kind", 7)));
    }

    #[test]
    fn a_string_may_have_to_end_the_message_or_may_be_cut_off() {
        assert_eq!(Cursor::new(b"gid\0").last_cstr("gid"), Ok(&b"gid"[..]));
        assert_eq!(Cursor::new(b"gid\0x").last_cstr("gid").unwrap_err().fault, Fault::TrailingBytes);
        assert_eq!(Cursor::new(b"gid").last_cstr("gid").unwrap_err().fault, Fault::Unterminated);
        assert_eq!(Cursor::new(b"pre\0fix").cstr_or_rest(), b"pre");
        assert_eq!(Cursor::new(b"pre").cstr_or_rest(), b"pre");
    }

    #[test]
    fn a_part_counts_offsets_from_the_whole() {
        let mut whole = Cursor::new(&[0; 8]);
        whole.take(2, "head").unwrap();
        let mut part = whole.sub(3, "part").unwrap();
        assert_eq!(part.i32("value").unwrap_err().offset, 2);
        assert_eq!(whole.offset(), 5);
        assert_eq!(whole.sub(4, "more").unwrap_err().offset, 5);
    }
}
