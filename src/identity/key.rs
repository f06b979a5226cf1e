//! Finds a key for a table that has none: which columns could be one, what to ask the server about their values, and what
//! to do with the answer.
//!
//! A column may be unique by accident. So a key is proposed only where the values are unique and not null now *and* the
//! table says that they name its rows: the server fills the column, it is called so, it is the only one there is. Else the
//! candidates are listed, and somebody chooses.

use std::collections::BTreeMap;

use super::catalog::{Catalog, Column, ColumnNumber, IdentitySetting, Index, Relation, RelationKind};
use super::mend::{self, Mend};
use crate::ident::{Identifier, Oid};

/// What the values of tables showed, by table.
pub type Survey = BTreeMap<Oid, Evidence>;

/// Columns looked at in one table.
const MOST_CANDIDATES: usize = 8;

/// From this size on, indexes are built without keeping writers out: an ordinary build takes seconds from here on.
const LARGE: u64 = 256 << 20;

/// What the values of a table showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// All rows were seen.
    Seen {
        /// How many there are.
        rows: u64,
        /// The size of the table in bytes.
        bytes: u64,
        /// Sets of columns whose values are unique and not null, of those asked about.
        keys: Vec<Vec<ColumnNumber>>,
    },
    /// They could not be seen in the time there was: there are many, or somebody holds a lock.
    Unseen,
    /// Walgate's role may not read the table, or not all of its rows.
    Denied,
}

impl Evidence {
    /// Whether an index of the table is built without keeping writers out: in doubt, yes.
    pub(super) fn is_large(&self) -> bool {
        match self {
            Evidence::Seen { bytes, .. } => *bytes >= LARGE,
            Evidence::Unseen | Evidence::Denied => true,
        }
    }
}

/// A table that needs a key, and columns that could be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The table.
    pub table: Oid,
    /// Sets of columns, the likeliest first.
    pub candidates: Vec<Vec<ColumnNumber>>,
    /// How many of them the table itself says to be its key: where one of these is, the others are no matter.
    pub likely: usize,
}

/// Columns that could be a key.
struct Candidate<'a> {
    columns: Vec<&'a Column>,
    /// What says that they name rows, besides their values.
    because: Option<Likely>,
    /// A unique index over them.
    index: Option<&'a Index>,
}

impl Question {
    /// The candidates in the order in which they are to be asked about: of a large table each is sorted to be looked at.
    pub fn rounds(&self) -> impl Iterator<Item = &[Vec<ColumnNumber>]> {
        let likely = self.candidates.get(..self.likely).filter(|likely| !likely.is_empty());
        let others = (self.likely < self.candidates.len() || likely.is_none()).then_some(&*self.candidates);
        likely.into_iter().chain(others)
    }

    /// Asks for `bytes`, `rows`, and for each of these candidates whether it is unique and not null. Tables are read without
    /// their inheritance children, which have rows and keys of their own.
    pub fn sql(&self, catalog: &Catalog, candidates: &[Vec<ColumnNumber>]) -> Option<String> {
        let table = catalog.relations.get(&self.table)?;
        let name = table.table_name();
        let only = if table.kind == RelationKind::Partitioned { "" } else { "ONLY " };
        let parts: Vec<String> = catalog.tree(table).iter().map(|part| part.oid.to_string()).collect();
        let mut sql = format!(
            "SELECT (SELECT pg_catalog.sum(pg_catalog.pg_relation_size(oid))::pg_catalog.int8 FROM pg_catalog.pg_class \
             WHERE oid OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.oid[])) AS bytes, pg_catalog.count(*) AS rows",
            parts.join(", ")
        );
        for candidate in candidates {
            let columns = mend::columns(table, candidate)?;
            let list = mend::list(&columns);
            let nulls: Vec<String> =
                columns.iter().map(|column| format!("{} IS NULL", Identifier(&column.name))).collect();
            let distinct = if columns.len() > 1 { format!("ROW({list})") } else { list };
            sql.push_str(&format!(
                ", pg_catalog.count(DISTINCT {distinct}) OPERATOR(pg_catalog.=) pg_catalog.count(*) AND \
                 pg_catalog.count(*) FILTER (WHERE {}) OPERATOR(pg_catalog.=) 0",
                nulls.join(" OR ")
            ));
        }
        sql.push_str(&format!(" FROM {only}{name}"));
        Some(sql)
    }
}

