//! Reads the catalog of a database into the model of [`identity`], and looks at the values of tables that
//! need a key.
//!
//! The catalog comes as the answer to one statement, so all of it is of one snapshot, whatever DDL runs meanwhile. Nothing in
//! it opens a table: expressions are looked at as trees, for printing them (`pg_get_expr`) would wait for whoever locks
//! their table. Each row is an object in JSON with the names of the model: what a version of the server lacks is null there.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use serde::Deserialize;
use tokio::task::yield_now;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Row, SimpleQueryMessage, SimpleQueryRow};

use super::error::{ConnectError, Failure};
use super::look::OLDEST;
pub(crate) use super::look::failed;
use super::replication::listed_publications;
use super::sql::SqlSession;
use crate::ident::SlotName;
use crate::identity::catalog::{ColumnNumber, Consumer, Publication, Relation, ReplicationSet, Server, ZeroShard};
use crate::identity::{self, Audit, Catalog, Evidence, Question, Scope, Survey};
use crate::wire::command::Command;

/// What is asked. `{schemas}` and `{filters}` are what PostgreSQL 14 does not have.
const CATALOG: &str = r"
WITH schema AS MATERIALIZED (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND nspname !~ '^pg_(toast_)?temp_'),
relation AS MATERIALIZED (
    SELECT class.oid, schema.nspname, class.relname, class.relkind, class.relpersistence, class.relreplident,
           class.relispartition, keyed.oid IS NOT NULL AS relhaskey
    FROM pg_class AS class JOIN schema ON schema.oid = class.relnamespace
         LEFT JOIN (SELECT indrelid AS oid FROM pg_index WHERE indisprimary) AS keyed ON keyed.oid = class.oid
    WHERE class.relkind IN ('r', 'p', 'm', 'f', 'S') AND class.relpersistence <> 't'),
compared AS MATERIALIZED (
    SELECT class.opcintype AS type FROM pg_opclass AS class JOIN pg_am ON pg_am.oid = class.opcmethod
    WHERE class.opcdefault AND pg_am.amname IN ('btree', 'hash')),
element AS MATERIALIZED (
    SELECT type.oid, type.typname, type.typtype, type.typtype NOT IN ('b', 'd')
        OR type.oid IN (SELECT type FROM compared)
        OR type.typtype = 'd' AND type.typbasetype IN (SELECT type FROM compared)
        OR type.oid IN (SELECT castsource FROM pg_cast
                        WHERE castmethod = 'b' AND castcontext = 'i' AND casttarget IN (SELECT type FROM compared))
        AS comparable
    FROM pg_type AS type),
type AS MATERIALIZED (
    SELECT type.oid, type.typname, type.typtype, type.typelem <> 0 AS subscripted, of.typname AS element,
           of.typtype AS element_kind, coalesce(of.comparable, own.comparable) AS comparable
    FROM pg_type AS type JOIN element AS own ON own.oid = type.oid
         LEFT JOIN element AS of ON of.oid = type.typelem AND type.typcategory = 'A'),
columns AS (
    SELECT attribute.attrelid AS oid, json_agg(json_build_object(
        'number', attribute.attnum, 'name', attribute.attname,
        'type', format_type(attribute.atttypid, attribute.atttypmod), 'type_name', type.typname,
        'type_kind', type.typtype, 'element', type.element, 'element_kind', type.element_kind,
        'subscripted', type.subscripted, 'dimensions', attribute.attndims, 'comparable', type.comparable,
        'not_null', attribute.attnotnull, 'identity', attribute.attidentity <> '',
        'generated', nullif(attribute.attgenerated, ''),
        'filled', attribute.atthasdef AND attribute.attgenerated = '' AND NOT relation.relhaskey AND EXISTS (
            SELECT FROM pg_attrdef AS value, regexp_matches(value.adbin::text, ':funcid ([0-9]+)', 'g') AS part
                 JOIN pg_proc AS function ON function.oid = part[1]::oid
            WHERE value.adrelid = attribute.attrelid AND value.adnum = attribute.attnum
              AND function.proname ~ '^(nextval|gen_random_uuid|uuidv[47]|uuid_generate_v[0-9a-z]+)$')) ORDER BY attribute.attnum) AS list
    FROM pg_attribute AS attribute JOIN relation ON relation.oid = attribute.attrelid
         JOIN type ON type.oid = attribute.atttypid
    WHERE relation.relkind IN ('r', 'p') AND attribute.attnum > 0 AND NOT attribute.attisdropped
    GROUP BY attribute.attrelid),
