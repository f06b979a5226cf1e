//! What Rocicorp's zero-cache demands of a table that it is to replicate. Sources, in zero-cache 1.9: `schema/validation.ts`,
//! `schema/published.ts`, `schema/shard.ts`, `initial-sync.ts`, `db/lite-tables.ts`, `types/pg-data-type.ts`,
//! `change-processor.ts`; each consequence was seen on a running one.

use std::collections::BTreeMap;

use super::{Found, Rule, RuleSet, Scope, View};
use crate::ident::{Identifier, Oid};
use crate::identity::catalog::{Catalog, Column, IdentitySetting, Missing, Publication, Relation, ReplicaIdentity};
use crate::identity::finding::Severity::{Error, Info, Warning};
use crate::identity::key;
use crate::identity::mend::{self, Mend};
use crate::identity::publish::Published;

const fn rule(
    id: &'static str,
    severity: crate::identity::Severity,
    holds_when: &'static str,
    consequence: &'static str,
    check: fn(&View<'_>, &mut Found<'_>),
) -> Rule {
    Rule { id, set: RuleSet::Zero, severity, holds_when, consequence, check }
}

pub(super) static RULES: &[Rule] = &[
    rule(
        "zero/no-key",
        Error,
        "no primary key, and no unique index that is immediate and over whole, NOT NULL columns for all rows",
        "the table is never shown to zero-cache's clients; with identity DEFAULT the application's own UPDATE and DELETE \
         fail too",
        no_key,
    ),
    rule(
        "zero/full-without-key",
        Error,
        "REPLICA IDENTITY FULL, and no such key",
        "no warning at the start; at the first insert zero-cache stops, and so again after each restart and reset: Cannot \
         replicate table \"t\" without a PRIMARY KEY or UNIQUE INDEX",
        full_without_key,
    ),
    rule(
        "zero/identity-nothing",
        Error,
        "REPLICA IDENTITY NOTHING",
        "the initial sync stops: Table \"t\" with REPLICA IDENTITY NOTHING cannot be replicated",
        |view, found| missing(view, found, |missing| matches!(missing, Missing::Nothing)),
    ),
    rule(
        "zero/identity-index-missing",
        Error,
        "REPLICA IDENTITY USING INDEX, and that index is gone or not valid",
        "the initial sync stops: Table \"t\" is missing its REPLICA IDENTITY INDEX",
        |view, found| missing(view, found, |missing| matches!(missing, Missing::Index)),
    ),
    rule(
        "zero/wal-level",
        Error,
        "wal_level is not logical",
        "zero-cache does not start: Postgres must be configured with \"wal_level = logical\"",
        wal_level,
    ),
    rule(
        "zero/server-version",
        Error,
        "PostgreSQL is older than 15",
        "zero-cache does not start: Must be running Postgres 15 or higher",
        server_version,
    ),
    rule(
        "zero/publication-operations",
        Error,
        "a publication leaves out insert, update, delete or truncate",
        "zero-cache refuses it: PUBLICATION p must publish insert, update, delete, and truncate; changed while it runs, it \
         goes unnoticed, and those changes are lost",
        publication_operations,
    ),
    rule(
        "zero/publication-name",
        Error,
        "the name of a publication is not a letter or _, and then letters, digits and _; or longer than 63; or that of a \
         publication of yours begins with _",
        "zero-cache does not start: Invalid publication name, or: Publication names starting with \"_\" are reserved for \
         internal use.",
        publication_name,
    ),
    rule(
        "zero/column-lists-differ",
        Error,
        "two of its publications publish different columns of one table",
        "the initial sync stops: Table t is exported with different columns",
        column_lists_differ,
    ),
    rule(
        "zero/reserved-name",
        Error,
        "a column is called _0_version, or a table sqlite_…",
        "the initial sync stops: Table \"t\" uses reserved column name \"_0_version\"; SQLite refuses the table",
        reserved_name,
    ),
    rule(
        "zero/invalid-name",
        Error,
        "the name of a table or column does not begin with a letter or _, or has more than letters, digits, _ and - (and . \
         in columns)",
        "the initial sync stops: Table \"t\" has invalid characters.",
        invalid_name,
    ),
    rule(
        "zero/case-collision",
        Error,
        "two tables, or two columns of one table, differ only by case",
        "the initial sync stops: SQLite takes them for the same",
        case_collision,
    ),
    rule(
        "zero/type-aborts-sync",
        Error,
        "a column of a type that has elements and is no array (point, name, box, lseg, line), or an array made by CREATE \
         TABLE AS (attndims is 0)",
        "the initial sync stops",
        type_aborts_sync,
    ),
    rule(
        "zero/type-unsupported",
        Warning,
        "a column of a type that zero does not know (bytea, money, interval, xml, ranges, domains, composites, …); an error \
         where no key is without it",
        "the column is not shown to zero-cache's clients; as the key, the whole table is not",
        type_unsupported,
    ),
    rule(
        "zero/deferrable-unique",
        Warning,
        "a unique constraint is deferrable",
        "a swap of values within a transaction stops zero-cache, and so again after each restart: UNIQUE constraint failed",
        deferrable_unique,
    ),
    rule(
        "zero/numeric-unique",
        Warning,
        "a unique index is over a numeric column",
        "values that are equal as double precision numbers are one row to zero-cache: the other is lost",
        numeric_unique,
    ),
    rule(
        "zero/partition-root",
        Warning,
        "a partitioned table is published without publish_via_partition_root",
        "zero-cache's clients see the partitions, each as a table, and not the table",
        partition_root,
    ),
    rule(
        "zero/inheritance",
        Error,
        "a published table has inheritance children",
        "the initial sync reads the children's rows into the parent as well: wrong rows, or UNIQUE constraint failed",
        inheritance,
    ),
    rule(
        "zero/row-filter",
        Info,
        "a publication filters rows of a table",
        "zero-cache does not look at existing rows again when the filter changes",
        row_filter,
    ),
    rule(
        "zero/no-event-triggers",
        Warning,
        "zero-cache has set the database up without its event triggers, which only a superuser may create",
        "any change of the schema halts its replication, and it must be reset",
        no_event_triggers,
    ),
];

