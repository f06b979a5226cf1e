//! SQL that mends a finding: statements that can be run, twice too, and templates where a person must choose.

use std::fmt;

use super::catalog::{Catalog, Column, ColumnNumber, Index, Publication, Relation};
use crate::ident::{Identifier, TableName};

/// What mends a finding, in the order in which it is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mend {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// What it does, or what there is to choose, in a line or more.
    pub comment: String,
    /// The statement, without the semicolon.
    pub sql: String,
    /// How it can be run.
    pub run: Run,
}

/// How a statement can be run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Run {
    /// As it is: running it again changes nothing.
    Again,
    /// As long as this condition does not hold, which it does from then on.
    Unless(String),
    /// As it is, outside of a transaction, and for as long as it takes: it waits for others, and nobody waits for it.
    Alone,
    /// As it is. It takes away what an attempt that failed has left behind, and mostly there is nothing.
    Leftover,
    /// Not before somebody has completed it.
    Template,
}

impl Mend {
    /// One statement that can be run again.
    pub(super) fn one(comment: impl Into<String>, sql: String) -> Mend {
        Mend { steps: vec![Step { comment: comment.into(), sql, run: Run::Again }] }
    }

    /// A template.
    pub(super) fn template(comment: impl Into<String>, sql: String) -> Mend {
        Mend { steps: vec![Step { comment: comment.into(), sql, run: Run::Template }] }
    }

    /// This, and then that.
    #[must_use]
    pub(super) fn then(mut self, next: Mend) -> Mend {
        self.steps.extend(next.steps);
        self
    }

    /// The same, not to be run before a template that it depends on. What it might leave behind is not there yet.
    #[must_use]
    pub(super) fn deferred(mut self) -> Mend {
        self.steps.retain(|step| step.run != Run::Leftover);
        self.steps.iter_mut().for_each(|step| step.run = Run::Template);
        self
    }
}

/// A line a statement; what must be completed is a comment. What depends on a failed attempt is not shown.
impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps.iter().filter(|step| step.run != Run::Leftover);
        for (number, step) in steps.enumerate() {
            let newline = if number > 0 { "\n" } else { "" };
            match step.run {
                Run::Template => write!(f, "{newline}-- {};  -- {}", in_comment(&step.sql), in_comment(&step.comment))?,
                _ => write!(f, "{newline}{};", step.sql)?,
            }
        }
        Ok(())
    }
}

