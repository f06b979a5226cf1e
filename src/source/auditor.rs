//! Audits a source every few seconds, and at once when asked to, through an SQL session of its own: it must not keep the
//! poller waiting.
//!
//! Who asks is the stream that shows a table's definition ([`Consumer::take_schema_shown`]), so that may be often: audits
//! keep a distance, and take no more than a part of the time. What was asked for until an audit begins, that audit answers.
//!
//! [`Consumer::take_schema_shown`]: crate::lag::Consumer::take_schema_shown

use std::collections::BTreeMap;
use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use metrics::counter;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::audits::AuditReport;
use super::catalog::{self, Audited, Budget};
use super::error::{ConnectError, Failure};
use super::sql::SqlSession;
use super::watched::{Health, Source};
use crate::ident::{Oid, SlotName};
use crate::identity::{self, Catalog, Changes, Evidence, Finding, Question, Run, Scope, Severity, Standing, Survey};
use crate::time::PgTimestamp;

/// Between two audits.
const INTERVAL: Duration = Duration::from_secs(5);

/// Between two audits, whoever asks. The first one after it was asked for is followed by another so soon, and then by more
/// and more slowly: a commit is on the stream before it can be seen, a while before if it waits for a synchronous standby.
const DISTANCE: Duration = Duration::from_millis(50);

/// How much longer each of those pauses is.
const SLOWING: u32 = 5;

/// The part of the time that audits may take: a large catalog is read less often.
const SHARE: u32 = 10;

/// How long one audit may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long the values of tables without a key may be looked at, each time.
const BUDGET: Budget = Budget { table: Duration::from_millis(500), total: Duration::from_secs(2) };

/// How long it holds what the values of a table have shown.
const VALUES_HOLD: Duration = Duration::from_secs(60);

/// A catalog of more relations is judged on another thread: streams are relayed on this one.
const JUDGED_HERE: usize = 200;

/// Findings that are logged one by one.
const LOGGED: usize = 20;

/// Audits until `stop`.
pub(super) async fn audit(source: &Arc<Source>, stop: &CancellationToken) {
    source.forget_audits();
    stop.run_until_cancelled(async {
        let (mut standing, mut values) = (Standing::default(), Values::default());
        loop {
            let mut attempt = None;
            let error = watch(source, &mut standing, &mut values, &mut attempt).await;
            let news = source.audit_failed(error.to_string());
            // Of a server that cannot be reached the poller tells.
            if news && source.health() == Health::Reached {
                let (source, kind) = (source.name(), error.kind());
                counter!("walgate_errors_total", "source" => source.to_owned(), "kind" => kind).increment(1);
                tracing::warn!(source, %error, "the catalog cannot be audited; trying again");
            }
            // An attempt that failed has cost the server as much.
            let cost = attempt.map_or(Duration::ZERO, |begun: Instant| begun.elapsed());
            sleep(INTERVAL.max(cost * SHARE)).await;
        }
    })
    .await;
}

/// Audits through one session until it fails.
async fn watch(
    source: &Source,
    standing: &mut Standing,
    values: &mut Values,
    attempt: &mut Option<Instant>,
) -> ConnectError {
    let session = match source.connector().sql().await {
        Ok(session) => session,
        Err(error) => return error,
    };
    let mut pause = INTERVAL;
    loop {
        source.audit_wanted().now_or_never();
        source.audit_hurried().now_or_never();
        let (begun, observed_at, scope) = (Instant::now(), PgTimestamp::now(), source.scope());
        *attempt = Some(begun);
        let (audited, took) = match timeout(DEADLINE, look(&session, &scope, values)).await {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => return error,
            Err(_) => return Failure::Timeout(DEADLINE).into(),
        };
        *attempt = None;
        let rest = took * SHARE;
        let wait = pause.max(rest);
        // Until the next one, should it take as long, and a while.
        let holds_until = Instant::now() + wait + begun.elapsed() + source.lag().stale_after();
        let report = AuditReport { audited, scope, begun, observed_at, holds_until };
        let changes = note(source.name(), standing, &report);
        source.take_audit(report, changes);
        let ended = Instant::now();
        pause = tokio::select! {
            () = sleep(wait) => (pause * SLOWING).min(INTERVAL),
            () = source.audit_hurried() => DISTANCE,
            () = source.audit_wanted() => {
                let rested = sleep(DISTANCE.max(rest).saturating_sub(ended.elapsed()));
                tokio::select! {
                    () = rested => {}
                    () = source.audit_hurried() => {}
                }
                DISTANCE
            }
        };
    }
}