/// The publications of zero-cache: those that were named, or that it streams, or that are called as it calls its own.
pub(super) fn publications<'a>(catalog: &'a Catalog, scope: &Scope) -> Vec<&'a Publication> {
    let streamed = catalog.consumers.iter().filter(|consumer| consumer.publications.iter().any(|name| is_own(name)));
    let streamed: Vec<&String> = streamed.flat_map(|consumer| &consumer.publications).collect();
    let is_meant = |publication: &&Publication| match scope.publications.is_empty() {
        true => is_own(&publication.name) || streamed.iter().any(|name| ***name == *publication.name),
        false => scope.publications.iter().any(|name| **name == *publication.name),
    };
    catalog.publications.iter().filter(is_meant).collect()
}

/// What zero-cache creates where it is not told what to publish.
pub(super) fn default_publication() -> Publication {
    Publication {
        name: "_zero_public_0".into(),
        all_tables: false,
        insert: true,
        update: true,
        delete: true,
        truncate: true,
        via_root: true,
        generated: None,
        schemas: ["public".into()].into(),
        tables: Vec::new(),
    }
}

/// Whether a publication is called `_{app}_public_{shard}` or `_{app}_metadata_{shard}`.
fn is_own(name: &str) -> bool {
    app_and_shard(name, "public").or_else(|| app_and_shard(name, "metadata")).is_some()
}

fn app_and_shard<'a>(name: &'a str, kind: &str) -> Option<(&'a str, &'a str)> {
    let (rest, shard) = name.strip_prefix('_')?.rsplit_once('_')?;
    let app = rest.strip_suffix(kind)?.strip_suffix('_')?;
    (!shard.is_empty() && shard.bytes().all(|byte| byte.is_ascii_digit())).then_some((app, shard))
}

/// The tables that zero-cache sees, each once, as the first publication shows them.
fn shown<'a>(view: &View<'a>) -> Vec<Published<'a>> {
    let mut tables: BTreeMap<Oid, Published<'a>> = BTreeMap::new();
    for published in &view.zero {
        tables.entry(published.shown_as.oid).or_insert(*published);
    }
    tables.into_values().collect()
}

/// A finding about a table as zero-cache sees it.
fn about(found: &mut Found<'_>, published: &Published<'_>, message: String, mend: Option<Mend>) {
    found.add(Some(published.shown_as), Some(published.publication), message, mend);
}

fn no_key(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        if table.identity == IdentitySetting::Full || !table.keys().is_empty() {
            continue;
        }
        let also = match published.table.replica_identity() {
            ReplicaIdentity::Missing(Missing::PrimaryKey | Missing::Deferrable(_)) => {
                ", and the application's own UPDATE and DELETE fail as long as it is published"
            }
            _ => "",
        };
        let message = format!(
            "zero-cache needs a key, a primary key or a unique index over NOT NULL columns, and there is none: its clients \
             never see the table{also}"
        );
        about(found, &published, message, Some(key::plan(view.catalog, view.survey, table, true)));
    }
}

