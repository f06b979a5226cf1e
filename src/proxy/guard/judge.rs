//! Whether a consumer may begin: the errors that the tables it asks for have, by the rules of the source.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Beginning;
use crate::identity::{self, Catalog, Finding, RuleSet, Scope, Severity, Survey};
use crate::source::{ConnectError, Source, catalog};
use crate::wire::backend::ErrorFields;

/// The SQLSTATE of a refusal. PostgreSQL keeps classes that begin with 0 to 4 or A to H for the standard, and has P0 and XX of
/// its own.
const REFUSED: &str = "WG001";

/// How long a command may wait for the catalog to be read, which takes seconds where there are 20,000 tables and the machine
/// is busy. No consumer is known that minds, and what is locked or unreachable is known sooner, mostly.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tables that a message names, findings that it tells, and the bytes that they and their mends may take.
const NAMED: usize = 10;
const MAX_TEXT: usize = 4096;

/// What decides which consumers of a source may begin.
#[derive(Default)]
pub(in crate::proxy) struct Judge {
    /// The catalog as it was read last, and when that was begun. Held while reading, so that many consumers that come
    /// back at once read it once.
    catalog: Mutex<Option<(Instant, Arc<Catalog>)>>,
}

pub(super) enum Verdict {
    Pass,
    Refuse(ErrorFields<'static>),
}

impl Judge {
    /// Judges on a catalog that is read from now on. What cannot be judged passes.
    pub(super) async fn judge(&self, source: &Source, database: &str, beginning: Beginning) -> Verdict {
        // What the guard sees is to be seen elsewhere too.
        source.want_audit();
        let scope = scope(source, &beginning);
        let judged = match timeout(PATIENCE, self.errors(source, database, &scope)).await {
            Ok(judged) => judged,
            Err(_) => Err(format!("the catalog cannot be read within {} s", PATIENCE.as_secs())),
        };
        let (source, Beginning { command, slot, .. }) = (source.name(), &beginning);
        match judged {
            Ok(errors) if errors.is_empty() => Verdict::Pass,
            Ok(errors) => {
                let (tables, rules) = (subjects(&errors), rules(&errors));
                tracing::warn!(source, command, slot, tables, rules, "the guard has refused a consumer");
                count(source, command, "refused");
                Verdict::Refuse(refusal(&beginning, &scope, &errors))
            }
            Err(reason) => {
                tracing::error!(source, command, slot, reason, "the guard cannot judge a consumer, and lets it pass");
                count(source, command, "unjudged");
                Verdict::Pass
            }
        }
    }

    /// Says what stands against a consumer that passes, by the newest audit there is.
    pub(super) fn warn(source: &Source, database: &str, beginning: Beginning) {
        let newest = source.audits().borrow().clone();
        let Some(newest) = newest.filter(|_| audits(source, database)) else { return };
        let (source, scope) = (source.name().to_owned(), scope(source, &beginning));
        spawn_blocking(move || {
            let errors = errors(&newest.audited.catalog, &newest.audited.survey, &scope);
            if !errors.is_empty() {
                let (Beginning { command, slot, .. }, tables) = (beginning, subjects(&errors));
                let rules = rules(&errors);
                tracing::warn!(source, command, slot, tables, rules, "a consumer begins that will break");
                count(&source, command, "warned");
            }
        });
    }

    /// The errors that a consumer would meet now.
    async fn errors(&self, source: &Source, database: &str, scope: &Scope) -> Result<Vec<Finding>, String> {
        let catalog = self.read(source, database, Instant::now()).await?;
        // What the values of tables have shown decides only how they are mended.
        let newest = source.audits().borrow().clone();
        let scope = scope.clone();
        // On another thread: a large catalog takes its time, and streams are relayed on this one.
        let judged = spawn_blocking(move || match newest {
            Some(newest) => errors(&catalog, &newest.audited.survey, &scope),
            None => errors(&catalog, &Survey::new(), &scope),
        });
        judged.await.map_err(|error| error.to_string())
    }

