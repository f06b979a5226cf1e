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
use crate::identity::Finding;
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

/// One event a change, named by its kind. A listener that is too slow is told how many it has `missed`. Findings are of no
/// slot, so who asks for one gets none.
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
    let consumers = select_all(sources.iter().map(|source| received(source.events())));
    let consumers = consumers.filter_map(move |event| {
        let event = match event {
            Ok(event) if !filter.wants(&event.slot) => None,
            Ok(event) => Event::default().event(event.aspect.kind()).json_data(&event).ok(),
            Err(missed) => Some(told_missed(missed)),
        };
        std::future::ready(event)
    });
    let events = select(consumers, findings).map(Ok);
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

fn told_missed(missed: u64) -> Event {
    Event::default().event("missed").data(missed.to_string())
}
