//! `/v1/events`: what changes, as server-sent events, from the moment of the request on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{Stream, StreamExt as _, select_all, unfold};
use tokio::sync::broadcast::error::RecvError;

use super::View;
use super::problem::Problem;
use super::routes::Filter;

/// Between two signs of life while nothing happens, so that whoever relays the stream does not take it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One event a change, named by its kind. A listener that is too slow is told how many it has `missed`.
pub(super) async fn events(
    State(view): State<Arc<View>>,
    query: Result<Query<Filter>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let (filter, sources) = Filter::read(query, &view)?;
    let streams = sources.iter().map(|source| {
        let next = async |mut events: tokio::sync::broadcast::Receiver<crate::lag::Event>| {
            let event = match events.recv().await {
                Ok(event) => Ok(event),
                Err(RecvError::Lagged(missed)) => Err(missed),
                Err(RecvError::Closed) => return None,
            };
            Some((event, events))
        };
        unfold(source.events(), next).boxed()
    });
    let events = select_all(streams).filter_map(move |event| {
        let event = match event {
            Ok(event) if !filter.wants(&event.slot) => None,
            Ok(event) => Event::default().event(event.aspect.kind()).json_data(&event).ok(),
            Err(missed) => Some(Event::default().event("missed").data(missed.to_string())),
        };
        std::future::ready(event.map(Ok))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
