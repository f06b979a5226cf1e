//! Reads what [`doctor`](crate::doctor) judges: one session, a statement a subject, and for a moment a replication connection.
//!
//! Each statement has a limit of its own, and what the server refuses is a part that is not seen, with the reason; only a
//! session that is lost is an error. Of what others run no more than the first words are read, and of the connection strings
//! of subscriptions no more than where they lead is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::catalog;
use super::connect::Connector;
use super::dsn::{Dsn, Environment, File};
use super::error::{ConnectError, Failure};
use super::evidence::{self, Unseen, ready, receiver, rows, settings, subscription, timeline};
use super::look::{DEADLINE, Looker};
use super::slots::within;
use super::sql::SqlSession;
use crate::doctor::{Checkup, Identity, Limit, Look, Publication, Server, Slot, Subscribed};
use crate::gate::{Piece, Settings, Subscription};
use crate::ident::{Identifier, SlotName};
use crate::identity::{self, Catalog, Scope, Survey};
use crate::lag::SourcePoll;

/// The settings that are shown and judged; none of them can hold a secret.
const SHOWN: &str = "'archive_mode', 'deadlock_timeout', 'hot_standby_feedback', 'idle_in_transaction_session_timeout', \
    'idle_replication_slot_timeout', 'logical_decoding_work_mem', 'max_active_replication_origins', 'max_connections', \
    'max_logical_replication_workers', 'max_prepared_transactions', 'max_replication_slots', \
    'max_slot_wal_keep_size', 'max_standby_streaming_delay', 'max_sync_workers_per_subscription', 'max_wal_senders', \
    'max_wal_size', 'max_worker_processes', 'sync_replication_slots', 'synchronous_standby_names', \
    'synchronized_standby_slots', 'transaction_timeout', 'wal_keep_size', 'wal_level', 'wal_receiver_timeout', \
    'wal_segment_size', 'wal_sender_timeout'";

/// What everybody may see.
const BASIS: &str = "
    SELECT json_build_object(
        'role', current_user, 'superuser', current_setting('is_superuser')::bool,
        'sees', pg_has_role('pg_read_all_stats', 'USAGE'),
        'settings', (SELECT json_object_agg(name, current_setting(name)) FROM pg_settings WHERE name IN ({shown})),
        'pending_restart', (SELECT coalesce(json_agg(name), '[]') FROM pg_settings
                            WHERE pending_restart AND name IN ({shown})),
        'replication_roles', (SELECT coalesce(json_agg(rolname), '[]') FROM pg_roles AS login WHERE rolcanlogin AND (
                rolreplication OR rolsuper
                OR EXISTS (SELECT FROM pg_roles AS own WHERE own.rolname = 'rds_replication'
                           AND pg_has_role(login.oid, own.oid, 'MEMBER')))),
        'replication_group', EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication'),
        'synced', (SELECT coalesce(json_agg(slot_name), '[]') FROM pg_replication_slots AS slot
                   WHERE to_jsonb(slot) ->> 'synced' = 'true'))";

const SENDERS: &str = "
    SELECT json_build_object('pid', pid, 'name', application_name, 'user', usename, 'address', host(client_addr),
                             'state', state, 'sync_state', sync_state)
    FROM pg_stat_replication ORDER BY pid";

/// The first words of what somebody runs: letters only, so no value is among them.
const WORDS: &str = r"upper(substring(activity.query FROM '^\s*([A-Za-z_]+(\s+[A-Za-z_]+)?)'))";

/// Autovacuum gives way by itself, and parallel workers are of their leader's transaction.
const TRANSACTIONS: &str = "
    SELECT json_build_object(
        'pid', pid, 'name', application_name, 'user', usename, 'database', datname, 'kind', backend_type, 'state', state,
        'waits_for', wait_event_type || ' ' || wait_event, 'writes', backend_xid IS NOT NULL,
        'open_seconds', extract(epoch FROM clock_timestamp() - xact_start)::float8, 'command', {words})
    FROM pg_stat_activity AS activity
    WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND leader_pid IS NULL AND backend_type <> 'autovacuum worker'
    ORDER BY xact_start";

const PREPARED: &str = "
    SELECT json_build_object('gid', gid, 'user', owner, 'database', database,
                             'open_seconds', extract(epoch FROM clock_timestamp() - prepared)::float8)
    FROM pg_prepared_xacts ORDER BY prepared";

/// A logical slot has no `confirmed_flush_lsn` before its creation has come to its end (`DecodingContextFindStartpoint` in
/// `logical.c`).
const WAITS: &str = "
    SELECT json_build_object(
        'pid', lock.pid, 'name', activity.application_name, 'user', activity.usename, 'database', activity.datname,
        'on', lock.locktype, 'mode', lock.mode,
        'table', CASE WHEN lock.database = own.oid THEN lock.relation::regclass::text END,
        'seconds', extract(epoch FROM clock_timestamp() - lock.waitstart)::float8,
        'behind', to_json(pg_blocking_pids(lock.pid)),
        'creates_slot', EXISTS (SELECT FROM pg_replication_slots AS slot WHERE slot.active_pid = lock.pid
                                AND slot.slot_type = 'logical' AND slot.confirmed_flush_lsn IS NULL),
        'command', {words})
    FROM pg_locks AS lock LEFT JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
         JOIN pg_database AS own ON own.datname = current_database()
    WHERE NOT lock.granted ORDER BY lock.waitstart";

