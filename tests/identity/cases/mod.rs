//! Schemas that offend a rule, the statements that show what comes of it, and what mends each.

mod columns;
mod missing;
mod publications;

use std::ops::RangeInclusive;

/// A schema that offends one rule.
pub(crate) struct Case {
    /// What sets it apart.
    pub(crate) name: &'static str,
    /// The rule.
    pub(crate) rule: &'static str,
    /// The versions where it does.
    pub(crate) versions: RangeInclusive<u32>,
    /// Makes it.
    pub(crate) offending: &'static str,
    /// The publications that one consumer streams.
    pub(crate) publications: &'static [&'static str],
    /// The tables that the rule names; none where it is about a publication.
    pub(crate) tables: &'static [&'static str],
    /// Rules that it offends besides, inevitably.
    pub(crate) besides: &'static [&'static str],
    /// Statements, each in a transaction of its own, and what each says: nothing when it works. Once the schema is mended all
    /// work.
    pub(crate) then: &'static [(&'static str, &'static str)],
    /// What mends it.
    pub(crate) mended: By,
}

/// Whose SQL mends a case.
#[derive(Clone, Copy)]
pub(crate) enum By {
    /// What the check says.
    Check,
    /// A person must choose; this is one choice.
    Hand(&'static str),
    /// No SQL here can.
    None,
}

/// What most cases have in common.
const PLAIN: Case = Case {
    name: "",
    rule: "",
    versions: 14..=18,
    offending: "",
    publications: &[],
    tables: &["public.t"],
    besides: &[],
    then: &[],
    mended: By::Check,
};

/// From here on there are column lists, row filters and publications of schemas.
const SINCE_15: RangeInclusive<u32> = 15..=18;

/// All cases that a version has.
pub(crate) fn of(major: u32) -> impl Iterator<Item = &'static Case> {
    let all = missing::CASES.iter().chain(columns::CASES).chain(publications::CASES);
    all.filter(move |case| case.versions.contains(&major))
}

/// What a write to a table without a replica identity says.
macro_rules! unnamed {
    (UPDATE $table:literal) => {
        concat!(
            "55000: cannot update table \"",
            $table,
            "\" because it does not have a replica identity and publishes updates"
        )
    };
    (DELETE $table:literal) => {
        concat!(
            "55000: cannot delete from table \"",
            $table,
            "\" because it does not have a replica identity and publishes deletes"
        )
    };
}

/// What a write says that a publication's columns do not allow.
macro_rules! refused {
    (list, $($write:tt)*) => {
        refused!("Column list used by the publication does not cover the replica identity.", $($write)*)
    };
    (filter, $($write:tt)*) => {
        refused!("Column used in the publication WHERE expression is not part of the replica identity.", $($write)*)
    };
    (generated, $($write:tt)*) => {
        refused!("Replica identity must not contain unpublished generated columns.", $($write)*)
    };
    ($why:literal, UPDATE $table:literal) => {
        concat!("42P10: cannot update table \"", $table, "\": ", $why)
    };
    ($why:literal, DELETE $table:literal) => {
        concat!("42P10: cannot delete from table \"", $table, "\": ", $why)
    };
}

pub(crate) use {refused, unnamed};
