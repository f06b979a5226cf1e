//! `/v1/events`: what changes, as server-sent events, from the moment of the request on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{BoxStream, Stream, StreamExt as _, iter, select, select_all, unfold};
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::View;
use super::problem::Problem;
use super::routes::Filter;
use crate::gate::{Phase, Status};
use crate::identity::Finding;
use crate::keeper::{GateEvent, Keeper};
use crate::lsn::Lsn;
use crate::source::FindingChanges;
use crate::time::PgTimestamp;

/// Between two signs of life while nothing happens, so that whoever relays the stream does not take it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A finding that has come or gone.
#[derive(Serialize)]
struct FindingEvent<'a> {
    source: &'a str,
    /// `appeared` or `gone`.
    change: &'static str,
    #[serde(flatten)]
    finding: &'a Finding,
    at: PgTimestamp,
}

/// Something that has happened to a gate.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(super) enum GateNews {
    /// As `fence`: one was set, or lifted.
    Fence {
        /// The gate's name.
        gate: String,
        /// `cutover`, or `rollback` for the way back.
        phase: Phase,
        /// `set` or `lifted`.
        change: &'static str,
        /// Where it stands, or stood.
        target_lsn: Lsn,
        /// When, by walgate's clock.
        at: PgTimestamp,
    },
    /// As `verdict`: a phase is in another state than when it was last asked about.
    Verdict {
        /// The gate's name.
        gate: String,
        /// Which.
        phase: Phase,
        /// In which state it was; null before it was ever asked about.
        from: Option<Status>,
        /// In which it is.
        to: Status,
        /// Why.
        reason: String,
        /// When, by walgate's clock.
        at: PgTimestamp,
    },
}

/// One event a change, named by its kind. A listener that is too slow is told how many it has `missed`. Findings are of no
/// slot, so who asks for one gets none; nor are gates.
pub(super) async fn events(
    State(view): State<Arc<View>>,
    query: Result<Query<Filter>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let (filter, sources) = Filter::read(query, &view)?;
    let audited = if filter.names_slot() { &[] } else { &sources[..] };
    let findings = select_all(audited.iter().map(|source| received(source.finding_changes())));
    let findings = findings.flat_map(|changes| {
        iter(match changes {
            Ok(changes) => told(&changes),
            Err(missed) => vec![told_missed(missed)],
        })
    });
    let gates: Vec<Arc<Keeper>> = view.gates().into_iter().filter(|_| !filter.names_slot()).collect();
    let is_wanted = |gate: &Keeper| sources.iter().any(|source| source.name() == gate.terms().source);
    let gates = gates.into_iter().filter(|gate| is_wanted(gate)).map(|gate| {
        let name = gate.terms().name.clone();
        received(gate.events()).map(move |event| event.map(|event| told_of_gate(&name, event)))
    });
    let gates = select_all(gates)
        .filter_map(|event| std::future::ready(event.unwrap_or_else(|missed| Some(told_missed(missed)))));
    let consumers = select_all(sources.iter().map(|source| received(source.events())));
    let consumers = consumers.filter_map(move |event| {
        let event = match event {
            Ok(event) if !filter.wants(&event.slot) => None,
            Ok(event) => Event::default().event(event.aspect.kind()).json_data(&event).ok(),
            Err(missed) => Some(told_missed(missed)),
        };
        std::future::ready(event)
    });
    let events = select(select(consumers, findings), gates).map(Ok);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// What comes, or how many were missed.
fn received<T: Clone + Send + 'static>(events: Receiver<T>) -> BoxStream<'static, Result<T, u64>> {
    let next = async |mut events: Receiver<T>| {
        let event = match events.recv().await {
            Ok(event) => Ok(event),
            Err(RecvError::Lagged(missed)) => Err(missed),
            Err(RecvError::Closed) => return None,
        };
        Some((event, events))
    };
    unfold(events, next).boxed()
}

fn told(changes: &FindingChanges) -> Vec<Event> {
    let (source, at) = (&*changes.source, changes.at);
    let appeared = changes.changes.appeared.iter().map(|finding| ("appeared", finding));
    let gone = changes.changes.gone.iter().map(|finding| ("gone", finding));
    let all = appeared.chain(gone).map(|(change, finding)| FindingEvent { source, change, finding, at });
    all.filter_map(|event| Event::default().event("finding").json_data(&event).ok()).collect()
}

fn told_of_gate(gate: &str, event: GateEvent) -> Option<Event> {
    let (gate, at) = (gate.to_owned(), PgTimestamp::now());
    let (kind, news) = match event {
        GateEvent::Fenced(phase, target_lsn) => {
            ("fence", GateNews::Fence { gate, phase, change: "set", target_lsn, at })
        }
        GateEvent::Released(phase, target_lsn) => {
            ("fence", GateNews::Fence { gate, phase, change: "lifted", target_lsn, at })
        }
        GateEvent::Verdict { phase, from, to, reason } => {
            ("verdict", GateNews::Verdict { gate, phase, from, to, reason, at })
        }
    };
    Event::default().event(kind).json_data(&news).ok()
}

fn told_missed(missed: u64) -> Event {
    Event::default().event("missed").data(missed.to_string())
}
