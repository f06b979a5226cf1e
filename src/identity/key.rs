//! Finds a key for a table that has none: which columns could be one, what to ask the server about their values, and what
//! to do with the answer.
//!
//! A column may be unique by accident. So a key is proposed only where the values are unique and not null now *and* the
//! table says that they name its rows: the server fills the column, it is called so, it is the only one there is. Else the
//! candidates are listed, and somebody chooses.

use std::collections::BTreeMap;

use super::catalog::{Catalog, Column, ColumnNumber, Missing, Relation, RelationKind, ReplicaIdentity};
use super::mend::{self, Mend};
use crate::ident::{Identifier, Oid};

/// What the values of tables showed, by table.
pub type Survey = BTreeMap<Oid, Evidence>;

/// Columns looked at in one table.
const MOST_CANDIDATES: usize = 24;

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
}

/// Columns that could be a key.
struct Candidate<'a> {
    columns: Vec<&'a Column>,
    /// What says that they name rows, besides their values.
    because: Option<&'static str>,
    /// A unique index over them.
    index: Option<&'a super::catalog::Index>,
}

impl Question {
    /// Asks for `bytes`, `rows`, and for each candidate whether it is unique and not null. Tables are read without their
    /// inheritance children, which have rows and keys of their own.
    pub fn sql(&self, catalog: &Catalog) -> Option<String> {
        let table = catalog.relations.get(&self.table)?;
        let name = table.table_name();
        let only = if table.kind == RelationKind::Partitioned { "" } else { "ONLY " };
        let mut sql = format!(
            "SELECT pg_catalog.pg_relation_size({}::pg_catalog.regclass) AS bytes, pg_catalog.count(*) AS rows",
            mend::literal(&name.to_string())
        );
        for candidate in &self.candidates {
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
    let candidates = candidates(catalog, table).into_iter().take(MOST_CANDIDATES);
    let numbers = |candidate: Candidate<'_>| candidate.columns.iter().map(|column| column.number).collect();
    Some(Question { table: table.oid, candidates: candidates.map(numbers).collect() })
}

/// How to name the rows of a table that has no usable replica identity, or no key for somebody who needs one: to him FULL
/// is of no use.
pub(super) fn plan(catalog: &Catalog, survey: &Survey, table: &Relation, needs_key: bool) -> Mend {
    if let Some(key) = table.keys().first() {
        return mend::use_index(table, key);
    }
    let keyed = keyed(catalog, table);
    let evidence = survey.get(&keyed.oid);
    // An index of a partitioned table cannot be built that way.
    let concurrently = evidence.is_some_and(Evidence::is_large) && keyed.kind == RelationKind::Table;
    if let ReplicaIdentity::Missing(Missing::Deferrable(index)) = keyed.replica_identity()
        && let Some(columns) = mend::columns(keyed, &index.columns)
    {
        return mend::undefer(keyed, index, &columns, concurrently);
    }
    let found: Vec<Candidate<'_>> = match evidence {
        Some(Evidence::Seen { keys, .. }) => {
            let holds = |candidate: &Candidate<'_>| {
                keys.iter().any(|key| candidate.columns.iter().map(|column| column.number).eq(key.iter().copied()))
            };
            candidates(catalog, keyed).into_iter().filter(holds).collect()
        }
        _ => Vec::new(),
    };
    if let Some(key) = found.iter().find(|candidate| candidate.because.is_some()) {
        let rows = if let Some(Evidence::Seen { rows, .. }) = evidence { *rows } else { 0 };
        let because = because(key, rows);
        return become_key(keyed, key, concurrently, &because).then(named_by_it(table));
    }
    let choice = choose(keyed, evidence, &found);
    // What was not looked at may have a key; and values that cannot be compared name nothing.
    let is_seen = matches!(evidence, Some(Evidence::Seen { .. }));
    if needs_key || !is_seen || table.columns.iter().any(|column| !column.comparable) {
        return choice.then(named_by_it(table).deferred());
    }
    choice.then(mend::use_full(table))
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
fn named_by_it(table: &Relation) -> Mend {
    match table.identity {
        super::catalog::IdentitySetting::Default => Mend::default(),
        _ => mend::use_primary_key(table),
    }
}

fn become_key(table: &Relation, key: &Candidate<'_>, concurrently: bool, because: &str) -> Mend {
    match key.index {
        Some(index) if index.constraint.is_none() && index.plain && table.kind == RelationKind::Table => {
            mend::promote_index(table, index, because)
        }
        Some(index) => mend::forbid_nulls(table, &key.columns).then(mend::use_index(table, index)),
        None => mend::add_primary_key(table, &key.columns, concurrently, because),
    }
}

fn because(key: &Candidate<'_>, rows: u64) -> String {
    let because = key.because.unwrap_or_default();
    let list = mend::list(&key.columns);
    match rows {
        0 => format!("{list} {because}, and the table is empty"),
        1 => format!("{list} {because}; there is one row"),
        rows => format!("{list} {because}, unique and not null in all {rows} rows"),
    }
}

/// A template, with what is known of the columns.
fn choose(table: &Relation, evidence: Option<&Evidence>, found: &[Candidate<'_>]) -> Mend {
    let name = table.table_name();
    let lists: Vec<String> = found.iter().map(|candidate| format!("({})", mend::list(&candidate.columns))).collect();
    let known = match evidence {
        None => "Its values were not looked at.".to_owned(),
        Some(Evidence::Denied) => "walgate's role may not look at its values.".to_owned(),
        Some(Evidence::Unseen) => "Its values could not be looked at in time.".to_owned(),
        Some(Evidence::Seen { rows: 0 | 1, .. }) => "It has too few rows to tell which columns name them.".to_owned(),
        Some(Evidence::Seen { rows, .. }) if lists.is_empty() => {
            format!("No single column is unique and not null in its {rows} rows; a new one would be.")
        }
        Some(Evidence::Seen { rows, .. }) => {
            format!("Unique and not null in its {rows} rows, maybe by accident: {}.", lists.join(", "))
        }
    };
    let comment = format!("Choose the columns that name the rows of {name}. {known}");
    let sql = match (found.first(), evidence) {
        (Some(first), Some(Evidence::Seen { rows: 2.., .. })) => {
            format!("ALTER TABLE {name} ADD PRIMARY KEY ({})", mend::list(&first.columns))
        }
        (None, Some(Evidence::Seen { .. })) if table.kind == RelationKind::Table && !table.partition => {
            let column = (0..).map(|n| if n == 0 { "id".to_owned() } else { format!("id{n}") });
            let free = column.into_iter().find(|column| table.column_named(column).is_none()).unwrap_or_default();
            format!("ALTER TABLE {name} ADD COLUMN {free} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY")
        }
        _ => format!("ALTER TABLE {name} ADD PRIMARY KEY (<columns>)"),
    };
    Mend::template(comment, sql)
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
        let because = (table.columns.len() <= referring.len() + 2).then_some("are what the table joins");
        all.push(Candidate { columns: with_partition_key(columns), because, index: None });
    }
    all.sort_by_key(|candidate| {
        let rank = candidate.because.and_then(|because| LIKELY.iter().position(|likely| *likely == because));
        (rank.unwrap_or(LIKELY.len()), candidate.index.is_none(), candidate.columns.len())
    });
    all
}

/// What speaks for a key, the strongest first.
const LIKELY: [&str; 5] = [
    "is filled by the server",
    "is what rows are called by",
    "is its only column",
    "are what the table joins",
    "is its first column",
];

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
        "jsonb",
        "tsvector",
    ];
    column.comparable
        && column.generated.is_none()
        && matches!(column.type_kind, 'b' | 'e' | 'd')
        && column.element.is_none()
        && !never.contains(&&*column.type_name)
}

/// What says that a column names rows, besides its values.
fn declared(table: &Relation, column: &Column) -> Option<&'static str> {
    let filled =
        |default: &str| ["nextval(", "gen_random_uuid(", "uuidv7(", "uuidv4("].iter().any(|by| default.contains(by));
    let singular = table.name.strip_suffix('s').unwrap_or(&table.name);
    let called = [
        "id".to_owned(),
        "uuid".to_owned(),
        "guid".to_owned(),
        format!("{}_id", table.name),
        format!("{singular}_id"),
        format!("{singular}id"),
    ];
    let likely = if column.identity || column.default.as_deref().is_some_and(filled) {
        0
    } else if called.contains(&column.name.to_ascii_lowercase()) {
        1
    } else if table.columns.len() == 1 {
        2
    } else if column.number == 1 && column.not_null && matches!(&*column.type_name, "int2" | "int4" | "int8" | "uuid") {
        4
    } else {
        return None;
    };
    LIKELY.get(likely).copied()
}
