//! What replication leaves out of a database: after a cutover it is missing on the target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::gate::{Kind, Piece, Unreplicated};
use crate::ident::Oid;
use crate::identity::Catalog;
use crate::identity::catalog::{Relation, RelationKind};
use crate::source::catalog;
use crate::source::error::ConnectError;
use crate::source::sql::SqlSession;

/// The catalog of the database of the session, which says what is published of it.
///
/// # Errors
/// If the session is lost.
pub async fn catalog(session: &SqlSession) -> Result<Piece<Arc<Catalog>>, ConnectError> {
    let at = Instant::now();
    match catalog::read(session).await {
        Ok(catalog) => Ok(Piece::Seen { value: Arc::new(catalog), at, from: "the catalog" }),
        // Such as that somebody has locked a table of which an expression is read.
        Err(error) => match error.server_error().filter(|_| !session.is_closed()) {
            Some(refused) => Ok(Piece::Unseen(format!("the catalog: {refused}"))),
            None => Err(error),
        },
    }
}

/// What is left out of a database by these publications, or by all there are; with pglogical, by the replication sets.
///
/// # Errors
/// If walgate's role may not read all that says so, with the GRANT: for pglogical USAGE on its schema and SELECT on its
/// tables `replication_set`, `replication_set_table`, `replication_set_seq` and `local_node`.
pub fn unreplicated(
    catalog: &Catalog,
    kind: Kind,
    publications: Option<&BTreeSet<String>>,
) -> Result<Vec<Unreplicated>, String> {
    let denied = catalog.denied.as_ref().or(catalog.sets_denied.as_ref().filter(|_| kind == Kind::Pglogical));
    match denied {
        Some(denied) => Err(format!("{denied}; GRANT walgate's role SELECT there")),
        None => Ok(left_out(catalog, kind, publications)),
    }
}

/// What is left out by these publications, or by all there are; with pglogical, by the replication sets. Sequences are
/// compared by themselves, what extensions bring comes with them, and zero-cache makes its own tables.
fn left_out(catalog: &Catalog, kind: Kind, publications: Option<&BTreeSet<String>>) -> Vec<Unreplicated> {
    let carried = if kind == Kind::Pglogical { by_sets(catalog) } else { by_publications(catalog, publications) };
    let is_zeros = |schema: &str| {
        catalog.zero_shards.iter().any(|shard| {
            let app = shard.schema.rsplit_once('_').map_or(&*shard.schema, |(app, _)| app);
            schema == app
                || schema.strip_prefix(&*shard.schema).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let relations = catalog.relations.values().filter(|relation| !relation.extension && !is_zeros(&relation.schema));
    let mut found = BTreeMap::new();
    for relation in relations {
        let nothing = "table that nothing replicates";
        let (relation, what) = match relation.kind {
            RelationKind::Sequence | RelationKind::Partitioned => continue,
            RelationKind::MaterializedView => (relation, "materialized view".to_owned()),
            RelationKind::Foreign => (relation, "foreign table".to_owned()),
            RelationKind::Table if relation.unlogged => (relation, "unlogged table".to_owned()),
            RelationKind::Table => match carried.get(&relation.oid) {
                Some(part) => match part.left_out() {
                    Some(what) => (relation, what),
                    None => continue,
                },
                None => (widest(catalog, relation, &carried), nothing.to_owned()),
            },
        };
        let by_hand = what == nothing && relation.keys().is_empty();
        found.insert(relation.table_name(), (what, by_hand));
    }
    let mut found: Vec<Unreplicated> = found
        .into_iter()
        .map(|(name, (what, by_hand))| Unreplicated { name: name.to_string(), what, by_hand })
        .collect();
    if catalog.server.large_objects {
        found.push(Unreplicated { name: "large objects".into(), what: "in this database".into(), by_hand: false });
    }
    found
}

/// What of a table is carried, by all that carry it together.
#[derive(Default)]
struct Part {
    insert: bool,
    update: bool,
    delete: bool,
    /// Without a filter.
    all_rows: bool,
    columns: BTreeSet<Box<str>>,
    /// All that are not generated.
    of: BTreeSet<Box<str>>,
}

impl Part {
    /// What is left out of it, if anything is.
    fn left_out(&self) -> Option<String> {
        let operations = [("inserts", self.insert), ("updates", self.update), ("deletes", self.delete)];
        let operations: Vec<&str> = operations.into_iter().filter(|(_, is)| !is).map(|(name, _)| name).collect();
        let columns: Vec<&str> = self.of.difference(&self.columns).map(|column| &**column).collect();
        Some(match (operations.as_slice(), self.all_rows, columns.as_slice()) {
            ([], true, []) => return None,
            ([], true, columns) => format!("table without its columns {}", columns.join(", ")),
            ([], false, _) => "table of which a WHERE chooses rows".into(),
            (operations, ..) => format!("table without its {}", operations.join(" and ")),
        })
    }
}

fn by_publications(catalog: &Catalog, publications: Option<&BTreeSet<String>>) -> BTreeMap<Oid, Part> {
    let mut carried: BTreeMap<Oid, Part> = BTreeMap::new();
    let chosen = catalog
        .publications
        .iter()
        .filter(|publication| publications.is_none_or(|all| all.contains(&*publication.name)));
    for published in chosen.flat_map(|publication| catalog.published(publication)) {
        let part = carried.entry(published.table.oid).or_default();
        part.insert |= published.publication.insert;
        part.update |= published.publication.update;
        part.delete |= published.publication.delete;
        part.all_rows |= published.entry.is_none_or(|entry| entry.filtered_by.is_none());
        for column in published.table.columns.iter().filter(|column| column.generated.is_none()) {
            part.of.insert(column.name.clone());
            if published.publishes(&column.name) {
                part.columns.insert(column.name.clone());
            }
        }
    }
    carried
}

fn by_sets(catalog: &Catalog) -> BTreeMap<Oid, Part> {
    let mut carried: BTreeMap<Oid, Part> = BTreeMap::new();
    for set in &catalog.replication_sets {
        for table in &set.tables {
            let part = carried.entry(*table).or_default();
            (part.insert, part.all_rows) = (true, true);
            part.update |= set.update;
            part.delete |= set.delete;
        }
    }
    carried
}

/// The topmost partitioned table above it of which nothing is carried, or the table itself.
fn widest<'a>(catalog: &'a Catalog, table: &'a Relation, carried: &BTreeMap<Oid, Part>) -> &'a Relation {
    let ancestors = catalog.ancestors(table).into_iter();
    let is_left_out = |root: &&Relation| catalog.tree(root).iter().all(|part| !carried.contains_key(&part.oid));
    ancestors.take_while(is_left_out).last().unwrap_or(table)
}
