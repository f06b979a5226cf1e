//! What pglogical demands of a table in a replication set. Each was seen with pglogical 2.4 on PostgreSQL 15.

use super::{Found, Rule, RuleSet, View};
use crate::ident::{Identifier, Oid};
use crate::identity::catalog::{Relation, RelationKind, ReplicaIdentity};
use crate::identity::finding::Severity::{Error, Info, Warning};
use crate::identity::mend;

pub(super) static RULES: &[Rule] = &[
    Rule {
        id: "pglogical/no-key",
        set: RuleSet::Pglogical,
        severity: Error,
        holds_when: "a table of a replication set that replicates updates or deletes has neither a primary key nor an index \
                     for its replica identity; FULL does not help, not even with a primary key. Before any table is in a \
                     set, all are looked at",
        consequence: "the set refuses it: table does not have PRIMARY KEY and given replication set is configured to \
                      replicate UPDATEs and/or DELETEs; of one that is in the set, deletes are lost without a word",
        check: no_key,
    },
    Rule {
        id: "pglogical/deferrable-unique",
        set: RuleSet::Pglogical,
        severity: Warning,
        holds_when: "a unique constraint of such a table is deferrable",
        consequence: "a swap of values within a transaction stops the subscription for good: pglogical doesn't support \
                      deferrable indexes",
        check: deferrable_unique,
    },
    Rule {
        id: "pglogical/sequence",
        set: RuleSet::Pglogical,
        severity: Info,
        holds_when: "there are sequences",
        consequence: "those in a set are sent now and then, some values ahead; the others are not",
        check: sequence,
    },
];

/// The tables of sets that replicate updates or deletes, with the name of one; those that could be while none is.
fn tables<'a>(view: &View<'a>) -> Vec<(&'a Relation, Option<&'a str>)> {
    let catalog = view.catalog;
    let sets = || catalog.replication_sets.iter().filter(|set| set.update || set.delete);
    let is_used = catalog.replication_sets.iter().any(|set| !set.tables.is_empty());
    let tables = catalog.relations.values().filter(|table| table.kind == RelationKind::Table && table.is_publishable());
    tables
        .filter_map(|table| {
            let set = sets().find(|set| set.tables.contains(&table.oid)).map(|set| &*set.name);
            (set.is_some() || !is_used && &*table.schema != "pglogical").then_some((table, set))
        })
        .collect()
}

/// The tables that need a key.
pub(super) fn keyed<'a>(view: &View<'a>) -> impl Iterator<Item = &'a Relation> {
    tables(view).into_iter().map(|(table, _)| table)
}

fn no_key(view: &View<'_>, found: &mut Found<'_>) {
    for (table, set) in tables(view) {
        if matches!(table.replica_identity(), ReplicaIdentity::Index(_)) {
            continue;
        }
        let but = "It has neither a primary key nor an index that is its replica identity";
        let message = match set {
            Some(set) => format!(
                "{but}, and is in the replication set {}: its deletes are lost to subscribers without a word",
                Identifier(set)
            ),
            None => format!(
                "{but}: replication sets refuse it: table does not have PRIMARY KEY and given replication set is configured \
                 to replicate UPDATEs and/or DELETEs"
            ),
        };
        found.add(Some(table), None, message, Some(view.key(table, true)));
    }
}

fn deferrable_unique(view: &View<'_>, found: &mut Found<'_>) {
    for (table, _) in tables(view) {
        for index in table.indexes.iter().filter(|index| index.unique && !index.immediate && !index.primary) {
            let name = index.constraint.as_deref().unwrap_or(&index.name);
            let message = format!(
                "The unique constraint {} is deferrable: a swap of values within a transaction stops the subscription for \
                 good: pglogical doesn't support deferrable indexes",
                Identifier(name)
            );
            found.add(Some(table), None, message, mend::undefer(table, index));
        }
    }
}

fn sequence(view: &View<'_>, found: &mut Found<'_>) {
    let in_set = |oid: Oid| view.catalog.replication_sets.iter().any(|set| set.sequences.contains(&oid));
    let sequences = view.catalog.relations.values();
    let sequences =
        sequences.filter(|sequence| sequence.kind == RelationKind::Sequence && &*sequence.schema != "pglogical");
    let (sent, kept): (Vec<&Relation>, Vec<&Relation>) = sequences.partition(|sequence| in_set(sequence.oid));
    if !sent.is_empty() {
        let message = format!(
            "{} sequences are in replication sets: their values are sent now and then, some ahead of the source.",
            sent.len()
        );
        found.add(None, None, message, None);
    }
    if !kept.is_empty() {
        let message =
            format!("{} sequences are in no replication set: set them on the target at a cutover.", kept.len());
        found.add(None, None, message, None);
    }
}
