//! zero-cache and the check agree on each table of a database that has every type and every kind of key.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::support::check;
use crate::support::zero::{App, ZeroCache};
use crate::support::{Sql, last_lines, postgres};

/// A table with a column of each type that may be one, of arrays of it, and with it for a key where it can be one. A type
/// with elements that is no array stops the initial sync: it has a case of its own.
const TYPES: &str = "
    CREATE DOMAIN word AS text; CREATE DOMAIN words AS text[]; CREATE TYPE colour AS ENUM ('red', 'blue');
    CREATE DOMAIN shade AS colour; CREATE TYPE pair AS (a int, b text); CREATE TYPE span AS RANGE (SUBTYPE = date);
    DO $$
    DECLARE kind record; shape text;
    BEGIN
        FOR kind IN SELECT typname AS name, format_type(oid, NULL) AS type FROM pg_type
                    WHERE typnamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace) AND typelem = 0
                      AND typtype IN ('b', 'c', 'd', 'e', 'r', 'm') AND typrelid NOT IN (SELECT oid FROM pg_class WHERE relkind <> 'c')
        LOOP
            FOREACH shape IN ARRAY ARRAY['one_%s (id int PRIMARY KEY, c %s)', 'many_%s (id int PRIMARY KEY, c %s[])',
                                         'key_%s (c %s PRIMARY KEY)', 'keys_%s (c %s[] PRIMARY KEY)',
                                         'both_%s (c %s, id int NOT NULL UNIQUE, PRIMARY KEY (c, id))']
            LOOP
                BEGIN
                    EXECUTE 'CREATE TABLE ' || format(shape, kind.name, kind.type);
                EXCEPTION WHEN feature_not_supported OR undefined_object OR invalid_table_definition OR datatype_mismatch THEN
                END;
            END LOOP;
        END LOOP;
    END $$";

/// Every kind of index and constraint that is a key, or not quite.
const KEYS: &str = "
    CREATE TABLE shape_none (id int NOT NULL, c text);
    CREATE TABLE shape_nullable (id int UNIQUE, c text);
    CREATE TABLE shape_distinct (id int UNIQUE NULLS NOT DISTINCT, c text);
    CREATE TABLE shape_checked (id int UNIQUE CHECK (id IS NOT NULL), c text);
    CREATE TABLE shape_unique (id int NOT NULL UNIQUE, c text);
    CREATE TABLE shape_plain (id int NOT NULL, c text); CREATE INDEX ON shape_plain (id);
    CREATE TABLE shape_index (id int NOT NULL, c text); CREATE UNIQUE INDEX ON shape_index (id DESC);
    CREATE TABLE shape_including (id int NOT NULL, c text); CREATE UNIQUE INDEX ON shape_including (id) INCLUDE (c);
    CREATE TABLE shape_partial (id int NOT NULL, c text); CREATE UNIQUE INDEX ON shape_partial (id) WHERE c IS NOT NULL;
    CREATE TABLE shape_expression (id int NOT NULL, c text); CREATE UNIQUE INDEX ON shape_expression ((id + 1));
    CREATE TABLE shape_mixed (id int NOT NULL, c text); CREATE UNIQUE INDEX ON shape_mixed (id, (c || 'x'));
    CREATE TABLE shape_wide (id int NOT NULL, c text); CREATE UNIQUE INDEX ON shape_wide (id, c);
    CREATE TABLE shape_excluded (id int NOT NULL, c text, EXCLUDE USING btree (id WITH =));
    CREATE TABLE shape_deferrable (id int NOT NULL UNIQUE DEFERRABLE, c text);
    CREATE TABLE shape_deferrable_key (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, c text);
    CREATE TABLE shape_generated (a int, id int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY, c text);
    CREATE TABLE shape_full (id int PRIMARY KEY, c text); ALTER TABLE shape_full REPLICA IDENTITY FULL;
    CREATE TABLE shape_full_none (id int NOT NULL, c text); ALTER TABLE shape_full_none REPLICA IDENTITY FULL;
    CREATE TABLE shape_full_unknown (id bytea PRIMARY KEY, c text); ALTER TABLE shape_full_unknown REPLICA IDENTITY FULL;
    CREATE TABLE shape_other (id bytea PRIMARY KEY, c text NOT NULL UNIQUE);
    CREATE TABLE shape_root (id int NOT NULL, c text) PARTITION BY RANGE (id);
    CREATE TABLE shape_leaf PARTITION OF shape_root DEFAULT; ALTER TABLE shape_leaf ADD PRIMARY KEY (id);
    CREATE TABLE shape_parted (id int PRIMARY KEY, c text) PARTITION BY RANGE (id);
    CREATE TABLE shape_part PARTITION OF shape_parted DEFAULT";

#[test]
fn they_agree_on_every_type_and_every_kind_of_key() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run(TYPES);
    sql.run(KEYS);
    let found = check::findings(&dsn, &["--for", "zero"]);
    let upstream = format!("postgresql://{}:unused@127.0.0.1:{}/postgres", server.superuser(), server.port());
    let app = App { name: "zero", publications: &[], follows: true };
    let zero = ZeroCache::try_start(&upstream, app).unwrap_or_else(|log| panic!("{}", last_lines(&log)));

    let refusal = zero.refuses(&everything(&sql)).expect("some tables have no key");
    let named = |line: &str| line.split('"').nth(1).unwrap_or_default().to_owned();
    let lines = |with: &str| refusal.lines().filter(|line| line.contains(with)).map(named).collect::<BTreeSet<_>>();
    assert_eq!(
        tables(&found, &|rule, severity| rule != UNKNOWN || severity == "error"),
        lines("table is missing a primary key")
    );
    assert_eq!(
        tables(&found, &|rule, severity| rule == UNKNOWN && severity == "warning"),
        lines("column cannot be synced because it is of an unsupported data type")
    );
}

const UNKNOWN: &str = "zero/type-unsupported";

/// The tables of which the check says that clients do not see them, or one of their columns.
fn tables(found: &[Value], is_meant: &dyn Fn(&str, &str) -> bool) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().trim_start_matches("public.").replace('"', "");
    let rules = ["zero/no-key", "zero/full-without-key", UNKNOWN];
    let findings =
        found.iter().map(|finding| (text(&finding["rule"]), text(&finding["severity"]), text(&finding["table"])));
    let meant = findings.filter(|(rule, severity, _)| rules.contains(&&**rule) && is_meant(rule, severity));
    meant.map(|(_, _, table)| table).collect()
}

/// A client that wants all tables that zero-cache replicates, with their first column for a key.
fn everything(sql: &Sql) -> Value {
    let columns = sql.rows(
        "SELECT relname, string_agg(attname, ' ' ORDER BY attnum) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND attnum > 0
           AND attgenerated = '' GROUP BY relname",
    );
    let tables: Map<String, Value> = columns
        .into_iter()
        .filter_map(|row| match &row[..] {
            [Some(table), Some(columns)] => {
                let columns: Map<String, Value> =
                    columns.split(' ').map(|column| (column.to_owned(), json!({ "type": "string" }))).collect();
                let key: Vec<&String> = columns.keys().take(1).collect();
                Some((table.clone(), json!({ "primaryKey": key, "columns": columns })))
            }
            _ => None,
        })
        .collect();
    assert!(tables.len() > 200, "{}", tables.len());
    tables.into()
}
