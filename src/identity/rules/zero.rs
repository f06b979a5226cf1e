//! What Rocicorp's zero-cache demands of a table that it is to replicate. Sources, in zero-cache 1.9: `schema/validation.ts`,
//! `schema/published.ts`, `schema/shard.ts`, `initial-sync.ts`, `db/lite-tables.ts`, `types/pg-data-type.ts`,
//! `change-processor.ts`; each consequence was seen on a running one.

mod column;
mod key;
mod name;

use std::collections::{BTreeMap, BTreeSet};

use super::{Found, Rule, RuleSet, Scope, View};
use crate::ident::{Identifier, Oid};
use crate::identity::catalog::{Catalog, Column, Publication, Relation, ReplicaIdentity};
use crate::identity::finding::Severity::{Error, Info, Warning};
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
        "no primary key, and no unique index for all rows over NOT NULL columns that are published",
        "the table is never shown to zero-cache's clients: The \"t\" table is missing a primary key or non-null unique index \
         and thus cannot be synced to the client; with identity DEFAULT the application's own UPDATE and DELETE fail too",
        key::no_key,
    ),
    rule(
        "zero/full-without-key",
        Error,
        "REPLICA IDENTITY FULL, and no such key",
        "no warning at the start; at the first insert zero-cache stops, and so again after each restart and reset: Cannot \
         replicate table \"t\" without a PRIMARY KEY or UNIQUE INDEX",
        key::full_without_key,
    ),
    rule(
        "zero/identity-nothing",
        Error,
        "REPLICA IDENTITY NOTHING",
        "the initial sync stops: Table \"t\" with REPLICA IDENTITY NOTHING cannot be replicated",
        key::identity_nothing,
    ),
    rule(
        "zero/identity-index-missing",
        Error,
        "REPLICA IDENTITY USING INDEX, and that index is gone",
        "the initial sync stops: Table \"t\" is missing its REPLICA IDENTITY INDEX",
        key::identity_index_missing,
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
        "the name of a publication is not a lower-case letter or _, and then lower-case letters, digits and _; or that of a \
         publication of yours begins with _",
        "zero-cache does not start: Invalid publication name, or: Publication names starting with \"_\" are reserved for \
         internal use.; with capitals nothing is replicated after the initial sync",
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
        "a column is called _0_version, a table or its schema sqlite…, _litestream… or _zero",
        "the initial sync stops: Table \"t\" uses reserved column name \"_0_version\", or: object name reserved for internal \
         use: sqlite_t; or zero-cache stops at the first insert: Unknown table _zero.t",
        name::reserved_name,
    ),
    rule(
        "zero/invalid-name",
        Error,
        "the name of a table or column does not begin with a letter or _, or has more than letters, digits, _ and - (and . \
         in columns)",
        "the initial sync stops: Table \"t\" has invalid characters.",
        name::invalid_name,
    ),
    rule(
        "zero/case-collision",
        Error,
        "two tables or indexes, or two columns of one table, differ only by case",
        "the initial sync stops: table t already exists; duplicate column name: c",
        name::case_collision,
    ),
    rule(
        "zero/type-aborts-sync",
        Error,
        "a column of a type that has elements and is no array (point, name, box, lseg, line), or an array whose attndims \
         is 0: made by CREATE TABLE AS, LIKE or INHERITS",
        "the initial sync stops: TEXT_ARRAY_ATTRIBUTE and [] must be consistent in dataType: point|TEXT_ARRAY",
        column::type_aborts_sync,
    ),
    rule(
        "zero/type-unsupported",
        Warning,
        "a column of a type that zero does not know (bytea, money, interval, xml, ranges, domains, composites, …); an error \
         where no key is without it",
        "the column is not shown to zero-cache's clients; as the key, the whole table is not",
        column::type_unsupported,
    ),
    rule(
        "zero/deferrable-unique",
        Warning,
        "a unique constraint is deferrable",
        "a swap of values within a transaction stops zero-cache, and so again after each restart: UNIQUE constraint failed",
        column::deferrable_unique,
    ),
    rule(
        "zero/numeric-unique",
        Warning,
        "a unique index is over a numeric column of more than 15 digits, or a time",
        "values that are equal as double precision numbers, or as milliseconds, are one row to zero-cache: the other is lost, \
         or the initial sync stops: UNIQUE constraint failed",
        column::numeric_unique,
    ),
    rule(
        "zero/invalid-unique",
        Warning,
        "a unique index is not valid: CREATE UNIQUE INDEX CONCURRENTLY has failed",
        "zero-cache takes it for one all the same: over equal values the initial sync stops: UNIQUE constraint failed",
        column::invalid_unique,
    ),
    rule(
        "zero/array-elements",
        Warning,
        "an array of elements that zero-cache does not read in binary (inet, interval, money, point, ranges, composites, …)",
        "after the initial sync the clients see bytes for the values, until a row changes",
        column::array_elements,
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
        "zero/row-filters-differ",
        Error,
        "of two of its publications one filters the rows of a table, and the other does not",
        "the initial sync copies only what the filter lets through: rows are missing",
        row_filters_differ,
    ),
    rule(
        "zero/no-event-triggers",
        Warning,
        "zero-cache has set the database up without its event triggers, which only a superuser may create",
        "any change of the schema halts its replication, and it must be reset",
        no_event_triggers,
    ),
];