/// A text that stays within the line of a comment: names may hold anything, and to psql a carriage return ends a line.
pub fn in_comment(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Names a table's rows by an index that is there.
pub(super) fn use_index(table: &Relation, index: &Index) -> Mend {
    if index.primary {
        return use_primary_key(table);
    }
    let name = table.table_name();
    let sql = format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {}", Identifier(&index.name));
    Mend::one(format!("Rows of {name} are named by a unique index that is there."), sql)
}

/// Names a table's rows by its primary key.
pub(super) fn use_primary_key(table: &Relation) -> Mend {
    let name = table.table_name();
    Mend::one(
        format!("Rows of {name} are named by its primary key."),
        format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT"),
    )
}

/// Names a table's rows by all of their columns.
pub(super) fn use_full(table: &Relation) -> Mend {
    let name = table.table_name();
    Mend::one(
        format!(
            "As long as it has no key that does, rows of {name} are named by all of their columns: whole old rows go into \
             the WAL, and subscribers before PostgreSQL 16 look through the whole table for each."
        ),
        format!("ALTER TABLE {name} REPLICA IDENTITY FULL"),
    )
}

/// Makes columns the primary key. The index of a large table is built without keeping writers out.
pub(super) fn add_primary_key(
    catalog: &Catalog,
    table: &Relation,
    columns: &[&Column],
    concurrently: bool,
    because: &str,
) -> Mend {
    let name = table.table_name();
    let list = list(columns);
    let comment = format!("{name} gets a primary key over {because}.");
    let unless = Run::Unless(has_primary_key(&name));
    if !concurrently {
        let sql = format!("ALTER TABLE {name} ADD PRIMARY KEY ({list})");
        return Mend { steps: vec![Step { comment, sql, run: unless }] };
    }
    let index = index_name(catalog, table, "pkey");
    let build = build_index(table, &index, columns);
    let sql = format!("ALTER TABLE {name} ADD CONSTRAINT {index} PRIMARY KEY USING INDEX {index}");
    let comment = match columns.iter().all(|column| column.not_null) {
        true => comment,
        false => format!("{comment} The table is read once for nulls, and nobody else reads or writes it meanwhile."),
    };
    build.then(Mend { steps: vec![Step { comment, sql, run: unless }] })
}

/// A primary key over columns that somebody is to choose: as above.
pub(super) fn choose_primary_key(table: &Relation, columns: &str, concurrently: bool, comment: String) -> Mend {
    let name = table.table_name();
    if !concurrently {
        return Mend::template(comment, format!("ALTER TABLE {name} ADD PRIMARY KEY ({columns})"));
    }
    let index = named_after(table, "pkey");
    let index = Identifier(&index);
    let build = format!("CREATE UNIQUE INDEX CONCURRENTLY {index} ON {name} ({columns})");
    let promote = format!("ALTER TABLE {name} ADD CONSTRAINT {index} PRIMARY KEY USING INDEX {index}");
    let then = "Others wait for no more than this: the index was built while they wrote. Of columns that take nulls the whole \
                table is read first.";
    Mend::template(comment, build).then(Mend::template(then, promote))
}

/// Makes an index that is there the primary key's.
pub(super) fn promote_index(table: &Relation, index: &Index, because: &str) -> Mend {
    let name = table.table_name();
    let comment = format!("{name} gets a primary key over {because}.");
    let sql = format!("ALTER TABLE {name} ADD PRIMARY KEY USING INDEX {}", Identifier(&index.name));
    Mend { steps: vec![Step { comment, sql, run: Run::Unless(has_primary_key(&name)) }] }
}

/// Forbids nulls in columns.
pub(super) fn forbid_nulls(table: &Relation, columns: &[&Column]) -> Mend {
    let name = table.table_name();
    let nullable = columns.iter().filter(|column| !column.not_null);
    let actions: Vec<String> =
        nullable.map(|column| format!("ALTER COLUMN {} SET NOT NULL", Identifier(&column.name))).collect();
    let sql = format!("ALTER TABLE {name} {}", actions.join(", "));
    Mend::one(format!("{name} has no nulls there now, and takes none from now on."), sql)
}

/// Replaces a deferrable constraint by one that is not, if somebody is sure that nothing relies on it.
pub(super) fn undefer(table: &Relation, index: &Index) -> Option<Mend> {
    let (name, columns) = (table.table_name(), columns(table, &index.columns)?);
    let (constraint, list) = (Identifier(index.constraint.as_ref()?), list(&columns));
    let (kind, comment) = match index.primary {
        true => (
            "PRIMARY KEY",
            format!(
                "A deferrable key names no rows. This one is checked row by row; no statement may swap keys within a \
                 transaction then. Writers of {name} wait for it."
            ),
        ),
        false => ("UNIQUE", "If no transaction of the application relies on its being deferrable.".to_owned()),
    };
    let sql = format!("ALTER TABLE {name} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} {kind} ({list})");
    Some(Mend::template(comment, sql))
}

/// Names rows by a key together with more columns, by an index of its own.
pub(super) fn widen_identity(catalog: &Catalog, table: &Relation, columns: &[&Column]) -> Mend {
    let name = table.table_name();
    let index = index_name(catalog, table, "identity");
    build_index(table, &index, columns).then(Mend::one(
        format!("Rows of {name} are named by its key and what the publication's WHERE uses."),
        format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}"),
    ))
}

/// Sets an option of a publication.
pub(super) fn set_publication(publication: &Publication, option: &str, comment: impl Into<String>) -> Mend {
    Mend::one(comment, format!("ALTER PUBLICATION {} SET ({option})", Identifier(&publication.name)))
}

/// Lists other columns of a table in a publication, all of which is to be completed.
pub(super) fn list_columns(publication: &Publication, table: &Relation) -> String {
    let (publication, table) = (Identifier(&publication.name), table.table_name());
    format!(
        "BEGIN; ALTER PUBLICATION {publication} DROP TABLE {table}; ALTER PUBLICATION {publication} ADD TABLE {table} \
         (<columns>); COMMIT"
    )
}

