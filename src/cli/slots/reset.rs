//! `walgate slots reset`: a consumer starts anew. Its slots are dropped once it has stopped and nothing stands that would
//! break it again, and then it is watched until what it makes anew has caught up.
//!
//! It may be stopped at any step and run again: see [`mark`](super::mark).

use std::time::Duration;

use super::SlotsError;
use super::list::{matching, nothing};
use super::mark::{Mark, Standing, Store, is_lost};
use super::pattern::Pattern;
use super::plan::{Agreement, Plan};
use super::wait::{Awaited, INITIAL_SYNC};
use crate::cli::interruption::Interruption;
use crate::identity::{RuleSet, Scope, Severity};
use crate::lag::{SlotKind, SlotReport, SourcePoll};
use crate::source::Connector;
use crate::source::catalog::{self, Budget};
use crate::source::slots::SlotSession;
use crate::units;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which slots
    #[arg(value_name = "PATTERN")]
    pattern: Pattern,
    /// Whose slots they are, and whose rules must hold besides PostgreSQL's own: zero or pglogical
    #[arg(long = "for", value_name = "CONSUMER")]
    rule_sets: Vec<RuleSet>,
    /// A publication of the consumer, whose tables must keep the rules; give it again for more [default: all of them]
    #[arg(long, value_name = "NAME")]
    publication: Vec<String>,
    #[command(flatten)]
    agreement: Agreement,
    /// How long the new slots are waited for
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "30min")]
    timeout: Duration,
}

/// Returns whether the consumer has caught up on new slots.
pub(super) async fn run(args: &Args, connector: &Connector) -> Result<bool, SlotsError> {
    let mut session = SlotSession::open(connector).await?;
    let look = session.look().await?;
    let store = Store::new(&look, &args.pattern).map_err(SlotsError::Mark)?;
    let known = store.read(&look).map_err(|error| unusable(&store, error))?;
    let slots = matching(&look, Some(&args.pattern));
    let standing = |slot: &SlotReport| known.as_ref().map_or(Standing::Old, |mark| mark.standing(slot));
    if let Some(mark) = &known {
        eprintln!(
            "walgate: going on with the reset that began at {} ({} holds where it stands; without it another begins)",
            mark.began(),
            store.path().display()
        );
        for slot in slots.iter().filter(|slot| standing(slot) == Standing::New) {
            eprintln!("walgate: {} was made since, and stays", slot.slot);
        }
    }
    let file = store.path().display();
    let is_old = known.as_ref().is_some_and(|mark| mark.is_old(look.server_time));
    let doubtful = slots.iter().find_map(|report| match standing(report) {
        Standing::Unclear => Some((&report.slot, "was about to be dropped then, and has been read or made anew since")),
        Standing::New if is_old => Some((&report.slot, "was made since, and that is long ago")),
        _ => None,
    });
    if let Some((slot, why)) = doubtful {
        eprintln!(
            "walgate: nothing was dropped: {slot} {why}. If it is as it should be, nothing is left to do; to reset it, remove \
             {file} and run this again"
        );
        return Ok(false);
    }
    let old: Vec<SlotReport> = slots.into_iter().filter(|slot| standing(slot) == Standing::Old).collect();

    let is_sound = is_sound(args, connector).await?;
    let mut interruption;
    let mut mark;
    if old.is_empty() {
        if !is_sound {
            eprintln!(
                "walgate: nothing is left to drop, so this goes on; but what stands will break the consumer again"
            );
        }
        match &known {
            Some(_) => eprintln!("walgate: nothing is left to drop"),
            None => eprintln!("walgate: nothing to drop: {}", nothing(&look, Some(&args.pattern))),
        }
        mark = known.unwrap_or_else(|| Mark::new(&look));
        store.write(&mark).map_err(|error| unusable(&store, error))?;
        interruption = Interruption::new()?;
    } else {
        let role = connector.dsn().login_user().unwrap_or_default();
        let plan = Plan { slots: old, agreement: &args.agreement, role };
        plan.show(&args.pattern, look.server_time)?;
        let mut objections = plan.objections(&session).await?;
        objections.extend(others(args, &plan.slots, &look, known.is_some(), &session).await?);
        objections.iter().for_each(|objection| eprintln!("walgate: {objection}"));
        if !is_sound || !objections.is_empty() {
            eprintln!("walgate: nothing was dropped");
            return Ok(false);
        }
        store.try_out().map_err(|error| unusable(&store, error))?;
        if !plan.is_agreed()? {
            return Ok(false);
        }
        interruption = Interruption::new()?;
        mark = match known {
            Some(mark) => mark,
            // Slots may have moved while a person thought.
            None => Mark::new(&session.look().await?),
        };
        mark.intend(&plan.slots);
        store.write(&mark).map_err(|error| unusable(&store, error))?;
        for slot in &plan.slots {
            if interruption.is_here().await {
                eprintln!("walgate: stopped; the same command goes on from here");
                return Ok(false);
            }
            if !plan.drop_slot(&mut session, slot).await? {
                eprintln!("walgate: the reset is not done; the same command goes on from here");
                return Ok(false);
            }
            mark.dropped(slot.slot.as_str());
            store.write(&mark).map_err(|error| unusable(&store, error))?;
        }
    }

    let zero = args.rule_sets.contains(&RuleSet::Zero);
    eprintln!("walgate: now start {}; waiting for it", if zero { "zero-cache" } else { "the consumer" });
    let (pattern, database) = (&args.pattern, look.database.as_str());
    let sees_readers = session.sees_readers().await?;
    let awaited = Awaited { pattern, mark: &mark, database, zero, sees_readers, timeout: args.timeout };
    let is_done = awaited.wait(connector, &session, &mut interruption).await?;
    if is_done {
        eprintln!("walgate: the reset is done; the same command begins another");
        store.remove().map_err(|error| unusable(&store, error))?;
    }
    Ok(is_done)
}

