//! Rows: borrowed and walked lazily, or owned.

use std::ops::Range;

use crate::wire::{Cursor, DecodeError, Fault};

/// The value of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column<'a> {
    /// SQL NULL; in an old key also every column that is not of the key.
    Null,
    /// A TOASTed value that the UPDATE did not change and the server did not send.
    Unchanged,
    /// The text form, in the session's client encoding.
    Text(&'a [u8]),
    /// The form of the type's send function.
    Binary(&'a [u8]),
}

/// A row: a number of columns and the bytes that hold them.
#[derive(Clone, Debug)]
pub struct Tuple<'a> {
    count: u16,
    body: Cursor<'a>,
}

impl<'a> Tuple<'a> {
    /// The row that fills the rest of the message.
    pub(super) fn parse(mut cursor: Cursor<'a>) -> Result<Tuple<'a>, DecodeError> {
        Ok(Tuple { count: cursor.count("column count")?, body: cursor })
    }

    /// The row that something follows. Its columns are walked here, for where it ends is written nowhere.
    pub(super) fn parse_leading(cursor: &mut Cursor<'a>) -> Result<Tuple<'a>, DecodeError> {
        let count = cursor.count("column count")?;
        let mut end = cursor.clone();
        for _ in 0..count {
            column(&mut end)?;
        }
        let body = cursor.sub(end.offset() - cursor.offset(), "tuple")?;
        Ok(Tuple { count, body })
    }

    /// How many columns the row claims to have. Walking [`columns`](Tuple::columns) proves it.
    pub fn column_count(&self) -> u16 {
        self.count
    }

    /// Walks the columns from left to right, in the order of the table's Relation message.
    #[inline]
    pub fn columns(&self) -> Columns<'a> {
        Columns { left: self.count, cursor: self.body.clone() }
    }

    /// An error about the row as a whole.
    #[cold]
    pub(super) fn error(&self, fault: Fault) -> DecodeError {
        self.body.error(fault, "tuple")
    }

    /// A copy that outlives the message.
    pub fn to_owned(&self) -> Result<OwnedTuple, DecodeError> {
        // Every column takes a byte at least, so the claimed count cannot make this larger than the message.
        let mut columns = Vec::with_capacity(usize::from(self.count).min(self.body.rest().len()));
        let mut cursor = self.body.clone();
        let start = cursor.offset();
        for _ in 0..self.count {
            columns.push(match column(&mut cursor)? {
                Column::Null => OwnedColumn::Null,
                Column::Unchanged => OwnedColumn::Unchanged,
                Column::Text(text) => OwnedColumn::Text(behind(&cursor, start, text)),
                Column::Binary(bytes) => OwnedColumn::Binary(behind(&cursor, start, bytes)),
            });
        }
        cursor.finish("tuple")?;
        Ok(OwnedTuple { columns: columns.into(), bytes: self.body.rest().into() })
    }
}

/// The columns of a [`Tuple`]. After an error it ends.
#[derive(Clone, Debug)]
pub struct Columns<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Result<Column<'a>, DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Result<Column<'a>, DecodeError>> {
        if self.left == 0 {
            let error = self.cursor.clone().finish("tuple").err();
            self.cursor.take_rest();
            return error.map(Err);
        }
        self.left -= 1;
        let column = column(&mut self.cursor);
        if column.is_err() {
            self.left = 0;
            self.cursor.take_rest();
        }
        Some(column)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // The lower bound is what was received, not what was claimed: `collect` allocates by it.
        (0, Some(usize::from(self.left) + 1))
    }
}

impl std::iter::FusedIterator for Columns<'_> {}

#[inline]
fn column<'a>(cursor: &mut Cursor<'a>) -> Result<Column<'a>, DecodeError> {
    let known = |kind| matches!(kind, b't' | b'b' | b'n' | b'u').then_some(kind);
    let kind = cursor.code("column kind", known)?;
    if matches!(kind, b't' | b'b') {
        let len = cursor.length("column length")?;
        let value = cursor.take(len, "column value")?;
        Ok(if kind == b't' { Column::Text(value) } else { Column::Binary(value) })
    } else {
        Ok(if kind == b'n' { Column::Null } else { Column::Unchanged })
    }
}

