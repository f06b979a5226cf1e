//! Types and unique values that are not the same to zero-cache.

use super::key::{is_shown_by, keys};
use super::{about, published_columns, shown};
use crate::ident::Identifier;
use crate::identity::catalog::{Column, Index};
use crate::identity::finding::Severity::{Error, Warning};
use crate::identity::mend::{self, Mend};
use crate::identity::rules::{Found, View};

pub(super) fn type_aborts_sync(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        for column in published_columns(&published).filter(|column| aborts_sync(column)) {
            let (name, sql_type) = (Identifier(&column.name), &column.sql_type);
            let (because, mend) = if column.element.is_some() {
                let sql = format!("ALTER TABLE {} ALTER COLUMN {name} TYPE {sql_type}", table.table_name());
                let comment = "The catalog then says that it is an array; no row is written.";
                let mend = match column.element.as_deref().unwrap_or_default() {
                    // The collation would be the type's own again, and a column that is inherited is the parent's.
                    "text" | "varchar" | "bpchar" | "name" => Mend::template("If its collation is the default.", sql),
                    _ if !table.parents.is_empty() => Mend::template("In the table that it inherits from.", sql),
                    _ => Mend::one(comment, sql),
                };
                (format!("{name} ({sql_type}) was made by CREATE TABLE AS, LIKE or INHERITS, without dimensions"), mend)
            } else {
                let sql = format!("ALTER TABLE {} ALTER COLUMN {name} TYPE text", table.table_name());
                let comment = "Choose a type that zero knows, or leave the column out of the publication.";
                (format!("it takes {name} ({sql_type}) for an array"), Mend::template(comment, sql))
            };
            let message = format!(
                "zero-cache's initial sync stops, for all tables: {because}: TEXT_ARRAY_ATTRIBUTE and [] must be consistent \
                 in dataType: {}|TEXT_ARRAY",
                column.type_name
            );
            about(found, &published, message, Some(mend));
        }
    }
}

/// zero-cache takes a type with elements for an array, and finds none in the name of the type.
fn aborts_sync(column: &Column) -> bool {
    column.subscripted && column.dimensions == 0
}

pub(super) fn type_unsupported(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let keys: Vec<&Index> = keys(&published).collect();
        let hides_table = !keys.is_empty() && !keys.iter().any(|key| is_shown_by(&published, key));
        let columns = published_columns(&published).filter(|column| !is_known(column) && !aborts_sync(column));
        for column in columns {
            let (name, sql_type) = (Identifier(&column.name), &column.sql_type);
            let in_key = keys.iter().any(|key| key.columns.contains(&column.number));
            let (severity, message) = match hides_table && in_key {
                true => (
                    Error,
                    format!(
                        "zero does not know the type of {name} ({sql_type}), and no key is without it: zero-cache's clients \
                         never see the table, without a word in its log"
                    ),
                ),
                false => (
                    Warning,
                    format!(
                        "zero does not know the type of {name} ({sql_type}): zero-cache's clients do not see the column"
                    ),
                ),
            };
            found.with(severity, |found| about(found, &published, message, None));
        }
    }
}

/// Whether zero has a type for a column (`types/pg-data-type.ts`).
pub(super) fn is_known(column: &Column) -> bool {
    const KNOWN: &[&str] = &[
        "int2",
        "int4",
        "int8",
        "numeric",
        "float4",
        "float8",
        "date",
        "time",
        "timetz",
        "timestamp",
        "timestamptz",
        "bpchar",
        "varchar",
        "text",
        "cidr",
        "inet",
        "macaddr",
        "macaddr8",
        "pg_lsn",
        "uuid",
        "ean13",
        "isbn",
        "isbn13",
        "ismn",
        "ismn13",
        "issn",
        "issn13",
        "upc",
        "bool",
        "json",
        "jsonb",
    ];
    column.element.is_some() || column.type_kind == 'e' || KNOWN.contains(&&*column.type_name)
}

pub(super) fn deferrable_unique(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        for index in
            published.shown_as.indexes.iter().filter(|index| index.unique && !index.immediate && !index.primary)
        {
            let constraint = index.constraint.as_deref().unwrap_or(&index.name);
            let message = format!(
                "The unique constraint {} is deferrable: a swap of values within a transaction stops zero-cache, and again \
                 after each restart: UNIQUE constraint failed",
                Identifier(constraint)
            );
            about(found, &published, message, mend::undefer(published.shown_as, index));
        }
    }
}

pub(super) fn numeric_unique(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        for index in table.indexes.iter().filter(|index| index.unique && !index.partial) {
            let Some(columns) = mend::columns(table, &index.columns) else { continue };
            for column in columns {
                let to_zero = match &*column.type_name {
                    "numeric" if !is_exact(&column.sql_type) => "a double precision number",
                    "time" | "timetz" => "a number of milliseconds",
                    _ => continue,
                };
                let message = format!(
                    "{} of the unique index {} is {}, and {to_zero} to zero-cache: of two rows whose values are then equal \
                     its clients see one, or the initial sync stops: UNIQUE constraint failed",
                    Identifier(&column.name),
                    Identifier(&index.name),
                    column.sql_type
                );
                about(found, &published, message, None);
            }
        }
    }
}

/// Whether a numeric type has so few digits that a double precision number holds each of its values.
fn is_exact(sql_type: &str) -> bool {
    let precision = sql_type.strip_prefix("numeric(").and_then(|rest| rest.split([',', ')']).next());
    precision.and_then(|precision| precision.parse().ok()).is_some_and(|precision: u32| precision <= 15)
}

pub(super) fn invalid_unique(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        // That of a partitioned table is not valid until each partition has one.
        let is_left_over = |index: &&Index| index.unique && !index.valid && !index.partial && !table.is_partitioned();
        for index in table.indexes.iter().filter(is_left_over) {
            let name = Identifier(&index.name);
            let message = format!(
                "The unique index {name} is not valid, and zero-cache takes it for one all the same: over equal values its \
                 initial sync stops, for all tables: UNIQUE constraint failed"
            );
            let sql = format!("DROP INDEX CONCURRENTLY {}.{name}", Identifier(&table.schema));
            let comment = "If no build of it is under way (pg_stat_progress_create_index).";
            about(found, &published, message, Some(Mend::template(comment, sql)));
        }
    }
}

pub(super) fn array_elements(view: &View<'_>, found: &mut Found<'_>) {
    const READ: &[&str] = &[
        "bool",
        "int2",
        "int4",
        "int8",
        "float4",
        "float8",
        "text",
        "varchar",
        "bpchar",
        "char",
        "name",
        "uuid",
        "json",
        "jsonb",
        "timestamp",
        "timestamptz",
        "date",
        "time",
        "timetz",
        "numeric",
        "xml",
    ];
    for published in shown(view) {
        for column in published_columns(&published).filter(|column| !aborts_sync(column)) {
            let Some(element) = &column.element else { continue };
            if column.element_kind == Some('e') || READ.contains(&&**element) {
                continue;
            }
            let message = format!(
                "zero-cache does not read the elements of {} ({}): after the initial sync its clients see bytes for the \
                 values of a row, until it changes",
                Identifier(&column.name),
                column.sql_type
            );
            about(found, &published, message, None);
        }
    }
}
