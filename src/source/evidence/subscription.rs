//! The subscriptions of a target: PostgreSQL's own, and those of the extension pglogical.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;

use super::{Unseen, pglogical, piece, row, rows};
use crate::gate::{Piece, Subscription};
use crate::ident::TableName;
use crate::lsn::Lsn;
use crate::source::error::ConnectError;
use crate::source::sql::SqlSession;

/// What is named column by column, for `subconninfo` is hidden. `{skip}`, `{stats}` and `{since}` are what PostgreSQL 14 does
/// not have; columns of newer versions are read through JSON. The apply worker is the one that is for no single table and has
/// no leader. One that has just started has received nothing: in the loop of a failing one that is nearly always so.
const SUBSCRIPTIONS: &str = r"
    SELECT json_build_object(
        'name', subscription.subname, 'origin', 'pg_' || subscription.oid, 'slot', subscription.subslotname,
        'publications', subscription.subpublications, 'enabled', subscription.subenabled, 'started', worker.subid IS NOT NULL,
        'received', worker.received_lsn, 'skip', {skip}, 'stats', {stats}, 'since', {since},
        'tables', (SELECT coalesce(json_agg(json_build_array(schema.nspname, class.relname, state.srsubstate)), '[]')
                   FROM pg_subscription_rel AS state JOIN pg_class AS class ON class.oid = state.srrelid
                        JOIN pg_namespace AS schema ON schema.oid = class.relnamespace
                   WHERE state.srsubid = subscription.oid))
    FROM pg_subscription AS subscription JOIN pg_database AS own ON own.oid = subscription.subdbid
         LEFT JOIN pg_stat_subscription AS worker
             ON worker.subid = subscription.oid AND worker.pid IS NOT NULL AND worker.relid IS NULL
             AND to_jsonb(worker) ->> 'leader_pid' IS NULL
    WHERE own.datname = current_database() ORDER BY subscription.subname";

/// `{skip}`, `{stats}` and `{since}` from PostgreSQL 15 on, and before. Who sets the counts back is dated; a crash loses them
/// without that, and dates those of the whole server anew (`pgstat_reset_after_failure`).
const SINCE_15: [&str; 3] = [
    "nullif(subscription.subskiplsn, '0/0')",
    "(SELECT to_jsonb(stats) - 'subid' - 'subname' - 'stats_reset'
      FROM pg_stat_subscription_stats AS stats WHERE stats.subid = subscription.oid)",
    "(SELECT json_build_array(stats.stats_reset, (SELECT stats_reset FROM pg_stat_bgwriter))::text
      FROM pg_stat_subscription_stats AS stats WHERE stats.subid = subscription.oid)",
];
const BEFORE_15: [&str; 3] = ["NULL", "NULL", "NULL"];

/// How far each replication origin has applied. The function, and not the view over it, which needs another right as well.
const ORIGINS: &str = "SELECT json_build_array(external_id, remote_lsn) FROM pg_show_replication_origin_status()";

/// What walgate's role needs to see origins: only superusers have it of themselves.
const GRANT_ORIGINS: &str =
    "GRANT EXECUTE ON FUNCTION pg_catalog.pg_show_replication_origin_status() TO walgate's role, in this database";

/// Whether the extension pglogical is there.
const PGLOGICAL: &str = "SELECT to_json(EXISTS (SELECT FROM pg_extension WHERE extname = 'pglogical'))";

#[derive(Deserialize)]
struct Row {
    name: String,
    origin: String,
    /// Made without connecting, it may be called as no slot can be.
    slot: Option<String>,
    publications: Vec<String>,
    enabled: bool,
    /// There is an apply worker.
    started: bool,
    /// How far it has heard from the source.
    received: Option<Lsn>,
    skip: Option<Lsn>,
    /// What was counted: `apply_error_count`, `sync_error_count`, and from 18 on `confl_…`.
    stats: Option<BTreeMap<String, u64>>,
    /// Since when.
    since: Option<String>,
    /// Schema, name and `srsubstate`.
    tables: Vec<(Box<str>, Box<str>, String)>,
}

/// The subscriptions of the database of the session, its own and pglogical's.
///
/// Needs EXECUTE on `pg_show_replication_origin_status()`; with pglogical, also USAGE on its schema and SELECT on
/// `pglogical.subscription` and `pglogical.local_sync_status`.
///
/// # Errors
/// If the session is lost.
pub async fn subscriptions(session: &SqlSession) -> Result<Piece<Vec<Subscription>>, ConnectError> {
    let begun = Instant::now();
    piece("pg_subscription", begun, look(session).await)
}

/// The same for any role, but for how far they have applied: PostgreSQL's own, and pglogical's.
pub(in crate::source) async fn states(session: &SqlSession) -> Result<[Vec<Subscription>; 2], Unseen> {
    let (own, others) = read(session).await?;
    Ok([own.into_iter().map(Subscription::from).collect(), others])
}

async fn read(session: &SqlSession) -> Result<(Vec<Row>, Vec<Subscription>), Unseen> {
    let [skip, stats, since] =
        if session.server_major().is_some_and(|major| major < 15) { BEFORE_15 } else { SINCE_15 };
    let sql = SUBSCRIPTIONS.replace("{skip}", skip).replace("{stats}", stats).replace("{since}", since);
    let found: Vec<Row> = rows(session, &sql).await?;
    let others = if row(session, PGLOGICAL).await? { pglogical::subscriptions(session).await? } else { Vec::new() };
    Ok((found, others))
}

async fn look(session: &SqlSession) -> Result<Vec<Subscription>, Unseen> {
    let (found, others) = read(session).await?;
    if found.is_empty() && others.is_empty() {
        return Ok(Vec::new());
    }
    // Read last: what is applied by then was received before.
    let origins: Vec<(String, Lsn)> = rows(session, ORIGINS).await.map_err(|unseen| unseen.mended_by(GRANT_ORIGINS))?;
    let origins: BTreeMap<String, Lsn> = origins.into_iter().filter(|(_, applied)| applied.valid().is_some()).collect();
    let own = found.into_iter().map(|row| {
        let applied = origins.get(&row.origin).copied();
        Subscription { applied, ..row.into() }
    });
    let others = others.into_iter().map(|other| {
        // pglogical's origins are called as the slots.
        let applied = other.slot.as_ref().and_then(|slot| origins.get(slot.as_str()).copied());
        let received = [applied.map(|applied| (applied, Instant::now())), None];
        Subscription { applied, received, ..other }
    });
    Ok(own.chain(others).collect())
}

impl From<Row> for Subscription {
    fn from(row: Row) -> Subscription {
        let sum = |what: &str| {
            let stats = row.stats.as_ref()?.iter().filter(|(name, _)| name.contains(what));
            stats.map(|(_, count)| *count).reduce(|sum, count| sum + count)
        };
        let status = match (row.started, row.received) {
            (false, _) => "no apply worker runs",
            (true, None) => "its apply worker has just started: if it stays so, it fails again and again",
            (true, Some(_)) => "running",
        };
        Subscription {
            name: row.name,
            slot: row.slot.and_then(|name| name.parse().ok()),
            enabled: row.enabled,
            running: row.started && row.received.is_some(),
            status: Some(status.into()),
            publications: row.publications,
            tables: row.tables.into_iter().map(|(schema, name, state)| (TableName { schema, name }, state)).collect(),
            applied: None,
            received: [row.received.map(|received| (received, Instant::now())), None],
            errors: sum("_error_count"),
            conflicts: sum("confl_"),
            counted_since: row.since,
            baseline: None,
            skip: row.skip,
        }
    }
}
