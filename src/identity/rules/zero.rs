//! What zero-cache demands of a table that it is to replicate.

use super::{Found, Rule, RuleSet, Scope, View};
use crate::identity::catalog::{Catalog, Publication};
use crate::identity::finding::Severity::Error;
use crate::identity::mend;

pub(super) static RULES: &[Rule] = &[Rule {
    id: "zero/publication-operations",
    set: RuleSet::Zero,
    severity: Error,
    holds_when: "a publication leaves out insert, update, delete or truncate",
    consequence: "zero-cache refuses it: PUBLICATION p must publish insert, update, delete, and truncate; changed at run \
                      time, it goes unnoticed, and those changes are lost",
    check: publication_operations,
}];

fn publication_operations(view: &View<'_>, found: &mut Found<'_>) {
    for publication in view.zero_publications.iter().filter(|publication| publication.operations().len() < 4) {
        let message = format!(
            "zero-cache refuses it: PUBLICATION {} must publish insert, update, delete, and truncate; while it runs it does \
             not notice, and those changes are lost to its clients",
            publication.name
        );
        let mend =
            mend::set_publication(publication, "publish = 'insert, update, delete, truncate'", "zero-cache needs all.");
        found.add(None, Some(publication), message, Some(mend));
    }
}

/// The publications of zero-cache: those that were named, or that it streams, or that are called as it calls its own.
pub(super) fn publications<'a>(catalog: &'a Catalog, scope: &Scope) -> Vec<&'a Publication> {
    let streamed = catalog.consumers.iter().filter(|consumer| consumer.publications.iter().any(|name| is_own(name)));
    let streamed: Vec<&String> = streamed.flat_map(|consumer| &consumer.publications).collect();
    let is_meant = |publication: &&Publication| match scope.publications.is_empty() {
        true => is_own(&publication.name) || streamed.iter().any(|name| ***name == *publication.name),
        false => scope.publications.iter().any(|name| **name == *publication.name),
    };
    catalog.publications.iter().filter(is_meant).collect()
}

/// Whether a publication is called `_{app}_public_{shard}` or `_{app}_metadata_{shard}`.
fn is_own(name: &str) -> bool {
    let Some((rest, shard)) = name.strip_prefix('_').and_then(|name| name.rsplit_once('_')) else { return false };
    let is_shard = !shard.is_empty() && shard.bytes().all(|byte| byte.is_ascii_digit());
    is_shard && (rest.ends_with("_public") || rest.ends_with("_metadata"))
}
