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

const FLUSHED: &str = "SELECT pg_current_wal_flush_lsn() AS flushed";

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
    let history = before.history.ok_or_else(|| unseen("of which server that is, it does not say".into()))?;
    // A standby names no insert position.
    let Some(inserted) = before.inserted else {
        let (barrier, flushed) = (Barrier::Unwritten(Lsn::INVALID), Lsn::INVALID);
        let after = before.clone();
        return Ok(Taken { before, barrier, flushed, after, history, forks: None, in_recovery: true, at });
    };
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
        Barrier::Unwritten(inserted)
    };
    let row = session.query_one(FLUSHED, &[]).await.map_err(|error| failed(&error))?;
    let flushed: PgLsn = row.try_get("flushed").map_err(|error| failed(&error))?;
    let after = at_work(&session, reach).await?;
    let history = after.history.unwrap_or(history);
    let forks = forks(connector, session.host(), history).await;
    Ok(Taken { before, barrier, flushed: Lsn(flushed.into()), after, history, forks, in_recovery: false, at })
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
        Piece::Unseen(problem) => Err(unseen(problem)),
    }
}

fn unseen(problem: String) -> ConnectError {
    Failure::Protocol { during: "looking who writes", problem }.into()
}
