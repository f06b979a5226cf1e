//! `/v1/identity`: the findings of the newest audits. Where a source was not looked at the answer is an error, never that
//! nothing was found.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::View;
use super::problem::Problem;
use super::routes::sources_named;
use crate::identity::{self, Finding, RuleSet, Scope};
use crate::time::PgTimestamp;

/// Which source is asked for, and whose rules: all, and those of the configuration, without it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    source: Option<String>,
    /// With commas between them.
    r#for: Option<String>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct IdentityReport {
    findings: Vec<SourceFinding>,
    /// How many are published, and were looked at; null where that could not be seen of a source.
    tables: Option<usize>,
    /// When the oldest of the audits was begun.
    observed_at: Option<PgTimestamp>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SourceFinding {
    source: String,
    #[serde(flatten)]
    finding: Finding,
}

pub(super) async fn identity(
    State(view): State<Arc<View>>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<IdentityReport>, Problem> {
    let Query(wanted) = query.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let refused = |error| Problem::new(StatusCode::BAD_REQUEST, format!("for: {error}"));
    let rule_sets = wanted.r#for.map(|sets| sets.split(',').map(str::parse::<RuleSet>).collect::<Result<_, _>>());
    let rule_sets = rule_sets.transpose().map_err(refused)?;
    let mut answer = IdentityReport { findings: Vec::new(), tables: Some(0), observed_at: None };
    for source in sources_named(wanted.source.as_deref(), &view)? {
        let report = source.audited(Instant::now());
        let report = report.map_err(|why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why.to_string()))?;
        answer.observed_at = Some(answer.observed_at.map_or(report.observed_at, |at| at.min(report.observed_at)));
        let audit = match &rule_sets {
            None => report.audited.audit.clone(),
            // Not on the thread that relays: a large catalog takes its time.
            Some(rule_sets) => {
                let scope = Scope { rule_sets: Clone::clone(rule_sets), ..report.scope.clone() };
                let audited = Arc::clone(&report);
                let judged =
                    spawn_blocking(move || identity::audit(&audited.audited.catalog, &audited.audited.survey, &scope));
                judged.await.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
            }
        };
        answer.tables = answer.tables.zip(audit.tables).map(|(sum, tables)| sum + tables);
        let name = || source.name().to_owned();
        answer.findings.extend(audit.findings.into_iter().map(|finding| SourceFinding { source: name(), finding }));
    }
    Ok(Json(answer))
}