    /// The catalog, as it is now or later.
    async fn read(&self, source: &Source, database: &str, now: Instant) -> Result<Arc<Catalog>, String> {
        if !audits(source, database) {
            return Err("walgate's own sessions are in another database".into());
        }
        let mut known = self.catalog.lock().await;
        if let Some((begun, catalog)) = &*known
            && *begun >= now
        {
            return Ok(Arc::clone(catalog));
        }
        let begun = Instant::now();
        let read = async { catalog::read(&source.connector().sql().await?).await };
        let mut catalog: Catalog = read.await.map_err(|error: ConnectError| error.to_string())?;
        if let Some(denied) = catalog.denied {
            return Err(denied);
        }
        // What others stream is not this one's matter.
        catalog.consumers.clear();
        let catalog = Arc::new(catalog);
        *known = Some((begun, Arc::clone(&catalog)));
        Ok(catalog)
    }
}

/// Whether this is the database that walgate looks at.
fn audits(source: &Source, database: &str) -> bool {
    source.connector().dsn().login_database() == Some(database)
}

/// What a consumer is judged by: of a slot that is to be made all that is published, of a stream what it asks for.
fn scope(source: &Source, beginning: &Beginning) -> Scope {
    let mut scope = Scope { publications: beginning.publications.clone(), ..source.scope() };
    // zero-cache always streams its own metadata; others are not bound by its rules.
    if !scope.publications.is_empty() && !scope.publications.iter().any(|name| identity::is_zero_publication(name)) {
        scope.rule_sets.remove(&RuleSet::Zero);
    }
    // pglogical brings an output plugin of its own, which is not guarded.
    scope.rule_sets.remove(&RuleSet::Pglogical);
    scope
}

fn errors(catalog: &Catalog, survey: &Survey, scope: &Scope) -> Vec<Finding> {
    let findings = identity::audit(catalog, survey, scope).findings;
    findings.into_iter().filter(|finding| finding.severity == Severity::Error).collect()
}

fn refusal(beginning: &Beginning, scope: &Scope, errors: &[Finding]) -> ErrorFields<'static> {
    let Beginning { command, slot, .. } = beginning;
    let what = match *command {
        "START_REPLICATION" => "does not start replication from slot",
        _ => "does not create replication slot",
    };
    let message = format!("walgate's guard {what} \"{slot}\": {} would break it", subjects(errors));
    let told = errors.iter().map(|finding| format!("{}: {}: {}", subject(finding), finding.rule, finding.message));
    let mends = errors.iter().filter_map(|finding| Some(finding.mend.as_ref()?.to_string()));
    let mut hint = bounded(mends, "statement");
    hint.push_str(if hint.is_empty() { "See" } else { "\nAll of it, as a script:" });
    let _ = write!(hint, " walgate check{}", scope.flags());
    hint.push_str(" --format sql. The guard lets pass what is mended; with guard = \"warn\" it lets pass all.");
    ErrorFields {
        severity: "ERROR".into(),
        code: REFUSED.into(),
        message: message.into(),
        detail: Some(bounded(told, "finding").into()),
        hint: Some(hint.into()),
    }
}

/// What is broken: a table, else a publication, else the server.
fn subject(finding: &Finding) -> String {
    match (&finding.table, &finding.publication) {
        (Some(table), _) => format!("table {table}"),
        (None, Some(publication)) => format!("publication \"{publication}\""),
        (None, None) => "the server's configuration".into(),
    }
}

fn subjects(errors: &[Finding]) -> String {
    let names: BTreeSet<String> = errors.iter().map(subject).collect();
    let more = names.len().saturating_sub(NAMED);
    let mut text = names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

fn rules(errors: &[Finding]) -> String {
    let rules: BTreeSet<&str> = errors.iter().map(|finding| finding.rule).collect();
    rules.into_iter().collect::<Vec<_>>().join(", ")
}

/// Lines, each once, of which as many are shown as there is room for.
fn bounded(lines: impl Iterator<Item = String>, what: &str) -> String {
    let (mut text, mut seen, mut left_out) = (String::new(), BTreeSet::new(), 0);
    for line in lines {
        let room = seen.len() < NAMED && text.len() + line.len() <= MAX_TEXT;
        if seen.contains(&line) {
        } else if room {
            let newline = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{newline}{line}");
            seen.insert(line);
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        let _ = write!(text, "\n… and {left_out} more {what}{}", if left_out > 1 { "s" } else { "" });
    }
    text
}

pub(super) fn count(source: &str, command: &'static str, outcome: &'static str) {
    counter!("walgate_guard_total", "source" => source.to_owned(), "command" => command, "outcome" => outcome)
        .increment(1);
}
