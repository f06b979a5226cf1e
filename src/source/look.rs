//! One look at a source through an SQL session: what is asked, and how the answer is read.

use std::time::Duration;

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Row, Statement};

use super::error::{ConnectError, Failure, ServerError};
use super::replication::is_counted_on;
use super::sql::SqlSession;
use crate::ident::SlotName;
use crate::lag::{History, Reader, SlotKind, SlotRow, SourcePoll};
use crate::lsn::Lsn;
use crate::time::PgTimestamp;
use crate::wire::command::{Command, StartReplication};

/// The oldest major version that is understood.
pub(super) const OLDEST: u32 = 14;

/// How walgate's own slots begin: temporary ones, which are nobody's lag.
pub(super) const OWN_SLOTS: &str = "walgate_";

/// One row, whatever else; with the slots, one each. Time is counted as the replication protocol does, and taken first:
/// what is written after it is not dated too young; the slots are read last, so that an acknowledgement is never older
/// than the position it is compared with. The name of a WAL file begins with its timeline; a standby refuses to name
/// one. Columns that only newer versions have are read through JSON. Texts of other databases may be in another encoding:
/// they are passed by, or read as bytes.
const LOOK: &str = r"
    WITH server AS MATERIALIZED (
        SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 - 946684800000000 AS server_time,
               CASE WHEN standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS flushed,
               CASE WHEN NOT standby
                   THEN ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int4 END AS timeline,
               standby, (SELECT system_identifier FROM pg_control_system()) AS system,
               (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8 - 946684800000000 AS running_since,
               current_database()::text AS connected, pg_backend_pid() AS backend,
               least(current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots),
                     current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_replication)) AS spare,
               current_setting('synchronous_standby_names') AS synchronous, current_setting('application_name') AS us,
               CASE WHEN pg_snapshot_xmin(snapshot) = pg_snapshot_xmax(snapshot)
                         AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL)
                   THEN pg_snapshot_xmax(snapshot)::text::int8 END AS still
        FROM (SELECT pg_is_in_recovery() AS standby, pg_current_snapshot() AS snapshot) AS recovery)
    SELECT server.*, slot.slot_name::text, slot.slot_type, slot.plugin::text, textsend(slot.database::text), slot.temporary,
           slot.two_phase, slot.active, slot.active_pid, slot.restart_lsn, slot.confirmed_flush_lsn, slot.wal_status,
           slot.safe_wal_size, to_jsonb(slot) ->> 'invalidation_reason' AS invalidation_reason,
           (extract(epoch FROM (to_jsonb(slot) ->> 'inactive_since')::timestamptz) * 1000000)::int8 - 946684800000000
               AS inactive_since,
           CASE WHEN current_setting('server_version_num')::int4 >= 150000 THEN stats.total_txns END AS total_txns,
           sender.application_name, host(sender.client_addr) AS client_addr, sender.sent_lsn, sender.flush_lsn,
           sender.replay_lsn, CASE WHEN activity.datname = current_database() THEN activity.query END AS query
    FROM server
         LEFT JOIN pg_replication_slots AS slot ON NOT (slot.temporary AND starts_with(slot.slot_name::text, $1))
         LEFT JOIN pg_stat_replication_slots AS stats ON stats.slot_name = slot.slot_name
         LEFT JOIN pg_stat_replication AS sender ON sender.pid = slot.active_pid
         LEFT JOIN pg_stat_activity AS activity ON activity.pid = slot.active_pid";