fn full_without_key(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        if published.table.identity != IdentitySetting::Full || !table.keys().is_empty() {
            continue;
        }
        let message = format!(
            "REPLICA IDENTITY FULL without a key: zero-cache stops at the first insert, and again after each restart and \
             reset: Cannot replicate table \"{}\" without a PRIMARY KEY or UNIQUE INDEX",
            table.name
        );
        about(found, &published, message, Some(key::plan(view.catalog, view.survey, published.table, true)));
    }
}

fn missing(view: &View<'_>, found: &mut Found<'_>, is: fn(Missing<'_>) -> bool) {
    for published in shown(view) {
        let table = published.shown_as;
        let ReplicaIdentity::Missing(why) = table.replica_identity() else { continue };
        if !is(why) {
            continue;
        }
        let then = match why {
            Missing::Nothing => format!("Table \"{}\" with REPLICA IDENTITY NOTHING cannot be replicated", table.name),
            _ => format!("Table \"{}\" is missing its REPLICA IDENTITY INDEX", table.name),
        };
        let message = format!("zero-cache's initial sync stops, for all tables: {then}");
        about(found, &published, message, Some(key::plan(view.catalog, view.survey, table, true)));
    }
}

fn wal_level(view: &View<'_>, found: &mut Found<'_>) {
    let level = &view.catalog.server.wal_level;
    if level != "logical" {
        let message = format!(
            "zero-cache does not start: Postgres must be configured with \"wal_level = logical\" (currently: \"{level}\")"
        );
        let mend =
            Mend::template("Takes effect when the server is restarted.", "ALTER SYSTEM SET wal_level = logical".into());
        found.add(None, None, message, Some(mend));
    }
}

fn server_version(view: &View<'_>, found: &mut Found<'_>) {
    let server = &view.catalog.server;
    if server.major() < 15 {
        let message = format!(
            "zero-cache does not start: Must be running Postgres 15 or higher (currently: \"{}\"). Upgrade the server.",
            server.version
        );
        found.add(None, None, message, None);
    }
}

fn publication_operations(view: &View<'_>, found: &mut Found<'_>) {
    for publication in view.zero_publications.iter().filter(|publication| publication.operations().len() < 4) {
        let message = format!(
            "zero-cache refuses it: PUBLICATION {} must publish insert, update, delete, and truncate; while it runs it does \
             not notice, and those changes are lost to its clients",
            publication.name
        );
        let option = "publish = 'insert, update, delete, truncate'";
        let mend = mend::set_publication(publication, option, "zero-cache needs all of them.");
        found.add(None, Some(publication), message, Some(mend));
    }
}

fn publication_name(view: &View<'_>, found: &mut Found<'_>) {
    for publication in &view.zero_publications {
        let name = &*publication.name;
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_valid = name.starts_with(|c: char| is_word(c) && !c.is_ascii_digit()) && name.chars().all(is_word);
        let problem = if !is_valid || name.len() > 63 {
            format!(
                "Invalid publication name \"{name}\". Publication names must start with a letter or underscore and contain \
                 only letters, digits, and underscores."
            )
        } else if name.starts_with('_') && !is_own(name) {
            "Publication names starting with \"_\" are reserved for internal use.".to_owned()
        } else {
            continue;
        };
        let sql = format!("ALTER PUBLICATION {} RENAME TO <name>", Identifier(name));
        let mend = Mend::template("Its consumers must then name it so, and zero-cache is reset.", sql);
        found.add(None, Some(publication), format!("zero-cache does not start: {problem}"), Some(mend));
    }
}

fn column_lists_differ(view: &View<'_>, found: &mut Found<'_>) {
    let mut first: BTreeMap<Oid, &Published<'_>> = BTreeMap::new();
    for published in &view.zero {
        let known = first.entry(published.shown_as.oid).or_insert(published);
        let columns = |published: &Published<'_>| -> Vec<String> {
            let columns = published.shown_as.columns.iter().filter(|column| published.publishes(&column.name));
            columns.map(|column| column.name.to_string()).collect()
        };
        let (one, other) = (columns(known), columns(published));
        if one != other {
            let message = format!(
                "zero-cache's initial sync stops, for all tables: Table {} is exported with different columns: [{}] vs [{}] \
                 (by publications {} and {})",
                published.shown_as.name,
                one.join(","),
                other.join(","),
                known.publication.name,
                published.publication.name
            );
            let mend = Mend::template(
                "List the same columns in both; with a WHERE, repeat it.",
                mend::list_columns(published.publication, published.shown_as),
            );
            about(found, published, message, Some(mend));
        }
    }
}