/// What to ask about a table, if a key would have to be found for it.
pub(super) fn question(catalog: &Catalog, table: &Relation) -> Option<Question> {
    if !table.keys().is_empty() {
        return None;
    }
    let table = keyed(catalog, table);
    let mut candidates = candidates(catalog, table);
    candidates.truncate(MOST_CANDIDATES);
    let likely = candidates.iter().filter(|candidate| candidate.because.is_some()).count();
    let numbers = |candidate: Candidate<'_>| candidate.columns.iter().map(|column| column.number).collect();
    Some(Question { table: table.oid, candidates: candidates.into_iter().map(numbers).collect(), likely })
}

/// How to name the rows of a table that no key of its own names: by a new one, or by all columns where that does. What
/// works now with all columns is left so where its publications do not let the new one name rows.
pub(super) fn plan(
    catalog: &Catalog,
    survey: &Survey,
    table: &Relation,
    full_does: bool,
    names_rows: &dyn Fn(&[&Column]) -> bool,
) -> Mend {
    let full = || if full_does { mend::use_full(table) } else { Mend::default() };
    if !table.keys().is_empty() {
        let comment =
            "A publication filters by columns outside of its keys, or leaves columns of them out: choose another key.";
        let sql = format!("ALTER TABLE {} REPLICA IDENTITY USING INDEX <index>", table.table_name());
        return if full_does { full() } else { Mend::template(comment, sql) };
    }
    let (owner, deferrable) = deferrable_key(catalog, table);
    if let Some(mend) = deferrable.and_then(|index| mend::undefer(owner, index)) {
        return mend.then(full());
    }
    let keyed = keyed(catalog, table);
    let evidence = survey.get(&keyed.oid);
    let is_large = evidence.is_none_or(Evidence::is_large);
    let found: Vec<Candidate<'_>> = match evidence {
        Some(Evidence::Seen { keys, .. }) => {
            let holds = |candidate: &Candidate<'_>| {
                keys.iter().any(|key| candidate.columns.iter().map(|column| column.number).eq(key.iter().copied()))
            };
            candidates(catalog, keyed).into_iter().filter(holds).collect()
        }
        _ => Vec::new(),
    };
    if let Some(Evidence::Seen { rows, .. }) = evidence
        && let Some(key) =
            found.iter().find(|candidate| candidate.because.is_some_and(|likely| likely.holds_with(*rows)))
    {
        let names = table.identity != IdentitySetting::Full || names_rows(&key.columns);
        let mend = become_key(catalog, keyed, key, is_large, *rows, Some(table).filter(|_| names));
        // The index of a partitioned table cannot be built while it is written to.
        return if is_large && keyed.is_partitioned() { mend.deferred() } else { mend };
    }
    let choice = choose(catalog, keyed, evidence, &found);
    // What was not looked at may have a key.
    match evidence {
        Some(Evidence::Seen { .. }) if full_does => choice.then(full()),
        _ if table.identity == IdentitySetting::Full && !names_rows(&[]) => choice,
        _ => choice.then(named_by_key(table).deferred()),
    }
}

/// The table that owns the deferrable primary key that a table has, and the key: a partition has its parent's.
fn deferrable_key<'a>(catalog: &'a Catalog, table: &'a Relation) -> (&'a Relation, Option<&'a Index>) {
    let deferrable = |table: &'a Relation| table.primary_key().filter(|key| !key.immediate);
    let owner = catalog.ancestors(table).into_iter().rev().find(|ancestor| deferrable(ancestor).is_some());
    let owner = owner.unwrap_or(table);
    (owner, deferrable(owner))
}

/// A key of a partitioned table is one of each partition, those to come included: the root gets it. Unless it cannot: a
/// key must hold all columns that partition the table or a part of it, and a part may have a key of its own.
fn keyed<'a>(catalog: &'a Catalog, table: &'a Relation) -> &'a Relation {
    let Some(root) = catalog.ancestors(table).last().copied() else { return table };
    if catalog.tree(root).iter().any(|part| part.primary_key().is_some() || part.partition_key.contains(&0)) {
        table
    } else {
        root
    }
}

