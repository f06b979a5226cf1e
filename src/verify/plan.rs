//! How a table is compared: by which columns and which key, of which tables on each side.

use std::collections::{BTreeSet, HashMap};

use super::report::{ColumnDifference, Side, State, TableReport};
use super::scope::{self, Subject};
use super::statement;
use crate::ident::{Identifier, Oid, TableName};
use crate::identity::Catalog;
use crate::identity::catalog::{Column, Relation, RelationKind};

/// A table that can be compared.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) table: TableName,
    /// Those that hold its rows on the source.
    pub(super) source: Leaves,
    /// The same on the target.
    pub(super) target: Leaves,
    /// The columns that both sides have, in the source's order.
    pub(super) columns: Vec<Expression>,
    /// Those of the key; empty where there is none.
    pub(super) key: Vec<Expression>,
    /// The rows that are published.
    pub(super) filter: Option<String>,
    /// Columns that are not the same on both sides.
    pub(super) differences: Vec<ColumnDifference>,
    pub(super) notes: Vec<String>,
}

/// A column, and what is compared of it.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    pub(super) name: Box<str>,
    pub(super) sql: Box<str>,
}

/// What holds the rows of a table on one side.
#[derive(Clone, Debug)]
pub(super) struct Leaves {
    /// The table as a whole, in a FROM.
    pub(super) from: String,
    pub(super) tables: Vec<Leaf>,
    /// The types of the key's columns.
    pub(super) key_types: Vec<Box<str>>,
    /// Whether an index finds rows by the key.
    pub(super) key_is_indexed: bool,
}

/// A table that holds rows.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) oid: Oid,
    pub(super) name: TableName,
}

const ACCEPTED: &str = "it is not replicated, which was accepted";

/// How tables are compared, or why they are not.
pub(super) type Planned = Result<Plan, Box<TableReport>>;

/// What is to be done with each table, by name. Of those that are accepted as not replicated, the ones without a key are
/// compared where both sides have them: nothing can replicate those, and they are carried over by hand. The rest is only
/// mentioned.
pub(super) fn plans(
    subjects: &[Subject],
    source: &Catalog,
    target: &Catalog,
    everything: bool,
    (accepted, accept_missing): (&[String], bool),
) -> Vec<(TableName, Planned)> {
    let there: HashMap<TableName, &Relation> =
        target.relations.values().map(|relation| (relation.table_name(), relation)).collect();
    let mut plans: Vec<(TableName, Planned)> = Vec::new();
    for subject in subjects {
        let Some(relation) = source.relations.get(&subject.table) else { continue };
        let name = relation.table_name();
        let planned = if (everything || relation.unlogged) && accepted.contains(&name.to_string()) {
            Err(unseen(name.clone(), State::Skipped, ACCEPTED))
        } else {
            plan(subject, relation, source, there.get(&name).copied(), target)
        };
        plans.push((name, planned));
    }
    let named: BTreeSet<TableName> = plans.iter().map(|(name, _)| name.clone()).collect();
    for relation in target.relations.values().filter(|relation| everything && is_table(relation) && !relation.partition)
    {
        let name = relation.table_name();
        if !named.contains(&name) {
            plans.push((name.clone(), Err(unseen(name, State::Different, "it is not on the source"))));
        }
    }
    for relation in source.relations.values().filter(|relation| is_table(relation)) {
        let name = relation.table_name();
        if accepted.contains(&name.to_string()) && !named.contains(&name) {
            let other = there.get(&name).copied().filter(|other| is_table(other));
            let by_hand = !relation.unlogged && !everything && relation.keys().is_empty();
            let planned = match other.filter(|_| by_hand) {
                Some(_) => {
                    let mut subject = Subject::whole(relation.oid, scope::leaves(source, relation));
                    subject.notes.push("it is not replicated, and carried over by hand".into());
                    plan(&subject, relation, source, other, target)
                }
                None if by_hand && !accept_missing => {
                    Err(unseen(name.clone(), State::Unknown, "it is carried over by hand, and not there on the target"))
                }
                None => Err(unseen(name.clone(), State::Skipped, ACCEPTED)),
            };
            plans.push((name, planned));
        }
    }
    plans.sort_by(|(a, _), (b, _)| a.cmp(b));
    plans
}

fn unseen(table: TableName, state: State, reason: &str) -> Box<TableReport> {
    Box::new(TableReport::unseen(table, state, reason))
}

fn is_table(relation: &Relation) -> bool {
    matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned)
}