plain AS MATERIALIZED (
    SELECT class.oid FROM pg_opclass AS class JOIN pg_am ON pg_am.oid = class.opcmethod
    WHERE class.opcdefault AND pg_am.amname = 'btree'),
indexes AS (
    SELECT index.indrelid AS oid, json_agg(json_build_object(
        'name', class.relname, 'unique', index.indisunique, 'primary', index.indisprimary,
        'immediate', index.indimmediate, 'valid', index.indisvalid AND index.indisready AND index.indislive,
        'identity', index.indisreplident, 'partial', index.indpred IS NOT NULL,
        'columns', (index.indkey::int2[])[0:index.indnkeyatts - 1],
        'plain', index.indisunique AND NOT relation.relhaskey
            AND NOT EXISTS (SELECT FROM unnest(index.indoption::int2[]) AS option WHERE option <> 0)
            AND NOT EXISTS (SELECT FROM unnest(index.indclass::oid[]) AS class (oid)
                            WHERE class.oid NOT IN (SELECT oid FROM plain))
            AND NOT EXISTS (SELECT FROM unnest(index.indkey::int2[], index.indcollation::oid[]) AS part (number, collated)
                            JOIN pg_attribute AS own ON own.attrelid = index.indrelid AND own.attnum = part.number
                            WHERE part.collated <> own.attcollation)
            AND to_jsonb(index) ->> 'indnullsnotdistinct' IS DISTINCT FROM 'true',
        'constraint', owner.conname) ORDER BY class.relname) AS list
    FROM pg_index AS index JOIN relation ON relation.oid = index.indrelid
         JOIN pg_class AS class ON class.oid = index.indexrelid
         LEFT JOIN pg_constraint AS owner ON owner.conindid = index.indexrelid AND owner.contype IN ('p', 'u', 'x')
    WHERE relation.relkind IN ('r', 'p') GROUP BY index.indrelid),
parents AS (
    SELECT inhrelid AS oid, json_agg(inhparent::int8 ORDER BY inhseqno) AS list FROM pg_inherits GROUP BY inhrelid),
foreign_keys AS (
    SELECT conrelid AS oid, json_agg(conkey ORDER BY conname) AS list FROM pg_constraint
    WHERE contype = 'f' GROUP BY conrelid)
SELECT 'server' AS kind, json_build_object(
    'version', current_setting('server_version_num')::int4, 'wal_level', current_setting('wal_level'),
    'large_objects', EXISTS (SELECT FROM pg_largeobject_metadata),
    'event_triggers', (SELECT coalesce(json_agg(evtname), '[]') FROM pg_event_trigger WHERE evtenabled <> 'D'),
    'pglogical', EXISTS (SELECT FROM pg_extension WHERE extname = 'pglogical'),
    'role', current_user, 'superuser', current_setting('is_superuser')::bool)::text AS body
UNION ALL
SELECT 'relation', json_build_object(
    'oid', relation.oid::int8, 'schema', relation.nspname, 'name', relation.relname, 'kind', relation.relkind,
    'unlogged', relation.relpersistence = 'u', 'identity', relation.relreplident,
    'partition', relation.relispartition, 'parents', coalesce(parents.list, '[]'),
    'extension', EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = relation.oid
                         AND objsubid = 0 AND deptype = 'e'),
    'partition_key', coalesce((SELECT to_json(partattrs::int2[]) FROM pg_partitioned_table
                               WHERE partrelid = relation.oid), '[]'),
    'columns', coalesce(columns.list, '[]'), 'has_dropped', EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = relation.oid AND attnum > 0 AND attisdropped), 'indexes', coalesce(indexes.list, '[]'),
    'foreign_keys', coalesce(foreign_keys.list, '[]'))::text
FROM relation LEFT JOIN columns USING (oid) LEFT JOIN indexes USING (oid) LEFT JOIN parents USING (oid)
     LEFT JOIN foreign_keys USING (oid)