const WAL: &str = "
    SELECT json_build_object('files', count(*), 'bytes', coalesce(sum(size), 0)::int8,
        'max_wal_size', pg_size_bytes(current_setting('max_wal_size')),
        'wal_keep_size', pg_size_bytes(current_setting('wal_keep_size')))
    FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";

const ARCHIVER: &str = "
    SELECT json_build_object('on', current_setting('archive_mode') <> 'off', 'archived', archived_count,
        'configured', current_setting('archive_command') NOT IN ('', '(disabled)')
                      OR coalesce(current_setting('archive_library', true), '') <> '',
        'failed', failed_count, 'archived_ago', extract(epoch FROM clock_timestamp() - last_archived_time)::float8,
        'failed_ago', extract(epoch FROM clock_timestamp() - last_failed_time)::float8, 'failed_file', last_failed_wal)
    FROM pg_stat_archiver";

/// Whom each subscription asks. Only superusers may read it.
const SOURCES: &str = "
    SELECT json_build_array(subscription.subname, subscription.subconninfo)
    FROM pg_subscription AS subscription JOIN pg_database AS own ON own.oid = subscription.subdbid
    WHERE own.datname = current_database()";

#[derive(Deserialize)]
struct Basis {
    role: String,
    superuser: bool,
    /// Other roles' sessions.
    sees: bool,
    settings: BTreeMap<String, String>,
    pending_restart: BTreeSet<String>,
    replication_roles: BTreeSet<String>,
    replication_group: bool,
    synced: BTreeSet<SlotName>,
}

/// Looks at the server and the database of a connection string. `scope` says by whose rules its published tables are judged.
///
/// # Errors
/// If no host gives a session, or it is lost, the server is too old, or does not answer in time.
pub async fn checkup(connector: &Connector, scope: &Scope) -> Result<Checkup, ConnectError> {
    let session = connector.sql().await?;
    let mut looker = within(DEADLINE, Looker::new(session)).await?;
    within(DEADLINE, ready(looker.session())).await?;
    let seen = within(DEADLINE, looker.look()).await?;
    let session = looker.session();

    let basis = within(DEADLINE, async { basis(session).await }).await?;
    let role = Identifier(&basis.role);
    let monitor = format!("GRANT pg_monitor TO {role};");
    let limits = within(DEADLINE, async { look(settings::look(session).await, None) }).await?;
    let transactions = match basis.sees {
        true => all(session, &TRANSACTIONS.replace("{words}", WORDS), None).await?,
        false => Look::missing("other roles' sessions are hidden", Some(monitor.clone())),
    };
    let receiver = match seen.in_recovery {
        true => Some(within(DEADLINE, receiver::receiver(session)).await?.into()),
        false => None,
    };
    let replication =
        within(DEADLINE, async { Ok(timeline::timeline_of(connector, session.host()).await.history) }).await;
    let replication = match replication {
        Ok(history) => Look::from(history).map(|_| true),
        Err(error) => Look::missing(error.to_string(), None),
    };
    let subscriptions = subscriptions(session).await?;
    let senders = all(session, SENDERS, None).await?;
    let prepared = all(session, PREPARED, None).await?;
    let waits = all(session, &WAITS.replace("{words}", WORDS), None).await?;
    let wal = one(all(session, WAL, Some(&monitor)).await?);
    let archiver = one(all(session, ARCHIVER, None).await?);
    // It sets limits of its own.
    let (publications, identity) = published(session, scope).await?;
    Ok(Checkup {
        senders,
        transactions,
        prepared,
        waits,
        wal,
        archiver,
        receiver,
        subscriptions,
        limits: limits.map(|(settings, sees)| limits_of(&settings, sees)),
        replication,
        server: Server {
            host: session.host().to_string(),
            version: session.server_version().unwrap_or_default().to_owned(),
            major: session.server_major().unwrap_or_default(),
            database: seen.database.clone(),
            role: basis.role.clone(),
            superuser: basis.superuser,
            in_recovery: seen.in_recovery,
            system: seen.history.system.to_string(),
            timeline: seen.history.timeline,
            flushed: seen.flushed,
            time: seen.server_time,
        },
        slots: slots(&seen, &basis.synced),
        replication_roles: basis.replication_roles,
        replication_group: basis.replication_group,
        settings: basis.settings,
        pending_restart: basis.pending_restart,
        publications,
        identity,
    })
}

