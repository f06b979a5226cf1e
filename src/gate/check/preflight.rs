//! May we start: everything that a cutover will need is there and steady.

use std::fmt::Display;
use std::time::Duration;

use super::post::unreplicated;
use super::{Finds, Outcome, Rule, consumer, cutover, first_of};
use crate::gate::case::Case;
use crate::gate::evidence::{Column, Settings, Table};
use crate::gate::sequence::{Standing, compare};
use crate::gate::settling::most;
use crate::gate::terms::Kind;
use crate::ident::{Identifier, Literal, SlotName};
use crate::identity::Severity;
use crate::units::{Size, age, size};

pub(super) const RULES: &[Rule] = &[
    Rule { id: "wal-level", expected: "wal_level is logical where changes are decoded", check: wal_level },
    Rule { id: "capacity", expected: "free slots, walsenders and workers for what will be added", check: capacity },
    Rule { id: "role", expected: "walgate's role opens replication connections", check: role },
    Rule { id: "identity", expected: "no error-level finding for the consumers' publications", check: identity },
    Rule { id: "slot", expected: "one healthy slot in use for every consumer", check: consumer::slot },
    Rule { id: "lag", expected: "within the limits for as long as settle, without a break", check: lag },
    Rule {
        id: "subscription",
        expected: "every subscription runs, with all its tables and no new error",
        check: consumer::subscription,
    },
    Rule { id: "transactions", expected: "no old transaction, no prepared one, no DDL under way", check: transactions },
    Rule {
        id: "schema",
        expected: "the same tables, columns and types, and no stricter constraint on the target",
        check: schema,
    },
    Rule { id: "sequences", expected: "the same sequences on both sides", check: sequences },
    Rule {
        id: "unreplicated",
        expected: "everything that replication leaves out is accepted by name",
        check: unreplicated,
    },
    Rule { id: "encoding", expected: "the same encoding and collation", check: encoding },
    Rule { id: "extensions", expected: "the same extensions, or newer ones on the target", check: extensions },
    Rule { id: "standby", expected: "the standby streams, of the same system and timeline", check: standby },
];

/// The limits that the caller of a switch names.
pub(super) const LIMITS: &[Rule] =
    &[Rule { id: "lag", expected: "within the limits that were asked for", check: within_asked }];

fn wal_level(case: &Case<'_>) -> Outcome {
    let fix = "wal_level = logical in postgresql.conf, and a restart";
    let source = case.fresh(&case.evidence.source.settings)?;
    if case.terms.kind == Kind::Standby {
        return Ok(match source.wal_level.as_str() {
            "minimal" => Finds::fail("minimal on the source").with_fix("wal_level = replica, and a restart"),
            level => Finds::pass(level),
        });
    }
    if source.wal_level != "logical" {
        return Ok(Finds::fail(format!("{} on the source", source.wal_level)).with_fix(fix));
    }
    if case.terms.reverse.is_some() {
        let target = case.fresh(&case.evidence.target.settings)?;
        if target.wal_level != "logical" {
            return Ok(
                Finds::fail(format!("{} on the target, from where the way back leads", target.wal_level)).with_fix(fix)
            );
        }
    }
    Ok(Finds::pass("logical"))
}

fn capacity(case: &Case<'_>) -> Outcome {
    let source = case.fresh(&case.evidence.source.settings)?;
    // Of the slots of consumers that are there already none has to be added.
    let is_there = |slot: &&SlotName| {
        let slot = case.evidence.consumers.get(*slot).map(|consumer| &consumer.slot);
        slot.is_some_and(|slot| matches!(slot.value(), Some(Some(_))))
    };
    let forth = case.terms.consumers.iter().filter(|slot| !is_there(slot)).count() as u32;
    let mut back = 0;
    if let Some(reverse) = &case.terms.reverse {
        let there = &case.fresh(&case.evidence.target.standing)?.slots;
        back = reverse.consumers.iter().filter(|slot| !there.contains_key(*slot)).count() as u32;
    }
    let mut short = missing("source", source, forth, back);
    if case.terms.kind.is_database() {
        let target = case.fresh(&case.evidence.target.settings)?;
        short = short.or_else(|| missing("target", target, back, forth));
    }
    Ok(match short {
        Some((what, fix)) => Finds::fail(what).with_fix(fix),
        None => Finds::pass(format!(
            "{} of {} slots and {} of {} walsenders in use on the source",
            source.slots.1, source.slots.0, source.senders.1, source.senders.0
        )),
    })
}

