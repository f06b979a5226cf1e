//! The server as a whole, and what the role that looks may do. Sources: `CheckLogicalDecodingRequirements` in `logical.c`,
//! `ReplicationSlotCreate` in `slot.c`, `InitWalSnd` and `InitProcess`, and the manual's chapters "Replication" (settings),
//! "WAL Configuration" and "Continuous Archiving".

use super::{Found, Rule, advice, choice, many, set};
use crate::doctor::checkup::Checkup;
use crate::ident::Identifier;
use crate::identity::Severity::{Error, Info, Warning};
use crate::lag::SlotKind;
use crate::units::{age, size};

pub(super) const RULES: &[Rule] = &[
    Rule { id: "server/wal-level", severity: Error, check: wal_level },
    Rule { id: "server/slots", severity: Error, check: slots },
    Rule { id: "server/walsenders", severity: Error, check: senders },
    Rule { id: "server/workers", severity: Warning, check: workers },
    Rule { id: "server/synchronous", severity: Error, check: synchronous },
    Rule { id: "role/replication", severity: Warning, check: replication },
    Rule { id: "role/unseen", severity: Warning, check: unseen },
    Rule { id: "wal/size", severity: Warning, check: wal_size },
    Rule { id: "wal/archiver", severity: Error, check: archiver },
    Rule { id: "standby/receiver", severity: Warning, check: receiver },
];

/// A server that only subscribes needs no more than `replica`. A standby before 16 decodes nothing, whatever it says.
fn wal_level(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let level = checkup.setting("wal_level")?;
    if checkup.server.in_recovery && checkup.server.major < 16 {
        return None;
    }
    let publishes = checkup.publications.seen().is_none_or(|publications| !publications.is_empty());
    let subscribes = checkup.subscriptions.seen().is_some_and(|subscriptions| !subscriptions.is_empty());
    if level != "logical" {
        let severity = if subscribes && !publishes { Info } else { Error };
        let message = format!(
            "It is {level}, so nothing can be decoded here, and no logical slot made: logical decoding requires wal_level >= \
             logical"
        );
        let mut mend = set(checkup, "wal_level", "logical");
        if checkup.server.in_recovery {
            mend.insert(0, advice("on its primary as well"));
        }
        found.with(severity, "", message, mend);
    }
    Some(format!("wal_level is {level}"))
}

/// How much of something is in use; a problem where none or one is left.
fn capacity(
    checkup: &Checkup,
    found: &mut Found<'_>,
    setting: &str,
    what: &str,
    then: &str,
    first: Option<String>,
) -> Option<String> {
    let limit = *checkup.limits.seen()?.get(setting)?;
    let used = limit.used?;
    let free = limit.most.saturating_sub(used);
    if free < 2 {
        let severity = if free == 0 { found.rule.severity } else { Warning };
        let left = if free == 0 { "none is left:" } else { "one is left; after that" };
        let message = format!("{used} of {setting} = {} are in use, {left} {then}", limit.most);
        let mut mend: Vec<String> = first.into_iter().collect();
        mend.extend(set(checkup, setting, &(limit.most + 4).to_string()));
        found.with(severity, "", message, mend);
    }
    Some(format!("{used} of {} {what} in use", limit.most))
}

fn slots(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let idle = checkup.slots.iter().filter(|slot| !slot.report.active && !slot.synced).count();
    let first =
        (idle > 0).then(|| advice(format!("nobody reads {}: drop those that are left over", many(idle, "slot"))));
    let then = "a new consumer, a copy of one's tables or a reset fails: all replication slots are in use";
    capacity(checkup, found, "max_replication_slots", "replication slots", then, first)
}

fn senders(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let then = "whoever connects anew is refused: number of requested standby connections exceeds max_wal_senders";
    capacity(checkup, found, "max_wal_senders", "walsenders", then, None)
}

fn workers(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    super::subscription::all(checkup)?;
    let limits = [
        ("max_logical_replication_workers", "logical replication workers", "out of logical replication worker slots"),
        ("max_worker_processes", "background workers", "out of background worker slots"),
    ];
    let seen = limits.map(|(setting, what, error)| {
        let then = format!("an apply worker that ends, or the copy of a table, does not start: {error}");
        capacity(checkup, found, setting, what, &then, None)
    });
    let seen: Vec<String> = seen.into_iter().flatten().collect();
    (!seen.is_empty()).then(|| seen.join(", "))
}

/// How many standbys `synchronous_standby_names` wants: `FIRST 2 (a, b)`, `ANY 2 (a, b)` and `2 (a, b)` say so; `None` where
/// that cannot be read.
fn wanted(names: &str) -> Option<usize> {
    match names.split_once('(') {
        None => Some(1),
        Some((before, _)) => before.split_whitespace().last()?.parse().ok(),
    }
}

fn synchronous(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let names = checkup.setting("synchronous_standby_names").filter(|names| !names.is_empty())?;
    let senders = checkup.senders.seen()?;
    if checkup.server.in_recovery || senders.iter().any(|sender| sender.state.is_none()) {
        return None;
    }
    let counted = |state: &&str| matches!(*state, "sync" | "quorum");
    let there = senders.iter().filter_map(|sender| sender.sync_state.as_deref()).filter(counted).count();
    let wanted = wanted(names)?;
    if there < wanted {
        let message = format!(
            "{there} of {wanted} that synchronous_standby_names = {names} wants are connected: a commit waits for them unless \
             its synchronous_commit is off or local, and logical consumers are sent what has not returned to its writer"
        );
        let mend = vec![
            advice("bring the standby back; or do without, and commits may be lost with this server"),
            choice("ALTER SYSTEM SET synchronous_standby_names = ''", "then SELECT pg_reload_conf()"),
        ];
        found.add("", message, mend);
    }
    Some(format!("{} connected of synchronous_standby_names", many(there, "standby")))
}

