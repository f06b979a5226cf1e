//! The sessions with one server: they read a table in pieces, all of one snapshot, and give way to others.
//!
//! A piece is a range of pages, so it reads what a sequential scan would, without an index and whatever the key is; where
//! rows lie makes no difference to sums. The pieces of a table are read in a transaction, or in as many as there are
//! sessions, that share a snapshot: a row that is moved by an update meanwhile is seen once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::Row;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;

use super::plan::Leaf;
use super::report::Side;
use super::{Error, Meter, Options};
use crate::ident::TableName;
use crate::identity::Catalog;
use crate::source::Connector;
use crate::source::catalog::{self, failed};
use crate::source::sql::SqlSession;

/// What a piece reads, side tables included: well below a second's work.
const PIECE_BYTES: u64 = 32 << 20;

/// Pages that a sample takes at a time.
const SAMPLE_PAGES: u64 = 16;

/// Who waits for a lock that walgate holds up is waited for no longer than this.
const LOOK_FOR_WAITERS: Duration = Duration::from_secs(1);

/// The server's own limit on a statement strikes first; this one is for a server that is gone.
const GRACE: Duration = Duration::from_secs(15);

/// What bears on how values become text, and what would end or disturb a session. `search_path` was set before.
const SETTINGS: &str = "
SELECT set_config(name, value, false) FROM (VALUES
    ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'), ('extra_float_digits', '3'),
    ('bytea_output', 'hex'), ('lc_monetary', 'C'), ('quote_all_identifiers', 'off'), ('client_encoding', 'UTF8'),
    ('xmloption', 'content'), ('standard_conforming_strings', 'on'),
    ('row_security', 'off'), ('default_transaction_read_only', 'on'), ('application_name', 'walgate verify'),
    ('lock_timeout', '2s'), ('idle_in_transaction_session_timeout', '0'), ('transaction_timeout', '0'),
    ('max_parallel_workers_per_gather', '0'), ('jit', 'off'), ('enable_seqscan', 'off')) AS wanted (name, value)
WHERE name IN (SELECT name FROM pg_settings)";

/// Pages of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range<'a> {
    pub(super) table: &'a TableName,
    /// The first.
    pub(super) from: u64,
    /// The one behind the last; none to the end.
    pub(super) until: Option<u64>,
    /// About how much that is to read.
    bytes: u64,
}

/// Which of the ranges of a table are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    All,
    /// Some, chosen by a seed, that have about so many rows.
    Some {
        rows: u64,
        seed: u64,
    },
}

/// Adds a row to what was gathered.
type Take<'a, T> = dyn Fn(&mut T, &Row) -> Result<(), Unreadable> + Sync + 'a;

/// An answer that is not what was asked for.
pub(super) type Unreadable = Box<dyn std::error::Error + Send + Sync>;

/// Why a table cannot be read on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// This table, for this reason.
    Table(Side, String),
    /// Any table.
    All(Error),
}

/// Which server and database it is: when it was started, and the OID.
pub(super) type Identity = (String, u32);

/// The sessions with one side.
pub(super) struct Sessions {
    pub(super) side: Side,
    pub(super) identity: Identity,
    pub(super) encoding: String,
    sessions: Vec<SqlSession>,
    range_timeout: Duration,
    pace: Pace,
    /// How many of the sessions are in a transaction.
    open: AtomicUsize,
}

/// How fast may be read.
struct Pace {
    bytes_per_second: Option<u64>,
    /// When the next may begin.
    next: Mutex<Instant>,
}