/// What a server has too few of for so many more slots and so many more subscriptions.
fn missing(whose: &str, settings: &Settings, slots: u32, subscriptions: u32) -> Option<(String, String)> {
    let origins = if settings.major < 18 { "max_replication_slots" } else { "max_active_replication_origins" };
    let wanted = [
        ("max_replication_slots", settings.slots, slots),
        ("max_wal_senders", settings.senders, slots),
        (origins, settings.origins, subscriptions),
        ("max_logical_replication_workers", settings.logical_workers, subscriptions),
        ("max_worker_processes", settings.workers, subscriptions),
    ];
    wanted.into_iter().find(|(_, (most, used), more)| used + more > *most).map(|(name, (most, used), more)| {
        let observed = format!("{used} of {name} = {most} are in use on the {whose}, and {more} more are needed");
        (observed, format!("{name} = {} in postgresql.conf of the {whose}, and a restart", used + more))
    })
}

fn role(case: &Case<'_>) -> Outcome {
    case.settled(&case.evidence.source.replication)?;
    if case.terms.kind.is_database() && case.terms.reverse.is_some() || case.terms.kind == Kind::Standby {
        case.settled(&case.evidence.target.replication)?;
    }
    Ok(Finds::pass("IDENTIFY_SYSTEM was answered"))
}

fn identity(case: &Case<'_>) -> Outcome {
    if case.terms.kind == Kind::Standby {
        return Ok(Finds::skip("a standby needs none"));
    }
    let findings = case.settled(&case.evidence.source.findings)?;
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let errors = errors.map(|finding| format!("{}: {}: {}", finding.place(), finding.rule, finding.message));
    Ok(match first_of(errors) {
        None => Finds::pass("no finding"),
        Some(errors) => Finds::fail(errors).with_fix("walgate check, which has the SQL for each"),
    })
}

/// There is a sample of how far behind consumers are by then, though the machine is busy: one is taken each second.
const SAMPLED: Duration = Duration::from_secs(3);

fn lag(case: &Case<'_>) -> Outcome {
    let limits = (case.max_age(), case.max_lag());
    if let Some(beyond) = beyond(case, Some(limits.0), Some(limits.1))? {
        return Ok(beyond);
    }
    let settle = case.terms.limits.settle;
    let gap = case.terms.limits.staleness.max(SAMPLED);
    let within = case.settling.within(limits.0.as_secs_f64(), limits.1.0, gap, case.now);
    let within_text = age(within.as_secs_f64());
    Ok(if within >= settle {
        Finds::pass(format!("within {} and {} for {within_text}", age(limits.0.as_secs_f64()), limits.1))
    } else {
        Finds::wait(format!("within the limits for {within_text}, of {}", age(settle.as_secs_f64())))
    })
}

/// A switch wants everything that there was before the fence; what has come since is within these.
fn within_asked(case: &Case<'_>) -> Outcome {
    let beyond = beyond(case, case.asked.max_age, case.asked.max_lag)?;
    Ok(beyond.unwrap_or_else(|| Finds::pass("every consumer is within them")))
}

