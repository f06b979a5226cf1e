//! What the catalog of one database says: its tables with their columns and indexes, and its publications.
//!
//! The names of fields are those that `source::catalog` gives them in what it asks for, and each says which column of
//! the system catalog it is (PostgreSQL's manual, chapter "System Catalogs").

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::ident::{Oid, SlotName, TableName};

/// The number of a column of a table, from 1 on (`attnum`).
pub type ColumnNumber = i16;

/// One database, as one snapshot showed it.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// The server and the role that looked.
    pub server: Server,
    /// Why the role may not read the catalog, in the server's words. Nothing else is known then.
    pub denied: Option<String>,
    /// Tables, materialized views, foreign tables and sequences outside the system's own schemas; no temporary ones.
    pub relations: BTreeMap<Oid, Relation>,
    /// The partitions of each partitioned table.
    partitions: BTreeMap<Oid, Vec<Oid>>,
    /// By name.
    pub publications: Vec<Publication>,
    /// The consumers of pgoutput.
    pub consumers: Vec<Consumer>,
    /// Where zero-cache has set itself up.
    pub zero_shards: Vec<ZeroShard>,
    /// The replication sets of pglogical on this node.
    pub replication_sets: Vec<ReplicationSet>,
    /// Why the role may not read them, in the server's words.
    pub sets_denied: Option<String>,
}

/// What holds for the whole server or database.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Server {
    /// `server_version_num`, like 180004.
    pub version: u32,
    /// `wal_level`.
    pub wal_level: String,
    /// Whether there are large objects.
    pub large_objects: bool,
    /// The names of enabled event triggers.
    pub event_triggers: Vec<String>,
    /// Whether the extension pglogical is there.
    pub pglogical: bool,
    /// The role that looked.
    pub role: String,
    /// Whether it is a superuser.
    pub superuser: bool,
}

impl Server {
    /// The major version.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

/// A relation (`pg_class`).
#[derive(Clone, Debug, Deserialize)]
pub struct Relation {
    /// `oid`.
    pub oid: Oid,
    /// The name of its schema.
    pub schema: Box<str>,
    /// `relname`.
    pub name: Box<str>,
    /// `relkind`.
    pub kind: RelationKind,
    /// `relpersistence` is `u`.
    pub unlogged: bool,
    /// `relreplident`.
    pub identity: IdentitySetting,
    /// `relispartition`.
    pub partition: bool,
    /// It came with an extension (`pg_depend`).
    #[serde(default)]
    pub extension: bool,
    /// What it inherits from, or is a partition of (`pg_inherits`).
    #[serde(default)]
    pub parents: Vec<Oid>,
    /// The columns of a partitioned table's partition key (`partattrs`); 0 is an expression.
    #[serde(default)]
    pub partition_key: Vec<ColumnNumber>,
    /// In the order of their numbers.
    #[serde(default)]
    pub columns: Vec<Column>,
    /// Whether columns were dropped.
    #[serde(default)]
    pub has_dropped: bool,
    /// By name.
    #[serde(default)]
    pub indexes: Vec<Index>,
    /// The columns of each foreign key (`conkey`).
    #[serde(default)]
    pub foreign_keys: Vec<Vec<ColumnNumber>>,
}

/// `relkind`, of those that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum RelationKind {
    /// An ordinary table.
    #[serde(rename = "r")]
    Table,
    /// A partitioned table, which holds no rows itself.
    #[serde(rename = "p")]
    Partitioned,
    /// A materialized view.
    #[serde(rename = "m")]
    MaterializedView,
    /// A foreign table.
    #[serde(rename = "f")]
    Foreign,
    /// A sequence.
    #[serde(rename = "S")]
    Sequence,
}

/// `relreplident`: what was chosen, which may not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum IdentitySetting {
    /// The primary key, if there is one.
    #[serde(rename = "d")]
    Default,
    /// An index, if it is still there.
    #[serde(rename = "i")]
    Index,
    /// All columns.
    #[serde(rename = "f")]
    Full,
    /// None.
    #[serde(rename = "n")]
    Nothing,
}

