//! What PostgreSQL itself demands of a published table. Sources: `CheckCmdReplicaIdentity` in `execReplication.c`,
//! `pub_rf_contains_invalid_column` and `pub_contains_invalid_column` in `publicationcmds.c`, `pgoutput.c`, and the
//! manual's chapter "Logical Replication".

use std::collections::{BTreeMap, BTreeSet};

use super::{Found, Rule, RuleSet, View};
use crate::ident::{Identifier, Oid};
use crate::identity::catalog::{
    ColumnNumber, IdentitySetting, Index, Missing, Publication, RelationKind, ReplicaIdentity,
};
use crate::identity::finding::Severity::{Error, Info, Warning};
use crate::identity::key::Evidence;
use crate::identity::mend::{self, Mend};
use crate::identity::publish::Published;

pub(super) static RULES: &[Rule] = &[
    Rule {
        id: "pg/no-identity",
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "the replica identity is DEFAULT, and there is no primary key",
        consequence: "the application's own writes fail: cannot update table \"t\" because it does not have a replica \
                      identity and publishes updates",
        check: |view, found| missing(view, found, |missing| matches!(missing, Missing::PrimaryKey)),
    },
    Rule {
        id: "pg/identity-nothing",
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "REPLICA IDENTITY NOTHING",
        consequence: "the same",
        check: |view, found| missing(view, found, |missing| matches!(missing, Missing::Nothing)),
    },
    Rule {
        id: "pg/identity-index-missing",
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "REPLICA IDENTITY USING INDEX, and that index is gone or not valid",
        consequence: "the same",
        check: |view, found| missing(view, found, |missing| matches!(missing, Missing::Index)),
    },
    Rule {
        id: "pg/deferrable-key",
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "the replica identity is DEFAULT, and the primary key is DEFERRABLE",
        consequence: "the same, though a primary key is there",
        check: |view, found| missing(view, found, |missing| matches!(missing, Missing::Deferrable(_))),
    },
    Rule {
        id: "pg/column-list-misses-identity",
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "a column list leaves out columns of the replica identity, or the identity is FULL",
        consequence: "the application's own writes fail: Column list used by the publication does not cover the replica \
                      identity.",
        check: column_list_misses_identity,
    },
    Rule {
        id: "pg/row-filter-misses-identity",
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "a publication's WHERE uses a column that is not part of the replica identity",
        consequence: "the application's own writes fail: Column used in the publication WHERE expression is not part of \
                      the replica identity.",
        check: row_filter_misses_identity,
    },
    Rule {
        id: "pg/generated-identity",
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "a column of the replica identity is generated and not published",
        consequence: "from PostgreSQL 18 on the application's own writes fail: Replica identity must not contain \
                      unpublished generated columns.; before, subscribers stop: publisher did not send replica identity \
                      column expected by the logical replication target relation \"public.t\"",
        check: generated_identity,
    },
    Rule {
        id: "pg/column-lists-differ",
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "publications of one consumer list different columns of one table",
        consequence: "the consumer's stream fails: cannot use different column lists for table \"t\" in different \
                      publications",
        check: column_lists_differ,
    },
    Rule {
        id: "pg/publication-missing",
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "a publication that was named, or that a consumer streams, does not exist",
        consequence: "the consumer's stream fails: publication \"p\" does not exist; from PostgreSQL 18 on it goes on \
                      without what the publication would publish",
        check: publication_missing,
    },
    Rule {
        id: "pg/publication-empty",
        set: RuleSet::Postgres,
        severity: Warning,
        holds_when: "a publication publishes no table, or no operation",
        consequence: "the stream stays silent",
        check: publication_empty,
    },
    Rule {
        id: "pg/identity-full",
        set: RuleSet::Postgres,
        severity: Warning,
        holds_when: "REPLICA IDENTITY FULL",
        consequence: "whole old rows in the WAL; subscribers before PostgreSQL 16 look through the whole table for each \
                      row; rows with a column that cannot be compared (json, point, xml) are never found",
        check: identity_full,
    },
    Rule {
        id: "pg/not-published",
        set: RuleSet::Postgres,
        severity: Info,
        holds_when: "a table, materialized view, foreign or unlogged table or sequence of the published schemas, or a \
                     large object, is carried by no publication",
        consequence: "it is missing on the target after a cutover",
        check: not_published,
    },
    Rule {
        id: NO_RIGHTS,
        set: RuleSet::Postgres,
        severity: Error,
        holds_when: "walgate's role may not read the catalog; a warning where it may not read a table that needs a key, or \
                     see what a consumer streams",
        consequence: "what is not seen is not judged",
        check: no_rights,
    },
];