/// A consumer that is further behind than this, at this moment.
///
/// # Errors
/// If how far one is behind is not known.
fn beyond(case: &Case<'_>, max_age: Option<Duration>, max_lag: Option<Size>) -> Result<Option<Finds>, String> {
    for slot in case.consumers() {
        let report = case.evidence.consumers.get(slot).and_then(|consumer| consumer.report.as_ref());
        let report = report.ok_or_else(|| format!("{slot} has not been seen yet"))?;
        let observed = report.observed_age_seconds.filter(|age| *age > case.terms.limits.staleness.as_secs_f64());
        if let Some(observed) = observed {
            return Err(format!("{slot} was last seen {} ago, which is too long to count", age(observed)));
        }
        let Some((seconds, bytes)) = most(report) else {
            let why = report.observe_reason.as_deref().unwrap_or("the evidence is missing or too old");
            return Err(format!("how far behind {slot} is cannot be told: {why}"));
        };
        if max_age.is_some_and(|most| seconds > most.as_secs_f64()) || max_lag.is_some_and(|most| bytes > most.0) {
            return Ok(Some(Finds::wait(format!("{slot} is up to {} and {} behind", age(seconds), size(bytes)))));
        }
    }
    Ok(None)
}

fn transactions(case: &Case<'_>) -> Outcome {
    let activity = case.fresh(&case.evidence.source.activity)?;
    let limit = case.terms.limits.transaction;
    if let Some(prepared) = activity.writers.iter().find(|writer| writer.pid.is_none()) {
        let fix = format!("COMMIT PREPARED or ROLLBACK PREPARED {}", Literal(&prepared.name));
        return Ok(Finds::wait(format!("prepared: {prepared}")).with_fix(fix));
    }
    if let Some((oldest, _)) = activity.oldest.as_ref().filter(|(_, open)| *open > limit) {
        let fix = oldest.pid.map(|pid| format!("SELECT pg_terminate_backend({pid})"));
        return Ok(Finds { fix, ..Finds::wait(oldest.to_string()) });
    }
    if let Some(ddl) = activity.ddl.first() {
        return Ok(Finds::wait(format!("DDL: {ddl}")));
    }
    Ok(Finds::pass(match &activity.oldest {
        Some((_, open)) => format!("the oldest is open for {}", age(open.as_secs_f64())),
        None => "none is open".into(),
    }))
}

fn schema(case: &Case<'_>) -> Outcome {
    if !case.terms.kind.is_database() {
        return Ok(Finds::nothing_to_compare(case));
    }
    let (source, target) = (case.fresh(&case.evidence.source.schema)?, case.fresh(&case.evidence.target.schema)?);
    let tables = source.tables.iter().filter(|(name, _)| !cutover::is_accepted(case, &name.to_string()));
    let differences: Vec<String> = tables
        .flat_map(|(name, table)| match target.tables.get(name) {
            None => vec![format!("{name} is missing on the target")],
            Some(other) => differences(name, table, other),
        })
        .collect();
    let fix = "make the target's tables like the source's (pg_dump --schema-only)";
    Ok(match first_of(differences.iter()) {
        None => Finds::pass(format!("{} tables are the same", source.tables.len())),
        Some(differences) => Finds::fail(differences).with_fix(fix),
    })
}

/// Where a table of the target would not take what the source's has.
fn differences(name: &impl Display, source: &Table, target: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for (column, is) in &source.columns {
        match target.columns.get(column) {
            // What the target generates is not replicated.
            None if is.generated => {}
            None => found.push(format!("{name} lacks column {column:?} on the target")),
            Some(other) if other.type_name != is.type_name => {
                found.push(format!("{name}.{column} is {} and on the target {}", is.type_name, other.type_name));
            }
            Some(other) if other.not_null && !is.not_null => {
                found.push(format!("{name}.{column} is NOT NULL on the target only"));
            }
            Some(_) => {}
        }
    }
    let demands = |column: &Column| column.not_null && !column.has_default && !column.generated;
    let more = target.columns.iter().filter(|(column, is)| !source.columns.contains_key(*column) && demands(is));
    found.extend(more.map(|(column, _)| format!("{name}.{column} is on the target only, NOT NULL without a default")));
    let stricter = target.constraints.iter().filter(|constraint| !source.constraints.contains(constraint));
    found.extend(stricter.map(|constraint| format!("{name} has on the target only: {constraint}")));
    found
}

