//! Schemas that offend a rule, what zero-cache makes of each, and what mends it.

mod clients;
mod start;
mod stream;

pub(crate) use {clients::CLIENTS, start::START, stream::STREAM};

/// A schema that offends one rule. A table `arrived` is there besides.
pub(crate) struct Case {
    /// The rule.
    pub(crate) rule: &'static str,
    /// Makes it.
    pub(crate) offending: &'static str,
    /// The table that the rule names; empty where it is about a publication.
    pub(crate) table: &'static str,
    /// Rules of PostgreSQL's own that it offends besides, inevitably.
    pub(crate) besides: &'static [&'static str],
    /// The publications that zero-cache is told to replicate; without any it makes its own.
    pub(crate) publications: &'static [&'static str],
    /// Run once zero-cache serves.
    pub(crate) then: &'static str,
    /// What zero-cache makes of it.
    pub(crate) met: Met,
    /// What mends it.
    pub(crate) mended: By,
}

/// What is met where a rule does not hold.
#[derive(Clone, Copy)]
pub(crate) enum Met {
    /// It ends before it serves, with this in its log.
    AtStart(&'static str),
    /// It serves, and ends when the statements have run, with this in its log.
    Later(&'static str),
    /// It goes on, but nothing that is done after its initial sync arrives, with this in its log.
    Silent(&'static str),
    /// A client whose schema has this table with these columns, the first of them the key, is refused with this.
    Refused { table: &'static str, columns: &'static [(&'static str, &'static str)], with: &'static str },
    /// It says nothing, but its replica answers the first query otherwise than the server the second.
    Wrong { replica: &'static str, server: &'static str },
}

/// Whose SQL mends a case.
#[derive(Clone, Copy)]
pub(crate) enum By {
    /// What the check says.
    Check,
    /// A person must choose; this is one choice.
    Hand(&'static str),
    /// The same, and zero-cache is told these publications.
    Naming(&'static str, &'static [&'static str]),
    /// Another case of the rule shows it.
    Elsewhere,
}

/// What most cases have in common.
const PLAIN: Case = Case {
    rule: "",
    offending: "",
    table: "public.t",
    besides: &[],
    publications: &[],
    then: "",
    met: Met::AtStart(""),
    mended: By::Check,
};
