//! The rules: each one item with its id, its severity, what it says and a pure function that finds where it does not hold.

mod pglogical;
mod postgres;
mod zero;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::Serialize;

use super::catalog::{Catalog, Column, Index, Publication, Relation};
use super::finding::{Audit, Finding, Severity};
use super::key::{self, Question, Survey};
use super::mend::{self, Mend};
use super::publish::Published;
use crate::ident::Oid;

pub use zero::is_own as is_zero_publication;

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleSet {
    /// PostgreSQL's own, which always hold.
    Postgres,
    /// Those of Rocicorp's zero-cache.
    Zero,
    /// Those of the extension pglogical.
    Pglogical,
}

impl RuleSet {
    /// As `--for` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleSet::Postgres => "postgres",
            RuleSet::Zero => "zero",
            RuleSet::Pglogical => "pglogical",
        }
    }
}

impl FromStr for RuleSet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<RuleSet, Self::Err> {
        match text {
            "zero" => Ok(RuleSet::Zero),
            "pglogical" => Ok(RuleSet::Pglogical),
            _ => Err("expected zero or pglogical"),
        }
    }
}

/// What is looked at, and by which rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Besides PostgreSQL's own.
    pub rule_sets: BTreeSet<RuleSet>,
    /// The publications of one consumer; all there are if none is named.
    pub publications: Vec<String>,
}

impl Scope {
    /// As the command line of `walgate check` takes it, with a space before each flag.
    pub fn flags(&self) -> String {
        let sets = self.rule_sets.iter().map(|set| format!(" --for {}", set.as_str()));
        let publications =
            self.publications.iter().map(|name| format!(" --publication '{}'", name.replace('\'', r"'\''")));
        sets.chain(publications).collect()
    }

    /// The rules by which is judged.
    pub fn rules(&self) -> impl Iterator<Item = &'static Rule> {
        all().filter(|rule| rule.set == RuleSet::Postgres || self.rule_sets.contains(&rule.set))
    }
}

/// A rule.
pub struct Rule {
    /// As findings, metrics and webhooks name it.
    pub id: &'static str,
    /// Whose it is.
    pub set: RuleSet,
    /// How bad it is if it does not hold.
    pub severity: Severity,
    /// When it does not hold.
    pub holds_when: &'static str,
    /// What the user meets then.
    pub consequence: &'static str,
    check: fn(&View<'_>, &mut Found<'_>),
}

/// What a rule looks at.
struct View<'a> {
    catalog: &'a Catalog,
    survey: &'a Survey,
    scope: &'a Scope,
    /// The publications that are looked at.
    publications: Vec<&'a Publication>,
    /// What they publish.
    published: Vec<Published<'a>>,
    /// What all publications publish.
    all: Vec<Published<'a>>,
    /// What zero-cache's publications publish.
    zero: Vec<Published<'a>>,
    zero_publications: Vec<&'a Publication>,
    zero_tables: BTreeSet<Oid>,
    /// What any publication publishes, by the table that holds the rows.
    by_table: BTreeMap<Oid, Vec<Published<'a>>>,
}

/// What a rule has found.
struct Found<'a> {
    rule: &'a Rule,
    findings: &'a mut Vec<Finding>,
}

impl Found<'_> {
    /// Adds findings that are worse, or not as bad, as those of the rule usually are.
    fn with(&mut self, severity: Severity, add: impl FnOnce(&mut Found<'_>)) {
        let known = self.findings.len();
        add(self);
        self.findings.iter_mut().skip(known).for_each(|finding| finding.severity = severity);
    }

    /// A table as a publication publishes it.
    fn published(&mut self, published: &Published<'_>, message: String, mend: Option<Mend>) {
        self.add(Some(published.table), Some(&published.publication.name), message, mend);
    }

    fn add(&mut self, table: Option<&Relation>, publication: Option<&str>, message: String, mend: Option<Mend>) {
        self.findings.push(Finding {
            rule: self.rule.id,
            severity: self.rule.severity,
            table: table.map(Relation::table_name),
            publication: publication.map(str::to_owned),
            message,
            mend: mend.filter(|mend| !mend.steps.is_empty()),
        });
    }
}

