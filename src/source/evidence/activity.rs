//! Who is at work on a database.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Unseen, piece, rows};
use crate::gate::{Activity, Kind, Piece, Writer};
use crate::lag::History;
use crate::lsn::Lsn;
use crate::source::error::ConnectError;
use crate::source::sql::SqlSession;

/// Three statements in this order, each of which sees what is there when it runs. A transaction that is prepared meanwhile
/// is a prepared one before its backend lets go of it, so it is in the first or in the second. The snapshot is taken last:
/// a transaction id that is held by nobody in the first two and is not below `xmax` was not committed when they ran, not
/// even by one that has written its commit and waits for a synchronous standby, which no snapshot shows. What had ended
/// before the first lies below the insert position, though nobody may have waited for its flush.
///
/// Of locks those are looked at that forbid reading a table, and what builds indexes or rewrites tables without them.
const ACTIVITY: &str = r"
    SELECT json_build_object('session', json_build_object(
        'pid', pid, 'name', application_name, 'user', usename, 'kind', backend_type, 'state', state, 'waits', wait_event,
        'open', extract(epoch FROM clock_timestamp() - xact_start)::float8, 'writes', backend_xid IS NOT NULL,
        'ours', usename = session_user AND application_name = current_setting('application_name'),
        'command', CASE WHEN pid IN (SELECT pid FROM ddl) THEN upper(substring(query FROM '^\s*(\w+(\s+\w+)?)')) END))
    FROM pg_stat_activity, (SELECT pg_backend_pid() AS own) AS session
    WHERE datname = ANY ({databases}) AND pid <> own;
    SELECT json_build_object('prepared', json_build_object(
        'name', gid, 'user', owner, 'open', extract(epoch FROM clock_timestamp() - prepared)::float8))
    FROM pg_prepared_xacts WHERE database = ANY ({databases});
    SELECT json_build_object('snapshot', json_build_object(
        'next', pg_snapshot_xmax(snapshot)::text::int8, 'quiet', pg_snapshot_xmin(snapshot) = pg_snapshot_xmax(snapshot),
        'inserted', CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END,
        'system', (SELECT system_identifier FROM pg_control_system()), 'timeline', CASE WHEN NOT pg_is_in_recovery()
            THEN ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int8 END,
        'sees', pg_has_role('pg_read_all_stats', 'USAGE')))
    FROM pg_current_snapshot() AS snapshot";

/// The backends with DDL under way.
const DDL: &str = r"
    WITH ddl AS MATERIALIZED (
        SELECT lock.pid FROM pg_locks AS lock JOIN pg_database AS own ON own.oid = lock.database
             LEFT JOIN pg_class AS class ON class.oid = lock.relation
        WHERE own.datname = ANY ({databases}) AND lock.locktype = 'relation' AND lock.mode = 'AccessExclusiveLock'
          AND lock.relation >= 16384 AND class.relpersistence IS DISTINCT FROM 't'
        UNION SELECT pid FROM pg_stat_progress_create_index UNION SELECT pid FROM pg_stat_progress_cluster)";

/// What walgate's role needs to see other roles' sessions.
pub(super) const GRANT_MONITOR: &str = "GRANT pg_monitor TO walgate's role";

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Row {
    Session(Session),
    Prepared(Prepared),
    Snapshot(Snapshot),
}

#[derive(Deserialize)]
struct Session {
    pid: i32,
    name: Option<String>,
    user: Option<String>,
    /// `backend_type`
    kind: Option<String>,
    state: Option<String>,
    waits: Option<String>,
    /// Seconds.
    open: Option<f64>,
    writes: bool,
    ours: Option<bool>,
    /// The first words of what it runs, where that is DDL.
    command: Option<String>,
}

#[derive(Deserialize)]
struct Prepared {
    name: String,
    user: Option<String>,
    open: Option<f64>,
}

