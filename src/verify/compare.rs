//! Compares one table: sums of ranges of keys first, then the rows of the ranges that differ, then once more the rows that
//! differ, which may only have been under way.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::pages::{Extent, Range};
use super::plan::Leaves;
use super::report::{KeyDifference, Kind, Ranges, RowDifferences, Sampled, State, TableReport};
use super::session::{Sessions, Trouble, Unreadable};
use super::statement::{BUCKETS, Statements};
use super::{Error, Meter, Options};

/// Rows of differing ranges that are compared one by one.
const NARROWED_ROWS: u64 = 200_000;

/// Keys that are looked up in one statement. Where more rows than this differ, they are not looked at again.
const LOOKUP: usize = 1000;

/// The most that a sample has: its keys are held in memory.
const SAMPLE_ROWS: u64 = 1_000_000;

/// About what looking up a row reads: a page.
const LOOKUP_BYTES: u64 = 8192;

/// The number of rows and the sums of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    rows: u64,
    hashes: [i128; 2],
}

/// The sums of each range of keys.
type Digest = BTreeMap<i64, Sums>;

/// The sums of each key.
type Rows = BTreeMap<Key, Sums>;

/// The values of a key, as text.
type Key = Vec<Box<str>>;

/// The two sides, and how they are asked.
#[derive(Clone, Copy)]
pub(super) struct Comparison<'a> {
    pub(super) source: &'a Sessions,
    pub(super) target: &'a Sessions,
    pub(super) statements: Statements<'a>,
    pub(super) options: &'a Options,
    pub(super) meter: &'a Meter<'a>,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.rows += other.rows;
        for (sum, more) in self.hashes.iter_mut().zip(other.hashes) {
            // 2^63 rows of 63 bits each stay below it.
            *sum = sum.wrapping_add(more);
        }
    }
}

/// What was seen of a table, which may not be the last word.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) report: TableReport,
    differences: RowDifferences,
    /// The rows that differ, as far as they are known.
    different: BTreeMap<Key, Kind>,
    /// Whether those may become equal, and nothing else differs.
    pub(super) is_open: bool,
}

impl From<TableReport> for Seen {
    fn from(report: TableReport) -> Seen {
        Seen { report, differences: RowDifferences::default(), different: BTreeMap::new(), is_open: false }
    }
}

