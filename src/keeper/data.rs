//! Compares the data of both sides once for each fence, in the background, when everything else passes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use super::Way;
use crate::gate::{DataEvidence, Phase, Piece, Terms};
use crate::source::{Connector, lock};
use crate::verify::{self, Options};

/// What was compared, and what is being.
#[derive(Default)]
pub(super) struct Comparing {
    seen: Arc<Mutex<BTreeMap<Way, Piece<DataEvidence>>>>,
    /// The last one that was begun. It ends with the keeper.
    under_way: Mutex<BTreeMap<Way, Begun>>,
}

/// A comparison that was begun.
struct Begun {
    /// Under which fence.
    under: Instant,
    at: Instant,
    task: AbortOnDropHandle<()>,
}

/// Between two attempts to compare.
const AGAIN: Duration = Duration::from_secs(5);

impl Comparing {
    /// What the last comparison has shown; before the first, that nothing was compared under any fence.
    pub(super) fn seen(&self, way: Way) -> Piece<DataEvidence> {
        let none =
            || Piece::Seen { value: DataEvidence::default(), at: Instant::now(), from: "the data of both sides" };
        lock(&self.seen).get(&way).cloned().unwrap_or_else(none)
    }

    /// Begins one, unless it was begun under this fence. One that could not be done is begun anew when it is asked for.
    pub(super) fn begin(
        &self,
        terms: &Arc<Terms>,
        (phase, way): (Phase, Way),
        under: Instant,
        (source, target): (Connector, Connector),
    ) {
        let mut under_way = lock(&self.under_way);
        let done = self.seen(way).value().is_some_and(|data| data.under == Some(under));
        let is_tried =
            |begun: &Begun| begun.under == under && (!begun.task.is_finished() || begun.at.elapsed() < AGAIN);
        if done || under_way.get(&way).is_some_and(is_tried) {
            return;
        }
        let Some(options) = Options::of(terms, phase) else { return };
        let seen = Arc::clone(&self.seen);
        let gate = terms.name.clone();
        let compare = async move {
            let at = Instant::now();
            tracing::info!(gate, "comparing the data of both sides");
            let outcome = verify::run(&source, &target, &options, &|_| {}).await;
            let piece = match outcome {
                Ok(report) => {
                    tracing::info!(gate, outcome = ?report.outcome, "data compared");
                    Piece::Seen { value: report.evidence(Some(under)), at, from: "the data of both sides" }
                }
                Err(error) => Piece::Unseen(format!("the data cannot be compared: {error}")),
            };
            lock(&seen).insert(way, piece);
        };
        let task = AbortOnDropHandle::new(tokio::spawn(compare));
        under_way.insert(way, Begun { under, at: Instant::now(), task });
    }
}