/// The columns that partition a table, or a part of it.
fn partition_columns<'a>(catalog: &Catalog, table: &'a Relation) -> Vec<&'a Column> {
    let mut columns: Vec<&Column> = Vec::new();
    for part in catalog.tree(table).iter().filter(|_| table.kind == RelationKind::Partitioned) {
        let names = part.partition_key.iter().filter_map(|number| part.column(*number)).map(|column| &*column.name);
        for column in names.filter_map(|name| table.column_named(name)) {
            if !columns.iter().any(|known| known.number == column.number) {
                columns.push(column);
            }
        }
    }
    columns
}

/// A new primary key names the rows where that was not ruled out before.
fn named_by_key(table: &Relation) -> Mend {
    match table.identity {
        IdentitySetting::Default => Mend::default(),
        _ => mend::use_primary_key(table),
    }
}

/// Makes columns the key of `keyed`, and what names the rows of `named`, which is it or a partition of it.
fn become_key(
    catalog: &Catalog,
    keyed: &Relation,
    key: &Candidate<'_>,
    is_large: bool,
    rows: u64,
    named: Option<&Relation>,
) -> Mend {
    let then = named.map(named_by_key).unwrap_or_default();
    let list = mend::list(&key.columns);
    let because = key.because.map(Likely::as_str).unwrap_or_default();
    let because = match rows {
        0 => format!("{list}, {because}; the table is empty"),
        1 => format!("{list}, {because}; there is one row"),
        rows => format!("{list}, {because}; unique and not null in all {rows} rows"),
    };
    match key.index {
        Some(index) if index.constraint.is_none() && index.plain && !keyed.is_partitioned() => {
            mend::promote_index(keyed, index, &because).then(then)
        }
        Some(index) if !keyed.is_partitioned() => {
            let then = named.map(|_| mend::use_index(keyed, index)).unwrap_or_default();
            mend::forbid_nulls(keyed, &key.columns).then(then)
        }
        _ => {
            let concurrently = is_large && !keyed.is_partitioned();
            mend::add_primary_key(catalog, keyed, &key.columns, concurrently, &because).then(then)
        }
    }
}

/// A template, with what is known of the columns.
fn choose(catalog: &Catalog, table: &Relation, evidence: Option<&Evidence>, found: &[Candidate<'_>]) -> Mend {
    let name = table.table_name();
    let lists: Vec<String> = found.iter().map(|candidate| format!("({})", mend::list(&candidate.columns))).collect();
    let known = match evidence {
        None => "Its values were not looked at.".to_owned(),
        Some(Evidence::Denied) => "walgate's role may not look at its values.".to_owned(),
        Some(Evidence::Unseen) => {
            "Its values could not be looked at in time: it is large, or somebody has locked it.".to_owned()
        }
        Some(Evidence::Seen { rows: 0 | 1, .. }) => "It has too few rows to tell which columns name them.".to_owned(),
        Some(Evidence::Seen { rows, .. }) if lists.is_empty() => {
            format!("No single column is unique and not null in its {rows} rows; a new one would be.")
        }
        Some(Evidence::Seen { rows, .. }) => {
            format!("Unique and not null in its {rows} rows, maybe by accident: {}.", lists.join(", "))
        }
    };
    let mut comment = format!("Choose the columns that name the rows of {name}. {known}");
    let partitioned_by = partition_columns(catalog, table);
    if !partitioned_by.is_empty() {
        comment.push_str(&format!(" The key must hold what partitions it: {}.", mend::list(&partitioned_by)));
    }
    if table.is_partitioned() && catalog.tree(table).iter().any(|part| part.primary_key().is_some()) {
        comment.push_str(" Partitions that have a primary key of their own must have this one, or none.");
    }
    // In doubt it is large, and its writers are not to wait until an index is built.
    let is_large = evidence.is_none_or(Evidence::is_large) && !table.is_partitioned();
    let columns = match (found.first(), evidence) {
        (Some(first), Some(Evidence::Seen { rows: 2.., .. })) => mend::list(&first.columns),
        (None, Some(Evidence::Seen { .. })) if table.kind == RelationKind::Table && !table.partition => {
            let column = (0..).map(|n| if n == 0 { "id".to_owned() } else { format!("id{n}") });
            let free = column.into_iter().find(|column| table.column_named(column).is_none()).unwrap_or_default();
            if is_large {
                comment.push_str(" All of it is then written anew, and nobody reads or writes it meanwhile.");
            }
            let sql = format!("ALTER TABLE {name} ADD COLUMN {free} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
            return Mend::template(comment, sql);
        }
        _ => "<columns>".to_owned(),
    };
    mend::choose_primary_key(table, &columns, is_large, comment)
}

/// The columns that could be a key, the likeliest first.
fn candidates<'a>(catalog: &Catalog, table: &'a Relation) -> Vec<Candidate<'a>> {
    let partition_key = partition_columns(catalog, table);
    let with_partition_key = |columns: Vec<&'a Column>| {
        let mut columns = columns;
        for column in &partition_key {
            if !columns.iter().any(|known| known.number == column.number) {
                columns.push(*column);
            }
        }
        columns
    };
    let mut all: Vec<Candidate<'a>> = Vec::new();
    for index in &table.indexes {
        if index.unique
            && index.immediate
            && index.valid
            && !index.partial
            && let Some(columns) = mend::columns(table, &index.columns)
        {
            let because = columns.first().filter(|_| columns.len() == 1).and_then(|column| declared(table, column));
            all.push(Candidate { columns, because, index: Some(index) });
        }
    }
    let singles = table.columns.iter().filter(|column| could_name_rows(column));
    for column in singles {
        let because = declared(table, column);
        all.push(Candidate { columns: with_partition_key(vec![column]), because, index: None });
    }
    let mut referring: Vec<ColumnNumber> = table.foreign_keys.iter().flatten().copied().collect();
    referring.sort_unstable();
    referring.dedup();
    if table.foreign_keys.len() > 1
        && let Some(columns) = mend::columns(table, &referring)
    {
        let is_join = table.columns.len() <= referring.len() + 1 && columns.iter().all(|column| column.not_null);
        let because = is_join.then_some(Likely::Joins);
        all.push(Candidate { columns: with_partition_key(columns), because, index: None });
    }
    all.sort_by_key(|candidate| {
        (candidate.because.is_none(), candidate.because, candidate.index.is_none(), candidate.columns.len())
    });
    all
}