/// A row that owns its bytes: one copy of them, and an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedTuple {
    columns: Box<[OwnedColumn]>,
    bytes: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum OwnedColumn {
    Null,
    Unchanged,
    Text(Range<usize>),
    Binary(Range<usize>),
}

impl OwnedTuple {
    /// How many columns the row has.
    pub fn column_count(&self) -> usize {
        self.columns.len()
    }

    /// The column at `index`, counted from 0.
    pub fn column(&self, index: usize) -> Option<Column<'_>> {
        Some(match self.columns.get(index)? {
            OwnedColumn::Null => Column::Null,
            OwnedColumn::Unchanged => Column::Unchanged,
            OwnedColumn::Text(range) => Column::Text(self.bytes.get(range.clone())?),
            OwnedColumn::Binary(range) => Column::Binary(self.bytes.get(range.clone())?),
        })
    }

    /// The columns from left to right.
    pub fn columns(&self) -> impl Iterator<Item = Column<'_>> {
        (0..self.columns.len()).filter_map(|index| self.column(index))
    }
}

/// Where `value`, which `cursor` has just read, lies in bytes that began at offset `start`.
fn behind(cursor: &Cursor<'_>, start: usize, value: &[u8]) -> Range<usize> {
    let end = cursor.offset() - start;
    end - value.len()..end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(bytes: &[u8]) -> Tuple<'_> {
        Tuple::parse(Cursor::new(bytes)).unwrap()
    }

    fn walk(bytes: &[u8]) -> Vec<Result<Column<'_>, DecodeError>> {
        tuple(bytes).columns().collect()
    }

    fn error(fault: Fault, field: &'static str, offset: usize) -> DecodeError {
        DecodeError { fault, field, offset }
    }

    const ROW: &[u8] = b"\0\x04t\0\0\0\x02hinub\0\0\0\x01\xff";

    #[test]
    fn every_kind_of_column_is_told_apart() {
        let expected = [Column::Text(b"hi"), Column::Null, Column::Unchanged, Column::Binary(b"\xff")];
        assert_eq!(walk(ROW), expected.map(Ok));
        let owned = tuple(ROW).to_owned().unwrap();
        assert_eq!(owned.columns().collect::<Vec<_>>(), expected);
        assert_eq!((owned.column(3), owned.column(4)), (Some(Column::Binary(b"\xff")), None));
    }

    #[test]
    fn a_walk_ends_at_the_first_error() {
        let unknown = error(Fault::Unknown(b'x'), "column kind", 3);
        assert_eq!(walk(b"\0\x03nxn"), [Ok(Column::Null), Err(unknown)]);
        let negative = error(Fault::Length(-1), "column length", 3);
        assert_eq!(walk(b"\0\x02t\xff\xff\xff\xffn"), [Err(negative)]);
        let short = error(Fault::Truncated, "column value", 7);
        assert_eq!(walk(b"\0\x01t\x7f\xff\xff\xffx"), [Err(short)]);
        let trailing = error(Fault::TrailingBytes, "tuple", 3);
        assert_eq!(walk(b"\0\x01nn"), [Ok(Column::Null), Err(trailing)]);
        assert_eq!(tuple(b"\0\x01nn").to_owned(), Err(trailing));
    }

    #[test]
    fn a_claimed_number_of_columns_is_not_believed() {
        assert_eq!(Tuple::parse(Cursor::new(b"\xff\xff")).unwrap_err(), error(Fault::Length(-1), "column count", 0));
        let end = error(Fault::Truncated, "column kind", 3);
        assert_eq!(walk(b"\x7f\xffn"), [Ok(Column::Null), Err(end)]);
        assert_eq!(tuple(b"\x7f\xffn").to_owned(), Err(end));
        assert_eq!(tuple(b"\x7f\xffn").columns().size_hint().0, 0);
    }

    #[test]
    fn a_leading_row_ends_where_its_columns_end() {
        let mut cursor = Cursor::new(b"\0\x02t\0\0\0\x01anN");
        let old = Tuple::parse_leading(&mut cursor).unwrap();
        assert_eq!(old.columns().count(), 2);
        assert_eq!(cursor.rest(), b"N");
    }
}
