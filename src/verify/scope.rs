//! Which tables are compared, and what of them: what is published to the consumers, or everything.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;

use super::Error;
use super::session::Sessions;
use crate::ident::{Oid, SlotName};
use crate::identity::Catalog;
use crate::identity::catalog::{Relation, RelationKind};

/// Which tables are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that either side has: for a physical standby, or where nothing is known of publications.
    All,
    /// Those of these publications of the source.
    Publications(Vec<String>),
    /// Those that the readers of these slots are sent: the publications of a pgoutput slot, as its walsender or the
    /// subscription on the target names them, or the replication sets of a pglogical subscription on the target.
    Consumers(Vec<SlotName>),
}

/// A table of the source to be compared.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// The table that consumers see.
    pub(super) table: Oid,
    /// Those that hold its rows.
    pub(super) leaves: BTreeSet<Oid>,
    /// The columns that are published; none where all are.
    pub(super) columns: Option<BTreeSet<Box<str>>>,
    /// The rows that are; none where all are.
    pub(super) filter: Option<String>,
    /// What is never published of it: operations.
    pub(super) notes: Vec<String>,
}

impl Subject {
    /// All of a table.
    pub(super) fn whole(table: Oid, leaves: BTreeSet<Oid>) -> Subject {
        Subject { table, leaves, columns: None, filter: None, notes: Vec::new() }
    }
}

/// What a scope comes to.
enum Chosen {
    All,
    Publications(BTreeSet<String>),
    Sets(BTreeSet<String>),
}

/// Finds the tables. Asks the target what its subscriptions read where the source does not show it.
pub(super) async fn subjects(
    scope: &Scope,
    source: &Sessions,
    catalog: &Catalog,
    target: &Sessions,
    target_catalog: &Catalog,
) -> Result<Vec<Subject>, Error> {
    let subjects = match chosen(scope, source, catalog, target, target_catalog).await? {
        Chosen::All => all(catalog),
        Chosen::Publications(names) => {
            let filters = filters(source, catalog).await?;
            published(catalog, &names, &filters)?
        }
        Chosen::Sets(names) => replicated(source, catalog, &names).await?,
    };
    Ok(subjects)
}

async fn chosen(
    scope: &Scope,
    source: &Sessions,
    catalog: &Catalog,
    target: &Sessions,
    target_catalog: &Catalog,
) -> Result<Chosen, Error> {
    let slots = match scope {
        Scope::All => return Ok(Chosen::All),
        Scope::Publications(names) => return Ok(Chosen::Publications(names.iter().cloned().collect())),
        Scope::Consumers(slots) => slots,
    };
    let (mut publications, mut sets) = (BTreeSet::new(), BTreeSet::new());
    for slot in slots {
        let streamed = catalog.consumers.iter().find(|consumer| consumer.slot == *slot);
        if let Some(names) = streamed.and_then(|consumer| consumer.publications.clone()) {
            publications.extend(names);
            continue;
        }
        const SUBSCRIBED: &str = "
            SELECT subpublications FROM pg_subscription
            WHERE subslotname::text = $1 AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let mut names = texts(target, SUBSCRIBED, slot).await?;
        if !names.is_empty() {
            publications.append(&mut names);
            continue;
        }
        if catalog.server.pglogical && target_catalog.server.pglogical {
            const SETS: &str = "SELECT sub_replication_sets FROM pglogical.subscription WHERE sub_slot_name::text = $1";
            let mut names = texts(target, SETS, slot).await?;
            if let Some(denied) = catalog.sets_denied.clone().filter(|_| !names.is_empty()) {
                return Err(Error::Denied(source.side, denied));
            }
            sets.append(&mut names);
        }
        if sets.is_empty() {
            return Err(Error::NothingKnown(slot.clone()));
        }
    }
    match (publications.is_empty(), sets.is_empty()) {
        (true, true) => Err(Error::NoConsumer),
        (false, true) => Ok(Chosen::Publications(publications)),
        (true, false) => Ok(Chosen::Sets(sets)),
        (false, false) => Err(Error::Mixed),
    }
}

async fn texts(sessions: &Sessions, sql: &str, slot: &SlotName) -> Result<BTreeSet<String>, Error> {
    let rows = ask(sessions, sql, &[&slot.as_str()]).await?;
    let mut texts = BTreeSet::new();
    for row in &rows {
        texts.extend(read::<Vec<String>>(sessions, row, 0)?);
    }
    Ok(texts)
}

/// Everything that can be compared: tables, each with its partitions.
fn all(catalog: &Catalog) -> Vec<Subject> {
    // What pglogical notes of its own node is another thing on every server.
    let describes_node = |relation: &Relation| relation.extension && &*relation.schema == "pglogical";
    let is = |relation: &&Relation| {
        matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned)
            && !relation.partition
            && !describes_node(relation)
    };
    catalog.relations.values().filter(is).map(|table| Subject::whole(table.oid, leaves(catalog, table))).collect()
}

/// The tables that hold the rows of a table.
pub(super) fn leaves(catalog: &Catalog, table: &Relation) -> BTreeSet<Oid> {
    let tree = catalog.tree(table).into_iter();
    tree.filter(|relation| !relation.is_partitioned()).map(|relation| relation.oid).collect()
}