impl Sessions {
    /// Logs in as often as is wanted, and reads the catalog.
    pub(super) async fn open(
        side: Side,
        connector: &Connector,
        options: &Options,
    ) -> Result<(Sessions, Catalog), Error> {
        let unreachable = |error| Error::Unreachable(side, error);
        let logins = (0..options.jobs.max(1)).map(|_| connector.sql());
        let sessions = try_join_all(logins).await.map_err(unreachable)?;
        let Some(first) = sessions.first() else { return Err(Error::Servers(side)) };
        // It looks whether a pooler is between, too.
        let catalog = catalog::read(first).await.map_err(unreachable)?;
        if let Some(denied) = catalog.denied {
            return Err(Error::Denied(side, denied));
        }
        let prepared = try_join_all(sessions.iter().map(|session| prepare(session, options.range_timeout)));
        let mut prepared = prepared.await.map_err(|error| unreachable(failed(&error)))?.into_iter();
        let Some((identity, encoding)) = prepared.next() else { return Err(Error::Servers(side)) };
        if prepared.any(|(other, _)| other != identity) {
            return Err(Error::Servers(side));
        }
        let pace =
            Pace { bytes_per_second: options.max_rate.filter(|rate| *rate > 0), next: Mutex::new(Instant::now()) };
        let (range_timeout, open) = (options.range_timeout, AtomicUsize::new(0));
        Ok((Sessions { side, identity, encoding, sessions, range_timeout, pace, open }, catalog))
    }

    /// Runs one statement.
    pub(super) async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Trouble> {
        match self.sessions.first() {
            Some(session) => self.ask(session, sql, parameters).await,
            None => Err(Trouble::All(Error::Servers(self.side))),
        }
    }