/// What says that columns name rows, besides their values; the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likely {
    Filled,
    OnlyColumn,
    Joins,
    Called,
}

impl Likely {
    fn as_str(self) -> &'static str {
        match self {
            Likely::Filled => "filled by the server",
            Likely::OnlyColumn => "its only column",
            Likely::Joins => "what the table joins",
            Likely::Called => "what rows are called by",
        }
    }

    /// Whether it is enough where the table has so many rows: that few of them differ says nothing.
    fn holds_with(self, rows: u64) -> bool {
        matches!(self, Likely::Filled | Likely::OnlyColumn) || rows >= 2
    }
}

fn could_name_rows(column: &Column) -> bool {
    let never = [
        "bool",
        "float4",
        "float8",
        "date",
        "time",
        "timetz",
        "timestamp",
        "timestamptz",
        "interval",
        "money",
        "numeric",
        "xid",
        "cid",
        "aclitem",
        "jsonb",
        "tsvector",
    ];
    column.comparable
        && column.generated.is_none()
        && matches!(column.type_kind, 'b' | 'e' | 'd')
        && column.element.is_none()
        && !never.contains(&&*column.type_name)
}

/// What says that a column names rows, besides its values. One that refers to another table names that one's, and a table
/// that keeps what others had may have each name often.
fn declared(table: &Relation, column: &Column) -> Option<Likely> {
    const COPIES: [&str; 9] = ["archive", "audit", "backup", "copy", "event", "history", "log", "revision", "snapshot"];
    if table.foreign_keys.iter().any(|columns| columns.contains(&column.number)) {
        return None;
    }
    let (table_name, name) = (table.name.to_lowercase(), column.name.to_lowercase());
    let singular = table_name.strip_suffix('s').unwrap_or(&table_name);
    let is_called = matches!(&*name, "id" | "uuid" | "guid")
        || [&*table_name, singular]
            .iter()
            .any(|table| name.strip_prefix(table).is_some_and(|rest| matches!(rest, "_id" | "id")));
    if column.identity || column.filled {
        Some(Likely::Filled)
    } else if table.columns.len() == 1 && column.not_null {
        Some(Likely::OnlyColumn)
    } else if is_called && !COPIES.iter().any(|copies| table_name.contains(copies)) {
        Some(Likely::Called)
    } else {
        None
    }
}
