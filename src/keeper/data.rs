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
    seen: Arc<Mutex<BTreeMap<Way, Compared>>>,
    /// The last one that was begun. It ends with the keeper.
    under_way: Mutex<BTreeMap<Way, Begun>>,
}

/// What was compared, for the gate as it was then.
type Compared = (Arc<Terms>, Piece<DataEvidence>);

/// A comparison that was begun.
struct Begun {
    /// For the gate as it was then.
    terms: Arc<Terms>,
    /// Under which fence.
    under: Instant,
    at: Instant,
    task: AbortOnDropHandle<()>,
}

/// Between two attempts to compare.
const AGAIN: Duration = Duration::from_secs(5);

impl Comparing {
    /// What the last comparison has shown for this gate as it is; before the first, that nothing was compared under any fence.
    pub(super) fn seen(&self, way: Way, terms: &Arc<Terms>) -> Piece<DataEvidence> {
        let none =
            || Piece::Seen { value: DataEvidence::default(), at: Instant::now(), from: "the data of both sides" };
        let seen = lock(&self.seen);
        seen.get(&way).filter(|(of, _)| Arc::ptr_eq(of, terms)).map_or_else(none, |(_, piece)| piece.clone())
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
        let done = self.seen(way, terms).value().is_some_and(|data| data.under == Some(under));
        let is_tried = |begun: &Begun| {
            (begun.under == under && Arc::ptr_eq(&begun.terms, terms))
                && (!begun.task.is_finished() || begun.at.elapsed() < AGAIN)
        };
        if done || under_way.get(&way).is_some_and(is_tried) {
            return;
        }
        let Some(options) = Options::of(terms, phase) else { return };
        let seen = Arc::clone(&self.seen);
        let of = Arc::clone(terms);
        let compare = async move {
            let gate = &of.name;
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
            lock(&seen).insert(way, (of, piece));
        };
        let task = AbortOnDropHandle::new(tokio::spawn(compare));
        under_way.insert(way, Begun { terms: Arc::clone(terms), under, at: Instant::now(), task });
    }
}
