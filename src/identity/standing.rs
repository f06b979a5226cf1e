//! What has changed from one audit to the next.

use std::collections::BTreeMap;

use super::finding::{Audit, Finding};
use super::rules::Scope;
use crate::ident::TableName;

/// What makes two findings the same one, whatever they say.
type Key = (&'static str, Option<TableName>, Option<String>);

/// The findings that stand: those of the last audit.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// `None` before the first audit: what was there before is no news.
    known: Option<BTreeMap<Key, Finding>>,
}

/// Findings that have come and gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that were not there.
    pub appeared: Vec<Finding>,
    /// Those that are not there any more.
    pub gone: Vec<Finding>,
}

impl Changes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.appeared.is_empty() && self.gone.is_empty()
    }
}

impl Standing {
    /// Takes an audit; returns what has changed, `None` at the first. `complete` tells whether all of the catalog could be
    /// read: if not, what was not found again still stands. What the scope no longer holds is forgotten without a word.
    pub fn take(&mut self, audit: &Audit, scope: &Scope, complete: bool) -> Option<Changes> {
        let mut now: BTreeMap<Key, Finding> =
            audit.findings.iter().map(|finding| (key(finding), finding.clone())).collect();
        let Some(mut before) = self.known.take() else {
            self.known = Some(now);
            return None;
        };
        before.retain(|(rule, ..), _| scope.rules().any(|known| known.id == *rule));
        let appeared = now.iter().filter(|(key, _)| !before.contains_key(key)).map(|(_, finding)| finding.clone());
        let appeared = appeared.collect();
        before.retain(|key, _| !now.contains_key(key));
        let gone = if complete {
            before.into_values().collect()
        } else {
            now.append(&mut before);
            Vec::new()
        };
        self.known = Some(now);
        Some(Changes { appeared, gone })
    }
}

fn key(finding: &Finding) -> Key {
    (finding.rule, finding.table.clone(), finding.publication.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{RuleSet, Severity, all};

    fn finding(rule: &'static str, table: &str, message: &str) -> Finding {
        let table = TableName { schema: "public".into(), name: table.into() };
        Finding {
            rule,
            severity: Severity::Error,
            table: Some(table),
            publication: Some("p".into()),
            message: message.into(),
            mend: None,
        }
    }

    fn audit(findings: &[Finding]) -> Audit {
        Audit { findings: findings.to_vec(), tables: Some(findings.len()) }
    }

    #[test]
    fn what_stands_at_the_first_audit_is_no_news_and_what_comes_and_goes_later_is() {
        let scope = Scope::default();
        let (a, b) = (finding("pg/no-identity", "a", "…"), finding("pg/no-identity", "b", "…"));
        let mut standing = Standing::default();
        assert_eq!(standing.take(&audit(std::slice::from_ref(&a)), &scope, true), None);
        // The same in other words.
        let again = audit(&[finding("pg/no-identity", "a", "!")]);
        assert_eq!(standing.take(&again, &scope, true), Some(Changes::default()));
        let changes = standing.take(&audit(std::slice::from_ref(&b)), &scope, true);
        let gone = vec![finding("pg/no-identity", "a", "!")];
        assert_eq!(changes, Some(Changes { appeared: vec![b], gone }));
    }

    #[test]
    fn what_could_not_be_looked_at_has_not_gone() {
        let scope = Scope::default();
        let (a, b) = (finding("pg/no-identity", "a", "…"), finding("pg/no-identity", "b", "…"));
        let mut standing = Standing::default();
        standing.take(&audit(std::slice::from_ref(&a)), &scope, true);
        let changes = standing.take(&audit(std::slice::from_ref(&b)), &scope, false);
        assert_eq!(changes, Some(Changes { appeared: vec![b.clone()], gone: vec![] }));
        assert_eq!(standing.take(&audit(&[]), &scope, true), Some(Changes { appeared: vec![], gone: vec![a, b] }));
    }

    #[test]
    fn what_is_not_looked_for_any_more_has_not_gone() {
        let zero = Scope { rule_sets: [RuleSet::Zero].into(), ..Scope::default() };
        let rule = all().find(|rule| rule.set == RuleSet::Zero);
        let Some(rule) = rule else { return };
        let mut standing = Standing::default();
        standing.take(&audit(&[finding(rule.id, "a", "…")]), &zero, true);
        assert_eq!(standing.take(&audit(&[]), &Scope::default(), true), Some(Changes::default()));
        let changes = standing.take(&audit(&[finding(rule.id, "a", "…")]), &zero, true);
        assert_eq!(changes.map(|changes| changes.appeared.len()), Some(1));
    }
}
