//! Where a server is: its history, its position, its slots; as a standby, what it receives.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;

use super::activity::GRANT_MONITOR;
use super::{Unseen, piece, row};
use crate::gate::{Piece, Receiver, SlotSummary, Standing};
use crate::ident::SlotName;
use crate::lag::History;
use crate::lsn::Lsn;
use crate::source::error::ConnectError;
use crate::source::look::OWN_SLOTS;
use crate::source::sql::SqlSession;

/// The name of a WAL file begins with its timeline; a standby refuses to name one, and the control file
/// (`pg_control_checkpoint`) tells the timeline of before a promotion until the next checkpoint.
const STANDING: &str = r"
    SELECT json_build_object(
        'system', (SELECT system_identifier::text FROM pg_control_system()),
        'timeline', CASE WHEN NOT standby
            THEN ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int4 END,
        'standby', standby, 'flushed', flushed,
        'slots', (SELECT coalesce(json_object_agg(slot_name, json_build_object(
                      'active', active, 'retained', CASE WHEN restart_lsn IS NOT NULL
                          THEN greatest(pg_wal_lsn_diff(flushed, restart_lsn), 0)::int8 END)), '{}')
                  FROM pg_replication_slots WHERE NOT (temporary AND starts_with(slot_name::text, '{own}'))))
    FROM (SELECT standby, CASE WHEN standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS flushed
          FROM (SELECT pg_is_in_recovery() AS standby) AS recovery) AS position";

/// Replayed, and not received: what is received is not readable yet, and may never be.
const RECEIVER: &str = r"
    SELECT json_build_object(
        'receives', receiver.pid IS NOT NULL, 'status', receiver.status, 'timeline', receiver.received_tli,
        'slot', receiver.slot_name, 'replayed', pg_last_wal_replay_lsn())
    FROM (SELECT) AS one LEFT JOIN pg_stat_wal_receiver AS receiver ON true";

#[derive(Deserialize)]
struct Row {
    system: String,
    timeline: Option<u32>,
    standby: bool,
    flushed: Option<Lsn>,
    slots: BTreeMap<SlotName, Slot>,
}

#[derive(Deserialize)]
struct Slot {
    active: bool,
    retained: Option<u64>,
}

#[derive(Deserialize)]
struct ReceiverRow {
    receives: bool,
    status: Option<String>,
    timeline: Option<u32>,
    slot: Option<SlotName>,
    replayed: Option<Lsn>,
}

/// Where the server of the session is, but for the timeline of a standby, which only a replication connection tells
/// ([`timeline`](super::timeline)). Needs no right.
///
/// # Errors
/// If the session is lost.
pub async fn standing(session: &SqlSession) -> Result<Piece<Standing>, ConnectError> {
    let begun = Instant::now();
    piece("pg_replication_slots", begun, look(session).await)
}

/// What the server of the session receives and replays; no status where no WAL receiver runs.
///
/// Needs `pg_monitor`.
///
/// # Errors
/// If the session is lost.
pub async fn receiver(session: &SqlSession) -> Result<Piece<Receiver>, ConnectError> {
    let begun = Instant::now();
    piece("pg_stat_wal_receiver", begun, look_at_receiver(session).await)
}

async fn look(session: &SqlSession) -> Result<Standing, Unseen> {
    let Row { system, timeline, standby, flushed, slots } = row(session, &STANDING.replace("{own}", OWN_SLOTS)).await?;
    let system = system.parse::<i64>().map_err(|_| super::unexpected(format!("system identifier {system}")))?;
    let slots = slots.into_iter().map(|(name, Slot { active, retained })| (name, SlotSummary { active, retained }));
    Ok(Standing {
        // The server shows it as a signed number.
        history: History { system: system as u64, timeline },
        in_recovery: standby,
        flushed: flushed.ok_or_else(|| Unseen::Reason("the standby has replayed nothing yet".into()))?,
        slots: slots.collect(),
    })
}

async fn look_at_receiver(session: &SqlSession) -> Result<Receiver, Unseen> {
    let ReceiverRow { receives, status, timeline, slot, replayed } = row(session, RECEIVER).await?;
    if receives && status.is_none() {
        return Err(Unseen::Reason(format!("what the WAL receiver does is hidden; {GRANT_MONITOR}")));
    }
    Ok(Receiver { status, timeline, slot, replayed })
}
