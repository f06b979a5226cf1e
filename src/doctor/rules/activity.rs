//! Transactions, prepared ones, and queues for locks. A logical slot is made once every transaction has ended that had a
//! transaction id when it began (`SnapBuildFindSnapshot` in `snapbuild.c`), and its WAL is kept from the oldest one that is
//! open. Whoever asks for a lock that conflicts with a waiting one waits behind it (`LockAcquireExtended` in `lock.c`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use postgres_protocol::escape::escape_literal;

use super::{Found, Rule, advice, choice, many};
use crate::doctor::checkup::{Checkup, Prepared, Transaction, Wait};
use crate::gate::Limits;
use crate::identity::Severity::{Error, Info, Warning};
use crate::units::age;

pub(super) const RULES: &[Rule] = &[
    Rule { id: "transaction/idle", severity: Warning, check: idle },
    Rule { id: "transaction/long", severity: Warning, check: long },
    Rule { id: "transaction/prepared", severity: Warning, check: prepared },
    Rule { id: "lock/slot-creation", severity: Error, check: slot_creation },
    Rule { id: "lock/queue", severity: Warning, check: queue },
];

/// How long a lock may be waited for: what `deadlock_timeout`, and with it `log_lock_waits`, takes for long by default.
const WAITED: f64 = 1.0;

/// How long a transaction may be open, as gates have it.
fn usual() -> Duration {
    Limits::default().transaction
}

fn old(checkup: &Checkup) -> Option<impl Iterator<Item = &Transaction>> {
    let transactions = checkup.transactions.seen()?;
    Some(transactions.iter().filter(|transaction| transaction.open_seconds > usual().as_secs_f64()))
}

fn is_idle(transaction: &Transaction) -> bool {
    transaction.state.as_deref().is_some_and(|state| state.starts_with("idle in transaction"))
}

fn who(name: Option<&str>, user: Option<&str>, database: Option<&str>) -> String {
    let name = name.filter(|name| !name.is_empty());
    let user = user.map(|user| format!("role {user}"));
    let database = database.map(|database| format!("database {database}"));
    let parts: Vec<String> = name.map(str::to_owned).into_iter().chain(user).chain(database).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn of(transaction: &Transaction) -> String {
    who(transaction.name.as_deref(), transaction.user.as_deref(), transaction.database.as_deref())
}

fn end(pid: i32) -> String {
    choice(&format!("SELECT pg_terminate_backend({pid})"), "ends the session, and rolls its transaction back")
}

fn consequence(transaction: &Transaction) -> &'static str {
    match transaction.writes {
        true => "a new logical slot waits for its end, and slots keep WAL from its beginning on",
        false => "its locks stay, and dead rows with it",
    }
}

fn idle(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    for transaction in old(checkup)?.filter(|transaction| is_idle(transaction)) {
        let message = format!(
            "Its client{} does nothing, with a transaction open for {}: {}",
            of(transaction),
            age(transaction.open_seconds.round()),
            consequence(transaction)
        );
        let mend = vec![
            advice("have the application commit, or set idle_in_transaction_session_timeout for its role"),
            end(transaction.pid),
        ];
        found.add(format!("pid {}", transaction.pid), message, mend);
    }
    Some(format!("no transaction idle for more than {}", age(usual().as_secs_f64())))
}

fn long(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    for transaction in old(checkup)?.filter(|transaction| !is_idle(transaction)) {
        let command = transaction.command.as_deref().map(|command| format!(" with {command}")).unwrap_or_default();
        let message = format!(
            "{}{} is at work{command}, its transaction open for {}: {}",
            transaction.kind,
            of(transaction),
            age(transaction.open_seconds.round()),
            consequence(transaction)
        );
        // A report or a copy may take as long as it takes.
        let severity = if transaction.writes { Warning } else { Info };
        found.with(severity, format!("pid {}", transaction.pid), message, vec![end(transaction.pid)]);
    }
    let open = checkup.transactions.seen()?.len();
    Some(format!("{} open, none for more than {}", many(open, "transaction"), age(usual().as_secs_f64())))
}