/// What publications publish, together. A table that one of them shows as a partition, and another as a part of its root, is
/// a part of the root: pgoutput publishes a change once, as the topmost.
fn published(
    catalog: &Catalog,
    names: &BTreeSet<String>,
    filters: &BTreeMap<(String, Oid), String>,
) -> Result<Vec<Subject>, Error> {
    let mut published = Vec::new();
    for name in names {
        let publication = catalog.publications.iter().find(|publication| *publication.name == **name);
        let Some(publication) = publication else { return Err(Error::NoPublication(name.clone())) };
        published.extend(catalog.published(publication));
    }
    let mut shown: BTreeMap<Oid, &Relation> = BTreeMap::new();
    for one in &published {
        let known = shown.entry(one.table.oid).or_insert(one.shown_as);
        if catalog.ancestors(known).iter().any(|ancestor| ancestor.oid == one.shown_as.oid) {
            *known = one.shown_as;
        }
    }
    let mut subjects: BTreeMap<Oid, (Subject, Option<Vec<String>>)> = BTreeMap::new();
    for one in &published {
        if shown.get(&one.table.oid).is_some_and(|known| known.oid != one.shown_as.oid) {
            continue;
        }
        let table = one.shown_as;
        let columns = table.columns.iter().filter(|column| one.publishes(&column.name));
        let columns: BTreeSet<Box<str>> = columns.map(|column| column.name.clone()).collect();
        let filter = filters.get(&(one.publication.name.to_string(), table.oid));
        let is_new = !subjects.contains_key(&table.oid);
        let (subject, rows) =
            subjects.entry(table.oid).or_insert_with(|| (Subject::whole(table.oid, BTreeSet::new()), None));
        subject.leaves.insert(one.table.oid);
        subject.columns.get_or_insert_default().extend(columns);
        // Rows are published that any of the publications publishes; of one without a filter, all.
        match (filter, is_new, rows.as_mut()) {
            (Some(filter), true, _) => *rows = Some(vec![filter.clone()]),
            (Some(filter), false, Some(known)) if !known.contains(filter) => known.push(filter.clone()),
            (Some(_), false, _) => {}
            (None, _, _) => *rows = None,
        }
        let published = one.publication.operations();
        let lacks = ["insert", "update", "delete"].into_iter().filter(|operation| !published.contains(operation));
        let lacks = lacks.collect::<Vec<_>>().join(", ");
        if !lacks.is_empty() {
            let note = format!("publication {} does not publish {lacks}", one.publication.name);
            if !subject.notes.contains(&note) {
                subject.notes.push(note);
            }
        }
    }
    let subjects = subjects.into_values().map(|(subject, rows)| {
        let filter = rows.map(|filters| filters.join(" OR "));
        Subject { filter, ..subject }
    });
    Ok(subjects.collect())
}

/// The row filters of publications, as SQL.
async fn filters(source: &Sessions, catalog: &Catalog) -> Result<BTreeMap<(String, Oid), String>, Error> {
    const FILTERS: &str = "
        SELECT publication.pubname::text, member.prrelid, pg_get_expr(member.prqual, member.prrelid)
        FROM pg_publication_rel AS member JOIN pg_publication AS publication ON publication.oid = member.prpubid
        WHERE member.prqual IS NOT NULL";
    let mut filters = BTreeMap::new();
    let is_filtered = |table: &crate::identity::catalog::PublishedTable| table.filtered_by.is_some();
    if catalog.publications.iter().any(|publication| publication.tables.iter().any(is_filtered)) {
        for row in &ask(source, FILTERS, &[]).await? {
            let key = (read(source, row, 0)?, Oid(read(source, row, 1)?));
            filters.insert(key, read(source, row, 2)?);
        }
    }
    Ok(filters)
}

/// The tables of pglogical's replication sets.
async fn replicated(source: &Sessions, catalog: &Catalog, names: &BTreeSet<String>) -> Result<Vec<Subject>, Error> {
    const MEMBERS: &str = "
        SELECT member.set_reloid::oid, member.set_att_list,
               pg_get_expr(member.set_row_filter, member.set_reloid), set.set_name::text
        FROM pglogical.replication_set_table AS member JOIN pglogical.replication_set AS set USING (set_id)
             JOIN pglogical.local_node AS node ON node.node_id = set.set_nodeid
        WHERE set.set_name::text = ANY($1) ORDER BY 1, 4";
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut subjects: Vec<Subject> = Vec::new();
    for row in &ask(source, MEMBERS, &[&names]).await? {
        let table = Oid(read(source, row, 0)?);
        let Some(relation) = catalog.relations.get(&table) else { continue };
        let columns: Option<Vec<String>> = read(source, row, 1)?;
        let filter: Option<String> = read(source, row, 2)?;
        let columns: Option<BTreeSet<Box<str>>> = columns.map(|list| list.into_iter().map(Into::into).collect());
        match subjects.last_mut().filter(|known| known.table == table) {
            None => subjects.push(Subject { columns, filter, ..Subject::whole(table, leaves(catalog, relation)) }),
            Some(known) => {
                known.columns = known.columns.take().zip(columns).map(|(known, more)| &known | &more);
                known.filter = known.filter.take().zip(filter).map(|(known, more)| format!("({known}) OR ({more})"));
            }
        }
    }
    Ok(subjects)
}

async fn ask(
    sessions: &Sessions,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    sessions.query(sql, parameters).await.map_err(|trouble| sessions.refused(trouble))
}

fn read<'a, T: tokio_postgres::types::FromSql<'a>>(
    sessions: &Sessions,
    row: &'a Row,
    place: usize,
) -> Result<T, Error> {
    row.try_get(place).map_err(|error| sessions.refused(sessions.trouble(&error)))
}
