//! A broken rule on a table, and all of them.

use std::fmt;

use serde::{Serialize, Serializer};

use super::mend::Mend;
use crate::ident::TableName;

/// How bad a finding is; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Something is silently worse than it looks.
    Warning,
    /// Something breaks.
    Error,
}

impl Severity {
    /// All of them, the worst first.
    pub const ALL: [Severity; 3] = [Severity::Error, Severity::Warning, Severity::Info];

    /// As metrics and answers name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    /// The rule's id.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The table, where it is about one.
    pub table: Option<TableName>,
    /// The publication, where it is about one.
    pub publication: Option<String>,
    /// What will happen, to whom, with the error that they meet.
    pub message: String,
    /// The SQL that mends it; a comment where a person must choose; null where SQL cannot mend it.
    #[serde(rename = "fix", serialize_with = "as_sql")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub mend: Option<Mend>,
}

impl Finding {
    /// The table and the publication that it is about, in words.
    pub fn place(&self) -> String {
        let table = self.table.as_ref().map(ToString::to_string);
        let publication = self.publication.as_ref().map(|publication| format!("publication {publication}"));
        table.into_iter().chain(publication).collect::<Vec<_>>().join(", ")
    }
}

fn as_sql<S: Serializer>(mend: &Option<Mend>, serializer: S) -> Result<S::Ok, S::Error> {
    match mend {
        Some(mend) => serializer.collect_str(mend),
        None => serializer.serialize_none(),
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// By table, the worst first.
    pub findings: Vec<Finding>,
    /// How many tables are published, and were looked at; null where the catalog could not be read.
    pub tables: Option<usize>,
}

impl Audit {
    /// The findings that are at least this bad.
    pub fn at_least(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity >= severity)
    }
}
