//! How a server is set up, and what of its limits is in use.

use std::time::Instant;

use serde::Deserialize;

use super::activity::GRANT_MONITOR;
use super::{Unseen, piece, row};
use crate::gate::{Piece, Settings};
use crate::source::error::ConnectError;
use crate::source::sql::SqlSession;

/// Columns that are called otherwise in other versions are read through JSON. Background workers are all processes but
/// those that every server has.
const SETTINGS: &str = r"
    SELECT json_build_object(
        'major', current_setting('server_version_num')::int4 / 10000, 'wal_level', current_setting('wal_level'),
        'slots', json_build_array(current_setting('max_replication_slots')::int4,
                                  (SELECT count(*) FROM pg_replication_slots)),
        'senders', json_build_array(current_setting('max_wal_senders')::int4, (SELECT count(*) FROM pg_stat_replication)),
        'logical_workers', json_build_array(current_setting('max_logical_replication_workers')::int4,
                                            (SELECT count(pid) FROM pg_stat_subscription)),
        'workers', json_build_array(current_setting('max_worker_processes')::int4,
            (SELECT count(*) FROM pg_stat_activity WHERE backend_type NOT IN (
                 'client backend', 'walsender', 'autovacuum launcher', 'autovacuum worker', 'background writer',
                 'checkpointer', 'walwriter', 'walreceiver', 'startup', 'archiver', 'walsummarizer', 'slotsync worker',
                 'stats collector', 'logger', 'io worker', 'standalone backend', 'dead-end client backend'))),
        'origins', json_build_array(coalesce(current_setting('max_active_replication_origins', true),
                                             current_setting('max_replication_slots'))::int4,
                                    (SELECT count(*) FROM pg_replication_origin)),
        'encoding', pg_encoding_to_char(own.encoding),
        'collation', coalesce(to_jsonb(own) ->> 'datlocale', to_jsonb(own) ->> 'daticulocale', own.datcollate::text)
            || CASE to_jsonb(own) ->> 'datlocprovider' WHEN 'i' THEN ' (icu)' WHEN 'b' THEN ' (builtin)'
                                                       ELSE ' (libc)' END,
        'extensions', (SELECT coalesce(json_object_agg(extname, extversion), '{}') FROM pg_extension),
        'sees', pg_has_role('pg_read_all_stats', 'USAGE'))
    FROM pg_database AS own WHERE own.datname = current_database()";

#[derive(Deserialize)]
struct Row {
    #[serde(flatten)]
    settings: Settings,
    sees: bool,
}

/// How the server of the session is set up, and its database.
///
/// Needs `pg_monitor`, to count background workers.
///
/// # Errors
/// If the session is lost.
pub async fn settings(session: &SqlSession) -> Result<Piece<Settings>, ConnectError> {
    let begun = Instant::now();
    let seen = match look(session).await {
        Ok((_, false)) => Err(Unseen::Reason(format!("background workers are hidden; {GRANT_MONITOR}"))),
        seen => seen.map(|(settings, _)| settings),
    };
    piece("pg_settings", begun, seen)
}

/// The same for any role, and whether it sees all background workers: else their number is not what it seems.
pub(in crate::source) async fn look(session: &SqlSession) -> Result<(Settings, bool), Unseen> {
    let Row { settings, sees } = row(session, SETTINGS).await?;
    Ok((settings, sees))
}
