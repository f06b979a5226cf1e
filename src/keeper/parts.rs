//! Which evidence a phase wants of which server.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::gate::{Kind, Phase, Terms};

/// How long parts count that cost more to read.
pub(super) const SLOW: Duration = Duration::from_secs(2);

/// How long it counts that a replication connection was opened, which takes a walsender for a moment, and consumers need
/// them; and how long a catalog does, which may be large.
const KEPT: Duration = Duration::from_secs(30);

/// A part of the evidence of one server that is had by asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Whether it can be reached at all.
    Reached,
    Activity,
    Subscriptions,
    Receiver,
    Sequences,
    Writable,
    Timeline,
    /// Whether walgate's role opens replication connections, which is found out by [`Part::Timeline`]'s question.
    Role,
    Settings,
    Schema,
    /// Of the side that a rollback takes for the source; that of the gate's source is audited anyway.
    Catalog,
}

impl Part {
    /// How old it may be before it is read anew, where nothing older than `staleness` counts: what costs more, or changes
    /// seldom, only every few seconds.
    pub(super) fn lasts(self, staleness: Duration) -> Duration {
        let lasts = match self {
            Part::Reached | Part::Activity | Part::Subscriptions | Part::Receiver => Duration::ZERO,
            Part::Sequences => Duration::from_secs(1),
            Part::Settings | Part::Schema | Part::Timeline | Part::Writable => SLOW,
            // They count for longer.
            Part::Role | Part::Catalog => return KEPT,
        };
        lasts.min(staleness / 2)
    }

    /// Whether a switch rests on it, so that it is read anew once a fence is set.
    pub(super) fn is_of_switch(self) -> bool {
        !matches!(self, Part::Role | Part::Writable | Part::Settings | Part::Schema)
    }
}

/// What a phase wants of the side that it takes for the source.
pub(super) fn of_source(terms: &Terms, phase: Phase) -> BTreeSet<Part> {
    let database = terms.kind.is_database();
    let mut parts = BTreeSet::from([Part::Reached, Part::Activity]);
    match phase {
        Phase::Preflight => {
            parts.extend([Part::Settings, Part::Role]);
            if database {
                parts.extend([Part::Schema, Part::Sequences]);
            }
        }
        Phase::Cutover | Phase::Rollback => {
            if database {
                parts.insert(Part::Sequences);
            }
            if phase.is_back() {
                parts.insert(Part::Catalog);
            }
        }
        Phase::Post => {
            if terms.reverse.is_some() {
                parts.insert(Part::Subscriptions);
            }
        }
    }
    parts
}

/// What a phase wants of the side that it takes for the target.
pub(super) fn of_target(terms: &Terms, phase: Phase) -> BTreeSet<Part> {
    let mut parts = BTreeSet::from([Part::Reached]);
    match (phase, terms.kind) {
        (_, Kind::Slot | Kind::Zero) => {}
        (Phase::Preflight, Kind::Standby) => parts.extend([Part::Receiver, Part::Role]),
        (Phase::Preflight, _) => {
            parts.extend([Part::Settings, Part::Schema, Part::Sequences, Part::Subscriptions]);
            if terms.reverse.is_some() {
                parts.insert(Part::Role);
            }
        }
        (Phase::Cutover | Phase::Rollback, Kind::Standby) => parts.extend([Part::Receiver, Part::Timeline]),
        (Phase::Cutover | Phase::Rollback, _) => parts.extend([Part::Subscriptions, Part::Sequences]),
        (Phase::Post, Kind::Standby) => parts.extend([Part::Writable, Part::Timeline]),
        (Phase::Post, _) => {
            parts.insert(Part::Writable);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_grows_too_old_to_count_before_it_is_read_anew() {
        const PARTS: [Part; 7] = [
            Part::Activity,
            Part::Subscriptions,
            Part::Sequences,
            Part::Settings,
            Part::Schema,
            Part::Timeline,
            Part::Writable,
        ];
        for seconds in 1..10 {
            let staleness = Duration::from_secs(seconds);
            assert!(PARTS.iter().all(|part| part.lasts(staleness) < staleness), "{staleness:?}");
        }
        // Each takes a walsender.
        assert!(Part::Role.lasts(Duration::from_secs(5)) >= KEPT);
    }
}