/// The rule that says what could not be looked at.
pub(super) const NO_RIGHTS: &str = "pg/no-rights";

/// Tables of which the server says this, where it matters.
fn missing(view: &View<'_>, found: &mut Found<'_>, is: fn(Missing<'_>) -> bool) {
    for published in &view.published {
        if let ReplicaIdentity::Missing(why) = published.table.replica_identity()
            && published.publication.needs_identity()
            && is(why)
        {
            let mend = view.key(published.table, view.is_for_zero(published.table));
            let but = match why {
                Missing::PrimaryKey => "It has no primary key",
                Missing::Deferrable(_) => "Its primary key is deferrable, which names no rows",
                Missing::Index => "The index of its REPLICA IDENTITY USING INDEX is gone or not valid",
                Missing::Nothing => "It has REPLICA IDENTITY NOTHING",
            };
            found.published(published, format!("{but}, so {}", refused(published)), Some(mend));
        }
    }
}

/// Which writes fail, and how.
fn refused(published: &Published<'_>) -> String {
    let (name, publication) = (&published.table.name, published.publication);
    let tail = "because it does not have a replica identity and publishes";
    match (publication.update, publication.delete) {
        (true, true) => {
            format!("the application's own UPDATE and DELETE fail: cannot update table \"{name}\" {tail} updates")
        }
        (true, false) => format!("the application's own UPDATE fails: cannot update table \"{name}\" {tail} updates"),
        _ => format!("the application's own DELETE fails: cannot delete from table \"{name}\" {tail} deletes"),
    }
}

/// The writes that a publication makes fail.
fn writes(publication: &Publication) -> &'static str {
    match (publication.update, publication.delete) {
        (true, true) => "UPDATE and DELETE fail",
        (true, false) => "UPDATE fails",
        _ => "DELETE fails",
    }
}

fn column_list_misses_identity(view: &View<'_>, found: &mut Found<'_>) {
    for published in view.published.iter().filter(|published| published.publication.needs_identity()) {
        let Some(list) = published.entry.and_then(|entry| entry.columns.as_ref()) else { continue };
        let (left_out, mend) = match published.table.replica_identity() {
            ReplicaIdentity::Missing(_) => continue,
            ReplicaIdentity::Full => {
                ("columns, and the replica identity is FULL, all of them".to_owned(), view.use_key(published.table))
            }
            ReplicaIdentity::Index(index) => {
                let left_out: Vec<String> = identity_columns(published, index)
                    .filter(|(number, _)| !list.contains(number))
                    .map(|(_, name)| Identifier(name).to_string())
                    .collect();
                if left_out.is_empty() {
                    continue;
                }
                (format!("only some columns, without {} of the replica identity", left_out.join(", ")), None)
            }
        };
        let mend = mend.unwrap_or_else(|| {
            Mend::template(
                "Publish the columns of the replica identity too; subscribers need them in their table. With a WHERE, repeat it.",
                mend::list_columns(published.publication, published.shown_as),
            )
        });
        let message = format!(
            "The publication lists {left_out}, so the application's own {}: Column list used by the publication does not \
             cover the replica identity.",
            writes(published.publication)
        );
        found.published(published, message, Some(mend));
    }
}

/// The columns of an index by their names, with their numbers in the table that subscribers see.
fn identity_columns<'a>(
    published: &'a Published<'a>,
    index: &'a Index,
) -> impl Iterator<Item = (ColumnNumber, &'a str)> {
    index.columns.iter().filter_map(|number| published.table.column(*number)).map(|column| {
        let shown = published.shown_as.column_named(&column.name);
        (shown.map_or(0, |shown| shown.number), &*column.name)
    })
}