/// The publications of zero-cache: those that were named; else those that it has noted for itself, or streams, or that are
/// called as it calls its own.
pub(super) fn publications<'a>(catalog: &'a Catalog, scope: &Scope) -> Vec<&'a Publication> {
    let streamed = catalog.consumers.iter().filter_map(|consumer| consumer.publications.as_ref());
    let streamed = streamed.filter(|publications| publications.iter().any(|name| is_own(name))).flatten();
    let noted = catalog.zero_shards.iter().flat_map(|shard| &shard.publications);
    let known: BTreeSet<&str> = streamed.chain(noted).map(String::as_str).collect();
    let is_meant = |publication: &&Publication| match scope.publications.is_empty() {
        true => is_own(&publication.name) || known.contains(&*publication.name),
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
pub fn is_own(name: &str) -> bool {
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
    found.add(Some(published.shown_as), Some(&published.publication.name), message, mend);
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
        // Nothing that is written now must fail then.
        let mut published = view.zero.iter().filter(|published| published.publication.name == publication.name);
        let is_safe = (publication.update && publication.delete)
            || published.all(|published| {
                published.entry.is_none_or(|entry| entry.columns.is_none() && entry.filtered_by.is_none())
                    && !matches!(published.table.replica_identity(), ReplicaIdentity::Missing(_))
            });
        let option = "publish = 'insert, update, delete, truncate'";
        let mend = match is_safe {
            true => mend::set_publication(publication, option, "zero-cache needs all of them."),
            false => {
                let comment = "Not before each of its tables has a replica identity that covers its WHERE and column list: \
                               the application's UPDATE and DELETE would fail.";
                mend::set_publication(publication, option, comment).deferred()
            }
        };
        found.add(None, Some(&publication.name), message, Some(mend));
    }
}