/// What is published, and what is wrong with it. Tables are not read for it: a server that is ill is spared.
async fn published(
    session: &SqlSession,
    scope: &Scope,
) -> Result<(Look<Vec<Publication>>, Look<Identity>), ConnectError> {
    let catalog = match catalog::read(session).await {
        Ok(catalog) => catalog,
        Err(error) => {
            let why = error.server_error().map(ToString::to_string).ok_or(error)?;
            return Ok((Look::missing(why.clone(), None), Look::missing(why, None)));
        }
    };
    let publications = match &catalog.denied {
        Some(denied) => Look::missing(denied.clone(), None),
        None => Look::Seen(catalog.publications.iter().map(|publication| summary(&catalog, publication)).collect()),
    };
    let audit = identity::audit(&catalog, &Survey::default(), scope);
    let identity = Identity { findings: audit.findings, tables: audit.tables, rule_sets: scope.rule_sets.clone() };
    Ok((publications, Look::Seen(identity)))
}

fn summary(catalog: &Catalog, publication: &identity::catalog::Publication) -> Publication {
    Publication {
        name: publication.name.to_string(),
        all_tables: publication.all_tables,
        operations: publication.operations(),
        tables: catalog.published(publication).len(),
    }
}

async fn basis(session: &SqlSession) -> Result<Basis, ConnectError> {
    evidence::row(session, &BASIS.replace("{shown}", SHOWN)).await.map_err(|unseen| match unseen {
        Unseen::Lost(error) => error,
        Unseen::Denied(problem) | Unseen::Reason(problem) => Failure::Protocol { during: "looking", problem }.into(),
    })
}

/// All rows that a statement answers with. `mend` gives the right that the role may lack.
async fn all<T: DeserializeOwned>(
    session: &SqlSession,
    sql: &str,
    mend: Option<&str>,
) -> Result<Look<Vec<T>>, ConnectError> {
    within(DEADLINE, async { look(rows(session, sql).await, mend) }).await
}

fn one<T>(rows: Look<Vec<T>>) -> Look<T> {
    match rows {
        Look::Seen(mut rows) => rows.pop().map_or_else(|| Look::missing("the server says nothing", None), Look::Seen),
        Look::Unseen(unseen) => Look::Unseen(unseen),
    }
}

fn look<T>(seen: Result<T, Unseen>, mend: Option<&str>) -> Result<Look<T>, ConnectError> {
    match seen {
        Ok(seen) => Ok(Look::Seen(seen)),
        Err(Unseen::Denied(why)) => Ok(Look::missing(why, mend.map(str::to_owned))),
        Err(Unseen::Reason(why)) => Ok(Look::missing(why, None)),
        Err(Unseen::Lost(error)) => Err(error),
    }
}

impl<T> From<Piece<T>> for Look<T> {
    fn from(piece: Piece<T>) -> Look<T> {
        match piece {
            Piece::Seen { value, .. } => Look::Seen(value),
            Piece::Unseen(why) => Look::missing(why, None),
        }
    }
}

fn limits_of(settings: &Settings, sees: bool) -> BTreeMap<&'static str, Limit> {
    let origins = if settings.major < 18 { None } else { Some(("max_active_replication_origins", settings.origins)) };
    let limits = [
        ("max_replication_slots", settings.slots),
        ("max_wal_senders", settings.senders),
        ("max_logical_replication_workers", settings.logical_workers),
        ("max_worker_processes", settings.workers),
    ];
    let limit = |name, (most, used)| {
        // Background workers are of other roles.
        let used = if name == "max_worker_processes" && !sees { None } else { Some(used) };
        (name, Limit { most, used })
    };
    limits.into_iter().chain(origins).map(|(name, limit_of)| limit(name, limit_of)).collect()
}

fn slots(seen: &SourcePoll, synced: &BTreeSet<SlotName>) -> Vec<Slot> {
    let reports = seen.slot_reports("main").into_iter();
    reports.map(|report| Slot { synced: synced.contains(&report.slot), report }).collect()
}

async fn subscriptions(session: &SqlSession) -> Result<Look<Vec<Subscribed>>, ConnectError> {
    let found = within(DEADLINE, async { look(subscription::states(session).await, None) }).await?;
    let [own, others] = match found {
        Look::Seen(found) => found,
        Look::Unseen(unseen) => return Ok(Look::Unseen(unseen)),
    };
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    if !own.is_empty()
        && let Look::Seen(read) = all::<(String, String)>(session, SOURCES, None).await?
    {
        sources = read.into_iter().filter_map(|(name, source)| Some((name, place(&source)?))).collect();
    }
    let subscribed = |pglogical| {
        let sources = &sources;
        move |subscription: Subscription| {
            let source = if pglogical { None } else { sources.get(&subscription.name).cloned() };
            Subscribed { subscription, pglogical, source }
        }
    };
    Ok(Look::Seen(own.into_iter().map(subscribed(false)).chain(others.into_iter().map(subscribed(true))).collect()))
}

/// Where a connection string leads, without what else is in it.
fn place(connection: &str) -> Option<String> {
    Dsn::resolve(Some(connection), &Elsewhere).ok().as_ref().map(ToString::to_string)
}

/// The environment of a server, of which nothing is known here.
struct Elsewhere;

impl Environment for Elsewhere {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn home(&self) -> Option<PathBuf> {
        None
    }

    fn user(&self) -> Option<String> {
        None
    }

    fn read(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    /// Certificates that it names are there.
    fn file(&self, _: &Path) -> Option<File> {
        Some(File { is_regular: true, mode: 0o600, owned_by_root: false })
    }
}