UNION ALL
SELECT 'publication', json_build_object(
    'name', publication.pubname, 'all_tables', publication.puballtables, 'insert', publication.pubinsert,
    'update', publication.pubupdate, 'delete', publication.pubdelete, 'truncate', publication.pubtruncate,
    'via_root', publication.pubviaroot, 'generated', to_jsonb(publication) ->> 'pubgencols',
    'schemas', {schemas},
    'tables', (SELECT coalesce(json_agg(json_build_object('relation', member.prrelid::int8, {filters})), '[]')
               FROM pg_publication_rel AS member WHERE member.prpubid = publication.oid))::text
FROM pg_publication AS publication
UNION ALL
SELECT 'zero', json_build_object('schema', schema.nspname, 'publications',
    (SELECT coalesce(json_agg(part[1]), '[]')
     FROM regexp_matches(substring(function.prosrc FROM 'publications := ARRAY\[([^]]*)\]'), '''([^'']*)''', 'g') AS part))::text
FROM pg_proc AS function JOIN schema ON schema.oid = function.pronamespace WHERE function.proname = 'emit_ddl_end'
UNION ALL
SELECT 'consumer', json_build_object('slot', slot.slot_name, 'command', activity.query)::text
FROM pg_replication_slots AS slot LEFT JOIN pg_stat_activity AS activity ON activity.pid = slot.active_pid
WHERE slot.database = current_database() AND slot.plugin = 'pgoutput' AND NOT slot.temporary";

/// `{schemas}` from PostgreSQL 15 on, and before.
const SCHEMAS: [&str; 2] = [
    "(SELECT coalesce(json_agg(namespace.nspname), '[]') FROM pg_publication_namespace AS member
      JOIN pg_namespace AS namespace ON namespace.oid = member.pnnspid WHERE member.pnpubid = publication.oid)",
    "'[]'::json",
];

/// `{filters}` from PostgreSQL 15 on, and before. The columns of a WHERE are those of its tree (`varattno` in `primnodes.h`):
/// printing it as SQL would look at what the table is by now.
const FILTERS: [&str; 2] = [
    "'columns', to_json(member.prattrs::int2[]), 'filtered_by', CASE WHEN member.prqual IS NOT NULL THEN
      (SELECT coalesce(json_agg(DISTINCT part[1]::int2), '[]')
       FROM regexp_matches(member.prqual::text, ':varattno (-?[0-9]+)', 'g') AS part) END",
    "'columns', NULL, 'filtered_by', NULL",
];

/// What pglogical replicates from here (its tables `replication_set…`).
const REPLICATION_SETS: &str = "
SELECT 'set' AS kind, json_build_object(
    'name', set.set_name, 'update', set.replicate_update, 'delete', set.replicate_delete,
    'tables', (SELECT coalesce(json_agg(member.set_reloid::oid::int8), '[]')
               FROM pglogical.replication_set_table AS member WHERE member.set_id = set.set_id),
    'sequences', (SELECT coalesce(json_agg(member.set_seqoid::oid::int8), '[]')
                  FROM pglogical.replication_set_seq AS member WHERE member.set_id = set.set_id))::text AS body
FROM pglogical.replication_set AS set JOIN pglogical.local_node AS node ON node.node_id = set.set_nodeid";

/// Names in the statement mean the system's: the session's search path is empty, and the catalog is on it always. These
/// are the limits within which it may run, and types are written as they are elsewhere.
const LIMITS: &str = "SET statement_timeout = '30s'; SET lock_timeout = '1s'; SET jit = off; SET work_mem = '64MB'; \
                      SET quote_all_identifiers = off";

#[derive(Deserialize)]
struct Streaming {
    slot: SlotName,
    command: Option<String>,
}

/// How long values may be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// In one table.
    pub table: Duration,
    /// In all of them.
    pub total: Duration,
}

/// Rows of the catalog that are taken at a time: streams are relayed on the same thread.
const YIELD: usize = 64;

impl Budget {
    /// Where somebody waits for one answer. Whoever wants to alter a table waits behind a look at it, and others behind him.
    pub const ONCE: Budget = Budget { table: Duration::from_secs(3), total: Duration::from_secs(60) };
}

