//! What names the rows of a table to zero-cache.

use super::column::is_known;
use super::{about, lite_name, shown};
use crate::identity::catalog::{Column, IdentitySetting, Index, Relation, ReplicaIdentity};
use crate::identity::mend::{self, Mend};
use crate::identity::publish::Published;
use crate::identity::rules::{Found, View};

/// The indexes that zero-cache takes for keys (`computeZqlSpecsFromLiteSpecs` in `lite-tables.ts`), whatever the types of
/// their columns; deferrable ones are.
pub(super) fn keys<'a>(published: &Published<'a>) -> impl Iterator<Item = &'a Index> {
    let published = *published;
    published.shown_as.indexes.iter().filter(move |index| {
        let columns = mend::columns(published.shown_as, &index.columns);
        let is_key =
            |columns: Vec<&Column>| columns.iter().all(|column| column.not_null && published.publishes(&column.name));
        index.unique && !index.partial && columns.is_some_and(is_key)
    })
}

/// Whether zero knows the types of all columns of a key.
pub(super) fn is_shown_by(published: &Published<'_>, key: &Index) -> bool {
    mend::columns(published.shown_as, &key.columns).is_some_and(|columns| columns.iter().all(|column| is_known(column)))
}

/// What gives a table a key. One that is there and not published is not a matter of the table.
fn key_for_zero(view: &View<'_>, table: &Relation) -> Option<Mend> {
    table.keys().is_empty().then(|| view.key(table, true))
}

pub(super) fn no_key(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        if table.identity == IdentitySetting::Full || keys(&published).next().is_some() {
            continue;
        }
        // Where the application's writes fail, `pg/no-identity` says so; where they do not, they come here.
        let also = match published.table.replica_identity() {
            ReplicaIdentity::Index(_) | ReplicaIdentity::Full => format!(
                "; and at the first UPDATE or DELETE zero-cache stops, and again after each restart: Cannot replicate table \
                 \"{}\" without a PRIMARY KEY or UNIQUE INDEX",
                table.name
            ),
            ReplicaIdentity::Missing(_) => String::new(),
        };
        let message = format!(
            "zero-cache needs a key, a primary key or a unique index over NOT NULL columns that are published, and there is \
             none: its clients never see the table: The \"{}\" table is missing a primary key or non-null unique index and \
             thus cannot be synced to the client{also}",
            lite_name(table)
        );
        about(found, &published, message, key_for_zero(view, table));
    }
}

pub(super) fn full_without_key(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view) {
        let table = published.shown_as;
        let is_full = table.identity == IdentitySetting::Full;
        if !is_full || keys(&published).any(|key| is_shown_by(&published, key)) {
            continue;
        }
        let message = format!(
            "REPLICA IDENTITY FULL without a key that zero knows: zero-cache stops at the first insert, and again after each \
             restart and reset: Cannot replicate table \"{}\" without a PRIMARY KEY or UNIQUE INDEX",
            table.name
        );
        about(found, &published, message, key_for_zero(view, table));
    }
}

pub(super) fn identity_nothing(view: &View<'_>, found: &mut Found<'_>) {
    for published in shown(view).iter().filter(|published| published.shown_as.identity == IdentitySetting::Nothing) {
        let then = format!("Table \"{}\" with REPLICA IDENTITY NOTHING cannot be replicated", published.shown_as.name);
        stops(view, found, published, &then);
    }
}

pub(super) fn identity_index_missing(view: &View<'_>, found: &mut Found<'_>) {
    // One that is not valid does for zero-cache.
    let is_gone = |published: &&Published<'_>| {
        let table = published.shown_as;
        table.identity == IdentitySetting::Index && !table.indexes.iter().any(|index| index.identity)
    };
    for published in shown(view).iter().filter(is_gone) {
        let then = format!("Table \"{}\" is missing its REPLICA IDENTITY INDEX", published.shown_as.name);
        stops(view, found, published, &then);
    }
}

fn stops(view: &View<'_>, found: &mut Found<'_>, published: &Published<'_>, then: &str) {
    let message = format!("zero-cache's initial sync stops, for all tables: {then}");
    about(found, published, message, Some(view.key(published.shown_as, true)));
}
