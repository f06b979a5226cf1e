//! Takes a fence on a source, step by step, in one session.

use tokio_postgres::types::PgLsn;

use super::connect::Connector;
use super::dsn::Host;
use super::error::{ConnectError, Failure};
use super::evidence::activity::{Reach, activity};
use super::evidence::ready;
use super::evidence::timeline::timeline_of;
use super::look::failed;
use super::sql::SqlSession;
use crate::gate::{Activity, Barrier, Fork, Piece, Taken};
use crate::lag::History;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// The barrier's prefix.
const PREFIX: &str = "walgate/barrier";

/// Commits a message for nobody. The position that the function returns is not the commit's.
const BARRIER: &str = "
    SELECT nonce, pg_current_xact_id()::text::int8 AS xid, at
    FROM (SELECT gen_random_uuid()::text AS nonce) AS drawn, pg_logical_emit_message(true, $1, nonce) AS at";

/// Where the server is, once what stands before it is done.
const PLACE: &str = "
    SELECT pg_is_in_recovery() AS standby, (SELECT system_identifier FROM pg_control_system()) AS system,
           CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END AS inserted,
           CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END AS flushed,
           CASE WHEN NOT pg_is_in_recovery()
               THEN ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int4 END AS timeline";

struct Place {
    history: History,
    in_recovery: bool,
    inserted: Lsn,
    flushed: Lsn,
}

/// Takes a fence: who writes, the barrier (or, without `barrier`, nothing is written), the flush position, who writes.
/// Whether that proves anything, [`Fence::take`](crate::gate::Fence::take) says.
///
/// # Errors
/// If the server cannot be reached, or refuses a step.
pub async fn take_fence(connector: &Connector, reach: Reach, barrier: bool) -> Result<Taken, ConnectError> {
    let session = connector.sql().await?;
    ready(&session).await?;
    let at = PgTimestamp::now();
    let before = at_work(&session, reach).await?;
    let first = place(&session).await?;
    if first.in_recovery {
        let Place { history, in_recovery, flushed, .. } = first;
        let barrier = Barrier::Unwritten(flushed);
        return Ok(Taken { after: before.clone(), before, barrier, flushed, history, forks: None, in_recovery, at });
    }
    // Of a fence that is refused anyway nothing is to be left in the WAL.
    let barrier = if barrier && before.writers.is_empty() {
        let written = async {
            let row = session.query_one(BARRIER, &[&PREFIX]).await?;
            let xid: i64 = row.try_get("xid")?;
            let at: PgLsn = row.try_get("at")?;
            Ok(Barrier::Written { nonce: row.try_get("nonce")?, xid: xid as u64, at: Lsn(at.into()) })
        };
        written.await.map_err(|error: tokio_postgres::Error| failed(&error))?
    } else {
        Barrier::Unwritten(first.inserted)
    };
    let Place { history, in_recovery, flushed, .. } = place(&session).await?;
    let after = at_work(&session, reach).await?;
    let forks = forks(connector, session.host(), history).await;
    Ok(Taken { before, barrier, flushed, after, history, forks, in_recovery, at })
}

/// Where the timelines before its own ended; `None` if it does not say.
async fn forks(connector: &Connector, host: &Host, history: History) -> Option<Vec<Fork>> {
    // Before the first there is none.
    if history.timeline == Some(1) {
        return Some(Vec::new());
    }
    let seen = timeline_of(connector, host).await;
    seen.history.value().filter(|seen| **seen == history)?;
    seen.forks.value().cloned()
}

async fn at_work(session: &SqlSession, reach: Reach) -> Result<Activity, ConnectError> {
    match activity(session, reach).await? {
        Piece::Seen { value, .. } => Ok(value),
        Piece::Unseen(problem) => Err(Failure::Protocol { during: "looking who writes", problem }.into()),
    }
}

async fn place(session: &SqlSession) -> Result<Place, ConnectError> {
    let read = async {
        let row = session.query_one(PLACE, &[]).await?;
        let lsn = |column| {
            let lsn: Option<PgLsn> = row.try_get(column)?;
            Ok::<_, tokio_postgres::Error>(lsn.map_or(Lsn::INVALID, |lsn| Lsn(lsn.into())))
        };
        Ok(Place {
            history: History {
                system: row.try_get::<_, i64>("system")? as u64,
                timeline: row.try_get::<_, Option<i32>>("timeline")?.map(|timeline| timeline as u32),
            },
            in_recovery: row.try_get("standby")?,
            inserted: lsn("inserted")?,
            flushed: lsn("flushed")?,
        })
    };
    read.await.map_err(|error| failed(&error))
}