fn prepared(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let prepared = checkup.prepared.seen()?;
    for Prepared { gid, user, database, open_seconds } in prepared {
        if *open_seconds <= usual().as_secs_f64() {
            continue;
        }
        let message = format!(
            "It is prepared{} for {}, and stays so over restarts until somebody decides: its locks are held, a new logical slot \
             waits for its end, and slots keep WAL from its beginning on",
            who(None, user.as_deref(), Some(database)),
            age(open_seconds.round())
        );
        let literal = escape_literal(gid);
        let gid_literal = literal.trim_start();
        let mend = vec![
            advice(format!("in database {database}, as its owner or a superuser; its transaction manager knows which")),
            choice(&format!("COMMIT PREPARED {gid_literal}"), "or"),
            choice(&format!("ROLLBACK PREPARED {gid_literal}"), "what it has changed is gone then"),
        ];
        found.add(gid, message, mend);
    }
    Some(format!("{} prepared, none for more than {}", many(prepared.len(), "transaction"), age(usual().as_secs_f64())))
}

/// Who is before everybody that waits for long, by whom they wait for in the end.
fn queues(waits: &[Wait]) -> BTreeMap<i32, Vec<&Wait>> {
    let behind: BTreeMap<i32, &[i32]> = waits.iter().map(|wait| (wait.pid, wait.behind.as_slice())).collect();
    let mut queues: BTreeMap<i32, Vec<&Wait>> = BTreeMap::new();
    for wait in waits.iter().filter(|wait| wait.seconds.is_some_and(|seconds| seconds > WAITED)) {
        let (mut known, mut next) = (BTreeSet::from([wait.pid]), wait.behind.clone());
        while let Some(pid) = next.pop() {
            if !known.insert(pid) {
                continue;
            }
            match behind.get(&pid) {
                Some(before) => next.extend_from_slice(before),
                None => queues.entry(pid).or_default().push(wait),
            }
        }
    }
    queues
}

fn slot_creation(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let waits = checkup.waits.seen()?;
    for (head, waiting) in queues(waits) {
        if let Some(wait) = waiting.iter().find(|wait| wait.creates_slot) {
            let slot = checkup.slots.iter().find(|slot| slot.report.active_pid == Some(wait.pid));
            let slot = slot.map_or("A slot".to_owned(), |slot| format!("Slot {}", slot.report.slot));
            let message = format!(
                "{slot} is being made for {}, by pid {}{}, which waits for {} to end: its consumer does not start before",
                age(wait.seconds.unwrap_or_default().round()),
                wait.pid,
                who(wait.name.as_deref(), wait.user.as_deref(), wait.database.as_deref()),
                describe(checkup, head)
            );
            found.add(subject(head), message, vec![release(head)]);
        }
    }
    Some("no slot waits for a transaction to be made".into())
}

fn queue(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let waits = checkup.waits.seen()?;
    for (head, waiting) in queues(waits) {
        let waiting: Vec<&Wait> = waiting.into_iter().filter(|wait| !wait.creates_slot).collect();
        // The one next to it, who keeps the others waiting.
        let Some(first) = waiting.iter().find(|wait| wait.behind.contains(&head)).or(waiting.first()) else { continue };
        let table = first.table.as_deref().map_or(format!("a {}", first.on), str::to_owned);
        let others = match waiting.len() - 1 {
            0 => String::new(),
            others => format!(", with {} behind it", many(others, "session")),
        };
        let command = first.command.as_deref().map(|command| format!(" ({command})")).unwrap_or_default();
        let message = format!(
            "{} keeps pid {}{command} waiting for {} on {table} for {}{others}: DDL, and after it whoever reads or writes there, \
             comes to a halt",
            capital(&describe(checkup, head)),
            first.pid,
            first.mode,
            age(first.seconds.unwrap_or_default().round())
        );
        let mut mend = vec![release(head)];
        if first.mode == "AccessExclusiveLock" {
            mend.push(advice(format!("or let the others through for now: SELECT pg_cancel_backend({});", first.pid)));
        }
        found.add(subject(head), message, mend);
    }
    Some(format!("{} for a lock, none for more than {}", many(waits.len(), "wait"), age(WAITED)))
}

fn subject(head: i32) -> String {
    if head == 0 { "a prepared transaction".into() } else { format!("pid {head}") }
}

fn describe(checkup: &Checkup, head: i32) -> String {
    let transactions = checkup.transactions.seen().map(Vec::as_slice).unwrap_or_default();
    match transactions.iter().find(|transaction| transaction.pid == head) {
        Some(transaction) => {
            let state = transaction.state.as_deref().unwrap_or(&transaction.kind);
            format!(
                "pid {head}{}, {state}, its transaction open for {},",
                of(transaction),
                age(transaction.open_seconds.round())
            )
        }
        None => subject(head),
    }
}

fn release(head: i32) -> String {
    match head {
        0 => advice("commit it or roll it back: SELECT * FROM pg_prepared_xacts;"),
        head => end(head),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
