//! Puts a gate's evidence together: what the models of both servers hold at this moment, and what was gathered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::gate::{ConsumerSide, Evidence, Kind, Piece, SlotEvidence, SlotSummary, Standing, Unreplicated};
use crate::ident::{SlotName, TableName};
use crate::identity::{Catalog, Finding};
use crate::lag::{ConsumerReport, Observe, SourceLag};
use crate::lsn::Lsn;
use crate::source::Source;
use crate::source::evidence::unreplicated::unreplicated;
use crate::source::replication::listed_publications;
use crate::wire::command::StartReplication;

/// Where a server is, as the last look at it showed.
pub fn standing(lag: &SourceLag) -> Piece<Standing> {
    let Some((look, at)) = lag.last_look() else {
        return Piece::Unseen(format!("{} cannot be watched at the moment", lag.name()));
    };
    let slots = look.slots.iter().map(|(slot, row)| {
        let retained = row.restart_lsn.map(|restart| look.flushed.bytes_since(restart));
        (slot.clone(), SlotSummary { active: row.active, retained })
    });
    let value = Standing {
        history: look.history,
        in_recovery: look.in_recovery,
        flushed: look.flushed,
        slots: slots.collect(),
    };
    Piece::Seen { value, at, from: "the source's WAL position" }
}

/// What is known of a consumer up to a position; without one, of all that it was sent.
pub fn consumer(lag: &SourceLag, slot: &SlotName, until: Option<Lsn>, report: Option<ConsumerReport>) -> ConsumerSide {
    let seen = match lag.last_look() {
        None => Piece::Unseen(format!("{} cannot be watched at the moment", lag.name())),
        Some((look, at)) => {
            let life = lag.life(slot).copied();
            let value = look.slots.get(slot).cloned().zip(life).map(|(row, life)| SlotEvidence { row, life });
            Piece::Seen { value, at, from: "pg_replication_slots" }
        }
    };
    let stream = match lag.followed(slot, until.unwrap_or(Lsn(u64::MAX))) {
        Some(followed) => match followed.heard {
            Some(at) => Piece::Seen { value: followed, at, from: "its stream" },
            None => Piece::Unseen("nothing has come on its stream yet".into()),
        },
        None => {
            let why =
                lag.hindrance(slot).unwrap_or("its stream does not pass the proxy, and no copy of its slot is read");
            Piece::Unseen(why.to_owned())
        }
    };
    ConsumerSide { slot: seen, stream, report, undecoded: lag.observe() == Observe::Poll, published: Piece::default() }
}

/// What is known of several consumers.
pub fn consumers(
    lag: &SourceLag,
    slots: &[SlotName],
    until: Option<Lsn>,
    now: Instant,
) -> BTreeMap<SlotName, ConsumerSide> {
    let mut reports = lag.reports(now);
    let mut report = |slot: &SlotName| {
        let at = reports.iter().position(|report| report.slot == *slot)?;
        Some(reports.swap_remove(at))
    };
    slots.iter().map(|slot| (slot.clone(), consumer(lag, slot, until, report(slot)))).collect()
}

/// The tables that these publications publish, by the names that subscribers see; what is missing, if one is.
pub(super) fn published(catalog: &Catalog, publications: &[String]) -> Result<BTreeSet<TableName>, String> {
    let mut tables = BTreeSet::new();
    for name in publications {
        let known = catalog.publications.iter().find(|publication| *publication.name == **name);
        let publication = known.ok_or_else(|| format!("there is no publication {name}"))?;
        tables.extend(catalog.published(publication).iter().map(|published| TableName {
            schema: published.shown_as.schema.clone(),
            name: published.shown_as.name.clone(),
        }));
    }
    Ok(tables)
}

/// What was made of a catalog, until there is another: it takes its time where there are many tables, and many ask.
#[derive(Debug, Default)]
pub(super) struct Lists {
    of: Option<Arc<Catalog>>,
    published: BTreeMap<Vec<String>, Made<BTreeSet<TableName>>>,
    left_out: BTreeMap<Option<BTreeSet<String>>, Made<Vec<Unreplicated>>>,
}

/// A list, or what is missing to make it.
type Made<T> = Result<Arc<T>, String>;

