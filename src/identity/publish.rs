//! Which tables a publication really publishes, and as what.

use std::collections::BTreeMap;

use crate::ident::Oid;

use super::catalog::{Catalog, Column, ColumnNumber, Publication, PublishedTable, Relation, RelationKind};

/// A table whose rows a publication publishes: an ordinary one, or a leaf of a partitioned one.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// The publication.
    pub publication: &'a Publication,
    /// The table that holds the rows, and whose replica identity counts.
    pub table: &'a Relation,
    /// The table that subscribers see: with `publish_via_partition_root` the topmost one that is published.
    pub shown_as: &'a Relation,
    /// What the publication says of the table that subscribers see, where it names it: column list and filter.
    pub entry: Option<&'a PublishedTable>,
}

impl Catalog {
    /// What a publication publishes, in the order of OIDs. As `pg_get_publication_tables` and `pg_partition_tree` tell it;
    /// but these look at the newest state of each table, and fail where one is dropped meanwhile.
    pub fn published<'a>(&'a self, publication: &'a Publication) -> Vec<Published<'a>> {
        self.published_of(publication, |table| table.kind == RelationKind::Table)
    }

    /// The partitioned tables without any partition that a publication publishes as themselves: they hold no rows, but
    /// consumers see them.
    pub(super) fn published_empty<'a>(&'a self, publication: &'a Publication) -> Vec<Published<'a>> {
        self.published_of(publication, |table| {
            table.is_partitioned() && publication.via_root && self.tree(table).len() == 1
        })
    }

    fn published_of<'a>(&'a self, publication: &'a Publication, is: impl Fn(&Relation) -> bool) -> Vec<Published<'a>> {
        let entries: BTreeMap<Oid, &PublishedTable> =
            publication.tables.iter().map(|table| (table.relation, table)).collect();
        let is_named = |relation: &Relation| {
            publication.all_tables
                || entries.contains_key(&relation.oid)
                || publication.schemas.contains(&relation.schema)
        };
        let tables = self.relations.values().filter(|table| is(table) && table.is_publishable());
        let published = tables.filter_map(|table| {
            let ancestors = self.ancestors(table);
            let topmost = ancestors.iter().rev().copied().find(|ancestor| is_named(ancestor));
            if topmost.is_none() && !is_named(table) {
                return None;
            }
            let shown_as = topmost.filter(|_| publication.via_root).unwrap_or(table);
            Some(Published { publication, table, shown_as, entry: entries.get(&shown_as.oid).copied() })
        });
        published.collect()
    }

    /// The columns of a table as pgoutput compares them between publications (`pgoutput_ensure_entry_cxt` and
    /// `pgoutput_column_list_init` in `pgoutput.c`): PostgreSQL 15 takes generated and dropped columns for published
    /// where there is no list.
    pub(super) fn columns_compared(&self, published: &Published<'_>) -> Vec<ColumnNumber> {
        let shown = published.shown_as;
        let is_whole = published.entry.is_none_or(|entry| entry.columns.is_none());
        let all = is_whole && self.server.major() < 16;
        let columns = shown.columns.iter().filter(|column| all || published.publishes(&column.name));
        let dropped = (all && shown.has_dropped).then_some(0);
        columns.map(|column| column.number).chain(dropped).collect()
    }
}

impl<'a> Published<'a> {
    /// The columns that the publication's WHERE uses, as subscribers see them.
    pub fn filter_columns(&self) -> impl Iterator<Item = &'a Column> + use<'a> {
        let shown = self.shown_as;
        let used = self.entry.and_then(|entry| entry.filtered_by.as_ref()).into_iter().flatten();
        used.filter_map(|number| shown.column(*number))
    }

    /// Whether a column of the table is published, by its name: subscribers see the topmost table's. Generated columns are
    /// only where a column list names them, or PostgreSQL 18's `publish_generated_columns` includes them.
    pub fn publishes(&self, column: &str) -> bool {
        let Some(shown) = self.shown_as.column_named(column) else { return false };
        match self.entry.and_then(|entry| entry.columns.as_ref()) {
            Some(list) => list.contains(&shown.number),
            None => shown.generated.is_none_or(|kind| kind == 's' && self.publication.generated == Some('s')),
        }
    }
}
