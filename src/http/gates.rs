//! `/v1/gates`: what a gate answers, and its fence.
//!
//! The status says it all for who branches by it alone: 200 pass, 503 not yet or not known, 409 no. A parameter that is
//! not known, is there twice, or does not parse is an error: a limit that is not understood must not count as none.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::View;
use super::problem::Problem;
use crate::gate::{Asked, Check, Fence, Kind, Phase, Receipt, Refusal, Status};
use crate::ident::SlotName;
use crate::keeper::{Answer, FenceError, Keeper};
use crate::lag::ConsumerReport;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;
use crate::units;

/// The longest that an answer is held.
const MAX_WAIT: Duration = Duration::from_secs(60 * 60);

/// What is asked of a check, as it was spelled.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asks {
    phase: Option<String>,
    wait: Option<String>,
    max_lag: Option<String>,
    max_age: Option<String>,
    target_lsn: Option<String>,
    status: Option<String>,
}

/// Of which fence a request is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Side {
    phase: Option<String>,
}

/// Nothing can be asked there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// `/v1/gates`
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct GatesReport {
    /// In the order of the configuration.
    gates: Vec<GateReport>,
}

/// A gate as it was configured, and how it stands.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct GateReport {
    /// Its name.
    gate: String,
    /// The source's name.
    source: String,
    /// The slots of the consumers that must have everything.
    consumers: Vec<SlotName>,
    /// What the target is.
    target: Kind,
    /// The fences that stand.
    fences: Vec<FenceReport>,
    /// How each phase stood when it was last asked about.
    states: BTreeMap<&'static str, Status>,
}

/// A fence that stands.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct FenceReport {
    /// The gate's name.
    gate: String,
    /// What it is for: `cutover`, or `rollback` for the way back.
    phase: Phase,
    #[serde(flatten)]
    fence: Fence,
}

/// What a gate answers.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct CheckReport {
    /// Whether it passes.
    ok: bool,
    /// The same, where Argo Rollouts looks for it.
    data: Data,
    /// The gate's name.
    gate: String,
    /// What was asked.
    phase: Phase,
    /// `pass`, `wait` (time may cure it), `fail` (a person must act) or `unknown` (there is no fresh evidence).
    #[cfg_attr(test, schemars(extend("not" = { "const": "skip" })))]
    state: Status,
    /// One line for a person: what is in the way.
    reason: String,
    /// The position that consumers must have passed.
    target_lsn: Option<Lsn>,
    /// Every check of the phase.
    checks: Vec<Check>,
    /// The consumers that must have everything, as /v1/lag shows them.
    consumers: Vec<ConsumerReport>,
    /// When the oldest of the evidence was seen.
    observed_at: PgTimestamp,
    /// The proof of a pass.
    receipt: Option<Receipt>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Data {
    ok: bool,
}

type Named = Result<Path<String>, PathRejection>;

pub(super) async fn gates(
    State(view): State<Arc<View>>,
    query: Result<Query<Nothing>, QueryRejection>,
) -> Result<Json<GatesReport>, Problem> {
    query.map_err(|rejection| bad(rejection.body_text()))?;
    Ok(Json(GatesReport { gates: view.gates().iter().map(|gate| report(gate)).collect() }))
}

pub(super) async fn check(
    State(view): State<Arc<View>>,
    gate: Named,
    query: Result<Query<Asks>, QueryRejection>,
) -> Result<Response, Problem> {
    let gate = named(gate, &view)?;
    let Query(asks) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let asked = Asked {
        phase: parsed("phase", asks.phase, |text| text.parse())?.unwrap_or(Phase::Cutover),
        max_lag: parsed("max_lag", asks.max_lag, |text| text.parse())?,
        max_age: parsed("max_age", asks.max_age, units::duration)?,
        target_lsn: parsed("target_lsn", asks.target_lsn, position)?,
    };
    heeded(&asked)?;
    let wait = parsed("wait", asks.wait, wait)?;
    let status = parsed("status", asks.status, |text| {
        if text == "200" { Ok(StatusCode::OK) } else { Err("only 200 can be asked for") }
    })?;
    let answer = match wait {
        Some(wait) => gate.wait(asked, Instant::now() + wait).await,
        None => gate.check(asked).await,
    };
    let Answer { verdict, consumers, observed_at, receipt } = Arc::unwrap_or_clone(answer);
    let ok = verdict.state == Status::Pass;
    let status = status.unwrap_or(match verdict.state {
        Status::Pass => StatusCode::OK,
        Status::Fail => StatusCode::CONFLICT,
        Status::Wait | Status::Unknown | Status::Skip => StatusCode::SERVICE_UNAVAILABLE,
    });
    let report = CheckReport {
        ok,
        data: Data { ok },
        gate: gate.terms().name.clone(),
        phase: asked.phase,
        state: verdict.state,
        reason: verdict.reason,
        target_lsn: verdict.target_lsn,
        checks: verdict.checks,
        consumers,
        observed_at,
        receipt: receipt.filter(|_| ok),
    };
    Ok(match status {
        StatusCode::SERVICE_UNAVAILABLE => (status, [(header::RETRY_AFTER, "1")], Json(report)).into_response(),
        status => (status, Json(report)).into_response(),
    })
}

pub(super) async fn fence(
    State(view): State<Arc<View>>,
    gate: Named,
    query: Result<Query<Side>, QueryRejection>,
) -> Result<Json<FenceReport>, Problem> {
    let (gate, phase) = (named(gate, &view)?, side(query)?);
    let fence = gate.standing(phase).ok_or_else(|| none_stands(&gate, phase))?;
    Ok(Json(FenceReport { gate: gate.terms().name.clone(), phase, fence }))
}

