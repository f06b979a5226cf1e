//! The routes and what each answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::View;
use super::problem::Problem;
use crate::lag::ConsumerReport;
use crate::source::Health;

pub(super) fn router(view: Arc<View>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/lag", get(lag))
        .fallback(async |uri: Uri| Problem::new(StatusCode::NOT_FOUND, format!("there is no {}", uri.path())))
        .method_not_allowed_fallback(async |method: Method| {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} does nothing here; use GET"))
        })
        .with_state(view)
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(view): State<Arc<View>>) -> Result<&'static str, Problem> {
    if view.draining.load(Ordering::Relaxed) {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining: no new clients are accepted"));
    }
    let reasons: Vec<String> = view
        .sources
        .iter()
        .filter_map(|source| match source.health() {
            Health::Reached => None,
            Health::Untried => Some(format!("source {} has not been reached yet", source.name())),
            Health::Unreachable { reason, .. } => Some(format!("source {}: {reason}", source.name())),
        })
        .collect();
    if reasons.is_empty() { Ok("ok\n") } else { Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, reasons.join("; "))) }
}

async fn metrics(State(view): State<Arc<View>>) -> impl IntoResponse {
    let text = view.metrics.render(view.sources.iter().map(Arc::as_ref), Instant::now());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LagFilter {
    source: Option<String>,
    slot: Option<String>,
}

#[derive(Serialize)]
struct LagAnswer {
    consumers: Vec<ConsumerReport>,
}

async fn lag(
    State(view): State<Arc<View>>,
    filter: Result<Query<LagFilter>, QueryRejection>,
) -> Result<Json<LagAnswer>, Problem> {
    let Query(filter) = filter.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    if let Some(wanted) = &filter.source
        && !view.sources.iter().any(|source| source.name() == wanted)
    {
        let known: Vec<&str> = view.sources.iter().map(|source| source.name()).collect();
        let detail = format!("there is no source {wanted:?}; there is {}", known.join(", "));
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    let now = Instant::now();
    let consumers = view
        .sources
        .iter()
        .filter(|source| filter.source.as_ref().is_none_or(|wanted| source.name() == wanted))
        .flat_map(|source| source.lag().reports(now))
        .filter(|report| filter.slot.as_ref().is_none_or(|wanted| report.slot.as_str() == wanted))
        .collect();
    Ok(Json(LagAnswer { consumers }))
}