impl<'a> View<'a> {
    /// `to_come` is what zero-cache publishes if it has not been here yet.
    fn new(catalog: &'a Catalog, survey: &'a Survey, scope: &'a Scope, to_come: &'a Publication) -> View<'a> {
        let is_meant = |publication: &&Publication| {
            scope.publications.is_empty() || scope.publications.iter().any(|name| **name == *publication.name)
        };
        let publications: Vec<&Publication> = catalog.publications.iter().filter(is_meant).collect();
        let all: Vec<Published<'_>> =
            catalog.publications.iter().flat_map(|publication| catalog.published(publication)).collect();
        let published = all.iter().filter(|published| is_meant(&published.publication)).copied().collect();
        let mut zero_publications = Vec::new();
        if scope.rule_sets.contains(&RuleSet::Zero) {
            zero_publications = zero::publications(catalog, scope);
            if zero_publications.is_empty() && scope.publications.is_empty() && catalog.zero_shards.is_empty() {
                zero_publications.push(to_come);
            }
        }
        let zero = zero_publications.iter().flat_map(|publication| {
            catalog.published(publication).into_iter().chain(catalog.published_empty(publication))
        });
        let zero: Vec<Published<'_>> = zero.collect();
        let mut by_table: BTreeMap<Oid, Vec<Published<'_>>> = BTreeMap::new();
        for published in &all {
            by_table.entry(published.table.oid).or_default().push(*published);
        }
        let zero_tables = zero.iter().map(|published| published.table.oid).collect();
        View { catalog, survey, scope, publications, published, all, zero, zero_publications, zero_tables, by_table }
    }

    /// Whether zero-cache gets the table too, so that what mends it must do for zero-cache.
    fn is_for_zero(&self, table: &Relation) -> bool {
        self.zero_tables.contains(&table.oid)
    }

    /// How to name the rows of a table that has no usable replica identity, or no key for somebody who needs one: to him FULL
    /// is of no use.
    fn key(&self, table: &Relation, needs_key: bool) -> Mend {
        let full_does = !needs_key && self.full_does(table);
        let names_rows = |columns: &[&Column]| self.misfit(table, columns).is_none();
        self.use_key(table).unwrap_or_else(|| key::plan(self.catalog, self.survey, table, full_does, &names_rows))
    }

    /// Names the rows of a table by a key that it has, and that all its publications let name them.
    fn use_key(&self, table: &Relation) -> Option<Mend> {
        let fits = |key: &&Index| self.misfit(table, &mend::columns(table, &key.columns).unwrap_or_default()).is_none();
        let key = table.keys().into_iter().find(fits)?;
        Some(mend::use_index(table, key))
    }

    /// Whether all columns can name its rows. Values that cannot be compared name nothing.
    fn full_does(&self, table: &Relation) -> bool {
        let refuses = |published: &Published<'_>| {
            let is_listed = published.entry.is_some_and(|entry| entry.columns.is_some());
            // Before PostgreSQL 18 generated columns are in no old row.
            let is_hidden = |column: &Column| self.catalog.server.major() >= 18 && !published.publishes(&column.name);
            is_listed || table.columns.iter().any(is_hidden)
        };
        !self.naming(table).any(refuses) && table.columns.iter().all(|column| column.comparable)
    }

    /// A publication of a table whose column list or WHERE does not let these columns name its rows.
    fn misfit(&self, table: &Relation, columns: &[&Column]) -> Option<&Published<'a>> {
        self.naming(table).find(|published| {
            let mut filter = published.filter_columns();
            !filter.all(|used| columns.iter().any(|column| column.name == used.name))
                || !columns.iter().all(|column| published.publishes(&column.name))
        })
    }

    /// A table as its publications have it that must name rows.
    fn naming(&self, table: &Relation) -> impl Iterator<Item = &Published<'a>> {
        let of = self.by_table.get(&table.oid).into_iter().flatten();
        of.filter(|published| published.publication.needs_identity())
    }

    /// Who streams which publications: whom the scope names, or else all who are seen.
    fn streamed(&self) -> Vec<(String, &'a [String])> {
        if !self.scope.publications.is_empty() {
            return vec![("The consumer".to_owned(), &self.scope.publications)];
        }
        let seen = self.catalog.consumers.iter().filter_map(|consumer| {
            Some((format!("The consumer of slot {}", consumer.slot), consumer.publications.as_deref()?))
        });
        let zero = self.catalog.zero_shards.iter().filter(|_| self.scope.rule_sets.contains(&RuleSet::Zero));
        let noted = zero.map(|shard| (format!("zero-cache of schema {}", shard.schema), &*shard.publications));
        seen.chain(noted).collect()
    }
}