/// Reads and judges. Returns how long that has taken, besides looking at the values of tables, which has bounds of its own.
async fn look(session: &SqlSession, scope: &Scope, values: &mut Values) -> Result<(Audited, Duration), ConnectError> {
    let begun = Instant::now();
    let mut catalog = catalog::read(session).await?;
    values.remember(&mut catalog);
    let large = catalog.relations.len() > JUDGED_HERE;
    let by = scope.clone();
    let (questions, catalog) = judge(large, move || (identity::questions(&catalog, &by), catalog)).await;
    let asking = Instant::now();
    let survey = catalog::survey(session, &catalog, &values.unknown(&questions, asking), BUDGET).await?;
    let survey = values.take(questions, survey, asking);
    let asked = asking.elapsed();
    let by = scope.clone();
    let judged = move || Audited { audit: identity::audit(&catalog, &survey, &by), catalog: Arc::new(catalog), survey };
    let audited = judge(large, judged).await;
    Ok((audited, begun.elapsed().saturating_sub(asked)))
}

/// Does this on another thread where it takes its time.
async fn judge<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
    if !large {
        return work();
    }
    match spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        // The process ends.
        Err(Err(_)) => pending().await,
    }
}

/// What one look does not show: what the values of tables have shown lately, for to look at them costs more than anything
/// else, and a wake asks for what is new; and what consumers streamed that do not stream now.
#[derive(Default)]
struct Values {
    known: BTreeMap<Oid, (Question, Evidence, Instant)>,
    streamed: BTreeMap<SlotName, Vec<String>>,
}

impl Values {
    /// Adds what consumers streamed when they were last seen to. One that fails again and again streams only now and then.
    fn remember(&mut self, catalog: &mut Catalog) {
        let mut before = std::mem::take(&mut self.streamed);
        for consumer in &mut catalog.consumers {
            let known = before.remove(&consumer.slot);
            if consumer.publications.is_none() && !consumer.hidden {
                consumer.publications = known;
            }
            if let Some(publications) = &consumer.publications {
                self.streamed.insert(consumer.slot.clone(), publications.clone());
            }
        }
    }

    /// The questions to which no answer holds.
    fn unknown(&self, questions: &[Question], now: Instant) -> Vec<Question> {
        let holds = |question: &&Question| {
            self.known
                .get(&question.table)
                .is_some_and(|(known, _, at)| known == *question && now.saturating_duration_since(*at) < VALUES_HOLD)
        };
        questions.iter().filter(|question| !holds(question)).cloned().collect()
    }

    /// Takes the answers to those; returns the answers to all.
    fn take(&mut self, questions: Vec<Question>, mut survey: Survey, now: Instant) -> Survey {
        let mut known = std::mem::take(&mut self.known);
        for question in questions {
            let table = question.table;
            let answer = survey.remove(&table).map(|evidence| (question, evidence, now));
            if let Some(answer) = answer.or_else(|| known.remove(&table)) {
                self.known.insert(table, answer);
            }
        }
        self.known.iter().map(|(table, (_, evidence, _))| (*table, evidence.clone())).collect()
    }
}

/// Tells the log what has come and gone; of what was there before, only what breaks something.
fn note(source: &str, standing: &mut Standing, report: &AuditReport) -> Changes {
    let audit = &report.audited.audit;
    let changes = standing.take(audit, &report.scope, report.is_whole());
    match &changes {
        None => warn_of(source, &audit.findings, Severity::Error),
        Some(changes) => {
            warn_of(source, &changes.appeared, Severity::Warning);
            for gone in changes.gone.iter().filter(|finding| finding.severity >= Severity::Warning).take(LOGGED) {
                let (rule, at) = (gone.rule, gone.place());
                tracing::info!(source, rule, at, "a finding has gone");
            }
        }
    }
    changes.unwrap_or_default()
}

/// A line for each finding that is at least this bad.
fn warn_of(source: &str, findings: &[Finding], least: Severity) {
    let bad = || findings.iter().filter(|finding| finding.severity >= least);
    for finding in bad().take(LOGGED) {
        let (rule, severity, at, fix) = (finding.rule, finding.severity, finding.place(), fix(finding));
        tracing::warn!(source, rule, %severity, at, fix, "{}", finding.message);
    }
    let more = bad().count().saturating_sub(LOGGED);
    if more > 0 {
        tracing::warn!(source, more, "there are more findings: see /v1/identity, or walgate check");
    }
}

/// What mends it, in one line.
fn fix(finding: &Finding) -> String {
    match &finding.mend {
        Some(mend) if mend.steps.iter().any(|step| step.run == Run::Template) => {
            "walgate check --format sql lists what there is to choose from".to_owned()
        }
        Some(mend) => mend.to_string().replace('\n', " "),
        None => "none by SQL".to_owned(),
    }
}