fn sequences(case: &Case<'_>) -> Outcome {
    if !case.terms.kind.is_database() {
        return Ok(Finds::nothing_to_compare(case));
    }
    let (source, target) = (case.fresh(&case.evidence.source.sequences)?, case.fresh(&case.evidence.target.sequences)?);
    let compared = compare(source, target).into_iter();
    for one in compared.filter(|one| !cutover::is_accepted(case, &one.sequence.to_string())) {
        if one.standing == Standing::Missing {
            return Ok(Finds::fail(format!("sequence {} is missing on the target", one.sequence)));
        }
        if let Some(differs) = one.differs {
            return Ok(Finds::fail(format!("sequence {} is defined differently: {differs}", one.sequence)));
        }
    }
    Ok(Finds::pass(format!("{} are the same", source.len())))
}

fn encoding(case: &Case<'_>) -> Outcome {
    if !case.terms.kind.is_database() {
        return Ok(Finds::nothing_to_compare(case));
    }
    let (source, target) = (case.fresh(&case.evidence.source.settings)?, case.fresh(&case.evidence.target.settings)?);
    let is = |settings: &Settings| format!("{}, collation {}", settings.encoding, settings.collation);
    Ok(if (&source.encoding, &source.collation) == (&target.encoding, &target.collation) {
        Finds::pass(is(source))
    } else {
        Finds::fail(format!("{} on the source; {} on the target", is(source), is(target)))
            .with_fix("create the target's database with the source's encoding and locale")
    })
}

fn extensions(case: &Case<'_>) -> Outcome {
    if !case.terms.kind.is_database() {
        return Ok(Finds::nothing_to_compare(case));
    }
    let (source, target) = (case.fresh(&case.evidence.source.settings)?, case.fresh(&case.evidence.target.settings)?);
    for (name, version) in &source.extensions {
        match target.extensions.get(name) {
            None => {
                return Ok(Finds::fail(format!("{name} {version} is missing on the target"))
                    .with_fix(format!("CREATE EXTENSION {}", Identifier(name))));
            }
            Some(other) if parts(other) < parts(version) => {
                return Ok(Finds::fail(format!("{name} is {version}, and {other} on the target"))
                    .with_fix(format!("ALTER EXTENSION {} UPDATE", Identifier(name))));
            }
            Some(_) => {}
        }
    }
    Ok(Finds::pass(format!("{} there", source.extensions.len())))
}

/// A version as numbers, for comparing.
fn parts(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn standby(case: &Case<'_>) -> Outcome {
    if case.terms.kind != Kind::Standby {
        return Ok(Finds::skip("the target is no standby"));
    }
    let source = case.fresh(&case.evidence.source.standing)?;
    let target = case.fresh(&case.evidence.target.standing)?;
    let receiver = case.fresh(&case.evidence.target.receiver)?;
    if target.history.system != source.history.system {
        return Ok(Finds::fail(format!("the target is {}, and the source {}", target.history, source.history)));
    }
    if !target.in_recovery {
        return Ok(Finds::fail("the target is no standby"));
    }
    if receiver.status.as_deref() != Some("streaming") {
        let status = receiver.status.as_deref().unwrap_or("no WAL receiver runs");
        return Ok(Finds::wait(status).with_fix("see the target's log, and its primary_conninfo"));
    }
    if receiver.timeline.is_none() || receiver.timeline != source.history.timeline {
        return Ok(Finds::fail("the target receives another timeline than the source's"));
    }
    if let Some(slot) = receiver.slot.as_ref().filter(|slot| !case.terms.consumers.contains(slot)) {
        return Ok(Finds::fail(format!("the target reads slot {slot}, which the gate does not name")));
    }
    Ok(Finds::pass("streaming"))
}