fn reserved_name(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        if published.publishes("_0_version") {
            let message = format!(
                "zero-cache's initial sync stops, for all tables: Table \"{}\" uses reserved column name \"_0_version\"",
                table.name
            );
            about(found, &published, message, Some(rename_column(table, "_0_version")));
        }
        if lite_name(table).to_ascii_lowercase().starts_with("sqlite_") {
            let message =
                "zero-cache's initial sync stops, for all tables: SQLite keeps names that begin with sqlite_ for \
                           itself"
                    .to_owned();
            about(found, &published, message, Some(rename_table(table)));
        }
    }
}

fn invalid_name(view: &View<'_>, found: &mut Found<'_>) {
    let is_valid = |name: &str, more: &str| {
        let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
        name.starts_with(begins) && name.chars().all(|c| begins(c) || c.is_ascii_digit() || more.contains(c))
    };
    for published in shown(view) {
        let table = published.shown_as;
        if !is_valid(&table.name, "-") {
            let message = format!(
                "zero-cache's initial sync stops, for all tables: Table \"{}\" has invalid characters.",
                lite_name(table)
            );
            about(found, &published, message, Some(rename_table(table)));
        }
        for column in published_columns(&published).filter(|column| !is_valid(&column.name, "-.")) {
            let message = format!(
                "zero-cache's initial sync stops, for all tables: Column \"{}\" in table \"{}\" has invalid characters.",
                column.name,
                lite_name(table)
            );
            about(found, &published, message, Some(rename_column(table, &column.name)));
        }
    }
}

fn case_collision(view: &View<'_>, found: &mut Found<'_>) {
    let mut tables: BTreeMap<String, Published<'_>> = BTreeMap::new();
    for published in shown(view) {
        let table = published.shown_as;
        let mut columns: BTreeMap<String, &Column> = BTreeMap::new();
        for column in published_columns(&published) {
            if let Some(other) = columns.insert(column.name.to_ascii_lowercase(), column) {
                let message = format!(
                    "zero-cache's initial sync stops, for all tables: SQLite takes columns \"{}\" and \"{}\" for the same: \
                     duplicate column name: {}",
                    other.name, column.name, column.name
                );
                about(found, &published, message, Some(rename_column(table, &column.name)));
            }
        }
        if let Some(other) = tables.insert(lite_name(table).to_ascii_lowercase(), published) {
            let message = format!(
                "zero-cache's initial sync stops, for all tables: SQLite takes {} and {} for the same: table {} already \
                 exists",
                other.shown_as.table_name(),
                table.table_name(),
                lite_name(table)
            );
            about(found, &published, message, Some(rename_table(table)));
        }
    }
}

fn type_aborts_sync(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        for column in published_columns(&published).filter(|column| aborts_sync(column)) {
            let (name, sql_type) = (Identifier(&column.name), &column.sql_type);
            let (because, mend) = if column.element.is_some() {
                let sql = format!("ALTER TABLE {} ALTER COLUMN {name} TYPE {sql_type}", table.table_name());
                let comment = "The catalog then says that it is an array; no row is written.";
                (
                    format!("{name} ({sql_type}) was made by CREATE TABLE AS, so its dimensions are not known"),
                    Mend::one(comment, sql),
                )
            } else {
                let sql = format!("ALTER TABLE {} ALTER COLUMN {name} TYPE text", table.table_name());
                let comment = "Choose a type that zero knows, or leave the column out of the publication.";
                (format!("it takes {name} ({sql_type}) for an array"), Mend::template(comment, sql))
            };
            about(found, &published, format!("zero-cache's initial sync stops, for all tables: {because}"), Some(mend));
        }
    }
}

/// zero-cache takes a type with elements for an array, and finds none in the name of the type.
fn aborts_sync(column: &Column) -> bool {
    column.subscripted && column.dimensions == 0
}

