//! Reads the sequences of two databases, and moves the target's forward.

use tokio_postgres::error::SqlState;

use super::{Error, Side};
use crate::gate::sequence::{Compared, Definition, Position, Sequence, Setval, compare};
use crate::ident::TableName;
use crate::source::Connector;
use crate::source::catalog::failed;
use crate::source::sql::SqlSession;

/// How often the sequences are read again where one was dropped meanwhile.
const ATTEMPTS: usize = 3;

/// Sequences that are read in one statement.
const AT_ONCE: usize = 200;

/// Which there are, but for temporary ones and those that belong to extensions. Unlogged ones cannot be read on a standby.
const SEQUENCES: &str = "
SELECT schema.nspname::text, class.relname::text, pg_catalog.format_type(sequence.seqtypid, NULL), sequence.seqincrement,
       sequence.seqmin, sequence.seqmax, sequence.seqcycle,
       coalesce(pg_catalog.has_schema_privilege(schema.oid, 'USAGE')
                AND pg_catalog.has_sequence_privilege(class.oid, 'SELECT')
                AND NOT (class.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery()), false)
FROM pg_catalog.pg_sequence AS sequence JOIN pg_catalog.pg_class AS class ON class.oid = sequence.seqrelid
     JOIN pg_catalog.pg_namespace AS schema ON schema.oid = class.relnamespace
WHERE class.relpersistence <> 't' AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend AS depend
    WHERE depend.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND depend.objid = class.oid
      AND depend.deptype = 'e')
ORDER BY 1, 2";

/// Reads the sequences of the database that a session is connected to.
///
/// # Errors
/// Whatever the server says.
pub async fn read(session: &SqlSession) -> Result<Vec<Sequence>, tokio_postgres::Error> {
    let mut attempt = 1;
    loop {
        match read_once(session).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) && attempt < ATTEMPTS => attempt += 1,
            read => return read,
        }
    }
}

async fn read_once(session: &SqlSession) -> Result<Vec<Sequence>, tokio_postgres::Error> {
    let mut sequences = Vec::new();
    let mut readable = Vec::new();
    for row in session.query(SEQUENCES, &[]).await? {
        let (schema, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let definition = Definition {
            data_type: row.try_get(2)?,
            increment: row.try_get(3)?,
            min: row.try_get(4)?,
            max: row.try_get(5)?,
            cycle: row.try_get(6)?,
        };
        if row.try_get(7)? {
            readable.push(sequences.len());
        }
        let name = TableName { schema: schema.into(), name: name.into() };
        sequences.push(Sequence { name, definition, position: None });
    }
    for places in readable.chunks(AT_ONCE) {
        let parts = places.iter().filter_map(|place| {
            let sequence = sequences.get(*place)?;
            Some(format!("SELECT {place}::pg_catalog.int8, last_value, is_called FROM {}", sequence.name))
        });
        let sql = parts.collect::<Vec<_>>().join(" UNION ALL ");
        for row in session.query(&sql, &[]).await? {
            let place: i64 = row.try_get(0)?;
            let position = Position { last_value: row.try_get(1)?, is_called: row.try_get(2)? };
            if let Some(sequence) = usize::try_from(place).ok().and_then(|place| sequences.get_mut(place)) {
                sequence.position = Some(position);
            }
        }
    }
    Ok(sequences)
}

/// Sessions with both databases.
#[derive(Debug)]
pub struct Sessions {
    source: SqlSession,
    target: SqlSession,
}

impl Sessions {
    /// Logs in to both.
    ///
    /// # Errors
    /// If that does not succeed, or they are the same database.
    pub async fn open(source: &Connector, target: &Connector) -> Result<Sessions, Error> {
        let (source, target) = tokio::try_join!(open(Side::Source, source), open(Side::Target, target))?;
        if source.1 == target.1 {
            return Err(Error::Same);
        }
        Ok(Sessions { source: source.0, target: target.0 })
    }

    /// Reads the sequences of both, the target's first: the source's only move on.
    ///
    /// # Errors
    /// If a session is lost.
    pub async fn compare(&self) -> Result<Vec<Compared>, Error> {
        let target = read(&self.target).await.map_err(|error| Error::Unreachable(Side::Target, failed(&error)))?;
        let source = read(&self.source).await.map_err(|error| Error::Unreachable(Side::Source, failed(&error)))?;
        Ok(compare(&source, &target))
    }

    /// Moves a sequence of the target forward; says whether there was need to.
    ///
    /// # Errors
    /// What the server says.
    pub async fn apply(&self, mend: &Setval) -> Result<bool, tokio_postgres::Error> {
        self.target.query(&mend.to_string(), &[]).await.map(|rows| !rows.is_empty())
    }
}

/// A session, and which database it is with.
async fn open(side: Side, connector: &Connector) -> Result<(SqlSession, (String, u32)), Error> {
    const SETTINGS: &str = "
        SELECT pg_catalog.set_config('search_path', '', false), pg_catalog.set_config('statement_timeout', '30s', false),
               pg_catalog.set_config('lock_timeout', '3s', false),
               pg_catalog.set_config('application_name', 'walgate sequences', false)";
    let session = connector.sql().await.map_err(|error| Error::Unreachable(side, error))?;
    let prepared = async {
        session.batch_execute(SETTINGS).await?;
        super::session::identity(&session).await
    };
    let identity = prepared.await.map_err(|error| Error::Unreachable(side, failed(&error)))?;
    Ok((session, identity))
}
