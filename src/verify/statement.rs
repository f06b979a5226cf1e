//! The statements that look at rows. They name what they use without a schema: the search path is empty, and the system's
//! own schema is on it always.
//!
//! A row is the text of `ROW(…)`, its columns in the order of the source: that quotes what it must, so that no two rows have
//! the same text, and NULL is not the empty string. `hashtextextended` of it is what the servers sum up. Of a million rows
//! of pgbench it takes 0.7 s where `hashtext(t::text)` takes 0.5 s and `md5` 2.1 s; the servers are asked first whether
//! they agree on it.
//!
//! The digest of rows is their number and two sums of 64-bit hashes, exact. A sum does not depend on the order, and so
//! neither on where rows lie nor on collations. XOR would not either, but to it a row that is there twice, or two rows, are
//! like none. The hashes are seeded anew each time, so that what collides once does not the next time.

use std::fmt::Write as _;

use super::pages::Range;
use super::plan::{Expression, Plan};
use crate::ident::{Identifier, TableName};

/// Ranges of keys, by hash. So many that one holds few enough rows to be compared one by one, and so few that the sums of
/// each fit in a small answer.
pub(super) const BUCKETS: u32 = 4096;

/// What the hashes are seeded with: the one of the key, and the two of the row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeds(pub(super) [u32; 3]);

/// Whether the servers store text differently, so that both must turn it into one encoding first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Same,
    Different,
}

/// Writes the statements for one table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statements<'a> {
    pub(super) plan: &'a Plan,
    pub(super) seeds: Seeds,
    pub(super) encoding: Encoding,
}

impl Statements<'_> {
    /// For each range of keys: which one, the number of rows, and the sums.
    pub(super) fn digest(&self, range: &Range<'_>) -> String {
        let Seeds([_, a, b]) = self.seeds;
        let bucket = self.bucket().unwrap_or_else(|| "0::int8".to_owned());
        format!(
            "SELECT k, count(*), sum(a)::text, sum(b)::text FROM (SELECT k, hashtextextended(r, {a}) AS a, \
             hashtextextended(r, {b}) AS b FROM (SELECT {bucket} AS k, {} AS r FROM {} OFFSET 0) AS x) AS y GROUP BY k",
            self.row(),
            self.place(range)
        )
    }

    /// The keys and hashes of the rows of some ranges of keys, `$1`.
    pub(super) fn rows(&self, range: &Range<'_>) -> String {
        let bucket = self.bucket().unwrap_or_default();
        self.hashed(&format!("{} AND {bucket} = ANY($1)", self.place(range)))
    }

    /// The keys of the rows there.
    pub(super) fn keys(&self, range: &Range<'_>) -> String {
        format!("SELECT {} FROM {}", self.key_columns(), self.place(range))
    }

    /// The keys and hashes of the rows that have these keys: an array of texts for each column of the key, from `$1` on.
    /// `types` are those of the columns on this side.
    pub(super) fn lookup(&self, table: &str, types: &[Box<str>]) -> String {
        let columns: Vec<String> = self.plan.key.iter().map(|part| Identifier(&part.name).to_string()).collect();
        let (mut wanted, mut arrays, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (place, sql_type) in (1..).zip(types) {
            wanted.push(format!("w{place}::{sql_type}"));
            arrays.push(format!("${place}::text[]"));
            names.push(format!("w{place}"));
        }
        self.hashed(&format!(
            "{table} WHERE ({}) IN (SELECT {} FROM unnest({}) AS w ({})){}",
            columns.join(", "),
            wanted.join(", "),
            arrays.join(", "),
            names.join(", "),
            self.filter()
        ))
    }

    fn hashed(&self, place: &str) -> String {
        let Seeds([_, a, b]) = self.seeds;
        let columns: Vec<String> = (1..=self.plan.key.len()).map(|number| format!("c{number}")).collect();
        format!(
            "SELECT {}, hashtextextended(r, {a}), hashtextextended(r, {b}) \
             FROM (SELECT {}, {} AS r FROM {place} OFFSET 0) AS x",
            columns.join(", "),
            self.key_columns(),
            self.row()
        )
    }

    /// The columns of the key as texts.
    fn key_columns(&self) -> String {
        let columns = (1..).zip(&self.plan.key);
        columns.map(|(number, part)| format!("{}::text AS c{number}", part.sql)).collect::<Vec<_>>().join(", ")
    }

    /// Which range of keys a row belongs to; none without a key.
    fn bucket(&self) -> Option<String> {
        let Seeds([seed, ..]) = self.seeds;
        let text = match self.plan.key.as_slice() {
            [] => return None,
            [part] => format!("{}::text", part.sql),
            parts => record(parts),
        };
        Some(format!("(hashtextextended({}, {seed}) & {})", self.encoded(&text), BUCKETS - 1))
    }

    /// The row as text.
    fn row(&self) -> String {
        self.encoded(&record(&self.plan.columns))
    }

    fn encoded(&self, text: &str) -> String {
        match self.encoding {
            // The hash wants to know a collation, and this one is the quickest.
            Encoding::Same => format!("({text} COLLATE \"C\")"),
            Encoding::Different => format!("(encode(convert_to({text}, 'UTF8'), 'hex') COLLATE \"C\")"),
        }
    }

    fn place(&self, range: &Range<'_>) -> String {
        let mut place = format!("ONLY {} WHERE ctid >= '({},0)'", range.table, range.from);
        if let Some(until) = range.until {
            let _ = write!(place, " AND ctid < '({until},0)'");
        }
        place + &self.filter()
    }

    fn filter(&self) -> String {
        self.plan.filter.as_ref().map(|filter| format!(" AND ({filter})")).unwrap_or_default()
    }
}

fn record(parts: &[Expression]) -> String {
    let parts: Vec<&str> = parts.iter().map(|part| &*part.sql).collect();
    format!("ROW({})::text", parts.join(", "))
}

/// A table without what inherits from it, or with its partitions.
pub(super) fn table(name: &TableName, is_partitioned: bool) -> String {
    if is_partitioned { name.to_string() } else { format!("ONLY {name}") }
}