    /// Reads tables range by range, in one snapshot, and hands each row to `take` with what the session has gathered.
    pub(super) async fn scan<T: Default + Send>(
        &self,
        leaves: &[Leaf],
        extent: Extent,
        statement: &(dyn Fn(&Range<'_>) -> String + Sync),
        parameters: &[&(dyn ToSql + Sync)],
        take: &Take<'_, T>,
        meter: &Meter<'_>,
    ) -> Result<Vec<T>, Trouble> {
        // Of a scan that was given up, because the other side had failed.
        self.roll_back().await;
        let read = self.read(leaves, extent, statement, parameters, take, meter).await;
        if !matches!(read, Err(Trouble::All(_))) {
            self.roll_back().await;
        }
        read
    }

    /// Ends the transactions that are open.
    async fn roll_back(&self) {
        let open = self.sessions.iter().take(self.open.swap(0, Ordering::Relaxed));
        // What fails here shows in the next statement.
        join_all(open.map(|session| session.batch_execute("ROLLBACK"))).await;
    }

    async fn read<T: Default + Send>(
        &self,
        leaves: &[Leaf],
        extent: Extent,
        statement: &(dyn Fn(&Range<'_>) -> String + Sync),
        parameters: &[&(dyn ToSql + Sync)],
        take: &Take<'_, T>,
        meter: &Meter<'_>,
    ) -> Result<Vec<T>, Trouble> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let Some((leader, others)) = self.sessions.split_first() else { return Ok(Vec::new()) };
        self.open.store(1, Ordering::Relaxed);
        leader.batch_execute(BEGIN).await.map_err(|error| self.trouble(&error))?;
        let ranges = self.ranges(leader, leaves, extent).await?;
        meter.begin(ranges.iter().map(|range| range.bytes).sum());
        let others: Vec<&SqlSession> = others.iter().take(ranges.len().saturating_sub(1)).collect();
        if !others.is_empty() {
            let snapshot = self.ask(leader, "SELECT pg_export_snapshot()", &[]).await?;
            let snapshot = snapshot.first().map(|row| row.try_get::<_, String>(0));
            let snapshot = snapshot.transpose().map_err(|error| self.trouble(&error))?.unwrap_or_default();
            let adopt = format!("{BEGIN}; SET TRANSACTION SNAPSHOT '{snapshot}'");
            self.open.store(1 + others.len(), Ordering::Relaxed);
            let adopted = others.iter().map(|session| session.batch_execute(&adopt));
            try_join_all(adopted).await.map_err(|error| self.trouble(&error))?;
        }
        let oids: Vec<u32> = leaves.iter().map(|leaf| leaf.oid.0).collect();
        let ranges = Mutex::new(ranges);
        let work = std::iter::once(leader).chain(others).map(async |session| {
            let mut gathered = T::default();
            let mut looked = Instant::now();
            loop {
                let next = ranges.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(range) = next else { return Ok(gathered) };
                for row in self.ask(session, &statement(&range), parameters).await? {
                    take(&mut gathered, &row).map_err(|error| self.unreadable(&*error))?;
                }
                meter.done(range.bytes);
                let next = self.pace.next(range.bytes);
                loop {
                    if looked.elapsed() >= LOOK_FOR_WAITERS {
                        looked = Instant::now();
                        self.give_way(session, &oids).await?;
                    }
                    if next <= Instant::now() {
                        break;
                    }
                    sleep_until(next.min(looked + LOOK_FOR_WAITERS)).await;
                }
            }
        });
        try_join_all(work).await
    }

    /// The ranges to read. The sizes are asked for in the snapshot's transaction: what is added later it does not show.
    async fn ranges<'a>(
        &self,
        leader: &SqlSession,
        leaves: &'a [Leaf],
        extent: Extent,
    ) -> Result<VecDeque<Range<'a>>, Trouble> {
        const SIZES: &str = "
            SELECT oid, pg_relation_size(oid) / page, pg_table_size(oid), page,
                   CASE WHEN relpages > 0 THEN (reltuples / relpages)::float8 END
            FROM pg_class, (SELECT current_setting('block_size')::int8 AS page) AS setting WHERE oid = ANY($1)";
        let oids: Vec<u32> = leaves.iter().map(|leaf| leaf.oid.0).collect();
        let rows = self.ask(leader, SIZES, &[&oids]).await?;
        let mut sizes = Vec::new();
        for row in &rows {
            sizes.push(Size::read(row).map_err(|error| self.trouble(&error))?);
        }
        let mut ranges = VecDeque::new();
        for leaf in leaves {
            let Some(size) = sizes.iter().find(|size| size.oid == leaf.oid.0) else {
                return Err(Trouble::Table(self.side, format!("{} is not what it was when this began", leaf.name)));
            };
            let bytes_per_page = size.bytes.checked_div(size.pages).unwrap_or(size.page).max(size.page).max(1);
            let step = match extent {
                Extent::All => (PIECE_BYTES / bytes_per_page).max(1),
                Extent::Some { .. } => SAMPLE_PAGES,
            };
            // An empty table is read as well: that shows whether it may be.
            let mut next = Some(0);
            while let Some(from) = next {
                next = Some(from + step).filter(|next| *next < size.pages);
                let bytes = bytes_per_page.saturating_mul(next.unwrap_or(size.pages).saturating_sub(from));
                ranges.push_back(Range { table: &leaf.name, from, until: next, bytes });
            }
        }
        if let Extent::Some { rows, seed } = extent {
            // Where statistics are lacking: about what 160 bytes a row come to.
            let known: Vec<f64> = sizes.iter().filter_map(|size| size.rows_per_page).collect();
            let rows_per_page = if known.is_empty() { 50.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
            let wanted = rows as f64 / (rows_per_page.max(1.0) * SAMPLE_PAGES as f64);
            return Ok(chosen(ranges.into(), wanted.ceil() as usize, seed).into());
        }
        Ok(ranges)
    }

    /// Whoever wants to alter a table that is being read waits for that, and everybody behind him waits as well.
    async fn give_way(&self, session: &SqlSession, oids: &[u32]) -> Result<(), Trouble> {
        const WAITERS: &str = "
            SELECT FROM pg_locks WHERE locktype = 'relation' AND relation = ANY($1) AND NOT granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1";
        if self.ask(session, WAITERS, &[&oids]).await?.is_empty() {
            return Ok(());
        }
        let reason = "somebody waits to alter or lock it, and is not kept waiting; verify it again later";
        Err(Trouble::Table(self.side, reason.to_owned()))
    }

    async fn ask(
        &self,
        session: &SqlSession,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Trouble> {
        let limit = self.range_timeout.saturating_add(GRACE);
        match timeout(limit, session.query(sql, parameters)).await {
            Ok(answer) => answer.map_err(|error| self.trouble(&error)),
            Err(_) => Err(Trouble::All(Error::Silent(self.side, limit))),
        }
    }

    /// What an answer means that cannot be understood.
    pub(super) fn unreadable(&self, error: &(dyn std::error::Error + Send + Sync)) -> Trouble {
        Trouble::Table(self.side, format!("unexpected answer: {error}"))
    }

    /// What an error means for the table that is being read.
    pub(super) fn trouble(&self, error: &tokio_postgres::Error) -> Trouble {
        match error.as_db_error() {
            Some(server) if !matches!(server.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) => {
                let advice = match server.code() {
                    code if *code == SqlState::QUERY_CANCELED => format!(
                        "; a range may take {} (--range-timeout)",
                        humantime::format_duration(self.range_timeout)
                    ),
                    code if *code == SqlState::LOCK_NOT_AVAILABLE => "; somebody holds a lock on it".to_owned(),
                    code if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                        "; the role needs SELECT on it, and no row security in the way".to_owned()
                    }
                    _ => String::new(),
                };
                Trouble::Table(self.side, format!("{}{advice}", server.message()))
            }
            _ => Trouble::All(Error::Unreachable(self.side, failed(error))),
        }
    }

    /// What an error means where no table is being read.
    pub(super) fn refused(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Table(_, reason) => Error::Denied(self.side, reason),
            Trouble::All(error) => error,
        }
    }

    /// Throttles what is read by other means than a scan.
    pub(super) async fn wait(&self, bytes: u64) {
        sleep_until(self.pace.next(bytes)).await;
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("side", &self.side).field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Pace {
    /// When the next may begin, once so much has been read.
    fn next(&self, bytes: u64) -> Instant {
        let Some(rate) = self.bytes_per_second else { return Instant::now() };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *next
    }
}

/// How large a table is.
struct Size {
    oid: u32,
    pages: u64,
    bytes: u64,
    page: u64,
    rows_per_page: Option<f64>,
}

impl Size {
    fn read(row: &Row) -> Result<Size, tokio_postgres::Error> {
        let number =
            |place: usize| row.try_get::<_, Option<i64>>(place).map(|it| it.unwrap_or_default().unsigned_abs());
        let rows_per_page: Option<f64> = row.try_get(4)?;
        Ok(Size {
            oid: row.try_get(0)?,
            pages: number(1)?,
            bytes: number(2)?,
            page: number(3)?,
            rows_per_page: rows_per_page.filter(|rows| *rows > 0.0),
        })
    }
}

/// Makes a session see everything as text in one way.
async fn prepare(session: &SqlSession, range_timeout: Duration) -> Result<(Identity, String), tokio_postgres::Error> {
    session.batch_execute("SELECT pg_catalog.set_config('search_path', '', false)").await?;
    session.batch_execute(SETTINGS).await?;
    let limit = range_timeout.as_millis().clamp(1, i32::MAX.unsigned_abs().into());
    session.batch_execute(&format!("SET statement_timeout = {limit}")).await?;
    // Some systems cannot tell.
    let _ = session.batch_execute("SET client_connection_check_interval = '1s'").await;
    let row = session.query_one("SELECT current_setting('server_encoding')", &[]).await?;
    Ok((identity(session).await?, row.try_get(0)?))
}

/// Which server and database a session is with.
pub(super) async fn identity(session: &SqlSession) -> Result<Identity, tokio_postgres::Error> {
    const IDENTITY: &str = "
        SELECT extract(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text, oid
        FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
    let row = session.query_one(IDENTITY, &[]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// So many of these, in their order.
fn chosen<T>(all: Vec<T>, wanted: usize, seed: u64) -> Vec<T> {
    let mut left = all.len();
    let mut wanted = wanted.clamp(1, left.max(1));
    let mut random = seed;
    let mut chosen = Vec::new();
    // Each is taken with the odds that what is wanted has among what is left (Knuth's selection sampling).
    for it in all {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        if mixed(random) % (left as u64) < wanted as u64 {
            wanted -= 1;
            chosen.push(it);
        }
        left -= 1;
    }
    chosen
}

/// The output function of splitmix64.
pub(super) fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_as_many_ranges_as_are_wanted_and_the_same_by_the_same_seed() {
        for (all, wanted, is) in [(1000, 10, 10), (5, 10, 5), (0, 3, 0), (3, 0, 1)] {
            for seed in 0..50 {
                let taken = chosen((0..all).collect(), wanted, seed);
                assert_eq!((taken.len(), taken.is_sorted()), (is, true));
                assert_eq!(taken, chosen((0..all).collect(), wanted, seed));
            }
        }
        assert_ne!(chosen((0..1000).collect(), 10, 1), chosen((0..1000).collect::<Vec<i32>>(), 10, 2));
    }
}