fn row_filter_misses_identity(view: &View<'_>, found: &mut Found<'_>) {
    for published in view.published.iter().filter(|published| published.publication.needs_identity()) {
        let used: Vec<&str> = published.filter_columns().map(|column| &*column.name).collect();
        let index = match published.table.replica_identity() {
            ReplicaIdentity::Full => continue,
            ReplicaIdentity::Index(index) => Some(index),
            ReplicaIdentity::Missing(_) => None,
        };
        let names = |index, name: &&str| identity_columns(published, index).any(|(_, column)| column == *name);
        let outside: Vec<&str> =
            used.iter().filter(|name| !index.is_some_and(|index| names(index, name))).copied().collect();
        if outside.is_empty() {
            continue;
        }
        let list: Vec<String> = outside.iter().map(|name| Identifier(name).to_string()).collect();
        let message = format!(
            "The publication's WHERE uses {}, outside the replica identity, so the application's own {}: Column used in \
             the publication WHERE expression is not part of the replica identity.",
            list.join(", "),
            writes(published.publication)
        );
        found.published(published, message, index.map(|_| identity_with(view, published, &used)));
    }
}

/// Names rows by a key and these columns.
fn identity_with(view: &View<'_>, published: &Published<'_>, used: &[&str]) -> Mend {
    let table = published.table;
    if let Some(mend) = view.use_key(table) {
        return mend;
    }
    let keys = table.keys();
    let mut wide: Vec<_> = keys.first().and_then(|key| mend::columns(table, &key.columns)).unwrap_or_default();
    let more = used.iter().filter_map(|name| table.column_named(name));
    wide.extend(more.filter(|column| !wide.iter().any(|known| known.number == column.number)).collect::<Vec<_>>());
    if wide.iter().all(|column| column.not_null && column.generated.is_none()) {
        let widened = mend::widen_identity(view.catalog, table, &wide);
        return match view.misfit(table, &wide) {
            None => widened,
            Some(other) => {
                let comment = format!(
                    "{} publishes not all of {}, which are to name the rows: publish them there too, with its WHERE if it \
                     has one; or leave them out of this WHERE.",
                    Identifier(&other.publication.name),
                    mend::list(&wide)
                );
                let list = mend::list_columns(other.publication, other.shown_as);
                Mend::template(comment, list).then(widened.deferred())
            }
        };
    }
    if view.is_for_zero(table) || !view.full_does(table) {
        let comment =
            "Forbid nulls in the columns that WHERE uses, and run the check again; or leave them out of WHERE.";
        let nullable: Vec<String> = wide
            .iter()
            .filter(|column| !column.not_null)
            .map(|column| format!("ALTER COLUMN {} SET NOT NULL", Identifier(&column.name)))
            .collect();
        return Mend::template(comment, format!("ALTER TABLE {} {}", table.table_name(), nullable.join(", ")));
    }
    mend::use_full(table)
}

fn generated_identity(view: &View<'_>, found: &mut Found<'_>) {
    let before_18 = view.catalog.server.major() < 18;
    for published in view.published.iter().filter(|published| published.publication.needs_identity()) {
        let table = published.table;
        // What a list leaves out is another rule's.
        if published.entry.is_some_and(|entry| entry.columns.is_some()) {
            continue;
        }
        let named: Vec<ColumnNumber> = match table.replica_identity() {
            ReplicaIdentity::Index(index) => index.columns.clone(),
            ReplicaIdentity::Full if !before_18 => table.columns.iter().map(|column| column.number).collect(),
            ReplicaIdentity::Full | ReplicaIdentity::Missing(_) => continue,
        };
        let hidden: Vec<_> = named
            .iter()
            .filter_map(|number| table.column(*number))
            .filter(|column| column.generated.is_some() && !published.publishes(&column.name))
            .collect();
        let list = mend::list(&hidden);
        let Some(first) = hidden.first() else { continue };
        let then = if before_18 {
            format!(
                "subscribers stop at the first UPDATE or DELETE: publisher did not send replica identity column expected by \
                 the logical replication target relation \"{}.{}\"",
                published.shown_as.schema, published.shown_as.name
            )
        } else {
            format!(
                "the application's own {}: Replica identity must not contain unpublished generated columns.",
                writes(published.publication)
            )
        };
        let mend = view.use_key(table).unwrap_or_else(|| {
            Mend::template(
                "Make it an ordinary column, which the application fills; or choose another key.",
                format!("ALTER TABLE {} ALTER COLUMN {} DROP EXPRESSION", table.table_name(), Identifier(&first.name)),
            )
        });
        let message = format!("Its replica identity has {list}, generated and not published, so {then}");
        found.published(published, message, Some(mend));
    }
}