/// A unique index, built while the table is written to. What an attempt that failed left behind goes first. Two builds on one
/// table would wait for each other.
fn build_index(table: &Relation, index: &str, columns: &[&Column]) -> Mend {
    let name = table.table_name();
    let qualified = format!("{}.{index}", Identifier(&table.schema));
    let busy = literal(&format!("another session builds an index of {name} now: run this again when that has ended"));
    let left_over = Step {
        comment: format!(
            "If {qualified} is there and not valid, an attempt that failed has left it behind: it goes first."
        ),
        sql: block(&format!(
            "IF EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index WHERE relid OPERATOR(pg_catalog.=) \
             {table}::pg_catalog.regclass::pg_catalog.oid) THEN\n        \
             RAISE EXCEPTION USING MESSAGE = {busy};\n    \
             ELSIF EXISTS (SELECT FROM pg_catalog.pg_index WHERE NOT indisvalid AND indexrelid OPERATOR(pg_catalog.=) \
             pg_catalog.to_regclass({index})::pg_catalog.oid) THEN\n        \
             DROP INDEX {qualified};\n    \
             END IF;",
            table = literal(&name.to_string()),
            index = literal(&qualified)
        )),
        run: Run::Leftover,
    };
    let build = Step {
        comment: format!(
            "The index is built while {name} is written to; that waits for every transaction that is open by then."
        ),
        sql: format!("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {name} ({})", list(columns)),
        run: Run::Alone,
    };
    Mend { steps: vec![left_over, build] }
}

/// Runs this in PL/pgSQL, in a dollar quote that does not occur in it.
pub fn block(body: &str) -> String {
    let tags = (0..).map(|number| if number == 0 { "$walgate$".to_owned() } else { format!("$walgate{number}$") });
    let tag = tags.into_iter().find(|tag| !body.contains(&**tag)).unwrap_or_default();
    format!("DO {tag}BEGIN\n    {body}\nEND{tag}")
}

/// A name for an index of a table, of at most 63 bytes, as an SQL identifier. Nothing else in the schema is called so, but
/// what an attempt that failed has left behind.
fn index_name(catalog: &Catalog, table: &Relation, suffix: &str) -> String {
    let name =
        |number: u32| named_after(table, &if number == 0 { suffix.to_owned() } else { format!("{suffix}{number}") });
    let is_taken = |name: &str| {
        let here = catalog.relations.values().filter(|relation| relation.schema == table.schema);
        here.into_iter().any(|relation| {
            let left_behind = |index: &Index| relation.oid == table.oid && !index.valid;
            *relation.name == *name || relation.indexes.iter().any(|index| *index.name == *name && !left_behind(index))
        })
    };
    let free = (0..100).map(name).find(|name| !is_taken(name));
    Identifier(&free.unwrap_or_else(|| name(100))).to_string()
}

/// The name of a table with a suffix, cut to 63 bytes.
fn named_after(table: &Relation, suffix: &str) -> String {
    let most = 63 - suffix.len() - 1;
    let end = (0..=most.min(table.name.len())).rev().find(|end| table.name.is_char_boundary(*end)).unwrap_or(0);
    format!("{}_{suffix}", table.name.get(..end).unwrap_or_default())
}

fn has_primary_key(table: &TableName) -> String {
    format!("EXISTS ({} AND indisprimary)", indexes(table))
}

/// The beginning of a query for the indexes of a table. The operator is the system's, whatever the search path.
fn indexes(table: &TableName) -> String {
    let table = literal(&table.to_string());
    format!(
        "SELECT FROM pg_catalog.pg_index WHERE indrelid OPERATOR(pg_catalog.=) \
         {table}::pg_catalog.regclass::pg_catalog.oid"
    )
}

/// The names of columns, as SQL needs them.
pub(super) fn list(columns: &[&Column]) -> String {
    columns.iter().map(|column| Identifier(&column.name).to_string()).collect::<Vec<_>>().join(", ")
}

/// The columns of these numbers; none where one is an expression.
pub(super) fn columns<'a>(table: &'a Relation, numbers: &[ColumnNumber]) -> Option<Vec<&'a Column>> {
    numbers.iter().map(|number| table.column(*number)).collect()
}

/// A text as an SQL literal, whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", doubled.replace('\\', r"\\")) } else { format!("'{doubled}'") }
}
