//! What a standby receives and replays.

use std::time::Instant;

use serde::Deserialize;

use super::activity::GRANT_MONITOR;
use super::{Unseen, piece, row};
use crate::gate::{Piece, Receiver};
use crate::ident::SlotName;
use crate::lsn::Lsn;
use crate::source::error::ConnectError;
use crate::source::sql::SqlSession;

/// Replayed, and not received: what is received is not readable yet, and may never be.
const RECEIVER: &str = r"
    SELECT json_build_object(
        'receives', receiver.pid IS NOT NULL, 'status', receiver.status, 'timeline', receiver.received_tli,
        'slot', receiver.slot_name, 'replayed', pg_last_wal_replay_lsn())
    FROM (SELECT) AS one LEFT JOIN pg_stat_wal_receiver AS receiver ON true";

#[derive(Deserialize)]
struct Row {
    receives: bool,
    status: Option<String>,
    timeline: Option<u32>,
    slot: Option<SlotName>,
    replayed: Option<Lsn>,
}

/// What the server of the session receives and replays; no status where no WAL receiver runs.
///
/// Needs `pg_monitor`.
///
/// # Errors
/// If the session is lost.
pub async fn receiver(session: &SqlSession) -> Result<Piece<Receiver>, ConnectError> {
    let begun = Instant::now();
    piece("pg_stat_wal_receiver", begun, look(session).await)
}

async fn look(session: &SqlSession) -> Result<Receiver, Unseen> {
    let Row { receives, status, timeline, slot, replayed } = row(session, RECEIVER).await?;
    if receives && status.is_none() {
        return Err(Unseen::Reason(format!("what the WAL receiver does is hidden; {GRANT_MONITOR}")));
    }
    Ok(Receiver { status, timeline, slot, replayed })
}