fn column_lists_differ(view: &View<'_>, found: &mut Found<'_>) {
    for (consumer, names) in view.streamed() {
        let mut seen: BTreeMap<_, (&Published<'_>, Vec<ColumnNumber>)> = BTreeMap::new();
        let is_streamed = |published: &&Published<'_>| names.iter().any(|name| **name == *published.publication.name);
        for published in view.all.iter().filter(is_streamed) {
            let listed = view.catalog.columns_compared(published);
            match seen.get(&published.shown_as.oid) {
                Some((first, columns))
                    if *columns != listed && first.publication.name != published.publication.name =>
                {
                    let name = published.shown_as.table_name();
                    let message = format!(
                        "{consumer} streams publications {} and {}, which list different columns of it, so the stream \
                         fails: cannot use different column lists for table \"{}.{}\" in different publications",
                        Identifier(&first.publication.name),
                        Identifier(&published.publication.name),
                        name.schema,
                        name.name,
                    );
                    let template = Mend::template(
                        "List the same columns in both; with a WHERE, repeat it.",
                        mend::list_columns(published.publication, published.shown_as),
                    );
                    found.add(Some(published.shown_as), Some(&published.publication.name), message, Some(template));
                }
                Some(_) => {}
                None => {
                    seen.insert(published.shown_as.oid, (published, listed));
                }
            }
        }
    }
}

/// Publications that a message names.
const NAMED: usize = 20;

fn publication_missing(view: &View<'_>, found: &mut Found<'_>) {
    let exists = |name: &str| view.catalog.publications.iter().any(|publication| &*publication.name == name);
    let then = match view.catalog.server.major() {
        ..18 => "the stream fails at the next change of any table",
        _ => "the stream goes on without the rows that it would publish",
    };
    let there: Vec<String> =
        view.catalog.publications.iter().map(|publication| Identifier(&publication.name).to_string()).collect();
    let there = match there.len() {
        0 => "there is none in this database".to_owned(),
        1..=NAMED => format!("there are: {}", there.join(", ")),
        many => format!("there are {many} others"),
    };
    let streamed = view.streamed();
    let named = streamed.iter().flat_map(|(who, names)| names.iter().map(move |name| (who, name)));
    for (who, name) in named.filter(|(_, name)| !exists(name)) {
        let message = format!("{who} streams it, so {then}: publication \"{name}\" does not exist; {there}");
        let template = Mend::template(
            "If that is its name: say what it is to publish.",
            format!("CREATE PUBLICATION {} FOR TABLE <tables>", Identifier(name)),
        );
        found.add(None, Some(name), message, Some(template));
    }
}

fn publication_empty(view: &View<'_>, found: &mut Found<'_>) {
    for publication in &view.publications {
        let is_empty = publication.operations().is_empty()
            || !view.published.iter().any(|published| published.publication.name == publication.name);
        if is_empty {
            let template = Mend::template(
                "Say what it is to publish.",
                format!("ALTER PUBLICATION {} ADD TABLE <tables>", Identifier(&publication.name)),
            );
            found.add(
                None,
                Some(&publication.name),
                "It publishes nothing: its stream stays silent.".into(),
                Some(template),
            );
        }
    }
}

fn identity_full(view: &View<'_>, found: &mut Found<'_>) {
    for published in &view.published {
        let table = published.table;
        if table.identity != IdentitySetting::Full || !published.publication.needs_identity() {
            continue;
        }
        let incomparable: Vec<String> = table
            .columns
            .iter()
            .filter(|column| !column.comparable && published.publishes(&column.name))
            .map(|column| format!("{} ({})", Identifier(&column.name), column.sql_type))
            .collect();
        let mut message = String::from(
            "REPLICA IDENTITY FULL: whole old rows go into the WAL and over the wire, and subscribers before PostgreSQL 16 \
             look through the whole table for each row",
        );
        if !incomparable.is_empty() {
            message.push_str(&format!(
                "; {} cannot be compared, so a subscriber without a key of its own finds no row to change",
                incomparable.join(", ")
            ));
        }
        // FULL may be there just because no key fits the publications: what their WHERE uses, it names.
        let takes_key = table.keys().is_empty() && view.misfit(table, &[]).is_none();
        let mend = view.use_key(table).or_else(|| takes_key.then(|| view.key(table, true)));
        found.published(published, message, mend);
    }
}

fn not_published(view: &View<'_>, found: &mut Found<'_>) {
    let carried: BTreeSet<Oid> = view
        .all
        .iter()
        .flat_map(|published| {
            let ancestors = view.catalog.ancestors(published.table).into_iter().map(|ancestor| ancestor.oid);
            ancestors.chain([published.table.oid])
        })
        .collect();
    let schemas: BTreeSet<&str> = view.published.iter().map(|published| &*published.table.schema).collect();
    let relations = view.catalog.relations.values().filter(|relation| schemas.contains(&*relation.schema));
    let mut sequences: BTreeMap<&str, usize> = BTreeMap::new();
    for relation in relations {
        let what = match relation.kind {
            RelationKind::Sequence => {
                *sequences.entry(&relation.schema).or_default() += 1;
                continue;
            }
            RelationKind::MaterializedView => "A materialized view is not replicated",
            RelationKind::Foreign => "A foreign table is not replicated",
            _ if relation.unlogged => "An unlogged table is not replicated",
            // Its root tells.
            _ if relation.partition => continue,
            RelationKind::Table | RelationKind::Partitioned if carried.contains(&relation.oid) => continue,
            RelationKind::Table | RelationKind::Partitioned => "No publication carries it",
        };
        found.add(Some(relation), None, format!("{what}; after a cutover it is missing on the target."), None);
    }
    for (schema, count) in sequences {
        let message = format!(
            "The values of sequences are not replicated ({count} in schema {}): set them on the target at a cutover.",
            Identifier(schema)
        );
        found.add(None, None, message, None);
    }
    if view.catalog.server.large_objects && !schemas.is_empty() {
        let message = "Large objects are not replicated: after a cutover they are missing on the target.";
        found.add(None, None, message.into(), None);
    }
}

fn no_rights(view: &View<'_>, found: &mut Found<'_>) {
    let role = Identifier(&view.catalog.server.role);
    let sets = view.catalog.sets_denied.as_ref().filter(|_| view.scope.rule_sets.contains(&RuleSet::Pglogical));
    for denied in view.catalog.denied.iter().chain(sets) {
        let message =
            format!("walgate's role may not look, so there may be any findings: {denied}. GRANT it SELECT there.");
        found.add(None, None, message, None);
    }
    for consumer in view.catalog.consumers.iter().filter(|consumer| consumer.hidden) {
        let message = format!(
            "walgate's role does not see which publications the consumer of slot {} streams, so it is not judged as one",
            consumer.slot
        );
        let comment = "Or raise track_activity_query_size, where the command is longer.";
        let mend = Mend::template(comment, format!("GRANT pg_read_all_stats TO {role}"));
        found.with(Warning, |found| found.add(None, None, message, Some(mend)));
    }
    for (table, _) in view.survey.iter().filter(|(_, evidence)| **evidence == Evidence::Denied) {
        let Some(table) = view.catalog.relations.get(table) else { continue };
        let name = table.table_name();
        let message = "walgate's role may not read the table, or not all of its rows, so it cannot tell which columns could \
                       be its key";
        let schema = Identifier(&table.schema);
        let mend = Mend::template(
            "And BYPASSRLS, if it has row security.",
            format!("GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {name} TO {role}"),
        );
        found.with(Warning, |found| found.add(Some(table), None, message.to_owned(), Some(mend)));
    }
}