fn publication_name(view: &View<'_>, found: &mut Found<'_>) {
    for publication in &view.zero_publications {
        let name = &*publication.name;
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_valid = name.starts_with(|c: char| is_word(c) && !c.is_ascii_digit()) && name.chars().all(is_word);
        let problem = if !is_valid {
            format!(
                "zero-cache does not start: Invalid publication name \"{name}\". Publication names must start with a letter \
                 or underscore and contain only letters, digits, and underscores."
            )
        } else if name.contains(|c: char| c.is_ascii_uppercase()) {
            let folded = name.to_ascii_lowercase();
            format!(
                "zero-cache streams it by the name of {folded}: after the initial sync nothing is replicated, or, before \
                 PostgreSQL 18, it stops: publication \"{folded}\" does not exist"
            )
        } else if name.starts_with('_') && !is_own(name) {
            "zero-cache does not start: Publication names starting with \"_\" are reserved for internal use.".to_owned()
        } else {
            continue;
        };
        let sql = format!("ALTER PUBLICATION {} RENAME TO <name>", Identifier(name));
        let mend = Mend::template("Its consumers must then name it so, and zero-cache is reset.", sql);
        found.add(None, Some(&publication.name), problem, Some(mend));
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
            let mut entries = publication.tables.iter();
            let is_plain = entries.all(|entry| entry.columns.is_none() && entry.filtered_by.is_none());
            let mend = mend::set_publication(publication, option, comment);
            // Another list and another filter count then.
            let mend = if is_plain { mend } else { mend.deferred() };
            found.add(Some(root), Some(&publication.name), message.to_owned(), Some(mend));
        }
    }
}

fn inheritance(view: &View<'_>, found: &mut Found<'_>) {
    let parents: BTreeSet<Oid> = view
        .catalog
        .relations
        .values()
        .filter(|relation| !relation.partition)
        .flat_map(|relation| relation.parents.iter().copied())
        .collect();
    let is_parent = |published: &Published<'_>| parents.contains(&published.shown_as.oid);
    for published in shown(view).into_iter().filter(is_parent) {
        let message = "It has inheritance children: zero-cache's initial sync reads their rows into it as well: wrong rows, \
                       or UNIQUE constraint failed";
        let mend = Mend::template(
            "If the children can stand alone; or leave the table out of the publication, or make them partitions.",
            format!("ALTER TABLE <child> NO INHERIT {}", published.shown_as.table_name()),
        );
        about(found, &published, message.to_owned(), Some(mend));
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

fn row_filters_differ(view: &View<'_>, found: &mut Found<'_>) {
    let is_filtered = |published: &Published<'_>| published.entry.is_some_and(|entry| entry.filtered_by.is_some());
    // The last one that is put in stays: the first of each table.
    let filtered = view.zero.iter().rev().filter(|published| is_filtered(published));
    let filtered: BTreeMap<Oid, &Published<'_>> = filtered.map(|published| (published.table.oid, published)).collect();
    for whole in view.zero.iter().filter(|published| !is_filtered(published)) {
        if let Some(filtered) = filtered.get(&whole.table.oid) {
            let message = format!(
                "Publication {} publishes all its rows, and {} some: zero-cache's initial sync copies only those, so rows are \
                 missing for its clients",
                Identifier(&whole.publication.name),
                Identifier(&filtered.publication.name)
            );
            about(found, filtered, message, None);
        }
    }
}

fn no_event_triggers(view: &View<'_>, found: &mut Found<'_>) {
    for publication in &view.zero_publications {
        let Some((app, shard)) = app_and_shard(&publication.name, "metadata") else { continue };
        let trigger = format!("{app}_ddl_end_{shard}");
        if !view.catalog.server.event_triggers.contains(&trigger) {
            let message = format!(
                "zero-cache's event trigger {trigger} is not there: its role could not create it, so any change of the schema \
                 halts its replication, and it must be reset. Give its role the right (a superuser has it), and reset it."
            );
            found.add(None, Some(&publication.name), message, None);
        }
    }
}

fn published_columns<'a>(published: &'a Published<'a>) -> impl Iterator<Item = &'a Column> {
    published.shown_as.columns.iter().filter(|column| published.publishes(&column.name))
}

/// The name that a table has in zero-cache's replica (`types/names.ts`).
fn lite_name(table: &Relation) -> String {
    lite(&table.schema, &table.name)
}

fn lite(schema: &str, name: &str) -> String {
    match schema {
        "public" => name.to_owned(),
        schema => format!("{schema}.{name}"),
    }
}