/// Whether nothing stands that breaks the consumer again, which is said if it does.
async fn is_sound(args: &Args, connector: &Connector) -> Result<bool, SlotsError> {
    let scope = Scope { rule_sets: args.rule_sets.iter().copied().collect(), publications: args.publication.clone() };
    let session = connector.sql().await?;
    let audited = catalog::audit(&session, &scope, Budget::ONCE).await?;
    let mut is_sound = true;
    for finding in audited.audit.at_least(Severity::Error) {
        is_sound = false;
        let table = finding.table.as_ref().map(|table| format!("{table}: ")).unwrap_or_default();
        eprintln!("walgate: {table}{} ({})", finding.message, finding.rule);
    }
    if !is_sound {
        let sets = Scope { publications: Vec::new(), ..scope }.flags();
        eprintln!("walgate: mend that first: walgate check{sets} shows how (--publication limits what counts)");
    }
    Ok(is_sound)
}

/// What else stands against the reset of these slots; of one that `goes_on` they are known to be old.
async fn others(
    args: &Args,
    slots: &[SlotReport],
    look: &SourcePoll,
    goes_on: bool,
    session: &SlotSession,
) -> Result<Vec<String>, SlotsError> {
    let mut objections = Vec::new();
    for report in slots {
        let slot = &report.slot;
        let is_well = !is_lost(report);
        if report.kind == SlotKind::Physical {
            objections
                .push(format!("{slot} is physical: no standby starts anew by its slot; walgate slots drop drops it"));
        } else if report.database.as_ref().is_some_and(|database| *database != look.database) {
            let database = report.database.as_deref().unwrap_or_default();
            objections.push(format!("{slot} is of database {database}: give the connection string of that"));
        } else if report.active && is_well && !args.agreement.terminate {
            objections.push(format!(
                "nothing is wrong with {slot}: if its consumer was started anew already, nothing is left to do (walgate lag \
                 --slot {slot} shows how far it is)"
            ));
        } else if !report.active
            && !goes_on
            && is_well
            && args.rule_sets.contains(&RuleSet::Zero)
            && session.sessions_named(INITIAL_SYNC).await? > 0
        {
            objections.push(format!(
                "zero-cache copies tables now, and {slot} may be what it goes on with: stop it first, or let it"
            ));
        }
    }
    Ok(objections)
}

fn unusable(store: &Store, error: std::io::Error) -> SlotsError {
    SlotsError::Mark(std::io::Error::new(error.kind(), format!("{}: {error}", store.path().display())))
}