#[derive(Deserialize)]
struct Snapshot {
    next: u64,
    quiet: bool,
    inserted: Option<Lsn>,
    system: i64,
    timeline: Option<u32>,
    sees: bool,
}

/// Whose work counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// That on the database of the session: what is done in others is not published there.
    Database,
    /// That on every database of the server: a physical standby has them all.
    Cluster,
}

impl Reach {
    /// How far a gate with a target of this kind reaches.
    pub fn of(kind: Kind) -> Reach {
        if kind == Kind::Standby { Reach::Cluster } else { Reach::Database }
    }

    fn databases(self) -> &'static str {
        match self {
            Reach::Database => "ARRAY[current_database()]",
            Reach::Cluster => "ARRAY(SELECT datname FROM pg_database)",
        }
    }
}

/// Who is at work on the database of the session, or on the whole server. Transactions of autovacuum do not count, for they
/// change nothing that is published; walgate's own sessions are no clients.
///
/// Needs `pg_monitor`: without it a session is seen, and that it writes, but neither what it is nor since when.
///
/// # Errors
/// If the session is lost.
pub async fn activity(session: &SqlSession, reach: Reach) -> Result<Piece<Activity>, ConnectError> {
    let begun = Instant::now();
    piece("pg_stat_activity", begun, look(session, reach).await)
}

async fn look(session: &SqlSession, reach: Reach) -> Result<Activity, Unseen> {
    let mut seen = Activity::default();
    let mut snapshot = None;
    for row in rows(session, &format!("{DDL}{ACTIVITY}").replace("{databases}", reach.databases())).await? {
        match row {
            Row::Session(session) => take(&mut seen, session),
            Row::Prepared(prepared) => {
                let state = "prepared".to_owned();
                let Prepared { name, user, open } = prepared;
                let writer = Writer { pid: None, name, user, state, open: duration(open) };
                older(&mut seen.oldest, &writer);
                seen.writers.push(writer);
            }
            Row::Snapshot(taken) => snapshot = Some(taken),
        }
    }
    let snapshot = snapshot.ok_or_else(|| super::unexpected("no snapshot".into()))?;
    if !snapshot.sees {
        return Err(Unseen::Reason(format!("other roles' sessions are hidden; {GRANT_MONITOR}")));
    }
    (seen.next_xid, seen.quiet, seen.inserted) = (snapshot.next, snapshot.quiet, snapshot.inserted);
    seen.history = Some(History { system: snapshot.system as u64, timeline: snapshot.timeline });
    Ok(seen)
}

fn take(seen: &mut Activity, session: Session) {
    let kind = session.kind.unwrap_or_default();
    if kind == "autovacuum worker" {
        return;
    }
    let is_client = kind == "client backend";
    let name = session.name.unwrap_or_default();
    let ours = session.ours == Some(true);
    if is_client && !ours {
        seen.clients.push(format!("{} {name}", session.pid).trim_end().to_owned());
    }
    // A transaction that waits for a synchronous standby is committed but for the answer.
    let state = match (is_client, session.state) {
        (true, Some(_)) if session.waits.as_deref() == Some("SyncRep") => {
            "waiting for a synchronous standby".to_owned()
        }
        (true, Some(state)) => state,
        _ => kind,
    };
    let writer = Writer { pid: Some(session.pid), name, user: session.user, state, open: duration(session.open) };
    if let Some(command) = session.command {
        seen.ddl.push(Writer { state: command, ..writer.clone() });
    }
    if !ours {
        older(&mut seen.oldest, &writer);
    }
    if session.writes {
        seen.writers.push(writer);
    }
}

/// Keeps the older of two transactions.
fn older(oldest: &mut Option<(Writer, Duration)>, writer: &Writer) {
    let Some(open) = writer.open else { return };
    if oldest.as_ref().is_none_or(|(_, longest)| open > *longest) {
        *oldest = Some((writer.clone(), open));
    }
}

fn duration(seconds: Option<f64>) -> Option<Duration> {
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok())
}