impl Lists {
    /// The lists of this catalog.
    fn of(&mut self, catalog: &Arc<Catalog>) -> &mut Lists {
        if self.of.as_ref().is_none_or(|known| !Arc::ptr_eq(known, catalog)) {
            *self = Lists { of: Some(Arc::clone(catalog)), ..Lists::default() };
        }
        self
    }

    fn published(&mut self, catalog: &Arc<Catalog>, names: &[String]) -> Made<BTreeSet<TableName>> {
        let known = self.of(catalog).published.entry(names.to_vec());
        known.or_insert_with(|| published(catalog, names).map(Arc::new)).clone()
    }

    fn left_out(
        &mut self,
        catalog: &Arc<Catalog>,
        kind: Kind,
        publications: Option<BTreeSet<String>>,
    ) -> Made<Vec<Unreplicated>> {
        let known = self.of(catalog).left_out.entry(publications.clone());
        known.or_insert_with(|| unreplicated(catalog, kind, publications.as_ref()).map(Arc::new)).clone()
    }
}

/// Adds what the source's catalog says of each consumer's publications: which tables they publish, what they leave out, and
/// what is wrong with them.
pub(super) fn add_published(
    evidence: &mut Evidence,
    (catalog, findings): (Piece<Arc<Catalog>>, Piece<Vec<Finding>>),
    source: &Source,
    kind: Kind,
    lists: &mut Lists,
) {
    let subscriptions = evidence.target.subscriptions.value();
    let mut all: Option<BTreeSet<String>> = Some(BTreeSet::new());
    for (slot, consumer) in &mut evidence.consumers {
        let subscribed = subscriptions.and_then(|all| all.iter().find(|one| one.slot.as_ref() == Some(slot)));
        let publications = match (kind, subscribed) {
            (Kind::Subscription, Some(subscription)) => Some(subscription.publications.clone()),
            (Kind::Pglogical | Kind::Standby, _) => None,
            _ => source.lag().command(slot).and_then(publication_names),
        };
        consumer.published = catalog.clone().and_then(|catalog| match &publications {
            Some(names) => lists.published(&catalog, names),
            None => Err(format!("the publications of {slot} are not known")),
        });
        all = all.zip(publications).map(|(mut all, publications)| {
            all.extend(publications);
            all
        });
    }
    evidence.source.unreplicated = catalog.and_then(|catalog| lists.left_out(&catalog, kind, all.clone()));
    // Where a consumer's publications are not known, every finding may concern it.
    let concerns = |finding: &Finding| match (&all, &finding.publication) {
        (Some(all), Some(publication)) => all.contains(publication),
        _ => true,
    };
    evidence.source.findings = findings.map(|findings| findings.into_iter().filter(concerns).collect());
}

/// The catalog of the newest audit, and its findings.
pub(super) fn audited(source: &Source, now: Instant) -> (Piece<Arc<Catalog>>, Piece<Vec<Finding>>) {
    const FROM: &str = "the source's catalog";
    match source.audited(now) {
        Err(why) => (Piece::Unseen(why.to_string()), Piece::Unseen(why.to_string())),
        Ok(report) => {
            let catalog = Piece::Seen { value: Arc::clone(&report.audited.catalog), at: report.begun, from: FROM };
            let findings = if report.is_whole() {
                Piece::Seen { value: report.audited.audit.findings.clone(), at: report.begun, from: FROM }
            } else {
                Piece::Unseen("walgate's role may not read all of the source's catalog; walgate check says what".into())
            };
            (catalog, findings)
        }
    }
}

fn publication_names(command: &StartReplication) -> Option<Vec<String>> {
    Some(listed_publications(command.mode.option("publication_names")??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_made_once_of_a_catalog() {
        let (first, second) = (Arc::new(Catalog::default()), Arc::new(Catalog::default()));
        let mut lists = Lists::default();
        let mut of = |catalog| lists.left_out(catalog, Kind::Subscription, None).expect("it may be read");
        let (made, again, other) = (of(&first), of(&first), of(&second));
        assert!(Arc::ptr_eq(&made, &again) && !Arc::ptr_eq(&made, &other));
    }
}