/// How often a catalog is read again that changed under the statement.
const ATTEMPTS: usize = 3;

/// What was read of a database, and how it was judged.
#[derive(Clone, Debug, Default)]
pub struct Audited {
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// What the values of tables showed.
    pub survey: Survey,
    /// What was found.
    pub audit: Audit,
}

/// Reads the catalog, looks at the values of tables that need a key, and judges both. What the role may not see is a
/// finding.
///
/// # Errors
/// If the session is lost, the server is too old, or does not answer in time.
pub async fn audit(session: &SqlSession, scope: &Scope, budget: Budget) -> Result<Audited, ConnectError> {
    let catalog = read(session).await?;
    let survey = survey(session, &catalog, &identity::questions(&catalog, scope), budget).await?;
    let audit = identity::audit(&catalog, &survey, scope);
    Ok(Audited { catalog: Arc::new(catalog), survey, audit })
}

/// Reads the catalog of the database that a session is connected to.
///
/// # Errors
/// If the session is lost, the server is too old, or does not answer in time.
pub async fn read(session: &SqlSession) -> Result<Catalog, ConnectError> {
    if let Some(major) = session.server_major().filter(|major| *major < OLDEST) {
        return Err(Failure::Version(major).into());
    }
    // What is set for this session must not be left behind on another's.
    let backend: i32 = session
        .query_one("SELECT pg_catalog.pg_backend_pid()", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| failed(&error))?;
    if session.pid().is_some_and(|told| i32::try_from(told) != Ok(backend)) {
        return Err(Failure::Pooler.into());
    }
    session.harden().await.map_err(|error| failed(&error))?;
    session.batch_execute(LIMITS).await.map_err(|error| failed(&error))?;
    let part = usize::from(session.server_major().is_some_and(|major| major < 15));
    let [schemas, filters] = [SCHEMAS, FILTERS].map(|versions| versions.get(part).copied().unwrap_or_default());
    let sql = CATALOG.replace("{schemas}", schemas).replace("{filters}", filters);
    let mut catalog = match receive(session, &sql).await {
        Ok(catalog) => catalog,
        Err(Refused::Denied(message)) => {
            let mut unknown = Catalog::default();
            unknown.denied = Some(message);
            return Ok(unknown);
        }
        Err(Refused::Failed(error)) => return Err(error),
    };
    if catalog.server.pglogical {
        match receive(session, REPLICATION_SETS).await {
            Ok(sets) => catalog.replication_sets = sets.replication_sets,
            Err(Refused::Denied(message)) => catalog.sets_denied = Some(message),
            Err(Refused::Failed(error)) => return Err(error),
        }
    }
    catalog.publications.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(catalog)
}

/// Why there is no answer.
enum Refused {
    /// The role may not see it, in the server's words.
    Denied(String),
    /// Anything else.
    Failed(ConnectError),
}

impl From<tokio_postgres::Error> for Refused {
    fn from(error: tokio_postgres::Error) -> Refused {
        match error.as_db_error() {
            Some(server) if is_denied(&error) => Refused::Denied(server.message().to_owned()),
            _ => Refused::Failed(failed(&error)),
        }
    }
}

/// Takes what a statement answers, row by row: a large catalog is not held twice.
async fn receive(session: &SqlSession, statement: &str) -> Result<Catalog, Refused> {
    let mut attempt = 1;
    'again: loop {
        let mut catalog = Catalog::default();
        // Not prepared: a round trip less, and text is what is wanted.
        let mut rows = pin!(session.simple_query_raw(statement).await?);
        let mut taken = 0;
        while let Some(message) = rows.next().await {
            match message {
                Ok(SimpleQueryMessage::Row(row)) => take(&mut catalog, &row).map_err(Refused::Failed)?,
                Ok(_) => {}
                // A function came upon what was dropped meanwhile.
                Err(error) if error.code() == Some(&SqlState::INTERNAL_ERROR) && attempt < ATTEMPTS => {
                    attempt += 1;
                    continue 'again;
                }
                Err(error) => return Err(error.into()),
            }
            taken += 1;
            if taken % YIELD == 0 {
                yield_now().await;
            }
        }
        return Ok(catalog);
    }
}