pub(super) async fn set_fence(
    State(view): State<Arc<View>>,
    gate: Named,
    query: Result<Query<Side>, QueryRejection>,
) -> Result<Response, Problem> {
    let (gate, phase) = (named(gate, &view)?, side(query)?);
    let name = gate.terms().name.clone();
    let fence = gate.fence(phase).await.map_err(|error| {
        let detail = error.to_string();
        let conflict = || Problem::new(StatusCode::CONFLICT, &*detail);
        match error {
            FenceError::Standing(fence) => conflict().with_fence(fence.target_lsn),
            FenceError::Refused(Refusal::Writers(writers)) => conflict().with_writers(writers),
            FenceError::Refused(_) | FenceError::Elsewhere(_) | FenceError::NoWayBack => conflict(),
            FenceError::Unreachable { .. } => Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail),
        }
    })?;
    let location = match phase {
        Phase::Rollback => format!("/v1/gates/{name}/fence?phase=rollback"),
        _ => format!("/v1/gates/{name}/fence"),
    };
    let report = FenceReport { gate: name, phase, fence };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(report)).into_response())
}

pub(super) async fn lift_fence(
    State(view): State<Arc<View>>,
    gate: Named,
    query: Result<Query<Side>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let (gate, phase) = (named(gate, &view)?, side(query)?);
    if gate.release(phase).is_some() { Ok(StatusCode::NO_CONTENT) } else { Err(none_stands(&gate, phase)) }
}

pub(super) async fn receipt(
    State(view): State<Arc<View>>,
    gate: Named,
    query: Result<Query<Nothing>, QueryRejection>,
) -> Result<Json<Receipt>, Problem> {
    let gate = named(gate, &view)?;
    query.map_err(|rejection| bad(rejection.body_text()))?;
    let none = || {
        let detail =
            format!("gate {} has not passed since walgate started, or its fence holds no longer", gate.terms().name);
        Problem::new(StatusCode::NOT_FOUND, detail)
    };
    gate.receipt().map(Json).ok_or_else(none)
}

fn report(gate: &Keeper) -> GateReport {
    let terms = gate.terms();
    let fence = |phase| {
        let fence = gate.standing(phase)?;
        Some(FenceReport { gate: terms.name.clone(), phase, fence })
    };
    GateReport {
        gate: terms.name.clone(),
        source: terms.source.clone(),
        consumers: terms.consumers.clone(),
        target: terms.kind,
        fences: [Phase::Cutover, Phase::Rollback].into_iter().filter_map(fence).collect(),
        states: gate.states().into_iter().map(|(phase, state)| (phase.as_str(), state)).collect(),
    }
}

/// The gate that a path names.
fn named(path: Named, view: &View) -> Result<Arc<Keeper>, Problem> {
    let Path(name) = path.map_err(|rejection| bad(rejection.body_text()))?;
    let gates = view.gates();
    gates.iter().find(|gate| gate.terms().name == name).cloned().ok_or_else(|| {
        let known = gates.iter().map(|gate| gate.terms().name.clone()).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "no [[gate]] is configured".to_owned() } else { format!("there is {known}") };
        Problem::new(StatusCode::NOT_FOUND, format!("there is no gate {name:?}; {known}"))
    })
}

/// Of the two fences that a gate can have the one that is meant.
fn side(query: Result<Query<Side>, QueryRejection>) -> Result<Phase, Problem> {
    let Query(side) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let phase = parsed("phase", side.phase, |text| match text.parse() {
        Ok(phase @ (Phase::Cutover | Phase::Rollback)) => Ok(phase),
        _ => Err("expected cutover or rollback: no other phase has a fence"),
    })?;
    Ok(phase.unwrap_or(Phase::Cutover))
}

fn parsed<T, E: Display>(
    name: &str,
    text: Option<String>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Problem> {
    text.as_deref().map(parse).transpose().map_err(|error| bad(format!("{name}: {error}")))
}

/// What the phase would not look at is refused: who names a limit counts on it.
fn heeded(asked: &Asked) -> Result<(), Problem> {
    let no_lag = "the phase post measures no lag: its consumers are to be gone";
    match asked.phase {
        Phase::Preflight | Phase::Post if asked.target_lsn.is_some() => Err(bad(
            "target_lsn: only cutover and rollback ask whether everything before a position has arrived".into(),
        )),
        Phase::Post if asked.max_lag.is_some() => Err(bad(format!("max_lag: {no_lag}"))),
        Phase::Post if asked.max_age.is_some() => Err(bad(format!("max_age: {no_lag}"))),
        _ => Ok(()),
    }
}

fn position(text: &str) -> Result<Lsn, String> {
    let lsn: Lsn = text.parse().map_err(|error| format!("{error}"))?;
    lsn.valid().ok_or_else(|| "0/0 is no position".to_owned())
}

fn wait(text: &str) -> Result<Duration, String> {
    match units::duration(text) {
        Ok(wait) if wait > MAX_WAIT => Err("at most 1h; ask again then".into()),
        wait => wait.map_err(|error| error.to_string()),
    }
}

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn none_stands(gate: &Keeper, phase: Phase) -> Problem {
    let detail = format!(
        "no fence stands for the {phase} of {}; one that was set before walgate started, or for other servers or slots, is \
         forgotten",
        gate.terms().name
    );
    Problem::new(StatusCode::NOT_FOUND, detail)
}