/// When each WAL file was last written to, of those that this server has written: one that was restored from a backup
/// bears the time of that. Files are named by timeline, and the position in units of their size.
const WRITTEN: &str = r"
    SELECT name, (extract(epoch FROM modification) * 1000000)::int8 - 946684800000000 AS written,
           (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size') AS size
    FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND modification > pg_postmaster_start_time() ORDER BY name";

/// How long the server may take for that.
const WRITTEN_WITHIN: &str = "500ms";

/// What walgate's role may do.
const RIGHTS: &str = "
    SELECT has_function_privilege('pg_ls_waldir()', 'EXECUTE') AND NOT pg_is_in_recovery() AS lists_wal,
           pg_has_role('pg_read_all_stats', 'USAGE') AS reads_stats";

/// What walgate's role may do.
#[derive(Clone, Copy)]
pub(super) struct Rights {
    lists_wal: bool,
    reads_stats: bool,
}

/// A session that looks.
pub(super) struct Looker {
    session: SqlSession,
    statement: Statement,
    /// The backend that answered the first look.
    backend: Option<i32>,
}

impl Looker {
    /// Makes a session ready to look.
    ///
    /// # Errors
    /// If the server is too old, or refuses the question.
    pub(super) async fn new(session: SqlSession) -> Result<Looker, ConnectError> {
        if let Some(major) = session.server_major().filter(|major| *major < OLDEST) {
            return Err(Failure::Version(major).into());
        }
        session.harden().await.map_err(|error| failed(&error))?;
        let statement = session.prepare(LOOK).await.map_err(|error| failed(&error))?;
        Ok(Looker { session, statement, backend: None })
    }

    /// The session that it looks through.
    pub(super) fn session(&self) -> &SqlSession {
        &self.session
    }

    /// Looks.
    ///
    /// # Errors
    /// If the session is lost, or is seen to be shared out among several backends by a pooler: one look says nothing
    /// about the next then.
    pub(super) async fn look(&mut self) -> Result<SourcePoll, ConnectError> {
        let rows = self.session.query(&self.statement, &[&OWN_SLOTS]).await.map_err(|error| failed(&error))?;
        let first = rows.first().ok_or(Failure::Protocol { during: "watching", problem: "no row".into() })?;
        let backend = first.try_get("backend").map_err(|error| failed(&error))?;
        if self.backend.is_some_and(|known| known != backend) {
            return Err(Failure::Pooler.into());
        }
        self.backend = Some(backend);
        read(&rows, &self.session).map_err(|error| failed(&error))
    }

    /// Whether somebody between here and the server answered the login in its place: the process id that it gave is not
    /// the backend's.
    fn is_relayed(&self) -> bool {
        let backend = self.backend.and_then(|backend| u32::try_from(backend).ok());
        self.session.pid().zip(backend).is_some_and(|(told, is)| told != is)
    }

    /// What is not as it should be and keeps walgate from seeing all there is, each with the mend.
    pub(super) fn remarks(&self, rights: Rights) -> Vec<&'static str> {
        let mut remarks = Vec::new();
        if self.is_relayed() {
            remarks.push(
                "something between walgate and the server, like a connection pooler, answers its logins: connect it to the \
                 server itself",
            );
        }
        if !rights.reads_stats {
            remarks.push(
                "walgate's role does not see what consumers have asked for, nor since when WAL is there: GRANT pg_monitor \
                 TO it",
            );
        }
        remarks
    }

    /// Whether walgate's role sees how far every reader is.
    ///
    /// # Errors
    /// If the session is lost.
    pub(super) async fn sees_readers(&self) -> Result<bool, ConnectError> {
        Ok(self.rights().await?.reads_stats)
    }

    /// What walgate's role may do.
    ///
    /// # Errors
    /// If the session is lost.
    pub(super) async fn rights(&self) -> Result<Rights, ConnectError> {
        let rights = self.session.query_one(RIGHTS, &[]).await.map_err(|error| failed(&error))?;
        let may = |what| rights.try_get(what).map_err(|error| failed(&error));
        Ok(Rights { lists_wal: may("lists_wal")?, reads_stats: may("reads_stats")? })
    }

    /// When WAL reached which position, oldest first, as the times of its files tell: the WAL clock of the time before
    /// the first look. Nothing where the role may not list them, on a standby, whose files tell when it received them, and
    /// where listing them takes long, as of very many.
    ///
    /// # Errors
    /// If the session is lost.
    pub(super) async fn written(
        &self,
        rights: Rights,
        history: History,
        flushed: Lsn,
    ) -> Result<Vec<(Lsn, PgTimestamp)>, ConnectError> {
        let Some(timeline) = history.timeline.filter(|_| rights.lists_wal) else { return Ok(Vec::new()) };
        self.limit_statements(WRITTEN_WITHIN).await?;
        let rows = self.session.query(WRITTEN, &[]).await;
        self.limit_statements("0").await?;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) if error.as_db_error().is_some() => return Ok(Vec::new()),
            Err(error) => return Err(failed(&error)),
        };
        let files = rows.iter().filter_map(|row| {
            let (of, end) = place(row.try_get("name").ok()?, row.try_get::<_, i64>("size").ok()?)?;
            (of == timeline && end <= flushed).then_some((end, PgTimestamp(row.try_get("written").ok()?)))
        });
        Ok(not_later_than_the_next(files.collect()))
    }

    async fn limit_statements(&self, to: &str) -> Result<(), ConnectError> {
        let set = format!("SELECT pg_catalog.set_config('statement_timeout', '{to}', false)");
        self.session.batch_execute(&set).await.map_err(|error| failed(&error))
    }
}

/// Timeline and end of a WAL file (`XLogFileName` in `xlog_internal.h`).
fn place(name: &str, size: i64) -> Option<(u32, Lsn)> {
    let part = |range| u32::from_str_radix(name.get(range)?, 16).ok();
    let (timeline, high, segment) = (part(0..8)?, part(8..16)?, part(16..24)?);
    let start = (u64::from(high) << 32).checked_add(u64::from(segment).checked_mul(u64::try_from(size).ok()?)?)?;
    Some((timeline, Lsn(start.checked_add(u64::try_from(size).ok()?)?)))
}

/// A file may have been touched after it was full, but not before: the times of those behind it bound its own.
fn not_later_than_the_next(mut files: Vec<(Lsn, PgTimestamp)>) -> Vec<(Lsn, PgTimestamp)> {
    let mut next = PgTimestamp(i64::MAX);
    for (_, written) in files.iter_mut().rev() {
        next = next.min(*written);
        *written = next;
    }
    files
}

