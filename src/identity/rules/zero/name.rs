//! Names that zero-cache, or SQLite under it, does not take.

use std::collections::BTreeMap;

use super::{about, lite, lite_name, published_columns, shown};
use crate::ident::Identifier;
use crate::identity::catalog::{Column, Index, Relation};
use crate::identity::mend::{self, Mend};
use crate::identity::publish::Published;
use crate::identity::rules::{Found, View};

pub(super) fn reserved_name(view: &View<'_>, found: &mut Found<'_>) {
    const STOPS: &str = "zero-cache's initial sync stops, for all tables";
    for published in shown(view) {
        let table = published.shown_as;
        for column in published_columns(&published).filter(|column| column.name.eq_ignore_ascii_case("_0_version")) {
            let message = format!(
                "{STOPS}: Table \"{}\" uses reserved column name \"_0_version\", or: duplicate column name: {}",
                table.name, column.name
            );
            about(found, &published, message, Some(rename_column(table, &column.name)));
        }
        let name = lite_name(table).to_ascii_lowercase();
        // zero-cache leaves its own tables out by LIKE patterns, where _ stands for any character.
        let behind = |place: usize, text: &str| name.get(place..).is_some_and(|rest| rest.starts_with(text));
        if name.starts_with("sqlite_") {
            let message = format!("{STOPS}: object name reserved for internal use: {}", lite_name(table));
            about(found, &published, message, Some(rename_table(table)));
        } else if name.starts_with("sqlite") && name.len() > 6
            || behind(1, "litestream") && name.len() > 11
            || behind(1, "zero.")
        {
            let message = format!(
                "zero-cache takes it for one of its own: its clients never see it, and zero-cache stops at the first \
                 insert: Unknown table {}",
                lite_name(table)
            );
            about(found, &published, message, Some(rename_table(table)));
        }
        for index in table.indexes.iter().filter(|index| is_replicated(&published, index)) {
            let name = lite(&table.schema, &index.name);
            if name.to_ascii_lowercase().starts_with("sqlite_") {
                let message = format!("{STOPS}: object name reserved for internal use: {name}");
                about(found, &published, message, Some(rename_index(table, index)));
            }
        }
    }
}

pub(super) fn invalid_name(view: &View<'_>, found: &mut Found<'_>) {
    let is_valid = |name: &str, more: &str| {
        let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
        name.starts_with(begins) && name.chars().all(|c| begins(c) || c.is_ascii_digit() || more.contains(c))
    };
    for published in shown(view) {
        let table = published.shown_as;
        if !is_valid(&table.name, "-") {
            let message = format!(
                "zero-cache's initial sync stops, for all tables: Table \"{}\" has invalid characters.",
                lite_name(table)
            );
            about(found, &published, message, Some(rename_table(table)));
        }
        for column in published_columns(&published).filter(|column| !is_valid(&column.name, "-.")) {
            let message = format!(
                "zero-cache's initial sync stops, for all tables: Column \"{}\" in table \"{}\" has invalid characters.",
                column.name,
                lite_name(table)
            );
            about(found, &published, message, Some(rename_column(table, &column.name)));
        }
    }
}

pub(super) fn case_collision(view: &View<'_>, found: &mut Found<'_>) {
    const STOPS: &str = "zero-cache's initial sync stops, for all tables: to SQLite";
    // Tables and indexes are named alike there.
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let all = shown(view);
    for published in &all {
        let table = published.shown_as;
        let mut columns: BTreeMap<String, &Column> = BTreeMap::new();
        for column in published_columns(published) {
            if let Some(other) = columns.insert(column.name.to_ascii_lowercase(), column) {
                let message = format!(
                    "{STOPS} columns {} and {} are the same: duplicate column name: {}",
                    Identifier(&other.name),
                    Identifier(&column.name),
                    column.name
                );
                about(found, published, message, Some(rename_column(table, &column.name)));
            }
        }
        let (name, what) = (lite_name(table), format!("table {}", table.table_name()));
        if let Some(other) = names.insert(name.to_ascii_lowercase(), what) {
            let message = format!("{STOPS} {other} and this one are the same: table {name} already exists");
            about(found, published, message, Some(rename_table(table)));
        }
    }
    for published in &all {
        let table = published.shown_as;
        for index in table.indexes.iter().filter(|index| is_replicated(published, index)) {
            let (schema, name) = (&table.schema, &index.name);
            let what = format!("index {}.{}", Identifier(schema), Identifier(name));
            let lite = lite(schema, name).to_ascii_lowercase();
            if let Some(other) = names.insert(lite, what.clone()).filter(|other| *other != what) {
                let message = format!("{STOPS} its {what} and {other} are the same");
                let sql = format!("ALTER INDEX {}.{} RENAME TO <name>", Identifier(schema), Identifier(name));
                about(
                    found,
                    published,
                    message,
                    Some(Mend::template("The name of an index is nobody else's matter.", sql)),
                );
            }
        }
    }
}

/// Whether zero-cache makes an index in its replica, too (`published.ts`).
fn is_replicated(published: &Published<'_>, index: &Index) -> bool {
    let columns = mend::columns(published.shown_as, &index.columns);
    !index.partial && columns.is_some_and(|columns| columns.iter().all(|column| published.publishes(&column.name)))
}

fn rename_table(table: &Relation) -> Mend {
    let comment = "The application must then call it so, too; or leave it out of the publication.";
    Mend::template(comment, format!("ALTER TABLE {} RENAME TO <name>", table.table_name()))
}

fn rename_column(table: &Relation, column: &str) -> Mend {
    let comment = "The application must then call it so, too; or leave it out of the publication.";
    Mend::template(
        comment,
        format!("ALTER TABLE {} RENAME COLUMN {} TO <name>", table.table_name(), Identifier(column)),
    )
}

fn rename_index(table: &Relation, index: &Index) -> Mend {
    let sql = format!("ALTER INDEX {}.{} RENAME TO <name>", Identifier(&table.schema), Identifier(&index.name));
    Mend::template("Nothing but plans and errors calls it so.", sql)
}
