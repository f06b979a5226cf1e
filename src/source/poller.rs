//! Looks at a source once a second, and when asked to, through one SQL session of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::{ConnectError, Failure};
use super::look::{DEADLINE, Looker};
use super::watched::{Health, Source};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks while slots of consumers that a gate names come or change hands, and for how long after that: a look
/// apart, one that was dropped and created again may not be told from the same.
const RESTLESS: Duration = Duration::from_millis(100);
const RESTLESS_FOR: Duration = Duration::from_secs(5);

/// The first wait after a failed connection, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Looks until `stop`. A lost or failed connection is tried again with growing pauses.
pub(super) async fn poll(source: &Arc<Source>, stop: &CancellationToken) {
    stop.run_until_cancelled(async {
        let mut pause = BACKOFF.0;
        loop {
            let error = watch(source, &mut pause).await;
            source.lag().lost();
            let known = source.health();
            source.reached(Err(&error));
            counter!("walgate_errors_total", "source" => source.name().to_owned(), "kind" => error.kind()).increment(1);
            if source.health() != known {
                tracing::warn!(source = source.name(), %error, "source cannot be watched; trying again");
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    })
    .await;
}

/// Looks through one session until it fails. The pause before the next session starts anew once a look succeeds.
async fn watch(source: &Source, pause: &mut Duration) -> ConnectError {
    let mut looker = match open(source).await {
        Ok(looker) => looker,
        Err(error) => return error,
    };
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    let mut holders = BTreeMap::new();
    let mut restless_until = None;
    loop {
        let is_restless = restless_until.is_some_and(|until| Instant::now() < until);
        tokio::select! {
            _ = tick.tick() => {}
            () = source.look_wanted() => {}
            () = sleep(RESTLESS), if is_restless => {}
        }
        // As old as when it was asked for.
        let begun = Instant::now();
        let outcome = timeout(DEADLINE, async {
            let seen = looker.look().await?;
            if first {
                let rights = looker.rights().await?;
                source.set_remarks(looker.remarks(rights));
                let written = looker.written(rights, seen.history, seen.flushed).await?;
                source.lag().date(seen.history, written);
            }
            Ok(seen)
        });
        match outcome.await {
            Ok(Ok(seen)) => {
                let lag = source.lag();
                let kept = seen.slots.iter().filter(|(slot, _)| lag.keeps_copy(slot));
                let now: BTreeMap<_, _> = kept.map(|(slot, row)| (slot.clone(), row.active_pid)).collect();
                drop(lag);
                if holders != now {
                    (holders, restless_until) = (now, Some(begun + RESTLESS_FOR));
                }
                source.take_look(seen, begun);
                source.reached(Ok(()));
                *pause = BACKOFF.0;
                first = false;
            }
            Ok(Err(error)) => return error,
            Err(_) => return Failure::Timeout(DEADLINE).into(),
        }
    }
}

async fn open(source: &Source) -> Result<Looker, ConnectError> {
    let session = source.connector().sql().await?;
    if source.health() != Health::Reached {
        tracing::info!(source = source.name(), host = %session.host(), "source reached");
    }
    source.choose(session.host().clone());
    source.note_version(session.server_version());
    timeout(DEADLINE, Looker::new(session)).await.unwrap_or(Err(Failure::Timeout(DEADLINE).into()))
}