fn type_unsupported(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        let known = |number: &i16| table.column(*number).is_some_and(is_known);
        let keys = table.keys();
        let hides_table = !keys.is_empty() && !keys.iter().any(|key| key.columns.iter().all(known));
        let columns = published_columns(&published).filter(|column| !is_known(column) && !aborts_sync(column));
        for column in columns {
            let (name, sql_type) = (Identifier(&column.name), &column.sql_type);
            let in_key = keys.iter().any(|key| key.columns.contains(&column.number));
            let (severity, message) = match hides_table && in_key {
                true => (
                    Error,
                    format!(
                        "zero does not know the type of {name} ({sql_type}), and no key is without it: zero-cache's clients \
                         never see the table, without a word"
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
fn is_known(column: &Column) -> bool {
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

fn deferrable_unique(view: &View<'_>, found: &mut Found<'_>) {
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
            let columns = mend::columns(published.shown_as, &index.columns).unwrap_or_default();
            let sql = format!(
                "ALTER TABLE {0} DROP CONSTRAINT {1}, ADD CONSTRAINT {1} UNIQUE ({2})",
                published.shown_as.table_name(),
                Identifier(constraint),
                mend::list(&columns)
            );
            let comment = "If no transaction of the application relies on it.";
            about(found, &published, message, Some(Mend::template(comment, sql)));
        }
    }
}

fn numeric_unique(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        for index in table.indexes.iter().filter(|index| index.unique && !index.partial) {
            let Some(columns) = mend::columns(table, &index.columns) else { continue };
            if let Some(column) = columns.iter().find(|column| &*column.type_name == "numeric") {
                let message = format!(
                    "{} of the unique index {} is numeric, and a double precision number to zero-cache: of two rows whose \
                     values are then equal its clients see one",
                    Identifier(&column.name),
                    Identifier(&index.name)
                );
                about(found, &published, message, None);
            }
        }
    }
}

fn partition_root(view: &View<'_>, found: &mut Found<'_>) {
    let mut told: Vec<(Oid, &str)> = Vec::new();
    for published in view.zero.iter().filter(|published| !published.publication.via_root) {
        let Some(root) = view.catalog.ancestors(published.table).last().copied() else { continue };
        let publication = published.publication;
        if !told.contains(&(root.oid, &*publication.name)) {
            told.push((root.oid, &*publication.name));
            let message = "zero-cache's clients see its partitions, each as a table of its own, and not the table";
            let option = "publish_via_partition_root = true";
            let comment = "Changes are then those of the partitioned table. zero-cache must be reset.";
            let mend = mend::set_publication(publication, option, comment);
            found.add(Some(root), Some(publication), message.to_owned(), Some(mend));
        }
    }
}

fn inheritance(view: &View<'_>, found: &mut Found<'_>) {
    let parents: std::collections::BTreeSet<Oid> = view
        .catalog
        .relations
        .values()
        .filter(|relation| !relation.partition)
        .flat_map(|relation| relation.parents.iter().copied())
        .collect();
    for published in shown(view).into_iter().filter(|published| parents.contains(&published.shown_as.oid)) {
        let message = "It has inheritance children: zero-cache's initial sync reads their rows into it as well: wrong rows, \
                       or UNIQUE constraint failed. Leave it out of the publication, or make the children partitions.";
        about(found, &published, message.to_owned(), None);
    }
}

fn row_filter(view: &View<'_>, found: &mut Found<'_>) {
    for published in
        view.zero.iter().filter(|published| published.entry.is_some_and(|entry| entry.filtered_by.is_some()))
    {
        let message = "The publication filters its rows. After a change of the filter, reset zero-cache: it does not look at \
                       existing rows again.";
        about(found, published, message.to_owned(), None);
    }
}

fn no_event_triggers(view: &View<'_>, found: &mut Found<'_>) {
    for publication in &view.zero_publications {
        let Some((app, shard)) = app_and_shard(&publication.name, "metadata") else { continue };
        let trigger = format!("{app}_ddl_end_{shard}");
        if !view.catalog.server.event_triggers.contains(&trigger) {
            let message = format!(
                "zero-cache's event trigger {trigger} is not there: its role may not create one, so any change of the schema \
                 halts its replication, and it must be reset. Let zero-cache connect as a superuser once."
            );
            found.add(None, Some(publication), message, None);
        }
    }
}

fn published_columns<'a>(published: &'a Published<'a>) -> impl Iterator<Item = &'a Column> {
    published.shown_as.columns.iter().filter(|column| published.publishes(&column.name))
}

/// The name that a table has in zero-cache's replica (`types/names.ts`).
fn lite_name(table: &Relation) -> String {
    match &*table.schema {
        "public" => table.name.to_string(),
        schema => format!("{schema}.{}", table.name),
    }
}

fn rename_table(table: &Relation) -> Mend {
    let comment = "The application must then call it so, too; or leave it out of the publication.";
    Mend::template(comment, format!("ALTER TABLE {} RENAME TO <name>", table.table_name()))
}

fn rename_column(table: &Relation, column: &str) -> Mend {
    let comment = "The application must then call it so, too; or leave it out of the publication.";
    Mend::template(
        comment,
        format!("ALTER TABLE {} RENAME COLUMN {} TO <name>", table.table_name(), Identifier(column)),
    )
}