/// A column (`pg_attribute`).
#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    /// `attnum`.
    pub number: ColumnNumber,
    /// `attname`.
    pub name: Box<str>,
    /// The type as SQL writes it (`format_type`).
    #[serde(rename = "type")]
    pub sql_type: Box<str>,
    /// `typname` of its type.
    pub type_name: Box<str>,
    /// `typtype` of its type: `b` base, `c` composite, `d` domain, `e` enum, `m` multirange, `r` range.
    pub type_kind: char,
    /// `typname` of the elements, where the type is an array.
    pub element: Option<Box<str>>,
    /// `typtype` of the elements.
    pub element_kind: Option<char>,
    /// Whether the type can be subscripted (`typelem`), as arrays, `point` and `name` can.
    pub subscripted: bool,
    /// `attndims`: 0 for an array of a table made by CREATE TABLE AS.
    pub dimensions: i16,
    /// Whether values of the type can be compared: it, or its element or base, has a default operator class for hashing or
    /// ordering.
    pub comparable: bool,
    /// `attnotnull`.
    pub not_null: bool,
    /// An identity column (`attidentity`).
    pub identity: bool,
    /// `attgenerated`: `s` stored, `v` virtual.
    pub generated: Option<char>,
    /// Whether its default takes the next value of a sequence, or makes a UUID. Not looked at where there is a primary key.
    pub filled: bool,
}

/// An index (`pg_index`).
#[derive(Clone, Debug, Deserialize)]
pub struct Index {
    /// Its name.
    pub name: Box<str>,
    /// `indisunique`.
    pub unique: bool,
    /// `indisprimary`.
    pub primary: bool,
    /// `indimmediate`: not of a deferrable constraint.
    pub immediate: bool,
    /// `indisvalid`: not left behind by a build that failed.
    pub valid: bool,
    /// `indisreplident`: chosen by REPLICA IDENTITY USING INDEX.
    pub identity: bool,
    /// `indpred`: only for some of the rows.
    pub partial: bool,
    /// The columns of the key, without those that are only included; 0 is an expression.
    pub columns: Vec<ColumnNumber>,
    /// Whether ADD PRIMARY KEY USING INDEX takes it: the table has no primary key, and it is unique, a b-tree, in the
    /// default order of its columns.
    pub plain: bool,
    /// The constraint that it enforces.
    pub constraint: Option<Box<str>>,
}

/// A publication (`pg_publication`).
#[derive(Clone, Debug, Deserialize)]
pub struct Publication {
    /// `pubname`.
    pub name: Box<str>,
    /// `puballtables`.
    pub all_tables: bool,
    /// `pubinsert`.
    pub insert: bool,
    /// `pubupdate`.
    pub update: bool,
    /// `pubdelete`.
    pub delete: bool,
    /// `pubtruncate`.
    pub truncate: bool,
    /// `pubviaroot`.
    pub via_root: bool,
    /// `pubgencols`, from PostgreSQL 18 on: `s` publishes stored generated columns.
    pub generated: Option<char>,
    /// Its schemas (`pg_publication_namespace`).
    #[serde(default)]
    pub schemas: BTreeSet<Box<str>>,
    /// Its tables (`pg_publication_rel`).
    #[serde(default)]
    pub tables: Vec<PublishedTable>,
}

/// A table of a publication (`pg_publication_rel`).
#[derive(Clone, Debug, Deserialize)]
pub struct PublishedTable {
    /// `prrelid`.
    pub relation: Oid,
    /// `prattrs`; none where all are published.
    pub columns: Option<Vec<ColumnNumber>>,
    /// The columns that its WHERE uses (`prqual`); 0 is the whole row.
    pub filtered_by: Option<Vec<ColumnNumber>>,
}

/// The consumer of a logical slot of this database.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// Its slot.
    pub slot: SlotName,
    /// The publications that it streams, or did when it was last seen to stream.
    pub publications: Option<Vec<String>>,
    /// It streams, and the role may not see what.
    pub hidden: bool,
}

/// What zero-cache has noted for itself in the database (its function `emit_ddl_end`).
#[derive(Clone, Debug, Deserialize)]
pub struct ZeroShard {
    /// The schema that it made, `{app}_{shard}`.
    pub schema: Box<str>,
    /// The publications that it streams.
    pub publications: Vec<String>,
}

/// A replication set of pglogical.
#[derive(Clone, Debug, Deserialize)]
pub struct ReplicationSet {
    /// Its name.
    pub name: Box<str>,
    /// `replicate_update`.
    pub update: bool,
    /// `replicate_delete`.
    pub delete: bool,
    /// Its tables.
    #[serde(default)]
    pub tables: BTreeSet<Oid>,
    /// Its sequences.
    #[serde(default)]
    pub sequences: BTreeSet<Oid>,
}