/// Judges a catalog. What the values of tables showed decides which keys are proposed.
pub fn audit(catalog: &Catalog, survey: &Survey, scope: &Scope) -> Audit {
    let to_come = zero::default_publication();
    let view = View::new(catalog, survey, scope, &to_come);
    let mut findings = Vec::new();
    // Of what could not be read the other rules would say that it is not there.
    let is_known = |rule: &&Rule| match rule.set {
        _ if rule.id == postgres::NO_RIGHTS => true,
        RuleSet::Pglogical => catalog.denied.is_none() && catalog.sets_denied.is_none(),
        RuleSet::Postgres | RuleSet::Zero => catalog.denied.is_none(),
    };
    for rule in scope.rules().filter(is_known) {
        (rule.check)(&view, &mut Found { rule, findings: &mut findings });
    }
    findings.sort_by(|a, b| {
        // What is about no table comes last.
        let key = |finding: &Finding| {
            (finding.table.is_none(), finding.table.clone(), Reverse(finding.severity), finding.rule)
        };
        key(a).cmp(&key(b)).then_with(|| a.publication.cmp(&b.publication))
    });
    findings.dedup();
    let tables: BTreeSet<Oid> = view.published.iter().chain(&view.zero).map(|published| published.table.oid).collect();
    Audit { findings, tables: catalog.denied.is_none().then_some(tables.len()) }
}

/// The tables whose values decide how they can be mended, with the columns to look at.
pub fn questions(catalog: &Catalog, scope: &Scope) -> Vec<Question> {
    let survey = Survey::new();
    let to_come = zero::default_publication();
    let view = View::new(catalog, &survey, scope, &to_come);
    let mut tables: BTreeMap<Oid, &Relation> = BTreeMap::new();
    let named = view.published.iter().filter(|published| published.publication.needs_identity()).chain(&view.zero);
    tables.extend(named.map(|published| (published.table.oid, published.table)));
    if scope.rule_sets.contains(&RuleSet::Pglogical) {
        tables.extend(pglogical::keyed(&view).map(|table| (table.oid, table)));
    }
    let questions = tables.into_values().filter_map(|table| key::question(catalog, table));
    questions.map(|question| (question.table, question)).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// All rules.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    postgres::RULES.iter().chain(zero::RULES).chain(pglogical::RULES)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// `WALGATE_WRITE_RULES=1 cargo test --lib reference` writes it.
    #[test]
    fn the_reference_of_the_rules_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/identity-rules.md");
        let text = reference();
        if std::env::var_os("WALGATE_WRITE_RULES").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "see above this test");
    }

    #[test]
    fn a_rule_is_named_once_and_after_its_set() {
        let mut ids: Vec<&str> = all().map(|rule| rule.id).collect();
        for rule in all() {
            let prefix = if rule.set == RuleSet::Postgres { "pg" } else { rule.set.as_str() };
            assert_eq!(rule.id.split_once('/').map(|(prefix, _)| prefix), Some(prefix), "{}", rule.id);
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all().count());
    }

    /// The rules as a table in Markdown.
    fn reference() -> String {
        let mut text = String::from(
            "# Identity rules\n\nWhat `walgate check`, the daemon and its guard look for. Each rule was seen to come true on real \
             servers (`tests/identity`, `tests/zero`). This page is generated from `src/identity/rules`.\n",
        );
        for (set, title) in [
            (RuleSet::Postgres, "PostgreSQL: always"),
            (RuleSet::Zero, "zero-cache: with `--for zero`"),
            (RuleSet::Pglogical, "pglogical: with `--for pglogical`"),
        ] {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n## {title}\n\n| rule | severity | holds when | what then happens |\n|---|---|---|---|\n"
            );
            for rule in all().filter(|rule| rule.set == set) {
                let Rule { id, severity, holds_when, consequence, .. } = rule;
                let _ = writeln!(text, "| `{id}` | {severity} | {holds_when} | {consequence} |");
            }
        }
        text
    }
}