fn read(rows: &[Row], session: &SqlSession) -> Result<SourcePoll, tokio_postgres::Error> {
    let mut seen: Option<SourcePoll> = None;
    for row in rows {
        let seen = match &mut seen {
            Some(seen) => seen,
            None => seen.insert(read_server(row, session)?),
        };
        if let Some((name, slot)) = read_slot(row)? {
            seen.slots.insert(name, slot);
        }
    }
    Ok(seen.expect("there is a first row"))
}

fn read_server(row: &Row, session: &SqlSession) -> Result<SourcePoll, tokio_postgres::Error> {
    Ok(SourcePoll {
        server: session.host().to_string().into(),
        database: row.try_get("connected")?,
        history: History {
            system: row.try_get::<_, i64>("system")? as u64,
            timeline: row.try_get::<_, Option<i32>>("timeline")?.map(|timeline| timeline as u32),
        },
        running_since: PgTimestamp(row.try_get("running_since")?),
        in_recovery: row.try_get("standby")?,
        // A standby that has replayed nothing yet says nothing: an error, and not the beginning of time.
        flushed: lsn(row.try_get("flushed")?),
        server_time: PgTimestamp(row.try_get("server_time")?),
        spare: u32::try_from(row.try_get::<_, i64>("spare")?).unwrap_or(0),
        still: row.try_get::<_, Option<i64>>("still")?.map(|xid| xid as u64),
        counts_us: is_counted_on(row.try_get("synchronous")?, row.try_get("us")?),
        slots: Default::default(),
    })
}

fn read_slot(row: &Row) -> Result<Option<(SlotName, SlotRow)>, tokio_postgres::Error> {
    let name: Option<&str> = row.try_get("slot_name")?;
    let Some(Ok(name)) = name.map(str::parse) else { return Ok(None) };
    let position = |column| Ok::<_, tokio_postgres::Error>(row.try_get::<_, Option<PgLsn>>(column)?.map(lsn));
    let kind = match row.try_get("slot_type")? {
        "physical" => SlotKind::Physical,
        _ => SlotKind::Logical,
    };
    let slot = SlotRow {
        kind,
        plugin: row.try_get("plugin")?,
        database: row.try_get::<_, Option<&[u8]>>("textsend")?.map(|name| String::from_utf8_lossy(name).into_owned()),
        temporary: row.try_get("temporary")?,
        two_phase: row.try_get("two_phase")?,
        active: row.try_get("active")?,
        active_pid: row.try_get("active_pid")?,
        restart_lsn: position("restart_lsn")?,
        confirmed_flush: position("confirmed_flush_lsn")?,
        wal_status: row.try_get("wal_status")?,
        safe_wal_size: row.try_get("safe_wal_size")?,
        invalidation_reason: row.try_get("invalidation_reason")?,
        inactive_since: row.try_get::<_, Option<i64>>("inactive_since")?.map(PgTimestamp),
        decoded_transactions: row.try_get::<_, Option<i64>>("total_txns")?.and_then(|count| u64::try_from(count).ok()),
        reader: Reader {
            application_name: row.try_get("application_name")?,
            client_addr: row.try_get("client_addr")?,
            sent: position("sent_lsn")?,
            flush: position("flush_lsn")?,
            replay: position("replay_lsn")?,
            command: row.try_get::<_, Option<&str>>("query")?.and_then(started_by),
        },
    };
    Ok(Some((name, slot)))
}

/// The command of a walsender's activity, if it is whole: it may be cut short (`track_activity_query_size`), and then does
/// not parse, or lacks the option that pgoutput demands.
fn started_by(query: &str) -> Option<StartReplication> {
    match Command::parse(query) {
        Ok(Command::StartReplication(start)) if start.mode.option("proto_version").is_some() => Some(start),
        _ => None,
    }
}

fn lsn(position: PgLsn) -> Lsn {
    Lsn(position.into())
}

/// How long one look may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) fn failed(error: &tokio_postgres::Error) -> ConnectError {
    match error.as_db_error() {
        Some(error) => Failure::Server(ServerError::from(error)).into(),
        None if error.is_closed() => Failure::Closed("watching").into(),
        None => Failure::Protocol { during: "watching", problem: error.to_string() }.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_file_is_placed_by_its_name() {
        let megabytes = 1 << 20;
        assert_eq!(place("00000002000000010000000A", 16 * megabytes), Some((2, Lsn(0x1_0b00_0000))));
        assert_eq!(place("000000010000000000000003", megabytes), Some((1, Lsn(0x40_0000))));
        assert_eq!(place("0000000100000000", megabytes), None);
    }

    #[test]
    fn a_file_that_was_touched_later_is_not_dated_by_that() {
        let files = [(1, 10), (2, 90), (3, 30)].map(|(end, time)| (Lsn(end), PgTimestamp(time)));
        let dated = not_later_than_the_next(files.to_vec());
        assert_eq!(dated.iter().map(|(_, time)| time.0).collect::<Vec<_>>(), [10, 30, 30]);
    }

    #[test]
    fn a_command_that_was_cut_short_is_not_taken_for_a_whole_one() {
        let whole = "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p\"')";
        assert!(started_by(whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(started_by(&whole[..len]), None, "{}", &whole[..len]);
        }
    }
}
