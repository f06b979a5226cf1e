//! What has changed from one look at a source to the next.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ident::SlotName;
use crate::time::PgTimestamp;

use super::report::ConsumerReport;

/// A change of one consumer. Of `from` and `to` one is null where there was or is nothing to name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// The source's name.
    pub source: String,
    /// The consumer's slot.
    pub slot: SlotName,
    /// What has changed.
    pub aspect: Aspect,
    /// What it was.
    pub from: Option<String>,
    /// What it is now.
    pub to: Option<String>,
    /// When the look was taken, by the server's clock.
    pub at: PgTimestamp,
}

/// What of a consumer can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Its slot is there: `present`.
    Slot,
    /// Somebody reads the slot: `true` or `false`.
    Active,
    /// The slot's `wal_status`.
    WalStatus,
    /// How far the figures can be trusted.
    State,
    /// Where the delay is.
    Stage,
}

impl Aspect {
    /// The kind of event that it makes, as server-sent events name it.
    pub fn kind(self) -> &'static str {
        match self {
            Aspect::Slot | Aspect::Active | Aspect::WalStatus => "slot",
            Aspect::State => "state",
            Aspect::Stage => "stage",
        }
    }
}

/// What each consumer was like at the last look.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// `None` before the first look: what was there before is no news.
    known: Option<BTreeMap<(SlotName, Aspect), String>>,
}

impl Conditions {
    /// Takes what consumers are like now; returns what has changed.
    pub(super) fn take(&mut self, reports: &[ConsumerReport], source: &str, at: PgTimestamp) -> Vec<Event> {
        let now: BTreeMap<_, _> = reports.iter().flat_map(aspects).collect();
        let Some(before) = self.known.replace(now.clone()) else { return Vec::new() };
        let event = |(slot, aspect): &(SlotName, Aspect), from: Option<&String>, to: Option<&String>| Event {
            source: source.to_owned(),
            slot: slot.clone(),
            aspect: *aspect,
            from: from.cloned(),
            to: to.cloned(),
            at,
        };
        let gone =
            before.iter().filter(|(key, _)| !now.contains_key(key)).map(|(key, was)| event(key, Some(was), None));
        let new = now
            .iter()
            .map(|(key, is)| (key, before.get(key), is))
            .filter(|(_, was, is)| *was != Some(*is))
            .map(|(key, was, is)| event(key, was, Some(is)));
        gone.chain(new).collect()
    }
}

fn aspects(report: &ConsumerReport) -> impl Iterator<Item = ((SlotName, Aspect), String)> {
    let aspects = [
        (Aspect::Slot, Some("present".to_owned())),
        (Aspect::Active, report.active.map(|active| active.to_string())),
        (Aspect::WalStatus, report.wal_status.clone()),
        (Aspect::State, Some(report.state.as_str().to_owned())),
        (Aspect::Stage, report.stage.map(|stage| stage.as_str().to_owned())),
    ];
    let slot = report.slot.clone();
    aspects.into_iter().filter_map(move |(aspect, value)| Some(((slot.clone(), aspect), value?)))
}
