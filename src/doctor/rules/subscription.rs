//! The subscriptions of the database, of PostgreSQL and of pglogical. Sources: the manual's pages of `pg_subscription`,
//! `pg_subscription_rel` and `pg_stat_subscription_stats`. What publications have wrong is for `walgate check` to say.

use super::{Found, NAMED, Rule, advice, choice, many};
use crate::doctor::checkup::{Checkup, Subscribed};
use crate::ident::{Identifier, Literal};
use crate::identity::Severity::{Error, Info, Warning};

pub(super) const RULES: &[Rule] = &[
    Rule { id: "subscription/disabled", severity: Warning, check: disabled },
    Rule { id: "subscription/down", severity: Error, check: down },
    Rule { id: "subscription/tables", severity: Warning, check: tables },
    Rule { id: "subscription/skips", severity: Warning, check: skips },
    Rule { id: "subscription/errors", severity: Info, check: errors },
];

/// Those of a standby are its primary's, which has their workers.
pub(super) fn all(checkup: &Checkup) -> Option<&[Subscribed]> {
    let subscriptions = checkup.subscriptions.seen().filter(|_| !checkup.server.in_recovery);
    subscriptions.map(Vec::as_slice).filter(|subscriptions| !subscriptions.is_empty())
}

fn alter(subscribed: &Subscribed, how: &str) -> String {
    format!("ALTER SUBSCRIPTION {} {how}", Identifier(&subscribed.subscription.name))
}

fn source(subscribed: &Subscribed) -> String {
    subscribed.source.as_ref().map(|source| format!(" at {source}")).unwrap_or_default()
}

fn disabled(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let all = all(checkup)?;
    for subscribed in all.iter().filter(|subscribed| !subscribed.subscription.enabled) {
        let subscription = &subscribed.subscription;
        let slot =
            subscription.slot.as_ref().map(|slot| format!(", and its slot {slot}{} keeps WAL", source(subscribed)));
        let message =
            format!("It is disabled, by somebody or by disable_on_error: nothing comes{}", slot.unwrap_or_default());
        let enable = match subscribed.pglogical {
            true => format!("SELECT pglogical.alter_subscription_enable({})", Literal(&subscription.name)),
            false => alter(subscribed, "ENABLE"),
        };
        let enable = choice(&enable, "unless somebody has disabled it on purpose, as after a cutover; it needs a slot");
        found.add(&subscription.name, message, vec![advice("see the log for an error before"), enable]);
    }
    Some(format!("{} enabled", many(all.len(), "subscription")))
}

fn down(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let all = all(checkup)?;
    let is_down = |subscribed: &&Subscribed| subscribed.subscription.enabled && !subscribed.subscription.running;
    for subscribed in all.iter().filter(is_down) {
        let subscription = &subscribed.subscription;
        let status = subscription.status.as_deref().unwrap_or("no worker runs");
        let slot = subscription.slot.as_ref().map_or("its slot".into(), |slot| format!("slot {slot}"));
        let mend = advice(format!("see this server's log; whether {slot}{} is there and not lost", source(subscribed)));
        found.add(&subscription.name, format!("Nothing is applied: {status}"), vec![mend]);
    }
    let enabled = all.iter().filter(|subscribed| subscribed.subscription.enabled).count();
    Some(format!("{} running", many(enabled, "subscription")))
}

fn tables(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let all = all(checkup)?;
    let mut count = 0;
    for subscribed in all {
        let subscription = &subscribed.subscription;
        count += subscription.tables.len();
        let unready: Vec<String> = subscription
            .tables
            .iter()
            .filter(|(_, state)| *state != "r")
            .map(|(table, state)| format!("{table} (state {state})"))
            .collect();
        if !unready.is_empty() {
            let (named, more) = unready.split_at(NAMED.min(unready.len()));
            let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            let message = format!(
                "{} of {} tables are not replicated yet, or their copy fails again and again: {}{more}",
                unready.len(),
                subscription.tables.len(),
                named.join(", ")
            );
            let mend = "see this server's log: could not start initial contents copy, a duplicate key, a missing table";
            found.add(&subscription.name, message, vec![advice(mend)]);
        } else if subscription.tables.is_empty() && subscription.enabled && !subscribed.pglogical {
            let mend = vec![
                advice("add tables to its publications at the source, and then"),
                format!("{};", alter(subscribed, "REFRESH PUBLICATION")),
            ];
            found.add(&subscription.name, "It has no table".into(), mend);
        }
    }
    Some(format!("{} copied, of {}", many(count, "table"), many(all.len(), "subscription")))
}

fn skips(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let all = all(checkup)?;
    for subscribed in all {
        if let Some(skip) = subscribed.subscription.skip {
            let message = format!("It skips the transaction that ends at {skip}: its changes will be missing here");
            let mend = choice(&alter(subscribed, "SKIP (lsn = NONE)"), "unless that is meant");
            found.add(&subscribed.subscription.name, message, vec![mend]);
        }
    }
    Some("no subscription skips a transaction".into())
}

/// What was counted may be long ago, and a lost connection counts as well.
fn errors(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    for subscribed in all(checkup)? {
        let subscription = &subscribed.subscription;
        if subscription.troubles() > 0 {
            let message = format!(
                "{} errors and {} conflicts since its statistics were reset; a lost connection counts as an error",
                subscription.errors.unwrap_or(0),
                subscription.conflicts.map_or("an unknown number of".into(), |count| count.to_string())
            );
            let mend = advice("see this server's log; SELECT pg_stat_reset_subscription_stats(NULL); counts anew");
            found.add(&subscription.name, message, vec![mend]);
        }
    }
    Some("no error counted".into())
}