fn replication(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let role = &checkup.server.role;
    if let Some(unseen) = checkup.replication.unseen() {
        let message = format!("No replication connection could be opened with it: {}", unseen.why);
        let mend = if !checkup.replication_roles.contains(role) {
            match checkup.replication_group {
                true => format!("GRANT rds_replication TO {};", Identifier(role)),
                false => format!("ALTER ROLE {} REPLICATION;", Identifier(role)),
            }
        } else if unseen.why.contains("pg_hba.conf") {
            advice("pg_hba.conf wants a line for the role and the database, and then SELECT pg_reload_conf();")
        } else {
            advice("the role may; see server/walsenders, and what the server says")
        };
        found.add(role, message, vec![mend]);
    }
    let roles: Vec<&str> = checkup.replication_roles.iter().map(String::as_str).collect();
    Some(format!("{role} opened a replication connection; roles that may: {}", roles.join(", ")))
}

fn unseen(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    for (what, unseen) in checkup.unseen() {
        let message = format!("Not looked at: {}", unseen.why);
        found.add(what, message, unseen.mend.clone().into_iter().collect());
    }
    Some(format!("{} sees all that is judged", checkup.server.role))
}

/// `max_wal_size` is a soft limit, which a slow checkpoint passes; twice as much is kept by somebody.
fn wal_size(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let wal = checkup.wal.seen()?;
    let usual = wal.max_wal_size.saturating_add(wal.wal_keep_size);
    if wal.bytes > usual.saturating_mul(2) {
        let keepers =
            checkup.slots.iter().filter_map(|slot| Some((slot.report.retained_wal_bytes?, &slot.report.slot)));
        let mut mend = Vec::new();
        let by = match keepers.max().filter(|(bytes, _)| *bytes > usual) {
            Some((bytes, slot)) => {
                mend.push(advice(format!("see slot {slot}")));
                format!("slot {slot} keeps {} of it", size(bytes))
            }
            None if checkup.archiver.seen().is_some_and(super::server::fails) => {
                mend.push(advice("see wal/archiver"));
                "the archiver fails".to_owned()
            }
            None => {
                mend.push(choice(
                    "CHECKPOINT",
                    "writes all that is dirty at once; a superuser, or pg_checkpoint since 15",
                ));
                "no slot keeps that much, so a checkpoint may be late, or the archiver slow".to_owned()
            }
        };
        let message = format!(
            "pg_wal has {} in {} files, more than twice max_wal_size and wal_keep_size ({}): {by}. When its disk is full the \
             server stops: PANIC: could not write to file",
            size(wal.bytes),
            wal.files,
            size(usual)
        );
        found.add("", message, mend);
    }
    Some(format!("{} of WAL on disk, max_wal_size {}", size(wal.bytes), size(wal.max_wal_size)))
}

/// Whether what it tried last has failed.
fn fails(archiver: &crate::doctor::Archiver) -> bool {
    let Some(failed) = archiver.failed_ago else { return false };
    archiver.on && archiver.archived_ago.is_none_or(|archived| failed < archived)
}

/// Nothing that is not told what to do fails.
fn archiver(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let archiver = checkup.archiver.seen().filter(|archiver| archiver.on && !checkup.server.in_recovery)?;
    if !archiver.configured {
        let message = "archive_mode is on, and neither archive_command nor archive_library says how: WAL is kept until the disk \
                       is full, and backups have a gap";
        found.add(
            "",
            message.into(),
            vec![advice("set archive_command or archive_library, then SELECT pg_reload_conf();")],
        );
    } else if fails(archiver) {
        let message = format!(
            "It fails with {}, last {} ago: WAL that is not archived is kept until the disk is full, and backups have a gap",
            archiver.failed_file.as_deref().unwrap_or("a file"),
            age(archiver.failed_ago.unwrap_or_default())
        );
        found.add("", message, vec![advice("see the server's log for what archive_command or archive_library says")]);
    }
    let last = archiver.archived_ago.map(|ago| format!(", the last {} ago", age(ago)));
    Some(format!("{} archived{}", many(archiver.archived as usize, "file"), last.unwrap_or_default()))
}

fn receiver(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let receiver = checkup.receiver.as_ref()?.seen()?;
    if receiver.status.as_deref() != Some("streaming") {
        let status =
            receiver.status.as_deref().map_or("No WAL receiver runs".into(), |status| format!("It is {status}"));
        let logical = checkup.slots.iter().filter(|slot| slot.report.kind == SlotKind::Logical).count();
        let slots =
            if logical > 0 { format!(", and {} with it", many(logical, "logical slot")) } else { String::new() };
        let message = format!("{status}: unless it is fed from an archive, this standby falls behind{slots}");
        found.add(
            "",
            message,
            vec![advice("see its log, its primary_conninfo, and whether its slot is there and not lost")],
        );
    }
    Some("streaming from its primary".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synchronous_standby_names_says_how_many_it_wants() {
        for (names, expected) in [
            ("a", Some(1)),
            ("a, b", Some(1)),
            ("*", Some(1)),
            ("2 (a, b)", Some(2)),
            ("FIRST 2 (a, b, c)", Some(2)),
            ("ANY 3(*)", Some(3)),
            ("(a)", None),
        ] {
            assert_eq!(wanted(names), expected, "{names}");
        }
    }
}
