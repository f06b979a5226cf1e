//! Looks at a source once a second through one SQL session of its own: WAL position, clock, slots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Row, Statement};
use tokio_util::sync::CancellationToken;

use super::dsn::Host;
use super::error::{ConnectError, Failure, ServerError};
use super::sql::SqlSession;
use super::watched::{Health, Source};
use crate::ident::SlotName;
use crate::lag::{History, SlotKind, SlotRow, SourcePoll};
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long one look may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The first wait after a failed connection, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// One row, whatever else; with the slots, one each. Time is counted as the replication protocol does, and taken first:
/// what is written after it is not dated too young. The name of a WAL file begins with its timeline; a standby refuses
/// to name one.
const LOOK: &str = "
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 - 946684800000000 AS server_time,
           (SELECT system_identifier FROM pg_control_system()) AS system,
           CASE WHEN NOT standby THEN ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int4 END
               AS timeline,
           CASE WHEN standby THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_flush_lsn() END AS flushed,
           slot_name::text, slot_type, plugin::text, active, restart_lsn, wal_status, safe_wal_size
    FROM (SELECT pg_is_in_recovery() AS standby) AS server LEFT JOIN pg_replication_slots ON true";

/// Looks until `stop`. A lost or failed connection is tried again with growing pauses.
pub async fn poll(source: Arc<Source>, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        let mut pause = BACKOFF.0;
        loop {
            let error = match source.connector().sql().await {
                Ok(session) => {
                    if source.health() != Health::Reached {
                        tracing::info!(source = source.name(), host = %session.host(), "source reached");
                    }
                    source.choose(session.host().clone());
                    watch(&source, &session, &mut pause).await
                }
                Err(error) => error,
            };
            source.lag().lost();
            let known = source.health();
            source.reached(Err(&error));
            counter!("walgate_errors_total", "source" => source.name().to_owned(), "kind" => error.kind()).increment(1);
            if source.health() != known {
                tracing::warn!(source = source.name(), %error, "source cannot be watched; trying again");
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    })
    .await;
}

/// Looks through one session until it fails. The pause before the next session starts anew once a look succeeds.
async fn watch(source: &Source, session: &SqlSession, pause: &mut Duration) -> ConnectError {
    let statement = match timeout(DEADLINE, session.prepare(LOOK)).await {
        Ok(Ok(statement)) => statement,
        Ok(Err(error)) => return failed(&error),
        Err(_) => return Failure::Timeout(DEADLINE).into(),
    };
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let begun = Instant::now();
        match timeout(DEADLINE, look(session, &statement)).await {
            Ok(Ok(seen)) => {
                // As old as when it was asked for.
                source.lag().poll(seen, begun);
                source.reached(Ok(()));
                *pause = BACKOFF.0;
            }
            Ok(Err(error)) => return error,
            Err(_) => return Failure::Timeout(DEADLINE).into(),
        }
    }
}

async fn look(session: &SqlSession, statement: &Statement) -> Result<SourcePoll, ConnectError> {
    let rows = session.query(statement, &[]).await.map_err(|error| failed(&error))?;
    let mut seen: Option<SourcePoll> = None;
    for row in &rows {
        let seen = match &mut seen {
            Some(seen) => seen,
            None => seen.insert(read_server(row, session.host()).map_err(|error| failed(&error))?),
        };
        if let Some((name, slot)) = read_slot(row).map_err(|error| failed(&error))? {
            seen.slots.insert(name, slot);
        }
    }
    seen.ok_or_else(|| Failure::Protocol { during: "watching", problem: "no row".into() }.into())
}

fn read_server(row: &Row, host: &Host) -> Result<SourcePoll, tokio_postgres::Error> {
    Ok(SourcePoll {
        server: host.to_string().into(),
        history: History {
            system: row.try_get::<_, i64>("system")? as u64,
            timeline: row.try_get::<_, Option<i32>>("timeline")?.map(|timeline| timeline as u32),
        },
        flushed: lsn(row.try_get("flushed")?),
        server_time: PgTimestamp(row.try_get("server_time")?),
        slots: Default::default(),
    })
}

fn read_slot(row: &Row) -> Result<Option<(SlotName, SlotRow)>, tokio_postgres::Error> {
    let name: Option<&str> = row.try_get("slot_name")?;
    let Some(Ok(name)) = name.map(str::parse) else { return Ok(None) };
    let kind = match row.try_get("slot_type")? {
        "physical" => SlotKind::Physical,
        _ => SlotKind::Logical,
    };
    let slot = SlotRow {
        kind,
        plugin: row.try_get("plugin")?,
        active: row.try_get("active")?,
        restart_lsn: row.try_get::<_, Option<PgLsn>>("restart_lsn")?.map(lsn),
        wal_status: row.try_get("wal_status")?,
        safe_wal_size: row.try_get("safe_wal_size")?,
    };
    Ok(Some((name, slot)))
}

fn lsn(position: PgLsn) -> Lsn {
    Lsn(position.into())
}

fn failed(error: &tokio_postgres::Error) -> ConnectError {
    match error.as_db_error() {
        Some(error) => Failure::Server(ServerError::from(error)).into(),
        None => Failure::Closed("watching").into(),
    }
}