impl Comparison<'_> {
    /// Looks at the table for the first time.
    ///
    /// # Errors
    /// Where no other table can be compared either.
    pub(super) async fn look(&self, estimated_rows: Option<u64>) -> Result<Seen, Error> {
        let rows = self.options.sample.map(|sample| sample.rows(estimated_rows));
        let seen = match rows {
            Some(rows) if rows.zip(estimated_rows).is_none_or(|(rows, all)| rows < all) => {
                self.sample(rows, estimated_rows).await
            }
            _ => self.whole().await,
        };
        match seen {
            Ok(seen) => Ok(seen),
            Err(Trouble::Table(side, reason)) => Ok(self.unseen(format!("on the {side}: {reason}"))),
            Err(Trouble::All(error)) => Err(error),
        }
    }

    /// Looks again at the rows that differ.
    ///
    /// # Errors
    /// Where no other table can be compared either.
    pub(super) async fn look_again(&self, seen: &mut Seen) -> Result<(), Error> {
        let keys: Vec<Key> = seen.different.keys().cloned().collect();
        match self.look_up(&keys).await {
            Ok((source, target)) => {
                seen.different = differing(&source, &target);
                // A key may be found in other spellings of it, which were not asked for.
                seen.different.retain(|key, _| keys.binary_search(key).is_ok());
                seen.report.settled += (keys.len() - seen.different.len()) as u64;
                seen.is_open = !seen.different.is_empty();
            }
            // What was seen to differ does not become unknown by that.
            Err(Trouble::Table(..)) => seen.is_open = false,
            Err(Trouble::All(error)) => return Err(error),
        }
        Ok(())
    }

    /// Says what it comes to.
    pub(super) fn conclude(&self, seen: Seen) -> TableReport {
        let Seen { mut report, mut differences, different, .. } = seen;
        let plan = self.statements.plan;
        for (key, kind) in different {
            match kind {
                Kind::Missing => differences.missing += 1,
                Kind::Extra => differences.extra += 1,
                Kind::Changed => differences.changed += 1,
            }
            if differences.keys.len() < self.options.keys {
                let key = plan.key.iter().map(|part| part.name.clone()).zip(key).collect();
                differences.keys.push(KeyDifference { key, kind });
            }
        }
        if differences.known() > 0 || differences.not_narrowed > 0 {
            report.state = State::Different;
            let rows = if report.sample.is_some() { "rows of the sample differ" } else { "the rows differ" };
            let more = report.reason.map(|more| format!("; {more}")).unwrap_or_default();
            report.reason = Some(format!("{rows}{more}"));
            report.rows = Some(differences);
        } else if differences.ranges.different > 0 {
            report.notes.push("changes were under way: rows were counted at different moments".to_owned());
        }
        if !plan.differences.is_empty() {
            report.state = State::Different;
            let rows = report.reason.map(|rows| format!("; {rows}")).unwrap_or_default();
            report.reason = Some(format!("the columns differ{rows}"));
            report.columns = plan.differences.clone();
        }
        report.notes.extend(plan.notes.iter().cloned());
        report
    }

    fn unseen(&self, reason: impl Into<String>) -> Seen {
        TableReport::unseen(self.statements.plan.table.clone(), State::Unknown, reason).into()
    }

    async fn whole(&self) -> Result<Seen, Trouble> {
        let plan = self.statements.plan;
        let (source, target) =
            tokio::try_join!(self.digest(self.source, &plan.source), self.digest(self.target, &plan.target))?;
        let rows = |digest: &Digest| Some(digest.values().map(|sums| sums.rows).sum());
        let mut report = TableReport::new(plan.table.clone(), State::Equal);
        (report.source_rows, report.target_rows) = (rows(&source), rows(&target));
        if source == target {
            return Ok(report.into());
        }
        if plan.key.is_empty() {
            report.state = State::Different;
            report.reason = Some("the rows differ; there is no key to name them by".to_owned());
            return Ok(report.into());
        }
        let mut buckets: Vec<(i64, u64)> = Vec::new();
        for bucket in source.keys().chain(target.keys()).collect::<BTreeSet<_>>() {
            let (source, target) = (source.get(bucket), target.get(bucket));
            if source != target {
                buckets.push((*bucket, source.into_iter().chain(target).map(|sums| sums.rows).sum()));
            }
        }
        // Small ones first: they show the most.
        buckets.sort_by_key(|(_, rows)| *rows);
        let mut size = 0;
        let narrowed = buckets.iter().take_while(|(_, rows)| {
            let is_first = size == 0;
            size += rows;
            is_first || size <= NARROWED_ROWS
        });
        let narrowed: Vec<i64> = narrowed.map(|(bucket, _)| *bucket).collect();
        let mut seen = Seen::from(report);
        seen.differences.ranges = Ranges { all: BUCKETS.into(), different: buckets.len() as u64 };
        let rows = tokio::try_join!(
            self.rows(self.source, &plan.source, &narrowed),
            self.rows(self.target, &plan.target, &narrowed)
        );
        match rows {
            Ok((source, target)) => {
                seen.differences.not_narrowed = (buckets.len() - narrowed.len()) as u64;
                seen.different = differing(&source, &target);
                seen.is_open = seen.differences.not_narrowed == 0 && (1..=LOOKUP).contains(&seen.different.len());
            }
            // What was seen to differ does not become unknown by that.
            Err(Trouble::Table(side, reason)) => {
                seen.differences.not_narrowed = buckets.len() as u64;
                seen.report.reason = Some(format!("which ones is not known: on the {side}: {reason}"));
            }
            Err(trouble) => return Err(trouble),
        }
        Ok(seen)
    }

    /// Looks up rows of some pages of each side on both.
    async fn sample(&self, rows: Option<u64>, estimated: Option<u64>) -> Result<Seen, Trouble> {
        let plan = self.statements.plan;
        if plan.key.is_empty() {
            return Ok(self.unseen("there is no key to find the rows of a sample by; verify it without --sample"));
        }
        if !plan.source.key_is_indexed || !plan.target.key_is_indexed {
            return Ok(self.unseen(
                "an index to find the rows of a sample by is missing on one side; verify it without --sample",
            ));
        }
        let Some(rows) = rows else {
            let reason = "how many rows there are is not known; run ANALYZE on it, or sample a number of rows";
            return Ok(self.unseen(reason));
        };
        let extent = Extent::Some { rows: rows.min(SAMPLE_ROWS).div_ceil(2), seed: self.options.seed };
        let (source, target) = tokio::try_join!(
            self.keys(self.source, &plan.source, extent),
            self.keys(self.target, &plan.target, extent)
        )?;
        let keys: Vec<Key> = source.into_iter().chain(target).collect::<BTreeSet<_>>().into_iter().collect();
        let (source, target) = self.look_up(&keys).await?;
        let mut seen = Seen::from(TableReport::new(plan.table.clone(), State::Sampled));
        seen.report.sample = Some(Sampled { rows: keys.len() as u64, of_about: estimated });
        seen.different = differing(&source, &target);
        seen.is_open = (1..=LOOKUP).contains(&seen.different.len());
        Ok(seen)
    }

    async fn digest(&self, side: &Sessions, leaves: &Leaves) -> Result<Digest, Trouble> {
        let statement = |range: &Range<'_>| self.statements.digest(range);
        let take = |digest: &mut Digest, row: &Row| {
            let rows: i64 = row.try_get(1)?;
            let sum = |place| Ok::<i128, Unreadable>(row.try_get::<_, &str>(place)?.parse()?);
            let sums = Sums { rows: rows.unsigned_abs(), hashes: [sum(2)?, sum(3)?] };
            digest.entry(row.try_get(0)?).or_default().add(sums);
            Ok(())
        };
        let parts = side.scan(&leaves.tables, Extent::All, &statement, &[], &take, self.meter).await?;
        let mut digest = Digest::new();
        for (bucket, sums) in parts.into_iter().flatten() {
            digest.entry(bucket).or_default().add(sums);
        }
        Ok(digest)
    }

    async fn rows(&self, side: &Sessions, leaves: &Leaves, buckets: &[i64]) -> Result<Rows, Trouble> {
        let statement = |range: &Range<'_>| self.statements.rows(range);
        let columns = self.statements.plan.key.len();
        let take = |rows: &mut Rows, row: &Row| add(rows, row, columns);
        let parts = side.scan(&leaves.tables, Extent::All, &statement, &[&buckets], &take, self.meter).await?;
        let mut rows = Rows::new();
        for (key, sums) in parts.into_iter().flatten() {
            rows.entry(key).or_default().add(sums);
        }
        Ok(rows)
    }

    async fn keys(&self, side: &Sessions, leaves: &Leaves, extent: Extent) -> Result<Vec<Key>, Trouble> {
        let statement = |range: &Range<'_>| self.statements.keys(range);
        let columns = self.statements.plan.key.len();
        let take = |keys: &mut Vec<Key>, row: &Row| {
            keys.push(key(row, columns)?);
            Ok(())
        };
        let parts = side.scan(&leaves.tables, extent, &statement, &[], &take, self.meter).await?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// The rows with these keys, on both sides.
    async fn look_up(&self, keys: &[Key]) -> Result<(Rows, Rows), Trouble> {
        let plan = self.statements.plan;
        tokio::try_join!(
            self.look_up_on(self.source, &plan.source, keys),
            self.look_up_on(self.target, &plan.target, keys)
        )
    }

    async fn look_up_on(&self, side: &Sessions, leaves: &Leaves, keys: &[Key]) -> Result<Rows, Trouble> {
        let columns = self.statements.plan.key.len();
        let statement = self.statements.lookup(&leaves.from, &leaves.key_types);
        let mut rows = Rows::new();
        for keys in keys.chunks(LOOKUP) {
            let column = |place: usize| keys.iter().filter_map(|key| key.get(place).map(|value| &**value)).collect();
            let arrays: Vec<Vec<&str>> = (0..columns).map(column).collect();
            let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|it| it as &(dyn ToSql + Sync)).collect();
            for row in &side.query(&statement, &parameters).await? {
                add(&mut rows, row, columns).map_err(|error| side.unreadable(&*error))?;
            }
            side.wait(LOOKUP_BYTES * keys.len() as u64).await;
        }
        Ok(rows)
    }
}

/// How the rows differ, by key.
fn differing(source: &Rows, target: &Rows) -> BTreeMap<Key, Kind> {
    let mut different = BTreeMap::new();
    for (key, sums) in source {
        match target.get(key) {
            None => _ = different.insert(key.clone(), Kind::Missing),
            Some(there) if there != sums => _ = different.insert(key.clone(), Kind::Changed),
            Some(_) => {}
        }
    }
    let extra = target.keys().filter(|key| !source.contains_key(*key));
    different.extend(extra.map(|key| (key.clone(), Kind::Extra)));
    different
}

fn key(row: &Row, columns: usize) -> Result<Key, Unreadable> {
    (0..columns).map(|place| Ok(row.try_get::<_, &str>(place)?.into())).collect()
}

fn add(rows: &mut Rows, row: &Row, columns: usize) -> Result<(), Unreadable> {
    let hash = |place| row.try_get::<_, i64>(place).map(i128::from);
    let sums = Sums { rows: 1, hashes: [hash(columns)?, hash(columns + 1)?] };
    rows.entry(key(row, columns)?).or_default().add(sums);
    Ok(())
}
