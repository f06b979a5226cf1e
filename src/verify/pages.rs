//! The pages of tables: in pieces, all of them or a sample.

use std::collections::{BTreeSet, VecDeque};

use tokio_postgres::Row;

use super::plan::Leaf;
use crate::ident::TableName;

/// What a piece reads, side tables included: well below a second's work.
const PIECE_BYTES: u64 = 32 << 20;

/// Where statistics are lacking: about what 160 bytes a row come to.
const ROWS_PER_PAGE: f64 = 50.0;

/// Pages of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range<'a> {
    pub(super) table: &'a TableName,
    /// The first.
    pub(super) from: u64,
    /// The one behind the last; none to the end.
    pub(super) until: Option<u64>,
    /// About how much that is to read.
    pub(super) bytes: u64,
}

/// Which of the pages of a table are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    All,
    /// Some, chosen by a seed, that have about so many rows.
    Some {
        rows: u64,
        seed: u64,
    },
}

/// How large a table is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    oid: u32,
    pages: u64,
    bytes_per_page: u64,
    rows_per_page: Option<f64>,
}

impl Size {
    /// Asks for the sizes of the tables with the OIDs `$1`.
    pub(super) const SQL: &str = "
        SELECT oid, pg_relation_size(oid), pg_table_size(oid), current_setting('block_size')::int8,
               CASE WHEN relpages > 0 THEN (reltuples / relpages)::float8 END
        FROM pg_class WHERE oid = ANY($1)";

    pub(super) fn read(row: &Row) -> Result<Size, tokio_postgres::Error> {
        let number =
            |place: usize| row.try_get::<_, Option<i64>>(place).map(|number| number.unwrap_or_default().unsigned_abs());
        let (own, all, page) = (number(1)?, number(2)?, number(3)?.max(1));
        let pages = own / page;
        let rows_per_page: Option<f64> = row.try_get(4)?;
        Ok(Size {
            oid: row.try_get(0)?,
            pages,
            bytes_per_page: all.checked_div(pages).unwrap_or(page).max(page),
            rows_per_page: rows_per_page.filter(|rows| *rows > 0.0),
        })
    }
}

/// The ranges to read of tables.
///
/// # Errors
/// A table whose size is not known is given back.
pub(super) fn ranges<'a>(leaves: &'a [Leaf], sizes: &[Size], extent: Extent) -> Result<VecDeque<Range<'a>>, &'a Leaf> {
    let mut tables = Vec::new();
    for leaf in leaves {
        tables.push((&leaf.name, sizes.iter().find(|size| size.oid == leaf.oid.0).ok_or(leaf)?));
    }
    let all: u64 = tables.iter().map(|(_, size)| size.pages).sum();
    let mut ranges = VecDeque::new();
    match extent {
        Extent::Some { rows, seed } if all > 0 => {
            let known: Vec<f64> = sizes.iter().filter_map(|size| size.rows_per_page).collect();
            let per_page =
                if known.is_empty() { ROWS_PER_PAGE } else { known.iter().sum::<f64>() / known.len() as f64 };
            let mut chosen = chosen(all, (rows as f64 / per_page).ceil() as u64, seed).into_iter().peekable();
            let mut before = 0;
            for (table, size) in tables {
                while let Some(page) = chosen.next_if(|page| *page < before + size.pages) {
                    let from = page - before;
                    ranges.push_back(Range { table, from, until: Some(from + 1), bytes: size.bytes_per_page });
                }
                before += size.pages;
            }
        }
        _ => {
            for (table, size) in tables {
                let step = (PIECE_BYTES / size.bytes_per_page).max(1);
                // An empty table is read as well: that shows whether it may be.
                let mut next = Some(0);
                while let Some(from) = next {
                    next = Some(from + step).filter(|next| *next < size.pages);
                    let pages = next.unwrap_or(size.pages) - from;
                    let bytes = size.bytes_per_page.saturating_mul(pages);
                    ranges.push_back(Range { table, from, until: next, bytes });
                }
            }
        }
    }
    Ok(ranges)
}

/// So many pages of all, at least one.
fn chosen(all: u64, wanted: u64, seed: u64) -> BTreeSet<u64> {
    if wanted >= all {
        return (0..all).collect();
    }
    let mut random = seed;
    let mut chosen = BTreeSet::new();
    while (chosen.len() as u64) < wanted.max(1) {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        chosen.insert(mixed(random) % all);
    }
    chosen
}

/// The output function of splitmix64.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::Oid;

    fn leaves(count: u32) -> Vec<Leaf> {
        let name = |oid: u32| TableName { schema: "s".into(), name: oid.to_string().into() };
        (0..count).map(|oid| Leaf { oid: Oid(oid), name: name(oid) }).collect()
    }

    fn size(oid: u32, pages: u64) -> Size {
        Size { oid, pages, bytes_per_page: 8192, rows_per_page: Some(10.0) }
    }

    #[test]
    fn pieces_cover_every_page_once_and_the_last_is_open() {
        let leaves = leaves(1);
        for pages in [0, 1, 4095, 4096, 4097, 100_000] {
            let ranges = ranges(&leaves, &[size(0, pages)], Extent::All).unwrap();
            let mut next = 0;
            for range in &ranges {
                assert_eq!(range.from, next);
                next = range.until.unwrap_or(u64::MAX);
            }
            assert_eq!(next, u64::MAX, "{ranges:?}");
            assert_eq!(ranges.iter().map(|range| range.bytes).sum::<u64>(), pages * 8192);
        }
    }

    #[test]
    fn a_sample_is_of_pages_of_all_tables_and_the_same_by_the_same_seed() {
        let leaves = leaves(3);
        let sizes = [size(0, 500), size(1, 0), size(2, 500)];
        let of = |rows, seed| ranges(&leaves, &sizes, Extent::Some { rows, seed }).unwrap();
        let taken = of(1000, 7);
        assert_eq!(taken.len(), 100);
        assert!(taken.iter().all(|range| range.from < 500 && range.until == Some(range.from + 1)));
        assert!(
            taken.iter().any(|range| &*range.table.name == "0") && taken.iter().any(|range| &*range.table.name == "2")
        );
        assert_eq!(taken, of(1000, 7));
        assert_ne!(taken, of(1000, 8));
        assert_eq!((of(1_000_000, 7).len(), of(1, 7).len()), (1000, 1));
        assert!(ranges(&leaves, &sizes[1..], Extent::All).is_err());
    }
}