fn plan(
    subject: &Subject,
    relation: &Relation,
    source: &Catalog,
    there: Option<&Relation>,
    target: &Catalog,
) -> Planned {
    let table = relation.table_name();
    let Some(there) = there else {
        return Err(unseen(table, State::Different, "it is not on the target"));
    };
    if !is_table(there) {
        return Err(unseen(table, State::Unknown, "it is not a table on the target"));
    }
    if relation.unlogged {
        let reason = "it is unlogged: its rows are not replicated";
        return Err(unseen(table, State::Unknown, reason));
    }
    let mut differences = Vec::new();
    let mut notes = subject.notes.clone();
    let mut columns: Vec<(&Column, &Column)> = Vec::new();
    for column in relation.columns.iter().filter(|column| is_compared(subject, column)) {
        let other = there.column_named(&column.name);
        if other.is_none_or(|other| other.sql_type != column.sql_type) {
            differences.push(ColumnDifference {
                column: column.name.clone(),
                source: Some(column.sql_type.clone()),
                target: other.map(|other| other.sql_type.clone()),
            });
        }
        columns.extend(other.map(|other| (column, other)));
    }
    let unpublished = |column: &&Column| relation.column_named(&column.name).is_none();
    for column in there.columns.iter().filter(unpublished) {
        if subject.columns.is_some() {
            notes.push(format!("column {} is on the target only", Identifier(&column.name)));
        } else {
            let (column, target) = (column.name.clone(), Some(column.sql_type.clone()));
            differences.push(ColumnDifference { column, source: None, target });
        }
    }
    let left_out = relation.columns.iter().filter(|column| !is_compared(subject, column));
    let left_out: Vec<String> = left_out.map(|column| Identifier(&column.name).to_string()).collect();
    if !left_out.is_empty() {
        notes.push(format!("not published, so not compared: {}", left_out.join(", ")));
    }
    if let Some(filter) = &subject.filter {
        notes.push(format!("only the published rows are compared: {filter}"));
    }
    let is_compared = |name: &str| columns.iter().find(|(column, _)| *column.name == *name).copied();
    let key = relation.keys().into_iter().find_map(|index| {
        let parts = index.columns.iter().map(|number| is_compared(&relation.column(*number)?.name));
        parts.collect::<Option<Vec<_>>>()
    });
    let key = key.unwrap_or_default();
    let names: BTreeSet<&str> = key.iter().map(|(column, _)| &*column.name).collect();
    let source_types = key.iter().map(|(column, _)| column.sql_type.clone()).collect();
    let target_types = key.iter().map(|(_, column)| column.sql_type.clone()).collect();
    let source = held(source, relation, &subject.leaves, source_types, &names, Side::Source);
    let target = held(target, there, &scope::leaves(target, there), target_types, &names, Side::Target);
    let (source, target) = match (source, target) {
        (Ok(source), Ok(target)) => (source, target),
        (Err(reason), _) | (_, Err(reason)) => {
            let unseen = TableReport::unseen(table, State::Unknown, reason);
            return Err(Box::new(TableReport { columns: differences, notes, ..unseen }));
        }
    };
    Ok(Plan {
        table,
        source,
        target,
        columns: columns.iter().map(|(column, _)| expression(column)).collect(),
        key: key.iter().map(|(column, _)| expression(column)).collect(),
        filter: subject.filter.clone(),
        differences,
        notes,
    })
}

/// Whether a column's values are to be the same on both sides. Virtual ones are nowhere.
fn is_compared(subject: &Subject, column: &Column) -> bool {
    match &subject.columns {
        Some(columns) => columns.contains(&column.name),
        None => column.generated != Some('v'),
    }
}

fn held(
    catalog: &Catalog,
    relation: &Relation,
    leaves: &BTreeSet<Oid>,
    key_types: Vec<Box<str>>,
    key: &BTreeSet<&str>,
    side: Side,
) -> Result<Leaves, String> {
    let mut tables = Vec::new();
    for leaf in leaves.iter().filter_map(|oid| catalog.relations.get(oid)) {
        if leaf.kind != RelationKind::Table {
            return Err(format!("{} on the {side} is a foreign table", leaf.table_name()));
        }
        tables.push(Leaf { oid: leaf.oid, name: leaf.table_name() });
    }
    let is_led_by_key = |index: &crate::identity::catalog::Index| {
        let leading = index.columns.iter().take(key.len()).filter_map(|number| relation.column(*number));
        index.valid && !index.partial && leading.map(|column| &*column.name).collect::<BTreeSet<_>>() == *key
    };
    let from = statement::table(&relation.table_name(), relation.is_partitioned());
    Ok(Leaves { from, tables, key_types, key_is_indexed: relation.indexes.iter().any(is_led_by_key) })
}

/// What is compared of a column: its text. That of `"char"` is another before PostgreSQL 16 where the byte is not ASCII.
fn expression(column: &Column) -> Expression {
    let name = Identifier(&column.name);
    let sql = match (&*column.type_name, column.element.as_deref()) {
        ("char", _) => format!("{name}::int4"),
        (_, Some("char")) => format!("{name}::int4[]"),
        _ => name.to_string(),
    };
    Expression { name: column.name.clone(), sql: sql.into() }
}
