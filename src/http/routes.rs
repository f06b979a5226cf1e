//! The routes and what each answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::View;
use super::events::events;
use super::gates;
use super::identity::identity;
use super::openapi::openapi;
use super::problem::Problem;
use crate::ident::SlotName;
use crate::lag::{LagReport, SlotsReport};
use crate::source::{Health, Source, SourceReport};

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Everybody,
    /// Who shows the token, where one is configured.
    Token,
    /// The same; but without a token only who is on this machine may change anything.
    Writing,
}

/// Every route, with what answers it. `openapi.json` describes these and no others.
fn routes() -> Vec<(&'static str, Access, MethodRouter<Arc<View>>)> {
    use Access::{Everybody, Token, Writing};
    vec![
        ("/livez", Everybody, get(livez)),
        ("/readyz", Everybody, get(readyz)),
        ("/metrics", Everybody, get(metrics)),
        ("/openapi.json", Everybody, get(openapi)),
        ("/v1/sources", Token, get(sources)),
        ("/v1/lag", Token, get(lag)),
        ("/v1/slots", Token, get(slots)),
        ("/v1/identity", Token, get(identity)),
        ("/v1/gates", Token, get(gates::gates)),
        // Flagger's webhook posts; what it posts does not matter.
        ("/v1/gates/{gate}/check", Token, get(gates::check).post(gates::check)),
        ("/v1/gates/{gate}/fence", Writing, get(gates::fence).post(gates::set_fence).delete(gates::lift_fence)),
        ("/v1/gates/{gate}/receipt", Token, get(gates::receipt)),
        ("/v1/events", Token, get(events)),
    ]
}

/// Answers for a listener at this address.
pub(super) fn router(view: Arc<View>, address: SocketAddr) -> Router {
    let mut router = Router::new();
    for (path, access, methods) in routes() {
        let methods = match access {
            Access::Everybody => methods,
            Access::Token | Access::Writing => {
                let changes_are_open = access == Access::Token || address.ip().is_loopback();
                methods.route_layer(from_fn_with_state(Door { view: Arc::clone(&view), changes_are_open }, admit))
            }
        };
        router = router.route(path, methods);
    }
    router
        .fallback(async |uri: Uri| Problem::new(StatusCode::NOT_FOUND, format!("there is no {}", uri.path())))
        .method_not_allowed_fallback(async |method: Method| {
            let detail = format!("{method} does nothing here; see the header Allow");
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .with_state(view)
}

/// What is in front of a route.
#[derive(Clone)]
struct Door {
    view: Arc<View>,
    /// Whether who shows no token, where none is configured, may change something.
    changes_are_open: bool,
}

/// Lets a request pass that shows the token, where one is configured. Answers are of one moment, and not to be kept.
async fn admit(State(door): State<Door>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(bearer);
    // Digests, so that the time that it takes to compare them tells nothing.
    let digest = |text: &[u8]| Sha256::digest(text);
    let mut response = match door.view.token() {
        Some(token) if shown.map(digest) != Some(digest(token.expose().as_bytes())) => {
            let detail = match shown {
                Some(_) => "the token in the header Authorization is not the one of http.token_file",
                None => "this needs the header Authorization: Bearer <token>",
            };
            let problem = Problem::new(StatusCode::UNAUTHORIZED, detail);
            ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
        }
        None if !door.changes_are_open && !request.method().is_safe() => {
            let detail = "without a token nothing can be changed from other machines: configure http.token_file, or let \
                          HTTP listen at 127.0.0.1";
            Problem::new(StatusCode::FORBIDDEN, detail).into_response()
        }
        _ => next.run(request).await,
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The token of a header: the word before it may be spelled in any case (RFC 9110, section 11.1).
fn bearer(shown: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = shown.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(view): State<Arc<View>>) -> Result<&'static str, Problem> {
    if view.draining.load(Ordering::Relaxed) {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining: no new clients are accepted"));
    }
    let reasons: Vec<String> = view
        .sources()
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
    let (sources, gates) = (view.sources(), view.gates());
    let text = view.metrics.render(sources.iter().map(Arc::as_ref), gates.iter().map(Arc::as_ref), Instant::now());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Which sources and consumers are asked for: all, without it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    source: Option<String>,
    slot: Option<String>,
}

impl Filter {
    /// The query, if it holds nothing else and names a source that there is; and the sources that it asks for.
    pub(super) fn read(
        query: Result<Query<Filter>, QueryRejection>,
        view: &View,
    ) -> Result<(Filter, Vec<Arc<Source>>), Problem> {
        let Query(filter) = query.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
        let sources = sources_named(filter.source.as_deref(), view)?;
        Ok((filter, sources))
    }

    pub(super) fn names_slot(&self) -> bool {
        self.slot.is_some()
    }

    pub(super) fn wants(&self, slot: &SlotName) -> bool {
        self.slot.as_ref().is_none_or(|wanted| slot.as_str() == wanted)
    }
}

/// The source of this name, or all of them.
pub(super) fn sources_named(wanted: Option<&str>, view: &View) -> Result<Vec<Arc<Source>>, Problem> {
    let mut sources = view.sources();
    if let Some(wanted) = wanted {
        let known: Vec<String> = sources.iter().map(|source| source.name().to_owned()).collect();
        sources.retain(|source| source.name() == wanted);
        if sources.is_empty() {
            let detail = format!("there is no source {wanted:?}; there is {}", known.join(", "));
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
    }
    Ok(sources)
}

type Wanted = Result<Query<Filter>, QueryRejection>;

async fn lag(State(view): State<Arc<View>>, query: Wanted) -> Result<Json<LagReport>, Problem> {
    let (filter, sources) = Filter::read(query, &view)?;
    let now = Instant::now();
    let reports = sources.iter().flat_map(|source| source.lag().reports(now));
    Ok(Json(LagReport { consumers: reports.filter(|report| filter.wants(&report.slot)).collect() }))
}

async fn slots(State(view): State<Arc<View>>, query: Wanted) -> Result<Json<SlotsReport>, Problem> {
    let (filter, sources) = Filter::read(query, &view)?;
    let now = Instant::now();
    let slots = sources.iter().flat_map(|source| source.lag().slots(now));
    Ok(Json(SlotsReport { slots: slots.filter(|slot| filter.wants(&slot.slot)).collect() }))
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct SourcesReport {
    sources: Vec<SourceReport>,
}

async fn sources(State(view): State<Arc<View>>, query: Wanted) -> Result<Json<SourcesReport>, Problem> {
    let (filter, sources) = Filter::read(query, &view)?;
    if filter.slot.is_some() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "slot: a source is more than one slot; ask /v1/slots"));
    }
    let now = Instant::now();
    Ok(Json(SourcesReport { sources: sources.iter().map(|source| source.report(now)).collect() }))
}

#[cfg(test)]
pub(super) mod tests {
    /// The paths of all routes.
    pub(in super::super) fn paths() -> Vec<&'static str> {
        super::routes().into_iter().map(|(path, ..)| path).collect()
    }
}
