//! The tables of a database, as far as a row that one server takes may be refused by another.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;

use super::{Unseen, piece, rows};
use crate::gate::{Column, Piece, Schema, Table};
use crate::ident::TableName;
use crate::source::error::ConnectError;
use crate::source::sql::SqlSession;

/// Tables of extensions come with them. Unique constraints, primary keys and unique indexes forbid the same, whatever they
/// are called; so they are written alike, key columns and predicate, and `DEFERRABLE` where only the end counts. What is not
/// enforced (PostgreSQL 18 and later) forbids nothing; `NOT VALID` forbids new rows as much. With the empty search path of
/// the session every name is printed with its schema.
const TABLES: &str = r"
    WITH relation AS MATERIALIZED (
        SELECT class.oid, schema.nspname, class.relname
        FROM pg_class AS class JOIN pg_namespace AS schema ON schema.oid = class.relnamespace
        WHERE class.relkind IN ('r', 'p') AND class.relpersistence <> 't'
          AND schema.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
          AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = class.oid
                          AND objsubid = 0 AND deptype = 'e')),
    columns AS (
        SELECT attrelid AS oid, json_object_agg(attname, json_build_object(
            'type_name', format_type(atttypid, atttypmod), 'not_null', attnotnull, 'generated', attgenerated <> '',
            'has_default', atthasdef AND attgenerated = '' OR attidentity <> '')) AS list
        FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (SELECT oid FROM relation) GROUP BY 1),
    forbidden AS (
        SELECT conrelid AS oid, regexp_replace(pg_get_constraintdef(oid), ' NOT VALID$', '') AS what
        FROM pg_constraint
        WHERE contype IN ('c', 'f', 'x') AND to_jsonb(pg_constraint) ->> 'conenforced' IS DISTINCT FROM 'false'
        UNION ALL
        SELECT indrelid, 'UNIQUE ('
            || (SELECT string_agg(pg_get_indexdef(indexrelid, place, false), ', ' ORDER BY place)
                FROM generate_series(1, indnkeyatts) AS place)
            || CASE WHEN indisexclusion THEN ' WITHOUT OVERLAPS)' ELSE ')' END
            || CASE WHEN to_jsonb(pg_index) ->> 'indnullsnotdistinct' = 'true' THEN ' NULLS NOT DISTINCT' ELSE '' END
            || coalesce(' WHERE ' || pg_get_expr(indpred, indrelid), '')
            || CASE WHEN indimmediate THEN '' ELSE ' DEFERRABLE' END
        FROM pg_index WHERE indisunique AND indislive),
    constraints AS (
        SELECT oid, json_agg(DISTINCT what) AS list FROM (
            SELECT oid, what FROM forbidden WHERE oid IN (SELECT oid FROM relation)) AS own GROUP BY oid)
    SELECT json_build_object('schema', nspname, 'name', relname, 'columns', coalesce(columns.list, '{}'),
                             'constraints', coalesce(constraints.list, '[]'))
    FROM relation LEFT JOIN columns USING (oid) LEFT JOIN constraints USING (oid)";

#[derive(Deserialize)]
struct Row {
    schema: Box<str>,
    name: Box<str>,
    columns: BTreeMap<String, ColumnRow>,
    constraints: Vec<String>,
}

#[derive(Deserialize)]
struct ColumnRow {
    type_name: String,
    not_null: bool,
    generated: bool,
    has_default: bool,
}

/// The tables of the database of the session, partitioned ones and their partitions, but for temporary ones and those of
/// extensions. Needs no right.
///
/// # Errors
/// If the session is lost.
pub async fn schema(session: &SqlSession) -> Result<Piece<Schema>, ConnectError> {
    let begun = Instant::now();
    piece("pg_class", begun, look(session).await)
}

async fn look(session: &SqlSession) -> Result<Schema, Unseen> {
    let tables: Vec<Row> = rows(session, TABLES).await?;
    let tables = tables.into_iter().map(|row| {
        let columns = row.columns.into_iter().map(|(name, column)| (name, column.into())).collect();
        (TableName { schema: row.schema, name: row.name }, Table { columns, constraints: row.constraints })
    });
    Ok(Schema { tables: tables.collect() })
}

impl From<ColumnRow> for Column {
    fn from(row: ColumnRow) -> Column {
        let ColumnRow { type_name, not_null, generated, has_default } = row;
        Column { type_name, not_null, generated, has_default }
    }
}