fn is_denied(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
}

/// Looks at the values of tables. One that cannot be looked at in time is not waited for.
pub(super) async fn survey(
    session: &SqlSession,
    catalog: &Catalog,
    questions: &[Question],
    budget: Budget,
) -> Result<Survey, ConnectError> {
    let mut survey = Survey::new();
    if questions.is_empty() {
        return Ok(survey);
    }
    let until = Instant::now() + budget.total;
    // Row security would show a part of the rows for all: better an error.
    session.batch_execute("SET row_security = off; RESET work_mem").await.map_err(|error| failed(&error))?;
    for question in questions {
        let until = until.min(Instant::now() + budget.table);
        for candidates in question.rounds() {
            let Some(sql) = question.sql(catalog, candidates) else { continue };
            let left = until.saturating_duration_since(Instant::now());
            let evidence = if left < Duration::from_millis(1) {
                Evidence::Unseen
            } else {
                let limit = format!("SET statement_timeout = {}", left.as_millis());
                session.batch_execute(&limit).await.map_err(|error| failed(&error))?;
                match session.query_one(&sql, &[]).await {
                    Ok(row) => seen(&row, candidates).map_err(|error| failed(&error))?,
                    Err(error) if is_denied(&error) => Evidence::Denied,
                    // Taking too long, locked, dropped meanwhile.
                    Err(error) if error.as_db_error().is_some() => Evidence::Unseen,
                    Err(error) => return Err(failed(&error)),
                }
            };
            let is_enough = !matches!(&evidence, Evidence::Seen { keys, .. } if keys.is_empty());
            survey.insert(question.table, evidence);
            if is_enough {
                break;
            }
        }
    }
    session.batch_execute("RESET row_security").await.map_err(|error| failed(&error))?;
    session.batch_execute(LIMITS).await.map_err(|error| failed(&error))?;
    Ok(survey)
}

fn seen(row: &Row, candidates: &[Vec<ColumnNumber>]) -> Result<Evidence, tokio_postgres::Error> {
    let (bytes, rows): (i64, i64) = (row.try_get("bytes")?, row.try_get("rows")?);
    let mut keys = Vec::new();
    for (place, candidate) in candidates.iter().enumerate() {
        if row.try_get(place + 2)? {
            keys.push(candidate.clone());
        }
    }
    Ok(Evidence::Seen { rows: rows.unsigned_abs(), bytes: bytes.unsigned_abs(), keys })
}

fn take(catalog: &mut Catalog, row: &SimpleQueryRow) -> Result<(), ConnectError> {
    let (Some(kind), Some(body)) = (row.get(0), row.get(1)) else { return Ok(()) };
    let problem = |error: serde_json::Error| {
        ConnectError::from(Failure::Protocol { during: "reading the catalog", problem: format!("{kind}: {error}") })
    };
    match kind {
        "server" => catalog.server = serde_json::from_str::<Server>(body).map_err(problem)?,
        "relation" => catalog.insert(serde_json::from_str::<Relation>(body).map_err(problem)?),
        "publication" => catalog.publications.push(serde_json::from_str::<Publication>(body).map_err(problem)?),
        "zero" => catalog.zero_shards.push(serde_json::from_str::<ZeroShard>(body).map_err(problem)?),
        "set" => catalog.replication_sets.push(serde_json::from_str::<ReplicationSet>(body).map_err(problem)?),
        _ => catalog.consumers.push(consumer(serde_json::from_str(body).map_err(problem)?)),
    }
    Ok(())
}

/// What can be seen of a consumer. The command is another while somebody reads the slot through SQL, and cut short where it is
/// longer than `track_activity_query_size`.
fn consumer(streaming: Streaming) -> Consumer {
    let command = streaming.command.unwrap_or_default();
    let publications = match Command::parse(&command) {
        Ok(Command::StartReplication(start)) => {
            start.mode.option("publication_names").flatten().map(listed_publications)
        }
        _ => None,
    };
    let begins = |with: &str| command.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    let hidden = publications.is_none() && (begins("<insufficient privilege>") || begins("START_REPLICATION"));
    Consumer { slot: streaming.slot, publications, hidden }
}
