//! Compares one table: sums of ranges of keys first, then the rows of the ranges that differ, then once more the rows that
//! differ, which may only have been under way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::plan::Leaves;
use super::report::{KeyDifference, Kind, Ranges, RowDifferences, Sampled, State, TableReport};
use super::session::{Extent, Range, Sessions, Trouble, Unreadable};
use super::statement::{BUCKETS, Statements};
use super::{Error, Meter, Options};

/// Rows of differing ranges that are compared one by one.
const NARROWED_ROWS: u64 = 200_000;

/// Keys that are looked up in one statement.
const LOOKUP: usize = 1000;

/// Rows that differ are looked at again if they are not more than this; the pause before.
const AGAIN: (usize, Duration) = (LOOKUP, Duration::from_millis(500));

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

impl Comparison<'_> {
    /// # Errors
    /// Where no other table can be compared either.
    pub(super) async fn run(&self, estimated_rows: Option<u64>) -> Result<TableReport, Error> {
        let plan = self.statements.plan;
        let sampled = self.options.sample.and_then(|sample| match (sample.rows(estimated_rows), estimated_rows) {
            (Some(rows), Some(all)) if rows >= all => None,
            (rows, _) => Some(rows),
        });
        let report = match sampled {
            None => self.whole().await,
            Some(rows) => self.sample(rows, estimated_rows).await,
        };
        let mut report = match report {
            Ok(report) => report,
            Err(Trouble::Table(side, reason)) => {
                TableReport::unseen(plan.table.clone(), State::Unknown, format!("on the {side}: {reason}"))
            }
            Err(Trouble::All(error)) => return Err(error),
        };
        report.notes.extend(plan.notes.iter().cloned());
        report.columns = plan.differences.clone();
        if !report.columns.is_empty() {
            let rows = report.reason.map(|reason| format!("; {reason}")).unwrap_or_default();
            report.reason = Some(format!("the columns differ{rows}"));
            report.state = State::Different;
        }
        Ok(report)
    }

    async fn whole(&self) -> Result<TableReport, Trouble> {
        let plan = self.statements.plan;
        let (source, target) =
            tokio::try_join!(self.digest(self.source, &plan.source), self.digest(self.target, &plan.target))?;
        let rows = |digest: &Digest| Some(digest.values().map(|sums| sums.rows).sum());
        let mut report = TableReport::new(plan.table.clone(), State::Equal);
        (report.source_rows, report.target_rows) = (rows(&source), rows(&target));
        if source == target {
            return Ok(report);
        }
        report.state = State::Different;
        if plan.key.is_empty() {
            report.reason = Some("the rows differ; there is no key to name them by".to_owned());
            return Ok(report);
        }
        let mut buckets: Vec<(i64, Sums, Sums)> = Vec::new();
        for bucket in source.keys().chain(target.keys()).collect::<BTreeSet<_>>() {
            let of = |digest: &Digest| digest.get(bucket).copied().unwrap_or_default();
            if of(&source) != of(&target) {
                buckets.push((*bucket, of(&source), of(&target)));
            }
        }
        // Small ones first: they show the most.
        buckets.sort_by_key(|(_, source, target)| source.rows + target.rows);
        let mut size = 0;
        let narrowed = buckets.iter().take_while(|(_, source, target)| {
            let is_first = size == 0;
            size += source.rows + target.rows;
            is_first || size <= NARROWED_ROWS
        });
        let narrowed: Vec<i64> = narrowed.map(|(bucket, ..)| *bucket).collect();
        let (source, target) = tokio::try_join!(
            self.rows(self.source, &plan.source, &narrowed),
            self.rows(self.target, &plan.target, &narrowed)
        )?;
        let left = buckets.split_off(narrowed.len());
        let mut differences = RowDifferences {
            ranges: Ranges { all: BUCKETS.into(), different: (narrowed.len() + left.len()) as u64 },
            not_narrowed: left.len() as u64,
            ..RowDifferences::default()
        };
        report.settled = self.judge(&mut differences, source, target, left.is_empty()).await?;
        if differences.known() == 0 && left.is_empty() {
            report.state = State::Equal;
            report.notes.push("changes were under way: the rows were counted at different moments".to_owned());
        } else {
            report.reason = Some("the rows differ".to_owned());
            report.rows = Some(differences);
        }
        Ok(report)
    }

    /// Looks up rows of some pages of each side on both.
    async fn sample(&self, rows: Option<u64>, estimated: Option<u64>) -> Result<TableReport, Trouble> {
        let plan = self.statements.plan;
        let unseen = |reason| Ok(TableReport::unseen(plan.table.clone(), State::Unknown, reason));
        if plan.key.is_empty() {
            return unseen("there is no key to find the rows of a sample by; verify it without --sample");
        }
        if !plan.source.key_is_indexed || !plan.target.key_is_indexed {
            return unseen(
                "an index to find the rows of a sample by is missing on one side; verify it without --sample",
            );
        }
        let Some(rows) = rows else {
            return unseen("how many rows there are is not known; run ANALYZE on it, or sample a number of rows");
        };
        let extent = Extent::Some { rows: rows.div_ceil(2), seed: self.options.seed };
        let (source, target) = tokio::try_join!(
            self.keys(self.source, &plan.source, extent),
            self.keys(self.target, &plan.target, extent)
        )?;
        let keys: Vec<Key> = source.into_iter().chain(target).collect::<BTreeSet<_>>().into_iter().collect();
        let (source, target) = self.look_up(&keys).await?;
        let mut differences = RowDifferences::default();
        let mut report = TableReport::new(plan.table.clone(), State::Sampled);
        report.settled = self.judge(&mut differences, source, target, true).await?;
        report.sample = Some(Sampled { rows: keys.len() as u64, of_about: estimated });
        if differences.known() > 0 {
            report.state = State::Different;
            report.reason = Some("rows of the sample differ".to_owned());
            report.rows = Some(differences);
        }
        Ok(report)
    }

    /// Names what differs, once it has been given the time to settle; says how many rows have.
    async fn judge(
        &self,
        differences: &mut RowDifferences,
        source: Rows,
        target: Rows,
        is_all: bool,
    ) -> Result<u64, Trouble> {
        let mut different = differing(&source, &target);
        let first = different.len();
        let until = Instant::now() + self.options.settle;
        if is_all && first <= AGAIN.0 {
            while !different.is_empty() && Instant::now() < until {
                sleep(AGAIN.1.min(self.options.settle)).await;
                let keys: Vec<Key> = different.keys().cloned().collect();
                let (source, target) = match self.look_up(&keys).await {
                    Ok(rows) => rows,
                    // What was seen to differ does not become unknown by that.
                    Err(Trouble::Table(..)) => break,
                    Err(trouble) => return Err(trouble),
                };
                different = differing(&source, &target);
                // A key may be found in other spellings of it, which were not asked for.
                different.retain(|key, _| keys.binary_search(key).is_ok());
            }
        }
        let names: Vec<Box<str>> = self.statements.plan.key.iter().map(|part| part.name.clone()).collect();
        for (key, kind) in &different {
            match kind {
                Kind::Missing => differences.missing += 1,
                Kind::Extra => differences.extra += 1,
                Kind::Changed => differences.changed += 1,
            }
            if differences.keys.len() < self.options.keys {
                let key = names.iter().cloned().zip(key.iter().cloned()).collect();
                differences.keys.push(KeyDifference { key, kind: *kind });
            }
        }
        Ok((first - different.len()) as u64)
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