/// How the rows of a table are named when they change.
#[derive(Clone, Copy, Debug)]
pub enum ReplicaIdentity<'a> {
    /// By the columns of this index.
    Index(&'a Index),
    /// By all columns.
    Full,
    /// Not at all.
    Missing(Missing<'a>),
}

/// Why a table has no replica identity.
#[derive(Clone, Copy, Debug)]
pub enum Missing<'a> {
    /// It is to be the primary key, and there is none.
    PrimaryKey,
    /// It is to be the primary key, which is deferrable.
    Deferrable(&'a Index),
    /// It is to be an index, which is gone, or not valid.
    Index,
    /// There is to be none.
    Nothing,
}

impl Relation {
    /// Its name with its schema.
    pub fn table_name(&self) -> TableName {
        TableName { schema: self.schema.clone(), name: self.name.clone() }
    }

    /// The column of this number.
    pub fn column(&self, number: ColumnNumber) -> Option<&Column> {
        self.columns.iter().find(|column| column.number == number)
    }

    /// The column of this name.
    pub fn column_named(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }

    /// The index of its primary key.
    pub fn primary_key(&self) -> Option<&Index> {
        self.indexes.iter().find(|index| index.primary)
    }

    /// What names its rows, as the server decides it (`RelationGetIndexList` in `relcache.c`).
    pub fn replica_identity(&self) -> ReplicaIdentity<'_> {
        let missing = match self.identity {
            IdentitySetting::Full => return ReplicaIdentity::Full,
            IdentitySetting::Nothing => Missing::Nothing,
            IdentitySetting::Default => match self.primary_key() {
                Some(index) if !index.immediate => Missing::Deferrable(index),
                Some(index) if index.valid => return ReplicaIdentity::Index(index),
                _ => Missing::PrimaryKey,
            },
            IdentitySetting::Index => match self.indexes.iter().find(|index| index.identity && index.valid) {
                Some(index) => return ReplicaIdentity::Index(index),
                None => Missing::Index,
            },
        };
        ReplicaIdentity::Missing(missing)
    }

    /// Whether an index names each row, once: what REPLICA IDENTITY USING INDEX takes.
    pub fn is_key(&self, index: &Index) -> bool {
        let not_null = |number: &ColumnNumber| self.column(*number).is_some_and(|column| column.not_null);
        index.unique && index.immediate && index.valid && !index.partial && index.columns.iter().all(not_null)
    }

    /// The indexes that name each row, the best first: the primary key, then the ones with the fewest columns.
    pub fn keys(&self) -> Vec<&Index> {
        let mut keys: Vec<&Index> = self.indexes.iter().filter(|index| self.is_key(index)).collect();
        keys.sort_by_key(|index| (!index.primary, index.columns.len()));
        keys
    }

    /// Whether it holds no rows itself.
    pub fn is_partitioned(&self) -> bool {
        self.kind == RelationKind::Partitioned
    }

    /// Whether its rows can be published at all (`is_publishable_class` in `pg_publication.c`).
    pub fn is_publishable(&self) -> bool {
        /// `FirstNormalObjectId`: what is below came with the system.
        const FIRST: Oid = Oid(16_384);
        matches!(self.kind, RelationKind::Table | RelationKind::Partitioned) && !self.unlogged && self.oid >= FIRST
    }
}

impl Publication {
    /// The operations that are published, as `publish` lists them.
    pub fn operations(&self) -> Vec<&'static str> {
        let all =
            [("insert", self.insert), ("update", self.update), ("delete", self.delete), ("truncate", self.truncate)];
        all.into_iter().filter(|(_, is)| *is).map(|(operation, _)| operation).collect()
    }

    /// Whether changes are published that must name the row they change.
    pub fn needs_identity(&self) -> bool {
        self.update || self.delete
    }
}

impl Catalog {
    /// Adds a relation.
    pub fn insert(&mut self, relation: Relation) {
        if let Some(parent) = relation.parents.first().filter(|_| relation.partition) {
            self.partitions.entry(*parent).or_default().push(relation.oid);
        }
        self.relations.insert(relation.oid, relation);
    }

    /// The partitioned tables that a partition belongs to, from the next one to the root.
    pub fn ancestors(&self, relation: &Relation) -> Vec<&Relation> {
        let mut ancestors: Vec<&Relation> = Vec::new();
        let mut below = relation;
        while below.partition
            && let Some(parent) = below.parents.first().and_then(|parent| self.relations.get(parent))
            // What the server says is a tree; what was sent may be anything.
            && !ancestors.iter().any(|known| known.oid == parent.oid)
        {
            ancestors.push(parent);
            below = parent;
        }
        ancestors
    }

    /// A table and all its partitions, whatever the depth.
    pub fn tree<'a>(&'a self, root: &'a Relation) -> Vec<&'a Relation> {
        let mut tree = vec![root];
        let mut next = 0;
        while let Some(part) = tree.get(next) {
            let below = self.partitions.get(&part.oid).into_iter().flatten();
            let below: Vec<&Relation> = below.filter_map(|oid| self.relations.get(oid)).collect();
            // What the server says is a tree; what was sent may be anything.
            if tree.len() + below.len() > self.relations.len() {
                break;
            }
            tree.extend(below);
            next += 1;
        }
        tree
    }
}
