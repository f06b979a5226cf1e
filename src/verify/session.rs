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

use super::pages::{self, Extent, Range, Size};
use super::plan::Leaf;
use super::report::Side;
use super::{Error, Meter, Options};
use crate::identity::Catalog;
use crate::source::Connector;
use crate::source::catalog::{self, failed};
use crate::source::sql::SqlSession;

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
        let oids: Vec<u32> = leaves.iter().map(|leaf| leaf.oid.0).collect();
        let rows = self.ask(leader, Size::SQL, &[&oids]).await?;
        let sizes: Result<Vec<Size>, _> = rows.iter().map(Size::read).collect();
        pages::ranges(leaves, &sizes.map_err(|error| self.trouble(&error))?, extent)
            .map_err(|leaf| Trouble::Table(self.side, format!("{} is not what it was when this began", leaf.name)))
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
